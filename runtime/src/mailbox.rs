//! The mailbox of a core: how every other thread gives it commands.
//!
//! It owns a bounded lock-free queue and the question who must wake the core. It never blocks a sender and never grows:
//! a full mailbox gives the mail back. Any thread sends; only the core's driver receives, sleeps and closes.
//!
//! **Waking.** A wake-up costs a system call, so only the first sender after the core went to sleep pays for it. The
//! core raises `asleep`, then looks at the queue once more; a sender pushes, then looks at `asleep`. Each side has a
//! sequentially consistent fence between its write and its read, so at least one of them sees the other's write: either
//! the core finds the mail, or the sender finds the core asleep and wakes it. Both may happen; then one wake-up is
//! spent in vain.
//!
//! **Closing.** The same argument keeps a mail from being left in a mailbox that nobody reads: the core raises
//! `closed`, then empties the queue; a sender pushes, then looks at `closed`, and empties the queue itself if it is
//! raised. A mail that is dropped drops its reply, which tells whoever waits that the core is gone.

use crate::mail::{Mail, Reply};
use crossbeam_queue::ArrayQueue;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Mutex, PoisonError};

/// The bounded queue of commands to one core.
pub struct Mailbox {
    queue: ArrayQueue<Mail>,
    /// Raised by the core when it will not look at the queue before it is woken.
    asleep: AtomicBool,
    /// Raised once, when the core ends.
    closed: AtomicBool,
    /// Who asked the core to shut down. Apart from the queue, so that a full mailbox can't keep a node from stopping.
    shutdown: Mutex<Vec<Reply<()>>>,
    /// Whether `shutdown` holds something: spares the core a lock in every turn.
    shutdown_asked: AtomicBool,
    /// Wakes the core's thread.
    wake: Box<dyn Fn() + Send + Sync>,
}

/// Why a mail was not taken. It comes back, so that its sender can answer whoever waits for it.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// As many mails as the mailbox holds wait for the core.
    #[error("the mailbox is full")]
    Full(Mail),
    /// The core is gone.
    #[error("the core is gone")]
    Closed(Mail),
}

impl Mailbox {
    /// An empty mailbox that holds `mails_max` (at least one), whose core is woken by `wake`. The core counts as asleep
    /// until it receives for the first time. `wake` must be callable from any thread, must not block, and may be
    /// called in vain.
    #[must_use]
    pub fn new(mails_max: usize, wake: impl Fn() + Send + Sync + 'static) -> Mailbox {
        Mailbox {
            queue: ArrayQueue::new(mails_max.max(1)),
            asleep: AtomicBool::new(true),
            closed: AtomicBool::new(false),
            shutdown: Mutex::new(Vec::new()),
            shutdown_asked: AtomicBool::new(false),
            wake: Box::new(wake),
        }
    }

    /// Gives the core a command. Costs some 50 ns, and a system call more if the core sleeps.
    ///
    /// # Errors
    /// The mailbox is full, or the core is gone; the mail comes back.
    pub fn send(&self, mail: Mail) -> Result<(), SendError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(SendError::Closed(mail));
        }
        self.queue.push(mail).map_err(SendError::Full)?;
        // Pairs with the fences in `may_sleep` and `close`.
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::Relaxed) {
            self.discard();
            return Ok(());
        }
        self.wake_if_asleep();
        Ok(())
    }

    /// Asks the core to finish what is under way and end. Answered when it has; dropped if it is gone already.
    #[must_use]
    pub fn shut_down(&self) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        self.shutdown.lock().unwrap_or_else(PoisonError::into_inner).push(reply);
        self.shutdown_asked.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::Relaxed) {
            self.discard();
        } else {
            self.wake_if_asleep();
        }
        answer
    }

    /// Core: I look at the queue now; nobody needs to wake me.
    pub fn stay_awake(&self) {
        if self.asleep.load(Ordering::Relaxed) {
            self.asleep.store(false, Ordering::Relaxed);
        }
    }

    /// Core: the next mail.
    #[must_use]
    pub fn receive(&self) -> Option<Mail> {
        if self.shutdown_asked.load(Ordering::Relaxed) {
            // Before the queue: senders that keep it full must not keep the node from stopping.
            let mut waiting = self.shutdown.lock().unwrap_or_else(PoisonError::into_inner);
            let reply = waiting.pop();
            self.shutdown_asked.store(!waiting.is_empty(), Ordering::Relaxed);
            if let Some(reply) = reply {
                return Some(Mail::Shutdown { reply });
            }
        }
        self.queue.pop()
    }

    /// Core: I will not look again until I am woken. False if something waits already: then the core stays awake.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fences of the senders.
        fence(Ordering::SeqCst);
        if self.queue.is_empty() && !self.shutdown_asked.load(Ordering::Relaxed) {
            return true;
        }
        self.asleep.store(false, Ordering::Relaxed);
        false
    }

    /// Core: I am gone. What waits is dropped, which tells those who wait; what comes later is refused.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        // Pairs with the fences of the senders.
        fence(Ordering::SeqCst);
        self.discard();
    }

    fn wake_if_asleep(&self) {
        // The load keeps senders to an awake core from fighting for the cache line; of those that see it asleep, the
        // swap picks the one that pays.
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            (self.wake)();
        }
    }

    fn discard(&self) {
        while let Some(mail) = self.queue.pop() {
            drop(mail);
        }
        self.shutdown.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox")
            .field("len", &self.queue.len())
            .field("capacity", &self.queue.capacity())
            .field("asleep", &self.asleep)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::GroupStatus;
    use crate::mail::Unavailable;
    use raftyard_raft::GroupId;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    fn question(group: u64) -> (Mail, oneshot::Receiver<Result<GroupStatus, Unavailable>>) {
        let (reply, answer) = oneshot::channel();
        (Mail::Status { group: GroupId(group), reply }, answer)
    }

    #[test]
    fn a_full_mailbox_gives_the_mail_back() {
        let mailbox = Mailbox::new(1, || {});
        mailbox.send(question(1).0).expect("there is room for one");
        let Err(SendError::Full(Mail::Status { group, .. })) = mailbox.send(question(2).0) else {
            panic!("the second mail must come back");
        };
        assert_eq!(group, GroupId(2));
    }

    #[test]
    fn only_the_first_sender_after_a_sleep_wakes() {
        let wakes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&wakes);
        let mailbox = Mailbox::new(8, move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        for group in 1..=3 {
            mailbox.send(question(group).0).expect("there is room");
        }
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        assert!(!mailbox.may_sleep(), "mail waits");
        while mailbox.receive().is_some() {}
        assert!(mailbox.may_sleep());
        mailbox.send(question(4).0).expect("there is room");
        assert_eq!(wakes.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_full_mailbox_still_shuts_down() {
        let mailbox = Mailbox::new(1, || {});
        mailbox.send(question(1).0).expect("there is room");
        let asked = mailbox.shut_down();
        let Some(Mail::Shutdown { reply }) = mailbox.receive() else { panic!("the request comes first") };
        assert!(matches!(mailbox.receive(), Some(Mail::Status { .. })));
        assert!(mailbox.receive().is_none());
        reply.send(()).expect("the asker waits");
        asked.recv().expect("answered");
    }

    #[test]
    fn closing_tells_everybody_who_waits() {
        let mailbox = Mailbox::new(4, || {});
        let (mail, answer) = question(1);
        mailbox.send(mail).expect("there is room");
        let asked = mailbox.shut_down();
        mailbox.close();
        assert!(answer.recv().is_err());
        assert!(asked.recv().is_err());
        assert!(matches!(mailbox.send(question(2).0), Err(SendError::Closed(_))));
        assert!(mailbox.shut_down().recv().is_err());
    }

    /// Senders that wait for each answer, against a core that sleeps whenever it may. When all of them wait nobody
    /// sends, so a single lost wake-up leaves the core parked for ever and this test never ends.
    #[test]
    fn no_wake_up_is_lost() {
        for senders in 1..=2 {
            exchange(senders, 20_000);
        }
    }

    fn exchange(senders: u64, mails: u64) {
        let core = thread::current();
        let mailbox = Arc::new(Mailbox::new(16, move || core.unpark()));
        let threads: Vec<_> = (0..senders)
            .map(|_| {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || {
                    for group in 0..mails {
                        let (mail, answer) = question(group);
                        mailbox.send(mail).expect("there is room for all senders");
                        // Spinning, so that the next mail comes while the core is about to sleep.
                        while matches!(answer.try_recv(), Err(oneshot::TryRecvError::Empty)) {
                            std::hint::spin_loop();
                        }
                    }
                })
            })
            .collect();
        let mut received = 0;
        while received < senders * mails {
            mailbox.stay_awake();
            // Dropping a mail answers it.
            while mailbox.receive().is_some() {
                received += 1;
            }
            if received < senders * mails && mailbox.may_sleep() {
                thread::park();
            }
        }
        for thread in threads {
            thread.join().expect("a sender does not panic");
        }
    }

    /// A core that ends while others send as fast as they can: every mail is told of or refused, none is left lying.
    #[test]
    fn nobody_waits_for_a_closed_mailbox() {
        for round in 0..300 {
            let mailbox = Arc::new(Mailbox::new(1024, || {}));
            let senders: Vec<_> = (0..2)
                .map(|_| {
                    let mailbox = Arc::clone(&mailbox);
                    thread::spawn(move || {
                        let mut answers = Vec::new();
                        loop {
                            let (mail, answer) = question(1);
                            match mailbox.send(mail) {
                                Ok(()) => answers.push(answer),
                                Err(SendError::Full(_)) => {}
                                Err(SendError::Closed(_)) => return answers,
                            }
                        }
                    })
                })
                .collect();
            for _ in 0..round {
                drop(mailbox.receive());
            }
            mailbox.close();
            for sender in senders {
                for answer in sender.join().expect("a sender does not panic") {
                    let told = answer.try_recv();
                    assert_eq!(told.expect_err("nobody answers"), oneshot::TryRecvError::Disconnected);
                }
            }
        }
    }
}
