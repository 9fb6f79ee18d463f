//! What this crate costs. Memory decides how many groups a node can host: what an idle one takes is counted here, and how
//! often a proposal goes to the allocator. The bench beside raft-rs counts with the same.

mod counting;
mod replicas;

use bytes::Bytes;
use raftyard_raft::{Body, Instant, LogIndex, Raft, Role};
use replicas::{Replicas, Shared};

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

/// Most bytes of an idle replica of a group of three, whether it leads or follows.
const IDLE_REPLICA_BYTES_MAX: usize = 400;
/// In all three replicas of a group together. The command's own bytes are the caller's; that they become shared, because
/// log, disk and state machine hold them, counts.
const ALLOCATIONS_MAX: f64 = 1.5;
const BATCH: usize = 64;
const BATCHES: usize = 256;

#[test]
fn an_idle_replica_is_small() {
    // Held until the end, so that no replica frees it.
    let shared = Shared::default();
    let mut replicas = Replicas::elected(1, &shared);
    for _ in 0..3 {
        replicas.beat();
    }
    replicas.leader().beat(Instant(4));
    assert_eq!((replicas.leader().role(), replicas.applied()), (Role::Leader, [1; 3]));
    assert_eq!(replicas.0[1].raft.poll_message().map(|o| o.message.body), None::<Body<'_>>);
    let [leader, follower] = replicas.sizes();
    println!("{} bytes inline; a leader takes {leader}, a follower {follower}", size_of::<Raft>());
    assert!(leader <= IDLE_REPLICA_BYTES_MAX, "an idle leader takes {leader} bytes");
    assert!(follower <= IDLE_REPLICA_BYTES_MAX, "an idle follower takes {follower} bytes");
}

/// As after a start, or when memory was wanted: its log is on disk alone.
#[test]
fn an_idle_replica_whose_log_is_on_disk_is_small() {
    let shared = Shared::default();
    let mut replicas = Replicas::elected(1, &shared);
    replicas.propose((0..3).map(|_| Bytes::from_static(b"x")));
    for _ in 0..3 {
        replicas.beat();
    }
    for replica in &mut replicas.0 {
        assert!(replica.raft.evict(LogIndex(4)) > 0 && replica.raft.log_bytes() == 0);
        assert_eq!((replica.raft.poll_fetch(), replica.raft.first_in_memory()), (None, LogIndex(5)));
    }
    assert_eq!(replicas.applied(), [4; 3]);
    let [leader, follower] = replicas.sizes();
    println!("with its log on disk a leader takes {leader}, a follower {follower}");
    assert!(leader.max(follower) <= IDLE_REPLICA_BYTES_MAX);
}

#[test]
fn a_proposal_hardly_allocates() {
    let mut replicas = Replicas::elected(1, &Shared::default());
    for replica in &mut replicas.0 {
        replica.disk.reserve(2 * BATCH * BATCHES);
    }
    let commands: Vec<Bytes> = (0..BATCH * BATCHES).map(|_| Bytes::from(vec![7; 128])).collect();
    let mut commands = commands.into_iter();
    let allocations = counting::allocations(|| {
        for _ in 0..BATCHES {
            replicas.propose(commands.by_ref().take(BATCH));
        }
    });
    replicas.beat();
    let all = BATCH * BATCHES + 1;
    assert_eq!(replicas.applied(), [all as u64; 3], "the commands and the leader's empty entry");
    assert_eq!(replicas.0.each_ref().map(|replica| replica.disk.len()), [all; 3]);
    let each = allocations as f64 / (BATCH * BATCHES) as f64;
    println!("{each:.3} allocations a proposal, in batches of {BATCH}, in all three replicas");
    assert!(each <= ALLOCATIONS_MAX, "{each:.3} allocations a proposal");
}
