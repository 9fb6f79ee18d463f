//! `raftyard wal`: looking at the logs of a data directory, and measuring the disk that they are to live on.
//!
//! Uses `raftyard_storage::wal::tools` and shows what it finds. Opens a log's files to read them and does nothing else to
//! them.

mod dump;
mod inspect;
mod probe;
mod table;
mod target;
mod verify;

use clap::Subcommand;
pub(crate) use probe::ProbeError;
use raftyard_storage::wal::WalError;
use std::path::PathBuf;
use target::TargetError;

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Wal {
    /// How each log stands: its segments, its last batch, its checkpoints, its groups.
    Inspect(inspect::InspectArgs),
    /// Reads every byte of each log and says what is damaged and whose it was. Exit code 0: whole, 4: damaged.
    Verify(verify::VerifyArgs),
    /// Prints batches and records in order, one line each.
    Dump(dump::DumpArgs),
    /// Measures how fast a directory's disk makes writes durable, in every way a log can write, and says which to choose.
    Probe(probe::ProbeArgs),
}

impl Wal {
    /// The command's words.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Wal::Inspect(_) => "wal inspect",
            Wal::Verify(_) => "wal verify",
            Wal::Dump(_) => "wal dump",
            Wal::Probe(_) => "wal probe",
        }
    }
}

/// Why a command did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalCommandError {
    /// There is no log where it was said to be.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A log can't be read.
    #[error("{}: {source}", root.display())]
    Wal {
        /// The data directory.
        root: PathBuf,
        /// Why.
        source: WalError,
    },
    /// One segment of one of several logs was asked for.
    #[error("{} has {logs} logs: --segment needs one, named with --wal", root.display())]
    WhichLog {
        /// The data directory.
        root: PathBuf,
        /// How many it has.
        logs: usize,
    },
    /// Something is damaged.
    #[error("damaged places: {places}, in logs: {logs}")]
    Damaged {
        /// How many findings.
        places: usize,
        /// In how many logs.
        logs: usize,
    },
    /// The disk was not measured.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// What was found could not be written.
    #[error("standard output: {0}")]
    Stdout(std::io::Error),
}

/// Runs a command.
pub(crate) fn run(command: &Wal) -> Result<(), WalCommandError> {
    match command {
        Wal::Inspect(args) => inspect::run(args),
        Wal::Verify(args) => verify::run(args),
        Wal::Dump(args) => dump::run(args),
        Wal::Probe(args) => Ok(probe::run(args)?),
    }
}
