//! Commands to a core from other threads, and the answers they wait for.

use crate::group::{GroupConfig, GroupStatus, Joining};
use bytes::Bytes;
use raftyard_raft::{
    ConfigurationError, GroupId, LogIndex, Member, MemberChange, NodeId, ReplicaId, RestoreError, Term,
};

/// Where an answer goes: the sending half of a one-shot channel. Dropped without an answer, it tells the waiting side
/// that the core is gone.
pub type Reply<T> = oneshot::Sender<T>;

/// A command to a core.
#[derive(Debug)]
pub enum Mail {
    /// Replicate a command.
    Propose {
        /// To which group.
        group: GroupId,
        /// The command.
        data: Bytes,
        /// Who waits.
        reply: Reply<Result<Applied, ProposeError>>,
    },
    /// Create this node's replica of a group.
    CreateGroup {
        /// The group.
        config: GroupConfig,
        /// Who waits: answered when the creation is durable.
        reply: Reply<Result<(), CreateGroupError>>,
    },
    /// Create this node's replica of a group that exists elsewhere.
    JoinGroup {
        /// The group and the replica.
        joining: Joining,
        /// Who waits: answered when the creation is durable.
        reply: Reply<Result<(), CreateGroupError>>,
    },
    /// Remove this node's replica of a group for good.
    RemoveGroup {
        /// The group.
        group: GroupId,
        /// Even if it still is a member: for the others that is as if this node's disk were lost.
        anyway: bool,
        /// Who waits: answered when the removal is durable.
        reply: Reply<Result<(), RemoveError>>,
    },
    /// Ask the state machine.
    Read {
        /// Of which group.
        group: GroupId,
        /// With which guarantee.
        mode: ReadMode,
        /// The question.
        query: Bytes,
        /// Who waits.
        reply: Reply<Result<ReadAnswer, ReadError>>,
    },
    /// Give the leadership to the replica on another node.
    TransferLeadership {
        /// Of which group.
        group: GroupId,
        /// To which node.
        to: NodeId,
        /// Who waits.
        reply: Reply<Result<(), TransferError>>,
    },
    /// Change the members.
    ChangeMembership {
        /// Of which group.
        group: GroupId,
        /// All in one step.
        changes: Vec<MemberChange>,
        /// What the state machines are told with it.
        context: Bytes,
        /// Who waits.
        reply: Reply<Result<Changed, ChangeError>>,
    },
    /// Campaign, if no leader was heard lately.
    Campaign {
        /// In which group.
        group: GroupId,
        /// Who waits.
        reply: Reply<Result<(), CampaignError>>,
    },
    /// Make this node's replica the only voter of a group that lost its majority for ever.
    ForceMembership {
        /// Of which group.
        group: GroupId,
        /// Replicas that become its learners.
        learners: Vec<Member>,
        /// Who waits.
        reply: Reply<Result<Changed, ForceError>>,
    },
    /// Give up the entries up to `index`.
    Compact {
        /// Of which group.
        group: GroupId,
        /// The last one to go.
        index: LogIndex,
        /// Who waits: answered when it is durable.
        reply: Reply<Result<(), CompactError>>,
    },
    /// Tell how a group is.
    Status {
        /// Which.
        group: GroupId,
        /// Who waits.
        reply: Reply<Result<GroupStatus, Unavailable>>,
    },
    /// Take no more proposals, finish the writes under way, and answer everybody.
    Shutdown {
        /// Who waits.
        reply: Reply<()>,
    },
}

/// A command that was applied to the state machine on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Its place in the group's log.
    pub index: LogIndex,
    /// The term it was proposed in.
    pub term: Term,
    /// What the state machine answered.
    pub response: Bytes,
}

/// Why a proposal has no [`Applied`] answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// It was not proposed, or its entry was replaced by another leader's: it will never be applied.
    #[error("not proposed: {0}")]
    NotProposed(NotProposed),
    /// It may be applied, now or later, or never. Proposing it again can apply it twice.
    #[error("outcome unknown: {0}")]
    Unknown(Unknown),
}

/// Why a group can't be asked for anything here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// A queue is full. Try again later.
    #[error("overloaded: {0} is full; try again later")]
    Overloaded(Limit),
    /// The group is not on this node.
    #[error("no such group on this node")]
    NoSuchGroup,
    /// The group failed on this node.
    #[error("the group failed on this node; see its status")]
    GroupFailed,
    /// The core's log failed; it serves nothing more.
    #[error("this core's write-ahead log failed; see the node's log")]
    WalFailed,
    /// The node is shutting down, or its core ended.
    #[error("the node stopped")]
    Stopped,
}

impl From<Unavailable> for NotProposed {
    fn from(unavailable: Unavailable) -> NotProposed {
        match unavailable {
            Unavailable::Overloaded(limit) => NotProposed::Overloaded(limit),
            Unavailable::NoSuchGroup => NotProposed::NoSuchGroup,
            Unavailable::GroupFailed => NotProposed::GroupFailed,
            Unavailable::WalFailed => NotProposed::WalFailed,
            Unavailable::Stopped => NotProposed::ShuttingDown,
        }
    }
}

/// What is told of a group's state by those who will know no more of it.
impl From<Unknown> for Unavailable {
    fn from(why: Unknown) -> Unavailable {
        match why {
            Unknown::WalFailed => Unavailable::WalFailed,
            Unknown::GroupFailed => Unavailable::GroupFailed,
            Unknown::GroupRemoved => Unavailable::NoSuchGroup,
            Unknown::Stopped | Unknown::TimedOut | Unknown::LeaderChanged => Unavailable::Stopped,
        }
    }
}

/// With which guarantee a read is served. All of these are linearizable: what the read sees is no older than anything
/// that was acknowledged before it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadMode {
    /// On the leader, after a round of heartbeats shows that it still leads (Raft thesis, section 6.4).
    Index,
    /// On the leader, at once, because a majority has promised to elect nobody else yet (Raft thesis, section 6.4.1). As
    /// safe as the bound on the clocks' drift is true.
    Lease,
    /// On this node's replica, whatever it is: the leader is asked for its read index.
    Follower,
}

/// What a state machine answered to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadAnswer {
    /// What the machine had applied when it answered.
    pub index: LogIndex,
    /// Its answer.
    pub response: Bytes,
}

/// Why a read has no answer. Reads can always be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This replica doesn't lead, or, for [`ReadMode::Follower`], knows nobody who does.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// The node that leads, if known.
        leader: Option<NodeId>,
    },
    /// The leader has committed nothing in its term yet, so it can't tell what is committed.
    #[error("the leader has committed nothing in its term yet; try again soon")]
    NoCommitYet,
    /// Leases are off ([`ReadMode::Lease`]).
    #[error("leases are off (leases); read with another mode")]
    LeasesOff,
    /// No majority has promised lately, or durably, to elect nobody else ([`ReadMode::Lease`]).
    #[error("the leader holds no lease now; read with another mode, or try again soon")]
    NoLease,
    /// Another leader came, or the leader could not tell, before the read was confirmed.
    #[error("the leader changed before the read was confirmed; try again")]
    LeaderChanged,
    /// It was not confirmed within `proposal_timeout`.
    #[error("not confirmed in time (proposal_timeout)")]
    TimedOut,
    /// The group can't be asked.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A change of members that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Index of the entry that made the members what they are now.
    pub index: LogIndex,
}

/// Why members have not changed, or may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nothing was changed, and nothing of it ever will be.
    #[error("not changed: {0}")]
    NotChanged(NotChanged),
    /// The change may be complete, now or later, or never. The group's status tells its members.
    #[error("outcome unknown: {0}")]
    Unknown(Unknown),
}

/// Why members will not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotChanged {
    /// The change was not proposed, or its entry was replaced by another leader's.
    #[error(transparent)]
    NotProposed(#[from] NotProposed),
    /// The change before is not complete.
    #[error("a change of members is under way at index {index}; one after the other")]
    Pending {
        /// Where it stands in the log.
        index: LogIndex,
    },
    /// The leader has committed nothing in its term yet.
    #[error("the leader has committed nothing in its term yet; try again soon")]
    NoCommitYet,
    /// The change leads to no configuration.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// A new member is on a node that this one doesn't know.
    #[error("node {0} is not among this node's peers: add it there first")]
    UnknownNode(NodeId),
}

/// Why a leadership was not given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This replica doesn't lead.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// The node that leads, if known.
        leader: Option<NodeId>,
    },
    /// It is on this node already.
    #[error("this node leads already")]
    AlreadyLeads,
    /// No voter of the group is on that node, or it is about to lose its vote.
    #[error("node {0} has no voter of this group")]
    NotVoter(NodeId),
    /// Another transfer is under way.
    #[error("the leadership is being transferred to replica {to} already")]
    InProgress {
        /// To whom.
        to: ReplicaId,
    },
    /// The other did not take over in time; this node leads on.
    #[error("the other did not take over in time; this node leads on")]
    TimedOut,
    /// Somebody else leads now.
    #[error("another leader came{}", leader_hint(.leader))]
    LeaderChanged {
        /// The node that leads, if known.
        leader: Option<NodeId>,
    },
    /// The group can't be asked.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a replica doesn't campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CampaignError {
    /// The protocol forbids it now.
    #[error(transparent)]
    Refused(#[from] raftyard_raft::CampaignError),
    /// The group can't be asked.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a membership was not forced, or may not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForceError {
    /// The protocol forbids it here, or now.
    #[error(transparent)]
    Refused(#[from] raftyard_raft::ForceError),
    /// It may be complete, now or later, or never. The group's status tells its members.
    #[error("outcome unknown: {0}")]
    Unknown(Unknown),
    /// The group can't be asked.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a log was not compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// Only what was applied here can be given up.
    #[error("index {index} is above the applied index {applied}")]
    NotApplied {
        /// The index asked for.
        index: LogIndex,
        /// The applied index.
        applied: LogIndex,
    },
    /// The state machine has a disk of its own and doesn't hold that durably yet.
    #[error("index {index} is above what the state machine holds durably, {durable}")]
    NotDurable {
        /// The index asked for.
        index: LogIndex,
        /// What the machine holds.
        durable: LogIndex,
    },
    /// It was given up before.
    #[error("index {index} is below the log's base {base}")]
    Compacted {
        /// The index asked for.
        index: LogIndex,
        /// The log's base.
        base: LogIndex,
    },
    /// This replica joined the group and was sent its log from the beginning: who was a member then is in no entry.
    #[error("the members at index {index} are not known here; compact the log at the first change of them or after it")]
    MembersUnknown {
        /// The index asked for.
        index: LogIndex,
    },
    /// The state machine is in memory and gives no snapshot, at least not now.
    #[error("the state machine gives no snapshot, which a log needs to begin later")]
    NoSnapshot,
    /// A snapshot came from the leader, which takes the place of the whole log.
    #[error("a snapshot comes from the leader, in the place of the log")]
    Overtaken,
    /// The group can't be asked.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a command will never be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    /// This replica doesn't lead.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// The node that leads, if known.
        leader: Option<NodeId>,
    },
    /// A queue or the log's memory is full. Try again later.
    #[error("overloaded: {0} is full; try again later")]
    Overloaded(Limit),
    /// The group is not on this node.
    #[error("no such group on this node")]
    NoSuchGroup,
    /// The command is larger than `entry_bytes_max`.
    #[error("the command has {bytes} bytes, at most {bytes_max} are allowed (entry_bytes_max)")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The leadership is being given to another. Try again soon.
    #[error("the leadership is being transferred; try again soon")]
    Transferring,
    /// Another leader's entry took its place in the log.
    #[error("another leader's entry took its place")]
    Superseded,
    /// The disk of the core's log is full. Reads go on, and this ends by itself when there is room again.
    #[error("the disk of this core's write-ahead log is full; make room, it goes on by itself")]
    DiskFull,
    /// The core's log failed; it takes nothing more.
    #[error("this core's write-ahead log failed; see the node's log")]
    WalFailed,
    /// The group failed on this node.
    #[error("the group failed on this node; see its status")]
    GroupFailed,
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why an outcome can't be known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// It was not committed within `proposal_timeout`.
    #[error("not committed in time (proposal_timeout)")]
    TimedOut,
    /// The node shut down, or its core ended, with the proposal under way.
    #[error("the node stopped before the outcome was known")]
    Stopped,
    /// The core's log failed with the proposal under way.
    #[error("this core's write-ahead log failed; see the node's log")]
    WalFailed,
    /// Another leader came before it was committed.
    #[error("another leader came before it was committed")]
    LeaderChanged,
    /// The group failed with the proposal under way.
    #[error("the group failed on this node; see its status")]
    GroupFailed,
    /// The group was removed from this node with the proposal under way.
    #[error("the group was removed from this node")]
    GroupRemoved,
}

/// A named limit that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// `mailbox_max`: commands waiting for the core.
    #[error("the core's mailbox (mailbox_max)")]
    Mailbox,
    /// `log_bytes_max`: the entries a core keeps in memory.
    #[error("the core's log memory (log_bytes_max)")]
    LogMemory,
    /// `reads_max`: reads that wait to be confirmed.
    #[error("the core's waiting reads (reads_max)")]
    Reads,
    /// Requests to compact logs.
    #[error("the core's requests to compact logs")]
    Compactions,
    /// `uncommitted_bytes_max`: a group's entries that are not committed yet.
    #[error("the group's uncommitted entries (uncommitted_bytes_max)")]
    Uncommitted,
}

/// Why a group was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CreateGroupError {
    /// The id is taken.
    #[error("group {0} exists on this node")]
    Exists(GroupId),
    /// A group begins with one set of voters.
    #[error("a group can't begin with a joint configuration")]
    Joint,
    /// Replica ids start at 1.
    #[error("replica ids start at 1")]
    ZeroReplica,
    /// This node is not a member of the configuration.
    #[error("group {group} has no member on node {node}")]
    NotMember {
        /// The group.
        group: GroupId,
        /// This node.
        node: NodeId,
    },
    /// Group ids start at 1.
    #[error("group ids start at 1")]
    ZeroId,
    /// The group's state machine doesn't fit its log.
    #[error("group {group} can't be opened: {error}")]
    Machine {
        /// The group.
        group: GroupId,
        /// What is wrong.
        error: RestoreError,
    },
    /// The factory of state machines panicked.
    #[error("the state machine of group {group} can't be opened: its factory panicked")]
    MachinePanicked {
        /// The group.
        group: GroupId,
    },
    /// The core's mailbox is full. Try again later.
    #[error("overloaded: the core's mailbox (mailbox_max) is full; try again later")]
    Overloaded,
    /// The disk of the core's log is full.
    #[error("the disk of this core's write-ahead log is full; make room, then try again")]
    DiskFull,
    /// The replica, or a later one of the group, was on this node before and was removed.
    #[error("replica {replica} of group {group} was removed from this node, and a replica id is never used twice")]
    Removed {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
    },
    /// A log of this node lost something and nobody knows whose it was: it may have had a replica of this group, and voted.
    #[error("a log of this node lost records, perhaps of group {group}: join the group under a new replica id instead")]
    Forgetful {
        /// The group.
        group: GroupId,
    },
    /// The core's log failed. The group may exist after a restart.
    #[error("this core's write-ahead log failed; the group may exist after a restart")]
    WalFailed,
    /// The node is shutting down, or its core ended. The group may exist after a restart.
    #[error("the node stopped; the group may exist after a restart")]
    Stopped,
}

/// Why a group was not removed from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// By what this node knows to be committed its replica still belongs to the group. Change the members first, or
    /// remove it anyway, as if its disk were lost.
    #[error("replica {replica} is a member of group {group}; change the members first, or remove it anyway")]
    Member {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
    },
    /// The group can't be asked.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// An answer on its way out of the core. The core itself wakes nobody.
#[derive(Debug)]
pub enum Answer {
    /// To [`Mail::Propose`].
    Propose(Reply<Result<Applied, ProposeError>>, Result<Applied, ProposeError>),
    /// To [`Mail::CreateGroup`] and [`Mail::JoinGroup`].
    CreateGroup(Reply<Result<(), CreateGroupError>>, Result<(), CreateGroupError>),
    /// To [`Mail::RemoveGroup`].
    RemoveGroup(Reply<Result<(), RemoveError>>, Result<(), RemoveError>),
    /// To [`Mail::Read`].
    Read(Reply<Result<ReadAnswer, ReadError>>, Result<ReadAnswer, ReadError>),
    /// To [`Mail::TransferLeadership`].
    Transfer(Reply<Result<(), TransferError>>, Result<(), TransferError>),
    /// To [`Mail::ChangeMembership`].
    Change(Reply<Result<Changed, ChangeError>>, Result<Changed, ChangeError>),
    /// To [`Mail::Campaign`].
    Campaign(Reply<Result<(), CampaignError>>, Result<(), CampaignError>),
    /// To [`Mail::ForceMembership`].
    Force(Reply<Result<Changed, ForceError>>, Result<Changed, ForceError>),
    /// To [`Mail::Compact`].
    Compact(Reply<Result<(), CompactError>>, Result<(), CompactError>),
    /// To [`Mail::Status`].
    Status(Reply<Result<GroupStatus, Unavailable>>, Result<Box<GroupStatus>, Unavailable>),
    /// To [`Mail::Shutdown`].
    Shutdown(Reply<()>),
}

impl Answer {
    /// Wakes whoever waits. Somebody who no longer waits is no error.
    pub fn deliver(self) {
        match self {
            Answer::Propose(reply, result) => drop(reply.send(result)),
            Answer::CreateGroup(reply, result) => drop(reply.send(result)),
            Answer::RemoveGroup(reply, result) => drop(reply.send(result)),
            Answer::Read(reply, result) => drop(reply.send(result)),
            Answer::Transfer(reply, result) => drop(reply.send(result)),
            Answer::Change(reply, result) => drop(reply.send(result)),
            Answer::Campaign(reply, result) => drop(reply.send(result)),
            Answer::Force(reply, result) => drop(reply.send(result)),
            Answer::Compact(reply, result) => drop(reply.send(result)),
            Answer::Status(reply, status) => drop(reply.send(status.map(|s| *s))),
            Answer::Shutdown(reply) => drop(reply.send(())),
        }
    }
}

fn leader_hint(leader: &Option<NodeId>) -> String {
    match leader {
        Some(node) => format!("; node {node} leads"),
        None => "; no leader is known".to_owned(),
    }
}
