//! The simulated world: one queue of events, and nodes whose inputs and outputs it moves.

use crate::checks::Checks;
use crate::clients::Clients;
use crate::faults::Ambush;
use crate::hits::Hits;
use crate::net::{End, Net};
use crate::node::{Shape, SimNode};
use crate::operator::Operator;
use crate::rng::Rng;
use raftyard_raft::{GroupId, Instant, NodeId, Raft, Role};
use raftyard_runtime::core::port::{Input, LinkId, Notice, Output};
use raftyard_runtime::mail::Mail;
use raftyard_runtime::mailbox::SendError;
use raftyard_storage::io::IoId;
use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

/// Something that happens at a moment of the simulation.
#[derive(Debug)]
pub(crate) enum Event {
    Turn {
        node: usize,
        life: u64,
    },
    Tick {
        node: usize,
        life: u64,
    },
    Io {
        node: usize,
        life: u64,
        id: IoId,
    },
    Up {
        connection: usize,
        side: usize,
    },
    DialFailed {
        node: usize,
        life: u64,
        link: LinkId,
    },
    Bytes {
        connection: usize,
        side: usize,
        bytes: Vec<u8>,
    },
    /// A frame that was kept behind comes after all.
    LateFrame {
        connection: usize,
        side: usize,
        bytes: Vec<u8>,
    },
    Sent {
        connection: usize,
        side: usize,
        buffer: Vec<u8>,
    },
    Down {
        connection: usize,
        side: usize,
    },
    Client {
        client: usize,
    },
    /// A client has waited long enough.
    Impatience {
        client: usize,
        turn: u64,
    },
    /// What was prepared for a leader comes.
    Ambush {
        ambush: Ambush,
    },
    CutOff {
        node: usize,
    },
    Blink {
        node: usize,
    },
    Mend,
    /// The operator lets a replica campaign.
    Campaign {
        node: usize,
        group: GroupId,
    },
    Operator,
    Fault,
    Restart {
        node: usize,
        life: u64,
    },
    /// Somebody ends a node that is of no use any more: its log failed, or a group of it.
    Service {
        node: usize,
        life: u64,
    },
}

struct Scheduled {
    at: Instant,
    number: u64,
    event: Event,
}

pub(crate) struct World {
    pub(crate) shape: Shape,
    /// True time. Every node has a clock of its own.
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) net: Net,
    pub(crate) checks: Checks,
    pub(crate) clients: Clients,
    pub(crate) operator: Operator,
    pub(crate) hits: Hits,
    /// Of everything that happened, in order: two runs of one seed agree in it.
    pub(crate) trace: u64,
    /// What happened last, in words, if anybody listens.
    pub(crate) told: Option<VecDeque<String>>,
    /// Faults and load go on.
    pub(crate) stormy: bool,
    pub(crate) roles: Vec<(usize, GroupId, String)>,
}

const TICK: Duration = Duration::from_millis(10);
/// What a leader may hold uncommitted beside commands: one that is larger than the limit, changes of members, the first
/// entries of terms.
const UNCOMMITTED_SLACK_BYTES: usize = 16 << 10;

impl World {
    pub(crate) fn new(seed: u64, listen: bool) -> Result<World, String> {
        let mut rng = Rng::new(seed);
        let shape = Shape::of(&mut rng);
        let nodes = (1..=shape.all() as u64).map(|id| SimNode::new(NodeId(id), &shape, &mut rng)).collect();
        let mut world = World {
            clients: Clients::new(shape.clients, &mut rng),
            operator: Operator::default(),
            shape,
            now: Instant(1),
            rng,
            queue: BinaryHeap::new(),
            scheduled: 0,
            nodes,
            net: Net::default(),
            checks: Checks::default(),
            hits: Hits::default(),
            trace: 0xcbf2_9ce4_8422_2325,
            told: listen.then(VecDeque::new),
            stormy: true,
            roles: Vec::new(),
        };
        world.tell(|world| format!("{:?}", world.shape));
        world.found_groups();
        for node in 0..world.nodes.len() {
            world.start(node)?;
        }
        Ok(world)
    }

    /// Runs until `until`.
    pub(crate) fn run(&mut self, until: Instant) -> Result<(), String> {
        while let Some(next) = self.queue.peek()
            && next.at <= until
        {
            let Scheduled { at, number, event } = self.queue.pop().expect("looked at above");
            self.now = self.now.max(at);
            self.note(&[self.now.0, number, discriminant_of(&event)]);
            self.step(event)?;
        }
        self.now = self.now.max(until);
        Ok(())
    }

    pub(crate) fn schedule(&mut self, at: Instant, event: Event) {
        self.scheduled += 1;
        self.queue.push(Scheduled { at, number: self.scheduled, event });
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.schedule(self.now.after(delay), event);
    }

    /// Starts a node, with its groups if it does not have them.
    pub(crate) fn start(&mut self, node: usize) -> Result<(), String> {
        let started = self.nodes[node].start(&self.shape, self.now, &mut self.rng);
        let life = self.nodes[node].life;
        if let Err(error) = started {
            self.tell(|_| format!("node {} does not start: {error}", node + 1));
            if !matches!(error, raftyard_storage::wal::WalError::Io { .. } | raftyard_storage::wal::WalError::Failed(_))
            {
                return Err(format!("node {} does not start on an honest disk: {error}", node + 1));
            }
            self.hits.hit("start failed");
            self.nodes[node].disk.kill(&mut || 1);
            let pause = self.rng.micros(1_000, 400_000);
            self.after(pause, Event::Restart { node, life });
            return Ok(());
        }
        self.tell(|_| format!("node {} starts", node + 1));
        if self.nodes[node].lost {
            self.hits.hit("node back with an empty disk");
        }
        self.checks.restarted(node);
        self.after(TICK, Event::Tick { node, life });
        self.furnish(node);
        self.turn_soon(node);
        Ok(())
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        if let Some(node) = self.node_of(&event)
            && self.nodes[node].paused_until > self.now
        {
            // Whatever happens to a node that stands still waits for it.
            self.schedule(self.nodes[node].paused_until, event);
            return Ok(());
        }
        match event {
            Event::Turn { node, life } if self.lives(node, life) => self.turn(node)?,
            Event::Tick { node, life } if self.lives(node, life) => {
                self.after(TICK, Event::Tick { node, life });
                let due = self.nodes[node].core.as_ref().and_then(|core| core.next_deadline());
                if due.is_some_and(|due| due <= self.nodes[node].local(self.now)) {
                    self.input(node, Input::Deadline);
                }
            }
            Event::Io { node, life, id } if self.lives(node, life) => self.io_done(node, life, id),
            Event::Up { connection, side } => self.hand_to_end(connection, side, Input::LinkUp),
            Event::DialFailed { node, life, link } if self.lives(node, life) => {
                self.input(node, Input::LinkDown(link));
            }
            Event::Bytes { connection, side, bytes } => self.bytes(connection, side, bytes),
            Event::LateFrame { connection, side, bytes } => {
                let at = self.net.arrival(self.now, connection, side, &mut self.rng);
                self.schedule(at, Event::Bytes { connection, side, bytes });
            }
            Event::Sent { connection, side, buffer } => {
                self.hand_to_end(connection, side, |link| Input::Sent { link, buffer });
            }
            Event::Down { connection, side } => {
                let end = self.net.connections[connection].ends[side];
                self.tell(|_| format!("node {}: connection {connection} ({}) is down", end.node + 1, end.link));
                if self.lives(end.node, end.life) {
                    self.input(end.node, Input::LinkDown(end.link));
                }
            }
            Event::Client { client } => self.client(client)?,
            Event::Impatience { client, turn } => self.grow_impatient(client, turn),
            Event::Ambush { ambush } => self.ambush(ambush),
            Event::CutOff { node } => self.cut_off(node),
            Event::Blink { node } => self.restart_at_once(node),
            Event::Mend => self.mend(),
            Event::Campaign { node, group } => self.campaign(node, group),
            Event::Operator => self.operate(),
            Event::Fault => self.fault(),
            Event::Restart { node, life } if self.nodes[node].core.is_none() && self.nodes[node].life == life => {
                self.start(node)?;
            }
            Event::Service { node, life } if self.lives(node, life) => self.crash(node, false),
            // Of an earlier life.
            _ => {}
        }
        Ok(())
    }

    /// The node that an event happens to.
    fn node_of(&self, event: &Event) -> Option<usize> {
        match event {
            Event::Turn { node, .. } | Event::Tick { node, .. } | Event::DialFailed { node, .. } => Some(*node),
            Event::Up { connection, side }
            | Event::Bytes { connection, side, .. }
            | Event::Sent { connection, side, .. }
            | Event::Down { connection, side } => Some(self.net.connections[*connection].ends[*side].node),
            // The disk works on while a process stands still; but nobody hears of it.
            Event::Io { node, .. } => Some(*node),
            Event::LateFrame { .. }
            | Event::Client { .. }
            | Event::Impatience { .. }
            | Event::Ambush { .. }
            | Event::CutOff { .. }
            | Event::Blink { .. }
            | Event::Mend
            | Event::Campaign { .. }
            | Event::Operator
            | Event::Fault
            | Event::Restart { .. }
            | Event::Service { .. } => None,
        }
    }

    pub(crate) fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].core.is_some() && self.nodes[node].life == life
    }

    pub(crate) fn input(&mut self, node: usize, input: Input<'_>) {
        let local = self.nodes[node].local(self.now);
        if let Some(core) = &mut self.nodes[node].core {
            core.handle(local, input);
            self.turn_soon(node);
        }
    }

    /// Gives a node a command, as any thread would. False: it is down, or its mailbox is full.
    pub(crate) fn mail(&mut self, node: usize, mail: Mail) -> bool {
        if self.nodes[node].core.is_none() {
            return false;
        }
        match self.nodes[node].mailbox.send(mail) {
            Ok(()) => {
                self.turn_soon(node);
                true
            }
            Err(SendError::Full(_)) => {
                self.hits.hit("mailbox full");
                false
            }
            Err(SendError::Closed(_)) => false,
        }
    }

    /// Inputs that come close together share a turn, as they do on a busy machine.
    fn turn_soon(&mut self, node: usize) {
        if !std::mem::replace(&mut self.nodes[node].turn_due, true) {
            let delay = self.rng.micros(1, 100);
            let life = self.nodes[node].life;
            self.after(delay, Event::Turn { node, life });
        }
    }

    fn turn(&mut self, node: usize) -> Result<(), String> {
        let local = self.nodes[node].local(self.now);
        let SimNode { core, mailbox, turn_due, counted, .. } = &mut self.nodes[node];
        *turn_due = false;
        let Some(core) = core else { return Ok(()) };
        while let Some(mail) = mailbox.receive() {
            core.handle(local, Input::Mail(mail));
        }
        core.end_turn();
        // What was committed is looked at before anybody is told.
        let uncommitted_bytes_max = self.shape.uncommitted_bytes_max + UNCOMMITTED_SLACK_BYTES;
        for raft in core.replicas() {
            self.checks.observe(node, raft)?;
            // What a leader found in its log it knows to be committed only when it has committed something itself.
            let knows = raft.role() == Role::Leader && raft.entry_term(raft.commit()) == Some(raft.term());
            if knows && raft.uncommitted_bytes() > uncommitted_bytes_max {
                let (group, bytes) = (raft.group(), raft.uncommitted_bytes());
                return Err(format!("node {} group {group}: {bytes} B uncommitted, beyond the limit", node + 1));
            }
        }
        let now = core.counters();
        let counted = std::mem::replace(counted, now);
        for (class, before, now) in [
            ("log compacted", counted.logs_compacted, now.logs_compacted),
            ("snapshot sent", counted.snapshots_sent, now.snapshots_sent),
            ("snapshot installed", counted.snapshots_installed, now.snapshots_installed),
            ("snapshot failed", counted.snapshots_failed, now.snapshots_failed),
        ] {
            (before..now).for_each(|_| self.hits.hit(class));
        }
        let mut outputs = Vec::new();
        while let Some(output) = core.poll_output() {
            outputs.push(output);
        }
        if core.has_work() {
            self.turn_soon(node);
        }
        self.tell_roles(node);
        for output in outputs {
            self.carry_out(node, output)?;
        }
        self.collect_answers()?;
        self.look_after_panics(node);
        self.look_at_limits(node)?;
        Ok(())
    }

    fn carry_out(&mut self, node: usize, output: Output) -> Result<(), String> {
        let life = self.nodes[node].life;
        match output {
            Output::Io { id, op } => {
                self.nodes[node].disk.submit(id, op);
                let delay = if self.rng.chance(3) { self.rng.micros(1_000, 60_000) } else { self.rng.micros(50, 600) };
                self.after(delay, Event::Io { node, life, id });
            }
            Output::Dial { link, node: to, .. } => self.dial(End { node, life, link }, to.0 as usize - 1),
            Output::Send { link, buffer } => self.send(node, life, link, buffer),
            Output::Close(link) => {
                if let Some((connection, side)) = self.net.find(node, life, link) {
                    self.tell(|_| format!("node {} closes connection {connection} ({link})", node + 1));
                    self.close(connection, 1 - side);
                }
            }
            Output::Answer(answer) => answer.deliver(),
            Output::Notice(Notice::WalFailed { failure, .. }) => {
                self.tell(|_| format!("node {}: its log failed: {failure}", node + 1));
                self.hits.hit("log latched");
                // Somebody sees to it after a while.
                let pause = self.rng.micros(50_000, 900_000);
                self.after(pause, Event::Service { node, life });
            }
            Output::Notice(Notice::Refused(why)) => {
                self.tell(|_| format!("node {}: {why}", node + 1));
                if !self.nodes.iter().any(|node| node.lost) {
                    return Err(format!("node {} refuses somebody, or is refused, without reason: {why}", node + 1));
                }
                self.hits.hit("empty disk refused");
            }
        }
        Ok(())
    }

    fn io_done(&mut self, node: usize, life: u64, id: IoId) {
        let stalled_until = self.nodes[node].stalled_until;
        if stalled_until > self.now {
            self.schedule(stalled_until, Event::Io { node, life, id });
            return;
        }
        let result = self.nodes[node].disk.complete(id);
        if let Err(error) = &result {
            self.tell(|_| format!("node {}: {error}", node + 1));
        }
        self.input(node, Input::IoDone { id, result });
    }

    pub(crate) fn note(&mut self, words: &[u64]) {
        for word in words {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
        }
    }

    /// The replicas of a group that are up, with their nodes.
    pub(crate) fn replicas(&self, group: GroupId) -> impl Iterator<Item = (usize, &Raft)> {
        let nodes = self.nodes.iter().enumerate();
        nodes.filter_map(move |(place, node)| Some((place, node.core.as_ref()?.replica(group)?)))
    }

    /// The node that leads a group in its highest term.
    pub(crate) fn leader(&self, group: GroupId) -> Option<(usize, &Raft)> {
        let leads = self.replicas(group).filter(|(_, raft)| raft.role() == Role::Leader);
        leads.max_by_key(|(_, raft)| raft.term())
    }
}

fn discriminant_of(event: &Event) -> u64 {
    match event {
        Event::Turn { node, .. } => 1 << 8 | *node as u64,
        Event::Tick { node, .. } => 2 << 8 | *node as u64,
        Event::Io { node, id, .. } => 3 << 8 | *node as u64 | id.0 << 16,
        Event::Up { connection, side } => 4 << 8 | (connection * 2 + side) as u64,
        Event::DialFailed { node, .. } => 5 << 8 | *node as u64,
        Event::Bytes { connection, side, bytes } | Event::LateFrame { connection, side, bytes } => {
            6 << 8 | (connection * 2 + side) as u64 | u64::from(crc32c::crc32c(bytes)) << 24
        }
        Event::Sent { connection, side, .. } => 7 << 8 | (connection * 2 + side) as u64,
        Event::Down { connection, side } => 8 << 8 | (connection * 2 + side) as u64,
        Event::Client { client } => 9 << 8 | *client as u64,
        Event::Impatience { client, .. } => 14 << 8 | *client as u64,
        Event::Ambush { ambush } => 15 << 8 | ambush.leader as u64,
        Event::CutOff { node } => 16 << 8 | *node as u64,
        Event::Blink { node } => 18 << 8 | *node as u64,
        Event::Mend => 19 << 8,
        Event::Campaign { node, .. } => 17 << 8 | *node as u64,
        Event::Fault => 10 << 8,
        Event::Restart { node, .. } => 11 << 8 | *node as u64,
        Event::Operator => 12 << 8,
        Event::Service { node, .. } => 13 << 8 | *node as u64,
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The heap gives the greatest first: that is the earliest.
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}
