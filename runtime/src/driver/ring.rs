//! What a core waits on: one io_uring ring with a read on its bell, a poll on its listening socket and a receive on each
//! connection. One system call both submits what is new and sleeps until something is there.
//!
//! The executor could wait for all of this too, but sleeping costs it a dozen system calls and an interrupt of every
//! other core of the process; a core sleeps several times for each proposal that comes alone. This file owns the
//! memory that the kernel reads into and writes from.

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Bytes received at once.
const RECEIVE_BYTES: usize = 128 * 1024;
/// Operations handed over at once; more are handed over in between.
const ENTRIES: u32 = 256;
/// How long the end of a core waits for the kernel to give back its memory.
const CANCEL_MAX: Duration = Duration::from_secs(2);

const BELL: u64 = 1 << 56;
const LISTENER: u64 = 2 << 56;
const RECEIVE: u64 = 3 << 56;
const SEND: u64 = 4 << 56;
const KIND: u64 = 0xff << 56;

/// A connection's place in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(u32);

/// Something that happened.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// The bell was rung.
    Bell,
    /// Somebody wants to be accepted. Told once; [`Ring::hear_knock`] for the next.
    Knock,
    /// Bytes came in.
    Received(Place, &'a [u8]),
    /// What was left to be sent is sent; the buffer comes back.
    Sent(Place, Vec<u8>),
    /// The connection is over and its place is free.
    Ended(Place),
}

/// One connection and the memory its operations use.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    received: Box<[u8]>,
    /// A receive is in flight.
    receiving: bool,
    /// What is being sent, and how much of it is. In flight as long as it is there.
    sending: Option<(Vec<u8>, usize)>,
    /// Closed by either side: nothing new is begun.
    over: bool,
}

/// The ring of one core.
pub(super) struct Ring {
    ring: IoUring,
    bell: OwnedFd,
    rung: Box<[u8; 8]>,
    listener: Option<OwnedFd>,
    /// Invariant: a place is reused only when none of its operations is in flight.
    connections: Vec<Option<Box<Connection>>>,
    in_flight: usize,
    /// Completions taken from the ring and not yet told; empty between calls, kept for its memory.
    taken: Vec<(u64, i32)>,
}

impl Ring {
    /// A ring that hears `bell`. Used only by the thread that makes it.
    pub(super) fn new(bell: BorrowedFd<'_>) -> io::Result<Ring> {
        // Completions are worked off when the owner asks for them, not by interrupting it.
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_cqsize(4096).build(ENTRIES)?;
        let bell = bell.try_clone_to_owned()?;
        let mut ring = Ring {
            ring,
            bell,
            rung: Box::new([0; 8]),
            listener: None,
            connections: Vec::new(),
            in_flight: 0,
            taken: Vec::new(),
        };
        ring.hear_bell()?;
        Ok(ring)
    }

    /// Tells of each that knocks at a listening socket, by [`Event::Knock`].
    pub(super) fn listen(&mut self, listener: OwnedFd) -> io::Result<()> {
        self.listener = Some(listener);
        self.hear_knock()
    }

    /// Takes a connection and receives from it.
    pub(super) fn open(&mut self, socket: OwnedFd) -> io::Result<Place> {
        let received = vec![0; RECEIVE_BYTES].into_boxed_slice();
        let connection = Connection { socket, received, receiving: false, sending: None, over: false };
        let free = self.connections.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.connections[place] = Some(Box::new(connection));
        let place = Place(u32::try_from(place).expect("a process has fewer descriptors"));
        if let Err(error) = self.receive(place) {
            // Nothing is in flight on it.
            self.connections[place.0 as usize] = None;
            return Err(error);
        }
        Ok(place)
    }

    /// Sends a buffer. Given back at once if the kernel took all of it; otherwise by [`Event::Sent`], or never if the
    /// connection ends first.
    pub(super) fn send(&mut self, place: Place, buffer: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
        let Some(connection) = self.connection(place).filter(|connection| !connection.over) else { return Ok(None) };
        assert!(connection.sending.is_none(), "at most one buffer a connection is under way");
        let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
        let sent = match rustix::net::send(&connection.socket, &buffer, flags) {
            Ok(sent) if sent == buffer.len() => return Ok(Some(buffer)),
            Ok(sent) => sent,
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            Err(_) => {
                // The receive in flight ends and tells.
                self.close(place);
                return Ok(None);
            }
        };
        connection.sending = Some((buffer, sent));
        self.send_rest(place)?;
        Ok(None)
    }

    /// Ends a connection; [`Event::Ended`] tells when its place is free.
    pub(super) fn close(&mut self, place: Place) {
        if let Some(connection) = self.connection(place) {
            // What is in flight on it ends by this; one that has ended already is no error.
            let _ = rustix::net::shutdown(&connection.socket, rustix::net::Shutdown::Both);
        }
    }

    /// Whether a buffer is under way on that connection.
    pub(super) fn is_sending(&self, place: Place) -> bool {
        let connection = self.connections.get(place.0 as usize).and_then(Option::as_ref);
        connection.is_some_and(|connection| connection.sending.is_some())
    }

    /// Hands over what is new and sleeps until something happened, for `timeout` at most.
    pub(super) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let time = Timespec::from(timeout);
        match self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time)) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(errno::ETIME | errno::EINTR | errno::EBUSY | errno::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Tells what happened, in order.
    pub(super) fn events(&mut self, mut each: impl FnMut(Event<'_>)) -> io::Result<()> {
        let mut taken = std::mem::take(&mut self.taken);
        taken.extend(self.ring.completion().map(|entry| (entry.user_data(), entry.result())));
        let mut result = Ok(());
        for (data, outcome) in taken.drain(..) {
            self.in_flight -= 1;
            let place = Place((data & u64::from(u32::MAX)) as u32);
            let told = match data & KIND {
                BELL => {
                    each(Event::Bell);
                    self.hear_bell()
                }
                LISTENER => {
                    each(Event::Knock);
                    Ok(())
                }
                RECEIVE => self.received(place, outcome, &mut each),
                SEND => self.sent(place, outcome, &mut each),
                _ => panic!("the kernel gives back the number it was given"),
            };
            result = result.and(told);
        }
        self.taken = taken;
        result
    }

    fn received(&mut self, place: Place, outcome: i32, each: &mut impl FnMut(Event<'_>)) -> io::Result<()> {
        let connection = self.connection(place).expect("its place is kept while a receive is in flight");
        connection.receiving = false;
        let len = usize::try_from(outcome).unwrap_or(0);
        if len == 0 && -outcome != errno::EINTR && -outcome != errno::EAGAIN {
            connection.over = true;
            self.close(place);
            self.free_if_over(place, each);
            return Ok(());
        }
        if len > 0 {
            let memory = std::mem::take(&mut connection.received);
            each(Event::Received(place, &memory[..len]));
            let connection = self.connection(place).expect("only its last completion ends a connection");
            connection.received = memory;
        }
        self.receive(place)
    }

    fn sent(&mut self, place: Place, outcome: i32, each: &mut impl FnMut(Event<'_>)) -> io::Result<()> {
        let connection = self.connection(place).expect("its place is kept while a send is in flight");
        let (buffer, sent) = connection.sending.take().expect("a completed send was under way");
        let sent = sent + usize::try_from(outcome).unwrap_or(0);
        let again = outcome > 0 || -outcome == errno::EINTR || -outcome == errno::EAGAIN;
        if connection.over || !again {
            // Broken: the receive ends it, if it has not.
            self.close(place);
            self.free_if_over(place, each);
        } else if sent < buffer.len() {
            connection.sending = Some((buffer, sent));
            return self.send_rest(place);
        } else {
            each(Event::Sent(place, buffer));
        }
        Ok(())
    }

    /// Frees the place of a connection that is over and has nothing in flight.
    fn free_if_over(&mut self, place: Place, each: &mut impl FnMut(Event<'_>)) {
        let done =
            |connection: &mut Connection| connection.over && !connection.receiving && connection.sending.is_none();
        if self.connection(place).is_some_and(done) {
            self.connections[place.0 as usize] = None;
            each(Event::Ended(place));
        }
    }

    fn connection(&mut self, place: Place) -> Option<&mut Connection> {
        self.connections.get_mut(place.0 as usize)?.as_deref_mut()
    }

    fn hear_bell(&mut self) -> io::Result<()> {
        let entry = opcode::Read::new(Fd(self.bell.as_raw_fd()), self.rung.as_mut_ptr(), 8).build();
        self.push(entry.user_data(BELL))
    }

    /// Tells of the next that knocks, at once if one waits already.
    pub(super) fn hear_knock(&mut self) -> io::Result<()> {
        let Some(listener) = &self.listener else { return Ok(()) };
        let entry = opcode::PollAdd::new(Fd(listener.as_raw_fd()), POLLIN).build();
        self.push(entry.user_data(LISTENER))
    }

    fn receive(&mut self, place: Place) -> io::Result<()> {
        let Some(connection) = self.connection(place) else { return Ok(()) };
        connection.receiving = true;
        let len = u32::try_from(connection.received.len()).expect("a small buffer");
        let fd = Fd(connection.socket.as_raw_fd());
        let entry = opcode::Recv::new(fd, connection.received.as_mut_ptr(), len).build();
        self.push(entry.user_data(RECEIVE | u64::from(place.0)))
    }

    fn send_rest(&mut self, place: Place) -> io::Result<()> {
        let connection = self.connection(place).expect("a send is under way");
        let (buffer, sent) = connection.sending.as_ref().expect("a send is under way");
        let rest = &buffer[*sent..];
        let len = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let fd = Fd(connection.socket.as_raw_fd());
        let entry = opcode::Send::new(fd, rest.as_ptr(), len).flags(MSG_NOSIGNAL).build();
        self.push(entry.user_data(SEND | u64::from(place.0)))
    }

    #[expect(unsafe_code)]
    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        while self.ring.submission().is_full() {
            match self.ring.submit() {
                Ok(_) => {}
                // The kernel is short of something, or of room for completions: neither lasts.
                Err(error) if matches!(error.raw_os_error(), Some(errno::EAGAIN | errno::EBUSY | errno::EINTR)) => {
                    std::thread::yield_now();
                }
                Err(error) => return Err(error),
            }
        }
        // SAFETY: every entry points into memory that this ring owns on the heap and keeps until the entry's completion
        // was seen: the bell's eight bytes, a connection's receive buffer (it leaves its connection only between two
        // receives), and the buffer being sent (owned by its connection while in flight). A connection's place is freed
        // only when nothing of it is in flight, and `drop` waits for everything or leaks it. The descriptors are owned
        // likewise.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(|_| io::Error::from_raw_os_error(errno::EBUSY))?;
        self.in_flight += 1;
        Ok(())
    }

    /// Waits until the kernel has given back all memory. False: it did not.
    fn cancel_all(&mut self) -> bool {
        let begin = std::time::Instant::now();
        while self.in_flight > 0 && begin.elapsed() < CANCEL_MAX {
            // Whether it found something to cancel doesn't matter: what counts is what comes back.
            drop(self.ring.submitter().register_sync_cancel(None, CancelBuilder::any()));
            if self.wait(Duration::from_millis(10)).is_err() {
                break;
            }
            self.in_flight -= self.ring.completion().count();
        }
        self.in_flight == 0
    }

    /// Ends all connections and listens no more. Nothing is told after this.
    pub(super) fn end(&mut self) {
        self.listener = None;
        for place in 0..self.connections.len() {
            self.close(Place(place as u32));
        }
        if self.cancel_all() {
            self.connections.clear();
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.end();
        if self.in_flight > 0 {
            tracing::warn!("the kernel did not give back a core's buffers in time; they are leaked");
            std::mem::forget(std::mem::take(&mut self.connections));
            std::mem::forget(std::mem::replace(&mut self.rung, Box::new([0; 8])));
        }
    }
}

const POLLIN: u32 = 1;
const MSG_NOSIGNAL: i32 = 0x4000;

/// Error numbers of Linux.
mod errno {
    pub(super) const EINTR: i32 = 4;
    pub(super) const EAGAIN: i32 = 11;
    pub(super) const EBUSY: i32 = 16;
    pub(super) const ETIME: i32 = 62;
}
