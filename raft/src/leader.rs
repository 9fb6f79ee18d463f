//! The leader's side of replication: what its peers hold, what is committed, what is to be sent next.
//!
//! It must never commit an entry of an earlier term by counting, and never count its own entries before they are
//! durable. Its appends and heartbeats are formed in `output`, when they are polled.

use crate::configuration::Configuration;
use crate::fetch::{self, Purpose};
use crate::log::{Log, prefix};
use crate::planted::{Bug, planted};
use crate::progress::{Mode, Progress};
use crate::raft::{Raft, Rare, State};
use crate::settings::Settings;
use crate::types::{Entry, Instant, LogIndex, LogPosition, ReplicaId};
use alloc::boxed::Box;

/// What only a leader knows.
#[derive(Debug)]
pub(crate) struct Leadership {
    /// One for each member but itself, by seat.
    pub(crate) peers: Box<[Progress]>,
    /// Bytes of the entries above the commit index that were in memory when it began to lead, or came since. None of these
    /// leaves it before it is committed.
    pub(crate) uncommitted_bytes: usize,
    /// When the last round of heartbeats began; no two begin at the same moment.
    pub(crate) round: Instant,
    /// By how many nanoseconds the name of a round was ever ahead of its moment.
    pub(crate) names_ahead: u32,
    /// When, at a look whether a majority still answers, the commit index had moved or nothing was missing; zero before
    /// the first look at these members.
    pub(crate) progress_at: Instant,
    /// The commit index moved since the last look.
    pub(crate) committed: bool,
    /// No heartbeat of the last round was polled yet.
    pub(crate) round_unsent: bool,
    /// Somebody was asked to campaign in spite of all promises: no lease rests on them any more.
    pub(crate) lease_ended: bool,
}

/// What a leader sends next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Next {
    Heartbeat {
        seat: usize,
        commit: LogIndex,
        sent: Instant,
    },
    /// The entries after `previous` up to `last`; none if that is `previous` itself.
    Append {
        seat: usize,
        previous: LogIndex,
        last: LogIndex,
    },
    TimeoutNow {
        seat: usize,
    },
    Snapshot {
        seat: usize,
    },
}

impl Leadership {
    pub(crate) fn new(peers: usize, next: LogIndex, uncommitted_bytes: usize) -> Leadership {
        Leadership {
            peers: (0..peers).map(|_| Progress::new(next)).collect(),
            uncommitted_bytes,
            round: Instant(0),
            names_ahead: 0,
            progress_at: Instant(0),
            committed: false,
            round_unsent: false,
            lease_ended: false,
        }
    }

    /// The progress of the member at `seat`; none of the leader's `own`.
    pub(crate) fn at(&self, own: Option<usize>, seat: usize) -> Option<&Progress> {
        place(own, seat).map(|place| &self.peers[place])
    }

    pub(crate) fn at_mut(&mut self, own: Option<usize>, seat: usize) -> Option<&mut Progress> {
        place(own, seat).map(|place| &mut self.peers[place])
    }

    /// The next message, heartbeats of a peer first: they are small, and what they keep from happening is an election.
    pub(crate) fn next(
        &mut self,
        (own, members): (Option<u8>, &Configuration),
        (log, rare): (&Log, Option<&Rare>),
        commit: LogIndex,
        settings: &Settings,
    ) -> Option<Next> {
        let base = log.base().index;
        for (i, peer) in self.peers.iter_mut().enumerate() {
            let seat = if own.is_some_and(|own| i >= usize::from(own)) { i + 1 } else { i };
            if core::mem::take(&mut peer.heartbeat) {
                self.round_unsent = false;
                return Some(Next::Heartbeat { seat, commit: commit.min(peer.matched), sent: self.round });
            }
            let previous = peer.next.previous();
            // What went before may be lost, and can't be sent again: a silent peer waits for no answer to that.
            let asked_again = peer.probe && peer.mode != Mode::Snapshot;
            if previous < base && (asked_again || peer.may_send(settings)) {
                peer.sent_snapshot(base);
                return Some(Next::Snapshot { seat });
            }
            if peer.probe && (previous >= base || peer.mode == Mode::Snapshot) {
                peer.sent_probe();
                let previous = previous.max(base);
                return Some(Next::Append { seat, previous, last: previous });
            }
            if peer.next <= log.last_index() && peer.may_send(settings) {
                if peer.next > log.floor().index {
                    let (last, bytes) = log.prefix(peer.next, log.last_index(), settings.append_bytes_max);
                    peer.sent(last, bytes);
                    return Some(Next::Append { seat, previous, last });
                }
                if let Some(last) = send_paged(peer, members.members()[seat].replica, (log, rare), settings) {
                    return Some(Next::Append { seat, previous, last });
                }
            }
            // The log may have grown since that was owed, by the end of a change of members: it would be refused.
            if peer.matched >= log.last_index() && core::mem::take(&mut peer.timeout_now) {
                return Some(Next::TimeoutNow { seat });
            }
        }
        None
    }

    /// The members changed: who stays keeps its progress, new ones begin at `next`.
    pub(crate) fn reseat(
        &mut self,
        (old, old_own): (&Configuration, Option<u8>),
        (new, new_own): (&Configuration, Option<u8>),
        next: LogIndex,
    ) {
        let own = new_own.map(|own| new.members()[usize::from(own)].replica);
        let others = new.members().iter().filter(|member| Some(member.replica) != own);
        let mut progress = |replica: ReplicaId| {
            let before = old.seat(replica).and_then(|seat| self.at_mut(old_own.map(usize::from), seat));
            before.map(|known| core::mem::replace(known, Progress::new(next)))
        };
        self.peers = others.map(|m| progress(m.replica).unwrap_or_else(|| Progress::new(next))).collect();
    }
}

/// Sends a peer that needs entries which are on disk alone those that were fetched for it. Where the logs agree is asked
/// without entries first: none is read before it is known to be needed. Says up to where what goes out reaches.
#[cold]
fn send_paged(
    peer: &mut Progress,
    replica: ReplicaId,
    (log, rare): (&Log, Option<&Rare>),
    settings: &Settings,
) -> Option<LogIndex> {
    if peer.mode != Mode::Replicate {
        peer.sent_probe();
        return Some(peer.next.previous());
    }
    let entries = fetch::held(&rare?.pages, Purpose::Append(replica), log.generation(), peer.next)?;
    let (last, bytes) = prefix(entries.iter(), peer.next, settings.append_bytes_max);
    peer.sent(last, bytes);
    Some(last)
}

fn place(own: Option<usize>, seat: usize) -> Option<usize> {
    match own {
        Some(own) if seat == own => None,
        Some(own) if seat > own => Some(seat - 1),
        _ => Some(seat),
    }
}

impl Raft {
    /// The peer's log equals this one up to `matched`, durably.
    pub(crate) fn handle_append_accepted(&mut self, replica: ReplicaId, matched: LogIndex) {
        let Some(peer) = self.peer(replica) else { return };
        if peer.accepted(matched) {
            self.advance_commit();
        }
        self.push_transfer();
    }

    /// The peer lacks the entry before the ones it was sent: go back, whole terms at a time (Raft paper, end of section
    /// 5.3). From the hint the leader looks for the last entry of its own that is not of a later term. If the peer's disk
    /// `lost` entries, that goes for those too which it acknowledged.
    pub(crate) fn handle_append_rejected(
        &mut self,
        replica: ReplicaId,
        rejected: LogIndex,
        hint: LogPosition,
        lost: bool,
    ) {
        let agree = self.log.highest_at_most(hint.index.min(self.log.last_index()), hint.term);
        if let Some(peer) = self.peer(replica) {
            if lost {
                peer.lost_entries(agree.min(rejected.previous()));
            }
            peer.rejected(rejected, agree);
        }
    }

    /// The progress of a peer, if this replica leads and that is one.
    pub(crate) fn peer(&mut self, replica: ReplicaId) -> Option<&mut Progress> {
        let seat = self.configuration.seat(replica)?;
        match &mut self.state {
            State::Leader(leadership) => leadership.at_mut(self.seat.map(usize::from), seat),
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
        let State::Leader(leadership) = &self.state else { return };
        let durable = if planted(Bug::OwnMatchEarly) { self.log.last_index() } else { self.log.durable() };
        let own = self.seat.map(usize::from);
        let held = self.configuration.agreed(|seat| leadership.at(own, seat).map_or(durable, |peer| peer.matched));
        if held > self.commit && self.log.term(held) == Some(self.term) {
            let bytes = self.log.bytes_between(self.commit, held);
            self.commit = held;
            if let State::Leader(leadership) = &mut self.state {
                leadership.committed = true;
                leadership.uncommitted_bytes -= bytes;
            }
            self.finish_change();
        }
    }

    /// Whether an entry of this term is committed: only then does the leader know all that is (Raft paper, section 8).
    pub(crate) fn knows_commit(&self) -> bool {
        self.log.term(self.commit) == Some(self.term)
    }
}
