//! What can be seen of a replica, to be compared with what it is a moment later.

use raftyard_raft::{Configuration, Instant, Limit, LogIndex, LogPosition, Raft, ReplicaId, Role, Term};
use std::sync::Arc;

/// What can be seen of a replica.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) role: Role,
    pub(crate) term: Term,
    pub(crate) vote: Option<ReplicaId>,
    pub(crate) leader: Option<ReplicaId>,
    pub(crate) promise: Instant,
    pub(crate) commit: LogIndex,
    pub(crate) base: LogPosition,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) configuration_index: LogIndex,
    pub(crate) transferee: Option<ReplicaId>,
    pub(crate) limit: Limit,
    /// It follows, and will campaign when its time runs out.
    pub(crate) may_campaign: bool,
}

impl View {
    pub(crate) fn of(raft: &Raft) -> View {
        View {
            role: raft.role(),
            term: raft.term(),
            vote: raft.vote(),
            leader: raft.leader().map(|leader| leader.replica),
            promise: raft.promise(),
            commit: raft.commit(),
            base: raft.base().position,
            configuration: raft.configuration().clone(),
            configuration_index: raft.configuration_index(),
            transferee: raft.transferee(),
            limit: raft.limit(),
            may_campaign: raft.role() == Role::Follower && raft.deadline().is_some(),
        }
    }
}
