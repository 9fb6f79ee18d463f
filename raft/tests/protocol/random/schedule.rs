//! One schedule: a group, what hinders it, and what is watched while something happens to it.

use super::acts;
use super::events::{Event, Totals};
use super::promises::Promises;
use super::reads::{self, Reads};
use super::view::View;
use super::watch::Watch;
use crate::clock::Clock;
use crate::cluster::{Cluster, member};
use crate::dice::Dice;
use crate::disk::Disk;
use crate::packet::Packet;
use raftyard_raft::{Body, Configuration, Instant, Limit, Message, Raft, ReplicaId, Role, Settings, Term};
use std::collections::HashSet;
use std::time::Duration;

/// Most replicas a group ever has; replica n lives on node n, and no id comes twice.
pub(crate) const REPLICAS: usize = 9;
/// No more messages than that are on their way.
const NETWORK_MAX: usize = 250;

pub(crate) struct Schedule {
    pub(crate) cluster: Cluster,
    pub(crate) dice: Dice,
    pub(crate) settings: Settings,
    pub(crate) totals: Totals,
    pub(crate) reads: Reads,
    pub(crate) watch: Watch,
    pub(crate) promises: Promises,
    pub(crate) step: u32,
    /// From 0, nearly quiet, to 11.
    pub(crate) nastiness: usize,
    /// Nanoseconds that pass between two steps, about.
    pub(crate) pace: usize,
    /// Until which step a replica is left alone: not told anything, not polled.
    pub(crate) paused: [u32; REPLICAS + 1],
    /// Replicas on one side of a cut network, as bits, and until which step.
    pub(crate) side: (u32, u32),
    /// Whose appends get lost, while its heartbeats arrive.
    pub(crate) mute: Option<usize>,
    /// Snapshots that did not get there, from whom and to whom; not told yet.
    pub(crate) failed: Vec<(usize, usize)>,
    /// Told that they are no members, by whoever no leader has spoken to since.
    pub(crate) told: u32,
    /// Disks lose what they held.
    pub(crate) damages: bool,
    /// Terms in which the leader asked for the election.
    transfers: HashSet<Term>,
}

impl Schedule {
    pub(crate) fn new(seed: u64, traced: bool) -> Schedule {
        let mut dice = Dice::salted(seed, 0x5EED);
        let size = [1, 2, 3, 3, 3, 3, 4, 5][dice.below(8)];
        let learners = [0, 0, 1][dice.below(3)];
        let settings = Settings {
            election_timeout_min: Duration::from_nanos(10_000),
            election_timeout_max: Duration::from_nanos(20_000),
            append_bytes_max: 1 << dice.below(10),
            inflight_appends_max: 1 + dice.below(3),
            inflight_bytes_max: 1 << dice.below(10),
            uncommitted_bytes_max: 1_000,
            leases: dice.once_in(2),
            clock_drift_max_ppm: [1_000, 50_000, 200_000][dice.below(3)],
        };
        // A thousandth within the bound, for what is lost in whole nanoseconds.
        let drift = i64::from(settings.clock_drift_max_ppm) - 999;
        let clocks: Vec<Clock> = (0..REPLICAS).map(|_| clock(&mut dice, drift)).collect();
        let with_learners: Vec<_> = (1..=size).map(member).collect();
        let configuration =
            Configuration::with_learners(with_learners, (size + 1..=size + learners).map(member).collect());
        let configuration = configuration.unwrap();
        let known = |place: usize| (place < size + learners).then(|| Disk::fresh(configuration.clone()));
        let mut cluster = Cluster::with_clocks((0..REPLICAS).map(known).collect(), &clocks, settings.clone(), seed);
        cluster.trace = traced.then(Vec::new);
        cluster.reads_early = dice.once_in(2);
        let damages = dice.once_in(3);
        cluster.persist = (1 << dice.below(10), 1 + dice.below(3));
        for replica in &mut cluster.replicas {
            replica.keeps_promises = dice.below(5) > 0;
        }
        Schedule {
            // Some schedules are nasty, some are nearly quiet, so that both short and long logs are seen.
            nastiness: dice.below(12).min(dice.below(12)),
            pace: [10, 50, 100, 300][dice.below(4)],
            cluster,
            dice,
            settings,
            totals: Totals::new(),
            reads: Reads::default(),
            watch: Watch::new(REPLICAS),
            promises: Promises::default(),
            step: 0,
            paused: [0; REPLICAS + 1],
            side: (0, 0),
            mute: None,
            failed: Vec::new(),
            told: 0,
            damages,
            transfers: HashSet::new(),
        }
    }

    /// Something happens, somewhere.
    pub(crate) fn run_step(&mut self, step: u32) {
        self.step = step;
        if self.dice.once_in(2) {
            self.pass(self.pace);
        }
        acts::act(self);
        self.tell();
        self.check();
    }

    /// Prints what happened, if that is wanted.
    pub(crate) fn tell(&mut self) {
        for line in self.cluster.trace.iter_mut().flat_map(std::mem::take) {
            println!("{} {} {line}", self.step, self.cluster.now.0);
        }
    }

    /// Up to twice as much time passes, and most of those whose deadline passed are told.
    pub(crate) fn pass(&mut self, nanos: usize) {
        self.cluster.now.0 += self.dice.below(2 * nanos) as u64;
        for id in self.cluster.ids() {
            let due = self.raft(id).and_then(Raft::deadline).is_some_and(|deadline| deadline <= self.cluster.time(id));
            if due && self.is_awake(id) && self.dice.below(3) > 0 {
                self.deadline(id);
            }
        }
    }

    /// What must hold whatever happened.
    pub(crate) fn check(&mut self) {
        self.check_reads();
        if self.settings.leases {
            for id in reads::by_lease(&self.cluster, &mut self.totals) {
                self.watch.check_lease(&self.cluster, id, &self.settings);
            }
        }
    }

    pub(crate) fn check_reads(&mut self) {
        self.reads.check(&self.cluster, &mut self.totals);
    }

    pub(crate) fn raft(&self, id: usize) -> Option<&Raft> {
        self.cluster.replica(id).raft.as_ref()
    }

    pub(crate) fn is_awake(&self, id: usize) -> bool {
        self.paused[id] <= self.step
    }

    /// A replica that is up and not left alone.
    pub(crate) fn someone(&mut self) -> Option<usize> {
        let up: Vec<usize> = self.cluster.ids().filter(|id| self.is_awake(*id) && self.raft(*id).is_some()).collect();
        (!up.is_empty()).then(|| up[self.dice.below(up.len())])
    }

    /// A leader, seldom one that only takes itself for it.
    pub(crate) fn leader(&mut self) -> Option<usize> {
        let leads = |id: &usize| self.is_awake(*id) && self.raft(*id).is_some_and(|r| r.role() == Role::Leader);
        let mut leaders: Vec<usize> = self.cluster.ids().filter(leads).collect();
        leaders.sort_by_key(|id| self.raft(*id).map(|raft| std::cmp::Reverse(raft.term())));
        let place = if self.dice.once_in(8) { self.dice.below(leaders.len().max(1)) } else { 0 };
        leaders.get(place).copied()
    }

    /// Whether the network lets a message through.
    fn passes(&self, packet: &Packet) -> bool {
        let (side, until) = self.side;
        let on = |id: usize| side & (1 << id) != 0;
        self.is_awake(packet.to()) && (until <= self.step || on(packet.from()) == on(packet.to()))
    }

    /// Takes a message that gets through off the network: mostly the oldest.
    pub(crate) fn take(&mut self) -> Option<Packet> {
        let passing: Vec<usize> = (0..self.cluster.network.len())
            .filter(|place| self.passes(&self.cluster.network[*place]))
            .take(60)
            .collect();
        if passing.is_empty() {
            return None;
        }
        // Too much reordering and nothing ever succeeds.
        let late = self.dice.below(12) < self.nastiness;
        let place = if late { self.dice.below(passing.len()) } else { 0 };
        self.totals.add(Event::Late, usize::from(place > 0));
        Some(self.cluster.network.remove(passing[place]))
    }

    /// A message arrives, or is lost, or will come again. Says who took it.
    pub(crate) fn deliver(&mut self, packet: Packet) -> Option<usize> {
        let body = packet.message().body;
        let muted = matches!(body, Body::Append { .. }) && self.mute == Some(packet.from());
        if muted || self.dice.below(40) < self.nastiness {
            self.totals.add(Event::Lost, 1);
            self.lost(&packet);
            return None;
        }
        let rare = matches!(body, Body::TimeoutNow { .. } | Body::Snapshot { .. } | Body::Vote { transfer: true, .. });
        if self.cluster.network.len() < NETWORK_MAX
            && self.dice.below(if rare { 4 } else { 40 }) < self.nastiness.min(3)
        {
            self.cluster.network.push(packet.clone());
            self.totals.add(Event::Doubled, 1);
            self.totals.add(Event::TimeoutNowDoubled, usize::from(matches!(body, Body::TimeoutNow { .. })));
            self.totals.add(Event::SnapshotDoubled, usize::from(matches!(body, Body::Snapshot { .. })));
        }
        if self.raft(packet.to()).is_none() {
            self.lost(&packet);
            return None;
        }
        self.give(&packet);
        Some(packet.to())
    }

    /// Whoever sent a snapshot that is lost will hear of it.
    pub(crate) fn lost(&mut self, packet: &Packet) {
        if matches!(packet.message().body, Body::Snapshot { .. }) {
            self.failed.push((packet.from(), packet.to()));
        }
    }

    /// A replica that is up takes a message.
    pub(crate) fn give(&mut self, packet: &Packet) {
        let (from, to, message) = (packet.from(), packet.to(), packet.message());
        let before = self.view(to).expect("the receiver is up");
        let loyal =
            self.watch.is_heard(to, self.cluster.time(to), self.settings.election_timeout_min, &before.configuration);
        if let Some(trace) = &mut self.cluster.trace {
            trace.push(format!("    takes {}", packet.describe()));
            self.tell();
        }
        self.touch(to, |cluster| {
            cluster
                .deliver(packet)
                .unwrap_or_else(|error| panic!("an honest message was refused: {error}: {packet:?}"));
        });
        let keeps = self.settings.leases && self.cluster.replica(from).keeps_promises;
        let raft = self.cluster.replica(to).raft.as_ref().expect("it took a message");
        self.watch.delivered(packet, raft, keeps);
        self.promises.delivered(packet, &before, raft, self.cluster.time(to));
        let deposed = before.role == Role::Leader && raft.role() != Role::Leader;
        let stranger = before.configuration.seat(message.from).is_none();
        let votes = matches!(message.body, Body::Vote { .. } | Body::PreVote { .. });
        let asked = matches!(message.body, Body::Vote { transfer: true, .. });
        assert!(!(deposed && stranger && loyal && votes && !asked), "{from}, no member, deposed {to}: {message:?}");
        if asked {
            self.transfers.insert(message.term);
        }
        self.totals.add(Event::StrangerVoted, usize::from(stranger && votes));
        self.check_stop(to, &before);
        self.count_delivery(to, &message, &before);
    }

    fn count_delivery(&mut self, to: usize, message: &Message<'_>, before: &View) {
        let now = self.cluster.time(to);
        let raft = self.cluster.replica(to).raft.as_ref().expect("it took a message");
        match message.body {
            Body::Append { .. } | Body::Heartbeat { .. } if message.term == raft.term() => self.told &= !(1 << to),
            Body::Snapshot { .. } if message.term == raft.term() => {
                self.told &= !(1 << to);
                let installed = raft.base().position.index > before.base.index;
                self.totals.add(Event::SnapshotInstalled, usize::from(installed));
                self.totals.add(Event::SnapshotMatchedLog, usize::from(!installed && raft.commit() > before.commit));
            }
            Body::NotMember { index } => {
                let limited = raft.limit() != Limit::None;
                let quiet = raft.deadline().is_none() && raft.configuration().is_voter(raft.replica()) && !limited;
                if quiet && self.told & (1 << to) == 0 {
                    self.told |= 1 << to;
                    self.totals.add(Event::ToldNotMember, 1);
                    let later = index >= before.configuration_index && before.leader.is_none();
                    assert!(later, "{to} believes that it is no member since {index}: {before:?}");
                    let members = self.cluster.invariants.committed_members();
                    let seat = members.is_some_and(|members| members.seat(raft.replica()).is_some());
                    assert!(!seat, "{to} is quiet, as if it was no member");
                }
            }
            Body::PreVote { .. } => {
                let stands_up =
                    before.role == Role::Follower && raft.deadline().is_some_and(|deadline| deadline <= now);
                self.totals.add(Event::PriorityRefused, usize::from(stands_up));
            }
            Body::Vote { .. } => self.totals.add(Event::LoyalToLeader, usize::from(message.term > raft.term())),
            _ => {}
        }
    }

    /// The oldest write of a replica completes.
    pub(crate) fn persisted(&mut self, id: usize) {
        if let Some(before) = self.view(id) {
            self.touch(id, |cluster| cluster.persisted(id));
            self.check_stop(id, &before);
        }
    }

    /// A leader that stops in its own term, by an answer or a write, has committed its own removal.
    fn check_stop(&self, id: usize, before: &View) {
        let raft = self.raft(id).expect("something happened to it");
        let stops = before.role == Role::Leader && raft.role() != Role::Leader && raft.term() == before.term;
        assert!(!stops || raft.configuration_index() <= raft.commit(), "{id} leads no more, before it is removed");
    }

    /// A replica is told the time, as it takes it.
    pub(crate) fn deadline(&mut self, id: usize) {
        let now = self.cluster.time(id);
        let Some(before) = self.view(id) else { return };
        self.touch(id, |cluster| cluster.raft(id).expect("it is up").handle_deadline(now));
        let raft = self.cluster.replica(id).raft.as_ref().expect("it is up");
        self.watch.looked(raft, now, &self.settings);
        if before.role == Role::Leader && raft.role() != Role::Leader {
            let heard = self.watch.is_heard(id, now, self.settings.election_timeout_max, &before.configuration);
            if heard {
                self.promises.sits_out(id);
            }
            self.totals.add(if heard { Event::SteppedDownStalled } else { Event::SteppedDownUnheard }, 1);
        }
        let gives_up = before.transferee.is_some() && raft.role() == Role::Leader && raft.transferee().is_none();
        self.totals.add(Event::TransferGivenUp, usize::from(gives_up));
        let campaigns = raft.role() == Role::PreCandidate && before.role == Role::Follower;
        self.totals.add(Event::RemovedCampaigned, usize::from(campaigns && self.was_removed(id)));
        self.turn(id);
    }

    pub(crate) fn turn_if_up(&mut self, id: usize) {
        if self.raft(id).is_some() && self.is_awake(id) {
            self.turn(id);
        }
    }

    /// Polls a replica, and follows what leaves it.
    pub(crate) fn turn(&mut self, id: usize) {
        let sent = self.cluster.network.len();
        self.touch(id, |cluster| cluster.turn(id));
        for packet in self.cluster.network.split_off(sent) {
            self.watch.sent(&packet);
            self.promises.sent(&packet);
            let lost = matches!(packet.message().body, Body::AppendRejected { lost: true, .. });
            self.totals.add(Event::LostTold, usize::from(lost));
            self.totals.add(Event::SnapshotSent, usize::from(matches!(packet.message().body, Body::Snapshot { .. })));
            if let Body::TimeoutNow { last } = packet.message().body {
                // In a later term it may have lost them again.
                let disk = &self.cluster.replica(packet.to()).disk;
                let holds = disk.last() >= last || disk.hard.term > packet.message().term || disk.limit != Limit::None;
                assert!(holds, "{id} gives its leadership to {}, which lacks entries", packet.to());
            }
            if self.cluster.network.len() < NETWORK_MAX {
                self.cluster.network.push(packet);
            } else {
                self.lost(&packet);
            }
        }
        self.hear_failures();
        if let Some(raft) = self.raft(id) {
            let votes = raft.configuration().is_voter(raft.replica()) && raft.limit() == Limit::None;
            let told = self.told & (1 << id) != 0;
            assert!(!votes || told || raft.deadline().is_some(), "{id} has a vote and will never campaign");
        }
    }

    /// Nobody takes a snapshot where nothing was created.
    pub(crate) fn hear_failures(&mut self) {
        for packet in std::mem::take(&mut self.cluster.unheard) {
            self.lost(&packet);
        }
    }

    /// Does something to a replica, and looks what became of it.
    pub(crate) fn touch<R>(&mut self, id: usize, act: impl FnOnce(&mut Cluster) -> R) -> R {
        let before = self.view(id);
        let result = act(&mut self.cluster);
        if let (Some(before), Some(after)) = (before, self.view(id)) {
            Promises::changed(&before, &after, self.cluster.time(id));
            let whole = matches!(before.limit, Limit::Bound(_)) && after.limit == Limit::None;
            let by = if after.base == before.base { Event::WholeByAppend } else { Event::WholeBySnapshot };
            self.totals.add(by, usize::from(whole));
            let elected = before.role != Role::Leader && after.role == Role::Leader;
            self.totals.add(Event::Elected, usize::from(elected));
            self.totals.add(Event::TransferWon, usize::from(elected && self.transfers.contains(&after.term)));
            self.totals.add(Event::ChangeReverted, usize::from(after.configuration_index < before.configuration_index));
            let left = before.configuration.is_joint() && !after.configuration.is_joint();
            self.totals.add(Event::JointLeft, usize::from(left && after.role == Role::Leader));
            let steps_down = before.role == Role::Leader && after.role != Role::Leader && after.term == before.term;
            let removed = !after.configuration.is_voter(ReplicaId(id as u64));
            self.totals.add(Event::LeaderRemoved, usize::from(steps_down && removed));
        }
        result
    }

    /// Whether the last configuration that is known anywhere has no seat for this replica any more.
    pub(crate) fn was_removed(&self, id: usize) -> bool {
        let known =
            self.cluster.ids().filter_map(|other| self.raft(other)).max_by_key(|raft| raft.configuration_index());
        known.is_some_and(|raft| {
            let own = ReplicaId(id as u64);
            raft.configuration().seat(own).is_none() && raft.configuration().highest_replica() >= own
        })
    }

    fn view(&self, id: usize) -> Option<View> {
        self.raft(id).map(View::of)
    }

    /// Lets true time pass until a replica shows `shown`.
    pub(crate) fn wait_until(&mut self, id: usize, shown: Instant) {
        self.cluster.now = self.cluster.now.max(self.cluster.replica(id).clock.moment(shown));
    }
}

fn clock(dice: &mut Dice, drift: i64) -> Clock {
    let drift = drift.max(0);
    let ppm = [-drift, drift, dice.below(2 * drift as usize + 1) as i64 - drift, 0][dice.below(4)];
    Clock { offset: [0, dice.below(1_000_000) as u64][dice.below(2)], ppm }
}
