//! Whether io_uring works here, asked once at a node's start, so that its absence is one clear line and no surprise.

use io_uring::{IoUring, opcode};
use std::io;

/// Why io_uring does not work here.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel, its settings or a sandbox refuse it.
    #[error(
        "io_uring is blocked here ({0}); allow it (sysctl kernel.io_uring_disabled=0, or the container's seccomp profile)"
    )]
    Blocked(io::Error),
    /// Too little memory may be locked.
    #[error("io_uring may not lock enough memory ({0}); raise the memlock limit (ulimit -l)")]
    Memlock(io::Error),
    /// The kernel lacks an operation.
    #[error("this kernel's io_uring has no {operation}; Linux 6.1 or later is needed")]
    TooOld {
        /// What it lacks.
        operation: &'static str,
    },
    /// Anything else.
    #[error("io_uring does not work here: {0}")]
    Failed(io::Error),
}

/// Sets up rings as a node does and asks for every operation that it uses: the log's device, and the ring a core sleeps
/// on.
///
/// # Errors
/// [`ProbeError`], with what to do.
pub fn probe() -> Result<(), ProbeError> {
    let ring = IoUring::new(8).map_err(classify)?;
    let deferred: io::Result<IoUring> = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(8);
    deferred.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => ProbeError::TooOld { operation: "deferred task work" },
        _ => classify(error),
    })?;
    let mut known = io_uring::Probe::new();
    ring.submitter().register_probe(&mut known).map_err(classify)?;
    let needed = [
        (opcode::OpenAt::CODE, "openat"),
        (opcode::Close::CODE, "close"),
        (opcode::Write::CODE, "write"),
        (opcode::Read::CODE, "read"),
        (opcode::Fsync::CODE, "fsync"),
        (opcode::RenameAt::CODE, "renameat"),
        (opcode::UnlinkAt::CODE, "unlinkat"),
        (opcode::Send::CODE, "send"),
        (opcode::Recv::CODE, "recv"),
        (opcode::PollAdd::CODE, "poll"),
    ];
    match needed.iter().find(|(code, _)| !known.is_supported(*code)) {
        Some((_, operation)) => Err(ProbeError::TooOld { operation }),
        None => Ok(()),
    }
}

fn classify(error: io::Error) -> ProbeError {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => ProbeError::Blocked(error),
        Some(libc::ENOMEM) => ProbeError::Memlock(error),
        _ => ProbeError::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart() {
        let classified = |errno| classify(io::Error::from_raw_os_error(errno));
        assert!(matches!(classified(libc::EPERM), ProbeError::Blocked(_)));
        assert!(matches!(classified(libc::ENOSYS), ProbeError::Blocked(_)));
        assert!(matches!(classified(libc::ENOMEM), ProbeError::Memlock(_)));
        assert!(matches!(classified(libc::EINVAL), ProbeError::Failed(_)));
    }
}
