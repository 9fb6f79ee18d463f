//! Snapshots of machines in memory on their way into the log: a bounded number at once, a bounded number of bytes a turn.
//! They count from the record that names them, which comes behind their last piece.

use super::Core;
use super::compaction::CompactReply;
use super::deadlines::Slot;
use super::durable::Waiting;
use super::slot::{MachineFailed, contain};
use crate::group::SnapshotSource;
use crate::mail::{Answer, CompactError, Unavailable};
use bytes::Bytes;
use raftyard_raft::planted::{Bug, planted};
use raftyard_raft::{Base, Configuration, GroupId, LogIndex, LogPosition, ReplicaId};
use std::sync::Arc;

/// Bytes of snapshots recorded in one turn: what is recorded for users is in the same batch.
pub(super) const TURN_BYTES_MAX: usize = 256 << 10;
/// Bytes of the largest piece, in the log and on the wire.
const PIECE_BYTES_MAX: usize = 64 << 10;
const VERSION: u8 = 1;

/// A request to compact a log.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) slot: Slot,
    pub(super) group: GroupId,
    pub(super) index: LogIndex,
    pub(super) reply: CompactReply,
}

/// A snapshot on its way into the log.
pub(super) struct Saving {
    pub(super) slot: Slot,
    group: GroupId,
    replica: ReplicaId,
    /// Up to where it goes.
    position: LogPosition,
    source: Box<dyn SnapshotSource>,
    /// What was read of it and is not recorded.
    rest: Bytes,
    /// Bytes recorded.
    offset: u64,
    wishes: Vec<Wish>,
}

impl Core {
    /// Begins to record a snapshot of a machine in memory; whoever wishes for it is answered when it is recorded. False:
    /// it has to wait.
    pub(super) fn begin_saving(&mut self, slot: Slot, wish: Option<Wish>) -> bool {
        if let Some(saving) = self.savings.iter_mut().find(|saving| saving.slot == slot) {
            match wish {
                Some(wish) if wish.index > saving.position.index => self.wishes.push_back(wish),
                wish => saving.wishes.extend(wish),
            }
            return true;
        }
        if self.savings.len() >= self.config.snapshots_max || self.is_receiving(slot) {
            self.wishes.extend(wish);
            return false;
        }
        let group = &mut self.groups[slot as usize];
        let Some(base) = group.raft.base_at(group.raft.applied()) else {
            // A replica that joined and hasn't applied yet who the members are. Some time it will have.
            self.refuse(wish, CompactError::NoSnapshot);
            return true;
        };
        if group.kept.snapshot.is_some_and(|(position, _)| position == base.position) {
            self.refuse(wish, CompactError::NoSnapshot);
            return true;
        }
        match group.snapshot() {
            Err(failed) => {
                self.fail_group(slot, failed.reason);
                self.refuse(wish, Unavailable::GroupFailed.into());
            }
            Ok(None) => {
                group.kept.bound = true;
                self.refuse(wish, CompactError::NoSnapshot);
            }
            Ok(Some(source)) => self.savings.push(Saving {
                slot,
                group: group.raft.group(),
                replica: group.raft.replica(),
                position: base.position,
                source,
                rest: envelope(&base),
                offset: 0,
                wishes: wish.into_iter().collect(),
            }),
        }
        true
    }

    fn refuse(&mut self, wish: Option<Wish>, error: CompactError) {
        if let Some(wish) = wish {
            self.answer(Answer::Compact(wish.reply, Err(error)));
        }
    }

    /// Goes on with all of them, as far as the batch has room.
    pub(super) fn save_snapshots(&mut self) {
        let mut budget = TURN_BYTES_MAX;
        for mut saving in std::mem::take(&mut self.savings) {
            match self.save(&mut saving, &mut budget) {
                Ok(false) => self.savings.push(saving),
                Ok(true) => self.name_snapshot(saving),
                Err(failed) => {
                    let slot = saving.slot;
                    self.end_saving(saving, Unavailable::GroupFailed.into());
                    self.fail_group(slot, failed.reason);
                }
            }
        }
    }

    /// Records the next pieces. True: all are recorded, and there is room for the record that names them.
    fn save(&mut self, saving: &mut Saving, budget: &mut usize) -> Result<bool, MachineFailed> {
        let piece_bytes_max = self.piece_bytes_max();
        while self.wal.has_room() && *budget > 0 {
            if saving.rest.is_empty() {
                match contain(|| saving.source.next(piece_bytes_max))? {
                    None => return Ok(true),
                    Some(piece) if piece.is_empty() => return Ok(false),
                    Some(piece) => saving.rest = piece,
                }
            }
            let piece = saving.rest.split_to(saving.rest.len().min(piece_bytes_max));
            self.wal.record_chunk(saving.group, saving.replica, saving.position, saving.offset, &piece);
            saving.offset += piece.len() as u64;
            *budget = budget.saturating_sub(piece.len());
            if planted(Bug::SnapshotNamedEarly) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every piece is recorded: the snapshot counts from this record on, and the log begins later.
    fn name_snapshot(&mut self, saving: Saving) {
        let Saving { slot, position, offset, wishes, .. } = saving;
        let at_least = wishes.iter().map(|wish| wish.index).max().unwrap_or_default();
        let seq = self.give_up_entries(slot, position.index, Some((position, offset)), at_least);
        let seq = seq.expect("a snapshot is recorded at least");
        for wish in wishes {
            self.durable.push(seq, Waiting::Compacted(wish.reply));
        }
    }

    /// Gives up a snapshot on its way into the log.
    pub(super) fn end_saving(&mut self, saving: Saving, why: CompactError) {
        self.wal.abandon_snapshot(saving.group);
        for wish in saving.wishes {
            self.answer(Answer::Compact(wish.reply, Err(why)));
        }
    }

    /// Bytes of the largest piece of a snapshot: no larger than the largest command, for which batches and frames have room.
    pub(super) fn piece_bytes_max(&self) -> usize {
        PIECE_BYTES_MAX.min(self.config.entry_bytes_max)
    }
}

/// What stands before a machine's own bytes in the log: a version, and who the members are at the snapshot's position. The
/// log may lose the entries there and keep the snapshot.
pub(super) fn envelope(base: &Base) -> Bytes {
    let mut bytes = vec![VERSION];
    let mut members = Vec::new();
    base.configuration.encode(&mut members);
    bytes.extend_from_slice(&base.configuration_index.0.to_le_bytes());
    let len = u32::try_from(members.len()).expect("a configuration is below a kilobyte");
    bytes.extend_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(&members);
    bytes.into()
}

/// Reads the envelope of the snapshot at `position`: what it says, and the machine's own bytes. `None`: it is none.
pub(super) fn open_envelope(position: LogPosition, bytes: &[u8]) -> Option<(Base, &[u8])> {
    let (&[VERSION], bytes) = bytes.split_first_chunk::<1>()? else { return None };
    let (index, bytes) = bytes.split_first_chunk::<8>()?;
    let (len, bytes) = bytes.split_first_chunk::<4>()?;
    let (members, bytes) = bytes.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
    let configuration = Arc::new(Configuration::decode(members).ok()?);
    let configuration_index = LogIndex(u64::from_le_bytes(*index));
    Some((Base { position, configuration, configuration_index }, bytes))
}
