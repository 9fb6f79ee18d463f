//! Which segments a log has: from the one with the highest number back to where reading begins.

use super::super::error::{Place, WalError};
use super::super::reader::{SegmentReader, execute};
use crate::format::segment::{BATCHES_OFFSET, HeaderFault, SegmentHeader, decode_header};
use crate::io::{Directory, Disk, FileName, FilePath, IoOp, IoOutput, SegmentNumber, WalId};
use std::collections::BTreeSet;

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) path: FilePath,
    pub(crate) header: SegmentHeader,
}

/// The files of a log's directory.
pub(crate) struct Files {
    pub(crate) names: Vec<(FileName, u64)>,
    pub(crate) segments: BTreeSet<SegmentNumber>,
}

pub(crate) fn list(disk: &mut dyn Disk, wal: WalId) -> Result<Files, WalError> {
    let directory = Directory::Wal(wal);
    let names = match execute(disk, Place::Directory(directory), IoOp::List(directory))? {
        IoOutput::Names(names) => names,
        _ => panic!("the device answers a listing with names"),
    };
    let segments = names.iter().filter_map(|(name, _)| name.segment());
    Ok(Files { segments: segments.collect(), names })
}

/// The segment with the highest number; `None` if there is none.
pub(super) fn newest(disk: &mut dyn Disk, wal: WalId, files: &Files) -> Result<Option<Link>, WalError> {
    let Some(&number) = files.segments.last() else { return Ok(None) };
    read_header(disk, wal, number).map(Some)
}

/// The segments from `from` to `newest`, each continued by the next; from the first one on if that is `None`.
pub(super) fn chain(
    disk: &mut dyn Disk,
    wal: WalId,
    files: &Files,
    newest: Link,
    from: Option<SegmentNumber>,
    first: SegmentNumber,
) -> Result<Vec<Link>, WalError> {
    let mut chain = vec![newest];
    loop {
        let link = *chain.last().expect("there is at least the newest");
        let previous = link.header.previous.map(|previous| previous.number);
        let Some(number) = previous.filter(|number| *number >= first && *number >= from.unwrap_or(first)) else {
            break;
        };
        if !files.segments.contains(&number) {
            return Err(WalError::SegmentMissing { file: FilePath::segment(wal, number), named_by: link.path });
        }
        // Numbers fall strictly (the decoder checks it), so this ends.
        chain.push(read_header(disk, wal, number)?);
    }
    chain.reverse();
    Ok(chain)
}

pub(crate) fn read_header(disk: &mut dyn Disk, wal: WalId, number: SegmentNumber) -> Result<Link, WalError> {
    let path = FilePath::segment(wal, number);
    let mut reader = SegmentReader::open(disk, path, BATCHES_OFFSET)?;
    let bytes = reader.len();
    let decoded = decode_header(reader.bytes(disk, 0, BATCHES_OFFSET)?);
    reader.close(disk)?;
    let header = match decoded {
        Ok(header) => header,
        Err(HeaderFault::Invalid) => return Err(WalError::HeaderDamaged { file: path }),
        Err(HeaderFault::UnknownVersion { version, writer }) => {
            return Err(WalError::UnknownVersion { file: path, version, writer });
        }
    };
    if header.number != number || header.wal != wal {
        return Err(WalError::Misplaced { file: path });
    }
    if header.segment_bytes != bytes {
        return Err(WalError::Length { file: path, bytes, expected: header.segment_bytes });
    }
    Ok(Link { path, header })
}
