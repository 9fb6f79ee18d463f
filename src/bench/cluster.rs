//! The cluster under test: all its nodes in this process, on loopback sockets and real files.

use super::data_dir::DataDir;
use super::ledger::Ledger;
use super::options::{BenchArgs, DurabilityArg};
use super::ports;
use crate::cli::interrupt::Interrupt;
use crate::cli::progress::Progress;
use raftyard::{
    Configuration, CoreLost, CreateGroupError, Durability, GroupConfig, GroupHandle, GroupId, Member, Node, NodeConfig,
    NodeId, OpenError, ReplicaId,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Creations and status questions under way at a time: enough to fill a core's batches, below any mailbox.
const UNDER_WAY_MAX: usize = 256;
/// How long groups may take to elect, beyond which something is wrong.
const LEADERS_WITHIN: Duration = Duration::from_secs(60);
/// Pause between two looks at groups that have no leader yet, or replicas that are behind.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The nodes, and a handle to every replica.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    groups: u32,
    /// By node, then by group.
    handles: Vec<GroupHandle>,
}

/// Why a cluster doesn't serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// No run of free ports.
    #[error("no free ports on 127.0.0.1: {0}")]
    Ports(std::io::Error),
    /// A node refused to start.
    #[error("node {node} does not start: {source}")]
    Open {
        /// Which.
        node: NodeId,
        /// Why.
        source: OpenError,
    },
    /// A group was not created.
    #[error("group {group} was not created on node {node}: {source}")]
    Create {
        /// Which group.
        group: GroupId,
        /// Where.
        node: NodeId,
        /// Why.
        source: CreateGroupError,
    },
    /// Groups without a leader.
    #[error("{leaderless} of {groups} groups have no leader after {} s", LEADERS_WITHIN.as_secs())]
    NoLeader {
        /// How many have none.
        leaderless: usize,
        /// Of how many.
        groups: u32,
    },
    /// A node lost a core.
    #[error("node {node}: {source}")]
    CoreLost {
        /// Which.
        node: NodeId,
        /// What was lost.
        source: CoreLost,
    },
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
}

impl Cluster {
    /// Opens all nodes of a fresh cluster, one after the other.
    pub(super) fn open(
        args: &BenchArgs,
        pin: bool,
        data: &DataDir,
        ledger: &Arc<Ledger>,
        interrupt: &Interrupt,
    ) -> Result<Cluster, ClusterError> {
        let cpus = raftyard_runtime::driver::cpus();
        let listen =
            ports::free_runs(args.nodes, args.cores_per_node, std::process::id()).map_err(ClusterError::Ports)?;
        let addresses = (1..).map(NodeId).zip(listen).collect::<std::collections::BTreeMap<_, _>>();
        let mut nodes = Vec::with_capacity(addresses.len());
        for (&node, &listen) in &addresses {
            if interrupt.is_set() {
                return Err(ClusterError::Interrupted);
            }
            let config = NodeConfig {
                node,
                cluster: args.seed,
                data_dir: data.of_node(node.0),
                listen,
                peers: addresses.iter().filter(|(peer, _)| **peer != node).map(|(p, a)| (*p, *a)).collect(),
                cores: args.cores_per_node,
                pin,
                durability: match args.durability {
                    DurabilityArg::Sync => Durability::Sync,
                    DurabilityArg::None => Durability::None,
                },
                ..NodeConfig::default()
            };
            let first = (node.0 as usize - 1) * usize::from(args.cores_per_node);
            let cpus = pin.then(|| &cpus[first..first + usize::from(args.cores_per_node)]);
            nodes.push(
                open_node(config, cpus, Arc::clone(ledger)).map_err(|source| ClusterError::Open { node, source })?,
            );
        }
        let groups = (1..=u64::from(args.groups)).map(GroupId);
        let handles = nodes.iter().flat_map(|node| groups.clone().map(|group| node.group(group))).collect();
        Ok(Cluster { nodes, groups: args.groups, handles })
    }

    /// Creates every group on every node. The preferred leaders, spread evenly, come last: they campaign at once, and
    /// then everybody who can vote is there.
    pub(super) fn create_groups(&self, progress: &mut Progress, interrupt: &Interrupt) -> Result<(), ClusterError> {
        let nodes = self.nodes.len();
        progress.phase("creating groups", self.groups as u64 * nodes as u64);
        let mut under_way = VecDeque::new();
        let mut done = 0;
        let order = (0..nodes).rev().flat_map(|distance| (0..self.groups).map(move |group| (group, distance)));
        for (group, distance) in order {
            if interrupt.is_set() {
                return Err(ClusterError::Interrupted);
            }
            let node = (usize::from(self.preferred(group)) + distance) % nodes;
            if under_way.len() == UNDER_WAY_MAX {
                self.finish_creation(under_way.pop_front())?;
                done += 1;
            }
            under_way.push_back((group, node, self.nodes[node].create_group(self.config_of(group))));
            let now = Instant::now();
            if progress.is_due(now) {
                progress.draw(now, done, format!("{done}"));
            }
        }
        while !under_way.is_empty() {
            self.finish_creation(under_way.pop_front())?;
        }
        Ok(())
    }

    fn finish_creation(&self, creation: Option<(u32, usize, raftyard::CreateGroup)>) -> Result<(), ClusterError> {
        let Some((group, node, creation)) = creation else { return Ok(()) };
        let mut result = creation.wait();
        while matches!(result, Err(CreateGroupError::Overloaded)) {
            std::thread::sleep(LOOK_AGAIN);
            result = self.nodes[node].create_group(self.config_of(group)).wait();
        }
        let (group, node) = (GroupId(u64::from(group) + 1), NodeId(node as u64 + 1));
        result.map_err(|source| ClusterError::Create { group, node, source })
    }

    fn preferred(&self, group: u32) -> u16 {
        (group as usize % self.nodes.len()) as u16
    }

    fn config_of(&self, group: u32) -> GroupConfig {
        let member = |n| Member { replica: ReplicaId(n), node: NodeId(n) };
        let voters = (1..=self.nodes.len() as u64).map(member).collect();
        GroupConfig {
            group: GroupId(u64::from(group) + 1),
            configuration: Configuration::new(voters).expect("distinct nodes, fewer than a group may have"),
            preferred_leader: Some(NodeId(u64::from(self.preferred(group)) + 1)),
        }
    }

    /// Waits until every group has a leader; who it is, by group, counted from 0.
    pub(super) fn wait_for_leaders(
        &self,
        progress: &mut Progress,
        interrupt: &Interrupt,
    ) -> Result<Vec<u16>, ClusterError> {
        progress.phase("waiting for leaders", u64::from(self.groups));
        let began = Instant::now();
        let mut leaders = vec![None; self.groups as usize];
        loop {
            let leaderless = (0..self.groups).filter(|group| leaders[*group as usize].is_none()).collect::<Vec<_>>();
            for groups in leaderless.chunks(UNDER_WAY_MAX) {
                let asked = groups.iter().map(|group| self.handle(self.preferred(*group), *group).status());
                for (group, status) in groups.iter().zip(asked.collect::<Vec<_>>()) {
                    leaders[*group as usize] = status.wait().ok().and_then(|s| s.leader).map(|n| (n.0 - 1) as u16);
                }
            }
            let known = leaders.iter().flatten().count();
            let now = Instant::now();
            progress.draw(now, known as u64, format!("{known}"));
            if let Some(leaders) = leaders.iter().copied().collect() {
                return Ok(leaders);
            }
            if interrupt.is_set() {
                return Err(ClusterError::Interrupted);
            }
            if now.duration_since(began) > LEADERS_WITHIN {
                return Err(ClusterError::NoLeader { leaderless: leaders.len() - known, groups: self.groups });
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The replica of a group on a node, both counted from 0.
    pub(super) fn handle(&self, node: u16, group: u32) -> &GroupHandle {
        &self.handles[usize::from(node) * self.groups as usize + group as usize]
    }

    /// Waits until all replicas have applied equally much, at most `within`. What they applied is for the verification
    /// to judge.
    pub(super) fn wait_for_replicas(ledger: &Ledger, within: Duration, interrupt: &Interrupt) {
        let began = Instant::now();
        while !ledger.has_converged() && began.elapsed() < within && !interrupt.is_set() {
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Ends all nodes, in order: no proposal is under way any more.
    pub(super) fn shutdown(self) -> Result<(), ClusterError> {
        for node in self.nodes {
            let id = node.id();
            node.shutdown().map_err(|source| ClusterError::CoreLost { node: id, source })?;
        }
        Ok(())
    }
}

/// Opens one node, pinned to its own CPUs: a node takes the first ones that the thread opening it may run on, which
/// would be the same for all nodes of this process.
fn open_node(config: NodeConfig, cpus: Option<&[usize]>, ledger: Arc<Ledger>) -> Result<Node, OpenError> {
    let node = config.node;
    let open = || {
        if let Some(cpus) = cpus {
            let mut set = rustix::thread::CpuSet::new();
            cpus.iter().for_each(|cpu| set.set(*cpu));
            // Where it is refused the nodes share CPUs: slower, and still right.
            let _ = rustix::thread::sched_setaffinity(None, &set);
        }
        Node::open(config, move |group| ledger.machine(node, group))
    };
    std::thread::scope(|scope| scope.spawn(open).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
