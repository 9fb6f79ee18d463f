//! What wakes a sleeping core: a bell that other threads and the kernel ring, and an alarm that rings at a set time.
//!
//! Both are descriptors that one task each reads from for ever. That is cheaper than the executor's own means: its
//! wakers take two hops through two rings, and one of its timers costs two system calls each time the core sleeps.

use super::descriptor;
use glommio::io::BufferedFile;
use raftyard_raft::Instant;
use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A bell: an eventfd. Rings that nobody has heard yet are one ring.
#[derive(Debug)]
pub(super) struct Bell {
    event: OwnedFd,
}

impl Bell {
    /// A silent bell.
    pub(super) fn new() -> io::Result<Bell> {
        Ok(Bell { event: eventfd(0, EventfdFlags::CLOEXEC)? })
    }

    /// Rings. From any thread; one system call, which can't block before 2^64 rings are unheard.
    pub(super) fn ring(&self) {
        rustix::io::write(&self.event, &1u64.to_ne_bytes()).expect("an eventfd takes a one");
    }

    /// An ear of this bell, on the executor of this thread.
    pub(super) fn ear(&self) -> io::Result<Ear> {
        Ok(Ear(descriptor::file(self.event.try_clone()?)))
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Hears a bell or an alarm. Listen in a task of its own: the executor's wakers don't bear a source that is polled
/// again and again while it has nothing to say.
#[derive(Debug)]
pub(super) struct Ear(BufferedFile);

impl Ear {
    /// Returns when it has rung since the last time.
    pub(super) async fn listen(&self) -> io::Result<()> {
        match self.0.read_at(0, size_of::<u64>()).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Rings once at a set time: a timerfd on the node's clock.
#[derive(Debug)]
pub(super) struct Alarm {
    timer: OwnedFd,
    /// What it is set to; nothing once it has rung.
    set: Cell<Option<Instant>>,
}

impl Alarm {
    /// Deadlines closer than this wait for it: a core with many deadlines must not wake for each.
    const NEAREST: Duration = Duration::from_millis(1);

    /// An alarm that is not set.
    pub(super) fn new() -> io::Result<Alarm> {
        Ok(Alarm { timer: timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?, set: Cell::new(None) })
    }

    /// Makes sure that it rings at `deadline` or before. One that is set to an earlier time stays: deadlines move into
    /// the future all the time, and one early ring costs less than setting it each time.
    pub(super) fn set(&self, now: Instant, deadline: Instant) {
        if self.set.get().is_some_and(|set| set <= deadline) {
            return;
        }
        let at = deadline.max(now.after(Self::NEAREST));
        let time = Timespec {
            tv_sec: i64::try_from(at.0 / 1_000_000_000).expect("a u64 of nanoseconds has few enough seconds"),
            tv_nsec: i64::try_from(at.0 % 1_000_000_000).expect("less than a second"),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: time };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once).expect("a valid time on an open timer");
        self.set.set(Some(at));
    }

    /// It rang, and is not set any more.
    pub(super) fn rang(&self) {
        self.set.set(None);
    }

    /// Rings as soon as it can.
    pub(super) fn ring(&self) {
        self.set.set(None);
        self.set(Instant(0), Instant(0));
    }

    /// The ear of this alarm, on the executor of this thread.
    pub(super) fn ear(&self) -> io::Result<Ear> {
        Ok(Ear(descriptor::file(self.timer.try_clone()?)))
    }
}
