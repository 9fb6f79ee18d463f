//! Making checkpoints: part by part, beside whatever else is recorded, so that a start need not read the whole log and
//! old segments can be given up.
//!
//! It must never name a checkpoint complete before its last part is durable.

use super::Wal;
use super::index::Slot;
use crate::format::BatchSeq;
use crate::format::checkpoint::{Item, Part};
use crate::format::record::{RECORD_OVERHEAD_BYTES_MAX, encode_checkpoint};
use crate::format::segment::BatchPlace;
use raftyard_raft::GroupId;
use raftyard_raft::planted::{Bug, planted};

/// Bytes of the number before a part's items.
const PART_HEAD_BYTES: usize = 8;
/// Bytes that a checkpoint adds to a batch in passing, at least.
const STEP_BYTES_MIN: usize = 16 << 10;
/// A checkpoint is made again when the log grew by this many times its size.
const GROWTH: u64 = 4;

/// The checkpoints of a running log.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// The last two that are durable, newest first.
    complete: [Option<BatchPlace>; 2],
    making: Option<Making>,
    /// Bytes written since the last one began.
    written: u64,
    /// Bytes of the last one.
    size: u64,
    /// One is wanted as soon as can be.
    wanted: bool,
}

/// A checkpoint in the making.
#[derive(Debug)]
struct Making {
    /// Sequence of the batch with its first part, once there is one.
    number: Option<BatchSeq>,
    /// Where that batch stands; known when it is submitted.
    begin: Option<BatchPlace>,
    stage: Stage,
    /// The rest of an item that was cut.
    carry: Vec<u8>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// This slot is next.
    Groups(Slot),
    /// The groups removed behind this one are next.
    Removed(GroupId),
    /// The last part is next.
    Last,
    /// The last part is in this batch.
    Written(BatchSeq),
}

impl Checkpoints {
    pub(super) fn new(complete: [Option<BatchPlace>; 2], written: u64) -> Checkpoints {
        Checkpoints { complete, making: None, written, size: 0, wanted: false }
    }

    /// The last two that are durable, newest first.
    pub(super) fn complete(&self) -> [Option<BatchPlace>; 2] {
        self.complete
    }

    pub(super) fn is_making(&self) -> bool {
        self.making.is_some()
    }

    /// Whether one is made or will be.
    pub(super) fn is_under_way(&self) -> bool {
        self.wanted || self.making.is_some()
    }

    /// Whether the next part goes on with a group that must not change meanwhile.
    pub(super) fn is_exclusive(&self) -> bool {
        self.making.as_ref().is_some_and(|making| !making.carry.is_empty())
    }

    /// Makes the next one early, so that old segments can be given up.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn handle_batch(&mut self, place: BatchPlace) {
        if let Some(making) = self.making.as_mut().filter(|making| making.number == Some(place.sequence)) {
            making.begin = Some(place);
        }
    }

    pub(super) fn handle_written(&mut self, bytes: u64) {
        self.written += bytes;
    }

    pub(super) fn handle_released(&mut self, released: BatchSeq) {
        let done = |making: &mut Making| matches!(making.stage, Stage::Written(last) if last <= released);
        if let Some(made) = self.making.take_if(done) {
            self.size = made.bytes;
            self.complete = [made.begin, self.complete[0]];
        }
    }
}

impl Wal {
    /// A clean stop makes a checkpoint, so that the next start has little to read, unless there is hardly anything new.
    pub(super) fn begin_checkpoint_to_close(&mut self) {
        let little = self.checkpoints.written < self.config.segment_bytes / 64;
        if !self.checkpoints.is_making() && !little {
            self.checkpoints.wanted = true;
        }
    }

    /// Adds to the batch that fills what it is time for.
    pub(super) fn advance_checkpoint(&mut self) {
        if self.checkpoints.making.is_none() && self.is_checkpoint_due() {
            self.checkpoints.wanted = false;
            self.checkpoints.written = 0;
            let stage = Stage::Groups(0);
            self.checkpoints.making = Some(Making { number: None, begin: None, stage, carry: Vec::new(), bytes: 0 });
        }
        let Some(mut making) = self.checkpoints.making.take() else { return };
        // In passing, as much as everybody else brought; alone, when nothing else goes on or may.
        let alone = self.is_closing() || self.is_full() || !making.carry.is_empty();
        if alone || !self.fill.is_empty() {
            let room = self.part_room();
            let share = self.fill.records_len().max(STEP_BYTES_MIN);
            self.checkpoint_part(&mut making, if alone { room } else { share.min(room) });
        }
        self.checkpoints.making = Some(making);
    }

    fn is_checkpoint_due(&self) -> bool {
        let Checkpoints { written, size, wanted, .. } = self.checkpoints;
        let interval = self.config.checkpoint_bytes.max(GROWTH * size);
        wanted || (written >= interval && !self.is_closing())
    }

    /// Bytes of items that a part in the batch that fills may have.
    fn part_room(&self) -> usize {
        let hard_max = self.config.batch_bytes_hard_max().expect("the config was checked");
        let beside = self.fill.records_len() + RECORD_OVERHEAD_BYTES_MAX + PART_HEAD_BYTES;
        hard_max.saturating_sub(beside).min(self.config.batch_bytes_max)
    }

    /// Records the next part, of about `wanted` bytes.
    fn checkpoint_part(&mut self, making: &mut Making, wanted: usize) {
        let room = self.part_room();
        if room == 0 {
            return;
        }
        let first = making.number.is_none();
        let number = *making.number.get_or_insert(self.filling);
        let mut items = std::mem::take(&mut making.carry);
        let mut last = false;
        // The last part begins with a whole item, and needs to know where the first one stands.
        if items.is_empty() && making.stage == Stage::Last {
            let Some(begin) = making.begin else { return };
            self.last_items(begin, &mut items);
            making.stage = Stage::Written(self.filling);
            last = true;
        } else {
            self.next_items(making, wanted, &mut items);
        }
        if items.is_empty() && !first && !last {
            return;
        }
        let cut = !last && items.len() > room;
        if cut {
            making.carry = items.split_off(room);
        }
        let part = Part { first, last, cut, checkpoint: number, items: &items };
        let mut body = Vec::with_capacity(PART_HEAD_BYTES + items.len());
        body.extend_from_slice(&part.checkpoint.0.to_le_bytes());
        body.extend_from_slice(part.items);
        making.bytes += body.len() as u64;
        self.record(RECORD_OVERHEAD_BYTES_MAX + body.len(), |out| encode_checkpoint(out, part.flags(), 0, &body));
    }

    fn next_items(&self, making: &mut Making, wanted: usize, items: &mut Vec<u8>) {
        while items.len() < wanted {
            match making.stage {
                Stage::Groups(slot) if slot < self.index.slots_end() => {
                    if let Some(tracked) = self.index.get(slot) {
                        Item::Group(Box::new(tracked.item())).write(items);
                    }
                    making.stage = Stage::Groups(slot + 1);
                }
                Stage::Groups(_) => making.stage = Stage::Removed(GroupId(0)),
                Stage::Removed(behind) => {
                    let behind = (std::ops::Bound::Excluded(behind), std::ops::Bound::Unbounded);
                    let next = self.index.removed.range(behind).next();
                    match next.filter(|_| !planted(Bug::TombstoneDropped)) {
                        Some((&group, &replica)) => {
                            Item::Removed { group, replica }.write(items);
                            making.stage = Stage::Removed(group);
                        }
                        None => making.stage = Stage::Last,
                    }
                }
                Stage::Last | Stage::Written(_) => return,
            }
        }
    }

    fn last_items(&self, begin: BatchPlace, items: &mut Vec<u8>) {
        Item::Promise { wait: self.index.promise }.write(items);
        for (&node, &store) in &self.index.peers {
            Item::Peer { node, store }.write(items);
        }
        Item::End { begin, previous: self.checkpoints.complete[0] }.write(items);
    }
}
