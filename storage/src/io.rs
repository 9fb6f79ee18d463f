//! Every operation this project ever asks of a disk, as a value. The real device and the simulated one execute the
//! same values, so whatever the log forgets to sync is forgotten by the simulated disk too.

use crate::aligned::AlignedBuf;
use std::fmt;

/// Blocks are written and aligned by this many bytes, whatever the file says of itself.
pub const BLOCK_BYTES: usize = 4096;

/// Names one write-ahead log of a node. Not a core number: a core may one day own another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalId(pub u16);

/// Names one segment of a log; later segments have higher numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentNumber(pub u64);

/// A directory this project writes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Directory {
    /// The node's data directory.
    Root,
    /// The directory of one log.
    Wal(WalId),
}

/// A file this project writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileName {
    /// The node's manifest.
    Manifest,
    /// The manifest's successor, before it is renamed into place.
    ManifestNew,
    /// A segment of the log.
    Segment(SegmentNumber),
    /// A zero-filled file that waits to become that segment.
    Spare(SegmentNumber),
}

/// A file and the directory it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilePath {
    /// The directory.
    pub directory: Directory,
    /// The file in it.
    pub name: FileName,
}

impl FileName {
    /// The segment whose file is called so, if it is one's.
    pub(crate) const fn segment(self) -> Option<SegmentNumber> {
        match self {
            FileName::Segment(number) => Some(number),
            _ => None,
        }
    }
}

impl FilePath {
    /// A file of a log.
    pub(crate) const fn in_wal(wal: WalId, name: FileName) -> FilePath {
        FilePath { directory: Directory::Wal(wal), name }
    }

    /// A log's segment.
    pub(crate) const fn segment(wal: WalId, number: SegmentNumber) -> FilePath {
        FilePath::in_wal(wal, FileName::Segment(number))
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Directory::Root => f.write_str("."),
            Directory::Wal(id) => write!(f, "wal-{}", id.0),
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileName::Manifest => f.write_str("manifest"),
            FileName::ManifestNew => f.write_str("manifest.new"),
            FileName::Segment(n) => write!(f, "segment-{:016}.wal", n.0),
            FileName::Spare(n) => write!(f, "spare-{:016}.wal", n.0),
        }
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.directory {
            Directory::Root => self.name.fmt(f),
            directory => write!(f, "{directory}/{}", self.name),
        }
    }
}

/// An open file of a device. The device numbers them; a number is not used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// Names one operation in flight, so that its completion finds who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId(pub u64);

/// How a write becomes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    /// The completion says nothing about durability.
    Volatile,
    /// One write with RWF_DSYNC: durable when it completes.
    Dsync,
    /// A write and a linked fdatasync: durable when both complete; one completion is reported.
    LinkedSync,
}

/// One operation. Offsets and lengths of reads, writes and zeroing are multiples of [`BLOCK_BYTES`].
#[derive(Debug)]
pub enum IoOp {
    /// Makes a directory (an existing one is fine). Its own entry is durable after a `SyncDirectory` of the root.
    MakeDirectory(Directory),
    /// Lists the files of a directory whose names this project gives.
    List(Directory),
    /// Creates a file that must not exist, for direct I/O. Its entry is durable after a `SyncDirectory`.
    Create(FilePath),
    /// Opens an existing file for direct I/O.
    Open(FilePath),
    /// Closes a file.
    Close(FileId),
    /// Writes the whole buffer at `offset`. The buffer comes back with the completion.
    Write {
        /// The file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// What; its length is a multiple of the block.
        buffer: AlignedBuf,
        /// How it becomes durable.
        mode: WriteMode,
    },
    /// Reads `buffer.len()` bytes at `offset`; a shorter file gives fewer.
    Read {
        /// The file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// Where to; comes back cut to what was read.
        buffer: AlignedBuf,
    },
    /// Writes zeroes (not a hole: the blocks must be written ones).
    Zero {
        /// The file.
        file: FileId,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// Makes a file's data and length durable (fdatasync).
    Sync(FileId),
    /// Renames within one directory, replacing the target. Durable after a `SyncDirectory`.
    Rename {
        /// From.
        from: FilePath,
        /// To.
        to: FilePath,
    },
    /// Removes a file. Durable after a `SyncDirectory`.
    Remove(FilePath),
    /// Makes the names in a directory durable (fsync of the directory).
    SyncDirectory(Directory),
}

impl IoOp {
    /// What an [`IoError`] calls this operation.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            IoOp::MakeDirectory(_) => "make directory",
            IoOp::List(_) => "list",
            IoOp::Create(_) => "create",
            IoOp::Open(_) => "open",
            IoOp::Close(_) => "close",
            IoOp::Write { .. } => "write",
            IoOp::Read { .. } => "read",
            IoOp::Zero { .. } => "zero",
            IoOp::Sync(_) => "sync",
            IoOp::Rename { .. } => "rename",
            IoOp::Remove(_) => "remove",
            IoOp::SyncDirectory(_) => "sync directory",
        }
    }
}

/// What a successful operation gives back.
#[derive(Debug)]
pub enum IoOutput {
    /// Nothing to say.
    Done,
    /// Create, Open: the file and its length in bytes.
    File {
        /// The open file.
        file: FileId,
        /// Its length in bytes.
        len: u64,
    },
    /// Write, Read: the buffer.
    Buffer(AlignedBuf),
    /// List: names and lengths in bytes, sorted by name.
    Names(Vec<(FileName, u64)>),
}

/// A failed operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} failed: {}", std::io::Error::from_raw_os_error(*errno))]
pub struct IoError {
    /// Which operation.
    pub operation: &'static str,
    /// The system's error number.
    pub errno: i32,
}

/// The outcome of an operation.
pub type IoResult = Result<IoOutput, IoError>;

/// A device that executes one operation to its end. Used where blocking is right: opening a node, tools, tests. A
/// running core hands its operations to a driver instead and never blocks.
pub trait Disk {
    /// Executes `op`.
    ///
    /// # Errors
    /// What the system said; the operation may then have happened in part.
    fn execute(&mut self, op: IoOp) -> IoResult;
}
