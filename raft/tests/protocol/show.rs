//! What a scenario shows of its replicas, in words.

use crate::cluster::Cluster;
use crate::packet::{list, members, position};
use raftyard_raft::{Entry, Limit, LogIndex, ReadState, ReadTicket, Role};
use std::fmt::Write as _;

pub(crate) fn roles(cluster: &Cluster) -> Vec<String> {
    let role = |id: usize| match &cluster.replica(id).raft {
        None if cluster.replica(id).exists => format!("{id} is down"),
        None => format!("{id} is not created"),
        Some(raft) => {
            let role = match raft.role() {
                Role::Follower => "follows",
                Role::PreCandidate => "asks for pre-votes",
                Role::Candidate => "asks for votes",
                Role::Leader => "leads",
            };
            let whom = match raft.leader() {
                Some(leader) if raft.role() == Role::Follower => format!(" {}", leader.replica),
                None if raft.role() == Role::Follower => " nobody".to_owned(),
                _ => String::new(),
            };
            format!("{id} {role}{whom} in term {}", raft.term())
        }
    };
    cluster.ids().map(role).collect()
}

pub(crate) fn status(cluster: &Cluster) -> Vec<String> {
    let mut lines = roles(cluster);
    for (line, id) in lines.iter_mut().zip(cluster.ids()) {
        if let Some(raft) = &cluster.replica(id).raft {
            let (last, durable) = (position(raft.last()), raft.durable());
            let _ = write!(line, ", last {last} durable {durable} commit {} applied {}", raft.commit(), raft.applied());
            line.push_str(&match raft.limit() {
                Limit::None => String::new(),
                Limit::Bound(bound) => format!(", limited by {}", position(bound)),
                Limit::Amnesia => ", knows nothing".to_owned(),
            });
        }
    }
    lines
}

pub(crate) fn logs(cluster: &Cluster) -> Vec<String> {
    let log = |id: usize| {
        let raft = cluster.replica(id).raft.as_ref()?;
        let memory = list(raft.entries(LogIndex(1), raft.last().index));
        let paged = cluster.replica(id).log().into_iter().take_while(|entry| entry.index < raft.first_in_memory());
        let paged: Vec<Entry> = paged.cloned().collect();
        let mark = if paged.is_empty() { "" } else { " | " };
        Some(format!("{id} [{}{mark}{memory}]", list((&paged, &[]))))
    };
    cluster.ids().filter_map(log).collect()
}

pub(crate) fn membership(cluster: &Cluster) -> Vec<String> {
    let of = |id: usize| {
        let raft = cluster.replica(id).raft.as_ref()?;
        Some(format!("{id}: {} since {}", members(raft.configuration()), raft.configuration_index()))
    };
    cluster.ids().filter_map(of).collect()
}

/// Tells of a read that waits no more.
pub(crate) fn read_ended(
    cluster: &Cluster,
    id: usize,
    name: &str,
    ticket: &ReadTicket,
    output: &mut Vec<String>,
) -> bool {
    let state = cluster.replica(id).raft.as_ref().map_or(ReadState::Lost, |raft| raft.read_state(ticket));
    match state {
        ReadState::Waiting => return false,
        ReadState::Ready(index) => output.push(format!("read {name} may be served at {index}")),
        ReadState::Lost => output.push(format!("read {name} is lost")),
    }
    true
}
