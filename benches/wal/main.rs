//! Times Raftyard's log beside raft-engine, in turns, in one process, with the bare device as the floor.
//! `cargo run --release -p raftyard-benches --bin wal -- --help`
//!
//! Rounds: in each, every side runs every case once, in an order that turns about, in a new folder. What is printed are
//! medians over the rounds. Ratios are made within a round, because machines drift.

mod case;
mod floor;
mod options;
mod ours;
mod queue;
mod report;
mod rival;
mod sample;

use case::{Case, GROUPS_MANY, Payloads};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use options::Options;
use raftyard_storage::device::RawFile;
use raftyard_storage::io::BLOCK_BYTES;
use report::{CaseReport, Report};
use sample::Sample;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whatever went wrong, as the line that is printed.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A round of Raftyard's log ends when it has written this much, because nothing of it is reclaimed yet.
const ROUND_BYTES_MAX: u64 = 3 << 29;

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wal: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), Failure> {
    let cases = case::all().into_iter().filter(|case| case.to_string().contains(&options.only)).collect::<Vec<_>>();
    if cases.is_empty() {
        return Err(format!("--only {:?}: no case is called so", options.only).into());
    }
    if let Some(path) = &options.json {
        // Found out now, not after the run.
        std::fs::write(path, b"").map_err(|error| format!("--json {}: {error}", path.display()))?;
    }
    let bench = Bench::new(&options, (cases.len() * options.rounds as usize) as u64)?;
    introduce(&options);
    let mut reports = cases.iter().map(|case| CaseReport::new(*case)).collect::<Vec<_>>();
    for round in 0..options.rounds {
        for report in &mut reports {
            bench.round(round, report)?;
        }
    }
    bench.bar.finish_and_clear();
    reports.iter_mut().for_each(CaseReport::finish);
    reports.iter().for_each(|report| print!("{report}"));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let report = Report { options, cpus, cases: reports };
    if let Some(path) = &report.options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}

fn introduce(options: &Options) {
    println!(
        "{} rounds of {} s a side after {} s of warm-up; medians, ratios within a round\n\
         raftyard: one thread owns the log and its device, and writers are tasks on it, as in a node\n\
         raft-engine 0.4: every writer is a thread, as its interface has it; sync on every write, {}\n\
         CPU: us of this process, kernel time included; machine: us of the whole machine, the kernel's own threads and \
         strangers included\n\
         elsewhere: share of the machine's CPU time that this process didn't get; rounds in which strangers had much of \
         it are left out where any other is left\n\
         written: bytes a byte of payload, padding and zero-filling included; write B: bytes of one write",
        options.rounds,
        options.seconds,
        options.warmup,
        if options.rival_unfilled { "new files" } else { "files filled beforehand" },
    );
}

struct Bench<'a> {
    options: &'a Options,
    payloads: Payloads,
    floor: RawFile,
    bar: ProgressBar,
    interrupted: Arc<AtomicBool>,
}

type Side = fn(&Case, &Options, &Payloads, &Path) -> Result<Sample, Failure>;

impl Bench<'_> {
    fn new(options: &Options, steps: u64) -> Result<Bench<'_>, Failure> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // A second one ends the process at once.
            signal_hook::flag::register_conditional_default(signal, interrupted.clone())?;
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        let floor = floor::file(&options.dir).map_err(|error| format!("--dir {}: {error}", options.dir.display()))?;
        let bar = ProgressBar::new(steps);
        let style = ProgressStyle::with_template("{pos}/{len} [{bar:40}] {msg}, {eta} left");
        bar.set_style(style?.progress_chars("=> "));
        Ok(Bench { options, payloads: Payloads::new(), floor, bar, interrupted })
    }

    /// Every side once.
    fn round(&self, round: u32, report: &mut CaseReport) -> Result<(), Failure> {
        let case = report.case;
        self.bar.set_message(format!("round {}: {case}", round + 1));
        self.bar.tick();
        sample::wait_for_quiet(Duration::from_secs(self.options.patience.into()));
        report.floor.push(floor::run(&self.floor, BLOCK_BYTES, self.options)?);
        if round.is_multiple_of(2) {
            report.ours.push(self.side(ours::run, &case)?);
            report.rival.push(self.side(rival::run, &case)?);
        } else {
            report.rival.push(self.side(rival::run, &case)?);
            report.ours.push(self.side(ours::run, &case)?);
        }
        if case.groups == GROUPS_MANY && case.value_bytes == 128 {
            report.queue.push(self.side(queue::run, &case)?);
        }
        let batch_bytes = report.ours.last().map_or(0.0, |sample| sample.write_bytes) as usize;
        let batch_bytes = batch_bytes.next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES);
        report.floor_of_batch.push(floor::run(&self.floor, batch_bytes, self.options)?);
        self.bar.inc(1);
        Ok(())
    }

    fn side(&self, side: Side, case: &Case) -> Result<Sample, Failure> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err("interrupted; what it made is removed".into());
        }
        sample::wait_for_quiet(Duration::from_secs(self.options.patience.into()));
        let dir = tempfile::Builder::new().prefix("raftyard-wal-bench-").tempdir_in(&self.options.dir)?;
        side(case, self.options, &self.payloads, dir.path())
    }
}
