//! A machine as its replica is opened with it: as it holds its disk, or as the snapshot in the log says.

use super::Core;
use super::deadlines::Slot;
use super::saving::open_envelope;
use super::slot::contain;
use crate::group::StateMachine;
use raftyard_raft::{Base, ConfigurationEntry, LogIndex};
use raftyard_storage::wal::{FetchError, FetchId, FetchedData, RecoveredGroup};
use std::sync::Arc;

/// A machine, and what it holds: `None` if that is nothing, in memory.
pub(super) struct Revived {
    pub(super) machine: Box<dyn StateMachine>,
    pub(super) holds: Option<Base>,
}

/// A replica that waits for the snapshot of its machine, which is being read from the log.
#[derive(Debug)]
pub(super) struct Reviving {
    slot: Slot,
    recovered: RecoveredGroup,
    bytes: Vec<u8>,
}

/// Why no machine can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviveError {
    /// The machine is in memory, and the log keeps a snapshot that it doesn't take.
    #[error("the log keeps a snapshot of the state machine, and this one takes none")]
    TakesNone,
    /// The snapshot is none of this version.
    #[error("the log's snapshot of the state machine can't be read by this version")]
    Unreadable,
    /// The machine failed.
    #[error("its state machine can't be restored: {0}")]
    Machine(String),
}

/// Whether a machine that was just opened needs the snapshot in the log: what it holds otherwise.
pub(super) fn revive(
    mut machine: Box<dyn StateMachine>,
    group: &RecoveredGroup,
    snapshot: Option<&[u8]>,
) -> Result<Revived, ReviveError> {
    let failed = |failed: super::slot::MachineFailed| ReviveError::Machine(failed.reason);
    if let Some(mut holds) = contain(|| Ok(machine.durable())).map_err(failed)? {
        if holds.configuration.is_empty() {
            (holds.configuration, holds.configuration_index) = members_at(group, holds.position.index);
        }
        return Ok(Revived { machine, holds: Some(holds) });
    }
    let (Some((position, _)), Some(bytes)) = (group.snapshot, snapshot) else {
        return Ok(Revived { machine, holds: None });
    };
    let (base, bytes) = open_envelope(position, bytes).ok_or(ReviveError::Unreadable)?;
    let sink = contain(|| Ok(machine.restore())).map_err(failed)?;
    let mut sink = sink.ok_or(ReviveError::TakesNone)?;
    let restored = contain(|| {
        sink.write(bytes)?;
        sink.finish(&base)
    });
    Ok(Revived { machine: restored.map_err(failed)?, holds: Some(base) })
}

/// Who the members are at `index`, as far as the log knows it; a machine that was told of no change knows none.
fn members_at(group: &RecoveredGroup, index: LogIndex) -> (Arc<raftyard_raft::Configuration>, LogIndex) {
    let changed = group.configurations.iter().rev().find(|(at, _)| *at <= index);
    let changed = changed.and_then(|(at, data)| Some((ConfigurationEntry::decode(data).ok()?.configuration, *at)));
    match changed {
        Some((configuration, at)) => (Arc::new(configuration), at),
        None => (Arc::clone(&group.configuration), group.configuration_index),
    }
}

impl Core {
    /// Reads the snapshot of a machine from the log, to open the replica with it.
    pub(super) fn begin_reviving(&mut self, slot: Slot, recovered: RecoveredGroup) {
        let id = self.wal.fetch_chunk(recovered.group, 0);
        self.reviving.insert(id, Reviving { slot, recovered, bytes: Vec::new() });
    }

    /// The next piece of such a snapshot was read.
    pub(super) fn take_piece(&mut self, id: FetchId, result: Result<FetchedData, FetchError>) {
        let Some(mut reviving) = self.reviving.remove(&id) else { return };
        let slot = reviving.slot;
        let (group, replica) = (reviving.recovered.group, reviving.recovered.replica);
        let held = &self.groups[slot as usize].raft;
        if self.by_group.get(&group) != Some(&slot) || held.replica() != replica {
            return;
        }
        let whole = reviving.recovered.snapshot.map_or(0, |(_, bytes)| bytes);
        match result {
            Ok(FetchedData::Chunk(piece)) if !piece.is_empty() => reviving.bytes.extend_from_slice(&piece),
            Err(FetchError::Io(error)) => {
                tracing::error!(%group, %error, "the group's snapshot can't be read from the log now");
                self.groups[slot as usize].failed = Some(error.to_string());
                return;
            }
            // Not even the beginning of the log is left: the peers have everything.
            _ => return self.losses.push((slot, group, replica, LogIndex(0))),
        }
        let read = reviving.bytes.len() as u64;
        if read < whole {
            let id = self.wal.fetch_chunk(group, read);
            self.reviving.insert(id, reviving);
        } else {
            let now = self.now;
            self.open_again(slot, now, reviving.recovered, Some(reviving.bytes));
        }
    }
}
