//! One operation in flight: what it hands to the ring, what it keeps alive meanwhile, and what its completions mean.

use super::Owner;
use crate::aligned::AlignedBuf;
use crate::io::{BLOCK_BYTES, IoError, WriteMode};
use io_uring::squeue::{self, Flags};
use io_uring::{opcode, types};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Zeroes are written in pieces of this many bytes.
const ZERO_PIECE_BYTES: u64 = 256 << 10;
/// How often an operation that was interrupted is tried again.
const ATTEMPTS_MAX: u32 = 1000;
/// Marks the completion of a linked sync; the rest of the user data is the request's place.
const PART_SYNC: u64 = 1 << 63;

/// An operation in flight.
pub(super) struct Request {
    owner: Owner,
    operation: &'static str,
    step: Step,
    parts_left: u32,
    attempts: u32,
    main: i32,
    sync: i32,
}

/// What is to be done, and the memory the kernel works on until it is done.
pub(super) enum Step {
    Open { directory: RawFd, name: CString, create: bool },
    Close { fd: RawFd },
    Write { fd: RawFd, offset: u64, buffer: AlignedBuf, mode: WriteMode },
    Read { fd: RawFd, offset: u64, buffer: AlignedBuf, done: usize },
    Zero { fd: RawFd, offset: u64, left: u64, piece: AlignedBuf },
    Sync { fd: RawFd, data_only: bool },
    Rename { from_directory: RawFd, from: CString, to_directory: RawFd, to: CString },
    Remove { directory: RawFd, name: CString },
}

/// What a finished operation leaves.
pub(super) enum Outcome {
    Done,
    Buffer(AlignedBuf),
    File { file: File, len: u64 },
}

/// The request a completion belongs to, and whether it is that of a linked sync.
pub(super) fn place_and_part(user_data: u64) -> (usize, bool) {
    let place = usize::try_from(user_data & !PART_SYNC).expect("a place in a vector");
    (place, user_data & PART_SYNC != 0)
}

impl Step {
    pub(super) fn open(directory: RawFd, name: CString, create: bool) -> Step {
        Step::Open { directory, name, create }
    }

    pub(super) fn close(file: File) -> Step {
        Step::Close { fd: file.into_raw_fd() }
    }

    pub(super) fn write(fd: RawFd, offset: u64, buffer: AlignedBuf, mode: WriteMode) -> Step {
        assert_aligned(offset, buffer.len() as u64);
        Step::Write { fd, offset, buffer, mode }
    }

    pub(super) fn read(fd: RawFd, offset: u64, buffer: AlignedBuf) -> Step {
        assert_aligned(offset, buffer.len() as u64);
        Step::Read { fd, offset, buffer, done: 0 }
    }

    pub(super) fn zero(fd: RawFd, offset: u64, len: u64) -> Step {
        assert_aligned(offset, len);
        let piece = usize::try_from(len.min(ZERO_PIECE_BYTES)).expect("a piece fits memory");
        Step::Zero { fd, offset, left: len, piece: AlignedBuf::zeroed(piece) }
    }

    pub(super) fn sync(fd: RawFd, data_only: bool) -> Step {
        Step::Sync { fd, data_only }
    }

    pub(super) fn rename(from_directory: RawFd, from: CString, to_directory: RawFd, to: CString) -> Step {
        Step::Rename { from_directory, from, to_directory, to }
    }

    pub(super) fn remove(directory: RawFd, name: CString) -> Step {
        Step::Remove { directory, name }
    }
}

fn assert_aligned(offset: u64, len: u64) {
    let block = BLOCK_BYTES as u64;
    assert!(offset.is_multiple_of(block) && len.is_multiple_of(block) && len > 0, "direct I/O works on whole blocks");
}

impl Request {
    pub(super) fn new(owner: Owner, operation: &'static str, step: Step) -> Request {
        Request { owner, operation, step, parts_left: 0, attempts: 0, main: 0, sync: 0 }
    }

    /// The ring entries of the next part.
    pub(super) fn entries(&mut self, place: u64) -> [Option<squeue::Entry>; 2] {
        (self.main, self.sync) = (0, 0);
        if let Step::Write { fd, offset, buffer, mode } = &self.step {
            let (mode, write) = (*mode, write_entry(*fd, *offset, buffer, *mode).user_data(place));
            if mode != WriteMode::LinkedSync {
                self.parts_left = 1;
                return [Some(write), None];
            }
            // Linked: the sync starts when the write ended, and is cancelled if that failed or fell short.
            let sync = sync_entry(*fd, true).user_data(place | PART_SYNC);
            self.parts_left = 2;
            return [Some(write.flags(Flags::IO_LINK)), Some(sync)];
        }
        let entry = match &mut self.step {
            Step::Open { directory, name, create } => {
                let create = if *create { libc::O_CREAT | libc::O_EXCL } else { 0 };
                let flags = libc::O_RDWR | libc::O_DIRECT | libc::O_CLOEXEC | create;
                opcode::OpenAt::new(types::Fd(*directory), name.as_ptr()).flags(flags).mode(0o644).build()
            }
            Step::Close { fd } => opcode::Close::new(types::Fd(*fd)).build(),
            Step::Write { .. } => unreachable!("taken above"),
            Step::Read { fd, offset, buffer, done } => {
                let (at, rest) = (*offset + *done as u64, &mut buffer[*done..]);
                opcode::Read::new(types::Fd(*fd), rest.as_mut_ptr(), io_len(rest.len())).offset(at).build()
            }
            Step::Zero { fd, offset, left, piece } => {
                let len = io_len(piece.len()).min(u32::try_from(*left).unwrap_or(u32::MAX));
                opcode::Write::new(types::Fd(*fd), piece.as_ptr(), len).offset(*offset).build()
            }
            Step::Sync { fd, data_only } => sync_entry(*fd, *data_only),
            Step::Rename { from_directory, from, to_directory, to } => {
                let (from_fd, to_fd) = (types::Fd(*from_directory), types::Fd(*to_directory));
                opcode::RenameAt::new(from_fd, from.as_ptr(), to_fd, to.as_ptr()).build()
            }
            Step::Remove { directory, name } => opcode::UnlinkAt::new(types::Fd(*directory), name.as_ptr()).build(),
        };
        self.parts_left = 1;
        [Some(entry.user_data(place)), None]
    }

    /// Bytes the part in flight moves if it succeeds.
    fn expected(&self) -> usize {
        match &self.step {
            Step::Write { buffer, .. } => buffer.len(),
            Step::Zero { left, piece, .. } => usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len()),
            _ => 0,
        }
    }

    /// Takes one completion. True when it was the last of this part.
    pub(super) fn handle(&mut self, sync_part: bool, result: i32) -> bool {
        if sync_part {
            self.sync = result;
        } else {
            self.main = result;
        }
        self.parts_left -= 1;
        self.parts_left == 0
    }

    /// The outcome, or `Err` with the request itself if it has to go on.
    pub(super) fn finish(mut self) -> Result<(Owner, Result<Outcome, IoError>), Request> {
        let (owner, operation) = (self.owner, self.operation);
        let errno = match (self.main, self.sync) {
            (main, _) if main < 0 => -main,
            (main, _) if self.falls_short(main) => libc::EIO,
            (_, sync) if sync < 0 => -sync,
            _ => 0,
        };
        // A close that was interrupted has closed the file all the same; a second one could hit another. A sync is never
        // tried again, its own or the one linked to a write: the first may have dropped what it could not write.
        let repeatable = self.main < 0 && !matches!(self.step, Step::Close { .. } | Step::Sync { .. });
        if matches!(errno, libc::EINTR | libc::EAGAIN) && repeatable && self.attempts < ATTEMPTS_MAX {
            self.attempts += 1;
            return Err(self);
        }
        if errno != 0 {
            return Ok((owner, Err(IoError { operation, errno })));
        }
        if self.goes_on() {
            return Err(self);
        }
        let outcome = outcome(self.step, self.main).map_err(|errno| IoError { operation, errno });
        Ok((owner, outcome))
    }

    /// A short write left an unknown part undone; it is an error, never continued.
    fn falls_short(&self, moved: i32) -> bool {
        matches!(self.step, Step::Write { .. } | Step::Zero { .. }) && moved as usize != self.expected()
    }

    /// Notes what a part did. True if there is more to do.
    fn goes_on(&mut self) -> bool {
        let moved = usize::try_from(self.main).expect("errors were taken before");
        match &mut self.step {
            Step::Zero { offset, left, .. } => {
                *offset += moved as u64;
                *left -= moved as u64;
                *left > 0
            }
            Step::Read { buffer, done, .. } => {
                *done += moved;
                // A read ends at the file's end only when it says so, by nothing or by part of a block.
                *done < buffer.len() && moved > 0 && moved.is_multiple_of(BLOCK_BYTES)
            }
            _ => false,
        }
    }
}

fn outcome(step: Step, result: i32) -> Result<Outcome, i32> {
    match step {
        Step::Open { .. } => {
            // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
            let file = File::from(unsafe { OwnedFd::from_raw_fd(result) });
            let len = file.metadata().map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))?.len();
            Ok(Outcome::File { file, len })
        }
        Step::Write { buffer, .. } => Ok(Outcome::Buffer(buffer)),
        Step::Read { mut buffer, done, .. } => {
            buffer.truncate(done);
            Ok(Outcome::Buffer(buffer))
        }
        _ => Ok(Outcome::Done),
    }
}

fn write_entry(fd: RawFd, offset: u64, buffer: &AlignedBuf, mode: WriteMode) -> squeue::Entry {
    let write = opcode::Write::new(types::Fd(fd), buffer.as_ptr(), io_len(buffer.len())).offset(offset);
    let write = if mode == WriteMode::Dsync { write.rw_flags(libc::RWF_DSYNC) } else { write };
    write.build()
}

fn sync_entry(fd: RawFd, data_only: bool) -> squeue::Entry {
    let flags = if data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
    opcode::Fsync::new(types::Fd(fd)).flags(flags).build()
}

fn io_len(len: usize) -> u32 {
    u32::try_from(len).expect("a buffer is smaller than 4 GiB")
}
