//! What must hold after every step, and at the end.

use crate::machine::operation;
use raftyard_raft::{EntryKind, GroupId, Limit, LogIndex, Raft, ReplicaId, Role, Term};
use std::collections::{BTreeMap, BTreeSet};

/// What is known for sure of all groups.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    leaders: BTreeMap<(GroupId, Term), ReplicaId>,
    /// By group: all committed entries, as term and operation (0: none), if somebody had it in memory when it was committed.
    committed: BTreeMap<GroupId, Vec<(Term, Option<u64>)>>,
    /// By node and group: up to where its commits were compared in this life.
    compared: BTreeMap<(usize, GroupId), LogIndex>,
    /// Operations answered as applied, and where.
    acknowledged: BTreeMap<u64, (GroupId, LogIndex)>,
    /// Operations answered as never to be applied.
    refused: BTreeSet<u64>,
}

impl Checks {
    /// Looks at a replica after a step.
    pub(crate) fn observe(&mut self, node: usize, raft: &Raft) -> Result<(), String> {
        let group = raft.group();
        let place = || format!("node {} group {group}", node + 1);
        if raft.role() == Role::Leader {
            let leader = *self.leaders.entry((group, raft.term())).or_insert(raft.replica());
            if leader != raft.replica() {
                let (term, replica) = (raft.term(), raft.replica());
                return Err(format!("group {group} term {term} has two leaders: replicas {leader} and {replica}"));
            }
        }
        if raft.applied() > raft.commit().min(raft.durable()) {
            return Err(format!("{}: applied beyond what is committed and durable", place()));
        }
        let compared = self.compared.entry((node, group)).or_default();
        if raft.limit() != Limit::None {
            // Its disk lost what it knew, and it was opened again with what is left.
            *compared = raft.commit().min(*compared);
        }
        if raft.commit() < *compared {
            return Err(format!("{}: the commit index went back from {compared} to {}", place(), raft.commit()));
        }
        let committed = self.committed.entry(group).or_default();
        let (left, right) = raft.entries(compared.next(), raft.commit());
        let mut held = left.iter().chain(right).peekable();
        for index in (compared.0 + 1..=raft.commit().0).map(LogIndex) {
            let entry = held.next_if(|entry| entry.index == index);
            // What was compacted is known by nothing but what was made of it.
            let Some(term) = raft.entry_term(index) else { continue };
            let operation = entry.map(|e| if e.kind == EntryKind::Command { operation(&e.data) } else { 0 });
            let found = (term, operation);
            let next = committed.len() as u64 + 1;
            match committed.get_mut(index.0 as usize - 1) {
                None if next == index.0 => committed.push(found),
                None => return Err(format!("{}: commits skip to {index}", place())),
                Some((known, of)) if *known != term || (of.is_some() && operation.is_some() && *of != operation) => {
                    return Err(format!(
                        "{}: entry {index} was committed as {known:?} {of:?}, now as {found:?}",
                        place()
                    ));
                }
                Some((_, of)) => *of = of.or(operation),
            }
        }
        *compared = raft.commit();
        Ok(())
    }

    /// A node starts again and knows less.
    pub(crate) fn restarted(&mut self, node: usize) {
        self.compared.retain(|(of, _), _| *of != node);
    }

    /// A client was told that its operation is applied.
    pub(crate) fn acknowledged(&mut self, group: GroupId, operation: u64, index: LogIndex) -> Result<(), String> {
        let entry = self.committed.get(&group).and_then(|entries| entries.get(index.0 as usize - 1));
        if entry.is_none_or(|(_, committed)| committed.is_some_and(|committed| committed != operation)) {
            return Err(format!("operation {operation} was acknowledged at {group}/{index}, but there is {entry:?}"));
        }
        match self.acknowledged.insert(operation, (group, index)) {
            None => Ok(()),
            Some(before) => Err(format!("operation {operation} was acknowledged twice: {before:?}")),
        }
    }

    /// A client was told that its operation will never be applied.
    pub(crate) fn refused(&mut self, operation: u64) {
        self.refused.insert(operation);
    }

    /// All replicas of a group hold the same, with every acknowledged operation in it once.
    pub(crate) fn converged(&self, group: GroupId, replicas: &[Vec<u64>]) -> Result<(), String> {
        if let Some(other) = replicas.iter().find(|other| **other != replicas[0]) {
            let same = other.iter().zip(&replicas[0]).take_while(|(a, b)| a == b).count();
            return Err(format!("group {group}: replicas applied different commands from the {same}. on"));
        }
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for operation in &replicas[0] {
            *counts.entry(*operation).or_default() += 1;
        }
        if let Some((operation, count)) = counts.iter().find(|(_, count)| **count > 1) {
            return Err(format!("group {group}: operation {operation} was applied {count} times"));
        }
        if let Some(operation) = counts.keys().find(|operation| self.refused.contains(operation)) {
            return Err(format!("group {group}: operation {operation} was refused and is applied"));
        }
        for (operation, _) in self.acknowledged.iter().filter(|(_, (of, _))| *of == group) {
            if !counts.contains_key(operation) {
                return Err(format!("group {group}: operation {operation} was acknowledged and is lost"));
            }
        }
        Ok(())
    }
}
