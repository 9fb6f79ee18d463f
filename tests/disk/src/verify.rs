//! Did the disk keep what was acknowledged? Opens the directories again and compares with the ledger.

use crate::ledger::Entry;
use crate::nodes::{Nodes, Sequence};
use raftyard::{GroupId, ReadError, ReadMode};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

/// How long a replica may take until it has applied everything.
const WITHIN: Duration = Duration::from_secs(60);
/// Pause before a read is tried again.
const BACK_OFF: Duration = Duration::from_millis(5);

/// What was found, over all replicas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) acknowledged: u64,
    /// Acknowledged, and missing or at another index on a replica.
    pub(crate) lost: u64,
    /// Applied twice by a replica.
    pub(crate) doubled: u64,
    /// Applied with bytes that nobody proposed.
    pub(crate) wrong: u64,
    /// Groups without an answer, or whose replicas differ.
    pub(crate) broken_groups: u64,
}

impl Verdict {
    /// Whether every promise was kept.
    pub(crate) fn is_good(&self) -> bool {
        (self.lost, self.doubled, self.wrong, self.broken_groups) == (0, 0, 0, 0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verdict { acknowledged, lost, doubled, wrong, broken_groups } = self;
        write!(
            f,
            "acknowledged={acknowledged} lost={lost} doubled={doubled} wrong={wrong} broken_groups={broken_groups}"
        )
    }
}

/// Waits until every replica has applied everything that was ever committed, and judges.
pub(crate) fn verify(nodes: &Nodes, ledger: &[Entry]) -> Verdict {
    let mut verdict = Verdict { acknowledged: ledger.len() as u64, ..Verdict::default() };
    let mut by_group = BTreeMap::<u64, Vec<Entry>>::new();
    for entry in ledger {
        by_group.entry(entry.group.0).or_default().push(*entry);
    }
    let began = Instant::now();
    for group in nodes.groups() {
        let acknowledged = by_group.remove(&group.0).unwrap_or_default();
        let mut replicas = Vec::new();
        for place in 0..nodes.hosts_of(group) {
            replicas.extend(sequence_of(nodes, place, group, began));
        }
        if replicas.is_empty() && acknowledged.is_empty() {
            // Its node failed before it was created.
            continue;
        }
        let differ = replicas.len() != nodes.hosts_of(group) || replicas.iter().any(|other| *other != replicas[0]);
        verdict.broken_groups += u64::from(differ);
        judge(&acknowledged, &replicas, &mut verdict);
    }
    verdict
}

/// What a replica holds. `None` if there is none, or it can't tell.
fn sequence_of(nodes: &Nodes, place: usize, group: GroupId, began: Instant) -> Option<Sequence> {
    nodes.sequence(place, group)?;
    loop {
        match nodes.group(place, group).read(ReadMode::Follower, "").wait() {
            Ok(_) => return nodes.sequence(place, group),
            Err(ReadError::Unavailable(why)) => {
                eprintln!("group {group} on node {}: {why}", place + 1);
                return None;
            }
            Err(why) if began.elapsed() > WITHIN => {
                eprintln!("group {group} on node {}: no read within {} s: {why}", place + 1, WITHIN.as_secs());
                return None;
            }
            Err(_) => std::thread::sleep(BACK_OFF),
        }
    }
}

/// A group without any replica has lost everything.
fn judge(acknowledged: &[Entry], replicas: &[Sequence], verdict: &mut Verdict) {
    if replicas.is_empty() {
        verdict.lost += acknowledged.len() as u64;
    }
    for sequence in replicas {
        let mut places = HashMap::new();
        for &(index, number) in sequence {
            match number {
                None => verdict.wrong += 1,
                Some(number) => verdict.doubled += u64::from(places.insert(number, index).is_some()),
            }
        }
        let kept = acknowledged.iter().filter(|entry| places.get(&entry.number) == Some(&entry.index)).count();
        verdict.lost += (acknowledged.len() - kept) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftyard::LogIndex;

    fn judged(acknowledged: &[(u64, u64)], replicas: &[Sequence]) -> Verdict {
        let entry = |&(number, index): &(u64, u64)| Entry { group: GroupId(1), number, index: LogIndex(index) };
        let mut verdict = Verdict::default();
        judge(&acknowledged.iter().map(entry).collect::<Vec<_>>(), replicas, &mut verdict);
        verdict
    }

    fn sequence(applied: &[(u64, Option<u64>)]) -> Sequence {
        applied.iter().map(|&(index, number)| (LogIndex(index), number)).collect()
    }

    #[test]
    fn what_was_not_acknowledged_may_be_there() {
        let replica = sequence(&[(2, Some(7)), (3, Some(8)), (4, Some(9))]);
        assert!(judged(&[(7, 2), (8, 3)], &[replica.clone(), replica]).is_good());
    }

    #[test]
    fn every_broken_promise_is_counted() {
        let lost = judged(&[(7, 2), (8, 3)], &[sequence(&[(2, Some(7))])]);
        assert_eq!(lost, Verdict { lost: 1, ..Verdict::default() });
        let elsewhere = judged(&[(7, 2)], &[sequence(&[(3, Some(7))])]);
        assert_eq!(elsewhere, Verdict { lost: 1, ..Verdict::default() });
        let everything = judged(&[(7, 2), (8, 3)], &[]);
        assert_eq!(everything, Verdict { lost: 2, ..Verdict::default() });
        let doubled = judged(&[], &[sequence(&[(2, Some(7)), (3, Some(7))])]);
        assert_eq!(doubled, Verdict { doubled: 1, ..Verdict::default() });
        let wrong = judged(&[], &[sequence(&[(2, None)])]);
        assert_eq!(wrong, Verdict { wrong: 1, ..Verdict::default() });
    }
}
