//! Messages that no correct replica sends: whatever a peer says, a replica never panics, and what it refuses changes
//! nothing.

use crate::cluster::{Cluster, Disk, GROUP, settings};
use crate::random::{Dice, settle};
use bytes::Bytes;
use raftyard_raft::{
    Body, Entry, EntryKind, GroupId, Instant, LogIndex, LogPosition, Message, MessageError, Raft, ReplicaId, Role, Term,
};

/// A number that is likely to hurt: near what the replica holds, or at an end of the range.
fn number(dice: &mut Dice) -> u64 {
    match dice.below(12) {
        0 => u64::MAX - dice.below(3) as u64,
        1 => (u64::MAX >> 1).wrapping_add(dice.below(3) as u64).wrapping_sub(1),
        2 => 0,
        _ => dice.below(9) as u64,
    }
}

fn index(dice: &mut Dice) -> LogIndex {
    LogIndex(number(dice))
}

/// Often one that the replica holds.
fn position(dice: &mut Dice, raft: &Raft) -> LogPosition {
    let index = index(dice);
    let term = raft.entry_term(index).filter(|_| dice.below(4) > 0).unwrap_or_else(|| Term(number(dice)));
    LogPosition { index, term: if index == LogIndex(0) && dice.below(8) > 0 { Term(0) } else { term } }
}

/// Entries that often follow `previous` as they should.
fn entries(dice: &mut Dice, previous: LogPosition) -> Vec<Entry> {
    let mut at = previous;
    let mut entries = Vec::new();
    for _ in 0..dice.below(4) {
        at.index = if dice.below(8) == 0 { index(dice) } else { LogIndex(at.index.0.wrapping_add(1)) };
        at.term = if dice.below(6) == 0 { Term(number(dice)) } else { Term(at.term.0.max(1)) };
        let data = Bytes::from_static(b"hostile");
        entries.push(Entry { term: at.term, index: at.index, kind: EntryKind::Command, data });
    }
    entries
}

fn body<'a>(dice: &mut Dice, raft: &Raft, previous: LogPosition, entries: &'a [Entry]) -> Body<'a> {
    let granted = dice.below(2) == 0;
    match dice.below(10) {
        0 => Body::PreVote { last: position(dice, raft) },
        1 => Body::PreVoteAnswer { granted },
        2 => Body::Vote { last: position(dice, raft) },
        3 => Body::VoteAnswer { granted },
        4 | 5 => Body::Append { previous, commit: index(dice), entries: entries.split_at(entries.len() / 2) },
        6 => Body::AppendAccepted { matched: index(dice) },
        7 => Body::AppendRejected { rejected: index(dice), last: index(dice), hint: position(dice, raft) },
        8 => Body::HeartbeatAnswer,
        _ => Body::Heartbeat { commit: index(dice) },
    }
}

/// Makes the replica lead, by the answers of an accomplice.
fn elect(raft: &mut Raft, now: Instant) {
    raft.campaign(now);
    for body in [Body::PreVoteAnswer { granted: true }, Body::VoteAnswer { granted: true }] {
        let asking = matches!(body, Body::PreVoteAnswer { .. });
        let term = Term(raft.term().0 + u64::from(asking));
        let message = Message { group: GROUP, from: ReplicaId(2), to: ReplicaId(1), term, body };
        let _ = raft.handle_message(now, message);
        while let Some(persist) = raft.poll_persist(usize::MAX) {
            let receipt = persist.receipt;
            raft.handle_persisted(receipt);
        }
    }
}

fn fingerprint(raft: &Raft) -> String {
    format!("{raft:?}")
}

#[test]
fn garbage_never_panics_and_what_is_refused_changes_nothing() {
    let (mut refused, mut led) = (0, 0);
    for seed in 1..400 {
        let mut dice = Dice(seed);
        let mut cluster = Cluster::new(vec![Disk::default(); 3], settings(), seed);
        let now = cluster.now;
        let raft = cluster.raft(1).unwrap();
        for _ in 0..200 {
            let previous = position(&mut dice, raft);
            let entries = entries(&mut dice, previous);
            // Mostly the term the replica is in or asks about, so that it gets to lead and to follow.
            let term = match dice.below(60) {
                0 => Term(number(&mut dice)),
                1..16 => Term(raft.term().0 + 1),
                _ => raft.term(),
            };
            let to = ReplicaId(1 + u64::from(dice.below(20) == 0));
            let group = if dice.below(20) == 0 { GroupId(1) } else { GROUP };
            let from = ReplicaId([2, 3, dice.below(5)][dice.below(3)] as u64);
            let message = Message { group, from, to, term, body: body(&mut dice, raft, previous, &entries) };
            let before = fingerprint(raft);
            if raft.handle_message(now, message).is_err() {
                refused += 1;
                assert_eq!(before, fingerprint(raft), "refused, but not without effect: {message:?}");
            }
            match dice.below(16) {
                0 => raft.beat(),
                1 => elect(raft, now),
                2 => drop(raft.propose(Bytes::from_static(b"mine"))),
                _ => {}
            }
            while let Some(persist) = raft.poll_persist(1 + dice.below(1_000)) {
                let receipt = persist.receipt;
                raft.handle_persisted(receipt);
            }
            for _ in 0..50 {
                if raft.poll_message().is_none() {
                    break;
                }
            }
            while raft.poll_committed(100).is_some() {}
            led += usize::from(raft.role() == Role::Leader);
        }
    }
    println!("{refused} refused, {led} while leading");
    assert!(
        refused > 10_000 && led > 1_000,
        "the garbage must reach all roles: {refused} refused, {led} while leading"
    );
}

/// A leader whose three replicas hold one command.
fn settled() -> Cluster {
    let mut cluster = Cluster::new(vec![Disk::default(); 3], settings(), 1);
    let now = cluster.now;
    cluster.raft(1).unwrap().campaign(now);
    cluster.turn(1);
    settle(&mut cluster);
    cluster.propose(1, "one").unwrap();
    cluster.turn(1);
    settle(&mut cluster);
    cluster.raft(1).unwrap().beat();
    cluster.turn(1);
    settle(&mut cluster);
    assert_eq!(cluster.raft(2).unwrap().commit(), LogIndex(2));
    cluster
}

#[test]
fn lies_are_told_apart() {
    let mut cluster = settled();
    let now = cluster.now;
    let term = Term(1);
    let at = |index, term| LogPosition { index: LogIndex(index), term: Term(term) };
    let entry = |index, term| Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Command,
        data: Bytes::from_static(b"lie"),
    };
    let mut tell = |to: usize, from: u64, term: Term, body: Body<'_>| {
        let message = Message { group: GROUP, from: ReplicaId(from), to: ReplicaId(to as u64), term, body };
        cluster.raft(to).unwrap().handle_message(now, message).expect_err("a lie is refused")
    };
    let append = |previous, entries| Body::Append { previous, commit: LogIndex(0), entries: (entries, &[]) };
    let gap = [entry(3, 1), entry(5, 1)];
    let (expected, found) = (LogIndex(4), LogIndex(5));
    assert_eq!(tell(2, 1, term, append(at(2, 1), &gap)), MessageError::NotContiguous { expected, found });
    let back = [entry(3, 3), entry(4, 2)];
    let error = MessageError::TermOutOfOrder { index: LogIndex(4), term: Term(2) };
    assert_eq!(tell(2, 1, Term(3), append(at(2, 1), &back)), error);
    let other = [entry(2, 3)];
    let error = MessageError::ContradictsCommitted { index: LogIndex(2), commit: LogIndex(2) };
    assert_eq!(tell(2, 3, Term(3), append(at(1, 1), &other)), error);
    let error = MessageError::SecondLeader { from: ReplicaId(3), term };
    assert_eq!(tell(2, 3, term, Body::Heartbeat { commit: LogIndex(0) }), error);
    assert_eq!(tell(1, 3, term, Body::Heartbeat { commit: LogIndex(0) }), error);
    let error = MessageError::BeyondLog { index: LogIndex(9), last: LogIndex(2) };
    assert_eq!(tell(2, 1, term, Body::Heartbeat { commit: LogIndex(9) }), error);
    assert_eq!(tell(1, 2, term, Body::AppendAccepted { matched: LogIndex(9) }), error);
    assert_eq!(tell(2, 9, term, Body::HeartbeatAnswer), MessageError::UnknownSender(ReplicaId(9)));
    assert_eq!(tell(2, 2, term, Body::HeartbeatAnswer), MessageError::UnknownSender(ReplicaId(2)));
    assert_eq!(tell(2, 1, Term(u64::MAX), Body::HeartbeatAnswer), MessageError::OutOfRange);
    assert_eq!(tell(2, 1, term, Body::Vote { last: at(0, 1) }), MessageError::OutOfRange);
}
