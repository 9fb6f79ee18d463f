//! Commands from other threads.

use super::deadlines::Slot;
use super::durable::Creation;
use super::port::Output;
use super::{Core, CreationReply, Phase};
use crate::group::{GroupConfig, StateMachine};
use crate::mail::{Answer, Applied, CreateGroupError, Limit, Mail, NotProposed, ProposeError, Reply};
use bytes::Bytes;
use raftyard_raft::{GroupId, HardState, Instant, LogIndex, ReplicaId, RestoreError};
use raftyard_storage::wal::RecoveredGroup;
use std::panic::{AssertUnwindSafe, catch_unwind};

impl Core {
    pub(super) fn handle_mail(&mut self, now: Instant, mail: Mail) {
        match mail {
            Mail::Propose { group, data, reply } => self.handle_propose(now, group, data, reply),
            Mail::CreateGroup { config, reply } => self.handle_create_group(config, reply),
            Mail::Status { group, reply } => {
                let status = self.by_group.get(&group).map(|&slot| Box::new(self.groups[slot as usize].status()));
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
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let slot = *self.by_group.get(&group).ok_or(NotProposed::NoSuchGroup)?;
        let bytes_max = self.config.entry_bytes_max;
        if data.len() > bytes_max {
            return Err(NotProposed::TooLarge { bytes: data.len(), bytes_max });
        }
        if self.log_bytes > self.config.log_bytes_max {
            return Err(NotProposed::Overloaded(Limit::LogMemory));
        }
        let group = &mut self.groups[slot as usize];
        if group.failed.is_some() {
            return Err(NotProposed::GroupFailed);
        }
        match group.raft.propose(data) {
            Ok(position) => Ok((slot, position)),
            Err(raftyard_raft::ProposeError::NotLeader { leader }) => {
                let leader = leader.and_then(|replica| group.configuration.node_of(replica));
                Err(NotProposed::NotLeader { leader })
            }
            Err(raftyard_raft::ProposeError::Uncommitted) => Err(NotProposed::Overloaded(Limit::Uncommitted)),
        }
    }

    fn handle_create_group(&mut self, config: GroupConfig, reply: CreationReply) {
        let checked = self.check_creation(&config).and_then(|replica| {
            let machine = self.open_machine(config.group)?;
            Ok((replica, machine))
        });
        match checked {
            Ok((replica, machine)) => {
                self.creating.insert(config.group);
                self.creations.push_back(Box::new(Creation { config, replica, machine, reply }));
            }
            Err(error) => self.answer(Answer::CreateGroup(reply, Err(error))),
        }
    }

    /// Opens the machine of a new group, which must be new itself. Nothing is recorded of a group whose machine can't
    /// be opened: a node that has the record could not start again.
    fn open_machine(&self, group: GroupId) -> Result<Box<dyn StateMachine>, CreateGroupError> {
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let machine = self.machines.open(group);
            let applied = machine.applied_index();
            (machine, applied)
        }));
        match opened {
            Ok((machine, LogIndex(0))) => Ok(machine),
            Ok((_, applied)) => {
                let error = RestoreError::AppliedBeyondLog { applied, last: LogIndex(0) };
                Err(CreateGroupError::Machine { group, error })
            }
            Err(_) => Err(CreateGroupError::MachinePanicked { group }),
        }
    }

    fn check_creation(&self, config: &GroupConfig) -> Result<ReplicaId, CreateGroupError> {
        match self.phase {
            Phase::Running => {}
            Phase::Stopping => return Err(CreateGroupError::Stopped),
            Phase::Failed => return Err(CreateGroupError::WalFailed),
        }
        let node = self.config.node;
        if config.group.0 == 0 {
            return Err(CreateGroupError::ZeroId);
        }
        let member = config.configuration.member_on(node);
        let member = member.ok_or(CreateGroupError::NotMember { group: config.group, node })?;
        if self.by_group.contains_key(&config.group) || self.creating.contains(&config.group) {
            return Err(CreateGroupError::Exists(config.group));
        }
        if self.creations.len() >= self.config.creations_max {
            return Err(CreateGroupError::Overloaded);
        }
        Ok(member.replica)
    }

    /// The group's creation is durable: it exists.
    pub(super) fn create(&mut self, now: Instant, creation: Creation) {
        let Creation { config, replica, machine, reply } = creation;
        self.creating.remove(&config.group);
        let preferred = config.preferred_leader == Some(self.config.node);
        let group = RecoveredGroup {
            group: config.group,
            replica,
            configuration: config.configuration,
            hard_state: HardState::default(),
            entries: Vec::new(),
        };
        let slot = self.restore(group, machine, now).expect("a fresh replica with a fresh machine fits");
        if preferred {
            self.groups[slot as usize].raft.campaign(now);
        }
        self.answer(Answer::CreateGroup(reply, Ok(())));
    }

    fn answer(&mut self, answer: Answer) {
        self.outputs.push_back(Output::Answer(answer));
    }
}
