//! Snapshots that come from leaders. Their pieces go into the machine's staging place and, for a machine in memory, into the
//! log too; a piece is answered when it is there. When all are, the protocol decides, and only if it takes the snapshot in
//! the place of its log does the new machine take that of the old one: in the same turn, before anything is applied.
//!
//! Order. A machine with a disk is durable before the record that resets the log is in a batch: a crash in between leaves a
//! machine ahead of its log, which the protocol accepts. A machine in memory is named by that very record, which stands
//! behind its pieces: a crash anywhere before leaves the old log and the old snapshot.

use super::Core;
use super::compaction::Kept;
use super::config::CoreConfig;
use super::deadlines::Slot;
use super::port::LinkId;
use super::saving::{TURN_BYTES_MAX, envelope};
use super::sending::WINDOW_PIECES;
use super::slot::contain;
use crate::group::SnapshotSink;
use crate::wire::{Said, SnapshotAnswer, SnapshotBegin, SnapshotChunk, SnapshotEnd, TransferId};
use bytes::Bytes;
use raftyard_raft::planted::{Bug, planted};
use raftyard_raft::{Body, Instant, Limit, LogIndex, Message, Sender};
use std::collections::VecDeque;

/// A snapshot that comes.
struct Incoming {
    slot: Slot,
    link: LinkId,
    sender: Sender,
    begin: SnapshotBegin,
    sink: Box<dyn SnapshotSink>,
    received: u64,
    checksum: u32,
    /// Of a machine in memory.
    log: Option<InLog>,
    /// The last piece came.
    whole: bool,
    moved_at: Instant,
}

/// How much of it is in the log.
#[derive(Debug)]
struct InLog {
    /// Pieces to be recorded. Bounded by what may be sent ahead.
    waiting: VecDeque<Bytes>,
    /// Bytes recorded.
    recorded: u64,
    /// Of them those that stand before the machine's own.
    envelope_bytes: u64,
}

impl InLog {
    /// Bytes of the machine that are recorded.
    fn taken(&self) -> u64 {
        self.recorded.saturating_sub(self.envelope_bytes)
    }
}

/// What is being received.
#[derive(Default)]
pub(super) struct Receiving {
    /// Bounded by `snapshots_max`; at most one a group.
    incoming: Vec<Incoming>,
}

impl Receiving {
    /// Whether something waits for room in a batch.
    pub(super) fn wants_room(&self) -> bool {
        self.incoming.iter().any(|coming| coming.log.as_ref().is_some_and(|log| !log.waiting.is_empty()))
    }

    pub(super) fn next_deadline(&self, config: &CoreConfig) -> Option<Instant> {
        self.incoming.iter().map(|coming| coming.moved_at.after(config.snapshot_timeout)).min()
    }

    fn find(&self, link: LinkId, transfer: TransferId) -> Option<usize> {
        self.incoming.iter().position(|coming| coming.link == link && coming.begin.transfer == transfer)
    }
}

impl Core {
    pub(super) fn handle_snapshot_begin(&mut self, now: Instant, link: LinkId, sender: Sender, begin: SnapshotBegin) {
        let transfer = begin.transfer;
        let answer = match self.begin_receiving(now, link, sender, &begin) {
            Ok(incoming) => {
                self.receiving.incoming.push(incoming);
                return;
            }
            Err(said) => SnapshotAnswer { transfer, said },
        };
        self.send_snapshot_answer(sender, begin.group, &answer);
    }

    fn begin_receiving(
        &mut self,
        now: Instant,
        link: LinkId,
        sender: Sender,
        begin: &SnapshotBegin,
    ) -> Result<Incoming, Said> {
        let position = begin.base.position;
        let Some(&slot) = self.by_group.get(&begin.group) else {
            self.counters.messages_without_group += 1;
            return Err(Said::Failed);
        };
        self.end_receiving_of(slot);
        let group = &mut self.groups[slot as usize];
        let raft = &group.raft;
        if group.failed.is_some() || raft.limit() == Limit::Amnesia || raft.replica() != begin.to {
            return Err(Said::Failed);
        }
        if begin.base.configuration.is_empty() || position.index == LogIndex(0) || position.term > begin.term {
            self.counters.messages_refused += 1;
            return Err(Said::Failed);
        }
        let has_it = position.index <= raft.commit() || raft.entry_term(position.index) == Some(position.term);
        if has_it || begin.term < raft.term() {
            // It needs no snapshot, and its answer says so.
            self.tell_protocol(now, sender, slot, begin);
            return Err(Said::Done);
        }
        let full = self.receiving.incoming.len() >= self.config.snapshots_max;
        if full || group.kept.reset_due || self.wal.is_full() {
            return Err(Said::Busy);
        }
        let opened = group.durable().and_then(|durable| Ok((durable.is_none(), group.restore()?)));
        let (in_memory, sink) = match opened {
            Ok(opened) => opened,
            Err(failed) => {
                self.fail_group(slot, failed.reason);
                return Err(Said::Failed);
            }
        };
        let Some(sink) = sink else {
            tracing::warn!(group = %begin.group, "this replica needs a snapshot, and its state machine takes none");
            return Err(Said::Failed);
        };
        if let Some(place) = self.savings.iter().position(|saving| saving.slot == slot) {
            // The log has room for one of each group at a time, and this one goes further.
            let saving = self.savings.swap_remove(place);
            self.end_saving(saving, crate::mail::CompactError::Overtaken);
        }
        let head = envelope(&begin.base);
        let envelope_bytes = head.len() as u64;
        let log = in_memory.then(|| InLog { waiting: VecDeque::from([head]), recorded: 0, envelope_bytes });
        let begin = begin.clone();
        Ok(Incoming { slot, link, sender, begin, sink, received: 0, checksum: 0, log, whole: false, moved_at: now })
    }

    pub(super) fn handle_snapshot_chunk(&mut self, now: Instant, link: LinkId, chunk: SnapshotChunk, piece: &[u8]) {
        let piece_bytes_max = self.piece_bytes_max();
        let Some(place) = self.receiving.find(link, chunk.transfer) else { return };
        let coming = &mut self.receiving.incoming[place];
        if chunk.offset < coming.received {
            return;
        }
        let bytes_max = WINDOW_PIECES * piece_bytes_max as u64;
        let ahead = coming.log.as_ref().map_or(0, |log| coming.received - log.taken());
        let fits = (1..=piece_bytes_max).contains(&piece.len()) && ahead < bytes_max;
        if chunk.offset > coming.received || coming.whole || !fits {
            return self.fail_receiving(place);
        }
        if let Err(failed) = contain(|| coming.sink.write(piece)) {
            let slot = coming.slot;
            self.fail_receiving(place);
            return self.fail_group(slot, failed.reason);
        }
        let coming = &mut self.receiving.incoming[place];
        coming.received += piece.len() as u64;
        coming.checksum = crc32c::crc32c_append(coming.checksum, piece);
        coming.moved_at = now;
        match &mut coming.log {
            Some(log) => log.waiting.push_back(Bytes::copy_from_slice(piece)),
            None => {
                let taken = coming.received;
                self.answer_snapshot(place, Said::Taken(taken));
            }
        }
    }

    pub(super) fn handle_snapshot_end(&mut self, now: Instant, link: LinkId, end: &SnapshotEnd) {
        let Some(place) = self.receiving.find(link, end.transfer) else { return };
        let coming = &mut self.receiving.incoming[place];
        if (end.bytes, end.checksum) != (coming.received, coming.checksum) {
            return self.fail_receiving(place);
        }
        (coming.whole, coming.moved_at) = (true, now);
    }

    pub(super) fn handle_snapshot_abort(&mut self, link: LinkId, transfer: TransferId) {
        if let Some(place) = self.receiving.find(link, transfer) {
            self.end_receiving(place);
        }
    }

    /// Records pieces, as far as the batch has room, and hands what is whole to the protocol.
    pub(super) fn receive_snapshots(&mut self) {
        let mut budget = TURN_BYTES_MAX;
        for coming in &mut self.receiving.incoming {
            let Some(log) = &mut coming.log else { continue };
            let replica = coming.begin.to;
            let (group, position) = (coming.begin.group, coming.begin.base.position);
            let before = log.recorded;
            while self.wal.has_room()
                && budget > 0
                && let Some(piece) = log.waiting.pop_front()
            {
                self.wal.record_chunk(group, replica, position, log.recorded, &piece);
                log.recorded += piece.len() as u64;
                budget = budget.saturating_sub(piece.len());
            }
            if log.recorded > before.max(log.envelope_bytes) {
                let taken = Said::Taken(log.taken());
                let answer = SnapshotAnswer { transfer: coming.begin.transfer, said: taken };
                let mut body = Vec::new();
                answer.write(&mut body);
                // If it doesn't get there, the next one says it too, or the transfer begins anew.
                self.links.send_answer(coming.sender.node, group, &body);
            }
        }
        let recorded = |log: &InLog| log.waiting.is_empty();
        let ready = |coming: &Incoming| coming.whole && coming.log.as_ref().is_none_or(recorded);
        while let Some(place) = self.receiving.incoming.iter().position(ready) {
            let coming = self.receiving.incoming.swap_remove(place);
            self.install(coming);
        }
    }

    /// A snapshot is whole here: the protocol takes it in the place of its log, or has no need of it any more.
    fn install(&mut self, coming: Incoming) {
        let Incoming { slot, sender, begin, sink, log, .. } = coming;
        let position = begin.base.position;
        let before = self.groups[slot as usize].raft.base().position;
        self.tell_protocol(self.now, sender, slot, &begin);
        let group = &mut self.groups[slot as usize];
        let taken = before != position && group.raft.base().position == position;
        if taken || planted(Bug::SnapshotUnasked) {
            let snapshot = log.map(|log| (position, log.recorded));
            let kept = Kept { base: position.index, snapshot, reset_due: true, ..Kept::default() };
            let queued = group.kept.queued;
            group.kept = Kept { queued, ..kept };
            if let Err(failed) = group.install(sink, &begin.base, &mut self.outputs) {
                return self.fail_group(slot, failed.reason);
            }
            self.counters.snapshots_installed += 1;
        } else {
            self.wal.abandon_snapshot(begin.group);
        }
        let answer = SnapshotAnswer { transfer: begin.transfer, said: Said::Done };
        self.send_snapshot_answer(sender, begin.group, &answer);
    }

    fn tell_protocol(&mut self, now: Instant, sender: Sender, slot: Slot, begin: &SnapshotBegin) {
        let (last, configuration) = (begin.base.position, &*begin.base.configuration);
        let body = Body::Snapshot { last, configuration, configuration_index: begin.base.configuration_index };
        let message = Message { group: begin.group, from: begin.from, to: begin.to, term: begin.term, body };
        if let Err(error) = self.groups[slot as usize].raft.handle_message(now, sender, message) {
            self.counters.messages_refused += 1;
            tracing::debug!(node = %sender.node, group = %begin.group, %error, "snapshot refused");
        }
        self.count_log_bytes(slot);
        self.mark_dirty(slot);
    }

    /// Whether a snapshot comes for this group.
    pub(super) fn is_receiving(&self, slot: Slot) -> bool {
        self.receiving.incoming.iter().any(|coming| coming.slot == slot)
    }

    pub(super) fn end_receiving_on(&mut self, link: LinkId) {
        while let Some(place) = self.receiving.incoming.iter().position(|coming| coming.link == link) {
            self.end_receiving(place);
        }
    }

    pub(super) fn end_receiving_of(&mut self, slot: Slot) {
        while let Some(place) = self.receiving.incoming.iter().position(|coming| coming.slot == slot) {
            self.end_receiving(place);
        }
    }

    pub(super) fn end_stalled_receiving(&mut self, now: Instant) {
        let timeout = self.config.snapshot_timeout;
        while let Some(place) = self.receiving.incoming.iter().position(|coming| coming.moved_at.after(timeout) <= now)
        {
            self.fail_receiving(place);
        }
    }

    fn fail_receiving(&mut self, place: usize) {
        self.answer_snapshot(place, Said::Failed);
        self.end_receiving(place);
    }

    /// Gives up what came of it. The machine and its log stay as they were.
    fn end_receiving(&mut self, place: usize) {
        let coming = self.receiving.incoming.swap_remove(place);
        self.wal.abandon_snapshot(coming.begin.group);
    }

    fn answer_snapshot(&mut self, place: usize, said: Said) {
        let coming = &self.receiving.incoming[place];
        let (sender, group) = (coming.sender, coming.begin.group);
        let answer = SnapshotAnswer { transfer: coming.begin.transfer, said };
        self.send_snapshot_answer(sender, group, &answer);
    }

    fn send_snapshot_answer(&mut self, sender: Sender, group: raftyard_raft::GroupId, answer: &SnapshotAnswer) {
        let mut body = Vec::new();
        answer.write(&mut body);
        // If it doesn't get there, the sender notices that nothing moves.
        self.links.send_answer(sender.node, group, &body);
    }
}
