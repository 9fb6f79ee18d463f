//! Records of version 1, which are only read any more.

use super::StoreId;
use super::field::Fields;
use super::record::{EntriesIn, GroupRecord, Record, RecordFault, decode_members};
use raftyard_raft::{Configuration, GroupId, HardState, LogIndex, NodeId, ReplicaId, Term};
use std::time::Duration;

/// Bytes of a record before its body: length, kind, three zeroes.
const RECORD_HEADER_BYTES: usize = 8;
const KIND_CREATION: u8 = 1;
const KIND_GROUP: u8 = 2;
const KIND_PEER: u8 = 3;
const KIND_PROMISE: u8 = 4;
const FLAG_HARD_STATE: u32 = 1;

/// The next record, and its bytes.
pub(super) fn decode<'a>(fields: &mut Fields<'a>) -> Result<(Record<'a>, usize), RecordFault> {
    let len = fields.u32().ok_or(RecordFault::Length)? as usize;
    let kind = fields.u8().ok_or(RecordFault::Length)?;
    fields.zeroes::<3>().ok_or(RecordFault::Field)?;
    let body_len = len.checked_sub(RECORD_HEADER_BYTES).ok_or(RecordFault::Length)?;
    let mut body = Fields::new(fields.bytes(body_len).ok_or(RecordFault::Length)?);
    let record = match kind {
        KIND_CREATION => decode_creation(&mut body)?,
        KIND_GROUP => return Ok((decode_group(&mut body)?, len)),
        KIND_PEER => decode_peer(&mut body).ok_or(RecordFault::Length)?,
        KIND_PROMISE => Record::Promise { wait: Duration::from_nanos(body.u64().ok_or(RecordFault::Length)?) },
        _ => return Err(RecordFault::UnknownKind(kind)),
    };
    if body.is_empty() { Ok((record, len)) } else { Err(RecordFault::Length) }
}

fn decode_creation<'a>(body: &mut Fields<'_>) -> Result<Record<'a>, RecordFault> {
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

fn decode_group<'a>(body: &mut Fields<'a>) -> Result<Record<'a>, RecordFault> {
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
    let entries = EntriesIn::new(LogIndex(first), count, body.rest())?;
    Ok(Record::Group(GroupRecord { group, replica, hard_state, last: None, limited: false, entries }))
}

fn decode_peer<'a>(body: &mut Fields<'_>) -> Option<Record<'a>> {
    let node = NodeId(body.u64()?);
    let store = StoreId(body.u128()?);
    Some(Record::Peer { node, store })
}
