//! Snapshots on their way to peers that lack what the log no longer has. Each goes over a connection that carries nothing
//! else, with a bounded number of bytes ahead of what the peer has taken.
//!
//! It must never keep a peer waiting for a snapshot that will not come: whatever goes wrong, the protocol is told, and
//! begins again.

use super::Core;
use super::config::CoreConfig;
use super::deadlines::Slot;
use super::port::LinkId;
use super::receiving::Receiving;
use super::slot::{MachineFailed, contain};
use crate::group::SnapshotSource;
use crate::mail::{Answer, Unavailable};
use crate::wire::{FrameKind, Said, SnapshotAnswer, SnapshotBegin, SnapshotChunk, SnapshotEnd, TransferId};
use bytes::Bytes;
use raftyard_raft::planted::{Bug, planted};
use raftyard_raft::{Instant, NodeId, ReplicaId, Role, Term};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

/// How many of the largest pieces a peer may not have taken yet: so many bytes are sent ahead.
pub(super) const WINDOW_PIECES: u64 = 4;
/// Peers that wait for a snapshot and are looked at in one turn.
const LOOKED_AT_MAX: usize = 16;
/// How long a snapshot that failed is not tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A peer that needs a snapshot.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    node: NodeId,
    term: Term,
}

/// A snapshot on its way.
struct Outgoing {
    slot: Slot,
    to: ReplicaId,
    node: NodeId,
    term: Term,
    transfer: TransferId,
    link: LinkId,
    source: Box<dyn SnapshotSource>,
    /// What was read of it and is not sent.
    rest: Bytes,
    sent: u64,
    taken: u64,
    checksum: u32,
    ended: bool,
    /// When it last moved.
    moved_at: Instant,
}

/// A peer whose protocol has to be told of at some moment, unless it goes on by itself: then it is told in vain.
#[derive(Clone, Copy, Debug)]
struct Due {
    slot: Slot,
    to: ReplicaId,
    node: NodeId,
    term: Term,
    at: Instant,
}

/// What is being sent.
pub(super) struct Sending {
    /// Who waits for one. At most one entry for each peer of each group that is led here.
    wanted: BTreeMap<(Slot, ReplicaId), Wanted>,
    /// Who was last looked at.
    hand: (Slot, ReplicaId),
    /// Bounded by `snapshots_max`.
    outgoing: Vec<Outgoing>,
    due: Vec<Due>,
    next: u64,
}

impl Sending {
    pub(super) fn new(seed: u64) -> Sending {
        // An answer from before a restart names no transfer of this life.
        let next = seed.rotate_left(17) | 1;
        Sending { wanted: BTreeMap::new(), hand: Default::default(), outgoing: Vec::new(), due: Vec::new(), next }
    }

    /// When [`Core::handle_transfer_deadline`] has something to do.
    pub(super) fn next_deadline(&self, config: &CoreConfig) -> Option<Instant> {
        let stalled = self.outgoing.iter().map(|out| out.moved_at.after(config.snapshot_timeout));
        stalled.chain(self.due.iter().map(|due| due.at)).min()
    }

    fn forget(&mut self, slot: Slot) {
        self.wanted.retain(|(of, _), _| *of != slot);
        self.outgoing.retain(|out| out.slot != slot);
        self.due.retain(|due| due.slot != slot);
    }
}

impl Core {
    /// The protocol says that a peer lacks what the log no longer has.
    pub(super) fn want_snapshot(&mut self, slot: Slot, node: NodeId, to: ReplicaId, term: Term) {
        let same = |of: Slot, whose: ReplicaId| (of, whose) == (slot, to);
        while let Some(place) = self.sending.outgoing.iter().position(|out| same(out.slot, out.to)) {
            let out = self.sending.outgoing.swap_remove(place);
            self.abort(&out);
        }
        self.sending.due.retain(|due| !same(due.slot, due.to));
        self.sending.wanted.insert((slot, to), Wanted { node, term });
    }

    /// Begins what may begin, and goes on with what is on its way.
    pub(super) fn send_snapshots(&mut self) {
        for _ in 0..LOOKED_AT_MAX {
            if self.sending.outgoing.len() >= self.config.snapshots_max {
                break;
            }
            let after = (Bound::Excluded(self.sending.hand), Bound::Unbounded);
            let next = self.sending.wanted.range(after).next().or_else(|| self.sending.wanted.iter().next());
            let Some((&(slot, to), &wanted)) = next else { break };
            self.sending.hand = (slot, to);
            if self.begin_sending(slot, to, wanted) {
                self.sending.wanted.remove(&(slot, to));
            }
        }
        for mut out in std::mem::take(&mut self.sending.outgoing) {
            let group = &self.groups[out.slot as usize];
            if group.raft.role() != Role::Leader || group.raft.term() != out.term {
                // Whoever leads now sees to it.
                self.counters.snapshots_failed += 1;
                self.abort(&out);
                continue;
            }
            match self.send_more(&mut out) {
                Ok(()) => self.sending.outgoing.push(out),
                Err(failed) => {
                    self.abort(&out);
                    self.fail_group(out.slot, failed.reason);
                }
            }
        }
    }

    /// Begins one, if its connection stands. True: it is on its way, or nobody needs it any more.
    fn begin_sending(&mut self, slot: Slot, to: ReplicaId, wanted: Wanted) -> bool {
        let group = &mut self.groups[slot as usize];
        let Wanted { node, term } = wanted;
        if group.failed.is_some() || group.raft.role() != Role::Leader || group.raft.term() != term {
            return true;
        }
        let (id, from) = (group.raft.group(), group.raft.replica());
        let Some(link) = self.links.snapshot_link(node, id) else { return false };
        let Some(base) = group.raft.base_at(group.raft.applied()) else { return false };
        let source = match group.snapshot() {
            Ok(Some(source)) => source,
            Ok(None) => {
                tracing::warn!(group = %id, replica = %to, "a peer needs a snapshot, and the state machine gives none");
                return true;
            }
            Err(failed) => {
                self.fail_group(slot, failed.reason);
                return true;
            }
        };
        let transfer = TransferId(self.sending.next);
        self.sending.next = self.sending.next.wrapping_add(1);
        let mut body = Vec::new();
        SnapshotBegin { transfer, group: id, from, to, term, base }.write(&mut body);
        self.links.send_snapshot(link, FrameKind::SnapshotBegin, &[], &body);
        self.sending.outgoing.push(Outgoing {
            slot,
            to,
            node,
            term,
            transfer,
            link,
            source,
            rest: Bytes::new(),
            sent: 0,
            taken: 0,
            checksum: 0,
            ended: false,
            moved_at: self.now,
        });
        true
    }

    fn send_more(&mut self, out: &mut Outgoing) -> Result<(), MachineFailed> {
        let piece_bytes_max = self.piece_bytes_max();
        let mut body = Vec::new();
        while !out.ended && out.sent < out.taken + WINDOW_PIECES * piece_bytes_max as u64 {
            body.clear();
            if out.rest.is_empty() {
                match contain(|| out.source.next(piece_bytes_max))? {
                    None => {
                        out.ended = true;
                        let Outgoing { transfer, sent: bytes, checksum, .. } = *out;
                        SnapshotEnd { transfer, bytes, checksum }.write(&mut body);
                        self.links.send_snapshot(out.link, FrameKind::SnapshotEnd, &[], &body);
                        break;
                    }
                    // It has nothing to say now.
                    Some(piece) if piece.is_empty() => break,
                    Some(piece) => out.rest = piece,
                }
            }
            let piece = out.rest.split_to(out.rest.len().min(piece_bytes_max));
            SnapshotChunk { transfer: out.transfer, offset: out.sent }.write(&mut body);
            self.links.send_snapshot(out.link, FrameKind::SnapshotChunk, &piece, &body);
            out.sent += piece.len() as u64;
            out.checksum = crc32c::crc32c_append(out.checksum, &piece);
        }
        Ok(())
    }

    /// What a peer says of a snapshot.
    pub(super) fn handle_snapshot_answer(&mut self, now: Instant, node: NodeId, answer: &SnapshotAnswer) {
        let same = |out: &Outgoing| out.transfer == answer.transfer && out.node == node;
        let Some(place) = self.sending.outgoing.iter().position(same) else { return };
        let out = &mut self.sending.outgoing[place];
        match answer.said {
            // No peer has taken more than it was sent.
            Said::Taken(bytes) if bytes > out.sent => self.counters.messages_refused += 1,
            Said::Taken(bytes) => {
                if bytes > out.taken {
                    (out.taken, out.moved_at) = (bytes, now);
                }
            }
            Said::Done => {
                let out = self.sending.outgoing.swap_remove(place);
                self.counters.snapshots_sent += 1;
                // It may get lost there before it is durable, and its answer on the way.
                if !planted(Bug::SnapshotForgotten) {
                    self.tell_later(&out, now.after(self.config.snapshot_timeout));
                }
            }
            Said::Busy | Said::Failed => {
                let out = self.sending.outgoing.swap_remove(place);
                self.fail_sending(&out, now);
            }
        }
    }

    /// A connection ended, of either kind: what went over it did not get there, or will not come.
    pub(super) fn handle_transfers_down(&mut self, now: Instant, link: LinkId) {
        if link.is_accepted() {
            return self.end_receiving_on(link);
        }
        while let Some(place) = self.sending.outgoing.iter().position(|out| out.link == link) {
            let out = self.sending.outgoing.swap_remove(place);
            self.fail_sending(&out, now);
        }
    }

    /// A node can't be reached: what it said to have got it may have lost.
    pub(super) fn hasten_settling(&mut self, now: Instant, node: NodeId) {
        for due in self.sending.due.iter_mut().filter(|due| due.node == node) {
            due.at = due.at.min(now.after(RETRY_PAUSE));
        }
    }

    pub(super) fn handle_transfer_deadline(&mut self, now: Instant) {
        let timeout = self.config.snapshot_timeout;
        while let Some(place) = self.sending.outgoing.iter().position(|out| out.moved_at.after(timeout) <= now) {
            let out = self.sending.outgoing.swap_remove(place);
            tracing::warn!(replica = %out.to, node = %out.node, "a snapshot moves no more; it is sent anew");
            self.abort(&out);
            self.fail_sending(&out, now);
        }
        while let Some(place) = self.sending.due.iter().position(|due| due.at <= now) {
            let due = self.sending.due.swap_remove(place);
            let raft = &mut self.groups[due.slot as usize].raft;
            if raft.term() == due.term {
                raft.handle_snapshot_failed(due.to);
                self.mark_dirty(due.slot);
            }
        }
        self.end_stalled_receiving(now);
    }

    /// The group is no more, or not as it was.
    pub(super) fn drop_snapshots(&mut self, slot: Slot) {
        self.sending.forget(slot);
        while let Some(place) = self.savings.iter().position(|saving| saving.slot == slot) {
            let saving = self.savings.swap_remove(place);
            self.end_saving(saving, Unavailable::GroupFailed.into());
        }
        self.end_receiving_of(slot);
    }

    /// The core ends, or its log failed.
    pub(super) fn drop_all_snapshots(&mut self, why: Unavailable) {
        (self.sending.wanted, self.sending.outgoing, self.sending.due) = Default::default();
        while let Some(saving) = self.savings.pop() {
            self.end_saving(saving, why.into());
        }
        while let Some(wish) = self.wishes.pop_front() {
            self.answer(Answer::Compact(wish.reply, Err(why.into())));
        }
        self.receiving = Receiving::default();
    }

    fn fail_sending(&mut self, out: &Outgoing, now: Instant) {
        self.counters.snapshots_failed += 1;
        self.tell_later(out, now.after(RETRY_PAUSE));
    }

    /// The protocol begins again at that moment, if the peer still lacks entries then.
    fn tell_later(&mut self, out: &Outgoing, at: Instant) {
        let Outgoing { slot, to, node, term, .. } = *out;
        self.sending.due.push(Due { slot, to, node, term, at });
    }

    /// Tells the peer that no more will come.
    fn abort(&mut self, out: &Outgoing) {
        let mut body = Vec::new();
        out.transfer.write(&mut body);
        self.links.send_snapshot(out.link, FrameKind::SnapshotAbort, &[], &body);
    }
}
