//! Random schedules: loss, duplication, reordering, crashes that lose what was not durable, writes of any size that
//! complete at any time. Whatever happens the invariants hold, and a group left in peace agrees again.
//!
//! `RAFTYARD_SEED=n` runs one schedule, `RAFTYARD_SCHEDULES=n` as many.

use crate::cluster::{Cluster, fresh, settings};
use raftyard_raft::{LogIndex, Settings};
use std::fmt::Write as _;

const SCHEDULES: u64 = 3_000;
const STEPS: u32 = 600;

#[derive(Default)]
struct Totals {
    elections: usize,
    committed: usize,
    crashes: usize,
}

#[test]
fn random_schedules_keep_the_promises() {
    let number = |name| std::env::var(name).ok().map(|s| s.parse::<u64>().expect("a number"));
    let (only, schedules) = (number("RAFTYARD_SEED"), number("RAFTYARD_SCHEDULES").unwrap_or(SCHEDULES));
    let mut totals = Totals::default();
    for seed in only.map_or(0..schedules, |seed| seed..seed + 1) {
        let outcome = std::panic::catch_unwind(|| schedule(seed));
        match outcome {
            Ok(one) => {
                totals.elections += one.elections;
                totals.committed += one.committed;
                totals.crashes += one.crashes;
            }
            Err(panic) => {
                eprintln!("schedule {seed} failed; run it alone with RAFTYARD_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{} elections, {} entries committed, {} crashes", totals.elections, totals.committed, totals.crashes);
    // A schedule that elects and commits nothing proves nothing.
    if only.is_none() {
        assert!(totals.elections > 3 * schedules as usize, "only {} elections", totals.elections);
        assert!(totals.committed > 10 * schedules as usize, "only {} entries committed", totals.committed);
        assert!(totals.crashes > schedules as usize);
    }
}

fn schedule(seed: u64) -> Totals {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5EED);
    let size = [1, 3, 3, 3, 5][dice.below(5)];
    let settings = Settings {
        append_bytes_max: 1 << dice.below(10),
        inflight_appends_max: 1 + dice.below(3),
        inflight_bytes_max: 1 << dice.below(10),
        uncommitted_bytes_max: 1_000,
        ..settings()
    };
    let mut cluster = Cluster::new(fresh(size), settings, seed);
    cluster.persist = (1 << dice.below(10), 1 + dice.below(3));
    // Some schedules are nasty, some are nearly quiet, so that both short and long logs are seen.
    let nastiness = dice.below(12);
    let mut totals = Totals::default();
    for step in 0..STEPS {
        totals.crashes += usize::from(act(&mut cluster, &mut dice, step, nastiness));
    }
    converge(&mut cluster, seed);
    totals.elections = cluster.invariants.elections();
    totals.committed = cluster.invariants.committed.len();
    totals
}

/// One thing happens to one replica; mostly it is polled then, sometimes more happens in the same turn. Says whether
/// it crashed.
fn act(cluster: &mut Cluster, dice: &mut Dice, step: u32, nastiness: usize) -> bool {
    let id = 1 + dice.below(cluster.replicas.len());
    let mut touched = id;
    match dice.below(100) {
        0..54 => touched = deliver(cluster, dice, nastiness).unwrap_or(id),
        54..76 => cluster.persisted(id),
        76..87 => propose(cluster, dice, step),
        87..92 => {
            let now = cluster.now;
            if let Some(raft) = cluster.raft(id) {
                raft.beat(now);
            }
        }
        92..96 => cluster.deadline(id),
        96 => {
            let now = cluster.now;
            if let Some(raft) = cluster.raft(id) {
                if dice.below(2) == 0 {
                    raft.step_down(now);
                } else {
                    let _ = raft.campaign(now);
                }
            }
        }
        97 => {
            let peer = raftyard_raft::ReplicaId(1 + dice.below(cluster.replicas.len()) as u64);
            if let Some(raft) = cluster.raft(id) {
                if dice.below(2) == 0 { raft.handle_unreachable(peer) } else { raft.handle_reachable(peer) }
            }
        }
        _ => return crash_or_restart(cluster, dice, id, nastiness),
    }
    if dice.below(4) > 0 {
        cluster.turn(touched);
    }
    false
}

fn deliver(cluster: &mut Cluster, dice: &mut Dice, nastiness: usize) -> Option<usize> {
    let waiting = cluster.network.len();
    if waiting == 0 {
        return None;
    }
    // Mostly the oldest first: too much reordering and nothing ever succeeds.
    let place = if dice.below(12) < nastiness { dice.below(waiting) } else { 0 };
    let packet = cluster.network.remove(place);
    if dice.below(40) < nastiness {
        return None;
    }
    if dice.below(40) < nastiness {
        cluster.network.push(packet.clone());
    }
    cluster.deliver(&packet).unwrap_or_else(|error| panic!("an honest message was refused: {error}: {packet:?}"));
    Some(packet.to())
}

fn propose(cluster: &mut Cluster, dice: &mut Dice, step: u32) {
    let Some(leader) = cluster.leader() else { return };
    let mut data = String::new();
    let _ = write!(data, "{step}");
    data.push_str(&"x".repeat(dice.below(100)));
    let _ = cluster.propose(leader, &data);
    cluster.turn(leader);
}

fn crash_or_restart(cluster: &mut Cluster, dice: &mut Dice, id: usize, nastiness: usize) -> bool {
    let Some(raft) = cluster.raft(id) else {
        cluster.restart(id, LogIndex(0));
        return false;
    };
    if dice.below(12) >= nastiness {
        return false;
    }
    let applied = raft.applied();
    let kept = dice.below(cluster.writes(id) + 1);
    cluster.crash(id, kept);
    if dice.below(3) == 0 {
        // A state machine with a disk of its own comes back with what it had.
        cluster.restart(id, applied);
    }
    true
}

/// Left in peace, a group elects a leader and every log ends the same.
fn converge(cluster: &mut Cluster, seed: u64) {
    for id in cluster.ids() {
        if cluster.raft(id).is_none() {
            cluster.restart(id, LogIndex(0));
        }
    }
    for round in 0..200 {
        settle(cluster);
        if agreed(cluster) {
            return;
        }
        match cluster.leader() {
            Some(leader) => {
                if round % 10 == 9 {
                    let _ = cluster.propose(leader, "peace");
                }
                cluster.now.0 += 10;
                let now = cluster.now;
                cluster.raft(leader).expect("a leader is up").beat(now);
                cluster.turn(leader);
            }
            None => {
                let due = |id: &usize| cluster.replica(*id).raft.as_ref().and_then(|r| r.deadline());
                let first = cluster.ids().min_by_key(due).expect("a group has replicas");
                cluster.deadline(first);
                cluster.turn(first);
            }
        }
    }
    panic!("schedule {seed}: left in peace for 200 rounds the group does not agree: {cluster:#?}");
}

/// Delivers and persists until nothing is left to do.
pub(crate) fn settle(cluster: &mut Cluster) {
    for _ in 0..10_000 {
        let mut busy = false;
        for packet in std::mem::take(&mut cluster.network) {
            busy = true;
            cluster.deliver(&packet).unwrap_or_else(|error| panic!("an honest message was refused: {error}"));
            cluster.turn(packet.to());
        }
        for id in cluster.ids() {
            cluster.turn(id);
            while cluster.writes(id) > 0 {
                busy = true;
                cluster.persisted(id);
                cluster.turn(id);
            }
        }
        if !busy {
            return;
        }
    }
    panic!("a group that nobody disturbs talks for ever");
}

fn agreed(cluster: &Cluster) -> bool {
    let Some(leader) = cluster.leader() else { return false };
    let state =
        |id| cluster.replica(id).raft.as_ref().map(|r| (r.term(), r.leader(), r.last(), r.commit(), r.applied()));
    let first = state(leader);
    let all = cluster.ids().all(|id| state(id) == first);
    all && first.is_some_and(|(_, _, last, commit, applied)| last.index == commit && commit == applied)
}

/// Throws of dice, all decided by the seed.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn next(&mut self) -> u64 {
        // Xorshift, with a multiplication so that the low bits are good too.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}
