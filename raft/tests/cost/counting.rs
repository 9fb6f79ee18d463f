//! An allocator that counts on the thread that asks it to, and while it does, so that what is timed hardly pays for it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::thread::LocalKey;

pub(crate) struct Counting;

type Counter = LocalKey<Cell<usize>>;

// None of these is made by an allocation or dropped, which an allocator could not bear.
thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
    static FREED: Cell<usize> = const { Cell::new(0) };
}

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

fn count(counter: &'static Counter, by: usize) {
    if ON.get() {
        counter.set(counter.get() + by);
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

fn during(counter: &'static Counter, run: impl FnOnce()) -> usize {
    counter.set(0);
    ON.set(true);
    run();
    ON.set(false);
    counter.get()
}
