//! The simulator's command line.

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use raftyard_sim::{CLASSES, Hits, Violation, run};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug, Parser)]
#[command(name = "raftyard-sim", version, about = "Whole Raftyard nodes in one thread, driven by a seed")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the schedules of many seeds; stop at the first violation.
    Sim {
        /// Seeds, A..B: from A to below B.
        #[arg(long, value_parser = seeds, default_value = "0..5000")]
        seeds: Range<u64>,
        /// Stop after so many minutes, whatever seeds are left.
        #[arg(long)]
        minutes: Option<f64>,
        /// Threads; all CPUs by default.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
        threads: Option<u16>,
        /// Lines of the trace to print before a violation.
        #[arg(long, default_value_t = 150)]
        lines: usize,
    },
    /// Run one seed and tell what happens.
    Trace {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// The last so many lines.
        #[arg(long, default_value_t = 400)]
        lines: usize,
    },
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{text:?} is no number; A..B is wanted"));
    let (first, end) = text.split_once("..").ok_or("A..B is wanted")?;
    let range = number(first)?..number(end)?;
    if range.is_empty() { Err("no seeds: A must be below B".to_owned()) } else { Ok(range) }
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Sim { seeds, minutes, threads, lines } => {
            let threads = threads.map_or_else(cpus, usize::from);
            simulate(seeds, minutes, threads, lines)
        }
        Command::Trace { seed, lines } => trace(seed, lines),
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn simulate(seeds: Range<u64>, minutes: Option<f64>, threads: usize, lines: usize) -> ExitCode {
    let began = Instant::now();
    let end = minutes.map(|minutes| began + Duration::from_secs_f64(minutes.max(0.0) * 60.0));
    let bar = ProgressBar::new(seeds.end - seeds.start);
    let style = "{elapsed_precise} {wide_bar} {pos}/{len} schedules, {per_sec}, {eta} to go";
    bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let found: Mutex<Option<Violation>> = Mutex::new(None);
    let hits = Mutex::new(Hits::default());
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = Hits::default();
                while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    match run(seed, false) {
                        Ok(report) => own.add(&report.hits),
                        Err(violation) => {
                            stop.store(true, Ordering::Relaxed);
                            let mut found = found.lock().expect("nobody panics while it is held");
                            if found.as_ref().is_none_or(|other| violation.seed < other.seed) {
                                *found = Some(violation);
                            }
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    bar.inc(1);
                }
                hits.lock().expect("nobody panics while it is held").add(&own);
            });
        }
    });
    bar.finish_and_clear();
    let hits = hits.into_inner().expect("nobody panicked");
    let done = done.into_inner();
    println!("{done} schedules in {:.1} s", began.elapsed().as_secs_f64());
    for classes in CLASSES.chunks(3) {
        let cells: Vec<String> = classes.iter().map(|class| format!("{:<28}{:>11}", class, hits.of(class))).collect();
        println!("{}", cells.join("   ").trim_end());
    }
    if let Some(violation) = found.into_inner().expect("nobody panicked") {
        println!();
        return trace(violation.seed, lines);
    }
    let missing = hits.missing();
    if !missing.is_empty() {
        println!("never hit: {}", missing.join(", "));
        // Few schedules can't hit everything.
        return if done >= 1_000 { ExitCode::from(3) } else { ExitCode::SUCCESS };
    }
    println!("0 violations");
    ExitCode::SUCCESS
}

fn trace(seed: u64, lines: usize) -> ExitCode {
    match run(seed, true) {
        Ok(report) => {
            println!("seed {seed}: every promise was kept; trace {:016x}", report.trace);
            ExitCode::SUCCESS
        }
        Err(violation) => {
            let skipped = violation.told.len().saturating_sub(lines);
            for line in &violation.told[skipped..] {
                println!("{line}");
            }
            println!("{violation}");
            println!("again: cargo run -p raftyard-sim --release -- trace --seed {seed} --lines {lines}");
            ExitCode::from(1)
        }
    }
}
