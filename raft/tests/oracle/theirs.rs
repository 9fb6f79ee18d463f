//! A replica of raft-rs, on a disk that is slow.
//!
//! Its `Ready` is written asynchronously: the log in memory has its entries at once, the disk when the write completes, and
//! what raft-rs says may leave only after persisting leaves then. It throws dice of its own for its election time-out,
//! which no seed decides; so the time-out is set again after every call.

use crate::dice::Dice;
use crate::packet::{Packet, Wire};
use crate::replica::{BEAT_NANOS, Disk, ELECTION_TIMEOUT_NANOS, Kind, Polled, Replica, View};
use crate::translate::{entry_to_ours, entry_to_theirs};
use raft::eraftpb::{self, ConfState};
use raft::{Config, Error, GetEntriesContext, RaftState, RawNode, ReadState, Ready, StateRole, Storage, StorageError};
use raftyard_raft::{Entry, HardState, Instant, LogIndex, LogPosition, ReplicaId, Term};
use std::collections::VecDeque;

/// How much time a tick is.
const TICK_NANOS: u64 = 10;
const ELECTION_TICKS: usize = (ELECTION_TIMEOUT_NANOS / TICK_NANOS) as usize;

/// What raft-rs reads back: everything written, durable or not.
#[derive(Debug)]
pub(crate) struct Store {
    hard: eraftpb::HardState,
    entries: Vec<eraftpb::Entry>,
    members: ConfState,
}

pub(crate) struct Theirs {
    config: Config,
    size: usize,
    node: Option<RawNode<Store>>,
    disk: Disk,
    /// Part of their hard state, durable with it.
    commit: u64,
    writes: VecDeque<Write>,
    ticked: Instant,
    dice: Dice,
    /// What it answered to reads.
    pub(crate) reads: Vec<ReadState>,
}

#[derive(Debug)]
struct Write {
    number: u64,
    hard: Option<eraftpb::HardState>,
    entries: Vec<eraftpb::Entry>,
    waiting: Vec<eraftpb::Message>,
}

/// Limits of the smallest kinds, as for ours, and what else of its behaviour can be chosen.
pub(crate) fn config(inflight: usize, bytes: u64, skip_bcast_commit: bool, batch_append: bool) -> Config {
    Config {
        election_tick: ELECTION_TICKS,
        heartbeat_tick: (BEAT_NANOS / TICK_NANOS) as usize,
        pre_vote: true,
        check_quorum: true,
        max_size_per_msg: bytes,
        max_inflight_msgs: inflight,
        skip_bcast_commit,
        batch_append,
        ..Config::default()
    }
}

impl Theirs {
    pub(crate) fn new(id: usize, size: usize, config: Config) -> Theirs {
        Theirs {
            config: Config { id: id as u64, ..config },
            size,
            node: None,
            disk: Disk::default(),
            commit: 0,
            writes: VecDeque::new(),
            ticked: Instant(0),
            dice: Dice::salted(0, crate::DICE_SALT),
            reads: Vec::new(),
        }
    }

    /// Calls raft-rs, and throws the dice that it threw again.
    pub(crate) fn call<R>(&mut self, call: impl FnOnce(&mut RawNode<Store>) -> R) -> R {
        let node = self.node.as_mut().expect("only a replica that is up is asked");
        let before = (node.raft.term, node.raft.state, node.raft.leader_id);
        let timeout = node.raft.randomized_election_timeout();
        let result = call(node);
        let changed = before != (node.raft.term, node.raft.state, node.raft.leader_id);
        let timeout = if changed { ELECTION_TICKS + self.dice.below(ELECTION_TICKS) } else { timeout };
        node.raft.set_randomized_election_timeout(timeout);
        result
    }

    fn leads(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.raft.state == StateRole::Leader)
    }

    fn store(&mut self, write: &Write) {
        let hard = write.hard.as_ref().map(|hard| {
            self.commit = hard.commit;
            HardState { term: Term(hard.term), vote: (hard.vote != 0).then_some(ReplicaId(hard.vote)) }
        });
        self.disk.take(hard, write.entries.iter().map(entry_to_ours).collect());
    }

    /// Takes what a `Ready` wants written; what needs no disk, and waits for nothing, is done at once.
    fn begin(&mut self, mut ready: Ready, polled: &mut Polled) {
        let (must_sync, idle) = (ready.must_sync(), self.writes.is_empty());
        self.reads.extend(ready.take_read_states());
        polled.sent.extend(ready.take_messages().into_iter().map(Wire::Theirs));
        let write = Write {
            number: ready.number(),
            hard: ready.hs().cloned(),
            entries: ready.take_entries(),
            waiting: ready.take_persisted_messages(),
        };
        let applied = ready.take_committed_entries();
        let node = self.node.as_mut().expect("it was polled");
        let store = node.mut_store();
        if let Some(hard) = &write.hard {
            store.hard = hard.clone();
        }
        if let Some(first) = write.entries.first() {
            store.entries.truncate(first.index as usize - 1);
            store.entries.extend_from_slice(&write.entries);
        }
        node.advance_append_async(ready);
        if let Some(last) = applied.last() {
            node.advance_apply_to(last.index);
        }
        polled.applied.extend(applied.iter().map(entry_to_ours));
        match self.writes.back_mut() {
            // Nothing that needs a write of its own joins the last.
            Some(last) if !must_sync => {
                last.number = write.number;
                last.hard = write.hard.or(last.hard.take());
                last.waiting.extend(write.waiting);
            }
            _ => self.writes.push_back(write),
        }
        if !must_sync && idle {
            polled.sent.extend(self.persisted());
        }
    }
}

impl Replica for Theirs {
    fn kind(&self) -> Kind {
        Kind::Theirs
    }

    fn is_up(&self) -> bool {
        self.node.is_some()
    }

    fn applicable(&self) -> LogIndex {
        LogIndex(self.commit)
    }

    fn start(&mut self, now: Instant, applied: LogIndex, seed: u64) {
        let vote = self.disk.hard.vote.unwrap_or_default().0;
        let hard = eraftpb::HardState { term: self.disk.hard.term.0, vote, commit: self.commit, ..Default::default() };
        let entries = self.disk.entries.iter().map(entry_to_theirs).collect();
        let members = ConfState { voters: (1..=self.size as u64).collect(), ..ConfState::default() };
        let config = Config { applied: applied.0, ..self.config.clone() };
        let quiet = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, Store { hard, entries, members }, &quiet);
        self.node = Some(node.expect("a disk that was written by raft-rs opens"));
        self.dice = Dice::salted(seed, crate::DICE_SALT);
        self.ticked = now;
        let timeout = ELECTION_TICKS + self.dice.below(ELECTION_TICKS);
        self.node.as_mut().expect("it has just started").raft.set_randomized_election_timeout(timeout);
    }

    fn crash(&mut self, kept: usize) {
        self.node = None;
        for write in std::mem::take(&mut self.writes).into_iter().take(kept) {
            self.store(&write);
        }
    }

    fn pass(&mut self, now: Instant) {
        while self.ticked.0 + TICK_NANOS <= now.0 {
            self.ticked.0 += TICK_NANOS;
            self.call(RawNode::tick);
        }
    }

    fn take(&mut self, _: Instant, packet: &Packet) {
        let Some(message) = packet.theirs() else { return };
        let taken = self.call(|node| node.step(message));
        taken.unwrap_or_else(|error| panic!("an honest message was refused: {error}: {packet:?}"));
    }

    fn campaign(&mut self, _: Instant) {
        let _ = self.call(RawNode::campaign);
    }

    fn propose(&mut self, command: &[u8]) -> bool {
        // A follower of theirs would send it to its leader.
        self.leads() && self.call(|node| node.propose(Vec::new(), command.to_vec())).is_ok()
    }

    fn transfer(&mut self, _: Instant, to: usize) {
        if self.leads() {
            self.call(|node| node.transfer_leader(to as u64));
        }
    }

    fn writes(&self) -> usize {
        self.writes.len()
    }

    fn persisted(&mut self) -> Vec<Wire> {
        let Some(write) = self.writes.pop_front() else { return Vec::new() };
        self.store(&write);
        self.call(|node| node.on_persist_ready(write.number));
        write.waiting.into_iter().map(Wire::Theirs).collect()
    }

    fn poll(&mut self) -> Polled {
        let mut polled = Polled::default();
        while self.node.as_ref().is_some_and(RawNode::has_ready) {
            let ready = self.call(RawNode::ready);
            assert!(ready.snapshot().is_empty(), "nothing is compacted here");
            self.begin(ready, &mut polled);
        }
        polled
    }

    fn view(&self) -> Option<View> {
        let raft = &self.node.as_ref()?.raft;
        let log = &raft.raft_log;
        let last = LogPosition { index: LogIndex(log.last_index()), term: Term(log.last_term()) };
        Some(View { term: Term(raft.term), leads: self.leads(), commit: LogIndex(log.committed), last })
    }

    fn log(&self) -> Vec<Entry> {
        let log = |node: &RawNode<Store>| node.raft.raft_log.all_entries().iter().map(entry_to_ours).collect();
        self.node.as_ref().map(log).unwrap_or_default()
    }

    fn disk(&self) -> &Disk {
        &self.disk
    }
}

impl Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard.clone(), self.members.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<eraftpb::Entry>> {
        let mut entries = self.entries[low as usize - 1..high as usize - 1].to_vec();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        match index {
            0 => Ok(0),
            _ => self.entries.get(index as usize - 1).map(|e| e.term).ok_or(Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.entries.len() as u64)
    }

    fn snapshot(&self, _: u64, _: u64) -> raft::Result<eraftpb::Snapshot> {
        Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}
