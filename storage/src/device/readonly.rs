//! A disk that only looks: for tools, on a directory whose node may be running.
//!
//! It lists directories, and opens, reads and closes files; whatever would change something is refused. It takes no lock,
//! makes nothing durable, and needs no io_uring. Reads go past the page cache where the file system can, so that they
//! tell what the disk holds and leave a running node its cache.

use super::names;
use crate::io::{Directory, Disk, FileId, FileName, FilePath, IoError, IoOp, IoOutput, IoResult};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// The files below one directory, to be read.
#[derive(Debug)]
pub struct ReadOnlyDisk {
    root: PathBuf,
    files: BTreeMap<FileId, File>,
    next_file: u32,
    read: u64,
}

impl ReadOnlyDisk {
    /// A disk of the files below `root`. Nothing is looked at yet.
    #[must_use]
    pub fn new(root: PathBuf) -> ReadOnlyDisk {
        ReadOnlyDisk { root, files: BTreeMap::new(), next_file: 0, read: 0 }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read
    }

    fn path(&self, directory: Directory) -> PathBuf {
        match directory {
            Directory::Root => self.root.clone(),
            Directory::Wal(_) => self.root.join(directory.to_string()),
        }
    }

    fn list(&self, directory: Directory) -> io::Result<Vec<(FileName, u64)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.path(directory))? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().and_then(names::parse) else { continue };
            match entry.metadata() {
                Ok(metadata) => found.push((name, metadata.len())),
                // A running node renames and removes files.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        found.sort_unstable_by_key(|(name, _)| *name);
        Ok(found)
    }

    fn open(&mut self, path: FilePath) -> io::Result<IoOutput> {
        let name = self.path(path.directory).join(path.name.to_string());
        let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&name);
        let file = match direct {
            // This file system has no direct reads.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => File::open(&name)?,
            opened => opened?,
        };
        let len = file.metadata()?.len();
        let id = FileId(self.next_file);
        self.next_file = self.next_file.checked_add(1).ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))?;
        self.files.insert(id, file);
        Ok(IoOutput::File { file: id, len })
    }

    fn read(&mut self, file: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let file = self.files.get(&file).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        let mut done = 0;
        while done < buffer.len() {
            match file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                // A direct read that falls short of a block is at the file's end, and its rest can't be asked for.
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if done > 0 && error.raw_os_error() == Some(libc::EINVAL) => break,
                Err(error) => return Err(error),
            }
        }
        self.read += done as u64;
        Ok(done)
    }
}

impl Disk for ReadOnlyDisk {
    fn execute(&mut self, op: IoOp) -> IoResult {
        let operation = op.name();
        let done = match op {
            IoOp::List(directory) => self.list(directory).map(IoOutput::Names),
            IoOp::Open(path) => self.open(path),
            IoOp::Close(file) => {
                let known = self.files.remove(&file).map(|_| IoOutput::Done);
                known.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
            }
            IoOp::Read { file, offset, mut buffer } => self.read(file, offset, &mut buffer).map(|read| {
                buffer.truncate(read);
                IoOutput::Buffer(buffer)
            }),
            IoOp::MakeDirectory(_)
            | IoOp::Create(_)
            | IoOp::Write { .. }
            | IoOp::Zero { .. }
            | IoOp::Sync(_)
            | IoOp::Rename { .. }
            | IoOp::Remove(_)
            | IoOp::SyncDirectory(_) => Err(io::Error::from_raw_os_error(libc::EROFS)),
        };
        done.map_err(|error| IoError { operation, errno: error.raw_os_error().unwrap_or(libc::EIO) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aligned::AlignedBuf;
    use crate::io::{BLOCK_BYTES, SegmentNumber, WalId, WriteMode};

    const WAL: Directory = Directory::Wal(WalId(0));

    fn path(number: u64) -> FilePath {
        FilePath { directory: WAL, name: FileName::Segment(SegmentNumber(number)) }
    }

    #[test]
    fn it_reads_what_is_there_and_changes_nothing() {
        let root = tempfile::tempdir_in(".").unwrap();
        std::fs::create_dir(root.path().join("wal-0")).unwrap();
        // The end of a file need not be that of a block.
        let bytes = vec![7; BLOCK_BYTES + 100];
        std::fs::write(root.path().join(path(1).to_string()), &bytes).unwrap();
        std::fs::write(root.path().join("wal-0/other"), b"").unwrap();
        let mut disk = ReadOnlyDisk::new(root.path().to_owned());
        let listed = disk.execute(IoOp::List(WAL)).unwrap();
        assert!(matches!(listed, IoOutput::Names(names) if names == [(path(1).name, bytes.len() as u64)]));
        let Ok(IoOutput::File { file, len }) = disk.execute(IoOp::Open(path(1))) else { panic!("it is there") };
        assert_eq!(len, bytes.len() as u64);
        let buffer = AlignedBuf::zeroed(3 * BLOCK_BYTES);
        let read = disk.execute(IoOp::Read { file, offset: 0, buffer }).unwrap();
        assert!(matches!(read, IoOutput::Buffer(buffer) if buffer[..] == bytes[..]));
        let buffer = AlignedBuf::zeroed(BLOCK_BYTES);
        for op in [
            IoOp::MakeDirectory(Directory::Wal(WalId(1))),
            IoOp::Create(path(2)),
            IoOp::Write { file, offset: 0, buffer, mode: WriteMode::Dsync },
            IoOp::Zero { file, offset: 0, len: BLOCK_BYTES as u64 },
            IoOp::Sync(file),
            IoOp::Rename { from: path(1), to: path(2) },
            IoOp::Remove(path(1)),
            IoOp::SyncDirectory(WAL),
        ] {
            assert_eq!(disk.execute(op).unwrap_err().errno, libc::EROFS);
        }
        disk.execute(IoOp::Close(file)).unwrap();
        assert_eq!(disk.execute(IoOp::Close(file)).unwrap_err().errno, libc::EBADF);
        assert_eq!(disk.execute(IoOp::Open(path(3))).unwrap_err().errno, libc::ENOENT);
        assert_eq!(std::fs::read(root.path().join(path(1).to_string())).unwrap(), bytes);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
