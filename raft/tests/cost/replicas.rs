//! Three replicas of a group, whose messages arrive at once and whose writes are durable at once.

use bytes::Bytes;
use raftyard_raft::{
    Configuration, Entry, GroupId, Instant, Member, NodeId, Raft, ReplicaId, Restored, Role, Sender, Settings,
};
use std::hint::black_box;
use std::sync::Arc;

/// The first leads.
pub(crate) struct Replicas(pub(crate) [Replica; 3]);

pub(crate) struct Replica {
    pub(crate) raft: Raft,
    pub(crate) disk: Vec<Entry>,
    /// How many entries it applied.
    pub(crate) applied: usize,
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

impl Replicas {
    /// Of a fresh group, whose first replica was elected.
    pub(crate) fn elected(group: u64, shared: &Shared) -> Replicas {
        let replica = |id| {
            let Shared { configuration, settings } = shared.clone();
            let restored = Restored::fresh(configuration);
            let raft = Raft::new(GroupId(group), ReplicaId(id), restored, settings, Instant(0), id);
            Replica { raft: raft.expect("a fresh replica opens"), disk: Vec::new(), applied: 0 }
        };
        let mut replicas = Replicas([1, 2, 3].map(replica));
        replicas.leader().campaign(Instant(0)).expect("it promised nobody anything");
        replicas.settle();
        replicas.beat();
        assert_eq!(replicas.leader().role(), Role::Leader, "nothing is in its way");
        replicas
    }

    pub(crate) fn leader(&mut self) -> &mut Raft {
        &mut self.0[0].raft
    }

    /// Proposes a batch, and runs until nobody has anything more to do.
    pub(crate) fn propose(&mut self, commands: impl IntoIterator<Item = Bytes>) {
        for command in commands {
            self.leader().propose(command).expect("the leader takes it");
        }
        self.settle();
    }

    /// Tells the others the last commit, which travels with what comes next.
    pub(crate) fn beat(&mut self) {
        self.leader().beat(Instant(1));
        self.settle();
    }

    fn settle(&mut self) {
        while (0..3).filter(|place| self.turn(*place)).count() > 0 {}
    }

    /// Says whether there was anything to do.
    fn turn(&mut self, place: usize) -> bool {
        let mut busy = false;
        let (before, rest) = self.0.split_at_mut(place);
        let [Replica { raft, disk, applied }, after @ ..] = rest else { unreachable!("there are three") };
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
            *applied += left.len() + right.len();
            busy = true;
        }
        busy
    }

    /// Up to where each has applied.
    pub(crate) fn applied(&self) -> [u64; 3] {
        self.0.each_ref().map(|replica| {
            let applied = replica.raft.applied().0;
            assert_eq!(replica.applied as u64, applied, "it handed out every entry");
            applied
        })
    }

    /// Bytes of the leader and of a follower: of the replica itself, and of what it frees when it is dropped. What
    /// replicas share counts for nobody.
    pub(crate) fn sizes(self) -> [usize; 2] {
        let [leader, follower, _] = self.0.map(|replica| replica.raft);
        [leader, follower].map(|raft| size_of::<Raft>() + crate::counting::freed(|| drop(raft)))
    }
}
