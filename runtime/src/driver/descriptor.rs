//! The few places where the executor's types take a descriptor only as a bare number. All of the runtime's `unsafe` is
//! here.

use glommio::io::BufferedFile;
use glommio::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

/// The executor's handle of something one reads from: an eventfd or a timerfd.
#[expect(unsafe_code)]
pub(super) fn file(descriptor: OwnedFd) -> BufferedFile {
    // SAFETY: the descriptor is open and owned; ownership goes to the file, which closes it.
    unsafe { BufferedFile::from_raw_fd(descriptor.into_raw_fd()) }
}

/// The executor's handle of a bound socket that listens.
#[expect(unsafe_code)]
pub(super) fn listener(socket: socket2::Socket) -> TcpListener {
    // SAFETY: as in `file`.
    unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) }
}

/// A stream's descriptor.
#[expect(unsafe_code)]
pub(super) fn of(stream: &TcpStream) -> BorrowedFd<'_> {
    // SAFETY: the stream owns its descriptor and keeps it open as long as it lives, which the result doesn't outlive.
    unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) }
}
