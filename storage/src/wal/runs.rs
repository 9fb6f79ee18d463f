//! Where the entries of one group stand: stretches of consecutive indexes, each within one record.
//!
//! Owns the arithmetic of overlaps alone. It must never name an entry twice. Used by the index.

use crate::format::checkpoint::Stretch;
use crate::io::BLOCK_BYTES;
use raftyard_raft::LogIndex;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

/// The segment of what is recorded and not yet submitted; the offset then counts from the start of the batch.
pub(crate) const FILLING: u32 = u32::MAX;

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Place {
    /// The whole blocks around the record: where they start and how long they are, in bytes.
    pub(crate) fn blocks(self) -> (u64, u64) {
        let block = BLOCK_BYTES as u64;
        let (offset, len) = (u64::from(self.offset), u64::from(self.len));
        let start = offset / block * block;
        (start, (offset + len).next_multiple_of(block) - start)
    }
}

/// Consecutive entries of one group within one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: LogIndex,
    pub(crate) count: u32,
    pub(crate) place: Place,
}

impl Run {
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex(self.first.0 + u64::from(self.count) - 1)
    }

    pub(crate) fn indexes(&self) -> RangeInclusive<LogIndex> {
        self.first..=self.last()
    }

    pub(crate) fn stretch(&self) -> Stretch {
        let Place { segment, offset, len } = self.place;
        Stretch { count: self.count, segment, offset, len }
    }
}

/// The runs of one group, by index. Invariant: they don't overlap; what is between two of them is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    runs: VecDeque<Run>,
}

impl Runs {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter()
    }

    /// The place in the list of the first run that ends at or after `index`.
    fn find(&self, index: LogIndex) -> usize {
        self.runs.partition_point(|run| run.last() < index)
    }

    /// The runs that hold something from `first` to `last`.
    pub(crate) fn between(&self, first: LogIndex, last: LogIndex) -> impl Iterator<Item = &Run> {
        self.runs.range(self.find(first)..).take_while(move |run| run.first <= last)
    }

    /// Adds a run after all others.
    pub(crate) fn push(&mut self, run: Run) {
        assert!(self.runs.back().is_none_or(|back| back.last() < run.first), "entries are appended at the end");
        if self.runs.capacity() == 0 {
            // Most groups of a large node have hardly an entry; the usual first step would reserve four.
            self.runs.reserve_exact(1);
        }
        self.runs.push_back(run);
    }

    /// Forgets everything from `first` on; `dead` is told the places of records of which nothing is left.
    pub(crate) fn cut_from(&mut self, first: LogIndex, mut dead: impl FnMut(Place)) {
        while let Some(back) = self.runs.back_mut() {
            if back.last() < first {
                return;
            }
            if back.first < first {
                back.count = u32::try_from(first.0 - back.first.0).expect("shorter than it was");
                return;
            }
            dead(back.place);
            self.runs.pop_back();
        }
    }

    /// Forgets everything up to `last`.
    pub(crate) fn drop_to(&mut self, last: LogIndex, mut dead: impl FnMut(Place)) {
        while let Some(front) = self.runs.front_mut() {
            if front.first > last {
                break;
            }
            if front.last() > last {
                let gone = last.0 - front.first.0 + 1;
                front.count -= u32::try_from(gone).expect("less than all of it");
                front.first = last.next();
                break;
            }
            dead(front.place);
            self.runs.pop_front();
        }
        if self.runs.capacity() > 4 * self.runs.len() + 4 {
            self.runs.shrink_to(2 * self.runs.len());
        }
    }

    /// The entries `moved` stand at `place` now, if all of them are here. Returns the runs that others took the place of, and
    /// these others: where only a part of a run moved, what is left of it.
    pub(crate) fn relocate(&mut self, moved: RangeInclusive<LogIndex>, place: Place) -> Option<(Vec<Run>, Vec<Run>)> {
        let (first, last) = (*moved.start(), *moved.end());
        let at = self.find(first);
        let covered: Vec<Run> = self.between(first, last).copied().collect();
        let whole = covered.first().is_some_and(|run| run.first <= first)
            && covered.last().is_some_and(|run| run.last() >= last)
            && covered.windows(2).all(|pair| pair[0].last().next() == pair[1].first);
        if !whole {
            return None;
        }
        let count = |first: LogIndex, last: LogIndex| u32::try_from(last.0 - first.0 + 1).expect("within a run");
        let mut now = Vec::with_capacity(3);
        if let Some(head) = covered.first().filter(|run| run.first < first) {
            now.push(Run { count: count(head.first, first.previous()), ..*head });
        }
        now.push(Run { first, count: count(first, last), place });
        if let Some(tail) = covered.last().filter(|run| run.last() > last) {
            now.push(Run { first: last.next(), count: count(last.next(), tail.last()), ..*tail });
        }
        if let ([only], [run]) = (&covered[..], &now[..]) {
            debug_assert_eq!(self.runs[at].first, only.first);
            self.runs[at] = *run;
        } else {
            let mut tail = self.runs.split_off(at);
            tail.drain(..covered.len());
            self.runs.extend(&now);
            self.runs.append(&mut tail);
        }
        Some((covered, now))
    }

    /// What was recorded in the batch that filled, with entries from `first` on, stands where that batch does now; returns
    /// that place.
    pub(crate) fn settle(&mut self, first: LogIndex, segment: u32, batch_offset: u32) -> Option<Place> {
        let at = self.find(first);
        let run = self.runs.get_mut(at).filter(|run| run.place.segment == FILLING)?;
        run.place.segment = segment;
        run.place.offset += batch_offset;
        Some(run.place)
    }

    /// The last index such that everything after `base` up to it is here.
    pub(crate) fn contiguous_after(&self, base: LogIndex) -> LogIndex {
        let mut end = base;
        for run in &self.runs {
            if run.first > end.next() {
                break;
            }
            end = end.max(run.last());
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u32) -> Place {
        Place { segment: 1, offset, len: 10 }
    }

    fn runs(parts: &[(u64, u32)]) -> Runs {
        let mut runs = Runs::default();
        for (n, (first, count)) in parts.iter().enumerate() {
            runs.push(Run { first: LogIndex(*first), count: *count, place: place(n as u32) });
        }
        runs
    }

    fn shape(runs: &Runs) -> Vec<(u64, u32, u32)> {
        runs.iter().map(|run| (run.first.0, run.count, run.place.offset)).collect()
    }

    #[test]
    fn cutting_and_dropping_tell_whose_record_is_dead() {
        let mut runs = runs(&[(1, 3), (4, 2), (6, 5)]);
        let mut dead = Vec::new();
        runs.cut_from(LogIndex(8), |p| dead.push(p.offset));
        assert_eq!((shape(&runs), dead.as_slice()), (vec![(1, 3, 0), (4, 2, 1), (6, 2, 2)], &[][..]));
        runs.cut_from(LogIndex(4), |p| dead.push(p.offset));
        assert_eq!((shape(&runs), dead.as_slice()), (vec![(1, 3, 0)], &[2, 1][..]));
        runs.drop_to(LogIndex(2), |p| dead.push(p.offset));
        assert_eq!(shape(&runs), [(3, 1, 0)]);
        runs.drop_to(LogIndex(9), |p| dead.push(p.offset));
        assert_eq!((shape(&runs), dead.as_slice()), (vec![], &[2, 1, 0][..]));
    }

    #[test]
    fn relocation_keeps_what_is_around() {
        let mut dead = Vec::new();
        let mut runs = runs(&[(1, 3), (4, 4), (9, 2)]);
        let mut relocate = |runs: &mut Runs, moved: RangeInclusive<u64>, to| {
            let moved = LogIndex(*moved.start())..=LogIndex(*moved.end());
            let (before, now) = runs.relocate(moved, place(to))?;
            let is_left = |run: &&Run| now.iter().any(|kept| kept.place == run.place);
            dead.extend(before.iter().filter(|run| !is_left(run)).map(|run| run.place.offset));
            Some(dead.clone())
        };
        let dead = relocate(&mut runs, 5..=6, 7).expect("they are here");
        assert_eq!(shape(&runs), [(1, 3, 0), (4, 1, 1), (5, 2, 7), (7, 1, 1), (9, 2, 2)]);
        assert!(dead.is_empty(), "parts of the record still count");
        let dead = relocate(&mut runs, 1..=3, 8).expect("they are here");
        assert_eq!((dead.as_slice(), shape(&runs)[0]), (&[0][..], (1, 3, 8)));
        let dead = relocate(&mut runs, 3..=7, 9).expect("they are here");
        assert_eq!(shape(&runs), [(1, 2, 8), (3, 5, 9), (9, 2, 2)]);
        assert_eq!(dead, [0, 1, 7, 1], "record 1 had two runs");
        assert_eq!(relocate(&mut runs, 7..=9, 9), None, "entry 8 is lost");
        assert_eq!(runs.contiguous_after(LogIndex(0)), LogIndex(7));
        assert_eq!(runs.contiguous_after(LogIndex(8)), LogIndex(10));
    }

    #[test]
    fn what_filled_is_settled_once() {
        let mut runs = runs(&[(1, 3)]);
        runs.push(Run { first: LogIndex(4), count: 2, place: Place { segment: FILLING, offset: 64, len: 30 } });
        let settled = Place { segment: 9, offset: 8256, len: 30 };
        assert_eq!(runs.settle(LogIndex(4), 9, 8192), Some(settled));
        assert_eq!(runs.settle(LogIndex(4), 9, 8192), None);
        assert_eq!(runs.iter().last().map(|run| run.place), Some(settled));
    }
}
