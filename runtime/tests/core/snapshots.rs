//! Logs that begin later, and snapshots that come from a leader, which the test plays.

use crate::rig::{Rig, config};
use raftyard_raft::{Base, Configuration, GroupId, LogIndex, LogPosition, Member, NodeId, ReplicaId, Term};
use raftyard_runtime::CoreConfig;
use raftyard_runtime::core::port::{CoreId, LinkId};
use raftyard_runtime::group::RoleName;
use raftyard_runtime::mail::CompactError;
use raftyard_runtime::wire::{
    FrameKind, Hello, Purpose, SnapshotBegin, SnapshotChunk, SnapshotEnd, TransferId, finish_frame, format_descriptor,
    start_frame,
};
use raftyard_storage::wal::StoreId;
use std::sync::Arc;
use std::time::Duration;

fn write(rig: &mut Rig, from: u32, to: u32) {
    for number in from..to {
        let answer = rig.propose(1, format!("command {number}").as_bytes());
        rig.settle();
        assert!(matches!(rig.answer(&answer), Some(Ok(_))), "{number}");
    }
}

fn base(rig: &Rig) -> LogIndex {
    rig.core().replica(GroupId(1)).expect("there").base().position.index
}

#[test]
fn a_log_is_compacted_by_itself_and_a_restart_has_all_of_it() {
    let mut rig = Rig::new(CoreConfig { retain_entries: 10, ..config() });
    rig.create_group(1, 1).expect("a new group");
    rig.settle();
    write(&mut rig, 0, 500);
    let begins = base(&rig);
    let last = rig.status(1).expect("there").last_index;
    assert!(begins.0 > last.0 - 25 && begins.0 <= last.0 - 10, "it keeps what peers may lack: {begins} of {last}");
    let before = rig.applied(1);
    rig.restart();
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.applied(1), before);
    assert!(base(&rig) >= begins, "what was given up is gone");
    write(&mut rig, 500, 600);
    rig.restart();
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.applied(1).len(), 600);
}

#[test]
fn a_log_is_compacted_by_hand_when_that_is_durable() {
    let mut rig = Rig::new(config());
    rig.create_group(1, 1).expect("a new group");
    rig.settle();
    write(&mut rig, 0, 50);
    rig.hold_disk = true;
    let answer = rig.compact(1, 40);
    rig.settle();
    assert!(answer.try_recv().is_err(), "it is not durable yet");
    rig.hold_disk = false;
    rig.settle();
    assert_eq!(answer.try_recv(), Ok(Ok(())));
    assert_eq!(base(&rig), LogIndex(40));
    for (index, error) in [
        (39, CompactError::Compacted { index: LogIndex(39), base: LogIndex(40) }),
        (99, CompactError::NotApplied { index: LogIndex(99), applied: LogIndex(51) }),
    ] {
        let answer = rig.compact(1, index);
        rig.settle();
        assert_eq!(answer.try_recv(), Ok(Err(error)));
    }
    // Now the log has a snapshot that goes far enough.
    rig.hold_disk = true;
    let answer = rig.compact(1, 45);
    rig.settle();
    assert!(answer.try_recv().is_err(), "it is not durable yet");
    rig.hold_disk = false;
    rig.settle();
    assert_eq!(answer.try_recv(), Ok(Ok(())));
    rig.restart();
    rig.pass(Duration::from_secs(1));
    assert_eq!((rig.applied(1).len(), base(&rig)), (50, LogIndex(45)));
}

#[test]
fn a_log_is_not_compacted_beyond_what_a_machine_with_a_disk_holds() {
    let mut rig = Rig::new(CoreConfig { retain_entries: 10, ..config() });
    rig.machines_on_disk();
    rig.create_group(1, 1).expect("a new group");
    rig.settle();
    write(&mut rig, 0, 100);
    assert_eq!(base(&rig), LogIndex(0));
    let answer = rig.compact(1, 40);
    rig.settle();
    let error = CompactError::NotDurable { index: LogIndex(40), durable: LogIndex(0) };
    assert_eq!(answer.try_recv(), Ok(Err(error)));
}

/// The leader that the test plays: node 2, in term 5, with a snapshot up to index 70.
struct Leader {
    link: LinkId,
    transfer: TransferId,
}

const BYTES: &[u8] = b"one\ntwo\nthree";

fn frame(kind: FrameKind, payload: &[u8], write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let (mut out, mut body) = (Vec::new(), Vec::new());
    write(&mut body);
    let start = start_frame(&mut out);
    out.extend_from_slice(payload);
    finish_frame(&mut out, start, kind, &body);
    out
}

impl Leader {
    fn new(rig: &mut Rig) -> Leader {
        let link = rig.accept();
        let hello = Hello {
            format: format_descriptor(),
            cluster: 1,
            node: NodeId(2),
            core: CoreId(0),
            cores: 1,
            store: StoreId(2),
            boot: 1,
            to_node: NodeId(1),
            to_core: CoreId(0),
            entry_bytes_max: 4096,
            frame_bytes_max: 1 << 20,
            promise_nanos: 0,
            purpose: Purpose::Snapshots,
        };
        rig.bytes(link, &frame(FrameKind::Hello, &[], |body| hello.write(body)));
        Leader { link, transfer: TransferId(9) }
    }

    fn begin(&self, rig: &mut Rig) {
        let members = [1, 2].map(|n| Member { replica: ReplicaId(n), node: NodeId(n) });
        let base = Base {
            position: LogPosition { index: LogIndex(70), term: Term(4) },
            configuration: Arc::new(Configuration::new(members.to_vec()).expect("distinct")),
            configuration_index: LogIndex(0),
        };
        let (group, from, to) = (GroupId(1), ReplicaId(2), ReplicaId(1));
        let begin = SnapshotBegin { transfer: self.transfer, group, from, to, term: Term(5), base };
        rig.bytes(self.link, &frame(FrameKind::SnapshotBegin, &[], |body| begin.write(body)));
    }

    fn piece(&self, rig: &mut Rig, offset: u64, piece: &[u8]) {
        let chunk = SnapshotChunk { transfer: self.transfer, offset };
        rig.bytes(self.link, &frame(FrameKind::SnapshotChunk, piece, |body| chunk.write(body)));
    }

    fn end(&self, rig: &mut Rig, checksum: u32) {
        let end = SnapshotEnd { transfer: self.transfer, bytes: BYTES.len() as u64, checksum };
        rig.bytes(self.link, &frame(FrameKind::SnapshotEnd, &[], |body| end.write(body)));
    }

    fn send(&self, rig: &mut Rig) {
        self.begin(rig);
        self.piece(rig, 0, &BYTES[..5]);
        self.piece(rig, 5, &BYTES[5..]);
        self.end(rig, crc32c::crc32c(BYTES));
    }
}

fn follower(on_disk: bool) -> Rig {
    let mut rig = Rig::new(config());
    if on_disk {
        rig.machines_on_disk();
    }
    rig.create_group_with(1, &[1, 2]).expect("a new group");
    rig.settle();
    rig
}

fn applied_index(rig: &mut Rig) -> LogIndex {
    rig.status(1).expect("there").applied_index
}

#[test]
fn a_whole_snapshot_takes_the_place_of_machine_and_log() {
    for on_disk in [false, true] {
        let mut rig = follower(on_disk);
        let leader = Leader::new(&mut rig);
        leader.send(&mut rig);
        assert_eq!((applied_index(&mut rig), rig.applied(1).len()), (LogIndex(70), 3), "on disk: {on_disk}");
        rig.restart();
        let status = rig.status(1).expect("there");
        assert_eq!((status.applied_index, status.term), (LogIndex(70), Term(5)));
        assert_eq!((rig.applied(1).len(), base(&rig)), (3, LogIndex(70)));
    }
}

#[test]
fn a_snapshot_that_is_not_whole_changes_nothing() {
    let mut rig = follower(false);
    let leader = Leader::new(&mut rig);
    leader.begin(&mut rig);
    leader.piece(&mut rig, 0, &BYTES[..5]);
    leader.piece(&mut rig, 5, &BYTES[5..]);
    leader.end(&mut rig, 1);
    assert_eq!((applied_index(&mut rig), rig.applied(1).len()), (LogIndex(0), 0), "a wrong checksum");
    leader.begin(&mut rig);
    leader.piece(&mut rig, 5, &BYTES[5..]);
    leader.end(&mut rig, crc32c::crc32c(BYTES));
    assert_eq!(applied_index(&mut rig), LogIndex(0), "a piece is missing");
    leader.begin(&mut rig);
    leader.piece(&mut rig, 100, BYTES);
    leader.end(&mut rig, crc32c::crc32c(BYTES));
    assert_eq!(applied_index(&mut rig), LogIndex(0), "it does not begin at its beginning");
    leader.begin(&mut rig);
    leader.piece(&mut rig, 0, &BYTES[..5]);
    rig.restart();
    assert_eq!((applied_index(&mut rig), base(&rig)), (LogIndex(0), LogIndex(0)), "a restart on the way");
    let leader = Leader::new(&mut rig);
    leader.send(&mut rig);
    assert_eq!((applied_index(&mut rig), rig.applied(1).len()), (LogIndex(70), 3), "it begins again");
}

/// The power fails when the machine is durable, and the record that resets the log isn't.
#[test]
fn a_machine_ahead_of_its_log_goes_on_from_there() {
    let mut rig = follower(true);
    let leader = Leader::new(&mut rig);
    rig.hold_disk = true;
    leader.send(&mut rig);
    assert_eq!(rig.applied(1).len(), 3);
    rig.restart();
    rig.hold_disk = false;
    rig.settle();
    assert_eq!((applied_index(&mut rig), base(&rig), rig.applied(1).len()), (LogIndex(70), LogIndex(70), 3));
    rig.restart();
    assert_eq!((applied_index(&mut rig), base(&rig)), (LogIndex(70), LogIndex(70)));
}

/// The same for a machine in memory: nothing of it counts, for the record that names it is lost.
#[test]
fn a_machine_in_memory_is_what_its_log_says() {
    let mut rig = follower(false);
    let leader = Leader::new(&mut rig);
    rig.hold_disk = true;
    leader.send(&mut rig);
    rig.restart();
    rig.hold_disk = false;
    rig.settle();
    assert_eq!((applied_index(&mut rig), base(&rig), rig.applied(1).len()), (LogIndex(0), LogIndex(0), 0));
}

#[test]
fn a_machine_that_fails_to_take_a_snapshot_stops_its_group() {
    let mut rig = follower(false);
    let leader = Leader::new(&mut rig);
    leader.begin(&mut rig);
    leader.piece(&mut rig, 0, b"broken");
    assert_eq!(rig.status(1).expect("there").role, RoleName::Failed);
}
