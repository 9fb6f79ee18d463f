//! One group on its core: the replica, the machine it feeds, and who waits for it.

use super::compaction::Kept;
use super::control::Control;
use super::reads::Reads;
use crate::group::{Commands, GroupStatus, Responses, RoleName, SnapshotSink, SnapshotSource, StateMachine};
use crate::mail::{Answer, Applied, NotProposed, ProposeError, Reply, Unknown};
use bytes::Bytes;
use raftyard_raft::{
    Base, ConfigurationEntry, Entries, Entry, EntryKind, Instant, LogPosition, NodeId, Raft, ReplicaId, Role,
};
use raftyard_storage::wal::BatchSeq;
use std::collections::VecDeque;
use std::io;
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
    machine: Box<dyn StateMachine>,
    /// Invariant: indexes rise from front to back.
    pending: VecDeque<Pending>,
    pub(super) reads: Reads,
    control: Option<Box<Control>>,
    /// Whether it is on the core's list of groups to poll.
    pub(super) dirty: bool,
    /// The last batch of the log that holds a record of this group.
    pub(super) last_batch: BatchSeq,
    /// What [`Raft::log_bytes`] was when the core last counted it.
    pub(super) log_bytes_counted: usize,
    /// How many reads waited when the core last counted them.
    pub(super) reads_counted: usize,
    /// What the log keeps of it.
    pub(super) kept: Kept,
    /// Why it stopped on this node.
    pub(super) failed: Option<String>,
}

/// The state machine panicked, or said that it can't go on.
#[derive(Debug)]
pub(super) struct MachineFailed {
    pub(super) reason: String,
}

impl GroupSlot {
    pub(super) fn new(raft: Raft, machine: Box<dyn StateMachine>) -> GroupSlot {
        GroupSlot {
            raft,
            machine,
            pending: VecDeque::new(),
            reads: Reads::default(),
            control: None,
            dirty: false,
            last_batch: BatchSeq(0),
            log_bytes_counted: 0,
            reads_counted: 0,
            kept: Kept::default(),
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

    /// What an operator waits for, made at need.
    pub(super) fn control(&mut self) -> &mut Control {
        self.control.get_or_insert_default()
    }

    /// When the first of those who wait has waited too long.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let proposal = self.pending.front().map(|pending| pending.expires);
        let control = self.control.as_ref().and_then(|control| control.next_expiry());
        proposal.into_iter().chain(self.reads.next_expiry()).chain(control).min()
    }

    /// Answers those who waited too long.
    pub(super) fn expire(&mut self, now: Instant, answers: &mut impl Extend<Answer>) {
        while let Some(late) = self.pending.pop_front_if(|front| front.expires <= now) {
            answers.extend([Answer::Propose(late.reply, Err(ProposeError::Unknown(Unknown::TimedOut)))]);
        }
        self.reads.expire(now, answers);
        if let Some(control) = &mut self.control {
            control.expire(now, answers);
        }
    }

    /// Answers everybody, because nothing more will be known here.
    pub(super) fn give_up(&mut self, why: Unknown, answers: &mut impl Extend<Answer>) {
        answers.extend(self.pending.drain(..).map(|lost| Answer::Propose(lost.reply, Err(ProposeError::Unknown(why)))));
        self.reads.give_up(why.into(), answers);
        if let Some(mut control) = self.control.take() {
            control.give_up(why, answers);
        }
    }

    /// Applies the next committed entries, if there are any, and answers whoever waits for them or can be answered now.
    ///
    /// # Errors
    /// The machine panicked; the group must not be used again, for nobody knows what the machine holds now.
    pub(super) fn apply(
        &mut self,
        bytes_max: usize,
        responses: &mut Responses,
        answers: &mut impl Extend<Answer>,
    ) -> Result<(), MachineFailed> {
        if let Some(entries) = self.raft.poll_committed(bytes_max) {
            let machine = &mut *self.machine;
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| feed(machine, entries, responses))) {
                drop(responses.drain());
                return Err(MachineFailed { reason: panic_text(panic.as_ref()) });
            }
            answer_applied(&mut self.pending, entries, responses, answers);
            if let Some(control) = &mut self.control {
                for entry in entries.0.iter().chain(entries.1) {
                    let held = configuration_of(entry);
                    control.handle_applied(entry, held.as_ref().map(|held| &held.configuration), answers);
                }
            }
        }
        if let Some(control) = &mut self.control {
            control.look(&self.raft, answers);
            self.control.take_if(|control| control.is_empty());
        }
        if self.reads.len() == 0 {
            return Ok(());
        }
        let served = self.reads.serve(&self.raft, &mut *self.machine, answers);
        served.map_err(|panic| MachineFailed { reason: panic_text(panic.as_ref()) })
    }

    /// What the machine holds durably; `None` if it is in memory.
    pub(super) fn durable(&self) -> Result<Option<Base>, MachineFailed> {
        contain(|| Ok(self.machine.durable()))
    }

    /// A picture of what the machine holds now: all that is applied.
    pub(super) fn snapshot(&mut self) -> Result<Option<Box<dyn SnapshotSource>>, MachineFailed> {
        contain(|| Ok(self.machine.snapshot()))
    }

    /// Where a snapshot for this group is put together.
    pub(super) fn restore(&mut self) -> Result<Option<Box<dyn SnapshotSink>>, MachineFailed> {
        contain(|| Ok(self.machine.restore()))
    }

    /// Puts the machine that holds a whole snapshot in the place of the old one. What was proposed here and is behind its
    /// position was committed or replaced, and nobody will know which.
    pub(super) fn install(
        &mut self,
        sink: Box<dyn SnapshotSink>,
        base: &Base,
        answers: &mut impl Extend<Answer>,
    ) -> Result<(), MachineFailed> {
        self.machine = contain(|| sink.finish(base))?;
        while let Some(lost) = self.pending.pop_front_if(|front| front.position.index <= base.position.index) {
            let result = Err(ProposeError::Unknown(Unknown::LeaderChanged));
            answers.extend([Answer::Propose(lost.reply, result)]);
        }
        if let Some(control) = &mut self.control {
            control.lose_sight(answers);
        }
        Ok(())
    }

    /// The replicas of this group that `node` holds; during a replacement there can be two.
    pub(super) fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = ReplicaId> + use<> {
        let mut found = [None; 2];
        let on_node = self.raft.configuration().members().iter().filter(|member| member.node == node);
        for (place, member) in found.iter_mut().zip(on_node) {
            *place = Some(member.replica);
        }
        found.into_iter().flatten()
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
            leader: raft.leader().map(|leader| leader.node),
            configuration: Arc::clone(raft.configuration()),
            configuration_index: raft.configuration_index(),
            last_index: raft.last().index,
            durable_index: raft.durable(),
            commit_index: raft.commit(),
            applied_index: raft.applied(),
        }
    }
}

/// Gives entries to the machine: commands in as few pieces as the configurations among them leave.
fn feed(machine: &mut dyn StateMachine, entries: Entries<'_>, responses: &mut Responses) {
    let mut all = entries.0.iter().chain(entries.1);
    if !all.any(|entry| entry.kind == EntryKind::Configuration) {
        return machine.apply(Commands::new(entries), responses);
    }
    let mut commands = 0;
    for run in [entries.0, entries.1] {
        for piece in run.split_inclusive(|entry| entry.kind == EntryKind::Configuration) {
            commands += piece.iter().filter(|entry| entry.kind == EntryKind::Command).count();
            machine.apply(Commands::new((piece, &[])), responses);
            responses.fill_up(commands);
            if let Some(last) = piece.last()
                && let Some(held) = configuration_of(last)
            {
                machine.apply_membership(last.index, &held.configuration, &held.context);
            }
        }
    }
}

fn configuration_of(entry: &Entry) -> Option<ConfigurationEntry> {
    let held = (entry.kind == EntryKind::Configuration).then(|| ConfigurationEntry::decode(&entry.data));
    held.map(|held| held.expect("the protocol takes no entry that it can't read"))
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

/// Calls a machine: an error of it or a panic says why it can't go on.
pub(super) fn contain<T>(call: impl FnOnce() -> io::Result<T>) -> Result<T, MachineFailed> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(MachineFailed { reason: error.to_string() }),
        Err(panic) => Err(MachineFailed { reason: panic_text(panic.as_ref()) }),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}
