//! A log that runs: what is recorded comes back, segments follow each other, releases keep their order, failures latch.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_raft::{GroupId, HardState, NodeId, ReplicaId, Term};
use raftyard_storage::io::{Directory, FileName, IoId, IoOp, WriteMode};
use raftyard_storage::sim::{FaultTarget, SimDisk};
use raftyard_storage::wal::{BatchSeq, StoreId, Wal, WalConfig, WalError};
use rig::{Model, Random, config, entry, open, segment, settle};

#[test]
fn what_was_recorded_comes_back() {
    let mut disk = SimDisk::new();
    let (mut wal, fresh) = open(&mut disk, false).unwrap();
    assert_eq!((fresh.groups.len(), fresh.stats.batches), (0, 0));
    let mut model = Model::default();
    let mut random = Random(1);
    for _ in 0..50 {
        for _ in 0..random.below(4) {
            let step = model.next_step(&mut random, 300);
            model.record(&mut wal, step);
        }
        settle(&mut wal, &mut disk);
        assert!(wal.is_idle());
    }
    let released = wal.released();
    for _ in 0..3 {
        let (_, recovered) = open(&mut disk, true).unwrap();
        assert!(recovered.stats.tear.is_none());
        model.check(&mut disk, released);
    }
}

#[test]
fn segments_follow_each_other_and_restarts_remove_what_no_longer_counts() {
    let mut disk = SimDisk::new();
    let mut model = Model::default();
    let mut random = Random(2);
    let (mut wal, _) = open(&mut disk, false).unwrap();
    let mut released = BatchSeq(0);
    for round in 0..4 {
        for _ in 0..120 {
            let step = model.next_step(&mut random, 6000);
            model.record(&mut wal, step);
            settle(&mut wal, &mut disk);
        }
        assert!(wal.released() > released);
        released = wal.released();
        let (reopened, recovered) = open(&mut disk, true).unwrap();
        model.check(&mut disk, released);
        assert!(recovered.stats.segments > round, "{:?}", recovered.stats);
        wal = reopened;
    }
    let names = disk.paths(Directory::Wal(rig::WAL));
    let spares = names.iter().filter(|path| matches!(path.name, FileName::Spare(_))).count();
    assert!(spares <= rig::config(true).reserve_segments + 2, "{names:?}");
    assert!(names.len() > 5, "{names:?}");
}

#[test]
fn a_batch_waits_for_its_segment_and_then_goes_there() {
    let mut disk = SimDisk::new();
    let (mut wal, _) = open(&mut disk, false).unwrap();
    wal.record_creation(GroupId(1), ReplicaId(1), &rig::configuration());
    let big = vec![7; 60 << 10];
    let mut index = 0;
    let first = wal.segment();
    // No preparation completes: operations other than writes to the log are held back.
    let mut held = Vec::new();
    loop {
        index += 1;
        let entries = [entry(1, index, &big)];
        wal.record_group(GroupId(1), ReplicaId(1), None, (&entries, &[]));
        wal.submit();
        while let Some((id, op)) = wal.poll_io() {
            match op {
                IoOp::Write { mode: WriteMode::Dsync, offset, .. } if offset > 0 => {
                    let result = raftyard_storage::io::Disk::execute(&mut disk, op);
                    wal.handle_io(id, result);
                }
                op => held.push((id, op)),
            }
        }
        if !wal.is_idle() {
            break;
        }
    }
    assert_eq!(wal.segment(), first);
    for (id, op) in held {
        let result = raftyard_storage::io::Disk::execute(&mut disk, op);
        wal.handle_io(id, result);
    }
    settle(&mut wal, &mut disk);
    assert!(wal.is_idle());
    assert_ne!(wal.segment(), first);
    let (_, recovered) = open(&mut disk, true).unwrap();
    assert_eq!(recovered.groups[0].last.index.0, index);
    assert_eq!(rig::state(&mut disk).unwrap().0.groups[0].entries.len() as u64, index);
}

#[test]
fn batches_are_released_in_order_whatever_order_their_writes_end_in() {
    let mut disk = SimDisk::new();
    let (mut wal, ids) = second_write_ended_first(&mut disk);
    let before = wal.released();
    let result = disk.complete(ids[0]);
    wal.handle_io(ids[0], result);
    assert_eq!(wal.released(), before.next().next(), "the first was what both waited for");
    settle(&mut wal, &mut disk);
    assert_eq!(wal.released(), before.next().next().next());
}

#[test]
fn a_batch_whole_on_the_disk_does_not_come_back_without_the_one_before_it() {
    let mut disk = SimDisk::new();
    let (wal, _) = second_write_ended_first(&mut disk);
    disk.crash(&mut || 0);
    let (_, recovered) = open(&mut disk, true).unwrap();
    assert_eq!((recovered.stats.last, recovered.peers), (wal.released(), vec![]));
    assert_eq!(recovered.stats.tear, Some((segment(1), 3 * 4096)), "the whole batch was seen, and is none of the log");
}

/// Three batches at depth 2: the first is being written, the second is durable, the third waits. None is released.
/// Returns the writes of the first two.
fn second_write_ended_first(disk: &mut SimDisk) -> (Wal, Vec<IoId>) {
    let (mut wal, _) = Wal::open(disk, WalConfig { depth: 2, ..config(false) }, 1).unwrap();
    let before = wal.released();
    for number in 1..=3 {
        wal.record_peer(NodeId(number), StoreId(u128::from(number)));
        wal.submit();
    }
    let writes: Vec<_> =
        std::iter::from_fn(|| wal.poll_io()).filter(|(_, op)| matches!(op, IoOp::Write { .. })).collect();
    assert_eq!(writes.len(), 2, "the third waits: two are in flight");
    let ids: Vec<_> = writes.iter().map(|(id, _)| *id).collect();
    for (id, op) in writes {
        disk.submit(id, op);
    }
    let result = disk.complete(ids[1]);
    wal.handle_io(ids[1], result);
    assert_eq!(wal.released(), before, "the second is durable, the first is not: neither is released");
    (wal, ids)
}

#[test]
fn a_failed_write_or_sync_latches_for_ever() {
    for (target, after) in
        [(FaultTarget::Write, 0), (FaultTarget::Write, 5), (FaultTarget::Sync, 0), (FaultTarget::SyncDirectory, 0)]
    {
        let mut disk = SimDisk::new();
        let (mut wal, _) = open(&mut disk, false).unwrap();
        disk.inject_fault(target, after, 5);
        wal.record_creation(GroupId(1), ReplicaId(1), &rig::configuration());
        settle(&mut wal, &mut disk);
        let mut index = 0;
        while wal.failure().is_none() {
            index += 1;
            assert!(index < 100, "{target:?} never hit");
            let entries = [entry(1, index, &[9; 20_000])];
            wal.record_group(GroupId(1), ReplicaId(1), None, (&entries, &[]));
            settle(&mut wal, &mut disk);
        }
        let failure = wal.failure().unwrap().to_string();
        assert!(failure.contains("wal-0/segment-") && failure.contains("os error 5"), "{failure}");
        let released = wal.released();
        wal.record_peer(NodeId(1), StoreId(1));
        settle(&mut wal, &mut disk);
        wal.submit();
        assert!(wal.poll_io().is_none(), "nothing is written after a failure");
        assert!(!wal.has_room() && wal.is_idle());
        assert_eq!(wal.released(), released, "nothing is released after a failure");
        let (_, recovered) = open(&mut disk, true).unwrap();
        assert!(recovered.stats.last >= released);
    }
}

#[test]
fn a_batch_that_ends_well_after_one_that_failed_is_not_released() {
    let mut disk = SimDisk::new();
    let config = WalConfig { depth: 2, ..config(false) };
    let (mut wal, _) = Wal::open(&mut disk, config, 1).unwrap();
    let before = wal.released();
    wal.record_peer(NodeId(1), StoreId(1));
    wal.submit();
    wal.record_peer(NodeId(2), StoreId(2));
    wal.submit();
    let writes: Vec<_> =
        std::iter::from_fn(|| wal.poll_io()).filter(|(_, op)| matches!(op, IoOp::Write { .. })).collect();
    disk.inject_fault(FaultTarget::Write, 0, 28);
    for (id, op) in writes {
        let result = raftyard_storage::io::Disk::execute(&mut disk, op);
        wal.handle_io(id, result);
    }
    assert!(wal.failure().is_some() && wal.is_idle());
    assert_eq!(wal.released(), before);
}

#[test]
fn a_panic_in_the_middle_of_a_record_spoils_nothing() {
    let mut disk = SimDisk::new();
    let (mut wal, _) = open(&mut disk, false).unwrap();
    wal.record_creation(GroupId(1), ReplicaId(1), &rig::configuration());
    let good = [entry(1, 1, b"good")];
    wal.record_group(GroupId(1), ReplicaId(1), None, (&good, &[]));
    let torn = [entry(1, 2, b"half"), entry(1, 9, b"not the next")];
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wal.record_group(GroupId(1), ReplicaId(1), None, (&torn, &[]))
    }));
    assert!(unwound.is_err());
    let state = HardState { term: Term(3), vote: None };
    wal.record_group(GroupId(1), ReplicaId(1), Some(state), (&[], &[]));
    settle(&mut wal, &mut disk);
    let (_, recovered) = open(&mut disk, true).unwrap();
    assert_eq!(rig::state(&mut disk).unwrap().0.groups[0].entries, good);
    assert_eq!(recovered.groups[0].hard_state, state);
}

#[test]
fn a_log_that_the_manifest_names_must_be_there() {
    let mut disk = SimDisk::new();
    assert!(matches!(open(&mut disk, true), Err(WalError::Missing { .. })));
    drop(open(&mut disk, false).unwrap());
    for path in disk.paths(Directory::Wal(rig::WAL)) {
        raftyard_storage::io::Disk::execute(&mut disk, IoOp::Remove(path)).unwrap();
    }
    assert!(matches!(open(&mut disk, true), Err(WalError::Missing { .. })));
}

#[test]
fn a_log_with_groups_and_no_manifest_is_refused() {
    let mut disk = SimDisk::new();
    let (mut wal, _) = open(&mut disk, false).unwrap();
    wal.record_creation(GroupId(1), ReplicaId(1), &rig::configuration());
    settle(&mut wal, &mut disk);
    assert!(matches!(open(&mut disk, false), Err(WalError::ManifestLost { .. })));
    assert_eq!(open(&mut disk, true).unwrap().1.groups.len(), 1);
}

#[test]
fn without_durability_nothing_is_claimed_durable() {
    let mut disk = SimDisk::new();
    let volatile = WalConfig { mode: WriteMode::Volatile, ..config(false) };
    let (mut wal, _) = Wal::open(&mut disk, volatile, 1).unwrap();
    let mut model = Model::default();
    let mut random = Random(3);
    for _ in 0..100 {
        let step = model.next_step(&mut random, 5000);
        model.record(&mut wal, step);
        settle(&mut wal, &mut disk);
    }
    let mut coin = Random(4);
    disk.crash(&mut || coin.next());
    // Batches are missing, and recovery takes what still hangs together instead of speaking of damage.
    model.check(&mut disk, BatchSeq(1));
    open(&mut disk, true).unwrap();
}

#[test]
fn buffers_are_reused() {
    let mut disk = SimDisk::new();
    let (mut wal, _) = open(&mut disk, false).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..50 {
        wal.record_peer(NodeId(1), StoreId(round));
        wal.submit();
        while let Some((id, op)) = wal.poll_io() {
            if let IoOp::Write { buffer, offset: 8192.., .. } = &op {
                seen.insert(buffer.as_ptr() as usize);
            }
            let result = raftyard_storage::io::Disk::execute(&mut disk, op);
            wal.handle_io(id, result);
        }
    }
    assert_eq!(seen.len(), 2, "one batch fills while the other is written");
}

/// The mark of a clean stop was written before the checkpoint that belongs in front of it, so that it was not the last.
#[test]
fn a_clean_stop_ends_with_its_mark_behind_a_checkpoint() {
    let mut disk = SimDisk::new();
    let (mut wal, _) = open(&mut disk, false).unwrap();
    wal.record_creation(GroupId(1), ReplicaId(1), &rig::configuration());
    for index in 1..=20 {
        wal.record_group(GroupId(1), ReplicaId(1), None, (&[entry(1, index, &[7; 3000])], &[]));
        settle(&mut wal, &mut disk);
    }
    wal.close();
    settle(&mut wal, &mut disk);
    assert!(wal.is_closed());
    let (_, recovered) = rig::state(&mut disk).unwrap();
    assert!(recovered.stats.clean, "{recovered:?}");
    assert!(recovered.stats.batches <= 3, "a start reads no more than the checkpoint: {recovered:?}");
}
