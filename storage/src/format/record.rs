//! Records: what a batch says of groups and peers.

use super::checkpoint::Part;
use super::field::{Fields, checksum_around, put};
use super::{StoreId, v1};
use crate::aligned::AlignedBuf;
use bytes::Bytes;
use raftyard_raft::{
    Configuration, Entries, Entry, EntryKind, GroupId, HardState, Limit, LogIndex, LogPosition, Member, NodeId,
    ReplicaId, Term,
};
use std::time::Duration;

/// Bytes of a record before its body: length, kind, flags, reserved, checksum, count.
pub const RECORD_HEADER_BYTES: usize = 16;
const CHECKSUM_AT: usize = 8;
/// Bytes an entry needs beside its data.
pub const ENTRY_OVERHEAD_BYTES: usize = 16;
/// Bytes the largest record needs beside the data and overhead of entries.
pub const RECORD_OVERHEAD_BYTES_MAX: usize = RECORD_HEADER_BYTES + STATE_BYTES + Configuration::ENCODED_BYTES_MAX;
/// Bytes of a state record's body before the configuration.
const STATE_BYTES: usize = 120;
/// Bytes of a chunk record beside its data.
pub const CHUNK_OVERHEAD_BYTES: usize = RECORD_HEADER_BYTES + 40;

// Room in a batch is counted in `Entry::cost`, which must not be less than what is written.
const _: () = assert!(ENTRY_OVERHEAD_BYTES <= size_of::<Entry>());
const _: () = assert!(RECORD_OVERHEAD_BYTES_MAX >= RECORD_HEADER_BYTES + 16 + 24 + 16 * Configuration::MEMBERS_MAX);

const KIND_CREATION: u8 = 1;
const KIND_GROUP: u8 = 2;
const KIND_PEER: u8 = 3;
const KIND_PROMISE: u8 = 4;
const KIND_STATE: u8 = 5;
const KIND_RELOCATED: u8 = 6;
const KIND_REMOVAL: u8 = 7;
const KIND_CHUNK: u8 = 8;
const KIND_CHECKPOINT: u8 = 9;
const KIND_LAST: u8 = KIND_CHECKPOINT;
const FLAG_RESET: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;
const FLAG_LIMITED: u8 = 1;

/// One record, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A replica exists from here on, with an empty log.
    Creation {
        /// Its group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// The group's initial members; none if the replica joins a group that exists.
        configuration: Configuration,
    },
    /// One group's part of the batch: entries replace the log from the first one's index on.
    Group(GroupRecord<'a>),
    /// Entries that stood elsewhere and mean what they meant there: they replace nothing.
    Relocated(GroupRecord<'a>),
    /// Everything of a group but its entries.
    State(Box<State>),
    /// The replica is gone, and its id is used up.
    Removal {
        /// Its group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
    },
    /// A piece of a state machine's snapshot.
    Chunk(Chunk<'a>),
    /// The store of a peer, as it was first seen or as an operator replaced it.
    Peer {
        /// The peer.
        node: NodeId,
        /// Its store.
        store: StoreId,
    },
    /// What this core's replicas may have promised, before whatever came next.
    Promise {
        /// For how long at most after a start they keep it.
        wait: Duration,
    },
    /// Part of a checkpoint.
    Checkpoint(Part<'a>),
}

impl Record<'_> {
    /// Whose record it is, if it is a group's.
    #[must_use]
    pub fn replica(&self) -> Option<(GroupId, ReplicaId)> {
        match self {
            Record::Creation { group, replica, .. } | Record::Removal { group, replica } => Some((*group, *replica)),
            Record::Group(record) | Record::Relocated(record) => Some((record.group, record.replica)),
            Record::State(state) => Some((state.group, state.replica)),
            Record::Chunk(chunk) => Some((chunk.group, chunk.replica)),
            Record::Peer { .. } | Record::Promise { .. } | Record::Checkpoint(_) => None,
        }
    }
}

/// Entries of a group, and what else is known of it at that place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord<'a> {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// Its hard state; version 1 only says it where it changed.
    pub hard_state: Option<HardState>,
    /// Position of the group's last entry, where the entries here don't tell.
    pub last: Option<LogPosition>,
    /// The replica was limited; by what, a state record says.
    pub limited: bool,
    /// The entries.
    pub entries: EntriesIn<'a>,
}

/// Everything of a group but its entries. Entries at or below the base no longer count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// Its hard state.
    pub hard_state: HardState,
    /// Position of its last entry, or the base.
    pub last: LogPosition,
    /// Where its log begins: the position before the first entry.
    pub base: LogPosition,
    /// The members at the base; none if they are not known.
    pub configuration: Configuration,
    /// Index of the entry that made them so.
    pub configuration_index: LogIndex,
    /// What it may do.
    pub limit: Limit,
    /// A snapshot took the place of the whole log: entries above the base don't count either.
    pub reset: bool,
    /// The state machine's snapshot that this log keeps: its position and its bytes.
    pub snapshot: Option<(LogPosition, u64)>,
}

impl State {
    /// The newest position that the replica may have acknowledged, as this says it: its bound, or else where its log ends.
    pub(crate) fn claim(&self) -> LogPosition {
        match self.limit {
            Limit::Bound(bound) => bound,
            Limit::None | Limit::Amnesia => self.last,
        }
    }
}

/// A piece of a state machine's snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    /// The group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// The snapshot: the position of the last entry it holds the effect of.
    pub snapshot: LogPosition,
    /// Where in it, in bytes.
    pub offset: u64,
    /// The piece.
    pub data: &'a [u8],
}

/// Why bytes of a whole batch are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A length reaches out of its record or batch, or leaves bytes over.
    #[error("a record's length does not fit")]
    Length,
    /// Its checksum is not that of its bytes.
    #[error("a record's checksum does not hold")]
    Checksum,
    /// A kind of record this version doesn't know.
    #[error("unknown kind of record {0}")]
    UnknownKind(u8),
    /// A kind of entry this version doesn't know.
    #[error("unknown kind of entry {0}")]
    UnknownEntryKind(u8),
    /// A field holds what it can't.
    #[error("a record's field is out of its range")]
    Field,
    /// The batch has another number of records than it says.
    #[error("the batch holds another number of records than it says")]
    Count,
    /// The replica was created before.
    #[error("group {0} is created twice")]
    CreatedTwice(GroupId),
    /// The replica was never created, or under another id.
    #[error("group {group} has no replica {replica} here")]
    NoSuchReplica {
        /// The group.
        group: GroupId,
        /// The replica the record names.
        replica: ReplicaId,
    },
    /// Entries that do not follow the log.
    #[error("group {group}'s log ends at {last}, but entries from {first} on follow")]
    Gap {
        /// The group.
        group: GroupId,
        /// Where its log ends.
        last: LogIndex,
        /// The first entry of the record.
        first: LogIndex,
    },
}

/// One entry where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryIn<'a> {
    /// Its term.
    pub term: Term,
    /// Its index.
    pub index: LogIndex,
    /// What it is for.
    pub kind: EntryKind,
    /// Its data.
    pub data: &'a [u8],
}

impl EntryIn<'_> {
    /// A copy that stands by itself.
    #[must_use]
    pub fn to_entry(&self) -> Entry {
        Entry { term: self.term, index: self.index, kind: self.kind, data: Bytes::copy_from_slice(self.data) }
    }
}

/// Consecutive entries where they stand. Invariant: every one of them can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntriesIn<'a> {
    first: LogIndex,
    count: u32,
    bytes: &'a [u8],
}

impl<'a> EntriesIn<'a> {
    pub(super) fn new(first: LogIndex, count: u32, bytes: &'a [u8]) -> Result<EntriesIn<'a>, RecordFault> {
        if first.0.checked_add(u64::from(count)).is_none_or(|end| end > LogIndex::MAX.0) {
            return Err(RecordFault::Field);
        }
        let mut fields = Fields::new(bytes);
        for place in 0..u64::from(count) {
            read_entry(&mut fields, LogIndex(first.0 + place))?;
        }
        if fields.is_empty() { Ok(EntriesIn { first, count, bytes }) } else { Err(RecordFault::Length) }
    }

    /// Index of the first one; without meaning if there are none.
    #[must_use]
    pub const fn first(&self) -> LogIndex {
        self.first
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Index of the last one.
    #[must_use]
    pub const fn last(&self) -> LogIndex {
        LogIndex(self.first.0 + self.count as u64 - 1)
    }

    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = EntryIn<'a>> + use<'a> {
        let mut fields = Fields::new(self.bytes);
        let mut index = self.first;
        std::iter::from_fn(move || {
            let entry = (!fields.is_empty()).then(|| read_entry(&mut fields, index).expect("checked when made"));
            index = index.next();
            entry
        })
    }
}

fn read_entry<'a>(fields: &mut Fields<'a>, index: LogIndex) -> Result<EntryIn<'a>, RecordFault> {
    let term = Term(fields.u64().ok_or(RecordFault::Length)?);
    let len = fields.u32().ok_or(RecordFault::Length)? as usize;
    let kind = fields.u8().ok_or(RecordFault::Length)?;
    fields.zeroes::<3>().ok_or(RecordFault::Field)?;
    let kind = EntryKind::from_byte(kind).ok_or(RecordFault::UnknownEntryKind(kind))?;
    let data = fields.bytes(len).ok_or(RecordFault::Length)?;
    Ok(EntryIn { term, index, kind, data })
}

/// Hands each record of a whole batch to `each`, with where it stands among the records and its length, both in bytes.
///
/// # Errors
/// The first fault, of the bytes or of `each`; records before it were handed on.
pub fn decode_all<'a>(
    version: u16,
    records: &'a [u8],
    record_count: u32,
    mut each: impl FnMut(Record<'a>, usize, usize) -> Result<(), RecordFault>,
) -> Result<(), RecordFault> {
    let mut fields = Fields::new(records);
    let (mut left, mut at) = (record_count, 0);
    while !fields.is_empty() {
        left = left.checked_sub(1).ok_or(RecordFault::Count)?;
        // The batch's checksum covers them all, so that of each need not be computed.
        let (record, len) = decode_next(version, &mut fields, false)?;
        each(record, at, len)?;
        at += len;
    }
    if left == 0 { Ok(()) } else { Err(RecordFault::Count) }
}

/// Reads one record by itself, all of `bytes`, and proves it by its own checksum; records of version 1 have none.
///
/// # Errors
/// If it is no record.
pub fn decode_one(version: u16, bytes: &[u8]) -> Result<Record<'_>, RecordFault> {
    let mut fields = Fields::new(bytes);
    let (record, len) = decode_next(version, &mut fields, true)?;
    if len == bytes.len() { Ok(record) } else { Err(RecordFault::Length) }
}

/// As [`decode_one`], where nothing says which version wrote it. A record of version 2 has a checksum, and is none of version 1
/// by accident, because then its group would be another.
///
/// # Errors
/// If it is no record of any version.
pub fn decode_any(bytes: &[u8]) -> Result<Record<'_>, RecordFault> {
    decode_one(2, bytes).or_else(|_| decode_one(1, bytes))
}

fn decode_next<'a>(version: u16, fields: &mut Fields<'a>, prove: bool) -> Result<(Record<'a>, usize), RecordFault> {
    if version == 1 {
        return v1::decode(fields);
    }
    let bytes = fields.peek();
    let len = fields.u32().ok_or(RecordFault::Length)? as usize;
    let kind = fields.u8().ok_or(RecordFault::Length)?;
    let flags = fields.u8().ok_or(RecordFault::Length)?;
    fields.zeroes::<2>().ok_or(RecordFault::Field)?;
    let checksum = fields.u32().ok_or(RecordFault::Length)?;
    let count = fields.u32().ok_or(RecordFault::Length)?;
    let body_len = len.checked_sub(RECORD_HEADER_BYTES).ok_or(RecordFault::Length)?;
    let body = fields.bytes(body_len).ok_or(RecordFault::Length)?;
    if prove && checksum_around(0, &bytes[..len], CHECKSUM_AT) != checksum {
        return Err(RecordFault::Checksum);
    }
    let flags_known = match kind {
        KIND_STATE => FLAG_RESET | FLAG_SNAPSHOT,
        KIND_CHECKPOINT => Part::FLAGS,
        KIND_GROUP | KIND_RELOCATED => FLAG_LIMITED,
        _ => 0,
    };
    let counts = matches!(kind, KIND_CREATION | KIND_GROUP | KIND_RELOCATED);
    if flags & !flags_known != 0 || (count != 0 && !counts && kind <= KIND_LAST) {
        return Err(RecordFault::Field);
    }
    let mut body = Fields::new(body);
    let record = match kind {
        KIND_CREATION => decode_creation(&mut body, count)?,
        KIND_GROUP | KIND_RELOCATED => decode_group(&mut body, kind, flags, count)?,
        KIND_PEER => decode_peer(&mut body).ok_or(RecordFault::Length)?,
        KIND_PROMISE => Record::Promise { wait: Duration::from_nanos(body.u64().ok_or(RecordFault::Length)?) },
        KIND_STATE => decode_state(&mut body, flags)?,
        KIND_REMOVAL => decode_removal(&mut body).ok_or(RecordFault::Length)?,
        KIND_CHUNK => decode_chunk(&mut body).ok_or(RecordFault::Length)?,
        KIND_CHECKPOINT => Record::Checkpoint(Part::decode(&mut body, flags).ok_or(RecordFault::Field)?),
        _ => return Err(RecordFault::UnknownKind(kind)),
    };
    if body.is_empty() { Ok((record, len)) } else { Err(RecordFault::Length) }
}

fn decode_creation<'a>(body: &mut Fields<'_>, voters: u32) -> Result<Record<'a>, RecordFault> {
    let group = GroupId(body.u64().ok_or(RecordFault::Length)?);
    let replica = ReplicaId(body.u64().ok_or(RecordFault::Length)?);
    let learners = body.u32().ok_or(RecordFault::Length)? as usize;
    body.zeroes::<4>().ok_or(RecordFault::Field)?;
    if (voters as usize).saturating_add(learners) > Configuration::MEMBERS_MAX {
        return Err(RecordFault::Field);
    }
    let voters = decode_members(body, voters as usize)?;
    let learners = decode_members(body, learners)?;
    let configuration = match (voters.is_empty(), learners.is_empty()) {
        (true, true) => Configuration::joining(),
        _ => Configuration::with_learners(voters, learners).map_err(|_| RecordFault::Field)?,
    };
    Ok(Record::Creation { group, replica, configuration })
}

pub(super) fn decode_members(body: &mut Fields<'_>, count: usize) -> Result<Vec<Member>, RecordFault> {
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let replica = ReplicaId(body.u64().ok_or(RecordFault::Length)?);
        let node = NodeId(body.u64().ok_or(RecordFault::Length)?);
        members.push(Member { replica, node });
    }
    Ok(members)
}

fn decode_group<'a>(body: &mut Fields<'a>, kind: u8, flags: u8, count: u32) -> Result<Record<'a>, RecordFault> {
    let read = |body: &mut Fields<'a>| {
        let (group, replica) = (GroupId(body.u64()?), ReplicaId(body.u64()?));
        let hard_state = read_hard_state(body)?;
        let first = LogIndex(body.u64()?);
        let tells_last = kind == KIND_RELOCATED || count == 0;
        let last = if tells_last { Some(read_position(body)?) } else { None };
        Some((group, replica, hard_state, first, last))
    };
    let (group, replica, hard_state, first, last) = read(body).ok_or(RecordFault::Length)?;
    if (first.0 == 0) != (count == 0) {
        return Err(RecordFault::Field);
    }
    let entries = EntriesIn::new(first, count, body.rest())?;
    let limited = flags & FLAG_LIMITED != 0;
    let record = GroupRecord { group, replica, hard_state: Some(hard_state), last, limited, entries };
    Ok(if kind == KIND_RELOCATED { Record::Relocated(record) } else { Record::Group(record) })
}

fn decode_state<'a>(body: &mut Fields<'_>, flags: u8) -> Result<Record<'a>, RecordFault> {
    let mut state = read_state(body, flags & FLAG_SNAPSHOT != 0).ok_or(RecordFault::Field)?;
    state.reset = flags & FLAG_RESET != 0;
    Ok(Record::State(Box::new(state)))
}

pub(super) fn read_hard_state(fields: &mut Fields<'_>) -> Option<HardState> {
    let (term, vote) = (Term(fields.u64()?), fields.u64()?);
    Some(HardState { term, vote: (vote != 0).then_some(ReplicaId(vote)) })
}

pub(super) fn read_position(fields: &mut Fields<'_>) -> Option<LogPosition> {
    Some(LogPosition { index: LogIndex(fields.u64()?), term: Term(fields.u64()?) })
}

/// The body of a state record. What the limit or the lack of a snapshot leaves without meaning must be zero.
pub(super) fn read_state(fields: &mut Fields<'_>, has_snapshot: bool) -> Option<State> {
    let (group, replica) = (GroupId(fields.u64()?), ReplicaId(fields.u64()?));
    let hard_state = read_hard_state(fields)?;
    let (last, base) = (read_position(fields)?, read_position(fields)?);
    let configuration_index = LogIndex(fields.u64()?);
    let limit_kind = fields.u32()?;
    let configuration_len = fields.u32()? as usize;
    let bound = read_position(fields)?;
    let snapshot = read_position(fields)?;
    let snapshot_bytes = fields.u64()?;
    let configuration = match fields.bytes(configuration_len)? {
        [] => Configuration::joining(),
        bytes => Configuration::decode(bytes).ok()?,
    };
    let limit = match limit_kind {
        0 if bound == LogPosition::default() => Limit::None,
        1 => Limit::Bound(bound),
        2 if bound == LogPosition::default() => Limit::Amnesia,
        _ => return None,
    };
    let snapshot = match (has_snapshot, (snapshot, snapshot_bytes)) {
        (true, snapshot) => Some(snapshot),
        (false, (LogPosition { index: LogIndex(0), term: Term(0) }, 0)) => None,
        (false, _) => return None,
    };
    let in_order = configuration_index <= base.index && base.index <= last.index && last.index <= LogIndex::MAX;
    let state = State {
        group,
        replica,
        hard_state,
        last,
        base,
        configuration,
        configuration_index,
        limit,
        reset: false,
        snapshot,
    };
    in_order.then_some(state)
}

fn decode_removal<'a>(body: &mut Fields<'_>) -> Option<Record<'a>> {
    Some(Record::Removal { group: GroupId(body.u64()?), replica: ReplicaId(body.u64()?) })
}

fn decode_chunk<'a>(body: &mut Fields<'a>) -> Option<Record<'a>> {
    let (group, replica) = (GroupId(body.u64()?), ReplicaId(body.u64()?));
    let (snapshot, offset) = (read_position(body)?, body.u64()?);
    Some(Record::Chunk(Chunk { group, replica, snapshot, offset, data: body.rest() }))
}

fn decode_peer<'a>(body: &mut Fields<'_>) -> Option<Record<'a>> {
    let node = NodeId(body.u64()?);
    let store = StoreId(body.u128()?);
    Some(Record::Peer { node, store })
}

pub(crate) fn encode_creation(out: &mut AlignedBuf, group: GroupId, replica: ReplicaId, configuration: &Configuration) {
    let voters = configuration.voters().count();
    let start = begin(out, KIND_CREATION, 0, voters);
    put_u64(out, group.0);
    put_u64(out, replica.0);
    put_u64(out, configuration.learners().count() as u64);
    for member in configuration.voters().chain(configuration.learners()) {
        put_u64(out, member.replica.0);
        put_u64(out, member.node.0);
    }
    finish(out, start);
}

/// What a group record says beside its entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupHead {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) hard_state: HardState,
    /// Position of the group's last entry after this record.
    pub(crate) last: LogPosition,
    pub(crate) limited: bool,
}

impl GroupHead {
    fn flags(&self) -> u8 {
        if self.limited { FLAG_LIMITED } else { 0 }
    }
}

pub(crate) fn encode_group(out: &mut AlignedBuf, head: GroupHead, entries: Entries<'_>) {
    let count = entries.0.len() + entries.1.len();
    let first = entries.0.first().or(entries.1.first()).map_or(LogIndex(0), |e| e.index);
    let start = begin(out, KIND_GROUP, head.flags(), count);
    put_group_head(out, head, first, count == 0);
    for (place, entry) in entries.0.iter().chain(entries.1).enumerate() {
        assert_eq!(entry.index.0, first.0 + place as u64, "entries of one record are consecutive");
        put_entry(out, entry.term, entry.kind, &entry.data);
    }
    finish(out, start);
}

/// Entries moved from another place; those of `entries` that are in `live`.
pub(crate) fn encode_relocated(
    out: &mut AlignedBuf,
    head: GroupHead,
    live: std::ops::RangeInclusive<LogIndex>,
    entries: EntriesIn<'_>,
) {
    let count = usize::try_from(live.end().0 - live.start().0 + 1).expect("entries of one record fit memory");
    let start = begin(out, KIND_RELOCATED, head.flags(), count);
    put_group_head(out, head, *live.start(), true);
    for entry in entries.iter().filter(|entry| live.contains(&entry.index)) {
        put_entry(out, entry.term, entry.kind, entry.data);
    }
    finish(out, start);
}

fn put_group_head(out: &mut AlignedBuf, head: GroupHead, first: LogIndex, tells_last: bool) {
    let mut bytes = [0; 56];
    put(&mut bytes, 0, head.group.0.to_le_bytes());
    put(&mut bytes, 8, head.replica.0.to_le_bytes());
    put(&mut bytes, 16, head.hard_state.term.0.to_le_bytes());
    put(&mut bytes, 24, head.hard_state.vote.map_or(0, |r| r.0).to_le_bytes());
    put(&mut bytes, 32, first.0.to_le_bytes());
    put(&mut bytes, 40, head.last.index.0.to_le_bytes());
    put(&mut bytes, 48, head.last.term.0.to_le_bytes());
    out.extend_from_slice(&bytes[..if tells_last { 56 } else { 40 }]);
}

fn put_entry(out: &mut AlignedBuf, term: Term, kind: EntryKind, data: &[u8]) {
    let mut head = [0; ENTRY_OVERHEAD_BYTES];
    put(&mut head, 0, term.0.to_le_bytes());
    put(&mut head, 8, u32::try_from(data.len()).expect("an entry is smaller than 4 GiB").to_le_bytes());
    head[12] = kind as u8;
    out.extend_from_slice(&head);
    out.extend_from_slice(data);
}

pub(crate) fn encode_state(out: &mut AlignedBuf, state: &State) {
    let flags = if state.reset { FLAG_RESET } else { 0 } | if state.snapshot.is_some() { FLAG_SNAPSHOT } else { 0 };
    let start = begin(out, KIND_STATE, flags, 0);
    let mut body = Vec::with_capacity(STATE_BYTES + Configuration::ENCODED_BYTES_MAX);
    write_state(&mut body, state);
    out.extend_from_slice(&body);
    finish(out, start);
}

/// The body of a state record.
pub(super) fn write_state(out: &mut Vec<u8>, state: &State) {
    let mut configuration = Vec::new();
    if !state.configuration.is_empty() {
        state.configuration.encode(&mut configuration);
    }
    let (limit, bound) = match state.limit {
        Limit::None => (0u32, LogPosition::default()),
        Limit::Bound(bound) => (1, bound),
        Limit::Amnesia => (2, LogPosition::default()),
    };
    let (snapshot, snapshot_bytes) = state.snapshot.unwrap_or_default();
    let start = out.len();
    out.resize(start + STATE_BYTES, 0);
    let body = &mut out[start..];
    let vote = state.hard_state.vote.map_or(0, |vote| vote.0);
    let heads = [state.group.0, state.replica.0, state.hard_state.term.0, vote];
    let positions = [state.last.index.0, state.last.term.0, state.base.index.0, state.base.term.0];
    for (place, number) in heads.into_iter().chain(positions).chain([state.configuration_index.0]).enumerate() {
        put(body, 8 * place, number.to_le_bytes());
    }
    put(body, 72, limit.to_le_bytes());
    let len = u32::try_from(configuration.len()).expect("a configuration is small");
    put(body, 76, len.to_le_bytes());
    let ends = [bound.index.0, bound.term.0, snapshot.index.0, snapshot.term.0, snapshot_bytes];
    for (place, number) in ends.into_iter().enumerate() {
        put(body, 80 + 8 * place, number.to_le_bytes());
    }
    out.extend_from_slice(&configuration);
}

pub(crate) fn encode_removal(out: &mut AlignedBuf, group: GroupId, replica: ReplicaId) {
    let start = begin(out, KIND_REMOVAL, 0, 0);
    put_u64(out, group.0);
    put_u64(out, replica.0);
    finish(out, start);
}

pub(crate) fn encode_chunk(out: &mut AlignedBuf, chunk: &Chunk<'_>) {
    let start = begin(out, KIND_CHUNK, 0, 0);
    for number in [chunk.group.0, chunk.replica.0, chunk.snapshot.index.0, chunk.snapshot.term.0, chunk.offset] {
        put_u64(out, number);
    }
    out.extend_from_slice(chunk.data);
    finish(out, start);
}

pub(crate) fn encode_peer(out: &mut AlignedBuf, node: NodeId, store: StoreId) {
    let start = begin(out, KIND_PEER, 0, 0);
    put_u64(out, node.0);
    out.extend_from_slice(&store.0.to_le_bytes());
    finish(out, start);
}

pub(crate) fn encode_promise(out: &mut AlignedBuf, wait: Duration) {
    let start = begin(out, KIND_PROMISE, 0, 0);
    put_u64(out, u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
    finish(out, start);
}

pub(crate) fn encode_checkpoint(out: &mut AlignedBuf, flags: u8, groups: u32, body: &[u8]) {
    let start = begin(out, KIND_CHECKPOINT, flags, groups as usize);
    out.extend_from_slice(body);
    finish(out, start);
}

/// Bytes `encode_group` will write.
pub(crate) fn group_bytes(entries: Entries<'_>) -> usize {
    let data = |run: &[Entry]| run.iter().map(|e| e.data.len() + ENTRY_OVERHEAD_BYTES).sum::<usize>();
    RECORD_HEADER_BYTES + 56 + data(entries.0) + data(entries.1)
}

fn begin(out: &mut AlignedBuf, kind: u8, flags: u8, count: usize) -> usize {
    let start = out.len();
    let mut header = [0; RECORD_HEADER_BYTES];
    header[4] = kind;
    header[5] = flags;
    put(&mut header, 12, u32::try_from(count).expect("a batch is smaller than 4 GiB").to_le_bytes());
    out.extend_from_slice(&header);
    start
}

fn finish(out: &mut AlignedBuf, start: usize) {
    let record = &mut out[start..];
    let len = u32::try_from(record.len()).expect("a batch is smaller than 4 GiB");
    put(record, 0, len.to_le_bytes());
    let checksum = checksum_around(0, record, CHECKSUM_AT);
    put(record, CHECKSUM_AT, checksum.to_le_bytes());
}

fn put_u64(out: &mut AlignedBuf, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_with(record: &AlignedBuf, changes: &[(usize, u8)]) -> Vec<Option<RecordFault>> {
        let with = |(at, byte): &(usize, u8)| {
            let mut bytes = record.to_vec();
            bytes[*at] = *byte;
            let checksum = checksum_around(0, &bytes, CHECKSUM_AT);
            put(&mut bytes, CHECKSUM_AT, checksum.to_le_bytes());
            decode_one(2, &bytes).err()
        };
        changes.iter().map(with).collect()
    }

    #[test]
    fn what_has_no_meaning_must_be_zero() {
        let mut removal = AlignedBuf::new();
        encode_removal(&mut removal, GroupId(1), ReplicaId(2));
        assert_eq!(decode_one(2, &removal), Ok(Record::Removal { group: GroupId(1), replica: ReplicaId(2) }));
        // Flags, reserved bytes, and a count where nothing is counted.
        let field = Some(RecordFault::Field);
        assert_eq!(faults_with(&removal, &[(5, 1), (6, 1), (7, 1), (12, 1)]), vec![field; 4]);

        let mut recorded = AlignedBuf::new();
        let state = State {
            group: GroupId(1),
            replica: ReplicaId(2),
            hard_state: HardState::default(),
            last: LogPosition::default(),
            base: LogPosition::default(),
            configuration: Configuration::joining(),
            configuration_index: LogIndex(0),
            limit: Limit::Amnesia,
            reset: false,
            snapshot: None,
        };
        encode_state(&mut recorded, &state);
        assert_eq!(decode_one(2, &recorded), Ok(Record::State(Box::new(state))));
        // A kind of limit that there isn't, a bound without that limit, a snapshot without its flag.
        let at = |body: usize| RECORD_HEADER_BYTES + body;
        let changes = [(at(72), 3), (at(80), 1), (at(88), 1), (at(96), 1), (at(104), 1), (at(112), 1)];
        assert_eq!(faults_with(&recorded, &changes), vec![field; 6]);
    }
}
