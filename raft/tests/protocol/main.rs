//! Groups of replicas in one process, on disks and a network that do what the test says, with the promises of Raft
//! checked after every step.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod clock;
mod cluster;
mod commands;
#[path = "../shared/dice.rs"]
mod dice;
mod disk;
mod hostile;
mod invariants;
mod leases;
mod limits;
mod packet;
mod pages;
mod random;
mod receipts;
mod scenario;
mod show;
mod stage;
