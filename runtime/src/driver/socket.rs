//! TCP sockets as a core uses them: made, bound, accepted, dialled. What flows through them is the ring's business.

use super::descriptor;
use glommio::net::TcpStream;
use rustix::net::{SocketFlags, accept_with};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// How long bytes may stay unacknowledged by the other side before the connection is given up, in milliseconds.
const PEER_SILENT_MAX_MS: u32 = 3_000;

/// Without traffic, how often the other side is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// Pause between two tries to bind a port.
const BIND_AGAIN: Duration = Duration::from_millis(5);

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

/// Listens on a bound port.
pub(super) fn listen(socket: Socket) -> io::Result<OwnedFd> {
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(std::net::TcpListener::from(socket).into())
}

/// The next connection from outside, if one waits.
pub(super) fn accept(listener: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    match accept_with(listener, SocketFlags::CLOEXEC) {
        Ok(socket) => ready(socket).map(Some),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Connects, or fails when `timeout` has passed.
pub(super) async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<OwnedFd> {
    let stream = TcpStream::connect_timeout(address, timeout).await.map_err(io::Error::from)?;
    ready(descriptor::of(&stream).try_clone_to_owned()?)
}

/// Buffer sizes are left to the kernel: setting them would end their automatic growth, and without privileges the
/// largest that can be set is smaller than what they grow to.
fn ready(socket: OwnedFd) -> io::Result<OwnedFd> {
    rustix::net::sockopt::set_tcp_nodelay(socket.as_fd(), true)?;
    // A host that vanished, or a path that drops everything, ends the connection: the core dials again and doesn't wait
    // for the kernel's minutes.
    rustix::net::sockopt::set_tcp_user_timeout(&socket, PEER_SILENT_MAX_MS)?;
    rustix::net::sockopt::set_socket_keepalive(&socket, true)?;
    rustix::net::sockopt::set_tcp_keepidle(&socket, KEEPALIVE)?;
    rustix::net::sockopt::set_tcp_keepintvl(&socket, KEEPALIVE)?;
    // The ring waits for a blocking socket and gives up at once on any other.
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}
