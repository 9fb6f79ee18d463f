//! A simulated network of byte streams: delayed, cut anywhere, reset in the middle of a frame, blocked one way; and, as no
//! honest stream does, with whole frames lost, doubled, late, or damaged.

use crate::rng::Rng;
use raftyard_raft::Instant;
use raftyard_runtime::core::port::LinkId;
use raftyard_runtime::wire::HEADER_BYTES;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

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
    /// Pairs between which everything takes longer, and how much.
    pub(crate) slow: BTreeMap<(usize, usize), Duration>,
    /// Until then frames get lost, doubled, late and damaged.
    pub(crate) wild_until: Instant,
    /// Until then most of them.
    pub(crate) raving_until: Instant,
    accepted: u64,
}

/// What happens to a frame on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Arrives,
    Lost,
    Doubled,
    Late,
    Corrupted,
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
        let ends = self.connections[place].ends;
        let delay = if rng.chance(2) { rng.micros(5_000, 150_000) } else { rng.micros(30, 2_000) };
        let slow = self.slow.get(&(ends[1 - side].node, ends[side].node)).copied().unwrap_or_default();
        let connection = &mut self.connections[place];
        let at = now.after(delay + slow).max(Instant(connection.arrives[side].0 + 1));
        connection.arrives[side] = at;
        at
    }

    /// What becomes of a frame that is sent now.
    pub(crate) fn fate(&self, now: Instant, rng: &mut Rng) -> Fate {
        if now >= self.wild_until {
            return Fate::Arrives;
        }
        if now < self.raving_until && rng.chance(50) {
            return if rng.chance(60) { Fate::Late } else { Fate::Doubled };
        }
        match rng.below(200) {
            0..10 => Fate::Lost,
            10..34 => Fate::Doubled,
            34..54 => Fate::Late,
            54 => Fate::Corrupted,
            _ => Fate::Arrives,
        }
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

/// The frames that a send buffer is made of. A core hands out whole ones only.
pub(crate) fn frames(mut buffer: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let header = buffer.first_chunk::<HEADER_BYTES>()?;
        let part =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let (frame, rest) = buffer.split_at_checked(HEADER_BYTES + part(8) + part(12))?;
        buffer = rest;
        Some(frame)
    })
}

/// The byte of a frame that tells its kind.
pub(crate) fn kind(frame: &[u8]) -> u8 {
    frame[5]
}
