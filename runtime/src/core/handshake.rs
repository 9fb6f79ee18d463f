//! Frames from other cores: who they are, and the messages they carry.

use super::Core;
use super::deadlines::Slot;
use super::durable::Waiting;
use super::links::{Accepted, Dialled};
use super::port::{LinkId, Notice, Output};
use crate::wire::{
    BatchReader, Frame, FrameError, FrameKind, Hello, Purpose, Refusal, SnapshotAnswer, SnapshotBegin, SnapshotChunk,
    SnapshotEnd, TransferId, Welcome, finish_frame, start_frame,
};
use raftyard_raft::planted::{Bug, planted};
use raftyard_raft::{Body, Instant, Message, NodeId, Role, Sender};
use raftyard_storage::wal::StoreId;
use std::time::Duration;

/// Bytes of the largest frame of a handshake.
const HANDSHAKE_BYTES_MAX: usize = 256;

/// Why a connection is closed by this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a frame that has no place here: {0:?}")]
    OutOfPlace(FrameKind),
    #[error("node {node} refuses this node: {refusal}")]
    RefusedBy { node: NodeId, refusal: Refusal },
    #[error("node {node} is refused: {refusal}")]
    Refused { node: NodeId, refusal: Refusal },
    #[error("no room to record who node {node} is; it will be dialled again")]
    Busy { node: NodeId },
}

/// Whether a peer's identity is on our disk.
enum Identity {
    Known,
    Recording,
    Foreign,
    /// The batch is full.
    Busy,
}

impl Core {
    pub(super) fn handle_bytes(&mut self, now: Instant, link: LinkId, bytes: &[u8]) {
        // Bytes of a connection that this core closed may still come.
        let Some(mut decoder) = self.links.take_decoder(link) else { return };
        // A stranger may not make this node keep more than a handshake.
        let up = matches!(self.links.accepted_state(link), Some(Accepted::Up { .. }));
        let frame_bytes_max = if up { self.config.frame_bytes_max } else { HANDSHAKE_BYTES_MAX };
        let mut reader = std::mem::take(&mut self.reader);
        let fed = decoder.feed(bytes, frame_bytes_max, |frame| self.handle_frame(now, link, &frame, &mut reader));
        self.reader = reader;
        match fed {
            Ok(()) => self.links.put_decoder(link, decoder),
            Err(error) => self.close(now, link, error),
        }
    }

    fn close(&mut self, now: Instant, link: LinkId, error: LinkError) {
        let refused = matches!(error, LinkError::RefusedBy { .. } | LinkError::Refused { .. });
        if refused {
            self.outputs.push_back(Output::Notice(Notice::Refused(error.to_string())));
        } else {
            tracing::warn!(%link, %error, "connection closed");
        }
        self.handle_transfers_down(now, link);
        if let Some(node) = self.links.close(now, link, refused, &mut self.outputs) {
            self.handle_unreachable(node);
        }
    }

    fn handle_frame(
        &mut self,
        now: Instant,
        link: LinkId,
        frame: &Frame<'_>,
        reader: &mut BatchReader,
    ) -> Result<(), LinkError> {
        if link.is_accepted() {
            match (self.links.accepted_state(link), frame.kind) {
                (Some(Accepted::Silent { .. }), FrameKind::Hello) => {
                    self.handle_hello(now, link, &Hello::read(frame.body)?)
                }
                (Some(Accepted::Up { from }), kind) => match self.links.purpose(link) {
                    Some(Purpose::Messages) => self.handle_messages(now, from, frame, reader),
                    Some(Purpose::Snapshots) => self.handle_snapshot(now, link, from, frame),
                    None => Err(LinkError::OutOfPlace(kind)),
                },
                (_, kind) => Err(LinkError::OutOfPlace(kind)),
            }
        } else {
            match (self.links.dialled_peer(link), frame.kind) {
                (Some((node, _, Dialled::Greeting { .. })), FrameKind::Welcome) => {
                    self.handle_welcome(now, link, node, &Welcome::read(frame.body)?)
                }
                (Some((node, _, Dialled::Greeting { .. })), FrameKind::Refusal) => {
                    Err(LinkError::RefusedBy { node, refusal: Refusal::read(frame.body)? })
                }
                (_, kind) => Err(LinkError::OutOfPlace(kind)),
            }
        }
    }

    fn handle_messages(
        &mut self,
        now: Instant,
        from: Sender,
        frame: &Frame<'_>,
        reader: &mut BatchReader,
    ) -> Result<(), LinkError> {
        match frame.kind {
            FrameKind::Messages => Ok(reader.read(frame, |message| self.handle_message(now, from, message))?),
            FrameKind::SnapshotAnswer => {
                self.handle_snapshot_answer(now, from.node, &SnapshotAnswer::read(frame.body)?);
                Ok(())
            }
            kind => Err(LinkError::OutOfPlace(kind)),
        }
    }

    fn handle_snapshot(
        &mut self,
        now: Instant,
        link: LinkId,
        from: Sender,
        frame: &Frame<'_>,
    ) -> Result<(), LinkError> {
        match frame.kind {
            FrameKind::SnapshotBegin => {
                self.handle_snapshot_begin(now, link, from, SnapshotBegin::read(frame.body)?);
            }
            FrameKind::SnapshotChunk => {
                self.handle_snapshot_chunk(now, link, SnapshotChunk::read(frame.body)?, frame.payload);
            }
            FrameKind::SnapshotEnd => self.handle_snapshot_end(now, link, &SnapshotEnd::read(frame.body)?),
            FrameKind::SnapshotAbort => self.handle_snapshot_abort(link, TransferId::read(frame.body)?),
            kind => return Err(LinkError::OutOfPlace(kind)),
        }
        Ok(())
    }

    fn handle_hello(&mut self, now: Instant, link: LinkId, hello: &Hello) -> Result<(), LinkError> {
        if let Err(refusal) = self.check_hello(hello) {
            self.reply(link, FrameKind::Refusal, |body| refusal.write(body));
            return Err(LinkError::Refused { node: hello.node, refusal });
        }
        // A promise that ends before this node's own would is none to rest a lease on.
        let promise = Duration::from_nanos(hello.promise_nanos);
        let keeps_promises = promise >= self.settings.election_timeout_min;
        let from = Sender { node: hello.node, keeps_promises };
        self.links.set_purpose(link, hello.purpose);
        match self.identify(hello.node, hello.store, link) {
            Identity::Known => {
                self.welcome(now, link, from);
                Ok(())
            }
            Identity::Recording => {
                self.links.set_accepted_state(link, Accepted::Recording { from });
                Ok(())
            }
            Identity::Busy => Err(LinkError::Busy { node: hello.node }),
            Identity::Foreign => {
                self.reply(link, FrameKind::Refusal, |body| Refusal::Store.write(body));
                Err(LinkError::Refused { node: hello.node, refusal: Refusal::Store })
            }
        }
    }

    fn check_hello(&self, hello: &Hello) -> Result<(), Refusal> {
        let config = &self.config;
        if hello.format != self.format {
            return Err(Refusal::Format);
        }
        if hello.cluster != config.cluster {
            return Err(Refusal::Cluster(config.cluster));
        }
        if hello.to_node != config.node {
            return Err(Refusal::Node(config.node));
        }
        if hello.to_core != config.core {
            return Err(Refusal::Core(config.core.0));
        }
        if !self.links.peers.contains_key(&hello.node) {
            return Err(Refusal::Stranger);
        }
        if hello.entry_bytes_max as usize > config.entry_bytes_max {
            // One of its commands could be more than a batch of this node's log can take.
            return Err(Refusal::EntryLimit(u32::try_from(config.entry_bytes_max).unwrap_or(u32::MAX)));
        }
        if hello.frame_bytes_max as usize > config.frame_bytes_max {
            return Err(Refusal::FrameLimit(u32::try_from(config.frame_bytes_max).unwrap_or(u32::MAX)));
        }
        Ok(())
    }

    fn handle_welcome(&mut self, now: Instant, link: LinkId, node: NodeId, welcome: &Welcome) -> Result<(), LinkError> {
        if welcome.node != node {
            return Err(LinkError::Refused { node, refusal: Refusal::Node(welcome.node) });
        }
        if let Some(peer) = self.links.peers.get_mut(&node) {
            peer.cores = Some(welcome.cores);
        }
        match self.identify(node, welcome.store, link) {
            Identity::Known => self.dialled_up(now, link, node),
            Identity::Recording => {}
            Identity::Busy => return Err(LinkError::Busy { node }),
            Identity::Foreign => return Err(LinkError::Refused { node, refusal: Refusal::Store }),
        }
        Ok(())
    }

    /// Compares a peer's store id with the first one ever seen under its node id, which is recorded durably before
    /// anything is said or believed: an emptied disk can't come back as the old node.
    fn identify(&mut self, node: NodeId, store: StoreId, link: LinkId) -> Identity {
        let Some(peer) = self.links.peers.get_mut(&node) else { return Identity::Foreign };
        let seq = match peer.store {
            Some((known, _)) if known != store && !planted(Bug::StoreNotCompared) => return Identity::Foreign,
            Some((_, seq)) if seq <= self.wal.released() => return Identity::Known,
            Some((_, seq)) => seq,
            None if !self.wal.has_room() => return Identity::Busy,
            None => {
                let seq = self.wal.record_peer(node, store);
                peer.store = Some((store, seq));
                seq
            }
        };
        self.durable.push(seq, Waiting::Peer(link));
        Identity::Recording
    }

    /// The identity of the peer behind `link` is durable.
    pub(super) fn peer_recorded(&mut self, now: Instant, link: LinkId) {
        if link.is_accepted() {
            if let Some(Accepted::Recording { from }) = self.links.accepted_state(link) {
                self.welcome(now, link, from);
            }
        } else if let Some((node, _, Dialled::Greeting { .. })) = self.links.dialled_peer(link) {
            self.dialled_up(now, link, node);
        }
    }

    /// Messages to that node flow: leaders send at once what its replicas lack.
    fn dialled_up(&mut self, now: Instant, link: LinkId, node: NodeId) {
        self.links.dialled_up(now, link);
        if self.links.purpose(link) == Some(Purpose::Snapshots) {
            return;
        }
        for slot in 0..self.groups.len() {
            let group = &mut self.groups[slot];
            for replica in group.replicas_on(node) {
                group.raft.handle_reachable(replica);
            }
            if group.raft.role() == Role::Leader {
                self.mark_dirty(slot as Slot);
            }
        }
    }

    fn welcome(&mut self, now: Instant, link: LinkId, from: Sender) {
        self.links.hasten(now, from.node);
        let config = &self.config;
        let welcome = Welcome {
            node: config.node,
            core: config.core,
            cores: config.cores,
            store: config.store,
            boot: config.boot,
        };
        self.reply(link, FrameKind::Welcome, |body| welcome.write(body));
        self.links.set_accepted_state(link, Accepted::Up { from });
    }

    /// The one frame that an accepted connection ever carries back.
    fn reply(&mut self, link: LinkId, kind: FrameKind, write: impl FnOnce(&mut Vec<u8>)) {
        let mut body = Vec::new();
        write(&mut body);
        let mut buffer = Vec::new();
        let start = start_frame(&mut buffer);
        finish_frame(&mut buffer, start, kind, &body);
        self.outputs.push_back(Output::Send { link, buffer });
    }

    /// A message for one of our groups from a node that has proved who it is.
    fn handle_message(&mut self, now: Instant, from: Sender, message: &Message<'_>) {
        let Some(&slot) = self.by_group.get(&message.group) else {
            // Not created here yet, or never: only a creation makes a replica.
            self.counters.messages_without_group += 1;
            return;
        };
        let full = self.wal.is_full();
        let over_memory = self.log_bytes > self.config.follower_log_bytes_max();
        let group = &mut self.groups[slot as usize];
        if group.failed.is_some() {
            return;
        }
        if let Body::Append { entries: (left, right), .. } = message.body {
            let bytes_max = self.config.entry_bytes_max;
            let mut entries = left.iter().chain(right).peekable();
            if (over_memory || full) && entries.peek().is_some() {
                // Not answered: the leader's window stays full and its proposals are refused by its own limit.
                self.counters.appends_refused += 1;
                return;
            }
            if entries.any(|entry| entry.data.len() > bytes_max) {
                // The handshake agreed on less; the log's batches have no room for it.
                self.counters.messages_refused += 1;
                return;
            }
        }
        if let Err(error) = group.raft.handle_message(now, from, *message) {
            self.counters.messages_refused += 1;
            tracing::debug!(node = %from.node, group = %message.group, %error, "message refused");
            return;
        }
        self.count_log_bytes(slot);
        self.mark_dirty(slot);
    }
}
