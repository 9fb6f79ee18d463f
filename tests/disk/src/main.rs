//! The workload of the scripts that break real disks under Raftyard (`scripts/power_loss.sh`, `scripts/disk_full.sh`,
//! `scripts/disk_error.sh`): writes numbered values, writes down what is acknowledged on a disk that stays well, and
//! compares later. The scripts make, break and mend the disks.
//!
//! It never ends a node in good order: the process just goes, as in a crash.

mod error;
mod full;
mod ledger;
mod load;
mod nodes;
#[path = "../../../src/bench/ports.rs"]
mod ports;
#[path = "../../../src/bench/random.rs"]
mod random;
mod value;
mod verify;

use clap::{Args, Parser, Subcommand};
use ledger::Ledger;
use load::Load;
use nodes::{Nodes, Settings};
use raftyard::{Durability, WriteMode};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long a load goes on after its log failed: long enough to catch what must not be acknowledged any more.
const AFTER_FAILURE: Duration = Duration::from_millis(300);

#[derive(Debug, Parser)]
#[command(name = "raftyard-disk", version, about = "Writes to disks that are being broken, and checks what they kept")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// Data directories: one node in each, one or three.
    #[arg(long, value_delimiter = ',', required = true)]
    dirs: Vec<PathBuf>,
    /// What was acknowledged: a file on a disk that stays well.
    #[arg(long)]
    ledger: PathBuf,
    /// The number of this run; each over one ledger needs another.
    #[arg(long, default_value_t = 0)]
    run: u64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Acknowledge what no disk holds yet.
    #[arg(long)]
    durability_none: bool,
    /// Make a batch durable by a write and a linked sync, not by one write.
    #[arg(long)]
    linked_sync: bool,
    /// Batches being written at once.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Bytes of a segment: small, so that a run goes through many.
    #[arg(long, default_value_t = 1 << 20)]
    segment_bytes: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write until the log fails, or for some seconds.
    Load {
        #[arg(long)]
        seconds: Option<f64>,
    },
    /// Compare what the directories hold with the ledger.
    Verify,
    /// Fill the disk while writing, and make room again.
    Full {
        /// A file on the same disk, to fill it with.
        #[arg(long)]
        filler: PathBuf,
    },
    /// Let the first node's disk fail while writing.
    Error {
        /// The file whose existence makes the disk fail.
        #[arg(long)]
        trigger: PathBuf,
    },
}

/// A promise that was found broken, or a failure of the rig; the text says which.
type Broken = String;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let done = match &arguments.command {
        Command::Load { seconds } => load(&arguments.place, seconds.map(Duration::from_secs_f64)),
        Command::Verify => verify(&arguments.place),
        Command::Full { filler } => start(&arguments.place).and_then(|load| full::run(&load, filler, &arguments.place)),
        Command::Error { trigger } => {
            start(&arguments.place).and_then(|load| error::run(&load, trigger, arguments.place.seed))
        }
    };
    // Not by a return: what a node does in good order at its end is not under test, and a dead disk may make it wait.
    let code = match done {
        Ok(summary) => {
            println!("{summary}");
            0
        }
        Err(broken) => {
            println!("FAIL: {broken}");
            1
        }
    };
    std::process::exit(code)
}

fn open(place: &Place) -> Result<Nodes, Broken> {
    let durability = if place.durability_none { Durability::None } else { Durability::Sync };
    let write_mode = if place.linked_sync { WriteMode::LinkedSync } else { WriteMode::Dsync };
    let settings = Settings { durability, segment_bytes: place.segment_bytes, write_mode, wal_depth: place.depth };
    Nodes::open(&place.dirs, settings).map_err(|error| format!("the node does not open: {error}"))
}

fn start(place: &Place) -> Result<Arc<Load>, Broken> {
    let ledger = Ledger::open(&place.ledger).map_err(|error| format!("{}: {error}", place.ledger.display()))?;
    let nodes = open(place)?;
    nodes.create_groups().map_err(|error| format!("a group was not created: {error}"))?;
    println!("serving");
    Ok(Load::start(nodes, ledger, place.run, place.seed))
}

fn load(place: &Place, within: Option<Duration>) -> Result<String, Broken> {
    let load = start(place)?;
    let failed = load.wait_for(within.unwrap_or(Duration::MAX), Load::log_failed).is_some();
    if failed {
        std::thread::sleep(AFTER_FAILURE);
    }
    let (acknowledged, after) = (load.acknowledged(), load.acknowledged_after());
    if after > 0 {
        return Err(format!("{after} values were acknowledged after the log had failed"));
    }
    Ok(format!("acknowledged={acknowledged} log_failed={failed} others: {}", load.refusals()))
}

fn verify(place: &Place) -> Result<String, Broken> {
    let ledger = ledger::read(&place.ledger).map_err(|error| format!("{}: {error}", place.ledger.display()))?;
    let verdict = verify::verify(&open(place)?, &ledger);
    if verdict.is_good() { Ok(verdict.to_string()) } else { Err(verdict.to_string()) }
}
