//! The files of a log's segments: which there are, which are open, which are being read, which are free.
//!
//! It must never give up a file that is being read or that a batch may still name.

use crate::io::{FileId, FilePath, SegmentNumber, WalId};
use std::collections::BTreeMap;

/// How a segment's file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handle {
    Closed,
    Opening,
    Open(FileId),
}

/// One segment's file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SegmentFile {
    pub(crate) handle: Handle,
    /// Its length in bytes.
    pub(crate) bytes: u64,
    /// Reads that are in flight or wait for it to be open.
    pub(crate) reads: u32,
}

/// A file of a segment's length that counts no more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Free {
    pub(crate) path: FilePath,
    /// Whether all its blocks are written ones, durably. Of a spare file that an earlier process made nobody knows: a sync
    /// that failed then may have left holes that a later one does not report.
    pub(crate) written: bool,
}

/// All of a log's segments, and the files that are none any more.
#[derive(Debug, Default)]
pub(crate) struct Files {
    segments: BTreeMap<u32, SegmentFile>,
    /// Bytes of all of them, kept because it is asked for at every batch.
    bytes: u64,
    /// Files of a segment's length that count no more, to become segments again.
    pub(crate) free: Vec<Free>,
}

impl Files {
    pub(crate) fn add(&mut self, number: SegmentNumber, handle: Handle, bytes: u64) {
        let before = self.segments.insert(short(number), SegmentFile { handle, bytes, reads: 0 });
        self.bytes = self.bytes + bytes - before.map_or(0, |file| file.bytes);
    }

    pub(crate) fn get(&self, segment: u32) -> Option<SegmentFile> {
        self.segments.get(&segment).copied()
    }

    pub(crate) fn get_mut(&mut self, segment: u32) -> Option<&mut SegmentFile> {
        self.segments.get_mut(&segment)
    }

    /// The segment with the lowest number.
    pub(crate) fn oldest(&self) -> Option<u32> {
        self.segments.keys().next().copied()
    }

    /// The segment after that one.
    pub(crate) fn after(&self, segment: u32) -> Option<u32> {
        self.segments.range(segment + 1..).next().map(|(number, _)| *number)
    }

    pub(crate) fn remove(&mut self, segment: u32) -> Option<SegmentFile> {
        let removed = self.segments.remove(&segment)?;
        self.bytes -= removed.bytes;
        Some(removed)
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Segments are numbered from one, and no log reaches 2^32 of them: at 64 MiB each that is 256 exabytes. Opening checks it.
pub(crate) fn short(number: SegmentNumber) -> u32 {
    u32::try_from(number.0).expect("checked when the log was opened, and it makes no 2^31 segments while it runs")
}

pub(crate) fn path(wal: WalId, segment: u32) -> FilePath {
    FilePath::segment(wal, SegmentNumber(u64::from(segment)))
}
