//! What is asked of both logs, and the load that asks it.

use bytes::Bytes;
use serde::Serialize;
use std::fmt;

/// Groups where a writer chooses among many.
pub(crate) const GROUPS_MANY: u64 = 10_000;
/// Entries of one durable write in the batched cases, each of another group.
const ENTRIES_BATCHED: u64 = 64;
/// Random bytes that payloads are cut from: more than any window of a compressor, and few enough to stay in the cache, as
/// an entry is that has just come from a socket.
const POOL_BYTES: usize = 1 << 20;

/// One question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Case {
    /// Each waits until its write is durable, and then begins the next.
    pub(crate) writers: u64,
    pub(crate) value_bytes: usize,
    /// Groups a writer chooses from; with one, every writer has its own, because raft-engine takes concurrent writes of
    /// different groups only.
    pub(crate) groups: u64,
    /// Entries of one write, each of another group.
    pub(crate) entries: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.writers == 1 { "writer" } else { "writers" };
        write!(f, "{} {plural}, {} B, ", self.writers, self.value_bytes)?;
        match (self.entries, self.groups) {
            (1, 1) => f.write_str("a group each"),
            (1, groups) => write!(f, "{groups} groups"),
            (entries, groups) => write!(f, "batches of {entries}, {groups} groups"),
        }
    }
}

/// All questions, in the order of the report.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for value_bytes in [128, 1024] {
        for groups in [1, GROUPS_MANY] {
            for writers in [1, 16, 64] {
                cases.push(Case { writers, value_bytes, groups, entries: 1 });
            }
        }
    }
    for writers in [1, 16, 64] {
        cases.push(Case { writers, value_bytes: 128, groups: GROUPS_MANY, entries: ENTRIES_BATCHED });
    }
    cases
}

impl Case {
    /// Bytes of payload in one write.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.entries * self.value_bytes as u64
    }
}

/// Random bytes to cut payloads from. raft-engine compresses, so nothing repeats within a batch.
#[derive(Clone)]
pub(crate) struct Payloads(Bytes);

impl Payloads {
    pub(crate) fn new() -> Payloads {
        let mut random = Random(1);
        let words = (0..POOL_BYTES / 8).flat_map(|_| random.next().to_le_bytes());
        Payloads(words.collect::<Vec<_>>().into())
    }

    fn cut(&self, random: &mut Random, len: usize) -> Bytes {
        let at = random.below((POOL_BYTES - len) as u64) as usize;
        self.0.slice(at..at + len)
    }
}

/// One writer: the entries it asks for, from groups that are its alone.
pub(crate) struct Writer {
    payloads: Payloads,
    random: Random,
    value_bytes: usize,
    first_group: u64,
    stride: u64,
    /// The next index of each of its groups.
    next: Vec<u64>,
    /// The group of the next entry, as a place in `next`.
    place: usize,
}

impl Writer {
    pub(crate) fn new(case: &Case, number: u64, payloads: &Payloads) -> Writer {
        let groups = if case.groups == 1 { 1 } else { (case.groups - number).div_ceil(case.writers) };
        Writer {
            payloads: payloads.clone(),
            random: Random(0x5eed ^ number << 32),
            value_bytes: case.value_bytes,
            first_group: 1 + number,
            stride: case.writers,
            next: vec![1; groups as usize],
            place: 0,
        }
    }

    /// Chooses where the next write begins; its entries are of consecutive groups from there on.
    pub(crate) fn begin_write(&mut self) {
        self.place = self.random.below(self.next.len() as u64) as usize;
    }

    /// Group, index and payload of the next entry.
    pub(crate) fn next_entry(&mut self) -> (u64, u64, Bytes) {
        let group = self.first_group + self.stride * self.place as u64;
        let index = self.next[self.place];
        self.next[self.place] += 1;
        self.place = if self.place + 1 == self.next.len() { 0 } else { self.place + 1 };
        (group, index, self.payloads.cut(&mut self.random, self.value_bytes))
    }

    /// How many groups it has.
    pub(crate) fn groups(&self) -> usize {
        self.next.len()
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
