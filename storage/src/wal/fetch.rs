//! Reading entries and snapshots back, while the log runs: aligned reads, those that lie close together as one.
//!
//! It must never read what is not released yet, and never believe what it read: every record is proved by its checksum and
//! compared with what the index expects.

use super::files::{Handle, path};
use super::runs::{FILLING, Place, Run};
use super::{Purpose, Wal};
use crate::aligned::AlignedBuf;
use crate::format::record::{Chunk, GroupRecord, Record, decode_any};
use crate::io::{IoError, IoOp, IoOutput, IoResult};
use raftyard_raft::{Entry, GroupId, LogIndex, ReplicaId};
use std::collections::VecDeque;

/// Reads of one fetch, at most; the rest is fetched by the next.
const READS_MAX: usize = 16;
const EIO: i32 = 5;
const ENOENT: i32 = 2;
/// Records of one fetch, at most.
const RECORDS_MAX: usize = 1024;
/// Places that lie no further apart are read together.
const GAP_BYTES_MAX: u64 = 16 << 10;
/// A read is not made longer than this by what lies close.
const READ_BYTES_MAX: u64 = 1 << 20;

/// Names one fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// What a fetch came to.
#[derive(Debug)]
pub struct Fetched {
    /// Which.
    pub id: FetchId,
    /// The group.
    pub group: GroupId,
    /// Entries from the first one asked for on, or the next piece of the snapshot.
    pub result: Result<FetchedData, FetchError>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedData {
    /// Entries.
    Entries(Vec<Entry>),
    /// A piece of the snapshot.
    Chunk(Vec<u8>),
}

/// Why a fetch brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The log no longer has what was asked for, or never had it: it was compacted, replaced, or the group is gone.
    #[error("the log no longer holds that")]
    Gone,
    /// What was asked for is damaged on the disk.
    #[error("entry {first} and what follows it can't be read: the disk lost it")]
    Lost {
        /// The first entry that is lost.
        first: LogIndex,
    },
    /// The disk refused to read.
    #[error("{0}")]
    Io(IoError),
}

/// All reads under way.
#[derive(Debug, Default)]
pub(super) struct Reads {
    next: u64,
    /// Those that wait for what is not released yet.
    deferred: Vec<Wanted>,
    /// Those whose segment is being opened.
    opening: Vec<(u32, u64, IoRead)>,
    fetches: Vec<Fetch>,
    /// Reads in flight: their number, whose they are.
    pub(super) in_flight: Vec<(u64, Owner, u32)>,
    done: VecDeque<Fetched>,
}

/// Whose a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Fetch { fetch: u64, part: usize },
    Reclaim,
}

#[derive(Clone, Copy, Debug)]
struct IoRead {
    offset: u64,
    len: u64,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    id: FetchId,
    group: GroupId,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Entries { first: LogIndex, last: LogIndex, bytes_max: usize },
    Chunk { offset: u64 },
}

/// One fetch under way.
#[derive(Debug)]
struct Fetch {
    wanted: Wanted,
    replica: ReplicaId,
    runs: Vec<Run>,
    parts: Vec<Part>,
    failed: Option<IoError>,
}

#[derive(Debug)]
struct Part {
    segment: u32,
    offset: u64,
    len: u64,
    bytes: Option<AlignedBuf>,
}

impl Wal {
    /// Asks for entries of a group from `first` on, up to `last` at most, of about `bytes_max` bytes but at least one. The
    /// answer comes out of [`Wal::poll_fetched`].
    pub fn fetch(&mut self, group: GroupId, first: LogIndex, last: LogIndex, bytes_max: usize) -> FetchId {
        self.want(group, What::Entries { first, last, bytes_max })
    }

    /// Asks for the piece of a group's snapshot at `offset`, in bytes.
    pub fn fetch_chunk(&mut self, group: GroupId, offset: u64) -> FetchId {
        self.want(group, What::Chunk { offset })
    }

    /// The next fetch that is done.
    pub fn poll_fetched(&mut self) -> Option<Fetched> {
        self.reads.done.pop_front()
    }

    fn want(&mut self, group: GroupId, what: What) -> FetchId {
        self.reads.next += 1;
        let id = FetchId(self.reads.next);
        self.begin_fetch(Wanted { id, group, what });
        id
    }

    fn begin_fetch(&mut self, wanted: Wanted) {
        let Some((replica, runs)) = self.find(&wanted) else {
            let Wanted { id, group, .. } = wanted;
            self.reads.done.push_back(Fetched { id, group, result: Err(FetchError::Gone) });
            return;
        };
        if runs.iter().any(|run| !self.is_released(run.place)) {
            self.reads.deferred.push(wanted);
            return;
        }
        let mut parts: Vec<Part> = Vec::new();
        let mut kept = Vec::new();
        for run in runs {
            let (offset, len) = run.place.blocks();
            let count = parts.len();
            match parts.last_mut() {
                Some(part) if part.segment == run.place.segment && part.takes(offset, len) => {
                    part.len = part.len.max(offset + len - part.offset);
                }
                _ if count == READS_MAX => break,
                _ => parts.push(Part { segment: run.place.segment, offset, len, bytes: None }),
            }
            kept.push(run);
        }
        let fetch = wanted.id.0;
        let reads: Vec<(u32, u64, u64)> = parts.iter().map(|part| (part.segment, part.offset, part.len)).collect();
        self.reads.fetches.push(Fetch { wanted, replica, runs: kept, parts, failed: None });
        for (part, (segment, offset, len)) in reads.into_iter().enumerate() {
            self.read(Owner::Fetch { fetch, part }, segment, offset, len);
        }
    }

    /// Where what is wanted stands.
    fn find(&self, wanted: &Wanted) -> Option<(ReplicaId, Vec<Run>)> {
        let tracked = self.index.at(self.index.slot(wanted.group)?);
        let runs: Vec<Run> = match wanted.what {
            What::Entries { first, last, bytes_max } => {
                let mut bytes = 0;
                let runs = tracked.runs.between(first, last).take(RECORDS_MAX).take_while(|run| {
                    let taken = bytes == 0 || bytes + run.place.len as usize <= bytes_max;
                    bytes += run.place.len as usize;
                    taken
                });
                runs.copied().collect()
            }
            What::Chunk { offset } => {
                let chunk = tracked.snapshot()?.chunks.iter().find(|(at, _)| *at == offset);
                chunk.map(|(_, place)| Run { first: LogIndex(0), count: 0, place: *place }).into_iter().collect()
            }
        };
        let begins = match wanted.what {
            What::Entries { first, .. } => runs.first().is_some_and(|run| run.first <= first),
            What::Chunk { .. } => !runs.is_empty(),
        };
        begins.then_some((tracked.replica, runs))
    }

    /// Whether the batch at a place is durable, as far as that is known: only the newest ones may not be.
    fn is_released(&self, place: Place) -> bool {
        if place.segment == FILLING {
            return false;
        }
        self.submitted.is_empty() || !self.unreleased(place)
    }

    fn unreleased(&self, place: Place) -> bool {
        let Some(first) = self.submitted.front() else { return false };
        let (segment, offset) = first.starts;
        (place.segment, place.offset) >= (segment, offset)
    }

    /// More is released now.
    pub(super) fn read_what_is_released(&mut self) {
        for wanted in std::mem::take(&mut self.reads.deferred) {
            self.begin_fetch(wanted);
        }
    }

    /// Reads from a segment, which is opened first if need be.
    pub(super) fn read(&mut self, owner: Owner, segment: u32, offset: u64, len: u64) {
        self.reads.next += 1;
        let number = self.reads.next;
        self.reads.in_flight.push((number, owner, segment));
        let Some(file) = self.files.get_mut(segment) else {
            return self.handle_read(number, Err(IoError { operation: "read", errno: ENOENT }));
        };
        // What lies behind the end takes no memory, whatever a checkpoint claims.
        let len = len.min(file.bytes.saturating_sub(offset));
        file.reads += 1;
        if len == 0 {
            return self.handle_read(number, Err(IoError { operation: "read", errno: EIO }));
        }
        match file.handle {
            Handle::Open(file) => {
                let buffer = AlignedBuf::zeroed(usize::try_from(len).expect("a read fits memory"));
                self.issue(Purpose::Read { read: number }, IoOp::Read { file, offset, buffer });
            }
            Handle::Opening => self.reads.opening.push((segment, number, IoRead { offset, len })),
            Handle::Closed => {
                file.handle = Handle::Opening;
                self.reads.opening.push((segment, number, IoRead { offset, len }));
                let path = path(self.config.wal, segment);
                self.issue(Purpose::Open { segment }, IoOp::Open(path));
            }
        }
    }

    pub(super) fn handle_opened(&mut self, segment: u32, result: IoResult) {
        let opened = match result {
            Ok(IoOutput::File { file, .. }) => Ok(file),
            Ok(_) => panic!("the device answers an open with a file"),
            Err(error) => Err(error),
        };
        if let Some(file) = self.files.get_mut(segment) {
            file.handle = opened.map_or(Handle::Closed, Handle::Open);
        }
        let (waiting, others) =
            std::mem::take(&mut self.reads.opening).into_iter().partition::<Vec<_>, _>(|(of, ..)| *of == segment);
        self.reads.opening = others;
        for (_, number, IoRead { offset, len }) in waiting {
            match opened {
                Ok(file) => {
                    let buffer = AlignedBuf::zeroed(usize::try_from(len).expect("a read fits memory"));
                    self.issue(Purpose::Read { read: number }, IoOp::Read { file, offset, buffer });
                }
                Err(error) => self.handle_read(number, Err(error)),
            }
        }
    }

    pub(super) fn handle_read(&mut self, number: u64, result: IoResult) {
        let place = self.reads.in_flight.iter().position(|(known, ..)| *known == number);
        let (_, owner, segment) = self.reads.in_flight.swap_remove(place.expect("what is read was asked for"));
        if let Some(file) = self.files.get_mut(segment) {
            file.reads = file.reads.saturating_sub(1);
        }
        let result = result.map(|output| match output {
            IoOutput::Buffer(buffer) => buffer,
            _ => panic!("the device answers a read with the buffer"),
        });
        match owner {
            Owner::Reclaim => self.handle_reclaimed(result),
            Owner::Fetch { fetch, part } => self.handle_part(fetch, part, result),
        }
        self.give_up_segments();
    }

    fn handle_part(&mut self, fetch: u64, part: usize, result: Result<AlignedBuf, IoError>) {
        let place = self.reads.fetches.iter().position(|known| known.wanted.id.0 == fetch);
        let place = place.expect("a fetch lives until its last read ended");
        let known = &mut self.reads.fetches[place];
        match result {
            Ok(buffer) => known.parts[part].bytes = Some(buffer),
            Err(error) => {
                known.failed = Some(error);
                known.parts[part].bytes = Some(AlignedBuf::new());
            }
        }
        if known.parts.iter().all(|part| part.bytes.is_some()) {
            let fetch = self.reads.fetches.swap_remove(place);
            let wanted = fetch.wanted;
            let read = fetch.runs.first().map(|run| run.place);
            let result = self.outcome(fetch);
            // What stands elsewhere by now is read there.
            let moved = matches!(result, Err(FetchError::Gone))
                && self.find(&wanted).is_some_and(|(_, runs)| runs.first().map(|run| run.place) != read);
            if moved {
                return self.begin_fetch(wanted);
            }
            self.reads.done.push_back(Fetched { id: wanted.id, group: wanted.group, result });
        }
    }

    /// What a fetch came to: as long as the log still has it, and as far as it could be read.
    fn outcome(&self, fetch: Fetch) -> Result<FetchedData, FetchError> {
        let slot = self.index.slot(fetch.wanted.group).ok_or(FetchError::Gone)?;
        let tracked = self.index.at(slot);
        if tracked.replica != fetch.replica {
            return Err(FetchError::Gone);
        }
        let (first, last, bytes_max) = match fetch.wanted.what {
            What::Entries { first, last, bytes_max } => (first, last, bytes_max),
            What::Chunk { offset } => return fetch.chunk(offset),
        };
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for run in &fetch.runs {
            let Some(record) = fetch.entries_of(run) else {
                if !entries.is_empty() {
                    break;
                }
                // Perhaps the entries were moved, or are no more.
                if !tracked.runs.between(first, first).any(|now| now.place == run.place) {
                    return Err(FetchError::Gone);
                }
                return Err(fetch.unread(first));
            };
            for entry in record.entries.iter() {
                let expected = entries.last().map_or(first, |entry| entry.index.next());
                if entry.index != expected || entry.index > last || entry.index > run.last() {
                    continue;
                }
                // The log may have got others in their place.
                if tracked.term(entry.index) != Some(entry.term) {
                    return if entries.is_empty() { Err(FetchError::Gone) } else { Ok(FetchedData::Entries(entries)) };
                }
                let entry = entry.to_entry();
                bytes += entry.cost();
                if bytes > bytes_max && !entries.is_empty() {
                    return Ok(FetchedData::Entries(entries));
                }
                entries.push(entry);
            }
        }
        if entries.is_empty() { Err(FetchError::Gone) } else { Ok(FetchedData::Entries(entries)) }
    }
}

impl Part {
    /// Whether a place can be read with this part.
    fn takes(&self, offset: u64, len: u64) -> bool {
        let end = self.offset + self.len;
        offset >= self.offset && offset <= end + GAP_BYTES_MAX && offset + len - self.offset <= READ_BYTES_MAX
    }
}

impl Fetch {
    fn bytes(&self, place: Place) -> Option<&[u8]> {
        let (start, len) = (u64::from(place.offset), place.len as usize);
        let holds =
            |part: &&Part| part.segment == place.segment && part.offset <= start && start < part.offset + part.len;
        let part = self.parts.iter().find(holds)?;
        let at = usize::try_from(start - part.offset).ok()?;
        part.bytes.as_ref()?.get(at..at.checked_add(len)?)
    }

    /// The record at a run's place, if it is the one it should be.
    fn entries_of(&self, run: &Run) -> Option<GroupRecord<'_>> {
        match decode_any(self.bytes(run.place)?).ok()? {
            Record::Group(record) | Record::Relocated(record) => {
                let whose = (record.group, record.replica) == (self.wanted.group, self.replica);
                let held = !record.entries.is_empty()
                    && record.entries.first() <= run.first
                    && record.entries.last() >= run.last();
                (whose && held).then_some(record)
            }
            _ => None,
        }
    }

    /// Why what begins with `first` could not be had: the disk refused, or lost it.
    fn unread(&self, first: LogIndex) -> FetchError {
        self.failed.filter(|error| error.errno != EIO).map_or(FetchError::Lost { first }, FetchError::Io)
    }

    fn chunk(&self, offset: u64) -> Result<FetchedData, FetchError> {
        let place = self.runs.first().expect("a chunk stands in one place").place;
        match self.bytes(place).map(decode_any) {
            Some(Ok(Record::Chunk(Chunk { group, replica, offset: at, data, .. })))
                if (group, replica, at) == (self.wanted.group, self.replica, offset) =>
            {
                Ok(FetchedData::Chunk(data.to_vec()))
            }
            _ => Err(self.unread(LogIndex(0))),
        }
    }
}
