//! What a leader may rest on, counted by a bystander: who acknowledged which heartbeat. A leader that nobody hears stops,
//! one that is heard is not deposed by who was removed, and a lease rests on promises that were really given.

use crate::cluster::Cluster;
use crate::packet::Packet;
use raftyard_raft::{Body, Configuration, Instant, LogIndex, Raft, ReplicaId, Role, Settings, Term};
use std::collections::HashSet;
use std::time::Duration;

/// What one leader was told in its term.
#[derive(Clone, Debug)]
struct Heard {
    term: Term,
    /// Of each replica the latest heartbeat that it acknowledged, and whether it keeps the promise in that.
    acked: Vec<(Instant, bool)>,
    /// When the leader first looked whether it is heard, by members of that index.
    looked: Option<(Instant, LogIndex)>,
}

/// All leaders.
#[derive(Debug)]
pub(crate) struct Watch {
    /// By replica.
    heard: Vec<Heard>,
    /// Every heartbeat that ever left: whose, in which term, by which name.
    sent: HashSet<(ReplicaId, Term, Instant)>,
}

impl Watch {
    pub(crate) fn new(replicas: usize) -> Watch {
        let heard = Heard { term: Term(0), acked: vec![(Instant(0), false); replicas], looked: None };
        Watch { heard: vec![heard; replicas], sent: HashSet::new() }
    }

    /// A message leaves.
    pub(crate) fn sent(&mut self, packet: &Packet) {
        let message = packet.message();
        if let Body::Heartbeat { sent, .. } = message.body {
            self.sent.insert((message.from, message.term, sent));
        }
    }

    /// A message was taken by a replica.
    pub(crate) fn delivered(&mut self, packet: &Packet, raft: &Raft, keeps_promises: bool) {
        let message = packet.message();
        if let Body::HeartbeatAnswer { sent, .. } = message.body
            && raft.role() == Role::Leader
            && message.term == raft.term()
            && self.sent.contains(&(raft.replica(), raft.term(), sent))
        {
            let acked = &mut self.of(raft).acked[packet.from() - 1];
            if sent > acked.0 {
                *acked = (sent, keeps_promises);
            }
        }
    }

    /// Whether a majority of `configuration` acknowledged a heartbeat that the leader sent less than `within` ago.
    pub(crate) fn is_heard(&self, id: usize, now: Instant, within: Duration, configuration: &Configuration) -> bool {
        let own = ReplicaId(id as u64);
        let lately = |acked: Instant| acked > Instant(0) && now < acked.after(within);
        configuration.has_quorum(|member| member == own || lately(self.heard[id - 1].acked[member.0 as usize - 1].0))
    }

    /// The leader holds a lease: a majority promised it, in answers to its own heartbeats, to elect nobody else, and
    /// can't do so at this very moment, whatever their clocks show.
    pub(crate) fn check_lease(&self, cluster: &Cluster, id: usize, settings: &Settings) {
        let raft = cluster.replica(id).raft.as_ref().expect("it was asked");
        let (now, own, heard) = (cluster.time(id), raft.replica(), &self.heard[id - 1]);
        let promised = |member: ReplicaId| {
            let (acked, keeps) = heard.acked[member.0 as usize - 1];
            heard.term == raft.term() && keeps && acked > Instant(0) && now < acked.after(settings.lease())
        };
        let bound = |member: ReplicaId| {
            let replica = cluster.replica(member.0 as usize);
            // Who is down keeps its promise when it starts again.
            let down = replica.exists && replica.keeps_promises;
            replica.raft.as_ref().map_or(down, |raft| cluster.time(member.0 as usize) < raft.promise())
        };
        let quorum =
            |of: &dyn Fn(ReplicaId) -> bool| raft.configuration().has_quorum(|member| member == own || of(member));
        assert!(quorum(&promised), "{id} holds a lease at {now:?} that no majority gave it: {heard:?}");
        assert!(quorum(&bound), "{id} holds a lease at {now:?}, but a majority is free to elect another: {heard:?}");
    }

    /// A replica was told that its deadline passed. A leader has looked twice now at the same members, a long time apart,
    /// and heard no majority in between: it must have stopped.
    pub(crate) fn looked(&mut self, raft: &Raft, now: Instant, settings: &Settings) {
        if raft.role() != Role::Leader {
            return;
        }
        let id = raft.replica().0 as usize;
        let members = raft.configuration_index();
        let looked = &mut self.of(raft).looked;
        looked.take_if(|(_, seen)| *seen != members);
        let (first, _) = *looked.get_or_insert((now, members));
        let long = settings.election_timeout_max * 2;
        let heard = self.is_heard(id, now, long, raft.configuration());
        assert!(heard || now < first.after(long), "{id} leads on though nobody hears it");
    }

    fn of(&mut self, raft: &Raft) -> &mut Heard {
        let replicas = self.heard.len();
        let heard = &mut self.heard[raft.replica().0 as usize - 1];
        if heard.term != raft.term() {
            *heard = Heard { term: raft.term(), acked: vec![(Instant(0), false); replicas], looked: None };
        }
        heard
    }
}
