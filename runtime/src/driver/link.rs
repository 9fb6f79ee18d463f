//! The connections of a core: accepting, dialling, reading, writing, closing.
//!
//! A link is named from the moment it is dialled or accepted until its `LinkDown`; each has one task, its reader, that
//! also ends it. What the core sends is written at once; only what the kernel doesn't take gets a task of its own.

use super::clock;
use super::shared::Shared;
use super::socket::{self, Reader, Writer};
use crate::core::port::{CoreId, Input, LinkId};
use glommio::net::TcpListener;
use raftyard_raft::NodeId;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// A connection that stands.
#[derive(Debug)]
pub(super) struct Link {
    writer: Writer,
    /// A task is writing what the kernel didn't take at once.
    writing: Cell<bool>,
    /// Close it when that is written.
    closing: Cell<bool>,
}

/// How long accepting rests after an error, such as too many open files: it would return at once.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Accepts connections until the listening socket is shut down.
pub(super) async fn accept(shared: Rc<Shared>, listener: TcpListener) {
    let mut accepted = 0;
    while !shared.ending.get() {
        match socket::accept(&listener).await {
            Ok((reader, writer)) => {
                let link = LinkId::accepted(accepted);
                accepted += 1;
                shared.links.borrow_mut().insert(link, None);
                shared.spawn(serve(Rc::clone(&shared), link, reader, writer));
            }
            Err(_) if shared.ending.get() => return,
            Err(error) => {
                tracing::warn!(core = shared.id.0, "accepting a connection failed: {error}");
                glommio::timer::sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Dials a peer's core in a task of its own.
pub(super) fn dial(shared: &Rc<Shared>, link: LinkId, node: NodeId, core: CoreId) {
    let known = shared.links.borrow_mut().insert(link, None);
    assert!(known.is_none(), "a link is dialled once");
    let task = Rc::clone(shared);
    shared.spawn(async move {
        let connected = match task.resolver.address(node, core) {
            Some(address) => socket::connect(address, task.connect_timeout).await,
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        match connected {
            Ok((reader, writer)) => serve(task, link, reader, writer).await,
            Err(error) => {
                tracing::debug!(core = task.id.0, %link, %node, "dialling failed: {error}");
                down(&task, link);
            }
        }
    });
}

/// Writes a buffer, and gives it back if that is done already; otherwise it comes back to the core by itself, or never
/// if the connection ends.
pub(super) fn send(shared: &Rc<Shared>, link: LinkId, buffer: Vec<u8>) -> Option<Vec<u8>> {
    // A link that ended while the core was filling the buffer: the core knows, or will in this turn.
    let target = Rc::clone(shared.links.borrow().get(&link)?.as_ref()?);
    assert!(!target.writing.get(), "at most one buffer a link is under way");
    match target.writer.send_now(&buffer) {
        Ok(sent) if sent == buffer.len() => Some(buffer),
        Ok(sent) => {
            target.writing.set(true);
            shared.spawn(write_rest(Rc::clone(shared), link, target, buffer, sent));
            None
        }
        Err(error) => {
            tracing::debug!(core = shared.id.0, %link, "sending failed: {error}");
            // The reader reads the end and reports it.
            target.writer.shut_down();
            None
        }
    }
}

/// Closes a link once what was sent before is written.
pub(super) fn close(shared: &Shared, link: LinkId) {
    // One that is being dialled is forgotten: its task finds out when it is connected.
    if let Some(Some(link)) = shared.links.borrow_mut().remove(&link) {
        link.closing.set(true);
        if !link.writing.get() {
            link.writer.shut_down();
        }
    }
}

/// Ends all connections, so that the tasks that read them end.
pub(super) fn shut_down_all(shared: &Shared) {
    for link in shared.links.borrow().values().flatten() {
        link.writer.shut_down();
    }
}

/// Reads a connection to its end.
async fn serve(shared: Rc<Shared>, link: LinkId, mut reader: Reader, writer: Writer) {
    let state = Rc::new(Link { writer, writing: Cell::new(false), closing: Cell::new(false) });
    match shared.links.borrow_mut().get_mut(&link) {
        Some(entry) => *entry = Some(state),
        // Closed while it was dialled.
        None => return,
    }
    if shared.ending.get() {
        return;
    }
    shared.core.borrow_mut().handle(clock::now(), Input::LinkUp(link));
    shared.work.notify();
    if let Err(error) = read(&shared, link, &mut reader).await {
        tracing::debug!(core = shared.id.0, %link, "the connection ended: {error}");
    }
    down(&shared, link);
}

async fn read(shared: &Shared, link: LinkId, reader: &mut Reader) -> io::Result<()> {
    loop {
        let bytes = reader.read().await?;
        let len = bytes.len();
        if len == 0 || shared.ending.get() {
            return Ok(());
        }
        shared.core.borrow_mut().handle(clock::now(), Input::Bytes { link, bytes });
        shared.work.notify();
        if reader.was_filled(len) {
            // The next read may not wait either: without this a fast peer would keep all others from being heard.
            shared.breathe().await;
        }
    }
}

async fn write_rest(shared: Rc<Shared>, link: LinkId, target: Rc<Link>, buffer: Vec<u8>, sent: usize) {
    let written = target.writer.send_rest(&buffer[sent..]).await;
    target.writing.set(false);
    if written.is_err() || target.closing.get() {
        target.writer.shut_down();
        return;
    }
    let stands = shared.links.borrow().contains_key(&link);
    if stands && !shared.ending.get() {
        shared.core.borrow_mut().handle(clock::now(), Input::Sent { link, buffer });
        shared.work.notify();
    }
}

/// Tells the core that a link ended, unless the core closed it.
fn down(shared: &Shared, link: LinkId) {
    let removed = shared.links.borrow_mut().remove(&link);
    if removed.is_some() && !shared.ending.get() {
        shared.core.borrow_mut().handle(clock::now(), Input::LinkDown(link));
        shared.work.notify();
    }
}
