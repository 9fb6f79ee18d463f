//! What a replica is opened with. A disk's word is checked before anything relies on it.

use crate::settings::SettingsError;
use crate::types::{Entry, HardState, LogIndex, LogPosition, ReplicaId, Term};
use alloc::vec::Vec;

/// What a replica's disk held when it was opened. The default is a fresh replica.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Term and vote.
    pub hard_state: HardState,
    /// All entries, from index 1.
    pub entries: Vec<Entry>,
    /// What the state machine already holds.
    pub applied: LogIndex,
}

/// Why a replica can't be opened with what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The replica is no voter of the configuration.
    #[error("replica {0} is not in the configuration")]
    NotMember(ReplicaId),
    /// A setting can't be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The entries have a gap, or don't start at index 1.
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
    /// The term is above [`Term::MAX`].
    #[error("term {0} is out of range")]
    TermOutOfRange(Term),
    /// The state machine is ahead of the log.
    #[error("applied index {applied} is above the last index {last}")]
    AppliedBeyondLog {
        /// What the machine holds.
        applied: LogIndex,
        /// What the log holds.
        last: LogIndex,
    },
}

impl Restored {
    /// Whether this is a log that this crate could have had persisted.
    pub(crate) fn check(&self) -> Result<(), RestoreError> {
        let current = self.hard_state.term;
        if current > Term::MAX {
            return Err(RestoreError::TermOutOfRange(current));
        }
        let mut before = LogPosition::default();
        for entry in &self.entries {
            let expected = before.index.next();
            if entry.index != expected {
                return Err(RestoreError::NotContiguous { expected, found: entry.index });
            }
            if entry.term == Term(0) || entry.term < before.term || entry.term > current {
                let (index, term, before) = (entry.index, entry.term, before.term);
                return Err(RestoreError::TermOutOfOrder { index, term, before, current });
            }
            before = entry.position();
        }
        if self.applied > before.index {
            return Err(RestoreError::AppliedBeyondLog { applied: self.applied, last: before.index });
        }
        Ok(())
    }
}
