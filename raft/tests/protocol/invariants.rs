//! What must hold whatever happens (Raft paper, figure 3, and the order of durability). A breach panics with the place.

use crate::cluster::Replica;
use crate::packet::Packet;
use raftyard_raft::{Body, Entry, LogIndex, LogPosition, Raft, Role, Term};
use std::collections::HashMap;

/// Remembers all that was ever seen of one group.
#[derive(Debug)]
pub(crate) struct Invariants {
    leaders: HashMap<Term, usize>,
    /// Every entry ever seen in a log, with the term before it. One entry a position, and one term before it: that is
    /// log matching, by induction.
    entries: HashMap<LogPosition, (Entry, Term)>,
    /// What any replica ever knew to be committed.
    pub(crate) committed: Vec<Entry>,
    applied: Vec<LogIndex>,
    seen: Vec<(Term, LogIndex)>,
    quorum: usize,
}

impl Invariants {
    pub(crate) fn new(replicas: usize) -> Invariants {
        Invariants {
            leaders: HashMap::new(),
            entries: HashMap::new(),
            committed: Vec::new(),
            applied: vec![LogIndex(0); replicas],
            seen: vec![(Term(0), LogIndex(0)); replicas],
            quorum: replicas / 2 + 1,
        }
    }

    /// How many terms had a leader.
    pub(crate) fn elections(&self) -> usize {
        self.leaders.len()
    }

    /// A replica starts again: what was not on its disk, and its commit index, it may have forgotten.
    pub(crate) fn restarted(&mut self, id: usize, term: Term, applied: LogIndex) {
        self.applied[id - 1] = applied;
        self.seen[id - 1] = (term, applied);
    }

    /// Checks a replica after its turn.
    pub(crate) fn check(&mut self, replicas: &[Replica], id: usize) {
        let Replica { raft: Some(raft), disk, .. } = &replicas[id - 1] else { return };
        self.check_log(raft);
        self.check_commit(replicas, raft);
        assert!(raft.applied() <= raft.commit().min(raft.durable()), "{id} applied what is not committed and durable");
        // What the replica takes for durable is on its disk, entry by entry.
        let durable = raft.entries(LogIndex(1), raft.durable());
        assert!(disk.entries.len() >= raft.durable().0 as usize, "{id} takes for durable what is not");
        for (entry, on_disk) in durable.0.iter().chain(durable.1).zip(&disk.entries) {
            assert_eq!(entry, on_disk, "{id} takes for durable what is not on its disk");
        }
        let seen = &mut self.seen[id - 1];
        assert!(raft.term() >= seen.0 && raft.commit() >= seen.1, "{id} went back in term or commit");
        *seen = (raft.term(), raft.commit());
        if raft.role() == Role::Leader {
            self.check_leader(raft, id);
        }
    }

    /// Entries leave for a state machine in order, each once since its start.
    pub(crate) fn apply(&mut self, replicas: &[Replica], id: usize, entries: &[Entry]) {
        let raft = replicas[id - 1].raft.as_ref().expect("only a replica that is up applies");
        self.check_commit(replicas, raft);
        for entry in entries {
            assert_eq!(entry.index, self.applied[id - 1].next(), "{id} applies out of order");
            assert_eq!(entry, &self.committed[entry.index.0 as usize - 1], "{id} applies something else");
            self.applied[id - 1] = entry.index;
        }
    }

    /// A message leaves: what it promises is on its sender's disk.
    pub(crate) fn sent(&mut self, replicas: &[Replica], packet: &Packet) {
        let message = packet.message();
        let disk = &replicas[packet.from() - 1].disk;
        let promises = !matches!(message.body, Body::PreVote { .. } | Body::PreVoteAnswer { .. });
        assert!(!promises || disk.hard.term >= message.term, "a term is told before it is durable: {message:?}");
        let voted = match message.body {
            Body::Vote { .. } => Some(message.from),
            Body::VoteAnswer { granted: true } => Some(message.to),
            _ => None,
        };
        if voted.is_some() && disk.hard.term == message.term {
            assert_eq!(disk.hard.vote, voted, "a vote is told before it is durable");
        }
        if let Body::AppendAccepted { matched } = message.body {
            assert!(disk.entries.len() as u64 >= matched.0, "an entry is acknowledged before it is durable");
            let leader = replicas[packet.to() - 1].raft.as_ref();
            let leads = |raft: &&Raft| raft.role() == Role::Leader && raft.term() == message.term;
            if let (Some(leader), Some(entry)) =
                (leader.filter(leads), disk.entries.get(matched.0.wrapping_sub(1) as usize))
            {
                assert_eq!(leader.entry_term(matched), Some(entry.term), "something else is acknowledged");
            }
        }
    }

    fn check_log(&mut self, raft: &Raft) {
        let (left, right) = raft.entries(LogIndex(1), raft.last().index);
        let mut before = LogPosition::default();
        for entry in left.iter().chain(right) {
            assert_eq!(entry.index, before.index.next());
            assert!(entry.term >= before.term && entry.term <= raft.term());
            let (first, term) = self.entries.entry(entry.position()).or_insert_with(|| (entry.clone(), before.term));
            assert!(first == entry && *term == before.term, "logs that agree at {:?} differ before", entry.position());
            before = entry.position();
        }
    }

    fn check_commit(&mut self, replicas: &[Replica], raft: &Raft) {
        let (left, right) = raft.entries(LogIndex(1), raft.commit());
        let known = self.committed.len();
        for (i, entry) in left.iter().chain(right).enumerate() {
            match self.committed.get(i) {
                Some(committed) => assert_eq!(committed, entry, "what is committed changed"),
                None => self.committed.push(entry.clone()),
            }
        }
        if self.committed.len() > known {
            let last = self.committed.last();
            let holders = replicas.iter().filter(|r| r.disk.entries.get(self.committed.len() - 1) == last).count();
            assert!(holders >= self.quorum, "{last:?} is committed but on {holders} disks");
        }
    }

    /// One leader a term, and it has all that was committed before it (Raft paper, sections 5.2 and 5.4).
    fn check_leader(&mut self, raft: &Raft, id: usize) {
        let first = *self.leaders.entry(raft.term()).or_insert(id);
        assert_eq!(first, id, "two replicas lead term {}", raft.term());
        for entry in self.committed.iter().filter(|e| e.term < raft.term()) {
            assert_eq!(raft.entry_term(entry.index), Some(entry.term), "leader {id} lacks what is committed");
        }
    }
}
