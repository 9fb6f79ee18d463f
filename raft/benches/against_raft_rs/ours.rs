//! Three replicas of this crate.

use crate::Trio;
use bytes::Bytes;
use raftyard_raft::{
    Configuration, Entry, GroupId, Instant, Member, NodeId, Raft, ReplicaId, Restored, Role, Sender, Settings,
};
use std::hint::black_box;
use std::sync::Arc;

pub(crate) struct Ours {
    replicas: [Replica; 3],
}

struct Replica {
    raft: Raft,
    disk: Vec<Entry>,
}

/// What all groups share, as on a node.
#[derive(Clone)]
pub(crate) struct Shared {
    configuration: Arc<Configuration>,
    settings: Arc<Settings>,
}

impl Default for Shared {
    fn default() -> Shared {
        let member = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
        let configuration = Configuration::new((1..=3).map(member).collect()).expect("three distinct members");
        Shared { configuration: Arc::new(configuration), settings: Arc::new(Settings::default()) }
    }
}

impl Ours {
    fn settle(&mut self) {
        while (0..3).filter(|place| self.turn(*place)).count() > 0 {}
    }

    /// Says whether there was anything to do.
    fn turn(&mut self, place: usize) -> bool {
        let mut busy = false;
        let (before, rest) = self.replicas.split_at_mut(place);
        let [Replica { raft, disk }, after @ ..] = rest else { unreachable!("there are three") };
        while let Some(persist) = raft.poll_persist(usize::MAX) {
            disk.extend(persist.entries.0.iter().chain(persist.entries.1).cloned());
            let receipt = persist.receipt;
            raft.handle_persisted(receipt);
            busy = true;
        }
        let from = Sender { node: NodeId(place as u64 + 1), keeps_promises: true };
        while let Some(outgoing) = raft.poll_message() {
            let to = outgoing.message.to.0 as usize - 1;
            let to = if to < place { &mut before[to] } else { &mut after[to - place - 1] };
            to.raft.handle_message(Instant(1), from, outgoing.message).expect("a correct peer's message");
            busy = true;
        }
        while let Some((left, right)) = raft.poll_committed(usize::MAX) {
            left.iter().chain(right).for_each(|entry| _ = black_box(&entry.data));
            busy = true;
        }
        busy
    }
}

impl Trio for Ours {
    type Shared = Shared;

    fn elected(group: u64, shared: &Shared) -> Ours {
        let replica = |id| {
            let Shared { configuration, settings } = shared.clone();
            let restored = Restored::fresh(configuration);
            let raft = Raft::new(GroupId(group), ReplicaId(id), restored, settings, Instant(0), id);
            Replica { raft: raft.expect("a fresh replica opens"), disk: Vec::new() }
        };
        let mut trio = Ours { replicas: [1, 2, 3].map(replica) };
        trio.replicas[0].raft.campaign(Instant(0)).expect("it promised nobody anything");
        trio.settle();
        trio.beat();
        assert_eq!(trio.replicas[0].raft.role(), Role::Leader, "nothing is in its way");
        trio
    }

    fn propose(&mut self, commands: &mut Vec<Bytes>) {
        for command in commands.drain(..) {
            self.replicas[0].raft.propose(command).expect("the leader takes it");
        }
        self.settle();
    }

    fn beat(&mut self) {
        self.replicas[0].raft.beat(Instant(1));
        self.settle();
    }

    fn compact(&mut self) {
        for Replica { raft, disk } in &mut self.replicas {
            raft.compact(raft.applied()).expect("it is durable and applied");
            disk.clear();
        }
    }

    fn applied(&self) -> [u64; 3] {
        self.replicas.each_ref().map(|replica| replica.raft.applied().0)
    }

    fn sizes(self) -> [usize; 2] {
        let [leader, follower, _] = self.replicas.map(|replica| replica.raft);
        [leader, follower].map(|raft| size_of::<Raft>() + crate::counting::freed(|| drop(raft)))
    }
}
