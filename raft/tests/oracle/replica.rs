//! What the test does to a replica, of whichever kind it is, and what it sees of it.

use crate::packet::{Packet, Wire};
use raftyard_raft::{Entry, GroupId, HardState, Instant, LogIndex, LogPosition, Term};

pub(crate) const GROUP: GroupId = GroupId(7);

/// An election takes this much silence at least and twice as much at most, for both kinds.
pub(crate) const ELECTION_TIMEOUT_NANOS: u64 = 100;
/// A leader beats so often.
pub(crate) const BEAT_NANOS: u64 = 30;

/// Whose replica it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// This crate's.
    Ours = 0,
    /// That of raft-rs.
    Theirs = 1,
}

/// A replica on a disk of its own. Writes complete when the test says so, in order; what waits for one leaves then.
pub(crate) trait Replica {
    fn kind(&self) -> Kind;
    fn is_up(&self) -> bool;
    /// How far a state machine may be, of what its replica handed out, when it starts from what is durable.
    fn applicable(&self) -> LogIndex;
    /// Starts from what is durable; its state machine holds everything up to `applied`.
    fn start(&mut self, now: Instant, applied: LogIndex, seed: u64);
    /// Goes down. Of its writes under way the first `kept` have reached the disk, unreported.
    fn crash(&mut self, kept: usize);
    /// It is told the time.
    fn pass(&mut self, now: Instant);
    fn take(&mut self, now: Instant, packet: &Packet);
    fn campaign(&mut self, now: Instant);
    /// Says whether it took the command.
    fn propose(&mut self, command: &[u8]) -> bool;
    fn transfer(&mut self, now: Instant, to: usize);
    /// How many writes are under way.
    fn writes(&self) -> usize;
    /// The oldest write is durable. What waited for it leaves.
    fn persisted(&mut self) -> Vec<Wire>;
    /// Ends a turn: what leaves now, and what the state machine takes.
    fn poll(&mut self) -> Polled;
    /// What it knows; nothing while it is down.
    fn view(&self) -> Option<View>;
    /// Everything in its log, durable or not; nothing while it is down.
    fn log(&self) -> Vec<Entry>;
    fn disk(&self) -> &Disk;
}

#[derive(Debug, Default)]
pub(crate) struct Polled {
    pub(crate) sent: Vec<Wire>,
    pub(crate) applied: Vec<Entry>,
}

/// What is seen of a replica that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) term: Term,
    pub(crate) leads: bool,
    pub(crate) commit: LogIndex,
    /// Where its log ends.
    pub(crate) last: LogPosition,
}

/// What is durable of a replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard: HardState,
    pub(crate) entries: Vec<Entry>,
}

impl Disk {
    pub(crate) fn holds(&self, entry: &Entry) -> bool {
        self.entries.get(entry.index.0 as usize - 1) == Some(entry)
    }

    /// A write arrives. Its first entry replaces whatever is at its index and after.
    pub(crate) fn take(&mut self, hard: Option<HardState>, entries: Vec<Entry>) {
        self.hard = hard.unwrap_or(self.hard);
        let Some(first) = entries.first() else { return };
        let before = first.index.0 as usize - 1;
        assert!(before <= self.entries.len(), "a write leaves no gap");
        self.entries.truncate(before);
        self.entries.extend(entries);
    }
}
