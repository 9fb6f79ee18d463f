//! What wakes a sleeping core: a bell that other threads and the log's device ring. Rings that nobody has heard yet are
//! one ring.

use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// An eventfd.
#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    /// A silent bell.
    pub(super) fn new() -> io::Result<Bell> {
        Ok(Bell(eventfd(0, EventfdFlags::CLOEXEC)?))
    }

    /// Rings. From any thread; one system call, which can't block before 2^64 rings are unheard.
    pub(super) fn ring(&self) {
        rustix::io::write(&self.0, &1u64.to_ne_bytes()).expect("an eventfd takes a one");
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
