//! Recovery: what a log holds, decided by reading alone. It writes nothing, so the same decision can be had of a
//! damaged image, of a tool, and of a start.
//!
//! Reading begins at the last complete checkpoint, at the one before if that is damaged, or with the log's first batch.
//! What `walk` reads, `replay` adds up.

mod chain;
mod walk;

use super::error::WalError;
use super::index::Index;
use super::replay::Complete;
use super::tracked::Tracked;
use crate::format::segment::{BATCHES_OFFSET, BatchPlace};
use crate::format::{BatchSeq, StoreId};
use crate::io::{Disk, FileName, FilePath, SegmentNumber, WalId};
use bytes::Bytes;
pub(crate) use chain::{Files, Link, list, read_header};
use raftyard_raft::{Configuration, GroupId, HardState, Limit, LogIndex, LogPosition, NodeId, ReplicaId};
use std::sync::Arc;
use std::time::Duration;
use walk::Walk;
pub(crate) use walk::{Found, Proof, WINDOW_BYTES, look};

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The replicas, sorted by group.
    pub groups: Vec<RecoveredGroup>,
    /// The store of each peer as last recorded, sorted by node.
    pub peers: Vec<(NodeId, StoreId)>,
    /// For how long after a start the replicas keep promises that they may have given before; zero if nobody counts on
    /// any.
    pub promise: Duration,
    /// What is lost of what was once durable.
    pub damage: Vec<Damage>,
    /// What was read.
    pub stats: RecoveryStats,
}

/// One replica as the log left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Its group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// Its last hard state.
    pub hard_state: HardState,
    /// What it may do.
    pub limit: Limit,
    /// The position before its first entry.
    pub base: LogPosition,
    /// The members at the base; none if they are not known.
    pub configuration: Arc<Configuration>,
    /// Index of the entry that made them so.
    pub configuration_index: LogIndex,
    /// Position of its last entry, or the base.
    pub last: LogPosition,
    /// First positions of runs of equal terms, above the base.
    pub terms: Vec<LogPosition>,
    /// Configurations among the entries: index, data of the entry.
    pub configurations: Vec<(LogIndex, Bytes)>,
    /// The state machine's snapshot that the log keeps: its position and its bytes.
    pub snapshot: Option<(LogPosition, u64)>,
}

impl RecoveredGroup {
    /// A replica that was just created.
    #[must_use]
    pub fn created(group: GroupId, replica: ReplicaId, configuration: Arc<Configuration>) -> RecoveredGroup {
        RecoveredGroup::of(&Tracked::new(group, replica, configuration))
    }

    pub(crate) fn of(tracked: &Tracked) -> RecoveredGroup {
        RecoveredGroup {
            group: tracked.group,
            replica: tracked.replica,
            hard_state: tracked.hard_state,
            limit: tracked.limit(),
            base: tracked.base,
            configuration: Arc::clone(&tracked.configuration),
            configuration_index: tracked.configuration_index,
            last: tracked.last,
            terms: tracked.terms.clone(),
            configurations: tracked.configurations().to_vec(),
            snapshot: tracked.snapshot().map(|snapshot| (snapshot.position, snapshot.bytes)),
        }
    }
}

/// Batches that were durable and are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment.
    pub file: FilePath,
    /// Where they began, in bytes.
    pub offset: u64,
    /// The first one.
    pub first: BatchSeq,
    /// The last one.
    pub last: BatchSeq,
    /// Whether the batch after them says which groups they touched. If not, any group of which nothing later is known
    /// may have lost something.
    pub explained: bool,
}

/// What recovery read and found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryStats {
    /// Segments read.
    pub segments: usize,
    /// Batches kept.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them, padding included.
    pub bytes: u64,
    /// Sequence of the last batch kept, or lost at the end.
    pub last: BatchSeq,
    /// D: what something in the log proves to have been durable.
    pub durable_upto: BatchSeq,
    /// Bytes of batches, whole ones and torn ones, whose checksum was computed. Linear in the length of the log, whatever
    /// is written in it.
    pub checked_bytes: u64,
    /// Where the log was cut, if a part of a batch stood behind the cut.
    pub tear: Option<(FilePath, u64)>,
    /// Whether it was stopped cleanly.
    pub clean: bool,
    /// Where reading began, if not at the log's first batch.
    pub checkpoint: Option<BatchPlace>,
    /// The first segment of the log; those before it were given up.
    pub first_segment: SegmentNumber,
}

/// The outcome of reading a log, and what a start needs to continue it.
#[derive(Debug)]
pub struct Reading {
    /// What the log holds.
    pub recovered: Recovered,
    pub(crate) index: Index,
    /// Where the last kept batch ends; `None` if no batch was kept.
    pub(crate) end: Option<LogEnd>,
    /// The segment it ends in, with what its header says.
    pub(crate) newest: Option<crate::format::segment::SegmentHeader>,
    /// Every file of the directory, with its length in bytes.
    pub(crate) files: Vec<(FileName, u64)>,
    /// Segments that were read, up to the one where the last kept batch ends.
    pub(crate) read: Vec<SegmentNumber>,
    /// The first segment of the log.
    pub(crate) first: SegmentNumber,
    /// The last complete checkpoint.
    pub(crate) complete: Option<Complete>,
    /// Whether any record was found.
    pub(crate) holds_records: bool,
    /// The groups that the last kept batch touched.
    pub(crate) touched: Vec<(GroupId, ReplicaId)>,
    /// The groups that this reading limited, or limited further.
    pub(crate) limited: Vec<GroupId>,
}

impl Reading {
    /// Where the last two complete checkpoints begin, newest first.
    pub(crate) fn checkpoints(&self) -> [Option<BatchPlace>; 2] {
        self.complete.map_or([None, None], Complete::places)
    }
}

/// The end of what was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    pub(crate) segment: SegmentNumber,
    pub(crate) offset: u64,
    pub(crate) sequence: BatchSeq,
    pub(crate) checksum: u32,
    /// Whether batches up to that sequence were lost behind the last one kept.
    pub(crate) lost: bool,
}

/// Reads the log in `Directory::Wal(wal)` and decides what of it stands.
///
/// # Errors
/// [`WalError`] if the disk fails, if files are missing or of another version, or if the log makes no sense. Lost batches
/// are no error: [`Recovered::damage`] tells of them.
pub fn read(disk: &mut dyn Disk, wal: WalId) -> Result<Reading, WalError> {
    let files = chain::list(disk, wal)?;
    let Some(newest) = chain::newest(disk, wal, &files)? else {
        return finish(Walk::default(), wal, files, &[], None);
    };
    let (mut starts, first) = checkpoints(disk, wal, &files, &newest)?;
    starts.dedup();
    for start in starts {
        if !files.segments.contains(&start.segment) {
            continue;
        }
        let chain = chain::chain(disk, wal, &files, newest, Some(start.segment), first)?;
        let walk = walk_through(disk, &chain, Some(start))?;
        // One that lost a part is not relied on, but for what it proves.
        if walk.replay.complete.is_some_and(|complete| complete.begin.sequence >= start.sequence) {
            return finish(walk, wal, files, &chain, Some(start));
        }
    }
    let chain = chain::chain(disk, wal, &files, newest, None, first)?;
    let walk = walk_through(disk, &chain, None)?;
    finish(walk, wal, files, &chain, None)
}

/// The checkpoints to begin at, best first; and the first segment of the log. A segment's header says how things stood when
/// the segment before it was begun; what happened since, the batches of these two say.
fn checkpoints(
    disk: &mut dyn Disk,
    wal: WalId,
    files: &Files,
    newest: &Link,
) -> Result<(Vec<BatchPlace>, SegmentNumber), WalError> {
    let mut look = Walk::looking();
    look.segment(disk, newest, newest.header.segment_bytes, BATCHES_OFFSET)?;
    let mut ended = look.replay.ended;
    let mut first = look.first_segment;
    if let Some(previous) = newest.header.previous.filter(|previous| previous.number >= first) {
        if !files.segments.contains(&previous.number) {
            return Err(WalError::SegmentMissing {
                file: FilePath::segment(wal, previous.number),
                named_by: newest.path,
            });
        }
        let link = chain::read_header(disk, wal, previous.number)?;
        let mut look = Walk::looking();
        look.segment(disk, &link, previous.end.min(link.header.segment_bytes), BATCHES_OFFSET)?;
        ended = ended.or(look.replay.ended);
        first = first.max(look.first_segment);
    }
    let ended = ended.into_iter().flat_map(Complete::places);
    Ok((ended.chain(newest.header.checkpoints).flatten().collect(), first))
}

fn walk_through(disk: &mut dyn Disk, chain: &[Link], from: Option<BatchPlace>) -> Result<Walk, WalError> {
    let whole = chain.first().is_some_and(|link| link.header.previous.is_none());
    let mut walk = Walk::new(from, whole);
    for (place, link) in chain.iter().enumerate() {
        // What a later segment cut off does not count, for ever.
        let limit = chain.get(place + 1).and_then(|next| next.header.previous).map_or(u64::MAX, |p| p.end);
        let start = from.filter(|from| from.segment == link.header.number);
        let start = start.map_or(BATCHES_OFFSET, |from| from.offset);
        walk.segment(disk, link, limit.min(link.header.segment_bytes), start)?;
    }
    walk.finish()?;
    Ok(walk)
}

/// What a thorough reading of all segments found.
#[derive(Debug, Default)]
pub(crate) struct Proved {
    pub(crate) stats: RecoveryStats,
    pub(crate) damage: Vec<Damage>,
    pub(crate) proof: Proof,
    /// Why reading a segment ended early.
    pub(crate) failed: Vec<(FilePath, WalError)>,
}

/// Reads every batch of these segments, up to where each counts, also what lies below the checkpoints. A segment that
/// can't be read to its end is passed over: what was in it shows as missing.
pub(crate) fn prove(disk: &mut dyn Disk, segments: &[(Link, u64)], mut each: impl FnMut(u64)) -> Proved {
    let whole = segments.first().is_some_and(|(link, _)| link.header.previous.is_none());
    let mut walk = Walk::proving(whole);
    let mut failed = Vec::new();
    for (link, limit) in segments {
        if let Err(error) = walk.segment(disk, link, *limit, BATCHES_OFFSET) {
            failed.push((link.path, error));
        }
        each(*limit);
    }
    if let Err(error) = walk.finish() {
        failed.extend(segments.last().map(|(link, _)| (link.path, error)));
    }
    Proved { stats: walk.stats, damage: walk.damage, proof: walk.proof.unwrap_or_default(), failed }
}

fn finish(
    mut walk: Walk,
    wal: WalId,
    files: Files,
    chain: &[Link],
    checkpoint: Option<BatchPlace>,
) -> Result<Reading, WalError> {
    let first = walk.first_segment;
    let exists = |segment: u32| {
        let number = SegmentNumber(u64::from(segment));
        number >= first && files.segments.contains(&number)
    };
    let judged = walk.replay.judge(&walk.holes, exists);
    let limited = judged.map_err(|fault| malformed(wal, chain, walk.stats.last, fault))?;
    let mut stats = walk.stats;
    (stats.clean, stats.checkpoint, stats.first_segment) = (walk.clean, checkpoint, first);
    let index = walk.replay.index;
    let mut groups: Vec<RecoveredGroup> = index.groups().map(RecoveredGroup::of).collect();
    // The order must not depend on a hash table.
    groups.sort_unstable_by_key(|g| g.group);
    let peers = index.peers.iter().map(|(node, store)| (*node, *store)).collect();
    let recovered = Recovered { groups, peers, promise: index.promise, damage: walk.damage, stats };
    let numbers = chain.iter().map(|link| link.header.number);
    let read = numbers.filter(|number| walk.end.is_some_and(|end| *number <= end.segment)).collect();
    let newest = walk.end.and_then(|end| chain.iter().find(|link| link.header.number == end.segment));
    Ok(Reading {
        recovered,
        end: walk.end,
        newest: newest.map(|link| link.header),
        files: files.names,
        read,
        first,
        complete: walk.replay.complete,
        holds_records: walk.replay.holds_records,
        touched: walk.replay.touched,
        limited,
        index,
    })
}

fn malformed(wal: WalId, chain: &[Link], sequence: BatchSeq, fault: crate::format::record::RecordFault) -> WalError {
    let newest = chain.last().map_or(SegmentNumber(0), |link| link.header.number);
    WalError::Malformed { file: FilePath::segment(wal, newest), offset: 0, sequence, fault }
}
