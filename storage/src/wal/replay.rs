//! What the records of a log add up to. Makes no protocol decision: it keeps what was recorded last.

use crate::format::StoreId;
use crate::format::record::{Record, RecordFault};
use raftyard_raft::{Configuration, Entry, GroupId, HardState, LogIndex, NodeId, ReplicaId};
use rustc_hash::FxHashMap;
use std::collections::BTreeMap;
use std::time::Duration;

/// One replica as the log left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Its group.
    pub group: GroupId,
    /// The replica.
    pub replica: ReplicaId,
    /// The members it was created with.
    pub configuration: Configuration,
    /// Its last hard state.
    pub hard_state: HardState,
    /// Its log, from index 1 on.
    pub entries: Vec<Entry>,
}

/// The state that records build up.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    groups: FxHashMap<GroupId, RecoveredGroup>,
    peers: BTreeMap<NodeId, StoreId>,
    promise: Duration,
}

impl Replay {
    pub(crate) fn apply(&mut self, record: Record) -> Result<(), RecordFault> {
        match record {
            Record::Creation { group, replica, configuration } => self.create(group, replica, configuration),
            Record::Group { group, replica, hard_state, entries } => self.write(group, replica, hard_state, entries),
            Record::Peer { node, store } => {
                // The last one stands: an operator may have replaced the node.
                self.peers.insert(node, store);
                Ok(())
            }
            Record::Promise { wait } => {
                self.promise = wait;
                Ok(())
            }
        }
    }

    fn create(&mut self, group: GroupId, replica: ReplicaId, configuration: Configuration) -> Result<(), RecordFault> {
        let hard_state = HardState::default();
        let fresh = RecoveredGroup { group, replica, configuration, hard_state, entries: Vec::new() };
        match self.groups.insert(group, fresh) {
            None => Ok(()),
            Some(_) => Err(RecordFault::CreatedTwice(group)),
        }
    }

    fn write(
        &mut self,
        group: GroupId,
        replica: ReplicaId,
        hard_state: Option<HardState>,
        entries: Vec<Entry>,
    ) -> Result<(), RecordFault> {
        let known = self.groups.get_mut(&group).filter(|g| g.replica == replica);
        let known = known.ok_or(RecordFault::NoSuchReplica { group, replica })?;
        if let Some(hard_state) = hard_state {
            known.hard_state = hard_state;
        }
        if let Some(first) = entries.first().map(|e| e.index) {
            let last = LogIndex(known.entries.len() as u64);
            if first > last.next() {
                return Err(RecordFault::Gap { group, last, first });
            }
            let kept = usize::try_from(first.previous().0).expect("at or below the length of a vector");
            known.entries.truncate(kept);
            known.entries.extend(entries);
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        // A promise is recorded as soon as the log opens, before any manifest names it.
        self.groups.is_empty() && self.peers.is_empty()
    }

    /// Groups sorted by id, peers sorted by node: the order must not depend on a hash table.
    pub(crate) fn finish(self) -> (Vec<RecoveredGroup>, Vec<(NodeId, StoreId)>, Duration) {
        let mut groups: Vec<RecoveredGroup> = self.groups.into_values().collect();
        groups.sort_unstable_by_key(|g| g.group);
        (groups, self.peers.into_iter().collect(), self.promise)
    }
}
