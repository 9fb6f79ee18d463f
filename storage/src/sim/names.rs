//! The directories of a simulated disk: the names a reader sees, the durable ones, and the changes between the two.

use super::Inode;
use crate::io::{Directory, FileName, FilePath};
use std::collections::{BTreeMap, BTreeSet};

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;

/// All names of a disk. The root always exists; the entry of any other directory is the root's to sync.
#[derive(Debug, Default)]
pub(super) struct Names {
    root: Entries,
    wals: BTreeMap<Directory, WalDirectory>,
}

#[derive(Debug, Default)]
struct WalDirectory {
    entries: Entries,
    durable: bool,
}

type NameMap = BTreeMap<FileName, Inode>;

#[derive(Debug, Default)]
struct Entries {
    visible: NameMap,
    durable: NameMap,
    pending: Vec<Change>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    Create { name: FileName, inode: Inode },
    Rename { from: FileName, to: FileName, inode: Inode },
    Remove { name: FileName },
}

impl Names {
    pub(super) fn make_directory(&mut self, directory: Directory) {
        if directory != Directory::Root {
            self.wals.entry(directory).or_default();
        }
    }

    pub(super) fn list(&self, directory: Directory) -> Option<Vec<(FileName, Inode)>> {
        let entries = self.entries(directory)?;
        Some(entries.visible.iter().map(|(name, inode)| (*name, *inode)).collect())
    }

    pub(super) fn find(&self, path: FilePath) -> Option<Inode> {
        self.entries(path.directory)?.visible.get(&path.name).copied()
    }

    pub(super) fn create(&mut self, path: FilePath, inode: Inode) -> Result<(), i32> {
        let entries = self.entries_mut(path.directory).ok_or(ENOENT)?;
        if entries.visible.contains_key(&path.name) {
            return Err(EEXIST);
        }
        entries.change(Change::Create { name: path.name, inode });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: FilePath, to: FilePath) -> Result<(), i32> {
        if from.directory != to.directory {
            return Err(EINVAL);
        }
        let entries = self.entries_mut(from.directory).ok_or(ENOENT)?;
        let inode = *entries.visible.get(&from.name).ok_or(ENOENT)?;
        entries.change(Change::Rename { from: from.name, to: to.name, inode });
        Ok(())
    }

    pub(super) fn remove(&mut self, path: FilePath) -> Result<(), i32> {
        let entries = self.entries_mut(path.directory).ok_or(ENOENT)?;
        if !entries.visible.contains_key(&path.name) {
            return Err(ENOENT);
        }
        entries.change(Change::Remove { name: path.name });
        Ok(())
    }

    pub(super) fn sync(&mut self, directory: Directory) -> Result<(), i32> {
        self.entries_mut(directory).ok_or(ENOENT)?.sync();
        if directory == Directory::Root {
            for wal in self.wals.values_mut() {
                wal.durable = true;
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, keep: &mut impl FnMut() -> bool) {
        self.root.crash(keep);
        self.wals.retain(|_, wal| {
            wal.durable = wal.durable || keep();
            wal.durable
        });
        for wal in self.wals.values_mut() {
            wal.entries.crash(keep);
        }
    }

    /// Every file that has a name.
    pub(super) fn inodes(&self) -> BTreeSet<Inode> {
        let wals = self.wals.values().map(|wal| &wal.entries);
        std::iter::once(&self.root).chain(wals).flat_map(|e| e.visible.values().copied()).collect()
    }

    fn entries(&self, directory: Directory) -> Option<&Entries> {
        match directory {
            Directory::Root => Some(&self.root),
            _ => self.wals.get(&directory).map(|wal| &wal.entries),
        }
    }

    fn entries_mut(&mut self, directory: Directory) -> Option<&mut Entries> {
        match directory {
            Directory::Root => Some(&mut self.root),
            _ => self.wals.get_mut(&directory).map(|wal| &mut wal.entries),
        }
    }
}

impl Entries {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.visible);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        self.pending.clear();
        self.durable.clone_from(&self.visible);
    }

    fn crash(&mut self, keep: &mut impl FnMut() -> bool) {
        for change in std::mem::take(&mut self.pending) {
            if keep() {
                change.apply(&mut self.durable);
            }
        }
        self.visible.clone_from(&self.durable);
    }
}

impl Change {
    fn apply(self, names: &mut NameMap) {
        match self {
            Change::Create { name, inode } => drop(names.insert(name, inode)),
            Change::Rename { from, to, inode } => {
                names.remove(&from);
                names.insert(to, inode);
            }
            Change::Remove { name } => drop(names.remove(&name)),
        }
    }
}
