//! A read by read index that is older than a write acknowledged before it: raft-rs 0.7 serves it, this crate waits.
//!
//! The defect is that of etcd-io/raft#397. A leader of theirs tells its heartbeats apart by the read that they were sent
//! for, and knows it by the name that the reader gave it. So an acknowledgement from before, which was late, confirms a
//! request that the network has doubled, and with it all reads that came before the copy. Here a heartbeat is named by
//! the moment it was sent, and an acknowledgement confirms what was asked before that.

use crate::ours::{self, Ours};
use crate::packet::{Packet, Wire};
use crate::replica::{ELECTION_TIMEOUT_NANOS, Replica};
use crate::theirs::{self, Theirs};
use raft::eraftpb::MessageType;
use raftyard_raft::{Body, Instant, LogIndex, ReadState, ReadTicket};

/// A replica that can be asked what may be read.
trait Reader: Replica {
    type Ticket;
    /// Asks; every read has a `name` of its own.
    fn ask(&mut self, now: Instant, name: &str) -> Self::Ticket;
    /// Who has applied that may serve the read.
    fn answer(&self, ticket: &Self::Ticket) -> Option<LogIndex>;
}

impl Reader for Ours {
    type Ticket = ReadTicket;

    fn ask(&mut self, now: Instant, _: &str) -> ReadTicket {
        self.raft().read_index(now).unwrap()
    }

    fn answer(&self, ticket: &ReadTicket) -> Option<LogIndex> {
        match self.read_state(ticket) {
            ReadState::Ready(index) => Some(index),
            ReadState::Waiting | ReadState::Lost => None,
        }
    }
}

impl Reader for Theirs {
    type Ticket = Vec<u8>;

    fn ask(&mut self, _: Instant, name: &str) -> Vec<u8> {
        self.call(|node| node.read_index(name.into()));
        name.into()
    }

    fn answer(&self, ticket: &Vec<u8>) -> Option<LogIndex> {
        self.reads.iter().find(|read| read.request_ctx == *ticket).map(|read| LogIndex(read.index))
    }
}

/// Three replicas whose disks are quick. `held` are messages that the network keeps back.
struct Trio<R> {
    replicas: Vec<R>,
    now: Instant,
    network: Vec<Packet>,
    held: Vec<Packet>,
    /// Nothing passes to or from it.
    cut: Option<usize>,
}

impl<R: Reader> Trio<R> {
    fn new(mut replicas: Vec<R>) -> Trio<R> {
        let now = Instant(1_000);
        for (seed, replica) in replicas.iter_mut().enumerate() {
            // With these seeds nobody's time-out is the least that there is: whoever is asked to campaigns first.
            replica.start(now, LogIndex(0), 11 + seed as u64);
        }
        Trio { replicas, now, network: Vec::new(), held: Vec::new(), cut: None }
    }

    fn at(&mut self, id: usize) -> &mut R {
        &mut self.replicas[id - 1]
    }

    fn commit(&mut self, id: usize) -> LogIndex {
        self.at(id).view().unwrap().commit
    }

    /// Everybody acts, and everything that is not kept back arrives.
    fn settle(&mut self, keep: impl Fn(&Packet) -> bool) {
        loop {
            for replica in &mut self.replicas {
                self.network.extend(replica.poll().sent.into_iter().map(|wire| Packet { serial: 0, wire }));
                while replica.writes() > 0 {
                    self.network.extend(replica.persisted().into_iter().map(|wire| Packet { serial: 0, wire }));
                }
            }
            if self.network.is_empty() {
                return;
            }
            for packet in std::mem::take(&mut self.network) {
                let lost = [packet.from(), packet.to()].into_iter().any(|id| Some(id) == self.cut);
                if keep(&packet) {
                    self.held.push(packet);
                } else if !lost {
                    self.arrive(&packet);
                }
            }
        }
    }

    fn arrive(&mut self, packet: &Packet) {
        let now = self.now;
        self.at(packet.to()).take(now, packet);
    }

    /// An election time-out of silence passes; then `id` campaigns. The leader, if it is cut off, doesn't know the time.
    fn elect(&mut self, id: usize) {
        for _ in 0..10 {
            self.now.0 += ELECTION_TIMEOUT_NANOS / 10;
            let now = self.now;
            for other in (1..=3).filter(|other| Some(*other) != self.cut) {
                self.replicas[other - 1].pass(now);
            }
            self.settle(|_| false);
        }
        let now = self.now;
        self.at(id).campaign(now);
        self.settle(|_| false);
        assert!(self.at(id).view().unwrap().leads, "{id} was not elected");
    }
}

fn is_request(packet: &Packet) -> bool {
    match &packet.wire {
        Wire::Ours(owned) => matches!(owned.message().body, Body::ReadRequest { .. }),
        Wire::Theirs(message) => message.get_msg_type() == MessageType::MsgReadIndex,
    }
}

fn is_acknowledgement(packet: &Packet, from: usize) -> bool {
    packet.from() == from
        && match &packet.wire {
            Wire::Ours(owned) => matches!(owned.message().body, Body::HeartbeatAnswer { .. }),
            Wire::Theirs(message) => message.get_msg_type() == MessageType::MsgHeartbeatResponse,
        }
}

/// What the deposed leader answers to a read, and what was committed before that was asked.
fn read_at_a_deposed_leader<R: Reader>(replicas: Vec<R>) -> (Option<LogIndex>, LogIndex) {
    let mut trio = Trio::new(replicas);
    trio.elect(1);
    assert_eq!(trio.commit(1), LogIndex(1), "the leader knows what is committed");

    // Replica 2 asks its leader. The request is doubled, and one of the two is late.
    let now = trio.now;
    let first = trio.at(2).ask(now, "first");
    trio.settle(is_request);
    let request = trio.held.pop().unwrap();
    trio.arrive(&request);
    // So is the acknowledgement of replica 3; that of replica 2 is enough.
    trio.settle(|packet| is_acknowledgement(packet, 3));
    let acknowledgement = trio.held.pop().unwrap();
    assert_eq!(trio.at(2).answer(&first), Some(LogIndex(1)));

    // The leader is cut off and doesn't know the time. Replica 3 leads and commits a write with replica 2.
    trio.cut = Some(1);
    trio.elect(3);
    assert!(trio.at(3).propose(b"write"));
    trio.settle(|_| false);
    let committed = trio.commit(3);
    assert_eq!(committed, LogIndex(3), "the write is acknowledged");

    // A reader asks the old leader. Nobody hears its heartbeats; what arrives is from before.
    let now = trio.now;
    let second = trio.at(1).ask(now, "second");
    trio.settle(|_| false);
    assert_eq!(trio.at(1).answer(&second), None, "nobody has confirmed it");
    trio.arrive(&request);
    trio.settle(|_| false);
    trio.arrive(&acknowledgement);
    trio.settle(|_| false);
    assert!(trio.at(1).view().unwrap().leads, "it takes itself for the leader");
    (trio.at(1).answer(&second), committed)
}

#[test]
fn a_late_acknowledgement_confirms_no_read_of_ours() {
    let replica = |id| Ours::new(id, 3, ours::settings(8, 1 << 20), usize::MAX);
    let (answer, _) = read_at_a_deposed_leader((1..=3).map(replica).collect());
    assert_eq!(answer, None, "it waits");
}

/// Should this ever fail, raft-rs is mended, and reads can join the mix.
#[test]
fn a_late_acknowledgement_confirms_a_read_of_theirs() {
    let replica = |id| Theirs::new(id, 3, theirs::config(8, u64::MAX, false, false));
    let (answer, committed) = read_at_a_deposed_leader((1..=3).map(replica).collect());
    assert!(answer.is_some_and(|answer| answer < committed), "{answer:?} is older than the write at {committed}");
}
