//! The flags of this benchmark.

use clap::{Parser, ValueEnum};
use raftyard_storage::io::WriteMode;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Times Raftyard's log beside raft-engine, in turns, in one process, with the bare device as the floor.
#[derive(Clone, Debug, Parser, Serialize)]
#[command(name = "wal")]
pub(crate) struct Options {
    /// Rounds; in each, every side runs every case once
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,

    /// Seconds that are measured, a side and round
    #[arg(long, value_name = "S", default_value_t = 2.0, value_parser = seconds)]
    pub(crate) seconds: f64,

    /// Seconds before them that don't count
    #[arg(long, value_name = "S", default_value_t = 0.7, value_parser = seconds)]
    pub(crate) warmup: f64,

    /// Where the logs go, each round into a new folder that is removed after it; needs direct I/O
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,

    /// Write everything measured to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Only cases whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) only: String,

    /// How Raftyard's log makes a batch durable
    #[arg(long, value_enum, default_value_t = Mode::Dsync)]
    pub(crate) write_mode: Mode,

    /// Batches that Raftyard's log writes at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub(crate) depth: u8,

    /// MiB of a segment of Raftyard's log
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(16..=1024))]
    pub(crate) segment_mib: u16,

    /// How the thread of Raftyard's log is woken
    #[arg(long, value_enum, default_value_t = Wake::Ring)]
    pub(crate) wake: Wake,

    /// Seconds to wait at most, before each side of each round, for a machine that has nothing else to do
    #[arg(long, value_name = "S", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=3600))]
    pub(crate) patience: u16,

    /// Leave raft-engine's files as it makes them by default, instead of filling them before they are used
    #[arg(long)]
    pub(crate) rival_unfilled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// One write with RWF_DSYNC
    Dsync,
    /// A write and a linked fdatasync
    LinkedSync,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Wake {
    /// It sleeps in the device's ring
    Ring,
    /// The device rings an eventfd, as in a node, where the core waits for more than the disk
    Eventfd,
}

impl From<Mode> for WriteMode {
    fn from(mode: Mode) -> WriteMode {
        match mode {
            Mode::Dsync => WriteMode::Dsync,
            Mode::LinkedSync => WriteMode::LinkedSync,
        }
    }
}

impl Options {
    pub(crate) fn window(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    pub(crate) fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.05..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err("must be a number from 0.05 to 60".to_owned()),
    }
}
