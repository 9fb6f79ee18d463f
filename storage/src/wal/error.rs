//! Why a log can't be opened, and why a running one failed.

use super::config::WalConfigError;
use crate::format::record::RecordFault;
use crate::format::{BatchSeq, FORMAT_VERSION, FORMAT_VERSION_OLDEST, Writer};
use crate::io::{Directory, FilePath, IoError, WalId};
use std::fmt;

/// Why a log was not opened. Nothing that was in it is lost by that.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    /// A setting is out of its range.
    #[error(transparent)]
    Config(#[from] WalConfigError),
    /// The disk refused an operation.
    #[error("{place}: {error}")]
    Io {
        /// On what.
        place: Place,
        /// What the system said.
        error: IoError,
    },
    /// A write failed while it opened.
    #[error("the log failed while it opened: {0}")]
    Failed(WalFailure),
    /// The manifest names this log, and it is not there.
    #[error(
        "{}: the manifest names this log, but it has no segment; put its directory back, or start this node with an \
         empty data directory and a new node id", Directory::Wal(*.wal)
    )]
    Missing {
        /// The log.
        wal: WalId,
    },
    /// The log holds groups, and there is no manifest.
    #[error(
        "{}: the log holds groups, but the data directory has no manifest; put the manifest back",
        Directory::Wal(*.wal)
    )]
    ManifestLost {
        /// The log.
        wal: WalId,
    },
    /// What was once durable can't be read any more, and nothing says whose it was.
    #[error("{file} at byte {offset}: batch {sequence} was durable and is damaged")]
    Damaged {
        /// The segment.
        file: FilePath,
        /// Where the batch should start, in bytes.
        offset: u64,
        /// Its sequence.
        sequence: BatchSeq,
    },
    /// A record that was there when the log was read can't be read any more.
    #[error("{file} at byte {offset}: the record with entry {index} is damaged")]
    Unreadable {
        /// The segment.
        file: FilePath,
        /// Where the record should start, in bytes.
        offset: u64,
        /// Its first entry.
        index: raftyard_raft::LogIndex,
    },
    /// Both copies of a segment's header are damaged.
    #[error("{file}: both copies of the segment header (bytes 0 and 4096) are damaged")]
    HeaderDamaged {
        /// The segment.
        file: FilePath,
    },
    /// A segment is of another length than its header says; a crash can't do that.
    #[error("{file} has {bytes} bytes, its header says {expected}: the file was cut or replaced")]
    Length {
        /// The segment.
        file: FilePath,
        /// Its length in bytes.
        bytes: u64,
        /// What it should be.
        expected: u64,
    },
    /// A segment that a later one continues is gone.
    #[error("{file} is missing; {named_by} continues it")]
    SegmentMissing {
        /// The missing segment.
        file: FilePath,
        /// The segment that names it.
        named_by: FilePath,
    },
    /// A file is not the segment its name says.
    #[error("{file} holds the header of another segment or log: files were moved")]
    Misplaced {
        /// The file.
        file: FilePath,
    },
    /// Written by another version.
    #[error(
        "{file}: format version {version}, written by {writer}; this is {this}, which reads versions {oldest} to \
         {newest}: start {writer} or a later one", this = Writer::this(), oldest = FORMAT_VERSION_OLDEST,
        newest = FORMAT_VERSION
    )]
    UnknownVersion {
        /// The file.
        file: FilePath,
        /// The version found.
        version: u16,
        /// Who wrote it.
        writer: Writer,
    },
    /// A whole batch says what can't be.
    #[error("{file} at byte {offset}: batch {sequence} is whole but makes no sense: {fault}")]
    Malformed {
        /// The file.
        file: FilePath,
        /// Where the batch starts, in bytes.
        offset: u64,
        /// Its sequence.
        sequence: BatchSeq,
        /// What is wrong.
        fault: RecordFault,
    },
    /// The numbers of segments or batches are used up, which no log reaches by counting.
    #[error("{}: its numbers are used up", Directory::Wal(*.wal))]
    Exhausted {
        /// The log.
        wal: WalId,
    },
}

/// What an operation was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory.
    Directory(Directory),
    /// A file.
    File(FilePath),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Directory(directory) => directory.fmt(f),
            Place::File(file) => file.fmt(f),
        }
    }
}

/// Why a running log takes nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {error}")]
pub struct WalFailure {
    /// The file of the first failed operation.
    pub file: FilePath,
    /// What the system said.
    pub error: IoError,
}
