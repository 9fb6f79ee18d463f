//! The header of a segment: two equal blocks at its start.

use super::field::{Fields, checksum_around, is_zero, put};
use super::{BatchSeq, FORMAT_VERSION};
use crate::io::{BLOCK_BYTES, SegmentNumber, WalId};

/// First bytes of a segment header.
pub const SEGMENT_MAGIC: [u8; 8] = *b"RYSEGMNT";
/// Where the first batch of a segment stands: behind the two copies of its header.
pub const BATCHES_OFFSET: u64 = 2 * BLOCK_BYTES as u64;
const CHECKSUM_AT: usize = 12;
const RESERVED_AT: usize = 72;

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
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
    UnknownVersion(u16),
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
        if version != FORMAT_VERSION {
            return Err(HeaderFault::UnknownVersion(version));
        }
        let header = Self::decode_body(wal, &mut fields).filter(|_| is_zero(&block[RESERVED_AT..]));
        header.ok_or(HeaderFault::Invalid)
    }

    fn decode_body(wal: WalId, fields: &mut Fields<'_>) -> Option<SegmentHeader> {
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
        in_order.then_some(SegmentHeader { wal, number, segment_bytes, salt, previous, durable_upto })
    }

    /// What every batch checksum of this segment starts from.
    #[must_use]
    pub fn checksum_seed(&self) -> u32 {
        crc32c::crc32c(&self.salt)
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
            wal: WalId(3),
            number: SegmentNumber(number),
            segment_bytes: 1 << 20,
            salt: [7; 16],
            previous: Some(PreviousSegment { number: SegmentNumber(4), end: 12288 }),
            durable_upto: BatchSeq(99),
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
        for (at, number) in [(RESERVED_AT, 9), (BLOCK_BYTES - 1, 9), (56, 4)] {
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
        put(&mut block, 8, 2u16.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block), Err(HeaderFault::Invalid), "a damaged version proves nothing");
        let checksum = checksum_around(0, &block, CHECKSUM_AT);
        put(&mut block, CHECKSUM_AT, checksum.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block), Err(HeaderFault::UnknownVersion(2)));
    }
}
