//! Commands to a core from other threads, and the answers they wait for.

use crate::group::{GroupConfig, GroupStatus};
use bytes::Bytes;
use raftyard_raft::{GroupId, LogIndex, NodeId, RestoreError, Term};

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
    /// Tell how a group is.
    Status {
        /// Which.
        group: GroupId,
        /// Who waits; `None` if the group is not here.
        reply: Reply<Option<GroupStatus>>,
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
    /// Another leader's entry took its place in the log.
    #[error("another leader's entry took its place")]
    Superseded,
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
    /// The core's log failed. The group may exist after a restart.
    #[error("this core's write-ahead log failed; the group may exist after a restart")]
    WalFailed,
    /// The node is shutting down, or its core ended. The group may exist after a restart.
    #[error("the node stopped; the group may exist after a restart")]
    Stopped,
}

/// An answer on its way out of the core. The core itself wakes nobody.
#[derive(Debug)]
pub enum Answer {
    /// To [`Mail::Propose`].
    Propose(Reply<Result<Applied, ProposeError>>, Result<Applied, ProposeError>),
    /// To [`Mail::CreateGroup`].
    CreateGroup(Reply<Result<(), CreateGroupError>>, Result<(), CreateGroupError>),
    /// To [`Mail::Status`].
    Status(Reply<Option<GroupStatus>>, Option<Box<GroupStatus>>),
    /// To [`Mail::Shutdown`].
    Shutdown(Reply<()>),
}

impl Answer {
    /// Wakes whoever waits. Somebody who no longer waits is no error.
    pub fn deliver(self) {
        match self {
            Answer::Propose(reply, result) => drop(reply.send(result)),
            Answer::CreateGroup(reply, result) => drop(reply.send(result)),
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
