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

/// Most bytes of an idle group, on average over its three replicas, one of which leads.
const IDLE_GROUP_BYTES_MAX: usize = 400;

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

#[test]
fn an_idle_group_is_small() {
    let member = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
    let configuration = Arc::new(Configuration::new((1..=3).map(member).collect()).unwrap());
    let settings = Arc::new(Settings::default());
    let before = BYTES.load(Ordering::Relaxed);
    let open = |id| {
        let (configuration, settings) = (configuration.clone(), settings.clone());
        Raft::new(GroupId(1), ReplicaId(id), Restored::fresh(configuration), settings, Instant(0), id).unwrap()
    };
    let (mut a, mut b, mut c) = (open(1), open(2), open(3));
    a.campaign(Instant(0)).unwrap();
    let mut exchange = || {
        for _ in 0..10 {
            turn(&mut a, &mut [&mut b, &mut c]);
            turn(&mut b, &mut [&mut a, &mut c]);
            turn(&mut c, &mut [&mut a, &mut b]);
        }
        a.beat(Instant(1));
    };
    for _ in 0..4 {
        exchange();
    }
    assert_eq!((a.role(), b.applied(), c.applied()), (Role::Leader, LogIndex(1), LogIndex(1)));
    assert_eq!(b.poll_message().map(|o| o.message.body), None::<Body<'_>>);
    let heap = usize::try_from(BYTES.load(Ordering::Relaxed) - before).unwrap();
    let average = size_of::<Raft>() + heap / 3;
    println!("{} bytes inline, {heap} bytes on the heap of three replicas: {average} a replica", size_of::<Raft>());
    assert!(average <= IDLE_GROUP_BYTES_MAX, "an idle replica takes {average} bytes");
}
