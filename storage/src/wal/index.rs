//! What a log holds of each group, and where: built by recovery from records, kept up to date by the running log with the
//! same steps.
//!
//! Owns which bytes of each segment still count. It must never read a disk, and never decide what a group records.

use super::live::Live;
use super::runs::{FILLING, Place, Run};
use super::tracked::Tracked;
use crate::format::StoreId;
use crate::format::checkpoint::GroupItem;
use crate::format::echo::{Echo, EchoState};
use crate::format::record::{EntryIn, RecordFault, State};
use raftyard_raft::{Configuration, GroupId, Limit, LogIndex, LogPosition, NodeId, ReplicaId};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Names a group within an index. Used again when the group is removed.
pub(crate) type Slot = u32;

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    slots: Vec<Option<Tracked>>,
    free: Vec<Slot>,
    by_group: FxHashMap<GroupId, Slot>,
    /// The highest replica of each group that was removed and not created again.
    pub(crate) removed: BTreeMap<GroupId, ReplicaId>,
    pub(crate) peers: BTreeMap<NodeId, StoreId>,
    pub(crate) promise: Duration,
    live: Live,
}

impl Index {
    pub(crate) fn slot(&self, group: GroupId) -> Option<Slot> {
        self.by_group.get(&group).copied()
    }

    /// The group in a slot that is in use.
    pub(crate) fn at(&self, slot: Slot) -> &Tracked {
        self.get(slot).expect("a slot in use")
    }

    pub(crate) fn get(&self, slot: Slot) -> Option<&Tracked> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn at_mut(&mut self, slot: Slot) -> &mut Tracked {
        self.parts(slot).0
    }

    /// The group in a slot that is in use, and what counts of the segments.
    fn parts(&mut self, slot: Slot) -> (&mut Tracked, &mut Live) {
        (self.slots[slot as usize].as_mut().expect("a slot in use"), &mut self.live)
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = &Tracked> {
        self.slots.iter().flatten()
    }

    /// Slots in use or not are below this.
    pub(crate) fn slots_end(&self) -> Slot {
        Slot::try_from(self.slots.len()).expect("a core hosts fewer than 2^32 groups")
    }

    /// Bytes of records in `segment` that still count.
    pub(crate) fn live_bytes(&self, segment: u32) -> u64 {
        self.live.bytes(segment)
    }

    /// Bytes of all records that still count.
    pub(crate) fn live_bytes_total(&self) -> u64 {
        self.live.total_bytes()
    }

    pub(crate) fn forget_segment(&mut self, segment: u32) {
        self.live.forget(segment);
    }

    pub(crate) fn create(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        configuration: Arc<Configuration>,
    ) -> Result<Slot, RecordFault> {
        if self.by_group.contains_key(&group) {
            return Err(RecordFault::CreatedTwice(group));
        }
        if self.removed.get(&group).is_some_and(|gone| replica <= *gone) {
            return Err(RecordFault::NoSuchReplica { group, replica });
        }
        self.removed.remove(&group);
        Ok(self.insert(Tracked::new(group, replica, configuration)))
    }

    fn insert(&mut self, tracked: Tracked) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots_end() - 1
        });
        self.by_group.insert(tracked.group, slot);
        self.slots[slot as usize] = Some(tracked);
        slot
    }

    /// The slot of a replica that must be there.
    pub(crate) fn replica(&self, group: GroupId, replica: ReplicaId) -> Result<Slot, RecordFault> {
        let slot = self.slot(group).filter(|slot| self.at(*slot).replica == replica);
        slot.ok_or(RecordFault::NoSuchReplica { group, replica })
    }

    /// How a replica stands that was touched.
    pub(crate) fn echo(&self, group: GroupId, replica: ReplicaId) -> Echo {
        match self.replica(group, replica) {
            Ok(slot) => self.at(slot).echo(),
            Err(_) => Echo { group, replica, state: EchoState::Removed },
        }
    }

    /// Entries that replace the log from the first one's index on.
    pub(crate) fn append<'a>(&mut self, slot: Slot, place: Place, entries: impl Iterator<Item = EntryIn<'a>>) {
        let (tracked, live) = self.parts(slot);
        let mut first = None;
        let mut count = 0;
        for entry in entries {
            if first.is_none() {
                first = Some(entry.index);
                tracked.cut(live, entry.index);
            }
            tracked.note(&entry);
            count += 1;
        }
        let Some(first) = first else { return };
        tracked.runs.push(Run { first, count, place });
        live.add(place);
    }

    /// Entries stand at `place` now. Says whether they all were here.
    pub(crate) fn relocate(&mut self, slot: Slot, moved: RangeInclusive<LogIndex>, place: Place) -> bool {
        let (tracked, live) = self.parts(slot);
        let moved = (*moved.start()).max(tracked.base.index.next())..=*moved.end();
        if moved.is_empty() {
            return false;
        }
        let Some((before, now)) = tracked.runs.relocate(moved, place) else { return false };
        before.iter().for_each(|run| live.kill(run.place));
        now.iter().for_each(|run| live.add(run.place));
        true
    }

    /// Everything of a group but its entries, as a state record says it.
    pub(crate) fn set_state(&mut self, slot: Slot, state: &State) {
        let (tracked, live) = self.parts(slot);
        // A base that goes back: recovery found nothing that the log could begin with.
        let reset = state.reset || state.base.index < tracked.base.index;
        if reset {
            tracked.cut(live, tracked.base.index.next());
        }
        tracked.hard_state = state.hard_state;
        tracked.configuration = Arc::new(state.configuration.clone());
        tracked.configuration_index = state.configuration_index;
        tracked.compact(live, state.base);
        if reset {
            (tracked.base, tracked.last) = (state.base, state.base);
        }
        // What recovery gave up does not come back.
        tracked.cut(live, state.last.index.next());
        tracked.set_limit(state.limit);
        tracked.set_snapshot(live, state.snapshot);
    }

    /// A piece of a snapshot that is being recorded. One without bytes begins it anew.
    pub(crate) fn chunk(&mut self, slot: Slot, position: LogPosition, offset: u64, bytes: u64, place: Place) {
        let (tracked, live) = self.parts(slot);
        tracked.chunk(live, position, offset, bytes, place);
    }

    /// Gives up a snapshot that was being recorded.
    pub(crate) fn abandon_snapshot(&mut self, slot: Slot) {
        let (tracked, live) = self.parts(slot);
        tracked.abandon_snapshot(live);
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        let tracked = self.slots[slot as usize].take().expect("a slot in use");
        self.by_group.remove(&tracked.group);
        self.free.push(slot);
        tracked.kill_all(&mut self.live);
        self.note_removed(tracked.group, tracked.replica);
    }

    pub(crate) fn note_removed(&mut self, group: GroupId, replica: ReplicaId) {
        let highest = self.removed.entry(group).or_insert(replica);
        *highest = replica.max(*highest);
    }

    /// What a checkpoint says of a group takes the place of whatever is known of it. Records of the batch that the item
    /// began in, which stands at `begun_in` (segment, offset in bytes), are named by where they stand in that batch.
    pub(crate) fn replace(&mut self, item: GroupItem, begun_in: (u32, u32)) -> Slot {
        let tracked = Tracked::of_item(item, begun_in, &mut self.live);
        match self.slot(tracked.group) {
            Some(slot) => {
                let before = self.slots[slot as usize].replace(tracked).expect("a slot in use");
                before.kill_all(&mut self.live);
                slot
            }
            None => self.insert(tracked),
        }
    }

    /// A group that something is known of and whose creation is lost.
    pub(crate) fn stub(&mut self, group: GroupId, replica: ReplicaId) -> Slot {
        if let Some(slot) = self.slot(group) {
            if self.at(slot).replica == replica {
                return slot;
            }
            self.remove(slot);
        }
        self.insert(Tracked::new(group, replica, Arc::new(Configuration::joining())))
    }

    /// Cuts the log of a group behind `last`, below which nothing is lost.
    pub(crate) fn truncate(&mut self, slot: Slot, last: LogIndex) {
        let (tracked, live) = self.parts(slot);
        tracked.cut(live, last.next());
        let term = tracked.term(last).unwrap_or_default();
        tracked.last = LogPosition { index: last, term };
    }

    /// The entries from `first` on are lost: the replica is limited to what it once held.
    pub(crate) fn lose(&mut self, slot: Slot, first: LogIndex) {
        let (claim, before) = (self.at(slot).claim(), self.at(slot).limit());
        if first <= self.at(slot).base.index {
            self.forget_log(slot);
        } else {
            self.truncate(slot, first.previous());
        }
        self.at_mut(slot).set_limit(limited(before, claim));
    }

    /// Forgets where the entries up to `last` stand: they are lost.
    pub(crate) fn forget_entries(&mut self, slot: Slot, last: LogIndex) {
        let (tracked, live) = self.parts(slot);
        tracked.runs.drop_to(last, |place| live.kill(place));
    }

    /// Forgets the whole log of a group: nothing is left that it could begin with.
    pub(crate) fn forget_log(&mut self, slot: Slot) {
        let (tracked, live) = self.parts(slot);
        tracked.cut(live, tracked.base.index.next());
        (tracked.base, tracked.last) = (LogPosition::default(), LogPosition::default());
        tracked.configuration_index = LogIndex(0);
        tracked.configuration = Arc::new(Configuration::joining());
        tracked.set_snapshot(live, None);
    }

    /// What was recorded in the batch that filled stands in `segment` now, the batch at `batch_offset`.
    pub(crate) fn settle(&mut self, slot: Slot, first: LogIndex, segment: u32, batch_offset: u32) {
        // The group may be gone, or another may have its slot, or the entries are replaced already.
        let Some(tracked) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if let Some(place) = tracked.runs.settle(first, segment, batch_offset) {
            self.live.add(place);
        }
    }

    /// The same for pieces of a snapshot.
    pub(crate) fn settle_chunks(&mut self, slot: Slot, segment: u32, batch_offset: u32) {
        let Some(tracked) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        tracked.settle_chunks(&mut self.live, segment, batch_offset);
    }

    /// Forgets what was counted for the batch that filled, now that all of it is settled or dead.
    pub(crate) fn settled(&mut self) {
        self.live.forget(FILLING);
    }
}

/// What a replica is limited to that lost something, and once held a log up to `claim`.
pub(crate) fn limited(before: Limit, claim: LogPosition) -> Limit {
    match before {
        Limit::Amnesia => Limit::Amnesia,
        Limit::Bound(bound) if bound.at_least_as_new_as(claim) => before,
        Limit::None | Limit::Bound(_) => Limit::Bound(claim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftyard_raft::{EntryKind, Term};

    fn entries(indexes: RangeInclusive<u64>) -> impl Iterator<Item = EntryIn<'static>> {
        indexes.map(|index| EntryIn { term: Term(1), index: LogIndex(index), kind: EntryKind::Command, data: b"" })
    }

    #[test]
    fn what_others_have_in_a_segment_counts_however_a_record_there_was_split() {
        let mut index = Index::default();
        let joining = Arc::new(Configuration::joining());
        let split = index.create(GroupId(1), ReplicaId(1), Arc::clone(&joining)).expect("it is new");
        let other = index.create(GroupId(2), ReplicaId(1), joining).expect("it is new");
        let place = |segment, offset| Place { segment, offset, len: 100 };
        index.append(split, place(1, 0), entries(1..=10));
        index.append(other, place(1, 100), entries(1..=10));
        // As a replay does where the batches that gave up the others are lost.
        assert!(index.relocate(split, LogIndex(4)..=LogIndex(6), place(2, 0)));
        index.forget_entries(split, LogIndex(3));
        assert!(index.live_bytes(1) >= 200, "entries 7 to 10 are there, and those of the other group");
        index.truncate(split, LogIndex(6));
        assert_eq!((index.live_bytes(1), index.live_bytes(2)), (100, 100), "the other group's");
        index.remove(other);
        assert_eq!((index.live_bytes(1), index.live_bytes_total()), (0, 100));
    }
}
