//! The header of a segment: two equal blocks at its start.

use super::field::{Fields, checksum_around, is_zero, put};
use super::{BatchSeq, FORMAT_VERSION, FORMAT_VERSION_OLDEST, Writer};
use crate::io::{BLOCK_BYTES, SegmentNumber, WalId};

/// First bytes of a segment header.
pub const SEGMENT_MAGIC: [u8; 8] = *b"RYSEGMNT";
/// Where the first batch of a segment stands: behind the two copies of its header.
pub const BATCHES_OFFSET: u64 = 2 * BLOCK_BYTES as u64;
const CHECKSUM_AT: usize = 12;
const WRITER_AT: usize = 128;
const RESERVED_AT: usize = 136;
const RESERVED_AT_V1: usize = 72;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Format version of the segment and of all batches in it.
    pub version: u16,
    /// The log it belongs to.
    pub wal: WalId,
    /// Its number; the first segment of a log is 1.
    pub number: SegmentNumber,
    /// Its length in bytes. The file had this length, durably, before it got the name of a segment, so a shorter file
    /// is damage and never a tear.
    pub segment_bytes: u64,
    /// Random; part of every batch's checksum, so that neither stale bytes nor payload pass for a batch of it.
    pub salt: [u8; 16],
    /// The segment before it in the log.
    pub previous: Option<PreviousSegment>,
    /// Every batch up to this sequence was durable before this header was written.
    pub durable_upto: BatchSeq,
    /// The first segment of the log when this header was written; older files were free.
    pub first: SegmentNumber,
    /// The last two complete checkpoints that were durable when this header was written, newest first.
    pub checkpoints: [Option<BatchPlace>; 2],
    /// Who wrote it.
    pub writer: Writer,
}

/// Where a batch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlace {
    /// Its segment.
    pub segment: SegmentNumber,
    /// Where it starts there, in bytes.
    pub offset: u64,
    /// Its sequence.
    pub sequence: BatchSeq,
}

impl BatchPlace {
    pub(crate) const BYTES: usize = 24;

    pub(crate) fn bytes(place: Option<BatchPlace>) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        if let Some(place) = place {
            put(&mut bytes, 0, place.segment.0.to_le_bytes());
            put(&mut bytes, 8, place.offset.to_le_bytes());
            put(&mut bytes, 16, place.sequence.0.to_le_bytes());
        }
        bytes
    }

    /// `Some(None)` for zeroes: no such batch.
    pub(crate) fn read(fields: &mut Fields<'_>) -> Option<Option<BatchPlace>> {
        let (segment, offset, sequence) = (fields.u64()?, fields.u64()?, fields.u64()?);
        match (segment, offset, sequence) {
            (0, 0, 0) => Some(None),
            (0, _, _) | (_, _, 0) => None,
            _ if offset < BATCHES_OFFSET || !offset.is_multiple_of(BLOCK_BYTES as u64) => None,
            _ => Some(Some(BatchPlace { segment: SegmentNumber(segment), offset, sequence: BatchSeq(sequence) })),
        }
    }
}

/// Where the log came from before a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousSegment {
    /// Its number, lower than that of the segment which names it.
    pub number: SegmentNumber,
    /// Batches of it at or behind this offset, in bytes, do not count: recovery cut there.
    pub end: u64,
}

/// Why a block is no segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Not written, torn, or damaged.
    Invalid,
    /// Whole, but of a format this version doesn't know.
    UnknownVersion {
        /// The version.
        version: u16,
        /// Who wrote it, if it says so.
        writer: Writer,
    },
}

impl SegmentHeader {
    /// Both copies of the header: the first two blocks of the segment.
    pub fn encode(&self, blocks: &mut [u8]) {
        assert_eq!(blocks.len(), 2 * BLOCK_BYTES, "a segment header is two blocks");
        let (first, second) = blocks.split_at_mut(BLOCK_BYTES);
        self.encode_block(first);
        second.copy_from_slice(first);
    }

    fn encode_block(&self, block: &mut [u8]) {
        assert_eq!(self.version, FORMAT_VERSION, "only this version is written");
        block.fill(0);
        put(block, 0, SEGMENT_MAGIC);
        put(block, 8, FORMAT_VERSION.to_le_bytes());
        put(block, 10, self.wal.0.to_le_bytes());
        put(block, 16, self.number.0.to_le_bytes());
        put(block, 24, self.segment_bytes.to_le_bytes());
        put(block, 32, self.salt);
        if let Some(previous) = self.previous {
            put(block, 48, previous.number.0.to_le_bytes());
            put(block, 56, previous.end.to_le_bytes());
        }
        put(block, 64, self.durable_upto.0.to_le_bytes());
        put(block, 72, self.first.0.to_le_bytes());
        put(block, 80, BatchPlace::bytes(self.checkpoints[0]));
        put(block, 104, BatchPlace::bytes(self.checkpoints[1]));
        put(block, WRITER_AT, self.writer.bytes());
        let checksum = checksum_around(0, block, CHECKSUM_AT);
        put(block, CHECKSUM_AT, checksum.to_le_bytes());
    }

    /// Reads one copy.
    ///
    /// # Errors
    /// [`HeaderFault`] if the block is no header this version reads.
    pub fn decode(block: &[u8]) -> Result<SegmentHeader, HeaderFault> {
        if block.len() != BLOCK_BYTES || !block.starts_with(&SEGMENT_MAGIC) {
            return Err(HeaderFault::Invalid);
        }
        let mut fields = Fields::new(&block[SEGMENT_MAGIC.len()..]);
        let version = fields.u16().ok_or(HeaderFault::Invalid)?;
        let wal = fields.u16().map(WalId).ok_or(HeaderFault::Invalid)?;
        let checksum = fields.u32().ok_or(HeaderFault::Invalid)?;
        if checksum != checksum_around(0, block, CHECKSUM_AT) {
            return Err(HeaderFault::Invalid);
        }
        // Only a whole header can be believed when it names another version: magic, version and checksum keep their
        // places in all versions.
        if !(FORMAT_VERSION_OLDEST..=FORMAT_VERSION).contains(&version) {
            let writer = block[WRITER_AT..].first_chunk().map_or_else(Writer::default, |b| Writer::from_bytes(*b));
            return Err(HeaderFault::UnknownVersion { version, writer });
        }
        let reserved_at = if version == 1 { RESERVED_AT_V1 } else { RESERVED_AT };
        let header = Self::decode_body(version, wal, &mut fields).filter(|_| is_zero(&block[reserved_at..]));
        header.ok_or(HeaderFault::Invalid)
    }

    fn decode_body(version: u16, wal: WalId, fields: &mut Fields<'_>) -> Option<SegmentHeader> {
        let number = SegmentNumber(fields.u64()?);
        let segment_bytes = fields.u64()?;
        let salt = fields.array()?;
        let previous_number = SegmentNumber(fields.u64()?);
        let previous_end = fields.u64()?;
        let durable_upto = BatchSeq(fields.u64()?);
        let previous = match (previous_number.0, previous_end) {
            (0, 0) => None,
            // An end in no segment.
            (0, _) => return None,
            _ => Some(PreviousSegment { number: previous_number, end: previous_end }),
        };
        let in_order = number > previous_number;
        let mut header = SegmentHeader {
            version,
            wal,
            number,
            segment_bytes,
            salt,
            previous,
            durable_upto,
            // In version 1 no segment was ever given up.
            first: SegmentNumber(1),
            checkpoints: [None; 2],
            writer: Writer::default(),
        };
        if version > 1 {
            header.first = SegmentNumber(fields.u64()?);
            header.checkpoints = [BatchPlace::read(fields)?, BatchPlace::read(fields)?];
            header.writer = Writer::read(fields)?;
        }
        (in_order && header.first.0 > 0 && header.first <= number).then_some(header)
    }

    /// What the checksums of this segment's batches start from.
    #[must_use]
    pub fn checksum_seed(&self) -> ChecksumSeed {
        ChecksumSeed { salt: crc32c::crc32c(&self.salt), version: self.version }
    }
}

/// What the checksums of a segment's batches start from: its salt and, from version 2 on, the batch's own place, so that
/// a batch that was written somewhere else is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChecksumSeed {
    salt: u32,
    version: u16,
}

impl ChecksumSeed {
    /// For the batch that starts at `offset`, in bytes.
    #[must_use]
    pub fn at(self, offset: u64) -> u32 {
        if self.version == 1 { self.salt } else { crc32c::crc32c_append(self.salt, &offset.to_le_bytes()) }
    }

    /// Format version of the segment.
    #[must_use]
    pub const fn version(self) -> u16 {
        self.version
    }
}

/// The header of a segment from its first two blocks: the valid copy, or of two the one with the higher number.
///
/// # Errors
/// [`HeaderFault`] if neither copy can be read.
pub fn decode_header(blocks: &[u8]) -> Result<SegmentHeader, HeaderFault> {
    let (first, second) = blocks.split_at_checked(BLOCK_BYTES).ok_or(HeaderFault::Invalid)?;
    match (SegmentHeader::decode(first), SegmentHeader::decode(second)) {
        (Ok(a), Ok(b)) => Ok(if b.number > a.number { b } else { a }),
        (Ok(header), Err(_)) | (Err(_), Ok(header)) => Ok(header),
        (Err(HeaderFault::Invalid), Err(fault)) | (Err(fault), Err(_)) => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(number: u64) -> SegmentHeader {
        SegmentHeader {
            version: FORMAT_VERSION,
            wal: WalId(3),
            number: SegmentNumber(number),
            segment_bytes: 1 << 20,
            salt: [7; 16],
            previous: Some(PreviousSegment { number: SegmentNumber(4), end: 12288 }),
            durable_upto: BatchSeq(99),
            first: SegmentNumber(2),
            checkpoints: [
                Some(BatchPlace { segment: SegmentNumber(3), offset: 8192, sequence: BatchSeq(77) }),
                Some(BatchPlace { segment: SegmentNumber(2), offset: 12288, sequence: BatchSeq(44) }),
            ],
            writer: Writer::this(),
        }
    }

    #[test]
    fn either_copy_will_do_and_the_higher_number_wins() {
        let mut blocks = vec![0; 2 * BLOCK_BYTES];
        header(9).encode(&mut blocks);
        assert_eq!(decode_header(&blocks), Ok(header(9)));
        for copy in 0..2 {
            let mut damaged = blocks.clone();
            damaged[copy * BLOCK_BYTES + 70] ^= 1;
            assert_eq!(decode_header(&damaged), Ok(header(9)));
        }
        let mut newer = vec![0; 2 * BLOCK_BYTES];
        header(10).encode(&mut newer);
        blocks[BLOCK_BYTES..].copy_from_slice(&newer[BLOCK_BYTES..]);
        assert_eq!(decode_header(&blocks), Ok(header(10)));
        blocks[0] ^= 1;
        blocks[BLOCK_BYTES] ^= 1;
        assert_eq!(decode_header(&blocks), Err(HeaderFault::Invalid));
    }

    #[test]
    fn what_this_version_leaves_zero_must_be_zero() {
        for (at, number) in [(RESERVED_AT - 1, 9), (RESERVED_AT, 9), (BLOCK_BYTES - 1, 9), (56, 4)] {
            let mut block = vec![0; BLOCK_BYTES];
            let previous = None;
            SegmentHeader { previous, ..header(number) }.encode_block(&mut block);
            assert!(SegmentHeader::decode(&block).is_ok());
            block[at] = 1;
            let checksum = checksum_around(0, &block, CHECKSUM_AT);
            put(&mut block, CHECKSUM_AT, checksum.to_le_bytes());
            assert_eq!(SegmentHeader::decode(&block), Err(HeaderFault::Invalid), "byte {at}");
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut block = vec![0; BLOCK_BYTES];
        header(9).encode_block(&mut block);
        put(&mut block, 8, 3u16.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block), Err(HeaderFault::Invalid), "a damaged version proves nothing");
        let checksum = checksum_around(0, &block, CHECKSUM_AT);
        put(&mut block, CHECKSUM_AT, checksum.to_le_bytes());
        let expected = HeaderFault::UnknownVersion { version: 3, writer: Writer::this() };
        assert_eq!(SegmentHeader::decode(&block), Err(expected));
    }
}
