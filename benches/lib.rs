//! What the micro-benchmarks share: three replicas of a group in memory, whose messages arrive and whose writes are
//! durable at once. They print times and judge nothing.

use bytes::Bytes;
use raftyard_raft::{
    Body, Configuration, Entry, GroupId, Instant, Member, Message, NodeId, Raft, ReplicaId, Restored, Role, Sender,
    Settings,
};
use std::sync::Arc;

/// A group of three; replica 1 leads.
#[derive(Debug)]
pub struct Trio {
    replicas: Vec<Raft>,
    /// Messages on their way: the head, and the entries of an append.
    wires: Vec<(Message<'static>, Vec<Entry>)>,
}

impl Trio {
    /// An elected group.
    ///
    /// # Panics
    /// If the protocol can't elect a leader without faults.
    #[must_use]
    pub fn new(group: u64) -> Trio {
        let members = (1..=3).map(|id| Member { replica: ReplicaId(id), node: NodeId(id) }).collect();
        let configuration = Arc::new(Configuration::new(members).expect("three distinct members"));
        let settings = Arc::new(Settings::default());
        let open = |id| {
            let (configuration, settings) = (Arc::clone(&configuration), Arc::clone(&settings));
            let restored = Restored::fresh(configuration);
            Raft::new(GroupId(group), ReplicaId(id), restored, settings, Instant(0), id)
        };
        let replicas = (1..=3).map(|id| open(id).expect("a fresh replica opens")).collect();
        let mut trio = Trio { replicas, wires: Vec::new() };
        trio.replicas[0].campaign(Instant(0)).expect("it promised nobody anything");
        trio.settle();
        assert_eq!(trio.replicas[0].role(), Role::Leader, "nothing is in its way");
        trio
    }

    /// Proposes `batch` commands in one turn and runs until all replicas hold them.
    ///
    /// # Panics
    /// If the leader refuses.
    pub fn propose(&mut self, batch: usize, command: &Bytes) {
        for _ in 0..batch {
            self.replicas[0].propose(command.clone()).expect("the leader takes it");
        }
        self.settle();
    }

    fn settle(&mut self) {
        loop {
            for place in 0..self.replicas.len() {
                self.turn(place);
            }
            if self.wires.is_empty() {
                return;
            }
            for (head, entries) in std::mem::take(&mut self.wires) {
                let body = match head.body {
                    Body::Append { previous, commit, .. } => {
                        Body::Append { previous, commit, entries: (&entries, &[]) }
                    }
                    other => other,
                };
                let to = &mut self.replicas[head.to.0 as usize - 1];
                let from = Sender { node: NodeId(head.from.0), keeps_promises: true };
                to.handle_message(Instant(1), from, Message { body, ..head }).expect("a correct peer's message");
            }
        }
    }

    fn turn(&mut self, place: usize) {
        let replica = &mut self.replicas[place];
        while let Some(persist) = replica.poll_persist(usize::MAX) {
            let receipt = persist.receipt;
            replica.handle_persisted(receipt);
        }
        while let Some(outgoing) = replica.poll_message() {
            let Message { group, from, to, term, body } = outgoing.message;
            let (body, entries) = match body {
                Body::Append { previous, commit, entries: (left, right) } => {
                    let body = Body::Append { previous, commit, entries: (&[][..], &[][..]) };
                    (body, left.iter().chain(right).cloned().collect())
                }
                other => (other.detached().expect("no append"), Vec::new()),
            };
            self.wires.push((Message { group, from, to, term, body }, entries));
        }
        while replica.poll_committed(usize::MAX).is_some() {}
    }
}
