//! What a node refuses at its start, and in which words.

use crate::{config, open, temp_dir};
use raftyard::{ConfigError, NodeConfig, NodeId, OpenError, PreflightError, StartError};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

#[test]
fn a_directory_in_use() {
    let dir = temp_dir();
    let _first = open(config(dir.path())).expect("the first starts");
    let error = open(config(dir.path())).expect_err("the second is refused");
    assert!(matches!(error, OpenError::Preflight(PreflightError::InUse { .. })), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
}

#[test]
fn a_directory_is_free_again_after_a_shutdown() {
    let dir = temp_dir();
    for _ in 0..3 {
        open(config(dir.path())).expect("starts").shutdown().expect("no core was lost");
    }
}

#[test]
fn a_directory_of_another_node_or_cluster_or_number_of_cores() {
    let dir = temp_dir();
    drop(open(config(dir.path())).expect("starts"));
    let other = NodeConfig { node: NodeId(2), ..config(dir.path()) };
    let error = open(other).expect_err("another node");
    assert!(matches!(error, OpenError::OtherNode { found: NodeId(1), expected: NodeId(2), .. }), "{error}");
    let other = NodeConfig { cluster: 7, ..config(dir.path()) };
    let error = open(other).expect_err("another cluster");
    assert!(matches!(error, OpenError::OtherCluster { expected: 7, .. }), "{error}");
    let listen = (Ipv4Addr::LOCALHOST, 1024).into();
    let error = open(NodeConfig { cores: 2, listen, ..config(dir.path()) }).expect_err("another number of cores");
    assert!(matches!(error, OpenError::OtherCores { found: 1, expected: 2, .. }), "{error}");
}

#[test]
fn a_directory_in_memory() {
    // Only looked at, never written: the refusal comes before the lock file.
    let shm = Path::new("/dev/shm");
    let is_tmpfs = std::fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains(" /dev/shm tmpfs "));
    if !is_tmpfs {
        eprintln!("skipped: /dev/shm is no tmpfs here");
        return;
    }
    let error = open(config(shm)).expect_err("nothing is durable there");
    assert!(matches!(error, OpenError::Preflight(PreflightError::InMemory { filesystem: "tmpfs", .. })), "{error}");
}

#[test]
fn a_port_in_use() {
    let dir = temp_dir();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = taken.local_addr().expect("bound");
    let error = open(NodeConfig { listen: address, ..config(dir.path()) }).expect_err("the port is taken");
    assert!(matches!(error, OpenError::Core(StartError::PortInUse { address: named }) if named == address), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    drop(taken);
    // The failed start left nothing behind that would keep the next from starting.
    open(NodeConfig { listen: address, ..config(dir.path()) }).expect("starts when the port is free");
}

#[test]
fn more_cores_than_the_machine() {
    let dir = temp_dir();
    let listen = (Ipv4Addr::LOCALHOST, 1024).into();
    let cpus = rustix::thread::sched_getaffinity(None).expect("the CPUs of this thread").count();
    let cores = u16::try_from(cpus + 1).expect("few CPUs");
    // One too many, and so many that too little memory may be locked for them as well: the CPUs are what to name.
    for cores in [cores, NodeConfig::CORES_MAX] {
        let error = open(NodeConfig { cores, pin: true, listen, ..config(dir.path()) }).expect_err("too many");
        let refused = PreflightError::Cores { cores, cpus: cpus as usize };
        assert_eq!(error.to_string(), refused.to_string());
        assert!(matches!(error, OpenError::Preflight(PreflightError::Cores { .. })), "{error}");
    }
}

#[test]
fn a_value_that_cannot_be() {
    let dir = temp_dir();
    for value in [0, usize::MAX] {
        let error = open(NodeConfig { mailbox_max: value, ..config(dir.path()) }).expect_err("no such mailbox");
        assert!(matches!(error, OpenError::Config(ConfigError::Range { field: "mailbox_max", .. })), "{error}");
    }
}
