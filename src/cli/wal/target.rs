//! Which logs a command looks at.

use clap::Args;
use raftyard_storage::device::ReadOnlyDisk;
use raftyard_storage::io::WalId;
use raftyard_storage::manifest::{Manifest, ManifestError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where to look.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// A node's data directory.
    directory: PathBuf,
    /// DIRECTORY is that of one log, wal-<id>; no manifest is needed.
    #[arg(long)]
    wal: bool,
}

/// Why there is nothing to look at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TargetError {
    /// No such directory.
    #[error("{}: {source}", path.display())]
    Directory {
        /// What was named.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something else.
    #[error("{}: no directory", path.display())]
    NoDirectory {
        /// What was named.
        path: PathBuf,
    },
    /// No data directory.
    #[error(
        "{}: it has no manifest, so no node ever served with it; for the directory of one log (wal-<id>) use --wal",
        path.display()
    )]
    NoManifest {
        /// What was named.
        path: PathBuf,
    },
    /// Not the directory of a log.
    #[error("{}: the directory of a log is called wal-<id>, id a number up to 65535", path.display())]
    NoLog {
        /// What was named.
        path: PathBuf,
    },
    /// The manifest can't be read.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The data directory.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
}

/// What a command looks at.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) root: PathBuf,
    pub(super) disk: ReadOnlyDisk,
    /// Whose it is; not asked for one log alone.
    pub(super) manifest: Option<Manifest>,
    pub(super) logs: Vec<WalId>,
    /// Whether a node runs on it, as far as this system tells.
    pub(super) live: bool,
}

impl Target {
    pub(super) fn find(&self) -> Result<Found, TargetError> {
        let named = |source| TargetError::Directory { path: self.directory.clone(), source };
        // So that `.` has a name and a parent.
        let path = std::fs::canonicalize(&self.directory).map_err(named)?;
        if !path.is_dir() {
            return Err(TargetError::NoDirectory { path: self.directory.clone() });
        }
        if self.wal {
            let (root, wal) = split(&path).ok_or(TargetError::NoLog { path: self.directory.clone() })?;
            let live = is_live(&root);
            return Ok(Found { disk: ReadOnlyDisk::new(root.clone()), root, manifest: None, logs: vec![wal], live });
        }
        let mut disk = ReadOnlyDisk::new(path.clone());
        let manifest = Manifest::read(&mut disk)
            .map_err(|source| TargetError::Manifest { path: self.directory.clone(), source })?
            .ok_or_else(|| TargetError::NoManifest { path: self.directory.clone() })?;
        let live = is_live(&path);
        Ok(Found { root: self.directory.clone(), disk, logs: manifest.wals.clone(), manifest: Some(manifest), live })
    }
}

/// The directory above that of a log, and the log's id.
fn split(path: &Path) -> Option<(PathBuf, WalId)> {
    let name = path.file_name()?.to_str()?;
    let id = name.strip_prefix("wal-")?.parse().ok().map(WalId)?;
    (format!("wal-{}", id.0) == name).then_some((path.parent()?.to_owned(), id))
}

/// Whether somebody holds the lock of a data directory. Looked up, because trying it would keep a node from starting for a
/// moment; a lock that another container took is not listed everywhere.
fn is_live(root: &Path) -> bool {
    let (Ok(lock), Ok(locks)) = (std::fs::metadata(root.join("lock")), std::fs::read_to_string("/proc/locks")) else {
        return false;
    };
    let (major, minor) = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
    holds_lock(&locks, &format!("{major:02x}:{minor:02x}:{}", lock.ino()))
}

/// A line is `1: FLOCK  ADVISORY  WRITE 4711 fe:01:123456 0 EOF`; one that waits has an arrow.
fn holds_lock(locks: &str, file: &str) -> bool {
    let mut fields = locks.lines().map(|line| line.split_whitespace().skip(1));
    fields.any(|mut fields| fields.next() == Some("FLOCK") && fields.nth(3) == Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_told_by_its_name() {
        assert_eq!(split(Path::new("/a/wal-7")), Some((PathBuf::from("/a"), WalId(7))));
        for other in ["/a/wal-", "/a/wal-07", "/a/wal-70000", "/a/log-1", "/"] {
            assert_eq!(split(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_lock_is_told_by_its_file() {
        let locks = "1: POSIX  ADVISORY  WRITE 1 fe:01:12 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 fe:01:34 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 4712 fe:01:56 0 EOF\n";
        assert!(holds_lock(locks, "fe:01:34"));
        for other in ["fe:01:12", "fe:01:3", "fe:01:56", "fe:01:35"] {
            assert!(!holds_lock(locks, other), "{other}");
        }
    }
}
