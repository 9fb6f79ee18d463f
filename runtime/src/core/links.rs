//! The connections of a core: dialled ones carry messages out, accepted ones carry them in. Who may speak, what waits
//! to be sent, when to dial again. What the messages mean is not known here.

use super::config::CoreConfig;
use super::placement::core_of;
use super::port::{CoreId, LinkId, Output};
use crate::wire::{BatchWriter, Decoder, FrameKind, Hello, Purpose, finish_frame, format_descriptor, start_frame};
use raftyard_raft::{GroupId, Instant, Message, NodeId, Sender};
use raftyard_storage::wal::{BatchSeq, StoreId};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Connections a core accepts at a time; more are closed at once.
pub(super) const ACCEPTED_MAX: usize = 256;
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A refusal needs an operator; ask again, but not often.
const BACKOFF_REFUSED: Duration = Duration::from_secs(5);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A send buffer that a burst has grown is given back above this.
const BUFFER_KEPT_BYTES: usize = 4 << 20;

/// What is known of another node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Peer {
    /// How many cores it has; told by its handshake.
    pub(super) cores: Option<u16>,
    /// Its data directory, and the batch of our log that says so.
    pub(super) store: Option<(StoreId, BatchSeq)>,
}

/// How far a dialled connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialled {
    /// To be dialled at this moment.
    Resting { until: Instant },
    /// Connecting, or waiting for the answer to our introduction, or for the peer's identity to be durable.
    Greeting { until: Instant },
    /// Messages flow.
    Up { since: Instant },
}

/// A connection to one core of another node, over all its reconnects.
#[derive(Debug)]
struct OutLink {
    node: NodeId,
    core: CoreId,
    purpose: Purpose,
    link: LinkId,
    state: Dialled,
    backoff: Duration,
    decoder: Decoder,
    writer: BatchWriter,
    /// What waits to be sent.
    buffer: Vec<u8>,
    /// The other buffer, when no send is under way.
    spare: Option<Vec<u8>>,
}

/// How far an accepted connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// The peer has not introduced itself.
    Silent { until: Instant },
    /// The peer is known; its identity is not durable yet.
    Recording { from: Sender },
    /// Messages flow.
    Up { from: Sender },
}

#[derive(Debug)]
struct InLink {
    state: Accepted,
    purpose: Purpose,
    decoder: Decoder,
}

/// All connections of a core.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) peers: BTreeMap<NodeId, Peer>,
    out: Vec<OutLink>,
    out_by_place: FxHashMap<(NodeId, CoreId, Purpose), usize>,
    out_by_link: FxHashMap<LinkId, usize>,
    accepted: BTreeMap<LinkId, InLink>,
    dialled: u64,
    hello: Hello,
    send_buffer_bytes_max: usize,
    frame_bytes_max: usize,
}

impl Links {
    pub(super) fn new(config: &CoreConfig, known: &[(NodeId, StoreId)]) -> Links {
        let mut peers: BTreeMap<NodeId, Peer> = config.peers.iter().map(|&node| (node, Peer::default())).collect();
        for (node, store) in known {
            if let Some(peer) = peers.get_mut(node) {
                peer.store = Some((*store, BatchSeq(0)));
            }
        }
        let hello = Hello {
            format: format_descriptor(),
            cluster: config.cluster,
            node: config.node,
            core: config.core,
            cores: config.cores,
            store: config.store,
            boot: config.boot,
            to_node: NodeId(0),
            to_core: CoreId(0),
            entry_bytes_max: u32::try_from(config.entry_bytes_max).expect("entry_bytes_max is below 4 GiB"),
            frame_bytes_max: u32::try_from(config.frame_bytes_max).expect("frame_bytes_max is below 4 GiB"),
            promise_nanos: config.promise_nanos(),
            purpose: Purpose::Messages,
        };
        Links {
            peers,
            out: Vec::new(),
            out_by_place: FxHashMap::default(),
            out_by_link: FxHashMap::default(),
            accepted: BTreeMap::new(),
            dialled: 0,
            hello,
            send_buffer_bytes_max: config.send_buffer_bytes_max,
            frame_bytes_max: config.frame_bytes_max,
        }
    }

    /// Dials the first core of every peer: its answer tells how many there are.
    pub(super) fn dial_all(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        let nodes: Vec<NodeId> = self.peers.keys().copied().collect();
        for node in nodes {
            let place = self.out_link(node, CoreId(0), Purpose::Messages);
            self.dial(place, now, outputs);
        }
    }

    /// That node has just dialled us, so it is up: connections to it that rest are dialled at the next deadline.
    pub(super) fn hasten(&mut self, now: Instant, node: NodeId) {
        for out in self.out.iter_mut().filter(|out| out.node == node) {
            if let Dialled::Resting { until } = &mut out.state {
                *until = now.min(*until);
                out.backoff = BACKOFF_MIN;
            }
        }
    }

    /// Puts a message into the send buffer of the core that hosts its group. False: dropped, because that core can't be
    /// reached now or its buffer is full.
    pub(super) fn send(&mut self, node: NodeId, message: &Message<'_>) -> bool {
        let Some(place) = self.route(node, message.group, Purpose::Messages) else { return false };
        let out = &mut self.out[place];
        if !matches!(out.state, Dialled::Up { .. }) {
            return false;
        }
        let bytes = BatchWriter::bytes_of(message);
        let open = out.writer.open_bytes(&out.buffer);
        if out.buffer.len() + open + bytes > self.send_buffer_bytes_max {
            return false;
        }
        if open > 0 && open + bytes > self.frame_bytes_max {
            out.writer.finish(&mut out.buffer);
        }
        out.writer.push(&mut out.buffer, message);
        true
    }

    /// The connection for snapshots to the core that hosts a group, if it stands; dialled if there never was one.
    pub(super) fn snapshot_link(&mut self, node: NodeId, group: GroupId) -> Option<LinkId> {
        let place = self.route(node, group, Purpose::Snapshots)?;
        let out = &self.out[place];
        matches!(out.state, Dialled::Up { .. }).then_some(out.link)
    }

    /// Puts a frame of a snapshot into the send buffer of its connection, which bounds itself by what is not answered yet.
    pub(super) fn send_snapshot(&mut self, link: LinkId, kind: FrameKind, payload: &[u8], body: &[u8]) {
        if let Some(&place) = self.out_by_link.get(&link) {
            put_frame(&mut self.out[place], kind, payload, body);
        }
    }

    /// Puts an answer to a snapshot among the messages to the core that hosts its group. False: dropped.
    pub(super) fn send_answer(&mut self, node: NodeId, group: GroupId, body: &[u8]) -> bool {
        let Some(place) = self.route(node, group, Purpose::Messages) else { return false };
        let out = &mut self.out[place];
        let room = out.buffer.len() + out.writer.open_bytes(&out.buffer) + body.len() < self.send_buffer_bytes_max;
        if !matches!(out.state, Dialled::Up { .. }) || !room {
            return false;
        }
        out.writer.finish(&mut out.buffer);
        put_frame(out, FrameKind::SnapshotAnswer, &[], body);
        true
    }

    fn route(&mut self, node: NodeId, group: GroupId, purpose: Purpose) -> Option<usize> {
        let cores = self.peers.get(&node)?.cores?;
        let core = core_of(group, cores);
        match self.out_by_place.get(&(node, core, purpose)) {
            Some(&place) => Some(place),
            // Dialled at the next deadline.
            None => Some(self.out_link(node, core, purpose)),
        }
    }

    /// Hands what waits to the driver, one buffer a connection at a time.
    pub(super) fn flush(&mut self, outputs: &mut VecDeque<Output>) {
        for out in &mut self.out {
            if let Some(mut spare) = out.spare.take_if(|_| !out.buffer.is_empty()) {
                out.writer.finish(&mut out.buffer);
                spare.clear();
                let buffer = std::mem::replace(&mut out.buffer, spare);
                outputs.push_back(Output::Send { link: out.link, buffer });
            }
        }
    }

    /// A dialled connection stands: introduce ourselves. An accepted one: wait for the peer to do so.
    pub(super) fn handle_up(&mut self, now: Instant, link: LinkId, outputs: &mut VecDeque<Output>) {
        if link.is_accepted() {
            if self.accepted.len() >= ACCEPTED_MAX {
                outputs.push_back(Output::Close(link));
                return;
            }
            let state = Accepted::Silent { until: now.after(HANDSHAKE_TIMEOUT) };
            let purpose = Purpose::Messages;
            self.accepted.insert(link, InLink { state, purpose, decoder: Decoder::default() });
            return;
        }
        let Some(&place) = self.out_by_link.get(&link) else { return };
        let out = &mut self.out[place];
        let hello = Hello { to_node: out.node, to_core: out.core, purpose: out.purpose, ..self.hello };
        let mut body = Vec::new();
        hello.write(&mut body);
        let start = start_frame(&mut out.buffer);
        finish_frame(&mut out.buffer, start, FrameKind::Hello, &body);
    }

    /// The connection ended. Returns the node that can't be reached any more, if messages reached it.
    pub(super) fn handle_down(&mut self, now: Instant, link: LinkId) -> Option<NodeId> {
        if link.is_accepted() {
            self.accepted.remove(&link);
            return None;
        }
        let place = *self.out_by_link.get(&link)?;
        self.rest(place, now, None)
    }

    /// The driver returns a buffer.
    pub(super) fn handle_sent(&mut self, link: LinkId, mut buffer: Vec<u8>) {
        let Some(&place) = self.out_by_link.get(&link) else { return };
        if buffer.capacity() > BUFFER_KEPT_BYTES {
            buffer = Vec::new();
        }
        self.out[place].spare = Some(buffer);
    }

    /// Closes a connection of either kind; a dialled one is dialled again later. Returns the node lost, as
    /// [`handle_down`](Links::handle_down) does.
    pub(super) fn close(
        &mut self,
        now: Instant,
        link: LinkId,
        refused: bool,
        outputs: &mut VecDeque<Output>,
    ) -> Option<NodeId> {
        outputs.push_back(Output::Close(link));
        if link.is_accepted() {
            self.accepted.remove(&link);
            return None;
        }
        let place = *self.out_by_link.get(&link)?;
        self.rest(place, now, refused.then_some(BACKOFF_REFUSED))
    }

    /// The peer of a dialled connection is who it should be, durably: messages flow.
    pub(super) fn dialled_up(&mut self, now: Instant, link: LinkId) {
        if let Some(&place) = self.out_by_link.get(&link) {
            self.out[place].state = Dialled::Up { since: now };
        }
    }

    /// Whom a dialled connection is for, while it is in use.
    pub(super) fn dialled_peer(&self, link: LinkId) -> Option<(NodeId, CoreId, Dialled)> {
        let out = &self.out[*self.out_by_link.get(&link)?];
        Some((out.node, out.core, out.state))
    }

    /// What a connection is for, of either kind.
    pub(super) fn purpose(&self, link: LinkId) -> Option<Purpose> {
        match link.is_accepted() {
            true => self.accepted.get(&link).map(|accepted| accepted.purpose),
            false => self.out_by_link.get(&link).map(|&place| self.out[place].purpose),
        }
    }

    pub(super) fn set_purpose(&mut self, link: LinkId, purpose: Purpose) {
        if let Some(accepted) = self.accepted.get_mut(&link) {
            accepted.purpose = purpose;
        }
    }

    pub(super) fn accepted_state(&self, link: LinkId) -> Option<Accepted> {
        self.accepted.get(&link).map(|accepted| accepted.state)
    }

    pub(super) fn set_accepted_state(&mut self, link: LinkId, state: Accepted) {
        if let Some(accepted) = self.accepted.get_mut(&link) {
            accepted.state = state;
        }
    }

    /// Takes a connection's decoder for the time of a feed; `None` if the connection is not in use.
    pub(super) fn take_decoder(&mut self, link: LinkId) -> Option<Decoder> {
        self.decoder(link).map(std::mem::take)
    }

    /// Gives it back, unless the connection was closed meanwhile.
    pub(super) fn put_decoder(&mut self, link: LinkId, decoder: Decoder) {
        if let Some(place) = self.decoder(link) {
            *place = decoder;
        }
    }

    fn decoder(&mut self, link: LinkId) -> Option<&mut Decoder> {
        if link.is_accepted() {
            return self.accepted.get_mut(&link).map(|accepted| &mut accepted.decoder);
        }
        let place = *self.out_by_link.get(&link)?;
        Some(&mut self.out[place].decoder)
    }

    /// Dials what rests long enough, closes what stays silent too long.
    pub(super) fn handle_deadline(&mut self, now: Instant, outputs: &mut VecDeque<Output>) {
        for place in 0..self.out.len() {
            match self.out[place].state {
                Dialled::Resting { until } if until <= now => self.dial(place, now, outputs),
                Dialled::Greeting { until } if until <= now => {
                    outputs.push_back(Output::Close(self.out[place].link));
                    self.rest(place, now, None);
                }
                _ => {}
            }
        }
        self.accepted.retain(|&link, accepted| {
            let silent = matches!(accepted.state, Accepted::Silent { until } if until <= now);
            if silent {
                outputs.push_back(Output::Close(link));
            }
            !silent
        });
    }

    /// When [`handle_deadline`](Links::handle_deadline) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let out = self.out.iter().filter_map(|out| match out.state {
            Dialled::Resting { until } | Dialled::Greeting { until } => Some(until),
            Dialled::Up { .. } => None,
        });
        let accepted = self.accepted.values().filter_map(|accepted| match accepted.state {
            Accepted::Silent { until } => Some(until),
            _ => None,
        });
        out.chain(accepted).min()
    }

    /// Closes everything and dials no more: the core's log failed, or the core shuts down.
    pub(super) fn close_all(&mut self, outputs: &mut VecDeque<Output>) {
        outputs.extend(self.out_by_link.keys().chain(self.accepted.keys()).map(|&link| Output::Close(link)));
        self.out.clear();
        self.out_by_place.clear();
        self.out_by_link.clear();
        self.accepted.clear();
        self.peers.clear();
    }

    fn out_link(&mut self, node: NodeId, core: CoreId, purpose: Purpose) -> usize {
        let place = self.out.len();
        self.out.push(OutLink {
            node,
            core,
            purpose,
            link: LinkId::dialled(0),
            state: Dialled::Resting { until: Instant(0) },
            backoff: BACKOFF_MIN,
            decoder: Decoder::default(),
            writer: BatchWriter::default(),
            buffer: Vec::new(),
            spare: None,
        });
        self.out_by_place.insert((node, core, purpose), place);
        place
    }

    fn dial(&mut self, place: usize, now: Instant, outputs: &mut VecDeque<Output>) {
        self.dialled += 1;
        let link = LinkId::dialled(self.dialled);
        let out = &mut self.out[place];
        out.link = link;
        out.state = Dialled::Greeting { until: now.after(HANDSHAKE_TIMEOUT) };
        out.spare = Some(Vec::new());
        self.out_by_link.insert(link, place);
        outputs.push_back(Output::Dial { link, node: out.node, core: out.core });
    }

    /// Forgets a connection and what waited on it.
    fn rest(&mut self, place: usize, now: Instant, pause: Option<Duration>) -> Option<NodeId> {
        let out = &mut self.out[place];
        self.out_by_link.remove(&out.link);
        // Only a connection that lasted ends the backing off: one that is ended after each handshake doesn't.
        let was_up = match out.state {
            Dialled::Up { since } => {
                if now.since(since) >= BACKOFF_MAX {
                    out.backoff = BACKOFF_MIN;
                }
                true
            }
            _ => false,
        };
        out.state = Dialled::Resting { until: now.after(pause.unwrap_or(out.backoff)) };
        out.backoff = (out.backoff * 2).min(BACKOFF_MAX);
        out.decoder = Decoder::default();
        out.writer.abandon();
        out.buffer = Vec::new();
        out.spare = None;
        (was_up && out.purpose == Purpose::Messages).then_some(out.node)
    }
}

fn put_frame(out: &mut OutLink, kind: FrameKind, payload: &[u8], body: &[u8]) {
    let start = start_frame(&mut out.buffer);
    out.buffer.extend_from_slice(payload);
    finish_frame(&mut out.buffer, start, kind, body);
}
