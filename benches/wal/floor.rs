//! The floor: the same device, written to without a log.

use crate::Failure;
use crate::options::Options;
use crate::sample::{Mark, Sample, latencies, note};
use raftyard_storage::device::{RawFile, RawWrites};
use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

/// Length of the file that is written over and over.
const FILE_BYTES: u64 = 64 << 20;
/// How much of a round's time the floor takes.
const SHARE: f64 = 0.25;

/// One durable write after the other, each of `bytes`.
pub(crate) fn run(file: &RawFile, bytes: usize, options: &Options) -> Result<Sample, Failure> {
    let how = RawWrites { bytes, mode: options.write_mode.into(), depth: 1, registered: false, polled: false };
    let mut latencies = latencies();
    let (warmup, window) = (options.warmup().mul_f64(SHARE), options.window().mul_f64(SHARE));
    let began = Instant::now();
    let mut begin = None;
    let each = |took: Duration| {
        match begin {
            None if began.elapsed() >= warmup => begin = Some(Mark::now()),
            None => {}
            Some(_) => note(&mut latencies, took),
        }
        if began.elapsed() < warmup + window { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    file.write(how, each)?;
    let marks = (begin.ok_or("no write was faster than the warm-up")?, Mark::now());
    let handed = latencies.len() * bytes as u64;
    Ok(Sample { write_bytes: bytes as f64, ..Sample::new(&latencies, marks, bytes as u64, Some(handed)) })
}

pub(crate) fn file(dir: &Path) -> Result<RawFile, Failure> {
    Ok(RawFile::create(dir, FILE_BYTES)?)
}
