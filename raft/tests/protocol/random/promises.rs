//! Who promised a leader not to elect another keeps that, by its own clock: no vote, no pre-vote, no campaign. A vote that
//! the leader itself asked for is excepted. Nor does a replica help one that it ought to lead in the stead of.

use super::schedule::REPLICAS;
use super::view::View;
use crate::packet::Packet;
use raftyard_raft::{Body, Instant, Raft, Role};

/// The pre-votes that must be refused.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// By who is asked, the askers as bits.
    refuse: [u32; REPLICAS + 1],
    /// The priority of each since its start; zero of one that may sit out.
    priorities: [u8; REPLICAS + 1],
}

impl Promises {
    /// A message was taken at `now` by a replica that was as in `before`.
    pub(crate) fn delivered(&mut self, packet: &Packet, before: &View, raft: &Raft, now: Instant) {
        let (from, to, message) = (packet.from(), packet.to(), packet.message());
        let bound = now < before.promise;
        match message.body {
            Body::PreVote { .. } if bound || before.role == Role::Leader => self.refuse[to] |= 1 << from,
            Body::PreVote { last, priority } if before.may_campaign && last == raft.last() => {
                let bit = u32::from(self.priorities[to] > priority) << from;
                self.refuse[to] = self.refuse[to] & !(1 << from) | bit;
            }
            Body::PreVote { .. } => self.refuse[to] &= !(1 << from),
            Body::Vote { transfer, .. } if raft.term() == message.term && raft.vote() == Some(message.from) => {
                let again = before.term == message.term && before.vote == Some(message.from);
                assert!(again || transfer || !bound, "{to} breaks its promise and votes for {from}");
                let known = before.term == message.term && before.leader.is_some();
                assert!(again || !known, "{to} knows the leader of term {} and votes for {from}", message.term);
            }
            Body::TimeoutNow { last } if raft.role() == Role::Candidate && raft.term() > before.term => {
                assert!(raft.last().index >= last, "{to} lacks what {from} has, and takes over");
                assert_eq!(before.leader, Some(message.from), "{to} takes over from who doesn't lead");
            }
            _ => {}
        }
    }

    /// A message leaves.
    pub(crate) fn sent(&self, packet: &Packet) {
        if matches!(packet.message().body, Body::PreVoteAnswer { granted: true }) {
            let refuse = self.refuse[packet.from()] & (1 << packet.to());
            assert!(refuse == 0, "{} would break its promise and vote for {}", packet.from(), packet.to());
        }
    }

    pub(crate) fn prefer(&mut self, id: usize, priority: u8) {
        self.priorities[id] = priority;
    }

    /// Something happened to a replica.
    pub(crate) fn changed(before: &View, after: &View, now: Instant) {
        let campaigns = after.role == Role::PreCandidate && before.role != Role::PreCandidate;
        assert!(!campaigns || now >= after.promise, "it breaks its promise and campaigns: {after:?}");
    }
}
