//! Elections: pre-votes, votes, and the ways into and out of a term.
//!
//! Owns term, vote and deadline. It must never count a vote of this replica that is not durable, never let a pre-vote
//! change anything, and never help to elect anybody while a promise to a leader stands.

use crate::configuration::Configuration;
use crate::flags::Flag;
use crate::leader::Leadership;
use crate::output::Answer;
use crate::planted::{Bug, planted};
use crate::raft::{Ballot, Following, NOBODY, Raft, State};
use crate::types::{Entry, EntryKind, Instant, LogIndex, LogPosition, Member, ReplicaId, Term};
use alloc::boxed::Box;
use bytes::Bytes;

/// Why a replica doesn't campaign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CampaignError {
    /// It leads.
    #[error("this replica leads")]
    Leads,
    /// It has no vote, so it can't lead.
    #[error("this replica has no vote in its group")]
    NotVoter,
    /// It promised its leader, or may have before it was started, not to.
    #[error("this replica promised a leader not to campaign yet")]
    Promised {
        /// Until when.
        until: Instant,
    },
    /// Its disk lost something that it may have acknowledged ([`Limit`](crate::Limit)), and it is not whole again.
    #[error("this replica's disk lost part of its log, and it is not whole again")]
    Limited,
    /// There is no later term.
    #[error("there is no later term")]
    LastTerm,
}

impl Raft {
    /// Starts a pre-vote now: asks whether it could win an election, before it disturbs anybody with a new term (Raft
    /// thesis, section 9.6).
    ///
    /// # Errors
    /// If it leads or can't, or if it promised a leader not to: a leader that was heard is not disturbed.
    pub fn campaign(&mut self, now: Instant) -> Result<(), CampaignError> {
        if matches!(self.state, State::Leader(_)) {
            return Err(CampaignError::Leads);
        }
        if self.is_limited() {
            return Err(CampaignError::Limited);
        }
        if !self.may_lead() {
            return Err(CampaignError::NotVoter);
        }
        if now < self.promise {
            return Err(CampaignError::Promised { until: self.promise });
        }
        self.reset_deadline(now);
        if self.term == Term::MAX {
            return Err(CampaignError::LastTerm);
        }
        if self.is_forced() {
            // An operator made it a candidate that needs nobody but its disk.
            return Ok(());
        }
        if planted(Bug::Disturbance) {
            self.become_candidate(now, false);
            return Ok(());
        }
        self.forget_leader();
        // A pre-vote promises nothing, so one's own needs no disk.
        self.state = State::PreCandidate(Ballot { granted: self.own_bit(), requests: self.other_voters() });
        self.count_pre_vote(now, self.replica);
        Ok(())
    }

    /// Of two replicas with equal logs the one with the higher priority should lead: it refuses the other its pre-vote
    /// and campaigns itself. Zero at the start, and not kept over a restart.
    pub fn set_priority(&mut self, priority: u8) {
        self.priority = priority;
    }

    /// Stops leading or campaigning, in the same term and without a message: for a node whose log failed, so that its
    /// peers elect another by themselves.
    pub fn step_down(&mut self, now: Instant) {
        if !matches!(self.state, State::Follower(_)) {
            if matches!(self.state, State::Leader(_)) {
                self.forget_leader();
            }
            self.become_follower(now);
        }
    }

    /// Would this replica vote so? It says so and changes nothing (Raft thesis, section 9.6): not its term, not its
    /// vote. While it hears a leader it says no, so that a replica that was cut off can't disturb a group that works;
    /// one that was removed is told so.
    pub(crate) fn handle_pre_vote(&mut self, now: Instant, peer: Member, term: Term, last: LogPosition, priority: u8) {
        let leads = matches!(self.state, State::Leader(_));
        let could = term > self.term || (term == self.term && self.may_vote_for(peer.replica));
        let mut granted = could && now >= self.promise && !leads && self.is_new_enough(last);
        if granted && self.is_rather_leader(last, priority) {
            granted = false;
            // Whoever refuses for being the better one has to stand up.
            self.deadline = self.deadline.min(now);
        }
        let answered = if granted { term } else { self.term };
        self.owe(Answer::PreVote { to: peer, granted, term: answered });
        if !granted {
            self.tell_stranger(peer);
        }
    }

    /// Tells who is no member that it is none, as far as this replica knows. It may know less: so this is said beside a
    /// refusal, never in the place of a vote that a new member needs.
    fn tell_stranger(&mut self, peer: Member) {
        let (committed, index) = self.committed_configuration();
        let knows = |c: &Configuration| c.seat(peer.replica).is_some();
        if index.0 > 0 && !knows(committed) && !knows(&self.configuration) {
            self.owe(Answer::NotMember { to: peer, index });
        }
    }

    pub(crate) fn handle_pre_vote_granted(&mut self, now: Instant, peer: Member, term: Term) {
        // An answer to an older question says nothing about this one.
        if term == self.term.next() {
            self.count_pre_vote(now, peer.replica);
        }
    }

    fn count_pre_vote(&mut self, now: Instant, voter: ReplicaId) {
        let bit = self.bit(voter);
        if let State::PreCandidate(ballot) = &mut self.state {
            ballot.granted |= bit;
            if self.configuration.is_quorum(ballot.granted) {
                self.become_candidate(now, false);
            }
        }
    }

    /// This replica was removed from the group and missed it: it stays quiet, until a leader speaks to it after all.
    /// Only a later configuration than its own can know, or its own, if that is what removed it.
    pub(crate) fn handle_not_member(&mut self, index: LogIndex) {
        // Who got as far as a candidacy has the word of a majority that it is one, or an operator's.
        let waits = matches!(self.state, State::Follower(_) | State::PreCandidate(_));
        let knows = index > self.configuration_index || (index == self.configuration_index && self.seat.is_none());
        if knows && self.leader == NOBODY && waits {
            self.flags.raise(Flag::Quiet);
            self.state = State::Follower(Following::default());
            self.deadline = Instant::NEVER;
        }
    }

    /// One vote a term, first come first served, and only for a log that has all this one may have helped to commit
    /// (Raft paper, sections 5.2 and 5.4.1). The answer leaves when the vote is durable. A promise to a leader stands
    /// against it, unless that leader itself asked for the election.
    pub(crate) fn handle_vote(&mut self, now: Instant, peer: Member, last: LogPosition, transfer: bool) {
        let free = transfer || now >= self.promise;
        let granted = free && self.may_vote_for(peer.replica) && self.is_new_enough(last);
        if granted {
            if self.vote != peer.replica {
                self.vote = peer.replica;
                self.flags.raise(Flag::HardChanged);
            }
            // Only a granted vote buys the candidate time (Raft paper, section 5.2), so a hopeless one delays nobody.
            self.reset_deadline(now);
        }
        self.owe(Answer::Vote { to: peer, granted });
    }

    /// The leader of this term wants this replica to take over.
    pub(crate) fn handle_timeout_now(&mut self, now: Instant, peer: Member, last: LogIndex) {
        let votes = self.configuration.is_voter(self.replica) && !self.is_limited();
        let follows = matches!(self.state, State::Follower(_)) && self.leader == peer.replica;
        if votes && follows && self.log.last_index() >= last && self.term < Term::MAX {
            self.become_candidate(now, true);
        }
    }

    /// Counts a vote for this candidate; its own is counted when it is durable. One that has no seat any more has no vote
    /// of its own, and was answered only because its term was durable.
    pub(crate) fn count_vote(&mut self, voter: ReplicaId) {
        let (bit, own) = (self.bit(voter), self.own_bit());
        if let State::Candidate(ballot) = &mut self.state {
            ballot.granted |= bit;
            if ballot.granted & own == own && self.configuration.is_quorum(ballot.granted) {
                self.become_leader();
            }
        }
    }

    /// This candidate's own vote is durable.
    pub(crate) fn count_own_vote(&mut self) {
        if self.is_forced() {
            return self.become_leader();
        }
        self.count_vote(self.replica);
    }

    /// Moves to a later term, in which this replica has not voted. What it owed in the old one nobody waits for.
    pub(crate) fn enter_term(&mut self, term: Term) {
        assert!(term > self.term, "terms never go back");
        self.term = term;
        self.vote = ReplicaId(0);
        self.flags.raise(Flag::HardChanged);
        self.forget_leader();
    }

    /// Follows. A deadline that runs goes on: only a leader or a vote given puts it off.
    pub(crate) fn become_follower(&mut self, now: Instant) {
        let led = matches!(self.state, State::Leader(_));
        if !matches!(self.state, State::Follower(_)) {
            self.state = State::Follower(Following::default());
        }
        self.flags.lower(Flag::Transfer);
        if let Some(rare) = &mut self.rare {
            (rare.transfer, rare.forced) = (None, None);
            rare.asked.clear();
            self.tidy();
        }
        if led || self.deadline == Instant::NEVER {
            self.reset_deadline(now);
        }
    }

    /// Somewhere between the minimum and the maximum from now, so that votes seldom split (Raft paper, section 5.2), and
    /// not before a promise ends. Who can't lead has none.
    pub(crate) fn reset_deadline(&mut self, now: Instant) {
        if self.flags.has(Flag::Quiet) || self.is_limited() || !self.may_lead() {
            self.deadline = Instant::NEVER;
            return;
        }
        let (min, max) = (self.settings.election_timeout_min, self.settings.election_timeout_max);
        let timeout = self.random.between(min, max);
        let after_promise = self.promise.after(timeout.saturating_sub(min));
        self.deadline = now.after(timeout).max(after_promise);
    }

    /// The leader of this term speaks. Whoever campaigns in it gives up (Raft paper, section 5.2), and promises it time.
    pub(crate) fn hear_leader(&mut self, now: Instant, leader: Member) {
        assert!(!matches!(self.state, State::Leader(_)), "a term has one leader");
        self.become_follower(now);
        self.leader = leader.replica;
        let outsider = self.configuration.seat(leader.replica).is_none().then_some(leader);
        if outsider.is_some() || self.rare.is_some() {
            self.rare().outsider = outsider;
            self.tidy();
        }
        self.flags.lower(Flag::Quiet);
        self.flags.lower(Flag::SitsOut);
        self.promise = self.promise.max(now.after(self.settings.election_timeout_min));
        self.reset_deadline(now);
    }

    /// No leader is known any more, and nobody waits for what was owed to the last one.
    pub(crate) fn forget_leader(&mut self) {
        self.leader = NOBODY;
        self.flags.lower(Flag::AcceptedOwed);
        self.flags.lower(Flag::HeartbeatOwed);
        if let State::Follower(following) = &mut self.state {
            *following = Following::default();
        }
        if let Some(rare) = &mut self.rare {
            rare.answers = alloc::vec::Vec::new();
            rare.asking = None;
            rare.outsider = None;
            self.tidy();
        }
    }

    /// The bit of a member; none of a stranger.
    pub(crate) fn bit(&self, replica: ReplicaId) -> u32 {
        self.configuration.seat(replica).map_or(0, |seat| 1 << seat)
    }

    pub(crate) fn own_bit(&self) -> u32 {
        self.seat.map_or(0, |seat| 1 << seat)
    }

    /// Whether this replica has a vote, or had one until its log's last configuration, which may not be committed: as long
    /// as it isn't, nobody else may have it, and nobody without it can be elected (Raft thesis, section 4.2.2).
    fn may_lead(&self) -> bool {
        let votes = |configuration: &Configuration| configuration.is_voter(self.replica);
        let pending = self.configuration_index > self.commit;
        votes(&self.configuration) || (pending && self.former().is_some_and(|(_, former)| votes(former)))
    }

    fn is_forced(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.forced.is_some())
    }

    fn may_vote_for(&self, candidate: ReplicaId) -> bool {
        match self.vote {
            ReplicaId(0) => self.leader == NOBODY,
            voted => voted == candidate,
        }
    }

    /// Whether a log that ends there has all that this replica may have helped to commit.
    fn is_new_enough(&self, last: LogPosition) -> bool {
        let newer = last.at_least_as_new_as(self.log.last()) && self.meets_bound(last);
        newer || planted(Bug::VoteForAnyLog)
    }

    /// Whether this replica, with a log as good as that of the candidate, ought to lead in its stead.
    fn is_rather_leader(&self, last: LogPosition, priority: u8) -> bool {
        let able = matches!(self.state, State::Follower(_))
            && self.deadline != Instant::NEVER
            && !self.flags.has(Flag::SitsOut);
        able && self.priority > priority && last == self.log.last()
    }

    fn other_voters(&self) -> u32 {
        (self.configuration.voters | self.configuration.outgoing) & !self.own_bit()
    }

    pub(crate) fn become_candidate(&mut self, now: Instant, transfer: bool) {
        self.enter_term(self.term.next());
        self.vote = self.replica;
        self.state = State::Candidate(Ballot { granted: 0, requests: self.other_voters() });
        self.flags.lower(Flag::Transfer);
        if transfer {
            self.flags.raise(Flag::Transfer);
        }
        self.reset_deadline(now);
    }

    fn become_leader(&mut self) {
        let uncommitted = self.log.bytes_between(self.commit, self.log.last_index());
        let next = self.log.last_index().next();
        let peers = self.configuration.members().len() - usize::from(self.seat.is_some());
        self.state = State::Leader(Box::new(Leadership::new(peers, next, uncommitted)));
        self.leader = self.replica;
        if self.seat.is_none() {
            // Its removal is not committed, and it was needed.
            let node = self.former().and_then(|(_, former)| former.node_of(self.replica)).unwrap_or_default();
            self.rare().outsider = Some(Member { replica: self.replica, node });
        }
        // The candidate's deadline runs on: it is the first at which it has to be heard.
        self.flags.lower(Flag::Transfer);
        if let Some(forced) = self.rare.as_mut().and_then(|rare| rare.forced.take()) {
            self.give_up_bound(next);
            self.tidy();
            return self.append_configuration(forced, Bytes::new(), true);
        }
        // Entries of earlier terms are committed only by one of this term on top (Raft paper, sections 5.4.2 and 8).
        self.append_as_leader(Entry { term: self.term, index: next, kind: EntryKind::Empty, data: Bytes::new() });
    }
}
