//! Whether everything that a log names can be read where it says.

use super::super::files::path;
use super::super::load::read_record;
use super::super::reader::SegmentReader;
use super::super::recovery::{Reading, WINDOW_BYTES};
use super::super::runs::{Place, Run};
use super::super::tracked::Tracked;
use crate::format::record::{CHUNK_OVERHEAD_BYTES, Record, decode_one};
use crate::io::{Disk, FilePath, WalId};
use raftyard_raft::{GroupId, LogIndex};

/// What stands at a place.
#[derive(Clone, Copy, Debug)]
enum Named {
    Entries(Run),
    /// A piece of a snapshot, at this offset of it.
    Piece(u64),
}

/// What can't be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreadable {
    pub(super) file: FilePath,
    /// Where its record should start, in bytes.
    pub(super) offset: u64,
    pub(super) group: GroupId,
    /// The entries; `None` for a piece of a snapshot.
    pub(super) entries: Option<(LogIndex, LogIndex)>,
}

/// How much was read.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) entries: u64,
    pub(super) pieces: u64,
}

/// Reads every run of entries and every piece of a snapshot that the log names, in the order of the disk.
pub(super) fn check(
    disk: &mut dyn Disk,
    wal: WalId,
    reading: &Reading,
    mut each: impl FnMut(u64),
) -> (Counted, Vec<Unreadable>) {
    let mut named: Vec<(Place, Named, &Tracked)> = Vec::new();
    for tracked in reading.index.groups() {
        named.extend(tracked.runs.iter().map(|run| (run.place, Named::Entries(*run), tracked)));
        let chunks = tracked.snapshot().into_iter().flat_map(|snapshot| &snapshot.chunks);
        named.extend(chunks.map(|(at, place)| (*place, Named::Piece(*at), tracked)));
    }
    named.sort_unstable_by_key(|(place, ..)| (place.segment, place.offset));
    let mut counted = Counted::default();
    let mut unreadable = Vec::new();
    let mut open: Option<(u32, SegmentReader)> = None;
    for (place, what, tracked) in named {
        if open.as_ref().is_none_or(|(segment, _)| *segment != place.segment) {
            if let Some((_, reader)) = open.take() {
                // It was only read.
                drop(reader.close(disk));
            }
            open = SegmentReader::open(disk, path(wal, place.segment), WINDOW_BYTES)
                .ok()
                .map(|reader| (place.segment, reader));
        }
        let bytes = open.as_mut().and_then(|(_, reader)| read_record(reader, disk, place).ok());
        if bytes.is_some_and(|bytes| holds(bytes, what, tracked)) {
            match what {
                Named::Entries(run) => counted.entries += u64::from(run.count),
                Named::Piece(_) => counted.pieces += 1,
            }
        } else {
            let entries = match what {
                Named::Entries(run) => Some((run.first, run.last())),
                Named::Piece(_) => None,
            };
            let (file, offset) = (path(wal, place.segment), u64::from(place.offset));
            unreadable.push(Unreadable { file, offset, group: tracked.group, entries });
        }
        each(u64::from(place.len));
    }
    if let Some((_, reader)) = open {
        drop(reader.close(disk));
    }
    (counted, unreadable)
}

/// Whether these bytes are the record that they should be, with the entries that they should hold.
fn holds(bytes: &[u8], what: Named, tracked: &Tracked) -> bool {
    let whose = (tracked.group, tracked.replica);
    let Ok(record) = decode_one(2, bytes).or_else(|_| decode_one(1, bytes)) else { return false };
    match (what, record) {
        (Named::Entries(run), Record::Group(record) | Record::Relocated(record)) => {
            let wanted = record.entries.iter().filter(|entry| run.indexes().contains(&entry.index));
            let right = wanted.filter(|entry| tracked.term(entry.index) == Some(entry.term)).count();
            (record.group, record.replica) == whose && right as u64 == u64::from(run.count)
        }
        (Named::Piece(at), Record::Chunk(chunk)) => {
            (chunk.group, chunk.replica) == whose
                && chunk.offset == at
                && chunk.data.len() + CHUNK_OVERHEAD_BYTES == bytes.len()
                && tracked.snapshot().is_some_and(|snapshot| snapshot.position == chunk.snapshot)
        }
        _ => false,
    }
}
