//! What a run is summed up to: the numbers of the table and of the JSON file, in one place.

use super::client::LoadOutcome;
use super::options::BenchArgs;
use super::verify::{Outcome, Verdict};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The report. Fields are only ever added: scripts read them.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    pub(super) raftyard_version: &'static str,
    pub(super) config: Config,
    pub(super) throughput_ops_per_s: f64,
    pub(super) latency_us: Latency,
    /// All nodes and the client together, user and kernel.
    pub(super) cpu_us_per_op: f64,
    /// Of the whole process, at the end of the load.
    pub(super) rss_bytes: u64,
    /// What creating the groups and electing their leaders added, divided by their replicas.
    pub(super) rss_bytes_per_replica: f64,
    pub(super) floor: Floor,
    /// Operations acknowledged within the window: those that throughput and latency count.
    pub(super) acknowledged: u64,
    /// Operations acknowledged in all, warm-up and last answers included: those that were verified.
    pub(super) acknowledged_in_all: u64,
    /// Attempts answered otherwise, by kind. An operation answered `not_leader` or `overloaded_*` was proposed again.
    pub(super) errors: BTreeMap<&'static str, u64>,
    /// Operations whose outcome stayed unknown.
    pub(super) unknown: u64,
    pub(super) verified: Verified,
}

/// What was asked for, and how it ran.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Config {
    #[serde(flatten)]
    pub(super) args: BenchArgs,
    pub(super) pinned: bool,
    pub(super) machine_cores: usize,
}

/// Percentiles in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) p999: f64,
    pub(super) p9999: f64,
    pub(super) max: f64,
}

/// What the machine does at best, through the same code, in the same run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Floor {
    /// One durable write of 4 KiB.
    pub(super) durable_write_us: Quantiles,
    /// 128 bytes to another thread over loopback, and back.
    pub(super) loopback_rtt_us: Quantiles,
}

/// Percentiles in microseconds.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// Whether the cluster kept its word.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Verified {
    pub(super) replicas_equal: bool,
    pub(super) acknowledged_applied_once: bool,
}

/// Memory at three moments.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// The nodes are open, and empty.
    pub(super) before_groups: u64,
    /// All groups have leaders.
    pub(super) with_groups: u64,
    /// The load has ended.
    pub(super) after_load: u64,
}

impl Report {
    /// Sums a run up.
    pub(super) fn new(config: Config, load: LoadOutcome, memory: Memory, floor: Floor, verdict: &Verdict) -> Report {
        let acknowledged = load.latencies.len();
        let count = |wanted: fn(&Outcome) -> bool| load.operations.iter().filter(|o| wanted(&o.outcome)).count() as u64;
        let per = |value: f64, count: f64| if count > 0.0 { value / count } else { 0.0 };
        let growth = memory.with_groups.saturating_sub(memory.before_groups) as f64;
        Report {
            raftyard_version: env!("CARGO_PKG_VERSION"),
            throughput_ops_per_s: per(acknowledged as f64, load.window.as_secs_f64()),
            latency_us: Latency::of(&load.latencies),
            cpu_us_per_op: per(micros(load.cpu), acknowledged as f64),
            rss_bytes: memory.after_load,
            rss_bytes_per_replica: per(growth, config.args.replicas() as f64),
            floor,
            acknowledged,
            acknowledged_in_all: count(|outcome| matches!(outcome, Outcome::Acknowledged(_))),
            unknown: count(|outcome| *outcome == Outcome::Unknown),
            errors: load.errors,
            verified: Verified {
                replicas_equal: verdict.replicas_equal(),
                acknowledged_applied_once: verdict.acknowledged_applied_once(),
            },
            config,
        }
    }
}

impl Latency {
    fn of(nanos: &Histogram<u64>) -> Latency {
        let at = |quantile| nanos.value_at_quantile(quantile) as f64 / 1e3;
        // A bucket's upper end can lie above every value in it.
        let max = nanos.max() as f64 / 1e3;
        let at = |quantile| f64::min(at(quantile), max);
        Latency { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), p9999: at(0.9999), max }
    }
}

impl Quantiles {
    /// Of samples in any order; zero if there is none.
    pub(super) fn of(mut samples: Vec<Duration>) -> Quantiles {
        samples.sort_unstable();
        let at = |percent: usize| {
            let rank = (samples.len() * percent).div_ceil(100).max(1);
            samples.get(rank - 1).copied().map_or(0.0, micros)
        };
        Quantiles { p50: at(50), p99: at(99) }
    }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::verify::{Operation, Verdict};
    use super::*;
    use clap::Parser;
    use raftyard::{GroupId, LogIndex};

    #[derive(Parser)]
    struct Parsed {
        #[command(flatten)]
        args: BenchArgs,
    }

    /// A run of 1,000 acknowledged operations that took 1 to 1,000 us, and one unknown.
    pub(in super::super) fn sample() -> Report {
        let mut latencies = Histogram::new_with_bounds(1, 1_000_000_000, 3).expect("bounds");
        (1..=1000).for_each(|us| latencies.record(us * 1000).expect("in bounds"));
        let acknowledged = Operation { group: GroupId(1), outcome: Outcome::Acknowledged(LogIndex(1)) };
        let mut operations = vec![acknowledged; 1200];
        operations.push(Operation { group: GroupId(1), outcome: Outcome::Unknown });
        let load = LoadOutcome {
            operations,
            latencies,
            window: Duration::from_millis(500),
            cpu: Duration::from_millis(20),
            errors: BTreeMap::from([("not_leader", 3)]),
        };
        let args = Parsed::parse_from(["bench", "--groups", "10"]).args;
        let config = Config { args, pinned: false, machine_cores: 2 };
        let memory = Memory { before_groups: 1_000_000, with_groups: 1_060_000, after_load: 5_000_000 };
        let quantiles = Quantiles { p50: 105.0, p99: 153.0 };
        let floor = Floor { durable_write_us: quantiles.clone(), loopback_rtt_us: quantiles };
        Report::new(config, load, memory, floor, &Verdict::default())
    }

    #[test]
    fn a_run_is_summed_up() {
        let report = sample();
        assert_eq!((report.acknowledged, report.acknowledged_in_all, report.unknown), (1000, 1200, 1));
        assert_eq!(report.throughput_ops_per_s, 2000.0);
        assert_eq!(report.cpu_us_per_op, 20.0);
        assert_eq!(report.rss_bytes_per_replica, 2000.0);
        assert!((report.latency_us.p50 - 500.0).abs() < 1.0 && (report.latency_us.max - 1000.0).abs() < 1.0);
    }

    #[test]
    fn the_json_has_the_promised_fields() {
        let json = serde_json::to_value(sample()).expect("serialises");
        for path in [
            "/config/nodes",
            "/config/cores_per_node",
            "/config/groups",
            "/config/value_bytes",
            "/config/concurrency",
            "/config/duration_s",
            "/config/warmup_s",
            "/config/seed",
            "/throughput_ops_per_s",
            "/latency_us/p50",
            "/latency_us/p90",
            "/latency_us/p99",
            "/latency_us/p999",
            "/latency_us/p9999",
            "/latency_us/max",
            "/cpu_us_per_op",
            "/rss_bytes",
            "/rss_bytes_per_replica",
            "/floor/durable_write_us/p50",
            "/floor/durable_write_us/p99",
            "/floor/loopback_rtt_us/p50",
            "/floor/loopback_rtt_us/p99",
            "/acknowledged",
            "/unknown",
        ] {
            assert!(json.pointer(path).is_some_and(serde_json::Value::is_number), "{path} in {json:#}");
        }
        assert_eq!(json.pointer("/config/durability"), Some(&"sync".into()));
        assert_eq!(json.pointer("/errors/not_leader"), Some(&3.into()));
        assert_eq!(json.pointer("/verified/replicas_equal"), Some(&true.into()));
        assert_eq!(json.pointer("/verified/acknowledged_applied_once"), Some(&true.into()));
    }

    #[test]
    fn quantiles_of_few_samples_are_samples() {
        let of = |samples: &[u64]| {
            let quantiles = Quantiles::of(samples.iter().copied().map(Duration::from_micros).collect());
            (quantiles.p50.round(), quantiles.p99.round())
        };
        assert_eq!(of(&[]), (0.0, 0.0));
        assert_eq!(of(&[7]), (7.0, 7.0));
        assert_eq!(of(&[4, 1, 3, 2]), (2.0, 4.0));
    }
}
