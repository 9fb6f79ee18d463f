//! What the tests of the log share: a small log on a simulated disk, a workload, and what it must come back as.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, reason = "each test binary uses a part of it")]

pub mod image;
pub mod judge;
pub mod memory;

use bytes::Bytes;
use raftyard_raft::{
    Configuration, Entry, EntryKind, GroupId, HardState, Limit, LogIndex, LogPosition, Member, NodeId, ReplicaId, Term,
};
use raftyard_storage::io::{Directory, Disk, FileName, FilePath, SegmentNumber, WalId};
use raftyard_storage::wal::{BatchSeq, Recovered, StateChange, StoreId, Wal, WalConfig, WalError, read};

pub const WAL: WalId = WalId(0);
pub const SEGMENT_BYTES: u64 = 256 << 10;

/// A log with the smallest segments, as the manifest would or would not name it.
pub fn config(initialised: bool) -> WalConfig {
    let config = WalConfig::new(WAL).with_segment_bytes(SEGMENT_BYTES);
    WalConfig { initialised, zero_chunk_bytes: 64 << 10, ..config }
}

pub fn segment(number: u64) -> FilePath {
    FilePath { directory: Directory::Wal(WAL), name: FileName::Segment(SegmentNumber(number)) }
}

pub fn open(disk: &mut dyn Disk, initialised: bool) -> Result<(Wal, Recovered), WalError> {
    Wal::open(disk, config(initialised), 42)
}

/// What a log holds of a group, entries included.
#[derive(Clone, PartialEq, Eq)]
pub struct Held {
    pub group: GroupId,
    pub replica: ReplicaId,
    pub configuration: Configuration,
    pub hard_state: HardState,
    pub limit: Limit,
    pub base: LogPosition,
    pub entries: Vec<Entry>,
    /// Position of the state machine's snapshot, and its bytes.
    pub snapshot: Option<(LogPosition, Vec<u8>)>,
}

impl Held {
    pub fn last(&self) -> LogPosition {
        self.entries.last().map_or(self.base, Entry::position)
    }
}

/// Short: of an entry its index, term, length and first byte.
impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let entries: Vec<_> =
            self.entries.iter().map(|e| (e.index.0, e.term.0, e.data.len(), e.data.first().copied())).collect();
        let snapshot = self.snapshot.as_ref().map(|(position, bytes)| (position, bytes.len()));
        let (state, base) = (self.hard_state, self.base);
        write!(f, "{} {} {state:?} {:?} {base:?} {snapshot:?} {entries:?}", self.group, self.replica, self.limit)
    }
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    pub groups: Vec<Held>,
    pub peers: Vec<(NodeId, StoreId)>,
}

/// Reads everything that the log on a disk holds.
pub fn state(disk: &mut dyn Disk) -> Result<(State, Recovered), WalError> {
    let reading = read(disk, WAL)?;
    let mut loaded = reading.load(disk, WAL)?;
    let mut groups = Vec::new();
    for group in &reading.recovered.groups {
        let snapshot = reading.load_snapshot(disk, WAL, group.group)?;
        groups.push(Held {
            group: group.group,
            replica: group.replica,
            configuration: (*group.configuration).clone(),
            hard_state: group.hard_state,
            limit: group.limit,
            base: group.base,
            entries: loaded.remove(&group.group).unwrap(),
            snapshot: group.snapshot.map(|(position, _)| (position, snapshot)),
        });
    }
    let recovered = reading.recovered;
    Ok((State { groups, peers: recovered.peers.clone() }, recovered))
}

/// Submits and completes at once until nothing is left to do.
pub fn settle(wal: &mut Wal, disk: &mut dyn Disk) {
    loop {
        wal.submit();
        let Some((id, op)) = wal.poll_io() else { return };
        let result = disk.execute(op);
        wal.handle_io(id, result);
    }
}

pub fn configuration() -> Configuration {
    let voter = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
    Configuration::new(vec![voter(1), voter(2), voter(3)]).unwrap()
}

pub fn entry(term: u64, index: u64, data: &[u8]) -> Entry {
    let kind = if data.is_empty() { EntryKind::Empty } else { EntryKind::Command };
    Entry { term: Term(term), index: LogIndex(index), kind, data: Bytes::copy_from_slice(data) }
}

/// A stream of numbers that depends on its seed alone.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let x = (self.0 >> 33) ^ self.0;
        x.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 29
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What one batch recorded, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Create(GroupId),
    Write {
        group: GroupId,
        hard_state: Option<HardState>,
        entries: Vec<Entry>,
    },
    Peer(NodeId, StoreId),
    /// The log begins after this index from now on.
    Compact(GroupId, LogIndex),
    /// The machine's state at this index, of so many bytes, is kept by the log from now on.
    Snapshot(GroupId, LogIndex, Vec<u8>),
    /// The same in two steps: its pieces, and that it is kept.
    Chunks(GroupId, LogIndex, Vec<u8>),
    Keep(GroupId, LogIndex, Vec<u8>),
    Remove(GroupId),
    /// A snapshot takes the place of the whole log, which begins after this position from now on.
    Reset(GroupId, LogPosition),
    /// What the replica may do from now on.
    Limit(GroupId, Limit),
}

/// Records steps in a log and remembers, for each, the batch it went into: the other side of what recovery returns.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub steps: Vec<(BatchSeq, Step)>,
    /// What all steps add up to.
    pub now: State,
    /// Whether logs are compacted, machines' snapshots kept, and groups removed.
    pub churns: bool,
}

impl Model {
    pub fn record(&mut self, wal: &mut Wal, step: Step) {
        let sequence = match &step {
            Step::Create(group) => wal.record_creation(*group, self.next_replica(*group), &configuration()),
            Step::Write { group, hard_state, entries } => {
                let (a, b) = entries.split_at(entries.len() / 2);
                wal.record_group(*group, self.held(*group).replica, *hard_state, (a, b))
            }
            Step::Compact(group, index) => {
                let held = self.held(*group);
                let base = held.entries.iter().find(|entry| entry.index == *index).unwrap().position();
                let change = StateChange { base: Some((base, configuration(), LogIndex(0))), ..StateChange::default() };
                wal.record_state(*group, held.replica, change)
            }
            Step::Snapshot(group, index, bytes)
            | Step::Chunks(group, index, bytes)
            | Step::Keep(group, index, bytes) => {
                let held = self.held(*group);
                let position = held.entries.iter().find(|entry| entry.index == *index).unwrap().position();
                let mut sequence = BatchSeq(0);
                if !matches!(step, Step::Keep(..)) {
                    for (place, piece) in bytes.chunks(700).enumerate() {
                        sequence = wal.record_chunk(*group, held.replica, position, 700 * place as u64, piece);
                    }
                }
                let snapshot = Some((position, bytes.len() as u64));
                if !matches!(step, Step::Chunks(..)) {
                    let change = StateChange { snapshot, ..StateChange::default() };
                    sequence = wal.record_state(*group, held.replica, change);
                }
                sequence
            }
            Step::Remove(group) => wal.record_removal(*group, self.held(*group).replica),
            Step::Reset(group, base) => {
                let base = Some((*base, configuration(), LogIndex(0)));
                let change = StateChange { base, reset: true, ..StateChange::default() };
                wal.record_state(*group, self.held(*group).replica, change)
            }
            Step::Limit(group, limit) => {
                let change = StateChange { limit: Some(*limit), ..StateChange::default() };
                wal.record_state(*group, self.held(*group).replica, change)
            }
            Step::Peer(node, store) => wal.record_peer(*node, *store),
        };
        apply(&mut self.now, &step, |group| self.steps.iter().filter(|(_, s)| *s == Step::Create(group)).count());
        self.now.groups.sort_by_key(|g| g.group);
        self.steps.push((sequence, step));
    }

    fn held(&self, group: GroupId) -> Held {
        self.now.groups.iter().find(|held| held.group == group).cloned().unwrap()
    }

    fn next_replica(&self, group: GroupId) -> ReplicaId {
        let used = self.steps.iter().filter(|(_, step)| *step == Step::Create(group)).count();
        ReplicaId(1 + used as u64)
    }

    /// A random next step that is legal after the ones before.
    pub fn next_step(&self, random: &mut Random, data_bytes: u64) -> Step {
        let group = GroupId(1 + random.below(3));
        let Some(known) = self.now.groups.iter().find(|g| g.group == group) else { return Step::Create(group) };
        let some_index =
            |random: &mut Random| LogIndex(known.base.index.0 + 1 + random.below(known.entries.len() as u64));
        match random.below(if self.churns { 16 } else { 8 }) {
            0 => return Step::Peer(NodeId(1 + random.below(3)), StoreId(u128::from(random.next()))),
            8..=10 if known.entries.len() > 6 => return Step::Compact(group, some_index(random)),
            11 if !known.entries.is_empty() => {
                let bytes = vec![u8::try_from(random.below(256)).unwrap(); random.below(3000) as usize];
                let index = some_index(random);
                if known.snapshot.as_ref().is_none_or(|(position, _)| position.index != index) {
                    return Step::Snapshot(group, index, bytes);
                }
            }
            12 if random.below(6) == 0 => return Step::Remove(group),
            _ => {}
        }
        let term = known.hard_state.term.0.max(known.last().term.0).max(1) + random.below(2);
        let first = 1 + known.last().index.0;
        // Now and then a new leader's entries replace some of the log.
        let replaces = random.below(4) == 0;
        // Whoever replaces entries has a higher term than they: logs that agree on a position agree up to there.
        let term = if replaces { term.max(known.last().term.0 + 1) } else { term };
        let first = if replaces { first.saturating_sub(2).max(known.base.index.0 + 1) } else { first };
        let hard_state = (random.below(2) == 0 || term > known.hard_state.term.0).then(|| HardState {
            term: Term(term),
            vote: (random.below(2) == 0).then_some(ReplicaId(1 + random.below(3))),
        });
        let mut entries = Vec::new();
        for index in first..first + random.below(4) {
            let data = vec![u8::try_from(random.below(256)).unwrap(); random.below(data_bytes) as usize];
            entries.push(entry(term, index, &data));
        }
        Step::Write { group, hard_state, entries }
    }

    /// A snapshot of a newer state takes the place of some group's log.
    pub fn reset(&self, random: &mut Random) -> Option<Step> {
        let held = self.now.groups.get(random.below(4) as usize)?;
        let index = LogIndex(held.last().index.0.saturating_sub(2).max(held.base.index.0) + 1 + random.below(4));
        Some(Step::Reset(held.group, LogPosition { index, term: Term(held.last().term.0 + 1) }))
    }

    /// Some group is limited by more than it ever comes to, or for ever.
    pub fn limit(&self, random: &mut Random) -> Option<Step> {
        let held = self.now.groups.get(random.below(4) as usize)?;
        let bound = LogPosition { index: LogIndex(1), term: Term(1000 + random.below(3)) };
        let limit = if random.below(3) == 0 { Limit::Amnesia } else { Limit::Bound(bound) };
        Some(Step::Limit(held.group, if held.limit == Limit::Amnesia { Limit::Amnesia } else { limit }))
    }

    /// What a log that ends with batch `last` holds.
    pub fn state(&self, last: BatchSeq) -> State {
        self.add_up(last, true)
    }

    /// The same, with all entries that were compacted.
    pub fn uncompacted(&self, last: BatchSeq) -> State {
        self.add_up(last, false)
    }

    fn add_up(&self, last: BatchSeq, compacts: bool) -> State {
        let mut state = State::default();
        let mut created = std::collections::BTreeMap::<GroupId, usize>::new();
        for (_, step) in self.steps.iter().filter(|(sequence, _)| *sequence <= last) {
            if !compacts && matches!(step, Step::Compact(..)) {
                continue;
            }
            apply(&mut state, step, |group| created.get(&group).copied().unwrap_or(0));
            if let Step::Create(group) = step {
                *created.entry(*group).or_default() += 1;
            }
        }
        state.groups.sort_by_key(|g| g.group);
        state.peers.sort();
        state
    }

    /// Forgets what a recovery that ended at `last` cut off.
    pub fn cut(&mut self, last: BatchSeq) {
        self.steps.retain(|(sequence, _)| *sequence <= last);
        self.now = self.state(last);
    }

    /// Asserts that the disk's log is exactly the log up to some batch that is at least `released`. Returns what it read.
    pub fn check(&self, disk: &mut dyn Disk, released: BatchSeq) -> Recovered {
        let (state, recovered) = state(disk).unwrap();
        let last = recovered.stats.last;
        assert!(last >= released, "batch {released} was released, recovery ended at {last}");
        let expected = self.state(last);
        assert_eq!(differing(&state.groups, &expected.groups), None, "log up to {last}");
        assert_eq!(state.peers, expected.peers, "log up to {last}");
        recovered
    }
}

/// The first difference, so that a failure can be read.
pub fn differing(found: &[Held], expected: &[Held]) -> Option<String> {
    if found.len() != expected.len() {
        return Some(format!("{} groups instead of {}", found.len(), expected.len()));
    }
    let (found, expected) = found.iter().zip(expected).find(|(a, b)| a != b)?;
    let place = found.entries.iter().zip(&expected.entries).position(|(a, b)| a != b);
    let place = place.unwrap_or(found.entries.len().min(expected.entries.len()));
    let cut = |held: &Held| Held {
        entries: held.entries[place.saturating_sub(1).min(held.entries.len())..].iter().take(4).cloned().collect(),
        ..held.clone()
    };
    Some(format!(
        "{:?} ({}) instead of {:?} ({})",
        cut(found),
        found.entries.len(),
        cut(expected),
        expected.entries.len()
    ))
}

fn apply(state: &mut State, step: &Step, created: impl Fn(GroupId) -> usize) {
    match step {
        Step::Create(group) => state.groups.push(Held {
            group: *group,
            replica: ReplicaId(1 + created(*group) as u64),
            configuration: configuration(),
            hard_state: HardState::default(),
            limit: Limit::None,
            base: LogPosition::default(),
            entries: Vec::new(),
            snapshot: None,
        }),
        Step::Write { group, hard_state, entries } => {
            let known = held_mut(state, *group);
            known.hard_state = hard_state.unwrap_or(known.hard_state);
            if let Some(first) = entries.first() {
                known.entries.retain(|entry| entry.index < first.index);
                known.entries.extend(entries.iter().cloned());
            }
        }
        Step::Compact(group, index) => {
            let known = held_mut(state, *group);
            known.base = known.entries.iter().find(|entry| entry.index == *index).unwrap().position();
            known.entries.retain(|entry| entry.index > *index);
        }
        Step::Chunks(..) => {}
        Step::Snapshot(group, index, bytes) | Step::Keep(group, index, bytes) => {
            let known = held_mut(state, *group);
            let position = known.entries.iter().find(|entry| entry.index == *index).unwrap().position();
            known.snapshot = Some((position, bytes.clone()));
        }
        Step::Remove(group) => state.groups.retain(|held| held.group != *group),
        Step::Reset(group, base) => {
            let known = held_mut(state, *group);
            known.base = *base;
            known.entries.clear();
        }
        Step::Limit(group, limit) => held_mut(state, *group).limit = *limit,
        Step::Peer(node, store) => {
            state.peers.retain(|(known, _)| known != node);
            state.peers.push((*node, *store));
            state.peers.sort();
        }
    }
}

fn held_mut(state: &mut State, group: GroupId) -> &mut Held {
    state.groups.iter_mut().find(|held| held.group == group).unwrap()
}
