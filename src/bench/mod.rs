//! `raftyard bench`: a whole cluster in one process, loaded, measured and verified.
//!
//! Uses the library as any program would: its public calls and nothing else. Owns the data directory of the run and
//! removes it however the run ends.

mod client;
mod cluster;
mod data_dir;
mod ledger;
mod options;
mod ports;
mod random;
mod report;
mod slots;
mod table;
mod usage;
mod verify;

use crate::cli::interrupt::Interrupt;
use crate::cli::progress::Progress;
use crate::cli::stdout::say;
use client::{Client, Load};
use cluster::{Cluster, ClusterError};
use data_dir::{DataDir, DataDirError};
use ledger::Ledger;
pub(crate) use options::BenchArgs;
use raftyard::floor::{self, FloorError};
use report::{Config, Floor, Memory, Quantiles, Report};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use table::Table;

/// Samples of each floor measurement: about half a second, and enough for a p99.
const FLOOR_SAMPLES: usize = 2_000;
/// How long replicas may take to catch up after the load. Beyond it they are compared as they are.
const CONVERGE_WITHIN: Duration = Duration::from_secs(30);

/// Why a benchmark did not end well.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    /// No data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The cluster doesn't serve.
    #[error(transparent)]
    Cluster(ClusterError),
    /// The floor could not be measured.
    #[error(transparent)]
    Floor(FloorError),
    /// Signals can't be listened to.
    #[error("signals: {0}")]
    Signals(std::io::Error),
    /// The report could not be written.
    #[error("--json {}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The table could not be written.
    #[error("standard output: {0}")]
    Stdout(std::io::Error),
    /// Nothing was acknowledged in the window.
    #[error("no operation was acknowledged within the measured time; the table says what was answered instead")]
    NothingAcknowledged,
    /// The cluster did not keep its word.
    #[error("NOT VERIFIED: {unequal} faults of unequal replicas, {broken} of operations lost, doubled or misreported")]
    Unverified {
        /// Replicas that differ.
        unequal: u64,
        /// Operations that were not treated as answered.
        broken: u64,
    },
    /// A signal came.
    #[error("interrupted; what it made is removed")]
    Interrupted,
}

impl From<ClusterError> for BenchError {
    fn from(error: ClusterError) -> BenchError {
        match error {
            ClusterError::Interrupted => BenchError::Interrupted,
            error => BenchError::Cluster(error),
        }
    }
}

/// Runs the benchmark and prints its report.
///
/// # Errors
/// What kept it from running, or that the cluster broke a promise.
pub(crate) fn run(args: BenchArgs) -> Result<(), BenchError> {
    let interrupt = Interrupt::listen().map_err(BenchError::Signals)?;
    if let Some(path) = &args.json {
        // Found out now, not after the run. It stays empty if the run fails, so that an old report can't pass for new.
        write_json(path, b"")?;
    }
    let data = DataDir::make(args.data_dir.as_deref())?;
    let machine_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let config = Config { pinned: args.cores() <= machine_cores, machine_cores, args };
    introduce(&config)?;
    let mut progress = Progress::new();
    let measured = measure(config, &data, &mut progress, &interrupt);
    progress.clear();
    drop(data);
    let (report, verdict) = measured?;
    if interrupt.is_set() {
        return Err(BenchError::Interrupted);
    }
    // The file first: it is whole even where nobody takes the table.
    if let Some(path) = &report.config.args.json {
        let json = serde_json::to_vec_pretty(&report).map_err(std::io::Error::from);
        let json = json.map_err(|source| BenchError::Json { path: path.clone(), source })?;
        write_json(path, &json)?;
    }
    let said = say(&Table(&report)).map_err(BenchError::Stdout);
    // A broken promise is the worse news.
    judge(&report, &verdict).and(said)
}

fn introduce(config: &Config) -> Result<(), BenchError> {
    let args = &config.args;
    let mut words = format!(
        "raftyard bench: {} nodes of {} cores, {} groups, values of {} B, concurrency {}, {} s, seed {}\n",
        args.nodes,
        args.cores_per_node,
        args.groups,
        args.value_bytes,
        args.concurrency,
        args.duration.as_secs_f64(),
        args.seed
    );
    if !config.pinned {
        let (cores, machine) = (args.cores(), config.machine_cores);
        words += &format!("unpinned: the cluster has {cores} cores in all, this machine has {machine}\n");
    }
    say(&words).map_err(BenchError::Stdout)
}

fn measure(
    config: Config,
    data: &DataDir,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> Result<(Report, verify::Verdict), BenchError> {
    let args = &config.args;
    let ledger = Ledger::new(args.nodes, args.groups);
    // First of all, because a node says in one line what this machine lacks.
    let cluster = Cluster::open(args, config.pinned, data, &ledger, interrupt)?;
    let floor = measure_floor(data, progress, interrupt)?;
    let mut memory = Memory { before_groups: usage::resident_bytes(), ..Memory::default() };
    cluster.create_groups(progress, interrupt)?;
    let leaders = cluster.wait_for_leaders(progress, interrupt)?;
    memory.with_groups = usage::resident_bytes();

    let load = Load {
        nodes: args.nodes,
        groups: args.groups,
        value_bytes: args.value_bytes as usize,
        concurrency: args.concurrency as usize,
        warmup: args.warmup,
        duration: args.duration,
        seed: args.seed,
    };
    progress.phase("load", (args.warmup + args.duration).as_millis() as u64);
    let propose = |node: raftyard::NodeId, group: raftyard::GroupId, value| {
        cluster.handle((node.0 - 1) as u16, (group.0 - 1) as u32).propose(value)
    };
    let load = Client::new(load, leaders, propose).run(progress, interrupt);
    memory.after_load = usage::resident_bytes();

    progress.phase("verifying", 1);
    Cluster::wait_for_replicas(&ledger, CONVERGE_WITHIN, interrupt);
    cluster.shutdown()?;
    let sequences = ledger.take();
    let verdict = verify::verify(&load.operations, &ledger.by_group(&sequences));
    Ok((Report::new(config, load, memory, floor, &verdict), verdict))
}

/// Before there are groups: the cluster is idle, and nothing else of this process wants the disk or the cores.
fn measure_floor(data: &DataDir, progress: &mut Progress, interrupt: &Interrupt) -> Result<Floor, BenchError> {
    progress.phase("measuring the floor", 1);
    let directory = data.make_for_floor()?;
    let writes = floor::durable_write(&directory, FLOOR_SAMPLES).map_err(BenchError::Floor)?;
    if interrupt.is_set() {
        return Err(BenchError::Interrupted);
    }
    let trips = floor::loopback_rtt(FLOOR_SAMPLES).map_err(BenchError::Floor)?;
    Ok(Floor { durable_write_us: Quantiles::of(writes), loopback_rtt_us: Quantiles::of(trips) })
}

fn judge(report: &Report, verdict: &verify::Verdict) -> Result<(), BenchError> {
    for fault in &verdict.told {
        // Whether anybody reads it or not: how it ended is in the exit code, too.
        let _ = writeln!(std::io::stderr(), "{fault}");
    }
    if !verdict.replicas_equal() || !verdict.acknowledged_applied_once() {
        return Err(BenchError::Unverified { unequal: verdict.unequal, broken: verdict.broken });
    }
    if report.acknowledged == 0 {
        return Err(BenchError::NothingAcknowledged);
    }
    Ok(())
}

fn write_json(path: &Path, json: &[u8]) -> Result<(), BenchError> {
    std::fs::write(path, json).map_err(|source| BenchError::Json { path: path.to_owned(), source })
}
