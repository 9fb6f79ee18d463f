//! Random schedules of the whole protocol: messages lost, doubled, late; crashes that lose what was not durable, writes of
//! any size that complete at any time; members that come and go, leaders that hand over, clocks that run apart, snapshots,
//! long pauses, cut networks. Whatever happens the invariants hold, reads are no older than their request, and a group
//! left in peace agrees again.
//!
//! `RAFTYARD_SEED=n` runs one schedule and tells it, `RAFTYARD_SCHEDULES=n` as many, from `RAFTYARD_FIRST=n` on.

mod acts;
mod ambush;
mod damage;
mod events;
mod peace;
mod promises;
mod reads;
mod schedule;
mod view;
mod watch;

use crate::cluster::Cluster;
use events::{Event, Totals};
use schedule::Schedule;

const SCHEDULES: u64 = 3_000;
const STEPS: u32 = 600;

#[test]
fn random_schedules_keep_the_promises() {
    let number = |name| std::env::var(name).ok().map(|s| s.parse::<u64>().expect("a number"));
    let (only, schedules) = (number("RAFTYARD_SEED"), number("RAFTYARD_SCHEDULES").unwrap_or(SCHEDULES));
    let first = number("RAFTYARD_FIRST").unwrap_or(0);
    let (mut totals, mut slowest) = (Totals::new(), 0);
    for seed in only.map_or(first..first + schedules, |seed| seed..seed + 1) {
        match std::panic::catch_unwind(|| schedule(seed, only.is_some())) {
            Ok((one, rounds)) => {
                totals.merge(&one);
                slowest = slowest.max(rounds);
            }
            Err(panic) => {
                eprintln!("schedule {seed} failed; run it alone with RAFTYARD_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{totals}\nat most {slowest} rounds to agree in peace");
    // A schedule that elects and commits nothing proves nothing.
    if only.is_none() {
        assert!(totals.missing().is_empty() || schedules < SCHEDULES, "never seen: {:?}", totals.missing());
        assert!(totals.of(Event::Elected) > 2 * schedules, "only {} elections", totals.of(Event::Elected));
        assert!(totals.of(Event::Committed) > 10 * schedules, "only {} committed", totals.of(Event::Committed));
        assert!(totals.of(Event::Crashed) > schedules);
    }
}

/// Each bug that this crate alone can show breaks a promise in some schedule. Only in a build with `--cfg raftyard_planted`,
/// and alone in its process: `scripts/bugs.sh`.
#[cfg(raftyard_planted)]
#[test]
fn planted_bugs_of_limits_are_found() {
    use raftyard_raft::planted::{BUGS_OF_LIMITS, plant};
    const WITHIN: u64 = 20_000;
    for bug in BUGS_OF_LIMITS {
        plant(Some(*bug));
        let found = (0..WITHIN).find(|seed| std::panic::catch_unwind(|| schedule(*seed, false)).is_err());
        plant(None);
        println!("{bug:?} is found by schedule {}", found.unwrap_or_else(|| panic!("{bug:?} is not found")));
    }
}

fn schedule(seed: u64, traced: bool) -> (Totals, u32) {
    let mut schedule = Schedule::new(seed, traced);
    for step in 0..STEPS {
        schedule.run_step(step);
    }
    let rounds = peace::peace(&mut schedule, seed);
    schedule.totals.add(Event::Committed, schedule.cluster.invariants.committed.len());
    (schedule.totals, rounds)
}

/// Delivers, persists and reads until nothing is left to do.
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
            while !cluster.replica(id).fetches.is_empty() {
                busy = true;
                cluster.fetched(id, 0, usize::MAX);
                cluster.turn(id);
            }
        }
        if !busy {
            return;
        }
    }
    panic!("a group that nobody disturbs talks for ever");
}
