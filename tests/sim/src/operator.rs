//! The operator: creates groups, changes their members, moves their leaders, and replaces nodes whose disk is lost.
//!
//! It knows everything, as no operator does, and uses that for one thing: never to ask for what nobody could survive, a
//! majority that rests on a lost disk.

use crate::world::{Event, World};
use bytes::Bytes;
use raftyard_raft::{Configuration, GroupId, Instant, Limit, Member, MemberChange, NodeId, Raft, ReplicaId};
use raftyard_runtime::group::{GroupConfig, Joining};
use raftyard_runtime::mail::{CampaignError, ChangeError, Changed, CreateGroupError, Mail, TransferError};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most groups of a world, those of its beginning included.
const GROUPS_MAX: usize = 6;

#[derive(Debug)]
enum Waits {
    Create(oneshot::Receiver<Result<(), CreateGroupError>>),
    Change { joint: bool, leaves: bool, receiver: oneshot::Receiver<Result<Changed, ChangeError>> },
    Transfer(oneshot::Receiver<Result<(), TransferError>>),
    Campaign(oneshot::Receiver<Result<(), CampaignError>>),
}

#[derive(Debug)]
struct Asked {
    node: usize,
    at: Instant,
    waits: Waits,
}

/// What the operator knows of a group.
#[derive(Debug)]
struct Known {
    first: GroupConfig,
    next_replica: u64,
    /// Which replica every node was ever given, by its place.
    hosts: BTreeMap<usize, ReplicaId>,
}

/// The operator's book.
#[derive(Debug, Default)]
pub(crate) struct Operator {
    groups: BTreeMap<GroupId, Known>,
    asked: Vec<Asked>,
}

impl Operator {
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.groups.keys().copied().collect()
    }

    pub(crate) fn any_group(&self, rng: &mut crate::rng::Rng) -> Option<GroupId> {
        rng.pick(&self.groups())
    }

    pub(crate) fn waits(&self) -> bool {
        !self.asked.is_empty()
    }

    pub(crate) fn has_group(&self, node: usize, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|known| known.hosts.contains_key(&node))
    }
}

impl World {
    /// The groups of the beginning.
    pub(crate) fn found_groups(&mut self) {
        for _ in 0..self.shape.groups {
            self.found_group();
        }
    }

    fn found_group(&mut self) {
        let group = GroupId(self.operator.groups.len() as u64 + 1);
        let nodes = self.shape.nodes;
        let members: Vec<Member> =
            (1..=nodes as u64).map(|n| Member { replica: ReplicaId(n), node: NodeId(n) }).collect();
        let hosts = members.iter().map(|member| (member.node.0 as usize - 1, member.replica)).collect();
        let preferred_leader = Some(NodeId(group.0 % nodes as u64 + 1));
        let configuration = Configuration::new(members).expect("one replica a node");
        let first = GroupConfig { group, configuration, preferred_leader };
        self.operator.groups.insert(group, Known { first, next_replica: nodes as u64 + 1, hosts });
        self.tell(|_| format!("group {group} is founded"));
        // Before anybody has heard a leader no promise keeps elections apart.
        if self.rng.chance(25) {
            self.race(group, Duration::from_millis(5));
        }
    }

    /// Gives a node every replica that it should have; those that it has it keeps.
    pub(crate) fn furnish(&mut self, node: usize) {
        for group in self.operator.groups() {
            self.furnish_with(node, group);
        }
    }

    fn furnish_with(&mut self, node: usize, group: GroupId) {
        let known = &self.operator.groups[&group];
        let Some(&replica) = known.hosts.get(&node) else { return };
        if self.nodes[node].core.as_ref().is_none_or(|core| core.replica(group).is_some()) {
            return;
        }
        let (reply, receiver) = oneshot::channel();
        let first = known.first.configuration.seat(replica).is_some();
        let mail = if first {
            Mail::CreateGroup { config: known.first.clone(), reply }
        } else {
            Mail::JoinGroup { joining: Joining { group, replica }, reply }
        };
        self.ask(node, mail, Waits::Create(receiver));
    }

    fn ask(&mut self, node: usize, mail: Mail, waits: Waits) {
        self.mail(node, mail);
        self.operator.asked.push(Asked { node, at: self.now, waits });
    }

    /// Takes what the operator was told.
    pub(crate) fn collect_operator(&mut self) -> Result<(), String> {
        let mut asked = std::mem::take(&mut self.operator.asked);
        let mut late = Ok(());
        asked.retain(|asked| {
            let waits = !self.operator_answered(asked);
            if waits && self.is_overdue(asked.node, asked.at) {
                late = Err(format!("the operator waits at node {} for {:?}", asked.node + 1, asked.waits));
            }
            waits
        });
        self.operator.asked = asked;
        late
    }

    fn operator_answered(&mut self, asked: &Asked) -> bool {
        let node = asked.node + 1;
        match &asked.waits {
            Waits::Create(receiver) => match receiver.try_recv() {
                Err(oneshot::TryRecvError::Empty) => return false,
                Ok(Ok(())) => self.hits.hit("group created"),
                _ => {}
            },
            Waits::Change { joint, leaves, receiver } => match receiver.try_recv() {
                Err(oneshot::TryRecvError::Empty) => return false,
                Ok(Ok(changed)) => {
                    self.tell(|_| format!("members changed at node {node}, index {}", changed.index));
                    self.hits.hit("members changed");
                    if *joint {
                        self.hits.hit("joint change");
                    }
                    if *leaves {
                        self.hits.hit("leader removed");
                    }
                }
                Ok(Err(why)) => {
                    self.tell(|_| format!("members did not change at node {node}: {why}"));
                    self.hits.hit("change refused");
                }
                Err(oneshot::TryRecvError::Disconnected) => {}
            },
            Waits::Transfer(receiver) => match receiver.try_recv() {
                Err(oneshot::TryRecvError::Empty) => return false,
                Ok(Ok(())) => self.hits.hit("leadership transferred"),
                Ok(Err(_)) => self.hits.hit("transfer failed"),
                Err(oneshot::TryRecvError::Disconnected) => {}
            },
            Waits::Campaign(receiver) => match receiver.try_recv() {
                Err(oneshot::TryRecvError::Empty) => return false,
                Ok(Ok(())) => self.hits.hit("campaign"),
                _ => {}
            },
        }
        true
    }

    /// The operator does something, and later something else.
    pub(crate) fn operate(&mut self) {
        if let Some(group) = self.operator.any_group(&mut self.rng) {
            if !self.stormy || self.rng.chance(20) {
                // A replica whose creation was refused or lost is created after all.
                (0..self.nodes.len()).for_each(|node| self.furnish_with(node, group));
            }
            let repairs = self.repair(group);
            if self.stormy && !repairs {
                match self.rng.below(100) {
                    0..20 => self.transfer(group),
                    20..30 => {
                        let node = self.rng.below(self.nodes.len() as u64) as usize;
                        self.campaign(node, group);
                    }
                    30..36 if self.operator.groups.len() < GROUPS_MAX && self.nodes.iter().all(|node| !node.lost) => {
                        self.found_group();
                        (0..self.nodes.len()).for_each(|node| self.furnish(node));
                    }
                    _ => self.change(group),
                }
            }
        }
        let pause = self.rng.micros(20_000, 250_000);
        self.after(pause, Event::Operator);
    }

    fn transfer(&mut self, group: GroupId) {
        let Some((node, _)) = self.leader(group) else { return };
        let to = self.rng.below(self.nodes.len() as u64) as usize;
        self.transfer_to(group, node, to);
    }

    pub(crate) fn transfer_to(&mut self, group: GroupId, node: usize, to: usize) {
        let to = self.nodes[to].id;
        let (reply, receiver) = oneshot::channel();
        self.tell(|_| format!("group {group}: the leader at node {} is asked to hand over to node {to}", node + 1));
        self.ask(node, Mail::TransferLeadership { group, to, reply }, Waits::Transfer(receiver));
    }

    pub(crate) fn campaign(&mut self, node: usize, group: GroupId) {
        let (reply, receiver) = oneshot::channel();
        self.ask(node, Mail::Campaign { group, reply }, Waits::Campaign(receiver));
    }

    /// Brings a group on its feet again: members on lost disks go, members that were never created come. Says whether
    /// there was something to do.
    fn repair(&mut self, group: GroupId) -> bool {
        let Some((_, raft)) = self.leader(group) else { return false };
        let configuration = raft.configuration().clone();
        let mut lost = Vec::new();
        for member in configuration.members() {
            let node = member.node.0 as usize - 1;
            if self.nodes[node].lost || self.has_amnesia(node, group) {
                lost.push(MemberChange::Remove(member.replica));
            } else {
                self.furnish_with(node, group);
            }
        }
        if lost.is_empty() || configuration.is_joint() {
            return false;
        }
        if self.rng.chance(50)
            && let Some(member) = self.newcomer(group)
        {
            lost.push(MemberChange::AddVoter(member));
        }
        self.propose_change(group, lost);
        true
    }

    /// Some change, or several in one step.
    fn change(&mut self, group: GroupId) {
        let Some((_, raft)) = self.leader(group) else { return };
        let configuration = raft.configuration().clone();
        let mut changes = Vec::new();
        for _ in 0..if self.rng.chance(60) { 1 } else { 1 + self.rng.below(3) } {
            let members: Vec<ReplicaId> = configuration.members().iter().map(|member| member.replica).collect();
            let Some(replica) = self.rng.pick(&members) else { return };
            let new = self.rng.chance(40);
            let change = match (new, configuration.is_learner(replica)) {
                (true, _) => match self.newcomer(group) {
                    Some(member) if self.rng.chance(50) => MemberChange::AddVoter(member),
                    Some(member) => MemberChange::AddLearner(member),
                    None => continue,
                },
                (false, true) if self.rng.chance(70) => MemberChange::Promote(replica),
                (false, false) if self.rng.chance(40) => MemberChange::Demote(replica),
                _ => MemberChange::Remove(replica),
            };
            changes.push(change);
        }
        self.propose_change(group, changes);
    }

    /// A replica for a node that never had one of this group; it is created now, or only when it is a member.
    fn newcomer(&mut self, group: GroupId) -> Option<Member> {
        let free: Vec<usize> = (0..self.nodes.len())
            .filter(|&node| !self.nodes[node].lost && !self.operator.has_group(node, group))
            .collect();
        let node = self.rng.pick(&free)?;
        let known = self.operator.groups.get_mut(&group)?;
        let replica = ReplicaId(known.next_replica);
        known.next_replica += 1;
        known.hosts.insert(node, replica);
        self.hits.hit("replica joined");
        if self.rng.chance(60) {
            self.furnish_with(node, group);
        }
        Some(Member { replica, node: NodeId(node as u64 + 1) })
    }

    fn propose_change(&mut self, group: GroupId, changes: Vec<MemberChange>) {
        let Some((node, raft)) = self.leader(group) else { return };
        let (leader, before) = (raft.replica(), raft.configuration().clone());
        if before.is_joint() && self.rng.chance(90) {
            return;
        }
        let after = if before.is_joint() { None } else { before.changed(&changes).ok() };
        if after.as_ref().is_some_and(|after| !self.survives(after, None)) {
            return;
        }
        let joint = after.as_ref().is_some_and(Configuration::is_joint);
        let leaves = after.as_ref().is_some_and(|after| !after.keeps_vote(leader));
        let (reply, receiver) = oneshot::channel();
        self.tell(|_| format!("group {group}: node {} is asked for {changes:?}", node + 1));
        let mail = Mail::ChangeMembership { group, changes, context: Bytes::from_static(b"operator"), reply };
        self.ask(node, mail, Waits::Change { joint, leaves, receiver });
    }

    /// Whether a node's replica knows nothing of what it held.
    fn has_amnesia(&self, node: usize, group: GroupId) -> bool {
        let replica = self.nodes[node].core.as_ref().and_then(|core| core.replica(group));
        replica.is_some_and(|raft| raft.limit() == Limit::Amnesia)
    }

    /// Whether the nodes whose disks are whole are a majority, also without `lost`.
    fn survives(&self, configuration: &Configuration, lost: Option<usize>) -> bool {
        let whole = |replica| {
            let node = configuration.node_of(replica).map(|node| node.0 as usize - 1);
            node.is_some_and(|node| Some(node) != lost && !self.nodes[node].lost && !self.nodes[node].rotten)
        };
        configuration.has_quorum(whole)
    }

    /// Whether every group survives the loss of a node's disk, as any of its replicas sees its members.
    pub(crate) fn can_lose(&self, lost: usize) -> bool {
        let survives = |raft: &Raft| {
            let configuration = raft.configuration();
            configuration.is_empty() || self.survives(configuration, Some(lost))
        };
        // Of a node that is down nobody knows what its replicas see.
        let all_up = self.nodes.iter().all(|node| node.core.is_some() && node.ailing.is_empty());
        // A change that is still asked for can take effect after this.
        let settled = !self.operator.asked.iter().any(|asked| matches!(asked.waits, Waits::Change { .. }));
        all_up
            && settled
            && self.operator.groups().into_iter().all(|group| self.replicas(group).all(|(_, raft)| survives(raft)))
    }
}
