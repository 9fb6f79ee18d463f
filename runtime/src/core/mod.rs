//! One core of a node: its groups, its log, its links, its deadlines. Synchronous and pure: no clock, no I/O, no
//! thread; a driver feeds it inputs and carries out its outputs. The same code runs under glommio and in the simulator.
//!
//! A turn: [`handle`](Core::handle) each input that is at hand, [`end_turn`](Core::end_turn) once, then carry out every
//! [`poll_output`](Core::poll_output).

mod commands;
mod compaction;
mod config;
mod control;
mod deadlines;
mod disk;
mod durable;
mod handshake;
mod links;
mod operate;
mod placement;
pub mod port;
mod reads;
mod receiving;
mod reviving;
mod saving;
mod sending;
mod slot;
mod turn;

pub use config::CoreConfig;
pub use placement::core_of;
pub use reviving::ReviveError;

use crate::group::{Responses, StateMachineFactory};
use crate::mail::{CreateGroupError, RemoveError, Reply};
use crate::wire::{BatchReader, format_descriptor};
use deadlines::{Deadlines, Slot};
use disk::Fetching;
use durable::{Creation, DurableQueue};
use links::Links;
use port::{Input, Output};
use raftyard_raft::{
    Base, ConfigurationEntry, GroupId, Instant, LogIndex, Paged, Raft, ReplicaId, RestoreError, Restored, Settings,
};
use raftyard_storage::wal::{BatchSeq, FetchId, Recovered, RecoveredGroup, Wal, WalError};
use receiving::Receiving;
use reviving::{Revived, Reviving, revive};
use rustc_hash::{FxHashMap, FxHashSet};
use saving::{Saving, Wish};
use sending::Sending;
use slot::GroupSlot;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What a core takes and does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Takes no proposals; finishes what is under way.
    Stopping,
    /// Says and records nothing more; its log is being closed.
    Closing,
    /// Its log failed: it says nothing more to its peers.
    Failed,
}

/// Things that are counted rather than logged, because a peer could cause them at will.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages for groups this core doesn't host.
    pub messages_without_group: u64,
    /// Messages that were malformed, or from a node that doesn't hold the replica it speaks for.
    pub messages_refused: u64,
    /// Appends not taken because the log's memory or its disk is full.
    pub appends_refused: u64,
    /// Logs that begin later now.
    pub logs_compacted: u64,
    /// Snapshots that a peer's protocol has got, or had no need of any more.
    pub snapshots_sent: u64,
    /// Snapshots that took the place of a machine and its log.
    pub snapshots_installed: u64,
    /// Snapshots that did not get to a peer.
    pub snapshots_failed: u64,
}

/// Why a core can't open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// What the log holds of a group contradicts itself or its state machine.
    #[error("group {group} can't be restored from the log: {error}")]
    Restore {
        /// The group.
        group: GroupId,
        /// What is wrong.
        error: RestoreError,
    },
    /// A state machine can't be restored.
    #[error("group {group} can't be restored: {error}")]
    Machine {
        /// The group.
        group: GroupId,
        /// What is wrong.
        error: ReviveError,
    },
    /// The snapshot that the log keeps of a state machine can't be read.
    #[error("the log's snapshot of group {group} can't be read: {error}")]
    Snapshot {
        /// The group.
        group: GroupId,
        /// What is wrong.
        error: WalError,
    },
}

/// Reads the snapshot of a group that a log keeps ([`Wal::load_snapshot`]); only while a core opens.
pub type LoadSnapshot<'a> = &'a mut dyn FnMut(&Wal, GroupId) -> Result<Vec<u8>, WalError>;

type CreationReply = Reply<Result<(), CreateGroupError>>;

/// One core.
pub struct Core {
    config: CoreConfig,
    settings: Arc<Settings>,
    machines: Arc<dyn StateMachineFactory>,
    seed: u64,
    phase: Phase,
    wal: Wal,
    durable: DurableQueue,
    links: Links,
    groups: Vec<GroupSlot>,
    /// Slots of groups that were removed, durably: nothing waits for these any more.
    free_slots: Vec<Slot>,
    /// What is being read from the log, and for whom.
    fetching: FxHashMap<FetchId, Fetching>,
    reviving: FxHashMap<FetchId, Reviving>,
    /// Groups whose logs are too long; each at most once.
    compactions: VecDeque<Slot>,
    /// The slot that was last looked at because the disk is full.
    compact_hand: usize,
    /// Requests to compact. Bounded by `WISHES_MAX`.
    wishes: VecDeque<Wish>,
    /// Snapshots on their way into the log. Bounded by `snapshots_max`.
    savings: Vec<Saving>,
    sending: Sending,
    receiving: Receiving,
    /// Replicas of which the disk lost something, and the first entry lost, to be recorded.
    losses: Vec<(Slot, GroupId, ReplicaId, LogIndex)>,
    /// The slot that was last looked at to make room in memory.
    evict_hand: usize,
    /// The node may have forgotten that it had a replica of some group: then groups are only joined.
    forgetful: bool,
    /// When a full disk is asked for room.
    retry_at: Instant,
    by_group: FxHashMap<GroupId, Slot>,
    /// Groups to poll at the end of the turn; each at most once.
    dirty: Vec<Slot>,
    deadlines: Deadlines,
    next_beat: Instant,
    /// The moment of the last input.
    now: Instant,
    /// When the newest batches get another one behind them, which proves that they were durable.
    seal_at: Option<Instant>,
    /// Groups to create as soon as the batch has room. Bounded by `creations_max`.
    creations: VecDeque<Box<Creation>>,
    /// Groups to remove as soon as the batch has room.
    removals: VecDeque<(Slot, Reply<Result<(), RemoveError>>)>,
    /// Groups whose creation was asked for and is not durable yet.
    creating: FxHashSet<GroupId>,
    shutdowns: Vec<Reply<()>>,
    outputs: VecDeque<Output>,
    /// Sum over all groups of the entries in memory.
    log_bytes: usize,
    /// Sum over all groups of the reads that wait.
    reads: usize,
    counters: Counters,
    format: u32,
    reader: BatchReader,
    responses: Responses,
}

impl Core {
    /// Opens a core on what its log holds; `load` reads the snapshots of machines in memory, one at a time. `seed` is the
    /// only source of randomness.
    ///
    /// # Errors
    /// A group can't be restored; the log must not be used further.
    pub fn open(
        config: CoreConfig,
        wal: Wal,
        recovered: Recovered,
        machines: Arc<dyn StateMachineFactory>,
        load: LoadSnapshot<'_>,
        now: Instant,
        seed: u64,
    ) -> Result<Core, OpenError> {
        assert!(config.core.0 < config.cores, "a core of its node");
        assert!(
            !config.raft.leases || wal.promise() >= config.raft.promise_after_restart(),
            "what peers count on is durable before they are told"
        );
        let mut core = Core {
            settings: Arc::new(config.raft.clone()),
            links: Links::new(&config, &recovered.peers),
            config,
            machines,
            seed,
            phase: Phase::Running,
            wal,
            durable: DurableQueue::default(),
            groups: Vec::with_capacity(recovered.groups.len()),
            free_slots: Vec::new(),
            fetching: FxHashMap::default(),
            reviving: FxHashMap::default(),
            compactions: VecDeque::new(),
            compact_hand: 0,
            wishes: VecDeque::new(),
            savings: Vec::new(),
            sending: Sending::new(seed),
            receiving: Receiving::default(),
            losses: Vec::new(),
            evict_hand: 0,
            forgetful: recovered.damage.iter().any(|damage| !damage.explained),
            retry_at: now,
            by_group: FxHashMap::default(),
            dirty: Vec::new(),
            deadlines: Deadlines::default(),
            next_beat: now,
            now,
            seal_at: None,
            creations: VecDeque::new(),
            removals: VecDeque::new(),
            creating: FxHashSet::default(),
            shutdowns: Vec::new(),
            outputs: VecDeque::new(),
            log_bytes: 0,
            reads: 0,
            counters: Counters::default(),
            format: format_descriptor(),
            reader: BatchReader::default(),
            responses: Responses::default(),
        };
        for mut group in recovered.groups {
            let id = group.group;
            // Pieces of a snapshot that was not whole count no more.
            core.wal.abandon_snapshot(id);
            let machine = core.machines.open(id);
            let mut lost = BatchSeq(0);
            let snapshot = match group.snapshot.map(|_| load(&core.wal, id)) {
                None => None,
                Some(Ok(bytes)) => Some(bytes),
                // The disk lost it: of the replica nothing is left but what it may have acknowledged, and its peers fill it.
                Some(Err(WalError::Unreadable { .. })) if core.wal.has_room() => {
                    tracing::error!(group = %id, "the disk lost the snapshot of the state machine; peers refill the replica");
                    (lost, group) = core.wal.record_loss(id, group.replica, LogIndex(0));
                    None
                }
                Some(Err(error)) => return Err(OpenError::Snapshot { group: id, error }),
            };
            let revived = revive(machine, &group, snapshot.as_deref());
            let revived = revived.map_err(|error| OpenError::Machine { group: id, error })?;
            let slot = core.restore(group, revived, recovered.promise, now);
            let slot = slot.map_err(|error| OpenError::Restore { group: id, error })?;
            // Its answers wait until it is durable that it lost something.
            core.groups[slot as usize].last_batch = lost;
        }
        core.links.dial_all(now, &mut core.outputs);
        Ok(core)
    }

    /// Takes one input.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.now = now;
        match input {
            // Nobody is heard or answered any more but those who send mail, and are told so.
            Input::LinkUp(link) if matches!(self.phase, Phase::Failed | Phase::Closing) => {
                self.outputs.push_back(Output::Close(link));
            }
            Input::Mail(mail) => self.handle_mail(now, mail),
            Input::LinkUp(link) => self.links.handle_up(now, link, &mut self.outputs),
            Input::Bytes { link, bytes } => self.handle_bytes(now, link, bytes),
            Input::Sent { link, buffer } => self.links.handle_sent(link, buffer),
            Input::LinkDown(link) => {
                self.handle_transfers_down(now, link);
                if let Some(node) = self.links.handle_down(now, link) {
                    self.handle_unreachable(node);
                }
            }
            Input::IoDone { id, result } => {
                self.wal.handle_io(id, result);
                self.release(now);
                self.take_fetched();
            }
            Input::Deadline => self.handle_deadline(now),
        }
    }

    /// The next thing to be done, in the order it must be begun.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When the core wants [`Input::Deadline`] at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Failed | Phase::Closing => return None,
            Phase::Running | Phase::Stopping => {}
        }
        let beat = Some(self.next_beat).into_iter().chain(self.seal_at).chain(self.next_retry());
        let beat =
            beat.chain(self.sending.next_deadline(&self.config)).chain(self.receiving.next_deadline(&self.config));
        beat.chain(self.deadlines.next()).chain(self.links.next_deadline()).min()
    }

    /// Whether groups wait for room in a batch or for their next turn: end another turn soon.
    #[must_use]
    pub fn has_work(&self) -> bool {
        let wait = !self.dirty.is_empty() || !self.savings.is_empty() || self.receiving.wants_room();
        matches!(self.phase, Phase::Running | Phase::Stopping) && wait && self.wal.has_room()
    }

    /// Whether its log lost something of which nobody knows whose it was. A group that is founded anew might have had a
    /// replica here that voted.
    #[must_use]
    pub const fn is_forgetful(&self) -> bool {
        self.forgetful
    }

    /// Another log of the node lost something so, now or at an earlier start.
    pub fn forget(&mut self) {
        self.forgetful = true;
    }

    /// What is counted.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The replicas of this core, for checks of their invariants.
    pub fn replicas(&self) -> impl Iterator<Item = &Raft> {
        self.groups.iter().filter(|group| group.failed.is_none()).map(|group| &group.raft)
    }

    /// The replica of a group, unless it is not here or failed.
    #[must_use]
    pub fn replica(&self, group: GroupId) -> Option<&Raft> {
        let slot = *self.by_group.get(&group)?;
        let group = &self.groups[slot as usize];
        group.failed.is_none().then_some(&group.raft)
    }

    fn handle_deadline(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Failed | Phase::Closing) {
            return;
        }
        if self.seal_at.take_if(|at| *at <= now).is_some() {
            self.wal.seal();
        }
        self.retry_disk(now);
        self.handle_transfer_deadline(now);
        self.links.handle_deadline(now, &mut self.outputs);
        if self.next_beat <= now {
            self.next_beat = now.after(self.config.heartbeat_interval);
            self.beat(now);
        }
        while let Some(slot) = self.deadlines.pop_due(now) {
            let group = &mut self.groups[slot as usize];
            group.raft.handle_deadline(now);
            group.expire(now, &mut self.outputs);
            self.schedule(slot);
            self.mark_dirty(slot);
        }
    }

    /// Lets every led group say so.
    fn beat(&mut self, now: Instant) {
        for slot in 0..self.groups.len() {
            let group = &mut self.groups[slot];
            if group.failed.is_none() && group.raft.role() == raftyard_raft::Role::Leader {
                group.raft.beat(now);
                self.mark_dirty(slot as Slot);
            }
        }
    }

    fn mark_dirty(&mut self, slot: Slot) {
        let group = &mut self.groups[slot as usize];
        if !group.dirty {
            group.dirty = true;
            self.dirty.push(slot);
        }
    }

    fn restore(
        &mut self,
        group: RecoveredGroup,
        revived: Revived,
        promised_for: Duration,
        now: Instant,
    ) -> Result<Slot, RestoreError> {
        let held = self.restored(group, revived, promised_for, now)?;
        let slot = self
            .free_slots
            .pop()
            .unwrap_or_else(|| Slot::try_from(self.groups.len()).expect("a core hosts fewer than 2^32 groups"));
        self.by_group.insert(held.raft.group(), slot);
        self.put(slot, held);
        Ok(slot)
    }

    /// A replica with its machine, as the log left it. No entry is read before somebody needs it.
    fn restored(
        &self,
        group: RecoveredGroup,
        revived: Revived,
        promised_for: Duration,
        now: Instant,
    ) -> Result<GroupSlot, RestoreError> {
        let Revived { machine, holds } = revived;
        let configurations = group.configurations.into_iter().map(|(index, data)| {
            let held = ConfigurationEntry::decode(&data).map_err(|_| RestoreError::NoConfiguration(index))?;
            Ok((index, held.configuration))
        });
        let restored = Restored {
            hard_state: group.hard_state,
            base: Base {
                position: group.base,
                configuration: group.configuration,
                configuration_index: group.configuration_index,
            },
            paged: Paged {
                last: group.last.index,
                terms: group.terms,
                configurations: configurations.collect::<Result<_, RestoreError>>()?,
            },
            entries: Vec::new(),
            applied: LogIndex(0),
            machine: holds,
            limit: group.limit,
            promised_for,
        };
        // Each replica draws its time-outs from a seed of its own.
        let seed = self.seed ^ group.group.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ group.replica.0.rotate_left(32);
        let settings = Arc::clone(&self.settings);
        let raft = Raft::new(group.group, group.replica, restored, settings, now, seed)?;
        let mut held = GroupSlot::new(raft, machine);
        held.kept.base = held.raft.base().position.index;
        held.kept.entry_bytes = self.wal.entry_bytes(group.group);
        held.kept.snapshot = group.snapshot;
        // A machine that is ahead of its log: the log goes on from there.
        held.kept.reset_due = held.raft.base().position != group.base;
        Ok(held)
    }

    /// Puts a group into a slot, in the place of whoever was there.
    fn put(&mut self, slot: Slot, held: GroupSlot) {
        let place = slot as usize;
        if place == self.groups.len() {
            self.groups.push(held);
        } else {
            let before = std::mem::replace(&mut self.groups[place], held);
            self.log_bytes -= before.log_bytes_counted;
            self.reads -= before.reads_counted;
            // It may still be on the list.
            self.groups[place].dirty = before.dirty;
        }
        self.count_log_bytes(slot);
        self.mark_dirty(slot);
    }
}
