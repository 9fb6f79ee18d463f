//! A group that is left in peace agrees again: one leader, and all members have the same log, learners too. Who was removed
//! may go on running; it disturbs nobody.

use super::schedule::Schedule;
use super::settle;
use crate::cluster::Cluster;
use crate::packet::members;
use raftyard_raft::{Limit, LogIndex, Raft, ReplicaId, Role};

/// Most rounds, of a quarter of an election time-out each, until a group agrees.
const ROUNDS_MAX: u32 = 160;
/// So many rounds later it has the same leader still.
const ROUNDS_AFTER: u32 = 10;

/// Says how many rounds it took.
pub(crate) fn peace(s: &mut Schedule, seed: u64) -> u32 {
    (s.side, s.mute, s.step) = ((0, 0), None, u32::MAX);
    for id in s.cluster.ids() {
        if s.cluster.replica(id).exists && s.raft(id).is_none() {
            s.cluster.restart(id, LogIndex(0));
        }
    }
    let (mut agreed, mut before) = (None, None);
    for round in 0..ROUNDS_MAX {
        calm(s);
        // A leader that was left alone for long may have to stop now, though everybody agrees with it.
        let leader = leader_of_all(&s.cluster);
        if leader.is_some() && leader == before {
            agreed = leader.map(|leader| (round, leader));
            break;
        }
        before = leader;
        pass(s);
    }
    let Some((rounds, leader)) = agreed else {
        panic!(
            "schedule {seed}: after {ROUNDS_MAX} rounds in peace the group does not agree:\n{}",
            describe(&s.cluster)
        );
    };
    for _ in 0..ROUNDS_AFTER {
        pass(s);
        calm(s);
    }
    assert_eq!(leader_of_all(&s.cluster), Some(leader), "schedule {seed}: nobody disturbs the leader");
    let members = s.raft(leader.0).map(|raft| raft.configuration().clone()).expect("it leads");
    for member in members.members() {
        let id = member.replica.0 as usize;
        assert!(!s.reads.waits(id), "schedule {seed}: a read at {id} waits for ever: {:?}", s.reads);
    }
    rounds
}

/// Everything arrives. Members that are not there yet are created.
fn calm(s: &mut Schedule) {
    let members: Vec<usize> = s
        .cluster
        .ids()
        .filter_map(|id| s.raft(id))
        .flat_map(|raft| raft.configuration().members())
        .map(|m| m.replica.0 as usize)
        .collect();
    for id in members {
        if !s.cluster.replica(id).exists {
            s.cluster.join(id);
        }
    }
    for (from, to) in std::mem::take(&mut s.failed) {
        if let Some(raft) = s.cluster.raft(from) {
            raft.handle_snapshot_failed(ReplicaId(to as u64));
        }
    }
    settle(&mut s.cluster);
    s.hear_failures();
    s.check_reads();
    s.tell();
}

/// Time passes; who leads beats, and whose time has run out is told.
fn pass(s: &mut Schedule) {
    s.cluster.now.0 += s.settings.election_timeout_min.as_nanos() as u64 / 4;
    for id in s.cluster.ids() {
        let now = s.cluster.time(id);
        if let Some(raft) = s.cluster.raft(id) {
            raft.handle_deadline(now);
            raft.beat(now);
            s.cluster.turn(id);
        }
    }
    s.tell();
}

/// The leader, if all members agree with it on everything.
fn leader_of_all(cluster: &Cluster) -> Option<(usize, raftyard_raft::Term)> {
    let id = cluster.leader()?;
    let state = |raft: &Raft| {
        (raft.term(), raft.leader(), raft.last(), raft.commit(), raft.applied(), raft.configuration_index())
    };
    let leader = cluster.replica(id).raft.as_ref()?;
    let configuration = leader.configuration();
    let settled = leader.last().index == leader.commit() && leader.commit() == leader.applied();
    let done = settled && leader.transferee().is_none();
    let all = configuration.members().iter().all(|member| {
        let raft = cluster.replica(member.replica.0 as usize).raft.as_ref();
        // Who lost everything is as good as gone; who lost a part must be whole again.
        if raft.is_some_and(|raft| raft.limit() == Limit::Amnesia) {
            return true;
        }
        raft.is_some_and(|raft| {
            raft.limit() == Limit::None
                && state(raft) == state(leader)
                && (raft.role() == Role::Leader) == (raft.replica() == leader.replica())
        })
    });
    (all && done && !configuration.is_joint() && configuration.is_voter(leader.replica())).then(|| (id, leader.term()))
}

/// One line a replica.
fn describe(cluster: &Cluster) -> String {
    let line = |raft: &Raft| {
        format!(
            "{} {:?} in term {} of {:?}, base {:?} last {:?} commit {} applied {}, members {} since {}, deadline {:?}, {:?}",
            raft.replica(),
            raft.role(),
            raft.term(),
            raft.leader().map(|leader| leader.replica),
            raft.base().position,
            raft.last(),
            raft.commit(),
            raft.applied(),
            members(raft.configuration()),
            raft.configuration_index(),
            raft.deadline(),
            raft.limit(),
        )
    };
    cluster.ids().filter_map(|id| cluster.replica(id).raft.as_ref()).map(line).collect::<Vec<_>>().join("\n")
}
