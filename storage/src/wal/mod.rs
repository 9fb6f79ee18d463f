//! The write-ahead log of one core, running: records go into a batch, a batch into one write, and what is durable is
//! released in order.
//!
//! Owns the batch that fills, the writes in flight, the segments and what of them still counts. It must never block, read
//! a clock, or decide what a group records; after a failed operation it must never release anything again. A core calls
//! it: `record_*` while it polls its groups, [`Wal::submit`] at the end of its turn, [`Wal::poll_io`] until that is empty,
//! and [`Wal::handle_io`] for each completion.
//!
//! `recording` says what can be recorded, `write` forms batches and releases them, `fetch` reads entries back, `checkpoint`
//! and `reclaim` keep the log short.

mod checkpoint;
mod config;
mod error;
mod fetch;
mod files;
mod fill;
mod index;
mod live;
mod load;
mod open;
mod prepare;
mod reader;
mod reclaim;
mod recording;
mod recovery;
mod replay;
mod runs;
pub mod tools;
mod tracked;
mod write;

pub use crate::format::{BatchSeq, StoreId};
pub use config::{WalConfig, WalConfigError};
pub use error::{Place, WalError, WalFailure};
pub use fetch::{FetchError, FetchId, Fetched, FetchedData};
pub use load::Loaded;
pub use recording::StateChange;
pub use recovery::{Damage, Reading, Recovered, RecoveredGroup, RecoveryStats, read};

use crate::aligned::AlignedBuf;
use crate::format::segment::{BatchPlace, ChecksumSeed};
use crate::io::{Disk, FileId, FilePath, IoId, IoOp, IoOutput, IoResult, SegmentNumber};
use checkpoint::Checkpoints;
use fetch::Reads;
use files::Files;
use fill::Fill;
use index::{Index, Slot};
use prepare::Preparation;
use raftyard_raft::{GroupId, Limit, LogIndex, ReplicaId};
use reclaim::Reclaim;
use std::collections::VecDeque;
use std::time::Duration;
use write::Submitted;

const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

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
    /// The groups that the batch that fills touches, each once.
    touched: Vec<(GroupId, ReplicaId)>,
    /// By slot: the last batch that touched it.
    touched_in: Vec<BatchSeq>,
    /// Entries in the batch that fills, by their first index, whose place is known when it is submitted.
    unsettled: Vec<(Slot, LogIndex)>,
    unsettled_chunks: Vec<Slot>,
    /// Batches submitted and not released, by sequence. Invariant: at most `config.depth`.
    submitted: VecDeque<Submitted>,
    released: BatchSeq,
    /// What the next batch may claim as durable. Follows `released` unless durability is off.
    durable_upto: BatchSeq,
    index: Index,
    segment: OpenSegment,
    files: Files,
    /// The first segment of the log; older ones are given up.
    first_segment: SegmentNumber,
    /// The next segment in the making, or a file for the reserve.
    next: Preparation,
    /// A file for the reserve in the making.
    reserve: Option<Preparation>,
    /// Whether a batch waits for `next`: then it is made as fast as it can be.
    next_awaited: bool,
    /// Bytes of zeroes that may be written now: zero-filling keeps a pace, without a clock.
    zero_budget: u64,
    /// How many files for the reserve were ever numbered.
    spares: u64,
    checkpoints: Checkpoints,
    reclaim: Reclaim,
    reads: Reads,
    outbox: VecDeque<(IoId, IoOp)>,
    in_flight: Vec<(IoId, Purpose)>,
    next_io: u64,
    buffers: Vec<AlignedBuf>,
    failure: Option<WalFailure>,
    promised: Duration,
    closing: Closing,
}

/// How far a clean stop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// A checkpoint is being made.
    Checkpoint,
    /// Its last batch is written.
    Mark(BatchSeq),
}

#[derive(Clone, Copy, Debug)]
struct OpenSegment {
    number: SegmentNumber,
    file: FileId,
    checksum_seed: ChecksumSeed,
    segment_bytes: u64,
    /// Where the next batch goes.
    offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Batch {
        sequence: BatchSeq,
        segment: SegmentNumber,
    },
    /// A step of the next segment.
    Next,
    /// A step of the reserve.
    Reserve,
    /// A segment is opened to be read.
    Open {
        segment: u32,
    },
    Read {
        read: u64,
    },
    /// A file that is given up is closed or removed.
    GiveUp,
}

impl Wal {
    /// Creates the log, or recovers it. Blocking. When it returns, everything recovered is durable and so is the opening
    /// batch, and every limit that recovery put on a replica; nothing is in flight. `seed` must not be guessable in a
    /// real node: the salts come from it.
    ///
    /// # Errors
    /// [`WalError`] if the disk fails, the log is missing, of another version or makes no sense, or a setting is wrong. It
    /// can be called again after any failure or crash.
    pub fn open(disk: &mut dyn Disk, config: WalConfig, seed: u64) -> Result<(Wal, Recovered), WalError> {
        let opened = open::open(disk, &config, seed)?;
        let segment = OpenSegment {
            number: opened.header.number,
            file: opened.file,
            checksum_seed: opened.header.checksum_seed(),
            segment_bytes: opened.header.segment_bytes,
            offset: opened.offset,
        };
        let open::Opened { files, index, checkpoints, spares, first_segment, .. } = opened;
        let mut wal = Wal {
            seed,
            fill: Fill::new(AlignedBuf::new(), std::iter::empty()),
            filling: opened.last.next(),
            previous_checksum: opened.checksum,
            touched: Vec::new(),
            touched_in: Vec::new(),
            unsettled: Vec::new(),
            unsettled_chunks: Vec::new(),
            submitted: VecDeque::with_capacity(config.depth),
            released: opened.last,
            durable_upto: opened.last,
            index,
            segment,
            files,
            first_segment,
            next: Preparation::reserve(config.wal, SegmentNumber(0), config.segment_bytes, config.zero_chunk_bytes),
            reserve: None,
            next_awaited: false,
            zero_budget: 0,
            spares,
            checkpoints: Checkpoints::new(checkpoints, opened.replayed_bytes),
            reclaim: Reclaim::default(),
            reads: Reads::default(),
            outbox: VecDeque::new(),
            in_flight: Vec::new(),
            next_io: 1,
            buffers: Vec::with_capacity(config.depth + 1),
            failure: None,
            promised: Duration::ZERO,
            closing: Closing::No,
            config,
        };
        wal.begin_next();
        let recovered = opened.recovered;
        // A file that is gone limits, too, without a lost batch.
        if opened.limited || !recovered.damage.is_empty() {
            wal.record_limits(disk, &recovered)?;
        }
        let before =
            if recovered.damage.is_empty() { recovered.promise } else { recovered.promise.max(wal.config.promise) };
        wal.settle_promise(disk, before, recovered.promise)?;
        Ok((wal, recovered))
    }

    /// For how long after the next start replicas will keep promises given now; durable.
    #[must_use]
    pub const fn promise(&self) -> Duration {
        self.promised
    }

    /// Makes every limit durable that recovery found: nobody who lost something answers anybody before.
    fn record_limits(&mut self, disk: &mut dyn Disk, recovered: &Recovered) -> Result<(), WalError> {
        for group in recovered.groups.iter().filter(|group| group.limit != Limit::None) {
            if !self.has_room() {
                self.settle(disk)?;
            }
            // A log that was forgotten must not come back when it is read again, whatever it began with.
            let change = StateChange { reset: group.last == group.base, ..StateChange::default() };
            self.record_state(group.group, group.replica, change);
        }
        self.settle(disk)
    }

    /// Makes the promise durable that nobody may count on before: the longest ever, for who counted on a longer one may
    /// still do so.
    fn settle_promise(&mut self, disk: &mut dyn Disk, before: Duration, recorded: Duration) -> Result<(), WalError> {
        self.promised = self.config.promise.max(before);
        if self.promised <= recorded {
            return Ok(());
        }
        self.record_promise(self.promised);
        self.settle(disk)
    }

    /// Writes what fills and waits for it. Blocking; only while the log opens.
    fn settle(&mut self, disk: &mut dyn Disk) -> Result<(), WalError> {
        while !self.is_idle() {
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
    /// log failed, and while a checkpoint needs a batch for itself.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.failure.is_none()
            && !self.checkpoints.is_exclusive()
            && self.fill.records_len() < self.config.batch_bytes_max
            && (self.fill.record_count() as usize) < self.config.batch_groups_max
    }

    /// How many bytes of entries ([`raftyard_raft::Entry::cost`]) the next [`Wal::record_group`] may bring. While
    /// [`Wal::has_room`], one entry of at most `entry_bytes_max` may be brought even if it is more.
    #[must_use]
    pub fn room_bytes(&self) -> usize {
        if self.has_room() { self.config.batch_bytes_max - self.fill.records_len() } else { 0 }
    }

    /// The next operation to hand to the device; answer it with [`Wal::handle_io`]. Completions may come in any order.
    pub fn poll_io(&mut self) -> Option<(IoId, IoOp)> {
        if self.outbox.is_empty() {
            self.advance_preparations();
        }
        self.outbox.pop_front()
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
                self.fail(WalFailure { file: FilePath::segment(self.config.wal, segment), error });
            }
            (Purpose::Next | Purpose::Reserve, result) => self.handle_prepared(purpose, result),
            (Purpose::Open { segment }, result) => self.handle_opened(segment, result),
            (Purpose::Read { read }, result) => self.handle_read(read, result),
            // The file counts no more; a failed close or removal takes nothing from anybody.
            (Purpose::GiveUp, _) => {}
        }
    }

    fn handle_prepared(&mut self, purpose: Purpose, result: IoResult) {
        let reserve = purpose == Purpose::Reserve;
        let made = match (reserve, &mut self.reserve) {
            (true, Some(made)) => made,
            _ => &mut self.next,
        };
        match result {
            Ok(output) => made.handle(&output),
            Err(error) => {
                let no_room = matches!(error.errno, ENOSPC | EDQUOT) || made.found_no_room();
                if !(no_room && made.handle_no_room()) {
                    let file = made.path();
                    return self.fail(WalFailure { file, error });
                }
                tracing::warn!(file = %made.path(), %error, "no room on the disk for another segment");
            }
        }
        if reserve {
            self.keep_reserve();
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
            self.fill = Fill::new(AlignedBuf::new(), std::iter::empty());
        }
        // What was to be read can still be read; what was to be written is not.
        for (id, op) in std::mem::take(&mut self.outbox) {
            let place = self.in_flight.iter().position(|(known, _)| *known == id).expect("what is issued is in flight");
            match self.in_flight[place].1 {
                Purpose::Open { .. } | Purpose::Read { .. } => self.outbox.push_back((id, op)),
                Purpose::Batch { sequence, .. } => {
                    self.in_flight.swap_remove(place);
                    self.submitted.retain(|batch| batch.sequence != sequence);
                }
                Purpose::Next | Purpose::Reserve | Purpose::GiveUp => drop(self.in_flight.swap_remove(place)),
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
        FilePath::segment(self.config.wal, self.segment.number)
    }

    /// Bytes of the log: of its segments, and of the records in them that still count.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let free = self.files.free.len() as u64 * self.config.segment_bytes;
        Usage { segments: self.files.bytes(), free, live: self.index.live_bytes_total() }
    }

    /// The settings it runs with.
    #[must_use]
    pub fn config(&self) -> &WalConfig {
        &self.config
    }
}

/// How much room a log takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of its segments' files.
    pub segments: u64,
    /// Bytes of files kept to become segments.
    pub free: u64,
    /// Bytes of records that still count, without padding.
    pub live: u64,
}

/// The place of a batch that is about to be written.
fn place(segment: &OpenSegment, sequence: BatchSeq) -> BatchPlace {
    BatchPlace { segment: segment.number, offset: segment.offset, sequence }
}
