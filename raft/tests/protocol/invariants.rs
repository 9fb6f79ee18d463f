//! What must hold whatever happens (Raft paper, figure 3, and the order of durability). A breach panics with the place.

use crate::cluster::Replica;
use crate::packet::Packet;
use raftyard_raft::{
    Body, Configuration, ConfigurationEntry, Entry, EntryKind, LogIndex, LogPosition, Raft, Role, Term,
};
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
    /// The term in which that was first known, of each.
    committed_in: Vec<Term>,
    applied: Vec<LogIndex>,
    seen: Vec<(Term, LogIndex)>,
}

impl Invariants {
    pub(crate) fn new(replicas: usize) -> Invariants {
        Invariants {
            leaders: HashMap::new(),
            entries: HashMap::new(),
            committed: Vec::new(),
            committed_in: Vec::new(),
            applied: vec![LogIndex(0); replicas],
            seen: vec![(Term(0), LogIndex(0)); replicas],
        }
    }

    /// The last members that are known to be committed, unless they are the initial ones.
    pub(crate) fn committed_members(&self) -> Option<Configuration> {
        let last = self.committed.iter().rfind(|entry| entry.kind == EntryKind::Configuration)?;
        Some(ConfigurationEntry::decode(&last.data).expect("an honest entry").configuration)
    }

    /// A replica starts again: what was not on its disk, and its commit index, it may have forgotten.
    pub(crate) fn restarted(&mut self, id: usize, term: Term, applied: LogIndex) {
        self.applied[id - 1] = applied;
        self.seen[id - 1] = (term, applied);
    }

    /// An operator forces a membership at `id`: what others committed and it lacks is lost, and that is no breach.
    pub(crate) fn forced(&mut self, replicas: &[Replica], id: usize) {
        let raft = replicas[id - 1].raft.as_ref().expect("only a replica that is up is forced");
        self.committed.truncate(raft.last().index.0 as usize);
        let kept = |entry: &Entry| raft.entry_term(entry.index) == Some(entry.term);
        let same = self.committed.iter().take_while(|entry| kept(entry)).count();
        self.committed.truncate(same);
        self.committed_in.truncate(same);
    }

    /// A replica took an input, and may know of more that is committed. Looked at before its configuration can change
    /// again, because what is committed is so by the one in force.
    pub(crate) fn learn(&mut self, replicas: &[Replica], id: usize) {
        if let Some(raft) = &replicas[id - 1].raft
            && raft.commit().0 > self.committed.len() as u64
        {
            self.check_commit(replicas, id);
        }
    }

    /// Checks a replica after its turn.
    pub(crate) fn check(&mut self, replicas: &[Replica], id: usize) {
        let replica = &replicas[id - 1];
        let Replica { raft: Some(raft), disk, .. } = replica else { return };
        let log = replica.log();
        self.check_log(raft, &log);
        check_configuration(raft, &log);
        self.check_commit(replicas, id);
        assert!(raft.applied() <= raft.commit().min(raft.durable()), "{id} applied what is not committed and durable");
        // What the replica takes for durable is on its disk, entry by entry. A snapshot's base is still on its way there.
        for entry in log.into_iter().take_while(|entry| entry.index <= raft.durable()) {
            assert!(disk.holds(entry), "{id} takes {entry:?} for durable, which is not on its disk");
        }
        let seen = &mut self.seen[id - 1];
        assert!(raft.term() >= seen.0 && raft.commit() >= seen.1, "{id} went back in term or commit");
        *seen = (raft.term(), raft.commit());
        if raft.role() == Role::Leader {
            let open = raft.commit() < raft.last().index || raft.uncommitted_bytes() == 0;
            assert!(open, "{id} counts {} bytes as uncommitted, but nothing is", raft.uncommitted_bytes());
            self.check_leader(raft, id);
        }
    }

    /// The state machine of a replica took a snapshot.
    pub(crate) fn restored(&mut self, replicas: &[Replica], id: usize) {
        let raft = replicas[id - 1].raft.as_ref().expect("only a replica that is up takes snapshots");
        let base = raft.base().position;
        if base.index > self.applied[id - 1] {
            let committed = self.committed.get(base.index.0 as usize - 1).map(Entry::position);
            assert_eq!(committed, Some(base), "a snapshot of what is not committed");
            self.applied[id - 1] = base.index;
        }
    }

    /// Entries leave for a state machine in order, each once since its start.
    pub(crate) fn apply(&mut self, replicas: &[Replica], id: usize, entries: &[Entry]) {
        self.check_commit(replicas, id);
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
        let promises = !matches!(
            message.body,
            Body::PreVote { .. } | Body::PreVoteAnswer { .. } | Body::NotMember { .. } | Body::ReadRequest { .. }
        );
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
            assert!(disk.last() >= matched, "an entry is acknowledged before it is durable");
            let leader = replicas[packet.to() - 1].raft.as_ref();
            let leads = |raft: &&Raft| raft.role() == Role::Leader && raft.term() == message.term;
            if let (Some(leader), Some(entry)) = (leader.filter(leads), disk.entry(matched)) {
                let there = leader.entry_term(matched);
                let compacted = matched < leader.base().position.index;
                assert!(compacted || there == Some(entry.term), "something else is acknowledged");
            }
        }
    }

    fn check_log(&mut self, raft: &Raft, log: &[&Entry]) {
        let mut before = raft.base().position;
        assert_eq!(raft.last(), log.last().map_or(before, |last| last.position()), "the log is whole");
        for entry in log.iter().copied() {
            assert_eq!(entry.index, before.index.next());
            assert_eq!(raft.entry_term(entry.index), Some(entry.term), "it knows the terms of what is on disk");
            assert!(entry.term >= before.term && entry.term <= raft.term());
            let (first, term) = self.entries.entry(entry.position()).or_insert_with(|| (entry.clone(), before.term));
            assert!(first == entry && *term == before.term, "logs that agree at {:?} differ before", entry.position());
            before = entry.position();
        }
    }

    fn check_commit(&mut self, replicas: &[Replica], id: usize) {
        let Some(raft) = &replicas[id - 1].raft else { return };
        let known = self.committed.len();
        for entry in replicas[id - 1].log().into_iter().take_while(|entry| entry.index <= raft.commit()) {
            match self.committed.get(entry.index.0 as usize - 1) {
                Some(committed) => assert_eq!(committed, entry, "what is committed changed"),
                None => {
                    assert_eq!(entry.index.0, self.committed.len() as u64 + 1, "commits skip nothing");
                    self.committed.push(entry.clone());
                    self.committed_in.push(raft.term());
                }
            }
        }
        if let Some(last) = self.committed.get(known..).and_then(<[Entry]>::last) {
            let holds = |id: raftyard_raft::ReplicaId| {
                replicas.get(id.0 as usize - 1).is_some_and(|replica| replica.disk.stands_for(last))
            };
            assert!(raft.configuration().has_quorum(holds), "{last:?} is committed but not on a majority of disks");
        }
    }

    /// One leader a term, and it has all that was committed in earlier terms (Raft paper, sections 5.2 and 5.4). Not what a
    /// later leader committed: an entry may be older than a leader that lacks it (Raft paper, figure 8).
    fn check_leader(&mut self, raft: &Raft, id: usize) {
        let first = *self.leaders.entry(raft.term()).or_insert(id);
        assert_eq!(first, id, "two replicas lead term {}", raft.term());
        let base = raft.base().position.index;
        for (entry, known) in self.committed.iter().zip(&self.committed_in) {
            if *known >= raft.term() || entry.index <= base {
                continue;
            }
            assert_eq!(raft.entry_term(entry.index), Some(entry.term), "leader {id} lacks what is committed");
        }
    }
}

/// A replica goes by the last configuration in its log, committed or not, and by none that isn't there.
fn check_configuration(raft: &Raft, log: &[&Entry]) {
    let last = log.iter().rev().find(|entry| entry.kind == EntryKind::Configuration);
    let index = raft.configuration_index();
    match last {
        None => assert!(index <= raft.base().position.index, "{index} brought no configuration"),
        Some(last) => {
            assert_eq!(index, last.index, "the last configuration of the log counts");
            let held = ConfigurationEntry::decode(&last.data).expect("an honest entry");
            assert_eq!(**raft.configuration(), held.configuration, "the one of entry {index} counts");
        }
    }
}
