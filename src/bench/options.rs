//! The benchmark's flags, their bounds and their defaults.

use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Bytes at the start of every value that name the operation.
pub(super) const VALUE_BYTES_MIN: usize = 8;

/// What to run. Kept as given, for the report.
#[derive(Clone, Debug, Args, Serialize)]
pub(crate) struct BenchArgs {
    /// Nodes of the cluster, all in this process; every group has a replica on each
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(super) nodes: u16,

    /// Cores (threads with a log of their own) a node has
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) cores_per_node: u16,

    /// Raft groups
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) groups: u32,

    /// Bytes of every value; the first 8 name the operation
    #[arg(long, value_name = "BYTES", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(VALUE_BYTES_MIN as i64..=8 << 20))]
    pub(super) value_bytes: u32,

    /// Operations under way at any time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) concurrency: u32,

    /// How long to measure, such as 10s, 500ms or 2m
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = positive_duration)]
    #[serde(rename = "duration_s", serialize_with = "as_seconds")]
    pub(super) duration: Duration,

    /// How long to load before measuring; verified like the rest
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    #[serde(rename = "warmup_s", serialize_with = "as_seconds")]
    pub(super) warmup: Duration,

    /// Directory for the nodes' data: made, and removed at the end; refused if it exists and isn't empty
    /// [default: a new one in the current directory]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<PathBuf>,

    /// Whether an acknowledged operation is on the disks
    #[arg(long, value_enum, default_value_t = DurabilityArg::Sync)]
    pub(super) durability: DurabilityArg,

    /// Write the report to this file as JSON, too
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,

    /// Seed of the groups and bytes that the load chooses
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

/// `--durability`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DurabilityArg {
    /// Every write is synced before it is acknowledged
    Sync,
    /// Writes are not synced: a power failure loses acknowledged operations
    None,
}

impl DurabilityArg {
    /// What the table says of it.
    pub(super) fn described(self) -> &'static str {
        match self {
            DurabilityArg::Sync => "sync (acknowledged means on the disks of a majority)",
            DurabilityArg::None => "NONE (a power failure loses acknowledged operations)",
        }
    }
}

impl BenchArgs {
    /// Cores of all nodes together.
    pub(super) fn cores(&self) -> usize {
        usize::from(self.nodes) * usize::from(self.cores_per_node)
    }

    /// Replicas of all groups together.
    pub(super) fn replicas(&self) -> u64 {
        u64::from(self.groups) * u64::from(self.nodes)
    }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than nothing".to_owned()),
        duration => Ok(duration),
    }
}

/// Whole numbers with a unit; at most a day, so that no sum of times overflows.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis_a_unit = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("needs a whole number and a unit: ms, s or m".to_owned()),
    };
    let millis = number.parse::<u64>().ok().and_then(|n| n.checked_mul(millis_a_unit));
    match millis {
        Some(millis) if millis <= 86_400_000 => Ok(Duration::from_millis(millis)),
        _ => Err("must be a number, and at most a day".to_owned()),
    }
}

fn as_seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for refused in ["", "10", "s", "-1s", "1.5s", "10 s", "25h", "99999999999999999999s", "9999999m"] {
            assert!(duration(refused).is_err(), "{refused:?}");
        }
        assert!(positive_duration("0ms").is_err());
    }
}
