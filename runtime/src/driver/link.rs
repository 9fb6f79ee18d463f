//! The connections of a core: accepting, dialling, sending, closing. A link is named from the moment it is dialled or
//! accepted until its `LinkDown`.

use super::clock;
use super::ring::Place;
use super::shared::Shared;
use super::socket;
use crate::core::port::{CoreId, Input, LinkId};
use raftyard_raft::NodeId;
use rustc_hash::FxHashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

/// The links of a core and the connections they are.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: FxHashMap<LinkId, Link>,
    by_place: FxHashMap<Place, LinkId>,
    accepted: u64,
}

#[derive(Clone, Copy, Debug)]
enum Link {
    Dialling,
    Stands {
        place: Place,
        /// Close it when what is being sent is sent.
        closing: bool,
    },
}

impl Links {
    fn place(&self, link: LinkId) -> Option<Place> {
        match self.links.get(&link)? {
            Link::Stands { place, .. } => Some(*place),
            Link::Dialling => None,
        }
    }

    /// The link that is this connection, unless the core closed it.
    pub(super) fn link(&self, place: Place) -> Option<LinkId> {
        self.by_place.get(&place).copied().filter(|link| self.links.contains_key(link))
    }
}

/// How long accepting rests after an error, such as too many open files: it would come back at once.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Accepts whoever knocks, and listens for the next.
pub(super) fn accept(shared: &Rc<Shared>) -> io::Result<()> {
    let Some(listener) = &*shared.listener.borrow() else { return Ok(()) };
    loop {
        match socket::accept(listener) {
            Ok(Some(socket)) => {
                let link = {
                    let mut links = shared.links.borrow_mut();
                    links.accepted += 1;
                    LinkId::accepted(links.accepted)
                };
                stands(shared, link, socket);
            }
            Ok(None) => return shared.ring.borrow_mut().hear_knock(),
            Err(error) => {
                tracing::warn!(core = shared.id.0, "accepting a connection failed: {error}");
                shared.accept_again.set(Some(clock::now().after(ACCEPT_REST)));
                return Ok(());
            }
        }
    }
}

/// Dials a peer's core in a task of its own.
pub(super) fn dial(shared: &Rc<Shared>, link: LinkId, node: NodeId, core: CoreId) {
    let known = shared.links.borrow_mut().links.insert(link, Link::Dialling);
    assert!(known.is_none(), "a link is dialled once");
    shared.dialling.set(shared.dialling.get() + 1);
    let task = Rc::clone(shared);
    shared.spawn(async move {
        let connected = match task.resolver.address(node, core) {
            Some(address) => socket::connect(address, task.connect_timeout).await,
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        task.dialling.set(task.dialling.get() - 1);
        // Closed while it was dialled: nobody wants it any more.
        if !task.links.borrow().links.contains_key(&link) || task.ending.get() {
            return;
        }
        match connected {
            Ok(socket) => stands(&task, link, socket),
            Err(error) => {
                tracing::debug!(core = task.id.0, %link, %node, "dialling failed: {error}");
                task.links.borrow_mut().links.remove(&link);
                task.core.borrow_mut().handle(clock::now(), Input::LinkDown(link));
            }
        }
    });
}

fn stands(shared: &Shared, link: LinkId, socket: OwnedFd) {
    let opened = shared.ring.borrow_mut().open(socket);
    let mut links = shared.links.borrow_mut();
    let input = match opened {
        Ok(place) => {
            links.links.insert(link, Link::Stands { place, closing: false });
            let before = links.by_place.insert(place, link);
            assert!(before.is_none(), "a connection that ended is forgotten before its place is used again");
            Input::LinkUp(link)
        }
        Err(error) => {
            tracing::warn!(core = shared.id.0, %link, "a connection can't be used: {error}");
            links.links.remove(&link);
            Input::LinkDown(link)
        }
    };
    drop(links);
    shared.core.borrow_mut().handle(clock::now(), input);
}

/// Sends a buffer, and gives it back if that is done already; otherwise it comes back to the core by itself, or never
/// if the connection ends.
pub(super) fn send(shared: &Shared, link: LinkId, buffer: Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    // A link that ended while the core was filling the buffer: the core knows, or will in this turn.
    let Some(place) = shared.links.borrow().place(link) else { return Ok(None) };
    shared.ring.borrow_mut().send(place, buffer)
}

/// Closes a link once what was sent before is sent.
pub(super) fn close(shared: &Shared, link: LinkId) {
    let mut links = shared.links.borrow_mut();
    let Some(place) = links.place(link) else {
        // Being dialled: its task finds out when it is connected.
        links.links.remove(&link);
        return;
    };
    let mut ring = shared.ring.borrow_mut();
    if ring.is_sending(place) {
        links.links.insert(link, Link::Stands { place, closing: true });
    } else {
        links.links.remove(&link);
        ring.close(place);
    }
}

/// What was being sent on a connection is sent. Gives the link to tell, unless it was only waited for to be closed.
pub(super) fn sent(shared: &Shared, place: Place) -> Option<LinkId> {
    let link = shared.links.borrow().link(place)?;
    let closing = matches!(shared.links.borrow().links.get(&link), Some(Link::Stands { closing: true, .. }));
    if closing {
        close(shared, link);
    }
    (!closing).then_some(link)
}

/// A connection is over. Gives the link to tell, unless the core closed it.
pub(super) fn ended(shared: &Shared, place: Place) -> Option<LinkId> {
    let mut links = shared.links.borrow_mut();
    let link = links.by_place.remove(&place)?;
    match links.links.remove(&link)? {
        Link::Stands { closing: true, .. } => None,
        _ => Some(link),
    }
}
