//! The protocol beside another implementation of it: groups in which some replicas are of this crate and some of raft-rs,
//! with a translator between them. What one of them gets wrong, or takes the paper to mean otherwise, shows as a log that
//! differs, a second leader, or a committed entry that is gone.
//!
//! Left out of the mix: changes of members, snapshots and reads.
//!
//! - **Members.** Here a configuration is in force from the moment its entry is in the log, and a change is committed by
//!   the majority of the new members; there it is in force once it is applied, and is committed by the majority of the
//!   old ones. Each is safe among its own. Mixed they are not: a leader of ours that shrinks {A, B, C, D} to {A, B, C},
//!   to {A, B}, to {A}, commits the last step alone; B, of theirs, has the first two in its log, hasn't heard that they
//!   are committed, still goes by {A, B, C, D}, and is elected by B, C and D without the third. No translation of the
//!   entries mends that.
//! - **Snapshots** of theirs need a state machine beside; nothing is compacted here.
//! - **Reads** by read index of theirs can be older than their request; `reads` shows it.
//!
//! `RAFTYARD_SEED=n` runs one schedule and tells it, `RAFTYARD_ORACLE_SCHEDULES=n` as many.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

#[path = "../shared/dice.rs"]
mod dice;
mod group;
mod invariants;
mod ours;
mod packet;
mod reads;
mod replica;
mod schedule;
mod theirs;
mod totals;
mod translate;

use totals::Totals;

const DICE_SALT: u64 = 0x0AC1E;

const SCHEDULES: u64 = 500;

#[test]
fn mixed_groups_agree() {
    let number = |name| std::env::var(name).ok().map(|s| s.parse::<u64>().expect("a number"));
    let (only, schedules) = (number("RAFTYARD_SEED"), number("RAFTYARD_ORACLE_SCHEDULES").unwrap_or(SCHEDULES));
    let mut totals = Totals::default();
    for seed in only.map_or(0..schedules, |seed| seed..seed + 1) {
        match std::panic::catch_unwind(|| schedule::run(seed, only.is_some())) {
            Ok(one) => totals.add(&one),
            Err(panic) => {
                eprintln!("schedule {seed} failed; run it alone with RAFTYARD_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{totals}");
    let missing: Vec<_> = totals.all().into_iter().filter(|(_, count)| *count == 0).collect();
    assert!(only.is_some() || schedules < SCHEDULES || missing.is_empty(), "never seen: {missing:?}");
}
