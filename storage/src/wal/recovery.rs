//! Recovery: what a log holds, decided by reading alone. It writes nothing, so the same decision can be had of a
//! damaged image, of a tool, and of a start.
//!
//! D is the highest sequence that anything valid in the log (batch or segment header) says was durable. Batches are
//! taken in the order of their sequence and checksum chain; where the chain breaks at or below D something acknowledged
//! is damaged and the start is refused, above D the last writes were torn and the log is cut there.

use super::error::{Place, WalError};
use super::reader::{SegmentReader, execute};
use super::replay::{RecoveredGroup, Replay};
use super::rest::{self, Rest};
use crate::format::batch::{self, BATCH_MAGIC, BatchFault, BatchHeader};
use crate::format::field::is_zero;
use crate::format::record::{RecordFault, decode_all};
use crate::format::segment::{BATCHES_OFFSET, HeaderFault, SegmentHeader, decode_header};
use crate::format::{BatchSeq, StoreId};
use crate::io::{BLOCK_BYTES, Directory, Disk, FileName, FilePath, IoOp, IoOutput, SegmentNumber, WalId};
use raftyard_raft::NodeId;
use std::time::Duration;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// How much of a segment is read at once; a larger batch is read whole.
const WINDOW_BYTES: u64 = 1 << 20;

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The replicas, sorted by group.
    pub groups: Vec<RecoveredGroup>,
    /// The store of each peer as last recorded, sorted by node.
    pub peers: Vec<(NodeId, StoreId)>,
    /// For how long after a start the replicas keep promises that they may have given before; zero if nobody counts on
    /// any.
    pub promise: Duration,
    /// What was read.
    pub stats: RecoveryStats,
}

/// What recovery read and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryStats {
    /// Segments of the log.
    pub segments: usize,
    /// Batches kept.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them, padding included.
    pub bytes: u64,
    /// Sequence of the last batch kept.
    pub last: BatchSeq,
    /// D: what something in the log proves to have been durable.
    pub durable_upto: BatchSeq,
    /// Bytes of batches, whole ones and torn ones, whose checksum was computed. Linear in the length of the log, whatever
    /// is written in it.
    pub checked_bytes: u64,
    /// Where the log was cut, if anything but zeroes stood behind the cut.
    pub tear: Option<(FilePath, u64)>,
}

/// The outcome of reading a log, and what a start needs to continue it.
#[derive(Debug)]
pub struct Reading {
    /// What the log holds.
    pub recovered: Recovered,
    /// Where the last kept batch ends; `None` if no batch was kept.
    pub(crate) end: Option<LogEnd>,
    /// Every file of the directory.
    pub(crate) files: Vec<FileName>,
    /// Segments up to the one where the last kept batch ends. All others no longer count.
    pub(crate) kept: Vec<SegmentNumber>,
    /// The segment the log begins with; `None` if there is none.
    pub(crate) first: Option<FilePath>,
    /// Whether any record was found.
    pub(crate) holds_records: bool,
}

/// The end of what was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    pub(crate) segment: SegmentNumber,
    pub(crate) offset: u64,
    pub(crate) sequence: BatchSeq,
    pub(crate) checksum: u32,
}

/// Reads the log in `Directory::Wal(wal)` and decides what of it stands.
///
/// # Errors
/// [`WalError`] if the disk fails, or if the log is damaged.
pub fn read(disk: &mut dyn Disk, wal: WalId) -> Result<Reading, WalError> {
    let files = list(disk, wal)?;
    let chain = find_chain(disk, wal, &files)?;
    let mut walk = Walk::default();
    for (place, link) in chain.iter().enumerate() {
        // What a later segment cut off does not count, for ever.
        let limit = chain.get(place + 1).and_then(|next| next.header.previous).map_or(u64::MAX, |p| p.end);
        walk.segment(disk, link, limit.min(link.header.segment_bytes))?;
    }
    walk.finish(files, &chain)
}

/// One segment of the chain.
struct Link {
    path: FilePath,
    header: SegmentHeader,
}

pub(crate) fn segment_path(wal: WalId, number: SegmentNumber) -> FilePath {
    FilePath { directory: Directory::Wal(wal), name: FileName::Segment(number) }
}

fn list(disk: &mut dyn Disk, wal: WalId) -> Result<Vec<FileName>, WalError> {
    let directory = Directory::Wal(wal);
    match execute(disk, Place::Directory(directory), IoOp::List(directory))? {
        IoOutput::Names(names) => Ok(names.into_iter().map(|(name, _)| name).collect()),
        _ => panic!("the device answers a listing with names"),
    }
}

/// From the segment with the highest number back through `previous`. Whatever is not on that way is dead: a start that
/// cut the log did not continue it.
fn find_chain(disk: &mut dyn Disk, wal: WalId, files: &[FileName]) -> Result<Vec<Link>, WalError> {
    let mut numbers: Vec<SegmentNumber> = Vec::new();
    for name in files {
        if let FileName::Segment(number) = name {
            numbers.push(*number);
        }
    }
    let mut chain: Vec<Link> = Vec::new();
    let mut next = numbers.iter().copied().max();
    while let Some(number) = next {
        let path = segment_path(wal, number);
        if let Some(named_by) = chain.last().map(|link| link.path)
            && !numbers.contains(&number)
        {
            return Err(WalError::SegmentMissing { file: path, named_by });
        }
        let header = read_header(disk, wal, number)?;
        // Numbers fall strictly (the decoder checks it), so this ends.
        next = header.previous.map(|p| p.number);
        chain.push(Link { path, header });
    }
    chain.reverse();
    Ok(chain)
}

fn read_header(disk: &mut dyn Disk, wal: WalId, number: SegmentNumber) -> Result<SegmentHeader, WalError> {
    let file = segment_path(wal, number);
    let mut reader = SegmentReader::open(disk, file, BATCHES_OFFSET)?;
    let bytes = reader.len();
    let header = match decode_header(reader.bytes(disk, 0, BATCHES_OFFSET)?) {
        Ok(header) => header,
        Err(HeaderFault::Invalid) => return Err(WalError::HeaderDamaged { file }),
        Err(HeaderFault::UnknownVersion(version)) => {
            return Err(WalError::UnknownVersion { file, offset: 0, version });
        }
    };
    reader.close(disk)?;
    if header.number != number || header.wal != wal {
        return Err(WalError::Misplaced { file });
    }
    if header.segment_bytes != bytes {
        return Err(WalError::Length { file, bytes, expected: header.segment_bytes });
    }
    Ok(header)
}

/// The state of reading from segment to segment.
#[derive(Default)]
struct Walk {
    replay: Replay,
    stats: RecoveryStats,
    checksum: u32,
    end: Option<LogEnd>,
    /// What stands behind the last batch that was kept: in its segment, and in each one after it.
    rests: Vec<Rest>,
}

impl Walk {
    fn segment(&mut self, disk: &mut dyn Disk, link: &Link, limit: u64) -> Result<(), WalError> {
        let mut reader = SegmentReader::open(disk, link.path, WINDOW_BYTES)?;
        self.stats.segments += 1;
        self.stats.durable_upto = self.stats.durable_upto.max(link.header.durable_upto);
        let seed = link.header.checksum_seed();
        let mut offset = BATCHES_OFFSET;
        while let Some((header, bytes)) = self.next_batch(disk, &mut reader, link.path, seed, offset, limit)? {
            offset += bytes;
            self.keep(link.header.number, offset, header, bytes);
        }
        let durable_upto = link.header.durable_upto;
        let rest = Rest { file: link.path, from: offset, limit, durable_upto, written: false, stray: None };
        let rest = self.scan(disk, &mut reader, seed, rest)?;
        self.rests.push(rest);
        reader.close(disk)
    }

    /// The batch at `offset`, replayed, if it continues the log.
    fn next_batch(
        &mut self,
        disk: &mut dyn Disk,
        reader: &mut SegmentReader,
        file: FilePath,
        seed: u32,
        offset: u64,
        limit: u64,
    ) -> Result<Option<(BatchHeader, u64)>, WalError> {
        let Some(bytes) = batch_at(disk, reader, seed, offset, limit)? else { return Ok(None) };
        let sequence = self.stats.last.next();
        self.stats.checked_bytes += bytes.len() as u64;
        match batch::decode(bytes, seed) {
            Ok((header, records)) => {
                if header.sequence != sequence || header.previous_checksum != self.checksum {
                    return Ok(None);
                }
                let replayed = decode_all(records, header.record_count, |record| self.replay.apply(record));
                replayed.map_err(|fault| WalError::Malformed { file, offset, sequence, fault })?;
                Ok(Some((header, bytes.len() as u64)))
            }
            Err(BatchFault::Invalid) => Ok(None),
            Err(fault) => Err(refuse(fault, file, offset, sequence)),
        }
    }

    fn keep(&mut self, segment: SegmentNumber, end: u64, header: BatchHeader, bytes: u64) {
        self.stats.batches += 1;
        self.stats.records += u64::from(header.record_count);
        self.stats.bytes += bytes;
        self.stats.last = header.sequence;
        self.stats.durable_upto = self.stats.durable_upto.max(header.durable_upto);
        self.checksum = header.checksum;
        self.rests.clear();
        self.end = Some(LogEnd { segment, offset: end, sequence: header.sequence, checksum: header.checksum });
    }

    /// Looks at every block behind the last batch taken. A whole batch there that does not continue the log still
    /// proves what was durable when it was submitted.
    fn scan(
        &mut self,
        disk: &mut dyn Disk,
        reader: &mut SegmentReader,
        seed: u32,
        mut rest: Rest,
    ) -> Result<Rest, WalError> {
        let mut offset = rest.from;
        while offset + BLOCK <= rest.limit {
            let block = reader.bytes(disk, offset, BLOCK)?;
            rest.written |= !is_zero(block);
            let mut step = BLOCK;
            if block.starts_with(&BATCH_MAGIC)
                && let Some(bytes) = batch_at(disk, reader, seed, offset, rest.limit)?
            {
                self.stats.checked_bytes += bytes.len() as u64;
                match batch::decode(bytes, seed) {
                    Ok((header, _)) => {
                        self.stats.durable_upto = self.stats.durable_upto.max(header.durable_upto);
                        rest.stray = rest.stray.or(Some((offset, header.sequence)));
                        step = bytes.len() as u64;
                    }
                    Err(BatchFault::Invalid) => {}
                    Err(fault) => return Err(refuse(fault, rest.file, offset, self.stats.last.next())),
                }
            }
            offset += step;
        }
        Ok(rest)
    }

    fn finish(mut self, files: Vec<FileName>, chain: &[Link]) -> Result<Reading, WalError> {
        let sequence = self.stats.last.next();
        let place = rest::place(&self.rests, sequence);
        if self.stats.last < self.stats.durable_upto {
            let (file, offset) = place.expect("something said what was durable, so a segment was read to its break");
            return Err(WalError::Damaged { file, offset, sequence });
        }
        self.stats.tear = place.filter(|_| self.rests.iter().any(|rest| rest.written));
        let holds_records = !self.replay.is_empty();
        let (groups, peers, promise) = self.replay.finish();
        let recovered = Recovered { groups, peers, promise, stats: self.stats };
        let numbers = chain.iter().map(|link| link.header.number);
        let kept = numbers.filter(|number| self.end.is_some_and(|end| *number <= end.segment)).collect();
        let first = chain.first().map(|link| link.path);
        Ok(Reading { recovered, end: self.end, files, kept, first, holds_records })
    }
}

/// The bytes that a valid header at `offset` claims for its batch, if they lie before `limit`.
fn batch_at<'a>(
    disk: &mut dyn Disk,
    reader: &'a mut SegmentReader,
    seed: u32,
    offset: u64,
    limit: u64,
) -> Result<Option<&'a [u8]>, WalError> {
    let room = limit.saturating_sub(offset);
    if room < BLOCK {
        return Ok(None);
    }
    // The claim is bounded by the segment before a byte of it is read.
    match batch::claimed_bytes(reader.bytes(disk, offset, BLOCK)?, seed) {
        Some(claimed) if claimed <= room => reader.bytes(disk, offset, claimed).map(Some),
        _ => Ok(None),
    }
}

fn refuse(fault: BatchFault, file: FilePath, offset: u64, sequence: BatchSeq) -> WalError {
    match fault {
        BatchFault::UnknownVersion(version) => WalError::UnknownVersion { file, offset, version },
        BatchFault::Invalid | BatchFault::Malformed => {
            WalError::Malformed { file, offset, sequence, fault: RecordFault::Field }
        }
    }
}
