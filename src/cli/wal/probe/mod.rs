//! `raftyard wal probe`: every way of writing that a log can be told, measured on one disk, quiet and busy.
//!
//! Writes nothing but a file without a name, which is gone however the process ends.

mod advice;
mod busy;
mod cell;
mod table;

use crate::cli::interrupt::Interrupt;
use crate::cli::progress::Progress;
use crate::cli::stdout::say;
use advice::Advice;
use busy::Busy;
use cell::{Cell, Measured, Measurement};
use clap::Args;
use raftyard_storage::device::{self, RawFile, RawFileError};
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use table::Table;

/// Length of the file that is written over and over.
const FILE_BYTES: u64 = 64 << 20;
/// How often everything is measured: the parts of one way's time are spread over the run, because disks drift.
const PASSES: u64 = 2;

/// What to measure.
#[derive(Clone, Debug, Args)]
pub(crate) struct ProbeArgs {
    /// A directory on the disk to measure
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// How long to measure in all; with less time the high percentiles are vague
    #[arg(long, value_name = "S", default_value_t = 25, value_parser = clap::value_parser!(u64).range(2..=3600))]
    seconds: u64,

    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Why the disk was not measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    /// No io_uring.
    #[error(transparent)]
    Uring(#[from] device::ProbeError),
    /// The directory won't do.
    #[error("--dir {}: {source}", path.display())]
    Dir {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: RawFileError,
    },
    /// The device failed while it was measured.
    #[error("writing failed: {0}")]
    Write(std::io::Error),
    /// Signals can't be listened to.
    #[error("signals: {0}")]
    Signals(std::io::Error),
    /// The machine can't be kept busy.
    #[error("a thread can't be started: {0}")]
    Thread(std::io::Error),
    /// The report could not be written.
    #[error("standard output: {0}")]
    Stdout(std::io::Error),
    /// A signal came.
    #[error("interrupted; nothing of it is left")]
    Interrupted,
}

/// The report. Fields are only ever added: scripts read them.
#[derive(Debug, Serialize)]
struct Report {
    raftyard_version: &'static str,
    dir: PathBuf,
    cpus: usize,
    /// How many threads of this machine ran or wanted to before the measuring began, a minute's mean.
    load_before: f64,
    cells: Vec<Measured>,
    /// Whether file and buffers may be registered; a low memlock limit forbids it.
    registration_allowed: bool,
    advice: Advice,
}

/// Measures and prints.
///
/// # Errors
/// What kept it from measuring.
pub(crate) fn run(args: &ProbeArgs) -> Result<(), ProbeError> {
    let interrupt = Interrupt::listen().map_err(ProbeError::Signals)?;
    let load_before = load();
    device::probe()?;
    let mut progress = Progress::new();
    progress.phase("filling a file", 1);
    let file =
        RawFile::create(&args.dir, FILE_BYTES).map_err(|source| ProbeError::Dir { path: args.dir.clone(), source })?;
    let measured = measure(args, &file, &mut progress, &interrupt);
    progress.clear();
    let (cells, registration_allowed) = measured?;
    let report = Report {
        raftyard_version: env!("CARGO_PKG_VERSION"),
        dir: args.dir.clone(),
        cpus: cpus(),
        load_before,
        advice: Advice::from(&cells),
        cells,
        registration_allowed,
    };
    if args.json {
        let json = serde_json::to_string_pretty(&report).map_err(std::io::Error::from);
        let json = json.map_err(ProbeError::Stdout)?;
        return say(&format_args!("{json}\n")).map_err(ProbeError::Stdout);
    }
    say(&Table(&report)).map_err(ProbeError::Stdout)
}

/// Every cell, and whether registration was allowed.
fn measure(
    args: &ProbeArgs,
    file: &RawFile,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Result<(Vec<Measured>, bool), ProbeError> {
    let mut cells = Cell::all().into_iter().map(Measurement::new).collect::<Vec<_>>();
    let share = Duration::from_secs(args.seconds) / u32::try_from(cells.len() as u64 * PASSES).expect("few cells");
    let mut registration_allowed = true;
    let mut step = 0;
    progress.phase("measuring", cells.len() as u64 * PASSES);
    for _ in 0..PASSES {
        for busy in [false, true] {
            let _busy = if busy { Some(Busy::start(cpus()).map_err(ProbeError::Thread)?) } else { None };
            for measurement in cells.iter_mut().filter(|m| m.cell.busy == busy) {
                if !measurement.cell.registered || registration_allowed {
                    match measurement.run(file, share, || interrupt.is_set()) {
                        Err(error) if measurement.cell.registered && cell::is_memlock(&error) => {
                            registration_allowed = false;
                        }
                        result => result.map_err(ProbeError::Write)?,
                    }
                }
                if interrupt.is_set() {
                    return Err(ProbeError::Interrupted);
                }
                step += 1;
                let now = Instant::now();
                if progress.is_due(now) {
                    progress.draw(now, step, measurement.cell.to_string());
                }
            }
        }
    }
    Ok((cells.iter().filter_map(Measurement::sum_up).collect(), registration_allowed))
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The load that the machine tells of, or 0 where it doesn't.
fn load() -> f64 {
    let told = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    told.split(' ').next().and_then(|minute| minute.parse().ok()).unwrap_or(0.0)
}
