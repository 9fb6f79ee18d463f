//! What can be recorded. Each call adds one record to the batch that fills and brings the index up to date; the index runs
//! ahead of the disk, and what is durable of it [`Wal::released`] says.

use super::Wal;
use super::index::Slot;
use super::recovery::RecoveredGroup;
use super::runs::{FILLING, Place};
use crate::aligned::AlignedBuf;
use crate::format::record::{
    CHUNK_OVERHEAD_BYTES, Chunk, EntryIn, GroupHead, RECORD_OVERHEAD_BYTES_MAX, State, encode_chunk, encode_creation,
    encode_group, encode_peer, encode_promise, encode_removal, encode_state, group_bytes,
};
use crate::format::{BatchSeq, StoreId};
use raftyard_raft::{Configuration, Entries, GroupId, HardState, Limit, LogIndex, LogPosition, NodeId, ReplicaId};
use std::sync::Arc;
use std::time::Duration;

/// What changes of a group beside its entries; the rest stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateChange {
    /// The log begins after this position from now on, with these members, made so by the entry at that index.
    pub base: Option<(LogPosition, Configuration, LogIndex)>,
    /// The entries above the base don't count either: a snapshot took the place of the log.
    pub reset: bool,
    /// Term and vote.
    pub hard_state: Option<HardState>,
    /// What the replica may do.
    pub limit: Option<Limit>,
    /// The snapshot of the state machine that counts from now on, its position and its bytes, recorded before by
    /// [`Wal::record_chunk`]; the one before is given up.
    pub snapshot: Option<(LogPosition, u64)>,
}

impl Wal {
    /// Records that a replica exists, with an empty log. Returns the sequence of the batch it is in. This and the other
    /// `record_*` need [`Wal::has_room`], or a failed log, which ignores them.
    ///
    /// # Panics
    /// If the group exists, or had that replica or a later one before ([`Wal::may_create`]).
    pub fn record_creation(&mut self, group: GroupId, replica: ReplicaId, configuration: &Configuration) -> BatchSeq {
        assert!(self.may_create(group, replica), "a replica id is never used twice");
        self.record(RECORD_OVERHEAD_BYTES_MAX, |out| encode_creation(out, group, replica, configuration));
        let slot = self.index.create(group, replica, Arc::new(configuration.clone()));
        self.touch(slot.expect("asked before"));
        self.filling
    }

    /// Whether a replica of that id can be created: the group is not here, and neither it nor a later one ever was.
    #[must_use]
    pub fn may_create(&self, group: GroupId, replica: ReplicaId) -> bool {
        let used = self.index.removed.get(&group).is_some_and(|gone| replica <= *gone);
        !used && self.index.slot(group).is_none()
    }

    /// Records a group's part of this batch: its hard state if it changed, and entries that replace its log from the
    /// first one's index on. Returns the sequence of the batch it is in.
    ///
    /// # Panics
    /// If the replica was not recorded, or the entries do not follow its log or each other, or exceed what
    /// [`Wal::room_bytes`] allows.
    pub fn record_group(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        hard_state: Option<HardState>,
        entries: Entries<'_>,
    ) -> BatchSeq {
        let slot = self.slot(group, replica);
        let known = self.index.at(slot);
        let newest = entries.1.last().or(entries.0.last());
        let first = entries.0.first().or(entries.1.first()).map(|entry| entry.index);
        let follows = first.is_none_or(|first| first > known.base.index && first <= known.last.index.next());
        assert!(follows, "entries follow the log");
        let head = GroupHead {
            hard_state: hard_state.unwrap_or(known.hard_state),
            last: newest.map_or(known.last, |entry| entry.position()),
            ..known.head()
        };
        let place = self.record(group_bytes(entries), |out| encode_group(out, head, entries));
        self.index.at_mut(slot).hard_state = head.hard_state;
        if let (Some(first), Some(place)) = (first, place) {
            let all = entries.0.iter().chain(entries.1);
            let all = all.map(|e| EntryIn { term: e.term, index: e.index, kind: e.kind, data: &e.data });
            self.index.append(slot, place, all);
            self.unsettled.push((slot, first));
        }
        self.touch(slot);
        self.filling
    }

    /// Records what changes of a group beside its entries. Entries at or below the base don't count from then on.
    ///
    /// # Panics
    /// If the replica was not recorded.
    pub fn record_state(&mut self, group: GroupId, replica: ReplicaId, change: StateChange) -> BatchSeq {
        let slot = self.slot(group, replica);
        let mut state = self.index.at(slot).state(change.reset);
        change.apply(&mut state);
        self.record(RECORD_OVERHEAD_BYTES_MAX, |out| encode_state(out, &state));
        self.index.set_state(slot, &state);
        self.touch(slot);
        self.filling
    }

    /// Records that the entries of a replica from `first` on can't be read any more: it is limited to what it once held, and
    /// its log ends before them. Returns the batch, and what the replica is to be opened with again when that is released.
    ///
    /// # Panics
    /// If the replica was not recorded.
    pub fn record_loss(&mut self, group: GroupId, replica: ReplicaId, first: LogIndex) -> (BatchSeq, RecoveredGroup) {
        let slot = self.slot(group, replica);
        self.index.lose(slot, first);
        let seq = self.record_state(group, replica, StateChange::default());
        (seq, RecoveredGroup::of(self.index.at(slot)))
    }

    /// Records that a replica is gone. Its id can't be used again, and its bytes are given back.
    ///
    /// # Panics
    /// If the replica was not recorded.
    pub fn record_removal(&mut self, group: GroupId, replica: ReplicaId) -> BatchSeq {
        let slot = self.slot(group, replica);
        self.record(RECORD_OVERHEAD_BYTES_MAX, |out| encode_removal(out, group, replica));
        self.touch(slot);
        // Whoever gets the slot next is another.
        self.touched_in[slot as usize] = BatchSeq(0);
        self.index.remove(slot);
        self.filling
    }

    /// Records the next piece of a state machine's snapshot, which holds the effect of all entries up to `snapshot`.
    /// Nothing of it counts before [`Wal::record_state`] names it; a piece at offset 0 begins a new one.
    ///
    /// # Panics
    /// If the replica was not recorded, the piece is larger than an entry may be, or the snapshot of that position is the
    /// one that counts.
    pub fn record_chunk(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        snapshot: LogPosition,
        offset: u64,
        data: &[u8],
    ) -> BatchSeq {
        let slot = self.slot(group, replica);
        let known = self.index.at(slot).snapshot();
        assert!(known.is_none_or(|known| known.position != snapshot), "that snapshot is here already");
        if offset == 0 {
            // A piece at offset 0 that is moved looks like one that begins anew; so that is said by a piece without bytes.
            let begin = Chunk { group, replica, snapshot, offset, data: &[] };
            if let Some(place) = self.record(CHUNK_OVERHEAD_BYTES, |out| encode_chunk(out, &begin)) {
                self.index.chunk(slot, snapshot, offset, 0, place);
            }
        }
        let chunk = Chunk { group, replica, snapshot, offset, data };
        let place = self.record(CHUNK_OVERHEAD_BYTES + data.len(), |out| encode_chunk(out, &chunk));
        if let Some(place) = place {
            self.index.chunk(slot, snapshot, offset, data.len() as u64, place);
            self.unsettled_chunks.push(slot);
        }
        self.touch(slot);
        self.filling
    }

    /// Gives up the snapshot that was being recorded for a group.
    pub fn abandon_snapshot(&mut self, group: GroupId) {
        if let Some(slot) = self.index.slot(group) {
            self.index.abandon_snapshot(slot);
        }
    }

    /// Records the store of a peer. Returns the sequence of the batch it is in.
    pub fn record_peer(&mut self, node: NodeId, store: StoreId) -> BatchSeq {
        self.record(RECORD_OVERHEAD_BYTES_MAX, |out| encode_peer(out, node, store));
        self.index.peers.insert(node, store);
        self.filling
    }

    pub(super) fn record_promise(&mut self, wait: Duration) -> BatchSeq {
        self.record(RECORD_OVERHEAD_BYTES_MAX, |out| encode_promise(out, wait));
        self.index.promise = wait;
        self.filling
    }

    /// Adds a record; where it stands, or `None` if the log failed.
    pub(super) fn record(&mut self, bytes_max: usize, encode: impl FnOnce(&mut AlignedBuf)) -> Option<Place> {
        let hard_max = self.config.batch_bytes_hard_max().expect("the config was checked");
        assert!(self.fill.records_len() + bytes_max <= hard_max, "a record was brought that there was no room for");
        // Nothing recorded after a failure is ever written, so it need not take memory.
        if self.failure.is_some() {
            return None;
        }
        let (at, len) = self.fill.record(encode);
        let short = |bytes: usize| u32::try_from(bytes).expect("a batch is smaller than 4 GiB");
        Some(Place { segment: FILLING, offset: short(at), len: short(len) })
    }

    fn slot(&self, group: GroupId, replica: ReplicaId) -> Slot {
        self.index.replica(group, replica).expect("a replica is recorded before anything of it is")
    }

    /// The next batch's echo will tell of this group.
    pub(super) fn touch(&mut self, slot: Slot) {
        let place = slot as usize;
        if place >= self.touched_in.len() {
            self.touched_in.resize(place + 1, BatchSeq(0));
        }
        if self.touched_in[place] != self.filling {
            self.touched_in[place] = self.filling;
            let tracked = self.index.at(slot);
            self.touched.push((tracked.group, tracked.replica));
        }
    }
}

impl StateChange {
    fn apply(self, state: &mut State) {
        if let Some((base, configuration, configuration_index)) = self.base {
            assert!(self.reset || base.index <= state.last.index, "only a reset goes beyond the log");
            (state.base, state.configuration, state.configuration_index) = (base, configuration, configuration_index);
            if self.reset || base.index == state.last.index {
                state.last = base;
            }
        }
        state.hard_state = self.hard_state.unwrap_or(state.hard_state);
        state.limit = self.limit.unwrap_or(state.limit);
        state.snapshot = self.snapshot.or(state.snapshot);
    }
}
