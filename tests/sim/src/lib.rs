//! The simulator: whole nodes - the shipped core, log, wire and mailbox - in one thread, on simulated disks, clocks and a
//! simulated network, driven by one seed.
//!
//! [`run`] lives through one schedule: a storm of faults and load, then calm, in which everything must come right. After
//! every step the promises are checked, at the end what all clients saw. The same seed gives the same schedule: its trace
//! has the same hash. `raftyard-sim sim --seeds A..B` runs many.

mod checks;
mod clients;
mod faults;
mod hits;
pub mod linear;
mod machine;
mod net;
mod node;
mod operator;
mod rng;
mod rot;
mod schedule;
mod tell;
mod traffic;
mod world;

pub use hits::{CLASSES, Hits};
pub use schedule::{Report, Violation, run};
