//! How often what happened: a fault that is never hit proves nothing.

use std::collections::BTreeMap;

/// Every fault, command and outcome that a campaign must have seen. Disk damage with repair, moves of groups and
/// sessions join when the mechanisms do.
pub const CLASSES: &[&str] = &[
    // Network.
    "frame lost",
    "frame doubled",
    "frame late",
    "bytes corrupted",
    "connection reset",
    "partition one way",
    "partition both ways",
    "slow link",
    "leader ambushed",
    "race for a leadership",
    // Nodes and clocks.
    "power lost",
    "process killed",
    "all nodes down",
    "node paused",
    "clock jumped",
    "disk lost",
    "node back with an empty disk",
    "empty disk refused",
    "lost node replaced",
    // Disks.
    "disk stalled",
    "write failed",
    "sync failed",
    "disk full",
    "log latched",
    "start failed",
    "batch rotten",
    "several batches rotten",
    "replica limited",
    "limited replica whole again",
    "replica with amnesia",
    // The runtime.
    "machine panicked",
    "log compacted",
    "snapshot sent",
    "snapshot installed",
    "snapshot failed",
    "mailbox full",
    "group created",
    "replica joined",
    "group removed",
    "removed replica refused",
    "members changed",
    "change refused",
    "joint change",
    "leader removed",
    "leadership transferred",
    "transfer failed",
    "campaign",
    // Clients.
    "write acknowledged",
    "write unknown",
    "write refused",
    "read by index",
    "read by lease",
    "read on a follower",
    "read failed",
    "client impatient",
];

/// Counters by class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hits(BTreeMap<&'static str, u64>);

impl Hits {
    pub(crate) fn hit(&mut self, class: &'static str) {
        debug_assert!(CLASSES.contains(&class), "{class}");
        *self.0.entry(class).or_default() += 1;
    }

    /// How often a class was hit.
    #[must_use]
    pub fn of(&self, class: &str) -> u64 {
        self.0.get(class).copied().unwrap_or_default()
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Hits) {
        for (class, count) in &other.0 {
            *self.0.entry(class).or_default() += count;
        }
    }

    /// Classes that were never hit.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        CLASSES.iter().copied().filter(|class| self.of(class) == 0).collect()
    }
}
