//! Groups of replicas in one process, on disks and a network that do what the test says, with the promises of Raft
//! checked after every step.

mod cluster;
mod hostile;
mod invariants;
mod packet;
mod random;
mod scenario;
