//! Giving the leadership to another voter (Raft thesis, section 3.10): no proposals meanwhile, the other catches up, then
//! it is asked to campaign at once. Given up when an election time-out has passed.
//!
//! From the moment it is asked, no lease of this term holds: its election ignores the promises that leases rest on.

use crate::planted::{Bug, planted};
use crate::raft::{Raft, State, leader_hint};
use crate::types::{Instant, Member, ReplicaId};

/// A transfer under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub(crate) to: ReplicaId,
    /// When it is given up.
    pub(crate) deadline: Instant,
    /// The other was asked.
    asked: bool,
}

/// Why the leadership is not given away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// This replica doesn't lead.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// It leads already.
    #[error("this replica leads already")]
    AlreadyLeads,
    /// That replica has no vote, or is about to lose it.
    #[error("replica {0} has no vote in this group")]
    NotVoter(ReplicaId),
    /// Another transfer is under way.
    #[error("the leadership is being transferred to replica {to}")]
    InProgress {
        /// To whom.
        to: ReplicaId,
    },
}

impl Raft {
    /// Begins to give the leadership to `to`. It is done when [`role`](Raft::role) says that this replica leads no
    /// more, and has failed when [`transferee`](Raft::transferee) is `None` again while it does.
    ///
    /// # Errors
    /// If this replica doesn't lead, or `to` can't; nothing changes then.
    pub fn transfer_leadership(&mut self, now: Instant, to: ReplicaId) -> Result<(), TransferError> {
        if !matches!(self.state, State::Leader(_)) {
            return Err(TransferError::NotLeader { leader: self.leader() });
        }
        if to == self.replica {
            return Err(TransferError::AlreadyLeads);
        }
        if !self.configuration.keeps_vote(to) {
            return Err(TransferError::NotVoter(to));
        }
        match self.transferee() {
            Some(under_way) if under_way == to => return Ok(()),
            Some(to) => return Err(TransferError::InProgress { to }),
            None => {}
        }
        let deadline = now.after(self.settings.election_timeout_max);
        self.rare().transfer = Some(Transfer { to, deadline, asked: false });
        self.hasten_for_transfer();
        self.push_transfer();
        Ok(())
    }

    /// To whom the leadership is being given.
    #[must_use]
    pub fn transferee(&self) -> Option<ReplicaId> {
        self.rare.as_ref()?.transfer.as_ref().map(|transfer| transfer.to)
    }

    /// Asks the other to campaign, once it has everything.
    pub(crate) fn push_transfer(&mut self) {
        let Some(Transfer { to, asked: false, .. }) = self.rare.as_ref().and_then(|rare| rare.transfer) else { return };
        let last = self.log.last_index();
        let Some(peer) = self.peer(to) else { return };
        if peer.matched < last {
            return;
        }
        peer.timeout_now = true;
        if let State::Leader(leadership) = &mut self.state {
            leadership.lease_ended = !planted(Bug::LeaseInTransfer);
        }
        if let Some(transfer) = &mut self.rare().transfer {
            transfer.asked = true;
        }
    }

    /// Gives a transfer up that took too long, or whose receiver is no voter any more. This leader goes on.
    pub(crate) fn check_transfer(&mut self, now: Instant) {
        let Some(transfer) = self.rare.as_ref().and_then(|rare| rare.transfer) else { return };
        if now >= transfer.deadline || !self.configuration.keeps_vote(transfer.to) {
            self.rare().transfer = None;
            self.tidy();
            if let Some(peer) = self.peer(transfer.to) {
                peer.timeout_now = false;
            }
        }
    }
}
