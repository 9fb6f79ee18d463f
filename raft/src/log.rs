//! The log of one replica: its newest entries in memory, what is known of the older ones that are on disk alone, and how far
//! they are handed out to be persisted and durable.
//!
//! It must never lose track of which of its entries the disk really holds: see [`Log::generation`]. Used by every part
//! of the protocol; nobody outside this crate sees it.

use crate::message::Entries;
use crate::runs::Runs;
use crate::types::{Entry, LogIndex, LogPosition, Term};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// A replica's log: the paged entries, from the one after the base up to the floor, and those in memory after it.
///
/// Invariant: entries are contiguous from the one after the base, their terms never go down, and
/// `base.index <= floor.index <= durable <= durable + under_way <= last index`.
#[derive(Debug)]
pub(crate) struct Log {
    entries: VecDeque<Entry>,
    /// The position before the first entry in memory: that of the last paged one, or the base.
    floor: LogPosition,
    bytes: usize,
    durable: LogIndex,
    /// How many entries after the durable ones are handed out to be persisted.
    under_way: u32,
    /// Grows with every truncation. A write handed out before a truncation says nothing about the entries after it:
    /// the same index and term may have been overwritten on disk since and be on their way there again.
    generation: u32,
    /// The terms of the entries that are on disk alone. `None` if there are none: then the floor is the base.
    paged: Option<Box<Runs>>,
}

impl Log {
    /// A log read back from disk; all of it is durable. The caller checked the invariant. `runs` are the first positions of
    /// the terms of the entries that stay on disk, up to and including `paged`.
    pub(crate) fn restore(base: LogPosition, runs: &[LogPosition], paged: LogIndex, entries: Vec<Entry>) -> Log {
        let mut log = Log::new(base);
        if let [.., last] = runs {
            log.paged = Some(Box::new(Runs::new(base, runs)));
            log.floor = LogPosition { index: paged, term: last.term };
        }
        log.bytes = entries.iter().map(Entry::cost).sum();
        log.entries = entries.into();
        log.durable = log.last_index();
        log
    }

    /// An empty log.
    fn new(base: LogPosition) -> Log {
        let entries = VecDeque::new();
        Log { entries, floor: base, bytes: 0, durable: base.index, under_way: 0, generation: 0, paged: None }
    }

    /// The position before the first entry. What is at or below it is committed and applied.
    pub(crate) fn base(&self) -> LogPosition {
        self.paged.as_ref().map_or(self.floor, |runs| runs.base())
    }

    /// The position before the first entry in memory.
    pub(crate) fn floor(&self) -> LogPosition {
        self.floor
    }

    /// Whether there are entries on disk alone.
    pub(crate) fn is_paged(&self) -> bool {
        self.paged.is_some()
    }

    /// Bytes of all entries in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Highest index that was handed out to be persisted.
    pub(crate) fn handed(&self) -> LogIndex {
        LogIndex(self.durable.0 + u64::from(self.under_way))
    }

    /// Highest index that is durable here, with everything before it.
    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    /// Counts the truncations.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Index of the last entry; that of the base if there is none.
    pub(crate) fn last_index(&self) -> LogIndex {
        LogIndex(self.floor.index.0 + self.entries.len() as u64)
    }

    /// Position of the last entry; the base if there is none.
    pub(crate) fn last(&self) -> LogPosition {
        self.entries.back().map_or(self.floor, Entry::position)
    }

    /// Term of the entry at `index`, also of the one at the base; `None` below it and beyond the end.
    #[inline]
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        match index.0.checked_sub(self.floor.index.0) {
            None => self.paged_term(index),
            Some(0) => Some(self.floor.term),
            Some(n) => self.entries.get(usize::try_from(n - 1).ok()?).map(|e| e.term),
        }
    }

    #[cold]
    fn paged_term(&self, index: LogIndex) -> Option<Term> {
        self.paged.as_ref()?.term(index)
    }

    /// The position at `index`, which is in the log or at its base.
    pub(crate) fn position(&self, index: LogIndex) -> LogPosition {
        let term = self.term(index).expect("the caller asks for an index that is in the log");
        LogPosition { index, term }
    }

    /// Whether this log has that very entry, and so, by log matching, everything before it (Raft paper, section 5.3).
    pub(crate) fn contains(&self, position: LogPosition) -> bool {
        self.term(position.index) == Some(position.term)
    }

    /// The highest index at or below `index` whose term is at most `term`: the next place where this log can agree
    /// with one that has `term` at `index`. Skips whole terms at a time (Raft paper, end of section 5.3). It doesn't look
    /// below the base, where there is nothing to compare.
    pub(crate) fn highest_at_most(&self, index: LogIndex, term: Term) -> LogIndex {
        let not_above = match &self.paged {
            Some(runs) if self.floor.term > term => runs.highest_at_most(term),
            _ => LogIndex(self.floor.index.0 + self.entries.partition_point(|e| e.term <= term) as u64),
        };
        index.min(not_above)
    }

    /// The entries from `first` to `last`, both included, as far as they are in memory.
    pub(crate) fn slice(&self, first: LogIndex, last: LogIndex) -> Entries<'_> {
        let place = |index: LogIndex| index.0.saturating_sub(self.floor.index.0) as usize;
        let end = place(last.min(self.last_index()));
        let start = place(first.previous()).min(end);
        let (left, right) = self.entries.as_slices();
        let middle = left.len();
        (&left[start.min(middle)..end.min(middle)], &right[start.max(middle) - middle..end.max(middle) - middle])
    }

    /// The last index of a run that starts at `first`, ends at or before `last`, and has at most `bytes_max` bytes, but
    /// at least one entry; and its bytes. `first` is in memory and not after `last`.
    pub(crate) fn prefix(&self, first: LogIndex, last: LogIndex, bytes_max: usize) -> (LogIndex, usize) {
        let (left, right) = self.slice(first, last);
        prefix(left.iter().chain(right), first, bytes_max)
    }

    /// Bytes of the entries after `after`, up to and including `last`, as far as they are in memory.
    pub(crate) fn bytes_between(&self, after: LogIndex, last: LogIndex) -> usize {
        let (left, right) = self.slice(after.next(), last);
        left.iter().chain(right).map(Entry::cost).sum()
    }

    /// Adds an entry at the end.
    pub(crate) fn push(&mut self, entry: Entry) {
        assert_eq!(entry.index, self.last_index().next(), "entries are contiguous");
        assert!(entry.term >= self.last().term, "terms never go down");
        if self.entries.capacity() == 0 {
            // Most groups of a large node hold hardly an entry; the usual first step would reserve four.
            self.entries.reserve_exact(1);
        }
        self.bytes += entry.cost();
        self.entries.push_back(entry);
    }

    /// Removes the entries from `first` on, because a leader has others there. They count as never handed out.
    pub(crate) fn truncate(&mut self, first: LogIndex) {
        assert!(first > self.base().index && first <= self.last_index(), "there is something to remove");
        let last = self.position(first.previous());
        self.bytes -= self.bytes_between(last.index, self.last_index());
        self.entries.truncate(last.index.0.saturating_sub(self.floor.index.0) as usize);
        if last.index < self.floor.index {
            self.floor = last;
            self.paged.take_if(|runs| runs.truncate(first));
        }
        let handed = self.handed().min(last.index);
        self.durable = self.durable.min(last.index);
        self.set_handed(handed);
        self.generation += 1;
    }

    /// Forgets the entries up to `index`, which are applied and durable.
    pub(crate) fn compact(&mut self, index: LogIndex) {
        assert!(index >= self.base().index && index <= self.durable, "only what is durable is given up");
        let base = self.position(index);
        if index < self.floor.index {
            if let Some(runs) = &mut self.paged {
                runs.compact(base);
            }
            return;
        }
        self.bytes -= self.bytes_between(self.floor.index, index);
        self.entries.drain(..(index.0 - self.floor.index.0) as usize);
        (self.floor, self.paged) = (base, None);
        self.entries.shrink_to_fit();
    }

    /// Leaves the entries up to `index` to the disk; says how many bytes that frees. They are durable.
    pub(crate) fn evict(&mut self, index: LogIndex) -> usize {
        assert!(index <= self.durable, "only what is durable can be read again");
        let Some(count) = index.0.checked_sub(self.floor.index.0).filter(|count| *count > 0) else { return 0 };
        let floor = self.floor;
        let mut freed = 0;
        for entry in self.entries.drain(..count as usize) {
            freed += entry.cost();
            match &mut self.paged {
                Some(runs) => runs.extend(self.floor.term, entry.position()),
                None => self.paged = Some(Box::new(Runs::new(floor, &[entry.position()]))),
            }
            self.floor = entry.position();
        }
        self.bytes -= freed;
        // A busy log fills its room again.
        if self.entries.len() <= self.entries.capacity() / 4 {
            self.entries.shrink_to_fit();
        }
        freed
    }

    /// Puts a snapshot in the place of everything: the log goes on after `base`.
    pub(crate) fn reset(&mut self, base: LogPosition) {
        *self = Log { generation: self.generation + 1, ..Log::new(base) };
    }

    /// Takes everything up to `index` as handed out to be persisted.
    pub(crate) fn hand_out(&mut self, index: LogIndex) {
        assert!(index >= self.handed() && index <= self.last_index(), "entries are handed out in order");
        self.set_handed(index);
    }

    /// What was handed out up to `index` in `generation` is on disk. Says whether that made anything durable.
    pub(crate) fn persisted(&mut self, generation: u32, index: LogIndex) -> bool {
        if generation != self.generation || index <= self.durable {
            return false;
        }
        let handed = self.handed();
        assert!(index <= handed, "only what was handed out can be on disk");
        self.durable = index;
        self.set_handed(handed);
        true
    }

    fn set_handed(&mut self, index: LogIndex) {
        self.under_way = u32::try_from(index.0 - self.durable.0).expect("fewer than 2^32 entries fit in memory");
    }
}

/// As [`Log::prefix`], of entries that begin with `first`.
pub(crate) fn prefix<'a>(
    entries: impl Iterator<Item = &'a Entry>,
    first: LogIndex,
    bytes_max: usize,
) -> (LogIndex, usize) {
    let mut end = first.previous();
    let mut bytes = 0usize;
    for entry in entries {
        let with_entry = bytes.saturating_add(entry.cost());
        if with_entry > bytes_max && end >= first {
            break;
        }
        bytes = with_entry;
        end = entry.index;
    }
    (end, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::EntryKind;
    use bytes::Bytes;

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::restore(LogPosition::default(), &[], LogIndex(0), Vec::new());
        for (i, term) in terms.iter().enumerate() {
            let index = LogIndex(i as u64 + 1);
            log.push(Entry { term: Term(*term), index, kind: EntryKind::Command, data: Bytes::from_static(b"x") });
        }
        log
    }

    #[test]
    fn slices_stay_inside_the_log_wherever_the_ring_wraps() {
        for rotation in 0..6 {
            let mut log = log(&[1, 1, 2, 2, 3]);
            log.entries.make_contiguous();
            log.entries.rotate_left(rotation % 5);
            log.entries.rotate_right(rotation % 5);
            for first in 0..9 {
                for last in 0..9 {
                    let (left, right) = log.slice(LogIndex(first), LogIndex(last));
                    let got: Vec<u64> = left.iter().chain(right).map(|e| e.index.0).collect();
                    let want: Vec<u64> = (first.max(1)..=last.min(5)).collect();
                    assert_eq!(got, want, "{first}..={last}");
                }
            }
        }
    }

    #[test]
    fn hints_skip_whole_terms() {
        let log = log(&[1, 1, 4, 4, 6]);
        assert_eq!(log.highest_at_most(LogIndex(5), Term(5)), LogIndex(4));
        assert_eq!(log.highest_at_most(LogIndex(5), Term(3)), LogIndex(2));
        assert_eq!(log.highest_at_most(LogIndex(1), Term(9)), LogIndex(1));
        assert_eq!(log.highest_at_most(LogIndex(5), Term(0)), LogIndex(0));
    }

    #[test]
    fn a_compacted_log_begins_at_its_base() {
        let mut log = log(&[1, 1, 4, 4, 6]);
        let cost = log.bytes() / 5;
        log.hand_out(LogIndex(5));
        log.persisted(0, LogIndex(5));
        log.compact(LogIndex(3));
        assert_eq!((log.base(), log.last_index(), log.bytes()), (log.position(LogIndex(3)), LogIndex(5), 2 * cost));
        assert_eq!(
            (log.term(LogIndex(2)), log.term(LogIndex(3)), log.term(LogIndex(4))),
            (None, Some(Term(4)), Some(Term(4)))
        );
        let (left, right) = log.slice(LogIndex(1), LogIndex(9));
        assert_eq!(left.iter().chain(right).map(|e| e.index.0).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(log.highest_at_most(LogIndex(5), Term(3)), LogIndex(3), "not below the base");
        assert_eq!(log.highest_at_most(LogIndex(1), Term(9)), LogIndex(1));
        log.reset(LogPosition { index: LogIndex(9), term: Term(7) });
        assert_eq!((log.last_index(), log.durable(), log.bytes()), (LogIndex(9), LogIndex(9), 0));
    }

    #[test]
    fn a_prefix_has_at_least_one_entry() {
        let log = log(&[1, 1, 1]);
        let cost = log.bytes() / 3;
        assert_eq!(log.prefix(LogIndex(2), LogIndex(3), 0), (LogIndex(2), cost));
        assert_eq!(log.prefix(LogIndex(1), LogIndex(3), 2 * cost), (LogIndex(2), 2 * cost));
        assert_eq!(log.prefix(LogIndex(1), LogIndex(2), usize::MAX), (LogIndex(2), 2 * cost));
    }

    #[test]
    fn a_write_from_before_a_truncation_makes_nothing_durable() {
        let mut log = log(&[1, 1, 2]);
        log.hand_out(LogIndex(3));
        let before = log.generation();
        log.truncate(LogIndex(2));
        assert!(!log.persisted(before, LogIndex(3)));
        assert_eq!((log.durable(), log.handed()), (LogIndex(0), LogIndex(1)));
        assert_eq!(log.bytes(), log.bytes_between(LogIndex(0), LogIndex(1)));
    }

    /// The same log, once all in memory and once with its first entries on disk alone.
    #[test]
    fn a_paged_log_knows_what_one_in_memory_knows() {
        let terms = [1, 1, 2, 2, 2, 5, 7, 7];
        for base in 0..=8u64 {
            for floor in base..=8 {
                let [mut whole, mut paged] = [log(&terms), log(&terms)];
                for log in [&mut whole, &mut paged] {
                    log.hand_out(LogIndex(8));
                    log.persisted(0, LogIndex(8));
                }
                whole.compact(LogIndex(base));
                let cost = paged.bytes() / 8;
                // Bit by bit, before and after the compaction.
                let mut freed = (0..=floor / 2).map(|index| paged.evict(LogIndex(index))).sum::<usize>();
                paged.compact(LogIndex(base));
                freed += paged.evict(LogIndex(floor));
                assert!(freed <= floor as usize * cost && paged.bytes() == (8 - floor) as usize * cost);
                assert_same(&whole, &paged, floor);
                for first in base + 1..=8 {
                    let [mut whole, mut cut] = [&whole, &paged].map(|log| {
                        let mut other = Log::restore(log.base(), &[], LogIndex(0), Vec::new());
                        (other.floor, other.bytes, other.durable) = (log.floor, log.bytes, log.durable);
                        other.entries = log.entries.clone();
                        other.paged = log.paged.clone();
                        other
                    });
                    whole.truncate(LogIndex(first));
                    cut.truncate(LogIndex(first));
                    assert_same(&whole, &cut, floor.min(first - 1));
                    assert_eq!(cut.is_paged(), floor.min(first - 1) > base);
                }
            }
        }
    }

    fn assert_same(whole: &Log, paged: &Log, floor: u64) {
        assert_eq!((whole.base(), whole.last(), whole.durable()), (paged.base(), paged.last(), paged.durable()));
        assert_eq!(paged.floor().index, LogIndex(floor));
        for index in (0..10).map(LogIndex) {
            assert_eq!(whole.term(index), paged.term(index), "{index}");
            for term in (0..9).map(Term) {
                assert_eq!(whole.highest_at_most(index, term), paged.highest_at_most(index, term), "{index}@{term}");
            }
        }
    }

    #[test]
    fn a_log_is_restored_with_its_beginning_on_disk() {
        let at = |index, term| LogPosition { index: LogIndex(index), term: Term(term) };
        let entry = log(&[1, 1, 1, 1, 1, 9]).entries.pop_back().expect("six entries");
        let log = Log::restore(at(1, 1), &[at(2, 1), at(3, 4)], LogIndex(5), Vec::from([entry]));
        let terms: Vec<_> = (0..8).map(|index| log.term(LogIndex(index)).map_or(0, |term| term.0)).collect();
        assert_eq!(terms, [0, 1, 1, 4, 4, 4, 9, 0]);
        assert_eq!((log.base(), log.floor(), log.durable()), (at(1, 1), at(5, 4), LogIndex(6)));
    }
}
