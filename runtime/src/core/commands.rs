//! Commands from other threads.

use super::deadlines::Slot;
use super::durable::{Creation, Waiting};
use super::port::Output;
use super::reviving::{ReviveError, Revived, revive};
use super::{Core, CreationReply, Phase};
use crate::group::{GroupConfig, Joining};
use crate::mail::{
    Answer, Applied, CreateGroupError, Limit, Mail, NotProposed, ProposeError, RemoveError, Reply, Unavailable, Unknown,
};
use bytes::Bytes;
use raftyard_raft::{Configuration, GroupId, Instant, LogIndex, ReplicaId, RestoreError};
use raftyard_storage::wal::RecoveredGroup;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

impl Core {
    pub(super) fn handle_mail(&mut self, now: Instant, mail: Mail) {
        match mail {
            Mail::Propose { group, data, reply } => self.handle_propose(now, group, data, reply),
            Mail::CreateGroup { config, reply } => self.handle_create_group(&config, reply),
            Mail::JoinGroup { joining, reply } => {
                let Joining { group, replica } = joining;
                let checked = self.check_joining(replica);
                self.handle_creation(checked, group, replica, Configuration::joining(), false, reply);
            }
            Mail::RemoveGroup { group, anyway, reply } => self.handle_remove(group, anyway, reply),
            Mail::Read { group, mode, query, reply } => self.handle_read(now, group, mode, query, reply),
            Mail::TransferLeadership { group, to, reply } => self.handle_transfer(now, group, to, reply),
            Mail::ChangeMembership { group, changes, context, reply } => {
                self.handle_change(now, group, &changes, context, reply);
            }
            Mail::Campaign { group, reply } => self.handle_campaign(now, group, reply),
            Mail::Compact { group, index, reply } => self.handle_compact(group, index, reply),
            Mail::ForceMembership { group, learners, reply } => self.handle_force(now, group, learners, reply),
            Mail::Status { group, reply } => {
                let slot = self.by_group.get(&group).ok_or(Unavailable::NoSuchGroup);
                let status = slot.map(|&slot| Box::new(self.groups[slot as usize].status()));
                self.answer(Answer::Status(reply, status));
            }
            Mail::Shutdown { reply } => {
                if self.phase == Phase::Running {
                    self.phase = Phase::Stopping;
                }
                self.shutdowns.push(reply);
            }
        }
    }

    fn handle_propose(
        &mut self,
        now: Instant,
        group: GroupId,
        data: Bytes,
        reply: Reply<Result<Applied, ProposeError>>,
    ) {
        match self.propose(group, data) {
            Ok((slot, position)) => {
                let expires = now.after(self.config.proposal_timeout);
                self.groups[slot as usize].wait(position, expires, reply, &mut self.outputs);
                self.count_log_bytes(slot);
                self.schedule(slot);
                self.mark_dirty(slot);
            }
            Err(why) => self.answer(Answer::Propose(reply, Err(ProposeError::NotProposed(why)))),
        }
    }

    fn propose(&mut self, group: GroupId, data: Bytes) -> Result<(Slot, raftyard_raft::LogPosition), NotProposed> {
        let slot = self.slot_for_proposal(group, data.len())?;
        match self.groups[slot as usize].raft.propose(data) {
            Ok(position) => Ok((slot, position)),
            Err(raftyard_raft::ProposeError::NotLeader { leader }) => {
                Err(NotProposed::NotLeader { leader: leader.map(|leader| leader.node) })
            }
            Err(raftyard_raft::ProposeError::Transferring { .. }) => Err(NotProposed::Transferring),
            Err(raftyard_raft::ProposeError::Uncommitted) => Err(NotProposed::Overloaded(Limit::Uncommitted)),
        }
    }

    /// The group that something of `bytes` may be proposed to.
    pub(super) fn slot_for_proposal(&self, group: GroupId, bytes: usize) -> Result<Slot, NotProposed> {
        let slot = self.available(group)?;
        let bytes_max = self.config.entry_bytes_max;
        if bytes > bytes_max {
            return Err(NotProposed::TooLarge { bytes, bytes_max });
        }
        if self.log_bytes > self.config.log_bytes_max {
            return Err(NotProposed::Overloaded(Limit::LogMemory));
        }
        if self.wal.is_full() {
            return Err(NotProposed::DiskFull);
        }
        Ok(slot)
    }

    fn handle_create_group(&mut self, config: &GroupConfig, reply: CreationReply) {
        let (group, node) = (config.group, self.config.node);
        let preferred = config.preferred_leader == Some(node);
        let member = config.configuration.member_on(node).ok_or(CreateGroupError::NotMember { group, node });
        let replica = member.as_ref().map(|member| member.replica).unwrap_or_default();
        let checked = member.and(match config.configuration.is_joint() {
            true => Err(CreateGroupError::Joint),
            false if self.forgetful => Err(CreateGroupError::Forgetful { group }),
            false => Ok(()),
        });
        self.handle_creation(checked, group, replica, config.configuration.clone(), preferred, reply);
    }

    fn handle_creation(
        &mut self,
        checked: Result<(), CreateGroupError>,
        group: GroupId,
        replica: ReplicaId,
        configuration: Configuration,
        preferred: bool,
        reply: CreationReply,
    ) {
        let machine = self.check_creation(group, replica).and(checked).and_then(|()| self.open_machine(group, replica));
        match machine {
            Ok(machine) => {
                self.creating.insert(group);
                let creation = Creation { group, replica, configuration, preferred, machine, reply };
                self.creations.push_back(Box::new(creation));
            }
            Err(error) => self.answer(Answer::CreateGroup(reply, Err(error))),
        }
    }

    /// Opens the machine of a new group, which must be new itself. Nothing is recorded of a group whose machine can't
    /// be opened: a node that has the record could not start again.
    fn open_machine(&self, group: GroupId, replica: ReplicaId) -> Result<Revived, CreateGroupError> {
        let opened = catch_unwind(AssertUnwindSafe(|| self.machines.open(group)));
        let machine = opened.map_err(|_| CreateGroupError::MachinePanicked { group })?;
        let created = RecoveredGroup::created(group, replica, Arc::new(Configuration::joining()));
        match revive(machine, &created, None) {
            Ok(Revived { machine, holds: None }) => Ok(Revived { machine, holds: None }),
            Ok(Revived { holds: Some(holds), .. }) if holds.position.index > LogIndex(0) => {
                let (applied, base, last) = (holds.position.index, LogIndex(0), LogIndex(0));
                let error = RestoreError::AppliedOutsideLog { applied, base, last };
                Err(CreateGroupError::Machine { group, error })
            }
            // It holds nothing yet.
            Ok(Revived { machine, .. }) => Ok(Revived { machine, holds: None }),
            Err(ReviveError::TakesNone | ReviveError::Unreadable | ReviveError::Machine(_)) => {
                Err(CreateGroupError::MachinePanicked { group })
            }
        }
    }

    /// The group is gone for everybody at once; its removal is recorded when the batch has room, and answered when that is
    /// durable.
    fn handle_remove(&mut self, group: GroupId, anyway: bool, reply: Reply<Result<(), RemoveError>>) {
        match self.removable(group, anyway) {
            Ok(slot) => {
                self.by_group.remove(&group);
                let held = &mut self.groups[slot as usize];
                held.failed = Some("removed from this node".into());
                held.give_up(Unknown::GroupRemoved, &mut self.outputs);
                self.drop_snapshots(slot);
                self.removals.push_back((slot, reply));
            }
            Err(error) => self.answer(Answer::RemoveGroup(reply, Err(error))),
        }
    }

    fn removable(&self, group: GroupId, anyway: bool) -> Result<Slot, RemoveError> {
        match self.phase {
            Phase::Running => {}
            Phase::Stopping | Phase::Closing => return Err(Unavailable::Stopped.into()),
            Phase::Failed => return Err(Unavailable::WalFailed.into()),
        }
        let slot = *self.by_group.get(&group).ok_or(Unavailable::NoSuchGroup)?;
        let raft = &self.groups[slot as usize].raft;
        let replica = raft.replica();
        // Also one whose removal is not committed yet may still be needed.
        let member = raft.configuration().seat(replica).is_some() || raft.configuration_index() > raft.commit();
        if member && !anyway { Err(RemoveError::Member { group, replica }) } else { Ok(slot) }
    }

    /// Records the removals that wait, as far as the batch has room.
    pub(super) fn record_removals(&mut self) {
        while self.wal.has_room()
            && let Some((slot, reply)) = self.removals.pop_front()
        {
            let raft = &self.groups[slot as usize].raft;
            let seq = self.wal.record_removal(raft.group(), raft.replica());
            self.losses.retain(|(lost, ..)| *lost != slot);
            self.durable.push(seq, Waiting::Removal(slot, reply));
        }
    }

    fn check_joining(&self, replica: ReplicaId) -> Result<(), CreateGroupError> {
        if replica.0 == 0 { Err(CreateGroupError::ZeroReplica) } else { Ok(()) }
    }

    fn check_creation(&self, group: GroupId, replica: ReplicaId) -> Result<(), CreateGroupError> {
        match self.phase {
            Phase::Running => {}
            Phase::Stopping | Phase::Closing => return Err(CreateGroupError::Stopped),
            Phase::Failed => return Err(CreateGroupError::WalFailed),
        }
        if group.0 == 0 {
            return Err(CreateGroupError::ZeroId);
        }
        if self.by_group.contains_key(&group) || self.creating.contains(&group) {
            return Err(CreateGroupError::Exists(group));
        }
        if !self.wal.may_create(group, replica) {
            return Err(CreateGroupError::Removed { group, replica });
        }
        if self.wal.is_full() {
            return Err(CreateGroupError::DiskFull);
        }
        if self.creations.len() >= self.config.creations_max {
            return Err(CreateGroupError::Overloaded);
        }
        Ok(())
    }

    /// The group's creation is durable: it exists.
    pub(super) fn create(&mut self, now: Instant, creation: Creation) {
        let Creation { group, replica, configuration, preferred, machine, reply } = creation;
        self.creating.remove(&group);
        let group = RecoveredGroup::created(group, replica, Arc::new(configuration));
        // Nobody can have a promise of a replica that did not exist.
        let slot = self.restore(group, machine, Duration::ZERO, now);
        let slot = slot.expect("a fresh replica with a fresh machine fits");
        if preferred {
            let raft = &mut self.groups[slot as usize].raft;
            raft.set_priority(1);
            // A preferred leader without a vote waits to be told, like any learner.
            let _ = raft.campaign(now);
        }
        self.answer(Answer::CreateGroup(reply, Ok(())));
    }

    pub(super) fn answer(&mut self, answer: Answer) {
        self.outputs.push_back(Output::Answer(answer));
    }
}
