//! What goes out of a replica: what to persist, what to send, what to apply.
//!
//! The order of durability is kept here: an answer that depends on this replica's disk is not yielded before all it
//! depends on was handed out, and is marked so that it leaves only when that is durable.

use crate::leader::Next;
use crate::message::{Body, Durability, Entries, Message, Outgoing};
use crate::raft::{Raft, State};
use crate::types::{HardState, LogIndex, LogPosition, Term};
use alloc::vec::Vec;

/// What [`Raft::poll_persist`] handed out, to be given back with [`Raft::handle_persisted`] when it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) generation: u64,
    pub(crate) index: LogIndex,
    pub(crate) hard: HardState,
}

/// What to make durable, in one write: all of it or nothing of it may survive a crash, or a prefix of the entries
/// together with the hard state.
#[derive(Clone, Copy, Debug)]
pub struct Persist<'a> {
    /// Term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// Entries; the first replaces whatever is at its index and after it.
    pub entries: Entries<'a>,
    /// Names this write.
    pub receipt: Receipt,
}

/// An answer owed to a peer, other than the common ones to this term's leader. Of each kind at most one a peer is kept,
/// the latest, which bounds them.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    PreVote {
        seat: usize,
        granted: bool,
        term: Term,
    },
    Vote {
        seat: usize,
        granted: bool,
    },
    Rejected {
        seat: usize,
        rejected: LogIndex,
        last: LogIndex,
        hint: LogPosition,
    },
    /// To somebody who still leads an earlier term.
    Heartbeat {
        seat: usize,
    },
}

impl Raft {
    /// What is to be made durable and was not handed out yet: the hard state if it changed, and the next entries, of at
    /// most `bytes_max` bytes ([`Entry::cost`](crate::Entry::cost)) but at least one. `None` if there is nothing.
    pub fn poll_persist(&mut self, bytes_max: usize) -> Option<Persist<'_>> {
        let (handed, last) = (self.log.handed(), self.log.last_index());
        if !self.hard_changed && handed == last {
            return None;
        }
        let end = if handed < last { self.log.prefix(handed.next(), last, bytes_max).0 } else { handed };
        self.log.hand_out(end);
        let hard_state = core::mem::take(&mut self.hard_changed).then_some(self.hard);
        let receipt = Receipt { generation: self.log.generation(), index: end, hard: self.hard };
        Some(Persist { hard_state, entries: self.log.slice(handed.next(), end), receipt })
    }

    /// The next message. A leader's appends are formed here, one after the other, from the log; entries are borrowed,
    /// not copied. Messages that wait for durability come only when all they depend on was handed out by
    /// [`poll_persist`](Raft::poll_persist).
    pub fn poll_message(&mut self) -> Option<Outgoing<'_>> {
        if let State::Leader(leadership) = &mut self.state
            && let Some(next) = leadership.next(self.seat, &self.log, self.commit, &self.settings)
        {
            return Some(self.form(next));
        }
        if self.requests != 0
            && let Some((seat, durability, term, body)) = self.next_request()
        {
            return Some(self.outgoing(seat, durability, term, body));
        }
        let (seat, durability, term, body) = self.next_answer()?;
        Some(self.outgoing(seat, durability, term, body))
    }

    /// The next entries to apply: committed, and durable here too, so that a state machine is never ahead of its log;
    /// at most `bytes_max` bytes but at least one entry. Handed out counts as applied.
    pub fn poll_committed(&mut self, bytes_max: usize) -> Option<Entries<'_>> {
        let last = self.commit.min(self.log.durable());
        if last <= self.applied {
            return None;
        }
        let first = self.applied.next();
        self.applied = self.log.prefix(first, last, bytes_max).0;
        Some(self.log.slice(first, self.applied))
    }

    /// Owes an answer; a later one of its kind to the same peer takes its place.
    pub(crate) fn owe(&mut self, answer: Answer) {
        match self.answers.iter_mut().find(|other| other.replaced_by(&answer)) {
            Some(other) => *other = answer,
            None => self.answers.push(answer),
        }
    }

    /// Owes this term's leader an acknowledgement. A rejection of what is acknowledged now is out of date.
    pub(crate) fn owe_accepted(&mut self, leader: usize, matched: LogIndex) {
        self.accepted = self.accepted.max(Some(matched));
        if !self.answers.is_empty() {
            let outdated = |rejected, seat| rejected <= matched && seat == leader;
            self.answers.retain(|a| !matches!(*a, Answer::Rejected { rejected, seat, .. } if outdated(rejected, seat)));
        }
    }

    /// Nobody waits for what was owed: the term ended, or this replica no longer follows its leader.
    pub(crate) fn forget_answers(&mut self) {
        self.answers = Vec::new();
        self.accepted = None;
        self.heartbeat_owed = false;
    }

    /// Whether everything that answers depend on was handed out to be persisted.
    fn all_handed_out(&self) -> bool {
        !self.hard_changed && self.log.handed() == self.log.last_index()
    }

    fn next_request(&mut self) -> Option<(usize, Durability, Term, Body<'static>)> {
        let seat = self.requests.trailing_zeros() as usize;
        let last = self.log.last();
        let request = match self.state {
            State::PreCandidate => (seat, Durability::Now, self.hard.term.next(), Body::PreVote { last }),
            // A vote asked for is one's own vote given: durable first, or after a crash it could be given again.
            State::Candidate if self.all_handed_out() => {
                (seat, Durability::AfterPersist, self.hard.term, Body::Vote { last })
            }
            State::Candidate => return None,
            State::Follower | State::Leader(_) => unreachable!("only who campaigns asks for votes"),
        };
        self.requests &= self.requests - 1;
        Some(request)
    }

    fn next_answer(&mut self) -> Option<(usize, Durability, Term, Body<'static>)> {
        let all = self.all_handed_out();
        if all && let Some(body) = self.next_answer_to_leader() {
            let leader = self.leader.expect("answers are owed to the leader of this term, until it ends");
            let seat = self.configuration.voter_index(leader).expect("a leader is a voter");
            return Some((seat, Durability::AfterPersist, self.hard.term, body));
        }
        let place = self.answers.iter().position(|a| all || matches!(a, Answer::PreVote { .. }))?;
        let answer = self.answers.remove(place);
        if self.answers.is_empty() {
            self.answers = Vec::new();
        }
        let term = self.hard.term;
        Some(match answer {
            Answer::PreVote { seat, granted, term } => (seat, Durability::Now, term, Body::PreVoteAnswer { granted }),
            Answer::Vote { seat, granted } => (seat, Durability::AfterPersist, term, Body::VoteAnswer { granted }),
            Answer::Rejected { seat, rejected, last, hint } => {
                (seat, Durability::AfterPersist, term, Body::AppendRejected { rejected, last, hint })
            }
            Answer::Heartbeat { seat } => (seat, Durability::AfterPersist, term, Body::HeartbeatAnswer),
        })
    }

    fn next_answer_to_leader(&mut self) -> Option<Body<'static>> {
        if let Some(matched) = self.accepted.take() {
            return Some(Body::AppendAccepted { matched });
        }
        core::mem::take(&mut self.heartbeat_owed).then_some(Body::HeartbeatAnswer)
    }

    fn form(&self, next: Next) -> Outgoing<'_> {
        let (seat, body) = match next {
            Next::Heartbeat { seat, commit } => (seat, Body::Heartbeat { commit }),
            Next::Append { seat, previous, last } => {
                let entries = self.log.slice(previous.next(), last);
                (seat, Body::Append { previous: self.log.position(previous), commit: self.commit, entries })
            }
        };
        self.outgoing(seat, Durability::Now, self.hard.term, body)
    }

    fn outgoing<'a>(&self, seat: usize, durability: Durability, term: Term, body: Body<'a>) -> Outgoing<'a> {
        let message = Message { group: self.group, from: self.replica, to: self.voter(seat), term, body };
        Outgoing { message, durability }
    }
}

impl Answer {
    fn seat(&self) -> usize {
        match *self {
            Answer::PreVote { seat, .. }
            | Answer::Vote { seat, .. }
            | Answer::Rejected { seat, .. }
            | Answer::Heartbeat { seat } => seat,
        }
    }

    fn replaced_by(&self, other: &Answer) -> bool {
        core::mem::discriminant(self) == core::mem::discriminant(other) && self.seat() == other.seat()
    }
}
