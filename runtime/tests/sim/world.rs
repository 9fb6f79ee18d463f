//! The simulation: one clock, one queue of events, one seed.

use crate::checks::Checks;
use crate::net::{End, Net};
use crate::node::{Shape, SimNode};
use crate::rng::Rng;
use raftyard_raft::{Configuration, GroupId, Instant, Member, NodeId, ReplicaId};
use raftyard_runtime::core::port::{Input, LinkId, Output};
use raftyard_runtime::group::GroupConfig;
use raftyard_runtime::mail::{Applied, CreateGroupError, Mail, ProposeError};
use raftyard_storage::io::IoId;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Something that happens at a moment of the simulation.
#[derive(Debug)]
pub(crate) enum Event {
    Turn { node: usize, life: u64 },
    Tick { node: usize, life: u64 },
    Io { node: usize, life: u64, id: IoId },
    Up { connection: usize, side: usize },
    DialFailed { node: usize, life: u64, link: LinkId },
    Bytes { connection: usize, side: usize, bytes: Vec<u8> },
    Sent { connection: usize, side: usize, buffer: Vec<u8> },
    Down { connection: usize, side: usize },
    Client,
    Fault,
    Restart { node: usize },
}

type Proposal = (u64, GroupId, oneshot::Receiver<Result<Applied, ProposeError>>);
type Creation = (usize, GroupId, oneshot::Receiver<Result<(), CreateGroupError>>);

/// How often which fault was injected: one that is never hit proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hits {
    pub(crate) crashes: u64,
    pub(crate) resets: u64,
    pub(crate) partitions: u64,
    pub(crate) stalls: u64,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
}

pub(crate) struct World {
    pub(crate) shape: Shape,
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: Vec<Option<Event>>,
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) net: Net,
    pub(crate) checks: Checks,
    pub(crate) proposals: Vec<Proposal>,
    creations: Vec<Creation>,
    pub(crate) next_operation: u64,
    pub(crate) hits: Hits,
    /// Of everything that happened, in order: two runs of one seed agree in it.
    pub(crate) trace: u64,
    /// Faults and load go on.
    pub(crate) stormy: bool,
}

const TICK: Duration = Duration::from_millis(10);

impl World {
    pub(crate) fn new(seed: u64, shape: Shape) -> World {
        let nodes = (1..=shape.nodes as u64).map(|id| SimNode::new(NodeId(id))).collect();
        let mut world = World {
            shape,
            now: Instant(1),
            rng: Rng::new(seed),
            queue: BinaryHeap::new(),
            events: Vec::new(),
            nodes,
            net: Net::default(),
            checks: Checks::default(),
            proposals: Vec::new(),
            creations: Vec::new(),
            next_operation: 1,
            hits: Hits::default(),
            trace: 0xcbf2_9ce4_8422_2325,
            stormy: true,
        };
        for node in 0..world.nodes.len() {
            world.start(node);
        }
        world
    }

    /// Runs until `until`.
    pub(crate) fn run(&mut self, until: Instant) -> Result<(), String> {
        while let Some(&Reverse((at, number))) = self.queue.peek() {
            if at > until {
                break;
            }
            self.queue.pop();
            self.now = self.now.max(at);
            let event = self.events[number as usize].take().expect("an event happens once");
            self.note(&[self.now.0, number, discriminant_of(&event)]);
            self.step(event)?;
        }
        self.now = self.now.max(until);
        Ok(())
    }

    pub(crate) fn schedule(&mut self, at: Instant, event: Event) {
        let number = self.events.len() as u64;
        self.events.push(Some(event));
        self.queue.push(Reverse((at, number)));
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.schedule(self.now.after(delay), event);
    }

    /// Starts a node, with its groups if it does not have them.
    pub(crate) fn start(&mut self, node: usize) {
        let started = self.nodes[node].start(&self.shape, self.now, &mut self.rng);
        started.expect("an honest disk is never damaged");
        let life = self.nodes[node].life;
        self.checks.restarted(node);
        self.after(TICK, Event::Tick { node, life });
        for group in 1..=self.shape.groups {
            self.create(node, GroupId(group));
        }
        self.turn_soon(node);
    }

    fn create(&mut self, node: usize, group: GroupId) {
        let members = (1..=self.shape.nodes as u64).map(|n| Member { replica: ReplicaId(n), node: NodeId(n) });
        let configuration = Configuration::new(members.collect()).expect("one replica a node");
        let preferred_leader = Some(NodeId(group.0 % self.shape.nodes as u64 + 1));
        let (reply, receiver) = oneshot::channel();
        self.creations.push((node, group, receiver));
        let config = GroupConfig { group, configuration, preferred_leader };
        self.input(node, Input::Mail(Mail::CreateGroup { config, reply }));
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Turn { node, life } if self.lives(node, life) => self.turn(node)?,
            Event::Tick { node, life } if self.lives(node, life) => {
                self.after(TICK, Event::Tick { node, life });
                let due = self.nodes[node].core.as_ref().and_then(|core| core.next_deadline());
                if due.is_some_and(|due| due <= self.now) {
                    self.input(node, Input::Deadline);
                }
            }
            Event::Io { node, life, id } if self.lives(node, life) => self.io_done(node, life, id),
            Event::Up { connection, side } => self.hand_to_end(connection, side, |_, link| Input::LinkUp(link)),
            Event::DialFailed { node, life, link } if self.lives(node, life) => {
                self.input(node, Input::LinkDown(link));
            }
            Event::Bytes { connection, side, bytes } => self.bytes(connection, side, bytes),
            Event::Sent { connection, side, buffer } => {
                self.hand_to_end(connection, side, |_, link| Input::Sent { link, buffer });
            }
            Event::Down { connection, side } => {
                let end = self.net.connections[connection].ends[side];
                if self.lives(end.node, end.life) {
                    self.input(end.node, Input::LinkDown(end.link));
                }
            }
            Event::Client => self.client()?,
            Event::Fault => self.fault(),
            Event::Restart { node } if self.nodes[node].core.is_none() => self.start(node),
            // Of an earlier life.
            _ => {}
        }
        Ok(())
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].core.is_some() && self.nodes[node].life == life
    }

    pub(crate) fn input(&mut self, node: usize, input: Input<'_>) {
        if let Some(core) = &mut self.nodes[node].core {
            core.handle(self.now, input);
            self.turn_soon(node);
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
        self.nodes[node].turn_due = false;
        let Some(core) = &mut self.nodes[node].core else { return Ok(()) };
        core.end_turn();
        // What was committed is looked at before anybody is told.
        for raft in core.replicas() {
            self.checks.observe(node, raft)?;
        }
        let mut outputs = Vec::new();
        while let Some(output) = core.poll_output() {
            outputs.push(output);
        }
        if core.has_work() {
            self.turn_soon(node);
        }
        for output in outputs {
            self.carry_out(node, output);
        }
        self.collect_answers()
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        let life = self.nodes[node].life;
        match output {
            Output::Io { id, op } => {
                self.nodes[node].disk.submit(id, op);
                self.nodes[node].in_flight.push(id);
                let delay = if self.rng.chance(3) { self.rng.micros(1_000, 60_000) } else { self.rng.micros(50, 600) };
                self.after(delay, Event::Io { node, life, id });
            }
            Output::Dial { link, node: to, .. } => self.dial(End { node, life, link }, to.0 as usize - 1),
            Output::Send { link, buffer } => self.send(node, life, link, buffer),
            Output::Close(link) => {
                if let Some((connection, side)) = self.net.find(node, life, link) {
                    self.close(connection, 1 - side);
                }
            }
            Output::Answer(answer) => answer.deliver(),
            Output::Notice(notice) => panic!("nothing an operator must know happens here: {notice}"),
        }
    }

    fn io_done(&mut self, node: usize, life: u64, id: IoId) {
        let stalled_until = self.nodes[node].stalled_until;
        if stalled_until > self.now {
            self.schedule(stalled_until, Event::Io { node, life, id });
            return;
        }
        let result = self.nodes[node].disk.complete(id);
        self.input(node, Input::IoDone { id, result });
    }

    fn dial(&mut self, from: End, to: usize) {
        let blocked = self.net.is_blocked(from.node, to) || self.net.is_blocked(to, from.node);
        if blocked || self.nodes[to].core.is_none() {
            let delay = self.rng.micros(100, 20_000);
            self.after(delay, Event::DialFailed { node: from.node, life: from.life, link: from.link });
            return;
        }
        let life = self.nodes[to].life;
        let connection = self.net.connect(self.now, from, to, life);
        for side in [1, 0] {
            let at = self.net.arrival(self.now, connection, side, &mut self.rng);
            self.schedule(at, Event::Up { connection, side });
        }
    }

    fn send(&mut self, node: usize, life: u64, link: LinkId, buffer: Vec<u8>) {
        let Some((connection, side)) = self.net.find(node, life, link) else { return };
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let cut = if self.rng.chance(30) { self.rng.below(rest.len() as u64) + 1 } else { rest.len() as u64 };
            let (bytes, after) = rest.split_at(cut as usize);
            rest = after;
            let at = self.net.arrival(self.now, connection, 1 - side, &mut self.rng);
            self.schedule(at, Event::Bytes { connection, side: 1 - side, bytes: bytes.to_vec() });
        }
        let delay = self.rng.micros(5, 300);
        self.after(delay, Event::Sent { connection, side, buffer });
    }

    fn bytes(&mut self, connection: usize, side: usize, bytes: Vec<u8>) {
        let ends = self.net.connections[connection].ends;
        if self.net.is_blocked(ends[1 - side].node, ends[side].node) {
            self.net.connections[connection].blocked[side].extend(bytes);
            return;
        }
        let mut held = std::mem::take(&mut self.net.connections[connection].blocked[side]);
        held.extend(bytes);
        self.hand_to_end(connection, side, |_, link| Input::Bytes { link, bytes: &held });
    }

    /// What was blocked arrives.
    pub(crate) fn unblock(&mut self) {
        self.net.blocked.clear();
        for connection in self.net.open() {
            for side in 0..2 {
                let at = self.net.arrival(self.now, connection, side, &mut self.rng);
                self.schedule(at, Event::Bytes { connection, side, bytes: Vec::new() });
            }
        }
    }

    fn hand_to_end<'a>(&mut self, connection: usize, side: usize, input: impl FnOnce(&mut Self, LinkId) -> Input<'a>) {
        let Some(found) = self.net.connections.get(connection).filter(|c| c.open) else { return };
        let end = found.ends[side];
        if self.lives(end.node, end.life) {
            let input = input(self, end.link);
            self.input(end.node, input);
        }
    }

    /// Ends a connection for the side that is not told by itself.
    fn close(&mut self, connection: usize, side: usize) {
        let at = self.net.arrival(self.now, connection, side, &mut self.rng);
        self.schedule(at, Event::Down { connection, side });
        // What is on its way to that side still arrives: the connection stays open for it until then.
        self.net.connections[connection].blocked[1 - side].clear();
    }

    /// Cuts a connection now, in the middle of whatever is on its way.
    pub(crate) fn reset(&mut self, connection: usize) {
        self.net.connections[connection].open = false;
        for side in 0..2 {
            let delay = self.rng.micros(10, 3_000);
            self.after(delay, Event::Down { connection, side });
        }
    }

    /// Takes what the core answered to clients.
    fn collect_answers(&mut self) -> Result<(), String> {
        let mut result = Ok(());
        let (checks, hits) = (&mut self.checks, &mut self.hits);
        self.proposals.retain(|(operation, group, receiver)| match receiver.try_recv() {
            Err(oneshot::TryRecvError::Empty) => true,
            Err(oneshot::TryRecvError::Disconnected) | Ok(Err(ProposeError::Unknown(_))) => {
                hits.unknown += 1;
                false
            }
            Ok(Err(ProposeError::NotProposed(_))) => {
                hits.refused += 1;
                checks.refused(*operation);
                false
            }
            Ok(Ok(applied)) => {
                hits.acknowledged += 1;
                if let Err(violation) = checks.acknowledged(*group, *operation, applied.index) {
                    result = Err(violation);
                }
                false
            }
        });
        result
    }

    pub(crate) fn note(&mut self, words: &[u64]) {
        for word in words {
            self.trace = (self.trace ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(5);
        }
    }
}

fn discriminant_of(event: &Event) -> u64 {
    match event {
        Event::Turn { node, .. } => 1 << 8 | *node as u64,
        Event::Tick { node, .. } => 2 << 8 | *node as u64,
        Event::Io { node, id, .. } => 3 << 8 | *node as u64 | id.0 << 16,
        Event::Up { connection, side } => 4 << 8 | (connection * 2 + side) as u64,
        Event::DialFailed { node, .. } => 5 << 8 | *node as u64,
        Event::Bytes { connection, side, bytes } => {
            6 << 8 | (connection * 2 + side) as u64 | u64::from(crc32c::crc32c(bytes)) << 24
        }
        Event::Sent { connection, side, .. } => 7 << 8 | (connection * 2 + side) as u64,
        Event::Down { connection, side } => 8 << 8 | (connection * 2 + side) as u64,
        Event::Client => 9 << 8,
        Event::Fault => 10 << 8,
        Event::Restart { node } => 11 << 8 | *node as u64,
    }
}
