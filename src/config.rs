//! What a node is told, and what of it can't be.

use raftyard_raft::{NodeId, Settings, SettingsError};
use raftyard_runtime::core::CoreConfig;
use raftyard_runtime::core::port::CoreId;
use raftyard_runtime::driver::address_of_core;
use raftyard_storage::io::{WalId, WriteMode};
use raftyard_storage::wal::{StoreId, WalConfig, WalConfigError};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The configuration of a node. Every field has a default but the three that say who and where it is: [`node`],
/// [`data_dir`] and, in a cluster, [`listen`] and [`peers`].
///
/// [`node`]: NodeConfig::node
/// [`data_dir`]: NodeConfig::data_dir
/// [`listen`]: NodeConfig::listen
/// [`peers`]: NodeConfig::peers
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The cluster. Nodes of another are refused; so is a data directory of another.
    pub cluster: u64,
    /// This node; not zero, and unlike all peers.
    pub node: NodeId,
    /// Where the node keeps its logs. On a filesystem with direct I/O, not in memory. Made if it is missing.
    pub data_dir: PathBuf,
    /// Where the first core listens for other nodes; each further core listens one port higher.
    pub listen: SocketAddr,
    /// Where the first cores of the other nodes listen. An entry for this node itself is ignored.
    pub peers: BTreeMap<NodeId, SocketAddr>,
    /// Cores (threads, logs) of this node, 1 to [`NodeConfig::CORES_MAX`]. Fixed when the data directory is made.
    pub cores: u16,
    /// Whether each core gets a CPU of its own. Off where several nodes share a machine.
    pub pin: bool,
    /// Whether an answer means that the command is on disk.
    pub durability: Durability,
    /// How a batch is made durable. Which is faster depends on machine and load.
    pub write_mode: WriteMode,
    /// Batches of one log being written at once, 1 to 4.
    pub wal_depth: usize,
    /// Bytes of a log's segment file: a multiple of 4096, from 256 KiB to 1 GiB.
    pub segment_bytes: u64,
    /// Bytes after which a batch takes no more.
    pub batch_bytes_max: usize,
    /// Bytes of the largest command.
    pub entry_bytes_max: usize,
    /// Bytes of all log entries that one core keeps in memory. Above it proposals are answered `Overloaded`.
    pub log_bytes_max: usize,
    /// Bytes of one group's entries that are not committed yet. Above it proposals are answered `Overloaded`.
    pub uncommitted_bytes_max: usize,
    /// Commands that may wait for a core. Above it they are answered `Overloaded`.
    pub mailbox_max: usize,
    /// Bytes that may wait to be sent to one core of another node.
    pub send_buffer_bytes_max: usize,
    /// A follower campaigns at the earliest after this much silence.
    pub election_timeout_min: Duration,
    /// A follower campaigns at the latest after this much silence.
    pub election_timeout_max: Duration,
    /// Time between two heartbeats; well below `election_timeout_min`.
    pub heartbeat_interval: Duration,
    /// A proposal that is not applied after this long is answered `Unknown`.
    pub proposal_timeout: Duration,
    /// How long connecting to another node may take.
    pub connect_timeout: Duration,
    /// Whether leaders may answer reads on the strength of a lease ([`ReadMode::Lease`](crate::ReadMode::Lease)), and this
    /// node's replicas keep the promises that leases rest on. Then a node that starts elects nobody for an election
    /// time-out.
    pub leases: bool,
    /// How far any clock of the cluster may run fast or slow against true time, in millionths. Lease reads are as safe as
    /// this is true.
    pub clock_drift_max_ppm: u32,
    /// Reads that may wait on one core to be confirmed. Above it they are answered `Overloaded`.
    pub reads_max: usize,
    /// Bytes of a group's applied entries that its log keeps for peers that lag, about. A log is compacted when it holds
    /// twice as much, and more beyond that than the snapshot takes that has to be written for it.
    pub retain_bytes: u64,
    /// How many of them it keeps at most.
    pub retain_entries: u64,
    /// Snapshots on their way at once, of each core: so many to peers, from peers, and into the log. The others wait.
    pub snapshots_max: usize,
    /// A snapshot that doesn't move for so long is given up, and sent anew.
    pub snapshot_timeout: Duration,
}

/// Whether an answer means that the command is on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It is on the disks of a majority.
    #[default]
    Sync,
    /// It is in the memory of a majority. Nodes that lose power lose what they answered, and may then contradict each
    /// other. For measurements.
    None,
}

/// A value that can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The node has no name.
    #[error("node = 0: node ids start at 1")]
    NodeZero,
    /// A peer has no name.
    #[error("peers: node ids start at 1, not 0")]
    PeerZero,
    /// No place for the logs.
    #[error("data_dir is empty: name a directory")]
    DataDirEmpty,
    /// A number of cores that can't be.
    #[error("cores = {0}: allowed are 1 to {max}", max = NodeConfig::CORES_MAX)]
    Cores(u16),
    /// The last cores would have no port.
    #[error("listen = {listen}: the ports of {cores} cores would go beyond 65535")]
    Ports {
        /// The first core's address.
        listen: SocketAddr,
        /// The number of cores.
        cores: u16,
    },
    /// Several cores can't let the system choose the port.
    #[error("listen = {0}: port 0 is allowed with one core and no peers only")]
    PortZero(SocketAddr),
    /// A count or a number of bytes out of its range.
    #[error("{field} = {value}: allowed are 1 to {max}")]
    Range {
        /// Which.
        field: &'static str,
        /// Its value.
        value: usize,
        /// The highest value.
        max: usize,
    },
    /// A time out of its range.
    #[error("{field} = {value:?}: more than nothing and at most {max:?} is allowed", max = NodeConfig::DURATION_MAX)]
    Duration {
        /// Which.
        field: &'static str,
        /// Its value.
        value: Duration,
    },
    /// A command of the largest size could never pass.
    #[error("{field} = {bytes}: at least {needed} is needed for commands of entry_bytes_max = {entry_bytes_max}")]
    BelowEntry {
        /// Which.
        field: &'static str,
        /// Its value in bytes.
        bytes: usize,
        /// The lowest value in bytes.
        needed: usize,
        /// The largest command in bytes.
        entry_bytes_max: usize,
    },
    /// Followers would campaign against a leader that is well.
    #[error("heartbeat_interval = {interval:?}: at most half of election_timeout_min ({election:?}) is allowed")]
    Heartbeat {
        /// The interval.
        interval: Duration,
        /// The time-out.
        election: Duration,
    },
    /// A setting of the protocol.
    #[error(transparent)]
    Raft(#[from] SettingsError),
    /// A setting of the log.
    #[error(transparent)]
    Wal(#[from] WalConfigError),
}

impl Default for NodeConfig {
    fn default() -> NodeConfig {
        let core = CoreConfig::default();
        let wal = WalConfig::new(WalId(0));
        NodeConfig {
            cluster: 1,
            node: NodeId(0),
            data_dir: PathBuf::new(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            peers: BTreeMap::new(),
            cores: 1,
            pin: true,
            durability: Durability::Sync,
            write_mode: WriteMode::Dsync,
            wal_depth: wal.depth,
            segment_bytes: wal.segment_bytes,
            batch_bytes_max: wal.batch_bytes_max,
            entry_bytes_max: wal.entry_bytes_max,
            log_bytes_max: core.log_bytes_max,
            uncommitted_bytes_max: core.raft.uncommitted_bytes_max,
            mailbox_max: 16 * 1024,
            send_buffer_bytes_max: core.send_buffer_bytes_max,
            election_timeout_min: core.raft.election_timeout_min,
            election_timeout_max: core.raft.election_timeout_max,
            heartbeat_interval: core.heartbeat_interval,
            proposal_timeout: core.proposal_timeout,
            connect_timeout: Duration::from_secs(1),
            leases: core.raft.leases,
            clock_drift_max_ppm: core.raft.clock_drift_max_ppm,
            reads_max: core.reads_max,
            retain_bytes: core.retain_bytes,
            retain_entries: core.retain_entries,
            snapshots_max: core.snapshots_max,
            snapshot_timeout: core.snapshot_timeout,
        }
    }
}

impl NodeConfig {
    /// Most cores of a node.
    pub const CORES_MAX: u16 = 1024;
    /// Most commands that may wait for a core; room for all of them is allocated at the start.
    pub const MAILBOX_MAX: usize = 1 << 20;
    /// Most reads that may wait on one core.
    pub const READS_MAX: usize = 1 << 24;
    /// Highest `retain_bytes` and `retain_entries`.
    pub const RETAIN_MAX: u64 = 1 << 40;
    /// Most snapshots on their way at once.
    pub const SNAPSHOTS_MAX: usize = 1024;
    /// Highest `log_bytes_max` and `uncommitted_bytes_max`: beyond any memory, and sums of them stay far from overflow.
    pub const LOG_BYTES_MAX: usize = 1 << 40;
    /// Highest `send_buffer_bytes_max`: room for the largest command that a log takes, twice.
    pub const SEND_BUFFER_BYTES_MAX: usize = 2 << 30;
    /// What a send buffer must hold beside the largest command: what frames say about it, and small messages.
    pub const SEND_OVERHEAD_BYTES: usize = 64 << 10;
    /// Longest of the times that are no election time-outs.
    pub const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// The same with segments of that many bytes, and the limits of batches and commands lowered until they fit.
    #[must_use]
    pub fn with_segment_bytes(mut self, segment_bytes: u64) -> NodeConfig {
        let wal = self.wal(CoreId(0), false).with_segment_bytes(segment_bytes);
        self.segment_bytes = wal.segment_bytes;
        self.batch_bytes_max = wal.batch_bytes_max;
        self.entry_bytes_max = wal.entry_bytes_max;
        self
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first that can't be, named, with what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_identity()?;
        for (field, value, max) in [
            ("wal_depth", self.wal_depth, WalConfig::DEPTH_MAX),
            ("batch_bytes_max", self.batch_bytes_max, WalConfig::SEGMENT_BYTES_MAX as usize),
            ("entry_bytes_max", self.entry_bytes_max, WalConfig::SEGMENT_BYTES_MAX as usize),
            ("mailbox_max", self.mailbox_max, Self::MAILBOX_MAX),
            ("reads_max", self.reads_max, Self::READS_MAX),
            ("snapshots_max", self.snapshots_max, Self::SNAPSHOTS_MAX),
            ("retain_bytes", clamped(self.retain_bytes), clamped(Self::RETAIN_MAX)),
            ("retain_entries", clamped(self.retain_entries), clamped(Self::RETAIN_MAX)),
            ("log_bytes_max", self.log_bytes_max, Self::LOG_BYTES_MAX),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max, Self::LOG_BYTES_MAX),
            ("send_buffer_bytes_max", self.send_buffer_bytes_max, Self::SEND_BUFFER_BYTES_MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Err(ConfigError::Range { field, value, max });
            }
        }
        for (field, value) in [
            ("heartbeat_interval", self.heartbeat_interval),
            ("proposal_timeout", self.proposal_timeout),
            ("connect_timeout", self.connect_timeout),
            ("snapshot_timeout", self.snapshot_timeout),
        ] {
            if value.is_zero() || value > Self::DURATION_MAX {
                return Err(ConfigError::Duration { field, value });
            }
        }
        self.wal(CoreId(0), false).check()?;
        for (field, bytes, beside) in [
            ("log_bytes_max", self.log_bytes_max, 0),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max, 0),
            // A message that doesn't fit the empty buffer would be dropped for ever.
            ("send_buffer_bytes_max", self.send_buffer_bytes_max, Self::SEND_OVERHEAD_BYTES),
        ] {
            let needed = self.entry_bytes_max + beside;
            if bytes < needed {
                return Err(ConfigError::BelowEntry { field, bytes, needed, entry_bytes_max: self.entry_bytes_max });
            }
        }
        if self.heartbeat_interval > self.election_timeout_min / 2 {
            let (interval, election) = (self.heartbeat_interval, self.election_timeout_min);
            return Err(ConfigError::Heartbeat { interval, election });
        }
        self.raft().validate()?;
        Ok(())
    }

    fn validate_identity(&self) -> Result<(), ConfigError> {
        if self.node.0 == 0 {
            return Err(ConfigError::NodeZero);
        }
        if self.peers.contains_key(&NodeId(0)) {
            return Err(ConfigError::PeerZero);
        }
        if self.data_dir.as_os_str().is_empty() {
            return Err(ConfigError::DataDirEmpty);
        }
        if self.cores == 0 || self.cores > Self::CORES_MAX {
            return Err(ConfigError::Cores(self.cores));
        }
        if self.listen.port() == 0 && (self.cores > 1 || self.others().next().is_some()) {
            return Err(ConfigError::PortZero(self.listen));
        }
        if address_of_core(self.listen, CoreId(self.cores - 1)).is_none() {
            return Err(ConfigError::Ports { listen: self.listen, cores: self.cores });
        }
        Ok(())
    }

    /// The other nodes.
    pub(crate) fn others(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied().filter(|&node| node != self.node)
    }

    fn raft(&self) -> Settings {
        let defaults = Settings::default();
        // What leaves for one peer must fit the send buffer when nothing else waits in it, or a follower that is far
        // behind never catches up.
        let sendable = self.send_buffer_bytes_max.saturating_sub(Self::SEND_OVERHEAD_BYTES).max(1);
        Settings {
            append_bytes_max: defaults.append_bytes_max.min(sendable),
            inflight_bytes_max: defaults.inflight_bytes_max.min(sendable),
            election_timeout_min: self.election_timeout_min,
            election_timeout_max: self.election_timeout_max,
            uncommitted_bytes_max: self.uncommitted_bytes_max,
            leases: self.leases,
            clock_drift_max_ppm: self.clock_drift_max_ppm,
            ..defaults
        }
    }

    /// The configuration of one core.
    pub(crate) fn core(&self, core: CoreId, store: StoreId, boot: u64) -> CoreConfig {
        let defaults = CoreConfig::default();
        CoreConfig {
            cluster: self.cluster,
            node: self.node,
            core,
            cores: self.cores,
            store,
            boot,
            peers: self.others().collect(),
            raft: self.raft(),
            heartbeat_interval: self.heartbeat_interval,
            proposal_timeout: self.proposal_timeout,
            reads_max: self.reads_max,
            retain_bytes: self.retain_bytes,
            retain_entries: self.retain_entries,
            snapshots_max: self.snapshots_max,
            snapshot_timeout: self.snapshot_timeout,
            entry_bytes_max: self.entry_bytes_max,
            log_bytes_max: self.log_bytes_max,
            // Room for the largest command and for what a frame says about it. Only ever above the default, so that
            // nodes whose largest commands differ still read each other's frames up to that.
            frame_bytes_max: defaults.frame_bytes_max.max(self.entry_bytes_max.saturating_mul(2)),
            send_buffer_bytes_max: self.send_buffer_bytes_max,
            ..defaults
        }
    }

    /// The configuration of one core's log.
    pub(crate) fn wal(&self, core: CoreId, initialised: bool) -> WalConfig {
        let defaults = WalConfig::new(WalId(core.0));
        let mode = match self.durability {
            Durability::Sync => self.write_mode,
            Durability::None => WriteMode::Volatile,
        };
        WalConfig {
            initialised,
            segment_bytes: self.segment_bytes,
            batch_bytes_max: self.batch_bytes_max,
            entry_bytes_max: self.entry_bytes_max,
            depth: self.wal_depth,
            mode,
            promise: if self.leases { self.raft().promise_after_restart() } else { Duration::ZERO },
            batch_groups_max: defaults.batch_groups_max.min(WalConfig::batch_groups_max_in(self.segment_bytes)),
            checkpoint_bytes: defaults.checkpoint_bytes.min(self.segment_bytes.saturating_mul(4)),
            zero_chunk_bytes: defaults.zero_chunk_bytes.min(self.segment_bytes),
            ..defaults
        }
    }
}

fn clamped(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> NodeConfig {
        NodeConfig { node: NodeId(1), data_dir: "data".into(), ..NodeConfig::default() }
    }

    #[test]
    fn the_defaults_are_valid() {
        good().validate().expect("valid");
        good().with_segment_bytes(256 << 10).validate().expect("small segments are valid");
    }

    #[test]
    fn an_error_names_the_field_and_the_value() {
        let cases: [(NodeConfig, &str); 19] = [
            (NodeConfig { node: NodeId(0), ..good() }, "node = 0"),
            (NodeConfig { data_dir: PathBuf::new(), ..good() }, "data_dir"),
            (NodeConfig { cores: 0, ..good() }, "cores = 0"),
            (NodeConfig { cores: 2, listen: "127.0.0.1:65535".parse().expect("valid"), ..good() }, "listen = 127"),
            (NodeConfig { cores: 2, ..good() }, "port 0"),
            (NodeConfig { mailbox_max: 0, ..good() }, "mailbox_max = 0"),
            (NodeConfig { mailbox_max: usize::MAX, ..good() }, "mailbox_max = 18446744073709551615: allowed are 1 to"),
            (NodeConfig { log_bytes_max: usize::MAX, ..good() }, "log_bytes_max = 18446744073709551615"),
            (NodeConfig { proposal_timeout: Duration::MAX, ..good() }, "proposal_timeout = 18446744073709551615"),
            (NodeConfig { connect_timeout: Duration::ZERO, ..good() }, "connect_timeout = 0ns"),
            (NodeConfig { send_buffer_bytes_max: good().entry_bytes_max, ..good() }, "send_buffer_bytes_max = 8388608"),
            (NodeConfig { uncommitted_bytes_max: 5, ..good() }, "uncommitted_bytes_max = 5"),
            (NodeConfig { heartbeat_interval: Duration::from_secs(9), ..good() }, "heartbeat_interval = 9s"),
            (NodeConfig { reads_max: 0, ..good() }, "reads_max = 0"),
            (NodeConfig { clock_drift_max_ppm: 500_000, ..good() }, "clock_drift_max_ppm"),
            (NodeConfig { retain_bytes: 0, ..good() }, "retain_bytes = 0"),
            (NodeConfig { snapshots_max: 0, ..good() }, "snapshots_max = 0"),
            (NodeConfig { snapshot_timeout: Duration::ZERO, ..good() }, "snapshot_timeout = 0ns"),
            (NodeConfig { segment_bytes: 5000, ..good() }, "segment_bytes = 5000"),
        ];
        for (config, words) in cases {
            let error = config.validate().expect_err(words).to_string();
            assert!(error.contains(words), "{error:?} should name {words:?}");
        }
    }
    #[test]
    fn no_number_makes_the_check_or_what_follows_from_it_panic() {
        type Set = fn(&mut NodeConfig, u64);
        let set: [(&str, Set); 19] = [
            ("cluster", |c, v| c.cluster = v),
            ("node", |c, v| c.node = NodeId(v)),
            ("cores", |c, v| c.cores = v.min(u64::from(u16::MAX)) as u16),
            ("wal_depth", |c, v| c.wal_depth = v as usize),
            ("segment_bytes", |c, v| c.segment_bytes = v),
            ("batch_bytes_max", |c, v| c.batch_bytes_max = v as usize),
            ("entry_bytes_max", |c, v| c.entry_bytes_max = v as usize),
            ("log_bytes_max", |c, v| c.log_bytes_max = v as usize),
            ("uncommitted_bytes_max", |c, v| c.uncommitted_bytes_max = v as usize),
            ("mailbox_max", |c, v| c.mailbox_max = v as usize),
            ("reads_max", |c, v| c.reads_max = v as usize),
            ("clock_drift_max_ppm", |c, v| c.clock_drift_max_ppm = v.min(u64::from(u32::MAX)) as u32),
            ("send_buffer_bytes_max", |c, v| c.send_buffer_bytes_max = v as usize),
            ("retain_bytes", |c, v| c.retain_bytes = v),
            ("retain_entries", |c, v| c.retain_entries = v),
            ("snapshots_max", |c, v| c.snapshots_max = v as usize),
            ("heartbeat_interval", |c, v| c.heartbeat_interval = Duration::from_secs(v)),
            ("election_timeout_min", |c, v| c.election_timeout_min = Duration::from_secs(v)),
            ("election_timeout_max", |c, v| c.election_timeout_max = Duration::from_secs(v)),
        ];
        for (field, set) in set {
            for value in [0, u64::MAX] {
                let mut config = good();
                set(&mut config, value);
                match config.validate() {
                    Ok(()) => assert!(field == "cluster" || (field == "node" && value > 0), "{field} = {value}"),
                    Err(error) => assert!(error.to_string().contains(field), "{field} = {value}: {error}"),
                }
            }
        }
    }

    #[test]
    fn what_is_sent_at_once_fits_the_smallest_send_buffer() {
        for entry_bytes_max in [1, 5000, 60 << 10] {
            let send_buffer_bytes_max = entry_bytes_max + NodeConfig::SEND_OVERHEAD_BYTES;
            let config = NodeConfig { entry_bytes_max, send_buffer_bytes_max, ..good() };
            config.validate().expect("the smallest that is allowed");
            let core = config.core(CoreId(0), StoreId(1), 1);
            let largest = core.raft.append_bytes_max.max(entry_bytes_max) + NodeConfig::SEND_OVERHEAD_BYTES;
            assert!(largest <= core.send_buffer_bytes_max && largest <= core.frame_bytes_max);
            let one_less = NodeConfig { send_buffer_bytes_max: send_buffer_bytes_max - 1, ..config };
            assert!(matches!(one_less.validate(), Err(ConfigError::BelowEntry { .. })));
        }
    }
}
