//! Reading all entries of a log at once, blocking: for tools, tests, and a start that wants them in memory.

use super::Wal;
use super::error::WalError;
use super::files::path;
use super::index::Index;
use super::reader::SegmentReader;
use super::recovery::Reading;
use super::runs::{Place, Run};
use crate::format::record::{Record, decode_any};
use crate::io::{BLOCK_BYTES, Disk, WalId};
use raftyard_raft::{Entry, GroupId, LogIndex};
use std::collections::BTreeMap;

/// Every group's entries, from the one after its base on.
pub type Loaded = BTreeMap<GroupId, Vec<Entry>>;

impl Reading {
    /// Reads all entries. Blocking; memory for all of them.
    ///
    /// # Errors
    /// The disk fails, or a record is not what it was when the log was read.
    pub fn load(&self, disk: &mut dyn Disk, wal: WalId) -> Result<Loaded, WalError> {
        load(&self.index, disk, wal)
    }

    /// Reads the state machine's snapshot that the log keeps for a group; empty if it keeps none. Blocking.
    ///
    /// # Errors
    /// As [`Reading::load`].
    pub fn load_snapshot(&self, disk: &mut dyn Disk, wal: WalId, group: GroupId) -> Result<Vec<u8>, WalError> {
        load_snapshot(&self.index, disk, wal, group)
    }
}

impl Wal {
    /// As [`Reading::load`]; nothing may be recorded and not released.
    ///
    /// # Errors
    /// As there.
    pub fn load(&self, disk: &mut dyn Disk) -> Result<Loaded, WalError> {
        load(&self.index, disk, self.config.wal)
    }

    /// As [`Reading::load_snapshot`]; nothing may be recorded and not released.
    ///
    /// # Errors
    /// As there.
    pub fn load_snapshot(&self, disk: &mut dyn Disk, group: GroupId) -> Result<Vec<u8>, WalError> {
        load_snapshot(&self.index, disk, self.config.wal, group)
    }

    /// Bytes of the records that hold a group's entries. Linear in their number.
    #[must_use]
    pub fn entry_bytes(&self, group: GroupId) -> u64 {
        let tracked = self.index.slot(group).map(|slot| self.index.at(slot));
        tracked.map_or(0, |tracked| tracked.runs.iter().map(|run| u64::from(run.place.len)).sum())
    }
}

fn load_snapshot(index: &Index, disk: &mut dyn Disk, wal: WalId, group: GroupId) -> Result<Vec<u8>, WalError> {
    let mut bytes = Vec::new();
    let Some(tracked) = index.slot(group).map(|slot| index.at(slot)) else { return Ok(bytes) };
    for (_, place) in tracked.snapshot().into_iter().flat_map(|snapshot| &snapshot.chunks) {
        let path = path(wal, place.segment);
        let mut reader = SegmentReader::open(disk, path, BLOCK_BYTES as u64)?;
        let read = read_record(&mut reader, disk, *place).map(<[u8]>::to_vec);
        reader.close(disk)?;
        match decode_any(&read?) {
            Ok(Record::Chunk(chunk)) => bytes.extend_from_slice(chunk.data),
            _ => {
                let (offset, index) = (u64::from(place.offset), LogIndex(0));
                return Err(WalError::Unreadable { file: path, offset, index });
            }
        }
    }
    Ok(bytes)
}

fn load(index: &Index, disk: &mut dyn Disk, wal: WalId) -> Result<Loaded, WalError> {
    let mut loaded: Loaded = index.groups().map(|tracked| (tracked.group, Vec::new())).collect();
    // In the order of the disk, so that each segment is read once.
    let runs = index.groups().flat_map(|tracked| tracked.runs.iter().map(|run| (run.place, *run, tracked.group)));
    let mut runs: Vec<_> = runs.collect();
    runs.sort_unstable_by_key(|(place, ..)| (place.segment, place.offset));
    let mut reader: Option<(u32, SegmentReader)> = None;
    for (place, run, group) in runs {
        let mut open = match reader.take() {
            Some((segment, open)) if segment == place.segment => open,
            other => {
                if let Some((_, open)) = other {
                    open.close(disk)?;
                }
                SegmentReader::open(disk, path(wal, place.segment), 1 << 20)?
            }
        };
        let entries = loaded.get_mut(&group).expect("made for every group");
        let read = record(&mut open, disk, &run, entries);
        reader = Some((place.segment, open));
        read?;
    }
    if let Some((_, open)) = reader {
        open.close(disk)?;
    }
    for entries in loaded.values_mut() {
        entries.sort_by_key(|entry| entry.index);
    }
    Ok(loaded)
}

fn record(
    reader: &mut SegmentReader,
    disk: &mut dyn Disk,
    run: &Run,
    entries: &mut Vec<Entry>,
) -> Result<(), WalError> {
    let file = reader.path();
    let bytes = read_record(reader, disk, run.place)?;
    let lost = WalError::Unreadable { file, offset: u64::from(run.place.offset), index: run.first };
    let (Ok(Record::Group(record)) | Ok(Record::Relocated(record))) = decode_any(bytes) else { return Err(lost) };
    let wanted = |index: &LogIndex| run.indexes().contains(index);
    let before = entries.len();
    entries.extend(record.entries.iter().filter(|entry| wanted(&entry.index)).map(|entry| entry.to_entry()));
    if (entries.len() - before) as u64 == u64::from(run.count) { Ok(()) } else { Err(lost) }
}

/// The bytes of the record at a place; fewer if the file ends there.
pub(super) fn read_record<'a>(
    reader: &'a mut SegmentReader,
    disk: &mut dyn Disk,
    place: Place,
) -> Result<&'a [u8], WalError> {
    let (offset, len) = (u64::from(place.offset), u64::from(place.len));
    let (start, _) = place.blocks();
    let bytes = reader.bytes(disk, start, offset + len - start)?;
    Ok(usize::try_from(offset - start).ok().and_then(|at| bytes.get(at..)).unwrap_or_default())
}
