//! What must hold before a node starts: found out first and said in one line, rather than as a panic of the executor or
//! a strange error of the log.

use raftyard_storage::device::{ProbeError, probe};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Why a node can't start here.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The kernel refuses io_uring.
    #[error("{0}")]
    Uring(#[from] ProbeError),
    /// Too little memory may be locked.
    #[error(
        "at most {limit} bytes may be locked (ulimit -l), this node needs {needed}; raise it (LimitMEMLOCK in a unit)"
    )]
    Memlock {
        /// The limit in bytes.
        limit: u64,
        /// What is needed.
        needed: u64,
    },
    /// Too few files may be open.
    #[error(
        "at most {limit} files may be open (ulimit -n), this node needs {needed}; raise it (LimitNOFILE in a unit)"
    )]
    Descriptors {
        /// The hard limit.
        limit: u64,
        /// What is needed.
        needed: u64,
    },
    /// The machine is too small to give each core a CPU.
    #[error("cores = {cores}: this process may use {cpus} CPUs; lower cores, or set pin = false")]
    Cores {
        /// The cores asked for.
        cores: u16,
        /// The CPUs there are.
        cpus: usize,
    },
    /// The data directory can't be made or used.
    #[error("data_dir = {}: {error}", path.display())]
    DataDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The data directory is in memory.
    #[error("data_dir = {}: it is in memory ({filesystem}), where nothing is durable; use a disk", path.display())]
    InMemory {
        /// The directory.
        path: PathBuf,
        /// The filesystem.
        filesystem: &'static str,
    },
    /// The filesystem has no direct I/O.
    #[error("data_dir = {}: its filesystem has no direct I/O (O_DIRECT); use ext4 or xfs", path.display())]
    NoDirectIo {
        /// The directory.
        path: PathBuf,
    },
    /// Another process uses the directory.
    #[error("data_dir = {}: in use by another node", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// The executor of a core asks for this limit whatever it locks.
const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;
/// What a core locks: the executor's registered buffers, in each of its three rings.
const MEMLOCK_BYTES_PER_CORE: u64 = 3 * 64 * 1024;

/// Files a process has open beside its cores'.
const DESCRIPTORS: u64 = 128;
/// Files a core has open at most: the connections it accepts and dials, its rings, its segments.
const DESCRIPTORS_PER_CORE: u64 = 512;

const LOCK_FILE: &str = "lock";
const PROBE_FILE: &str = "direct-io-probe";

/// f_type of statfs(2).
const MEMORY_FILESYSTEMS: [(i64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];

/// Holds the data directory for this process; released when dropped, also by a crash.
#[derive(Debug)]
pub(crate) struct DataDirLock {
    _file: OwnedFd,
}

/// Checks what the kernel gives this process.
pub(crate) fn check_system(cores: u16) -> Result<(), PreflightError> {
    let needed = memlock_needed(cores);
    if let Some(limit) = getrlimit(Resource::Memlock).current
        && limit < needed
    {
        return Err(PreflightError::Memlock { limit, needed });
    }
    allow_descriptors(cores)?;
    Ok(probe()?)
}

/// Raises the number of files this process may open to what the node needs at most: without it a flood of connections
/// would leave none for the log's next segment.
fn allow_descriptors(cores: u16) -> Result<(), PreflightError> {
    let needed = DESCRIPTORS + u64::from(cores) * DESCRIPTORS_PER_CORE;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
    let refused = PreflightError::Descriptors { limit: limit.maximum.unwrap_or(u64::MAX), needed };
    setrlimit(Resource::Nofile, raised).map_err(|_| refused)
}

/// Checks that each core can have a CPU, and gives them out.
pub(crate) fn cpus(cores: u16) -> Result<Vec<usize>, PreflightError> {
    let cpus = raftyard_runtime::driver::cpus();
    if cpus.len() < usize::from(cores) {
        return Err(PreflightError::Cores { cores, cpus: cpus.len() });
    }
    Ok(cpus)
}

/// Makes the data directory if it is missing, checks its filesystem, and takes it for this process.
pub(crate) fn take_data_dir(path: &Path) -> Result<DataDirLock, PreflightError> {
    let failed = |error: io::Error| PreflightError::DataDir { path: path.to_owned(), error };
    make_durably(path).map_err(failed)?;
    let kind = rustix::fs::statfs(path).map_err(|error| failed(error.into()))?.f_type;
    if let Some((_, filesystem)) = MEMORY_FILESYSTEMS.iter().find(|(magic, _)| *magic == kind) {
        return Err(PreflightError::InMemory { path: path.to_owned(), filesystem });
    }
    let lock = lock(path)?;
    check_direct_io(path)?;
    Ok(lock)
}

fn memlock_needed(cores: u16) -> u64 {
    MEMLOCK_BYTES_MIN.max(u64::from(cores) * MEMLOCK_BYTES_PER_CORE)
}

/// Makes a directory and its own entry durable: a log that is durable must not vanish with its directory. An existing
/// one is synced too, since the start that made it may have been killed before it synced the entry. Each directory is
/// durable before the next is made in it, so only the deepest existing one can be in doubt.
fn make_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return match sync_entry(path) {
            // Where this process can't open or sync the parent, it hasn't made the directory in it either.
            Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput) => {
                Ok(())
            }
            result => result,
        };
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        make_durably(parent)?;
    }
    // Without a dot at its end, which only a directory that exists may have.
    match std::fs::create_dir(path.components().collect::<PathBuf>()) {
        // `a/..` is there as soon as `a` is.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => Err(error),
        _ => sync_entry(path),
    }
}

/// Syncs the directory that holds `path`, which may end in dots or be a link: so it is asked for by its place.
fn sync_entry(path: &Path) -> io::Result<()> {
    File::open(path.join(".."))?.sync_all()
}

fn lock(path: &Path) -> Result<DataDirLock, PreflightError> {
    let failed = |error: io::Error| PreflightError::DataDir { path: path.to_owned(), error };
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(path.join(LOCK_FILE), flags, Mode::from_raw_mode(0o644))
        .map_err(|error| failed(error.into()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(DataDirLock { _file: file }),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(PreflightError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}

fn check_direct_io(path: &Path) -> Result<(), PreflightError> {
    let probe = path.join(PROBE_FILE);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::DIRECT;
    let opened = rustix::fs::open(&probe, flags, Mode::from_raw_mode(0o644));
    // A leftover of it is harmless and taken again by the next start.
    drop(std::fs::remove_file(&probe));
    match opened {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::INVAL) => Err(PreflightError::NoDirectIo { path: path.to_owned() }),
        Err(error) => Err(PreflightError::DataDir { path: path.to_owned(), error: error.into() }),
    }
}

#[cfg(test)]
mod tests {
    use super::make_durably;

    #[test]
    fn a_directory_is_made_with_those_above_it_or_taken_as_it_is() {
        let root = std::env::temp_dir().join(format!("raftyard-preflight-{}", std::process::id()));
        let made: Vec<bool> = ["a/b/c", "a/b/c", "d/../e", "d/e/.", "a/b/c/."]
            .iter()
            .map(|path| make_durably(&root.join(path)).is_ok() && root.join(path).is_dir())
            .collect();
        std::fs::write(root.join("file"), b"").expect("the directory was made");
        let refused = [make_durably(&root.join("file")).is_err(), make_durably(&root.join("file/a")).is_err()];
        std::fs::remove_dir_all(&root).expect("the directory was made");
        assert_eq!((made, refused), (vec![true; 5], [true; 2]));
        assert!(make_durably(".".as_ref()).is_ok() && make_durably("/".as_ref()).is_ok());
    }
}
