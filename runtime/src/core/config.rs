//! What a core is told at its start.

use super::port::CoreId;
use raftyard_raft::{NodeId, Settings};
use raftyard_storage::wal::StoreId;
use std::time::Duration;

/// The settings of one core. The front validates what a user gives; a core asserts it.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// The cluster; nodes of another are refused.
    pub cluster: u64,
    /// This node.
    pub node: NodeId,
    /// This core.
    pub core: CoreId,
    /// How many cores this node has.
    pub cores: u16,
    /// The id of this node's data directory.
    pub store: StoreId,
    /// Random, new at every start of the process.
    pub boot: u64,
    /// The other nodes.
    pub peers: Vec<NodeId>,
    /// Settings of every group's protocol.
    pub raft: Settings,
    /// Time between two heartbeats of a leader.
    pub heartbeat_interval: Duration,
    /// A proposal that is not applied after this long is answered `Unknown`.
    pub proposal_timeout: Duration,
    /// Reads that may wait to be confirmed.
    pub reads_max: usize,
    /// Bytes of the largest command.
    pub entry_bytes_max: usize,
    /// Bytes of all entries a core keeps in memory; above it proposals are answered `Overloaded`.
    pub log_bytes_max: usize,
    /// Bytes of the largest frame; must hold the largest command.
    pub frame_bytes_max: usize,
    /// Bytes that may wait to be sent on one connection; what comes on top is dropped, and repaired by the protocol.
    pub send_buffer_bytes_max: usize,
    /// Bytes of a group's applied entries that its log keeps for peers that lag, about.
    pub retain_bytes: u64,
    /// How many of them it keeps at most. A log is compacted when it holds twice as much as one of the two, and more beyond
    /// that than the snapshot that has to be written for it.
    pub retain_entries: u64,
    /// Snapshots on their way to peers at once, from peers, and into the log: so many of each. The others wait.
    pub snapshots_max: usize,
    /// A snapshot that doesn't move for so long is given up, and sent anew.
    pub snapshot_timeout: Duration,
    /// Groups that may wait to be created.
    pub creations_max: usize,
}

impl Default for CoreConfig {
    fn default() -> Self {
        CoreConfig {
            cluster: 1,
            node: NodeId(1),
            core: CoreId(0),
            cores: 1,
            store: StoreId(0),
            boot: 0,
            peers: Vec::new(),
            raft: Settings::default(),
            heartbeat_interval: Duration::from_millis(100),
            proposal_timeout: Duration::from_secs(5),
            reads_max: 1 << 16,
            entry_bytes_max: 8 << 20,
            log_bytes_max: 1 << 30,
            frame_bytes_max: 16 << 20,
            send_buffer_bytes_max: 64 << 20,
            retain_bytes: 16 << 20,
            retain_entries: 100_000,
            snapshots_max: 2,
            snapshot_timeout: Duration::from_secs(10),
            creations_max: 1 << 20,
        }
    }
}

impl CoreConfig {
    /// For how long this core's replicas keep a promise, as it is told to peers: only if the log was opened with a wait
    /// that outlasts it.
    pub(super) fn promise_nanos(&self) -> u64 {
        let nanos = self.raft.election_timeout_min.as_nanos();
        if self.raft.leases { u64::try_from(nanos).unwrap_or(u64::MAX) } else { 0 }
    }

    /// Bytes a follower's log may take in memory before it takes no more appends: above a leader's limit, so that a
    /// follower never stops a leader that is within its own.
    #[must_use]
    pub const fn follower_log_bytes_max(&self) -> usize {
        self.log_bytes_max.saturating_add(self.log_bytes_max / 4)
    }
}
