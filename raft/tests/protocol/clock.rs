//! What a replica takes for the time.

use raftyard_raft::Instant;

/// A clock that began at another moment than the true time, and runs a little faster or slower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// What it showed at the beginning of time, in nanoseconds.
    pub(crate) offset: u64,
    /// How much faster than the true time it runs, in millionths.
    pub(crate) ppm: i64,
}

const MILLION: u64 = 1_000_000;

impl Clock {
    /// It shows the true time.
    pub(crate) const TRUE: Clock = Clock { offset: 0, ppm: 0 };

    /// What it shows at a moment of the true time.
    pub(crate) fn read(self, now: Instant) -> Instant {
        Instant(self.offset + now.0 * self.rate() / MILLION)
    }

    /// The first moment of the true time at which it shows `shown`.
    pub(crate) fn moment(self, shown: Instant) -> Instant {
        Instant((shown.0.saturating_sub(self.offset) * MILLION).div_ceil(self.rate()))
    }

    fn rate(self) -> u64 {
        MILLION.saturating_add_signed(self.ppm)
    }
}
