//! The benchmark's data directory: made at the start, removed however the run ends, and never one that was in use.

use std::io;
use std::path::{Path, PathBuf};

/// A directory that is removed with everything in it when this value goes, also on an error or a panic.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    /// An empty directory that was there before is emptied, not removed.
    existed: bool,
    /// Goes after the directory itself.
    _parents: MadeParents,
}

/// Parents that were made for the directory, the outermost first: removed again as far as they are empty by then.
#[derive(Debug)]
struct MadeParents(Vec<PathBuf>);

/// Why there is no data directory.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DataDirError {
    /// It holds something.
    #[error("--data-dir {}: exists and is not empty; it would be removed at the end, so name a new one", .0.display())]
    NotEmpty(PathBuf),
    /// The system refused.
    #[error("--data-dir {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl DataDir {
    /// Takes `wanted`, or a new directory in the current one: beside the user's other files is a real file system,
    /// while the system's temporary directory is often memory.
    pub(super) fn make(wanted: Option<&Path>) -> Result<DataDir, DataDirError> {
        let path = match wanted {
            Some(path) => path.to_owned(),
            None => PathBuf::from(format!("raftyard-bench-{}", std::process::id())),
        };
        let failed = |source| DataDirError::Io { path: path.clone(), source };
        let parents = MadeParents::make(&path).map_err(failed)?;
        match std::fs::create_dir(&path) {
            Ok(()) => Ok(DataDir { path, existed: false, _parents: parents }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match std::fs::read_dir(&path).map_err(failed)?.next() {
                    None => Ok(DataDir { path, existed: true, _parents: parents }),
                    Some(_) => Err(DataDirError::NotEmpty(path)),
                }
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Where one node's data goes.
    pub(super) fn of_node(&self, node: u64) -> PathBuf {
        self.path.join(format!("node-{node}"))
    }

    /// Makes a directory beside the nodes', for measuring the disk alone.
    pub(super) fn make_for_floor(&self) -> Result<PathBuf, DataDirError> {
        let path = self.path.join("floor");
        match std::fs::create_dir(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(DataDirError::Io { path, source }),
        }
    }

    fn remove(&self) -> io::Result<()> {
        if !self.existed {
            return std::fs::remove_dir_all(&self.path);
        }
        for entry in std::fs::read_dir(&self.path)? {
            std::fs::remove_dir_all(entry?.path())?;
        }
        Ok(())
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("raftyard bench: {} could not be removed: {error}", self.path.display());
        }
    }
}

impl MadeParents {
    /// Makes what is missing above `path`. Removes it again if that fails halfway.
    fn make(path: &Path) -> io::Result<MadeParents> {
        let above = path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty());
        let missing = above.take_while(|above| !above.exists()).collect::<Vec<_>>();
        let mut made = MadeParents(Vec::new());
        for parent in missing.into_iter().rev() {
            match std::fs::create_dir(parent) {
                Ok(()) => made.0.push(parent.to_owned()),
                // Somebody else's, or a detour such as `new/..`.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(made)
    }
}

impl Drop for MadeParents {
    fn drop(&mut self) {
        for parent in self.0.iter().rev() {
            // One that holds something by now is somebody's, and so are those above it.
            if std::fs::remove_dir(parent).is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_removed_and_an_empty_one_emptied() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let (new, empty) = (root.path().join("a/b/c"), root.path().join("empty"));
        std::fs::create_dir(&empty).expect("mkdir");
        for path in [&new, &empty] {
            let made = DataDir::make(Some(path)).expect("make");
            std::fs::create_dir(made.of_node(1)).expect("mkdir");
        }
        assert!(!root.path().join("a").exists(), "nor do the parents stay that were made for it");
        assert_eq!(std::fs::read_dir(&empty).expect("still there").count(), 0);
    }

    #[test]
    fn parents_that_hold_something_else_stay() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let made = DataDir::make(Some(&root.path().join("a/b/c"))).expect("make");
        std::fs::write(root.path().join("a/theirs"), b"data").expect("write");
        drop(made);
        assert!(root.path().join("a/theirs").exists() && !root.path().join("a/b").exists());
        let detour = root.path().join("x/../y");
        drop(DataDir::make(Some(&detour)).expect("make"));
        assert!(!root.path().join("x").exists() && !root.path().join("y").exists());
    }

    #[test]
    fn a_directory_with_something_in_it_is_refused_and_kept() {
        let root = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(root.path().join("precious"), b"data").expect("write");
        let refused = DataDir::make(Some(root.path()));
        assert!(matches!(refused, Err(DataDirError::NotEmpty(_))));
        assert!(root.path().join("precious").exists());
    }

    #[test]
    fn a_file_in_its_place_is_refused() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let file = root.path().join("file");
        std::fs::write(&file, b"data").expect("write");
        assert!(matches!(DataDir::make(Some(&file)), Err(DataDirError::Io { .. })));
        assert!(file.exists());
    }
}
