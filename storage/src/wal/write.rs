//! Batches: from filling to released, segment after segment, and the files that the next segments are made of.

use super::config::WalConfig;
use super::files::{Free, Handle, path, short};
use super::fill::Fill;
use super::prepare::Preparation;
use super::{Closing, OpenSegment, Purpose, Wal, place};
use crate::format::batch::{self, BatchHeader};
use crate::format::segment::{BATCHES_OFFSET, PreviousSegment, SegmentHeader};
use crate::format::{BatchSeq, FORMAT_VERSION, Writer};
use crate::io::{BLOCK_BYTES, IoOp, SegmentNumber, WriteMode};
use crate::seed::salt;
use raftyard_raft::planted::{Bug, planted};

/// Files of the reserve are numbered from here on, so that no segment's file is called like one of them.
pub(super) const RESERVE_NUMBERS: u64 = 1_000_000_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Submitted {
    pub(super) sequence: BatchSeq,
    /// Its segment, and where it starts there, in bytes.
    pub(super) starts: (u32, u32),
    pub(super) complete: bool,
}

impl Wal {
    /// Submits the batch that fills, if it holds anything, a write may be in flight, and a segment has room. Otherwise
    /// it fills on; call again after a completion. The write comes out of [`Wal::poll_io`].
    pub fn submit(&mut self) {
        if self.failure.is_some() || self.submitted.len() >= self.config.depth {
            return;
        }
        self.go_on_closing();
        self.advance_checkpoint();
        self.advance_reclaim();
        if !self.fill.is_empty() {
            self.write(false);
        }
    }

    /// Whether the newest batches want another one after them, which proves them durable on this disk alone: call
    /// [`Wal::seal`] after a while without a batch.
    #[must_use]
    pub fn wants_seal(&self) -> bool {
        let unproved = self.fill.echo_len() > 0 || self.reclaim.awaits_batch();
        self.failure.is_none() && unproved && self.is_idle()
    }

    /// Writes a batch without records, if [`Wal::wants_seal`]. The write comes out of [`Wal::poll_io`].
    pub fn seal(&mut self) {
        if self.wants_seal() {
            self.write(false);
        }
    }

    /// Begins a clean stop: nothing may be recorded from now on. Go on with [`Wal::submit`] and [`Wal::poll_io`] until
    /// [`Wal::is_closed`].
    pub fn close(&mut self) {
        if self.closing == Closing::No {
            self.closing = Closing::Checkpoint;
            self.begin_checkpoint_to_close();
        }
    }

    /// Whether the stop is complete, cleanly or because the log failed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.failure.is_some() || matches!(self.closing, Closing::Mark(mark) if mark <= self.released)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing != Closing::No
    }

    fn go_on_closing(&mut self) {
        let checkpointed = self.closing == Closing::Checkpoint && !self.checkpoints.is_under_way();
        if checkpointed && self.is_idle() {
            let mark = self.filling;
            if self.write(true) {
                self.closing = Closing::Mark(mark);
            }
        }
    }

    /// Hands out the write of the batch that fills; says whether a segment had room for it.
    fn write(&mut self, clean: bool) -> bool {
        let bytes = self.fill.len().next_multiple_of(BLOCK_BYTES) as u64;
        if self.segment.offset + bytes > self.segment.segment_bytes && !self.roll_over() {
            self.next_awaited = true;
            return false;
        }
        let count = |len: usize| u32::try_from(len).expect("a batch fits a segment, a segment fits 32 bits");
        let header = BatchHeader {
            opening: false,
            clean,
            after_loss: false,
            sequence: self.filling,
            durable_upto: self.durable_upto,
            previous_checksum: self.previous_checksum,
            checksum: 0,
            echo_len: count(self.fill.echo_len()),
            records_len: count(self.fill.records_len()),
            record_count: self.fill.record_count(),
            first_segment: self.first_segment,
        };
        self.checkpoints.handle_batch(place(&self.segment, self.filling));
        let filled = self.next_fill();
        let mut buffer = filled.into_buffer();
        buffer.pad_to_block();
        let (file, offset) = (self.segment.file, self.segment.offset);
        self.previous_checksum = batch::seal(&mut buffer, header, self.segment.checksum_seed, offset);
        let purpose = Purpose::Batch { sequence: self.filling, segment: self.segment.number };
        let mode = if planted(Bug::NoSync) { WriteMode::Volatile } else { self.config.mode };
        self.issue(purpose, IoOp::Write { file, offset, buffer, mode });
        let starts = (short(self.segment.number), u32::try_from(offset).expect("a segment fits 32 bits"));
        self.segment.offset += bytes;
        self.zero_budget += 2 * bytes;
        self.checkpoints.handle_written(bytes);
        self.reclaim.handle_written(bytes);
        self.submitted.push_back(Submitted { sequence: self.filling, starts, complete: false });
        self.filling = self.filling.next();
        true
    }

    /// The batch that filled, its records settled where it will stand; from now on the next one fills, beginning with the
    /// echo of this one.
    fn next_fill(&mut self) -> Fill {
        let segment = short(self.segment.number);
        let offset = u32::try_from(self.segment.offset).expect("a segment fits 32 bits");
        for (slot, first) in self.unsettled.drain(..) {
            self.index.settle(slot, first, segment, offset);
        }
        for slot in self.unsettled_chunks.drain(..) {
            self.index.settle_chunks(slot, segment, offset);
        }
        self.index.settled();
        let index = &self.index;
        let echoes = self.touched.drain(..).map(|(group, replica)| index.echo(group, replica));
        let buffer = self.buffers.pop().unwrap_or_default();
        std::mem::replace(&mut self.fill, Fill::new(buffer, echoes))
    }

    /// Goes on to the next segment, if it is ready.
    fn roll_over(&mut self) -> bool {
        let Some((header, file)) = self.next.ready() else { return false };
        let segment_bytes = header.segment_bytes;
        let next = OpenSegment {
            number: header.number,
            file,
            checksum_seed: header.checksum_seed(),
            segment_bytes,
            offset: BATCHES_OFFSET,
        };
        self.files.add(next.number, Handle::Open(file), segment_bytes);
        self.segment = next;
        self.begin_next();
        true
    }

    /// Begins to make the segment that follows the present one: out of a file that counts no more, if there is one.
    pub(super) fn begin_next(&mut self) {
        self.next_awaited = false;
        let number = self.segment.number.0 + 1;
        let header = SegmentHeader {
            version: FORMAT_VERSION,
            wal: self.config.wal,
            number: SegmentNumber(number),
            segment_bytes: self.config.segment_bytes,
            salt: salt(self.seed, number),
            // Where the present one will end is not known yet, so its whole length counts: the chain of sequences and
            // checksums tells a whole end from a torn one.
            previous: Some(PreviousSegment { number: self.segment.number, end: self.segment.segment_bytes }),
            durable_upto: self.durable_upto,
            first: self.first_segment,
            checkpoints: self.checkpoints.complete(),
            writer: Writer::this(),
        };
        self.next = match self.files.free.pop() {
            Some(free) => Preparation::recycled(header, free, self.config.zero_chunk_bytes),
            None => Preparation::fresh(header, self.config.zero_chunk_bytes),
        };
    }

    pub(super) fn advance_preparations(&mut self) {
        if self.failure.is_some() {
            return;
        }
        if self.next.is_over() && !self.files.free.is_empty() {
            self.begin_next();
        }
        let zeroes_allowed = self.zero_budget >= self.config.zero_chunk_bytes;
        if !self.is_in_flight(Purpose::Next) {
            let early = self.next.is_zeroing() && !self.next_awaited && !zeroes_allowed;
            if let Some(op) = self.next.op().filter(|_| !early) {
                self.spend(&op);
                self.issue(Purpose::Next, op);
            }
        }
        let next_made = self.next.ready().is_some();
        let wanted = self.files.free.len() < self.config.reserve_segments && !self.is_closing();
        if next_made && wanted && self.reserve.is_none() {
            self.spares += 1;
            let number = SegmentNumber(RESERVE_NUMBERS + self.spares);
            let WalConfig { wal, segment_bytes, zero_chunk_bytes, .. } = self.config;
            self.reserve = Some(Preparation::reserve(wal, number, segment_bytes, zero_chunk_bytes));
        }
        if !self.is_in_flight(Purpose::Reserve)
            && let Some(reserve) = &self.reserve
            && (!reserve.is_zeroing() || zeroes_allowed)
            && let Some(op) = reserve.op()
        {
            self.spend(&op);
            self.issue(Purpose::Reserve, op);
        }
    }

    fn is_in_flight(&self, purpose: Purpose) -> bool {
        self.in_flight.iter().any(|(_, known)| *known == purpose)
    }

    fn spend(&mut self, op: &IoOp) {
        if let IoOp::Zero { len, .. } = op {
            self.zero_budget = self.zero_budget.saturating_sub(*len);
        }
    }

    /// A file for the reserve may be finished, or given up.
    pub(super) fn keep_reserve(&mut self) {
        let Some(reserve) = &self.reserve else { return };
        if let Some((spare, file)) = reserve.filled() {
            self.files.free.push(Free { path: spare, written: true });
            self.reserve = None;
            self.issue(Purpose::GiveUp, IoOp::Close(file));
        }
    }

    /// Whether the disk has no room for another segment: then only what makes room, or is needed to go on at all, should
    /// be recorded. It ends by itself when segments are given up, or [`Wal::retry`] finds room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        // A reserve that segments were given up for needs no other file.
        let reserve_missing = self.files.free.len() < self.config.reserve_segments;
        let no_reserve = reserve_missing && self.reserve.as_ref().is_some_and(Preparation::found_no_room);
        no_reserve || self.next.found_no_room()
    }

    /// Tries again to make what there was no room for. Call it now and then while [`Wal::is_full`].
    pub fn retry(&mut self) {
        self.reserve.take_if(|reserve| reserve.is_over());
        if self.next.is_over() {
            self.begin_next();
        }
    }

    pub(super) fn complete(&mut self, sequence: BatchSeq) {
        let batch = self.submitted.iter_mut().find(|batch| batch.sequence == sequence);
        batch.expect("a batch in flight is submitted").complete = true;
        // Once latched nothing is released, not even what became durable: an earlier batch may be missing.
        if self.failure.is_some() {
            self.submitted.retain(|batch| !batch.complete);
            return;
        }
        // In order: a batch counts only when all before it are durable, because recovery cuts at the first gap.
        while let Some(first) = self.submitted.front().copied().filter(|first| first.complete) {
            assert_eq!(first.sequence, self.released.next(), "batches are released in the order of their sequence");
            self.submitted.pop_front();
            self.released = first.sequence;
        }
        if self.config.mode != WriteMode::Volatile {
            self.durable_upto = self.released;
        }
        self.checkpoints.handle_released(self.released);
        self.give_up_segments();
        self.read_what_is_released();
    }

    /// The file of a segment that counts no more becomes free, or goes.
    pub(super) fn free_segment(&mut self, segment: u32) {
        let Some(file) = self.files.remove(segment) else { return };
        self.index.forget_segment(segment);
        if let Handle::Open(file) = file.handle {
            self.issue(Purpose::GiveUp, IoOp::Close(file));
        }
        let path = path(self.config.wal, segment);
        let wanted = self.files.free.len() < self.config.reserve_segments + 2;
        if wanted && file.bytes == self.config.segment_bytes && !planted(Bug::SourceFreedEarly) {
            self.files.free.push(Free { path, written: true });
        } else {
            self.issue(Purpose::GiveUp, IoOp::Remove(path));
        }
    }
}
