//! kill -9 for real nodes: three processes with real disks and sockets, load from this one, and SIGKILL for each in
//! turn, for two, and for all three; and for all during the first start of fresh directories. After every round
//! everything serves again, all replicas hold the same, and no acknowledged operation is lost or doubled.
//!
//! `RAFTYARD_KILL_ROUNDS` sets the number of rounds (scripts/kill.sh). The node processes are this very test program,
//! started again with [`node::ENVIRONMENT`] set.

mod campaign;
mod cluster;
mod connection;
mod load;
mod node;
#[path = "../../src/bench/ports.rs"]
mod ports;
#[path = "../../src/bench/random.rs"]
mod random;
#[path = "../../src/bench/verify.rs"]
mod verify;

/// Rounds where nobody says otherwise: enough for every kind of kill, short enough for every change.
const ROUNDS: u32 = 20;

/// Not a test: the node of the processes that the tests start. Run as a test by itself it does nothing.
#[test]
fn node_process() {
    if let Some(settings) = node::Settings::from_environment() {
        node::run(settings);
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_processes_are_killed() {
    let rounds = std::env::var("RAFTYARD_KILL_ROUNDS").ok().map_or(ROUNDS, |rounds| {
        rounds.parse().unwrap_or_else(|_| panic!("RAFTYARD_KILL_ROUNDS={rounds} is not a number"))
    });
    campaign::run(rounds);
}

#[test]
fn a_node_whose_directory_was_emptied_is_refused() {
    campaign::empty_a_directory();
}
