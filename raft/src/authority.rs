//! What a leader knows of its own authority: who acknowledged which heartbeat, whether a majority still hears it, and
//! what may rest on that - its leadership, read indexes, leases.
//!
//! It must never take an acknowledgement for newer than the heartbeat that it answers: everything counts from the moment
//! a heartbeat was sent, by the leader's own clock (Raft thesis, sections 6.2 and 6.4.1).

use crate::flags::Flag;
use crate::leader::Leadership;
use crate::planted::{Bug, planted};
use crate::progress::Progress;
use crate::raft::{Raft, State};
use crate::types::{Instant, ReplicaId};
use core::time::Duration;

/// A leader that commits nothing in so many election time-outs, though it has something to commit, steps down.
const STALLED_TIMEOUTS: u32 = 4;

impl Raft {
    /// Owes every peer a heartbeat, and an empty append to each that lacks entries and answered none since the beat
    /// before, so that a lost one is sent again. Nothing unless this replica leads.
    pub fn beat(&mut self, now: Instant) {
        if let State::Leader(leadership) = &mut self.state {
            leadership.start_round(now);
            for peer in &mut leadership.peers {
                peer.beat(self.log.last_index());
            }
            self.fetch_again();
        }
    }

    /// A peer acknowledged the heartbeat sent at `sent`.
    pub(crate) fn handle_heartbeat_answer(&mut self, replica: ReplicaId, sent: Instant, keeps_promises: bool) {
        if let Some(peer) = self.peer(replica)
            && peer.heard(sent, keeps_promises)
        {
            self.answer_asked();
        }
    }

    /// The last round of heartbeats that a majority has acknowledged: when it was sent, nobody else could have been
    /// elected by that majority.
    pub(crate) fn confirmed(&self) -> Instant {
        self.agreed_round(|peer| peer.acked)
    }

    /// Whether this replica stands by a leader, perhaps itself, so that no vote request moves it.
    pub(crate) fn is_loyal(&self, now: Instant) -> bool {
        match self.state {
            State::Leader(_) => self.is_alone() || now < self.confirmed().after(self.settings.election_timeout_min),
            _ => now < self.promise,
        }
    }

    /// Whether the promises of a majority still bind it: until then no other leader can be elected. A replica that is a
    /// majority by itself needs none.
    pub(crate) fn holds_lease(&self, now: Instant) -> bool {
        let State::Leader(leadership) = &self.state else { return false };
        if leadership.lease_ended || !self.settings.leases {
            return false;
        }
        let promised = self.agreed_round(Progress::promised);
        // A round's name may be later than the moment it was sent: a lease counts from the moment.
        let latest = Instant(now.0.saturating_add(u64::from(leadership.names_ahead)));
        let runs = planted(Bug::LeaseWithoutEnd) && promised > Instant(0);
        self.is_alone() || runs || (promised > Instant(0) && latest < promised.after(self.settings.lease()))
    }

    /// Looks whether a majority has acknowledged anything for an election time-out, and whether anything is committed.
    pub(crate) fn check_leadership(&mut self, now: Instant) {
        self.check_transfer(now);
        let timeout = self.settings.election_timeout_max;
        let (confirmed, alone) = (self.confirmed(), self.is_alone());
        let behind = self.commit < self.log.last_index();
        let State::Leader(leadership) = &mut self.state else { return };
        let first = leadership.progress_at == Instant(0);
        if !first && !alone && now.since(confirmed) >= timeout {
            return self.step_down(now);
        }
        let stalled = leadership.stalled_for(now, behind) >= timeout.saturating_mul(STALLED_TIMEOUTS);
        if stalled && !alone {
            self.step_down(now);
            return self.sit_out(now, timeout);
        }
        // A majority that was heard a moment ago is looked at again when that moment is a time-out old.
        let heard = if first || alone { now } else { confirmed };
        self.deadline = heard.after(timeout).max(Instant(now.0 + 1));
        self.hasten_for_transfer();
    }

    /// A leader also looks when a transfer ends.
    pub(crate) fn hasten_for_transfer(&mut self) {
        let transfer = self.rare.as_ref().and_then(|rare| rare.transfer.as_ref());
        if let Some(transfer) = transfer {
            self.deadline = self.deadline.min(transfer.deadline);
        }
    }

    /// Whether this replica by itself is a majority.
    pub(crate) fn is_alone(&self) -> bool {
        self.configuration.is_quorum(self.own_bit())
    }

    /// It could commit nothing, though it was heard: its disk may be the reason. Others try first.
    fn sit_out(&mut self, now: Instant, timeout: Duration) {
        self.flags.raise(Flag::SitsOut);
        if self.deadline != Instant::NEVER {
            self.deadline = self.deadline.max(now.after(timeout.saturating_mul(2)));
        }
    }

    fn agreed_round(&self, of: impl Fn(&Progress) -> Instant) -> Instant {
        let State::Leader(leadership) = &self.state else { return Instant(0) };
        let own = self.seat.map(usize::from);
        self.configuration.agreed(|seat| match leadership.at(own, seat) {
            Some(peer) => of(peer),
            None => leadership.round,
        })
    }
}

impl Leadership {
    /// Begins a round of heartbeats, later than all before it.
    pub(crate) fn start_round(&mut self, now: Instant) {
        self.round = now.max(Instant(self.round.0 + 1));
        let ahead = u32::try_from(self.round.0 - now.0).unwrap_or(u32::MAX);
        self.names_ahead = self.names_ahead.max(ahead);
        self.round_unsent = true;
        for peer in &mut self.peers {
            peer.heartbeat = true;
        }
    }

    /// For how long nothing was committed, of what there was to commit.
    fn stalled_for(&mut self, now: Instant, behind: bool) -> Duration {
        let moved = core::mem::take(&mut self.committed);
        if moved || !behind || self.progress_at == Instant(0) {
            self.progress_at = now.max(Instant(1));
        }
        now.since(self.progress_at)
    }
}
