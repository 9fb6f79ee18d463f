//! What a log holds of one group, and where: the steps that records take, group by group. The index has one of these for each.
//!
//! Whatever begins or ceases to count is told to [`Live`] in the same step.

use super::live::Live;
use super::runs::{FILLING, Place, Run, Runs};
use crate::format::checkpoint::{GroupItem, Stretch};
use crate::format::echo::{Echo, EchoState};
use crate::format::record::{CHUNK_OVERHEAD_BYTES, EntryIn, GroupHead, State};
use bytes::Bytes;
use raftyard_raft::{Configuration, EntryKind, GroupId, HardState, Limit, LogIndex, LogPosition, ReplicaId, Term};
use std::sync::Arc;

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

    /// What a checkpoint says of a group. Records of the batch that the item began in, which stands at `begun_in` (segment,
    /// offset in bytes), are named by where they stand in that batch.
    pub(super) fn of_item(item: GroupItem, begun_in: (u32, u32), live: &mut Live) -> Tracked {
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
            live.add(place);
        }
        let mut pieces = |chunks: Vec<Stretch>| {
            let (mut at, mut places) = (0, Vec::new());
            for place in chunks.into_iter().map(resolve) {
                places.push((at, place));
                at += u64::from(place.len).saturating_sub(CHUNK_OVERHEAD_BYTES as u64);
                live.add(place);
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
        tracked
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
    pub(super) fn claim(&self) -> LogPosition {
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

    /// Forgets the entries from `first` on.
    pub(super) fn cut(&mut self, live: &mut Live, first: LogIndex) {
        if first > self.last.index {
            return;
        }
        self.runs.cut_from(first, |place| live.kill(place));
        let kept = self.terms.partition_point(|position| position.index < first);
        self.terms.truncate(kept);
        let last = first.previous();
        let term = self.terms.last().map_or(self.base.term, |position| position.term);
        self.last = if last <= self.base.index { self.base } else { LogPosition { index: last, term } };
        if let Some(rare) = &mut self.rare {
            rare.configurations.retain(|(index, _)| *index < first);
            self.tidy();
        }
    }

    /// Forgets the entries up to `base`, where the log begins from now on.
    pub(super) fn compact(&mut self, live: &mut Live, base: LogPosition) {
        if base.index <= self.base.index {
            return;
        }
        self.runs.drop_to(base.index, |place| live.kill(place));
        let first = base.index.next();
        let under_way = self.terms.partition_point(|position| position.index <= first);
        if under_way > 0 {
            self.terms.drain(..under_way - 1);
            self.terms[0].index = first;
        }
        if base.index >= self.last.index {
            self.terms.clear();
            self.last = base;
        }
        self.base = base;
        if let Some(rare) = &mut self.rare {
            rare.configurations.retain(|(index, _)| *index > base.index);
            self.tidy();
        }
    }

    /// The log ends with this entry now.
    pub(super) fn note(&mut self, entry: &EntryIn<'_>) {
        let position = LogPosition { index: entry.index, term: entry.term };
        if self.terms.last().is_none_or(|run| run.term != entry.term) {
            self.terms.push(position);
        }
        self.last = position;
        if entry.kind == EntryKind::Configuration {
            let rare = self.rare.get_or_insert_default();
            rare.configurations.push((entry.index, Bytes::copy_from_slice(entry.data)));
        }
    }

    /// The snapshot that counts from now on: the one that was recorded, the one that counted, or none.
    pub(super) fn set_snapshot(&mut self, live: &mut Live, snapshot: Option<(LogPosition, u64)>) {
        if snapshot.is_none() && self.rare.is_none() {
            return;
        }
        let rare = self.rare.get_or_insert_default();
        let is = |known: &Option<Snapshot>| known.as_ref().map(|known| (known.position, known.bytes)) == snapshot;
        if !is(&rare.snapshot) {
            let empty = |(position, bytes): (LogPosition, u64)| {
                (bytes == 0).then_some(Snapshot { position, bytes, chunks: Vec::new() })
            };
            let next = if is(&rare.incoming) { rare.incoming.take() } else { snapshot.and_then(empty) };
            if let Some(before) = std::mem::replace(&mut rare.snapshot, next) {
                before.chunks.iter().for_each(|(_, place)| live.kill(*place));
            }
        }
        rare.snapshot_lost = snapshot.is_some() && rare.snapshot.is_none();
        self.tidy();
    }

    /// A piece of a snapshot that is being recorded. One without bytes begins it anew.
    pub(super) fn chunk(&mut self, live: &mut Live, position: LogPosition, offset: u64, bytes: u64, place: Place) {
        let rare = self.rare.get_or_insert_default();
        // A relocated piece of the one that counts.
        if let Some(snapshot) = rare.snapshot.as_mut().filter(|snapshot| snapshot.position == position)
            && let Some(chunk) = snapshot.chunks.iter_mut().find(|(at, _)| *at == offset)
        {
            live.kill(chunk.1);
            chunk.1 = place;
            live.add(place);
            return;
        }
        if let Some(other) = rare.incoming.take_if(|incoming| incoming.position != position || bytes == 0) {
            other.chunks.iter().for_each(|(_, place)| live.kill(*place));
        }
        if bytes == 0 {
            return self.tidy();
        }
        let incoming = rare.incoming.get_or_insert_with(|| Snapshot { position, ..Snapshot::default() });
        if let Some(chunk) = incoming.chunks.iter_mut().find(|(at, _)| *at == offset) {
            live.kill(chunk.1);
            chunk.1 = place;
        } else if incoming.bytes == offset {
            incoming.chunks.push((offset, place));
            incoming.bytes += bytes;
        } else {
            // A piece before this one is lost; the snapshot never will be whole.
            return;
        }
        live.add(place);
    }

    /// Gives up a snapshot that was being recorded.
    pub(super) fn abandon_snapshot(&mut self, live: &mut Live) {
        if let Some(rare) = &mut self.rare
            && let Some(incoming) = rare.incoming.take()
        {
            incoming.chunks.iter().for_each(|(_, place)| live.kill(*place));
            self.tidy();
        }
    }

    /// Nothing of it counts any more.
    pub(super) fn kill_all(&self, live: &mut Live) {
        for run in self.runs.iter() {
            live.kill(run.place);
        }
        let snapshots = self.snapshot().into_iter().chain(self.incoming());
        for (_, place) in snapshots.flat_map(|snapshot| &snapshot.chunks) {
            live.kill(*place);
        }
    }

    /// The pieces of snapshots in the batch that filled stand in `segment` now, that batch at `batch_offset`.
    pub(super) fn settle_chunks(&mut self, live: &mut Live, segment: u32, batch_offset: u32) {
        let Some(rare) = &mut self.rare else { return };
        let snapshots = rare.snapshot.iter_mut().chain(&mut rare.incoming);
        for (_, place) in snapshots.flat_map(|snapshot| &mut snapshot.chunks) {
            if place.segment == FILLING {
                place.segment = segment;
                place.offset += batch_offset;
                live.add(*place);
            }
        }
    }
}

fn stretch(place: Place) -> Stretch {
    Stretch { count: 0, segment: place.segment, offset: place.offset, len: place.len }
}
