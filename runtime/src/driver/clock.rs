//! The node's clock.

use raftyard_raft::Instant;
use rustix::time::{ClockId, clock_gettime};

/// The time since the machine started, suspension included: a leader that slept must not believe its lease still runs.
#[must_use]
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).expect("the time since boot is not negative");
    let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds are not negative");
    Instant(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
