//! What the schedules met: one that elects and commits nothing proves nothing.

use std::fmt;

/// Counts, by [`Kind`](crate::replica::Kind): of ours, of theirs. Of two kinds the first is from whom.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) elections: [u64; 2],
    /// Entries that a replica of the kind was the first to know as committed.
    pub(crate) committed: [u64; 2],
    /// Writes that removed entries.
    pub(crate) truncated: [u64; 2],
    pub(crate) crashes: [u64; 2],
    pub(crate) writes_lost: [u64; 2],
    pub(crate) rejections: [[u64; 2]; 2],
    /// Elections won that a leader of the first kind asked one of the second for.
    pub(crate) transfers: [[u64; 2]; 2],
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Totals) {
        for (sum, one) in self.all_mut().into_iter().zip(other.all()) {
            *sum += one.1;
        }
    }

    /// Each count with its name.
    pub(crate) fn all(&self) -> [(&'static str, u64); 21] {
        let [ours, theirs] = [0, 1];
        [
            ("elections, ours", self.elections[ours]),
            ("elections, theirs", self.elections[theirs]),
            ("committed, ours", self.committed[ours]),
            ("committed, theirs", self.committed[theirs]),
            ("truncated, ours", self.truncated[ours]),
            ("truncated, theirs", self.truncated[theirs]),
            ("crashes, ours", self.crashes[ours]),
            ("crashes, theirs", self.crashes[theirs]),
            ("writes lost, ours", self.writes_lost[ours]),
            ("writes lost, theirs", self.writes_lost[theirs]),
            ("rejections, ours to ours", self.rejections[ours][ours]),
            ("rejections, ours to theirs", self.rejections[ours][theirs]),
            ("rejections, theirs to ours", self.rejections[theirs][ours]),
            ("rejections, theirs to theirs", self.rejections[theirs][theirs]),
            ("transfers, ours to ours", self.transfers[ours][ours]),
            ("transfers, ours to theirs", self.transfers[ours][theirs]),
            ("transfers, theirs to ours", self.transfers[theirs][ours]),
            ("transfers, theirs to theirs", self.transfers[theirs][theirs]),
            ("messages lost", self.lost),
            ("messages doubled", self.doubled),
            ("messages late", self.late),
        ]
    }

    fn all_mut(&mut self) -> impl IntoIterator<Item = &mut u64> {
        let by_kind =
            [&mut self.elections, &mut self.committed, &mut self.truncated, &mut self.crashes, &mut self.writes_lost];
        let by_pair = [&mut self.rejections, &mut self.transfers];
        let single = [&mut self.lost, &mut self.doubled, &mut self.late];
        by_kind.into_iter().flatten().chain(by_pair.into_iter().flatten().flatten()).chain(single)
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all().iter().try_for_each(|(name, count)| writeln!(f, "{count:>9} {name}"))
    }
}
