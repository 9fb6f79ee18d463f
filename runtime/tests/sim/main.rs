//! Whole nodes in one thread: the shipped core, log and wire on a simulated disk, network and clock, from one seed.
//!
//! `RAFTYARD_SIM_SEEDS=A..B cargo test -p raftyard-runtime --test sim` runs other seeds than CI does.

mod checks;
mod net;
mod node;
mod rng;
mod storm;
mod world;

use node::Shape;
use std::time::Duration;
use world::{Hits, World};

const STORM: Duration = Duration::from_secs(6);
const CALM: Duration = Duration::from_secs(30);

fn shape_of(seed: u64) -> Shape {
    Shape { nodes: if seed % 5 == 4 { 5 } else { 3 }, groups: 1 + seed % 6, wal_depth: 1 + (seed / 2 % 2) as usize }
}

fn run(seed: u64) -> Result<(u64, Hits), String> {
    let mut world = World::new(seed, shape_of(seed));
    let lived = world.live(STORM, CALM);
    lived.map(|()| (world.trace, world.hits)).map_err(|violation| {
        format!("seed {seed}: {violation}\nrun it alone: RAFTYARD_SIM_SEEDS={seed}..{} cargo test -p raftyard-runtime --test sim schedules", seed + 1)
    })
}

fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("RAFTYARD_SIM_SEEDS") else { return default };
    let (first, end) = text.split_once("..").expect("RAFTYARD_SIM_SEEDS is A..B");
    first.parse().expect("A is a number")..end.parse().expect("B is a number")
}

#[test]
fn schedules() {
    let seeds = seeds(0..200);
    let half = seeds.start + (seeds.end - seeds.start) / 2;
    let other = {
        let seeds = half..seeds.end;
        std::thread::spawn(move || seeds.map(run).collect::<Result<Vec<_>, _>>())
    };
    let mut results = (seeds.start..half).map(run).collect::<Result<Vec<_>, _>>().unwrap_or_else(|e| panic!("{e}"));
    results.extend(other.join().unwrap().unwrap_or_else(|e| panic!("{e}")));
    let sum = |of: fn(&Hits) -> u64| results.iter().map(|(_, hits)| of(hits)).sum::<u64>();
    let hits = [
        ("crashes", sum(|h| h.crashes)),
        ("resets", sum(|h| h.resets)),
        ("partitions", sum(|h| h.partitions)),
        ("stalls", sum(|h| h.stalls)),
        ("acknowledged", sum(|h| h.acknowledged)),
        ("unknown", sum(|h| h.unknown)),
        ("refused", sum(|h| h.refused)),
    ];
    println!("{} schedules: {hits:?}", results.len());
    if results.len() >= 50 {
        assert!(hits.iter().all(|(_, count)| *count > 0), "something was never hit: {hits:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 1000..1010 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}
