//! The nodes under test: one, or three in this process, each with a directory of its own.

use crate::ports;
use crate::value;
use bytes::Bytes;
use raftyard::{
    Commands, Configuration, CreateGroupError, Durability, GroupConfig, GroupHandle, GroupId, LogIndex, Member, Node,
    NodeConfig, NodeId, OpenError, ReplicaId, Responses, StateMachine, WriteMode,
};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Groups with a replica on every node.
const SHARED_GROUPS: u64 = 12;
/// Groups that the first of several nodes holds alone: what they acknowledge is on its disk or nowhere.
const LONE_GROUPS: u64 = 4;

/// How the nodes are started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) durability: Durability,
    pub(crate) segment_bytes: u64,
    pub(crate) write_mode: WriteMode,
    /// Batches being written at once.
    pub(crate) wal_depth: usize,
}

/// What one replica applied, in order: each index, and the number of the value that was found there, `None` where its
/// bytes are not the right ones.
pub(crate) type Sequence = Vec<(LogIndex, Option<u64>)>;

/// All nodes, from node 1 on.
pub(crate) struct Nodes(Vec<OpenNode>);

struct OpenNode {
    node: Node,
    sequences: Sequences,
}

type Sequences = Arc<Mutex<HashMap<GroupId, Arc<Mutex<Sequence>>>>>;

/// Keeps what it applied. It answers a read with the number of commands it has applied.
struct KeepingMachine {
    group: GroupId,
    sequence: Arc<Mutex<Sequence>>,
}

impl StateMachine for KeepingMachine {
    fn apply(&mut self, commands: Commands<'_>, _responses: &mut Responses) {
        let mut sequence = self.sequence.lock().expect("nobody panicked with it");
        sequence.extend(commands.map(|command| (command.index, value::number_of(self.group, command.data))));
    }

    fn read(&mut self, _query: &Bytes) -> Bytes {
        let applied = self.sequence.lock().expect("nobody panicked with it").len() as u64;
        Bytes::copy_from_slice(&applied.to_le_bytes())
    }
}

impl Nodes {
    /// Starts a node in each directory.
    pub(crate) fn open(directories: &[PathBuf], settings: Settings) -> Result<Nodes, OpenError> {
        let addresses = addresses(directories.len());
        let nodes = (1..).map(NodeId).zip(directories).map(|(id, directory)| {
            let sequences = Sequences::default();
            let machines = Arc::clone(&sequences);
            let node = Node::open(config(id, directory, &addresses, settings), move |group| {
                let sequence = Arc::new(Mutex::new(Sequence::new()));
                machines.lock().expect("nobody panicked with it").insert(group, Arc::clone(&sequence));
                KeepingMachine { group, sequence }
            })?;
            Ok(OpenNode { node, sequences })
        });
        Ok(Nodes(nodes.collect::<Result<_, OpenError>>()?))
    }

    /// Creates the groups that don't exist yet.
    pub(crate) fn create_groups(&self) -> Result<(), CreateGroupError> {
        for group in self.groups() {
            let hosts = self.hosts_of(group) as u64;
            let members = (1..=hosts).map(|n| Member { replica: ReplicaId(n), node: NodeId(n) });
            let configuration = Configuration::new(members.collect()).expect("distinct nodes");
            let preferred = group.0 % hosts;
            // The one that campaigns at once comes last: then the others can vote.
            for place in (1..=hosts).map(|n| (preferred + n) % hosts) {
                let preferred_leader = Some(NodeId(preferred + 1));
                let config = GroupConfig { group, configuration: configuration.clone(), preferred_leader };
                match self.0[place as usize].node.create_group(config).wait() {
                    Ok(()) | Err(CreateGroupError::Exists(_)) => {}
                    Err(why) => return Err(why),
                }
            }
        }
        Ok(())
    }

    /// All groups.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        let lone = if self.0.len() == 1 { 0 } else { LONE_GROUPS };
        (1..=SHARED_GROUPS + lone).map(GroupId).collect()
    }

    /// How many nodes have a replica of a group: the first so many.
    pub(crate) fn hosts_of(&self, group: GroupId) -> usize {
        if group.0 <= SHARED_GROUPS { self.0.len() } else { 1 }
    }

    /// A handle of a group on the node at that place.
    pub(crate) fn group(&self, place: usize, group: GroupId) -> GroupHandle {
        self.0[place].node.group(group)
    }

    /// What the node at that place has applied of a group since it started, if it has a replica.
    pub(crate) fn sequence(&self, place: usize, group: GroupId) -> Option<Sequence> {
        let sequences = self.0[place].sequences.lock().expect("nobody panicked with it");
        sequences.get(&group).map(|sequence| sequence.lock().expect("nobody panicked with it").clone())
    }
}

/// None are needed by a node that is alone: the system chooses.
fn addresses(nodes: usize) -> BTreeMap<NodeId, SocketAddr> {
    if nodes == 1 {
        return BTreeMap::new();
    }
    let free = ports::free_runs(nodes as u16, 1, std::process::id()).expect("a few free ports");
    (1..).map(NodeId).zip(free).collect()
}

fn config(node: NodeId, directory: &Path, addresses: &BTreeMap<NodeId, SocketAddr>, settings: Settings) -> NodeConfig {
    let config = NodeConfig {
        node,
        data_dir: directory.to_owned(),
        peers: addresses.clone(),
        pin: false,
        durability: settings.durability,
        write_mode: settings.write_mode,
        wal_depth: settings.wal_depth,
        // Short, so that a round is: correctness doesn't depend on them.
        heartbeat_interval: Duration::from_millis(30),
        election_timeout_min: Duration::from_millis(200),
        election_timeout_max: Duration::from_millis(400),
        proposal_timeout: Duration::from_secs(2),
        ..NodeConfig::default()
    };
    let listen = addresses.get(&node).copied().unwrap_or(config.listen);
    NodeConfig { listen, ..config }.with_segment_bytes(settings.segment_bytes)
}
