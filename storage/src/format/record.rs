//! Records: what a batch says of groups and peers.

use super::StoreId;
use super::field::{Fields, put};
use crate::aligned::AlignedBuf;
use bytes::Bytes;
use raftyard_raft::{
    Configuration, Entries, Entry, EntryKind, GroupId, HardState, LogIndex, Member, NodeId, ReplicaId, Term,
};
use std::time::Duration;

/// Bytes of a record before its body: length, kind, three zeroes.
const RECORD_HEADER_BYTES: usize = 8;
/// Bytes an entry needs beside its data.
pub const ENTRY_OVERHEAD_BYTES: usize = 16;
/// Bytes the largest record needs beside the data and overhead of entries.
pub const RECORD_OVERHEAD_BYTES_MAX: usize = RECORD_HEADER_BYTES + 40 + 16 * Configuration::MEMBERS_MAX;

// Room in a batch is counted in `Entry::cost`, which must not be less than what is written.
const _: () = assert!(ENTRY_OVERHEAD_BYTES <= size_of::<Entry>());

const KIND_CREATION: u8 = 1;
const KIND_GROUP: u8 = 2;
const KIND_PEER: u8 = 3;
const KIND_PROMISE: u8 = 4;
const FLAG_HARD_STATE: u32 = 1;

/// One record, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A replica exists from here on, with an empty log.
    Creation {
        /// Its group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// The group's initial members; none if the replica joins a group that exists.
        configuration: Configuration,
    },
    /// One group's part of the batch.
    Group {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// Its hard state, if it changed.
        hard_state: Option<HardState>,
        /// Replaces the log from the first entry's index on; empty if the log did not change.
        entries: Vec<Entry>,
    },
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
}

/// Why bytes of a whole batch are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    /// A length reaches out of its record or batch, or leaves bytes over.
    #[error("a record's length does not fit")]
    Length,
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

pub(crate) fn encode_creation(out: &mut AlignedBuf, group: GroupId, replica: ReplicaId, configuration: &Configuration) {
    let start = begin(out, KIND_CREATION);
    put_u64(out, group.0);
    put_u64(out, replica.0);
    // The position of the initial configuration: index 0, term 0.
    put_u64(out, 0);
    put_u64(out, 0);
    assert!(!configuration.is_joint(), "a group begins with one set of voters");
    put_u32(out, u32::try_from(configuration.voters().count()).expect("at most MEMBERS_MAX voters"));
    put_u32(out, u32::try_from(configuration.learners().count()).expect("at most MEMBERS_MAX learners"));
    for member in configuration.voters().chain(configuration.learners()) {
        put_u64(out, member.replica.0);
        put_u64(out, member.node.0);
    }
    finish(out, start);
}

pub(crate) fn encode_group(
    out: &mut AlignedBuf,
    group: GroupId,
    replica: ReplicaId,
    hard_state: Option<HardState>,
    entries: Entries<'_>,
) {
    let start = begin(out, KIND_GROUP);
    let count = entries.0.len() + entries.1.len();
    let first = entries.0.first().or(entries.1.first()).map_or(0, |e| e.index.0);
    let state = hard_state.unwrap_or_default();
    put_u64(out, group.0);
    put_u64(out, replica.0);
    put_u32(out, if hard_state.is_some() { FLAG_HARD_STATE } else { 0 });
    put_u32(out, u32::try_from(count).expect("a batch is smaller than 4 GiB"));
    put_u64(out, state.term.0);
    put_u64(out, state.vote.map_or(0, |r| r.0));
    put_u64(out, first);
    for (place, entry) in entries.0.iter().chain(entries.1).enumerate() {
        assert_eq!(entry.index.0, first + place as u64, "entries of one record are consecutive");
        put_u64(out, entry.term.0);
        put_u32(out, u32::try_from(entry.data.len()).expect("an entry is smaller than 4 GiB"));
        out.extend_from_slice(&[entry.kind as u8, 0, 0, 0]);
        out.extend_from_slice(&entry.data);
    }
    finish(out, start);
}

pub(crate) fn encode_peer(out: &mut AlignedBuf, node: NodeId, store: StoreId) {
    let start = begin(out, KIND_PEER);
    put_u64(out, node.0);
    out.extend_from_slice(&store.0.to_le_bytes());
    finish(out, start);
}

pub(crate) fn encode_promise(out: &mut AlignedBuf, wait: Duration) {
    let start = begin(out, KIND_PROMISE);
    put_u64(out, u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
    finish(out, start);
}

/// Bytes `encode_group` will write.
pub(crate) fn group_bytes(entries: Entries<'_>) -> usize {
    let data = |run: &[Entry]| run.iter().map(|e| e.data.len() + ENTRY_OVERHEAD_BYTES).sum::<usize>();
    RECORD_HEADER_BYTES + 48 + data(entries.0) + data(entries.1)
}

/// Hands each record of a whole batch to `each`.
///
/// # Errors
/// The first fault, of the bytes or of `each`; records before it were handed on.
pub fn decode_all(
    records: &[u8],
    record_count: u32,
    mut each: impl FnMut(Record) -> Result<(), RecordFault>,
) -> Result<(), RecordFault> {
    let mut fields = Fields::new(records);
    let mut left = record_count;
    while !fields.is_empty() {
        left = left.checked_sub(1).ok_or(RecordFault::Count)?;
        each(decode(&mut fields)?)?;
    }
    if left == 0 { Ok(()) } else { Err(RecordFault::Count) }
}

fn decode(fields: &mut Fields<'_>) -> Result<Record, RecordFault> {
    let len = fields.u32().ok_or(RecordFault::Length)? as usize;
    let kind = fields.u8().ok_or(RecordFault::Length)?;
    fields.zeroes::<3>().ok_or(RecordFault::Field)?;
    let body_len = len.checked_sub(RECORD_HEADER_BYTES).ok_or(RecordFault::Length)?;
    let mut body = Fields::new(fields.bytes(body_len).ok_or(RecordFault::Length)?);
    let record = match kind {
        KIND_CREATION => decode_creation(&mut body)?,
        KIND_GROUP => decode_group(&mut body)?,
        KIND_PEER => decode_peer(&mut body).ok_or(RecordFault::Length)?,
        KIND_PROMISE => Record::Promise { wait: Duration::from_nanos(body.u64().ok_or(RecordFault::Length)?) },
        _ => return Err(RecordFault::UnknownKind(kind)),
    };
    if body.is_empty() { Ok(record) } else { Err(RecordFault::Length) }
}

fn decode_creation(body: &mut Fields<'_>) -> Result<Record, RecordFault> {
    let group = GroupId(body.u64().ok_or(RecordFault::Length)?);
    let replica = ReplicaId(body.u64().ok_or(RecordFault::Length)?);
    body.zeroes::<16>().ok_or(RecordFault::Field)?;
    let voters = body.u32().ok_or(RecordFault::Length)? as usize;
    let learners = body.u32().ok_or(RecordFault::Length)? as usize;
    if voters.saturating_add(learners) > Configuration::MEMBERS_MAX {
        return Err(RecordFault::Field);
    }
    let voters = decode_members(body, voters)?;
    let learners = decode_members(body, learners)?;
    let configuration = match (voters.is_empty(), learners.is_empty()) {
        (true, true) => Configuration::joining(),
        _ => Configuration::with_learners(voters, learners).map_err(|_| RecordFault::Field)?,
    };
    Ok(Record::Creation { group, replica, configuration })
}

fn decode_members(body: &mut Fields<'_>, count: usize) -> Result<Vec<Member>, RecordFault> {
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let replica = ReplicaId(body.u64().ok_or(RecordFault::Length)?);
        let node = NodeId(body.u64().ok_or(RecordFault::Length)?);
        members.push(Member { replica, node });
    }
    Ok(members)
}

fn decode_group(body: &mut Fields<'_>) -> Result<Record, RecordFault> {
    let group = GroupId(body.u64().ok_or(RecordFault::Length)?);
    let replica = ReplicaId(body.u64().ok_or(RecordFault::Length)?);
    let flags = body.u32().ok_or(RecordFault::Length)?;
    let count = body.u32().ok_or(RecordFault::Length)?;
    let term = Term(body.u64().ok_or(RecordFault::Length)?);
    let vote = body.u64().ok_or(RecordFault::Length)?;
    let first = body.u64().ok_or(RecordFault::Length)?;
    let has_state = flags & FLAG_HARD_STATE != 0;
    if flags & !FLAG_HARD_STATE != 0 || (!has_state && (term.0 | vote) != 0) || ((first == 0) != (count == 0)) {
        return Err(RecordFault::Field);
    }
    let hard_state = has_state.then_some(HardState { term, vote: (vote != 0).then_some(ReplicaId(vote)) });
    // Grows as entries are found: a count that lies allocates nothing.
    let mut entries = Vec::new();
    for place in 0..u64::from(count) {
        let index = LogIndex(first.checked_add(place).ok_or(RecordFault::Field)?);
        entries.push(decode_entry(body, index)?);
    }
    Ok(Record::Group { group, replica, hard_state, entries })
}

fn decode_entry(body: &mut Fields<'_>, index: LogIndex) -> Result<Entry, RecordFault> {
    let term = Term(body.u64().ok_or(RecordFault::Length)?);
    let len = body.u32().ok_or(RecordFault::Length)? as usize;
    let kind = body.u8().ok_or(RecordFault::Length)?;
    body.zeroes::<3>().ok_or(RecordFault::Field)?;
    let kind = EntryKind::from_byte(kind).ok_or(RecordFault::UnknownEntryKind(kind))?;
    let data: Bytes = body.owned(len).ok_or(RecordFault::Length)?;
    Ok(Entry { term, index, kind, data })
}

fn decode_peer(body: &mut Fields<'_>) -> Option<Record> {
    let node = NodeId(body.u64()?);
    let store = StoreId(body.u128()?);
    Some(Record::Peer { node, store })
}

fn begin(out: &mut AlignedBuf, kind: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, kind, 0, 0, 0]);
    start
}

fn finish(out: &mut AlignedBuf, start: usize) {
    let len = u32::try_from(out.len() - start).expect("a batch is smaller than 4 GiB");
    put(out, start, len.to_le_bytes());
}

fn put_u64(out: &mut AlignedBuf, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u32(out: &mut AlignedBuf, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}
