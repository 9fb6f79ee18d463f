//! Plain types of the protocol: identities, positions, entries. One word, one meaning, as ARCHITECTURE.md fixes them.

use bytes::Bytes;
use core::fmt;
use core::time::Duration;

macro_rules! newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

newtype!(
    /// Names one Raft group in the whole cluster.
    GroupId
);
newtype!(
    /// Names one process of the cluster. Zero names nobody and is refused wherever a node is configured.
    NodeId
);
newtype!(
    /// Names one member of a group. An id is never used twice in a group, not even on the same node. Zero names nobody.
    ReplicaId
);
newtype!(
    /// A term of the Raft paper (section 5.1). Zero is before the first election.
    Term
);
newtype!(
    /// A position in a group's log; the first entry has index 1, zero is before it.
    LogIndex
);

impl Term {
    /// No term is above this one: a message or a disk that names a higher one lies. Adding to a term below it can't
    /// overflow.
    pub const MAX: Term = Term(u64::MAX >> 1);

    /// The term after this one.
    #[must_use]
    pub const fn next(self) -> Term {
        Term(self.0 + 1)
    }
}

impl LogIndex {
    /// No index is above this one, as [`Term::MAX`].
    pub const MAX: LogIndex = LogIndex(u64::MAX >> 1);

    /// The index after this one.
    #[must_use]
    pub const fn next(self) -> LogIndex {
        LogIndex(self.0 + 1)
    }

    /// The index before this one; zero stays zero.
    #[must_use]
    pub const fn previous(self) -> LogIndex {
        LogIndex(self.0.saturating_sub(1))
    }
}

/// An entry's index together with its term: two logs that agree on a position agree on everything before it
/// (Raft paper, section 5.3, log matching).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LogPosition {
    /// Index of the entry.
    pub index: LogIndex,
    /// Term of the entry.
    pub term: Term,
}

impl LogPosition {
    /// Whether a log that ends here is at least as up to date as one that ends at `other` (Raft paper, section 5.4.1).
    #[must_use]
    pub fn at_least_as_new_as(self, other: LogPosition) -> bool {
        (self.term, self.index) >= (other.term, other.index)
    }
}

/// A moment, in nanoseconds since an origin that only the caller knows. The protocol compares and adds; it never reads
/// a clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// A moment that never comes.
    pub const NEVER: Instant = Instant(u64::MAX);

    /// This moment and `duration` later; saturates at the end of time (584 years).
    #[must_use]
    pub const fn after(self, duration: Duration) -> Instant {
        let nanos = duration.as_nanos();
        let nanos = if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 };
        Instant(self.0.saturating_add(nanos))
    }

    /// How long after `earlier` this moment is; zero if it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EntryKind {
    /// A command for the state machine.
    Command = 0,
    /// The empty entry with which a new leader commits what earlier terms left (Raft paper, section 8).
    Empty = 1,
    /// The group's members from here on ([`ConfigurationEntry`](crate::ConfigurationEntry)).
    Configuration = 2,
}

impl EntryKind {
    /// The kind whose discriminant is `byte`, or `None` for a byte that names no kind.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<EntryKind> {
        match byte {
            0 => Some(EntryKind::Command),
            1 => Some(EntryKind::Empty),
            2 => Some(EntryKind::Configuration),
            _ => None,
        }
    }
}

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The term in which a leader appended it.
    pub term: Term,
    /// Its position in the log.
    pub index: LogIndex,
    /// What it is for.
    pub kind: EntryKind,
    /// The command, or the members; empty for [`EntryKind::Empty`]. Cloning shares the bytes.
    pub data: Bytes,
}

impl Entry {
    /// Index and term of this entry.
    #[must_use]
    pub const fn position(&self) -> LogPosition {
        LogPosition { index: self.index, term: self.term }
    }

    /// Bytes this entry counts for in every limit: its data and its own memory.
    #[must_use]
    pub const fn cost(&self) -> usize {
        self.data.len() + core::mem::size_of::<Entry>()
    }
}

/// What a replica must have durable before it answers anybody (Raft paper, figure 2): its term and whom it voted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HardState {
    /// The highest term this replica has seen.
    pub term: Term,
    /// The candidate that got this replica's vote in `term`.
    pub vote: Option<ReplicaId>,
}

/// One member of a group: a replica and the node that holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    /// The replica.
    pub replica: ReplicaId,
    /// The node it lives on.
    pub node: NodeId,
}
