//! A group whose disks and network do exactly what the test says. Every step ends with a check of the invariants.

use crate::invariants::Invariants;
use crate::packet::{Packet, list};
use bytes::Bytes;
use raftyard_raft::{
    Configuration, Durability, Entry, GroupId, HardState, Instant, LogIndex, Member, MessageError, NodeId,
    ProposeError, Raft, Receipt, ReplicaId, Restored, Role, Settings,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const GROUP: GroupId = GroupId(7);

/// What is durable of one replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) hard: HardState,
    pub(crate) entries: Vec<Entry>,
}

/// A write under way: not durable until it completes, and nothing that waits for it has left.
#[derive(Debug)]
struct Write {
    hard: Option<HardState>,
    entries: Vec<Entry>,
    receipt: Receipt,
    waiting: Vec<Packet>,
}

/// One replica and what is its own.
#[derive(Debug)]
pub(crate) struct Replica {
    /// `None` while it is down.
    pub(crate) raft: Option<Raft>,
    pub(crate) disk: Disk,
    writes: VecDeque<Write>,
}

/// A group of replicas, named from 1.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) replicas: Vec<Replica>,
    /// Messages on their way, in the order they were sent.
    pub(crate) network: Vec<Packet>,
    pub(crate) now: Instant,
    pub(crate) invariants: Invariants,
    /// What happened, in words, if anybody listens.
    pub(crate) trace: Option<Vec<String>>,
    /// Most bytes of one write, and most writes begun in one turn.
    pub(crate) persist: (usize, usize),
    configuration: Arc<Configuration>,
    settings: Arc<Settings>,
    seed: u64,
}

/// Short times, so that the numbers in scenarios are small.
pub(crate) fn settings() -> Settings {
    Settings {
        election_timeout_min: Duration::from_nanos(100),
        election_timeout_max: Duration::from_nanos(200),
        ..Settings::default()
    }
}

impl Cluster {
    pub(crate) fn new(disks: Vec<Disk>, settings: Settings, seed: u64) -> Cluster {
        let member = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
        let members = (1..=disks.len() as u64).map(member).collect();
        let mut cluster = Cluster {
            invariants: Invariants::new(disks.len()),
            replicas: disks.into_iter().map(|disk| Replica { raft: None, disk, writes: VecDeque::new() }).collect(),
            network: Vec::new(),
            now: Instant(1_000),
            trace: None,
            persist: (usize::MAX, usize::MAX),
            configuration: Arc::new(Configuration::new(members).unwrap()),
            settings: Arc::new(settings),
            seed,
        };
        for id in cluster.ids() {
            cluster.restart(id, LogIndex(0));
        }
        cluster
    }

    pub(crate) fn ids(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.replicas.len()
    }

    pub(crate) fn replica(&self, id: usize) -> &Replica {
        &self.replicas[id - 1]
    }

    pub(crate) fn raft(&mut self, id: usize) -> Option<&mut Raft> {
        self.replicas[id - 1].raft.as_mut()
    }

    /// The replica that leads the highest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        let leads = |id: &usize| self.replica(*id).raft.as_ref().is_some_and(|r| r.role() == Role::Leader);
        self.ids().filter(leads).max_by_key(|id| self.replica(*id).raft.as_ref().map(Raft::term))
    }

    pub(crate) fn writes(&self, id: usize) -> usize {
        self.replica(id).writes.len()
    }

    /// Starts a replica from its disk. `applied`: what its state machine still holds.
    pub(crate) fn restart(&mut self, id: usize, applied: LogIndex) {
        let Disk { hard, entries } = self.replica(id).disk.clone();
        let restored = Restored { hard_state: hard, entries, applied };
        self.seed += 1;
        let (configuration, settings) = (self.configuration.clone(), self.settings.clone());
        let replica = ReplicaId(id as u64);
        let raft = Raft::new(GROUP, replica, configuration, restored, settings, self.now, self.seed).unwrap();
        self.invariants.restarted(id, hard.term, applied);
        self.replicas[id - 1].raft = Some(raft);
        self.turn(id);
    }

    /// Takes a replica down. Of its writes under way the first `kept` have reached the disk, unreported.
    pub(crate) fn crash(&mut self, id: usize, kept: usize) {
        self.replicas[id - 1].raft = None;
        let writes = std::mem::take(&mut self.replicas[id - 1].writes);
        for write in writes.into_iter().take(kept) {
            self.replicas[id - 1].disk.take(write.hard, write.entries);
        }
    }

    /// The oldest write under way completes: what waited for it leaves, and the replica hears of it.
    pub(crate) fn persisted(&mut self, id: usize) {
        let Some(write) = self.replicas[id - 1].writes.pop_front() else { return };
        self.note(|| format!("{id} holds {}", describe_write(write.hard, &write.entries)));
        self.replicas[id - 1].disk.take(write.hard, write.entries);
        for packet in write.waiting {
            self.send(packet);
        }
        let raft = self.raft(id).expect("a replica that is down has no writes under way");
        raft.handle_persisted(write.receipt);
    }

    /// Gives a message to its receiver, which is not polled yet. One that is down loses it.
    pub(crate) fn deliver(&mut self, packet: &Packet) -> Result<(), MessageError> {
        let now = self.now;
        self.raft(packet.to()).map_or(Ok(()), |raft| raft.handle_message(now, packet.message()))
    }

    pub(crate) fn propose(&mut self, id: usize, data: &str) -> Result<(), ProposeError> {
        let raft = self.raft(id).expect("only a replica that is up is asked");
        raft.propose(Bytes::copy_from_slice(data.as_bytes())).map(drop)
    }

    /// Moves the clock to the replica's deadline, if that is to come, and tells it.
    pub(crate) fn deadline(&mut self, id: usize) {
        let now = self.now;
        if let Some(raft) = self.raft(id)
            && let Some(deadline) = raft.deadline()
        {
            let now = now.max(deadline);
            raft.handle_deadline(now);
            self.now = now;
        }
    }

    /// Ends a turn of a replica: polls it in the order its contract fixes, and checks.
    pub(crate) fn turn(&mut self, id: usize) {
        if self.replica(id).raft.is_some() {
            self.poll_persist(id);
            self.poll_messages(id);
            self.poll_committed(id);
            self.invariants.check(&self.replicas, id);
        }
    }

    fn poll_persist(&mut self, id: usize) {
        let (bytes_max, writes_max) = self.persist;
        for _ in 0..writes_max {
            let raft = self.raft(id).expect("the caller checked");
            let Some(persist) = raft.poll_persist(bytes_max) else { break };
            let hard = persist.hard_state;
            let entries: Vec<Entry> = persist.entries.0.iter().chain(persist.entries.1).cloned().collect();
            let receipt = persist.receipt;
            self.note(|| format!("{id} writes {}", describe_write(hard, &entries)));
            self.replicas[id - 1].writes.push_back(Write { hard, entries, receipt, waiting: Vec::new() });
        }
    }

    fn poll_messages(&mut self, id: usize) {
        loop {
            let raft = self.raft(id).expect("the caller checked");
            let Some(outgoing) = raft.poll_message() else { break };
            let (packet, durability) = (Packet::new(outgoing.message), outgoing.durability);
            match self.replicas[id - 1].writes.back_mut() {
                Some(write) if durability == Durability::AfterPersist => {
                    write.waiting.push(packet.clone());
                    self.note(|| format!("waits: {}", packet.describe()));
                }
                _ => self.send(packet),
            }
        }
    }

    fn poll_committed(&mut self, id: usize) {
        loop {
            let raft = self.raft(id).expect("the caller checked");
            let Some((left, right)) = raft.poll_committed(usize::MAX) else { break };
            let entries: Vec<Entry> = left.iter().chain(right).cloned().collect();
            self.note(|| format!("{id} applies {}", list((&entries, &[]))));
            self.invariants.apply(&self.replicas, id, &entries);
        }
    }

    fn send(&mut self, packet: Packet) {
        self.invariants.sent(&self.replicas, &packet);
        self.note(|| packet.describe());
        self.network.push(packet);
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(text());
        }
    }
}

impl Disk {
    fn take(&mut self, hard: Option<HardState>, entries: Vec<Entry>) {
        self.hard = hard.unwrap_or(self.hard);
        if let Some(first) = entries.first() {
            let before = first.index.0 as usize - 1;
            assert!(before <= self.entries.len(), "a write leaves no gap");
            self.entries.truncate(before);
            self.entries.extend(entries);
        }
    }
}

fn describe_write(hard: Option<HardState>, entries: &[Entry]) -> String {
    let vote = |hard: HardState| hard.vote.map_or_else(|| "nobody".to_owned(), |v| v.to_string());
    let hard = hard.map(|h| format!("term {} vote {}", h.term, vote(h)));
    let entries = (!entries.is_empty()).then(|| format!("[{}]", list((entries, &[]))));
    hard.into_iter().chain(entries).collect::<Vec<_>>().join(" ")
}
