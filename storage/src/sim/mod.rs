//! A disk in memory that forgets at a crash what was not synced.
//!
//! Owns the files, their names, and which of both are durable. It executes the same operations as the real device, at
//! once ([`Disk`]) or in two steps ([`SimDisk::submit`], [`SimDisk::complete`]) so that a simulator chooses when and in
//! which order operations end. It holds no randomness of its own: a crash asks its caller's. The simulator calls it, and
//! the tests of the log.
//!
//! The contract at a power failure ([`SimDisk::crash`]): of everything written since it was last synced, each sector of
//! [`SECTOR_BYTES`] is there or not, independently; of every creation, renaming and removal since the directory was last
//! synced, each happened or not; of a write in flight, any sectors. What was synced is there. A killed process
//! ([`SimDisk::kill`]) loses nothing that completed, but nothing becomes durable by that either.

mod file;
mod names;

use crate::io::{Directory, Disk, FileId, FilePath, IoError, IoId, IoOp, IoOutput, IoResult, WriteMode};
use file::SimFile;
use names::Names;
use std::collections::BTreeMap;

/// What a power failure keeps or loses as a whole.
pub const SECTOR_BYTES: usize = 512;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EBADF: i32 = 9;

/// A simulated disk with the files of one node.
#[derive(Debug, Default)]
pub struct SimDisk {
    files: BTreeMap<Inode, SimFile>,
    names: Names,
    open: BTreeMap<FileId, Inode>,
    in_flight: Vec<(IoId, IoOp)>,
    next_inode: u64,
    next_file: u32,
    executed: u64,
    faults: Vec<Fault>,
    durability_off: bool,
    /// Bytes of all files together, at most.
    capacity: Option<u64>,
}

/// Names a file's content, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode(u64);

#[derive(Clone, Copy, Debug)]
struct Fault {
    target: FaultTarget,
    /// How many operations that match are still let through.
    after: u64,
    errno: i32,
}

/// Which operations a fault may hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultTarget {
    /// Any.
    Any,
    /// Writes and zeroing.
    Write,
    /// Syncs of files.
    Sync,
    /// Syncs of directories.
    SyncDirectory,
}

impl FaultTarget {
    fn hits(self, op: &IoOp) -> bool {
        match self {
            FaultTarget::Any => true,
            FaultTarget::Write => matches!(op, IoOp::Write { .. } | IoOp::Zero { .. }),
            FaultTarget::Sync => matches!(op, IoOp::Sync(_)),
            FaultTarget::SyncDirectory => matches!(op, IoOp::SyncDirectory(_)),
        }
    }
}

impl SimDisk {
    /// An empty disk; its root directory exists.
    #[must_use]
    pub fn new() -> SimDisk {
        SimDisk::default()
    }

    /// Takes an operation; nothing of it is visible until [`SimDisk::complete`].
    pub fn submit(&mut self, id: IoId, op: IoOp) {
        self.in_flight.push((id, op));
    }

    /// The operations in flight, oldest first.
    pub fn in_flight(&self) -> impl Iterator<Item = IoId> + '_ {
        self.in_flight.iter().map(|(id, _)| *id)
    }

    /// Executes an operation in flight and gives its outcome.
    ///
    /// # Panics
    /// If no operation of that id is in flight.
    pub fn complete(&mut self, id: IoId) -> IoResult {
        let place = self.in_flight.iter().position(|(known, _)| *known == id);
        let (_, op) = self.in_flight.remove(place.expect("only what is in flight completes"));
        self.execute(op)
    }

    /// A power failure. Each call of `random` decides one question by the lowest bit of its answer.
    pub fn crash(&mut self, random: &mut impl FnMut() -> u64) {
        let mut keep = || random() & 1 == 1;
        for (_, op) in std::mem::take(&mut self.in_flight) {
            self.begin(op);
        }
        self.names.crash(&mut keep);
        for file in self.files.values_mut() {
            file.crash(&mut keep);
        }
        self.open.clear();
        let named = self.names.inodes();
        self.files.retain(|inode, _| named.contains(inode));
    }

    /// The process ends and the power stays: what completed is still there to be read, and still not durable. Of what
    /// is in flight each operation happens or not, writes by the sector.
    pub fn kill(&mut self, random: &mut impl FnMut() -> u64) {
        let mut keep = || random() & 1 == 1;
        for (_, op) in std::mem::take(&mut self.in_flight) {
            match op {
                IoOp::Write { file, offset, buffer, .. } => self.write_some(file, offset, &buffer, &mut keep),
                IoOp::Zero { file, offset, len } => {
                    let zeroes = vec![0; usize::try_from(len).expect("a simulated file fits memory")];
                    self.write_some(file, offset, &zeroes, &mut keep);
                }
                op => {
                    if keep() {
                        self.begin(op);
                    }
                }
            }
        }
        self.open.clear();
    }

    /// Lets the `after`-th operation from now on (0: the next) that `target` hits fail with `errno`, once. A failed
    /// write may have reached any of its sectors. What a failed sync should have made durable never becomes so by a
    /// later sync: the system has forgotten that it was dirty.
    pub fn inject_fault(&mut self, target: FaultTarget, after: u64, errno: i32) {
        self.faults.push(Fault { target, after, errno });
    }

    /// Forgets every fault that was injected and has not struck.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// From now on no sync and no durable write makes anything durable: a disk that lies. Tests use it to see that
    /// they would notice.
    pub fn turn_durability_off(&mut self) {
        self.durability_off = true;
    }

    /// From now on files take this many bytes together, at most; what would make one longer than that finds no room.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity = Some(bytes);
    }

    /// Bytes that files take together: those with a name, and those that are open.
    #[must_use]
    pub fn used(&self) -> u64 {
        let mut counted = self.names.inodes();
        counted.extend(self.open.values());
        counted.iter().filter_map(|inode| self.files.get(inode)).map(|file| file.content().len() as u64).sum()
    }

    /// Whether a file may reach to `end`.
    fn make_room(&mut self, file: FileId, end: u64) -> Result<(), i32> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let more = end.saturating_sub(self.file(file)?.content().len() as u64);
        if more == 0 || self.used() + more <= capacity { Ok(()) } else { Err(ENOSPC) }
    }

    /// How many operations were executed so far.
    #[must_use]
    pub fn executed(&self) -> u64 {
        self.executed
    }

    /// The files of a directory, as a reader sees them now.
    #[must_use]
    pub fn paths(&self, directory: Directory) -> Vec<FilePath> {
        let names = self.names.list(directory).unwrap_or_default();
        names.into_iter().map(|(name, _)| FilePath { directory, name }).collect()
    }

    /// The content of a file, as a reader sees it now.
    #[must_use]
    pub fn content(&self, path: FilePath) -> Option<&[u8]> {
        let inode = self.names.find(path)?;
        self.files.get(&inode).map(SimFile::content)
    }

    /// Changes a file behind the log's back, durably: rot, a flipped bit, a cut.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage(&mut self, path: FilePath, change: impl FnMut(&mut Vec<u8>)) {
        let inode = self.names.find(path).expect("the file to damage exists");
        self.files.get_mut(&inode).expect("a named file has content").damage(change);
    }

    fn fault(&mut self, op: &IoOp) -> Option<i32> {
        let mut due = None;
        for (place, fault) in self.faults.iter_mut().enumerate() {
            if !fault.target.hits(op) {
                continue;
            }
            if fault.after == 0 && due.is_none() {
                due = Some(place);
            } else {
                fault.after = fault.after.saturating_sub(1);
            }
        }
        due.map(|place| self.faults.remove(place).errno)
    }

    fn fail(&mut self, op: IoOp, errno: i32) {
        match op {
            IoOp::Write { file, offset, buffer, .. } => {
                if let Ok(file) = self.file(file) {
                    file.write_doomed(offset, &buffer);
                }
            }
            IoOp::Sync(file) => {
                if let Ok(file) = self.file(file) {
                    file.doom();
                }
            }
            _ => tracing::trace!(errno, "a simulated operation failed without effect"),
        }
    }

    /// The effect of an operation that began and never ended: nothing of it is durable.
    fn begin(&mut self, op: IoOp) {
        match op {
            IoOp::Write { file, offset, buffer, .. } => {
                if let Ok(file) = self.file(file) {
                    file.write(offset, &buffer);
                }
            }
            IoOp::Sync(_) | IoOp::SyncDirectory(_) => {}
            op => drop(self.perform(op)),
        }
    }

    fn write_some(&mut self, file: FileId, offset: u64, bytes: &[u8], keep: &mut impl FnMut() -> bool) {
        let Ok(file) = self.file(file) else { return };
        for (place, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            if keep() {
                file.write(offset + (place * SECTOR_BYTES) as u64, sector);
            }
        }
    }

    fn file(&mut self, file: FileId) -> Result<&mut SimFile, i32> {
        let inode = self.open.get(&file).ok_or(EBADF)?;
        self.files.get_mut(inode).ok_or(EBADF)
    }

    fn open_file(&mut self, inode: Inode) -> IoOutput {
        let file = FileId(self.next_file);
        self.next_file += 1;
        self.open.insert(file, inode);
        IoOutput::File { file, len: self.files.get(&inode).map_or(0, |f| f.content().len() as u64) }
    }

    fn perform(&mut self, op: IoOp) -> Result<IoOutput, i32> {
        match op {
            IoOp::MakeDirectory(directory) => self.names.make_directory(directory),
            IoOp::List(directory) => return self.list(directory),
            IoOp::Create(path) => {
                let inode = Inode(self.next_inode);
                self.names.create(path, inode)?;
                self.next_inode += 1;
                self.files.insert(inode, SimFile::default());
                return Ok(self.open_file(inode));
            }
            IoOp::Open(path) => {
                let inode = self.names.find(path).ok_or(ENOENT)?;
                return Ok(self.open_file(inode));
            }
            IoOp::Close(file) => drop(self.open.remove(&file).ok_or(EBADF)?),
            IoOp::Write { file, offset, buffer, mode } => {
                let durable = mode != WriteMode::Volatile && !self.durability_off;
                self.make_room(file, offset + buffer.len() as u64)?;
                let target = self.file(file)?;
                target.write(offset, &buffer);
                match (durable, mode) {
                    (true, WriteMode::LinkedSync) => target.sync(),
                    (true, _) => target.sync_range(offset, buffer.len()),
                    (false, _) => {}
                }
                return Ok(IoOutput::Buffer(buffer));
            }
            IoOp::Read { file, offset, mut buffer } => {
                let read = self.file(file)?.read(offset, &mut buffer);
                buffer.truncate(read);
                return Ok(IoOutput::Buffer(buffer));
            }
            IoOp::Zero { file, offset, len } => {
                self.make_room(file, offset.saturating_add(len))?;
                let zeroes = vec![0; usize::try_from(len).map_err(|_| EIO)?];
                self.file(file)?.write(offset, &zeroes);
            }
            IoOp::Sync(file) => {
                let off = self.durability_off;
                let file = self.file(file)?;
                if !off {
                    file.sync();
                }
            }
            IoOp::Rename { from, to } => self.names.rename(from, to)?,
            IoOp::Remove(path) => self.names.remove(path)?,
            IoOp::SyncDirectory(directory) => {
                if !self.durability_off {
                    self.names.sync(directory)?;
                }
            }
        }
        Ok(IoOutput::Done)
    }

    fn list(&self, directory: Directory) -> Result<IoOutput, i32> {
        let names = self.names.list(directory).ok_or(ENOENT)?;
        let len = |inode| self.files.get(&inode).map_or(0, |f| f.content().len() as u64);
        Ok(IoOutput::Names(names.into_iter().map(|(name, inode)| (name, len(inode))).collect()))
    }
}

impl Disk for SimDisk {
    fn execute(&mut self, op: IoOp) -> IoResult {
        let operation = op.name();
        self.executed += 1;
        if let Some(errno) = self.fault(&op) {
            self.fail(op, errno);
            return Err(IoError { operation, errno });
        }
        self.perform(op).map_err(|errno| IoError { operation, errno })
    }
}
