//! Looking at logs: what is whole is called whole, also while somebody writes it, and each damage is named with whose it is.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_raft::Limit;
use raftyard_raft::{GroupId, HardState, LogIndex, LogPosition, ReplicaId, Term};
use raftyard_storage::aligned::AlignedBuf;
use raftyard_storage::format::batch::claimed_bytes;
use raftyard_storage::format::record::{Record, RecordFault};
use raftyard_storage::format::segment::{BATCHES_OFFSET, decode_header};
use raftyard_storage::io::{BLOCK_BYTES, Directory, Disk, FilePath, IoOp, IoOutput, IoResult, WriteMode};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::tools::{
    DumpFilter, Dumped, Fault, Finding, SegmentState, Verification, dump, inspect, verify,
};
use raftyard_storage::wal::{BatchSeq, StateChange, Wal, WalConfig, WalError, read};
use rig::{Model, Random, WAL, entry, segment, settle};
use std::ops::ControlFlow;

const REPLICA: ReplicaId = ReplicaId(1);

fn verified(disk: &mut dyn Disk) -> Verification {
    verify(disk, WAL, &mut |step| assert!(step.done <= step.total, "{step:?}")).unwrap()
}

/// The only thing that is damaged.
fn only(disk: &mut dyn Disk) -> Finding {
    let Verification { findings, .. } = verified(disk);
    let [finding] = <[Finding; 1]>::try_from(findings).unwrap_or_else(|findings| panic!("one: {findings:#?}"));
    finding
}

/// The batches of a segment: sequence and offset, in order.
fn batches(disk: &SimDisk, path: FilePath) -> Vec<(BatchSeq, u64)> {
    let bytes = disk.content(path).unwrap();
    let seed = decode_header(&bytes[..2 * BLOCK_BYTES]).unwrap().checksum_seed();
    let mut found = Vec::new();
    let mut offset = BATCHES_OFFSET;
    while let Some(claimed) = bytes.get(offset as usize..).and_then(|bytes| claimed_bytes(bytes, seed, offset)) {
        let sequence = u64::from_le_bytes(*bytes[offset as usize + 8..].first_chunk().unwrap());
        found.push((BatchSeq(sequence), offset));
        offset += claimed;
    }
    found
}

fn flip(disk: &mut SimDisk, path: FilePath, at: u64) {
    disk.damage(path, |bytes| bytes[at as usize] ^= 1);
}

/// A log of groups 1 to 3: each batch after the first one brings an entry of one of them.
fn log(batches: u64) -> SimDisk {
    let mut disk = SimDisk::new();
    let (mut wal, _) = rig::open(&mut disk, false).unwrap();
    for group in 1..=3 {
        wal.record_creation(GroupId(group), REPLICA, &rig::configuration());
    }
    settle(&mut wal, &mut disk);
    for number in 0..batches {
        let index = number / 3 + 1;
        wal.record_group(GroupId(number % 3 + 1), REPLICA, None, (&[entry(1, index, &[7; 900])], &[]));
        settle(&mut wal, &mut disk);
    }
    disk
}

#[test]
fn every_damaged_batch_is_named_with_its_groups() {
    let whole = verified(&mut log(12));
    assert_eq!((whole.groups, whole.entries, whole.last), (3, 12, BatchSeq(14)));
    assert_eq!((whole.batches, whole.durable_upto, whole.findings), (14, BatchSeq(13), vec![]));
    // The last one can't be told from a torn one.
    for place in 2..13 {
        let mut disk = log(12);
        let (sequence, offset) = batches(&disk, segment(1))[place];
        flip(&mut disk, segment(1), offset + 200);
        let group = GroupId((place as u64 - 2) % 3 + 1);
        let finding = only(&mut disk);
        assert_eq!((finding.file, finding.offset), (segment(1), offset));
        assert_eq!(finding.fault, Fault::Batches { first: sequence, last: sequence, explained: true });
        assert_eq!((finding.touched, finding.lost, finding.limited), (Some(vec![group]), vec![group], vec![group]));
        let inspected = inspect(&mut disk, WAL).unwrap();
        let limited: Vec<_> =
            inspected.groups.iter().filter(|g| g.group.limit != Limit::None).map(|g| g.group.group).collect();
        assert_eq!(limited, [group], "and that is what a start finds");
    }
    let mut disk = log(12);
    let (_, offset) = *batches(&disk, segment(1)).last().unwrap();
    flip(&mut disk, segment(1), offset + 200);
    let torn = verified(&mut disk);
    assert_eq!((torn.findings, torn.tear, torn.last), (vec![], Some((segment(1), offset)), BatchSeq(13)));
}

#[test]
fn of_several_lost_batches_nobody_knows_whose_they_were() {
    let mut disk = log(12);
    let places = batches(&disk, segment(1));
    for (_, offset) in &places[11..13] {
        flip(&mut disk, segment(1), offset + 200);
    }
    let finding = only(&mut disk);
    assert_eq!(finding.fault, Fault::Batches { first: places[11].0, last: places[12].0, explained: false });
    // They were of groups 1 and 2. The last batch is of group 3, and its echo says how group 2 stood.
    assert_eq!(
        (finding.touched, finding.lost, finding.limited),
        (None, vec![GroupId(2)], vec![GroupId(1), GroupId(2)])
    );
    assert_eq!(read(&mut disk, WAL).unwrap().recovered.groups[0].limit, Limit::Amnesia);
}

/// Below the last checkpoint a start reads nothing: only here, or when the entries are wanted, is it noticed.
#[test]
fn damage_below_the_last_checkpoint_is_found() {
    let mut disk = log(30);
    let (mut wal, _) = rig::open(&mut disk, true).unwrap();
    wal.close();
    settle(&mut wal, &mut disk);
    assert!(read(&mut disk, WAL).unwrap().recovered.stats.checkpoint.is_some());
    let whole = verified(&mut disk);
    assert_eq!((whole.entries, whole.findings), (30, vec![]));
    let (sequence, offset) = batches(&disk, segment(1))[7];
    // In the data of the entry: then the record is gone. In the padding: then only the batch is.
    for (at, lost) in [(300, vec![GroupId(3)]), (4000, vec![])] {
        flip(&mut disk, segment(1), offset + at);
        let finding = only(&mut disk);
        assert_eq!(finding.fault, Fault::Batches { first: sequence, last: sequence, explained: true });
        assert_eq!((finding.touched, finding.lost), (Some(vec![GroupId(3)]), lost));
        assert!(finding.limited.is_empty() && read(&mut disk, WAL).unwrap().recovered.damage.is_empty());
        flip(&mut disk, segment(1), offset + at);
    }
}

/// Puts the checksum of the one-block batch at `at` right again.
fn seal(disk: &mut SimDisk, path: FilePath, at: usize) {
    disk.damage(path, |bytes| {
        let start = crc32c::crc32c(&[&bytes[32..48], &(at as u64).to_le_bytes()[..]].concat());
        let batch = &mut bytes[at..at + BLOCK_BYTES];
        batch[28..32].fill(0);
        let checksum = crc32c::crc32c_append(start, batch);
        batch[28..32].copy_from_slice(&checksum.to_le_bytes());
    });
}

/// A batch that was written whole with a record that was wrong already: as if memory had failed before the write.
#[test]
fn a_record_of_a_whole_batch_that_does_not_hold_is_found() {
    let mut disk = log(12);
    let (sequence, offset) = *batches(&disk, segment(1)).last().unwrap();
    // Behind the header, an echo and the record's header: in the entry's data.
    flip(&mut disk, segment(1), offset + 64 + 48 + 200);
    seal(&mut disk, segment(1), offset as usize);
    let finding = only(&mut disk);
    assert_eq!(finding.fault, Fault::Record { sequence, fault: RecordFault::Checksum });
    assert_eq!((finding.offset, finding.lost), (offset + 64 + 48, vec![GroupId(3)]));
}

/// A log whose front was given up: what its first batches were no sequence tells, but that something stood there does.
#[test]
fn the_first_batches_of_a_log_without_its_front_are_missed() {
    let mut disk = SimDisk::new();
    disk.execute(IoOp::MakeDirectory(Directory::Wal(WAL))).unwrap();
    let golden = include_bytes!("golden/v2-segment.bin");
    let mut buffer = AlignedBuf::zeroed(rig::SEGMENT_BYTES as usize);
    buffer[..golden.len()].copy_from_slice(golden);
    let Ok(IoOutput::File { file, .. }) = disk.execute(IoOp::Create(segment(2))) else { panic!("a file") };
    disk.execute(IoOp::Write { file, offset: 0, buffer, mode: WriteMode::Dsync }).unwrap();
    assert_eq!(verified(&mut disk).findings, []);
    flip(&mut disk, segment(2), BATCHES_OFFSET + 100);
    let finding = only(&mut disk);
    let last = BatchSeq(10);
    assert_eq!(
        (finding.offset, finding.fault),
        (BATCHES_OFFSET, Fault::Batches { first: last, last, explained: false })
    );
    assert_eq!((finding.touched, finding.limited), (None, vec![]), "a start begins behind it");
}

/// Two batches of the same group, on either side of the checkpoint: a start limits it for the later one alone.
#[test]
fn a_limit_is_told_of_the_damage_that_a_start_sees() {
    let mut disk = log(30);
    let (mut wal, _) = rig::open(&mut disk, true).unwrap();
    wal.close();
    settle(&mut wal, &mut disk);
    let (mut wal, recovered) = rig::open(&mut disk, true).unwrap();
    let last = recovered.stats.last;
    for index in 11..=13 {
        wal.record_group(GroupId(3), REPLICA, None, (&[entry(1, index, &[7; 900])], &[]));
        settle(&mut wal, &mut disk);
    }
    let file = wal.segment();
    drop(wal);
    let (_, early) = batches(&disk, segment(1))[7];
    // Behind the opening one.
    let second = BatchSeq(last.0 + 2);
    let late = batches(&disk, file).iter().find(|(sequence, _)| *sequence == second).unwrap().1;
    flip(&mut disk, segment(1), early + 300);
    flip(&mut disk, file, late + 300);
    let found = verified(&mut disk).findings;
    let found: Vec<_> = found.iter().map(|f| (f.file, f.offset, &f.lost[..], &f.limited[..])).collect();
    let group = &[GroupId(3)][..];
    assert_eq!(found, [(segment(1), early, group, &[][..]), (file, late, group, group)]);
}

#[test]
fn headers_and_files_are_looked_at_too() {
    let mut disk = log(45);
    for copy in [0, 1] {
        let at = copy * BLOCK_BYTES as u64;
        flip(&mut disk, segment(1), at + 300);
        let finding = only(&mut disk);
        assert_eq!((finding.file, finding.offset, finding.fault), (segment(1), at, Fault::HeaderCopy));
        flip(&mut disk, segment(1), at + 300);
    }
    for at in [300, 300 + BLOCK_BYTES as u64] {
        flip(&mut disk, segment(1), at);
    }
    // Segment 2 is made ahead, continues it, and a start can't go on.
    let refused = WalError::HeaderDamaged { file: segment(1) };
    assert_eq!(only(&mut disk).fault, Fault::Refused(refused.clone()));
    assert_eq!(inspect(&mut disk, WAL).unwrap_err(), refused);
    disk.execute(IoOp::Remove(segment(1))).unwrap();
    let missing = WalError::SegmentMissing { file: segment(1), named_by: segment(2) };
    assert_eq!(only(&mut disk).fault, Fault::Refused(missing));
    disk.execute(IoOp::Remove(segment(2))).unwrap();
    assert_eq!(only(&mut disk).fault, Fault::Refused(WalError::Missing { wal: WAL }));
}

/// A segment below the checkpoint that is gone: its groups are named, and a start doesn't see it.
#[test]
fn a_segment_that_is_gone_is_missed() {
    let mut disk = SimDisk::new();
    let (mut wal, _) = rig::open(&mut disk, false).unwrap();
    wal.record_creation(GroupId(1), REPLICA, &rig::configuration());
    wal.record_creation(GroupId(2), REPLICA, &rig::configuration());
    wal.record_group(GroupId(2), REPLICA, None, (&[entry(1, 1, b"early")], &[]));
    for index in 1..=12 {
        wal.record_group(GroupId(1), REPLICA, None, (&[entry(1, index, &[7; 50_000])], &[]));
        settle(&mut wal, &mut disk);
    }
    wal.close();
    settle(&mut wal, &mut disk);
    let states: Vec<_> = inspect(&mut disk, WAL).unwrap().segments.iter().map(|s| (s.state, s.batches > 0)).collect();
    assert_eq!(states[..3], [(SegmentState::InUse, true); 3]);
    assert_eq!(verified(&mut disk).findings, []);
    disk.execute(IoOp::Remove(segment(1))).unwrap();
    let Verification { findings, .. } = verified(&mut disk);
    let gone = findings.iter().find(|finding| matches!(finding.fault, Fault::File(WalError::SegmentMissing { .. })));
    assert_eq!(gone.map(|finding| &finding.lost[..]), Some(&[GroupId(1), GroupId(2)][..]), "{findings:#?}");

    // A start goes on, and what it limits is durable before anybody hears of it.
    let (_, recovered) = rig::open(&mut disk, true).unwrap();
    assert!(recovered.damage.is_empty() && recovered.groups.iter().all(|group| group.limit != Limit::None));
    let mut limited = Vec::new();
    let mut each = |what: Dumped<'_>| {
        if let Dumped::Record { record: Record::State(state), .. } = what
            && state.limit != Limit::None
        {
            limited.push(state.group);
        }
        ControlFlow::Continue(())
    };
    dump(&mut disk, WAL, DumpFilter::default(), &mut each).unwrap();
    assert_eq!(limited, [GroupId(1), GroupId(2)]);
}

/// The log's writer goes on between any two operations of who looks: nothing is called damaged.
#[test]
fn a_log_that_is_being_written_is_whole() {
    struct Live {
        disk: SimDisk,
        wal: Wal,
        model: Model,
        random: Random,
        busy: bool,
    }
    impl Disk for Live {
        fn execute(&mut self, op: IoOp) -> IoResult {
            for _ in 0..if self.busy { 1 + self.random.below(3) } else { 0 } {
                let step = self.model.next_step(&mut self.random, 4000);
                self.model.record(&mut self.wal, step);
                settle(&mut self.wal, &mut self.disk);
            }
            self.disk.execute(op)
        }
    }
    let (mut recycled, mut complained) = (0, 0);
    for seed in 0..12 {
        let mut disk = SimDisk::new();
        let config = WalConfig { checkpoint_bytes: 64 << 10, spare_segments: 1, ..rig::config(false) };
        let (wal, _) = Wal::open(&mut disk, config, seed).unwrap();
        let model = Model { churns: true, ..Model::default() };
        let mut live = Live { disk, wal, model, random: Random(seed), busy: true };
        for _ in 0..200 {
            live.execute(IoOp::List(Directory::Wal(WAL))).unwrap();
        }
        let found = verified(&mut live);
        assert_eq!(found.findings, [], "seed {seed}");
        let inspected = inspect(&mut live, WAL).unwrap();
        complained += inspected.recovered.damage.len();
        recycled += u64::from(inspected.recovered.stats.first_segment.0 > 1);
        live.busy = false;
        let now = verified(&mut live);
        assert_eq!((now.findings, now.last), (vec![], live.wal.released()), "seed {seed}");
    }
    assert!(recycled > 0, "segments were given up meanwhile");
    assert_eq!(complained, 0);
}

#[test]
fn states_of_files_are_told() {
    let mut disk = log(45);
    let states: Vec<_> = inspect(&mut disk, WAL).unwrap().segments.iter().map(|s| s.state).collect();
    assert_eq!(states[..2], [SegmentState::InUse, SegmentState::Ahead]);
    let (wal, _) = rig::open(&mut disk, true).unwrap();
    drop(wal);
    let (mut wal, _) = rig::open(&mut disk, true).unwrap();
    let limit = Some(Limit::Bound(LogPosition { index: LogIndex(9), term: Term(2) }));
    wal.record_state(GroupId(2), REPLICA, StateChange { limit, ..StateChange::default() });
    let voted = HardState { term: Term(3), vote: Some(ReplicaId(2)) };
    wal.record_group(GroupId(3), REPLICA, Some(voted), (&[], &[]));
    settle(&mut wal, &mut disk);
    let found = inspect(&mut disk, WAL).unwrap();
    let SegmentState::Cut { end } = found.segments[0].state else { panic!("{:?}", found.segments[0]) };
    assert_eq!(end, BATCHES_OFFSET + found.segments[0].batch_bytes, "the first one ended there");
    let states: Vec<_> = found.segments.iter().skip(1).map(|s| s.state).collect();
    let second = SegmentState::Cut { end: found.segments[2].batch_bytes + BATCHES_OFFSET };
    assert_eq!(states, [SegmentState::Passed, second, SegmentState::InUse, SegmentState::Spare]);
    assert_eq!(found.segments.iter().map(|s| s.batches).sum::<u64>(), found.recovered.stats.batches);
    assert_eq!(found.segments.iter().map(|s| s.live_bytes).sum::<u64>(), wal.usage().live);
    assert_eq!(found.groups[1].group.limit, Limit::Bound(LogPosition { index: LogIndex(9), term: Term(2) }));
    assert_eq!((found.groups[2].group.hard_state, found.groups[2].runs), (voted, 15));
}

#[test]
fn a_dump_is_what_was_recorded_in_order() {
    let mut disk = log(9);
    let mut seen = Vec::new();
    let filter = DumpFilter { from: BatchSeq(4), ..DumpFilter::default() };
    let mut each = |what: Dumped<'_>| {
        match what {
            Dumped::Segment { header, .. } => seen.push(format!("segment {}", header.number.0)),
            Dumped::Batch { place, .. } => seen.push(format!("batch {}", place.sequence)),
            Dumped::Echo(echo) => seen.push(format!("echo {}", echo.group)),
            Dumped::Record { record, .. } => seen.push(format!("{record:?}").split('(').next().unwrap().to_owned()),
            other => seen.push(format!("{other:?}")),
        }
        if seen.len() < 8 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    dump(&mut disk, WAL, filter, &mut each).unwrap();
    let expected =
        ["segment 1", "batch 4", "echo 1", "Group", "batch 5", "echo 2", "Group", "batch 6"].map(str::to_owned);
    assert_eq!(seen, expected);
    // A batch that is not whole leaves a gap.
    let (_, offset) = batches(&disk, segment(1))[5];
    flip(&mut disk, segment(1), offset + 100);
    let mut gaps = Vec::new();
    let mut each = |what: Dumped<'_>| {
        if let Dumped::Gap { offset, bytes } = what {
            gaps.push((offset, bytes));
        }
        ControlFlow::Continue(())
    };
    dump(&mut disk, WAL, DumpFilter { segment: Some(raftyard_storage::io::SegmentNumber(1)), ..filter }, &mut each)
        .unwrap();
    assert_eq!(gaps, [(offset, BLOCK_BYTES as u64)]);
}
