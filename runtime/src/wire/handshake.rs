//! What two cores tell each other before anything else. Written by hand, because it must be readable before it is
//! known that both sides agree on anything more.

use super::frame::FrameError;
use crate::core::port::CoreId;
use raftyard_raft::NodeId;
use raftyard_storage::wal::StoreId;

/// What a connection is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// Messages, and answers to snapshots.
    #[default]
    Messages,
    /// Snapshots, which would hold messages up.
    Snapshots,
}

/// The dialling core's introduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Checksum of a sample message as this build lays it out ([`format_descriptor`](super::format_descriptor)).
    pub format: u32,
    /// The cluster it belongs to.
    pub cluster: u64,
    /// Its node.
    pub node: NodeId,
    /// Its core.
    pub core: CoreId,
    /// How many cores its node has.
    pub cores: u16,
    /// The id of its node's data directory.
    pub store: StoreId,
    /// Random, new at every start of its process.
    pub boot: u64,
    /// The node it believes to speak to.
    pub to_node: NodeId,
    /// The core it believes to speak to.
    pub to_core: CoreId,
    /// Bytes of the largest command it may send.
    pub entry_bytes_max: u32,
    /// Bytes of the largest frame it may send.
    pub frame_bytes_max: u32,
    /// For how many nanoseconds its replicas keep the promise in a heartbeat's answer, also over a restart of its
    /// process; zero if they would forget it then.
    pub promise_nanos: u64,
    /// What this connection is for.
    pub purpose: Purpose,
}

/// The accepting core's consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Its node.
    pub node: NodeId,
    /// Its core.
    pub core: CoreId,
    /// How many cores its node has.
    pub cores: u16,
    /// The id of its node's data directory.
    pub store: StoreId,
    /// Random, new at every start of its process.
    pub boot: u64,
}

/// The accepting core's refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another layout of messages.
    #[error("messages are laid out differently there: run the same release, built the same way, on both nodes")]
    Format,
    /// Another cluster.
    #[error("it belongs to cluster {0}: one of the two has a wrong `cluster` or a wrong peer address")]
    Cluster(u64),
    /// Not the node that was called.
    #[error("it is node {0}: a peer address is wrong")]
    Node(NodeId),
    /// Not the core that was called.
    #[error("it is core {0}: a peer address is wrong")]
    Core(u16),
    /// The caller is not among its peers.
    #[error("it does not know this node: add it to its peers")]
    Stranger,
    /// The caller's data directory is not the one known under its node id.
    #[error(
        "it knows this node by another data directory: the directory was emptied or replaced. Put the old directory \
         back, or remove this node from its groups and add it under a new node id; starting empty under the old id \
         could lose acknowledged writes"
    )]
    Store,
    /// The caller may send larger commands than it takes.
    #[error(
        "it takes commands of {0} bytes at most, fewer than this node sends: make `entry_bytes_max` equal everywhere"
    )]
    EntryLimit(u32),
    /// The caller may send larger frames than it takes.
    #[error(
        "it takes frames of {0} bytes at most, fewer than this node sends: make `frame_bytes_max` equal everywhere"
    )]
    FrameLimit(u32),
}

impl Hello {
    /// Appends the bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        put(out, &self.format.to_le_bytes());
        put(out, &self.cluster.to_le_bytes());
        put(out, &self.node.0.to_le_bytes());
        put(out, &self.core.0.to_le_bytes());
        put(out, &self.cores.to_le_bytes());
        put(out, &self.store.0.to_le_bytes());
        put(out, &self.boot.to_le_bytes());
        put(out, &self.to_node.0.to_le_bytes());
        put(out, &self.to_core.0.to_le_bytes());
        put(out, &self.entry_bytes_max.to_le_bytes());
        put(out, &self.frame_bytes_max.to_le_bytes());
        put(out, &self.promise_nanos.to_le_bytes());
        put(out, &[u8::from(self.purpose == Purpose::Snapshots)]);
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// Too few or too many bytes, a node without a core, or an unknown purpose.
    pub fn read(mut bytes: &[u8]) -> Result<Hello, FrameError> {
        let hello = Hello {
            format: u32::from_le_bytes(take(&mut bytes)?),
            cluster: u64::from_le_bytes(take(&mut bytes)?),
            node: NodeId(u64::from_le_bytes(take(&mut bytes)?)),
            core: CoreId(u16::from_le_bytes(take(&mut bytes)?)),
            cores: u16::from_le_bytes(take(&mut bytes)?),
            store: StoreId(u128::from_le_bytes(take(&mut bytes)?)),
            boot: u64::from_le_bytes(take(&mut bytes)?),
            to_node: NodeId(u64::from_le_bytes(take(&mut bytes)?)),
            to_core: CoreId(u16::from_le_bytes(take(&mut bytes)?)),
            entry_bytes_max: u32::from_le_bytes(take(&mut bytes)?),
            frame_bytes_max: u32::from_le_bytes(take(&mut bytes)?),
            promise_nanos: u64::from_le_bytes(take(&mut bytes)?),
            purpose: match take(&mut bytes)? {
                [0] => Purpose::Messages,
                [1] => Purpose::Snapshots,
                _ => return Err(FrameError::Body("a connection for an unknown purpose")),
            },
        };
        end(bytes)?;
        check_cores(hello.core, hello.cores)?;
        Ok(hello)
    }
}

impl Welcome {
    /// Appends the bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        put(out, &self.node.0.to_le_bytes());
        put(out, &self.core.0.to_le_bytes());
        put(out, &self.cores.to_le_bytes());
        put(out, &self.store.0.to_le_bytes());
        put(out, &self.boot.to_le_bytes());
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// Too few or too many bytes, or a node without a core.
    pub fn read(mut bytes: &[u8]) -> Result<Welcome, FrameError> {
        let welcome = Welcome {
            node: NodeId(u64::from_le_bytes(take(&mut bytes)?)),
            core: CoreId(u16::from_le_bytes(take(&mut bytes)?)),
            cores: u16::from_le_bytes(take(&mut bytes)?),
            store: StoreId(u128::from_le_bytes(take(&mut bytes)?)),
            boot: u64::from_le_bytes(take(&mut bytes)?),
        };
        end(bytes)?;
        check_cores(welcome.core, welcome.cores)?;
        Ok(welcome)
    }
}

impl Refusal {
    /// Appends the bytes: a reason and a number.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (reason, value) = match *self {
            Refusal::Format => (1u8, 0),
            Refusal::Cluster(cluster) => (2, cluster),
            Refusal::Node(node) => (3, node.0),
            Refusal::Core(core) => (4, u64::from(core)),
            Refusal::Stranger => (5, 0),
            Refusal::Store => (6, 0),
            Refusal::EntryLimit(bytes) => (7, u64::from(bytes)),
            Refusal::FrameLimit(bytes) => (8, u64::from(bytes)),
        };
        put(out, &[reason]);
        put(out, &value.to_le_bytes());
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// Too few or too many bytes, or an unknown reason.
    pub fn read(mut bytes: &[u8]) -> Result<Refusal, FrameError> {
        let [reason] = take(&mut bytes)?;
        let value = u64::from_le_bytes(take(&mut bytes)?);
        end(bytes)?;
        match reason {
            1 => Ok(Refusal::Format),
            2 => Ok(Refusal::Cluster(value)),
            3 => Ok(Refusal::Node(NodeId(value))),
            4 => Ok(Refusal::Core(value as u16)),
            5 => Ok(Refusal::Stranger),
            6 => Ok(Refusal::Store),
            7 => Ok(Refusal::EntryLimit(value as u32)),
            8 => Ok(Refusal::FrameLimit(value as u32)),
            _ => Err(FrameError::Body("an unknown reason of a refusal")),
        }
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], FrameError> {
    let (head, tail) = bytes.split_first_chunk::<N>().ok_or(FrameError::Body("a handshake is too short"))?;
    *bytes = tail;
    Ok(*head)
}

fn end(bytes: &[u8]) -> Result<(), FrameError> {
    if bytes.is_empty() { Ok(()) } else { Err(FrameError::Body("a handshake is too long")) }
}

fn check_cores(core: CoreId, cores: u16) -> Result<(), FrameError> {
    if core.0 < cores { Ok(()) } else { Err(FrameError::Body("a handshake names a core its node doesn't have")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_bytes_are_those_of_version_3() {
        let (node, core, store) = (NodeId(0x0102), CoreId(0x0304), StoreId(0x05));
        let hello = Hello {
            format: 0x0a0b_0c0d,
            cluster: 0x11,
            node,
            core,
            cores: 0x0607,
            store,
            boot: 0x12,
            to_node: NodeId(0x13),
            to_core: CoreId(0x14),
            entry_bytes_max: 0x15,
            frame_bytes_max: 0x16,
            promise_nanos: 0x17,
            purpose: Purpose::Snapshots,
        };
        let mut bytes = Vec::new();
        hello.write(&mut bytes);
        let expected = "0d0c0b0a 1100000000000000 0201000000000000 0403 0706 05000000000000000000000000000000 \
                        1200000000000000 1300000000000000 1400 15000000 16000000 1700000000000000 01";
        assert_eq!(hex(&bytes), expected.replace(' ', ""));
        bytes.clear();
        Welcome { node, core, cores: 0x0607, store, boot: 0x12 }.write(&mut bytes);
        let expected = "0201000000000000 0403 0706 05000000000000000000000000000000 1200000000000000";
        assert_eq!(hex(&bytes), expected.replace(' ', ""));
        bytes.clear();
        Refusal::Cluster(0x15).write(&mut bytes);
        assert_eq!(hex(&bytes), "021500000000000000");
    }

    #[test]
    fn introductions_come_back_as_sent() {
        let hello = Hello {
            format: 1,
            cluster: 2,
            node: NodeId(3),
            core: CoreId(4),
            cores: 5,
            store: StoreId(6),
            boot: 7,
            to_node: NodeId(8),
            to_core: CoreId(9),
            entry_bytes_max: 10,
            frame_bytes_max: 11,
            promise_nanos: 12,
            purpose: Purpose::Messages,
        };
        let mut bytes = Vec::new();
        hello.write(&mut bytes);
        assert_eq!(Hello::read(&bytes), Ok(hello));
        for cut in 0..bytes.len() {
            assert!(Hello::read(&bytes[..cut]).is_err());
        }
        for refusal in
            [Refusal::Format, Refusal::Cluster(9), Refusal::Node(NodeId(2)), Refusal::Store, Refusal::EntryLimit(5)]
        {
            let mut bytes = Vec::new();
            refusal.write(&mut bytes);
            assert_eq!(Refusal::read(&bytes), Ok(refusal));
        }
    }
}
