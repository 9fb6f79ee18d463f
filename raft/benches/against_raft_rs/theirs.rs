//! Three replicas of raft-rs, used in two ways: as its interface offers it, one proposal after the other; and as sparingly
//! as its interface allows, where all commands of a batch go in as one message.

use crate::Trio;
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, HardState, Message, MessageType};
use raft::{Config, Error, GetEntriesContext, RaftState, RawNode, StateRole, Storage, StorageError};
use std::hint::black_box;

/// `BATCHED`: the sparing way.
pub(crate) struct Theirs<const BATCHED: bool> {
    nodes: [RawNode<Store>; 3],
    network: Vec<Message>,
}

/// The log that raft-rs leaves to its caller.
#[derive(Default)]
pub(crate) struct Store {
    hard: HardState,
    /// Index and term before the first entry.
    base: (u64, u64),
    entries: Vec<Entry>,
}

impl<const BATCHED: bool> Theirs<BATCHED> {
    fn settle(&mut self) {
        loop {
            for place in 0..3 {
                self.turn(place);
            }
            if self.network.is_empty() {
                return;
            }
            let mut network = std::mem::take(&mut self.network);
            for message in network.drain(..) {
                self.nodes[message.to as usize - 1].step(message).expect("a correct peer's message");
            }
            self.network = network;
        }
    }

    fn turn(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        while node.has_ready() {
            let mut ready = node.ready();
            self.network.append(&mut ready.take_messages());
            if let Some(hard) = ready.hs() {
                node.mut_store().hard = hard.clone();
            }
            if !ready.entries().is_empty() {
                let entries = ready.take_entries();
                node.mut_store().entries.extend(entries);
            }
            self.network.append(&mut ready.take_persisted_messages());
            apply(ready.take_committed_entries());
            let mut light = node.advance(ready);
            self.network.append(&mut light.take_messages());
            apply(light.take_committed_entries());
            node.advance_apply();
        }
    }
}

fn apply(entries: Vec<Entry>) {
    entries.iter().for_each(|entry| _ = black_box(&entry.data));
}

impl<const BATCHED: bool> Trio for Theirs<BATCHED> {
    type Shared = ();

    fn elected(_: u64, (): &()) -> Self {
        let quiet = slog::Logger::root(slog::Discard, slog::o!());
        let node = |id| {
            let config = Config {
                id,
                pre_vote: true,
                check_quorum: true,
                max_size_per_msg: 1 << 20,
                // Followers learn of a commit with the next append or heartbeat, as ours do.
                skip_bcast_commit: true,
                ..Config::default()
            };
            RawNode::new(&config, Store::default(), &quiet).expect("a fresh replica opens")
        };
        let mut trio = Theirs { nodes: [1, 2, 3].map(node), network: Vec::new() };
        trio.nodes[0].campaign().expect("it follows nobody");
        trio.settle();
        trio.beat();
        assert_eq!(trio.nodes[0].raft.state, StateRole::Leader, "nothing is in its way");
        trio
    }

    fn propose(&mut self, commands: &mut Vec<Bytes>) {
        if !BATCHED {
            for command in commands.drain(..) {
                self.nodes[0].propose(Vec::new(), command.into()).expect("the leader takes it");
            }
            return self.settle();
        }
        let entry = |data| Entry { data, ..Entry::default() };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = 1;
        message.entries = commands.drain(..).map(entry).collect();
        self.nodes[0].step(message).expect("the leader takes it");
        self.settle();
    }

    fn beat(&mut self) {
        self.nodes[0].ping();
        self.settle();
    }

    fn compact(&mut self) {
        for node in &mut self.nodes {
            let applied = node.raft.raft_log.applied;
            let store = node.mut_store();
            let count = (applied - store.base.0) as usize;
            if count > 0 {
                store.base = (applied, store.entries[count - 1].term);
                store.entries.drain(..count);
            }
        }
    }

    fn applied(&self) -> [u64; 3] {
        self.nodes.each_ref().map(|node| node.raft.raft_log.applied)
    }

    fn sizes(self) -> [usize; 2] {
        let [leader, follower, _] = self.nodes;
        [leader, follower].map(|mut node| {
            // The log is the caller's, as ours is on a disk that is the caller's.
            *node.mut_store() = Store::default();
            size_of::<RawNode<Store>>() + crate::counting::freed(|| drop(node))
        })
    }
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let members = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        Ok(RaftState::new(self.hard.clone(), members))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let [low, high] = [low, high].map(|index| (index - self.base.0 - 1) as usize);
        let mut entries = self.entries[low..high].to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match index.checked_sub(self.base.0) {
            Some(0) => Ok(self.base.1),
            Some(n) => {
                let entry = self.entries.get(n as usize - 1);
                entry.map(|entry| entry.term).ok_or(Error::Store(StorageError::Unavailable))
            }
            None => Err(Error::Store(StorageError::Compacted)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + self.entries.len() as u64)
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<raft::eraftpb::Snapshot> {
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
