//! When something of a group is due. One entry a group at most counts; older ones are recognised and skipped, so that
//! a deadline that is put off at every heartbeat costs nothing until it comes.

use raftyard_raft::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Place of a group in its core's table.
pub(super) type Slot = u32;

/// The deadlines of all groups of a core.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(Instant, Slot)>>,
    /// By slot: the entry of the heap that counts.
    ///
    /// Invariant: if it is `Some(t)`, the heap holds `(t, slot)`.
    scheduled: Vec<Option<Instant>>,
}

impl Deadlines {
    /// Makes sure that `slot` is due at `at` or earlier.
    pub(super) fn schedule(&mut self, slot: Slot, at: Instant) {
        let place = slot as usize;
        if self.scheduled.len() <= place {
            self.scheduled.resize(place + 1, None);
        }
        if self.scheduled[place].is_none_or(|earlier| at < earlier) {
            self.scheduled[place] = Some(at);
            self.heap.push(Reverse((at, slot)));
        }
    }

    /// The next slot that is due at `now`. Whoever takes it schedules what is still to come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Slot> {
        while let Some(&Reverse((at, slot))) = self.heap.peek() {
            if at > now {
                return None;
            }
            self.heap.pop();
            if self.scheduled[slot as usize] == Some(at) {
                self.scheduled[slot as usize] = None;
                return Some(slot);
            }
        }
        None
    }

    /// The earliest deadline, or one of an entry that no longer counts: early is harmless.
    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|&Reverse((at, _))| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_earliest_deadline_of_a_slot_counts() {
        let mut deadlines = Deadlines::default();
        deadlines.schedule(3, Instant(50));
        deadlines.schedule(3, Instant(20));
        deadlines.schedule(3, Instant(30));
        deadlines.schedule(1, Instant(40));
        assert_eq!(deadlines.next(), Some(Instant(20)));
        assert_eq!(deadlines.pop_due(Instant(10)), None);
        assert_eq!(deadlines.pop_due(Instant(60)), Some(3));
        assert_eq!(deadlines.pop_due(Instant(60)), Some(1));
        assert_eq!(deadlines.pop_due(Instant(60)), None);
    }
}
