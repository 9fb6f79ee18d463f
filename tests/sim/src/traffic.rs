//! How bytes get from node to node: dialled, sent, kept back, delivered, cut.

use crate::net::{End, Fate, frames, kind};
use crate::world::{Event, World};
use raftyard_runtime::core::port::{Input, LinkId};
use raftyard_runtime::wire::FrameKind;

impl World {
    pub(crate) fn dial(&mut self, from: End, to: usize) {
        let blocked = self.net.is_blocked(from.node, to) || self.net.is_blocked(to, from.node);
        if blocked || self.nodes[to].core.is_none() {
            let delay = self.rng.micros(100, 20_000);
            self.after(delay, Event::DialFailed { node: from.node, life: from.life, link: from.link });
            return;
        }
        let life = self.nodes[to].life;
        let connection = self.net.connect(self.now, from, to, life);
        self.tell(|_| format!("node {} dials node {}: connection {connection}", from.node + 1, to + 1));
        for side in [1, 0] {
            let at = self.net.arrival(self.now, connection, side, &mut self.rng);
            self.schedule(at, Event::Up { connection, side });
        }
    }

    pub(crate) fn send(&mut self, node: usize, life: u64, link: LinkId, buffer: Vec<u8>) {
        let Some((connection, side)) = self.net.find(node, life, link) else { return };
        let wild = self.now < self.net.wild_until;
        for frame in frames(&buffer) {
            if kind(frame) == FrameKind::Welcome as u8 {
                // It has the caller's disk on record before it says this.
                let caller = self.net.connections[connection].ends[1 - side].node;
                self.nodes[caller].known_by.insert(node);
            }
            self.tell_messages(node, self.net.connections[connection].ends[1 - side].node, frame);
            if wild {
                self.send_wildly(connection, 1 - side, frame)
            } else {
                self.send_frame(connection, 1 - side, frame)
            }
        }
        let delay = self.rng.micros(5, 300);
        self.after(delay, Event::Sent { connection, side, buffer });
    }

    /// A frame goes on its way, cut anywhere.
    fn send_frame(&mut self, connection: usize, side: usize, frame: &[u8]) {
        let mut rest = frame;
        while !rest.is_empty() {
            let cut = if self.rng.chance(30) { self.rng.below(rest.len() as u64) + 1 } else { rest.len() as u64 };
            let (bytes, after) = rest.split_at(cut as usize);
            rest = after;
            let at = self.net.arrival(self.now, connection, side, &mut self.rng);
            self.schedule(at, Event::Bytes { connection, side, bytes: bytes.to_vec() });
        }
    }

    fn send_wildly(&mut self, connection: usize, side: usize, frame: &[u8]) {
        // A handshake has nothing that a doubled or late frame of it could mean.
        let fate = if kind(frame) >= FrameKind::Messages as u8 {
            self.net.fate(self.now, &mut self.rng)
        } else {
            Fate::Arrives
        };
        match fate {
            Fate::Arrives => self.send_frame(connection, side, frame),
            Fate::Lost => self.hits.hit("frame lost"),
            Fate::Doubled => {
                self.hits.hit("frame doubled");
                self.send_frame(connection, side, frame);
                let latest = if self.rng.chance(30) { 1_500_000 } else { 200_000 };
                let delay = self.rng.micros(0, latest);
                self.after(delay, Event::LateFrame { connection, side, bytes: frame.to_vec() });
            }
            Fate::Late => {
                self.hits.hit("frame late");
                let latest = if self.rng.chance(20) { 2_000_000 } else { 60_000 };
                let delay = self.rng.micros(100, latest);
                self.after(delay, Event::LateFrame { connection, side, bytes: frame.to_vec() });
            }
            Fate::Corrupted => {
                self.hits.hit("bytes corrupted");
                let mut bytes = frame.to_vec();
                let bit = self.rng.below(bytes.len() as u64 * 8);
                bytes[bit as usize / 8] ^= 1 << (bit % 8);
                self.send_frame(connection, side, &bytes);
            }
        }
    }

    pub(crate) fn bytes(&mut self, connection: usize, side: usize, bytes: Vec<u8>) {
        let ends = self.net.connections[connection].ends;
        if self.net.is_blocked(ends[1 - side].node, ends[side].node) {
            self.net.connections[connection].blocked[side].extend(bytes);
            return;
        }
        let mut held = std::mem::take(&mut self.net.connections[connection].blocked[side]);
        held.extend(bytes);
        self.hand_to_end(connection, side, |link| Input::Bytes { link, bytes: &held });
    }

    /// What was blocked arrives.
    pub(crate) fn unblock(&mut self) {
        self.net.blocked.clear();
        self.net.slow.clear();
        for connection in self.net.open() {
            for side in 0..2 {
                let at = self.net.arrival(self.now, connection, side, &mut self.rng);
                self.schedule(at, Event::Bytes { connection, side, bytes: Vec::new() });
            }
        }
    }

    pub(crate) fn hand_to_end<'a>(&mut self, connection: usize, side: usize, input: impl FnOnce(LinkId) -> Input<'a>) {
        let Some(found) = self.net.connections.get(connection).filter(|c| c.open) else { return };
        let end = found.ends[side];
        if self.lives(end.node, end.life) {
            self.input(end.node, input(end.link));
        }
    }

    /// Ends a connection for the side that is not told by itself.
    pub(crate) fn close(&mut self, connection: usize, side: usize) {
        let at = self.net.arrival(self.now, connection, side, &mut self.rng);
        self.schedule(at, Event::Down { connection, side });
        // What is on its way to that side still arrives: the connection stays open for it until then.
        self.net.connections[connection].blocked[1 - side].clear();
    }

    /// Cuts a connection now, in the middle of whatever is on its way.
    pub(crate) fn reset(&mut self, connection: usize) {
        self.net.connections[connection].open = false;
        for side in 0..2 {
            let delay = self.rng.micros(10, 3_000);
            self.after(delay, Event::Down { connection, side });
        }
    }
}
