//! Compaction, and snapshots for peers that lack what it removed (Raft paper, section 7). The state travels apart; here
//! only the log and the members are put right.
//!
//! It must never give up an entry that is not applied and durable, nor take a snapshot in the place of entries that this
//! log has beyond it.

use crate::configuration::Configuration;
use crate::flags::Flag;
use crate::raft::Raft;
use crate::restore::Base;
use crate::types::{Instant, LogIndex, LogPosition, ReplicaId};
use alloc::sync::Arc;

/// Why the log is not compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompactError {
    /// Only what was applied can be given up.
    #[error("index {index} is above the applied index {applied}")]
    NotApplied {
        /// The index asked for.
        index: LogIndex,
        /// The applied index.
        applied: LogIndex,
    },
    /// It was given up before.
    #[error("index {index} is below the log's base {base}")]
    Compacted {
        /// The index asked for.
        index: LogIndex,
        /// The log's base.
        base: LogIndex,
    },
    /// This replica joined the group and was sent its log from the beginning: who was a member then is in no entry. A
    /// snapshot at that index could not tell.
    #[error("the members at index {index} are not known here; compact the log at the first change of them or after it")]
    MembersUnknown {
        /// The index asked for.
        index: LogIndex,
    },
}

impl Raft {
    /// Forgets the entries up to `index`, whose effect the state machine holds durably. Peers that lack them will get a
    /// snapshot.
    ///
    /// # Errors
    /// If that is not applied yet, or was given up before.
    pub fn compact(&mut self, index: LogIndex) -> Result<(), CompactError> {
        let (applied, base) = (self.applied, self.log.base().index);
        if index > applied {
            return Err(CompactError::NotApplied { index, applied });
        }
        if index < base {
            return Err(CompactError::Compacted { index, base });
        }
        if index > base && self.configuration_at(index).0.is_empty() {
            return Err(CompactError::MembersUnknown { index });
        }
        self.log.compact(index);
        self.forget_former();
        Ok(())
    }

    /// What a log that begins after `index` goes on from; `None` if this log doesn't know that index, or not who was a member
    /// then.
    #[must_use]
    pub fn base_at(&self, index: LogIndex) -> Option<Base> {
        let position = LogPosition { index, term: self.log.term(index)? };
        let (configuration, configuration_index) = self.configuration_at(index);
        let known = !configuration.is_empty() && configuration_index <= index;
        known.then(|| Base { position, configuration: Arc::clone(configuration), configuration_index })
    }

    /// A snapshot for `replica` did not get there, or was lost there in a crash before the protocol's own write was
    /// durable. Only a leader cares; it tries again.
    pub fn handle_snapshot_failed(&mut self, replica: ReplicaId) {
        if let Some(peer) = self.peer(replica) {
            peer.snapshot_failed();
        }
    }

    /// The leader's state up to `last` is whole and durable here. The log goes on from it, unless it has that entry: then
    /// everything is there already, and only known to be committed now.
    pub(crate) fn handle_snapshot(
        &mut self,
        now: Instant,
        last: LogPosition,
        configuration: &Configuration,
        configuration_index: LogIndex,
    ) {
        if last.index <= self.commit {
            self.lift_by_base(now, last);
            return self.owe_accepted(self.commit);
        }
        if self.log.contains(last) {
            self.commit_to(last.index);
            self.lift_by_base(now, last);
            return self.owe_accepted(last.index);
        }
        let configuration = Arc::new(configuration.clone());
        self.begin_after(Base { position: last, configuration, configuration_index });
        self.lift_by_base(now, last);
        self.reset_deadline(now);
        self.owe_accepted(last.index);
    }

    /// The log goes on after a state that holds everything up to `base`, whatever it had.
    pub(crate) fn begin_after(&mut self, base: Base) {
        self.log.reset(base.position);
        self.flags.raise(Flag::Reset);
        (self.commit, self.applied) = (base.position.index, base.position.index);
        if let Some(rare) = &mut self.rare {
            rare.former.clear();
        }
        self.set_configuration(base.configuration_index, base.configuration);
        self.tidy();
    }
}
