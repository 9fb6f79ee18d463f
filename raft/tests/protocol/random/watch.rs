//! What a leader may rest on, counted by a bystander: who acknowledged which heartbeat. A leader that nobody hears stops,
//! one that is heard is not deposed by who was removed, and a lease rests on promises that were really given.

use crate::cluster::Cluster;
use crate::packet::Packet;
use raftyard_raft::{Body, Configuration, Instant, Raft, ReplicaId, Role, Settings, Term};
use std::time::Duration;

/// What one leader was told in its term.
#[derive(Clone, Debug)]
struct Heard {
    term: Term,
    /// Of each replica the latest heartbeat that it acknowledged, and whether it keeps the promise in that.
    acked: Vec<(Instant, bool)>,
    /// When the leader first looked whether it is heard.
    looked: Option<Instant>,
}

/// All leaders, by replica.
#[derive(Debug)]
pub(crate) struct Watch(Vec<Heard>);

impl Watch {
    pub(crate) fn new(replicas: usize) -> Watch {
        let heard = Heard { term: Term(0), acked: vec![(Instant(0), false); replicas], looked: None };
        Watch(vec![heard; replicas])
    }

    /// A message was taken by a replica.
    pub(crate) fn delivered(&mut self, packet: &Packet, raft: &Raft, keeps_promises: bool) {
        let (message, heard) = (packet.message(), self.of(raft));
        if let Body::HeartbeatAnswer { sent } = message.body
            && raft.role() == Role::Leader
            && message.term == raft.term()
        {
            let acked = &mut heard.acked[packet.from() - 1];
            if sent > acked.0 {
                *acked = (sent, keeps_promises);
            }
        }
    }

    /// Whether a majority of `configuration` acknowledged a heartbeat that the leader sent less than `within` ago.
    pub(crate) fn is_heard(&self, id: usize, now: Instant, within: Duration, configuration: &Configuration) -> bool {
        let own = ReplicaId(id as u64);
        let lately = |acked: Instant| acked > Instant(0) && now < acked.after(within);
        configuration.has_quorum(|member| member == own || lately(self.0[id - 1].acked[member.0 as usize - 1].0))
    }

    /// The leader holds a lease: a majority promised to elect nobody else, durably, and not longer ago than the lease.
    pub(crate) fn check_lease(&self, cluster: &Cluster, id: usize, settings: &Settings) {
        let raft = cluster.replica(id).raft.as_ref().expect("it was asked");
        let (now, heard) = (cluster.time(id), &self.0[id - 1]);
        let promised = |member: ReplicaId| {
            let (acked, keeps) = heard.acked[member.0 as usize - 1];
            keeps && acked > Instant(0) && now < acked.after(settings.lease())
        };
        let own = raft.replica();
        assert!(
            heard.term == raft.term() || raft.configuration().has_quorum(|member| member == own),
            "nobody promised"
        );
        assert!(
            raft.configuration().has_quorum(|member| member == own || promised(member)),
            "{id} takes itself for the holder of a lease that no majority gave it: {heard:?} at {now:?}"
        );
    }

    /// A replica was told that its deadline passed. A leader has looked twice now, a long time apart, and heard no
    /// majority in between: it must have stopped.
    pub(crate) fn looked(&mut self, raft: &Raft, now: Instant, settings: &Settings) {
        if raft.role() != Role::Leader {
            return;
        }
        let id = raft.replica().0 as usize;
        let first = *self.of(raft).looked.get_or_insert(now);
        let long = settings.election_timeout_max * 2;
        let heard = self.is_heard(id, now, long, raft.configuration());
        assert!(heard || now < first.after(long), "{id} leads on though nobody hears it");
    }

    fn of(&mut self, raft: &Raft) -> &mut Heard {
        let replicas = self.0.len();
        let heard = &mut self.0[raft.replica().0 as usize - 1];
        if heard.term != raft.term() {
            *heard = Heard { term: raft.term(), acked: vec![(Instant(0), false); replicas], looked: None };
        }
        heard
    }
}
