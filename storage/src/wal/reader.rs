//! Reads one segment through a window, so that recovery holds a bounded part of it in memory.

use super::error::{Place, WalError};
use crate::aligned::AlignedBuf;
use crate::io::{BLOCK_BYTES, Disk, FileId, FilePath, IoError, IoOp, IoOutput};

const EIO: i32 = 5;

/// An open segment under recovery.
pub(crate) struct SegmentReader {
    path: FilePath,
    file: FileId,
    len: u64,
    window_bytes: u64,
    window_offset: u64,
    window: AlignedBuf,
}

impl SegmentReader {
    pub(crate) fn open(disk: &mut dyn Disk, path: FilePath, window_bytes: u64) -> Result<SegmentReader, WalError> {
        match execute(disk, Place::File(path), IoOp::Open(path))? {
            IoOutput::File { file, len } => {
                Ok(SegmentReader { path, file, len, window_bytes, window_offset: 0, window: AlignedBuf::new() })
            }
            _ => panic!("the device answers an open with a file"),
        }
    }

    /// Which file.
    pub(crate) fn path(&self) -> FilePath {
        self.path
    }

    /// Length of the file in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The bytes at `offset`; fewer where the file ends. The caller has bounded `len` by a segment's length.
    pub(crate) fn bytes(&mut self, disk: &mut dyn Disk, offset: u64, len: u64) -> Result<&[u8], WalError> {
        let block = BLOCK_BYTES as u64;
        assert!(offset.is_multiple_of(block), "reads start at blocks");
        let have = self.window_offset..self.window_offset + self.window.len() as u64;
        let wanted_end = (offset + len).min(self.len);
        if !have.contains(&offset) || wanted_end > have.end {
            // What lies behind the end takes no memory, whatever a record claims.
            let rest = self.len.saturating_sub(offset);
            self.fill(disk, offset, len.max(self.window_bytes).min(rest).next_multiple_of(block))?;
        }
        let start = usize::try_from(offset - self.window_offset).expect("the window starts at or before the offset");
        let end = self.window.len().min(start + usize::try_from(len).expect("a segment fits the address space"));
        Ok(&self.window[start.min(end)..end])
    }

    fn fill(&mut self, disk: &mut dyn Disk, offset: u64, len: u64) -> Result<(), WalError> {
        let mut buffer = std::mem::take(&mut self.window);
        buffer.resize(usize::try_from(len).expect("a segment fits the address space"));
        let op = IoOp::Read { file: self.file, offset, buffer };
        match execute(disk, Place::File(self.path), op)? {
            IoOutput::Buffer(buffer) => self.window = buffer,
            _ => panic!("the device answers a read with the buffer"),
        }
        self.window_offset = offset;
        // A read that falls short of the file's end must not look like a log that ends there.
        if (self.window.len() as u64) < len.min(self.len.saturating_sub(offset)) {
            let error = IoError { operation: "read", errno: EIO };
            return Err(WalError::Io { place: Place::File(self.path), error });
        }
        Ok(())
    }

    pub(crate) fn close(self, disk: &mut dyn Disk) -> Result<(), WalError> {
        execute(disk, Place::File(self.path), IoOp::Close(self.file)).map(drop)
    }
}

/// Executes one operation, naming the place if it fails.
pub(crate) fn execute(disk: &mut dyn Disk, place: Place, op: IoOp) -> Result<IoOutput, WalError> {
    disk.execute(op).map_err(|error| WalError::Io { place, error })
}
