//! STUB, dropped at the merge.
#![allow(missing_docs)]
use crate::io::*;
use std::os::fd::{AsRawFd, RawFd, BorrowedFd};
use std::path::PathBuf;

pub struct UringDisk {
    files: Vec<std::fs::File>,
    root: PathBuf,
    queue: Vec<(IoId, IoOp)>,
    done: Vec<(IoId, IoResult)>,
    eventfd: Option<RawFd>,
}

impl UringDisk {
    pub fn open(root: PathBuf, _entries: u32) -> std::io::Result<UringDisk> {
        Ok(UringDisk { files: vec![], root, queue: vec![], done: vec![], eventfd: None })
    }
    pub fn register_eventfd(&mut self, fd: BorrowedFd<'_>) -> std::io::Result<()> {
        self.eventfd = Some(fd.as_raw_fd());
        Ok(())
    }
    pub fn submit(&mut self, id: IoId, op: IoOp) {
        self.queue.push((id, op));
    }
    pub fn flush(&mut self) -> std::io::Result<()> {
        for (id, op) in std::mem::take(&mut self.queue) {
            let result = self.execute(op);
            self.done.push((id, result));
            let one = 1u64.to_ne_bytes();
            if let Some(fd) = self.eventfd {
                // SAFETY: stub.
                unsafe { libc::write(fd, one.as_ptr().cast(), 8) };
            }
        }
        Ok(())
    }
    pub fn completions(&mut self, mut f: impl FnMut(IoId, IoResult)) {
        for (id, result) in self.done.drain(..) {
            f(id, result);
        }
    }
}

impl Disk for UringDisk {
    fn execute(&mut self, op: IoOp) -> IoResult {
        use std::os::unix::fs::FileExt;
        match op {
            IoOp::Create(path) => {
                let file = std::fs::File::create(self.root.join(path.to_string())).unwrap();
                self.files.push(file);
                Ok(IoOutput::File { file: FileId(self.files.len() as u32 - 1), len: 0 })
            }
            IoOp::Write { file, offset, buffer, .. } => {
                self.files[file.0 as usize].write_all_at(&buffer, offset).unwrap();
                self.files[file.0 as usize].sync_data().unwrap();
                Ok(IoOutput::Buffer(buffer))
            }
            _ => Ok(IoOutput::Done),
        }
    }
}
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("stub")]
    Stub,
}
pub fn probe() -> Result<(), ProbeError> {
    Ok(())
}
