//! One way of writing, and what came of it.

use hdrhistogram::Histogram;
use raftyard::WriteMode;
use raftyard_storage::device::{RawFile, RawWrites};
use serde::{Serialize, Serializer};
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

pub(super) const SIZES: [usize; 3] = [4 << 10, 64 << 10, 256 << 10];
pub(super) const MODES: [WriteMode; 2] = [WriteMode::Dsync, WriteMode::LinkedSync];
pub(super) const DEPTHS: [usize; 3] = [1, 2, 4];
/// Writes at the start of each part that don't count.
const WARM_UP: u64 = 5;
/// Longest latency told apart from longer ones, in nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// One way of writing, on a quiet or a busy machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Cell {
    pub(super) bytes: usize,
    #[serde(serialize_with = "mode")]
    pub(super) write_mode: WriteMode,
    pub(super) depth: usize,
    pub(super) registered: bool,
    pub(super) polled: bool,
    pub(super) busy: bool,
}

/// What came of one way.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Measured {
    #[serde(flatten)]
    pub(super) cell: Cell,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) writes_per_s: f64,
    pub(super) writes: u64,
}

/// A way that is being measured, in several parts.
pub(super) struct Measurement {
    pub(super) cell: Cell,
    latencies: Histogram<u64>,
    took: Duration,
}

impl Cell {
    /// All of them, in the order they are measured: what is compared lies close together in time.
    pub(super) fn all() -> Vec<Cell> {
        let mut cells = Vec::new();
        for busy in [false, true] {
            for bytes in SIZES {
                for depth in DEPTHS {
                    for polled in [false, true] {
                        for registered in [false, true] {
                            cells.extend(MODES.map(|write_mode| Cell {
                                bytes,
                                write_mode,
                                depth,
                                registered,
                                polled,
                                busy,
                            }));
                        }
                    }
                }
            }
        }
        cells
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let load = if self.busy { "busy" } else { "quiet" };
        write!(f, "{load}, {} KiB, {}, depth {}", self.bytes >> 10, mode_name(self.write_mode), self.depth)
    }
}

impl Measurement {
    pub(super) fn new(cell: Cell) -> Measurement {
        let latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constant");
        Measurement { cell, latencies, took: Duration::ZERO }
    }

    /// Measures for that long, or until told to stop.
    pub(super) fn run(&mut self, file: &RawFile, time: Duration, stop: impl Fn() -> bool) -> io::Result<()> {
        let Cell { bytes, write_mode: mode, depth, registered, polled, .. } = self.cell;
        let mut writes = 0;
        let mut begin = Instant::now();
        let each = |took: Duration| {
            writes += 1;
            if writes <= WARM_UP {
                begin = Instant::now();
            } else {
                self.latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1));
            }
            let over = writes > WARM_UP && begin.elapsed() >= time;
            if over || stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let result = file.write(RawWrites { bytes, mode, depth, registered, polled }, each);
        self.took += begin.elapsed();
        result
    }

    /// What all parts gave; nothing if none could be measured.
    pub(super) fn sum_up(&self) -> Option<Measured> {
        if self.latencies.is_empty() {
            return None;
        }
        let at = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1e3;
        let writes = self.latencies.len();
        let writes_per_s = writes as f64 / self.took.as_secs_f64();
        Some(Measured { cell: self.cell, p50_us: at(0.5), p99_us: at(0.99), writes_per_s, writes })
    }
}

/// Whether registering failed for want of memory that may be locked.
pub(super) fn is_memlock(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::OutOfMemory
}

/// A mode as the setting `write_mode` spells it.
pub(super) fn mode_name(mode: WriteMode) -> &'static str {
    match mode {
        WriteMode::Dsync => "Dsync",
        WriteMode::LinkedSync => "LinkedSync",
        WriteMode::Volatile => "Volatile",
    }
}

fn mode<S: Serializer>(mode: &WriteMode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(mode_name(*mode))
}
