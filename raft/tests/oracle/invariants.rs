//! What must hold of a mixed group whatever happens (Raft paper, figure 3, and the order of durability). A breach panics
//! with the place.

use crate::packet::Packet;
use crate::replica::{Disk, Kind, Replica, View};
use raftyard_raft::{Body, Entry, LogIndex, LogPosition, Term};
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
    pub(crate) applied: Vec<LogIndex>,
    /// What every replica showed last, since its start.
    seen: Vec<Option<View>>,
}

impl Invariants {
    pub(crate) fn new(replicas: usize) -> Invariants {
        Invariants {
            leaders: HashMap::new(),
            entries: HashMap::new(),
            committed: Vec::new(),
            committed_in: Vec::new(),
            applied: vec![LogIndex(0); replicas],
            seen: vec![None; replicas],
        }
    }

    /// A replica starts again: what was not on its disk, and its commit index, it may have forgotten.
    pub(crate) fn restarted(&mut self, id: usize, disk: &Disk, applied: LogIndex) {
        self.applied[id - 1] = applied;
        // What it restores is looked at as if it was new.
        let last = LogPosition::default();
        self.seen[id - 1] = Some(View { term: disk.hard.term, leads: false, commit: applied, last });
    }

    /// Looks at a replica after something happened to it. Says whether it has just begun to lead, and how many entries it
    /// was the first to know as committed.
    pub(crate) fn check(&mut self, replicas: &[Box<dyn Replica>], id: usize) -> (bool, usize) {
        let Some(view) = replicas[id - 1].view() else { return (false, 0) };
        let kind = replicas[id - 1].kind();
        let seen = self.seen[id - 1].replace(view).expect("it was started");
        assert!(view.term >= seen.term && view.commit >= seen.commit, "{id} ({kind:?}) went back in term or commit");
        if view == seen {
            return (false, 0);
        }
        let log = replicas[id - 1].log();
        if view.last != seen.last {
            self.check_log(&log, &view, kind);
        }
        let news = self.check_commit(replicas, &log, &view);
        (view.leads && self.check_leader(&log, &view, id, kind), news)
    }

    /// Entries leave for a state machine in order, each once since its start.
    pub(crate) fn apply(&mut self, id: usize, entries: &[Entry], disk: &Disk) {
        for entry in entries {
            assert!(disk.holds(entry), "{id} applies {entry:?}, which is not durable there");
            assert_eq!(entry.index, self.applied[id - 1].next(), "{id} applies out of order");
            let committed = self.committed.get(entry.index.0 as usize - 1);
            assert_eq!(Some(entry), committed, "{id} applies something else");
            self.applied[id - 1] = entry.index;
        }
    }

    /// A message leaves: what it promises is on its sender's disk.
    pub(crate) fn sent(&self, replicas: &[Box<dyn Replica>], packet: &Packet) {
        let Some(owned) = packet.ours() else { return };
        let (message, disk) = (owned.message(), replicas[packet.from() - 1].disk());
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
            let leader = &replicas[packet.to() - 1];
            let leads = leader.view().is_some_and(|view| view.leads && view.term == message.term);
            if let Some(place) = matched.0.checked_sub(1).filter(|_| leads) {
                let there = leader.log().get(place as usize).cloned();
                assert_eq!(there.as_ref(), Some(&disk.entries[place as usize]), "something else is acknowledged");
            }
        }
    }

    fn check_log(&mut self, log: &[Entry], view: &View, kind: Kind) {
        let mut before = LogPosition::default();
        for entry in log {
            assert_eq!(entry.index, before.index.next());
            assert!(entry.term >= before.term && entry.term <= view.term);
            let (first, term) = self.entries.entry(entry.position()).or_insert_with(|| (entry.clone(), before.term));
            let same = first == entry && *term == before.term;
            assert!(same, "logs that agree at {:?} differ before, at one of {kind:?}", entry.position());
            before = entry.position();
        }
    }

    fn check_commit(&mut self, replicas: &[Box<dyn Replica>], log: &[Entry], view: &View) -> usize {
        let known = self.committed.len();
        assert!(view.commit.0 <= log.len() as u64, "what is not in the log is committed");
        for entry in &log[..view.commit.0 as usize] {
            match self.committed.get(entry.index.0 as usize - 1) {
                // Equal positions are equal entries: the logs were checked.
                Some(committed) => assert_eq!(committed.position(), entry.position(), "what is committed changed"),
                None => {
                    self.committed.push(entry.clone());
                    self.committed_in.push(view.term);
                }
            }
        }
        if let Some(last) = self.committed[known..].last() {
            let disks = replicas.iter().map(|replica| replica.disk());
            let count = disks.filter(|disk| disk.holds(last)).count();
            assert!(2 * count > replicas.len(), "{last:?} is committed but on {count} disks only");
        }
        self.committed.len() - known
    }

    /// One leader a term, and it has all that was committed in earlier terms (Raft paper, sections 5.2 and 5.4).
    fn check_leader(&mut self, log: &[Entry], view: &View, id: usize, kind: Kind) -> bool {
        let before = self.leaders.insert(view.term, id);
        assert!(before.is_none_or(|before| before == id), "two replicas lead term {}: {before:?}, {id}", view.term);
        for (place, known) in self.committed_in.iter().enumerate().filter(|(_, known)| **known < view.term) {
            let committed = self.committed[place].position();
            assert_eq!(
                log.get(place).map(Entry::position),
                Some(committed),
                "leader {id} ({kind:?}) lacks what term {known} committed"
            );
        }
        before.is_none()
    }
}
