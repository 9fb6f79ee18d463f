//! This crate beside raft-rs 0.7: time and allocations of a proposal, and memory of an idle group.
//! `cargo bench -p raftyard-raft`
//!
//! The work is the same: three replicas in one process, whose messages arrive at once and go over no wire, whose writes
//! are copied to a vector and durable at once. A proposal is appended, persisted by all three, committed and applied.
//! Followers learn of a commit with what comes next. The commands are 128 bytes, made beforehand; that they become shared
//! is one allocation of each proposal, on both sides. Rounds of the two alternate, and of each the median counts.
//!
//! A batch is proposed in one turn. raft-rs gets it as one message, which is not what its `propose` does but the least it
//! can do; what `propose` does stands below it.

// What counts, and our three replicas, are those of the tests.
#[path = "../../tests/cost/counting.rs"]
mod counting;
mod ours;
#[path = "../../tests/cost/replicas.rs"]
mod replicas;
mod theirs;

use bytes::Bytes;
use replicas::Replicas as Ours;
use std::time::Instant;

/// raft-rs, as sparingly as can be.
type Theirs = theirs::Theirs<true>;
/// raft-rs, as its interface offers it.
type OneByOne = theirs::Theirs<false>;

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

const COMMAND_BYTES: usize = 128;
const GROUPS: usize = 10_000;
const ROUNDS: usize = 9;
/// Proposals of one round.
const HOT: usize = 64 * 1_024;
const SPREAD: usize = 64 * 512;

/// Three replicas of a group; the first leads.
trait Trio: Sized {
    type Shared: Default;

    fn elected(group: u64, shared: &Self::Shared) -> Self;
    /// Proposes a batch, and runs until all three have nothing more to do.
    fn propose(&mut self, commands: &mut Vec<Bytes>);
    fn beat(&mut self);
    /// Forgets what is applied.
    fn compact(&mut self);
    fn applied(&self) -> [u64; 3];
    /// Bytes of the idle leader and of a follower.
    fn sizes(self) -> [usize; 2];
}

/// Groups of one kind, and the times of their rounds.
struct Side<T> {
    groups: Vec<T>,
    nanos: Vec<f64>,
}

impl<T: Trio> Side<T> {
    fn new(count: usize) -> Side<T> {
        let shared = T::Shared::default();
        Side { groups: (0..count).map(|group| T::elected(group as u64, &shared)).collect(), nanos: Vec::new() }
    }

    /// One round: every batch to a group that the seed picks. Groups are compacted afterwards, untimed.
    fn round(&mut self, proposals: usize, batch: usize, seed: u64) {
        let picks: Vec<usize> = picks(seed, self.groups.len()).take(proposals / batch).collect();
        let mut batches: Vec<Vec<Bytes>> = picks.iter().map(|_| (0..batch).map(|_| command()).collect()).collect();
        let begin = Instant::now();
        for (group, commands) in picks.iter().zip(&mut batches) {
            self.groups[*group].propose(commands);
        }
        self.nanos.push(begin.elapsed().as_nanos() as f64 / proposals as f64);
        for group in &mut self.groups {
            group.beat();
            let [leader, others @ ..] = group.applied();
            assert!(others.iter().all(|applied| *applied == leader), "all have applied everything");
            group.compact();
        }
    }
}

fn command() -> Bytes {
    Bytes::from(vec![7; COMMAND_BYTES])
}

fn picks(seed: u64, groups: usize) -> impl Iterator<Item = usize> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((u128::from(state) * groups as u128) >> 64) as usize
    })
}

/// Least, median and most.
fn quantiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

fn time<T: Trio>(what: &str, groups: usize, proposals: usize, batch: usize) {
    let (mut ours, mut theirs) = (Side::<Ours>::new(groups), Side::<T>::new(groups));
    for round in 0..=ROUNDS as u64 {
        // Who begins alternates too.
        if round % 2 == 0 {
            ours.round(proposals, batch, round);
            theirs.round(proposals, batch, round);
        } else {
            theirs.round(proposals, batch, round);
            ours.round(proposals, batch, round);
        }
    }
    // The first warms up.
    let [ours, theirs] = [ours.nanos, theirs.nanos].map(|nanos| quantiles(nanos[1..].to_vec()));
    let spread = |[least, _, most]: [f64; 3]| format!("{least:.0}..{most:.0}");
    row(what, ours[1], theirs[1], &format!("{} / {}", spread(ours), spread(theirs)));
}

fn allocations<T: Trio>(batch: usize) -> f64 {
    const BATCHES: usize = 256;
    let mut trio = T::elected(1, &T::Shared::default());
    let mut batches: Vec<Vec<Bytes>> = (0..2 * BATCHES).map(|_| (0..batch).map(|_| command()).collect()).collect();
    let (warm, counted) = batches.split_at_mut(BATCHES);
    warm.iter_mut().for_each(|commands| trio.propose(commands));
    let count = counting::allocations(|| counted.iter_mut().for_each(|commands| trio.propose(commands)));
    count as f64 / (BATCHES * batch) as f64
}

fn sizes<T: Trio>() -> [f64; 2] {
    // What groups share counts for none.
    let shared = T::Shared::default();
    let mut trio = T::elected(1, &shared);
    trio.beat();
    trio.sizes().map(|bytes| bytes as f64)
}

fn row(what: &str, ours: f64, theirs: f64, spread: &str) {
    println!("{what:<44} {ours:>10.2} {theirs:>10.2} {:>8.2}   {spread}", theirs / ours);
}

fn main() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    println!("{}; one thread; {ROUNDS} rounds each, alternating, medians\n", cpu.trim_start_matches(['\t', ' ', ':']));
    println!("{:<44} {:>10} {:>10} {:>8}   least..most of both", "", "ours", "raft-rs", "times");
    time::<Theirs>("ns a proposal, 1 group, batch 1", 1, HOT / 4, 1);
    time::<Theirs>("ns a proposal, 1 group, batch 64", 1, HOT, 64);
    time::<OneByOne>("  proposed one by one", 1, HOT, 64);
    time::<Theirs>("ns a proposal, 10,000 groups, batch 1", GROUPS, SPREAD / 2, 1);
    time::<Theirs>("ns a proposal, 10,000 groups, batch 64", GROUPS, SPREAD, 64);
    time::<OneByOne>("  proposed one by one", GROUPS, SPREAD, 64);
    let ([leader, follower], [their_leader, their_follower]) = (sizes::<Ours>(), sizes::<Theirs>());
    row("bytes an idle leader of three", leader, their_leader, "");
    row("bytes an idle follower", follower, their_follower, "");
    row("allocations a proposal, batch 1", allocations::<Ours>(1), allocations::<Theirs>(1), "");
    row("allocations a proposal, batch 64", allocations::<Ours>(64), allocations::<Theirs>(64), "");
    row("  proposed one by one", allocations::<Ours>(64), allocations::<OneByOne>(64), "");
}
