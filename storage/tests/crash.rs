//! Power failures and killed processes at any operation, of opening and of running, with any part of what was not
//! synced: what was released is there, and what comes back is the log up to some batch.
//!
//! Each way of forgetting a sync is planted too, and must be found: otherwise these tests prove nothing.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_storage::aligned::AlignedBuf;
use raftyard_storage::io::{Directory, Disk, FileId, IoError, IoId, IoOp, IoOutput, IoResult, WriteMode};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{BatchSeq, Recovered, Wal, WalConfig};
use rig::{Model, Random, config, state};
use std::collections::BTreeSet;

/// A durability rule to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plant {
    None,
    /// Names of segments are not synced.
    NoDirectorySync,
    /// The entry of the log's directory is not synced.
    NoRootSync,
    /// A new segment's zeroes and length are not synced before its header.
    NoSegmentSync,
    /// Recovery uses what it read without syncing it.
    NoKeptSync,
    /// Batches are written without being made durable.
    NoDurableWrite,
    /// A batch counts as durable when its write is handed out.
    EarlyRelease,
}

/// The node between its disk and its end.
struct Life {
    disk: SimDisk,
    plant: Plant,
    random: Random,
    depth: usize,
    /// What is recorded in a round, at most.
    steps: u64,
    model: Model,
    released: BatchSeq,
    initialised: bool,
    /// Files opened, not created: those that recovery keeps.
    kept: BTreeSet<FileId>,
    /// Operations until the end of this round.
    left: u64,
    seen: Seen,
}

/// What lives went through, so that a test can tell that it tests something.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    checkpoints: u64,
    clean: u64,
    given_up: u64,
    tears: u64,
}

impl Disk for Life {
    fn execute(&mut self, op: IoOp) -> IoResult {
        let ended = Err(IoError { operation: "after the end", errno: 5 });
        if self.left == u64::MAX {
            return ended;
        }
        if self.left == 0 {
            // Begun and never ended; whether it was effective is the crash's to decide.
            self.disk.submit(IoId(u64::MAX), op);
            self.left = u64::MAX;
            return ended;
        }
        self.left -= 1;
        let opens = matches!(op, IoOp::Open(_));
        let result = match self.spoil(op) {
            Some(op) => self.disk.execute(op),
            None => Ok(IoOutput::Done),
        };
        if let (true, Ok(IoOutput::File { file, .. })) = (opens, &result) {
            self.kept.insert(*file);
        }
        result
    }
}

impl Life {
    fn new(plant: Plant, seed: u64) -> Life {
        Life {
            disk: SimDisk::new(),
            plant,
            random: Random(seed),
            depth: 1 + (seed % 3) as usize,
            steps: 60,
            model: Model { churns: seed % 2 == 1, ..Model::default() },
            released: BatchSeq(0),
            initialised: false,
            kept: BTreeSet::new(),
            left: 0,
            seen: Seen::default(),
        }
    }

    /// The operation as the planted bug leaves it; `None` if it is left out.
    fn spoil(&self, op: IoOp) -> Option<IoOp> {
        let left_out = match (&op, self.plant) {
            (IoOp::SyncDirectory(Directory::Wal(_)), Plant::NoDirectorySync) => true,
            (IoOp::SyncDirectory(Directory::Root), Plant::NoRootSync) => true,
            (IoOp::Sync(file), Plant::NoSegmentSync) => !self.kept.contains(file),
            (IoOp::Sync(file), Plant::NoKeptSync) => self.kept.contains(file),
            _ => false,
        };
        match op {
            _ if left_out => None,
            IoOp::Write { file, offset, buffer, .. } if self.plant == Plant::NoDurableWrite => {
                Some(IoOp::Write { file, offset, buffer, mode: WriteMode::Volatile })
            }
            op => Some(op),
        }
    }

    /// One start, some work, and an end after `operations`, if it lives that long. An error is a broken promise.
    fn round(&mut self, operations: u64) -> Result<(), String> {
        self.left = operations;
        let config = WalConfig { depth: self.depth, ..config(self.initialised) };
        let seed = self.random.next();
        match Wal::open(self, config, seed) {
            Err(error) if self.left != u64::MAX => return Err(format!("refused: {error}")),
            Err(_) => {}
            Ok((mut wal, recovered)) => {
                self.judge(&recovered)?;
                self.seen.checkpoints += u64::from(recovered.stats.checkpoint.is_some());
                self.seen.clean += u64::from(recovered.stats.clean);
                self.seen.given_up += u64::from(recovered.stats.first_segment.0 > 1);
                self.seen.tears += u64::from(recovered.stats.tear.is_some());
                self.released = wal.released();
                self.initialised = true;
                self.work(&mut wal);
            }
        }
        self.end();
        Ok(())
    }

    /// What came back must be the log up to some batch, not before the last one released. That need not be the batch
    /// recovery ended at: a start that was itself cut short may have given the numbers of torn batches to its own.
    fn judge(&mut self, recovered: &Recovered) -> Result<(), String> {
        let mut candidates = self.released.0..=recovered.stats.last.0;
        let (held, _) = state(&mut self.disk).map_err(|error| format!("unreadable: {error}"))?;
        let found = candidates.rfind(|last| self.model.state(BatchSeq(*last)) == held);
        let last = found.ok_or_else(|| format!("not the log from {} to {}", self.released, recovered.stats.last))?;
        self.model.cut(BatchSeq(last));
        Ok(())
    }

    fn work(&mut self, wal: &mut Wal) {
        let mut steps = self.steps;
        let closes = self.random.below(3) == 0;
        while self.left > 0 {
            if steps > 0 && wal.has_room() && self.random.below(3) > 0 {
                steps -= 1;
                let step = self.model.next_step(&mut self.random, 12_000);
                self.model.record(wal, step);
            }
            wal.submit();
            while let Some((id, op)) = wal.poll_io() {
                self.hand_out(wal, id, op);
            }
            let in_flight: Vec<IoId> = self.disk.in_flight().collect();
            if in_flight.is_empty() {
                if steps == 0 && wal.is_idle() {
                    if !closes || wal.is_closed() {
                        return;
                    }
                    wal.close();
                }
                if wal.wants_seal() && self.random.below(2) == 0 {
                    wal.seal();
                }
                continue;
            }
            // Completions in any order.
            let id = in_flight[self.random.below(in_flight.len() as u64) as usize];
            let result = self.disk.complete(id);
            self.left -= 1;
            if id.0 < u64::MAX / 2 {
                wal.handle_io(id, result);
            }
            self.released = wal.released();
        }
    }

    fn hand_out(&mut self, wal: &mut Wal, id: IoId, op: IoOp) {
        let batch = matches!(op, IoOp::Write { offset: 8192.., .. });
        match self.spoil(op) {
            None => wal.handle_io(id, Ok(IoOutput::Done)),
            Some(op) if batch && self.plant == Plant::EarlyRelease => {
                self.disk.submit(IoId(u64::MAX - id.0), op);
                wal.handle_io(id, Ok(IoOutput::Buffer(AlignedBuf::new())));
                self.released = wal.released();
            }
            Some(op) => self.disk.submit(id, op),
        }
    }

    fn end(&mut self) {
        let mut coins = self.random.clone();
        self.random.next();
        let mut coin = || coins.next();
        if coin() & 3 == 0 {
            self.disk.kill(&mut coin);
        } else {
            self.disk.crash(&mut coin);
        }
        self.kept.clear();
    }
}

fn live(plant: Plant, seed: u64, first_end: u64) -> Result<(), String> {
    let mut life = Life::new(plant, seed);
    life.round(first_end)?;
    for _ in 0..4 {
        let operations = life.random.below(120);
        life.round(operations)?;
    }
    life.round(u64::MAX - 1)
}

#[test]
fn an_end_at_every_operation_loses_nothing_that_was_released() {
    for first_end in 0..150 {
        for seed in 0..6 {
            let lived = live(Plant::None, 1000 * seed + first_end, first_end);
            lived.unwrap_or_else(|broken| panic!("seed {seed}, end {first_end}: {broken}"));
        }
    }
}

#[test]
fn each_forgotten_durability_rule_is_found() {
    let plants = [
        Plant::NoDirectorySync,
        Plant::NoRootSync,
        Plant::NoSegmentSync,
        Plant::NoKeptSync,
        Plant::NoDurableWrite,
        Plant::EarlyRelease,
    ];
    for plant in plants {
        let found = (0..1000).find(|seed| live(plant, *seed, 20 + seed % 100).is_err());
        assert!(found.is_some(), "{plant:?} was not found");
    }
}

/// Long lives: old segments are emptied, given up and used again, groups are compacted and removed, and the end comes
/// anywhere in that. `RAFTYARD_LIVES` makes it more.
#[test]
fn an_end_while_room_is_made_loses_nothing_that_was_released() {
    let lives = std::env::var("RAFTYARD_LIVES").ok().and_then(|lives| lives.parse().ok()).unwrap_or(40);
    let mut seen = Seen::default();
    for seed in 0..lives {
        let mut life = Life::new(Plant::None, 2 * seed + 1);
        life.steps = 400;
        for _ in 0..6 {
            let operations = life.random.below(1500);
            let lived = life.round(operations);
            lived.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        }
        life.round(u64::MAX - 1).unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        seen.checkpoints += life.seen.checkpoints;
        seen.clean += life.seen.clean;
        seen.given_up += life.seen.given_up;
        seen.tears += life.seen.tears;
    }
    println!("{seen:?}");
    assert!(seen.checkpoints > 0 && seen.clean > 0 && seen.given_up > 0 && seen.tears > 0, "{seen:?}");
}

/// Each planted bug of the log's own must be found by lives of some length: otherwise these tests prove nothing.
#[cfg(raftyard_planted)]
#[test]
fn each_planted_bug_is_found() {
    use raftyard_raft::planted::{Bug, plant};
    for bug in
        [Bug::RelocatedAppended, Bug::SourceFreedEarly, Bug::CheckpointNotAwaited, Bug::NoSync, Bug::NoDirectorySync]
    {
        plant(Some(bug));
        let found = (0..400).find(|seed| {
            let mut life = Life::new(Plant::None, 2 * seed + 1);
            life.steps = 400;
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                (0..8).any(|_| {
                    let operations = life.random.below(1500);
                    life.round(operations).is_err()
                })
            }))
            .unwrap_or(true)
        });
        plant(None);
        println!("{bug:?}: {found:?}");
        assert!(found.is_some(), "{bug:?} was not found");
    }
}
