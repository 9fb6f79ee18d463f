//! Snapshots of state machines in a log: what counts of them after a start, whatever the log did with their pieces meanwhile.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_raft::{Entry, GroupId, LogIndex, LogPosition, ReplicaId, Term};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{StateChange, Wal, WalConfig};
use rig::{config, configuration, entry, settle};

const GROUP: GroupId = GroupId(1);
const BUSY: GroupId = GroupId(2);
const REPLICA: ReplicaId = ReplicaId(1);
const AT: LogPosition = LogPosition { index: LogIndex(9), term: Term(1) };

/// A log with a group whose snapshot is recorded, and another that fills it.
struct Log {
    disk: SimDisk,
    wal: Wal,
    written: u64,
}

impl Log {
    fn new() -> Log {
        let mut disk = SimDisk::new();
        let (mut wal, _) = Wal::open(&mut disk, small(false), 5).unwrap();
        for group in [GROUP, BUSY] {
            wal.record_creation(group, REPLICA, &configuration());
            settle(&mut wal, &mut disk);
        }
        let entries: Vec<Entry> = (1..=9).map(|index| entry(1, index, b"x")).collect();
        wal.record_group(GROUP, REPLICA, None, (&entries, &[]));
        settle(&mut wal, &mut disk);
        Log { disk, wal, written: 0 }
    }

    fn piece(&mut self, offset: u64, data: &[u8]) {
        self.wal.record_chunk(GROUP, REPLICA, AT, offset, data);
        settle(&mut self.wal, &mut self.disk);
    }

    /// The other group writes, and gives up what it wrote.
    fn pass(&mut self, bytes: u64) {
        for _ in 0..bytes / 8_000 {
            self.written += 1;
            let more = [entry(1, self.written, &[7; 8_000])];
            self.wal.record_group(BUSY, REPLICA, None, (&more, &[]));
            let base = LogPosition { index: LogIndex(self.written), term: Term(1) };
            let base = Some((base, configuration(), LogIndex(0)));
            self.wal.record_state(BUSY, REPLICA, StateChange { base, ..StateChange::default() });
            settle(&mut self.wal, &mut self.disk);
        }
    }

    fn name(&mut self, bytes: u64) {
        let base = Some((AT, configuration(), LogIndex(0)));
        let change = StateChange { base, snapshot: Some((AT, bytes)), ..StateChange::default() };
        self.wal.record_state(GROUP, REPLICA, change);
        settle(&mut self.wal, &mut self.disk);
    }

    /// What a start finds.
    fn found(mut self) -> Option<Vec<u8>> {
        self.disk.crash(&mut || 0);
        let (wal, recovered) = Wal::open(&mut self.disk, small(true), 6).unwrap();
        let group = recovered.groups.iter().find(|group| group.group == GROUP).unwrap();
        assert_eq!(group.limit, raftyard_raft::Limit::None);
        group.snapshot.map(|_| wal.load_snapshot(&mut self.disk, GROUP).unwrap())
    }
}

fn small(initialised: bool) -> WalConfig {
    WalConfig { checkpoint_bytes: 256 << 10, ..config(initialised) }
}

#[test]
fn pieces_count_when_a_record_names_them_and_not_before() {
    let mut log = Log::new();
    log.piece(0, b"one ");
    log.piece(4, b"two");
    assert_eq!(log.found(), None);
    let mut log = Log::new();
    log.piece(0, b"one ");
    log.piece(4, b"two");
    log.name(7);
    assert_eq!(log.found(), Some(b"one two".to_vec()));
}

#[test]
fn a_snapshot_that_begins_anew_has_nothing_of_the_one_before() {
    let mut log = Log::new();
    log.piece(0, b"one ");
    log.piece(4, b"two and more");
    log.wal.abandon_snapshot(GROUP);
    log.piece(0, b"1 ");
    log.piece(2, b"2");
    log.name(3);
    assert_eq!(log.found(), Some(b"1 2".to_vec()));
}

/// Found by the simulator (seed 10795): a start that began to read at a checkpoint missed the pieces recorded before it.
#[test]
fn a_checkpoint_holds_pieces_that_no_record_names_yet() {
    for passed in (0..=20).map(|n| n * 64_000) {
        let mut log = Log::new();
        log.piece(0, b"one ");
        log.pass(passed);
        log.piece(4, b"two");
        log.pass(640_000);
        log.name(7);
        assert_eq!(log.found(), Some(b"one two".to_vec()), "{passed} bytes between the pieces");
    }
}

/// The segments that hold the first pieces are emptied and used again before the snapshot is whole.
#[test]
fn pieces_that_were_moved_are_still_those_of_one_snapshot() {
    let mut log = Log::new();
    log.piece(0, b"one ");
    log.piece(4, b"two ");
    let first = log.wal.segment();
    log.pass(8 << 20);
    assert!(log.wal.usage().segments < 4 << 20, "old segments are given up: {:?}", log.wal.usage());
    assert_ne!(log.wal.segment(), first);
    log.piece(8, b"three");
    log.name(13);
    assert_eq!(log.found(), Some(b"one two three".to_vec()));
}
