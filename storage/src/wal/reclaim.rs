//! Making room: the oldest segment is emptied by recording again what of it still counts, at a rate bound to that of
//! writing, and becomes free.
//!
//! The order is a durability rule. A segment is given up only when everything that was recorded again is durable, and
//! everything that made the rest of it dead; when two complete checkpoints begin behind it, so that no start needs to read
//! it; and when two durable batches say that the log begins behind it, so that one damaged batch can't make it look lost.

use super::Wal;
use super::fetch::Owner;
use super::files::short;
use super::runs::{FILLING, Place, Run};
use crate::aligned::AlignedBuf;
use crate::format::BatchSeq;
use crate::format::batch;
use crate::format::record::{
    CHUNK_OVERHEAD_BYTES, Chunk, GroupRecord, RECORD_OVERHEAD_BYTES_MAX, Record, decode_all, encode_chunk,
    encode_relocated,
};
use crate::format::segment::{BATCHES_OFFSET, ChecksumSeed, decode_header};
use crate::io::{BLOCK_BYTES, IoError, SegmentNumber};
use raftyard_raft::planted::{Bug, planted};
use raftyard_raft::{GroupId, LogIndex};

/// How much of a segment is read at once; a larger batch is read whole.
const WINDOW_BYTES: u64 = 1 << 20;
/// For each byte written, this many bytes of an old segment are looked through.
const PACE: u64 = 2;

/// What is being given up.
#[derive(Debug, Default)]
pub(super) struct Reclaim {
    scan: Option<Scan>,
    /// Segments of which nothing counts any more as soon as the batch named is released.
    emptied: Option<(u32, BatchSeq)>,
    /// A segment that the log no longer begins with, and the first batch that says so.
    outside: Option<(u32, BatchSeq)>,
    /// Bytes that may be looked through now.
    budget: u64,
    /// What could not be read of what counts: the group, and the first entry lost. Taken by [`Wal::poll_lost`].
    lost: Vec<(GroupId, LogIndex)>,
}

/// A segment being looked through.
#[derive(Debug)]
struct Scan {
    segment: u32,
    bytes: u64,
    seed: Option<ChecksumSeed>,
    /// Where the next batch starts.
    at: u64,
    window_offset: u64,
    window: AlignedBuf,
    /// Whether a read is under way.
    reading: bool,
    /// How many records of the batch at `at` are done with.
    records_done: usize,
}

impl Reclaim {
    pub(super) fn handle_written(&mut self, bytes: u64) {
        self.budget = (self.budget + PACE * bytes).min(64 << 20);
    }

    /// Whether a batch without anything to say would help.
    pub(super) fn awaits_batch(&self) -> bool {
        self.outside.is_some()
    }
}

impl Wal {
    /// The next group of which something is lost that still counts: its first lost entry. Whoever owns the group must stop
    /// it and record a limit for it.
    pub fn poll_lost(&mut self) -> Option<(GroupId, LogIndex)> {
        self.reclaim.lost.pop()
    }

    /// Goes on with the oldest segment, if it is time for that.
    pub(super) fn advance_reclaim(&mut self) {
        if self.is_closing() {
            return;
        }
        if self.reclaim.scan.is_none() && self.reclaim.emptied.is_none() {
            self.choose();
        }
        let Some(mut scan) = self.reclaim.scan.take() else { return };
        let urgent = self.is_full();
        while !scan.reading && scan.at < scan.bytes && (urgent || self.reclaim.budget > 0) {
            if self.index.live_bytes(scan.segment) == 0 {
                scan.at = scan.bytes;
                break;
            }
            if !self.has_room() || !self.look_through(&mut scan) {
                break;
            }
        }
        if scan.at >= scan.bytes && !scan.reading {
            self.lose_what_is_left(scan.segment);
            self.reclaim.emptied = Some((scan.segment, self.filling));
            self.give_up_segments();
        } else {
            self.reclaim.scan = Some(scan);
        }
    }

    /// Begins with the oldest segment if that is worth it and allowed.
    fn choose(&mut self) {
        let Some(oldest) = self.files.oldest().filter(|oldest| *oldest != short(self.segment.number)) else { return };
        let Some(file) = self.files.get(oldest) else { return };
        let live = self.index.live_bytes_total();
        let wanted = live + live / 3 + self.config.segment_bytes * self.config.spare_segments as u64;
        let dead = self.index.live_bytes(oldest) == 0;
        if !dead && self.files.bytes() <= wanted && !self.is_full() {
            return;
        }
        let behind = |place: Option<crate::format::segment::BatchPlace>| {
            place.is_some_and(|place| place.segment > SegmentNumber(u64::from(oldest)))
        };
        if !(self.checkpoints.complete().into_iter().all(behind) || planted(Bug::CheckpointNotAwaited)) {
            // Another checkpoint, or two, and it can go.
            let worth = self.checkpoints.written() >= self.config.segment_bytes / 2 || self.is_full();
            if worth && self.files.bytes() > wanted {
                self.checkpoints.want();
            }
            return;
        }
        self.reclaim.scan = Some(Scan {
            segment: oldest,
            bytes: file.bytes,
            seed: None,
            at: 0,
            window_offset: 0,
            window: AlignedBuf::new(),
            reading: false,
            records_done: 0,
        });
    }

    /// Takes the next batch of the segment, or a part of it. False if it has to wait.
    fn look_through(&mut self, scan: &mut Scan) -> bool {
        let block = BLOCK_BYTES as u64;
        let Some(header) = scan.bytes_at(scan.at, block) else {
            self.read_window(scan, block);
            return false;
        };
        let Some(seed) = scan.seed else {
            let Some(blocks) = scan.bytes_at(0, BATCHES_OFFSET) else {
                self.read_window(scan, BATCHES_OFFSET);
                return false;
            };
            // Without a header no batch of it can be proved, so that all that counts in it is lost.
            scan.seed = decode_header(blocks).ok().map(|header| header.checksum_seed());
            scan.at = if scan.seed.is_some() { BATCHES_OFFSET } else { scan.bytes };
            return true;
        };
        let claimed = batch::claimed_bytes(header, seed, scan.at).filter(|bytes| *bytes <= scan.bytes - scan.at);
        let Some(claimed) = claimed else {
            self.passed(scan, block);
            return true;
        };
        let Some(bytes) = scan.bytes_at(scan.at, claimed) else {
            self.read_window(scan, claimed);
            return false;
        };
        let Ok(found) = batch::decode(bytes, seed, scan.at) else {
            self.passed(scan, block);
            return true;
        };
        // Copied, because recording again changes what the log holds.
        let (records, count) = (found.records.to_vec(), found.header.record_count);
        let records_at = scan.at + found.records_at as u64;
        let skip = scan.records_done;
        let mut done = 0;
        let moved = decode_all(seed.version(), &records, count, |record, at, len| {
            if done >= skip && self.has_room() {
                let short = |value: u64| u32::try_from(value).expect("a segment fits 32 bits");
                let place =
                    Place { segment: scan.segment, offset: short(records_at + at as u64), len: short(len as u64) };
                self.record_again(place, &record);
                scan.records_done += 1;
            }
            done += 1;
            Ok(())
        });
        if moved.is_ok() && scan.records_done < done {
            return false;
        }
        self.passed(scan, claimed);
        true
    }

    fn passed(&mut self, scan: &mut Scan, bytes: u64) {
        scan.at += bytes;
        scan.records_done = 0;
        self.reclaim.budget = self.reclaim.budget.saturating_sub(bytes);
    }

    fn read_window(&mut self, scan: &mut Scan, bytes: u64) {
        let len = bytes.max(WINDOW_BYTES).min(scan.bytes - scan.at);
        scan.reading = true;
        scan.window_offset = scan.at;
        self.read(Owner::Reclaim, scan.segment, scan.at, len);
    }

    pub(super) fn handle_reclaimed(&mut self, result: Result<AlignedBuf, IoError>) {
        let Some(scan) = &mut self.reclaim.scan else { return };
        scan.reading = false;
        match result {
            Ok(window) => scan.window = window,
            Err(error) => {
                tracing::error!(segment = scan.segment, %error, "an old segment of the log can't be read");
                // What counts in it is lost here; its groups are limited and get it back from their peers.
                scan.at = scan.bytes;
            }
        }
    }

    /// Records again what of a record still counts.
    fn record_again(&mut self, place: Place, record: &Record<'_>) {
        match record {
            Record::Group(record) | Record::Relocated(record) => self.relocate(place, record),
            Record::Chunk(chunk) => self.relocate_chunk(place, chunk),
            // Checkpoints hold the rest.
            _ => {}
        }
    }

    fn relocate(&mut self, place: Place, record: &GroupRecord<'_>) {
        if record.entries.is_empty() {
            return;
        }
        let Ok(slot) = self.index.replica(record.group, record.replica) else { return };
        let tracked = self.index.at(slot);
        let (first, last) = (record.entries.first(), record.entries.last());
        let runs: Vec<Run> = tracked.runs.between(first, last).filter(|run| run.place == place).copied().collect();
        for run in runs {
            let head = self.index.at(slot).head();
            let bytes = RECORD_OVERHEAD_BYTES_MAX + place.len as usize;
            let now = self.record(bytes, |out| encode_relocated(out, head, run.indexes(), record.entries));
            let Some(now) = now else { return };
            self.index.relocate(slot, run.indexes(), now);
            self.unsettled.push((slot, run.first));
            self.touch(slot);
        }
    }

    fn relocate_chunk(&mut self, place: Place, chunk: &Chunk<'_>) {
        let Ok(slot) = self.index.replica(chunk.group, chunk.replica) else { return };
        let tracked = self.index.at(slot);
        let snapshots = tracked.snapshot().into_iter().chain(tracked.incoming());
        let counts = snapshots.flat_map(|snapshot| &snapshot.chunks).any(|(_, known)| *known == place);
        if !counts {
            return;
        }
        let bytes = CHUNK_OVERHEAD_BYTES + chunk.data.len();
        if let Some(now) = self.record(bytes, |out| encode_chunk(out, chunk)) {
            debug_assert_eq!(now.segment, FILLING);
            self.index.chunk(slot, chunk.snapshot, chunk.offset, chunk.data.len() as u64, now);
            self.unsettled_chunks.push(slot);
            self.touch(slot);
        }
    }

    /// The segment was looked through, and what still counts in it was not found: the disk lost it.
    fn lose_what_is_left(&mut self, segment: u32) {
        if self.index.live_bytes(segment) == 0 {
            return;
        }
        for tracked in self.index.groups() {
            let lost = tracked.runs.iter().find(|run| run.place.segment == segment).map(|run| run.first);
            let chunks = tracked.snapshot().into_iter().flat_map(|snapshot| &snapshot.chunks);
            let lost = lost.or(chunks.filter(|(_, place)| place.segment == segment).map(|_| LogIndex(0)).next());
            if let Some(first) = lost {
                self.reclaim.lost.push((tracked.group, first));
            }
        }
    }

    /// Gives up what may be given up now.
    pub(super) fn give_up_segments(&mut self) {
        if let Some((segment, after)) = self.reclaim.emptied
            && self.reclaim.outside.is_none()
            && (after <= self.released || planted(Bug::SourceFreedEarly))
            && self.reclaim.lost.is_empty()
            && let Some(next) = self.files.after(segment)
        {
            self.reclaim.emptied = None;
            self.first_segment = SegmentNumber(u64::from(next));
            self.reclaim.outside = Some((segment, self.filling));
        }
        if let Some((segment, said)) = self.reclaim.outside
            && (said.next() <= self.released || planted(Bug::SourceFreedEarly))
            && self.files.get(segment).is_none_or(|file| file.reads == 0)
        {
            self.reclaim.outside = None;
            self.free_segment(segment);
        }
    }
}

impl Scan {
    fn bytes_at(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let at = usize::try_from(offset.checked_sub(self.window_offset)?).ok()?;
        self.window.get(at..at.checked_add(usize::try_from(len).ok()?)?)
    }
}
