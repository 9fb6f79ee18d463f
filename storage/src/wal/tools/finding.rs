//! What reading all of a log comes to.

use super::super::error::WalError;
use crate::format::BatchSeq;
use crate::format::record::RecordFault;
use crate::io::{FilePath, WalId};
use raftyard_raft::{GroupId, LogIndex};

/// What reading all of a log came to.
#[derive(Clone, Debug)]
pub struct Verification {
    /// Which log.
    pub wal: WalId,
    /// Segments read.
    pub segments: usize,
    /// Whole batches.
    pub batches: u64,
    /// Records in them, each proved by its own checksum.
    pub records: u64,
    /// Bytes of batches whose checksum was computed.
    pub checked_bytes: u64,
    /// Groups of which everything that the log names was looked up.
    pub groups: usize,
    /// Their entries that could be read.
    pub entries: u64,
    /// Pieces of their snapshots that could be read.
    pub pieces: u64,
    /// The last batch.
    pub last: BatchSeq,
    /// What something in the log proves to have been durable. A damaged batch above it can't be told from a torn one.
    pub durable_upto: BatchSeq,
    /// Where the log ends in a torn batch, which is no damage.
    pub tear: Option<(FilePath, u64)>,
    /// What is damaged, in the order of the disk; nothing if the log is whole.
    pub findings: Vec<Finding>,
}

/// Something damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: FilePath,
    /// Where, in bytes.
    pub offset: u64,
    /// What.
    pub fault: Fault,
    /// The groups that wrote something in the lost batches; `None` if nothing says which.
    pub touched: Option<Vec<GroupId>>,
    /// The groups whose entries or snapshots, which still count, are lost by it, sorted.
    pub lost: Vec<GroupId>,
    /// The groups that a start limits because of it, sorted; none if a start does not get to see it.
    pub limited: Vec<GroupId>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Batches that were durable are lost. Of the first ones of a log only the last lost one is known.
    Batches {
        /// The first one.
        first: BatchSeq,
        /// The last one.
        last: BatchSeq,
        /// Whether the batch after them says whom they touched.
        explained: bool,
    },
    /// A record of a whole batch does not hold.
    Record {
        /// The batch.
        sequence: BatchSeq,
        /// Why.
        fault: RecordFault,
    },
    /// Entries that count are not where they should be.
    Entries {
        /// The group.
        group: GroupId,
        /// The first one.
        first: LogIndex,
        /// The last one.
        last: LogIndex,
    },
    /// A piece of a group's snapshot is not where it should be.
    Snapshot {
        /// The group.
        group: GroupId,
    },
    /// One of the two copies of a segment's header; the other one holds.
    HeaderCopy,
    /// A file of the log can't be read.
    File(WalError),
    /// A start refuses the log.
    Refused(WalError),
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyStep {
    /// What is being read.
    pub phase: &'static str,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Finding {
    pub(super) fn new(file: FilePath, offset: u64, fault: Fault) -> Finding {
        Finding { file, offset, fault, touched: None, lost: Vec::new(), limited: Vec::new() }
    }

    /// Each group once, in order.
    pub(super) fn tidy(&mut self) {
        for groups in [Some(&mut self.lost), Some(&mut self.limited), self.touched.as_mut()].into_iter().flatten() {
            groups.sort_unstable();
            groups.dedup();
        }
    }
}
