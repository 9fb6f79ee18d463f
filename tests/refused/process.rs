//! Every refusal of a node's start as whoever runs one sees it: a process that ends with one line on standard error and a
//! non-zero exit code. What the kernel refuses is in `tests/refused_by_system.rs`, flags are in `bench.rs`.
//!
//! The node process is this very test program, started again with [`ENVIRONMENT`] set.

use crate::{config, open, temp_dir};
use raftyard::{NodeConfig, NodeId};
use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Set for a node process: `NODE;CLUSTER;CORES;PIN;LISTEN;DIRECTORY`.
const ENVIRONMENT: &str = "RAFTYARD_REFUSED_NODE";

/// Not a test: the node of the processes that the tests start. Run as a test by itself it does nothing.
#[test]
fn node_process() {
    let Ok(text) = std::env::var(ENVIRONMENT) else { return };
    let mut parts = text.splitn(6, ';');
    let mut part = || parts.next().expect("six parts");
    let config = NodeConfig {
        node: NodeId(part().parse().expect("a node id")),
        cluster: part().parse().expect("a cluster id"),
        cores: part().parse().expect("a number"),
        pin: part().parse().expect("true or false"),
        listen: part().parse().expect("an address"),
        data_dir: part().into(),
        ..NodeConfig::default()
    };
    // Warnings would be lines, too, as in the `raftyard` program.
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    match open(config) {
        Ok(node) => node.shutdown().expect("no core was lost"),
        Err(error) => {
            eprintln!("raftyard: {error}");
            std::process::exit(1)
        }
    }
}

/// Starts a process with that configuration: `Ok` when the node served, or its only line of complaint.
fn start(config: &NodeConfig) -> Result<(), String> {
    let NodeConfig { node, cluster, cores, pin, listen, data_dir, .. } = config;
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["process::node_process", "--exact", "--nocapture"])
        .env(ENVIRONMENT, format!("{node};{cluster};{cores};{pin};{listen};{}", data_dir.display()))
        .output()
        .expect("this program starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        assert_eq!(stderr, "", "it served, and complains");
        return Ok(());
    }
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    Err(stderr)
}

fn complaint(config: &NodeConfig) -> String {
    start(config).expect_err("it must refuse")
}

#[track_caller]
fn assert_names(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{line:?} should name {word:?}");
    }
}

#[test]
fn a_directory_in_use_by_another_process() {
    let dir = temp_dir();
    let ours = open(config(dir.path())).expect("starts");
    let line = complaint(&config(dir.path()));
    assert_names(&line, &["in use by another node", &dir.path().display().to_string()]);
    ours.shutdown().expect("no core was lost");
    start(&config(dir.path())).expect("free again");
}

#[test]
fn a_directory_of_another_node_or_cluster() {
    let dir = temp_dir();
    start(&config(dir.path())).expect("starts");
    let line = complaint(&NodeConfig { node: NodeId(2), ..config(dir.path()) });
    assert_names(&line, &["belongs to node 1", "this is node 2"]);
    let line = complaint(&NodeConfig { cluster: 7, ..config(dir.path()) });
    assert_names(&line, &["belongs to cluster 1", "this is cluster 7"]);
    start(&config(dir.path())).expect("the refusals changed nothing");
}

#[test]
fn a_directory_in_memory() {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    if !mounts.contains(" /dev/shm tmpfs ") {
        eprintln!("skipped: /dev/shm is no tmpfs here");
        return;
    }
    assert_names(&complaint(&config(Path::new("/dev/shm"))), &["/dev/shm", "in memory (tmpfs)"]);
}

#[test]
fn a_port_in_use() {
    let dir = temp_dir();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let listen = taken.local_addr().expect("bound");
    let line = complaint(&NodeConfig { listen, ..config(dir.path()) });
    assert_names(&line, &["in use", &listen.to_string()]);
}

#[test]
fn more_cores_than_the_machine() {
    let dir = temp_dir();
    let cpus = rustix::thread::sched_getaffinity(None).expect("the CPUs of this thread").count();
    let cores = u16::try_from(cpus + 1).expect("few CPUs");
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 1024));
    let line = complaint(&NodeConfig { cores, pin: true, listen, ..config(dir.path()) });
    assert_names(&line, &[&format!("cores = {cores}"), &format!("{cpus} CPUs")]);
    assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 0, "nothing was made");
}

/// Both copies of a segment's header are gone: nothing in it can be told from rubbish any more.
#[test]
fn a_damaged_log() {
    let dir = temp_dir();
    start(&config(dir.path())).expect("a first start");
    let file = dir.path().join("wal-0/segment-0000000000000001.wal");
    let damaged = OpenOptions::new().read(true).write(true).open(&file).expect("a segment");
    let mut header = [0; 8192];
    damaged.read_exact_at(&mut header, 0).expect("read");
    damaged.write_all_at(&[0xff; 8192], 0).expect("written");
    let line = complaint(&config(dir.path()));
    assert_names(&line, &["segment-0000000000000001.wal", "both copies of the segment header"]);
    damaged.write_all_at(&header, 0).expect("written");
    start(&config(dir.path())).expect("the refusal changed nothing: whole again, it starts");
}
