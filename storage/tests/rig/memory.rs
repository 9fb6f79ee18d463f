//! A disk without any memory of what is durable: for images of logs that are damaged by the million. A copy costs little.

use raftyard_storage::io::{Directory, Disk, FileId, FileName, FilePath, IoError, IoOp, IoOutput, IoResult};
use raftyard_storage::sim::SimDisk;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Files in memory.
#[derive(Clone, Default)]
pub struct MemDisk {
    pub files: BTreeMap<FilePath, Arc<Vec<u8>>>,
    open: BTreeMap<FileId, FilePath>,
    next: u32,
}

impl MemDisk {
    /// What a reader of that disk sees now.
    pub fn of(disk: &SimDisk, directory: Directory) -> MemDisk {
        let paths = disk.paths(directory).into_iter();
        let files = paths.map(|path| (path, Arc::new(disk.content(path).unwrap().to_vec()))).collect();
        MemDisk { files, ..MemDisk::default() }
    }

    pub fn bytes(&mut self, path: FilePath) -> &mut Vec<u8> {
        Arc::make_mut(self.files.get_mut(&path).unwrap())
    }

    fn file(&mut self, file: FileId) -> Option<&mut Vec<u8>> {
        self.files.get_mut(self.open.get(&file)?).map(Arc::make_mut)
    }

    fn write(&mut self, file: FileId, offset: u64, bytes: &[u8]) -> Option<()> {
        let (start, file) = (offset as usize, self.file(file)?);
        let end = start + bytes.len();
        if file.len() < end {
            file.resize(end, 0);
        }
        file[start..end].copy_from_slice(bytes);
        Some(())
    }

    fn opened(&mut self, path: FilePath) -> Option<IoOutput> {
        let len = self.files.get(&path)?.len() as u64;
        self.next += 1;
        self.open.insert(FileId(self.next), path);
        Some(IoOutput::File { file: FileId(self.next), len })
    }

    fn perform(&mut self, op: IoOp) -> Option<IoOutput> {
        match op {
            IoOp::MakeDirectory(_) | IoOp::Sync(_) | IoOp::SyncDirectory(_) => {}
            IoOp::List(directory) => {
                let here = self.files.iter().filter(|(path, _)| path.directory == directory);
                let names: Vec<(FileName, u64)> = here.map(|(path, bytes)| (path.name, bytes.len() as u64)).collect();
                return Some(IoOutput::Names(names));
            }
            IoOp::Create(path) => {
                if self.files.insert(path, Arc::default()).is_some() {
                    return None;
                }
                return self.opened(path);
            }
            IoOp::Open(path) => return self.opened(path),
            IoOp::Close(file) => drop(self.open.remove(&file)?),
            IoOp::Write { file, offset, buffer, .. } => {
                self.write(file, offset, &buffer)?;
                return Some(IoOutput::Buffer(buffer));
            }
            IoOp::Zero { file, offset, len } => self.write(file, offset, &vec![0; len as usize])?,
            IoOp::Read { file, offset, mut buffer } => {
                let content = self.files.get(self.open.get(&file)?)?;
                let start = (offset as usize).min(content.len());
                let len = buffer.len().min(content.len() - start);
                buffer[..len].copy_from_slice(&content[start..start + len]);
                buffer.truncate(len);
                return Some(IoOutput::Buffer(buffer));
            }
            IoOp::Rename { from, to } => {
                let content = self.files.remove(&from)?;
                self.files.insert(to, content);
                self.open.values_mut().filter(|path| **path == from).for_each(|path| *path = to);
            }
            IoOp::Remove(path) => drop(self.files.remove(&path)?),
        }
        Some(IoOutput::Done)
    }
}

impl Disk for MemDisk {
    fn execute(&mut self, op: IoOp) -> IoResult {
        let operation = op.name();
        self.perform(op).ok_or(IoError { operation, errno: 2 })
    }
}
