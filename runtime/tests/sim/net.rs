//! A simulated network of byte streams: delayed, cut anywhere, reset in the middle of a frame, blocked one way.

use crate::rng::Rng;
use raftyard_raft::Instant;
use raftyard_runtime::core::port::LinkId;
use std::collections::{BTreeMap, BTreeSet};

/// One end of a connection: a node in one of its lives, and its name for the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) node: usize,
    pub(crate) life: u64,
    pub(crate) link: LinkId,
}

#[derive(Debug)]
pub(crate) struct Connection {
    /// The end that dialled, and the end that accepted.
    pub(crate) ends: [End; 2],
    /// When the last bytes to each end arrive: a stream doesn't reorder.
    arrives: [Instant; 2],
    /// Bytes that can't get through to each end now.
    pub(crate) blocked: [Vec<u8>; 2],
    pub(crate) open: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) connections: Vec<Connection>,
    by_end: BTreeMap<(usize, u64, LinkId), (usize, usize)>,
    /// Pairs (from, to) between which nothing gets through.
    pub(crate) blocked: BTreeSet<(usize, usize)>,
    accepted: u64,
}

impl Net {
    pub(crate) fn connect(&mut self, now: Instant, dialled: End, node: usize, life: u64) -> usize {
        self.accepted += 1;
        let accepted = End { node, life, link: LinkId::accepted(self.accepted) };
        let place = self.connections.len();
        for (side, end) in [dialled, accepted].into_iter().enumerate() {
            self.by_end.insert((end.node, end.life, end.link), (place, side));
        }
        let ends = [dialled, accepted];
        self.connections.push(Connection { ends, arrives: [now; 2], blocked: Default::default(), open: true });
        place
    }

    /// The open connection that an end belongs to, and which side it is.
    pub(crate) fn find(&self, node: usize, life: u64, link: LinkId) -> Option<(usize, usize)> {
        let found = *self.by_end.get(&(node, life, link))?;
        self.connections[found.0].open.then_some(found)
    }

    /// When something sent now gets to `side`.
    pub(crate) fn arrival(&mut self, now: Instant, place: usize, side: usize, rng: &mut Rng) -> Instant {
        let delay = if rng.chance(2) { rng.micros(5_000, 150_000) } else { rng.micros(30, 2_000) };
        let connection = &mut self.connections[place];
        let at = now.after(delay).max(Instant(connection.arrives[side].0 + 1));
        connection.arrives[side] = at;
        at
    }

    /// The open connections of a node.
    pub(crate) fn of_node(&self, node: usize) -> Vec<usize> {
        let is_of = |connection: &Connection| connection.open && connection.ends.iter().any(|end| end.node == node);
        (0..self.connections.len()).filter(|&place| is_of(&self.connections[place])).collect()
    }

    pub(crate) fn open(&self) -> Vec<usize> {
        (0..self.connections.len()).filter(|&place| self.connections[place].open).collect()
    }

    pub(crate) fn is_blocked(&self, from: usize, to: usize) -> bool {
        self.blocked.contains(&(from, to))
    }
}
