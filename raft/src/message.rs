//! What replicas of a group say to each other. Borrowed, so that a message is written to a socket from the log and
//! read from a buffer into the log without a copy of its own.

use crate::types::{Entry, GroupId, LogIndex, LogPosition, ReplicaId, Term};

/// A run of consecutive entries, as two slices because a log is a ring buffer.
pub type Entries<'a> = (&'a [Entry], &'a [Entry]);

/// One message from a replica to another of the same group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// The group both replicas belong to.
    pub group: GroupId,
    /// Who says it.
    pub from: ReplicaId,
    /// To whom.
    pub to: ReplicaId,
    /// The sender's term; in [`Body::PreVote`] the term it would campaign in.
    pub term: Term,
    /// What is said.
    pub body: Body<'a>,
}

/// The kinds of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Would you vote for me? Changes nothing at the receiver (Raft thesis, section 9.6).
    PreVote {
        /// Where the sender's log ends.
        last: LogPosition,
    },
    /// Answer to [`Body::PreVote`]; granted: `term` is the term asked about. Refused: the answerer's own.
    PreVoteAnswer {
        /// Whether the vote would be given.
        granted: bool,
    },
    /// Vote for me (Raft paper, section 5.2).
    Vote {
        /// Where the sender's log ends.
        last: LogPosition,
    },
    /// Answer to [`Body::Vote`].
    VoteAnswer {
        /// Whether the vote is given.
        granted: bool,
    },
    /// Entries for the receiver's log, or none: then it probes where the logs agree (Raft paper, section 5.3).
    Append {
        /// The position before the first entry.
        previous: LogPosition,
        /// The leader's commit index.
        commit: LogIndex,
        /// The entries after `previous`.
        entries: Entries<'a>,
    },
    /// The receiver's log equals the leader's up to `matched`, durably.
    AppendAccepted {
        /// Last index known to be equal.
        matched: LogIndex,
    },
    /// The receiver has no entry at `previous` of the append it answers.
    AppendRejected {
        /// Index of that `previous`.
        rejected: LogIndex,
        /// The receiver's last index, so that the leader doesn't probe beyond it.
        last: LogIndex,
        /// The highest position of the receiver, at or below `rejected`, whose term is not above that of `previous`:
        /// the next place where the logs can agree.
        hint: LogPosition,
    },
    /// I lead.
    Heartbeat {
        /// What the receiver may commit: at most what it is known to match.
        commit: LogIndex,
    },
    /// Answer to [`Body::Heartbeat`].
    HeartbeatAnswer,
}

/// When a message may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once, in parallel with this replica's own write (Raft thesis, section 10.2.1): appends, heartbeats and
    /// pre-vote requests and answers.
    Now,
    /// Only after everything that this replica's polls have handed out to be persisted up to now is durable: vote
    /// requests, and every answer to a vote, an append or a heartbeat.
    AfterPersist,
}

/// A message to send, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The message.
    pub message: Message<'a>,
    /// When it may leave.
    pub durability: Durability,
}

impl Body<'_> {
    /// The same without a borrow, to be kept; `None` for an append, which is never kept: it is formed from the log.
    #[must_use]
    pub const fn detached(&self) -> Option<Body<'static>> {
        Some(match *self {
            Body::Append { .. } => return None,
            Body::PreVote { last } => Body::PreVote { last },
            Body::PreVoteAnswer { granted } => Body::PreVoteAnswer { granted },
            Body::Vote { last } => Body::Vote { last },
            Body::VoteAnswer { granted } => Body::VoteAnswer { granted },
            Body::AppendAccepted { matched } => Body::AppendAccepted { matched },
            Body::AppendRejected { rejected, last, hint } => Body::AppendRejected { rejected, last, hint },
            Body::Heartbeat { commit } => Body::Heartbeat { commit },
            Body::HeartbeatAnswer => Body::HeartbeatAnswer,
        })
    }
}
