//! Making a segment, step by step: each step is one operation, and the next one is formed only when it succeeded.
//!
//! The order is a durability rule. Zeroes and length are durable before the header is written, and the header before
//! the file gets a segment's name; the name is durable before a batch is written. So a named segment always had a valid
//! header and its full length, and anything else under such a name is damage.

use crate::aligned::AlignedBuf;
use crate::format::segment::{BATCHES_OFFSET, SegmentHeader};
use crate::io::{Directory, FileId, FileName, FilePath, IoOp, IoOutput, WriteMode};
use raftyard_raft::planted::{Bug, planted};

/// A segment in the making.
#[derive(Debug)]
pub(crate) struct Preparation {
    header: SegmentHeader,
    zero_chunk_bytes: u64,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Zero { file: FileId, done: u64 },
    Sync { file: FileId },
    WriteHeader { file: FileId },
    Rename { file: FileId },
    SyncDirectory { file: FileId },
    Ready { file: FileId },
}

impl Preparation {
    pub(crate) fn new(header: SegmentHeader, zero_chunk_bytes: u64) -> Preparation {
        Preparation { header, zero_chunk_bytes, step: Step::Create }
    }

    /// The operation of the present step; `None` when the segment is ready.
    pub(crate) fn op(&self) -> Option<IoOp> {
        Some(match self.step {
            Step::Create => IoOp::Create(self.spare()),
            Step::Zero { file, done } => {
                let len = self.zero_chunk_bytes.min(self.header.segment_bytes - done);
                IoOp::Zero { file, offset: done, len }
            }
            Step::Sync { file } => IoOp::Sync(file),
            Step::WriteHeader { file } => {
                let mut buffer = AlignedBuf::zeroed(BATCHES_OFFSET as usize);
                self.header.encode(&mut buffer);
                IoOp::Write { file, offset: 0, buffer, mode: WriteMode::Dsync }
            }
            Step::Rename { .. } => IoOp::Rename { from: self.spare(), to: self.path() },
            Step::SyncDirectory { .. } => IoOp::SyncDirectory(Directory::Wal(self.header.wal)),
            Step::Ready { .. } => return None,
        })
    }

    /// Takes the success of the present step's operation.
    pub(crate) fn handle(&mut self, output: &IoOutput) {
        self.step = match (self.step, output) {
            (Step::Create, IoOutput::File { file, .. }) => Step::Zero { file: *file, done: 0 },
            (Step::Create, _) => panic!("the device answers a create with a file"),
            (Step::Zero { file, done }, _) => {
                let done = done + self.zero_chunk_bytes.min(self.header.segment_bytes - done);
                if done < self.header.segment_bytes { Step::Zero { file, done } } else { Step::Sync { file } }
            }
            (Step::Sync { file }, _) => Step::WriteHeader { file },
            (Step::WriteHeader { file }, _) => Step::Rename { file },
            (Step::Rename { file }, _) if planted(Bug::NoDirectorySync) => Step::Ready { file },
            (Step::Rename { file }, _) => Step::SyncDirectory { file },
            (Step::SyncDirectory { file }, _) => Step::Ready { file },
            (Step::Ready { .. }, _) => panic!("a ready segment has nothing in flight"),
        };
    }

    /// Bytes of zeroes written so far, if that is what it is at.
    pub(crate) fn zeroing(&self) -> Option<u64> {
        match self.step {
            Step::Zero { done, .. } => Some(done),
            _ => None,
        }
    }

    /// The segment, once it is ready.
    pub(crate) fn ready(&self) -> Option<(&SegmentHeader, FileId)> {
        match self.step {
            Step::Ready { file } => Some((&self.header, file)),
            _ => None,
        }
    }

    /// The segment's name to be.
    pub(crate) fn path(&self) -> FilePath {
        self.file(FileName::Segment(self.header.number))
    }

    fn spare(&self) -> FilePath {
        self.file(FileName::Spare(self.header.number))
    }

    fn file(&self, name: FileName) -> FilePath {
        FilePath { directory: Directory::Wal(self.header.wal), name }
    }
}
