//! The real disk: one io_uring ring, files opened for direct I/O below one directory.
//!
//! Owns the ring, the open files, and every buffer and name in flight: the kernel works on them, so they stay here until
//! their completion, also when the device is dropped. It must never decide anything about content. A core's driver calls
//! it: [`UringDisk::submit`] for each operation of a turn, [`UringDisk::flush`] once, [`UringDisk::completions`] when
//! its eventfd says so; opening a node uses it through [`Disk`].
//!
//! While running, every operation a log asks for goes through the ring. Listing a directory and making one block the
//! caller; only the opening of a node does these.

mod names;
mod probe;
mod raw;
mod readonly;
mod request;

pub use probe::{ProbeError, probe};
pub use raw::{RAW_DEPTH_MAX, RawFile, RawFileError, RawWrites};
pub use readonly::ReadOnlyDisk;

use crate::io::{Directory, Disk, FileId, FilePath, IoError, IoId, IoOp, IoOutput, IoResult};
use io_uring::{IoUring, cqueue, squeue};
use request::{Request, Step};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::io::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

/// Submission entries one operation can need: a write and its linked sync.
const ENTRIES_PER_OPERATION: usize = 2;
/// How often a submission is tried again while the kernel is short of something.
const SUBMIT_ATTEMPTS_MAX: usize = 10_000;

/// A disk below one directory of a real file system.
pub struct UringDisk {
    /// Invariant: dropped before nothing that it works on; see `Drop`.
    ring: IoUring,
    /// What is in flight, by the number its completions carry.
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    in_flight: usize,
    in_flight_max: usize,
    /// Operations that wait for a place in the ring.
    backlog: VecDeque<(Owner, IoOp)>,
    ready: VecDeque<(IoId, IoResult)>,
    blocking: Option<IoResult>,
    blocking_calls: u64,
    directories: Directories,
    files: BTreeMap<FileId, File>,
    next_file: u32,
    eventfd: Option<File>,
}

/// Who waits for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Caller(IoId),
    /// The blocking call of this number.
    Blocking(u64),
}

impl UringDisk {
    /// A device for the files below `root`, which must exist, with a ring of at least `entries`.
    ///
    /// # Errors
    /// What the system said: no such directory, io_uring blocked, too little locked memory (see [`probe`]).
    pub fn open(root: PathBuf, entries: u32) -> io::Result<UringDisk> {
        // No setup flags: woken by an eventfd at a low queue depth, the plain ring needs the fewest system calls.
        let ring = IoUring::new(entries.max(8))?;
        let in_flight_max = ring.params().sq_entries() as usize / ENTRIES_PER_OPERATION;
        Ok(UringDisk {
            ring,
            requests: Vec::new(),
            free: Vec::new(),
            in_flight: 0,
            in_flight_max,
            backlog: VecDeque::new(),
            ready: VecDeque::new(),
            blocking: None,
            blocking_calls: 0,
            directories: Directories::open(root)?,
            files: BTreeMap::new(),
            next_file: 0,
            eventfd: None,
        })
    }

    /// The directory that its files are below.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.directories.root
    }

    /// Lets every completion add to this eventfd.
    ///
    /// # Errors
    /// What the system said.
    pub fn register_eventfd(&mut self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        let own: OwnedFd = eventfd.try_clone_to_owned()?;
        self.ring.submitter().register_eventfd(own.as_raw_fd())?;
        self.eventfd = Some(File::from(own));
        Ok(())
    }

    /// Takes an operation; it starts at the next [`UringDisk::flush`].
    pub fn submit(&mut self, id: IoId, op: IoOp) {
        self.start(Owner::Caller(id), op);
    }

    /// Hands everything taken to the kernel, in one system call. Free if there is nothing.
    ///
    /// # Errors
    /// What the system said; what was taken stays and can be flushed again.
    pub fn flush(&mut self) -> io::Result<()> {
        self.enter(0)
    }

    /// As [`UringDisk::flush`], and sleeps until an operation is completed, in the same system call. For whoever waits for
    /// nothing else. Returns at once if none is in flight.
    ///
    /// # Errors
    /// As [`UringDisk::flush`].
    pub fn wait(&mut self) -> io::Result<()> {
        let want = usize::from(self.in_flight > 0 && self.ready.is_empty());
        self.enter(want)
    }

    /// Hands each completed operation to `each`, in the order of completion.
    ///
    /// # Errors
    /// As [`UringDisk::flush`]: an operation in several parts may have to go on.
    pub fn completions(&mut self, mut each: impl FnMut(IoId, IoResult)) -> io::Result<()> {
        self.reap();
        while let Some((id, result)) = self.ready.pop_front() {
            each(id, result);
        }
        self.flush()
    }

    /// How many operations were taken and not handed back.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight + self.backlog.len() + self.ready.len()
    }

    fn start(&mut self, owner: Owner, op: IoOp) {
        if self.in_flight >= self.in_flight_max {
            self.backlog.push_back((owner, op));
            return;
        }
        match self.request(owner, op) {
            Ok(request) => {
                let place = self.free.pop().unwrap_or_else(|| {
                    self.requests.push(None);
                    self.requests.len() - 1
                });
                self.in_flight += 1;
                self.push(place, request);
            }
            Err(result) => {
                self.deliver(owner, result);
                // What ended without the ring wakes the reaper all the same. An eventfd only refuses at 2^64 - 1.
                if let Some(eventfd) = &mut self.eventfd {
                    drop(eventfd.write_all(&1u64.to_ne_bytes()));
                }
            }
        }
    }

    /// Puts the next part of a request into the ring.
    fn push(&mut self, place: usize, mut request: Request) {
        let entries = request.entries(place as u64);
        // The request keeps the memory its entries point to; it is stored before the kernel can see them.
        self.requests[place] = Some(request);
        for entry in entries.into_iter().flatten() {
            self.push_entry(&entry);
        }
    }

    fn push_entry(&mut self, entry: &squeue::Entry) {
        // SAFETY: what the entry points to (buffer, names) lies on the heap and is owned by the request stored in
        // `requests`, which is removed only when the completion of its last entry was seen; `Drop` waits for these. The
        // descriptor stays open for as long: `files` and `directories` outlive what is in flight (a close goes through
        // the ring behind the log's own operations on that file).
        let pushed = unsafe { self.ring.submission().push(entry) };
        assert!(
            pushed.is_ok(),
            "operations in flight are bounded by half the ring's entries, and each needs at most two"
        );
    }

    fn request(&mut self, owner: Owner, op: IoOp) -> Result<Request, IoResult> {
        let operation = op.name();
        let errno = |errno| Err(IoError { operation, errno });
        match self.try_request(owner, op) {
            Ok(Ok(request)) => Ok(request),
            Ok(Err(output)) => Err(Ok(output)),
            Err(error) => Err(errno(error.raw_os_error().unwrap_or(libc::EIO))),
        }
    }

    /// The request for an operation, or its outcome where it is had at once.
    fn try_request(&mut self, owner: Owner, op: IoOp) -> io::Result<Result<Request, IoOutput>> {
        let operation = op.name();
        let step = match op {
            IoOp::MakeDirectory(directory) => {
                self.directories.make(directory)?;
                return Ok(Err(IoOutput::Done));
            }
            IoOp::List(directory) => return Ok(Err(IoOutput::Names(self.directories.list(directory)?))),
            IoOp::Create(path) => Step::open(self.directories.fd(path.directory)?, names::c_name(path.name), true),
            IoOp::Open(path) => Step::open(self.directories.fd(path.directory)?, names::c_name(path.name), false),
            IoOp::Close(file) => Step::close(self.files.remove(&file).ok_or_else(bad_file)?),
            IoOp::Write { file, offset, buffer, mode } => Step::write(self.fd(file)?, offset, buffer, mode),
            IoOp::Read { file, offset, buffer } => Step::read(self.fd(file)?, offset, buffer),
            IoOp::Zero { file, offset, len } => Step::zero(self.fd(file)?, offset, len),
            IoOp::Sync(file) => Step::sync(self.fd(file)?, true),
            IoOp::SyncDirectory(directory) => Step::sync(self.directories.fd(directory)?, false),
            IoOp::Rename { from, to } => self.rename(from, to)?,
            IoOp::Remove(path) => Step::remove(self.directories.fd(path.directory)?, names::c_name(path.name)),
        };
        Ok(Ok(Request::new(owner, operation, step)))
    }

    fn rename(&mut self, from: FilePath, to: FilePath) -> io::Result<Step> {
        let from_fd = self.directories.fd(from.directory)?;
        let to_fd = self.directories.fd(to.directory)?;
        Ok(Step::rename(from_fd, names::c_name(from.name), to_fd, names::c_name(to.name)))
    }

    fn fd(&self, file: FileId) -> io::Result<RawFd> {
        self.files.get(&file).map(AsRawFd::as_raw_fd).ok_or_else(bad_file)
    }

    /// Submits what is in the ring and waits until `want` completions are there.
    fn enter(&mut self, want: usize) -> io::Result<()> {
        if want == 0 && self.ring.submission().is_empty() {
            return Ok(());
        }
        for _ in 0..SUBMIT_ATTEMPTS_MAX {
            match self.ring.submit_and_wait(want) {
                Ok(_) if self.ring.submission().is_empty() => return Ok(()),
                Ok(_) => {}
                Err(error) if is_transient(&error) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }

    fn reap(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else { break };
            self.complete(&entry);
        }
        while self.in_flight < self.in_flight_max
            && let Some((owner, op)) = self.backlog.pop_front()
        {
            self.start(owner, op);
        }
    }

    fn complete(&mut self, entry: &cqueue::Entry) {
        let (place, part) = request::place_and_part(entry.user_data());
        let slot = self.requests.get_mut(place).expect("the kernel gives back the number it was given");
        let mut request = slot.take().expect("a completion belongs to what is in flight");
        if !request.handle(part, entry.result()) {
            *slot = Some(request);
            return;
        }
        match request.finish() {
            Ok((owner, outcome)) => {
                self.in_flight -= 1;
                self.free.push(place);
                let result = outcome.map(|outcome| self.output(outcome));
                self.deliver(owner, result);
            }
            Err(again) => self.push(place, again),
        }
    }

    fn output(&mut self, outcome: request::Outcome) -> IoOutput {
        match outcome {
            request::Outcome::Done => IoOutput::Done,
            request::Outcome::Buffer(buffer) => IoOutput::Buffer(buffer),
            request::Outcome::File { file, len } => {
                let id = FileId(self.next_file);
                self.next_file = self.next_file.checked_add(1).expect("a node opens fewer than 2^32 files");
                self.files.insert(id, file);
                IoOutput::File { file: id, len }
            }
        }
    }

    fn deliver(&mut self, owner: Owner, result: IoResult) {
        match owner {
            Owner::Caller(id) => self.ready.push_back((id, result)),
            Owner::Blocking(call) if call == self.blocking_calls => self.blocking = Some(result),
            // A call that gave up because the ring failed.
            Owner::Blocking(_) => {}
        }
    }
}

impl Disk for UringDisk {
    fn execute(&mut self, op: IoOp) -> IoResult {
        let operation = op.name();
        self.blocking_calls += 1;
        self.start(Owner::Blocking(self.blocking_calls), op);
        loop {
            self.reap();
            if let Some(result) = self.blocking.take() {
                return result;
            }
            if let Err(error) = self.enter(1) {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                return Err(IoError { operation, errno });
            }
        }
    }
}

impl Drop for UringDisk {
    fn drop(&mut self) {
        self.backlog.clear();
        while self.in_flight > 0 {
            if let Err(error) = self.enter(1) {
                tracing::error!(%error, "the ring can't be drained; what is in flight is leaked");
                // The kernel may still write to these; memory that is never freed is the safe answer.
                std::mem::forget(std::mem::take(&mut self.requests));
                return;
            }
            // Parts that would follow (a long zeroing) are not worth waiting for, but cost little.
            self.reap();
        }
    }
}

fn bad_file() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

/// The directories of a node, each opened once and then kept: the ring's operations name files relative to them.
struct Directories {
    root: PathBuf,
    open: BTreeMap<Directory, File>,
}

impl Directories {
    fn open(root: PathBuf) -> io::Result<Directories> {
        let handle = File::open(&root)?;
        Ok(Directories { root, open: BTreeMap::from([(Directory::Root, handle)]) })
    }

    fn path(&self, directory: Directory) -> PathBuf {
        match directory {
            Directory::Root => self.root.clone(),
            Directory::Wal(_) => self.root.join(directory.to_string()),
        }
    }

    fn fd(&mut self, directory: Directory) -> io::Result<RawFd> {
        if let Some(handle) = self.open.get(&directory) {
            return Ok(handle.as_raw_fd());
        }
        let handle = File::open(self.path(directory))?;
        let fd = handle.as_raw_fd();
        self.open.insert(directory, handle);
        Ok(fd)
    }

    fn make(&self, directory: Directory) -> io::Result<()> {
        match std::fs::create_dir(self.path(directory)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn list(&self, directory: Directory) -> io::Result<Vec<(crate::io::FileName, u64)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(self.path(directory))? {
            let entry = entry?;
            // Names this project does not give are not its business.
            if let Some(name) = entry.file_name().to_str().and_then(names::parse) {
                found.push((name, entry.metadata()?.len()));
            }
        }
        found.sort_unstable_by_key(|(name, _)| *name);
        Ok(found)
    }
}
