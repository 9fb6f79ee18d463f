//! What the batches of a log add up to, also where some are lost. Makes no protocol decision: it keeps what was recorded
//! last, and says of whom something is missing.
//!
//! Every record and every echo of a group proves how the group stood: term, vote, newest position. A group is whole if
//! nothing can have been recorded of it after its newest proof, and its entries reach from its base to there.
//!
//! A lost batch may have replaced entries. Behind it a group's older entries are in doubt, unless it is proved to end where
//! it ended before: two logs that end with the same index and term are the same (Raft paper, section 5.3). Entries that are
//! recorded behind the lost batch do not vouch for those before them.

use super::index::{Index, Slot, limited};
use super::runs::Place;
use crate::format::BatchSeq;
use crate::format::batch::{Batch, BatchHeader};
use crate::format::checkpoint::{Item, Part};
use crate::format::echo::{self, EchoState};
use crate::format::record::{CHUNK_OVERHEAD_BYTES, GroupRecord, Record, RecordFault, State, decode_all};
use crate::format::segment::BatchPlace;
use raftyard_raft::planted::{Bug, planted};
use raftyard_raft::{GroupId, Limit, LogIndex, LogPosition, ReplicaId};
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
    /// Entries up to this index are what they were before batches were lost, which may have replaced them.
    doubt: Option<LogIndex>,
    /// What was claimed when they came to be in doubt, which may have been a bound.
    bound: Option<LogPosition>,
}

/// A complete checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Complete {
    pub(crate) begin: BatchPlace,
    pub(crate) previous: Option<BatchPlace>,
}

impl Complete {
    /// Where it and the one before it begin, best first.
    pub(crate) fn places(self) -> [Option<BatchPlace>; 2] {
        [Some(self.begin), self.previous]
    }
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
    /// The groups that the last batch touched.
    pub(crate) touched: Vec<(GroupId, ReplicaId)>,
    /// The last lost batches so far.
    hole: Option<Hole>,
    /// The first one of the last lost batches of which nothing says whom they touched.
    unexplained: Option<BatchSeq>,
}

impl Replay {
    pub(crate) fn batch(&mut self, at: BatchAt, batch: &Batch<'_>) -> Result<(), RecordFault> {
        let BatchHeader { sequence, record_count, .. } = batch.header;
        self.touched.clear();
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
                    if self.hole.is_some_and(|hole| hole.last == after) {
                        self.echo_of_lost(slot, claim);
                    }
                    self.prove(slot, after, claim);
                }
            }
        }
        Ok(())
    }

    /// What was recorded of a group in a lost batch left it with this claim: its last position, or its bound.
    fn echo_of_lost(&mut self, slot: Slot, claim: LogPosition) {
        let tracked = self.index.at(slot);
        // A bound says nothing of where the log ended.
        if tracked.last != claim || tracked.limit() != Limit::None {
            self.doubt(slot);
            let bound = self.proof(slot).bound.unwrap_or_default();
            self.proof_mut(slot).bound = Some(newer(bound, claim));
        }
    }

    /// From now on nobody knows which entries of a group were replaced.
    fn doubt(&mut self, slot: Slot) {
        if let Some(doubt) = self.proof(slot).doubt {
            // What followed older entries that were in doubt already never was one log with them.
            self.index.truncate(slot, self.index.at(slot).whole_upto().min(doubt));
        }
        self.proof_mut(slot).doubt = Some(LogIndex::MAX);
    }

    /// Whether anything may have happened to a group in lost batches, of which nothing was said since.
    fn may_have_lost(&self, slot: Slot) -> bool {
        self.unexplained.is_some_and(|first| self.proof(slot).after < first)
    }

    /// A record says where the log of a group ended before it, if it says so; that may not be where it ends here.
    fn compare(&mut self, slot: Slot, last: Option<LogPosition>) {
        if self.may_have_lost(slot) && last != Some(self.index.at(slot).last) {
            self.doubt(slot);
        }
    }

    fn record(&mut self, sequence: BatchSeq, at: BatchAt, place: Place, record: Record<'_>) -> Result<(), RecordFault> {
        self.touched.extend(record.replica());
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
                self.state(slot, &state);
                self.prove(slot, sequence, state.claim());
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

    /// It says everything but the entries, so whatever else was lost before no longer matters.
    fn state(&mut self, slot: Slot, state: &State) {
        self.compare(slot, Some(state.last));
        let Proof { doubt, .. } = self.proof(slot);
        let base_known = self.index.at(slot).term(state.base.index) == Some(state.base.term);
        if let Some(doubt) = doubt.filter(|_| !base_known) {
            // The log begins with what the entries in doubt do not hold.
            self.index.forget_entries(slot, doubt);
        }
        if state.base.index < self.index.at(slot).base.index {
            // Recovery gave up all that this log holds, and now it reads well again.
            self.index.forget_log(slot);
        }
        self.index.set_state(slot, state);
        let tracked = self.index.at(slot);
        let (base, last) = (tracked.base.index, tracked.last);
        // Either it ends where it did, or recovery gave up what followed.
        let agrees = |doubt: LogIndex| last == state.last && last.index <= doubt;
        let proof = self.proof_mut(slot);
        proof.stub = None;
        proof.bound = None;
        proof.doubt = doubt.filter(|doubt| !state.reset && base < *doubt && !agrees(*doubt));
        // What recovery gave up reads well again: it is not what was gone on with.
        if last != state.last && proof.doubt.is_none() {
            proof.doubt = Some(LogIndex::MAX);
        }
    }

    fn group(&mut self, sequence: BatchSeq, place: Place, record: &GroupRecord<'_>) {
        let slot = self.slot_of(record.group, record.replica, sequence);
        self.compare(slot, record.last);
        self.told(slot, record);
        self.index.append(slot, place, record.entries.iter());
        if !record.entries.is_empty() {
            let (base, before) = (self.index.at(slot).base.index, record.entries.first().previous());
            let proof = self.proof_mut(slot);
            proof.doubt = proof.doubt.map(|doubt| doubt.min(before)).filter(|doubt| base < *doubt);
            if proof.doubt.is_none() && !record.limited {
                proof.bound = None;
            }
        }
        let claim = record.last.unwrap_or_else(|| self.index.at(slot).last);
        self.prove(slot, sequence, claim);
    }

    fn relocated(&mut self, sequence: BatchSeq, place: Place, record: &GroupRecord<'_>) {
        if planted(Bug::RelocatedAppended) {
            return self.group(sequence, place, record);
        }
        let slot = self.slot_of(record.group, record.replica, sequence);
        self.compare(slot, record.last);
        self.told(slot, record);
        let doubt = self.proof(slot).doubt.unwrap_or_default();
        // What is in doubt may be another entry than the one that was moved.
        if !record.entries.is_empty() && record.entries.first() > doubt {
            let entries = record.entries;
            self.index.relocate(slot, entries.first()..=entries.last(), place);
        }
        let claim = record.last.unwrap_or_else(|| self.index.at(slot).last);
        self.prove(slot, sequence, claim);
    }

    /// What a record says beside its entries.
    fn told(&mut self, slot: Slot, record: &GroupRecord<'_>) {
        let may_have_lost = self.may_have_lost(slot);
        let tracked = self.index.at_mut(slot);
        if let Some(hard_state) = record.hard_state {
            tracked.hard_state = hard_state;
        }
        if record.limited && (tracked.limit() == Limit::None || may_have_lost) {
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
                let claim = item.state.claim();
                let slot = self.index.replace(*item, begun_in);
                *self.proof_mut(slot) = Proof { after: sequence, claim, ..Proof::default() };
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

    /// Batches are lost. What was begun before them is not gone on with after them.
    pub(crate) fn interrupted(&mut self, hole: Hole) {
        self.parts = None;
        self.hole = Some(hole);
        if !hole.explained {
            self.unexplained = Some(hole.first);
        }
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
            let claim = newer(proof.claim, proof.bound.unwrap_or_default());
            if holes.is_empty() && proof.stub.is_some() {
                return Err(RecordFault::NoSuchReplica { group, replica });
            }
            let forgotten = holes.iter().any(|hole| proof.after < hole.first && !hole.explained);
            let gone = tracked.runs.iter().find(|run| !exists(run.place.segment)).map(|run| run.first);
            let end = gone.map_or(LogIndex::MAX, |gone| gone.previous());
            let end = end.min(proof.doubt.unwrap_or(LogIndex::MAX)).min(tracked.whole_upto());
            let no_machine = tracked.snapshot_lost(&exists);
            if end < tracked.last.index {
                if holes.is_empty() && gone.is_none() && before == Limit::None {
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
            let as_claimed = tracked.last == claim || before == Limit::Bound(claim);
            let whole = before == Limit::Amnesia || (as_claimed && proof.doubt.is_none());
            if holes.is_empty() && gone.is_none() && !no_machine && !whole && before == Limit::None {
                let (last, first) = (tracked.last.index, claim.index.next());
                return Err(RecordFault::Gap { group, last, first });
            }
            let limit = match before {
                // Without its creation nobody knows its first members.
                _ if forgotten || proof.stub.is_some() => Limit::Amnesia,
                _ if whole => before,
                _ => limited(before, claim),
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

fn newer(a: LogPosition, b: LogPosition) -> LogPosition {
    if a.at_least_as_new_as(b) { a } else { b }
}

fn ended(item: &Item) -> Option<Complete> {
    match item {
        Item::End { begin, previous } => Some(Complete { begin: *begin, previous: *previous }),
        _ => None,
    }
}
