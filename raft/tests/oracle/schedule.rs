//! One random schedule of a mixed group: messages lost, doubled, late; writes that complete at any time; crashes that lose
//! what was not durable; leaders that hand over; cut networks; and peace at the end, in which all must agree again.

mod peace;

use crate::dice::Dice;
use crate::group::Group;
use crate::ours::{self, Ours};
use crate::packet::Packet;
use crate::replica::{ELECTION_TIMEOUT_NANOS, Replica};
use crate::theirs::{self, Theirs};
use crate::totals::Totals;
use raftyard_raft::LogIndex;

const STEPS: u32 = 1_500;
/// Size of a group, and how many of it are of raft-rs.
const MIXES: [(usize, usize); 6] = [(3, 1), (3, 2), (5, 1), (5, 2), (5, 3), (5, 4)];
/// No more messages than that are on their way.
const NETWORK_MAX: usize = 120;

struct Schedule {
    group: Group,
    dice: Dice,
    step: u32,
    /// From 0, nearly quiet, to 9.
    nastiness: usize,
    /// Nanoseconds that pass between two steps, about.
    pace: usize,
    /// Replicas on one side of a cut network, as bits, and until which step.
    side: (usize, u32),
    /// Until which step a replica is left alone.
    paused: [u32; 6],
    commands: u32,
    /// How many of a hundred steps are an upheaval.
    upheavals: usize,
    /// Replicas whose disks are slow, as bits.
    slow: usize,
}

/// Runs one schedule to its end; panics where a promise is broken.
pub(crate) fn run(seed: u64, traced: bool) -> Totals {
    let mut schedule = Schedule::new(seed);
    schedule.group.traced = traced;
    for step in 0..STEPS {
        schedule.step = step;
        let nanos = schedule.dice.below(2 * schedule.pace) as u64;
        if schedule.dice.once_in(2) {
            schedule.pass(nanos);
        }
        schedule.act();
    }
    schedule.peace();
    schedule.group.totals
}

impl Schedule {
    fn new(seed: u64) -> Schedule {
        let mut dice = Dice::salted(seed, crate::DICE_SALT);
        let (size, their_count) = MIXES[seed as usize % MIXES.len()];
        let first = dice.below(size);
        let is_theirs = |id: usize| (id + first) % size < their_count;
        let replica = |id: usize| -> Box<dyn Replica> {
            let inflight = 1 + dice.below(4);
            if is_theirs(id) {
                let bytes = [0, 60, 200, u64::MAX][dice.below(4)];
                let config = theirs::config(inflight, bytes, dice.once_in(2), dice.once_in(2));
                Box::new(Theirs::new(id, size, config))
            } else {
                let settings = ours::settings(inflight, [1, 200, 500, 1 << 20][dice.below(4)]);
                Box::new(Ours::new(id, size, settings, [1, 200, usize::MAX][dice.below(3)]))
            }
        };
        let replicas = (1..=size).map(replica).collect();
        Schedule {
            group: Group::new(replicas, seed << 16),
            step: 0,
            nastiness: dice.below(10).min(dice.below(10)),
            pace: [2, 5, 10, 25][dice.below(4)],
            side: (0, 0),
            paused: [0; 6],
            commands: 0,
            upheavals: [0, 10, 25, 40][dice.below(4)],
            slow: dice.next() as usize & dice.next() as usize,
            dice,
        }
    }

    fn is_awake(&self, id: usize) -> bool {
        self.group.replica(id).is_up() && self.paused[id] <= self.step
    }

    fn someone(&mut self) -> Option<usize> {
        let up: Vec<usize> = self.group.ids().filter(|id| self.is_awake(*id)).collect();
        (!up.is_empty()).then(|| up[self.dice.below(up.len())])
    }

    fn leader(&mut self) -> Option<usize> {
        let leaders: Vec<usize> = self.group.leaders().into_iter().filter(|id| self.is_awake(*id)).collect();
        (!leaders.is_empty()).then(|| leaders[self.dice.below(leaders.len())])
    }

    fn pass(&mut self, nanos: u64) {
        self.group.now.0 += nanos;
        let now = self.group.now;
        for id in self.group.ids() {
            // Who is told the time late takes itself for younger.
            if self.is_awake(id) && self.dice.below(10) >= self.nastiness.min(3) {
                self.group.touch(id, |replica| replica.pass(now));
            }
        }
    }

    fn act(&mut self) {
        if self.dice.below(100) < self.upheavals {
            return self.upheaval();
        }
        let now = self.group.now;
        match self.dice.below(100) {
            0..50 => (0..=self.dice.below(6)).for_each(|_| self.deliver()),
            50..74 => {
                for _ in 0..=self.dice.below(3) {
                    if let Some(id) = self.someone() {
                        self.persist(id);
                    }
                }
            }
            74..84 => {
                if let Some(id) = self.leader() {
                    (0..=self.dice.below(3)).for_each(|_| self.propose(id));
                }
            }
            84..86 if self.dice.below(10) < 1 + self.nastiness => {
                let id = self.any();
                if self.group.replica(id).is_up() {
                    let kept = self.dice.below(self.group.replica(id).writes() + 1);
                    self.group.crash(id, kept);
                }
            }
            86..90 => {
                let down: Vec<usize> = self.group.ids().filter(|id| !self.group.replica(*id).is_up()).collect();
                if !down.is_empty() {
                    let id = down[self.dice.below(down.len())];
                    let applied = self.dice.below(100) as u64;
                    self.group.start(id, LogIndex(applied));
                }
            }
            90..92 => {
                let to = self.any();
                if let Some(id) = self.leader().filter(|id| *id != to) {
                    self.group.touch(id, |replica| replica.transfer(now, to));
                }
            }
            92..94 => {
                if let Some(id) = self.someone() {
                    self.group.touch(id, |replica| replica.campaign(now));
                }
            }
            94 if self.dice.below(10) < self.nastiness + 1 => {
                self.side = (self.dice.next() as usize, self.step + self.dice.below(60) as u32);
            }
            95 if self.dice.below(10) < self.nastiness + 1 => {
                // A leader alone goes on, and what it appends will have to go.
                if let Some(id) = self.leader() {
                    self.side = (1 << id, self.step + self.dice.below(100) as u32);
                }
            }
            96 => {
                let id = self.any();
                self.paused[id] = self.step + self.dice.below(8 * (1 + self.nastiness)) as u32;
            }
            _ => {}
        }
    }

    /// Some are cut off, time jumps, and one or two of the others campaign at once; who leads then appends, and not all
    /// of it arrives. A few of these in a row make the logs of figure 8 of the paper.
    fn upheaval(&mut self) {
        let Some(id) = self.someone() else { return };
        self.side = (self.dice.next() as usize | 1 << id, self.step + 1 + self.dice.below(30) as u32);
        self.group.now.0 += ELECTION_TIMEOUT_NANOS + self.dice.below(2 * ELECTION_TIMEOUT_NANOS as usize) as u64;
        for leader in self.group.leaders() {
            // What it still takes hardly anybody will hear of.
            (0..self.dice.below(4)).for_each(|_| self.propose(leader));
        }
        if self.dice.once_in(2) {
            self.group.network.clear();
        }
        let rivals: Vec<usize> = self.group.ids().filter(|other| *other == id || self.dice.once_in(3)).collect();
        self.pass(0);
        let now = self.group.now;
        for rival in rivals {
            if self.is_awake(rival) {
                self.group.touch(rival, |replica| replica.campaign(now));
            }
        }
        for _ in 0..self.dice.below(8) {
            for _ in 0..self.group.network.len().min(20) {
                self.deliver();
            }
            for id in self.group.ids() {
                if self.is_awake(id) && !self.dice.once_in(3) {
                    self.persist(id);
                } else if self.group.replica(id).is_up() && self.dice.once_in(20) {
                    let kept = self.dice.below(self.group.replica(id).writes() + 1);
                    self.group.crash(id, kept);
                    self.group.start(id, LogIndex(0));
                }
            }
        }
        if let Some(id) = self.leader() {
            (0..self.dice.below(3)).for_each(|_| self.propose(id));
            (0..self.dice.below(4)).for_each(|_| self.deliver());
        }
    }

    /// Some writes complete, of a slow disk few.
    fn persist(&mut self, id: usize) {
        let count = match self.slow & (1 << id) {
            0 => 1 + self.dice.below(5),
            _ => usize::from(self.dice.once_in(2)),
        };
        (0..count).for_each(|_| self.group.persisted(id));
    }

    fn any(&mut self) -> usize {
        1 + self.dice.below(self.group.replicas.len())
    }

    fn propose(&mut self, id: usize) {
        self.commands += 1;
        let command = format!("{} at {id}", self.commands);
        self.group.touch(id, |replica| replica.propose(command.as_bytes()));
    }

    fn passes(&self, packet: &Packet) -> bool {
        let (side, until) = self.side;
        let on = |id: usize| side & (1 << id) != 0;
        self.paused[packet.to()] <= self.step && (until <= self.step || on(packet.from()) == on(packet.to()))
    }

    /// A message that gets through, mostly the oldest, arrives, or is lost, or will come again.
    fn deliver(&mut self) {
        let network = &self.group.network;
        let passing: Vec<usize> = (0..network.len()).filter(|place| self.passes(&network[*place])).take(40).collect();
        if passing.is_empty() {
            return;
        }
        let late = self.dice.below(10) < self.nastiness;
        let place = if late { self.dice.below(passing.len()) } else { 0 };
        self.group.totals.late += u64::from(place > 0);
        let packet = self.group.network.remove(passing[place]);
        if self.dice.below(60) < self.nastiness || self.group.network.len() > NETWORK_MAX {
            self.group.totals.lost += 1;
            return;
        }
        if self.dice.below(30) < self.nastiness.min(3) {
            self.group.totals.doubled += 1;
            self.group.network.push(packet.clone());
        }
        self.group.deliver(&packet);
    }
}
