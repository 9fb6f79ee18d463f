//! Disks that fail or are full under a log that runs: what failed latches and nothing is released after it, what was
//! released is there at the next start; a full disk is waited out.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_raft::{GroupId, Limit, LogIndex, ReplicaId};
use raftyard_storage::io::{Directory, Disk, FileName, IoOp};
use raftyard_storage::sim::{FaultTarget, SimDisk};
use raftyard_storage::wal::{BatchSeq, Wal, WalConfig};
use rig::{Held, Model, Step, config, entry, settle, state};
use std::collections::BTreeSet;

const EIO: i32 = 5;

fn small(initialised: bool) -> WalConfig {
    WalConfig { checkpoint_bytes: 60 << 10, spare_segments: 1, reserve_segments: 1, ..config(initialised) }
}

/// A log's life: two starts, some work with checkpoints and relocation, a clean stop each.
#[derive(Default)]
struct Life {
    disk: SimDisk,
    model: Model,
    released: BatchSeq,
    initialised: bool,
    lost: BTreeSet<GroupId>,
    relocated: bool,
}

impl Life {
    /// Lives until the log fails or all is done. Says whether it failed.
    fn live(&mut self) -> bool {
        for start in 0..2 {
            let Ok((mut wal, _)) = Wal::open(&mut self.disk, small(self.initialised), 3 + start) else { return true };
            self.initialised = true;
            self.released = self.released.max(wal.released());
            let going = self.work(&mut wal, start) && self.close(&mut wal);
            self.released = wal.released();
            if !going {
                self.stays_failed(&mut wal);
                return true;
            }
        }
        false
    }

    fn work(&mut self, wal: &mut Wal, start: u64) -> bool {
        if start == 0 {
            let group = |group| Step::Create(GroupId(group));
            if !self.record(wal, [group(1), group(2), group(9)]) {
                return false;
            }
            let write = |group, index| write(group, 1, index, 300);
            if !self.record(wal, [write(1, 1), write(2, 1), write(1, 2)])
                || !self.record(wal, [Step::Snapshot(GroupId(2), LogIndex(1), vec![3; 1000])])
            {
                return false;
            }
        }
        for round in 0..100 {
            let last = self.model.now.groups.iter().find(|g| g.group == GroupId(9)).unwrap().last().index.0;
            let filler = write(9, 1 + start, last + 1, 16_000);
            if !self.record(wal, [filler, Step::Compact(GroupId(9), LogIndex(last + 1))]) {
                return false;
            }
            if round % 5 == 0 {
                let last = self.model.now.groups.iter().find(|g| g.group == GroupId(1)).unwrap().last().index.0;
                if !self.record(wal, [write(1, 2 + start, last + 1, 200)]) {
                    return false;
                }
            }
        }
        true
    }

    fn record<const N: usize>(&mut self, wal: &mut Wal, steps: [Step; N]) -> bool {
        for step in steps {
            while !wal.has_room() && wal.failure().is_none() {
                settle(wal, &mut self.disk);
            }
            if wal.failure().is_some() {
                return false;
            }
            self.model.record(wal, step);
        }
        settle(wal, &mut self.disk);
        while let Some((group, _)) = wal.poll_lost() {
            // Whoever owns it limits it.
            let bound = self.model.now.groups.iter().find(|held| held.group == group).unwrap().last();
            self.lost.insert(group);
            self.model.record(wal, Step::Limit(group, Limit::Bound(bound)));
            settle(wal, &mut self.disk);
        }
        self.released = wal.released();
        self.relocated |=
            wal.usage().segments > 0 && !self.disk.paths(Directory::Wal(rig::WAL)).contains(&rig::segment(1));
        wal.failure().is_none()
    }

    fn close(&mut self, wal: &mut Wal) -> bool {
        wal.close();
        settle(wal, &mut self.disk);
        assert!(wal.is_closed());
        wal.failure().is_none()
    }

    /// Whatever is tried, nothing more is written or released.
    fn stays_failed(&mut self, wal: &mut Wal) {
        let released = wal.released();
        wal.record_peer(raftyard_raft::NodeId(1), raftyard_storage::wal::StoreId(1));
        wal.submit();
        wal.seal();
        while let Some((id, op)) = wal.poll_io() {
            assert!(matches!(op, IoOp::Read { .. } | IoOp::Open(_)), "{} after the failure", op.name());
            let result = self.disk.execute(op);
            wal.handle_io(id, result);
        }
        assert!(!wal.has_room() && wal.is_closed() && wal.is_idle());
        assert_eq!(wal.released(), released, "released after the failure");
    }

    /// The next start finds everything that was released, and nothing that was not recorded.
    fn judge(&mut self) {
        self.disk.clear_faults();
        let (wal, _) = Wal::open(&mut self.disk, small(self.initialised), 9).unwrap();
        drop(wal);
        let (found, recovered) = state(&mut self.disk).unwrap();
        let same = |found: &Held, held: &Held| {
            found == held || (self.lost.contains(&held.group) && found.limit != Limit::None)
        };
        let is = |last: u64| {
            let expected = self.model.state(BatchSeq(last));
            let all = found.groups.len() == expected.groups.len() && found.peers == expected.peers;
            all && found.groups.iter().zip(&expected.groups).all(|(found, held)| same(found, held))
        };
        let ends = (self.released.0..=recovered.stats.last.0).rev();
        let end = ends.into_iter().find(|last| is(*last));
        assert!(end.is_some(), "not the log from {} on: {found:?}", self.released);
    }
}

fn write(group: u64, term: u64, index: u64, bytes: usize) -> Step {
    let entries = vec![entry(term, index, &vec![7; bytes])];
    Step::Write { group: GroupId(group), hard_state: None, entries }
}

#[test]
fn an_operation_that_fails_latches_and_everything_released_is_there() {
    let mut whole = Life::default();
    assert!(!whole.live());
    whole.judge();
    let operations = whole.disk.executed();
    assert!(whole.relocated && operations >= 500, "{operations}");
    let (mut failed, mut lost) = (0, 0);
    let targets = [(FaultTarget::Any, operations), (FaultTarget::Sync, 60), (FaultTarget::SyncDirectory, 60)];
    for (target, operations) in targets {
        for after in (0..operations).step_by(if cfg!(debug_assertions) { 7 } else { 1 }) {
            let mut life = Life::default();
            life.disk.inject_fault(target, after, EIO);
            failed += u64::from(life.live());
            lost += u64::from(!life.lost.is_empty());
            life.judge();
        }
    }
    println!("{operations} operations, {failed} failed the log, {lost} lost something of a group");
    assert!(failed > 0 && lost > 0);
}

/// The disk takes so many segments and no more. What is dead is given up, what counts is moved into the reserve, and the log
/// goes on by itself.
#[test]
fn a_full_disk_is_emptied_into_the_reserve_and_service_goes_on() {
    for segments in 6..9 {
        let mut disk = SimDisk::new();
        let mut model = Model::default();
        let config = |initialised| WalConfig { reserve_segments: 2, spare_segments: 8, ..small(initialised) };
        let (mut wal, _) = Wal::open(&mut disk, config(false), 1).unwrap();
        for group in [1, 2] {
            model.record(&mut wal, Step::Create(GroupId(group)));
        }
        settle(&mut wal, &mut disk);
        disk.set_capacity(segments * rig::SEGMENT_BYTES);
        let (mut full, mut again) = (0, 0);
        for index in 1..160 {
            // One group is never compacted, the other always.
            let bytes = if index % 8 == 0 { 2000 } else { 100 };
            for step in
                [write(1, 1, index, bytes), write(2, 1, index, 30_000), Step::Compact(GroupId(2), LogIndex(index))]
            {
                let mut waits = 0;
                while !wal.has_room() {
                    settle(&mut wal, &mut disk);
                    waits += 1;
                    assert!(waits < 100, "{segments} segments, entry {index}: no room any more, {:?}", wal.usage());
                }
                model.record(&mut wal, step);
            }
            settle(&mut wal, &mut disk);
            assert_eq!(wal.failure(), None, "{segments} segments");
            assert!(disk.used() <= segments * rig::SEGMENT_BYTES);
            let now = wal.is_full();
            full += u64::from(now);
            again += u64::from(full > 0 && !now);
        }
        println!("{segments} segments: full {full} times, not full {again} times after that");
        assert!(full > 0 && again > 0 && wal.is_idle(), "{segments}: {full} {again}");
        model.check(&mut disk, wal.released());
        let (_, recovered) = Wal::open(&mut disk, config(true), 2).unwrap();
        assert!(recovered.damage.is_empty());
    }
}

/// No room for the very first step of a segment, or in the middle of its zeroes: what was begun is taken back, and made
/// when there is room.
#[test]
fn room_is_looked_for_again_when_asked_to() {
    for beyond in [0, 100 << 10] {
        let mut disk = SimDisk::new();
        let (mut wal, _) = Wal::open(&mut disk, small(false), 1).unwrap();
        wal.record_creation(GroupId(1), ReplicaId(1), &rig::configuration());
        disk.set_capacity(disk.used() + beyond);
        let mut index = 0;
        while wal.is_idle() || index < 2 {
            index += 1;
            let entries = [entry(1, index, &[1; 50_000])];
            wal.record_group(GroupId(1), ReplicaId(1), None, (&entries, &[]));
            settle(&mut wal, &mut disk);
            assert!(index < 100);
        }
        assert!(wal.is_full() && wal.failure().is_none());
        let spares = disk.paths(Directory::Wal(rig::WAL)).into_iter();
        let spares = spares.filter(|path| matches!(path.name, FileName::Spare(_))).count();
        assert_eq!(spares, 0, "what was begun is taken back");
        wal.retry();
        settle(&mut wal, &mut disk);
        assert!(wal.is_full() && !wal.is_idle(), "there is no more room than before");
        disk.set_capacity(u64::MAX);
        wal.retry();
        settle(&mut wal, &mut disk);
        assert!(!wal.is_full() && wal.is_idle());
        assert_eq!(state(&mut disk).unwrap().0.groups[0].entries.len() as u64, index);
    }
}

#[test]
fn creating_without_room_is_no_failure() {
    let mut disk = SimDisk::new();
    let (mut wal, _) = Wal::open(&mut disk, small(false), 1).unwrap();
    // The next operation is the creation of the next segment's file.
    disk.inject_fault(FaultTarget::Any, 0, 28);
    settle(&mut wal, &mut disk);
    assert!(wal.is_full() && wal.failure().is_none());
    wal.retry();
    settle(&mut wal, &mut disk);
    assert!(!wal.is_full());
}

#[test]
fn after_a_clean_stop_only_the_checkpoint_is_read() {
    let mut life = Life::default();
    assert!(!life.live());
    let (wal, recovered) = Wal::open(&mut life.disk, small(true), 5).unwrap();
    let stats = recovered.stats;
    assert!(stats.clean && stats.checkpoint.is_some(), "{stats:?}");
    assert!(stats.batches <= 8 && stats.segments <= 2, "only the checkpoint is read: {stats:?}");
    // Not closed now.
    drop(wal);
    let (_, recovered) = Wal::open(&mut life.disk, small(true), 6).unwrap();
    assert!(!recovered.stats.clean);
    life.judge();
}

/// Where no segment was made ahead, the log goes on where it ended.
#[test]
fn after_a_clean_stop_the_log_goes_on_where_it_ended() {
    let mut disk = SimDisk::new();
    let (mut wal, _) = Wal::open(&mut disk, small(false), 1).unwrap();
    wal.record_creation(GroupId(1), ReplicaId(1), &rig::configuration());
    wal.close();
    while !wal.is_closed() {
        wal.submit();
        while let Some((id, op)) = wal.poll_io() {
            if matches!(op, IoOp::Write { .. }) {
                let result = disk.execute(op);
                wal.handle_io(id, result);
            }
        }
    }
    let segment = wal.segment();
    let (wal, recovered) = Wal::open(&mut disk, small(true), 2).unwrap();
    assert!(recovered.stats.clean && wal.segment() == segment);
    assert_eq!(state(&mut disk).unwrap().0.groups.len(), 1);
}
