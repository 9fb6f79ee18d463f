//! Memory decides how many groups a node can host: what an idle one costs in this crate is counted here.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

use raftyard_raft::{
    Body, Configuration, GroupId, Instant, LogIndex, Member, Message, NodeId, Raft, ReplicaId, Restored, Role, Sender,
    Settings,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

/// Counts the bytes that are allocated.
struct Counting;

static BYTES: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes of an idle replica of a group of three, whether it leads or follows.
const IDLE_REPLICA_BYTES_MAX: usize = 400;

fn allocated() -> usize {
    usize::try_from(BYTES.load(Ordering::Relaxed)).unwrap()
}

fn turn(raft: &mut Raft, others: &mut [&mut Raft]) {
    let from = Sender { node: NodeId(raft.replica().0), keeps_promises: true };
    while let Some(persist) = raft.poll_persist(usize::MAX) {
        let receipt = persist.receipt;
        raft.handle_persisted(receipt);
    }
    while let Some(outgoing) = raft.poll_message() {
        let message: Message<'_> = outgoing.message;
        let to = others.iter_mut().find(|r| r.replica() == message.to).unwrap();
        to.handle_message(Instant(1), from, message).unwrap();
    }
    while raft.poll_committed(usize::MAX).is_some() {}
}

fn open(id: u64, configuration: &Arc<Configuration>, settings: &Arc<Settings>) -> Raft {
    let restored = Restored::fresh(Arc::clone(configuration));
    Raft::new(GroupId(1), ReplicaId(id), restored, Arc::clone(settings), Instant(0), id).unwrap()
}

/// Bytes of the replica itself and of what it frees when it is dropped. What replicas share counts for nobody.
fn bytes_of(raft: Raft) -> usize {
    let before = allocated();
    drop(raft);
    size_of::<Raft>() + before - allocated()
}

#[test]
fn an_idle_replica_is_small() {
    let member = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
    let configuration = Arc::new(Configuration::new((1..=3).map(member).collect()).unwrap());
    let settings = Arc::new(Settings::default());
    let [mut a, mut b, mut c] = [1, 2, 3].map(|id| open(id, &configuration, &settings));
    a.campaign(Instant(0)).unwrap();
    for round in 1..5 {
        for _ in 0..10 {
            turn(&mut a, &mut [&mut b, &mut c]);
            turn(&mut b, &mut [&mut a, &mut c]);
            turn(&mut c, &mut [&mut a, &mut b]);
        }
        a.beat(Instant(round));
    }
    assert_eq!((a.role(), b.applied(), c.applied()), (Role::Leader, LogIndex(1), LogIndex(1)));
    assert_eq!(b.poll_message().map(|o| o.message.body), None::<Body<'_>>);
    let (leader, follower) = (bytes_of(a), bytes_of(b));
    println!("{} bytes inline; a leader takes {leader}, a follower {follower}", size_of::<Raft>());
    assert!(leader <= IDLE_REPLICA_BYTES_MAX, "an idle leader takes {leader} bytes");
    assert!(follower <= IDLE_REPLICA_BYTES_MAX, "an idle follower takes {follower} bytes");
}
