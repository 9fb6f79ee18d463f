//! One TCP connection on a core: read through the executor, written at once where the kernel takes it.
//!
//! Knows nothing of frames or cores; the links and the measurement of the floor use the same code.

use super::descriptor;
use futures_lite::io::{AsyncReadExt, AsyncWriteExt};
use glommio::net::{TcpListener, TcpStream};
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Bytes read at once.
const READ_BYTES: usize = 128 * 1024;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Pause between two tries to bind a port.
const BIND_AGAIN: Duration = Duration::from_millis(5);

/// The reading half. One task owns it.
#[derive(Debug)]
pub(super) struct Reader {
    stream: TcpStream,
    buffer: Box<[u8]>,
}

/// The writing half. The same connection by another descriptor, so that both halves are used without a lock.
#[derive(Debug)]
pub(super) struct Writer {
    socket: OwnedFd,
}

impl Reader {
    /// Waits for bytes and gives them; none mean that the peer closed. A read that filled the buffer is followed by
    /// one that needs no wait; callers in a loop yield then.
    pub(super) async fn read(&mut self) -> io::Result<&[u8]> {
        let len = self.stream.read(&mut self.buffer).await?;
        Ok(&self.buffer[..len])
    }

    /// Whether `len` bytes filled the buffer, so that more may be there already.
    pub(super) fn was_filled(&self, len: usize) -> bool {
        len == self.buffer.len()
    }
}

impl Writer {
    /// Gives the kernel as many of the bytes as it takes without waiting, and says how many.
    pub(super) fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(sent) => Ok(sent),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the kernel all of the bytes, waiting as long as it takes. For the rest that [`send_now`](Self::send_now)
    /// left, which is rare enough for a handle of its own.
    pub(super) async fn send_rest(&self, bytes: &[u8]) -> io::Result<()> {
        let mut stream = TcpStream::from(Socket::from(std::net::TcpStream::from(self.socket.try_clone()?)));
        stream.write_all(bytes).await
    }

    /// Ends the connection both ways: the peer reads its end, and so does our reader. One that has ended already is
    /// no error.
    pub(super) fn shut_down(&self) {
        let _ = shutdown(&self.socket, Shutdown::Both);
    }
}

/// Binds a port without listening yet: a port in use is found before the log is opened, and nobody connects to a core
/// that is not ready. No SO_REUSEPORT: with it a second node of the same user would silently share the port.
pub(super) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a former process that linger must not keep the node from starting.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// [`bind`]s, and where the port is in use tries again for `patience`: a process that was killed is gone before the
/// kernel has closed the sockets its rings used, so a node started in its place would be refused its own port.
pub(super) fn bind_patiently(address: SocketAddr, patience: Duration) -> io::Result<Socket> {
    let began = Instant::now();
    loop {
        match bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < patience => {
                std::thread::sleep(BIND_AGAIN);
            }
            result => return result,
        }
    }
}

/// Listens on a bound port, on the executor of this thread.
pub(super) fn listen(socket: Socket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)?;
    Ok(descriptor::listener(socket))
}

/// The next connection from outside.
pub(super) async fn accept(listener: &TcpListener) -> io::Result<(Reader, Writer)> {
    let stream = listener.accept().await.map_err(io::Error::from)?;
    halves(stream)
}

/// Connects, or fails when `timeout` has passed.
pub(super) async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<(Reader, Writer)> {
    let stream = TcpStream::connect_timeout(address, timeout).await.map_err(io::Error::from)?;
    halves(stream)
}

/// Buffer sizes are left to the kernel: setting them would end their automatic growth, and without privileges the
/// largest that can be set is smaller than what they grow to.
fn halves(stream: TcpStream) -> io::Result<(Reader, Writer)> {
    stream.set_nodelay(true).map_err(io::Error::from)?;
    let socket = descriptor::of(&stream).try_clone_to_owned()?;
    Ok((Reader { stream, buffer: vec![0; READ_BYTES].into_boxed_slice() }, Writer { socket }))
}
