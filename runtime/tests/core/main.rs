//! One core alone, on a simulated disk: what its users are told, whatever goes wrong.

mod rig;
mod snapshots;

use bytes::Bytes;
use raftyard_raft::{GroupId, Term};
use raftyard_runtime::core::port::Notice;
use raftyard_runtime::group::RoleName;
use raftyard_runtime::mail::{CreateGroupError, Limit, NotProposed, ProposeError, Unknown};
use raftyard_storage::sim::FaultTarget;
use rig::{Rig, config};
use std::time::Duration;

const EIO: i32 = 5;

fn not_proposed<T>(why: NotProposed) -> Option<Result<T, ProposeError>> {
    Some(Err(ProposeError::NotProposed(why)))
}

fn unknown<T>(why: Unknown) -> Option<Result<T, ProposeError>> {
    Some(Err(ProposeError::Unknown(why)))
}

#[test]
fn a_proposal_is_applied_and_answered() {
    let mut rig = Rig::new(config());
    rig.create_group(1, 1).expect("a new group");
    let answer = rig.propose(1, b"hello");
    rig.settle();
    let applied = rig.answer(&answer).expect("answered").expect("applied");
    assert_eq!((applied.term, &applied.response[..]), (Term(1), &b"hello"[..]));
    let status = rig.status(1).expect("the group is here");
    assert_eq!((status.role, status.applied_index), (RoleName::Leader, applied.index));
    assert_eq!(rig.status(2), None);
}

#[test]
fn nothing_is_answered_before_it_is_durable() {
    let mut rig = Rig::new(config());
    rig.create_group(1, 1).expect("a new group");
    rig.settle();
    rig.hold_disk = true;
    let answer = rig.propose(1, b"hello");
    rig.settle();
    assert!(rig.answer(&answer).is_none());
    rig.hold_disk = false;
    rig.settle();
    assert!(rig.answer(&answer).expect("answered").is_ok());
}

#[test]
fn a_group_is_created_once_and_only_with_a_member_here() {
    let mut rig = Rig::new(config());
    assert_eq!(rig.create_group(1, 1), Ok(()));
    assert_eq!(rig.create_group(1, 1), Err(CreateGroupError::Exists(GroupId(1))));
    assert_eq!(rig.create_group(0, 1), Err(CreateGroupError::ZeroId));
    let elsewhere = rig.create_group(2, 7);
    assert!(matches!(elsewhere, Err(CreateGroupError::NotMember { .. })), "{elsewhere:?}");
}

#[test]
fn bad_and_excessive_proposals_are_refused_by_name() {
    let mut rig = Rig::new(config());
    rig.create_group(1, 1).expect("a new group");
    rig.settle();
    let nowhere = rig.propose(9, b"x");
    let large = rig.propose(1, &[0; 5000]);
    rig.settle();
    assert_eq!(rig.answer(&nowhere), not_proposed(NotProposed::NoSuchGroup));
    assert_eq!(rig.answer(&large), not_proposed(NotProposed::TooLarge { bytes: 5000, bytes_max: 4096 }));

    // A disk that stands still: what is uncommitted grows to its limit and no further.
    rig.hold_disk = true;
    let waiting: Vec<_> = (0..100).map(|_| rig.propose(1, &[7; 1000])).collect();
    rig.settle();
    let refused = waiting.iter().filter_map(|answer| rig.answer(answer)).collect::<Vec<_>>();
    assert!(!refused.is_empty() && refused.len() < 90, "{}", refused.len());
    assert!(
        refused.iter().all(|answer| Some(answer.clone()) == not_proposed(NotProposed::Overloaded(Limit::Uncommitted)))
    );
}

#[test]
fn a_full_log_memory_is_overload() {
    let mut config = config();
    config.raft.uncommitted_bytes_max = 1 << 20;
    let mut rig = Rig::new(config);
    rig.create_group(1, 1).expect("a new group");
    rig.settle();
    // Nothing is committed, so nothing can be left to the disk.
    rig.hold_disk = true;
    let answers: Vec<_> = (0..400).map(|_| rig.propose(1, &[7; 1000])).collect();
    rig.settle();
    let refused: Vec<_> = answers.iter().filter_map(|answer| rig.answer(answer)).collect();
    assert!(!refused.is_empty());
    assert!(refused.iter().all(|r| Some(r.clone()) == not_proposed(NotProposed::Overloaded(Limit::LogMemory))));
}

/// What is applied is left to the disk, and read from there when a start has to apply it again.
#[test]
fn a_log_larger_than_memory_is_no_overload() {
    let config = config();
    let mut rig = Rig::new(config.clone());
    rig.create_group(1, 1).expect("a new group");
    rig.settle();
    for number in 0..600u32 {
        let answer = rig.propose(1, &[&number.to_le_bytes()[..], &[7; 1000]].concat());
        rig.settle();
        assert!(matches!(rig.answer(&answer), Some(Ok(_))), "{number}");
        assert!(rig.core().replica(GroupId(1)).expect("there").log_bytes() <= config.log_bytes_max);
    }
    let before = rig.status(1).expect("there");
    rig.restart();
    rig.pass(Duration::from_secs(1));
    let after = rig.status(1).expect("there");
    assert_eq!(after.applied_index, before.applied_index.next(), "all of it, and the empty entry of a new term");
    assert!(rig.core().replica(GroupId(1)).expect("there").log_bytes() <= config.log_bytes_max);
}

#[test]
fn a_failed_write_latches_the_core_and_everybody_is_told() {
    for target in [FaultTarget::Write, FaultTarget::Any] {
        let mut rig = Rig::new(config());
        rig.create_group(1, 1).expect("a new group");
        rig.settle();
        rig.disk.inject_fault(target, 0, EIO);
        let answer = rig.propose(1, b"lost?");
        rig.settle();
        assert_eq!(rig.answer(&answer), unknown(Unknown::WalFailed));
        assert!(matches!(&rig.notices[..], [Notice::WalFailed { .. }]), "{:?}", rig.notices);
        assert!(rig.notices[0].to_string().contains("segment-"), "it names the file: {}", rig.notices[0]);
        assert!(rig.notices[0].to_string().contains("see to the disk"), "it says what to do: {}", rig.notices[0]);
        let later = rig.propose(1, b"never");
        rig.settle();
        assert_eq!(rig.answer(&later), not_proposed(NotProposed::WalFailed));
        assert_eq!(rig.create_group(2, 1), Err(CreateGroupError::WalFailed));
        assert_eq!(rig.status(1).expect("the group is here").role, RoleName::Follower);
        rig.shut_down();
    }
}

#[test]
fn a_panicking_machine_stops_its_group_alone() {
    let mut rig = Rig::new(config());
    rig.create_group(1, 1).expect("a new group");
    rig.create_group(2, 1).expect("a new group");
    rig.settle();
    let poison = rig.propose(1, b"panic");
    let other = rig.propose(2, b"fine");
    rig.settle();
    assert_eq!(rig.answer(&poison), unknown(Unknown::GroupFailed));
    assert!(rig.answer(&other).expect("answered").is_ok());
    let later = rig.propose(1, b"more");
    rig.settle();
    assert_eq!(rig.answer(&later), not_proposed(NotProposed::GroupFailed));
    assert_eq!(rig.status(1).expect("the group is here").role, RoleName::Failed);
}

#[test]
fn without_a_majority_a_proposal_is_unknown_after_its_time_out() {
    let mut rig = Rig::new(config());
    // Two voters, of which only one lives: elected before the other went silent it can't be, so nobody leads.
    rig.create_group_with(1, &[1, 2]).expect("a new group");
    let answer = rig.propose(1, b"x");
    rig.settle();
    assert_eq!(rig.answer(&answer), not_proposed(NotProposed::NotLeader { leader: None }));

    rig.create_group(2, 1).expect("a new group");
    rig.settle();
    rig.hold_disk = true;
    let stuck = rig.propose(2, b"x");
    rig.pass(Duration::from_millis(900));
    assert!(rig.answer(&stuck).is_none());
    rig.pass(Duration::from_millis(300));
    assert_eq!(rig.answer(&stuck), unknown(Unknown::TimedOut));
}

#[test]
fn proposals_expire_while_the_disk_stands_still_and_the_batch_is_full() {
    let mut config = config();
    config.raft.uncommitted_bytes_max = 10 << 20;
    config.log_bytes_max = 10 << 20;
    let mut rig = Rig::new(config);
    // Two groups, so that the second is not polled any more when the first has filled the batch.
    rig.create_group(1, 1).expect("a new group");
    rig.create_group(2, 1).expect("a new group");
    rig.settle();
    rig.hold_disk = true;
    let mut waiting = Vec::new();
    for _ in 0..200 {
        waiting.push(rig.propose(1, &[7; 4000]));
        waiting.push(rig.propose(2, &[7; 4000]));
        rig.settle();
    }
    rig.pass(Duration::from_millis(1300));
    assert!(waiting.iter().all(|answer| rig.answer(answer).is_some()), "everybody is answered");
}

#[test]
fn a_machine_that_cannot_be_opened_leaves_nothing_behind() {
    let mut rig = Rig::new(config());
    rig.machines_claim(5);
    let refused = rig.create_group(1, 1);
    assert!(matches!(refused, Err(CreateGroupError::Machine { .. })), "{refused:?}");
    rig.machines_claim(0);
    rig.create_group(1, 1).expect("nothing stands in the way");
    rig.restart();
    assert!(rig.status(1).is_some());
}

#[test]
fn a_shutdown_finishes_what_is_under_way() {
    let mut rig = Rig::new(config());
    rig.create_group(1, 1).expect("a new group");
    rig.settle();
    rig.hold_disk = true;
    let under_way = rig.propose(1, b"x");
    rig.settle();
    let ended = rig.begin_shutdown();
    let late = rig.propose(1, b"y");
    rig.settle();
    assert_eq!(rig.answer(&late), not_proposed(NotProposed::ShuttingDown));
    assert!(ended.try_recv().is_err());
    rig.hold_disk = false;
    rig.settle();
    assert!(rig.answer(&under_way).expect("answered").is_ok());
    assert!(ended.try_recv().is_ok());
}

#[test]
fn strangers_and_garbage_are_turned_away() {
    let mut rig = Rig::new(config());
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], &[0; 64], b"RYDF\x01", b"RYDF\x02\x04\0\0\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0"]
    {
        let link = rig.accept();
        rig.bytes(link, bytes);
        assert!(rig.closed.contains(&link), "{bytes:?}");
    }
    let silent = rig.accept();
    rig.pass(Duration::from_secs(6));
    assert!(rig.closed.contains(&silent), "nobody may hold a connection without a word");
}

#[test]
fn a_restart_serves_what_was_acknowledged() {
    let mut rig = Rig::new(config());
    rig.create_group(1, 1).expect("a new group");
    rig.settle();
    let answer = rig.propose(1, b"kept");
    rig.settle();
    assert!(rig.answer(&answer).expect("answered").is_ok());
    rig.restart();
    rig.pass(Duration::from_secs(3));
    assert_eq!(rig.applied(1), [Bytes::from_static(b"kept")]);
}
