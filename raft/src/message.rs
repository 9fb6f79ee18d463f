//! What replicas of a group say to each other. Borrowed, so that a message is written to a socket from the log and
//! read from a buffer into the log without a copy of its own.

use crate::configuration::Configuration;
use crate::types::{Entry, GroupId, Instant, LogIndex, LogPosition, NodeId, ReplicaId, Term};

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
        /// The sender's priority: of two with equal logs the one with the higher should lead.
        priority: u8,
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
        /// The leader asked for it ([`Body::TimeoutNow`]): no promise to that leader stands against it.
        transfer: bool,
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
        /// The receiver's disk lost entries ([`Limit::Bound`](crate::Limit::Bound)): it holds less than it acknowledged.
        lost: bool,
    },
    /// I lead.
    Heartbeat {
        /// What the receiver may commit: at most what it is known to match.
        commit: LogIndex,
        /// When it was sent, by the leader's clock; no two of a term are the same.
        sent: Instant,
    },
    /// Answer to [`Body::Heartbeat`]: the receiver follows, and promises to elect nobody else for
    /// [`election_timeout_min`](crate::Settings::election_timeout_min).
    HeartbeatAnswer {
        /// That of the heartbeat.
        sent: Instant,
        /// The receiver's disk lost entries, and the leader, who may believe that they are there, is to ask.
        lost: bool,
    },
    /// Campaign now: the sender wants to give its leadership to the receiver (Raft thesis, section 3.10).
    TimeoutNow {
        /// The leader's last index; a receiver that lacks it doesn't campaign.
        last: LogIndex,
    },
    /// Told beside the refusal of a pre-vote to a replica that was removed from the group.
    NotMember {
        /// Index of a committed configuration without it.
        index: LogIndex,
    },
    /// What may I read (Raft thesis, section 6.4)? From a follower to its leader.
    ReadRequest {
        /// Names the request; never used again, also not after a restart.
        id: u64,
    },
    /// Answer to [`Body::ReadRequest`].
    ReadAnswer {
        /// That of the request.
        id: u64,
        /// Who has applied this may serve the read; `None`: the leader can't tell.
        index: Option<LogIndex>,
    },
    /// The receiver lacks entries that the leader's log no longer has. The state itself travels apart; this message is
    /// for the protocol, once the state is whole and durable.
    Snapshot {
        /// The last entry whose effect the state holds.
        last: LogPosition,
        /// The members at that position.
        configuration: &'a Configuration,
        /// Index of the entry that made them so; zero for the initial members.
        configuration_index: LogIndex,
    },
}

/// Who sent a message, as far as the network knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The node it came from, which has proved who it is.
    pub node: NodeId,
    /// Whether that node keeps the promises of its heartbeat answers over a restart. If not, no lease rests on them.
    pub keeps_promises: bool,
}

/// When a message may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once, in parallel with this replica's own write (Raft thesis, section 10.2.1): appends, heartbeats, pre-vote
    /// requests and answers, and whatever promises nothing.
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
    /// The node that holds the receiver.
    pub node: NodeId,
    /// When it may leave.
    pub durability: Durability,
}

impl Body<'_> {
    /// Whether only a member has a reason to say this, to one that leads or campaigns.
    pub(crate) const fn is_for_leaders(&self) -> bool {
        match self {
            Body::PreVoteAnswer { .. }
            | Body::VoteAnswer { .. }
            | Body::AppendAccepted { .. }
            | Body::AppendRejected { .. }
            | Body::HeartbeatAnswer { .. }
            | Body::ReadRequest { .. } => true,
            Body::PreVote { .. }
            | Body::Vote { .. }
            | Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::TimeoutNow { .. }
            | Body::NotMember { .. }
            | Body::ReadAnswer { .. }
            | Body::Snapshot { .. } => false,
        }
    }

    /// The same without a borrow, to be kept; `None` for an append and a snapshot, which are formed from the log and
    /// never kept.
    #[must_use]
    pub const fn detached(&self) -> Option<Body<'static>> {
        Some(match *self {
            Body::Append { .. } | Body::Snapshot { .. } => return None,
            Body::PreVote { last, priority } => Body::PreVote { last, priority },
            Body::PreVoteAnswer { granted } => Body::PreVoteAnswer { granted },
            Body::Vote { last, transfer } => Body::Vote { last, transfer },
            Body::VoteAnswer { granted } => Body::VoteAnswer { granted },
            Body::AppendAccepted { matched } => Body::AppendAccepted { matched },
            Body::AppendRejected { rejected, last, hint, lost } => Body::AppendRejected { rejected, last, hint, lost },
            Body::Heartbeat { commit, sent } => Body::Heartbeat { commit, sent },
            Body::HeartbeatAnswer { sent, lost } => Body::HeartbeatAnswer { sent, lost },
            Body::TimeoutNow { last } => Body::TimeoutNow { last },
            Body::NotMember { index } => Body::NotMember { index },
            Body::ReadRequest { id } => Body::ReadRequest { id },
            Body::ReadAnswer { id, index } => Body::ReadAnswer { id, index },
        })
    }
}
