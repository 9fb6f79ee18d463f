//! Reading back while the log runs: what was asked for and nothing else, and what is lost is named.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_raft::{Entry, GroupId, Limit, LogIndex, LogPosition, Term};
use raftyard_storage::io::{Directory, Disk, IoId, IoOp};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{FetchError, FetchedData, Wal, WalConfig};
use rig::{Model, Step, config, entry, settle};

const GROUP: GroupId = GroupId(1);
const FILLER: GroupId = GroupId(9);

struct Log {
    disk: SimDisk,
    wal: Wal,
    model: Model,
}

impl Log {
    /// A log with entries 1 to `count` of one group, `bytes` each, every one in a batch of its own.
    fn new(count: u64, bytes: usize) -> Log {
        let mut disk = SimDisk::new();
        let config = WalConfig { checkpoint_bytes: 60 << 10, spare_segments: 1, reserve_segments: 1, ..config(false) };
        let (wal, _) = Wal::open(&mut disk, config, 1).unwrap();
        let mut log = Log { disk, wal, model: Model::default() };
        log.step(Step::Create(GROUP));
        log.step(Step::Create(FILLER));
        for index in 1..=count {
            log.step(write(GROUP, 1, index, bytes));
        }
        log
    }

    fn record(&mut self, step: Step) {
        while !self.wal.has_room() {
            settle(&mut self.wal, &mut self.disk);
        }
        self.model.record(&mut self.wal, step);
    }

    fn step(&mut self, step: Step) {
        self.record(step);
        settle(&mut self.wal, &mut self.disk);
    }

    fn fetch(&mut self, first: u64, last: u64, bytes_max: usize) -> Result<Vec<Entry>, FetchError> {
        let id = self.wal.fetch(GROUP, LogIndex(first), LogIndex(last), bytes_max);
        settle(&mut self.wal, &mut self.disk);
        let fetched = self.wal.poll_fetched().unwrap();
        assert_eq!((fetched.id, fetched.group), (id, GROUP));
        assert!(self.wal.poll_fetched().is_none());
        match fetched.result? {
            FetchedData::Entries(entries) => Ok(entries),
            FetchedData::Chunk(_) => panic!("entries were asked for"),
        }
    }

    fn held(&self) -> Vec<Entry> {
        self.model.now.groups.iter().find(|held| held.group == GROUP).unwrap().entries.clone()
    }

    /// Fills segments with what is dead at once.
    fn fill(&mut self, rounds: u64) {
        for _ in 0..rounds {
            let last = self.model.now.groups.iter().find(|held| held.group == FILLER).unwrap().last().index.0;
            self.record(write(FILLER, 1, last + 1, 50_000));
            self.step(Step::Compact(FILLER, LogIndex(last + 1)));
        }
    }

    /// Spoils the record with an entry, wherever it stands in a segment.
    fn rot(&mut self, data: &[u8]) -> usize {
        let mut spoilt = 0;
        for path in self.disk.paths(Directory::Wal(rig::WAL)) {
            let content = self.disk.content(path).unwrap();
            let places: Vec<usize> =
                content.windows(data.len()).enumerate().filter(|(_, w)| *w == data).map(|(at, _)| at).collect();
            spoilt += places.len();
            self.disk.damage(path, |bytes| places.iter().for_each(|at| bytes[*at] ^= 1));
        }
        spoilt
    }
}

fn write(group: GroupId, term: u64, index: u64, bytes: usize) -> Step {
    let mut data = vec![u8::try_from(index % 251).unwrap(); bytes];
    data[..16].copy_from_slice(&[group.0.to_le_bytes(), (index * 1_000_003 + term).to_le_bytes()].concat());
    Step::Write { group, hard_state: None, entries: vec![entry(term, index, &data)] }
}

fn unique(term: u64, index: u64) -> Vec<u8> {
    [GROUP.0.to_le_bytes(), (index * 1_000_003 + term).to_le_bytes()].concat()
}

#[test]
fn entries_come_back_from_the_first_asked_for_on() {
    let mut log = Log::new(30, 200);
    let held = log.held();
    assert_eq!(log.fetch(1, 30, usize::MAX / 2).unwrap(), held);
    assert_eq!(log.fetch(7, 11, usize::MAX / 2).unwrap(), held[6..11]);
    assert_eq!(log.fetch(29, 99, usize::MAX / 2).unwrap(), held[28..], "no more than there are");
    // One at least, however little is allowed; and about as much as is allowed.
    assert_eq!(log.fetch(5, 30, 0).unwrap(), held[4..5]);
    let some = log.fetch(5, 30, 2000).unwrap();
    assert!((2..=10).contains(&some.len()) && some == held[4..4 + some.len()], "{}", some.len());
    let cost: usize = some.iter().map(Entry::cost).sum();
    assert!(cost <= 2000, "{cost}");
    for (first, last) in [(31, 40), (0, 0)] {
        assert_eq!(log.fetch(first, last, 1000), Err(FetchError::Gone));
    }
}

#[test]
fn what_lies_close_is_read_at_once() {
    let mut log = Log::new(20, 200);
    log.wal.fetch(GROUP, LogIndex(1), LogIndex(20), 1 << 20);
    let ops: Vec<(IoId, IoOp)> = std::iter::from_fn(|| log.wal.poll_io()).collect();
    let reads = ops.iter().filter(|(_, op)| matches!(op, IoOp::Read { .. })).count();
    assert_eq!(reads, 1, "{ops:?}");
    for (id, op) in ops {
        let result = log.disk.execute(op);
        log.wal.handle_io(id, result);
    }
    let FetchedData::Entries(entries) = log.wal.poll_fetched().unwrap().result.unwrap() else { panic!() };
    assert_eq!(entries, log.held());
}

/// Reads are begun, and before they end the log changes.
#[test]
fn what_was_replaced_compacted_or_removed_meanwhile_is_gone() {
    let changes: [(&str, Vec<Step>, Option<usize>); 4] = [
        ("replaced behind the first", vec![write(GROUP, 2, 5, 100)], Some(2)),
        ("compacted", vec![Step::Compact(GROUP, LogIndex(4))], None),
        ("removed", vec![Step::Remove(GROUP)], None),
        ("another replica", vec![Step::Remove(GROUP), Step::Create(GROUP), write(GROUP, 1, 1, 100)], None),
    ];
    for (what, steps, left) in changes {
        let mut log = Log::new(8, 100);
        let held = log.held();
        log.wal.fetch(GROUP, LogIndex(3), LogIndex(8), 1 << 20);
        let reads: Vec<(IoId, IoOp)> = std::iter::from_fn(|| log.wal.poll_io()).collect();
        steps.into_iter().for_each(|step| log.step(step));
        assert!(log.wal.poll_fetched().is_none());
        for (id, op) in reads {
            let result = log.disk.execute(op);
            log.wal.handle_io(id, result);
        }
        settle(&mut log.wal, &mut log.disk);
        match (log.wal.poll_fetched().unwrap().result, left) {
            (Ok(FetchedData::Entries(entries)), Some(left)) => assert_eq!(entries, held[2..2 + left], "{what}"),
            (Err(FetchError::Gone), None) => {}
            (found, _) => panic!("{what}: {found:?}"),
        }
    }
    // What stands elsewhere by now is read there.
    let mut log = Log::new(8, 100);
    log.wal.fetch(GROUP, LogIndex(3), LogIndex(8), 1 << 20);
    let reads: Vec<(IoId, IoOp)> = std::iter::from_fn(|| log.wal.poll_io()).collect();
    log.step(write(GROUP, 2, 3, 100));
    for (id, op) in reads {
        let result = log.disk.execute(op);
        log.wal.handle_io(id, result);
    }
    settle(&mut log.wal, &mut log.disk);
    let FetchedData::Entries(entries) = log.wal.poll_fetched().unwrap().result.unwrap() else { panic!() };
    assert_eq!(entries, log.held()[2..]);
    let mut log = Log::new(1, 100);
    log.wal.fetch(GroupId(77), LogIndex(1), LogIndex(1), 1);
    assert!(matches!(log.wal.poll_fetched().unwrap().result, Err(FetchError::Gone)));
}

#[test]
fn what_is_not_released_yet_is_waited_for() {
    let mut log = Log::new(3, 100);
    log.record(write(GROUP, 1, 4, 100));
    let held = log.held();
    log.wal.fetch(GROUP, LogIndex(4), LogIndex(4), 1000);
    assert!(log.wal.poll_fetched().is_none() && log.wal.poll_io().is_none(), "it fills");
    log.wal.submit();
    let ops: Vec<(IoId, IoOp)> = std::iter::from_fn(|| log.wal.poll_io()).collect();
    assert!(!ops.iter().any(|(_, op)| matches!(op, IoOp::Read { .. })), "it is written: {ops:?}");
    for (id, op) in ops {
        let result = log.disk.execute(op);
        log.wal.handle_io(id, result);
    }
    settle(&mut log.wal, &mut log.disk);
    let FetchedData::Entries(entries) = log.wal.poll_fetched().unwrap().result.unwrap() else { panic!() };
    assert_eq!(entries, held[3..]);
}

#[test]
fn a_segment_is_not_given_up_while_it_is_read() {
    let mut log = Log::new(3, 100);
    let held = log.held();
    let oldest = rig::segment(1);
    log.fill(6);
    log.wal.fetch(GROUP, LogIndex(1), LogIndex(3), 1 << 20);
    let mut reads = Vec::new();
    while let Some((id, op)) = log.wal.poll_io() {
        if matches!(op, IoOp::Read { .. }) {
            reads.push((id, op));
        } else {
            let result = log.disk.execute(op);
            log.wal.handle_io(id, result);
        }
    }
    assert!(!reads.is_empty());
    log.fill(30);
    assert!(log.disk.paths(Directory::Wal(rig::WAL)).contains(&oldest), "it is being read");
    for (id, op) in reads {
        let result = log.disk.execute(op);
        log.wal.handle_io(id, result);
    }
    let FetchedData::Entries(entries) = log.wal.poll_fetched().unwrap().result.unwrap() else { panic!() };
    assert_eq!(entries, held);
    log.fill(6);
    assert!(!log.disk.paths(Directory::Wal(rig::WAL)).contains(&oldest), "nobody reads it any more");
    assert_eq!(log.fetch(1, 3, 1 << 20).unwrap(), held, "what counts was moved");
}

#[test]
fn a_rotten_record_is_named_and_others_are_read() {
    let mut log = Log::new(10, 100);
    let held = log.held();
    assert_eq!(log.rot(&unique(1, 6)), 1);
    assert_eq!(log.fetch(1, 10, 1 << 20).unwrap(), held[..5], "up to there");
    assert_eq!(log.fetch(6, 10, 1 << 20), Err(FetchError::Lost { first: LogIndex(6) }));
    assert_eq!(log.fetch(7, 10, 1 << 20).unwrap(), held[6..]);
}

/// Rot in an old segment, found when that is emptied: the group is named, before anything of the segment is given up; the
/// others are moved. Once it is limited and that is durable, the next start knows it.
#[test]
fn rot_that_is_found_when_a_segment_is_emptied_is_told() {
    let mut log = Log::new(4, 100);
    log.step(Step::Create(GroupId(2)));
    log.step(write(GroupId(2), 1, 1, 100));
    assert_eq!(log.rot(&unique(1, 3)), 1);
    let mut lost = None;
    for _ in 0..60 {
        log.fill(1);
        lost = lost.or(log.wal.poll_lost());
        if lost.is_some() {
            break;
        }
    }
    assert_eq!(lost, Some((GROUP, LogIndex(3))));
    assert!(log.wal.poll_lost().is_none() && log.wal.failure().is_none());
    let bound = LogPosition { index: LogIndex(4), term: Term(1) };
    log.step(Step::Limit(GROUP, Limit::Bound(bound)));
    log.fill(30);
    let reading = raftyard_storage::wal::read(&mut log.disk, rig::WAL).unwrap();
    let groups = &reading.recovered.groups;
    let limits: Vec<_> = groups.iter().map(|group| (group.group.0, group.limit)).collect();
    assert_eq!(limits, [(1, Limit::Bound(bound)), (2, Limit::None), (9, Limit::None)]);
    assert_eq!(groups[0].last.index, LogIndex(2), "up to what is lost");
    assert_eq!(reading.load(&mut log.disk, rig::WAL).unwrap()[&GroupId(2)].len(), 1);
}

#[test]
fn a_snapshot_comes_back_piece_by_piece() {
    let mut log = Log::new(3, 100);
    log.step(Step::Snapshot(GROUP, LogIndex(2), (0..200).flat_map(|n: u8| [n; 9]).collect()));
    let mut bytes = Vec::new();
    while bytes.len() < 1800 {
        log.wal.fetch_chunk(GROUP, bytes.len() as u64);
        settle(&mut log.wal, &mut log.disk);
        let FetchedData::Chunk(chunk) = log.wal.poll_fetched().unwrap().result.unwrap() else { panic!() };
        bytes.extend_from_slice(&chunk);
    }
    let held = log.model.now.groups.iter().find(|held| held.group == GROUP).unwrap();
    assert_eq!(Some(&bytes), held.snapshot.as_ref().map(|(_, bytes)| bytes));
    log.wal.fetch_chunk(GROUP, 1);
    assert!(matches!(log.wal.poll_fetched().unwrap().result, Err(FetchError::Gone)));
    assert_eq!(log.rot(&[70; 9]), 1);
    log.wal.fetch_chunk(GROUP, 0);
    settle(&mut log.wal, &mut log.disk);
    assert!(matches!(log.wal.poll_fetched().unwrap().result, Err(FetchError::Lost { .. })));
}
