//! The device alone: writes of one size, so many at a time, with no log above them. What a log's latency is compared
//! with, and what tells which way of writing suits a machine.
//!
//! Owns a file without a name, so that nothing of it can stay behind, however the process ends. A tool calls it; no node
//! does.

use crate::aligned::AlignedBuf;
use crate::io::{BLOCK_BYTES, WriteMode};
use io_uring::squeue::{self, Flags};
use io_uring::{IoUring, cqueue, opcode, types};
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Most writes in flight.
pub const RAW_DEPTH_MAX: usize = 64;
/// The file is zero-filled in pieces of this many bytes.
const ZERO_PIECE_BYTES: usize = 1 << 20;
/// f_type of statfs(2).
const MEMORY_FILESYSTEMS: [(libc::__fsword_t, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];
/// Marks the completion of a linked sync; the rest of the user data is the write's place.
const PART_SYNC: u64 = 1 << 63;
/// How often a submission is tried again while the kernel is short of something.
const SUBMIT_ATTEMPTS_MAX: usize = 10_000;

/// One way to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawWrites {
    /// Bytes of each write; a multiple of the block.
    pub bytes: usize,
    /// How each becomes durable.
    pub mode: WriteMode,
    /// Writes in flight, 1 to [`RAW_DEPTH_MAX`].
    pub depth: usize,
    /// Whether file and buffers are registered with the ring.
    pub registered: bool,
    /// Whether completions are waited for in a loop that takes a whole CPU, instead of asleep.
    pub polled: bool,
}

/// Why the device can't be measured there.
#[derive(Debug, thiserror::Error)]
pub enum RawFileError {
    /// Nothing is durable there.
    #[error("it is in memory ({filesystem}), where nothing is durable; use a disk")]
    InMemory {
        /// The filesystem.
        filesystem: &'static str,
    },
    /// The filesystem can't do what a log needs.
    #[error("its filesystem has no direct I/O (O_DIRECT); use ext4 or xfs")]
    NoDirectIo,
    /// Anything else.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// A zero-filled file for direct I/O that has no name and is gone when this value is.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    bytes: u64,
}

impl RawFile {
    /// Makes the file in `dir` and fills it; blocking.
    ///
    /// # Errors
    /// [`RawFileError`] if nothing may be written there, or what is written would mean nothing.
    pub fn create(dir: &Path, bytes: u64) -> Result<RawFile, RawFileError> {
        assert!(bytes > 0 && bytes.is_multiple_of(ZERO_PIECE_BYTES as u64), "filled in whole pieces");
        let path = dir.join(format!("raftyard-raw-{}", std::process::id()));
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC)
            .open(&path);
        // Some filesystems make the file and then refuse to open it.
        let removed = std::fs::remove_file(&path);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => RawFileError::NoDirectIo,
            _ => RawFileError::Io(error),
        })?;
        removed?;
        if let Some(filesystem) = memory_filesystem(&file)? {
            return Err(RawFileError::InMemory { filesystem });
        }
        let zeroes = AlignedBuf::zeroed(ZERO_PIECE_BYTES);
        for piece in 0..bytes / ZERO_PIECE_BYTES as u64 {
            file.write_all_at(&zeroes, piece * ZERO_PIECE_BYTES as u64)?;
        }
        file.sync_all()?;
        Ok(RawFile { file, bytes })
    }

    /// Writes on and on, through the file and again from its start, and tells `each` how long every write took, until it
    /// breaks. Blocking.
    ///
    /// # Errors
    /// What the system said of the ring or of a write.
    ///
    /// # Panics
    /// If the writes are not whole blocks that fit the file, or the depth is out of its range.
    pub fn write(&self, how: RawWrites, mut each: impl FnMut(Duration) -> ControlFlow<()>) -> io::Result<()> {
        assert!(how.bytes > 0 && how.bytes.is_multiple_of(BLOCK_BYTES), "direct I/O works on whole blocks");
        assert!((how.bytes * how.depth) as u64 <= self.bytes, "writes in flight never overlap");
        assert!((1..=RAW_DEPTH_MAX).contains(&how.depth), "the depth has a limit");
        let mut writer = Writer::new(self, how)?;
        for place in 0..how.depth {
            writer.begin(place);
        }
        let mut more = true;
        while writer.in_flight > 0 {
            writer.enter()?;
            while let Some((place, took)) = writer.completed()? {
                more = more && each(took).is_continue();
                if more {
                    writer.begin(place);
                }
            }
        }
        Ok(())
    }
}

/// The name of the file's filesystem, if that is in memory. Some of these take O_DIRECT, and mean nothing by it.
fn memory_filesystem(file: &File) -> io::Result<Option<&'static str>> {
    let mut status = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, and the call writes to `status` alone.
    if unsafe { libc::fstatfs(file.as_raw_fd(), status.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it filled the structure.
    let kind = unsafe { status.assume_init() }.f_type;
    Ok(MEMORY_FILESYSTEMS.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name))
}

struct Writer<'a> {
    /// Invariant: dropped before nothing that it works on; see `Drop`.
    ring: IoUring,
    file: &'a RawFile,
    how: RawWrites,
    places: Vec<Place>,
    /// Writes that began and were not completed.
    in_flight: usize,
    offset: u64,
}

struct Place {
    buffer: AlignedBuf,
    began: Instant,
    parts_left: u32,
    /// The first error of its parts.
    error: Option<i32>,
}

impl Writer<'_> {
    fn new(file: &RawFile, how: RawWrites) -> io::Result<Writer<'_>> {
        // As the log's device: no flags.
        let ring = IoUring::new((2 * RAW_DEPTH_MAX) as u32)?;
        let places = (0..how.depth).map(|_| Place::new(how.bytes)).collect::<Vec<_>>();
        if how.registered {
            ring.submitter().register_files(&[file.file.as_raw_fd()])?;
            let memory = |place: &Place| libc::iovec {
                iov_base: place.buffer.as_ptr().cast_mut().cast(),
                iov_len: place.buffer.len(),
            };
            let memory = places.iter().map(memory).collect::<Vec<_>>();
            // SAFETY: the buffers are neither moved nor freed before the ring: `Drop` leaks them where it can't wait.
            unsafe { ring.submitter().register_buffers(&memory)? };
        }
        Ok(Writer { ring, file, how, places, in_flight: 0, offset: 0 })
    }

    fn begin(&mut self, place: usize) {
        if self.offset + self.how.bytes as u64 > self.file.bytes {
            self.offset = 0;
        }
        let offset = self.offset;
        self.offset += self.how.bytes as u64;
        let linked = self.how.mode == WriteMode::LinkedSync;
        let write = self.write_entry(place, offset).user_data(place as u64);
        self.push(&if linked { write.flags(Flags::IO_LINK) } else { write });
        if linked {
            self.push(&self.sync_entry().user_data(place as u64 | PART_SYNC));
        }
        let place = &mut self.places[place];
        place.parts_left = if linked { 2 } else { 1 };
        place.began = Instant::now();
        self.in_flight += 1;
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the entry points to a buffer of `places`, which `Drop` keeps until nothing is in flight; the file is
        // borrowed for as long.
        let pushed = unsafe { self.ring.submission().push(entry) };
        assert!(pushed.is_ok(), "the ring has two entries for each place");
    }

    fn write_entry(&self, place: usize, offset: u64) -> squeue::Entry {
        let buffer = &self.places[place].buffer;
        let len = u32::try_from(buffer.len()).expect("a write is smaller than 4 GiB");
        let flags = if self.how.mode == WriteMode::Dsync { libc::RWF_DSYNC } else { 0 };
        if self.how.registered {
            let index = u16::try_from(place).expect("a place is below the largest depth");
            let write = opcode::WriteFixed::new(types::Fixed(0), buffer.as_ptr(), len, index);
            return write.offset(offset).rw_flags(flags).build();
        }
        let fd = types::Fd(self.file.file.as_raw_fd());
        opcode::Write::new(fd, buffer.as_ptr(), len).offset(offset).rw_flags(flags).build()
    }

    fn sync_entry(&self) -> squeue::Entry {
        if self.how.registered {
            return opcode::Fsync::new(types::Fixed(0)).flags(types::FsyncFlags::DATASYNC).build();
        }
        let fd = types::Fd(self.file.file.as_raw_fd());
        opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build()
    }

    /// Submits, and waits for a completion.
    fn enter(&mut self) -> io::Result<()> {
        if !self.how.polled {
            return self.submit(1);
        }
        if !self.ring.submission().is_empty() {
            self.submit(0)?;
        }
        while self.ring.completion().is_empty() {
            std::hint::spin_loop();
        }
        Ok(())
    }

    fn submit(&mut self, want: usize) -> io::Result<()> {
        for _ in 0..SUBMIT_ATTEMPTS_MAX {
            match self.ring.submit_and_wait(want) {
                Ok(_) if self.ring.submission().is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) if super::is_transient(&error) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    /// The next write that is durable, and how long it took.
    fn completed(&mut self) -> io::Result<Option<(usize, Duration)>> {
        loop {
            let Some(entry) = self.ring.completion().next() else { return Ok(None) };
            if let Some(place) = self.complete(&entry) {
                let done = &mut self.places[place];
                return match done.error.take() {
                    Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                    None => Ok(Some((place, done.began.elapsed()))),
                };
            }
        }
    }

    /// Takes one completion; the place, if it was the last of its write.
    fn complete(&mut self, entry: &cqueue::Entry) -> Option<usize> {
        let number = usize::try_from(entry.user_data() & !PART_SYNC).expect("a place in a vector");
        let place = self.places.get_mut(number).expect("the kernel gives back the number it was given");
        let (sync, result) = (entry.user_data() & PART_SYNC != 0, entry.result());
        let errno = if result < 0 {
            Some(-result)
        } else if !sync && result as usize != place.buffer.len() {
            Some(libc::EIO)
        } else {
            None
        };
        place.error = place.error.or(errno);
        place.parts_left -= 1;
        if place.parts_left > 0 {
            return None;
        }
        self.in_flight -= 1;
        Some(number)
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        while self.in_flight > 0 {
            if self.submit(1).is_err() {
                // The kernel may still read these; memory that is never freed is the safe answer.
                std::mem::forget(std::mem::take(&mut self.places));
                return;
            }
            loop {
                let Some(entry) = self.ring.completion().next() else { break };
                self.complete(&entry);
            }
        }
    }
}

impl Place {
    fn new(bytes: usize) -> Place {
        let mut buffer = AlignedBuf::zeroed(bytes);
        // Not zeroes: some disks don't write these.
        buffer.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8);
        Place { buffer, began: Instant::now(), parts_left: 0, error: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_of_writing_reaches_the_file() {
        // Beside this program is a real file system, while the system's temporary directory is often memory.
        let program = std::env::current_exe().unwrap();
        let dir = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let file = RawFile::create(dir.path(), 1 << 20).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file has no name");
        for (bytes, mode, depth, registered, polled) in [
            (4096, WriteMode::Dsync, 1, false, false),
            (65536, WriteMode::LinkedSync, 4, false, false),
            (4096, WriteMode::Dsync, 4, true, true),
            (4096, WriteMode::LinkedSync, 1, true, true),
        ] {
            let how = RawWrites { bytes, mode, depth, registered, polled };
            let zeroes = vec![0; 1 << 20];
            file.file.write_all_at(&AlignedBuf::zeroed(1 << 20), 0).unwrap();
            let mut writes = 0;
            let each = |_| {
                writes += 1;
                if writes < 10 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            };
            file.write(how, each).unwrap();
            // The first ten were told of; what was in flight by then is finished all the same.
            assert_eq!(writes, 10, "{how:?}");
            let mut read = AlignedBuf::zeroed(1 << 20);
            file.file.read_exact_at(&mut read, 0).unwrap();
            let written = read.iter().zip(&zeroes).rposition(|(a, b)| a != b).map_or(0, |at| at + 1);
            assert_eq!(written.next_multiple_of(bytes), (9 + depth) * bytes, "{how:?}");
        }
    }

    #[test]
    fn a_write_that_fails_is_told_and_nothing_stays_in_flight() {
        let path = std::env::current_exe().unwrap();
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        let file = RawFile { file, bytes: 1 << 20 };
        for mode in [WriteMode::Dsync, WriteMode::LinkedSync] {
            let how = RawWrites { bytes: 4096, mode, depth: 4, registered: false, polled: false };
            let error = file.write(how, |_| panic!("none is durable")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        }
    }
}
