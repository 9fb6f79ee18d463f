//! What a replica left to its disk and asks for again, driven by hand: answers that are late, wrong, or none.

use crate::limits::{at, entry, persist, take};
use raftyard_raft::{
    Body, Configuration, Entry, Fetch, GroupId, HardState, Instant, LogIndex, Member, NodeId, Paged, Purpose, Raft,
    ReplicaId, Restored, Settings, Term,
};
use std::sync::Arc;

/// One of three that has four entries on disk, of terms 1, 1, 2 and 2, and none in memory.
fn open() -> Raft {
    let member = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
    let configuration = Arc::new(Configuration::new((1..=3).map(member).collect()).unwrap());
    let paged = Paged { last: LogIndex(4), terms: vec![at(1, 1), at(3, 2)], configurations: Vec::new() };
    let hard_state = HardState { term: Term(5), vote: None };
    let restored = Restored { hard_state, paged, ..Restored::fresh(configuration) };
    Raft::new(GroupId(1), ReplicaId(1), restored, Arc::new(Settings::default()), Instant(0), 1).unwrap()
}

/// It follows the leader of term 5, and knows that its first three entries are committed.
fn follower() -> (Raft, Fetch) {
    let mut raft = open();
    take(&mut raft, 5, Body::Append { previous: at(3, 2), commit: LogIndex(3), entries: (&[], &[]) });
    let fetch = raft.poll_fetch().unwrap();
    assert_eq!((fetch.first, fetch.last, fetch.purpose), (LogIndex(1), LogIndex(3), Purpose::Apply));
    assert_eq!((raft.poll_fetch(), raft.poll_committed(usize::MAX)), (None, None));
    (raft, fetch)
}

fn entries(positions: &[(u64, u64)]) -> Vec<Entry> {
    positions.iter().copied().map(entry).collect()
}

fn applied(raft: &mut Raft, bytes_max: usize) -> Vec<u64> {
    let (left, right) = raft.poll_committed(bytes_max).unwrap_or_default();
    left.iter().chain(right).map(|entry| entry.index.0).collect()
}

#[test]
fn what_was_fetched_is_applied_and_given_back() {
    let (mut raft, fetch) = follower();
    // More than it asked for is cut off.
    raft.handle_fetched(fetch, entries(&[(1, 1), (2, 1), (3, 2), (4, 2)]));
    let cost = entry((1, 1)).cost();
    assert_eq!(raft.log_bytes(), 3 * cost);
    assert_eq!(applied(&mut raft, 1), [1], "at least one entry");
    assert_eq!(raft.poll_fetch(), None, "there is more of it");
    assert_eq!((applied(&mut raft, usize::MAX), raft.applied()), (vec![2, 3], LogIndex(3)));
    assert_eq!((raft.poll_fetch(), raft.log_bytes()), (None, 0));
}

#[test]
fn less_than_what_was_asked_for_is_asked_for_again() {
    let (mut raft, fetch) = follower();
    raft.handle_fetched(fetch, entries(&[(1, 1)]));
    assert_eq!(applied(&mut raft, usize::MAX), [1]);
    assert_eq!(raft.poll_fetch().map(|fetch| (fetch.first, fetch.last)), Some((LogIndex(2), LogIndex(3))));
}

/// The disk holds something else at these places: at the next beat it may be right.
#[test]
fn what_is_not_of_the_log_counts_as_not_read() {
    for wrong in [&[][..], &[(1, 1), (2, 2)], &[(1, 1), (3, 2)], &[(2, 1)], &[(1, 2)]] {
        let (mut raft, fetch) = follower();
        raft.handle_fetched(fetch, entries(wrong));
        assert_eq!((raft.log_bytes(), raft.poll_fetch(), applied(&mut raft, 9)), (0, None, vec![]), "{wrong:?}");
        take(&mut raft, 5, Body::Heartbeat { commit: LogIndex(3), sent: Instant(7) });
        assert_eq!(raft.poll_fetch(), Some(fetch), "{wrong:?}");
    }
}

/// Answers to what was not asked, or a second time, are no answers.
#[test]
fn only_what_was_asked_is_answered() {
    let (mut raft, fetch) = follower();
    let all = entries(&[(1, 1), (2, 1), (3, 2)]);
    let mut other = fetch;
    other.purpose = Purpose::Append(ReplicaId(2));
    raft.handle_fetched(other, all.clone());
    assert_eq!(raft.log_bytes(), 0);
    raft.handle_fetched(fetch, all);
    assert!(raft.log_bytes() > 0);
    raft.handle_fetch_failed(fetch);
    assert_eq!(applied(&mut raft, usize::MAX), [1, 2, 3]);
}

/// The log was cut while it was read. What came is not kept, though it happens to be right, and asked for anew.
#[test]
fn what_was_read_before_the_log_was_cut_is_of_no_use() {
    let (mut raft, fetch) = follower();
    let cut = [entry((4, 5))];
    take(&mut raft, 5, Body::Append { previous: at(3, 2), commit: LogIndex(3), entries: (&cut, &[]) });
    assert_eq!(raft.first_in_memory(), LogIndex(4));
    assert_eq!(raft.poll_fetch(), None, "the first is not answered yet");
    raft.handle_fetched(fetch, entries(&[(1, 1), (2, 1), (3, 2)]));
    assert_eq!(raft.log_bytes(), cut[0].cost());
    let again = raft.poll_fetch().unwrap();
    assert_eq!((again.first, again == fetch), (fetch.first, false));
}

/// Only what is applied and durable leaves memory, whatever is asked for.
#[test]
fn what_is_not_applied_stays_in_memory() {
    let (mut raft, fetch) = follower();
    raft.handle_fetched(fetch, entries(&[(1, 1), (2, 1), (3, 2)]));
    let more = entries(&[(5, 5), (6, 5)]);
    take(&mut raft, 5, Body::Append { previous: at(4, 2), commit: LogIndex(5), entries: (&more, &[]) });
    assert_eq!(persist(&mut raft), []);
    assert_eq!(applied(&mut raft, usize::MAX), [1, 2, 3]);
    assert_eq!(raft.evict(LogIndex(9)), 0, "5 is not applied");
    let fetch = raft.poll_fetch().unwrap();
    raft.handle_fetched(fetch, entries(&[(4, 2)]));
    assert_eq!((applied(&mut raft, usize::MAX), applied(&mut raft, usize::MAX)), (vec![4], vec![5]));
    assert_eq!((raft.evict(LogIndex(9)), raft.first_in_memory()), (more[0].cost(), LogIndex(6)));
    assert_eq!((raft.evict(LogIndex(9)), raft.evict(LogIndex(0))), (0, 0));
}
