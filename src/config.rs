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
    /// A limit that lets nothing through.
    #[error("{field} = 0: at least 1 is needed")]
    Zero {
        /// Which.
        field: &'static str,
    },
    /// A command could be larger than all that may be in the log.
    #[error("{field} = {bytes}: at least entry_bytes_max ({entry_bytes_max}) is needed")]
    BelowEntry {
        /// Which.
        field: &'static str,
        /// Its value in bytes.
        bytes: usize,
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
        }
    }
}

impl NodeConfig {
    /// Most cores of a node.
    pub const CORES_MAX: u16 = 1024;

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
        for (field, value) in [("mailbox_max", self.mailbox_max), ("log_bytes_max", self.log_bytes_max)] {
            if value == 0 {
                return Err(ConfigError::Zero { field });
            }
        }
        for (field, duration) in [
            ("heartbeat_interval", self.heartbeat_interval),
            ("proposal_timeout", self.proposal_timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if duration.is_zero() {
                return Err(ConfigError::Zero { field });
            }
        }
        for (field, bytes) in [
            ("log_bytes_max", self.log_bytes_max),
            ("uncommitted_bytes_max", self.uncommitted_bytes_max),
            ("send_buffer_bytes_max", self.send_buffer_bytes_max),
        ] {
            if bytes < self.entry_bytes_max {
                return Err(ConfigError::BelowEntry { field, bytes, entry_bytes_max: self.entry_bytes_max });
            }
        }
        if self.heartbeat_interval > self.election_timeout_min / 2 {
            let (interval, election) = (self.heartbeat_interval, self.election_timeout_min);
            return Err(ConfigError::Heartbeat { interval, election });
        }
        self.raft().validate()?;
        self.wal(CoreId(0), false).check()?;
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
        Settings {
            election_timeout_min: self.election_timeout_min,
            election_timeout_max: self.election_timeout_max,
            uncommitted_bytes_max: self.uncommitted_bytes_max,
            ..Settings::default()
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
            entry_bytes_max: self.entry_bytes_max,
            log_bytes_max: self.log_bytes_max,
            // Room for the largest command and for what a frame says about it.
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
            zero_chunk_bytes: defaults.zero_chunk_bytes.min(self.segment_bytes),
            ..defaults
        }
    }
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
        let cases: [(NodeConfig, &str); 9] = [
            (NodeConfig { node: NodeId(0), ..good() }, "node = 0"),
            (NodeConfig { data_dir: PathBuf::new(), ..good() }, "data_dir"),
            (NodeConfig { cores: 0, ..good() }, "cores = 0"),
            (NodeConfig { cores: 2, listen: "127.0.0.1:65535".parse().expect("valid"), ..good() }, "listen = 127"),
            (NodeConfig { cores: 2, ..good() }, "port 0"),
            (NodeConfig { mailbox_max: 0, ..good() }, "mailbox_max = 0"),
            (NodeConfig { uncommitted_bytes_max: 5, ..good() }, "uncommitted_bytes_max = 5"),
            (NodeConfig { heartbeat_interval: Duration::from_secs(9), ..good() }, "heartbeat_interval = 9s"),
            (NodeConfig { segment_bytes: 5000, ..good() }, "segment_bytes = 5000"),
        ];
        for (config, words) in cases {
            let error = config.validate().expect_err(words).to_string();
            assert!(error.contains(words), "{error:?} should name {words:?}");
        }
    }
}
