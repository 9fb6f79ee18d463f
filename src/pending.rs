//! An answer that a core owes: a future for any executor, with a blocking form.

use raftyard_runtime::mail::{Mail, Reply};
use raftyard_runtime::mailbox::{Mailbox, SendError};
use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The answer to a command that was already sent: dropping this does not take the command back. Await it on any
/// executor, or [`wait`](Pending::wait) for it on a thread that may block.
#[must_use = "the answer tells whether the command was done"]
pub struct Pending<T> {
    state: State<T>,
    /// The answer when the core ended without one.
    lost: fn() -> T,
}

enum State<T> {
    /// The mailbox refused the command.
    Refused(T),
    /// Sent, not polled yet: can still be waited for.
    Sent(oneshot::Receiver<T>),
    Polled(oneshot::AsyncReceiver<T>),
    Done,
}

/// How an operation's error says that its core did not take or answer it.
pub(crate) trait Unheard: Sized {
    /// The mailbox is full.
    const FULL: Self;
    /// The core is gone.
    const CLOSED: Self;
    /// The core took it, and ended without an answer.
    const LOST: Self;
}

/// Sends a command, whose answer's error can say everything that may become of it.
pub(crate) fn ask<T, E: Unheard>(
    mailbox: &Mailbox,
    mail: impl FnOnce(Reply<Result<T, E>>) -> Mail,
) -> Pending<Result<T, E>> {
    let (reply, answer) = oneshot::channel();
    let state = match mailbox.send(mail(reply)) {
        Ok(()) => State::Sent(answer),
        Err(SendError::Full(_)) => State::Refused(Err(E::FULL)),
        Err(SendError::Closed(_)) => State::Refused(Err(E::CLOSED)),
    };
    Pending { state, lost: || Err(E::LOST) }
}

impl<T> Pending<T> {
    /// Blocks this thread until the answer is there. Not for code that runs on an executor or on a core.
    ///
    /// # Panics
    /// If the answer was taken already, by polling this as a future.
    pub fn wait(self) -> T {
        let received = match self.state {
            State::Refused(answer) => return answer,
            State::Sent(answer) => answer.recv(),
            State::Polled(answer) => return block_on_polled(answer, self.lost),
            State::Done => panic!("the answer was taken already"),
        };
        received.unwrap_or_else(|_| (self.lost)())
    }
}

/// A future that was polled has left its waker behind; it is finished as a future, by a waker that unparks this thread.
fn block_on_polled<T>(answer: oneshot::AsyncReceiver<T>, lost: fn() -> T) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut answer = std::pin::pin!(answer);
    loop {
        match answer.as_mut().poll(&mut context) {
            Poll::Ready(received) => return received.unwrap_or_else(|_| lost()),
            Poll::Pending => std::thread::park(),
        }
    }
}

// Nothing in it is ever pinned: the answer inside is boxed by its channel.
impl<T> Unpin for Pending<T> {}

impl<T> Future for Pending<T> {
    type Output = T;

    /// # Panics
    /// If it is polled after it was ready.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = self.get_mut();
        let mut answer = match std::mem::replace(&mut this.state, State::Done) {
            State::Refused(answer) => return Poll::Ready(answer),
            State::Sent(answer) => answer.into_future(),
            State::Polled(answer) => answer,
            State::Done => panic!("polled after it was ready"),
        };
        match Pin::new(&mut answer).poll(context) {
            Poll::Ready(received) => Poll::Ready(received.unwrap_or_else(|_| (this.lost)())),
            Poll::Pending => {
                this.state = State::Polled(answer);
                Poll::Pending
            }
        }
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Refused(_) => "refused",
            State::Sent(_) | State::Polled(_) => "sent",
            State::Done => "done",
        };
        f.debug_tuple("Pending").field(&state).finish()
    }
}
