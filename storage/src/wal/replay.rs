//! What the batches of a log add up to, also where some are lost. Makes no protocol decision: it keeps what was recorded
//! last, and says of whom something is missing.
//!
//! Every record and every echo of a group proves how the group stood: term, vote, newest position. A group is whole if
//! nothing can have been recorded of it after its newest proof, and its entries reach from its base to there.

use super::index::{Index, Slot, limited};
use super::runs::Place;
use crate::format::BatchSeq;
use crate::format::batch::{Batch, BatchHeader};
use crate::format::checkpoint::{Item, Part};
use crate::format::echo::{self, EchoState};
use crate::format::record::{CHUNK_OVERHEAD_BYTES, GroupRecord, Record, RecordFault, decode_all};
use crate::format::segment::BatchPlace;
use raftyard_raft::planted::{Bug, planted};
use raftyard_raft::{GroupId, Limit, LogPosition, ReplicaId};
use std::sync::Arc;

/// Batches that are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hole {
    pub(crate) first: BatchSeq,
    pub(crate) last: BatchSeq,
    /// The batch after it says which groups it touched, because it is only one.
    pub(crate) explained: bool,
}

/// What proves how a group stood.
#[derive(Clone, Copy, Debug, Default)]
struct Proof {
    /// After which batch.
    after: BatchSeq,
    /// Its newest position then.
    claim: LogPosition,
    /// Where something was first said of it, if its creation was not seen.
    stub: Option<BatchSeq>,
}

/// A complete checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Complete {
    pub(crate) begin: BatchPlace,
    pub(crate) previous: Option<BatchPlace>,
}

/// Where a batch stands whose records are replayed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchAt {
    pub(crate) version: u16,
    pub(crate) segment: u32,
    pub(crate) offset: u64,
}

/// The parts of a checkpoint, read so far.
#[derive(Debug)]
struct Parts {
    checkpoint: BatchSeq,
    /// An item that was cut, and the batch it began in.
    cut: Vec<u8>,
    cut_in: (u32, u32),
}

/// The state that batches build up.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) index: Index,
    /// By slot.
    proofs: Vec<Proof>,
    /// The checkpoint whose parts are being read.
    parts: Option<Parts>,
    /// The last complete checkpoint.
    pub(crate) complete: Option<Complete>,
    /// The last end of a checkpoint that was seen, whether or not its beginning was.
    pub(crate) ended: Option<Complete>,
    pub(crate) holds_records: bool,
}

impl Replay {
    pub(crate) fn batch(&mut self, at: BatchAt, batch: &Batch<'_>) -> Result<(), RecordFault> {
        let BatchHeader { sequence, record_count, .. } = batch.header;
        if at.version > 1 && !planted(Bug::EchoIgnored) {
            self.echoes(batch.echo, sequence)?;
        }
        let records_at = at.offset + batch.records_at as u64;
        decode_all(at.version, batch.records, record_count, |record, offset, len| {
            let fits = |value: u64| u32::try_from(value).map_err(|_| RecordFault::Length);
            let place =
                Place { segment: at.segment, offset: fits(records_at + offset as u64)?, len: fits(len as u64)? };
            self.record(sequence, at, place, record)
        })
    }

    /// Looks for the end of a checkpoint alone.
    pub(crate) fn look(&mut self, at: BatchAt, batch: &Batch<'_>) -> Result<(), RecordFault> {
        decode_all(at.version, batch.records, batch.header.record_count, |record, _, _| match record {
            Record::Checkpoint(part) if part.last => {
                let each = |item| self.ended = ended(&item).or(self.ended);
                Item::read_all(part.items, each).map(drop).ok_or(RecordFault::Field)
            }
            _ => Ok(()),
        })
    }

    fn echoes(&mut self, section: &[u8], sequence: BatchSeq) -> Result<(), RecordFault> {
        let after = sequence.previous();
        for echo in echo::decode_all(section).ok_or(RecordFault::Length)? {
            let (group, replica) = (echo.group, echo.replica);
            match echo.state {
                EchoState::Removed => {
                    if let Ok(slot) = self.index.replica(group, replica) {
                        self.index.remove(slot);
                    }
                    self.index.note_removed(group, replica);
                }
                EchoState::Amnesia => {
                    let slot = self.slot_of(group, replica, sequence);
                    self.index.at_mut(slot).set_limit(Limit::Amnesia);
                    self.prove(slot, after, LogPosition::default());
                }
                EchoState::There(hard_state, claim) => {
                    let slot = self.slot_of(group, replica, sequence);
                    self.index.at_mut(slot).hard_state = hard_state;
                    self.prove(slot, after, claim);
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, sequence: BatchSeq, at: BatchAt, place: Place, record: Record<'_>) -> Result<(), RecordFault> {
        match record {
            Record::Creation { group, replica, configuration } => {
                self.holds_records = true;
                // A stub of another replica, or of one whose removal is lost, is over.
                if let Some(slot) = self.index.slot(group)
                    && (self.proof(slot).stub.is_some() || self.index.at(slot).replica < replica)
                {
                    self.index.remove(slot);
                    self.index.removed.remove(&group);
                }
                let slot = self.index.create(group, replica, Arc::new(configuration))?;
                *self.proof_mut(slot) = Proof { after: sequence, ..Proof::default() };
            }
            Record::Group(record) => self.group(sequence, place, &record),
            Record::Relocated(record) => self.relocated(sequence, place, &record),
            Record::State(state) => {
                let slot = self.slot_of(state.group, state.replica, sequence);
                self.index.set_state(slot, &state);
                let proof = self.proof_mut(slot);
                // It says everything, so whatever was lost before no longer matters.
                proof.stub = None;
                let claim = match state.limit {
                    Limit::Bound(bound) => bound,
                    Limit::None | Limit::Amnesia => state.last,
                };
                self.prove(slot, sequence, claim);
            }
            Record::Removal { group, replica } => {
                if let Ok(slot) = self.index.replica(group, replica) {
                    self.index.remove(slot);
                }
                self.index.note_removed(group, replica);
            }
            Record::Chunk(chunk) => {
                let slot = self.slot_of(chunk.group, chunk.replica, sequence);
                let bytes = u64::from(place.len) - CHUNK_OVERHEAD_BYTES as u64;
                self.index.chunk(slot, chunk.snapshot, chunk.offset, bytes, place);
            }
            Record::Peer { node, store } => {
                self.holds_records = true;
                // The last one stands: an operator may have replaced the node.
                self.index.peers.insert(node, store);
            }
            Record::Promise { wait } => self.index.promise = wait,
            Record::Checkpoint(part) => return self.part(sequence, at, &part),
        }
        Ok(())
    }

    fn group(&mut self, sequence: BatchSeq, place: Place, record: &GroupRecord<'_>) {
        let slot = self.slot_of(record.group, record.replica, sequence);
        self.told(slot, record);
        self.index.append(slot, place, record.entries.iter());
        let claim = record.last.unwrap_or_else(|| self.index.at(slot).last);
        self.prove(slot, sequence, claim);
    }

    fn relocated(&mut self, sequence: BatchSeq, place: Place, record: &GroupRecord<'_>) {
        if planted(Bug::RelocatedAppended) {
            return self.group(sequence, place, record);
        }
        let slot = self.slot_of(record.group, record.replica, sequence);
        self.told(slot, record);
        if !record.entries.is_empty() {
            let entries = record.entries;
            self.index.relocate(slot, entries.first()..=entries.last(), place);
        }
        let claim = record.last.unwrap_or_else(|| self.index.at(slot).last);
        self.prove(slot, sequence, claim);
    }

    /// What a record says beside its entries.
    fn told(&mut self, slot: Slot, record: &GroupRecord<'_>) {
        let tracked = self.index.at_mut(slot);
        if let Some(hard_state) = record.hard_state {
            tracked.hard_state = hard_state;
        }
        if record.limited && tracked.limit() == Limit::None {
            // The record that limited it is lost, and nobody knows by what.
            tracked.set_limit(Limit::Amnesia);
        }
    }

    fn part(&mut self, sequence: BatchSeq, at: BatchAt, part: &Part<'_>) -> Result<(), RecordFault> {
        let here = (at.segment, u32::try_from(at.offset).map_err(|_| RecordFault::Length)?);
        if part.first {
            self.parts = Some(Parts { checkpoint: part.checkpoint, cut: Vec::new(), cut_in: here });
        }
        let known = self.parts.take_if(|known| known.checkpoint == part.checkpoint);
        let Some(Parts { checkpoint, cut, cut_in }) = known else {
            // The beginning is lost, or reading began behind it. The last part begins with a whole item.
            if part.last {
                let each = |item| self.ended = ended(&item).or(self.ended);
                Item::read_all(part.items, each).ok_or(RecordFault::Field)?;
            }
            return Ok(());
        };
        let begun_before = !cut.is_empty();
        let bytes = [&cut, part.items].concat();
        let mut items = Vec::new();
        let rest = Item::read_all(&bytes, |item| items.push(item)).ok_or(RecordFault::Field)?;
        if rest.is_empty() == part.cut {
            return Err(RecordFault::Length);
        }
        // Records of the batch that an item begins in are named by where they stand in it.
        let cut = rest.to_vec();
        let still_cut = begun_before && items.is_empty();
        for (place, item) in items.into_iter().enumerate() {
            let begun_in = if begun_before && place == 0 { cut_in } else { here };
            self.item(sequence, begun_in, item);
        }
        let cut_in = if still_cut { cut_in } else { here };
        if !part.last {
            self.parts = Some(Parts { checkpoint, cut, cut_in });
        }
        Ok(())
    }

    fn item(&mut self, sequence: BatchSeq, begun_in: (u32, u32), item: Item) {
        match item {
            Item::Group(item) => {
                self.holds_records = true;
                let claim = match item.state.limit {
                    Limit::Bound(bound) => bound,
                    Limit::None | Limit::Amnesia => item.state.last,
                };
                let slot = self.index.replace(*item, begun_in);
                *self.proof_mut(slot) = Proof { after: sequence, claim, stub: None };
            }
            Item::Removed { group, replica } => {
                if let Some(slot) = self.index.slot(group).filter(|slot| self.index.at(*slot).replica <= replica) {
                    self.index.remove(slot);
                }
                if self.index.slot(group).is_none() {
                    self.index.note_removed(group, replica);
                }
            }
            Item::Peer { node, store } => {
                self.index.peers.insert(node, store);
            }
            Item::Promise { wait } => self.index.promise = self.index.promise.max(wait),
            Item::End { begin, previous } => {
                self.complete = Some(Complete { begin, previous });
                self.ended = self.complete;
            }
        }
    }

    /// What was begun before lost batches is not gone on with after them.
    pub(crate) fn interrupted(&mut self) {
        self.parts = None;
    }

    fn slot_of(&mut self, group: GroupId, replica: ReplicaId, sequence: BatchSeq) -> Slot {
        if let Ok(slot) = self.index.replica(group, replica) {
            return slot;
        }
        self.holds_records = true;
        let slot = self.index.stub(group, replica);
        *self.proof_mut(slot) = Proof { stub: Some(sequence), ..Proof::default() };
        slot
    }

    fn proof(&self, slot: Slot) -> Proof {
        self.proofs.get(slot as usize).copied().unwrap_or_default()
    }

    fn proof_mut(&mut self, slot: Slot) -> &mut Proof {
        let place = slot as usize;
        if place >= self.proofs.len() {
            self.proofs.resize(place + 1, Proof::default());
        }
        &mut self.proofs[place]
    }

    fn prove(&mut self, slot: Slot, after: BatchSeq, claim: LogPosition) {
        let proof = self.proof_mut(slot);
        (proof.after, proof.claim) = (after, claim);
    }

    /// Gives up whatever can't be relied on, and limits those who lost something. Without a hole nothing can be missing,
    /// so then it is a fault. `exists` says of which segments the records can be read.
    pub(crate) fn judge(&mut self, holes: &[Hole], exists: impl Fn(u32) -> bool) -> Result<Vec<GroupId>, RecordFault> {
        let mut touched = Vec::new();
        for slot in 0..self.index.slots_end() {
            let Some(tracked) = self.index.get(slot) else { continue };
            let (group, replica, proof) = (tracked.group, tracked.replica, self.proof(slot));
            let before = tracked.limit();
            if holes.is_empty() && proof.stub.is_some() {
                return Err(RecordFault::NoSuchReplica { group, replica });
            }
            let forgotten = holes.iter().any(|hole| proof.after < hole.first && !hole.explained);
            let gone = tracked.runs.iter().find(|run| !exists(run.place.segment)).map(|run| run.first);
            let end = tracked.runs.contiguous_after(tracked.base.index);
            let end = gone.map_or(end, |gone| end.min(gone.previous()));
            let no_machine = tracked.snapshot_lost(&exists);
            if end < tracked.last.index {
                if holes.is_empty() && gone.is_none() {
                    let last = end;
                    return Err(RecordFault::Gap { group, last, first: last.next().next() });
                }
                self.index.truncate(slot, end);
            }
            if no_machine {
                self.index.forget_log(slot);
            }
            let tracked = self.index.at_mut(slot);
            // Of one that nothing is known of nothing more can be missing.
            let known = before == Limit::Bound(proof.claim) || before == Limit::Amnesia;
            let whole = tracked.last == proof.claim || known;
            if holes.is_empty() && gone.is_none() && !no_machine && !whole {
                let (last, first) = (tracked.last.index, proof.claim.index.next());
                return Err(RecordFault::Gap { group, last, first });
            }
            let limit = match before {
                _ if forgotten => Limit::Amnesia,
                _ if whole => before,
                _ => limited(before, proof.claim),
            };
            tracked.set_limit(limit);
            if limit != before {
                touched.push(group);
            }
        }
        touched.sort_unstable();
        Ok(touched)
    }
}

fn ended(item: &Item) -> Option<Complete> {
    match item {
        Item::End { begin, previous } => Some(Complete { begin: *begin, previous: *previous }),
        _ => None,
    }
}
