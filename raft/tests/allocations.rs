//! What a proposal costs the allocator, in all three replicas of a group together. The command's own bytes are the
//! caller's; that they become shared, because log, disk and state machine hold them, counts.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use bytes::Bytes;
use raftyard_raft::{
    Configuration, Entry, GroupId, Instant, LogIndex, Member, NodeId, Raft, ReplicaId, Restored, Role, Sender, Settings,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts allocations, growing ones too.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ALLOCATIONS_MAX: f64 = 1.5;
const BATCH: usize = 64;
const BATCHES: usize = 256;

struct Replica {
    raft: Raft,
    disk: Vec<Entry>,
    applied: usize,
}

/// Whether there was anything to do.
fn turn(replicas: &mut [Replica; 3], place: usize) -> bool {
    let mut busy = false;
    let (before, rest) = replicas.split_at_mut(place);
    let [Replica { raft, disk, applied }, after @ ..] = rest else { unreachable!("there are three") };
    while let Some(persist) = raft.poll_persist(usize::MAX) {
        disk.extend(persist.entries.0.iter().chain(persist.entries.1).cloned());
        let receipt = persist.receipt;
        raft.handle_persisted(receipt);
        busy = true;
    }
    let from = Sender { node: NodeId(place as u64 + 1), keeps_promises: true };
    while let Some(outgoing) = raft.poll_message() {
        let to = outgoing.message.to.0 as usize - 1;
        let to = if to < place { &mut before[to] } else { &mut after[to - place - 1] };
        to.raft.handle_message(Instant(1), from, outgoing.message).unwrap();
        busy = true;
    }
    while let Some((left, right)) = raft.poll_committed(usize::MAX) {
        *applied += left.len() + right.len();
        busy = true;
    }
    busy
}

fn settle(replicas: &mut [Replica; 3]) {
    while (0..3).filter(|place| turn(replicas, *place)).count() > 0 {}
}

#[test]
fn a_proposal_hardly_allocates() {
    let member = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
    let configuration = Arc::new(Configuration::new((1..=3).map(member).collect()).unwrap());
    let settings = Arc::new(Settings::default());
    let mut replicas = [1, 2, 3].map(|id| {
        let restored = Restored::fresh(Arc::clone(&configuration));
        let raft = Raft::new(GroupId(1), ReplicaId(id), restored, Arc::clone(&settings), Instant(0), id).unwrap();
        Replica { raft, disk: Vec::with_capacity(2 * BATCH * BATCHES), applied: 0 }
    });
    replicas[0].raft.campaign(Instant(0)).unwrap();
    settle(&mut replicas);
    assert_eq!(replicas[0].raft.role(), Role::Leader);

    let commands: Vec<Bytes> = (0..BATCH * BATCHES).map(|_| Bytes::from(vec![7; 128])).collect();
    let mut commands = commands.into_iter();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for _ in 0..BATCHES {
        for command in commands.by_ref().take(BATCH) {
            replicas[0].raft.propose(command).unwrap();
        }
        settle(&mut replicas);
    }
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;

    // The last commit travels with what comes next.
    replicas[0].raft.beat(Instant(1));
    settle(&mut replicas);
    for replica in &replicas {
        assert_eq!(
            (replica.raft.applied(), replica.applied),
            (LogIndex(replica.disk.len() as u64), replica.disk.len())
        );
        assert_eq!(replica.applied, BATCH * BATCHES + 1, "the commands and the leader's empty entry");
    }
    let each = allocations as f64 / (BATCH * BATCHES) as f64;
    println!("{each:.3} allocations a proposal, in batches of {BATCH}, in all three replicas");
    assert!(each <= ALLOCATIONS_MAX, "{each:.3} allocations a proposal");
}
