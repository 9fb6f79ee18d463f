//! A group's handle.

use crate::pending::{Pending, Refused};
use bytes::Bytes;
use raftyard_raft::GroupId;
use raftyard_runtime::group::{GroupConfig, GroupStatus};
use raftyard_runtime::mail::{Applied, CreateGroupError, Limit, Mail, NotProposed, ProposeError, Unknown};
use raftyard_runtime::mailbox::Mailbox;
use std::convert::identity;
use std::sync::Arc;

/// The answer to [`GroupHandle::propose`].
pub type Propose = Pending<Result<Applied, ProposeError>>;

/// The answer to [`GroupHandle::status`].
pub type Status = Pending<Result<GroupStatus, StatusError>, Option<GroupStatus>>;

/// The answer to [`Node::create_group`](crate::Node::create_group).
pub type CreateGroup = Pending<Result<(), CreateGroupError>>;

/// A group on this node. Cheap to clone; usable from any thread and any executor.
#[derive(Clone, Debug)]
pub struct GroupHandle {
    group: GroupId,
    mailbox: Arc<Mailbox>,
}

/// Why a status is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// The group is not on this node.
    #[error("no such group on this node")]
    NoSuchGroup,
    /// A queue is full. Try again later.
    #[error("overloaded: {0} is full; try again later")]
    Overloaded(Limit),
    /// The node stopped.
    #[error("the node stopped")]
    Stopped,
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
        let mail = |reply| Mail::Propose { group: self.group, data: command.into(), reply };
        let lost = || Err(ProposeError::Unknown(Unknown::Stopped));
        Pending::send(&self.mailbox, mail, identity, lost, |refused| {
            Err(ProposeError::NotProposed(match refused {
                Refused::Full => NotProposed::Overloaded(Limit::Mailbox),
                Refused::Closed => NotProposed::ShuttingDown,
            }))
        })
    }

    /// Asks how this node's replica of the group fares.
    pub fn status(&self) -> Status {
        let mail = |reply| Mail::Status { group: self.group, reply };
        let convert = |status: Option<GroupStatus>| status.ok_or(StatusError::NoSuchGroup);
        Pending::send(
            &self.mailbox,
            mail,
            convert,
            || Err(StatusError::Stopped),
            |refused| {
                Err(match refused {
                    Refused::Full => StatusError::Overloaded(Limit::Mailbox),
                    Refused::Closed => StatusError::Stopped,
                })
            },
        )
    }
}

/// Sends the creation of a group to its core.
pub(crate) fn create(mailbox: &Mailbox, config: GroupConfig) -> CreateGroup {
    let mail = |reply| Mail::CreateGroup { config, reply };
    Pending::send(
        mailbox,
        mail,
        identity,
        || Err(CreateGroupError::Stopped),
        |refused| {
            Err(match refused {
                Refused::Full => CreateGroupError::Overloaded,
                Refused::Closed => CreateGroupError::Stopped,
            })
        },
    )
}
