//! Schedules of whole nodes, a few of them; `scripts/sim.sh` runs many more.

use raftyard_sim::{Hits, Report, run};
use std::ops::Range;

/// Runs the seeds on two threads; stops at the first broken promise.
fn run_all(seeds: Range<u64>) -> Vec<Report> {
    let middle = seeds.start + (seeds.end - seeds.start) / 2;
    let half = |seeds: Range<u64>| seeds.map(|seed| run(seed, false)).collect::<Result<Vec<_>, _>>();
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| half(middle..seeds.end));
        (half(seeds.start..middle), second.join().expect("a violation is returned, not panicked"))
    });
    let again = |violation| panic!("{violation}\nagain: cargo run -p raftyard-sim --release -- trace --seed N");
    let mut reports = first.unwrap_or_else(again);
    reports.extend(second.unwrap_or_else(again));
    reports
}

#[test]
fn promises_are_kept_in_a_few_hundred_schedules() {
    let mut hits = Hits::default();
    run_all(0..300).iter().for_each(|report| hits.add(&report.hits));
    println!("{hits:?}");
    // The rarest need more schedules than these.
    let missing: Vec<_> = hits.missing().into_iter().filter(|class| *class != "start failed").collect();
    assert!(missing.is_empty(), "never hit: {missing:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (first, second) = (run_all(10_000..10_200), run_all(10_000..10_200));
    assert_eq!(first.len(), 200);
    for (seed, (first, second)) in (10_000..).zip(first.iter().zip(&second)) {
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.hits, second.hits, "seed {seed}");
    }
    let mut traces: Vec<u64> = first.iter().map(|report| report.trace).collect();
    traces.sort_unstable();
    traces.dedup();
    assert_eq!(traces.len(), 200, "different seeds give different traces");
}

/// Listening changes nothing but that a violation tells more.
#[test]
fn who_listens_changes_nothing() {
    for seed in 0..5 {
        let (deaf, listening) = (run(seed, false), run(seed, true));
        let (deaf, listening) = (deaf.expect("kept"), listening.expect("kept"));
        assert_eq!(deaf.trace, listening.trace, "seed {seed}");
        assert!(deaf.told.is_empty() && !listening.told.is_empty());
    }
}
