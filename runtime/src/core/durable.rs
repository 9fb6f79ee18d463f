//! What waits for a batch of the log to become durable: a replica's receipts, its answers, a group's creation, a peer's
//! identity. This is where "nothing is acknowledged before it is durable" is kept.

use super::compaction::CompactReply;
use super::deadlines::Slot;
use super::port::LinkId;
use super::reviving::Revived;
use crate::mail::{CreateGroupError, RemoveError, Reply};
use raftyard_raft::{Body, Configuration, GroupId, Message, NodeId, Receipt, ReplicaId, Term};
use raftyard_storage::wal::{BatchSeq, RecoveredGroup};
use std::collections::VecDeque;

/// A message without entries, kept until it may leave.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeldMessage {
    pub(super) group: GroupId,
    pub(super) from: ReplicaId,
    pub(super) to: ReplicaId,
    pub(super) term: Term,
    pub(super) body: Body<'static>,
    /// Where the receiver is.
    pub(super) node: NodeId,
}

impl HeldMessage {
    pub(super) const fn message(&self) -> Message<'static> {
        Message { group: self.group, from: self.from, to: self.to, term: self.term, body: self.body }
    }
}

/// A group that is being created.
pub(super) struct Creation {
    pub(super) group: GroupId,
    /// This node's member of it.
    pub(super) replica: ReplicaId,
    pub(super) configuration: Configuration,
    /// It campaigns at once.
    pub(super) preferred: bool,
    /// Opened before anything was recorded: what is recorded can always be opened.
    pub(super) machine: Revived,
    pub(super) reply: Reply<Result<(), CreateGroupError>>,
}

impl std::fmt::Debug for Creation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Creation").field("group", &self.group).field("replica", &self.replica).finish_non_exhaustive()
    }
}

/// Something that happens once its batch is durable.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A replica is told.
    Receipt(Slot, Receipt),
    /// An answer leaves.
    Message(Slot, HeldMessage),
    /// A group exists.
    Creation(Box<Creation>),
    /// A replica that lost something may go on with what it has.
    Reopening(Slot, Box<RecoveredGroup>),
    /// A group is gone for good.
    Removal(Slot, Reply<Result<(), RemoveError>>),
    /// A log begins later.
    Compacted(CompactReply),
    /// A peer's identity is known for good; its handshake goes on.
    Peer(LinkId),
}

/// The waiting, in the order of their batches.
#[derive(Debug, Default)]
pub(super) struct DurableQueue {
    waiting: VecDeque<(BatchSeq, Waiting)>,
}

impl DurableQueue {
    /// Lets `what` wait for batch `seq`, or for a later one that something waits for already: what waits stays in one
    /// order.
    pub(super) fn push(&mut self, seq: BatchSeq, what: Waiting) {
        let seq = self.waiting.back().map_or(seq, |&(last, _)| last.max(seq));
        self.waiting.push_back((seq, what));
    }

    /// The next that has waited long enough, given the highest batch released.
    pub(super) fn pop_released(&mut self, released: BatchSeq) -> Option<Waiting> {
        if self.waiting.front()?.0 > released {
            return None;
        }
        self.waiting.pop_front().map(|(_, what)| what)
    }

    /// Everything, because no batch will ever be released again.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waiting> + '_ {
        self.waiting.drain(..).map(|(_, what)| what)
    }
}
