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
    /// Plant one bug after the other and see each found.
    ///
    /// Needs a build that has them: RUSTFLAGS="--cfg raftyard_planted" cargo run --target-dir target/planted ...
    Bugs {
        /// Seeds to find each in, A..B.
        #[arg(long, value_parser = seeds, default_value = "0..2000")]
        seeds: Range<u64>,
        /// Only the bugs of these numbers.
        #[arg(long, value_delimiter = ',')]
        only: Vec<u32>,
    },
    /// Run one seed and tell what happens.
    Trace {
        /// The seed.
        #[arg(long)]
        seed: u64,
        /// The last so many lines.
        #[arg(long, default_value_t = 400)]
        lines: usize,
        /// With the planted bug of this number.
        #[cfg(raftyard_planted)]
        #[arg(long)]
        plant: Option<u32>,
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
            simulate(&seeds, minutes, threads, lines)
        }
        Command::Bugs { seeds, only } => bugs(&seeds, &only),
        #[cfg(not(raftyard_planted))]
        Command::Trace { seed, lines } => trace(seed, lines),
        #[cfg(raftyard_planted)]
        Command::Trace { seed, lines, plant } => {
            use raftyard_raft::planted;
            planted::plant(planted::BUGS.iter().copied().find(|bug| Some(*bug as u32) == plant));
            trace(seed, lines)
        }
    }
}

#[cfg(not(raftyard_planted))]
fn bugs(_: &Range<u64>, _: &[u32]) -> ExitCode {
    eprintln!(
        "this build has no planted bugs; build it so: RUSTFLAGS=\"--cfg raftyard_planted\" cargo run -p raftyard-sim \
         --release --target-dir target/planted -- bugs"
    );
    ExitCode::from(2)
}

/// Lets every planted bug be found, and tells by which seed, and how.
#[cfg(raftyard_planted)]
fn bugs(seeds: &Range<u64>, only: &[u32]) -> ExitCode {
    use raftyard_raft::planted::{BUGS, plant};
    let mut missed = 0;
    println!("{:>3}  {:<20} {:>7}  {}", "no.", "bug", "seeds", "found by");
    for &bug in BUGS {
        if !only.is_empty() && !only.contains(&(bug as u32)) {
            continue;
        }
        plant(Some(bug));
        let campaign = campaign(seeds, None, cpus(), &ProgressBar::hidden());
        let (number, name) = (bug as u32, format!("{bug:?}"));
        match campaign.found {
            Some(violation) => {
                let what: String = violation.what.lines().next().unwrap_or_default().chars().take(100).collect();
                println!("{number:>3}  {name:<20} {:>7}  {what}", violation.seed - seeds.start + 1);
            }
            None => {
                missed += 1;
                println!("{number:>3}  {name:<20} {:>7}  NOT FOUND", campaign.done);
            }
        }
    }
    plant(None);
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What many schedules came to.
struct Campaign {
    done: u64,
    hits: Hits,
    /// Of the violations that were found, the one with the lowest seed.
    found: Option<Violation>,
}

/// Runs the schedules of `seeds` in order, on several threads, until one breaks a promise or the time is over.
fn campaign(seeds: &Range<u64>, end: Option<Instant>, threads: usize, bar: &ProgressBar) -> Campaign {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let all = Mutex::new(Campaign { done: 0, hits: Hits::default(), found: None });
    let work = || {
        let mut own = Hits::default();
        let mut done = 0;
        while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            match run(seed, false) {
                Ok(report) => own.add(&report.hits),
                Err(violation) => {
                    stop.store(true, Ordering::Relaxed);
                    let mut all = all.lock().expect("nobody panics while it is held");
                    if all.found.as_ref().is_none_or(|other| violation.seed < other.seed) {
                        all.found = Some(violation);
                    }
                }
            }
            done += 1;
            bar.inc(1);
        }
        let mut all = all.lock().expect("nobody panics while it is held");
        all.hits.add(&own);
        all.done += done;
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    all.into_inner().expect("nobody panicked")
}

fn simulate(seeds: &Range<u64>, minutes: Option<f64>, threads: usize, lines: usize) -> ExitCode {
    let began = Instant::now();
    let end = minutes.map(|minutes| began + Duration::from_secs_f64(minutes.max(0.0) * 60.0));
    let bar = ProgressBar::new(seeds.end - seeds.start);
    let style = "{elapsed_precise} {wide_bar} {pos}/{len} schedules, {per_sec}, {eta} to go";
    bar.set_style(ProgressStyle::with_template(style).expect("a valid template"));
    let Campaign { done, hits, found } = campaign(seeds, end, threads, &bar);
    bar.finish_and_clear();
    println!("{done} schedules in {:.1} s", began.elapsed().as_secs_f64());
    for classes in CLASSES.chunks(3) {
        let cells: Vec<String> = classes.iter().map(|class| format!("{:<28}{:>11}", class, hits.of(class))).collect();
        println!("{}", cells.join("   ").trim_end());
    }
    if let Some(violation) = found {
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
            let skipped = report.told.len().saturating_sub(lines);
            report.told[skipped..].iter().for_each(|line| println!("{line}"));
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
