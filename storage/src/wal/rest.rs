//! Where a log broke off. The batch that is missing stood either behind the last one kept or at the start of the next
//! segment; what else is on the disk tells which, so that the place named is the one that is torn or damaged.
//!
//! Owns that decision alone; recovery collects what it is decided by. It must never decide whether the log is damaged.

use crate::format::BatchSeq;
use crate::format::segment::BATCHES_OFFSET;
use crate::io::{BLOCK_BYTES, FilePath};

/// What a segment holds behind the last batch taken from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    /// The segment.
    pub(super) file: FilePath,
    /// Where the rest begins: at [`BATCHES_OFFSET`] if no batch was taken.
    pub(super) from: u64,
    /// Where the segment ends for its log.
    pub(super) limit: u64,
    /// What the segment's header says was durable before a batch was written to it.
    pub(super) durable_upto: BatchSeq,
    /// Whether anything but zeroes is in the rest.
    pub(super) written: bool,
    /// The first whole batch in it: where it stands, and its sequence.
    pub(super) stray: Option<(u64, BatchSeq)>,
}

/// Where the batch `missing` should stand, which is the first that can't be taken. `rests` are those of the segment with
/// the last batch taken (or of the first one, if none was) and of all segments after it.
pub(super) fn place(rests: &[Rest], missing: BatchSeq) -> Option<(FilePath, u64)> {
    let first = rests.first()?;
    let named = match rests.get(1) {
        Some(second) if !first.is_broken(second, missing) => second,
        _ => first,
    };
    Some((named.file, named.from))
}

impl Rest {
    /// Whether `missing` was in this segment, which `next` continues. If nothing says so it was the first of the next
    /// one: that segment had a batch at its start, as each has before another follows it, and has it no longer.
    fn is_broken(&self, next: &Rest, missing: BatchSeq) -> bool {
        if self.from == self.limit {
            return false;
        }
        // Segments are never reused: what isn't zero was written by a batch at or behind the break. And a segment that
        // was gone on from had a batch.
        self.written || self.from == BATCHES_OFFSET || next.durable_upto >= missing || next.has_no_room_for(missing)
    }

    /// Whether more batches are missing before the first whole one than fit between the segment's start and it.
    fn has_no_room_for(&self, missing: BatchSeq) -> bool {
        let Some((offset, sequence)) = self.stray else { return false };
        let blocks = (offset - BATCHES_OFFSET) / BLOCK_BYTES as u64;
        sequence.0.saturating_sub(missing.0) > blocks
    }
}
