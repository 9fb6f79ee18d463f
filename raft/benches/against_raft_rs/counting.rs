//! An allocator that counts while it is told to, so that what is timed hardly pays for it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

pub(crate) struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(&ALLOCATIONS, 1);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(&FREED, layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(&ALLOCATIONS, 1);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count(counter: &AtomicUsize, by: usize) {
    if ON.load(Relaxed) {
        counter.fetch_add(by, Relaxed);
    }
}

/// How many allocations, growing ones too, `run` makes.
pub(crate) fn allocations(run: impl FnOnce()) -> usize {
    during(&ALLOCATIONS, run)
}

/// How many bytes `run` frees of what was there before.
pub(crate) fn freed(run: impl FnOnce()) -> usize {
    during(&FREED, run)
}

fn during(counter: &AtomicUsize, run: impl FnOnce()) -> usize {
    counter.store(0, Relaxed);
    ON.store(true, Relaxed);
    run();
    ON.store(false, Relaxed);
    counter.load(Relaxed)
}
