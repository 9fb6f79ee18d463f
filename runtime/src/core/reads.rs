//! Reads of one group that wait: to be confirmed by the protocol, then for the machine to have applied what they may not
//! miss.

use crate::group::StateMachine;
use crate::mail::{Answer, ReadAnswer, ReadError, Reply, Unavailable};
use bytes::Bytes;
use raftyard_raft::{Instant, LogIndex, Raft, ReadState, ReadTicket};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Where an answer goes.
pub(super) type ReadReply = Reply<Result<ReadAnswer, ReadError>>;

/// What a read waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    /// The protocol's confirmation.
    Ticket(ReadTicket),
    /// The machine.
    Applied(LogIndex),
}

#[derive(Debug)]
struct Waiting {
    wait: Wait,
    query: Bytes,
    expires: Instant,
    reply: ReadReply,
}

/// The reads of a group, oldest first.
#[derive(Debug, Default)]
pub(super) struct Reads {
    waiting: Vec<Waiting>,
}

impl Reads {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// When the oldest expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.waiting.first().map(|read| read.expires)
    }

    pub(super) fn push(&mut self, wait: Wait, query: Bytes, expires: Instant, reply: ReadReply) {
        self.waiting.push(Waiting { wait, query, expires, reply });
    }

    /// Answers those that are confirmed and whose index is applied, and those that can't be.
    ///
    /// # Errors
    /// The machine panicked; what it said.
    pub(super) fn serve(
        &mut self,
        raft: &Raft,
        machine: &mut dyn StateMachine,
        answers: &mut impl Extend<Answer>,
    ) -> Result<(), Box<dyn std::any::Any + Send>> {
        let mut panicked = None;
        // The closure is asked for each once, in order.
        let ended = self.waiting.extract_if(.., |read| match state(raft, &mut read.wait) {
            ReadState::Waiting => false,
            ReadState::Ready(index) => index <= raft.applied(),
            ReadState::Lost => true,
        });
        for read in ended {
            let result = match (read.wait, &panicked) {
                (Wait::Ticket(_), _) => Err(ReadError::LeaderChanged),
                (Wait::Applied(_), Some(_)) => Err(Unavailable::GroupFailed.into()),
                (Wait::Applied(_), None) => {
                    let answered = catch_unwind(AssertUnwindSafe(|| machine.read(&read.query)));
                    answered.map(|response| ReadAnswer { index: raft.applied(), response }).map_err(|panic| {
                        panicked = Some(panic);
                        Unavailable::GroupFailed.into()
                    })
                }
            };
            answers.extend([Answer::Read(read.reply, result)]);
        }
        if self.waiting.is_empty() {
            // An idle group keeps no memory for reads.
            self.waiting = Vec::new();
        }
        panicked.map_or(Ok(()), Err)
    }

    /// Answers reads that waited too long.
    pub(super) fn expire(&mut self, now: Instant, answers: &mut impl Extend<Answer>) {
        // All wait equally long, so the oldest expires first.
        let late = self.waiting.iter().take_while(|read| read.expires <= now).count();
        answers.extend(self.waiting.drain(..late).map(|read| Answer::Read(read.reply, Err(ReadError::TimedOut))));
    }

    /// Answers all, because nothing more will be known of them here.
    pub(super) fn give_up(&mut self, why: Unavailable, answers: &mut impl Extend<Answer>) {
        answers.extend(self.waiting.drain(..).map(|read| Answer::Read(read.reply, Err(why.into()))));
    }
}

/// How far a read is. One that is confirmed once needs no leader any more, only time.
fn state(raft: &Raft, wait: &mut Wait) -> ReadState {
    if let Wait::Ticket(ticket) = wait {
        match raft.read_state(ticket) {
            ReadState::Ready(index) => *wait = Wait::Applied(index),
            other => return other,
        }
    }
    let Wait::Applied(index) = *wait else { return ReadState::Waiting };
    ReadState::Ready(index)
}
