//! Batches and records, one after the other, as they stand.

use super::super::error::WalError;
use super::super::reader::SegmentReader;
use super::super::recovery::{Found, Link, WINDOW_BYTES, look, read_header};
use super::survey::survey;
use crate::format::BatchSeq;
use crate::format::batch::{Batch, BatchHeader};
use crate::format::echo::{self, Echo};
use crate::format::record::{Record, RecordFault, decode_all};
use crate::format::segment::{BATCHES_OFFSET, BatchPlace, SegmentHeader};
use crate::io::{BLOCK_BYTES, Disk, FilePath, SegmentNumber, WalId};
use std::ops::ControlFlow;

/// What of a log is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpFilter {
    /// Only this segment, whether or not it still counts; otherwise all that count, up to where they count.
    pub segment: Option<SegmentNumber>,
    /// Only batches from this one on.
    pub from: BatchSeq,
}

/// What stands in a log, in order.
#[derive(Debug)]
pub enum Dumped<'a> {
    /// A segment begins.
    Segment {
        /// Its file.
        file: FilePath,
        /// Its header.
        header: &'a SegmentHeader,
    },
    /// A batch begins.
    Batch {
        /// Where it stands.
        place: BatchPlace,
        /// Its header.
        header: &'a BatchHeader,
        /// Its length in bytes, padding included.
        bytes: u64,
    },
    /// An echo of the batch.
    Echo(Echo),
    /// A record of the batch.
    Record {
        /// Where it starts in the segment, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// The record.
        record: &'a Record<'a>,
    },
    /// Records or echoes of the batch that make no sense from here on.
    Malformed(RecordFault),
    /// Blocks between two batches in which there is no whole one.
    Gap {
        /// Where they begin, in bytes.
        offset: u64,
        /// How many bytes.
        bytes: u64,
    },
    /// A segment that counts and can't be read.
    Unreadable(&'a WalError),
}

/// Hands out what stands in a log, until `each` has enough. Blocking; a batch is in memory at a time.
///
/// # Errors
/// The directory, or the one segment that is wanted, can't be read.
pub fn dump(
    disk: &mut dyn Disk,
    wal: WalId,
    filter: DumpFilter,
    each: &mut dyn FnMut(Dumped<'_>) -> ControlFlow<()>,
) -> Result<(), WalError> {
    if let Some(number) = filter.segment {
        let link = read_header(disk, wal, number)?;
        let limit = link.header.segment_bytes;
        return segment(disk, &link, limit, filter.from, each).map(drop);
    }
    for file in survey(disk, wal, None, None)? {
        let gone_on = match (&file.link, &file.trouble) {
            (Some(link), _) if file.counts() => match segment(disk, link, file.limit(), filter.from, each) {
                Ok(gone_on) => gone_on,
                Err(error) => each(Dumped::Unreadable(&error)),
            },
            (_, Some(trouble)) => each(Dumped::Unreadable(trouble)),
            _ => ControlFlow::Continue(()),
        };
        if gone_on.is_break() {
            break;
        }
    }
    Ok(())
}

fn segment(
    disk: &mut dyn Disk,
    link: &Link,
    limit: u64,
    from: BatchSeq,
    each: &mut dyn FnMut(Dumped<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, WalError> {
    let mut reader = SegmentReader::open(disk, link.path, WINDOW_BYTES)?;
    let mut gone_on = each(Dumped::Segment { file: link.path, header: &link.header });
    let seed = link.header.checksum_seed();
    let (mut offset, mut behind) = (BATCHES_OFFSET, BATCHES_OFFSET);
    while gone_on.is_continue() && offset + BLOCK_BYTES as u64 <= limit {
        match look(disk, &mut reader, seed, offset, limit) {
            Ok((Found::Whole(found, bytes), _)) => {
                let wanted = found.header.sequence >= from;
                if wanted && offset > behind {
                    gone_on = each(Dumped::Gap { offset: behind, bytes: offset - behind });
                }
                if wanted && gone_on.is_continue() {
                    gone_on = batch(link, offset, &found, bytes.len() as u64, each);
                }
                offset += bytes.len() as u64;
                behind = offset;
            }
            Ok(_) => offset += BLOCK_BYTES as u64,
            Err(error) => {
                reader.close(disk)?;
                return Err(error);
            }
        }
    }
    reader.close(disk)?;
    Ok(gone_on)
}

fn batch(
    link: &Link,
    offset: u64,
    batch: &Batch<'_>,
    bytes: u64,
    each: &mut dyn FnMut(Dumped<'_>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let place = BatchPlace { segment: link.header.number, offset, sequence: batch.header.sequence };
    each(Dumped::Batch { place, header: &batch.header, bytes })?;
    if link.header.version > 1 {
        match echo::decode_all(batch.echo) {
            Some(mut echoes) => echoes.try_for_each(|echo| each(Dumped::Echo(echo)))?,
            None => each(Dumped::Malformed(RecordFault::Length))?,
        }
    }
    let records_at = offset + batch.records_at as u64;
    let mut gone_on = ControlFlow::Continue(());
    let decoded = decode_all(link.header.version, batch.records, batch.header.record_count, |record, at, len| {
        if gone_on.is_continue() {
            gone_on = each(Dumped::Record { offset: records_at + at as u64, len: len as u64, record: &record });
        }
        Ok(())
    });
    gone_on?;
    decoded
        .or_else(|fault| match each(Dumped::Malformed(fault)) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(fault),
        })
        .map_or(ControlFlow::Break(()), ControlFlow::Continue)
}
