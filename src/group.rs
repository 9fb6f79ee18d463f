//! A group's handle.

use crate::pending::{Pending, Unheard, ask};
use bytes::Bytes;
use raftyard_raft::{GroupId, LogIndex, Member, MemberChange, NodeId};
use raftyard_runtime::group::{GroupConfig, GroupStatus, Joining};
use raftyard_runtime::mail::{
    Applied, CampaignError, ChangeError, Changed, CompactError, CreateGroupError, ForceError, Limit, Mail, NotChanged,
    NotProposed, ProposeError, ReadAnswer, ReadError, ReadMode, RemoveError, TransferError, Unavailable, Unknown,
};
use raftyard_runtime::mailbox::Mailbox;
use std::sync::Arc;

/// The answer to [`GroupHandle::propose`].
pub type Propose = Pending<Result<Applied, ProposeError>>;

/// The answer to [`GroupHandle::read`].
pub type Read = Pending<Result<ReadAnswer, ReadError>>;

/// The answer to [`GroupHandle::transfer_leadership`].
pub type Transfer = Pending<Result<(), TransferError>>;

/// The answer to [`GroupHandle::change_membership`].
pub type ChangeMembership = Pending<Result<Changed, ChangeError>>;

/// The answer to [`GroupHandle::campaign`].
pub type Campaign = Pending<Result<(), CampaignError>>;

/// The answer to [`GroupHandle::force_membership`].
pub type ForceMembership = Pending<Result<Changed, ForceError>>;

/// The answer to [`GroupHandle::compact`].
pub type Compact = Pending<Result<(), CompactError>>;

/// The answer to [`GroupHandle::status`].
pub type Status = Pending<Result<GroupStatus, Unavailable>>;

/// The answer to [`Node::remove_group`](crate::Node::remove_group).
pub type RemoveGroup = Pending<Result<(), RemoveError>>;

/// The answer to [`Node::create_group`](crate::Node::create_group) and [`Node::join_group`](crate::Node::join_group).
pub type CreateGroup = Pending<Result<(), CreateGroupError>>;

/// A group on this node. Cheap to clone; usable from any thread and any executor.
#[derive(Clone, Debug)]
pub struct GroupHandle {
    group: GroupId,
    mailbox: Arc<Mailbox>,
}

impl GroupHandle {
    pub(crate) fn new(group: GroupId, mailbox: Arc<Mailbox>) -> GroupHandle {
        GroupHandle { group, mailbox }
    }

    /// The group.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.group
    }

    /// Proposes a command, at once, whether or not the result is awaited. Answered when this node has applied it: then
    /// it is durable on a majority. Only the leader's node takes proposals; another says who leads.
    ///
    /// Dropping the result does not take the command back.
    pub fn propose(&self, command: impl Into<Bytes>) -> Propose {
        ask(&self.mailbox, |reply| Mail::Propose { group: self.group, data: command.into(), reply })
    }

    /// Asks the group's state machine ([`StateMachine::read`](crate::StateMachine::read)) on this node, without a write.
    /// The answer reflects every command that was acknowledged, by any node, before this call; `mode` says what makes it
    /// sure of that, and what that costs: [`ReadMode::Index`] a round of heartbeats, in which all reads of a turn share,
    /// [`ReadMode::Lease`] nothing, [`ReadMode::Follower`] a question to the leader beside its round.
    pub fn read(&self, mode: ReadMode, query: impl Into<Bytes>) -> Read {
        let mail = |reply| Mail::Read { group: self.group, mode, query: query.into(), reply };
        ask(&self.mailbox, mail)
    }

    /// Gives the leadership to the voter on node `to`: proposals are refused until it has caught up and took over.
    /// Answered when it did, or when that failed; after an election time-out the old leader goes on.
    pub fn transfer_leadership(&self, to: NodeId) -> Transfer {
        let mail = |reply| Mail::TransferLeadership { group: self.group, to, reply };
        ask(&self.mailbox, mail)
    }

    /// Changes the members, all in one step: either everybody or nobody of `changes` (Raft paper, section 6). Answered
    /// when the change is complete, also its second part if more than one voter changes. A new member's node must be
    /// given its replica by [`Node::join_group`](crate::Node::join_group), before or after. `context` reaches every
    /// state machine with the members ([`StateMachine::apply_membership`](crate::StateMachine::apply_membership)).
    ///
    /// A new voter that has nothing yet can delay commits: rather add a learner, and promote it when it has caught up.
    pub fn change_membership(&self, changes: Vec<MemberChange>, context: impl Into<Bytes>) -> ChangeMembership {
        let mail = |reply| Mail::ChangeMembership { group: self.group, changes, context: context.into(), reply };
        ask(&self.mailbox, mail)
    }

    /// Lets this node's replica campaign now. A leader that a majority hears is not disturbed: then nothing comes of it.
    /// Answered when it has begun.
    pub fn campaign(&self) -> Campaign {
        let mail = |reply| Mail::Campaign { group: self.group, reply };
        ask(&self.mailbox, mail)
    }

    /// **For a group that has lost its majority for ever.** Makes this node's replica the group's only voter, and
    /// `learners` its learners, without asking anybody, and records that in the group's log and this node's.
    ///
    /// What the lost majority had acknowledged and this replica lacks is lost. If replicas that are left out ever start
    /// again, the group exists twice. So: stop them for good; of the replicas that are left choose the one with the
    /// highest last term and index ([`GroupHandle::status`]); force it there and nowhere else; then add members anew.
    pub fn force_membership(&self, learners: Vec<Member>) -> ForceMembership {
        let mail = |reply| Mail::ForceMembership { group: self.group, learners, reply };
        ask(&self.mailbox, mail)
    }

    /// Gives up the entries of this node's log up to `index`, durably, whatever is kept for peers that lag
    /// ([`NodeConfig::retain_bytes`](crate::NodeConfig::retain_bytes)): they get a snapshot when they lack them. A machine in
    /// memory has its own snapshot recorded first, which writes all that it holds. Logs are compacted without being asked;
    /// this is for whoever knows better.
    pub fn compact(&self, index: LogIndex) -> Compact {
        ask(&self.mailbox, |reply| Mail::Compact { group: self.group, index, reply })
    }

    /// Asks how this node's replica of the group fares.
    pub fn status(&self) -> Status {
        ask(&self.mailbox, |reply| Mail::Status { group: self.group, reply })
    }
}

/// Sends the creation of a group to its core.
pub(crate) fn create(mailbox: &Mailbox, config: GroupConfig) -> CreateGroup {
    ask(mailbox, |reply| Mail::CreateGroup { config, reply })
}

/// Sends the removal of a group to its core.
pub(crate) fn remove(mailbox: &Mailbox, group: GroupId, anyway: bool) -> RemoveGroup {
    ask(mailbox, |reply| Mail::RemoveGroup { group, anyway, reply })
}

/// Sends the creation of a replica of an existing group to its core.
pub(crate) fn join(mailbox: &Mailbox, joining: Joining) -> CreateGroup {
    ask(mailbox, |reply| Mail::JoinGroup { joining, reply })
}

impl Unheard for ProposeError {
    const FULL: ProposeError = ProposeError::NotProposed(NotProposed::Overloaded(Limit::Mailbox));
    const CLOSED: ProposeError = ProposeError::NotProposed(NotProposed::ShuttingDown);
    const LOST: ProposeError = ProposeError::Unknown(Unknown::Stopped);
}

impl Unheard for Unavailable {
    const FULL: Unavailable = Unavailable::Overloaded(Limit::Mailbox);
    const CLOSED: Unavailable = Unavailable::Stopped;
    const LOST: Unavailable = Unavailable::Stopped;
}

impl Unheard for ReadError {
    const FULL: ReadError = ReadError::Unavailable(Unavailable::FULL);
    const CLOSED: ReadError = ReadError::Unavailable(Unavailable::CLOSED);
    const LOST: ReadError = ReadError::Unavailable(Unavailable::LOST);
}

impl Unheard for ChangeError {
    const FULL: ChangeError = ChangeError::NotChanged(NotChanged::NotProposed(NotProposed::Overloaded(Limit::Mailbox)));
    const CLOSED: ChangeError = ChangeError::NotChanged(NotChanged::NotProposed(NotProposed::ShuttingDown));
    const LOST: ChangeError = ChangeError::Unknown(Unknown::Stopped);
}

impl Unheard for ForceError {
    const FULL: ForceError = ForceError::Unavailable(Unavailable::FULL);
    const CLOSED: ForceError = ForceError::Unavailable(Unavailable::CLOSED);
    const LOST: ForceError = ForceError::Unknown(Unknown::Stopped);
}

impl Unheard for TransferError {
    const FULL: TransferError = TransferError::Unavailable(Unavailable::FULL);
    const CLOSED: TransferError = TransferError::Unavailable(Unavailable::CLOSED);
    const LOST: TransferError = TransferError::Unavailable(Unavailable::LOST);
}

impl Unheard for CampaignError {
    const FULL: CampaignError = CampaignError::Unavailable(Unavailable::FULL);
    const CLOSED: CampaignError = CampaignError::Unavailable(Unavailable::CLOSED);
    const LOST: CampaignError = CampaignError::Unavailable(Unavailable::LOST);
}

impl Unheard for CompactError {
    const FULL: CompactError = CompactError::Unavailable(Unavailable::FULL);
    const CLOSED: CompactError = CompactError::Unavailable(Unavailable::CLOSED);
    const LOST: CompactError = CompactError::Unavailable(Unavailable::LOST);
}

impl Unheard for RemoveError {
    const FULL: RemoveError = RemoveError::Unavailable(Unavailable::FULL);
    const CLOSED: RemoveError = RemoveError::Unavailable(Unavailable::CLOSED);
    const LOST: RemoveError = RemoveError::Unavailable(Unavailable::LOST);
}

impl Unheard for CreateGroupError {
    const FULL: CreateGroupError = CreateGroupError::Overloaded;
    const CLOSED: CreateGroupError = CreateGroupError::Stopped;
    const LOST: CreateGroupError = CreateGroupError::Stopped;
}
