//! The limits and times of a group. One value serves all groups of a node, so a replica holds it by reference count.

use core::time::Duration;

/// The limits and times of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A follower campaigns at the earliest after this much silence, and refuses pre-votes until then.
    pub election_timeout_min: Duration,
    /// A follower campaigns at the latest after this much silence. Well above the minimum, or votes split for ever
    /// (Raft paper, section 5.2).
    pub election_timeout_max: Duration,
    /// Most bytes ([`Entry::cost`](crate::Entry::cost)) of one append; a larger entry travels alone.
    pub append_bytes_max: usize,
    /// Most appends on their way to one peer.
    pub inflight_appends_max: usize,
    /// No further append goes to a peer while this many bytes are on their way to it.
    pub inflight_bytes_max: usize,
    /// Most bytes of entries above the commit index; a proposal beyond is refused. An entry that alone is larger is
    /// taken when nothing else is uncommitted.
    pub uncommitted_bytes_max: usize,
    /// Whether a leader may serve reads on its followers' promises alone ([`Raft::lease_read`](crate::Raft::lease_read)).
    /// Safe only while no clock drifts by more than `clock_drift_max_ppm`.
    pub leases: bool,
    /// How far any clock of the group may run fast or slow against true time, in millionths. Leases are shorter by it.
    pub clock_drift_max_ppm: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            election_timeout_min: Duration::from_millis(1_000),
            election_timeout_max: Duration::from_millis(2_000),
            append_bytes_max: 1 << 20,
            inflight_appends_max: 256,
            inflight_bytes_max: 8 << 20,
            uncommitted_bytes_max: 32 << 20,
            leases: false,
            clock_drift_max_ppm: 10_000,
        }
    }
}

/// Which setting can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The minimum is zero.
    #[error("election_timeout_min must be above zero")]
    ElectionTimeoutMin,
    /// The maximum is not above the minimum, or so long that it is no time-out.
    #[error(
        "election_timeout_max must be above election_timeout_min ({min:?}) and at most {most:?}, not {max:?}",
        most = Settings::ELECTION_TIMEOUT_MOST
    )]
    ElectionTimeoutMax {
        /// The minimum.
        min: Duration,
        /// The maximum.
        max: Duration,
    },
    /// No bytes in an append.
    #[error("append_bytes_max must be above zero")]
    AppendBytesMax,
    /// No append, or more than can be tracked.
    #[error("inflight_appends_max must be from 1 to {most}, not {0}", most = Settings::INFLIGHT_APPENDS_MOST)]
    InflightAppendsMax(usize),
    /// No bytes on the way.
    #[error("inflight_bytes_max must be above zero")]
    InflightBytesMax,
    /// No uncommitted bytes.
    #[error("uncommitted_bytes_max must be above zero")]
    UncommittedBytesMax,
    /// A drift that no clock has, or that leaves no lease.
    #[error("clock_drift_max_ppm must be from 1 to {most}, not {0}", most = Settings::CLOCK_DRIFT_MOST_PPM)]
    ClockDriftMaxPpm(u32),
}

impl Settings {
    /// Highest value of [`Settings::clock_drift_max_ppm`].
    pub const CLOCK_DRIFT_MOST_PPM: u32 = 200_000;
    /// Highest value of [`Settings::election_timeout_max`].
    pub const ELECTION_TIMEOUT_MOST: Duration = Duration::from_secs(24 * 60 * 60);
    /// Highest value of [`Settings::inflight_appends_max`].
    pub const INFLIGHT_APPENDS_MOST: usize = 65_536;

    /// Checks every field.
    ///
    /// # Errors
    /// Names the first field that can't be.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let (min, max) = (self.election_timeout_min, self.election_timeout_max);
        if min.is_zero() {
            return Err(SettingsError::ElectionTimeoutMin);
        }
        if max <= min || max > Self::ELECTION_TIMEOUT_MOST {
            return Err(SettingsError::ElectionTimeoutMax { min, max });
        }
        if self.append_bytes_max == 0 {
            return Err(SettingsError::AppendBytesMax);
        }
        if self.inflight_appends_max == 0 || self.inflight_appends_max > Self::INFLIGHT_APPENDS_MOST {
            return Err(SettingsError::InflightAppendsMax(self.inflight_appends_max));
        }
        if self.inflight_bytes_max == 0 {
            return Err(SettingsError::InflightBytesMax);
        }
        if self.uncommitted_bytes_max == 0 {
            return Err(SettingsError::UncommittedBytesMax);
        }
        if !(1..=Self::CLOCK_DRIFT_MOST_PPM).contains(&self.clock_drift_max_ppm) {
            return Err(SettingsError::ClockDriftMaxPpm(self.clock_drift_max_ppm));
        }
        Ok(())
    }

    /// How long a leader relies on a promise of [`Settings::election_timeout_min`], counted from before it was made: what
    /// is left of it when the leader's clock is as slow and the follower's as fast as allowed.
    #[must_use]
    pub fn lease(&self) -> Duration {
        let ppm = u128::from(self.clock_drift_max_ppm);
        let nanos = self.election_timeout_min.as_nanos() * (1_000_000 - ppm) / (1_000_000 + ppm);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// How long a replica that starts again keeps the promises it may have made before: as long as any leader relies on
    /// them, by a clock that may run fast.
    #[must_use]
    pub fn promise_after_restart(&self) -> Duration {
        let ppm = u128::from(self.clock_drift_max_ppm);
        let nanos = self.election_timeout_min.as_nanos() * (1_000_000 + ppm) / 1_000_000;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).saturating_add(Duration::from_nanos(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Settings::default().validate(), Ok(()));
    }

    #[test]
    fn an_error_names_the_field() {
        extern crate std;
        use std::string::ToString;
        let short = Settings { election_timeout_max: Duration::from_millis(500), ..Settings::default() };
        let error = short.validate().expect_err("the maximum is below the minimum");
        assert!(error.to_string().contains("election_timeout_max"), "{error}");
        let none = Settings { inflight_appends_max: 0, ..Settings::default() };
        assert_eq!(none.validate(), Err(SettingsError::InflightAppendsMax(0)));
        let still = Settings { clock_drift_max_ppm: 0, ..Settings::default() };
        assert_eq!(still.validate(), Err(SettingsError::ClockDriftMaxPpm(0)));
    }

    #[test]
    fn a_lease_is_shorter_than_the_promise_it_rests_on() {
        let settings = Settings { clock_drift_max_ppm: 100_000, ..Settings::default() };
        assert_eq!(settings.lease(), Duration::from_nanos(818_181_818));
        assert!(settings.promise_after_restart() > Duration::from_millis(1_100));
    }
}
