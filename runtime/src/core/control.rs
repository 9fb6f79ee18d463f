//! What an operator asked of a group and has no answer yet: a change of members, a transfer of its leadership. At most one
//! of each at a time; the protocol takes no more.

use crate::mail::{Answer, ChangeError, Changed, ForceError, NotChanged, NotProposed, Reply, TransferError, Unknown};
use raftyard_raft::{Configuration, Entry, EntryKind, Instant, LogPosition, Raft, ReplicaId, Role};

/// Who waits for a change of members.
#[derive(Debug)]
pub(super) enum ChangeReply {
    Changed(Reply<Result<Changed, ChangeError>>),
    Forced(Reply<Result<Changed, ForceError>>),
}

/// What the members are to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The entry at this position is to be applied; it begins the change, and ends it unless it is joint.
    Begin(LogPosition),
    /// The next configuration that is not joint ends it.
    End,
}

#[derive(Debug)]
struct Change {
    step: Step,
    expires: Instant,
    reply: ChangeReply,
}

#[derive(Debug)]
struct Transfer {
    to: ReplicaId,
    expires: Instant,
    reply: Reply<Result<(), TransferError>>,
}

/// What waits. Most groups have none.
#[derive(Debug, Default)]
pub(super) struct Control {
    change: Option<Change>,
    transfer: Option<Transfer>,
}

impl Control {
    pub(super) fn is_empty(&self) -> bool {
        self.change.is_none() && self.transfer.is_none()
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let change = self.change.as_ref().map(|change| change.expires);
        change.into_iter().chain(self.transfer.as_ref().map(|transfer| transfer.expires)).min()
    }

    /// Waits for the change that begins with the entry at `position`.
    pub(super) fn await_change(
        &mut self,
        position: LogPosition,
        expires: Instant,
        reply: ChangeReply,
        answers: &mut impl Extend<Answer>,
    ) {
        self.replace(Change { step: Step::Begin(position), expires, reply }, answers);
    }

    /// Waits for whatever members a forced election leads to.
    pub(super) fn await_force(&mut self, expires: Instant, reply: ChangeReply, answers: &mut impl Extend<Answer>) {
        self.replace(Change { step: Step::End, expires, reply }, answers);
    }

    /// The protocol takes a change only when the one before is complete; if somebody still waits for that, this replica
    /// lost its leadership on the way and never saw how it ended.
    fn replace(&mut self, change: Change, answers: &mut impl Extend<Answer>) {
        if let Some(lost) = self.change.replace(change) {
            answers.extend([lost.reply.unknown(Unknown::LeaderChanged)]);
        }
    }

    pub(super) fn await_transfer(
        &mut self,
        to: ReplicaId,
        expires: Instant,
        reply: Reply<Result<(), TransferError>>,
        answers: &mut impl Extend<Answer>,
    ) {
        if let Some(before) = self.transfer.replace(Transfer { to, expires, reply }) {
            // Both ask for the same; who came later is told how it ends.
            answers.extend([Answer::Transfer(before.reply, Err(TransferError::InProgress { to: before.to }))]);
        }
    }

    /// An entry was applied; `configuration` is what it holds, if it holds one.
    pub(super) fn handle_applied(
        &mut self,
        entry: &Entry,
        configuration: Option<&Configuration>,
        answers: &mut impl Extend<Answer>,
    ) {
        let Some(change) = &mut self.change else { return };
        if let Step::Begin(position) = change.step {
            if entry.index < position.index {
                return;
            }
            if entry.position() != position || entry.kind != EntryKind::Configuration {
                // Another entry is committed in its place, so it never will be.
                let reply = self.change.take().expect("looked at above").reply;
                return answers.extend([reply.superseded()]);
            }
            change.step = Step::End;
        }
        if configuration.is_some_and(|configuration| !configuration.is_joint()) {
            let reply = self.change.take().expect("looked at above").reply;
            answers.extend([reply.done(Changed { index: entry.index })]);
        }
    }

    /// A snapshot took the place of entries, perhaps of those that somebody waits for.
    pub(super) fn lose_sight(&mut self, answers: &mut impl Extend<Answer>) {
        if let Some(lost) = self.change.take() {
            answers.extend([lost.reply.unknown(Unknown::LeaderChanged)]);
        }
    }

    /// Looks whether a transfer has ended.
    pub(super) fn look(&mut self, raft: &Raft, answers: &mut impl Extend<Answer>) {
        let Some(transfer) = &self.transfer else { return };
        let result = match (raft.role(), raft.transferee(), raft.leader()) {
            (Role::Leader, Some(_), _) => return,
            (Role::Leader, None, _) => Err(TransferError::TimedOut),
            (_, _, Some(leader)) if leader.replica == transfer.to => Ok(()),
            (_, _, Some(leader)) => Err(TransferError::LeaderChanged { leader: Some(leader.node) }),
            // An election is under way.
            (_, _, None) => return,
        };
        let reply = self.transfer.take().expect("looked at above").reply;
        answers.extend([Answer::Transfer(reply, result)]);
    }

    /// Answers what waited too long.
    pub(super) fn expire(&mut self, now: Instant, answers: &mut impl Extend<Answer>) {
        if let Some(late) = self.change.take_if(|change| change.expires <= now) {
            answers.extend([late.reply.unknown(Unknown::TimedOut)]);
        }
        if let Some(late) = self.transfer.take_if(|transfer| transfer.expires <= now) {
            answers.extend([Answer::Transfer(late.reply, Err(TransferError::LeaderChanged { leader: None }))]);
        }
    }

    /// Answers all, because nothing more will be known of them here.
    pub(super) fn give_up(&mut self, why: Unknown, answers: &mut impl Extend<Answer>) {
        if let Some(lost) = self.change.take() {
            answers.extend([lost.reply.unknown(why)]);
        }
        if let Some(lost) = self.transfer.take() {
            answers.extend([Answer::Transfer(lost.reply, Err(TransferError::Unavailable(why.into())))]);
        }
    }
}

impl ChangeReply {
    fn done(self, changed: Changed) -> Answer {
        match self {
            ChangeReply::Changed(reply) => Answer::Change(reply, Ok(changed)),
            ChangeReply::Forced(reply) => Answer::Force(reply, Ok(changed)),
        }
    }

    fn unknown(self, why: Unknown) -> Answer {
        match self {
            ChangeReply::Changed(reply) => Answer::Change(reply, Err(ChangeError::Unknown(why))),
            ChangeReply::Forced(reply) => Answer::Force(reply, Err(ForceError::Unknown(why))),
        }
    }

    fn superseded(self) -> Answer {
        match self {
            ChangeReply::Changed(reply) => {
                let why = NotChanged::NotProposed(NotProposed::Superseded);
                Answer::Change(reply, Err(ChangeError::NotChanged(why)))
            }
            ChangeReply::Forced(reply) => Answer::Force(reply, Err(ForceError::Unknown(Unknown::LeaderChanged))),
        }
    }
}
