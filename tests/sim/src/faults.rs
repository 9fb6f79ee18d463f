//! What goes wrong in a storm.

use crate::world::{Event, World};
use raftyard_raft::GroupId;
use raftyard_storage::sim::FaultTarget;
use std::time::Duration;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What makes a moment bad for a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trap {
    /// Those who promised it something start again.
    Restart,
    /// Their promises are about to end.
    Wait,
    /// It has just asked another to take over.
    Transfer,
    /// Everybody wants to lead at once, over a wild network, and some start again in the midst of it.
    Race,
    /// Who acknowledged what the rival lacks is about to lose it.
    Rot,
    /// It loses it, and starts again.
    Rotten,
}

/// A leader's bad moment to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ambush {
    pub(crate) group: GroupId,
    pub(crate) leader: usize,
    /// Who wants to lead in its place.
    pub(crate) rival: usize,
    pub(crate) trap: Trap,
}

impl World {
    /// Something goes wrong, and later something else.
    pub(crate) fn fault(&mut self) {
        if !self.stormy {
            return;
        }
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        match self.rng.below(1_000) {
            0..160 => {
                let power = self.rng.chance(50);
                self.crash(node, power);
            }
            160..180 => {
                self.hits.hit("all nodes down");
                let power = self.rng.chance(50);
                (0..self.nodes.len()).for_each(|node| self.crash(node, power));
            }
            180..350 => self.reset_any(),
            350..500 => self.partition(node),
            500..560 => {
                self.hits.hit("disk stalled");
                self.nodes[node].stalled_until = self.now.after(self.rng.micros(10_000, 800_000));
                self.tell(|_| format!("the disk of node {} stalls", node + 1));
            }
            560..630 => self.pause(node),
            630..660 => self.fail_disk(node),
            660..760 => {
                let longest = if self.rng.chance(30) { 3_000_000 } else { 900_000 };
                self.net.wild_until = self.now.after(self.rng.micros(50_000, longest));
                self.tell(|_| "the network goes wild".to_owned());
            }
            760..790 => self.slow_down(node),
            790..815 => self.panic_soon(node),
            815..835 if !self.shape.leases => {
                // A lease is only as good as the bound on the clocks, and no bound allows a jump.
                self.hits.hit("clock jumped");
                let by = self.rng.micros(1_000, 2_000_000);
                let now = self.now;
                self.nodes[node].jump(now, by);
                self.tell(|_| format!("the clock of node {} jumps ahead by {by:?}", node + 1));
            }
            835..860 => self.lose_disk(node),
            860..915 => self.prepare_ambush(),
            915..945 => self.rot(node),
            _ => self.mend(),
        }
        let pause = self.rng.micros(20_000, 400_000);
        self.after(pause, Event::Fault);
    }

    /// A node's process ends, and starts again after a while.
    pub(crate) fn crash(&mut self, node: usize, power: bool) {
        if self.nodes[node].core.is_none() {
            return;
        }
        self.hits.hit(if power { "power lost" } else { "process killed" });
        self.tell(|_| format!("node {} {}", node + 1, if power { "loses power" } else { "is killed" }));
        let connections = self.net.of_node(node);
        let now = self.now;
        self.nodes[node].crash(now, power, &mut self.rng);
        self.nodes[node].disk.clear_faults();
        for connection in connections {
            self.reset(connection);
        }
        let life = self.nodes[node].life;
        let pause = if self.rng.chance(30) { self.rng.micros(1_000, 30_000) } else { self.rng.micros(1_000, 900_000) };
        self.after(pause, Event::Restart { node, life });
    }

    /// A leader's link to one of its followers is cut. That one will have waited long enough when [`ambush`](World::ambush)
    /// comes.
    fn prepare_ambush(&mut self) {
        let Some(group) = self.operator.any_group(&mut self.rng) else { return };
        let Some((leader, _)) = self.leader(group) else { return };
        let votes = |raft: &raftyard_raft::Raft| raft.configuration().is_voter(raft.replica());
        let others: Vec<usize> =
            self.replicas(group).filter(|(node, raft)| *node != leader && votes(raft)).map(|(node, _)| node).collect();
        let Some(rival) = self.rng.pick(&others) else { return };
        let trap = match self.rng.below(8) {
            0..3 => Trap::Restart,
            3 => Trap::Wait,
            4 | 5 => Trap::Transfer,
            6 => Trap::Rot,
            _ => Trap::Race,
        };
        if matches!(trap, Trap::Restart | Trap::Wait | Trap::Rot) {
            self.net.blocked.extend([(leader, rival), (rival, leader)]);
            self.tell(|_| format!("group {group}: node {} loses its leader, node {}", rival + 1, leader + 1));
        }
        let wait = self.rng.micros(350_000, 550_000);
        if trap != Trap::Rot {
            self.clients.hush(group, self.now.after(wait));
        }
        self.after(wait, Event::Ambush { ambush: Ambush { group, leader, rival, trap } });
    }

    /// A leader is cut off from everybody but clients, all at once, at a moment when another could be elected if anything
    /// that binds the voters were forgotten: a promise, the drift of their clocks, the end of a lease.
    pub(crate) fn ambush(&mut self, ambush: Ambush) {
        let Ambush { group, leader, rival, trap } = ambush;
        if !self.stormy || self.leader(group).is_none_or(|(node, _)| node != leader) {
            return;
        }
        if trap == Trap::Rot {
            // The last that was acknowledged is proved by later batches before it goes bad.
            self.clients.hush(group, self.now.after(Duration::from_millis(40)));
            let ambush = Ambush { trap: Trap::Rotten, ..ambush };
            return self.after(Duration::from_millis(30), Event::Ambush { ambush });
        }
        self.hits.hit("leader ambushed");
        self.clients.gather(group, self.now.after(Duration::from_millis(450)));
        let campaigns = match trap {
            Trap::Restart => {
                for node in (0..self.nodes.len()).filter(|&node| node != leader && node != rival) {
                    if self.rng.chance(70) {
                        self.restart_at_once(node);
                    }
                }
                [30, 60, 90, 130, 180]
            }
            Trap::Wait => [265, 275, 285, 295, 305],
            Trap::Transfer => {
                self.transfer_to(group, leader, rival);
                let wait = self.rng.micros(200, 5_000);
                self.after(wait, Event::CutOff { node: leader });
                return;
            }
            Trap::Rot => return,
            Trap::Rotten => {
                let others: Vec<usize> = self.replicas(group).map(|(node, _)| node).collect();
                for node in others.into_iter().filter(|&node| node != leader && node != rival) {
                    if self.rot_last_of(node, group) {
                        self.restart_at_once(node);
                        break;
                    }
                }
                [60, 200, 340, 700, 1_100]
            }
            Trap::Race => {
                self.cut_off(leader);
                self.after(Duration::from_millis(320), Event::Mend);
                return self.race(group, Duration::from_millis(330));
            }
        };
        self.cut_off(leader);
        for millis in campaigns {
            self.after(Duration::from_millis(millis), Event::Campaign { node: rival, group });
        }
    }

    /// Campaigns of everybody at once, again and again, over a network that keeps most of what they say for later; some start
    /// again in the midst of it.
    pub(crate) fn race(&mut self, group: GroupId, wait: Duration) {
        self.hits.hit("race for a leadership");
        self.net.wild_until = self.now.after(wait + Duration::from_millis(500));
        self.net.raving_until = self.net.wild_until;
        for round in 0..12 {
            for node in 0..self.nodes.len() {
                let campaign = wait + Duration::from_millis(20 * round) + self.rng.micros(0, 8_000);
                self.after(campaign, Event::Campaign { node, group });
                if self.rng.chance(5) {
                    let blink = campaign + self.rng.micros(100, 6_000);
                    self.after(blink, Event::Blink { node });
                }
            }
        }
    }

    /// The network is whole again, while the storm goes on.
    pub(crate) fn mend(&mut self) {
        self.tell(|_| "the network is whole".to_owned());
        self.unblock();
    }

    /// Nothing gets through between a node and the others.
    pub(crate) fn cut_off(&mut self, node: usize) {
        if self.stormy {
            self.tell(|_| format!("node {} is cut off", node + 1));
            for other in (0..self.nodes.len()).filter(|&other| other != node) {
                self.net.blocked.extend([(node, other), (other, node)]);
            }
        }
    }

    /// A process ends and starts again within milliseconds.
    pub(crate) fn restart_at_once(&mut self, node: usize) {
        if !self.stormy {
            return;
        }
        let power = self.rng.chance(40);
        self.crash(node, power);
        let life = self.nodes[node].life;
        let pause = self.rng.micros(500, 8_000);
        self.after(pause, Event::Restart { node, life });
    }

    fn reset_any(&mut self) {
        let open = self.net.open();
        if let Some(connection) = self.rng.pick(&open) {
            self.hits.hit("connection reset");
            self.reset(connection);
        }
    }

    /// Blocks one way, or both, between a node and another, or all others.
    fn partition(&mut self, node: usize) {
        let all = self.rng.chance(40);
        let both_ways = self.rng.chance(60);
        self.hits.hit(if both_ways { "partition both ways" } else { "partition one way" });
        let other = self.rng.below(self.nodes.len() as u64) as usize;
        for peer in (0..self.nodes.len()).filter(|&peer| peer != node && (all || peer == other)) {
            self.net.blocked.insert((node, peer));
            if both_ways {
                self.net.blocked.insert((peer, node));
            }
        }
        let blocked = self.net.blocked.clone();
        self.tell(|_| format!("partition: {blocked:?}"));
    }

    /// Its process stands still; whatever comes for it waits, and its clock goes on.
    fn pause(&mut self, node: usize) {
        self.hits.hit("node paused");
        let length = self.rng.micros(20_000, 1_500_000);
        self.nodes[node].paused_until = self.now.after(length);
        self.tell(|_| format!("node {} stands still for {length:?}", node + 1));
    }

    fn fail_disk(&mut self, node: usize) {
        let (class, target, errno) = match self.rng.below(4) {
            0 => ("write failed", FaultTarget::Write, EIO),
            1 => ("disk full", FaultTarget::Write, ENOSPC),
            2 => ("sync failed", FaultTarget::SyncDirectory, EIO),
            _ => ("sync failed", FaultTarget::Sync, EIO),
        };
        self.hits.hit(class);
        let after = self.rng.below(30);
        self.nodes[node].disk.inject_fault(target, after, errno);
        self.tell(|_| format!("node {}: {class}, soon", node + 1));
    }

    fn slow_down(&mut self, node: usize) {
        self.hits.hit("slow link");
        let other = self.rng.below(self.nodes.len() as u64) as usize;
        let by = self.rng.micros(5_000, 250_000);
        self.net.slow.insert((node, other), by);
    }

    fn panic_soon(&mut self, node: usize) {
        if let Some(group) = self.operator.any_group(&mut self.rng) {
            self.nodes[node].machines.look().armed.insert(group);
        }
    }

    /// A group of the node has stopped there; somebody starts the node again after a while.
    pub(crate) fn look_after_panics(&mut self, node: usize) {
        let panicked = std::mem::take(&mut self.nodes[node].machines.look().panicked);
        for group in panicked {
            self.hits.hit("machine panicked");
            self.nodes[node].ailing.insert(group);
            self.tell(|_| format!("node {}: the machine of group {group} panicked", node + 1));
            let life = self.nodes[node].life;
            let pause = self.rng.micros(10_000, 900_000);
            self.after(pause, Event::Service { node, life });
        }
    }

    /// A node's disk is gone for good. The operator will replace its replicas; but first somebody starts it with an empty
    /// one, under its old name, and creates its groups anew. Nobody may listen to it.
    fn lose_disk(&mut self, node: usize) {
        let known = (0..self.nodes.len()).all(|other| other == node || self.nodes[node].known_by.contains(&other));
        if self.nodes.iter().any(|node| node.lost || node.rotten) || !known || !self.can_lose(node) {
            return;
        }
        self.hits.hit("disk lost");
        self.crash(node, true);
        self.nodes[node].lose_disk(&mut self.rng);
        self.tell(|_| format!("the disk of node {} is lost", node + 1));
    }

    /// Nothing goes wrong any more.
    pub(crate) fn end_storm(&mut self) -> Result<(), String> {
        self.tell(|_| "the storm is over".to_owned());
        self.stormy = false;
        self.net.wild_until = self.now;
        self.net.raving_until = self.now;
        self.unblock();
        for node in 0..self.nodes.len() {
            self.nodes[node].disk.clear_faults();
            self.nodes[node].stalled_until = self.now;
            self.nodes[node].paused_until = self.now;
            self.nodes[node].machines.look().armed.clear();
            if self.nodes[node].core.is_none() {
                self.start(node)?;
            }
        }
        Ok(())
    }
}

/// How long the storm lasts.
pub(crate) const STORM: Duration = Duration::from_secs(6);
/// How long the storm is felt after its end.
pub(crate) const AFTERMATH: Duration = Duration::from_millis(2_500);
/// How long everything may take to come right after it.
pub(crate) const CALM: Duration = Duration::from_secs(30);
/// For how long nobody's leader changes once everything came right.
pub(crate) const PEACE: Duration = Duration::from_secs(2);
