//! Messages that no correct replica sends: whatever a peer says, a replica never panics, and what it refuses changes
//! nothing.

use crate::cluster::{Cluster, GROUP, fresh, settings};
use crate::dice::Dice;
use crate::disk::Disk;
use crate::random::settle;
use bytes::Bytes;
use raftyard_raft::{
    Body, Configuration, ConfigurationEntry, Entry, EntryKind, Fetch, GroupId, Instant, Limit, LogIndex, LogPosition,
    Member, MemberChange, Message, MessageError, NodeId, Raft, ReadTicket, Receipt, ReplicaId, Role, Sender, Settings,
    Term,
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
        at.index = if dice.once_in(8) { index(dice) } else { LogIndex(at.index.0.wrapping_add(1)) };
        at.term = if dice.once_in(6) { Term(number(dice)) } else { Term(at.term.0.max(1)) };
        let kind = [EntryKind::Command, EntryKind::Empty, EntryKind::Configuration][dice.below(9) / 4];
        let data = match kind {
            EntryKind::Configuration if dice.below(4) > 0 => {
                let configuration = configurations()[dice.below(4)].clone();
                ConfigurationEntry { configuration, context: Bytes::new(), forced: dice.once_in(8) }.encode()
            }
            _ => Bytes::from_static(b"hostile"),
        };
        entries.push(Entry { term: at.term, index: at.index, kind, data });
    }
    entries
}

/// With and without the replica, joint and not.
fn configurations() -> &'static [Configuration; 4] {
    static ALL: std::sync::OnceLock<[Configuration; 4]> = std::sync::OnceLock::new();
    ALL.get_or_init(|| {
        let member = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
        let three = Configuration::new((1..=3).map(member).collect()).unwrap();
        let joint = three.changed(&[MemberChange::Remove(ReplicaId(3)), MemberChange::AddVoter(member(4))]).unwrap();
        let without = three.changed(&[MemberChange::Remove(ReplicaId(1))]).unwrap();
        [three.clone(), joint, without, three.changed(&[MemberChange::Demote(ReplicaId(1))]).unwrap()]
    })
}

fn body<'a>(dice: &mut Dice, raft: &Raft, previous: LogPosition, entries: &'a [Entry]) -> Body<'a> {
    let granted = dice.once_in(2);
    match dice.below(18) {
        0 => Body::PreVote { last: position(dice, raft), priority: dice.below(3) as u8 },
        1 => Body::PreVoteAnswer { granted },
        2 => Body::Vote { last: position(dice, raft), transfer: granted },
        3 => Body::VoteAnswer { granted },
        4..8 => Body::Append { previous, commit: index(dice), entries: entries.split_at(entries.len() / 2) },
        8 | 9 => Body::AppendAccepted { matched: index(dice) },
        10 => {
            Body::AppendRejected { rejected: index(dice), last: index(dice), hint: position(dice, raft), lost: granted }
        }
        11 => Body::HeartbeatAnswer { sent: Instant(number(dice)), lost: granted },
        12 => Body::TimeoutNow { last: index(dice) },
        13 => Body::NotMember { index: index(dice) },
        14 => Body::ReadRequest { id: number(dice) },
        15 => Body::ReadAnswer { id: number(dice), index: granted.then(|| index(dice)) },
        16 => {
            let configuration = &configurations()[dice.below(4)];
            Body::Snapshot { last: position(dice, raft), configuration, configuration_index: index(dice) }
        }
        _ => Body::Heartbeat { commit: index(dice), sent: Instant(number(dice)) },
    }
}

/// A message from the node that has the number of its replica.
fn sender(from: u64) -> Sender {
    Sender { node: NodeId(from), keeps_promises: true }
}

/// Makes the replica lead, by the answers of an accomplice.
fn elect(raft: &mut Raft, now: Instant) {
    let _ = raft.campaign(now.max(raft.promise()));
    for body in [Body::PreVoteAnswer { granted: true }, Body::VoteAnswer { granted: true }] {
        let asking = matches!(body, Body::PreVoteAnswer { .. });
        let term = Term(raft.term().0 + u64::from(asking));
        let message = Message { group: GROUP, from: ReplicaId(2), to: ReplicaId(1), term, body };
        let _ = raft.handle_message(now, sender(2), message);
        while let Some(persist) = raft.poll_persist(usize::MAX) {
            let receipt = persist.receipt;
            raft.handle_persisted(receipt);
        }
    }
}

fn fingerprint(raft: &Raft) -> String {
    format!("{raft:?}")
}

/// What a replica may be when garbage arrives: also one that knows nobody yet.
fn start(seed: u64) -> Cluster {
    let mut disks = fresh(3);
    if seed.is_multiple_of(5) {
        disks[0] = Some(Disk::fresh(Configuration::joining()));
    }
    if let (Some(disk), 3 | 5) = (&mut disks[0], seed % 7) {
        let bound = LogPosition { index: LogIndex(4), term: Term(2) };
        disk.limit = if seed % 7 == 3 { Limit::Bound(bound) } else { Limit::Amnesia };
        disk.hard.term = Term(2);
    }
    let leases = seed.is_multiple_of(2);
    Cluster::new(disks, Settings { leases, ..settings() }, seed)
}

/// Names the kind of a message, as a row of a table.
fn kind(body: &Body<'_>) -> usize {
    match body {
        Body::PreVote { .. } => 0,
        Body::PreVoteAnswer { .. } => 1,
        Body::Vote { .. } => 2,
        Body::VoteAnswer { .. } => 3,
        Body::Append { .. } => 4,
        Body::AppendAccepted { .. } => 5,
        Body::AppendRejected { .. } => 6,
        Body::Heartbeat { .. } => 7,
        Body::HeartbeatAnswer { .. } => 8,
        Body::TimeoutNow { .. } => 9,
        Body::NotMember { .. } => 10,
        Body::ReadRequest { .. } => 11,
        Body::ReadAnswer { .. } => 12,
        Body::Snapshot { .. } => 13,
    }
}
const KINDS: usize = 14;

/// Something that the replica's own node does to it.
fn command(dice: &mut Dice, raft: &mut Raft, now: Instant, tickets: &mut Vec<ReadTicket>) {
    let peer = ReplicaId(1 + dice.below(4) as u64);
    match dice.below(20) {
        0 => raft.beat(now),
        1 | 2 => elect(raft, now),
        3 => drop(raft.propose(Bytes::from_static(b"mine"))),
        4 => tickets.extend(raft.read_index(now)),
        5 => drop(raft.transfer_leadership(now, peer)),
        6 => {
            let member = Member { replica: ReplicaId(number(dice)), node: NodeId(number(dice)) };
            let replica = member.replica;
            let changes = [
                MemberChange::AddVoter(member),
                MemberChange::AddLearner(member),
                MemberChange::Remove(replica),
                MemberChange::Promote(replica),
                MemberChange::Demote(replica),
            ];
            let first = dice.below(5);
            let _ = raft.change_membership(&changes[first..(first + 1 + dice.below(2)).min(5)], Bytes::new());
        }
        7 => drop(raft.compact(index(dice))),
        8 => raft.handle_deadline(now),
        9 => drop(raft.campaign(now)),
        10 => drop(raft.campaign(now.max(raft.promise()))),
        11 => raft.handle_snapshot_failed(peer),
        12 => raft.handle_unreachable(peer),
        13 => raft.handle_reachable(peer),
        14 => raft.set_priority(dice.below(3) as u8),
        15 if dice.once_in(4) => {
            let learner = Member { replica: ReplicaId(number(dice)), node: NodeId(number(dice)) };
            let _ = raft.force_membership(now, vec![learner; dice.below(3)]);
        }
        16 if dice.once_in(4) => raft.step_down(now),
        17 => drop(raft.evict(index(dice))),
        _ => {}
    }
    let _ = raft.lease_read(now);
    for ticket in &*tickets {
        let _ = raft.read_state(ticket);
    }
    tickets.truncate(4);
}

/// Polls a replica as its contract says. Its disk is quick, or slow up to 3.
fn turn(dice: &mut Dice, raft: &mut Raft, receipts: &mut Vec<Receipt>, slow: usize) {
    while let Some(persist) = raft.poll_persist(1 + dice.below(1_000)) {
        receipts.push(persist.receipt);
    }
    if dice.below(4) >= slow {
        for receipt in receipts.drain(..) {
            raft.handle_persisted(receipt);
        }
    }
    for _ in 0..200 {
        if raft.poll_message().is_none() {
            break;
        }
    }
    while raft.poll_committed(100).is_some() {}
    while let Some(fetch) = raft.poll_fetch() {
        // Its own disk lies too, at times about what nobody asked.
        let mut other: Fetch = fetch;
        (other.first, other.last) = (LogIndex(1), index(dice));
        for fetch in [fetch, other] {
            match dice.below(3) {
                0 => raft.handle_fetch_failed(fetch),
                1 => {
                    let term = raft.entry_term(fetch.first).unwrap_or_default();
                    let previous = LogPosition { index: fetch.first.previous(), term };
                    raft.handle_fetched(fetch, entries(dice, previous));
                }
                _ => {}
            }
        }
        if dice.once_in(2) {
            break;
        }
    }
}

/// `RAFTYARD_HOSTILE=n` sends garbage to so many replicas.
#[test]
fn garbage_never_panics_and_what_is_refused_changes_nothing() {
    let replicas = std::env::var("RAFTYARD_HOSTILE").map_or(500, |n| n.parse().expect("a number"));
    let mut refused = 0;
    // What was taken, by kind of message and by role.
    let mut taken = [[0u32; 4]; KINDS];
    for seed in 1..=replicas {
        let mut dice = Dice(seed);
        let mut cluster = start(seed);
        let mut now = cluster.now;
        let raft = cluster.raft(1).unwrap();
        let (mut tickets, mut receipts) = (Vec::new(), Vec::new());
        for _ in 0..200 {
            let previous = position(&mut dice, raft);
            let entries = entries(&mut dice, previous);
            // Mostly the term the replica is in or asks about, so that it gets to lead and to follow.
            let term = match dice.below(60) {
                0 => Term(number(&mut dice)),
                1..16 => Term(raft.term().0.wrapping_add(1)),
                _ => raft.term(),
            };
            let to = ReplicaId(1 + u64::from(dice.once_in(20)));
            let group = if dice.once_in(20) { GroupId(1) } else { GROUP };
            let from = ReplicaId([2, 3, dice.below(5)][dice.below(3)] as u64);
            let message = Message { group, from, to, term, body: body(&mut dice, raft, previous, &entries) };
            let (before, role) = (fingerprint(raft), raft.role());
            if raft.handle_message(now, sender(from.0), message).is_err() {
                refused += 1;
                assert_eq!(before, fingerprint(raft), "refused, but not without effect: {message:?}");
            } else {
                taken[kind(&message.body)][role as usize] += 1;
            }
            command(&mut dice, raft, now, &mut tickets);
            turn(&mut dice, raft, &mut receipts, seed as usize % 4);
            now.0 += [0, 0, 0, dice.below(90) as u64][dice.below(4)];
        }
    }
    println!("{refused} refused; taken, by kind, as follower, pre-candidate, candidate, leader: {taken:?}");
    assert!(refused > 10 * replicas, "only {refused} refused");
    assert!(taken.iter().flatten().all(|count| *count > 0), "garbage of every kind must reach every role: {taken:?}");
}

/// A leader whose three replicas hold one command.
fn settled() -> Cluster {
    let mut cluster = Cluster::new(fresh(3), settings(), 1);
    let now = cluster.now;
    cluster.raft(1).unwrap().campaign(now).unwrap();
    cluster.turn(1);
    settle(&mut cluster);
    cluster.propose(1, "one").unwrap();
    cluster.turn(1);
    settle(&mut cluster);
    cluster.raft(1).unwrap().beat(now);
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
        cluster.raft(to).unwrap().handle_message(now, sender(from), message).expect_err("a lie is refused")
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
    assert_eq!(tell(2, 3, term, Body::Heartbeat { commit: LogIndex(0), sent: now }), error);
    assert_eq!(tell(1, 3, term, Body::Heartbeat { commit: LogIndex(0), sent: now }), error);
    let error = MessageError::BeyondLog { index: LogIndex(9), last: LogIndex(2) };
    assert_eq!(tell(2, 1, term, Body::Heartbeat { commit: LogIndex(9), sent: now }), error);
    assert_eq!(tell(1, 2, term, Body::AppendAccepted { matched: LogIndex(9) }), error);
    let answer = Body::HeartbeatAnswer { sent: Instant(0), lost: false };
    assert_eq!(tell(2, 2, term, answer), MessageError::NoPeer(ReplicaId(2)));
    assert_eq!(tell(2, 0, term, answer), MessageError::NoPeer(ReplicaId(0)));
    assert_eq!(tell(2, 1, Term(u64::MAX), answer), MessageError::OutOfRange);
    let future = Body::HeartbeatAnswer { sent: Instant(now.0 + 1), lost: false };
    assert_eq!(tell(1, 2, term, future), MessageError::OutOfRange, "nobody heard it yet");
    assert_eq!(tell(2, 1, term, Body::Vote { last: at(0, 1), transfer: false }), MessageError::OutOfRange);
    let garbage = [Entry { kind: EntryKind::Configuration, ..entry(3, 1) }];
    assert_eq!(tell(2, 1, term, append(at(2, 1), &garbage)), MessageError::NoConfiguration(LogIndex(3)));
    let joining = Configuration::joining();
    let empty = Body::Snapshot { last: at(3, 1), configuration: &joining, configuration_index: LogIndex(0) };
    assert_eq!(tell(2, 1, term, empty), MessageError::OutOfRange);
}

/// A replica speaks from the node that holds it; one that nobody knows may be new, but can't lead with others' answers.
#[test]
fn the_node_of_a_message_counts() {
    let mut cluster = settled();
    let now = cluster.now;
    let body = Body::AppendAccepted { matched: LogIndex(2) };
    let mut message = Message { group: GROUP, from: ReplicaId(3), to: ReplicaId(1), term: Term(1), body };
    let raft = cluster.raft(1).unwrap();
    let (replica, node) = (ReplicaId(3), NodeId(2));
    assert_eq!(raft.handle_message(now, sender(2), message), Err(MessageError::WrongNode { replica, node }));
    message.from = ReplicaId(9);
    message.term = Term(8);
    assert_eq!(raft.handle_message(now, sender(9), message), Ok(()));
    assert_eq!((raft.term(), raft.role()), (Term(1), Role::Leader), "a stranger's answer is nobody's");
}

/// Who lacks what the leader has can't win, and would only end its term.
#[test]
fn who_lacks_entries_takes_no_leadership_over() {
    let mut cluster = settled();
    let now = cluster.now;
    let raft = cluster.raft(2).unwrap();
    for (last, role) in [(3, Role::Follower), (2, Role::Candidate)] {
        let body = Body::TimeoutNow { last: LogIndex(last) };
        let message = Message { group: GROUP, from: ReplicaId(1), to: ReplicaId(2), term: Term(1), body };
        raft.handle_message(now, sender(1), message).unwrap();
        assert_eq!(raft.role(), role, "it has 2 entries, and the leader has {last}");
    }
}
