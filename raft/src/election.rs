//! Elections: pre-votes, votes, and the ways into and out of a term.
//!
//! Owns term, vote and deadline. It must never count a vote of this replica that is not durable, and never let a
//! pre-vote change anything.

use crate::leader::Leadership;
use crate::output::Answer;
use crate::raft::{Raft, State};
use crate::types::{Entry, EntryKind, HardState, Instant, LogPosition, ReplicaId, Term};
use alloc::boxed::Box;
use bytes::Bytes;

impl Raft {
    /// Starts a pre-vote now: asks whether it could win an election, before it disturbs anybody with a new term (Raft
    /// thesis, section 9.6). Nothing for a leader.
    pub fn campaign(&mut self, now: Instant) {
        if matches!(self.state, State::Leader(_)) {
            return;
        }
        self.reset_deadline(now);
        if self.hard.term == Term::MAX {
            return;
        }
        self.state = State::PreCandidate;
        self.leader = None;
        self.forget_answers();
        self.ask_everybody();
        // A pre-vote promises nothing, so one's own needs no disk.
        self.granted = 1 << self.seat;
        if self.has_quorum() {
            self.become_candidate(now);
        }
    }

    /// Stops leading or campaigning, in the same term and without a message: for a node whose log failed, so that its
    /// peers elect another by themselves.
    pub fn step_down(&mut self, now: Instant) {
        if !matches!(self.state, State::Follower) {
            if matches!(self.state, State::Leader(_)) {
                self.leader = None;
            }
            self.become_follower(now);
        }
    }

    /// Would this replica vote so? It says so and changes nothing (Raft thesis, section 9.6): not its term, not its
    /// vote, not its deadline. As long as it hears a leader it says no, so that a replica that was cut off can't
    /// disturb a group that works.
    pub(crate) fn handle_pre_vote(&mut self, now: Instant, seat: usize, term: Term, last: LogPosition) {
        let heard = self.leader.is_some() && now.since(self.heard) < self.settings.election_timeout_min;
        let leads = matches!(self.state, State::Leader(_));
        let could = term > self.hard.term || (term == self.hard.term && self.may_vote_for(self.voter(seat)));
        let granted = could && !heard && !leads && last.at_least_as_new_as(self.log.last());
        let term = if granted { term } else { self.hard.term };
        self.owe(Answer::PreVote { seat, granted, term });
    }

    pub(crate) fn handle_pre_vote_granted(&mut self, now: Instant, seat: usize, term: Term) {
        // An answer to an older question says nothing about this one.
        if matches!(self.state, State::PreCandidate) && term == self.hard.term.next() {
            self.granted |= 1 << seat;
            if self.has_quorum() {
                self.become_candidate(now);
            }
        }
    }

    /// One vote a term, first come first served, and only for a log that has all this one may have helped to commit
    /// (Raft paper, sections 5.2 and 5.4.1). The answer leaves when the vote is durable.
    pub(crate) fn handle_vote(&mut self, now: Instant, seat: usize, last: LogPosition) {
        let candidate = self.voter(seat);
        let granted = self.may_vote_for(candidate) && last.at_least_as_new_as(self.log.last());
        if granted {
            if self.hard.vote.is_none() {
                self.hard.vote = Some(candidate);
                self.hard_changed = true;
            }
            // Only a granted vote buys the candidate time (Raft paper, section 5.2), so a hopeless one delays nobody.
            self.reset_deadline(now);
        }
        self.owe(Answer::Vote { seat, granted });
    }

    /// Counts a vote for this candidate; its own is counted when it is durable.
    pub(crate) fn count_vote(&mut self, seat: usize) {
        self.granted |= 1 << seat;
        let own_is_durable = self.granted & (1 << self.seat) != 0;
        if own_is_durable && self.has_quorum() {
            self.become_leader();
        }
    }

    /// Moves to a later term, in which this replica has not voted. What it owed in the old one nobody waits for.
    pub(crate) fn enter_term(&mut self, term: Term) {
        assert!(term > self.hard.term, "terms never go back");
        self.hard = HardState { term, vote: None };
        self.hard_changed = true;
        self.leader = None;
        self.forget_answers();
    }

    /// Follows. A deadline that runs goes on: only a leader or a vote given puts it off.
    pub(crate) fn become_follower(&mut self, now: Instant) {
        self.state = State::Follower;
        self.requests = 0;
        self.granted = 0;
        if self.deadline.is_none() {
            self.reset_deadline(now);
        }
    }

    /// Somewhere between the minimum and the maximum from now, so that votes seldom split (Raft paper, section 5.2).
    pub(crate) fn reset_deadline(&mut self, now: Instant) {
        let timeout = self.random.between(self.settings.election_timeout_min, self.settings.election_timeout_max);
        self.deadline = Some(now.after(timeout));
    }

    /// The leader of this term speaks. Whoever campaigns in it gives up (Raft paper, section 5.2).
    pub(crate) fn hear_leader(&mut self, now: Instant, leader: ReplicaId) {
        assert!(!matches!(self.state, State::Leader(_)), "a term has one leader");
        self.become_follower(now);
        self.leader = Some(leader);
        self.heard = now;
        self.reset_deadline(now);
    }

    pub(crate) fn voter(&self, seat: usize) -> ReplicaId {
        self.configuration.voters()[seat].replica
    }

    fn may_vote_for(&self, candidate: ReplicaId) -> bool {
        match self.hard.vote {
            Some(voted) => voted == candidate,
            None => self.leader.is_none(),
        }
    }

    fn has_quorum(&self) -> bool {
        self.granted.count_ones() as usize >= self.configuration.quorum()
    }

    fn ask_everybody(&mut self) {
        let everybody = u32::MAX >> (u32::BITS as usize - self.configuration.voters().len());
        self.requests = everybody & !(1 << self.seat);
    }

    fn become_candidate(&mut self, now: Instant) {
        self.enter_term(self.hard.term.next());
        self.hard.vote = Some(self.replica);
        self.state = State::Candidate;
        self.granted = 0;
        self.ask_everybody();
        self.reset_deadline(now);
    }

    fn become_leader(&mut self) {
        let uncommitted = self.log.bytes_between(self.commit, self.log.last_index());
        let next = self.log.last_index().next();
        let peers = self.configuration.voters().len() - 1;
        self.state = State::Leader(Box::new(Leadership::new(peers, next, uncommitted)));
        self.leader = Some(self.replica);
        self.deadline = None;
        self.requests = 0;
        self.granted = 0;
        // Entries of earlier terms are committed only by one of this term on top (Raft paper, sections 5.4.2 and 8).
        self.append_as_leader(Entry { term: self.hard.term, index: next, kind: EntryKind::Empty, data: Bytes::new() });
    }
}
