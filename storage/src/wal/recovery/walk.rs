//! Reading a log from batch to batch: what continues it, what is missing, where it ends.
//!
//! D is the highest sequence that anything valid (batch or segment header) says was durable. A batch that is missing at or
//! below D is damage, and reading goes on behind it; the first one missing above D is a tear, and the log ends there.

use super::super::error::WalError;
use super::super::reader::SegmentReader;
use super::super::replay::{BatchAt, Hole, Replay};
use super::chain::Link;
use super::{Damage, LogEnd, RecoveryStats};
use crate::format::BatchSeq;
use crate::format::batch::{self, BATCH_MAGIC, Batch, BatchFault, BatchHeader};
use crate::format::echo;
use crate::format::record::{RecordFault, decode_all, decode_one};
use crate::format::segment::{BatchPlace, ChecksumSeed};
use crate::io::{BLOCK_BYTES, Disk, FilePath, SegmentNumber};
use raftyard_raft::GroupId;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// How much of a segment is read at once; a larger batch is read whole.
pub(crate) const WINDOW_BYTES: u64 = 1 << 20;

/// The state of reading from segment to segment.
#[derive(Default)]
pub(super) struct Walk {
    pub(super) replay: Replay,
    pub(super) stats: RecoveryStats,
    pub(super) end: Option<LogEnd>,
    pub(super) damage: Vec<Damage>,
    pub(super) holes: Vec<Hole>,
    /// What the last batch said.
    pub(super) clean: bool,
    pub(super) first_segment: SegmentNumber,
    /// Whether the next batch must name the checksum of the one before.
    begun: bool,
    /// Whether the next batch may have any sequence.
    any: bool,
    /// Whether nothing but ends of checkpoints is looked at.
    looks: bool,
    checksum: u32,
    /// Batches behind missing ones of which it is not known yet whether they were durable.
    waiting: Vec<Waiting>,
    /// Where batches began to be missing, and the version of that segment.
    broken: Option<(FilePath, u64, u16)>,
    /// Where the last kept batch ends, and the version of that segment.
    behind_kept: Option<(FilePath, u64, u16)>,
    /// Whether a batch was seen in part.
    torn: bool,
    /// What only a thorough reading looks for.
    pub(super) proof: Option<Proof>,
}

/// What a reading finds that proves every record by itself.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    /// Records of whole batches whose own checksum doesn't hold: file, place in bytes, batch.
    pub(crate) records: Vec<(FilePath, u64, BatchSeq, RecordFault)>,
    /// The batches behind lost ones.
    pub(crate) behind: Vec<Behind>,
}

/// A batch behind lost ones.
#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) file: FilePath,
    /// Where it starts, in bytes.
    pub(crate) offset: u64,
    pub(crate) sequence: BatchSeq,
    /// The groups that the batch before it had touched.
    pub(crate) touched: Vec<GroupId>,
}

impl Proof {
    fn batch(&mut self, link: &Link, offset: u64, batch: &Batch<'_>, behind_lost: bool) {
        let BatchHeader { sequence, record_count, .. } = batch.header;
        let (version, records) = (link.header.version, batch.records);
        let records_at = offset + batch.records_at as u64;
        // What can't be taken apart at all, whoever called this is told of elsewhere.
        let _ = decode_all(version, records, record_count, |_, at, len| {
            if let Err(fault) = decode_one(version, &records[at..at + len]) {
                self.records.push((link.path, records_at + at as u64, sequence, fault));
            }
            Ok(())
        });
        if behind_lost {
            let touched = echo::decode_all(batch.echo).into_iter().flatten().map(|echo| echo.group).collect();
            self.behind.push(Behind { file: link.path, offset, sequence, touched });
        }
    }
}

/// A whole batch behind missing ones.
struct Waiting {
    link: Link,
    offset: u64,
    sequence: BatchSeq,
    bytes: Vec<u8>,
    broken: (FilePath, u64, u16),
}

impl Walk {
    /// Reading that begins at a batch, or with the first one of a log that was never cut at its front.
    pub(super) fn new(from: Option<BatchPlace>, whole: bool) -> Walk {
        let mut walk = Walk { begun: from.is_none() && whole, ..Walk::default() };
        walk.stats.last = from.map_or(BatchSeq(0), |place| place.sequence.previous());
        walk.any = from.is_none() && !whole;
        walk
    }

    /// Reading that only looks for ends of checkpoints, and for where the log begins.
    pub(super) fn looking() -> Walk {
        Walk { any: true, looks: true, ..Walk::default() }
    }

    /// Reading that proves every batch and record, and adds nothing up.
    pub(super) fn proving(whole: bool) -> Walk {
        Walk { proof: Some(Proof::default()), looks: true, ..Walk::new(None, whole) }
    }

    /// Reads on in one segment, up to `limit`, from `from` on.
    pub(super) fn segment(&mut self, disk: &mut dyn Disk, link: &Link, limit: u64, from: u64) -> Result<(), WalError> {
        let mut reader = SegmentReader::open(disk, link.path, WINDOW_BYTES)?;
        self.stats.segments += 1;
        self.first_segment = self.first_segment.max(link.header.first);
        let read = self.batches(disk, &mut reader, link, limit, from);
        reader.close(disk)?;
        read
    }

    fn batches(
        &mut self,
        disk: &mut dyn Disk,
        reader: &mut SegmentReader,
        link: &Link,
        limit: u64,
        mut offset: u64,
    ) -> Result<(), WalError> {
        let seed = link.header.checksum_seed();
        // A start that cut the log proved what it kept before it wrote this header.
        self.know(link.header.durable_upto)?;
        while offset + BLOCK <= limit {
            let (found, checked) = look(disk, reader, seed, offset, limit)?;
            self.stats.checked_bytes += checked;
            match found {
                Found::Whole(batch, bytes) => {
                    self.batch(link, offset, &batch, bytes)?;
                    offset += bytes.len() as u64;
                    continue;
                }
                Found::Malformed => {
                    let sequence = self.stats.last.next();
                    return Err(WalError::Malformed { file: link.path, offset, sequence, fault: RecordFault::Field });
                }
                Found::Torn => self.torn = true,
                Found::Nothing => {}
            }
            self.broken.get_or_insert((link.path, offset, link.header.version));
            offset += BLOCK;
        }
        Ok(())
    }

    fn batch(&mut self, link: &Link, offset: u64, batch: &Batch<'_>, bytes: &[u8]) -> Result<(), WalError> {
        let BatchHeader { sequence, durable_upto, previous_checksum, .. } = batch.header;
        if std::mem::take(&mut self.any) {
            if self.looks || sequence == BatchSeq(1) {
                self.stats.last = sequence.previous();
                self.lose_front();
            } else {
                // The log's front was given up, and no checkpoint tells what it held: whoever is not named from here on is
                // forgotten.
                self.lose((link.path, offset, link.header.version), sequence.previous(), false)?;
            }
        }
        let newest = self.waiting.last().map_or(self.stats.last, |waiting| waiting.sequence);
        let follows = sequence == self.stats.last.next() && self.waiting.is_empty();
        if sequence <= newest || (self.begun && follows && previous_checksum != self.checksum) {
            // Of a start that was cut short; it proves what was durable all the same.
            self.torn = true;
            return self.know(durable_upto);
        }
        if follows {
            return self.keep(link, offset, batch);
        }
        let broken = self.broken.take().unwrap_or((link.path, offset, link.header.version));
        self.waiting.push(Waiting { link: *link, offset, sequence, bytes: bytes.to_vec(), broken });
        self.know(durable_upto)
    }

    /// Something says that batches up to `durable_upto` were durable.
    fn know(&mut self, durable_upto: BatchSeq) -> Result<(), WalError> {
        self.stats.durable_upto = self.stats.durable_upto.max(durable_upto);
        // What is missing was durable: it is damage, and what is behind it counts.
        while let Some(next) = self.waiting.first() {
            let follows = next.sequence == self.stats.last.next();
            if next.sequence.previous() > self.stats.durable_upto && !follows {
                return Ok(());
            }
            let Waiting { link, offset, bytes, broken, sequence } = self.waiting.remove(0);
            let batch = batch::decode(&bytes, link.header.checksum_seed(), offset).expect("it was whole before");
            if !follows {
                self.lose(broken, sequence.previous(), !batch.header.after_loss)?;
            }
            self.keep(&link, offset, &batch)?;
        }
        Ok(())
    }

    /// The batches from the next one to `last` are lost.
    fn lose(&mut self, broken: (FilePath, u64, u16), last: BatchSeq, echoed: bool) -> Result<(), WalError> {
        let first = self.stats.last.next();
        let (file, offset, version) = broken;
        if version == 1 && !self.looks {
            // It has no echo: nothing says who lost what.
            return Err(WalError::Damaged { file, offset, sequence: first });
        }
        let hole = Hole { first, last, explained: first == last && echoed };
        self.note_hole(file, offset, hole);
        self.replay.interrupted(hole);
        self.stats.last = last;
        Ok(())
    }

    /// Where no sequence tells what came before the first batch found, its place does: a segment begins with one.
    fn lose_front(&mut self) {
        let Some((file, offset, _)) = self.broken.filter(|_| self.proof.is_some()) else { return };
        self.note_hole(file, offset, Hole { first: self.stats.last, last: self.stats.last, explained: false });
    }

    fn note_hole(&mut self, file: FilePath, offset: u64, hole: Hole) {
        let Hole { first, last, explained } = hole;
        self.holes.push(hole);
        self.damage.push(Damage { file, offset, first, last, explained });
    }

    fn keep(&mut self, link: &Link, offset: u64, batch: &Batch<'_>) -> Result<(), WalError> {
        let header = batch.header;
        let segment = u32::try_from(link.header.number.0).map_err(|_| WalError::Exhausted { wal: link.header.wal })?;
        let at = BatchAt { version: link.header.version, segment, offset };
        let sequence = header.sequence;
        let replayed = if self.looks { self.replay.look(at, batch) } else { self.replay.batch(at, batch) };
        replayed.map_err(|fault| WalError::Malformed { file: link.path, offset, sequence, fault })?;
        if let Some(proof) = &mut self.proof {
            let behind_lost = self.holes.last().is_some_and(|hole| hole.last.next() == sequence);
            proof.batch(link, offset, batch, behind_lost);
        }
        let bytes = (batch.records_at + batch.records.len()).next_multiple_of(BLOCK_BYTES) as u64;
        self.begun = true;
        self.broken = None;
        self.stats.batches += 1;
        self.stats.records += u64::from(header.record_count);
        self.stats.bytes += bytes;
        self.stats.last = sequence;
        self.stats.durable_upto = self.stats.durable_upto.max(header.durable_upto);
        self.first_segment = self.first_segment.max(header.first_segment);
        self.checksum = header.checksum;
        self.clean = header.clean;
        self.torn = false;
        let end = offset + bytes;
        self.behind_kept = Some((link.path, end, link.header.version));
        self.end =
            Some(LogEnd { segment: link.header.number, offset: end, sequence, checksum: header.checksum, lost: false });
        Ok(())
    }

    /// The log ends. What is missing at its end and was durable is lost for good.
    pub(super) fn finish(&mut self) -> Result<(), WalError> {
        self.torn |= !self.waiting.is_empty();
        let broken = self.waiting.first().map(|waiting| waiting.broken).or(self.broken);
        self.waiting.clear();
        let Some(end) = &mut self.end else { return Ok(()) };
        self.stats.tear = broken.filter(|_| self.torn).map(|(file, offset, _)| (file, offset));
        self.clean &= !self.torn;
        let durable = self.stats.durable_upto;
        if self.stats.last < durable {
            (end.sequence, end.lost) = (durable, true);
            self.clean = false;
            let broken = broken.or(self.behind_kept).expect("the log has an end");
            self.lose(broken, durable, false)?;
        }
        Ok(())
    }
}

/// What stands at a block.
pub(crate) enum Found<'a> {
    Nothing,
    /// The header of a batch that is not whole.
    Torn,
    Whole(Batch<'a>, &'a [u8]),
    /// A whole batch that this version can't have written.
    Malformed,
}

/// What stands at `offset`, before `limit`; and how many bytes were checked for that.
pub(crate) fn look<'a>(
    disk: &mut dyn Disk,
    reader: &'a mut SegmentReader,
    seed: ChecksumSeed,
    offset: u64,
    limit: u64,
) -> Result<(Found<'a>, u64), WalError> {
    let block = reader.bytes(disk, offset, BLOCK)?;
    if !block.starts_with(&BATCH_MAGIC) {
        return Ok((Found::Nothing, 0));
    }
    // The claim is bounded by the segment before a byte of it is read.
    let claimed = batch::claimed_bytes(block, seed, offset).filter(|claimed| *claimed <= limit - offset);
    let Some(claimed) = claimed else { return Ok((Found::Nothing, 0)) };
    let bytes = reader.bytes(disk, offset, claimed)?;
    let found = match batch::decode(bytes, seed, offset) {
        Ok(batch) => Found::Whole(batch, bytes),
        Err(BatchFault::Invalid) => Found::Torn,
        Err(BatchFault::Malformed) => Found::Malformed,
    };
    Ok((found, claimed))
}
