//! One group on its core: the replica, the machine it feeds, and the proposals that wait for it.

use crate::group::{Commands, GroupStatus, Responses, RoleName, StateMachine};
use crate::mail::{Answer, Applied, NotProposed, ProposeError, Reply, Unknown};
use bytes::Bytes;
use raftyard_raft::{Configuration, Entries, EntryKind, Instant, LogPosition, Raft, Role};
use raftyard_storage::wal::BatchSeq;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// A proposal under way.
#[derive(Debug)]
struct Pending {
    position: LogPosition,
    expires: Instant,
    reply: Reply<Result<Applied, ProposeError>>,
}

/// A group on its core.
pub(super) struct GroupSlot {
    pub(super) raft: Raft,
    pub(super) configuration: Arc<Configuration>,
    machine: Box<dyn StateMachine>,
    /// Invariant: indexes rise from front to back.
    pending: VecDeque<Pending>,
    /// Whether it is on the core's list of groups to poll.
    pub(super) dirty: bool,
    /// The last batch of the log that holds a record of this group.
    pub(super) last_batch: BatchSeq,
    /// What [`Raft::log_bytes`] was when the core last counted it.
    pub(super) log_bytes_counted: usize,
    /// Why it stopped on this node.
    pub(super) failed: Option<String>,
}

/// The state machine panicked.
#[derive(Debug)]
pub(super) struct ApplyPanicked {
    pub(super) reason: String,
}

impl GroupSlot {
    pub(super) fn new(raft: Raft, configuration: Arc<Configuration>, machine: Box<dyn StateMachine>) -> GroupSlot {
        GroupSlot {
            raft,
            configuration,
            machine,
            pending: VecDeque::new(),
            dirty: false,
            last_batch: BatchSeq(0),
            log_bytes_counted: 0,
            failed: None,
        }
    }

    /// Lets `reply` wait for the entry at `position`. A proposal that waited for the same place or a later one lost its
    /// entry when another leader cut the log; yet that entry may live on elsewhere, so its outcome is unknown.
    pub(super) fn wait(
        &mut self,
        position: LogPosition,
        expires: Instant,
        reply: Reply<Result<Applied, ProposeError>>,
        answers: &mut impl Extend<Answer>,
    ) {
        while let Some(lost) = self.pending.pop_back_if(|back| back.position.index >= position.index) {
            let result = Err(ProposeError::Unknown(Unknown::LeaderChanged));
            answers.extend([Answer::Propose(lost.reply, result)]);
        }
        self.pending.push_back(Pending { position, expires, reply });
    }

    /// When the oldest proposal expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.pending.front().map(|pending| pending.expires)
    }

    /// Answers proposals that waited too long.
    pub(super) fn expire(&mut self, now: Instant, answers: &mut impl Extend<Answer>) {
        while let Some(late) = self.pending.pop_front_if(|front| front.expires <= now) {
            answers.extend([Answer::Propose(late.reply, Err(ProposeError::Unknown(Unknown::TimedOut)))]);
        }
    }

    /// Answers all proposals, because nothing more will be known of them here.
    pub(super) fn give_up(&mut self, why: Unknown, answers: &mut impl Extend<Answer>) {
        answers.extend(self.pending.drain(..).map(|lost| Answer::Propose(lost.reply, Err(ProposeError::Unknown(why)))));
    }

    /// Applies the next committed entries, if there are any, and answers whoever waits for them.
    ///
    /// # Errors
    /// The machine panicked; the group must not be used again, for nobody knows what the machine holds now.
    pub(super) fn apply(
        &mut self,
        bytes_max: usize,
        responses: &mut Responses,
        answers: &mut impl Extend<Answer>,
    ) -> Result<(), ApplyPanicked> {
        let Some(entries) = self.raft.poll_committed(bytes_max) else { return Ok(()) };
        let machine = &mut self.machine;
        let applied = catch_unwind(AssertUnwindSafe(|| machine.apply(Commands::new(entries), responses)));
        if let Err(panic) = applied {
            drop(responses.drain());
            return Err(ApplyPanicked { reason: panic_text(panic.as_ref()) });
        }
        answer_applied(&mut self.pending, entries, responses, answers);
        Ok(())
    }

    pub(super) fn status(&self) -> GroupStatus {
        let raft = &self.raft;
        GroupStatus {
            group: raft.group(),
            replica: raft.replica(),
            role: match (&self.failed, raft.role()) {
                (Some(_), _) => RoleName::Failed,
                (None, Role::Follower) => RoleName::Follower,
                (None, Role::PreCandidate) => RoleName::PreCandidate,
                (None, Role::Candidate) => RoleName::Candidate,
                (None, Role::Leader) => RoleName::Leader,
            },
            term: raft.term(),
            leader: raft.leader().and_then(|replica| raft.configuration().node_of(replica)),
            last_index: raft.last().index,
            durable_index: raft.durable(),
            commit_index: raft.commit(),
            applied_index: raft.applied(),
        }
    }
}

/// Matches applied entries with the proposals that wait for their places.
fn answer_applied(
    pending: &mut VecDeque<Pending>,
    entries: Entries<'_>,
    responses: &mut Responses,
    answers: &mut impl Extend<Answer>,
) {
    let mut responses = responses.drain();
    for entry in entries.0.iter().chain(entries.1) {
        let response =
            if entry.kind == EntryKind::Command { responses.next().unwrap_or_default() } else { Bytes::new() };
        let Some(waited) = pending.pop_front_if(|front| front.position.index <= entry.index) else { continue };
        assert!(waited.position.index == entry.index, "entries are applied one by one, and none was passed over");
        let result = if waited.position == entry.position() {
            Ok(Applied { index: entry.index, term: entry.term, response })
        } else {
            // Another entry is committed in its place, so by log matching it never will be.
            Err(ProposeError::NotProposed(NotProposed::Superseded))
        };
        answers.extend([Answer::Propose(waited.reply, result)]);
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}
