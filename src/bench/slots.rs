//! Many futures on one thread for next to nothing: a fixed number of slots, a waker made once for each, and one lock-free
//! queue of the slots that have something to say. No allocation an operation, and a system call only to sleep or to
//! wake a sleeper.

use crossbeam_queue::ArrayQueue;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

/// The futures of one thread: the one that made this value, which alone may use it.
#[derive(Debug)]
pub(super) struct Slots<F> {
    slots: Vec<Slot<F>>,
    woken: Arc<Woken>,
}

#[derive(Debug)]
struct Slot<F> {
    future: Option<F>,
    bell: Arc<Bell>,
    /// The same bell; kept so that polling doesn't make a new one.
    waker: Waker,
}

/// Slots that were woken and not looked at since.
#[derive(Debug)]
struct Woken {
    /// Invariant: a slot is here at most once, guarded by its `rung`; so the queue, as long as the slots, never fills.
    queue: ArrayQueue<usize>,
    sleeper: Thread,
}

#[derive(Debug)]
struct Bell {
    slot: usize,
    rung: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // A rung bell will be looked at after this: `take_woken` clears it, with this very ordering, before it polls.
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.woken.queue.push(self.slot).expect("a slot is queued at most once");
            self.woken.sleeper.unpark();
        }
    }
}

impl<F: Future + Unpin> Slots<F> {
    /// That many empty slots, for the calling thread.
    pub(super) fn new(count: usize) -> Slots<F> {
        let woken = Arc::new(Woken { queue: ArrayQueue::new(count), sleeper: std::thread::current() });
        let slot = |slot| {
            let bell = Arc::new(Bell { slot, rung: AtomicBool::new(false), woken: Arc::clone(&woken) });
            Slot { future: None, waker: Waker::from(Arc::clone(&bell)), bell }
        };
        Slots { slots: (0..count).map(slot).collect(), woken }
    }

    /// Puts a future into an empty slot and has it polled soon.
    pub(super) fn put(&mut self, slot: usize, future: F) {
        let slot = &mut self.slots[slot];
        assert!(slot.future.is_none(), "a slot holds one future");
        slot.future = Some(future);
        slot.waker.wake_by_ref();
    }

    /// The next future that ended, and its slot, which is empty again. `None`: nobody has anything to say.
    pub(super) fn poll_ended(&mut self) -> Option<(usize, F::Output)> {
        while let Some(index) = self.woken.queue.pop() {
            let slot = &mut self.slots[index];
            slot.bell.rung.swap(false, Ordering::AcqRel);
            let Some(future) = slot.future.as_mut() else { continue };
            if let Poll::Ready(output) = Pin::new(future).poll(&mut Context::from_waker(&slot.waker)) {
                slot.future = None;
                return Some((index, output));
            }
        }
        None
    }

    /// Sleeps until a slot is woken, at most that long; may return early.
    pub(super) fn sleep(&self, at_most: Duration) {
        if self.woken.queue.is_empty() {
            std::thread::park_timeout(at_most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{Ready, poll_fn, ready};

    #[test]
    fn a_future_that_is_ready_at_once_ends_at_the_first_poll() {
        let mut slots: Slots<Ready<u8>> = Slots::new(2);
        assert!(slots.poll_ended().is_none());
        slots.put(1, ready(7));
        assert_eq!(slots.poll_ended(), Some((1, 7)));
        assert_eq!(slots.poll_ended(), None);
    }

    #[test]
    fn a_future_that_wakes_itself_while_polled_is_polled_again() {
        let mut left = 3;
        let mut slots = Slots::new(1);
        let counts_down = poll_fn(move |context: &mut Context<'_>| {
            left -= 1;
            context.waker().wake_by_ref();
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        slots.put(0, counts_down);
        assert_eq!(slots.poll_ended(), Some((0, ())));
        assert_eq!(slots.poll_ended(), None);
    }

    #[test]
    fn answers_from_other_threads_all_arrive() {
        const SLOTS: usize = 64;
        const ROUNDS: usize = 200;
        let (jobs, inbox) = std::sync::mpsc::channel::<oneshot::Sender<usize>>();
        let answering = std::thread::spawn(move || inbox.iter().enumerate().for_each(|(n, job)| drop(job.send(n))));
        let mut slots = Slots::new(SLOTS);
        let ask = |slots: &mut Slots<_>, slot| {
            let (sender, receiver) = oneshot::channel();
            jobs.send(sender).expect("the thread listens");
            slots.put(slot, receiver.into_future());
        };
        (0..SLOTS).for_each(|slot| ask(&mut slots, slot));
        let mut ended = 0;
        while ended < SLOTS * ROUNDS {
            match slots.poll_ended() {
                Some((slot, _)) => {
                    ended += 1;
                    ask(&mut slots, slot);
                }
                None => slots.sleep(Duration::from_secs(60)),
            }
        }
        drop(jobs);
        answering.join().expect("it ends when nobody asks");
    }
}
