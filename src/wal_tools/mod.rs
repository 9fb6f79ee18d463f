//! `raftyard wal`: tools for logs and the disks they are to live on.

mod probe;

use clap::{Args, Subcommand};
use probe::{ProbeArgs, ProbeError};

/// Which tool.
#[derive(Debug, Args)]
pub(crate) struct WalArgs {
    #[command(subcommand)]
    command: WalCommand,
}

#[derive(Debug, Subcommand)]
enum WalCommand {
    /// Measures how fast a directory's disk makes writes durable, in every way a log can write, and says which to choose.
    Probe(ProbeArgs),
}

/// Why a tool did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalError {
    /// The disk was not measured.
    #[error("raftyard wal probe: {0}")]
    Probe(#[from] ProbeError),
}

impl WalError {
    /// Whether it ended because a signal asked it to.
    pub(crate) fn is_interrupt(&self) -> bool {
        matches!(self, WalError::Probe(ProbeError::Interrupted))
    }
}

/// Runs the chosen tool.
///
/// # Errors
/// As the tool says.
pub(crate) fn run(args: WalArgs) -> Result<(), WalError> {
    match args.command {
        WalCommand::Probe(args) => Ok(probe::run(&args)?),
    }
}
