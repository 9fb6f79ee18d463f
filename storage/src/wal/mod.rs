//! The write-ahead log of one core, running: records go into a batch, a batch into one write, and what is durable is
//! released in order.
//!
//! Owns the batch that fills, the writes in flight, the segment being written and the next one in the making. It must
//! never block, read a clock, or decide what a group records; after a failed operation it must never release anything
//! again. A core calls it: `record_*` while it polls its groups, [`Wal::submit`] at the end of its turn,
//! [`Wal::poll_io`] until that is empty, and [`Wal::handle_io`] for each completion.

mod config;
mod error;
mod fill;
mod open;
mod prepare;
mod reader;
mod recovery;
mod replay;
mod rest;

pub use crate::format::{BatchSeq, StoreId};
pub use config::{WalConfig, WalConfigError};
pub use error::{Place, WalError, WalFailure};
pub use recovery::{Reading, Recovered, RecoveryStats, read};
pub use replay::RecoveredGroup;

use crate::aligned::AlignedBuf;
use crate::format::batch::{self, BatchHeader};
use crate::format::record::{
    RECORD_OVERHEAD_BYTES_MAX, encode_creation, encode_group, encode_peer, encode_promise, group_bytes,
};
use crate::format::segment::{BATCHES_OFFSET, PreviousSegment, SegmentHeader};
use crate::io::{Disk, FileId, FilePath, IoId, IoOp, IoOutput, IoResult, SegmentNumber, WriteMode};
use crate::seed::salt;
use fill::Fill;
use prepare::Preparation;
use raftyard_raft::planted::{Bug, planted};
use raftyard_raft::{Configuration, Entries, GroupId, HardState, NodeId, ReplicaId};
use recovery::segment_path;
use std::collections::VecDeque;
use std::time::Duration;

/// A running log.
#[derive(Debug)]
pub struct Wal {
    config: WalConfig,
    seed: u64,
    fill: Fill,
    /// Sequence of the batch that fills.
    filling: BatchSeq,
    /// Checksum of the batch before it.
    previous_checksum: u32,
    /// Batches submitted and not released, by sequence. Invariant: at most `config.depth`.
    submitted: VecDeque<Submitted>,
    released: BatchSeq,
    /// What the next batch may claim as durable. Follows `released` unless durability is off.
    durable_upto: BatchSeq,
    segment: OpenSegment,
    next: Preparation,
    /// Whether the operation of `next`'s present step is in flight.
    next_in_flight: bool,
    /// Whether a batch waits for `next`: then it is made as fast as it can be.
    next_awaited: bool,
    /// Segments written to their end, closed when their last batch is released.
    retired: VecDeque<(BatchSeq, OpenSegment)>,
    outbox: VecDeque<(IoId, IoOp)>,
    in_flight: Vec<(IoId, Purpose)>,
    next_io: u64,
    buffers: Vec<AlignedBuf>,
    failure: Option<WalFailure>,
    promised: Duration,
}

#[derive(Clone, Copy, Debug)]
struct OpenSegment {
    number: SegmentNumber,
    file: FileId,
    checksum_seed: u32,
    segment_bytes: u64,
    /// Where the next batch goes.
    offset: u64,
}

#[derive(Clone, Copy, Debug)]
struct Submitted {
    sequence: BatchSeq,
    complete: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Batch { sequence: BatchSeq, segment: SegmentNumber },
    Prepare,
    Close,
}

impl Wal {
    /// Creates the log, or recovers it and begins a new segment. Blocking. When it returns, everything recovered is
    /// durable and so is the opening batch; nothing is in flight. `seed` must not be guessable in a real node: the
    /// salts come from it.
    ///
    /// # Errors
    /// [`WalError`] if the disk fails, the log is damaged, missing or of another version, or a setting is wrong. It can
    /// be called again after any failure or crash.
    pub fn open(disk: &mut dyn Disk, config: WalConfig, seed: u64) -> Result<(Wal, Recovered), WalError> {
        let opened = open::open(disk, &config, seed)?;
        let segment = OpenSegment {
            number: opened.header.number,
            file: opened.file,
            checksum_seed: opened.header.checksum_seed(),
            segment_bytes: opened.header.segment_bytes,
            offset: opened.offset,
        };
        let next = prepare_after(&config, seed, &segment, opened.last);
        let mut wal = Wal {
            seed,
            fill: Fill::new(AlignedBuf::new()),
            filling: opened.last.next(),
            previous_checksum: opened.checksum,
            submitted: VecDeque::with_capacity(config.depth),
            released: opened.last,
            durable_upto: opened.last,
            segment,
            next,
            next_in_flight: false,
            next_awaited: false,
            retired: VecDeque::new(),
            outbox: VecDeque::new(),
            in_flight: Vec::new(),
            next_io: 1,
            buffers: Vec::with_capacity(config.depth + 1),
            failure: None,
            promised: Duration::ZERO,
            config,
        };
        let recovered = opened.recovered;
        wal.record_promise(disk, recovered.promise)?;
        Ok((wal, recovered))
    }

    /// For how long after the next start replicas will keep promises given now; durable.
    #[must_use]
    pub const fn promise(&self) -> Duration {
        self.promised
    }

    /// Makes the promise durable that nobody may count on before: the longest ever, for who counted on a longer one may
    /// still do so.
    fn record_promise(&mut self, disk: &mut dyn Disk, before: Duration) -> Result<(), WalError> {
        let promise = self.config.promise;
        self.promised = promise.max(before);
        if promise <= before {
            return Ok(());
        }
        let sequence = self.record(RECORD_OVERHEAD_BYTES_MAX, |out| encode_promise(out, promise));
        while self.released < sequence {
            self.submit();
            let (id, op) = self.poll_io().expect("a batch under way waits for an operation");
            let result = disk.execute(op);
            self.handle_io(id, result);
            if let Some(failure) = &self.failure {
                return Err(WalError::Failed(*failure));
            }
        }
        Ok(())
    }

    /// Whether the batch that fills takes another record. Soft limits in bytes and records; false for ever once the
    /// log failed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.failure.is_none()
            && self.fill.len() < self.config.batch_bytes_max
            && (self.fill.record_count() as usize) < self.config.batch_groups_max
    }

    /// How many bytes of entries ([`raftyard_raft::Entry::cost`]) the next [`Wal::record_group`] may bring. While
    /// [`Wal::has_room`], one entry of at most `entry_bytes_max` may be brought even if it is more.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        if self.has_room() { self.config.batch_bytes_max - self.fill.len() } else { 0 }
    }

    /// Records that a replica exists, with an empty log. Returns the sequence of the batch it is in. This and the other
    /// `record_*` need [`Wal::has_room`], or a failed log, which ignores them.
    pub fn record_creation(&mut self, group: GroupId, replica: ReplicaId, configuration: &Configuration) -> BatchSeq {
        self.record(RECORD_OVERHEAD_BYTES_MAX, |out| encode_creation(out, group, replica, configuration))
    }

    /// Records a group's part of this batch: its hard state if it changed, and entries that replace its log from the
    /// first one's index on. Returns the sequence of the batch it is in.
    ///
    /// # Panics
    /// If the entries are not consecutive or exceed what [`Wal::room_bytes`] allows.
    pub fn record_group(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        hard_state: Option<HardState>,
        entries: Entries<'_>,
    ) -> BatchSeq {
        self.record(group_bytes(entries), |out| encode_group(out, group, replica, hard_state, entries))
    }

    /// Records the store of a peer. Returns the sequence of the batch it is in.
    pub fn record_peer(&mut self, node: NodeId, store: StoreId) -> BatchSeq {
        self.record(RECORD_OVERHEAD_BYTES_MAX, |out| encode_peer(out, node, store))
    }

    fn record(&mut self, bytes_max: usize, encode: impl FnOnce(&mut AlignedBuf)) -> BatchSeq {
        let hard_max = self.config.batch_bytes_hard_max().expect("the config was checked");
        assert!(self.fill.len() + bytes_max <= hard_max, "a record was brought that there was no room for");
        // Nothing recorded after a failure is ever written, so it need not take memory.
        if self.failure.is_none() {
            self.fill.record(encode);
        }
        self.filling
    }

    /// Submits the batch that fills, if it holds anything, a write may be in flight, and a segment has room. Otherwise
    /// it fills on; call again after a completion. The write comes out of [`Wal::poll_io`].
    pub fn submit(&mut self) {
        if self.failure.is_some() || self.fill.is_empty() || self.submitted.len() >= self.config.depth {
            return;
        }
        let bytes = self.fill.len().next_multiple_of(crate::io::BLOCK_BYTES) as u64;
        if self.segment.offset + bytes > self.segment.segment_bytes && !self.roll_over() {
            self.next_awaited = true;
            return;
        }
        let records_len = self.fill.len() - batch::BATCH_HEADER_BYTES;
        let record_count = self.fill.record_count();
        let next_buffer = self.buffers.pop().unwrap_or_default();
        let mut buffer = self.fill.take(next_buffer);
        buffer.pad_to_block();
        let header = BatchHeader {
            opening: false,
            sequence: self.filling,
            durable_upto: self.durable_upto,
            previous_checksum: self.previous_checksum,
            checksum: 0,
            echo_len: 0,
            records_len: u32::try_from(records_len).expect("a batch fits a segment, a segment fits 32 bits"),
            record_count,
        };
        self.previous_checksum = batch::seal(&mut buffer, header, self.segment.checksum_seed);
        let purpose = Purpose::Batch { sequence: self.filling, segment: self.segment.number };
        let (file, offset) = (self.segment.file, self.segment.offset);
        let mode = if planted(Bug::NoSync) { WriteMode::Volatile } else { self.config.mode };
        self.issue(purpose, IoOp::Write { file, offset, buffer, mode });
        self.segment.offset += bytes;
        self.submitted.push_back(Submitted { sequence: self.filling, complete: false });
        self.filling = self.filling.next();
    }

    /// Goes on to the next segment, if it is ready.
    fn roll_over(&mut self) -> bool {
        let Some((header, file)) = self.next.ready() else { return false };
        let next = OpenSegment {
            number: header.number,
            file,
            checksum_seed: header.checksum_seed(),
            segment_bytes: header.segment_bytes,
            offset: BATCHES_OFFSET,
        };
        let full = std::mem::replace(&mut self.segment, next);
        let last_in_full = BatchSeq(self.filling.0 - 1);
        self.retired.push_back((last_in_full, full));
        self.close_retired();
        self.next = prepare_after(&self.config, self.seed, &self.segment, self.durable_upto);
        self.next_awaited = false;
        true
    }

    /// The next operation to hand to the device; answer it with [`Wal::handle_io`]. Completions may come in any order.
    pub fn poll_io(&mut self) -> Option<(IoId, IoOp)> {
        if self.outbox.is_empty() {
            self.advance_preparation();
        }
        self.outbox.pop_front()
    }

    fn advance_preparation(&mut self) {
        if self.failure.is_some() || self.next_in_flight {
            return;
        }
        // Zero-filling shares the disk with the batches, so it goes at twice their pace: done when this segment is half
        // full. Without a clock this is also a bound on its rate.
        let too_early = self.next.zeroing().is_some_and(|done| done > 2 * self.segment.offset);
        if too_early && !self.next_awaited {
            return;
        }
        if let Some(op) = self.next.op() {
            self.next_in_flight = true;
            self.issue(Purpose::Prepare, op);
        }
    }

    fn issue(&mut self, purpose: Purpose, op: IoOp) {
        let id = IoId(self.next_io);
        self.next_io += 1;
        self.in_flight.push((id, purpose));
        self.outbox.push_back((id, op));
    }

    /// Takes the outcome of an operation.
    ///
    /// # Panics
    /// If no operation of that id is in flight.
    pub fn handle_io(&mut self, id: IoId, result: IoResult) {
        let place = self.in_flight.iter().position(|(known, _)| *known == id);
        let place = place.expect("the device completes what was submitted, once");
        let (_, purpose) = self.in_flight.swap_remove(place);
        match (purpose, result) {
            (Purpose::Batch { sequence, .. }, Ok(output)) => {
                self.reuse_buffer(output);
                self.complete(sequence);
            }
            (Purpose::Batch { sequence, segment }, Err(error)) => {
                self.submitted.retain(|batch| batch.sequence != sequence);
                self.fail(WalFailure { file: segment_path(self.config.wal, segment), error });
            }
            (Purpose::Prepare, Ok(output)) => {
                self.next_in_flight = false;
                self.next.handle(&output);
            }
            (Purpose::Prepare, Err(error)) => {
                self.next_in_flight = false;
                self.fail(WalFailure { file: self.next.path(), error });
            }
            // The file's batches were durable before it was closed; a failed close takes nothing from that.
            (Purpose::Close, _) => {}
        }
    }

    fn complete(&mut self, sequence: BatchSeq) {
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
        self.close_retired();
    }

    fn close_retired(&mut self) {
        while let Some((last, segment)) = self.retired.front().copied() {
            if last > self.released {
                return;
            }
            self.retired.pop_front();
            self.issue(Purpose::Close, IoOp::Close(segment.file));
        }
    }

    fn reuse_buffer(&mut self, output: IoOutput) {
        let IoOutput::Buffer(buffer) = output else { panic!("the device answers a write with the buffer") };
        // A buffer that one huge entry blew up is not kept for ever.
        let usual = self.config.batch_bytes_max.saturating_mul(3).next_multiple_of(crate::io::BLOCK_BYTES);
        if buffer.capacity() <= usual && self.buffers.len() <= self.config.depth {
            self.buffers.push(buffer);
        }
    }

    /// Latches: what is not released now never is, and nothing more is written. A failed sync may have dropped pages
    /// that a second one would not report, so nothing is tried again.
    fn fail(&mut self, failure: WalFailure) {
        if self.failure.is_none() {
            self.failure = Some(failure);
            self.fill = Fill::new(AlignedBuf::new());
        }
        while let Some((id, _)) = self.outbox.pop_front() {
            let place = self.in_flight.iter().position(|(known, _)| *known == id).expect("what is issued is in flight");
            if let (_, Purpose::Batch { sequence, .. }) = self.in_flight.swap_remove(place) {
                self.submitted.retain(|batch| batch.sequence != sequence);
            }
        }
        self.submitted.retain(|batch| !batch.complete);
    }

    /// The highest sequence such that its batch and all before it are durable. Everything recorded in them may be
    /// acknowledged.
    #[must_use]
    pub fn released(&self) -> BatchSeq {
        self.released
    }

    /// Why the log takes nothing more, if so.
    #[must_use]
    pub fn failure(&self) -> Option<&WalFailure> {
        self.failure.as_ref()
    }

    /// Whether nothing fills and no batch is in flight. The next segment may still be in the making; that can be
    /// abandoned at any step.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.fill.is_empty() && self.submitted.is_empty()
    }

    /// The file that batches go to at present.
    #[must_use]
    pub fn segment(&self) -> FilePath {
        segment_path(self.config.wal, self.segment.number)
    }

    /// The settings it runs with.
    #[must_use]
    pub fn config(&self) -> &WalConfig {
        &self.config
    }
}

/// The segment to follow `segment`. Where that one will end is not known yet, so its whole length counts: the chain of
/// sequences and checksums tells a whole end from a torn one.
fn prepare_after(config: &WalConfig, seed: u64, segment: &OpenSegment, durable_upto: BatchSeq) -> Preparation {
    let number = SegmentNumber(segment.number.0 + 1);
    let header = SegmentHeader {
        wal: config.wal,
        number,
        segment_bytes: config.segment_bytes,
        salt: salt(seed, number.0),
        previous: Some(PreviousSegment { number: segment.number, end: segment.segment_bytes }),
        durable_upto,
    };
    Preparation::new(header, config.zero_chunk_bytes)
}
