//! Making a segment, step by step: each step is one operation, and the next one is formed only when it succeeded.
//!
//! The order is a durability rule. Zeroes and length are durable before the header is written, and the header before
//! the file gets a segment's name; the name is durable before a batch is written. So a named segment that counts always
//! had a valid header and its full length, and anything else under such a name is damage. A file that was a segment and
//! counts no more is used again without zeroes: its blocks are written ones, and its old batches are none of the new
//! salt.

use super::files::Free;
use crate::aligned::AlignedBuf;
use crate::format::segment::{BATCHES_OFFSET, SegmentHeader};
use crate::io::{Directory, FileId, FileName, FilePath, IoOp, IoOutput, SegmentNumber, WalId, WriteMode};
use raftyard_raft::planted::{Bug, planted};

/// A file in the making.
#[derive(Debug)]
pub(crate) struct Preparation {
    wal: WalId,
    segment_bytes: u64,
    zero_chunk_bytes: u64,
    /// The file as it is called until it is a segment.
    spare: FilePath,
    /// The segment it becomes; `None` if it is only filled and kept.
    header: Option<SegmentHeader>,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Open {
        written: bool,
    },
    Zero {
        file: FileId,
        done: u64,
    },
    Sync {
        file: FileId,
    },
    WriteHeader {
        file: FileId,
    },
    Rename {
        file: FileId,
    },
    SyncDirectory {
        file: FileId,
    },
    Ready {
        file: FileId,
    },
    /// There was no room: what was made is taken back.
    Close {
        file: FileId,
    },
    Remove,
    NoRoom,
}

impl Preparation {
    /// A new segment.
    pub(crate) fn fresh(header: SegmentHeader, zero_chunk_bytes: u64) -> Preparation {
        Preparation {
            wal: header.wal,
            segment_bytes: header.segment_bytes,
            zero_chunk_bytes,
            spare: spare(header.wal, header.number),
            header: Some(header),
            step: Step::Create,
        }
    }

    /// A segment out of a file of its length that counts no more.
    pub(crate) fn recycled(header: SegmentHeader, free: Free, zero_chunk_bytes: u64) -> Preparation {
        Preparation {
            wal: header.wal,
            segment_bytes: header.segment_bytes,
            zero_chunk_bytes,
            spare: free.path,
            header: Some(header),
            step: Step::Open { written: free.written },
        }
    }

    /// A file that is filled, and kept for when there is no room.
    pub(crate) fn reserve(wal: WalId, number: SegmentNumber, segment_bytes: u64, zero_chunk_bytes: u64) -> Preparation {
        let spare = spare(wal, number);
        Preparation { wal, segment_bytes, zero_chunk_bytes, spare, header: None, step: Step::Create }
    }

    /// The operation of the present step; `None` when there is none.
    pub(crate) fn op(&self) -> Option<IoOp> {
        Some(match self.step {
            Step::Create => IoOp::Create(self.spare),
            Step::Open { .. } => IoOp::Open(self.spare),
            Step::Zero { file, done } => {
                let len = self.zero_chunk_bytes.min(self.segment_bytes - done);
                IoOp::Zero { file, offset: done, len }
            }
            Step::Sync { file } => IoOp::Sync(file),
            Step::WriteHeader { file } => {
                let mut buffer = AlignedBuf::zeroed(BATCHES_OFFSET as usize);
                self.header.expect("only what becomes a segment gets a header").encode(&mut buffer);
                IoOp::Write { file, offset: 0, buffer, mode: WriteMode::Dsync }
            }
            Step::Rename { .. } => IoOp::Rename { from: self.spare, to: self.path() },
            Step::SyncDirectory { .. } => IoOp::SyncDirectory(Directory::Wal(self.wal)),
            Step::Close { file } => IoOp::Close(file),
            Step::Remove => IoOp::Remove(self.spare),
            Step::Ready { .. } | Step::NoRoom => return None,
        })
    }

    /// Takes the success of the present step's operation.
    pub(crate) fn handle(&mut self, output: &IoOutput) {
        self.step = match (self.step, output) {
            (Step::Create, IoOutput::File { file, .. }) => Step::Zero { file: *file, done: 0 },
            (Step::Open { written: true }, IoOutput::File { file, .. }) => Step::Sync { file: *file },
            (Step::Open { written: false }, IoOutput::File { file, .. }) => Step::Zero { file: *file, done: 0 },
            (Step::Create | Step::Open { .. }, _) => panic!("the device answers a create with a file"),
            (Step::Zero { file, done }, _) => {
                let done = done + self.zero_chunk_bytes.min(self.segment_bytes - done);
                if done < self.segment_bytes { Step::Zero { file, done } } else { Step::Sync { file } }
            }
            (Step::Sync { file }, _) if self.header.is_none() => Step::Ready { file },
            (Step::Sync { file }, _) => Step::WriteHeader { file },
            (Step::WriteHeader { file }, _) => Step::Rename { file },
            (Step::Rename { file }, _) if planted(Bug::NoDirectorySync) => Step::Ready { file },
            (Step::Rename { file }, _) => Step::SyncDirectory { file },
            (Step::SyncDirectory { file }, _) => Step::Ready { file },
            (Step::Close { .. }, _) => Step::Remove,
            (Step::Remove, _) => Step::NoRoom,
            (Step::Ready { .. } | Step::NoRoom, _) => panic!("nothing is in flight"),
        };
    }

    /// The present step's operation found no room on the disk. Says whether that can be taken back: nothing was made
    /// durable by it that counts.
    pub(crate) fn handle_no_room(&mut self) -> bool {
        self.step = match self.step {
            Step::Create => Step::NoRoom,
            Step::Zero { file, .. } | Step::Sync { file } if self.spare.is_spare() => Step::Close { file },
            Step::Close { .. } | Step::Remove => Step::NoRoom,
            _ => return false,
        };
        true
    }

    /// Whether it was given up for want of room.
    pub(crate) fn found_no_room(&self) -> bool {
        matches!(self.step, Step::Close { .. } | Step::Remove | Step::NoRoom)
    }

    /// Whether it was given up, and everything is taken back.
    pub(crate) fn is_over(&self) -> bool {
        self.step == Step::NoRoom
    }

    /// Whether its next operation writes zeroes, which can wait.
    pub(crate) fn is_zeroing(&self) -> bool {
        matches!(self.step, Step::Zero { .. })
    }

    /// The segment, once it is ready.
    pub(crate) fn ready(&self) -> Option<(&SegmentHeader, FileId)> {
        match self.step {
            Step::Ready { file } => self.header.as_ref().map(|header| (header, file)),
            _ => None,
        }
    }

    /// The file that was only filled, once it is.
    pub(crate) fn filled(&self) -> Option<(FilePath, FileId)> {
        match self.step {
            Step::Ready { file } if self.header.is_none() => Some((self.spare, file)),
            _ => None,
        }
    }

    /// The file's name at the end, for messages.
    pub(crate) fn path(&self) -> FilePath {
        match &self.header {
            Some(header) => FilePath::segment(self.wal, header.number),
            None => self.spare,
        }
    }
}

fn spare(wal: WalId, number: SegmentNumber) -> FilePath {
    FilePath::in_wal(wal, FileName::Spare(number))
}

impl FilePath {
    fn is_spare(&self) -> bool {
        matches!(self.name, FileName::Spare(_))
    }
}
