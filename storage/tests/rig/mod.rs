//! What the tests of the log share: a small log on a simulated disk, a workload, and what it must come back as.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, reason = "each test binary uses a part of it")]

use bytes::Bytes;
use raftyard_raft::{Configuration, Entry, EntryKind, GroupId, HardState, LogIndex, Member, NodeId, ReplicaId, Term};
use raftyard_storage::io::{Directory, Disk, FileName, FilePath, SegmentNumber, WalId};
use raftyard_storage::wal::{BatchSeq, Recovered, StoreId, Wal, WalConfig, WalError};

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
    Write { group: GroupId, hard_state: Option<HardState>, entries: Vec<Entry> },
    Peer(NodeId, StoreId),
}

/// Records steps in a log and remembers, for each, the batch it went into: the other side of what recovery returns.
#[derive(Clone, Debug, Default)]
pub struct Model {
    steps: Vec<(BatchSeq, Step)>,
}

impl Model {
    pub fn record(&mut self, wal: &mut Wal, step: Step) {
        let sequence = match &step {
            Step::Create(group) => wal.record_creation(*group, ReplicaId(1), &configuration()),
            Step::Write { group, hard_state, entries } => {
                let (a, b) = entries.split_at(entries.len() / 2);
                wal.record_group(*group, ReplicaId(1), *hard_state, (a, b))
            }
            Step::Peer(node, store) => wal.record_peer(*node, *store),
        };
        self.steps.push((sequence, step));
    }

    /// A random next step that is legal after the ones before.
    pub fn next_step(&self, random: &mut Random, data_bytes: u64) -> Step {
        let state = self.state(BatchSeq(u64::MAX));
        let group = GroupId(1 + random.below(3));
        let Some(known) = state.groups.iter().find(|g| g.group == group) else { return Step::Create(group) };
        if random.below(8) == 0 {
            return Step::Peer(NodeId(1 + random.below(3)), StoreId(u128::from(random.next())));
        }
        let term = known.hard_state.term.0.max(1) + random.below(2);
        let first = 1 + known.entries.len() as u64;
        // Now and then a new leader's entries replace some of the log.
        let first = if random.below(4) == 0 { first.saturating_sub(2).max(1) } else { first };
        let mut entries = Vec::new();
        for index in first..first + random.below(4) {
            let data = vec![u8::try_from(random.below(256)).unwrap(); random.below(data_bytes) as usize];
            entries.push(entry(term, index, &data));
        }
        let vote = (random.below(2) == 0).then_some(ReplicaId(1 + random.below(3)));
        let hard_state = (random.below(2) == 0).then_some(HardState { term: Term(term), vote });
        Step::Write { group, hard_state, entries }
    }

    /// What a log that ends with batch `last` holds.
    pub fn state(&self, last: BatchSeq) -> Recovered {
        let mut state = Recovered::default();
        for (_, step) in self.steps.iter().filter(|(sequence, _)| *sequence <= last) {
            apply(&mut state, step);
        }
        state.groups.sort_by_key(|g| g.group);
        state.peers.sort();
        state
    }

    /// Forgets what a recovery that ended at `last` cut off.
    pub fn cut(&mut self, last: BatchSeq) {
        self.steps.retain(|(sequence, _)| *sequence <= last);
    }

    /// Asserts that `recovered` is exactly the log up to some batch that is at least `released`.
    pub fn check(&self, recovered: &Recovered, released: BatchSeq) {
        let last = recovered.stats.last;
        assert!(last >= released, "batch {released} was released, recovery ended at {last}");
        let expected = self.state(last);
        assert_eq!(recovered.groups, expected.groups, "log up to {last}");
        assert_eq!(recovered.peers, expected.peers, "log up to {last}");
    }
}

fn apply(state: &mut Recovered, step: &Step) {
    match step {
        Step::Create(group) => state.groups.push(raftyard_storage::wal::RecoveredGroup {
            group: *group,
            replica: ReplicaId(1),
            configuration: configuration(),
            hard_state: HardState::default(),
            entries: Vec::new(),
        }),
        Step::Write { group, hard_state, entries } => {
            let known = state.groups.iter_mut().find(|g| g.group == *group).unwrap();
            known.hard_state = hard_state.unwrap_or(known.hard_state);
            if let Some(first) = entries.first() {
                known.entries.truncate(first.index.0 as usize - 1);
                known.entries.extend(entries.iter().cloned());
            }
        }
        Step::Peer(node, store) => {
            state.peers.retain(|(known, _)| known != node);
            state.peers.push((*node, *store));
        }
    }
}
