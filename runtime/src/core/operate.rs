//! Reads, and what operators ask of a group: members, leadership. The protocol decides; here its answers find who waits.

use super::control::ChangeReply;
use super::deadlines::Slot;
use super::reads::{ReadReply, Wait};
use super::{Core, Phase};
use crate::mail::{
    Answer, CampaignError, ChangeError, Changed, ForceError, Limit, NotChanged, NotProposed, ReadError, ReadMode,
    Reply, TransferError, Unavailable,
};
use bytes::Bytes;
use raftyard_raft::{ConfigurationEntry, GroupId, Instant, LogPosition, Member, MemberChange, NodeId};

impl Core {
    pub(super) fn handle_read(&mut self, now: Instant, group: GroupId, mode: ReadMode, query: Bytes, reply: ReadReply) {
        match self.begin_read(now, group, mode) {
            Ok((slot, wait)) => {
                let expires = now.after(self.config.proposal_timeout);
                self.groups[slot as usize].reads.push(wait, query, expires, reply);
                self.count_reads(slot);
                self.mark_dirty(slot);
                self.schedule(slot);
            }
            Err(error) => self.answer(Answer::Read(reply, Err(error))),
        }
    }

    fn begin_read(&mut self, now: Instant, group: GroupId, mode: ReadMode) -> Result<(Slot, Wait), ReadError> {
        let slot = self.available(group)?;
        if self.reads >= self.config.reads_max {
            return Err(Unavailable::Overloaded(Limit::Reads).into());
        }
        let raft = &mut self.groups[slot as usize].raft;
        let wait = match mode {
            ReadMode::Lease => raft.lease_read(now).map(Wait::Applied),
            ReadMode::Index if raft.role() != raftyard_raft::Role::Leader => {
                Err(raftyard_raft::ReadError::NotLeader { leader: raft.leader() })
            }
            ReadMode::Index | ReadMode::Follower => raft.read_index(now).map(Wait::Ticket),
        };
        wait.map(|wait| (slot, wait)).map_err(|error| match error {
            raftyard_raft::ReadError::NotLeader { leader } => {
                ReadError::NotLeader { leader: leader.map(|leader| leader.node) }
            }
            raftyard_raft::ReadError::NoCommitYet => ReadError::NoCommitYet,
            raftyard_raft::ReadError::LeasesOff => ReadError::LeasesOff,
            raftyard_raft::ReadError::NoLease => ReadError::NoLease,
        })
    }

    pub(super) fn handle_transfer(
        &mut self,
        now: Instant,
        group: GroupId,
        to: NodeId,
        reply: Reply<Result<(), TransferError>>,
    ) {
        match self.begin_transfer(now, group, to) {
            Ok((slot, replica)) => {
                let expires = now.after(self.config.proposal_timeout);
                let control = self.groups[slot as usize].control();
                control.await_transfer(replica, expires, reply, &mut self.outputs);
                self.mark_dirty(slot);
                self.schedule(slot);
            }
            Err(error) => self.answer(Answer::Transfer(reply, Err(error))),
        }
    }

    fn begin_transfer(
        &mut self,
        now: Instant,
        group: GroupId,
        to: NodeId,
    ) -> Result<(Slot, raftyard_raft::ReplicaId), TransferError> {
        use raftyard_raft::TransferError as Refused;
        let slot = self.available(group)?;
        let raft = &mut self.groups[slot as usize].raft;
        let member = raft.configuration().member_on(to).ok_or(TransferError::NotVoter(to))?;
        match raft.transfer_leadership(now, member.replica) {
            Ok(()) => Ok((slot, member.replica)),
            Err(Refused::NotLeader { leader }) => {
                Err(TransferError::NotLeader { leader: leader.map(|leader| leader.node) })
            }
            Err(Refused::AlreadyLeads) => Err(TransferError::AlreadyLeads),
            Err(Refused::NotVoter(_)) => Err(TransferError::NotVoter(to)),
            Err(Refused::InProgress { to }) => Err(TransferError::InProgress { to }),
        }
    }

    pub(super) fn handle_change(
        &mut self,
        now: Instant,
        group: GroupId,
        changes: &[MemberChange],
        context: Bytes,
        reply: Reply<Result<Changed, ChangeError>>,
    ) {
        match self.begin_change(group, changes, context) {
            Ok((slot, position)) => {
                let expires = now.after(self.config.proposal_timeout);
                let control = self.groups[slot as usize].control();
                control.await_change(position, expires, ChangeReply::Changed(reply), &mut self.outputs);
                self.count_log_bytes(slot);
                self.mark_dirty(slot);
                self.schedule(slot);
            }
            Err(error) => self.answer(Answer::Change(reply, Err(ChangeError::NotChanged(error)))),
        }
    }

    fn begin_change(
        &mut self,
        group: GroupId,
        changes: &[MemberChange],
        context: Bytes,
    ) -> Result<(Slot, LogPosition), NotChanged> {
        use raftyard_raft::ChangeError as Refused;
        let slot = self.slot_for_proposal(group, context.len() + ConfigurationEntry::OVERHEAD_BYTES_MAX)?;
        for change in changes {
            // Nobody could ever speak to such a member.
            if let MemberChange::AddVoter(member) | MemberChange::AddLearner(member) = change
                && member.node != self.config.node
                && !self.links.peers.contains_key(&member.node)
            {
                return Err(NotChanged::UnknownNode(member.node));
            }
        }
        let raft = &mut self.groups[slot as usize].raft;
        match raft.change_membership(changes, context) {
            Ok(position) => Ok((slot, position)),
            Err(Refused::NotLeader { leader }) => {
                let leader = leader.map(|leader| leader.node);
                Err(NotProposed::NotLeader { leader }.into())
            }
            Err(Refused::Transferring { .. }) => Err(NotProposed::Transferring.into()),
            Err(Refused::Pending { index }) => Err(NotChanged::Pending { index }),
            Err(Refused::NoCommitYet) => Err(NotChanged::NoCommitYet),
            Err(Refused::Configuration(error)) => Err(NotChanged::Configuration(error)),
        }
    }

    pub(super) fn handle_campaign(&mut self, now: Instant, group: GroupId, reply: Reply<Result<(), CampaignError>>) {
        let result = self.available(group).map_err(CampaignError::from).and_then(|slot| {
            self.groups[slot as usize].raft.campaign(now)?;
            self.mark_dirty(slot);
            Ok(())
        });
        self.answer(Answer::Campaign(reply, result));
    }

    pub(super) fn handle_force(
        &mut self,
        now: Instant,
        group: GroupId,
        learners: Vec<Member>,
        reply: Reply<Result<Changed, ForceError>>,
    ) {
        let forced = self.available(group).map_err(ForceError::from).and_then(|slot| {
            self.groups[slot as usize].raft.force_membership(now, learners)?;
            Ok(slot)
        });
        match forced {
            Ok(slot) => {
                let raft = &self.groups[slot as usize].raft;
                let (replica, last) = (raft.replica(), raft.last());
                tracing::warn!(
                    %group, %replica, last_index = %last.index, last_term = %last.term,
                    "MEMBERSHIP FORCED by an operator: this replica becomes the only voter; what the lost majority had \
                     committed beyond its last entry is lost, and the replicas left out must never start again"
                );
                let expires = now.after(self.config.proposal_timeout);
                let control = self.groups[slot as usize].control();
                control.await_force(expires, ChangeReply::Forced(reply), &mut self.outputs);
                self.mark_dirty(slot);
                self.schedule(slot);
            }
            Err(error) => self.answer(Answer::Force(reply, Err(error))),
        }
    }

    /// A group that serves.
    pub(super) fn available(&self, group: GroupId) -> Result<Slot, Unavailable> {
        match self.phase {
            Phase::Running => {}
            Phase::Stopping | Phase::Closing => return Err(Unavailable::Stopped),
            Phase::Failed => return Err(Unavailable::WalFailed),
        }
        let slot = *self.by_group.get(&group).ok_or(Unavailable::NoSuchGroup)?;
        if self.groups[slot as usize].failed.is_some() { Err(Unavailable::GroupFailed) } else { Ok(slot) }
    }
}
