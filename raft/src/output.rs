//! What goes out of a replica: what to persist, what to send, what to apply.
//!
//! The order of durability is kept here: an answer that depends on this replica's disk is not yielded before all it
//! depends on was handed out, and is marked so that it leaves only when that is durable.

use crate::flags::Flag;
use crate::leader::Next;
use crate::limit::Limit;
use crate::message::{Body, Durability, Entries, Message, Outgoing};
use crate::raft::{Raft, State};
use crate::restore::Base;
use crate::types::{HardState, Instant, LogIndex, LogPosition, Member, Term};
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Most answers kept for peers at a time. A correct group owes at most one of a kind to each member; what a peer with
/// made-up names asks beyond is not answered, as if the answer were lost.
const ANSWERS_MAX: usize = 128;

/// What [`Raft::poll_persist`] handed out, to be given back with [`Raft::handle_persisted`] when it is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(crate) generation: u32,
    pub(crate) index: LogIndex,
    pub(crate) hard: HardState,
}

/// What to make durable, in one write: all of it or nothing of it may survive a crash, or a prefix of the entries
/// together with the rest.
#[derive(Clone, Debug)]
pub struct Persist<'a> {
    /// A snapshot took the place of the whole log, which goes on from here.
    pub base: Option<Base>,
    /// Term and vote, if they changed.
    pub hard_state: Option<HardState>,
    /// The replica is whole again ([`Limit::None`]): what it was limited to is to be forgotten. If that gets lost in a
    /// crash, the replica is limited once more, which does no harm.
    pub limit: Option<Limit>,
    /// Entries; the first replaces whatever is at its index and after it.
    pub entries: Entries<'a>,
    /// Names this write.
    pub receipt: Receipt,
}

/// An answer owed to a peer, other than the common ones to this term's leader. Of each kind at most one a peer is kept,
/// the latest.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    PreVote {
        to: Member,
        granted: bool,
        term: Term,
    },
    Vote {
        to: Member,
        granted: bool,
    },
    Rejected {
        to: Member,
        rejected: LogIndex,
        last: LogIndex,
        hint: LogPosition,
    },
    /// To somebody who still leads an earlier term.
    Heartbeat {
        to: Member,
        sent: Instant,
    },
    NotMember {
        to: Member,
        index: LogIndex,
    },
    Read {
        to: Member,
        id: u64,
        index: Option<LogIndex>,
    },
}

/// A message without entries, before it is addressed.
type Draft = (Member, Durability, Term, Body<'static>);

impl Raft {
    /// What is to be made durable and was not handed out yet: a new base, the hard state if it changed, the end of a limit
    /// when what ended it is durable, and the next entries, of at most `bytes_max` bytes ([`Entry::cost`](crate::Entry::cost)) but at least one. `None` if there is
    /// nothing.
    #[inline]
    pub fn poll_persist(&mut self, bytes_max: usize) -> Option<Persist<'_>> {
        let limit = self.take_lifted();
        if limit.is_none() && self.all_handed_out() {
            return None;
        }
        let (handed, last) = (self.log.handed(), self.log.last_index());
        let end = if handed < last { self.log.prefix(handed.next(), last, bytes_max).0 } else { handed };
        self.log.hand_out(end);
        let base = self.flags.take(Flag::Reset).then(|| self.base());
        let hard = self.hard_state();
        let hard_state = self.flags.take(Flag::HardChanged).then_some(hard);
        let receipt = Receipt { generation: self.log.generation(), index: end, hard };
        Some(Persist { base, hard_state, limit, entries: self.log.slice(handed.next(), end), receipt })
    }

    /// The next message. A leader's appends are formed here, one after the other, from the log; entries are borrowed,
    /// not copied. Messages that wait for durability come only when all they depend on was handed out by
    /// [`poll_persist`](Raft::poll_persist).
    pub fn poll_message(&mut self) -> Option<Outgoing<'_>> {
        if let State::Leader(leadership) = &mut self.state
            && let Some(next) = leadership.next(
                (self.seat, &self.configuration),
                (&self.log, self.rare.as_deref()),
                self.commit,
                &self.settings,
            )
        {
            return Some(self.form(next));
        }
        let draft = self.next_request().or_else(|| self.next_answer_to_leader()).or_else(|| self.next_answer());
        draft.map(|(to, durability, term, body)| self.outgoing(to, durability, term, body))
    }

    /// The next entries to apply: committed, and durable here too, so that a state machine is never ahead of its log;
    /// at most `bytes_max` bytes but at least one entry. Handed out counts as applied. Entries that are on disk alone come
    /// when they were fetched ([`poll_fetch`](Raft::poll_fetch)).
    pub fn poll_committed(&mut self, bytes_max: usize) -> Option<Entries<'_>> {
        let last = self.commit.min(self.log.durable());
        if last <= self.applied {
            return None;
        }
        let first = self.applied.next();
        if first <= self.log.floor().index {
            return self.poll_fetched(last, bytes_max);
        }
        self.applied = self.log.prefix(first, last, bytes_max).0;
        Some(self.log.slice(first, self.applied))
    }

    /// What the log goes on from: its base, and the members there.
    #[must_use]
    pub fn base(&self) -> Base {
        let (configuration, configuration_index) = self.base_configuration();
        Base { position: self.log.base(), configuration: Arc::clone(configuration), configuration_index }
    }

    /// Owes an answer; a later one of its kind to the same peer takes its place.
    pub(crate) fn owe(&mut self, answer: Answer) {
        let answers = &mut self.rare().answers;
        match answers.iter().position(|other| other.replaced_by(&answer)) {
            Some(place) => answers[place] = answer,
            None if answers.len() < ANSWERS_MAX => answers.push(answer),
            None => {}
        }
    }

    /// Owes this term's leader an acknowledgement. A rejection of what is acknowledged now is out of date.
    pub(crate) fn owe_accepted(&mut self, matched: LogIndex) {
        let State::Follower(following) = &mut self.state else { return };
        following.accepted = following.accepted.max(matched);
        self.flags.raise(Flag::AcceptedOwed);
        let leader = self.leader;
        if let Some(rare) = &mut self.rare {
            let outdated = |rejected, to: Member| rejected <= matched && to.replica == leader;
            rare.answers.retain(|a| !matches!(*a, Answer::Rejected { rejected, to, .. } if outdated(rejected, to)));
            self.tidy();
        }
    }

    /// Whether everything that answers depend on was handed out to be persisted.
    #[inline]
    fn all_handed_out(&self) -> bool {
        !self.flags.has(Flag::HardChanged) && !self.flags.has(Flag::Reset) && self.log.handed() == self.log.last_index()
    }

    fn next_request(&mut self) -> Option<Draft> {
        if let Some(id) = self.next_question() {
            return Some((self.leading(), Durability::Now, self.term, Body::ReadRequest { id }));
        }
        let all = self.all_handed_out();
        let (ballot, durability, term, body) = match &mut self.state {
            State::PreCandidate(ballot) => {
                let body = Body::PreVote { last: self.log.last(), priority: self.priority };
                (ballot, Durability::Now, self.term.next(), body)
            }
            // A vote asked for is one's own vote given: durable first, or after a crash it could be given again.
            State::Candidate(ballot) if all => {
                let body = Body::Vote { last: self.log.last(), transfer: self.flags.has(Flag::Transfer) };
                (ballot, Durability::AfterPersist, self.term, body)
            }
            State::Candidate(_) | State::Follower(_) | State::Leader(_) => return None,
        };
        if ballot.requests == 0 {
            return None;
        }
        let to = self.configuration.members()[ballot.requests.trailing_zeros() as usize];
        ballot.requests &= ballot.requests - 1;
        Some((to, durability, term, body))
    }

    fn next_answer_to_leader(&mut self) -> Option<Draft> {
        if !(self.flags.has(Flag::AcceptedOwed) || self.flags.has(Flag::HeartbeatOwed)) || !self.all_handed_out() {
            return None;
        }
        let State::Follower(following) = &self.state else { return None };
        let body = if self.flags.take(Flag::AcceptedOwed) {
            Body::AppendAccepted { matched: following.accepted }
        } else {
            self.flags.lower(Flag::HeartbeatOwed);
            Body::HeartbeatAnswer { sent: following.heartbeat, lost: self.is_limited() }
        };
        Some((self.leading(), Durability::AfterPersist, self.term, body))
    }

    fn next_answer(&mut self) -> Option<Draft> {
        let (all, lost) = (self.all_handed_out(), self.is_limited());
        let answers = &mut self.rare.as_mut()?.answers;
        let place = answers.iter().position(|answer| all || !answer.needs_disk())?;
        let answer = answers.remove(place);
        if answers.is_empty() {
            *answers = Vec::new();
            self.tidy();
        }
        let (to, term, body) = match answer {
            Answer::PreVote { to, granted, term } => (to, term, Body::PreVoteAnswer { granted }),
            Answer::Vote { to, granted } => (to, self.term, Body::VoteAnswer { granted }),
            Answer::Rejected { to, rejected, last, hint } => {
                (to, self.term, Body::AppendRejected { rejected, last, hint, lost })
            }
            Answer::Heartbeat { to, sent } => (to, self.term, Body::HeartbeatAnswer { sent, lost: false }),
            Answer::NotMember { to, index } => (to, self.term, Body::NotMember { index }),
            Answer::Read { to, id, index } => (to, self.term, Body::ReadAnswer { id, index }),
        };
        let durability = if answer.needs_disk() { Durability::AfterPersist } else { Durability::Now };
        Some((to, durability, term, body))
    }

    fn form(&self, next: Next) -> Outgoing<'_> {
        let (seat, body) = match next {
            Next::Heartbeat { seat, commit, sent } => (seat, Body::Heartbeat { commit, sent }),
            Next::Append { seat, previous, last } => {
                let paged = last > previous && last <= self.log.floor().index;
                let entries = match paged {
                    true => self.fetched(self.configuration.members()[seat].replica, previous, last),
                    false => self.log.slice(previous.next(), last),
                };
                (seat, Body::Append { previous: self.log.position(previous), commit: self.commit, entries })
            }
            Next::TimeoutNow { seat } => (seat, Body::TimeoutNow { last: self.log.last_index() }),
            Next::Snapshot { seat } => {
                let (configuration, configuration_index) = self.base_configuration();
                (seat, Body::Snapshot { last: self.log.base(), configuration, configuration_index })
            }
        };
        self.outgoing(self.configuration.members()[seat], Durability::Now, self.term, body)
    }

    fn outgoing<'a>(&self, to: Member, durability: Durability, term: Term, body: Body<'a>) -> Outgoing<'a> {
        let message = Message { group: self.group, from: self.replica, to: to.replica, term, body };
        Outgoing { message, node: to.node, durability }
    }
}

impl Answer {
    /// Whether it tells of something that a crash could make untrue: this replica's term, its vote, its log.
    const fn needs_disk(&self) -> bool {
        matches!(self, Answer::Vote { .. } | Answer::Rejected { .. } | Answer::Heartbeat { .. })
    }

    const fn to(&self) -> Member {
        match *self {
            Answer::PreVote { to, .. }
            | Answer::Vote { to, .. }
            | Answer::Rejected { to, .. }
            | Answer::Heartbeat { to, .. }
            | Answer::NotMember { to, .. }
            | Answer::Read { to, .. } => to,
        }
    }

    fn replaced_by(&self, other: &Answer) -> bool {
        core::mem::discriminant(self) == core::mem::discriminant(other) && self.to() == other.to()
    }
}
