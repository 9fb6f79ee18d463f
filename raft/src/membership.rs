//! Changes of a group's members: by one voter at once, or by two steps with a majority of both sets in between (Raft
//! paper, section 6; Raft thesis, chapter 4).
//!
//! A configuration counts from the moment its entry is in the log, and no longer when the entry is cut off again: what
//! a replica goes by is always written in its own durable log. It must never begin a change before the one before it is
//! committed, nor before this leader has committed an entry of its own term: either lets two majorities decide apart.

use crate::codec::ConfigurationEntry;
use crate::configuration::{Configuration, ConfigurationError, MemberChange};
use crate::election::CampaignError;
use crate::flags::Flag;
use crate::limit::Limit;
use crate::planted::{Bug, planted};
use crate::raft::{Ballot, NOBODY, Raft, State, leader_hint, seat_of};
use crate::types::{Entry, EntryKind, Instant, LogIndex, LogPosition, Member, ReplicaId, Term};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

/// Why the members don't change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This replica doesn't lead.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// The change before is not finished.
    #[error("a change of members is under way at index {index}; one after the other")]
    Pending {
        /// Where it stands in the log.
        index: LogIndex,
    },
    /// This leader has committed nothing in its term yet; ask again soon.
    #[error("the leader has committed nothing in its term yet; try again soon")]
    NoCommitYet,
    /// The leadership is being given away; ask again soon.
    #[error("the leadership is being transferred to replica {to}")]
    Transferring {
        /// To whom.
        to: ReplicaId,
    },
    /// The change leads to no configuration.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
}

/// Why an operator can't force a configuration here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForceError {
    /// It leads: a majority still answers it.
    #[error("this replica leads: a majority is there, change the members in the ordinary way")]
    Leads,
    /// It hears a leader, or promised one not to campaign, or its disk lost part of its log.
    #[error(transparent)]
    Campaign(#[from] CampaignError),
    /// It knows nothing of its group.
    #[error("this replica knows no member of its group")]
    NotMember,
    /// The members are no configuration.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
}

impl Raft {
    /// Changes the members, all in one step. If more than one voter changes, the step has two parts and this leader ends
    /// it by itself. It is done when [`poll_committed`](Raft::poll_committed) has handed out an entry of kind
    /// [`Configuration`](EntryKind::Configuration) that is not joint.
    ///
    /// A leader that is no longer a voter leads until that is committed, and steps down then.
    ///
    /// # Errors
    /// If this replica doesn't lead, another change is under way, or the change leads to no configuration; nothing is
    /// appended then.
    pub fn change_membership(&mut self, changes: &[MemberChange], context: Bytes) -> Result<LogPosition, ChangeError> {
        if !matches!(self.state, State::Leader(_)) {
            return Err(ChangeError::NotLeader { leader: self.leader() });
        }
        if let Some(to) = self.transferee() {
            return Err(ChangeError::Transferring { to });
        }
        let early = planted(Bug::ChangeTooEarly) && !self.configuration.is_joint();
        if !early && (self.configuration_index > self.commit || self.configuration.is_joint()) {
            return Err(ChangeError::Pending { index: self.configuration_index });
        }
        if !early && !self.knows_commit() {
            return Err(ChangeError::NoCommitYet);
        }
        let configuration = self.configuration.changed(changes)?;
        self.append_configuration(configuration, context, false);
        Ok(self.log.last())
    }

    /// For a group that has lost its majority for ever: makes this replica its only voter and those given its learners,
    /// in a new term, and records that as forced. **What the lost majority committed and this replica lacks is lost**,
    /// and if that majority comes back there are two groups. Choose the survivor with the highest last position, force
    /// it there alone, and destroy the others' replicas that aren't named.
    ///
    /// # Errors
    /// If this replica leads, hears a leader, is limited, knows no group, or the members are no configuration.
    pub fn force_membership(&mut self, now: Instant, learners: Vec<Member>) -> Result<(), ForceError> {
        if matches!(self.state, State::Leader(_)) {
            return Err(ForceError::Leads);
        }
        // Of one that nothing is known of not even the term is; what another lost, the operator gives up.
        if self.limit() == Limit::Amnesia {
            return Err(CampaignError::Limited.into());
        }
        if now < self.promise {
            return Err(CampaignError::Promised { until: self.promise }.into());
        }
        if self.term == Term::MAX {
            return Err(CampaignError::LastTerm.into());
        }
        let node = self.configuration.node_of(self.replica).ok_or(ForceError::NotMember)?;
        let forced = self.configuration.forced(Member { replica: self.replica, node }, learners)?;
        // Its vote for itself is durable before it leads: no second force can begin the same term.
        self.flags.lower(Flag::Quiet);
        self.become_candidate(now, false);
        self.state = State::Candidate(Ballot::default());
        self.rare().forced = Some(forced);
        if self.deadline == Instant::NEVER {
            self.deadline = now.after(self.settings.election_timeout_max);
        }
        Ok(())
    }

    /// The last configuration that is known to be committed, and its index.
    #[must_use]
    pub fn committed_configuration(&self) -> (&Arc<Configuration>, LogIndex) {
        self.configuration_at(self.commit)
    }

    /// The configuration in force at `at`, which is in the log or at its base, and its index.
    pub(crate) fn configuration_at(&self, at: LogIndex) -> (&Arc<Configuration>, LogIndex) {
        let current = (&self.configuration, self.configuration_index);
        if self.configuration_index <= at {
            return current;
        }
        let former = self.rare.iter().flat_map(|rare| &rare.former).rev().map(|(index, c)| (c, *index));
        former.into_iter().find(|(_, index)| *index <= at).unwrap_or(current)
    }

    /// Appends a configuration, which counts from here on.
    pub(crate) fn append_configuration(&mut self, configuration: Configuration, context: Bytes, forced: bool) {
        let index = self.log.last_index().next();
        let held = ConfigurationEntry { configuration, context, forced };
        let data = held.encode();
        self.append_as_leader(Entry { term: self.term, index, kind: EntryKind::Configuration, data });
        self.adopt(index, Arc::new(held.configuration));
        // A smaller majority may hold already what the larger one lacked.
        self.advance_commit();
    }

    /// A leader's entry brought a configuration. `check` has made sure that it holds one.
    pub(crate) fn adopt_entry(&mut self, entry: &Entry) {
        let held = ConfigurationEntry::decode(&entry.data).expect("a checked entry");
        self.adopt(entry.index, Arc::new(held.configuration));
    }

    pub(crate) fn adopt(&mut self, index: LogIndex, configuration: Arc<Configuration>) {
        assert!(index > self.configuration_index, "configurations follow each other");
        let former = (self.configuration_index, Arc::clone(&self.configuration));
        self.rare().former.push(former);
        self.set_configuration(index, configuration);
    }

    /// The log was cut at `first`: configurations from there on never were.
    pub(crate) fn revert(&mut self, first: LogIndex) {
        while self.configuration_index >= first && !planted(Bug::ConfigurationKept) {
            let former = self.rare().former.pop();
            let (index, configuration) = former.expect("one before the first entry is always known");
            self.set_configuration(index, configuration);
        }
        self.tidy();
    }

    /// Forgets configurations that were replaced at or before the log's base.
    pub(crate) fn forget_former(&mut self) {
        let (base, current) = (self.log.base().index, self.configuration_index);
        if let Some(rare) = &mut self.rare {
            let next_is_old = |former: &[(LogIndex, _)]| former.get(1).map_or(current, |(index, _)| *index) <= base;
            while !rare.former.is_empty() && next_is_old(&rare.former) {
                rare.former.remove(0);
            }
            if rare.former.is_empty() {
                rare.former = Vec::new();
            }
            self.tidy();
        }
    }

    /// The configuration in force at the log's base, and its index.
    pub(crate) fn base_configuration(&self) -> (&Arc<Configuration>, LogIndex) {
        self.configuration_at(self.log.base().index)
    }

    /// Goes on with a change whose last part was committed: ends a joint configuration, or steps down if this leader is
    /// no voter any more (Raft paper, section 6).
    pub(crate) fn finish_change(&mut self) {
        if self.configuration_index > self.commit {
            return;
        }
        if self.configuration.is_joint() {
            return self.append_configuration(self.configuration.left(), Bytes::new(), false);
        }
        if !self.configuration.is_voter(self.replica) {
            self.forget_leader();
            // A replica without a vote has no deadline, so the time doesn't matter.
            self.become_follower(Instant(0));
        }
    }

    pub(crate) fn set_configuration(&mut self, index: LogIndex, configuration: Arc<Configuration>) {
        let old_seat = self.seat;
        let leading = self.leading();
        self.seat = seat_of(&configuration, self.replica);
        if let State::Leader(leadership) = &mut self.state {
            // A new member's first append is the entry that made it one: it need not wait for the beats to notice it.
            let next = self.log.last_index();
            leadership.reseat((&self.configuration, old_seat), (&configuration, self.seat), next);
            // Who is new has had no time to acknowledge anything: the next look at the majority is the first at this one.
            leadership.progress_at = Instant(0);
        }
        self.configuration = configuration;
        self.configuration_index = index;
        if self.leader != NOBODY && self.configuration.seat(self.leader).is_none() {
            // It leads on until that is committed.
            self.rare().outsider = Some(leading);
        }
    }

    /// The configuration before the current one, unless the log begins after that.
    pub(crate) fn former(&self) -> Option<&(LogIndex, Arc<Configuration>)> {
        self.rare.as_ref()?.former.last()
    }
}
