//! What the core has to do with its log beside recording: entries that are on disk alone, what the disk lost, a full disk.

use super::deadlines::Slot;
use super::durable::Waiting;
use super::reviving::revive;
use super::{Core, Phase};
use crate::mail::Unknown;
use raftyard_raft::{Fetch, Instant, LogIndex, ReplicaId};
use raftyard_storage::wal::{FetchError, Fetched, FetchedData, RecoveredGroup};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// Groups that are looked at in one turn to make room in memory.
const EVICTIONS_MAX: usize = 256;
/// How often a full disk is asked for room.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Entries being read for a replica.
#[derive(Debug)]
pub(super) struct Fetching {
    slot: Slot,
    replica: ReplicaId,
    fetch: Fetch,
}

impl Core {
    /// Asks the log for what a group needs and has not in memory.
    pub(super) fn poll_fetches(&mut self, slot: Slot) {
        let raft = &mut self.groups[slot as usize].raft;
        while let Some(fetch) = raft.poll_fetch() {
            let id = self.wal.fetch(raft.group(), fetch.first, fetch.last, fetch.bytes_max);
            self.fetching.insert(id, Fetching { slot, replica: raft.replica(), fetch });
        }
    }

    /// Hands out what the log has read.
    pub(super) fn take_fetched(&mut self) {
        while let Some(Fetched { id, group, result }) = self.wal.poll_fetched() {
            let Some(Fetching { slot, replica, fetch }) = self.fetching.remove(&id) else {
                self.take_piece(id, result);
                continue;
            };
            let held = &mut self.groups[slot as usize];
            if held.failed.is_some() || held.raft.group() != group || held.raft.replica() != replica {
                continue;
            }
            match result {
                Ok(FetchedData::Entries(entries)) => held.raft.handle_fetched(fetch, entries),
                Ok(FetchedData::Chunk(_)) | Err(FetchError::Gone) => held.raft.handle_fetch_failed(fetch),
                Err(FetchError::Io(error)) => {
                    tracing::warn!(%group, %error, "entries can't be read from the log now");
                    held.raft.handle_fetch_failed(fetch);
                }
                Err(FetchError::Lost { first }) => {
                    self.lose(slot, first);
                    continue;
                }
            }
            self.count_log_bytes(slot);
            self.mark_dirty(slot);
        }
        while let Some((group, first)) = self.wal.poll_lost() {
            if let Some(&slot) = self.by_group.get(&group) {
                self.lose(slot, first);
            }
        }
    }

    /// The disk lost entries that this replica may have acknowledged. It stops, is limited to what it once held, and is
    /// opened again with what is left; its peers bring it up to date.
    fn lose(&mut self, slot: Slot, first: LogIndex) {
        let held = &mut self.groups[slot as usize];
        if held.failed.is_some() {
            return;
        }
        let (group, replica) = (held.raft.group(), held.raft.replica());
        tracing::error!(%group, %first, "the disk lost part of the log; the replica is refilled by its peers");
        held.failed = Some("the disk lost part of its log; it is opened again with what is left".into());
        held.give_up(Unknown::GroupFailed, &mut self.outputs);
        self.drop_snapshots(slot);
        self.losses.push((slot, group, replica, first));
    }

    /// Records what was lost, as far as the batch has room.
    pub(super) fn record_losses(&mut self) {
        while self.wal.has_room()
            && let Some((slot, group, replica, first)) = self.losses.pop()
        {
            let (seq, group) = self.wal.record_loss(group, replica, first);
            self.durable.push(seq, Waiting::Reopening(slot, Box::new(group)));
        }
    }

    /// That a replica lost something is on disk: it goes on with what it has.
    pub(super) fn reopen(&mut self, slot: Slot, now: Instant, recovered: RecoveredGroup) {
        match recovered.snapshot {
            Some(_) => self.begin_reviving(slot, recovered),
            None => self.open_again(slot, now, recovered, None),
        }
    }

    /// Opens a replica again, with the snapshot that the log keeps of its machine.
    pub(super) fn open_again(
        &mut self,
        slot: Slot,
        now: Instant,
        recovered: RecoveredGroup,
        snapshot: Option<Vec<u8>>,
    ) {
        let group = recovered.group;
        let promised = if self.config.raft.leases { self.config.raft.promise_after_restart() } else { Duration::ZERO };
        let machines = Arc::clone(&self.machines);
        let reopened = match catch_unwind(AssertUnwindSafe(|| machines.open(group))) {
            Ok(machine) => {
                revive(machine, &recovered, snapshot.as_deref()).map_err(|error| error.to_string()).and_then(
                    |revived| self.restored(recovered, revived, promised, now).map_err(|error| error.to_string()),
                )
            }
            Err(_) => Err("its state machine can't be opened again: the factory panicked".to_owned()),
        };
        match reopened {
            Ok(reopened) => self.put(slot, reopened),
            Err(reason) => {
                tracing::error!(%group, %reason, "the group can't be opened again on this node");
                self.groups[slot as usize].failed = Some(reason);
            }
        }
    }

    /// Leaves entries to the disk that take more memory than they may. Some groups a turn, one after the other.
    pub(super) fn evict(&mut self) {
        let high = self.config.log_bytes_max / 4 * 3;
        if self.log_bytes <= high || self.groups.is_empty() {
            return;
        }
        for _ in 0..self.groups.len().min(EVICTIONS_MAX) {
            self.evict_hand = (self.evict_hand + 1) % self.groups.len();
            let held = &mut self.groups[self.evict_hand];
            if held.failed.is_none() && held.raft.evict(LogIndex::MAX) > 0 {
                let slot = Slot::try_from(self.evict_hand).expect("a core hosts fewer than 2^32 groups");
                self.count_log_bytes(slot);
            }
            if self.log_bytes <= high / 2 {
                return;
            }
        }
    }

    /// When a full disk is asked for room again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        let full = self.phase == Phase::Running && self.wal.is_full();
        full.then_some(self.retry_at)
    }

    pub(super) fn retry_disk(&mut self, now: Instant) {
        if self.wal.is_full() && self.retry_at <= now {
            self.retry_at = now.after(RETRY_INTERVAL);
            self.wal.retry();
        }
    }
}
