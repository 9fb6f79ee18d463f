//! Replicas that are limited, driven by hand: what a log and a bound have to do with each other in the corners that honest
//! disks seldom get to.

use bytes::Bytes;
use raftyard_raft::{
    Base, Body, CampaignError, Configuration, Entry, EntryKind, GroupId, HardState, Instant, Limit, LogIndex,
    LogPosition, Member, Message, NodeId, Raft, ReplicaId, Restored, Sender, Settings, Term,
};
use std::sync::Arc;

pub(crate) fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(term) }
}

pub(crate) fn entry((index, term): (u64, u64)) -> Entry {
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Command, data: Bytes::from_static(b"x") }
}

/// One of three, with these entries in term 5.
fn open(entries: &[(u64, u64)], limit: Limit, machine: Option<LogPosition>) -> Raft {
    let member = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
    let configuration = Arc::new(Configuration::new((1..=3).map(member).collect()).unwrap());
    let machine = machine.map(|position| Base { position, ..Base::initial(Arc::clone(&configuration)) });
    let restored = Restored {
        hard_state: HardState { term: Term(5), vote: None },
        entries: entries.iter().copied().map(entry).collect(),
        limit,
        machine,
        ..Restored::fresh(configuration)
    };
    Raft::new(GroupId(1), ReplicaId(1), restored, Arc::new(Settings::default()), Instant(0), 1).unwrap()
}

pub(crate) fn take(raft: &mut Raft, term: u64, body: Body<'_>) {
    let (from, to) = (ReplicaId(2), ReplicaId(1));
    let message = Message { group: GroupId(1), from, to, term: Term(term), body };
    raft.handle_message(Instant(0), Sender { node: NodeId(2), keeps_promises: false }, message).unwrap();
}

/// Makes all durable that is to be made so, and says what was said of the limit.
pub(crate) fn persist(raft: &mut Raft) -> Vec<Limit> {
    let mut told = Vec::new();
    while let Some(persist) = raft.poll_persist(usize::MAX) {
        told.extend(persist.limit);
        let receipt = persist.receipt;
        raft.handle_persisted(receipt);
    }
    told
}

/// It asks for both: what it lost may be older by term than what it has, which the lost part had replaced.
#[test]
fn a_vote_needs_a_log_as_new_as_the_bound_and_as_ones_own() {
    let votes = |bound: LogPosition, candidate: LogPosition| {
        let mut raft = open(&[(1, 1), (2, 3)], Limit::Bound(bound), None);
        take(&mut raft, 6, Body::Vote { last: candidate, transfer: false });
        raft.vote() == Some(ReplicaId(2))
    };
    assert!(!votes(at(2, 2), at(2, 2)), "its own end is newer");
    assert!(!votes(at(2, 4), at(2, 3)), "the bound is newer");
    assert!(votes(at(2, 2), at(2, 3)) && votes(at(2, 4), at(2, 4)));
}

/// Its own log ends above the bound, but what a leader has verified of it doesn't reach so far.
#[test]
fn a_limit_ends_by_what_a_leader_verified() {
    let mut raft = open(&[(1, 1), (2, 3)], Limit::Bound(at(2, 2)), None);
    take(&mut raft, 5, Body::Append { previous: at(1, 1), commit: LogIndex(0), entries: (&[], &[]) });
    assert_eq!(
        (raft.limit(), raft.campaign(Instant(u64::MAX >> 1))),
        (Limit::Bound(at(2, 2)), Err(CampaignError::Limited))
    );
    take(&mut raft, 5, Body::Append { previous: at(1, 1), commit: LogIndex(0), entries: (&[entry((2, 4))], &[]) });
    assert_eq!(raft.limit(), Limit::None, "2@4 is above 2@2");
    assert!(raft.deadline().is_some(), "it may campaign");
    let first = raft.poll_persist(usize::MAX).map(|persist| persist.limit);
    assert_eq!(first, Some(None), "that is not durable yet");
}

#[test]
fn a_limit_ends_where_the_bound_is_there_again() {
    let mut raft = open(&[(1, 1)], Limit::Bound(at(2, 2)), None);
    take(&mut raft, 5, Body::Append { previous: at(1, 1), commit: LogIndex(0), entries: (&[entry((2, 2))], &[]) });
    assert_eq!(raft.limit(), Limit::None);
    assert_eq!(persist(&mut raft), [Limit::None]);
    assert_eq!(persist(&mut raft), [], "once");
}

/// It is cut off again before it is durable. It was whole, so it is.
#[test]
fn what_ended_a_limit_may_be_replaced() {
    let mut raft = open(&[(1, 1)], Limit::Bound(at(3, 2)), None);
    let entries = [(2, 2), (3, 2)].map(entry);
    take(&mut raft, 5, Body::Append { previous: at(1, 1), commit: LogIndex(0), entries: (&entries, &[]) });
    take(&mut raft, 6, Body::Append { previous: at(1, 1), commit: LogIndex(0), entries: (&[entry((2, 6))], &[]) });
    assert_eq!((raft.limit(), raft.last()), (Limit::None, at(2, 6)));
    assert_eq!(persist(&mut raft), [Limit::None]);
}

/// A snapshot whose index is above that of the bound, but whose term is below, proves nothing where two logs were lost.
#[test]
fn a_state_machine_ends_a_limit_that_it_is_not_below() {
    let limit = |machine| open(&[(1, 1)], Limit::Bound(at(4, 3)), Some(machine)).limit();
    assert_eq!(limit(at(1, 1)), Limit::Bound(at(4, 3)));
    assert_eq!(limit(at(3, 3)), Limit::Bound(at(4, 3)));
    assert_eq!(limit(at(9, 2)), Limit::Bound(at(4, 3)));
    assert_eq!(limit(at(4, 3)), Limit::None);
    assert_eq!(limit(at(2, 4)), Limit::None);
}

/// A snapshot was installed when the node went down, and the term of the leader that sent it was not durable.
#[test]
fn a_state_machine_may_be_of_a_later_term() {
    let mut raft = open(&[(1, 1)], Limit::None, Some(at(7, 6)));
    let persist = raft.poll_persist(usize::MAX).unwrap();
    assert_eq!(persist.hard_state, Some(HardState { term: Term(6), vote: None }));
    assert_eq!(persist.base.map(|base| base.position), Some(at(7, 6)));
    assert_eq!((raft.term(), raft.last(), raft.applied()), (Term(6), at(7, 6), LogIndex(7)));
}

/// Whatever it is told, and whatever its state machine holds.
#[test]
fn who_lost_everything_says_nothing_not_even_to_its_disk() {
    let mut raft = open(&[(1, 1)], Limit::Amnesia, Some(at(7, 6)));
    take(&mut raft, 9, Body::Vote { last: at(9, 8), transfer: true });
    take(&mut raft, 9, Body::Append { previous: at(7, 6), commit: LogIndex(8), entries: (&[entry((8, 8))], &[]) });
    take(&mut raft, 9, Body::Heartbeat { commit: LogIndex(7), sent: Instant(5) });
    raft.handle_deadline(Instant(u64::MAX >> 1));
    assert!(raft.poll_persist(usize::MAX).is_none() && raft.poll_message().is_none());
    assert!(raft.poll_committed(usize::MAX).is_none() && raft.poll_fetch().is_none() && raft.deadline().is_none());
    assert_eq!((raft.vote(), raft.leader(), raft.limit()), (None, None, Limit::Amnesia));
}
