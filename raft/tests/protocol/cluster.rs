//! A group whose disks and network do exactly what the test says. Every step ends with a check of the invariants.

use crate::clock::Clock;
use crate::disk::{Disk, Saved};
use crate::invariants::Invariants;
use crate::packet::{Packet, list};
use bytes::Bytes;
use raftyard_raft::{
    Base, CompactError, Configuration, ConfigurationEntry, Durability, Entry, EntryKind, Fetch, GroupId, Instant,
    Limit, LogIndex, Member, MessageError, NodeId, Persist, ProposeError, Purpose, Raft, Receipt, ReplicaId, Restored,
    Role, Sender, Settings,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const GROUP: GroupId = GroupId(7);

/// A write under way: not durable until it completes, and nothing that waits for it has left.
#[derive(Debug)]
struct Write {
    saved: Saved,
    receipt: Receipt,
    waiting: Vec<Packet>,
}

/// One replica and what is its own.
#[derive(Debug)]
pub(crate) struct Replica {
    /// `None` while it is down, or not created yet.
    pub(crate) raft: Option<Raft>,
    pub(crate) disk: Disk,
    /// It was created, and so it can start.
    pub(crate) exists: bool,
    /// What it takes for the time.
    pub(crate) clock: Clock,
    /// Its node keeps the promises of its heartbeat answers over a restart.
    pub(crate) keeps_promises: bool,
    writes: VecDeque<Write>,
    /// What it wants to read, and what was read of that already.
    pub(crate) fetches: Vec<(Fetch, Option<Vec<Entry>>)>,
}

/// What a replica is started with, beside what its disk holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// What its state machine still holds; at least what is known to be durable of it.
    pub(crate) applied: LogIndex,
    /// Its entries up to here stay on disk.
    pub(crate) paged: LogIndex,
    /// It is told where its state machine is, also if it need not be.
    pub(crate) with_machine: bool,
}

/// A group of replicas, named from 1; replica n is on node n.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) replicas: Vec<Replica>,
    /// Messages on their way, in the order they were sent.
    pub(crate) network: Vec<Packet>,
    /// Messages that went to a replica that was not created.
    pub(crate) unheard: Vec<Packet>,
    /// Nothing passes between these replicas and the others.
    pub(crate) apart: Vec<usize>,
    /// The true time; what a replica takes for it, its clock tells.
    pub(crate) now: Instant,
    pub(crate) invariants: Invariants,
    /// What happened, in words, if anybody listens.
    pub(crate) trace: Option<Vec<String>>,
    /// Most bytes of one write, and most writes begun in one turn.
    pub(crate) persist: (usize, usize),
    /// Most bytes of entries that are applied at a time.
    pub(crate) apply: usize,
    /// What is fetched is read when it is asked for, and not when it is answered.
    pub(crate) reads_early: bool,
    /// Who belonged to the group when it began.
    initial: Arc<Configuration>,
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

pub(crate) fn member(id: usize) -> Member {
    Member { replica: ReplicaId(id as u64), node: NodeId(id as u64) }
}

/// The disks of `count` replicas, all of them voters.
pub(crate) fn fresh(count: usize) -> Vec<Option<Disk>> {
    let configuration = Configuration::new((1..=count).map(member).collect()).unwrap();
    (0..count).map(|_| Some(Disk::fresh(configuration.clone()))).collect()
}

impl Replica {
    /// Its whole log after the base: what it left to the disk, and what it has in memory.
    pub(crate) fn log(&self) -> Vec<&Entry> {
        let Some(raft) = &self.raft else { return Vec::new() };
        let (base, memory) = (raft.base().position.index, raft.first_in_memory());
        let paged = self.disk.entries.iter().filter(|entry| entry.index > base && entry.index < memory);
        let (left, right) = raft.entries(LogIndex(1), raft.last().index);
        paged.chain(left).chain(right).collect()
    }
}

impl Cluster {
    /// Replicas with these disks; those without are created later, by [`join`](Cluster::join).
    pub(crate) fn new(disks: Vec<Option<Disk>>, settings: Settings, seed: u64) -> Cluster {
        let clocks = vec![Clock::TRUE; disks.len()];
        Cluster::with_clocks(disks, &clocks, settings, seed)
    }

    /// The same, where each replica has a clock of its own.
    pub(crate) fn with_clocks(disks: Vec<Option<Disk>>, clocks: &[Clock], settings: Settings, seed: u64) -> Cluster {
        let replica = |(disk, clock): (Option<Disk>, &Clock)| Replica {
            raft: None,
            exists: disk.is_some(),
            disk: disk.unwrap_or_else(|| Disk::fresh(Configuration::joining())),
            clock: *clock,
            keeps_promises: true,
            writes: VecDeque::new(),
            fetches: Vec::new(),
        };
        let initial = disks.iter().flatten().next().map(|disk| Arc::clone(&disk.base.configuration));
        let mut cluster = Cluster {
            invariants: Invariants::new(disks.len()),
            replicas: disks.into_iter().zip(clocks).map(replica).collect(),
            network: Vec::new(),
            unheard: Vec::new(),
            apart: Vec::new(),
            now: Instant(1_000),
            trace: None,
            persist: (usize::MAX, usize::MAX),
            apply: usize::MAX,
            reads_early: false,
            initial: initial.expect("a group has replicas"),
            settings: Arc::new(settings),
            seed,
        };
        for id in cluster.ids() {
            if cluster.replica(id).exists {
                cluster.restart(id, LogIndex(0));
            }
        }
        cluster
    }

    pub(crate) fn ids(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.replicas.len()
    }

    pub(crate) fn replica(&self, id: usize) -> &Replica {
        &self.replicas[id - 1]
    }

    /// What a replica takes for the time.
    pub(crate) fn time(&self, id: usize) -> Instant {
        self.replica(id).clock.read(self.now)
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

    /// Creates a replica that knows nobody: whoever leads the group will speak to it once it is a member.
    pub(crate) fn join(&mut self, id: usize) {
        self.replicas[id - 1].exists = true;
        self.restart(id, LogIndex(0));
    }

    /// Starts a replica from its disk, with all its entries in memory.
    pub(crate) fn restart(&mut self, id: usize, applied: LogIndex) {
        self.start(id, Start { applied, ..Start::default() });
    }

    /// Starts a replica from its disk.
    pub(crate) fn start(&mut self, id: usize, Start { applied, paged, with_machine }: Start) {
        let disk = self.replica(id).disk.clone();
        let machine = match disk.machine.clone() {
            durable if applied <= durable.position.index => durable,
            _ => self.base_at(applied),
        };
        let applied = machine.position.index;
        let must = applied > disk.last() || disk.limit != Limit::None;
        let keeps = self.settings.leases && self.replica(id).keeps_promises;
        let promised_for = if keeps { self.settings.promise_after_restart() } else { Duration::ZERO };
        let (paged, entries) = disk.paged(paged);
        let restored = Restored {
            hard_state: disk.hard,
            base: disk.base,
            paged,
            entries,
            applied,
            machine: (must || with_machine).then_some(machine),
            limit: disk.limit,
            promised_for,
        };
        self.seed += 1;
        let (settings, now) = (self.settings.clone(), self.time(id));
        let raft = Raft::new(GROUP, ReplicaId(id as u64), restored, settings, now, self.seed).unwrap();
        self.invariants.restarted(id, disk.hard.term, applied);
        self.replicas[id - 1].raft = Some(raft);
        self.turn(id);
    }

    /// What a state machine holds that has applied everything up to `index`, which is committed.
    pub(crate) fn base_at(&self, index: LogIndex) -> Base {
        let committed = &self.invariants.committed[..index.0 as usize];
        let Some(last) = committed.last() else { return Base::initial(Arc::clone(&self.initial)) };
        let change = committed.iter().rfind(|entry| entry.kind == EntryKind::Configuration);
        let held = change.map(|entry| ConfigurationEntry::decode(&entry.data).expect("an honest entry").configuration);
        Base {
            position: last.position(),
            configuration: held.map_or_else(|| Arc::clone(&self.initial), Arc::new),
            configuration_index: change.map_or(LogIndex(0), |entry| entry.index),
        }
    }

    /// Takes a replica down. Of its writes under way the first `kept` have reached the disk, unreported. Says whether a
    /// snapshot was lost.
    pub(crate) fn crash(&mut self, id: usize, kept: usize) -> bool {
        let replica = &mut self.replicas[id - 1];
        let base = replica.raft.take().map(|raft| raft.base().position.index);
        replica.fetches.clear();
        for write in std::mem::take(&mut replica.writes).into_iter().take(kept) {
            replica.disk.take(write.saved);
        }
        base > Some(replica.disk.base.position.index)
    }

    /// The oldest write under way completes: what waited for it leaves, and the replica hears of it.
    pub(crate) fn persisted(&mut self, id: usize) {
        let Some(write) = self.replicas[id - 1].writes.pop_front() else { return };
        self.note(|| format!("{id} holds {}", write.saved.describe()));
        self.replicas[id - 1].disk.take(write.saved);
        for packet in write.waiting {
            self.send(packet);
        }
        let raft = self.raft(id).expect("a replica that is down has no writes under way");
        raft.handle_persisted(write.receipt);
        self.invariants.learn(&self.replicas, id);
    }

    /// One of the fetches of a replica is answered with what its disk holds, or held: with at most `count` entries. Says
    /// whether it could be read.
    pub(crate) fn fetched(&mut self, id: usize, place: usize, count: usize) -> bool {
        let (fetch, read) = self.replicas[id - 1].fetches.remove(place);
        let mut entries = read.unwrap_or_else(|| self.replica(id).disk.read(&fetch));
        entries.truncate(count.max(1));
        let raft = self.raft(id).expect("a replica that is down asks for nothing");
        let found = !entries.is_empty();
        match found {
            true => raft.handle_fetched(fetch, entries),
            false => raft.handle_fetch_failed(fetch),
        }
        found
    }

    /// Gives a message to its receiver, which is not polled yet. One that is down loses it.
    pub(crate) fn deliver(&mut self, packet: &Packet) -> Result<(), MessageError> {
        let (from, to) = (packet.from(), packet.to());
        let keeps_promises = self.settings.leases && self.replica(from).keeps_promises;
        let (now, from) = (self.time(to), Sender { node: NodeId(from as u64), keeps_promises });
        let taken = self.raft(to).map_or(Ok(()), |raft| raft.handle_message(now, from, packet.message()));
        self.invariants.learn(&self.replicas, to);
        taken
    }

    pub(crate) fn propose(&mut self, id: usize, data: &str) -> Result<(), ProposeError> {
        let raft = self.raft(id).expect("only a replica that is up is asked");
        raft.propose(Bytes::copy_from_slice(data.as_bytes())).map(drop)
    }

    /// Lets time pass until the replica's deadline, if that is to come, and tells it.
    pub(crate) fn deadline(&mut self, id: usize) {
        if let Some(deadline) = self.raft(id).and_then(|raft| raft.deadline()) {
            self.now = self.now.max(self.replica(id).clock.moment(deadline));
            let now = self.time(id);
            self.raft(id).expect("it has a deadline").handle_deadline(now);
        }
    }

    /// Forgets the log of a replica up to `index`, which its state machine holds durably.
    pub(crate) fn compact(&mut self, id: usize, index: LogIndex) -> Result<(), CompactError> {
        let raft = self.raft(id).expect("only a replica that is up is asked");
        raft.compact(index)?;
        let base = raft.base();
        let replica = &mut self.replicas[id - 1];
        // A snapshot that is still on its way to the disk takes the place of all that is there.
        let there = replica.disk.entry(base.position.index).is_some_and(|entry| entry.position() == base.position);
        if there && replica.writes.iter().all(|write| write.saved.base.is_none()) {
            replica.disk.compact(base);
        }
        Ok(())
    }

    /// Ends a turn of a replica: polls it in the order its contract fixes, and checks.
    pub(crate) fn turn(&mut self, id: usize) {
        if self.replica(id).raft.is_some() {
            self.poll_persist(id);
            self.poll_messages(id);
            self.poll_committed(id);
            self.poll_fetch(id);
            self.invariants.check(&self.replicas, id);
        }
    }

    fn poll_persist(&mut self, id: usize) {
        let (bytes_max, writes_max) = self.persist;
        for _ in 0..writes_max {
            let raft = self.raft(id).expect("the caller checked");
            let Some(persist) = raft.poll_persist(bytes_max) else { break };
            let Persist { base, hard_state: hard, limit, entries: (left, right), receipt } = persist;
            let saved = Saved { base, hard, limit, entries: left.iter().chain(right).cloned().collect() };
            self.note(|| format!("{id} writes {}", saved.describe()));
            self.replicas[id - 1].writes.push_back(Write { saved, receipt, waiting: Vec::new() });
        }
    }

    fn poll_messages(&mut self, id: usize) {
        loop {
            let raft = self.raft(id).expect("the caller checked");
            let Some(outgoing) = raft.poll_message() else { break };
            let (packet, durability) = (Packet::new(outgoing.message, outgoing.node), outgoing.durability);
            assert_eq!(packet.node().0 as usize, packet.to(), "a message goes to the node of its receiver");
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
        // A snapshot is applied as a whole.
        self.invariants.restored(&self.replicas, id);
        loop {
            let bytes_max = self.apply;
            let raft = self.raft(id).expect("the caller checked");
            let Some((left, right)) = raft.poll_committed(bytes_max) else { break };
            let entries: Vec<Entry> = left.iter().chain(right).cloned().collect();
            self.note(|| format!("{id} applies {}", list((&entries, &[]))));
            self.invariants.apply(&self.replicas, id, &entries);
        }
    }

    fn poll_fetch(&mut self, id: usize) {
        while let Some(fetch) = self.raft(id).expect("the caller checked").poll_fetch() {
            self.note(|| {
                let purpose = match fetch.purpose {
                    Purpose::Apply => "to apply".to_owned(),
                    Purpose::Append(to) => format!("for {to}"),
                };
                format!("{id} fetches from {} up to {} {purpose}", fetch.first, fetch.last)
            });
            let read = self.reads_early.then(|| self.replica(id).disk.read(&fetch));
            let replica = &mut self.replicas[id - 1];
            let twice = replica.fetches.iter().any(|(other, _)| other.purpose == fetch.purpose);
            assert!(!twice, "{id} fetches twice for one purpose: {fetch:?}");
            replica.fetches.push((fetch, read));
        }
    }

    fn send(&mut self, packet: Packet) {
        self.invariants.sent(&self.replicas, &packet);
        if self.apart.contains(&packet.from()) != self.apart.contains(&packet.to()) {
            return self.note(|| format!("lost: {}", packet.describe()));
        }
        self.note(|| packet.describe());
        // Nobody listens where nothing was created.
        if self.replicas.get(packet.to() - 1).is_some_and(|replica| replica.exists) {
            self.network.push(packet);
        } else {
            self.unheard.push(packet);
        }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(text());
        }
    }
}
