//! Receipts and what a crash may have left: driven by hand, because correct peers don't get a replica there on
//! purpose.

use bytes::Bytes;
use raftyard_raft::{
    Base, Body, Configuration, Entry, EntryKind, GroupId, Instant, Limit, LogIndex, LogPosition, Member, Message,
    NodeId, Paged, Raft, Receipt, ReplicaId, RestoreError, Restored, Role, Sender, Settings, Term,
};
use std::sync::Arc;

fn fresh() -> Restored {
    let member = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
    Restored::fresh(Arc::new(Configuration::new((1..=3).map(member).collect()).unwrap()))
}

fn open(restored: Restored) -> Result<Raft, RestoreError> {
    Raft::new(GroupId(1), ReplicaId(1), restored, Arc::new(Settings::default()), Instant(0), 1)
}

fn sender(from: ReplicaId) -> Sender {
    Sender { node: NodeId(from.0), keeps_promises: false }
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Command, data: Bytes::from_static(b"x") }
}

fn append(raft: &mut Raft, term: u64, previous: (u64, u64), entries: &[Entry]) -> Receipt {
    let previous = LogPosition { index: LogIndex(previous.0), term: Term(previous.1) };
    let body = Body::Append { previous, commit: LogIndex(0), entries: (entries, &[]) };
    let message =
        Message { group: GroupId(1), from: ReplicaId(2 + term % 2), to: ReplicaId(1), term: Term(term), body };
    raft.handle_message(Instant(0), sender(message.from), message).unwrap();
    raft.poll_persist(usize::MAX).unwrap().receipt
}

/// An entry is written, replaced by another, and comes again: the same index and term, but the end of its first write
/// must not count for its second, because the write in between will have replaced it.
#[test]
fn the_same_entry_written_twice_is_durable_the_second_time() {
    let mut raft = open(fresh()).unwrap();
    let first = append(&mut raft, 2, (0, 0), &[entry(1, 2), entry(2, 2)]);
    let replaced = append(&mut raft, 3, (1, 2), &[entry(2, 3)]);
    let again = append(&mut raft, 4, (1, 2), &[entry(2, 2), entry(3, 4)]);
    raft.handle_persisted(first);
    assert_eq!(raft.durable(), LogIndex(0));
    raft.handle_persisted(replaced);
    assert_eq!(raft.durable(), LogIndex(0));
    raft.handle_persisted(again);
    assert_eq!(raft.durable(), LogIndex(3));
}

/// A candidate's own vote of an earlier term says nothing about this one's.
#[test]
fn a_vote_counts_when_it_is_durable_and_in_its_own_term_only() {
    let mut raft = open(fresh()).unwrap();
    let answer = |raft: &mut Raft, from: u64, term: u64, body| {
        let message = Message { group: GroupId(1), from: ReplicaId(from), to: ReplicaId(1), term: Term(term), body };
        raft.handle_message(Instant(0), sender(message.from), message).unwrap();
    };
    raft.campaign(Instant(0)).unwrap();
    answer(&mut raft, 2, 1, Body::PreVoteAnswer { granted: true });
    let old = raft.poll_persist(usize::MAX).unwrap().receipt;
    raft.campaign(Instant(0)).unwrap();
    answer(&mut raft, 2, 2, Body::PreVoteAnswer { granted: true });
    let new = raft.poll_persist(usize::MAX).unwrap().receipt;
    answer(&mut raft, 2, 2, Body::VoteAnswer { granted: true });
    answer(&mut raft, 3, 2, Body::VoteAnswer { granted: true });
    assert_eq!(raft.role(), Role::Candidate, "its own vote is not durable");
    raft.handle_persisted(old);
    assert_eq!(raft.role(), Role::Candidate, "that was the vote of term 1");
    raft.handle_persisted(new);
    assert_eq!((raft.role(), raft.term()), (Role::Leader, Term(2)));
}

/// Positions as index and term.
fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(term) }
}

/// What is known of entries on disk, of a machine and of a loss has to fit a log, too.
#[test]
fn what_is_known_of_no_log_is_not_opened() {
    let hard_state = raftyard_raft::HardState { term: Term(5), vote: None };
    let paged = |last: u64, terms: &[(u64, u64)], configurations: &[u64]| {
        let terms = terms.iter().map(|(index, term)| at(*index, *term)).collect();
        let members = Configuration::clone(&fresh().base.configuration);
        let configurations = configurations.iter().map(|index| (LogIndex(*index), members.clone())).collect();
        let paged = Paged { last: LogIndex(last), terms, configurations };
        open(Restored { hard_state, paged, entries: vec![entry(last + 1, 5)], ..fresh() }).map(drop)
    };
    assert_eq!(paged(4, &[(1, 1), (3, 4)], &[2, 4]), Ok(()));
    assert!(matches!(paged(4, &[(2, 1)], &[]), Err(RestoreError::NotContiguous { .. })));
    assert!(matches!(paged(4, &[(1, 1), (5, 2)], &[]), Err(RestoreError::NotContiguous { .. })));
    assert!(matches!(paged(4, &[(1, 1), (1, 2)], &[]), Err(RestoreError::NotContiguous { .. })));
    assert!(matches!(paged(4, &[(1, 0)], &[]), Err(RestoreError::TermOutOfOrder { .. })));
    assert!(matches!(paged(4, &[(1, 2), (3, 2)], &[]), Err(RestoreError::TermOutOfOrder { .. })));
    assert!(matches!(paged(4, &[(1, 2), (3, 6)], &[]), Err(RestoreError::TermOutOfOrder { .. })));
    assert_eq!(paged(4, &[(1, 1)], &[5]), Err(RestoreError::NoPagedConfiguration(LogIndex(5))));
    assert_eq!(paged(4, &[(1, 1)], &[3, 3]), Err(RestoreError::NoPagedConfiguration(LogIndex(3))));
    assert_eq!(paged(0, &[], &[1]), Err(RestoreError::NoPagedConfiguration(LogIndex(1))));

    let machine = |position: LogPosition, configuration_index: u64| {
        let base = Base { position, configuration_index: LogIndex(configuration_index), ..fresh().base };
        let entries = vec![entry(1, 1), entry(2, 5)];
        let raft = open(Restored { hard_state, entries, machine: Some(base), ..fresh() })?;
        Ok((raft.base().position, raft.last(), raft.applied()))
    };
    assert_eq!(machine(at(2, 5), 0), Ok((at(0, 0), at(2, 5), LogIndex(2))), "it is in the log");
    assert_eq!(machine(at(2, 4), 1), Ok((at(2, 4), at(2, 4), LogIndex(2))), "the log has lost that");
    assert_eq!(machine(at(7, 5), 1), Ok((at(7, 5), at(7, 5), LogIndex(7))), "it is ahead");
    assert_eq!(machine(at(7, 6), 1), Ok((at(7, 6), at(7, 6), LogIndex(7))), "its term got lost in the crash");
    assert_eq!(machine(at(7, 0), 0), Err(RestoreError::Machine));
    assert_eq!(machine(at(3, 5), 4), Err(RestoreError::Machine));

    let limited = |bound, applied| {
        let entries = vec![entry(1, 1), entry(2, 2)];
        open(Restored { hard_state, entries, limit: Limit::Bound(bound), applied: LogIndex(applied), ..fresh() })
            .map(|raft| raft.limit())
    };
    assert_eq!(limited(at(3, 3), 0), Ok(Limit::Bound(at(3, 3))));
    assert_eq!(limited(at(2, 2), 0), Ok(Limit::None), "it is there");
    assert_eq!(limited(at(3, 6), 0), Err(RestoreError::Bound));
    assert_eq!(limited(at(3, 3), 1), Err(RestoreError::AppliedUnknown { applied: LogIndex(1) }));
}

#[test]
fn what_is_no_log_is_not_opened() {
    let opened = |terms: &[(u64, u64)], term: u64, applied: u64| {
        let entries = terms.iter().map(|(index, term)| entry(*index, *term)).collect();
        let hard_state = raftyard_raft::HardState { term: Term(term), vote: None };
        open(Restored { hard_state, entries, applied: LogIndex(applied), ..fresh() }).map(drop)
    };
    assert_eq!(opened(&[(1, 1), (2, 3)], 3, 2), Ok(()));
    let (expected, found) = (LogIndex(2), LogIndex(3));
    assert_eq!(opened(&[(1, 1), (3, 1)], 3, 0), Err(RestoreError::NotContiguous { expected, found }));
    assert!(matches!(opened(&[(1, 2), (2, 1)], 3, 0), Err(RestoreError::TermOutOfOrder { .. })));
    assert!(matches!(opened(&[(1, 4)], 3, 0), Err(RestoreError::TermOutOfOrder { .. })));
    let (applied, base, last) = (LogIndex(2), LogIndex(0), LogIndex(1));
    assert_eq!(opened(&[(1, 1)], 1, 2), Err(RestoreError::AppliedOutsideLog { applied, base, last }));
    assert_eq!(opened(&[], u64::MAX, 0), Err(RestoreError::TermOutOfRange(Term(u64::MAX))));
}
