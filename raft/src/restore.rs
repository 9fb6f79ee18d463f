//! What a replica is opened with. A disk's word is checked before anything relies on it.

use crate::codec::ConfigurationEntry;
use crate::configuration::Configuration;
use crate::limit::Limit;
use crate::settings::SettingsError;
use crate::types::{Entry, EntryKind, HardState, LogIndex, LogPosition, Term};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

/// What a replica's disk held when it was opened.
#[derive(Clone, Debug)]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// What the log goes on from.
    pub base: Base,
    /// The entries after the base that are not read, as far as they must be known.
    pub paged: Paged,
    /// All entries after the paged ones.
    pub entries: Vec<Entry>,
    /// What the state machine already holds; at or above the base. Not looked at if `machine` is known.
    pub applied: LogIndex,
    /// Where a state machine with a disk of its own is. It may be ahead of the log, or at an entry that the log has lost:
    /// then the log goes on from there, and the first [`poll_persist`](crate::Raft::poll_persist) says so. A snapshot that
    /// was installed when the node went down leaves it so, perhaps with a term above that of the hard state. To be known
    /// of every such machine with a [`Limit::Bound`]: the entry at its index may be another than that in the log.
    pub machine: Option<Base>,
    /// What the replica may not do, because its disk lost something.
    pub limit: Limit,
    /// For how long from now the replica keeps promises that it may have given before
    /// ([`Settings::promise_after_restart`](crate::Settings::promise_after_restart) of the settings it had then); zero
    /// if none of its answers could have been counted for a lease.
    pub promised_for: Duration,
}

/// Entries that stay on disk until somebody needs them ([`Raft::poll_fetch`](crate::Raft::poll_fetch)). By default there
/// are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paged {
    /// Index of the last one; of no meaning if there are none.
    pub last: LogIndex,
    /// The first position of each term, rising; the first is that of the entry after the base. Empty if there are none.
    pub terms: Vec<LogPosition>,
    /// The members that those of kind [`Configuration`](EntryKind::Configuration) brought, by index, rising.
    pub configurations: Vec<(LogIndex, Configuration)>,
}

/// What is before the first entry of a log.
#[derive(Clone, Debug)]
pub struct Base {
    /// Where the log begins; zero unless it was compacted.
    pub position: LogPosition,
    /// The members at that position.
    pub configuration: Arc<Configuration>,
    /// Index of the entry that made them so; zero for the initial members.
    pub configuration_index: LogIndex,
}

impl Base {
    /// The beginning of a group of these members; [`Configuration::joining`] for a replica that joins one.
    #[must_use]
    pub fn initial(configuration: Arc<Configuration>) -> Base {
        Base { position: LogPosition::default(), configuration, configuration_index: LogIndex(0) }
    }
}

impl Restored {
    /// A replica that was just created.
    #[must_use]
    pub fn fresh(configuration: Arc<Configuration>) -> Restored {
        Restored {
            hard_state: HardState::default(),
            base: Base::initial(configuration),
            paged: Paged::default(),
            entries: Vec::new(),
            applied: LogIndex(0),
            machine: None,
            limit: Limit::None,
            promised_for: Duration::ZERO,
        }
    }
}

/// Why a replica can't be opened with what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A setting can't be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The entries have a gap, or don't start after the base.
    #[error("entry {found} stands where entry {expected} should be")]
    NotContiguous {
        /// The index that should be there.
        expected: LogIndex,
        /// The index that is.
        found: LogIndex,
    },
    /// An entry's term is zero, below that of the entry before it, or above the replica's.
    #[error("entry {index} has term {term}, but the term before it is {before} and the replica's is {current}")]
    TermOutOfOrder {
        /// The entry.
        index: LogIndex,
        /// Its term.
        term: Term,
        /// The term of the entry before it.
        before: Term,
        /// The term of the hard state.
        current: Term,
    },
    /// An entry should hold a configuration and doesn't.
    #[error("entry {0} holds no configuration that this version knows")]
    NoConfiguration(LogIndex),
    /// A configuration is told of an index at which no paged entry is, or out of order, or it is no entry's.
    #[error("no paged entry {0} can have brought these members")]
    NoPagedConfiguration(LogIndex),
    /// The base is no position: an index without a term, a configuration after it, or joint members at the beginning.
    #[error("the base of the log is out of range")]
    Base,
    /// The state machine is at no position of a log, or the members there came after it.
    #[error("the position of the state machine is out of range")]
    Machine,
    /// The bound of a limit is no position of a log of this replica's term.
    #[error("the bound of the limit is out of range")]
    Bound,
    /// A replica whose log lost something is opened with a machine of which only the index is known.
    #[error("the log lost something, so the term of the applied index {applied} must be told too")]
    AppliedUnknown {
        /// What the machine holds.
        applied: LogIndex,
    },
    /// The term is above [`Term::MAX`].
    #[error("term {0} is out of range")]
    TermOutOfRange(Term),
    /// The state machine is ahead of the log, or behind its base.
    #[error("applied index {applied} is not within the log, from {base} to {last}")]
    AppliedOutsideLog {
        /// What the machine holds.
        applied: LogIndex,
        /// The log's base.
        base: LogIndex,
        /// What the log holds.
        last: LogIndex,
    },
}

impl Restored {
    /// Whether this is a log that this crate could have had persisted; the configurations in its entries.
    pub(crate) fn check(&self) -> Result<Vec<(LogIndex, Configuration)>, RestoreError> {
        let current = self.hard_state.term;
        if current > Term::MAX {
            return Err(RestoreError::TermOutOfRange(current));
        }
        let base = self.base.position;
        if !self.base.is_valid(current) {
            return Err(RestoreError::Base);
        }
        if self.machine.as_ref().is_some_and(|machine| !machine.is_valid(Term::MAX)) {
            return Err(RestoreError::Machine);
        }
        if let Limit::Bound(bound) = self.limit
            && !is_valid(bound, current)
        {
            return Err(RestoreError::Bound);
        }
        let mut changes = Vec::new();
        let mut before = self.paged.check(base, current)?;
        for entry in &self.entries {
            let expected = before.index.next();
            if entry.index != expected {
                return Err(RestoreError::NotContiguous { expected, found: entry.index });
            }
            if entry.term == Term(0) || entry.term < before.term || entry.term > current {
                let (index, term, before) = (entry.index, entry.term, before.term);
                return Err(RestoreError::TermOutOfOrder { index, term, before, current });
            }
            if entry.kind == EntryKind::Configuration {
                let held = ConfigurationEntry::decode(&entry.data);
                let held = held.map_err(|_| RestoreError::NoConfiguration(entry.index))?;
                changes.push((entry.index, held.configuration));
            }
            before = entry.position();
        }
        self.check_applied(before.index)?;
        Ok(changes)
    }
}

impl Restored {
    /// Checks where the state machine is, by a log that ends at `last`.
    fn check_applied(&self, last: LogIndex) -> Result<(), RestoreError> {
        let base = self.base.position.index;
        let (applied, most) = match &self.machine {
            Some(machine) => (machine.position.index, LogIndex::MAX),
            None => (self.applied, last),
        };
        if applied > most || applied < base {
            return Err(RestoreError::AppliedOutsideLog { applied, base, last });
        }
        let lost = matches!(self.limit, Limit::Bound(_));
        if lost && self.machine.is_none() && applied > base {
            return Err(RestoreError::AppliedUnknown { applied });
        }
        Ok(())
    }
}

impl Base {
    fn is_valid(&self, current: Term) -> bool {
        let begins_joint = self.position.index.0 == 0 && self.configuration.is_joint();
        is_valid(self.position, current) && self.configuration_index <= self.position.index && !begins_joint
    }
}

/// Only the beginning of a log has term zero, and none has entries of a later term than its replica's.
fn is_valid(position: LogPosition, current: Term) -> bool {
    (position.index.0 == 0) == (position.term.0 == 0) && position.term <= current && position.index <= LogIndex::MAX
}

impl Paged {
    /// Checks the paged part; says where it ends.
    fn check(&self, base: LogPosition, current: Term) -> Result<LogPosition, RestoreError> {
        let mut before = base;
        for (place, run) in self.terms.iter().enumerate() {
            let (first, expected) = (place == 0, before.index.next());
            if run.index < expected || (first && run.index != expected) || run.index > self.last {
                return Err(RestoreError::NotContiguous { expected, found: run.index });
            }
            let rises = run.term > before.term || (first && run.term == before.term && run.term > Term(0));
            if !rises || run.term > current {
                let (index, term, before) = (run.index, run.term, before.term);
                return Err(RestoreError::TermOutOfOrder { index, term, before, current });
            }
            before = *run;
        }
        let end = if self.terms.is_empty() { base.index } else { self.last };
        if end > LogIndex::MAX {
            return Err(RestoreError::NotContiguous { expected: LogIndex::MAX, found: end });
        }
        let mut after = base.index;
        for (index, configuration) in &self.configurations {
            if *index <= after || *index > end || configuration.is_empty() {
                return Err(RestoreError::NoPagedConfiguration(*index));
            }
            after = *index;
        }
        Ok(LogPosition { index: end, term: before.term })
    }
}
