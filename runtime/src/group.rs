//! A group as its users see it: how it is created, how it fares, and the machine it feeds.

use bytes::Bytes;
use raftyard_raft::{Base, Configuration, Entries, EntryKind, GroupId, LogIndex, NodeId, ReplicaId, Term};
use std::io;
use std::sync::Arc;

/// A group to create. Every member's node must be given the same configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// The group's id; the same on all nodes.
    pub group: GroupId,
    /// Its members.
    pub configuration: Configuration,
    /// The node that campaigns at once, so that a thousand fresh groups don't wait an election time-out or storm.
    /// Only a hint: any member can lead. `None`: whoever times out first.
    pub preferred_leader: Option<NodeId>,
}

/// A replica of a group that exists elsewhere, to be created on this node. It knows no member and does nothing by itself;
/// whoever leads the group speaks to it as soon as a change of members has added it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joining {
    /// The group's id.
    pub group: GroupId,
    /// The replica's id: above every id that the group ever had.
    pub replica: ReplicaId,
}

/// What a replica is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RoleName {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Runs for leader.
    Candidate,
    /// Leads.
    Leader,
    /// Stopped on this node, with a reason in the node's log.
    Failed,
}

/// How this node's replica of a group fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// The group.
    pub group: GroupId,
    /// This node's replica.
    pub replica: ReplicaId,
    /// What it is.
    pub role: RoleName,
    /// Its term.
    pub term: Term,
    /// The node that leads, if known.
    pub leader: Option<NodeId>,
    /// The group's members, by the last entry here that says so, committed or not.
    pub configuration: Arc<Configuration>,
    /// Index of that entry; zero for the initial members.
    pub configuration_index: LogIndex,
    /// Index of its last entry.
    pub last_index: LogIndex,
    /// Highest index durable on this node.
    pub durable_index: LogIndex,
    /// Highest index known to be committed.
    pub commit_index: LogIndex,
    /// Highest index applied to the state machine.
    pub applied_index: LogIndex,
}

/// The application's part of a group. It runs on the group's core and must not block: a machine that blocks stops
/// every group of its core.
pub trait StateMachine {
    /// What a machine with a disk of its own holds durably: up to which position of the log, and who the members were
    /// there. It may be ahead of the log, and behind what was applied; what is missing is applied to it again, so a command
    /// above this position may come twice over a restart. Of a new machine: the position zero.
    ///
    /// `None`: a machine in memory. It is fed the log again after a restart; once the log is compacted, first the
    /// snapshot of it that the log keeps.
    fn durable(&self) -> Option<Base> {
        None
    }

    /// Applies committed commands, in order, each exactly once. Push one response a command; missing ones are empty.
    fn apply(&mut self, commands: Commands<'_>, responses: &mut Responses);

    /// Answers a query without changing anything ([`read`](crate::mail::Mail::Read)). A machine that answers none returns
    /// nothing.
    fn read(&mut self, query: &Bytes) -> Bytes {
        let _ = query;
        Bytes::new()
    }

    /// The members changed, at this place among the commands. `context` is what the change was proposed with.
    fn apply_membership(&mut self, index: LogIndex, configuration: &Configuration, context: &Bytes) {
        let _ = (index, configuration, context);
    }

    /// A consistent picture of what the machine holds now, to be read piece by piece while the machine goes on. `None`:
    /// it has none to give; then its log is never compacted, and no peer that lacks compacted entries gets help from it.
    fn snapshot(&mut self) -> Option<Box<dyn SnapshotSource>> {
        None
    }

    /// A staging place for the snapshot of another machine of this group, which will take this one's place as a whole.
    /// This machine goes on meanwhile. `None`: it takes none; then this replica can't be helped when it lacks entries
    /// that the others have compacted.
    fn restore(&mut self) -> Option<Box<dyn SnapshotSink>> {
        None
    }
}

/// A picture of a state machine. An error or a panic stops the group on this node.
pub trait SnapshotSource {
    /// The next piece, best of about `bytes_max` bytes; `None` when there is no more. Called until then.
    ///
    /// # Errors
    /// The picture can't be read.
    fn next(&mut self, bytes_max: usize) -> io::Result<Option<Bytes>>;
}

/// Where a snapshot is put together. Dropped before it is finished, it leaves no trace. An error or a panic stops the group
/// on this node.
pub trait SnapshotSink {
    /// Takes the next piece. Pieces are cut anywhere, not where the source cut them.
    ///
    /// # Errors
    /// It can't be taken.
    fn write(&mut self, piece: &[u8]) -> io::Result<()>;

    /// Every piece came: makes the machine that holds them. It takes the old one's place, which is dropped. A machine
    /// with a disk of its own is durable, with `base`, when this returns: [`StateMachine::durable`] says so from then on.
    ///
    /// # Errors
    /// No machine can be made of it.
    fn finish(self: Box<Self>, base: &Base) -> io::Result<Box<dyn StateMachine>>;
}

/// Makes the state machine of a group: when it is created, and again at every start for each group found in the log.
/// Called on the group's core, so the machine itself need not be `Send`.
pub trait StateMachineFactory: Send + Sync {
    /// The machine of `group`.
    fn open(&self, group: GroupId) -> Box<dyn StateMachine>;
}

impl<F, M> StateMachineFactory for F
where
    F: Fn(GroupId) -> M + Send + Sync,
    M: StateMachine + 'static,
{
    fn open(&self, group: GroupId) -> Box<dyn StateMachine> {
        Box::new(self(group))
    }
}

/// One committed command.
#[derive(Clone, Copy, Debug)]
pub struct Command<'a> {
    /// Its place in the log.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// The bytes proposed. Cloning shares them.
    pub data: &'a Bytes,
}

/// Committed commands in order.
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    entries: std::iter::Chain<std::slice::Iter<'a, raftyard_raft::Entry>, std::slice::Iter<'a, raftyard_raft::Entry>>,
}

impl<'a> Commands<'a> {
    pub(crate) fn new(entries: Entries<'a>) -> Commands<'a> {
        Commands { entries: entries.0.iter().chain(entries.1.iter()) }
    }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Command<'a>;

    fn next(&mut self) -> Option<Command<'a>> {
        let entry = self.entries.find(|e| e.kind == EntryKind::Command)?;
        Some(Command { index: entry.index, term: entry.term, data: &entry.data })
    }
}

/// The responses to one batch of commands, in their order.
#[derive(Debug, Default)]
pub struct Responses {
    responses: Vec<Bytes>,
}

impl Responses {
    /// The response to the next command.
    pub fn push(&mut self, response: Bytes) {
        self.responses.push(response);
    }

    /// Gives the commands before the `count`-th an empty response where they have none.
    pub(crate) fn fill_up(&mut self, count: usize) {
        self.responses.resize(count, Bytes::new());
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Bytes> + '_ {
        self.responses.drain(..)
    }
}
