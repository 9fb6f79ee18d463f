//! Judges what clients saw of a replicated key-value store: is there, for every key, one order of its reads and writes
//! that explains it (Herlihy and Wing, 1990)?
//!
//! No two writes of a history write the same value, so a read names the write it saw, and a key can be judged without a
//! search (Gibbons and Korach, 1997): a write and the reads that saw it stand together in any order that explains the
//! history. Together they need the register at least from the first moment one of them has ended to the last moment one
//! of them began: if that is some time, nobody else can have it then (a firm zone). Otherwise there is a moment at
//! which all of them are under way, and any moment from the last beginning to the first end will do (a loose one). An
//! order exists if no two firm zones overlap and no loose one lies within a firm one.

use std::collections::BTreeMap;
use std::fmt;

/// Names an operation until its client knows how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpId(usize);

/// What a client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Set the key to a value that no other write has.
    Write(u64),
    /// What it found; nothing yet while it is under way.
    Read(Option<u64>),
}

/// How an operation ended, as far as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It may have happened, may still happen, or never.
    Unknown,
    /// It happened before this moment.
    Done(u64),
    /// It will never happen.
    Refused,
}

#[derive(Clone, Copy, Debug)]
struct Recorded {
    client: u64,
    key: u64,
    op: Op,
    /// When it began. Moments are counted, not measured: what comes first has the lower number.
    began: u64,
    outcome: Outcome,
    /// The simulation's time of its beginning and its end, for the reader of a violation.
    times: (u64, u64),
}

/// All that clients did and saw.
#[derive(Debug, Default)]
pub struct History {
    recorded: Vec<Recorded>,
    moment: u64,
}

/// No order explains what was seen of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The key.
    pub key: u64,
    /// What can't be.
    pub why: String,
    /// The operations that contradict each other, one a line, in the order they began.
    pub operations: Vec<String>,
}

/// The time that a write and the reads that saw it need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zone {
    /// From its first end to its last beginning the register held this value, and no other.
    Firm { from: u64, to: u64 },
    /// At one moment between its last beginning and its first end.
    Loose { from: u64, to: u64 },
}

impl History {
    /// A client begins an operation. `now` is for people only.
    pub fn begin(&mut self, now: u64, client: u64, key: u64, op: Op) -> OpId {
        self.moment += 1;
        let began = self.moment;
        self.recorded.push(Recorded { client, key, op, began, outcome: Outcome::Unknown, times: (now, u64::MAX) });
        OpId(self.recorded.len() - 1)
    }

    /// A write is acknowledged.
    pub fn written(&mut self, now: u64, id: OpId) {
        self.end(now, id);
    }

    /// A read has found something.
    pub fn read(&mut self, now: u64, id: OpId, found: Option<u64>) {
        self.recorded[id.0].op = Op::Read(found);
        self.end(now, id);
    }

    /// A write will never happen, or a read found nothing out.
    pub fn refused(&mut self, now: u64, id: OpId) {
        self.end(now, id);
        self.recorded[id.0].outcome = Outcome::Refused;
    }

    fn end(&mut self, now: u64, id: OpId) {
        self.moment += 1;
        let recorded = &mut self.recorded[id.0];
        recorded.outcome = Outcome::Done(self.moment);
        recorded.times.1 = now;
    }

    /// How many operations have ended with a result.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.recorded.iter().filter(|r| matches!(r.outcome, Outcome::Done(_))).count()
    }

    /// Looks for an order of every key's operations.
    ///
    /// # Errors
    /// The first key without one.
    pub fn check(&self) -> Result<(), Violation> {
        let mut keys: BTreeMap<u64, Vec<&Recorded>> = BTreeMap::new();
        for recorded in &self.recorded {
            keys.entry(recorded.key).or_default().push(recorded);
        }
        keys.into_iter().try_for_each(|(key, operations)| check_key(key, &operations))
    }
}

/// A write, and the reads that saw it.
struct Cluster<'a> {
    /// `None`: the empty register, before any write.
    write: Option<&'a Recorded>,
    reads: Vec<&'a Recorded>,
}

fn check_key(key: u64, operations: &[&Recorded]) -> Result<(), Violation> {
    let mut clusters: BTreeMap<Option<u64>, Cluster<'_>> = BTreeMap::new();
    clusters.insert(None, Cluster { write: None, reads: Vec::new() });
    for recorded in operations {
        if let Op::Write(value) = recorded.op {
            let before = clusters.insert(Some(value), Cluster { write: Some(recorded), reads: Vec::new() });
            assert!(before.is_none(), "every write of a history has a value of its own");
        }
    }
    for recorded in operations {
        if let (Op::Read(found), Outcome::Done(_)) = (recorded.op, recorded.outcome) {
            let Some(cluster) = clusters.get_mut(&found) else {
                return Err(violation(key, "a read found what was never written", &[recorded]));
            };
            cluster.reads.push(recorded);
        }
    }
    let mut zones = Vec::new();
    for cluster in clusters.values() {
        if let Some(zone) = cluster.zone(key)? {
            zones.push((zone, cluster));
        }
    }
    compare(key, &zones)
}

fn compare(key: u64, zones: &[(Zone, &Cluster<'_>)]) -> Result<(), Violation> {
    let mut firm: Vec<(u64, u64, &Cluster<'_>)> = Vec::new();
    for (zone, cluster) in zones {
        if let Zone::Firm { from, to } = *zone {
            firm.push((from, to, cluster));
        }
    }
    firm.sort_unstable_by_key(|(from, to, _)| (*from, *to));
    for pair in firm.windows(2) {
        if pair[1].0 < pair[0].1 {
            let both = [pair[0].2.operations(), pair[1].2.operations()].concat();
            return Err(violation(key, "two values are seen in turns", &both));
        }
    }
    for (zone, cluster) in zones {
        let Zone::Loose { from, to } = *zone else { continue };
        // Firm ones don't overlap, so only the last that begins before can hold this one.
        let place = firm.partition_point(|(begin, _, _)| *begin < from);
        if let Some((_, end, around)) = place.checked_sub(1).map(|place| firm[place])
            && to < end
        {
            let both = [around.operations(), cluster.operations()].concat();
            return Err(violation(key, "a value is seen before and after another took its place", &both));
        }
    }
    Ok(())
}

impl Cluster<'_> {
    /// `None` if nobody would notice its absence.
    fn zone(&self, key: u64) -> Result<Option<Zone>, Violation> {
        let (began, ended) = match self.write {
            None => (0, 0),
            Some(write) => match write.outcome {
                Outcome::Refused if self.reads.is_empty() => return Ok(None),
                Outcome::Refused => return Err(violation(key, "what was refused is read", &self.operations())),
                Outcome::Unknown if self.reads.is_empty() => return Ok(None),
                Outcome::Unknown => (write.began, u64::MAX),
                Outcome::Done(ended) => (write.began, ended),
            },
        };
        let (mut first_end, mut last_begin) = (ended, began);
        for read in &self.reads {
            let Outcome::Done(ended) = read.outcome else { continue };
            if ended < began {
                return Err(violation(key, "a read found what was not written yet", &self.operations()));
            }
            first_end = first_end.min(ended);
            last_begin = last_begin.max(read.began);
        }
        let firm = first_end < last_begin;
        Ok(Some(if firm {
            Zone::Firm { from: first_end, to: last_begin }
        } else {
            Zone::Loose { from: last_begin, to: first_end }
        }))
    }

    fn operations(&self) -> Vec<&Recorded> {
        self.write.into_iter().chain(self.reads.iter().copied()).collect()
    }
}

fn violation(key: u64, why: &str, operations: &[&Recorded]) -> Violation {
    let mut operations = operations.to_vec();
    operations.sort_unstable_by_key(|recorded| recorded.began);
    Violation { key, why: why.to_owned(), operations: operations.into_iter().map(Recorded::to_string).collect() }
}

impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |nanos: u64| nanos as f64 / 1e9;
        write!(f, "{:>10.6} s client {} ", seconds(self.times.0), self.client)?;
        match self.op {
            Op::Write(value) => write!(f, "writes {value}")?,
            Op::Read(Some(value)) => write!(f, "reads {value}")?,
            Op::Read(None) => write!(f, "reads nothing")?,
        }
        match self.outcome {
            Outcome::Unknown => write!(f, ", outcome unknown"),
            Outcome::Done(_) => write!(f, ", until {:.6} s", seconds(self.times.1)),
            Outcome::Refused => write!(f, ", refused at {:.6} s", seconds(self.times.1)),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key {} is not linearizable: {}", self.key, self.why)?;
        self.operations.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// A history in words: `w1+` begins a write of 1, `w1.` ends it, `w1!` refuses it; `ra+` begins a read called a,
    /// `ra=1` and `ra=-` end it.
    fn history(text: &str) -> History {
        let mut history = History::default();
        let mut open: BTreeMap<String, OpId> = BTreeMap::new();
        for (now, word) in text.split_whitespace().enumerate() {
            let now = now as u64;
            let place = word.find(['+', '.', '!', '=']).expect("a word says what happens");
            let (name, what) = word.split_at(place);
            let client = open.len() as u64;
            match (what, name.strip_prefix('w')) {
                ("+", Some(value)) => {
                    let op = Op::Write(value.parse().expect("a number"));
                    open.insert(name.to_owned(), history.begin(now, client, 1, op));
                }
                ("+", None) => {
                    open.insert(name.to_owned(), history.begin(now, client, 1, Op::Read(None)));
                }
                (".", _) => history.written(now, open[name]),
                ("!", _) => history.refused(now, open[name]),
                ("=-", _) => history.read(now, open[name], None),
                (found, _) => history.read(now, open[name], Some(found[1..].parse().expect("a number"))),
            }
        }
        history
    }

    #[test]
    fn good_histories_are_good() {
        for text in [
            "ra+ ra=-",
            "w1+ w1. ra+ ra=1",
            "w1+ ra+ ra=- w1. rb+ rb=1",
            "w1+ ra+ ra=1 w1. rb+ rb=1",
            // Two writes at once may come in either order.
            "w1+ w2+ w1. w2. ra+ ra=1",
            "w1+ w2+ w1. w2. ra+ ra=2",
            // Reads at once may see different sides of a write.
            "w1+ ra+ rb+ ra=1 rb=- w1.",
            // An unknown write may take effect late, or never.
            "w1+ w2+ w2. ra+ ra=2 rb+ rb=1",
            "w1+ w2+ w2. ra+ ra=2 rb+ rb=2",
            "w1+ w2+ w2. ra+ ra=1 rb+ rb=1",
            "w1+ w1! ra+ ra=-",
            "w1+ w1. w2+ w2! ra+ ra=1",
            // A long read sees anything that was there meanwhile.
            "w1+ w1. ra+ w2+ w2. w3+ w3. ra=2",
            "w1+ w1. ra+ w2+ w2. w3+ w3. ra=1",
            "w1+ w2+ w3+ ra+ ra=2 rb+ rb=3 w1. w2. w3. rc+ rc=1",
        ] {
            assert_eq!(history(text).check(), Ok(()), "{text}");
        }
    }

    #[test]
    fn bad_histories_are_bad() {
        for text in [
            // Nobody wrote it, or not yet, or never.
            "ra+ ra=1",
            "ra+ ra=1 w1+ w1.",
            "w1+ w1! ra+ ra=1",
            // A lost write, and stale reads.
            "w1+ w1. ra+ ra=-",
            "w1+ w1. w2+ w2. ra+ ra=1",
            "w1+ w1. w2+ w2. ra+ ra=2 rb+ rb=1",
            // Reads that go back in time.
            "w1+ ra+ ra=1 rb+ rb=- w1.",
            "w1+ w1. w2+ ra+ ra=2 rb+ rb=1 w2.",
            "w1+ w2+ w1. w2. ra+ ra=1 rb+ rb=2",
            "w1+ w2+ w1. w2. ra+ ra=2 rb+ rb=1 rc+ rc=2",
            // An unknown write that was seen, and then not seen any more.
            "w1+ w1. w2+ ra+ ra=2 w3+ w3. rb+ rb=3 rc+ rc=2",
            "w1+ ra+ ra=1 w2+ w2. rb+ rb=1",
        ] {
            let violation = history(text).check().expect_err(text);
            assert!(violation.to_string().contains("client"), "{text}: {violation}");
        }
    }

    /// Any order at all that explains a small history, by trying them all.
    fn exists(operations: &[Recorded], state: Option<u64>) -> bool {
        let must = |r: &Recorded| matches!(r.outcome, Outcome::Done(_));
        if !operations.iter().any(must) {
            return true;
        }
        let first_end = operations.iter().filter_map(|r| match r.outcome {
            Outcome::Done(ended) => Some(ended),
            _ => None,
        });
        let first_end = first_end.min().unwrap_or(u64::MAX);
        operations.iter().enumerate().any(|(place, next)| {
            let next_state = match next.op {
                _ if next.began > first_end || next.outcome == Outcome::Refused => return false,
                Op::Read(_) if !must(next) => return false,
                Op::Read(found) if found != state => return false,
                Op::Read(_) => state,
                Op::Write(value) => Some(value),
            };
            let rest = [&operations[..place], &operations[place + 1..]].concat();
            exists(&rest, next_state)
        })
    }

    #[test]
    fn the_verdict_is_that_of_trying_every_order() {
        let mut rng = Rng::new(7);
        let (mut good, mut bad) = (0, 0);
        for _ in 0..20_000 {
            let mut history = History::default();
            let mut open: Vec<OpId> = Vec::new();
            let writes = 1 + rng.below(3);
            let mut next_write = 1;
            for _ in 0..4 + rng.below(8) {
                if history.recorded.len() < 7 && rng.chance(55) {
                    let write = next_write <= writes && rng.chance(50);
                    let op = if write { Op::Write(next_write) } else { Op::Read(None) };
                    next_write += u64::from(write);
                    open.push(history.begin(0, 0, 1, op));
                } else if !open.is_empty() {
                    let id = open.remove(rng.below(open.len() as u64) as usize);
                    match history.recorded[id.0].op {
                        Op::Write(_) if rng.chance(10) => history.refused(0, id),
                        Op::Write(_) => history.written(0, id),
                        Op::Read(_) => {
                            let found = rng.below(writes + 1);
                            history.read(0, id, (found > 0 && found < next_write).then_some(found));
                        }
                    }
                }
            }
            let expected = exists(&history.recorded, None);
            assert_eq!(history.check().is_ok(), expected, "{history:#?}");
            if expected { good += 1 } else { bad += 1 }
        }
        assert!(good > 3_000 && bad > 3_000, "{good} good, {bad} bad");
    }
}
