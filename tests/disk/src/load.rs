//! Writers: threads that propose numbered values without pause, follow the leaders, write down what is acknowledged,
//! and count what is not.

use crate::ledger::{Entry, Ledger};
use crate::nodes::Nodes;
use crate::random::Random;
use crate::value::{NUMBERS_A_RUN, value_of};
use raftyard::{GroupId, NotProposed, ProposeError, ReadMode};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Values under way at a time.
const WRITERS: u64 = 16;
/// Pause after an answer other than an acknowledgement.
const BACK_OFF: Duration = Duration::from_millis(2);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A load that runs until the process ends.
pub(crate) struct Load {
    pub(crate) nodes: Nodes,
    ledger: Ledger,
    next: AtomicU64,
    /// By group, from group 1 on.
    acknowledged: Vec<AtomicU64>,
    /// Every other answer, by its name.
    refused: Mutex<BTreeMap<String, u64>>,
    /// The log of the first node was seen to have failed.
    failed: AtomicBool,
    /// Acknowledgements by the first node for what was proposed after that.
    acknowledged_after: AtomicU64,
}

impl Load {
    /// Starts the writers. The groups exist.
    pub(crate) fn start(nodes: Nodes, ledger: Ledger, run: u64, seed: u64) -> Arc<Load> {
        let load = Arc::new(Load {
            acknowledged: nodes.groups().iter().map(|_| AtomicU64::new(0)).collect(),
            nodes,
            ledger,
            next: AtomicU64::new(run * NUMBERS_A_RUN),
            refused: Mutex::default(),
            failed: AtomicBool::new(false),
            acknowledged_after: AtomicU64::new(0),
        });
        for writer in 0..WRITERS {
            let load = Arc::clone(&load);
            std::thread::spawn(move || load.write(Random::new(seed.wrapping_mul(WRITERS).wrapping_add(writer))));
        }
        load
    }

    /// How many values were acknowledged in this run.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.iter().map(|count| count.load(Ordering::SeqCst)).sum()
    }

    /// How many values of a group were acknowledged in this run.
    pub(crate) fn acknowledged_in(&self, group: GroupId) -> u64 {
        self.acknowledged[group.0 as usize - 1].load(Ordering::SeqCst)
    }

    /// Whether the first node's log was seen to have failed.
    pub(crate) fn log_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// What the first node acknowledged of values that were proposed after its log was seen to have failed.
    pub(crate) fn acknowledged_after(&self) -> u64 {
        self.acknowledged_after.load(Ordering::SeqCst)
    }

    /// How often an answer was given that has `name` in its name.
    pub(crate) fn refused_as(&self, name: &str) -> u64 {
        let refused = self.refused.lock().expect("nobody panicked with it");
        refused.iter().filter(|(answer, _)| answer.contains(name)).map(|(_, count)| count).sum()
    }

    /// All answers other than acknowledgements, with their numbers.
    pub(crate) fn refusals(&self) -> String {
        let refused = self.refused.lock().expect("nobody panicked with it");
        let told = refused.iter().map(|(answer, count)| format!("{answer}={count}")).collect::<Vec<_>>();
        if told.is_empty() { "none".to_owned() } else { told.join(" ") }
    }

    /// Waits until something holds. Says whether it did in time.
    pub(crate) fn wait_for(&self, within: Duration, mut holds: impl FnMut(&Load) -> bool) -> Option<Duration> {
        let began = Instant::now();
        while !holds(self) {
            if began.elapsed() > within {
                return None;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Some(began.elapsed())
    }

    /// Waits until each of the groups has `more` acknowledged values than now.
    pub(crate) fn wait_for_more(&self, groups: &[GroupId], more: u64, within: Duration) -> Option<Duration> {
        let enough = groups.iter().map(|group| (*group, self.acknowledged_in(*group) + more)).collect::<Vec<_>>();
        self.wait_for(within, |load| enough.iter().all(|(group, enough)| load.acknowledged_in(*group) >= *enough))
    }

    /// Reads each group once on the first node. Says how many answered, with at least what was acknowledged before.
    pub(crate) fn read_all(&self) -> usize {
        let read = |group: &GroupId| {
            let before = self.acknowledged_in(*group);
            let answer = self.nodes.group(0, *group).read(ReadMode::Index, "").wait();
            answer.is_ok_and(|answer| applied(&answer.response) >= before)
        };
        self.nodes.groups().iter().filter(|group| read(group)).count()
    }

    fn write(&self, mut random: Random) {
        let groups = self.nodes.groups();
        loop {
            let group = groups[random.below(groups.len() as u32) as usize];
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let hosts = self.nodes.hosts_of(group);
            let mut place = random.below(hosts as u32) as usize;
            // Each host once or twice, for one may just be taking over; then another group has its turn.
            for _ in 0..2 * hosts {
                match self.propose(place, group, number) {
                    Ok(()) => break,
                    // It may be applied, so the number is used up.
                    Err(ProposeError::Unknown(_)) => break,
                    Err(ProposeError::NotProposed(NotProposed::NotLeader { leader: Some(node) })) => {
                        place = node.0 as usize - 1;
                    }
                    Err(ProposeError::NotProposed(_)) => {
                        std::thread::sleep(BACK_OFF);
                        place = (place + 1) % hosts;
                    }
                }
            }
        }
    }

    fn propose(&self, place: usize, group: GroupId, number: u64) -> Result<(), ProposeError> {
        let after_failure = place == 0 && self.log_failed();
        match self.nodes.group(place, group).propose(value_of(group, number)).wait() {
            Ok(applied) => {
                let entry = Entry { group, number, index: applied.index };
                self.ledger.append(entry).expect("the ledger's disk is well");
                self.acknowledged[group.0 as usize - 1].fetch_add(1, Ordering::SeqCst);
                self.acknowledged_after.fetch_add(u64::from(after_failure), Ordering::SeqCst);
                Ok(())
            }
            Err(why) => {
                self.count(place, why);
                Err(why)
            }
        }
    }

    fn count(&self, place: usize, why: ProposeError) {
        if matches!(why, ProposeError::NotProposed(NotProposed::NotLeader { .. })) {
            return;
        }
        if place == 0 && format!("{why:?}").contains("WalFailed") {
            self.failed.store(true, Ordering::SeqCst);
        }
        *self.refused.lock().expect("nobody panicked with it").entry(format!("{why:?}")).or_default() += 1;
    }
}

fn applied(response: &[u8]) -> u64 {
    response.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
