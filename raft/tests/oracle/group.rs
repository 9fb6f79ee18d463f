//! A group of replicas of both kinds, and the network between them. Everything that happens ends with a check.

use crate::invariants::Invariants;
use crate::packet::{Packet, Wire};
use crate::replica::{Kind, Replica};
use crate::totals::Totals;
use raftyard_raft::{Body, Entry, Instant, LogIndex, LogPosition, Term};

/// Replicas named from 1.
pub(crate) struct Group {
    pub(crate) replicas: Vec<Box<dyn Replica>>,
    /// On their way, in the order they were sent.
    pub(crate) network: Vec<Packet>,
    pub(crate) now: Instant,
    pub(crate) invariants: Invariants,
    pub(crate) totals: Totals,
    /// Tells what happens.
    pub(crate) traced: bool,
    /// Elections that a leader asked for: the term, and the leader's kind.
    asked: Vec<(Term, Kind)>,
    sent: u64,
    seed: u64,
}

impl Group {
    pub(crate) fn new(replicas: Vec<Box<dyn Replica>>, seed: u64) -> Group {
        let invariants = Invariants::new(replicas.len());
        let mut group = Group {
            replicas,
            network: Vec::new(),
            now: Instant(1_000),
            invariants,
            totals: Totals::default(),
            traced: false,
            asked: Vec::new(),
            sent: 0,
            seed,
        };
        for id in group.ids() {
            group.start(id, LogIndex(0));
        }
        group
    }

    pub(crate) fn ids(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.replicas.len()
    }

    pub(crate) fn replica(&self, id: usize) -> &dyn Replica {
        self.replicas[id - 1].as_ref()
    }

    pub(crate) fn kind(&self, id: usize) -> Kind {
        self.replica(id).kind()
    }

    pub(crate) fn leaders(&self) -> Vec<usize> {
        self.ids().filter(|id| self.replica(*id).view().is_some_and(|view| view.leads)).collect()
    }

    /// Starts a replica; its state machine holds at most what was applied, and at most `applied`.
    pub(crate) fn start(&mut self, id: usize, applied: LogIndex) {
        let before = self.invariants.applied[id - 1];
        let applied = applied.min(before).min(self.replica(id).applicable());
        self.seed = self.seed.wrapping_add(1);
        self.note(|| format!("{id} starts, applied {applied}"));
        self.invariants.restarted(id, self.replicas[id - 1].disk(), applied);
        let (now, seed) = (self.now, self.seed);
        self.touch(id, |replica| replica.start(now, applied, seed));
    }

    pub(crate) fn crash(&mut self, id: usize, kept: usize) {
        self.note(|| format!("{id} crashes, {kept} writes kept"));
        let lost = self.replica(id).writes().saturating_sub(kept);
        let kind = self.kind(id) as usize;
        self.totals.crashes[kind] += 1;
        self.totals.writes_lost[kind] += lost as u64;
        self.replicas[id - 1].crash(kept);
    }

    /// Does something to a replica that is up, lets it act, and checks.
    pub(crate) fn touch<R>(&mut self, id: usize, act: impl FnOnce(&mut dyn Replica) -> R) -> R {
        let result = act(self.replicas[id - 1].as_mut());
        // What became of it, before its state machine takes what it committed.
        self.check(id);
        self.turn(id);
        result
    }

    /// The oldest write of a replica completes.
    pub(crate) fn persisted(&mut self, id: usize) {
        let before = self.replica(id).disk().entries.last().map(Entry::position);
        let left = self.replicas[id - 1].persisted();
        let after = &self.replica(id).disk().entries;
        let kept = |last: LogPosition| after.get(last.index.0 as usize - 1).is_some_and(|e| e.position() == last);
        let cut = before.is_some_and(|last| !kept(last));
        self.note(|| format!("{id} holds {} entries{}", after.len(), if cut { ", others no more" } else { "" }));
        self.totals.truncated[self.kind(id) as usize] += u64::from(cut);
        self.check(id);
        left.into_iter().for_each(|wire| self.send(wire));
        self.turn(id);
    }

    /// A message arrives; one that is down loses it.
    pub(crate) fn deliver(&mut self, packet: &Packet) {
        let (from, to, now) = (packet.from(), packet.to(), self.now);
        if !self.replica(to).is_up() {
            return;
        }
        self.note(|| format!("{to} takes {:?}", packet.wire));
        if let Some(owned) = packet.ours() {
            let (message, pair) = (owned.message(), (self.kind(from) as usize, self.kind(to) as usize));
            match message.body {
                Body::AppendRejected { .. } => self.totals.rejections[pair.0][pair.1] += 1,
                Body::TimeoutNow { .. } => self.asked.push((message.term.next(), self.kind(from))),
                _ => {}
            }
        }
        self.touch(to, |replica| replica.take(now, packet));
    }

    fn turn(&mut self, id: usize) {
        let polled = self.replicas[id - 1].poll();
        self.check(id);
        polled.sent.into_iter().for_each(|wire| self.send(wire));
        self.invariants.apply(id, &polled.applied, self.replicas[id - 1].disk());
    }

    fn send(&mut self, wire: Wire) {
        self.sent += 1;
        let packet = Packet { serial: self.sent, wire };
        self.invariants.sent(&self.replicas, &packet);
        self.note(|| format!("sent {packet:?}"));
        self.network.push(packet);
    }

    fn check(&mut self, id: usize) {
        let (elected, committed) = self.invariants.check(&self.replicas, id);
        let kind = self.kind(id);
        self.totals.committed[kind as usize] += committed as u64;
        if elected {
            self.totals.elections[kind as usize] += 1;
            let term = self.replica(id).view().map(|view| view.term);
            if let Some((_, by)) = self.asked.iter().find(|(asked, _)| Some(*asked) == term) {
                self.totals.transfers[*by as usize][kind as usize] += 1;
            }
            self.note(|| format!("{id} ({kind:?}) leads term {term:?}"));
        }
    }

    fn note(&self, text: impl FnOnce() -> String) {
        if self.traced {
            println!("{} {}", self.now.0, text());
        }
    }
}
