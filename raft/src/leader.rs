//! The leader's side of replication: what its peers hold, what is committed, what is to be sent next.
//!
//! It must never commit an entry of an earlier term by counting, and never count its own entries before they are
//! durable. Its appends and heartbeats are formed in `output`, when they are polled.

use crate::log::Log;
use crate::progress::Progress;
use crate::raft::{Raft, State};
use crate::settings::Settings;
use crate::types::{Configuration, Entry, LogIndex, LogPosition, ReplicaId};
use alloc::boxed::Box;

/// What only a leader knows.
#[derive(Debug)]
pub(crate) struct Leadership {
    /// One for each voter but itself, in the order of the configuration.
    peers: Box<[Progress]>,
    /// Bytes of the entries above the commit index.
    pub(crate) uncommitted_bytes: usize,
}

/// What a leader sends next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    Heartbeat {
        seat: usize,
        commit: LogIndex,
    },
    /// The entries after `previous` up to `last`; none if that is `previous` itself.
    Append {
        seat: usize,
        previous: LogIndex,
        last: LogIndex,
    },
}

impl Leadership {
    pub(crate) fn new(peers: usize, next: LogIndex, uncommitted_bytes: usize) -> Leadership {
        Leadership { peers: (0..peers).map(|_| Progress::new(next)).collect(), uncommitted_bytes }
    }

    /// The progress of the voter at `seat`, which is not the leader's `own`.
    pub(crate) fn peer(&mut self, own: u8, seat: usize) -> &mut Progress {
        let own = usize::from(own);
        assert_ne!(seat, own, "a leader has no progress of its own");
        &mut self.peers[if seat > own { seat - 1 } else { seat }]
    }

    /// The next message, heartbeats of a peer first: they are small, and what they keep from happening is an election.
    pub(crate) fn next(&mut self, own: u8, log: &Log, commit: LogIndex, settings: &Settings) -> Option<Next> {
        for (i, peer) in self.peers.iter_mut().enumerate() {
            let seat = if i >= usize::from(own) { i + 1 } else { i };
            if core::mem::take(&mut peer.heartbeat) {
                return Some(Next::Heartbeat { seat, commit: commit.min(peer.matched) });
            }
            let previous = peer.next.previous();
            if peer.probe {
                peer.sent_probe();
                return Some(Next::Append { seat, previous, last: previous });
            }
            if peer.next <= log.last_index() && peer.may_send(settings) {
                let (last, bytes) = log.prefix(peer.next, log.last_index(), settings.append_bytes_max);
                peer.sent(last, bytes);
                return Some(Next::Append { seat, previous, last });
            }
        }
        None
    }

    /// The highest index that a majority holds durably, this leader counted with what its own disk has.
    fn held_by_quorum(&self, own_durable: LogIndex, quorum: usize) -> LogIndex {
        let mut held = [LogIndex(0); Configuration::VOTERS_MAX];
        held[0] = own_durable;
        for (slot, peer) in held[1..].iter_mut().zip(&self.peers) {
            *slot = peer.matched;
        }
        let held = &mut held[..=self.peers.len()];
        held.sort_unstable_by(|a, b| b.cmp(a));
        held[quorum - 1]
    }
}

impl Raft {
    /// Owes every peer a heartbeat, and an empty append to each that lacks entries and answered none since the beat
    /// before, so that a lost one is sent again. Nothing unless this replica leads.
    pub fn beat(&mut self) {
        if let State::Leader(leadership) = &mut self.state {
            for peer in &mut leadership.peers {
                peer.beat(self.log.last_index());
            }
        }
    }

    /// The peer's log equals this one up to `matched`, durably.
    pub(crate) fn handle_append_accepted(&mut self, seat: usize, matched: LogIndex) {
        let State::Leader(leadership) = &mut self.state else { return };
        if leadership.peer(self.seat, seat).accepted(matched) {
            self.advance_commit();
        }
    }

    /// The peer lacks the entry before the ones it was sent: go back, whole terms at a time (Raft paper, end of section
    /// 5.3). From the hint the leader looks for the last entry of its own that is not of a later term.
    pub(crate) fn handle_append_rejected(&mut self, seat: usize, rejected: LogIndex, hint: LogPosition) {
        let State::Leader(leadership) = &mut self.state else { return };
        let agree = self.log.highest_at_most(hint.index.min(self.log.last_index()), hint.term);
        leadership.peer(self.seat, seat).rejected(rejected, agree.index);
    }

    /// The progress of a peer, if this replica leads and that is one.
    pub(crate) fn peer(&mut self, replica: ReplicaId) -> Option<&mut Progress> {
        let seat = self.configuration.voter_index(replica).filter(|seat| *seat != usize::from(self.seat))?;
        match &mut self.state {
            State::Leader(leadership) => Some(leadership.peer(self.seat, seat)),
            _ => None,
        }
    }

    pub(crate) fn append_as_leader(&mut self, entry: Entry) {
        let State::Leader(leadership) = &mut self.state else { panic!("only a leader appends") };
        leadership.uncommitted_bytes += entry.cost();
        self.log.push(entry);
    }

    /// Commits what a majority holds, if that is an entry of this term: one of an earlier term on a majority can still
    /// be replaced (Raft paper, section 5.4.2 and figure 8).
    pub(crate) fn advance_commit(&mut self) {
        let State::Leader(leadership) = &mut self.state else { return };
        let held = leadership.held_by_quorum(self.log.durable(), self.configuration.quorum());
        if held > self.commit && self.log.term(held) == Some(self.hard.term) {
            leadership.uncommitted_bytes -= self.log.bytes_between(self.commit, held);
            self.commit = held;
        }
    }
}
