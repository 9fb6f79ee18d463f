//! A replica of this crate, on a disk that is slow.

use crate::packet::{Owned, Packet, Wire};
use crate::replica::{BEAT_NANOS, Disk, ELECTION_TIMEOUT_NANOS, GROUP, Kind, Polled, Replica, View};
use bytes::Bytes;
use raftyard_raft::{
    Base, Configuration, Durability, Entry, HardState, Instant, LogIndex, Member, NodeId, Persist, Raft, ReadState,
    ReadTicket, Receipt, ReplicaId, Restored, Role, Sender, Settings,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Ours {
    id: usize,
    configuration: Arc<Configuration>,
    settings: Arc<Settings>,
    /// Most bytes of one write.
    persist_bytes_max: usize,
    raft: Option<Raft>,
    disk: Disk,
    writes: VecDeque<Write>,
    beat: Instant,
}

#[derive(Debug)]
struct Write {
    hard: Option<HardState>,
    entries: Vec<Entry>,
    receipt: Receipt,
    waiting: Vec<Owned>,
}

/// Limits of the smallest kinds, so that they are met: `inflight` appends on their way, of `bytes` each.
pub(crate) fn settings(inflight: usize, bytes: usize) -> Settings {
    Settings {
        election_timeout_min: Duration::from_nanos(ELECTION_TIMEOUT_NANOS),
        election_timeout_max: Duration::from_nanos(2 * ELECTION_TIMEOUT_NANOS),
        append_bytes_max: bytes,
        inflight_appends_max: inflight,
        ..Settings::default()
    }
}

impl Ours {
    pub(crate) fn new(id: usize, size: usize, settings: Settings, persist_bytes_max: usize) -> Ours {
        let member = |id: usize| Member { replica: ReplicaId(id as u64), node: NodeId(id as u64) };
        let configuration = Configuration::new((1..=size).map(member).collect()).unwrap();
        Ours {
            id,
            configuration: Arc::new(configuration),
            settings: Arc::new(settings),
            persist_bytes_max,
            raft: None,
            disk: Disk::default(),
            writes: VecDeque::new(),
            beat: Instant(0),
        }
    }

    pub(crate) fn raft(&mut self) -> &mut Raft {
        self.raft.as_mut().expect("only a replica that is up is asked")
    }

    pub(crate) fn read_state(&self, ticket: &ReadTicket) -> ReadState {
        self.raft.as_ref().expect("only a replica that is up is asked").read_state(ticket)
    }
}

impl Replica for Ours {
    fn kind(&self) -> Kind {
        Kind::Ours
    }

    fn is_up(&self) -> bool {
        self.raft.is_some()
    }

    fn applicable(&self) -> LogIndex {
        LogIndex(self.disk.entries.len() as u64)
    }

    fn start(&mut self, now: Instant, applied: LogIndex, seed: u64) {
        let Disk { hard, entries } = self.disk.clone();
        let base = Base::initial(Arc::clone(&self.configuration));
        let fresh = Restored::fresh(base.configuration.clone());
        let restored = Restored { hard_state: hard, base, entries, applied, ..fresh };
        let settings = Arc::clone(&self.settings);
        let raft = Raft::new(GROUP, ReplicaId(self.id as u64), restored, settings, now, seed);
        self.raft = Some(raft.expect("a disk that was written by this crate opens"));
    }

    fn crash(&mut self, kept: usize) {
        self.raft = None;
        for write in std::mem::take(&mut self.writes).into_iter().take(kept) {
            self.disk.take(write.hard, write.entries);
        }
    }

    fn pass(&mut self, now: Instant) {
        let beats = now >= self.beat;
        let raft = self.raft();
        if raft.deadline().is_some_and(|deadline| deadline <= now) {
            raft.handle_deadline(now);
        }
        if beats {
            raft.beat(now);
            self.beat = now.after(Duration::from_nanos(BEAT_NANOS));
        }
    }

    fn take(&mut self, now: Instant, packet: &Packet) {
        let Some(owned) = packet.ours() else { return };
        let from = Sender { node: NodeId(packet.from() as u64), keeps_promises: false };
        let taken = self.raft().handle_message(now, from, owned.message());
        taken.unwrap_or_else(|error| panic!("an honest message was refused: {error}: {packet:?}"));
    }

    fn campaign(&mut self, now: Instant) {
        // It refuses where it leads, or promised a leader not to.
        let _ = self.raft().campaign(now);
    }

    fn propose(&mut self, command: &[u8]) -> bool {
        self.raft().propose(Bytes::copy_from_slice(command)).is_ok()
    }

    fn transfer(&mut self, now: Instant, to: usize) {
        let _ = self.raft().transfer_leadership(now, ReplicaId(to as u64));
    }

    fn writes(&self) -> usize {
        self.writes.len()
    }

    fn persisted(&mut self) -> Vec<Wire> {
        let Some(write) = self.writes.pop_front() else { return Vec::new() };
        self.disk.take(write.hard, write.entries);
        self.raft().handle_persisted(write.receipt);
        write.waiting.into_iter().map(Wire::Ours).collect()
    }

    fn poll(&mut self) -> Polled {
        let mut polled = Polled::default();
        let raft = self.raft.as_mut().expect("only a replica that is up is polled");
        while let Some(persist) = raft.poll_persist(self.persist_bytes_max) {
            let Persist { hard_state: hard, entries: (left, right), receipt, .. } = persist;
            let entries = left.iter().chain(right).cloned().collect();
            self.writes.push_back(Write { hard, entries, receipt, waiting: Vec::new() });
        }
        while let Some(outgoing) = raft.poll_message() {
            let (owned, durability) = (Owned::new(outgoing.message), outgoing.durability);
            match self.writes.back_mut() {
                Some(write) if durability == Durability::AfterPersist => write.waiting.push(owned),
                _ => polled.sent.push(Wire::Ours(owned)),
            }
        }
        while let Some((left, right)) = raft.poll_committed(usize::MAX) {
            polled.applied.extend(left.iter().chain(right).cloned());
        }
        polled
    }

    fn view(&self) -> Option<View> {
        let raft = self.raft.as_ref()?;
        let leads = raft.role() == Role::Leader;
        Some(View { term: raft.term(), leads, commit: raft.commit(), last: raft.last() })
    }

    fn log(&self) -> Vec<Entry> {
        let Some(raft) = &self.raft else { return Vec::new() };
        let (left, right) = raft.entries(LogIndex(1), raft.last().index);
        left.iter().chain(right).cloned().collect()
    }

    fn disk(&self) -> &Disk {
        &self.disk
    }
}
