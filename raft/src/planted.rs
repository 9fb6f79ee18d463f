//! Bugs that the simulator, or the random schedules of a group, must find. Nothing of this is in an ordinary build: there [`planted`] is `false`, and what asks
//! it compiles to nothing. With `--cfg raftyard_planted` one of them at a time is switched on by `plant`.
//!
//! Used by this crate, the log and the core, each where the line stands that the bug leaves out.

/// A bug. Its number is that of the list of faults that every part of Raftyard answers to; what has no number there has one
/// from 20 on. Number 11 comes with sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Bug {
    /// A leader answers reads from its own state, without asking anybody.
    ReadWithoutQuorum = 1,
    /// A read index is confirmed by a round of heartbeats that was sent before the request.
    ReadByOldRound = 2,
    /// A leader counts its own entries before they are durable.
    OwnMatchEarly = 3,
    /// Batches are acknowledged without a sync.
    NoSync = 4,
    /// Votes go to candidates whose log lacks what this replica has.
    VoteForAnyLog = 5,
    /// Half of a joint configuration decides alone.
    HalfOfJoint = 6,
    /// A node that comes back with an empty disk is taken for who it was.
    StoreNotCompared = 7,
    /// That a peer lost a snapshot in a crash, after it said that it has it, is never found out.
    SnapshotForgotten = 8,
    /// A torn batch at the end of the log is taken for whole.
    TornTaken = 9,
    /// The directory is not synced when a segment was made.
    NoDirectorySync = 10,
    /// Answers leave before what they tell of is durable.
    AnswerBeforeDurable = 20,
    /// What a peer acknowledged in an earlier term counts in this one.
    OldTermCounts = 21,
    /// A promise is forgotten in a restart.
    PromiseForgotten = 22,
    /// Whoever campaigns takes a new term at once, and whoever is asked takes it too, whatever leader it hears.
    Disturbance = 23,
    /// A lease goes on when another was asked to take over.
    LeaseInTransfer = 24,
    /// A lease never ends.
    LeaseWithoutEnd = 25,
    /// A change of members begins while the one before is not committed, or before this term has committed anything.
    ChangeTooEarly = 26,
    /// A whole batch of more than one block is taken for torn.
    WholeCut = 27,
    /// A configuration stays when its entry is cut off.
    ConfigurationKept = 28,
    /// A segment is given up, and used again, while a start may still have to read it.
    CheckpointNotAwaited = 12,
    /// Entries that were moved are replayed as if they were new ones.
    RelocatedAppended = 40,
    /// A segment is given up before what was moved out of it is durable.
    SourceFreedEarly = 41,
    /// Checkpoints forget which replicas were removed.
    TombstoneDropped = 42,
    /// What a batch repeats of the one before is not looked at.
    EchoIgnored = 43,
    /// A snapshot takes the place of a machine, whether or not the protocol took it in the place of the log.
    SnapshotUnasked = 50,
    /// A snapshot counts before all of its pieces are recorded.
    SnapshotNamedEarly = 51,
    /// A log is compacted although no snapshot holds what goes.
    CompactedUnsaved = 52,
    /// A replica whose disk lost part of its log votes by what is left of it.
    BoundIgnored = 29,
    /// A replica whose disk lost everything votes as if it had never existed.
    AmnesiaVotes = 30,
}

/// Those that the simulator must find.
pub const BUGS: &[Bug] = &[
    Bug::ReadWithoutQuorum,
    Bug::ReadByOldRound,
    Bug::OwnMatchEarly,
    Bug::NoSync,
    Bug::VoteForAnyLog,
    Bug::HalfOfJoint,
    Bug::StoreNotCompared,
    Bug::TornTaken,
    Bug::NoDirectorySync,
    Bug::AnswerBeforeDurable,
    Bug::OldTermCounts,
    Bug::PromiseForgotten,
    Bug::Disturbance,
    Bug::LeaseInTransfer,
    Bug::LeaseWithoutEnd,
    Bug::ChangeTooEarly,
    Bug::WholeCut,
    Bug::ConfigurationKept,
    Bug::CheckpointNotAwaited,
    Bug::RelocatedAppended,
    Bug::SourceFreedEarly,
    Bug::TombstoneDropped,
    Bug::EchoIgnored,
    Bug::SnapshotForgotten,
    Bug::SnapshotUnasked,
    Bug::SnapshotNamedEarly,
    Bug::CompactedUnsaved,
];

/// Those that a group alone must have found (`raft/tests/protocol/random`): no simulated node opens a replica whose disk lost
/// something.
pub const BUGS_OF_LIMITS: &[Bug] = &[Bug::BoundIgnored, Bug::AmnesiaVotes];

/// Whether a bug is switched on.
#[cfg(not(raftyard_planted))]
#[inline]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}

/// Whether a bug is switched on.
#[cfg(raftyard_planted)]
#[must_use]
pub fn planted(bug: Bug) -> bool {
    PLANTED.load(core::sync::atomic::Ordering::Relaxed) == bug as u32
}

/// Switches one bug on, for the whole process, or all off.
#[cfg(raftyard_planted)]
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u32), core::sync::atomic::Ordering::Relaxed);
}

#[cfg(raftyard_planted)]
static PLANTED: core::sync::atomic::AtomicU32 = core::sync::atomic::AtomicU32::new(0);
