//! Reads that are no older than their request, without a write (Raft thesis, section 6.4): by read index, on the leader or
//! through it, and by lease.
//!
//! A read index is confirmed only by heartbeats that were sent after the request came: an acknowledgement from before,
//! late or doubled, says nothing about who leads now (etcd-io/raft#397). Nothing is kept here for a reader on the
//! leader: its ticket names the round of heartbeats that must be acknowledged.

use crate::output::Answer;
use crate::planted::{Bug, planted};
use crate::raft::{NOBODY, Raft, State, leader_hint};
use crate::types::{Instant, LogIndex, Member, Term};

/// A read that waits to know its index. Ask [`Raft::read_state`] after every turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadTicket {
    term: Term,
    wants: Wants,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    /// On the leader: the round, or a later one, is acknowledged by a majority.
    Round { round: Instant, index: LogIndex },
    /// On a follower: the leader's answer to this request, or a later one.
    Request { id: u64 },
}

/// How far a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// Not confirmed yet.
    Waiting,
    /// A state machine that has applied this index serves the read.
    Ready(LogIndex),
    /// The leader changed or could not tell; ask again.
    Lost,
}

/// Why a read can't be served here and now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This replica doesn't lead, and knows nobody to ask.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// This leader has committed nothing in its term yet, so it can't tell what is committed; ask again soon.
    #[error("the leader has committed nothing in its term yet; try again soon")]
    NoCommitYet,
    /// Leases are off ([`Settings::leases`](crate::Settings::leases)).
    #[error("leases are off")]
    LeasesOff,
    /// No majority has promised, lately and durably, to elect nobody else; or the leadership was being given away.
    #[error("the leader holds no lease now")]
    NoLease,
}

/// A follower's conversation with its leader about reads: one request at a time, in which many readers share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    /// The last request, answered or not.
    id: u64,
    /// It has no answer yet.
    open: bool,
    /// It is to be sent, for the first time or again.
    pub(crate) owed: bool,
    /// It was sent before; who comes now needs the next.
    sent: bool,
    /// Readers wait for the next.
    more: bool,
    /// The last answer.
    answer: Option<(u64, Option<LogIndex>)>,
}

/// A member that asked this leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    to: Member,
    id: u64,
    round: Instant,
    index: LogIndex,
}

impl Raft {
    /// Asks for an index that holds everything committed before now. On the leader it takes one round of heartbeats, in
    /// which all readers of a turn share; on a follower one more message each way.
    ///
    /// # Errors
    /// If no leader is known, or the leader has yet to commit in its term.
    pub fn read_index(&mut self, now: Instant) -> Result<ReadTicket, ReadError> {
        let term = self.term;
        if matches!(self.state, State::Leader(_)) {
            let (round, index) = self.confirm(now)?;
            return Ok(ReadTicket { term, wants: Wants::Round { round, index } });
        }
        if self.leader == NOBODY {
            return Err(ReadError::NotLeader { leader: None });
        }
        // A replica that starts again does so at another moment, and names its requests otherwise.
        let first = now.0.rotate_left(32) ^ u64::from(self.random.next());
        let asking = self.rare().asking.get_or_insert(Asking {
            id: first,
            open: false,
            owed: false,
            sent: false,
            more: false,
            answer: None,
        });
        Ok(ReadTicket { term, wants: Wants::Request { id: asking.join() } })
    }

    /// How far a read is.
    #[must_use]
    pub fn read_state(&self, ticket: &ReadTicket) -> ReadState {
        if ticket.term != self.term {
            return ReadState::Lost;
        }
        match ticket.wants {
            Wants::Round { round, index } => match self.state {
                State::Leader(_) if self.confirmed() >= round || planted(Bug::ReadWithoutQuorum) => {
                    ReadState::Ready(index)
                }
                State::Leader(_) => ReadState::Waiting,
                _ => ReadState::Lost,
            },
            Wants::Request { id } => match self.rare.as_ref().and_then(|rare| rare.asking.as_ref()) {
                None => ReadState::Lost,
                Some(asking) => asking.state(id),
            },
        }
    }

    /// The index that a read needs now, on the strength of the followers' promises alone: no message, no wait. As safe
    /// as [`Settings::clock_drift_max_ppm`](crate::Settings::clock_drift_max_ppm) is true.
    ///
    /// # Errors
    /// If this replica doesn't lead, has yet to commit in its term, or holds no lease.
    pub fn lease_read(&self, now: Instant) -> Result<LogIndex, ReadError> {
        if !matches!(self.state, State::Leader(_)) {
            return Err(ReadError::NotLeader { leader: self.leader() });
        }
        if !self.settings.leases {
            return Err(ReadError::LeasesOff);
        }
        if !self.knows_commit() {
            return Err(ReadError::NoCommitYet);
        }
        if self.holds_lease(now) { Ok(self.commit) } else { Err(ReadError::NoLease) }
    }

    /// A member wants to know what it may read.
    pub(crate) fn handle_read_request(&mut self, now: Instant, peer: Member, id: u64) {
        let known = |asked: &&Asked| asked.to == peer && asked.id == id;
        if self.rare.as_ref().is_some_and(|rare| rare.asked.iter().any(|asked| known(&asked))) {
            return;
        }
        match self.confirm(now) {
            Ok((round, index)) => {
                let asked = &mut self.rare().asked;
                asked.retain(|asked| asked.to != peer);
                asked.push(Asked { to: peer, id, round, index });
                self.answer_asked();
            }
            Err(_) => self.owe(Answer::Read { to: peer, id, index: None }),
        }
    }

    /// The leader's answer.
    pub(crate) fn handle_read_answer(&mut self, id: u64, index: Option<LogIndex>) {
        if let Some(asking) = self.rare.as_mut().and_then(|rare| rare.asking.as_mut())
            && asking.open
            && asking.id == id
        {
            asking.take(index);
        }
    }

    /// The leader lives, and the question may have been lost.
    pub(crate) fn ask_again(&mut self) {
        if let Some(asking) = self.rare.as_mut().and_then(|rare| rare.asking.as_mut()) {
            asking.owed |= asking.open;
        }
    }

    /// Answers those whose round was acknowledged.
    pub(crate) fn answer_asked(&mut self) {
        if self.rare.as_ref().is_none_or(|rare| rare.asked.is_empty()) {
            return;
        }
        let confirmed = self.confirmed();
        let asked = core::mem::take(&mut self.rare().asked);
        for Asked { to, id, round, index } in asked {
            if round <= confirmed {
                self.owe(Answer::Read { to, id, index: Some(index) });
            } else {
                self.rare().asked.push(Asked { to, id, round, index });
            }
        }
        self.tidy();
    }

    /// The request to be sent to the leader now.
    pub(crate) fn next_question(&mut self) -> Option<u64> {
        let asking = self.rare.as_mut()?.asking.as_mut()?;
        if !core::mem::take(&mut asking.owed) {
            return None;
        }
        asking.sent = true;
        Some(asking.id)
    }

    /// The commit index, and a round of heartbeats that leaves after this and shows that it was the latest.
    fn confirm(&mut self, now: Instant) -> Result<(Instant, LogIndex), ReadError> {
        if !self.knows_commit() {
            return Err(match self.state {
                State::Leader(_) => ReadError::NoCommitYet,
                _ => ReadError::NotLeader { leader: self.leader() },
            });
        }
        let commit = self.commit;
        let State::Leader(leadership) = &mut self.state else {
            return Err(ReadError::NotLeader { leader: self.leader() });
        };
        // A round of which nothing has left yet will leave after this request.
        if !leadership.round_unsent && !planted(Bug::ReadByOldRound) {
            leadership.start_round(now);
        }
        Ok((leadership.round, commit))
    }
}

impl Asking {
    /// The request that a reader who comes now waits for.
    fn join(&mut self) -> u64 {
        if self.open && self.sent {
            self.more = true;
            return self.id.wrapping_add(1);
        }
        if !self.open {
            self.next();
        }
        self.id
    }

    fn next(&mut self) {
        self.id = self.id.wrapping_add(1);
        (self.open, self.owed, self.sent, self.more) = (true, true, false, false);
    }

    fn take(&mut self, index: Option<LogIndex>) {
        self.answer = Some((self.id, index));
        (self.open, self.owed) = (false, false);
        if self.more {
            self.next();
        }
    }

    fn state(&self, id: u64) -> ReadState {
        // Ids of one conversation follow each other, and may wrap round.
        let reaches = |last: u64| last.wrapping_sub(id) < u64::MAX / 2;
        match self.answer {
            Some((answered, index)) if reaches(answered) => index.map_or(ReadState::Lost, ReadState::Ready),
            // The next request is the last that anybody waits for; beyond is what an earlier conversation asked.
            _ if reaches(self.id.wrapping_add(1)) => ReadState::Waiting,
            _ => ReadState::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_of_another_conversation_is_lost_or_served_but_never_waits() {
        let fresh = Asking { id: u64::MAX - 1, open: false, owed: false, sent: false, more: false, answer: None };
        let mut asking = fresh;
        let first = asking.join();
        assert_eq!((first, asking.join(), asking.state(first)), (u64::MAX, first, ReadState::Waiting));
        asking.sent = true;
        let second = asking.join();
        assert_eq!((second, asking.state(second)), (0, ReadState::Waiting), "names wrap round");
        assert_eq!(asking.state(1), ReadState::Lost, "nobody asks that here");
        asking.take(Some(LogIndex(7)));
        assert_eq!((asking.state(first), asking.state(second)), (ReadState::Ready(LogIndex(7)), ReadState::Waiting));
        assert_eq!(asking.state(first.wrapping_sub(9)), ReadState::Ready(LogIndex(7)), "what began before is served");
        asking.take(None);
        assert_eq!((asking.state(second), asking.state(9)), (ReadState::Lost, ReadState::Lost));
    }
}
