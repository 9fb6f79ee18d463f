//! The terms of entries that are on disk alone, as runs: so that the log can be compared with others without reading it.

use crate::types::{LogIndex, LogPosition, Term};
use alloc::vec::Vec;

/// The terms of consecutive entries, of which there is at least one. Where they end, the log knows.
///
/// Invariant: terms never go down; `later` begin after the first entry, and their indexes and terms rise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Runs {
    /// The position before the first entry.
    base: LogPosition,
    /// The term of the first entry.
    first: Term,
    /// The first positions of the terms after that. Most logs have none.
    later: Vec<LogPosition>,
}

impl Runs {
    /// Those that begin at `runs`, of which the first is the one after `base`.
    pub(crate) fn new(base: LogPosition, runs: &[LogPosition]) -> Runs {
        assert_eq!(runs[0].index, base.index.next(), "entries are contiguous");
        Runs { base, first: runs[0].term, later: Vec::from(&runs[1..]) }
    }

    pub(crate) fn base(&self) -> LogPosition {
        self.base
    }

    /// Term of the entry at `index`, which is not beyond the end; also of the base, `None` below it.
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index <= self.base.index {
            return (index == self.base.index).then_some(self.base.term);
        }
        let begun = self.later.partition_point(|run| run.index <= index);
        Some(begun.checked_sub(1).map_or(self.first, |last| self.later[last].term))
    }

    /// The highest index whose term is at most `term`, which the last entry's is above; that of the base if there is none.
    pub(crate) fn highest_at_most(&self, term: Term) -> LogIndex {
        if self.first > term {
            return self.base.index;
        }
        let above = self.later.partition_point(|run| run.term <= term);
        self.later[above].index.previous()
    }

    /// Adds an entry after the last, whose term is `last`.
    pub(crate) fn extend(&mut self, last: Term, entry: LogPosition) {
        if entry.term > last {
            self.later.push(entry);
        }
    }

    /// Removes the entries from `first` on, which is after the base. Says whether none is left.
    pub(crate) fn truncate(&mut self, first: LogIndex) -> bool {
        let kept = self.later.partition_point(|run| run.index < first);
        self.later.truncate(kept);
        self.later.shrink_to_fit();
        first == self.base.index.next()
    }

    /// Forgets the entries up to `base`, which is one of them or the base, but not the last.
    pub(crate) fn compact(&mut self, base: LogPosition) {
        let first = base.index.next();
        self.first = self.term(first).expect("it is after the base");
        self.base = base;
        let begun = self.later.partition_point(|run| run.index <= first);
        self.later.drain(..begun);
        self.later.shrink_to_fit();
    }
}
