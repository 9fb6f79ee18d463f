//! Leases at the edges of time, driven by hand to the nanosecond: chance seldom gets there.

use bytes::Bytes;
use raftyard_raft::{
    Body, Configuration, GroupId, Instant, LogIndex, Member, MemberChange, Message, NodeId, Raft, ReadError, ReplicaId,
    Restored, Role, Sender, Settings,
};
use std::sync::Arc;

fn member(id: u64) -> Member {
    Member { replica: ReplicaId(id), node: NodeId(id) }
}

fn settings() -> Settings {
    Settings { leases: true, ..Settings::default() }
}

/// Replica 1, which leads a group of so many voters by the answers of 2, and has committed.
fn leader(voters: u64, now: Instant) -> Raft {
    let configuration = Arc::new(Configuration::new((1..=voters).map(member).collect()).unwrap());
    let restored = Restored::fresh(configuration);
    let mut raft = Raft::new(GroupId(1), ReplicaId(1), restored, Arc::new(settings()), now, 1).unwrap();
    raft.campaign(now).unwrap();
    let answers = [
        Body::PreVoteAnswer { granted: true },
        Body::VoteAnswer { granted: true },
        Body::AppendAccepted { matched: LogIndex(1) },
    ];
    for body in answers {
        if voters > 1 {
            answer(&mut raft, now, body);
        }
        turn(&mut raft);
    }
    assert_eq!((raft.role(), raft.commit()), (Role::Leader, LogIndex(1)));
    raft
}

/// Replica 2 answers.
fn answer(raft: &mut Raft, now: Instant, body: Body<'_>) {
    let asked = matches!(body, Body::PreVoteAnswer { .. });
    let term = if asked { raft.term().next() } else { raft.term() };
    let message = Message { group: GroupId(1), from: ReplicaId(2), to: ReplicaId(1), term, body };
    raft.handle_message(now, Sender { node: NodeId(2), keeps_promises: true }, message).unwrap();
}

/// Polls it; says how its last heartbeat was named.
fn turn(raft: &mut Raft) -> Option<Instant> {
    while let Some(persist) = raft.poll_persist(usize::MAX) {
        let receipt = persist.receipt;
        raft.handle_persisted(receipt);
    }
    let mut named = None;
    while let Some(outgoing) = raft.poll_message() {
        if let Body::Heartbeat { sent, .. } = outgoing.message.body {
            named = Some(sent);
        }
    }
    named
}

/// A voter that was just added has promised nothing, also where the clock began less than a lease ago.
#[test]
fn nobody_promised_at_the_beginning_of_time() {
    let now = Instant(5);
    let mut raft = leader(1, now);
    assert_eq!(raft.lease_read(now), Ok(LogIndex(1)), "it is a majority by itself");
    raft.change_membership(&[MemberChange::AddVoter(member(2))], Bytes::new()).unwrap();
    assert_eq!(raft.lease_read(now), Err(ReadError::NoLease));
}

/// Many reads in one moment name their rounds after the moments that follow; the promise was made in that one moment.
#[test]
fn a_lease_counts_from_when_a_heartbeat_left_and_not_from_its_name() {
    let now = Instant(1_000_000_000);
    let mut raft = leader(2, now);
    let mut named = None;
    for _ in 0..10 {
        raft.read_index(now).unwrap();
        named = turn(&mut raft);
    }
    let sent = named.unwrap();
    assert_eq!(sent, Instant(now.0 + 9));
    answer(&mut raft, now, Body::HeartbeatAnswer { sent, lost: false });
    let end = now.after(settings().lease());
    assert_eq!(raft.lease_read(Instant(end.0 - 1)), Ok(LogIndex(1)));
    assert_eq!(raft.lease_read(end), Err(ReadError::NoLease));
}
