//! What happened in random schedules, counted: a run in which something never happened proves nothing about it.

use std::fmt;

macro_rules! events {
    ($($name:ident,)*) => {
        /// Something that a run of schedules must have seen.
        #[derive(Clone, Copy, Debug)]
        pub(crate) enum Event { $($name,)* }

        impl Event {
            const ALL: &'static [Event] = &[$(Event::$name,)*];
        }
    };
}

events! {
    Elected, Committed, Crashed, WriteLost, AppliedKept, Lost, Doubled, Late, Parted, Paused, Campaigned,
    Joined, Changed, ChangedJointly, ChangeReverted, JointLeft, VoterAdded, LearnerAdded, Promoted, Demoted, Removed,
    RemovedBeforeCreated, LeaderRemoved, RemovedCampaigned, ToldNotMember, StrangerVoted, ChangeRefused,
    TransferBegun, TransferWon, TransferGivenUp, TimeoutNowDoubled,
    ReadOnLeader, ReadOnFollower, ReadLost, LeaseRead, LeaseRefused, RestartedWithPromise, ForgotPromise,
    Compacted, CompactedTooEarly, SnapshotSent, SnapshotInstalled, SnapshotFailed, SnapshotDoubled, SnapshotMatchedLog,
    Evicted, RestartedPaged, Fetched, FetchedToApply, FetchedTooLate, FetchFailed,
    LostEntries, LostMiddle, LostAll, LostTold, WholeByAppend, WholeBySnapshot, MachineAhead,
    PriorityRefused, SteppedDownUnheard, SteppedDownStalled, LoyalToLeader,
}

/// How often each event happened.
#[derive(Clone, Debug)]
pub(crate) struct Totals([u64; Event::ALL.len()]);

impl Totals {
    pub(crate) fn new() -> Totals {
        Totals([0; Event::ALL.len()])
    }

    pub(crate) fn add(&mut self, event: Event, times: usize) {
        self.0[event as usize] += times as u64;
    }

    pub(crate) fn of(&self, event: Event) -> u64 {
        self.0[event as usize]
    }

    pub(crate) fn merge(&mut self, other: &Totals) {
        for (sum, one) in self.0.iter_mut().zip(other.0) {
            *sum += one;
        }
    }

    /// What never happened.
    pub(crate) fn missing(&self) -> Vec<Event> {
        Event::ALL.iter().copied().filter(|event| self.of(*event) == 0).collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in Event::ALL {
            write!(f, "{event:?} {}  ", self.of(*event))?;
        }
        Ok(())
    }
}
