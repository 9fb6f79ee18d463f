//! How a group's log stays short: what was applied is given up, but for what peers that lag may still need, when a machine
//! holds it durably: on a disk of its own, or as a snapshot in the log.
//!
//! Entries are forgotten in memory as soon as the record that gives them up is in the batch, which nobody waits for. That
//! takes nothing from recovery, which reads the disk alone: until the record is durable the log begins where it did, and
//! the entries are there, because the log frees no bytes before what made them dead is durable. Nor can anybody miss them
//! who is here: they are applied. And a snapshot counts only by a record that stands behind all of its pieces.

use super::deadlines::Slot;
use super::durable::Waiting;
use super::saving::Wish;
use super::slot::GroupSlot;
use super::{Core, CoreConfig};
use crate::mail::{Answer, CompactError, Limit, Reply, Unavailable};
use raftyard_raft::planted::{Bug, planted};
use raftyard_raft::{GroupId, LogIndex, LogPosition};
use raftyard_storage::wal::{BatchSeq, StateChange};

/// Groups whose logs are looked at or given up in one turn.
const COMPACTIONS_MAX: usize = 256;
/// Requests to compact a log that wait.
const WISHES_MAX: usize = 1024;

/// What the log keeps of a group.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Where its log begins.
    pub(super) base: LogIndex,
    /// Bytes of its entries, about.
    pub(super) entry_bytes: u64,
    /// The snapshot of its machine that counts: position, bytes. Only machines in memory have one there.
    pub(super) snapshot: Option<(LogPosition, u64)>,
    /// A machine took the place of its log, and no record says so yet. Until one does, none may give up entries.
    pub(super) reset_due: bool,
    /// It is on the list of logs to compact.
    pub(super) queued: bool,
    /// Its machine gives no snapshots, so its log is never compacted.
    pub(super) bound: bool,
}

impl Core {
    /// Notes that a group's log is too long, if it is.
    pub(super) fn look_at_log(&mut self, slot: Slot) {
        let full = self.wal.is_full();
        let group = &mut self.groups[slot as usize];
        if group.failed.is_none() && !group.kept.queued && group.is_long(&self.config, full) {
            group.kept.queued = true;
            self.compactions.push_back(slot);
        }
    }

    /// Compacts logs, as far as the batch has room.
    pub(super) fn compact_logs(&mut self) {
        if self.wal.is_full() && !self.groups.is_empty() {
            for _ in 0..self.groups.len().min(COMPACTIONS_MAX) {
                self.compact_hand = (self.compact_hand + 1) % self.groups.len();
                self.look_at_log(Slot::try_from(self.compact_hand).expect("a core hosts fewer than 2^32 groups"));
            }
        }
        self.grant_wishes();
        self.save_snapshots();
        for _ in 0..self.compactions.len().min(COMPACTIONS_MAX) {
            if !self.wal.has_room() {
                return;
            }
            let Some(slot) = self.compactions.pop_front() else { return };
            let group = &mut self.groups[slot as usize];
            group.kept.queued = false;
            if group.failed.is_none() && !self.compact_log(slot) {
                self.groups[slot as usize].kept.queued = true;
                self.compactions.push_back(slot);
            }
        }
    }

    /// Compacts a log, or begins to. False: it has to wait.
    fn compact_log(&mut self, slot: Slot) -> bool {
        let group = &self.groups[slot as usize];
        let applied = group.raft.applied();
        if group.kept.reset_due {
            return false;
        }
        match group.durable() {
            Err(failed) => self.fail_group(slot, failed.reason),
            Ok(Some(durable)) => {
                self.give_up_entries(slot, durable.position.index.min(applied), None, LogIndex(0));
            }
            Ok(None) => {
                let saved = group.kept.snapshot.map_or(LogIndex(0), |(position, _)| position.index);
                if self.wal.is_full() && saved > group.kept.base {
                    self.give_up_entries(slot, saved, None, LogIndex(0));
                } else if planted(Bug::CompactedUnsaved) {
                    self.give_up_entries(slot, applied, None, LogIndex(0));
                } else {
                    return self.begin_saving(slot, None);
                }
            }
        }
        true
    }

    /// Records that a group's log begins later, given what its machine holds durably up to `held`, or in the snapshot that
    /// this record names; at `at_least` or later if somebody asked for that. `None`: there was nothing to record.
    pub(super) fn give_up_entries(
        &mut self,
        slot: Slot,
        held: LogIndex,
        snapshot: Option<(LogPosition, u64)>,
        at_least: LogIndex,
    ) -> Option<BatchSeq> {
        let full = self.wal.is_full();
        let GroupSlot { raft, kept, .. } = &mut self.groups[slot as usize];
        assert!(held <= raft.applied() && held <= raft.durable(), "only what is applied and durable is given up");
        let last = raft.last().index;
        let index = LogIndex(held.0.saturating_sub(kept.retained(&self.config, last, full)));
        let index = index.max(at_least).max(kept.base).min(held.max(kept.base));
        // Who was a member then may be known only later in the log.
        let base = raft.base_at(index).or_else(|| raft.base_at(held)).filter(|base| base.position.index > kept.base);
        if base.is_none() && snapshot.is_none() {
            return None;
        }
        let begins = base.as_ref().map(|b| (b.position, (*b.configuration).clone(), b.configuration_index));
        let change = StateChange { base: begins, snapshot, ..StateChange::default() };
        let seq = self.wal.record_state(raft.group(), raft.replica(), change);
        kept.snapshot = snapshot.or(kept.snapshot);
        if let Some(base) = base {
            let index = base.position.index;
            raft.compact(index).expect("it is applied, above the base, and its members are known");
            kept.begin(index, last);
            self.counters.logs_compacted += 1;
            self.count_log_bytes(slot);
        }
        Some(seq)
    }

    pub(super) fn handle_compact(&mut self, group: GroupId, index: LogIndex, reply: CompactReply) {
        let checked = self.check_compact(group, index);
        match checked {
            Ok(slot) if index == self.groups[slot as usize].kept.base => self.answer(Answer::Compact(reply, Ok(()))),
            Ok(slot) => self.wishes.push_back(Wish { slot, group, index, reply }),
            Err(error) => self.answer(Answer::Compact(reply, Err(error))),
        }
    }

    fn check_compact(&mut self, group: GroupId, index: LogIndex) -> Result<Slot, CompactError> {
        let slot = self.available(group)?;
        let GroupSlot { raft, kept, .. } = &self.groups[slot as usize];
        let (applied, base) = (raft.applied(), kept.base);
        if index > applied {
            return Err(CompactError::NotApplied { index, applied });
        }
        if index < base {
            return Err(CompactError::Compacted { index, base });
        }
        if index > base && raft.base_at(index).is_none() {
            return Err(CompactError::MembersUnknown { index });
        }
        match self.groups[slot as usize].durable() {
            Err(failed) => {
                self.fail_group(slot, failed.reason);
                Err(Unavailable::GroupFailed.into())
            }
            Ok(Some(durable)) if index > durable.position.index => {
                Err(CompactError::NotDurable { index, durable: durable.position.index })
            }
            _ if self.wishes.len() >= WISHES_MAX => Err(Unavailable::Overloaded(Limit::Compactions).into()),
            _ => Ok(slot),
        }
    }

    /// Does what was asked for, as far as the batch has room; what needs a snapshot first waits for that.
    fn grant_wishes(&mut self) {
        for _ in 0..self.wishes.len() {
            if !self.wal.has_room() {
                return;
            }
            let Some(wish) = self.wishes.pop_front() else { return };
            if self.by_group.get(&wish.group) != Some(&wish.slot) || self.groups[wish.slot as usize].failed.is_some() {
                let error = Unavailable::GroupFailed.into();
                self.answer(Answer::Compact(wish.reply, Err(error)));
                continue;
            }
            self.grant(wish);
        }
    }

    fn grant(&mut self, wish: Wish) {
        let Wish { slot, index, .. } = wish;
        let group = &self.groups[slot as usize];
        let held = match group.durable() {
            Ok(Some(durable)) => durable.position.index.min(group.raft.applied()),
            Ok(None) => group.kept.snapshot.map_or(LogIndex(0), |(position, _)| position.index),
            Err(failed) => {
                self.fail_group(slot, failed.reason);
                return self.answer(Answer::Compact(wish.reply, Err(Unavailable::GroupFailed.into())));
            }
        };
        if group.kept.reset_due {
            return self.wishes.push_back(wish);
        }
        if held < index {
            // A machine in memory, whose snapshot must be in the log first.
            self.begin_saving(slot, Some(wish));
            return;
        }
        match self.give_up_entries(slot, held, None, index) {
            Some(seq) => self.durable.push(seq, Waiting::Compacted(wish.reply)),
            None => self.answer(Answer::Compact(wish.reply, Ok(()))),
        }
    }
}

/// Where the answer to a request to compact goes.
pub(super) type CompactReply = Reply<Result<(), CompactError>>;

impl GroupSlot {
    /// Whether it is time to compact the log: when it holds twice what is kept for peers that lag, and more beyond that
    /// than the snapshot takes that has to be written for it. On a full disk, when anything would be gained.
    fn is_long(&self, config: &CoreConfig, full: bool) -> bool {
        let kept = &self.kept;
        let entries = self.raft.applied().0 - kept.base.0;
        let snapshot_bytes = kept.snapshot.map_or(0, |(_, bytes)| bytes);
        if entries == 0 || kept.bound {
            return false;
        }
        if full {
            return kept.entry_bytes > snapshot_bytes;
        }
        kept.entry_bytes > config.retain_bytes.saturating_add(config.retain_bytes.max(snapshot_bytes))
            || (entries > config.retain_entries.saturating_mul(2) && kept.entry_bytes > snapshot_bytes)
    }
}

impl Kept {
    /// How many entries are kept for peers that lag.
    fn retained(&self, config: &CoreConfig, last: LogIndex, full: bool) -> u64 {
        let average = self.entry_bytes / (last.0 - self.base.0).max(1);
        if full { 0 } else { config.retain_entries.min(config.retain_bytes / average.max(1)) }
    }

    /// The log, which ends at `last`, begins at `base` now.
    fn begin(&mut self, base: LogIndex, last: LogIndex) {
        let (before, after) = (last.0 - self.base.0, last.0 - base.0);
        let bytes = u128::from(self.entry_bytes) * u128::from(after) / u128::from(before.max(1));
        self.entry_bytes = u64::try_from(bytes).expect("no more than before");
        self.base = base;
    }
}
