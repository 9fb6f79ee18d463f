//! What a log can be told, with the limits that hold in it.

use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::echo::ECHO_BYTES;
use crate::format::record::{ENTRY_OVERHEAD_BYTES, RECORD_OVERHEAD_BYTES_MAX};
use crate::format::segment::BATCHES_OFFSET;
use crate::io::{BLOCK_BYTES, WalId, WriteMode};
use std::time::Duration;

/// Settings of one log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalConfig {
    /// Which log.
    pub wal: WalId,
    /// Whether the node's manifest names this log: then it must be there, and its absence is an error instead of a
    /// fresh start.
    pub initialised: bool,
    /// Length of a new segment in bytes; a multiple of the block, from [`WalConfig::SEGMENT_BYTES_MIN`] on.
    pub segment_bytes: u64,
    /// A batch this large takes no more records. Soft: the record that crosses it is still in.
    pub batch_bytes_max: usize,
    /// A batch of this many records takes no more.
    pub batch_groups_max: usize,
    /// The largest data of one entry. A batch that is full but for one byte and then gets such an entry must still fit
    /// a segment.
    pub entry_bytes_max: usize,
    /// Writes in flight at once, 1 to [`WalConfig::DEPTH_MAX`].
    pub depth: usize,
    /// How a batch becomes durable. [`WriteMode::Volatile`] is durability "none": what is released may be lost.
    pub mode: WriteMode,
    /// For how long after a start replicas keep promises that they gave before it, if peers are told that they do. It is
    /// durable when the log is open, unless a longer one is.
    pub promise: Duration,
    /// A checkpoint is made when this many bytes were written since the last one began; later if it is large.
    pub checkpoint_bytes: u64,
    /// Old segments are emptied when all of them are more than four thirds of what still counts and this many segments.
    pub spare_segments: usize,
    /// Files of a segment's length that are kept for when the disk is full: then old segments are emptied into them.
    pub reserve_segments: usize,
    /// While running, the next segment is zero-filled in pieces of this many bytes, one in flight, at most about twice
    /// as fast as batches fill the present one.
    pub zero_chunk_bytes: u64,
}

/// Which setting is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalConfigError {
    /// The segment's length.
    #[error(
        "segment_bytes = {bytes}: a multiple of {BLOCK_BYTES} from {min} to {max} is allowed",
        min = WalConfig::SEGMENT_BYTES_MIN,
        max = WalConfig::SEGMENT_BYTES_MAX
    )]
    SegmentBytes {
        /// What was asked for.
        bytes: u64,
    },
    /// The largest batch does not fit a segment.
    #[error(
        "a batch of batch_bytes_max = {batch_bytes_max} and one entry of entry_bytes_max = {entry_bytes_max} do not \
         fit segment_bytes = {segment_bytes}"
    )]
    BatchExceedsSegment {
        /// The batch limit.
        batch_bytes_max: usize,
        /// The entry limit.
        entry_bytes_max: usize,
        /// The segment's length.
        segment_bytes: u64,
    },
    /// No record would fit.
    #[error("batch_bytes_max, batch_groups_max and entry_bytes_max must be at least 1")]
    Zero,
    /// Writes in flight.
    #[error("depth = {depth}: 1 to {max} is allowed", max = WalConfig::DEPTH_MAX)]
    Depth {
        /// What was asked for.
        depth: usize,
    },
    /// The zero-filling piece.
    #[error("zero_chunk_bytes = {bytes}: a multiple of {BLOCK_BYTES}, not 0, is allowed")]
    ZeroChunkBytes {
        /// What was asked for.
        bytes: u64,
    },
}

impl WalConfig {
    /// Smallest segment, for tests.
    pub const SEGMENT_BYTES_MIN: u64 = 256 << 10;
    /// Largest segment; lengths and counts in it fit 32 bits.
    pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
    /// Most writes in flight.
    pub const DEPTH_MAX: usize = 4;

    /// The defaults, for a log that no manifest names yet.
    #[must_use]
    pub fn new(wal: WalId) -> WalConfig {
        WalConfig {
            wal,
            initialised: false,
            segment_bytes: 64 << 20,
            batch_bytes_max: 1 << 20,
            batch_groups_max: 4096,
            entry_bytes_max: 8 << 20,
            depth: 1,
            mode: WriteMode::Dsync,
            promise: Duration::ZERO,
            checkpoint_bytes: 256 << 20,
            spare_segments: 4,
            reserve_segments: 2,
            zero_chunk_bytes: 256 << 10,
        }
    }

    /// Most groups in a batch if the echo of them is to take an eighth of a segment at most.
    #[must_use]
    pub fn batch_groups_max_in(segment_bytes: u64) -> usize {
        usize::try_from(segment_bytes / 8).unwrap_or(usize::MAX) / ECHO_BYTES
    }

    /// The same with segments of that length, and the limits lowered until batches fit them.
    #[must_use]
    pub fn with_segment_bytes(mut self, segment_bytes: u64) -> WalConfig {
        let quarter = usize::try_from(segment_bytes / 4).unwrap_or(usize::MAX);
        self.segment_bytes = segment_bytes;
        self.batch_bytes_max = self.batch_bytes_max.min(quarter);
        self.entry_bytes_max = self.entry_bytes_max.min(quarter);
        self.batch_groups_max = self.batch_groups_max.min(Self::batch_groups_max_in(segment_bytes));
        self.zero_chunk_bytes = self.zero_chunk_bytes.min(segment_bytes);
        self.checkpoint_bytes = self.checkpoint_bytes.min(segment_bytes.saturating_mul(4));
        self
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// Names the first setting that is out of its range.
    pub fn check(&self) -> Result<(), WalConfigError> {
        let block = BLOCK_BYTES as u64;
        let segment_allowed = Self::SEGMENT_BYTES_MIN..=Self::SEGMENT_BYTES_MAX;
        if !segment_allowed.contains(&self.segment_bytes) || !self.segment_bytes.is_multiple_of(block) {
            return Err(WalConfigError::SegmentBytes { bytes: self.segment_bytes });
        }
        if self.batch_bytes_max == 0 || self.batch_groups_max == 0 || self.entry_bytes_max == 0 {
            return Err(WalConfigError::Zero);
        }
        if !(1..=Self::DEPTH_MAX).contains(&self.depth) {
            return Err(WalConfigError::Depth { depth: self.depth });
        }
        if self.zero_chunk_bytes == 0 || !self.zero_chunk_bytes.is_multiple_of(block) {
            return Err(WalConfigError::ZeroChunkBytes { bytes: self.zero_chunk_bytes });
        }
        let largest = self.batch_bytes_hard_max();
        if largest.is_none_or(|bytes| bytes as u64 > self.segment_bytes - BATCHES_OFFSET) {
            return Err(WalConfigError::BatchExceedsSegment {
                batch_bytes_max: self.batch_bytes_max,
                entry_bytes_max: self.entry_bytes_max,
                segment_bytes: self.segment_bytes,
            });
        }
        Ok(())
    }

    /// Bytes of the largest batch a caller who asks for room can form: all but full, then one largest entry.
    pub(crate) fn batch_bytes_hard_max(&self) -> Option<usize> {
        // A snapshot's position goes into the same batch as the entries after it.
        let beside_entry = BATCH_HEADER_BYTES + 2 * RECORD_OVERHEAD_BYTES_MAX + ENTRY_OVERHEAD_BYTES;
        let echo = self.batch_groups_max.checked_mul(ECHO_BYTES)?;
        let bytes = self.batch_bytes_max.checked_add(self.entry_bytes_max)?.checked_add(beside_entry)?;
        let bytes = bytes.checked_add(echo)?;
        bytes.checked_next_multiple_of(BLOCK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_hold_for_every_segment_length() {
        for segment_bytes in [256 << 10, 1 << 20, 64 << 20, 1 << 30] {
            WalConfig::new(WalId(0)).with_segment_bytes(segment_bytes).check().unwrap();
        }
    }

    #[test]
    fn an_entry_that_fits_no_segment_is_a_config_error() {
        let config = WalConfig { segment_bytes: 1 << 20, ..WalConfig::new(WalId(0)) };
        let error = config.check().unwrap_err();
        assert!(matches!(error, WalConfigError::BatchExceedsSegment { .. }));
        assert!(error.to_string().contains("entry_bytes_max = 8388608"), "{error}");
    }
}
