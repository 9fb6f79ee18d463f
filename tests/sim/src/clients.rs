//! Clients: each asks one thing after the other, of whoever it takes for the leader, and remembers what it was told.

use crate::linear::{History, Op, OpId};
use crate::machine::{command, operation};
use crate::node::PROPOSAL_TIMEOUT;
use crate::rng::Rng;
use crate::world::{Event, World};
use bytes::Bytes;
use raftyard_raft::{GroupId, Instant};
use raftyard_runtime::mail::{Applied, Mail, NotProposed, ProposeError, ReadAnswer, ReadError, ReadMode};
use std::collections::BTreeMap;
use std::time::Duration;

/// Keys of a group. Few, so that clients meet.
const KEYS: u64 = 3;

/// An answer that is owed must come in this many proposal time-outs, however the clocks run.
const ANSWER_TIMEOUTS: u32 = 3;

/// What a client waits for.
#[derive(Debug)]
enum Waits {
    Write { operation: u64, receiver: oneshot::Receiver<Result<Applied, ProposeError>> },
    Read { mode: ReadMode, receiver: oneshot::Receiver<Result<ReadAnswer, ReadError>> },
}

/// What kind of client it is.
#[derive(Clone, Copy, Debug)]
struct Habit {
    /// How often it writes, of a hundred times.
    writes: u64,
    /// Whether it stays with whoever it believes to lead, as long as that one doesn't refuse.
    loyal: bool,
    /// After so long it asks something else, of somebody else, and never learns what became of this.
    patience: Duration,
}

#[derive(Debug)]
struct Asked {
    id: OpId,
    group: GroupId,
    node: usize,
    at: Instant,
    waits: Waits,
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Clients {
    habits: Vec<Habit>,
    asked: Vec<Option<Asked>>,
    /// Where a client believes a group's leader to be.
    believed: BTreeMap<(usize, GroupId), usize>,
    pub(crate) history: History,
    /// Until then most ask for one key of this group.
    crowd: (GroupId, Instant),
    /// Until then nobody writes to this group.
    hushed: (GroupId, Instant),
    /// Counts what each client has asked and done with.
    turns: Vec<u64>,
    next_operation: u64,
}

impl Clients {
    pub(crate) fn new(count: usize, rng: &mut Rng) -> Clients {
        let mut habit = || Habit {
            writes: [5, 50, 90][rng.below(3) as usize],
            loyal: rng.chance(50),
            patience: [rng.micros(20_000, 200_000), PROPOSAL_TIMEOUT * 10][rng.below(2) as usize],
        };
        Clients {
            habits: (0..count).map(|_| habit()).collect(),
            asked: (0..count).map(|_| None).collect(),
            believed: BTreeMap::new(),
            history: History::default(),
            crowd: (GroupId(0), Instant(0)),
            hushed: (GroupId(0), Instant(0)),
            turns: vec![0; count],
            next_operation: 1,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.asked.len()
    }

    /// Lets most clients ask for one key of a group for a while: something is about to happen there.
    pub(crate) fn gather(&mut self, group: GroupId, until: Instant) {
        self.crowd = (group, until);
    }

    /// Lets nobody write to a group for a while, so that whoever is cut off from its leader has all that the others have.
    pub(crate) fn hush(&mut self, group: GroupId, until: Instant) {
        self.hushed = (group, until);
    }

    /// Somebody who still waits, in words.
    pub(crate) fn waiting(&self) -> Option<String> {
        let waits = |asked: &Asked| format!("{:?} of group {} at node {}", asked.waits, asked.group, asked.node + 1);
        self.asked.iter().flatten().next().map(waits)
    }
}

impl World {
    /// A client has nothing to wait for, and asks for something.
    pub(crate) fn client(&mut self, client: usize) -> Result<(), String> {
        if !self.stormy || self.clients.asked[client].is_some() {
            return Ok(());
        }
        let crowded = self.now < self.clients.crowd.1 && self.rng.chance(85);
        let any = if crowded { Some(self.clients.crowd.0) } else { self.operator.any_group(&mut self.rng) };
        let Some(group) = any else { return Ok(()) };
        let habit = self.clients.habits[client];
        let node = self.guess(client, group);
        let key = if crowded { 0 } else { self.rng.below(KEYS) };
        let register = group.0 * 1_000 + key;
        let now = self.now.0;
        let hushed = self.clients.hushed.0 == group && self.now < self.clients.hushed.1;
        let asked = if self.rng.chance(habit.writes) && !hushed {
            let operation = self.clients.next_operation;
            self.clients.next_operation += 1;
            let padding = if self.rng.chance(3) { 3_000 } else { self.rng.below(100) };
            let (reply, receiver) = oneshot::channel();
            let data = command(operation, key, padding as usize);
            let id = self.clients.history.begin(now, client as u64, register, Op::Write(operation));
            self.tell(|_| format!("client {client} writes {operation} to {register} at node {}", node + 1));
            self.mail(node, Mail::Propose { group, data, reply });
            Asked { id, group, node, at: self.now, waits: Waits::Write { operation, receiver } }
        } else {
            let mode = match self.rng.below(3) {
                0 if self.shape.leases => ReadMode::Lease,
                1 => ReadMode::Follower,
                _ => ReadMode::Index,
            };
            let anybody = self.rng.below(self.nodes.len() as u64) as usize;
            let node = if mode == ReadMode::Follower { anybody } else { node };
            let (reply, receiver) = oneshot::channel();
            let query = Bytes::copy_from_slice(&key.to_le_bytes());
            let id = self.clients.history.begin(now, client as u64, register, Op::Read(None));
            self.tell(|_| format!("client {client} reads {register} at node {} by {mode:?}", node + 1));
            self.mail(node, Mail::Read { group, mode, query, reply });
            Asked { id, group, node, at: self.now, waits: Waits::Read { mode, receiver } }
        };
        self.note(&[client as u64, group.0, asked.node as u64]);
        self.clients.asked[client] = Some(asked);
        if habit.patience < PROPOSAL_TIMEOUT {
            let turn = self.clients.turns[client];
            self.after(habit.patience, Event::Impatience { client, turn });
        }
        // What was refused at once is answered at once.
        self.collect_answers()
    }

    /// The client waits no longer. What it asked may still happen.
    pub(crate) fn grow_impatient(&mut self, client: usize, turn: u64) {
        if self.clients.turns[client] != turn {
            return;
        }
        if let Some(asked) = self.clients.asked[client].take() {
            self.hits.hit("client impatient");
            self.tell(|_| format!("client {client} waits no longer for node {}", asked.node + 1));
            if matches!(asked.waits, Waits::Read { .. }) {
                self.clients.history.refused(self.now.0, asked.id);
            }
            self.clients.believed.remove(&(client, asked.group));
            self.clients.turns[client] += 1;
            self.after(Duration::from_micros(50), Event::Client { client });
        }
    }

    /// Mostly whoever the client believes to lead; sometimes whoever does, or says so; sometimes anybody.
    fn guess(&mut self, client: usize, group: GroupId) -> usize {
        let anybody = self.rng.below(self.nodes.len() as u64) as usize;
        if self.rng.chance(5) {
            return anybody;
        }
        if let Some(&believed) = self.clients.believed.get(&(client, group))
            && (self.clients.habits[client].loyal || self.rng.chance(80))
        {
            return believed;
        }
        let leads = |raft: &raftyard_raft::Raft| raft.role() == raftyard_raft::Role::Leader;
        let leaders: Vec<usize> = self.replicas(group).filter(|(_, raft)| leads(raft)).map(|(node, _)| node).collect();
        let leader = self.rng.pick(&leaders).unwrap_or(anybody);
        self.clients.believed.insert((client, group), leader);
        leader
    }

    /// Takes what clients and the operator were told.
    pub(crate) fn collect_answers(&mut self) -> Result<(), String> {
        for client in 0..self.clients.count() {
            let Some(asked) = self.clients.asked[client].take() else { continue };
            match self.answered(client, &asked)? {
                false => self.clients.asked[client] = Some(asked),
                true => {
                    self.clients.turns[client] += 1;
                    let longest = if self.now < self.clients.crowd.1 { 3_000 } else { 40_000 };
                    let pause = self.rng.micros(50, longest);
                    self.after(pause, Event::Client { client });
                }
            }
        }
        self.collect_operator()
    }

    /// Whether there is an answer; what it says is recorded.
    fn answered(&mut self, client: usize, asked: &Asked) -> Result<bool, String> {
        let now = self.now.0;
        let &Asked { id, group, node, at, .. } = asked;
        match &asked.waits {
            Waits::Write { operation, receiver } => match receiver.try_recv() {
                Err(oneshot::TryRecvError::Empty) => return self.still_waits(client, node, at),
                Ok(Ok(applied)) => {
                    self.hits.hit("write acknowledged");
                    self.tell(|_| format!("client {client} wrote {operation}, index {}", applied.index));
                    if crate::machine::operation(&applied.response) != *operation {
                        return Err(format!("operation {operation} got the answer of another"));
                    }
                    self.checks.acknowledged(group, *operation, applied.index)?;
                    self.clients.history.written(now, id);
                }
                Ok(Err(ProposeError::NotProposed(why))) => {
                    self.hits.hit("write refused");
                    self.tell(|_| format!("client {client} did not write {operation}: {why}"));
                    self.checks.refused(*operation);
                    self.clients.history.refused(now, id);
                    match why {
                        NotProposed::NotLeader { leader: Some(leader) } => {
                            self.clients.believed.insert((client, group), leader.0 as usize - 1);
                        }
                        _ => drop(self.clients.believed.remove(&(client, group))),
                    }
                }
                // A mailbox that is full, or of a node that is down, never took it: the mail was dropped with its reply.
                Err(oneshot::TryRecvError::Disconnected) | Ok(Err(ProposeError::Unknown(_))) => {
                    self.hits.hit("write unknown");
                    self.tell(|_| format!("client {client} does not know about {operation}"));
                    self.clients.believed.remove(&(client, group));
                }
            },
            Waits::Read { mode, receiver } => match receiver.try_recv() {
                Err(oneshot::TryRecvError::Empty) => return self.still_waits(client, node, at),
                Ok(Ok(answer)) => {
                    self.hits.hit(match mode {
                        ReadMode::Index => "read by index",
                        ReadMode::Lease => "read by lease",
                        ReadMode::Follower => "read on a follower",
                    });
                    let value = operation(&answer.response);
                    self.tell(|_| format!("client {client} found {value}, applied {}", answer.index));
                    self.clients.history.read(now, id, (value != 0).then_some(value));
                }
                Err(oneshot::TryRecvError::Disconnected) | Ok(Err(_)) => {
                    self.hits.hit("read failed");
                    self.clients.history.refused(now, id);
                    self.clients.believed.remove(&(client, group));
                }
            },
        }
        Ok(true)
    }

    /// Whether a node should have answered by now what it was asked at `at`.
    pub(crate) fn is_overdue(&self, node: usize, at: Instant) -> bool {
        let rested = self.nodes[node].paused_until.max(at);
        self.now.since(rested) > PROPOSAL_TIMEOUT * ANSWER_TIMEOUTS + Duration::from_secs(1)
    }

    /// Every future is answered in time, by a node that is up and not paused.
    fn still_waits(&mut self, client: usize, node: usize, at: Instant) -> Result<bool, String> {
        if self.is_overdue(node, at) {
            return Err(format!("client {client} waits at node {} since {} s", node + 1, at.0 as f64 / 1e9));
        }
        Ok(false)
    }
}
