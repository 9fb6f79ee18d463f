//! Who promised a leader not to elect another keeps that, by its own clock: no vote, no pre-vote, no campaign. A vote that
//! the leader itself asked for is excepted. Nor does a replica help one that it ought to lead in the stead of.

use super::schedule::REPLICAS;
use super::view::View;
use crate::packet::Packet;
use raftyard_raft::{Body, Instant, Limit, Raft, Role};

/// The pre-votes that must be refused.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    /// By who is asked, the askers as bits.
    refuse: [u32; REPLICAS + 1],
    /// By who was asked for a pre-vote, the askers that it knew as members.
    members: [u32; REPLICAS + 1],
    /// The priority of each since its start.
    priorities: [u8; REPLICAS + 1],
    /// Who may sit an election out since then, whatever its priority.
    sits_out: u32,
}

impl Promises {
    /// A message was taken at `now` by a replica that was as in `before`.
    pub(crate) fn delivered(&mut self, packet: &Packet, before: &View, raft: &Raft, now: Instant) {
        let (from, to, message) = (packet.from(), packet.to(), packet.message());
        let bound = now < before.promise;
        if matches!(message.body, Body::PreVote { .. }) {
            let member = before.configuration.seat(message.from).is_some();
            self.members[to] = self.members[to] & !(1 << from) | u32::from(member) << from;
        }
        match message.body {
            Body::PreVote { .. } if bound || before.role == Role::Leader => self.refuse[to] |= 1 << from,
            Body::PreVote { last, priority }
                if before.may_campaign && last == raft.last() && self.sits_out & (1 << to) == 0 =>
            {
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
            Body::Vote { transfer: true, last } if message.term > before.term => {
                let whole = raft.limit() == Limit::None;
                assert!(!whole || !last.at_least_as_new_as(raft.last()), "{to} refuses {from}, that its leader wanted");
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
        let (from, to) = (packet.from(), packet.to());
        let among = |askers: u32| askers & (1 << to) != 0;
        match packet.message().body {
            Body::PreVoteAnswer { granted: true } => {
                assert!(!among(self.refuse[from]), "{from} would break its promise and vote for {to}");
            }
            Body::NotMember { .. } => assert!(!among(self.members[from]), "{from} denies the member {to}"),
            _ => {}
        }
    }

    pub(crate) fn prefer(&mut self, id: usize, priority: u8) {
        self.priorities[id] = priority;
    }

    pub(crate) fn sits_out(&mut self, id: usize) {
        self.sits_out |= 1 << id;
    }

    pub(crate) fn started(&mut self, id: usize) {
        self.priorities[id] = 0;
        self.sits_out &= !(1 << id);
    }

    /// Something happened to a replica.
    pub(crate) fn changed(before: &View, after: &View, now: Instant) {
        let campaigns = after.role == Role::PreCandidate && before.role != Role::PreCandidate;
        assert!(!campaigns || now >= after.promise, "it breaks its promise and campaigns: {after:?}");
        let idle = after.role == Role::Follower || after.limit == Limit::None;
        assert!(idle, "it campaigns though its disk lost something: {after:?}");
    }
}
