//! What a log holds of each group, and where: built by recovery from records, kept up to date by the running log with the
//! same steps.
//!
//! Owns which bytes of each segment still count. It must never read a disk, and never decide what a group records.

use super::runs::{FILLING, Place, Run, Runs};
use crate::format::StoreId;
use crate::format::checkpoint::{GroupItem, Stretch};
use crate::format::echo::{Echo, EchoState};
use crate::format::record::{CHUNK_OVERHEAD_BYTES, EntryIn, GroupHead, RecordFault, State};
use bytes::Bytes;
use raftyard_raft::{
    Configuration, EntryKind, GroupId, HardState, Limit, LogIndex, LogPosition, NodeId, ReplicaId, Term,
};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Names a group within an index. Used again when the group is removed.
pub(crate) type Slot = u32;

/// One group.
#[derive(Clone, Debug)]
pub(crate) struct Tracked {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) hard_state: HardState,
    pub(crate) base: LogPosition,
    /// Position of the last entry, or the base.
    pub(crate) last: LogPosition,
    /// The members at the base; none if they are not known.
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) configuration_index: LogIndex,
    /// First positions of runs of equal terms, above the base.
    pub(crate) terms: Vec<LogPosition>,
    pub(crate) runs: Runs,
    rare: Option<Box<Rare>>,
}

/// What few groups have.
#[derive(Clone, Debug, Default)]
struct Rare {
    limit: Limit,
    /// Configurations among the entries.
    configurations: Vec<(LogIndex, Bytes)>,
    /// The snapshot that counts.
    snapshot: Option<Snapshot>,
    /// One that is being recorded.
    incoming: Option<Snapshot>,
    /// One should count, and is not here.
    snapshot_lost: bool,
}

/// A state machine's snapshot in the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) position: LogPosition,
    pub(crate) bytes: u64,
    /// Where its pieces stand, with their offsets in it.
    pub(crate) chunks: Vec<(u64, Place)>,
}

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
    /// Bytes of records that still count, by segment.
    live: BTreeMap<u32, u64>,
}

impl Tracked {
    pub(crate) fn new(group: GroupId, replica: ReplicaId, configuration: Arc<Configuration>) -> Tracked {
        Tracked {
            group,
            replica,
            hard_state: HardState::default(),
            base: LogPosition::default(),
            last: LogPosition::default(),
            configuration,
            configuration_index: LogIndex(0),
            terms: Vec::new(),
            runs: Runs::default(),
            rare: None,
        }
    }

    pub(crate) fn limit(&self) -> Limit {
        self.rare.as_ref().map_or(Limit::None, |rare| rare.limit)
    }

    pub(crate) fn configurations(&self) -> &[(LogIndex, Bytes)] {
        self.rare.as_ref().map_or(&[], |rare| &rare.configurations)
    }

    pub(crate) fn snapshot(&self) -> Option<&Snapshot> {
        self.rare.as_ref()?.snapshot.as_ref()
    }

    pub(crate) fn incoming(&self) -> Option<&Snapshot> {
        self.rare.as_ref()?.incoming.as_ref()
    }

    /// Whether the machine's snapshot that the log should hold is not whole; `exists` says which segments there are.
    pub(crate) fn snapshot_lost(&self, exists: impl Fn(u32) -> bool) -> bool {
        let Some(rare) = &self.rare else { return false };
        let mut chunks = rare.snapshot.iter().flat_map(|snapshot| &snapshot.chunks);
        rare.snapshot_lost || chunks.any(|(_, place)| !exists(place.segment))
    }

    /// Everything from the base up to this entry is here.
    pub(crate) fn whole_upto(&self) -> LogIndex {
        self.runs.contiguous_after(self.base.index)
    }

    /// The newest position that this replica may have acknowledged.
    fn claim(&self) -> LogPosition {
        match self.limit() {
            Limit::Bound(bound) if !self.last.at_least_as_new_as(bound) => bound,
            _ => self.last,
        }
    }

    pub(crate) fn set_limit(&mut self, limit: Limit) {
        if limit != self.limit() {
            self.rare.get_or_insert_default().limit = limit;
            self.tidy();
        }
    }

    fn tidy(&mut self) {
        self.rare.take_if(|rare| {
            rare.limit == Limit::None
                && rare.configurations.is_empty()
                && rare.snapshot.is_none()
                && rare.incoming.is_none()
                && !rare.snapshot_lost
        });
    }

    pub(crate) fn echo(&self) -> Echo {
        Echo {
            group: self.group,
            replica: self.replica,
            state: EchoState::of(self.limit(), self.hard_state, self.claim()),
        }
    }

    pub(crate) fn head(&self) -> GroupHead {
        let limited = self.limit() != Limit::None;
        GroupHead { group: self.group, replica: self.replica, hard_state: self.hard_state, last: self.last, limited }
    }

    /// Everything but entries, as a record.
    pub(crate) fn state(&self, reset: bool) -> State {
        State {
            group: self.group,
            replica: self.replica,
            hard_state: self.hard_state,
            last: self.last,
            base: self.base,
            configuration: (*self.configuration).clone(),
            configuration_index: self.configuration_index,
            limit: self.limit(),
            reset,
            snapshot: self.snapshot().map(|snapshot| (snapshot.position, snapshot.bytes)),
        }
    }

    pub(crate) fn item(&self) -> GroupItem {
        let chunks = self.snapshot().map(|snapshot| &snapshot.chunks[..]).unwrap_or_default();
        GroupItem {
            state: self.state(false),
            terms: self.terms.clone(),
            runs: self.runs.iter().map(Run::stretch).collect(),
            configurations: self.configurations().to_vec(),
            chunks: chunks.iter().map(|(_, place)| stretch(*place)).collect(),
            incoming: self.incoming().map(|incoming| {
                (incoming.position, incoming.chunks.iter().map(|(_, place)| stretch(*place)).collect())
            }),
        }
    }

    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let after = self.terms.partition_point(|position| position.index <= index);
        let known = index > self.base.index && index <= self.last.index;
        known.then(|| self.terms[..after].last().map(|position| position.term)).flatten()
    }
}

fn stretch(place: Place) -> Stretch {
    Stretch { count: 0, segment: place.segment, offset: place.offset, len: place.len }
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
        self.slots[slot as usize].as_mut().expect("a slot in use")
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
        self.live.get(&segment).copied().unwrap_or(0)
    }

    /// Bytes of all records that still count.
    pub(crate) fn live_bytes_total(&self) -> u64 {
        self.live.values().sum()
    }

    pub(crate) fn forget_segment(&mut self, segment: u32) {
        self.live.remove(&segment);
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

    /// Entries that replace the log from the first one's index on.
    pub(crate) fn append<'a>(&mut self, slot: Slot, place: Place, entries: impl Iterator<Item = EntryIn<'a>>) {
        let tracked = self.slots[slot as usize].as_mut().expect("a slot in use");
        let live = &mut self.live;
        let mut first = None;
        let mut count = 0;
        for entry in entries {
            if first.is_none() {
                first = Some(entry.index);
                cut(tracked, live, entry.index);
            }
            note(tracked, &entry);
            count += 1;
        }
        let Some(first) = first else { return };
        tracked.runs.push(Run { first, count, place });
        *live.entry(place.segment).or_default() += u64::from(place.len);
    }

    /// Entries stand at `place` now. Says whether they all were here.
    pub(crate) fn relocate(&mut self, slot: Slot, moved: RangeInclusive<LogIndex>, place: Place) -> bool {
        let tracked = self.slots[slot as usize].as_mut().expect("a slot in use");
        let live = &mut self.live;
        let moved = (*moved.start()).max(tracked.base.index.next())..=*moved.end();
        if moved.is_empty() || !tracked.runs.relocate(moved, place, |place| kill(live, place)) {
            return false;
        }
        *live.entry(place.segment).or_default() += u64::from(place.len);
        true
    }

    /// Everything of a group but its entries, as a state record says it.
    pub(crate) fn set_state(&mut self, slot: Slot, state: &State) {
        let tracked = self.slots[slot as usize].as_mut().expect("a slot in use");
        let live = &mut self.live;
        // A base that goes back: recovery found nothing that the log could begin with.
        let reset = state.reset || state.base.index < tracked.base.index;
        if reset {
            cut(tracked, live, tracked.base.index.next());
        }
        tracked.hard_state = state.hard_state;
        tracked.configuration = Arc::new(state.configuration.clone());
        tracked.configuration_index = state.configuration_index;
        compact(tracked, live, state.base);
        if reset {
            (tracked.base, tracked.last) = (state.base, state.base);
        }
        // What recovery gave up does not come back.
        cut(tracked, live, state.last.index.next());
        tracked.set_limit(state.limit);
        set_snapshot(tracked, live, state.snapshot);
    }

    /// A piece of a snapshot that is being recorded. One without bytes begins it anew.
    pub(crate) fn chunk(&mut self, slot: Slot, position: LogPosition, offset: u64, bytes: u64, place: Place) {
        let tracked = self.slots[slot as usize].as_mut().expect("a slot in use");
        let live = &mut self.live;
        let rare = tracked.rare.get_or_insert_default();
        // A relocated piece of the one that counts.
        if let Some(snapshot) = rare.snapshot.as_mut().filter(|snapshot| snapshot.position == position)
            && let Some(chunk) = snapshot.chunks.iter_mut().find(|(at, _)| *at == offset)
        {
            kill(live, chunk.1);
            chunk.1 = place;
            *live.entry(place.segment).or_default() += u64::from(place.len);
            return;
        }
        if let Some(other) = rare.incoming.take_if(|incoming| incoming.position != position || bytes == 0) {
            other.chunks.iter().for_each(|(_, place)| kill(live, *place));
        }
        if bytes == 0 {
            return tracked.tidy();
        }
        let incoming = rare.incoming.get_or_insert_with(|| Snapshot { position, ..Snapshot::default() });
        if let Some(chunk) = incoming.chunks.iter_mut().find(|(at, _)| *at == offset) {
            kill(live, chunk.1);
            chunk.1 = place;
        } else if incoming.bytes == offset {
            incoming.chunks.push((offset, place));
            incoming.bytes += bytes;
        } else {
            // A piece before this one is lost; the snapshot never will be whole.
            return;
        }
        *live.entry(place.segment).or_default() += u64::from(place.len);
    }

    /// Gives up a snapshot that was being recorded.
    pub(crate) fn abandon_snapshot(&mut self, slot: Slot) {
        let tracked = self.slots[slot as usize].as_mut().expect("a slot in use");
        if let Some(rare) = &mut tracked.rare
            && let Some(incoming) = rare.incoming.take()
        {
            incoming.chunks.iter().for_each(|(_, place)| kill(&mut self.live, *place));
            tracked.tidy();
        }
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        let tracked = self.slots[slot as usize].take().expect("a slot in use");
        self.by_group.remove(&tracked.group);
        self.free.push(slot);
        self.kill_all(&tracked);
        self.note_removed(tracked.group, tracked.replica);
    }

    pub(crate) fn note_removed(&mut self, group: GroupId, replica: ReplicaId) {
        let highest = self.removed.entry(group).or_insert(replica);
        *highest = replica.max(*highest);
    }

    fn kill_all(&mut self, tracked: &Tracked) {
        for run in tracked.runs.iter() {
            kill(&mut self.live, run.place);
        }
        let rare = tracked.rare.as_deref();
        let snapshots = rare.into_iter().flat_map(|rare| rare.snapshot.iter().chain(&rare.incoming));
        for (_, place) in snapshots.flat_map(|snapshot| &snapshot.chunks) {
            kill(&mut self.live, *place);
        }
    }

    /// What a checkpoint says of a group takes the place of whatever is known of it. Records of the batch that the item
    /// began in, which stands at `begun_in` (segment, offset in bytes), are named by where they stand in that batch.
    pub(crate) fn replace(&mut self, item: GroupItem, begun_in: (u32, u32)) -> Slot {
        let GroupItem { state, terms, runs, configurations, chunks, incoming } = item;
        let mut tracked = Tracked::new(state.group, state.replica, Arc::new(state.configuration.clone()));
        tracked.hard_state = state.hard_state;
        (tracked.base, tracked.last) = (state.base, state.last);
        tracked.configuration_index = state.configuration_index;
        tracked.terms = terms;
        let mut first = state.base.index.next();
        let resolve = |Stretch { segment, offset, len, .. }| match segment {
            FILLING => Place { segment: begun_in.0, offset: begun_in.1.saturating_add(offset), len },
            _ => Place { segment, offset, len },
        };
        for run in runs {
            let place = resolve(run);
            tracked.runs.push(Run { first, count: run.count, place });
            first = LogIndex(first.0 + u64::from(run.count));
            *self.live.entry(place.segment).or_default() += u64::from(place.len);
        }
        let live = &mut self.live;
        let mut pieces = |chunks: Vec<Stretch>| {
            let (mut at, mut places) = (0, Vec::new());
            for place in chunks.into_iter().map(resolve) {
                places.push((at, place));
                at += u64::from(place.len).saturating_sub(CHUNK_OVERHEAD_BYTES as u64);
                *live.entry(place.segment).or_default() += u64::from(place.len);
            }
            (at, places)
        };
        let incoming = incoming.map(|(position, chunks)| {
            let (bytes, chunks) = pieces(chunks);
            Snapshot { position, bytes, chunks }
        });
        let (at, places) = pieces(chunks);
        let snapshot_lost = state.snapshot.is_some_and(|(_, bytes)| bytes != at);
        let snapshot = state.snapshot.filter(|_| !snapshot_lost);
        let snapshot = snapshot.map(|(position, bytes)| Snapshot { position, bytes, chunks: places });
        let rare = Rare { limit: state.limit, configurations, snapshot, incoming, snapshot_lost };
        tracked.rare = Some(Box::new(rare));
        tracked.tidy();
        match self.slot(state.group) {
            Some(slot) => {
                let before = self.slots[slot as usize].replace(tracked).expect("a slot in use");
                self.kill_all(&before);
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
        let tracked = self.slots[slot as usize].as_mut().expect("a slot in use");
        cut(tracked, &mut self.live, last.next());
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
        let tracked = self.slots[slot as usize].as_mut().expect("a slot in use");
        tracked.runs.drop_to(last, |place| kill(&mut self.live, place));
    }

    /// Forgets the whole log of a group: nothing is left that it could begin with.
    pub(crate) fn forget_log(&mut self, slot: Slot) {
        let tracked = self.slots[slot as usize].as_mut().expect("a slot in use");
        cut(tracked, &mut self.live, tracked.base.index.next());
        (tracked.base, tracked.last) = (LogPosition::default(), LogPosition::default());
        tracked.configuration_index = LogIndex(0);
        tracked.configuration = Arc::new(Configuration::joining());
        set_snapshot(tracked, &mut self.live, None);
    }

    /// What was recorded in the batch that filled stands in `segment` now, the batch at `batch_offset`.
    pub(crate) fn settle(&mut self, slot: Slot, first: LogIndex, segment: u32, batch_offset: u32) {
        // The group may be gone, or another may have its slot, or the entries are replaced already.
        let Some(tracked) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        if let Some(len) = tracked.runs.settle(first, segment, batch_offset) {
            *self.live.entry(segment).or_default() += u64::from(len);
        }
    }

    /// The same for pieces of a snapshot.
    pub(crate) fn settle_chunks(&mut self, slot: Slot, segment: u32, batch_offset: u32) {
        let Some(tracked) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let Some(rare) = &mut tracked.rare else { return };
        let snapshots = rare.snapshot.iter_mut().chain(&mut rare.incoming);
        for (_, place) in snapshots.flat_map(|snapshot| &mut snapshot.chunks) {
            if place.segment == FILLING {
                place.segment = segment;
                place.offset += batch_offset;
                *self.live.entry(segment).or_default() += u64::from(place.len);
            }
        }
    }

    /// Forgets what was counted for the batch that filled, now that all of it is settled or dead.
    pub(crate) fn settled(&mut self) {
        self.live.remove(&FILLING);
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

fn kill(live: &mut BTreeMap<u32, u64>, place: Place) {
    if let Some(bytes) = live.get_mut(&place.segment) {
        *bytes = bytes.saturating_sub(u64::from(place.len));
    }
}

/// Forgets the entries from `first` on.
fn cut(tracked: &mut Tracked, live: &mut BTreeMap<u32, u64>, first: LogIndex) {
    if first > tracked.last.index {
        return;
    }
    tracked.runs.cut_from(first, |place| kill(live, place));
    let kept = tracked.terms.partition_point(|position| position.index < first);
    tracked.terms.truncate(kept);
    let last = first.previous();
    let term = tracked.terms.last().map_or(tracked.base.term, |position| position.term);
    tracked.last = if last <= tracked.base.index { tracked.base } else { LogPosition { index: last, term } };
    if let Some(rare) = &mut tracked.rare {
        rare.configurations.retain(|(index, _)| *index < first);
        tracked.tidy();
    }
}

/// Forgets the entries up to `base`, where the log begins from now on.
fn compact(tracked: &mut Tracked, live: &mut BTreeMap<u32, u64>, base: LogPosition) {
    if base.index <= tracked.base.index {
        return;
    }
    tracked.runs.drop_to(base.index, |place| kill(live, place));
    let first = base.index.next();
    let under_way = tracked.terms.partition_point(|position| position.index <= first);
    if under_way > 0 {
        tracked.terms.drain(..under_way - 1);
        tracked.terms[0].index = first;
    }
    if base.index >= tracked.last.index {
        tracked.terms.clear();
        tracked.last = base;
    }
    tracked.base = base;
    if let Some(rare) = &mut tracked.rare {
        rare.configurations.retain(|(index, _)| *index > base.index);
        tracked.tidy();
    }
}

fn note(tracked: &mut Tracked, entry: &EntryIn<'_>) {
    let position = LogPosition { index: entry.index, term: entry.term };
    if tracked.terms.last().is_none_or(|run| run.term != entry.term) {
        tracked.terms.push(position);
    }
    tracked.last = position;
    if entry.kind == EntryKind::Configuration {
        let rare = tracked.rare.get_or_insert_default();
        rare.configurations.push((entry.index, Bytes::copy_from_slice(entry.data)));
    }
}

/// The snapshot that counts from now on: the one that was recorded, the one that counted, or none.
fn set_snapshot(tracked: &mut Tracked, live: &mut BTreeMap<u32, u64>, snapshot: Option<(LogPosition, u64)>) {
    if snapshot.is_none() && tracked.rare.is_none() {
        return;
    }
    let rare = tracked.rare.get_or_insert_default();
    let is = |known: &Option<Snapshot>| known.as_ref().map(|known| (known.position, known.bytes)) == snapshot;
    if !is(&rare.snapshot) {
        let empty = |(position, bytes): (LogPosition, u64)| {
            (bytes == 0).then_some(Snapshot { position, bytes, chunks: Vec::new() })
        };
        let next = if is(&rare.incoming) { rare.incoming.take() } else { snapshot.and_then(empty) };
        if let Some(before) = std::mem::replace(&mut rare.snapshot, next) {
            before.chunks.iter().for_each(|(_, place)| kill(live, *place));
        }
    }
    rare.snapshot_lost = snapshot.is_some() && rare.snapshot.is_none();
    tracked.tidy();
}
