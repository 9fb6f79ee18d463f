//! Wake-ups between tasks of one executor.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Remembers that something happened until the one task that waits has heard of it.
#[derive(Debug, Default)]
pub(super) struct Notify {
    happened: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl Notify {
    /// Something happened.
    pub(super) fn notify(&self) {
        if !self.happened.replace(true)
            && let Some(waker) = &*self.waiting.borrow()
        {
            waker.wake_by_ref();
        }
    }

    /// Returns once something has happened since the last time. Only one task may wait.
    pub(super) async fn wait(&self) {
        poll_fn(|context| {
            if self.happened.replace(false) {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            // The waker is kept across waits: cloning one each time would touch its counter for nothing.
            match &*waiting {
                Some(waker) if waker.will_wake(context.waker()) => {}
                _ => *waiting = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }
}

/// Lets any number of tasks wait for one event.
#[derive(Debug, Default)]
pub(super) struct Breath {
    /// Counts the events.
    released: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Breath {
    /// The event happened: everybody who waits goes on.
    pub(super) fn release(&self) {
        self.released.set(self.released.get().wrapping_add(1));
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }

    /// Returns after the next event.
    pub(super) async fn wait(&self) {
        let before = self.released.get();
        poll_fn(|context| {
            if self.released.get() != before {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
