//! What can be asked of a replica: nothing here changes anything.

use crate::configuration::Configuration;
use crate::message::Entries;
use crate::raft::{NOBODY, Raft, State};
use crate::types::{GroupId, Instant, LogIndex, LogPosition, Member, ReplicaId, Term};
use alloc::sync::Arc;

/// What a replica is in its group (Raft paper, section 5.1; the pre-candidate: Raft thesis, section 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader, or waits for one.
    Follower,
    /// Asks whether it could win an election.
    PreCandidate,
    /// Runs for leader.
    Candidate,
    /// Leads.
    Leader,
}

impl Raft {
    /// Which group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Which replica of it.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }

    /// What it is now.
    #[must_use]
    pub fn role(&self) -> Role {
        match self.state {
            State::Follower(_) => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }

    /// Its term; perhaps not durable yet.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whom it voted for in its term; perhaps not durable yet.
    #[must_use]
    pub fn vote(&self) -> Option<ReplicaId> {
        self.hard_state().vote
    }

    /// Who leads its term, if it knows.
    #[must_use]
    pub fn leader(&self) -> Option<Member> {
        (self.leader != NOBODY).then(|| self.leading())
    }

    /// Highest index known to be committed.
    #[must_use]
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// Highest index handed out to be applied.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Where its log ends; perhaps not durable yet.
    #[must_use]
    pub fn last(&self) -> LogPosition {
        self.log.last()
    }

    /// Highest index that is durable here.
    #[must_use]
    pub fn durable(&self) -> LogIndex {
        self.log.durable()
    }

    /// When it wants [`handle_deadline`](Raft::handle_deadline).
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        (self.deadline != Instant::NEVER).then_some(self.deadline)
    }

    /// Until when it promised, or may have promised before its start, to elect nobody but the leader it heard.
    #[must_use]
    pub fn promise(&self) -> Instant {
        self.promise
    }

    /// The members of the group, by the last entry that says so, committed or not.
    #[must_use]
    pub fn configuration(&self) -> &Arc<Configuration> {
        &self.configuration
    }

    /// Index of that entry; zero for the initial members.
    #[must_use]
    pub fn configuration_index(&self) -> LogIndex {
        self.configuration_index
    }

    /// Bytes of all entries in memory ([`Entry::cost`](crate::Entry::cost)), those fetched from disk too.
    #[must_use]
    pub fn log_bytes(&self) -> usize {
        self.log.bytes() + self.fetched_bytes()
    }

    /// Term of the entry at `index`; `None` if there is none, or the log no longer knows it.
    #[must_use]
    pub fn entry_term(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index).filter(|_| index > LogIndex(0))
    }

    /// The entries from `first` to `last`, both included, as far as the log has them in memory
    /// ([`first_in_memory`](Raft::first_in_memory)).
    #[must_use]
    pub fn entries(&self, first: LogIndex, last: LogIndex) -> Entries<'_> {
        self.log.slice(first, last)
    }

    /// Bytes of the entries above the commit index, as far as they are in memory. Free for a leader; others count.
    #[must_use]
    pub fn uncommitted_bytes(&self) -> usize {
        match &self.state {
            State::Leader(leadership) => leadership.uncommitted_bytes,
            _ => self.log.bytes_between(self.commit, self.log.last_index()),
        }
    }
}
