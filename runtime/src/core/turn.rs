//! The end of a turn: every group that something happened to is polled once, its records join the batch, its messages
//! leave or wait, its committed entries are applied.

use super::deadlines::Slot;
use super::durable::{HeldMessage, Waiting};
use super::port::{Notice, Output};
use super::slot::GroupSlot;
use super::{Core, Phase};
use crate::mail::{Answer, CreateGroupError, RemoveError, Unavailable, Unknown};
use raftyard_raft::planted::{Bug, planted};
use raftyard_raft::{Body, Durability, Entry, Instant, Message, NodeId, Outgoing, Persist, ReplicaId, Term};
use raftyard_storage::wal::StateChange;
use std::time::Duration;

/// Bytes applied to one group in one turn; the rest follows in the next, so that others get their turn.
const APPLY_BYTES_MAX: usize = 1 << 20;
/// After so long without a batch the log gets one that proves the one before durable.
const SEAL_AFTER: Duration = Duration::from_millis(5);

impl Core {
    /// Ends the turn: call it after the inputs that were at hand, then carry out all outputs.
    pub fn end_turn(&mut self) {
        if matches!(self.phase, Phase::Running | Phase::Stopping) {
            self.record_losses();
            self.record_removals();
            self.record_creations();
            self.receive_snapshots();
            self.poll_groups();
            self.compact_logs();
            self.send_snapshots();
            self.evict();
        }
        self.wal.submit();
        self.seal_at = if self.wal.wants_seal() { self.seal_at.or(Some(self.now.after(SEAL_AFTER))) } else { None };
        self.poll_disk();
        self.links.flush(&mut self.outputs);
        self.end_shutdown();
    }

    fn poll_disk(&mut self) {
        while let Some((id, op)) = self.wal.poll_io() {
            self.outputs.push_back(Output::Io { id, op });
        }
    }

    /// Lets everything go on that waited for a batch which is durable now.
    pub(super) fn release(&mut self, now: Instant) {
        if let Some(failure) = self.wal.failure() {
            if self.phase != Phase::Failed {
                let failure = failure.to_string();
                self.fail(now, failure);
            }
            return;
        }
        let released = self.wal.released();
        while let Some(waiting) = self.durable.pop_released(released) {
            match waiting {
                Waiting::Receipt(slot, receipt) => {
                    self.groups[slot as usize].raft.handle_persisted(receipt);
                    self.mark_dirty(slot);
                }
                Waiting::Message(slot, held) => self.send_held(slot, held),
                Waiting::Creation(creation) => self.create(now, *creation),
                Waiting::Reopening(slot, recovered) => self.reopen(slot, now, *recovered),
                Waiting::Removal(slot, reply) => {
                    self.free_slots.push(slot);
                    self.answer(Answer::RemoveGroup(reply, Ok(())));
                }
                Waiting::Peer(link) => self.peer_recorded(now, link),
                Waiting::Compacted(reply) => self.answer(Answer::Compact(reply, Ok(()))),
            }
        }
    }

    fn record_creations(&mut self) {
        while self.wal.has_room() {
            let Some(creation) = self.creations.pop_front() else { return };
            let seq = self.wal.record_creation(creation.group, creation.replica, &creation.configuration);
            self.durable.push(seq, Waiting::Creation(creation));
        }
    }

    fn poll_groups(&mut self) {
        let mut dirty = std::mem::take(&mut self.dirty);
        let mut polled = 0;
        for &slot in &dirty {
            if !self.wal.has_room() {
                break;
            }
            self.groups[slot as usize].dirty = false;
            self.poll_group(slot);
            polled += 1;
        }
        dirty.drain(..polled);
        // Those that found no room come first next time; those that poll_group marked again follow.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
    }

    fn poll_group(&mut self, slot: Slot) {
        if self.groups[slot as usize].failed.is_some() {
            return;
        }
        self.poll_persist(slot);
        self.poll_messages(slot);
        self.apply(slot);
        if self.groups[slot as usize].failed.is_none() {
            self.poll_fetches(slot);
            self.look_at_log(slot);
        }
        self.count_log_bytes(slot);
        self.count_reads(slot);
        self.schedule(slot);
    }

    /// Brings the number of waiting reads up to date after some were added or answered.
    pub(super) fn count_reads(&mut self, slot: Slot) {
        let group = &mut self.groups[slot as usize];
        self.reads = self.reads + group.reads.len() - group.reads_counted;
        group.reads_counted = group.reads.len();
    }

    /// Brings the sum of the log's memory up to date after an input.
    pub(super) fn count_log_bytes(&mut self, slot: Slot) {
        let group = &mut self.groups[slot as usize];
        let log_bytes = group.raft.log_bytes();
        self.log_bytes = self.log_bytes + log_bytes - group.log_bytes_counted;
        group.log_bytes_counted = log_bytes;
    }

    /// Makes sure that a group's next deadline is noticed, also while its turn to be polled does not come.
    pub(super) fn schedule(&mut self, slot: Slot) {
        let group = &self.groups[slot as usize];
        if let Some(at) = group.raft.deadline().into_iter().chain(group.next_expiry()).min() {
            self.deadlines.schedule(slot, at);
        }
    }

    fn poll_persist(&mut self, slot: Slot) {
        let group = &mut self.groups[slot as usize];
        let (id, replica) = (group.raft.group(), group.raft.replica());
        while self.wal.has_room() {
            let Some(persist) = group.raft.poll_persist(self.wal.room_bytes()) else { return };
            let Persist { base, hard_state, limit, entries, receipt } = persist;
            if base.is_some() || limit.is_some() {
                let reset = base.is_some();
                let base = base.map(|b| (b.position, (*b.configuration).clone(), b.configuration_index));
                // A machine in memory that took the place of the log counts from the record that says so. Of one that is
                // ahead of its log without that, the log has the snapshot already.
                let snapshot = group.kept.snapshot.filter(|_| reset);
                let change = StateChange { base, reset, hard_state, limit, snapshot };
                self.wal.record_state(id, replica, change);
                group.kept.reset_due &= !reset;
            }
            let costs = entries.0.iter().chain(entries.1).map(Entry::cost);
            group.kept.entry_bytes += costs.sum::<usize>() as u64;
            let seq = self.wal.record_group(id, replica, hard_state, entries);
            self.durable.push(seq, Waiting::Receipt(slot, receipt));
            group.last_batch = seq;
        }
        // The batch is full; whatever is left goes into the next.
        self.mark_dirty(slot);
    }

    fn poll_messages(&mut self, slot: Slot) {
        let released = self.wal.released();
        let mut lacking: Vec<(NodeId, ReplicaId, Term)> = Vec::new();
        let GroupSlot { raft, last_batch, .. } = &mut self.groups[slot as usize];
        let held_until = (*last_batch > released && !planted(Bug::AnswerBeforeDurable)).then_some(*last_batch);
        while let Some(outgoing) = raft.poll_message() {
            let Outgoing { message, node, durability } = outgoing;
            if let Body::Snapshot { .. } = message.body {
                lacking.push((node, message.to, message.term));
                continue;
            }
            if let (Durability::AfterPersist, Some(seq)) = (durability, held_until) {
                let Message { group, from, to, term, body } = message;
                let body = body.detached().expect("an append leaves at once");
                self.durable.push(seq, Waiting::Message(slot, HeldMessage { group, from, to, term, body, node }));
                continue;
            }
            let to = message.to;
            if !self.links.send(node, &message) {
                // Nothing more of this turn goes there but one append, which tells what arrived.
                raft.handle_unreachable(to);
            }
        }
        for (node, to, term) in lacking {
            self.want_snapshot(slot, node, to, term);
        }
    }

    fn send_held(&mut self, slot: Slot, held: HeldMessage) {
        if !self.links.send(held.node, &held.message()) {
            self.groups[slot as usize].raft.handle_unreachable(held.to);
        }
    }

    fn apply(&mut self, slot: Slot) {
        let group = &mut self.groups[slot as usize];
        match group.apply(APPLY_BYTES_MAX, &mut self.responses, &mut self.outputs) {
            Ok(()) => {
                let raft = &group.raft;
                if raft.commit().min(raft.durable()) > raft.applied() {
                    self.mark_dirty(slot);
                }
            }
            Err(panicked) => self.fail_group(slot, panicked.reason),
        }
    }

    /// Stops one group on this node. It says nothing more to anybody; its other replicas elect another leader.
    pub(super) fn fail_group(&mut self, slot: Slot, reason: String) {
        let group = &mut self.groups[slot as usize];
        tracing::error!(group = %group.raft.group(), %reason, "the group failed on this node");
        group.failed = Some(reason);
        group.give_up(Unknown::GroupFailed, &mut self.outputs);
        self.drop_snapshots(slot);
    }

    /// The log failed (promise 3): nothing is acknowledged any more, every group stops leading, the peers hear
    /// nothing, and whoever waits is told.
    fn fail(&mut self, now: Instant, failure: String) {
        self.phase = Phase::Failed;
        let notice = Notice::WalFailed { core: self.config.core, failure };
        self.outputs.push_back(Output::Notice(notice));
        self.links.close_all(&mut self.outputs);
        for group in &mut self.groups {
            group.raft.step_down(now);
            group.give_up(Unknown::WalFailed, &mut self.outputs);
        }
        self.drop_all_snapshots(Unavailable::WalFailed);
        let recorded: Vec<Waiting> = self.durable.drain().collect();
        for (_, reply) in self.removals.drain(..) {
            let error = RemoveError::Unavailable(Unavailable::WalFailed);
            self.outputs.extend([Answer::RemoveGroup(reply, Err(error))]);
        }
        for creation in self.creations.drain(..) {
            self.outputs.extend([Answer::CreateGroup(creation.reply, Err(CreateGroupError::WalFailed))]);
        }
        for waiting in recorded {
            match waiting {
                Waiting::Creation(creation) => {
                    self.outputs.extend([Answer::CreateGroup(creation.reply, Err(CreateGroupError::WalFailed))]);
                }
                Waiting::Removal(_, reply) => {
                    let error = RemoveError::Unavailable(Unavailable::WalFailed);
                    self.outputs.extend([Answer::RemoveGroup(reply, Err(error))]);
                }
                Waiting::Compacted(reply) => {
                    self.outputs.extend([Answer::Compact(reply, Err(Unavailable::WalFailed.into()))]);
                }
                Waiting::Receipt(..) | Waiting::Message(..) | Waiting::Reopening(..) | Waiting::Peer(_) => {}
            }
        }
    }

    /// Answers a shutdown once everybody has an answer: proposals under way are finished or expire. Batches for the
    /// groups of other leaders may still be in flight; what was not acknowledged of them is sent again.
    fn end_shutdown(&mut self) {
        let finished = || self.creating.is_empty() && self.groups.iter().all(|group| group.next_expiry().is_none());
        if self.phase == Phase::Stopping && finished() && self.wal.is_idle() {
            self.phase = Phase::Closing;
            self.drop_all_snapshots(Unavailable::Stopped);
            self.links.close_all(&mut self.outputs);
            self.wal.close();
            self.wal.submit();
            self.poll_disk();
        }
        if self.wal.is_closed() {
            self.outputs.extend(self.shutdowns.drain(..).map(Answer::Shutdown));
        }
    }

    /// A peer's node can't be reached: what was sent to it may be lost.
    pub(super) fn handle_unreachable(&mut self, node: NodeId) {
        self.hasten_settling(self.now, node);
        for group in &mut self.groups {
            for replica in group.replicas_on(node) {
                group.raft.handle_unreachable(replica);
            }
        }
    }
}
