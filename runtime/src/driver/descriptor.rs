//! The one place where the executor's types give a descriptor only as a bare number.

use glommio::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A stream's descriptor.
#[expect(unsafe_code)]
pub(super) fn of(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns its descriptor and keeps it open as long as it lives, which the result doesn't outlive.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}
