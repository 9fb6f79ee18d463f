//! A batch: a header of 64 bytes, an echo section, the records, and zeroes to the next block. What one write makes
//! durable.

use super::field::{Fields, checksum_around, is_zero, put};
use super::segment::ChecksumSeed;
use super::{BatchSeq, FORMAT_VERSION};
use crate::io::{BLOCK_BYTES, SegmentNumber};
use raftyard_raft::planted::{Bug, planted};

/// First bytes of a batch.
pub const BATCH_MAGIC: [u8; 4] = *b"RYBT";
/// Bytes of a batch before its echo.
pub const BATCH_HEADER_BYTES: usize = 64;
const CHECKSUM_AT: usize = 28;
const HEADER_CHECKSUM_AT: usize = 44;
const FLAG_OPENING: u16 = 1;
const FLAG_CLEAN: u16 = 2;
const FLAG_AFTER_LOSS: u16 = 4;

const _: () = assert!(BATCH_HEADER_BYTES < BLOCK_BYTES, "one block always holds the header");

/// What a batch says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// The first batch after a start.
    pub opening: bool,
    /// The last batch of a clean stop: its writer wrote nothing after it.
    pub clean: bool,
    /// The batch before it was lost when it was written, so that its echo, which is empty, says nothing of that one.
    pub after_loss: bool,
    /// Its place in the log.
    pub sequence: BatchSeq,
    /// Every batch up to this one had been released as durable when this one was submitted.
    pub durable_upto: BatchSeq,
    /// Checksum of the batch before it, 0 for the first of a log.
    pub previous_checksum: u32,
    /// Its own checksum: over the whole padded batch with this field zero, started from its segment's salt. The header
    /// has one of its own besides, which is known only where it is written and checked.
    pub checksum: u32,
    /// Bytes of the echo section, which follows the header.
    pub echo_len: u32,
    /// Bytes of the records, which follow the echo.
    pub records_len: u32,
    /// How many records these are.
    pub record_count: u32,
    /// The first segment of the log; older ones were given up. Zero in version 1, which gives up none.
    pub first_segment: SegmentNumber,
}

/// A whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// The echo section.
    pub echo: &'a [u8],
    /// The records.
    pub records: &'a [u8],
    /// Where the records stand in the batch, in bytes.
    pub records_at: usize,
}

/// Why bytes are no batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchFault {
    /// Not written, torn, damaged, or of another place.
    Invalid,
    /// Whole, but with fields this version can't have written.
    Malformed,
}

/// Turns a buffer that holds [`BATCH_HEADER_BYTES`] of room, the echo, the records, and zeroes up to a full block, into
/// the batch that stands at `offset`. Returns its checksum.
pub fn seal(batch: &mut [u8], mut header: BatchHeader, seed: ChecksumSeed, offset: u64) -> u32 {
    assert_eq!(seed.version(), FORMAT_VERSION, "only this version is written");
    let seed = seed.at(offset);
    assert!(batch.len().is_multiple_of(BLOCK_BYTES), "a batch is padded to blocks");
    assert_eq!(header.padded_bytes(), batch.len() as u64, "the lengths name all of the batch and nothing else");
    batch[..BATCH_HEADER_BYTES].fill(0);
    put(batch, 0, BATCH_MAGIC);
    put(batch, 4, FORMAT_VERSION.to_le_bytes());
    let opening = if header.opening { FLAG_OPENING } else { 0 };
    let clean = if header.clean { FLAG_CLEAN } else { 0 };
    let after_loss = if header.after_loss { FLAG_AFTER_LOSS } else { 0 };
    put(batch, 6, (opening | clean | after_loss).to_le_bytes());
    put(batch, 8, header.sequence.0.to_le_bytes());
    put(batch, 16, header.durable_upto.0.to_le_bytes());
    put(batch, 24, header.previous_checksum.to_le_bytes());
    put(batch, 32, header.echo_len.to_le_bytes());
    put(batch, 36, header.records_len.to_le_bytes());
    put(batch, 40, header.record_count.to_le_bytes());
    put(batch, 48, header.first_segment.0.to_le_bytes());
    let header_checksum = header_checksum(seed, batch);
    put(batch, HEADER_CHECKSUM_AT, header_checksum.to_le_bytes());
    header.checksum = checksum_around(seed, batch, CHECKSUM_AT);
    put(batch, CHECKSUM_AT, header.checksum.to_le_bytes());
    header.checksum
}

/// How many bytes the batch that starts with `block`, at `offset` of its segment, claims to have, padding included;
/// `None` if it starts no batch of the segment with this checksum seed. Only the header is proved, so that payload which
/// looks like one costs no checksum of all that it claims; the caller bounds the length before it reads that much.
#[must_use]
pub fn claimed_bytes(block: &[u8], seed: ChecksumSeed, offset: u64) -> Option<u64> {
    raw(block, seed.at(offset)).map(|(_, _, header)| header.padded_bytes())
}

/// Takes a whole batch apart.
///
/// # Errors
/// [`BatchFault`] if `batch` is not exactly one whole batch of the segment with this checksum seed, at `offset`.
pub fn decode(batch: &[u8], seed: ChecksumSeed, offset: u64) -> Result<Batch<'_>, BatchFault> {
    let at = seed.at(offset);
    let (version, flags, header) = raw(batch, at).ok_or(BatchFault::Invalid)?;
    let whole = header.checksum == checksum_around(at, batch, CHECKSUM_AT) || planted(Bug::TornTaken);
    let whole = whole && !(planted(Bug::WholeCut) && batch.len() > BLOCK_BYTES);
    if header.padded_bytes() != batch.len() as u64 || !whole {
        return Err(BatchFault::Invalid);
    }
    let (flags_known, reserved_at) =
        if version == 1 { (FLAG_OPENING, 48) } else { (FLAG_OPENING | FLAG_CLEAN | FLAG_AFTER_LOSS, 56) };
    let reserved = &batch[reserved_at..BATCH_HEADER_BYTES];
    let records_at = BATCH_HEADER_BYTES + header.echo_len as usize;
    let records_end = records_at + header.records_len as usize;
    let padding = &batch[records_end..];
    // A sequence at the end of the numbers has no successor; it can't have been reached by counting.
    let numbers_hold = header.sequence.0 > header.durable_upto.0 && header.sequence.0 < u64::MAX;
    let known = version == seed.version() && flags & !flags_known == 0;
    if !known || !is_zero(reserved) || !is_zero(padding) || !numbers_hold {
        return Err(BatchFault::Malformed);
    }
    let (echo, records) = (&batch[BATCH_HEADER_BYTES..records_at], &batch[records_at..records_end]);
    Ok(Batch { header, echo, records, records_at })
}

/// Version, flags and fields of a header whose own checksum holds.
fn raw(block: &[u8], seed: u32) -> Option<(u16, u16, BatchHeader)> {
    let mut fields = Fields::new(block.get(..BATCH_HEADER_BYTES)?.strip_prefix(&BATCH_MAGIC)?);
    let version = fields.u16()?;
    let flags = fields.u16()?;
    let header = BatchHeader {
        opening: flags & FLAG_OPENING != 0,
        clean: flags & FLAG_CLEAN != 0,
        after_loss: flags & FLAG_AFTER_LOSS != 0,
        sequence: BatchSeq(fields.u64()?),
        durable_upto: BatchSeq(fields.u64()?),
        previous_checksum: fields.u32()?,
        checksum: fields.u32()?,
        echo_len: fields.u32()?,
        records_len: fields.u32()?,
        record_count: fields.u32()?,
        first_segment: SegmentNumber(0),
    };
    let holds = fields.u32()? == header_checksum(seed, block);
    let first_segment = SegmentNumber(if version == 1 { 0 } else { fields.u64()? });
    holds.then_some((version, flags, BatchHeader { first_segment, ..header }))
}

/// CRC32C of the header of `block` as if both checksums in it were zero, started from `seed`.
fn header_checksum(seed: u32, block: &[u8]) -> u32 {
    let mut header = [0; BATCH_HEADER_BYTES];
    header.copy_from_slice(&block[..BATCH_HEADER_BYTES]);
    put(&mut header, CHECKSUM_AT, [0; 4]);
    put(&mut header, HEADER_CHECKSUM_AT, [0; 4]);
    crc32c::crc32c_append(seed, &header)
}

impl BatchHeader {
    fn padded_bytes(&self) -> u64 {
        let bytes = BATCH_HEADER_BYTES as u64 + u64::from(self.echo_len) + u64::from(self.records_len);
        bytes.next_multiple_of(BLOCK_BYTES as u64)
    }
}
