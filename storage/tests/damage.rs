//! Rot, misdirected and torn writes, files cut short: whatever part of a small log is not what was written, what was
//! acknowledged is still there or its group is limited, nothing else is, and nothing panics.
//!
//! Logs in memory, damaged by the million and judged by what was recorded in them (`rig/judge.rs`).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_raft::{Entry, GroupId, HardState, Limit, LogIndex, LogPosition, NodeId, ReplicaId, Term};
use raftyard_storage::io::{BLOCK_BYTES, Directory, Disk, FilePath, IoId, IoOp, IoResult};
use raftyard_storage::sim::{SECTOR_BYTES, SimDisk};
use raftyard_storage::wal::{RecoveredGroup, StoreId, Wal, WalConfig, WalError, read};
use rig::image::{Change, Image, change};
use rig::judge::judge;
use rig::memory::MemDisk;
use rig::{Model, Random, Step, config, entry};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Every case with optimisation; without, a part, so that the tests stay quick.
const STRIDE: usize = if cfg!(debug_assertions) { 61 } else { 1 };

/// A log that is being written.
struct Writer {
    disk: SimDisk,
    model: Model,
    config: WalConfig,
    wal: Option<Wal>,
    /// Batches that are on the disk, which the log does not know yet.
    unknown: Vec<(IoId, IoResult)>,
    /// What is not done: it makes the next segment.
    held: Vec<(IoId, IoOp)>,
}

impl Writer {
    fn new(config: WalConfig) -> Writer {
        Writer {
            disk: SimDisk::new(),
            model: Model::default(),
            config,
            wal: None,
            unknown: Vec::new(),
            held: Vec::new(),
        }
    }

    /// Another start after an end that was not clean.
    fn start(&mut self) {
        self.held.clear();
        self.unknown.clear();
        self.config.initialised = self.wal.is_some();
        self.wal = Some(Wal::open(&mut self.disk, self.config.clone(), 7).unwrap().0);
    }

    /// A batch with these records; the next segment is not made, so that only starts make segments.
    fn batch(&mut self, steps: &[Step]) {
        self.write(steps);
        self.tell();
        assert!(self.wal.as_ref().unwrap().is_idle());
    }

    /// The same, and the log is not told that it is durable.
    fn write(&mut self, steps: &[Step]) {
        let wal = self.wal.as_mut().unwrap();
        steps.iter().for_each(|step| self.model.record(wal, step.clone()));
        wal.submit();
        while let Some((id, op)) = wal.poll_io() {
            match op {
                IoOp::Write { .. } => self.unknown.push((id, self.disk.execute(op))),
                op => self.held.push((id, op)),
            }
        }
    }

    fn tell(&mut self) {
        let wal = self.wal.as_mut().unwrap();
        self.unknown.drain(..).for_each(|(id, result)| wal.handle_io(id, result));
    }

    /// A batch with these records, and everything that the log does besides.
    fn settle(&mut self, steps: &[Step]) {
        let wal = self.wal.as_mut().unwrap();
        self.unknown.drain(..).for_each(|(id, result)| wal.handle_io(id, result));
        for (id, op) in self.held.drain(..) {
            let result = self.disk.execute(op);
            wal.handle_io(id, result);
        }
        for step in steps {
            while !wal.has_room() {
                rig::settle(wal, &mut self.disk);
            }
            self.model.record(wal, step.clone());
        }
        rig::settle(wal, &mut self.disk);
    }

    fn close(&mut self) {
        self.wal.as_mut().unwrap().close();
        self.settle(&[]);
        assert!(self.wal.as_ref().unwrap().is_closed());
    }

    fn random_batch(&mut self, random: &mut Random, steps: u64) {
        let wal = self.wal.as_mut().unwrap();
        for _ in 0..steps {
            let step = match random.below(24) {
                0 => self.model.reset(random),
                1 => self.model.limit(random),
                _ => None,
            };
            let step = step.unwrap_or_else(|| self.model.next_step(random, 60));
            self.model.record(wal, step);
        }
        self.write(&[]);
        if random.below(2) == 0 || self.unknown.len() >= self.config.depth {
            self.tell();
        }
    }

    fn image(self) -> Image {
        Image::of(&self.disk, self.model)
    }
}

fn write(group: u64, term: u64, first: u64, count: u64) -> Step {
    let data = [u8::try_from(10 * group + term).unwrap(); 9];
    let entries: Vec<Entry> = (first..first + count).map(|index| entry(term, index, &data)).collect();
    Step::Write { group: GroupId(group), hard_state: Some(vote(term)), entries }
}

fn vote(term: u64) -> HardState {
    HardState { term: Term(term), vote: Some(ReplicaId(term % 3 + 1)) }
}

fn position(term: u64, index: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(term) }
}

/// Three starts, and a bit of everything that can be recorded.
fn small() -> Image {
    let mut log = Writer::new(config(false));
    let group = GroupId;
    log.start();
    log.batch(&[Step::Create(group(1)), Step::Create(group(2))]);
    log.batch(&[write(1, 1, 1, 3), write(2, 1, 1, 2)]);
    log.batch(&[write(1, 1, 4, 3)]);
    log.batch(&[write(1, 2, 5, 1), Step::Peer(NodeId(2), StoreId(3))]);
    log.batch(&[write(1, 2, 6, 2)]);
    log.start();
    log.batch(&[Step::Create(group(3)), write(3, 1, 1, 4)]);
    log.batch(&[Step::Chunks(group(1), LogIndex(5), vec![5; 1500])]);
    log.batch(&[Step::Keep(group(1), LogIndex(5), vec![5; 1500])]);
    log.batch(&[Step::Compact(group(1), LogIndex(4))]);
    log.batch(&[Step::Reset(group(2), position(3, 9))]);
    log.batch(&[write(2, 3, 10, 2)]);
    log.batch(&[Step::Remove(group(3))]);
    log.batch(&[Step::Limit(group(1), Limit::Bound(position(4, 20)))]);
    log.start();
    log.batch(&[Step::Create(group(3))]);
    log.batch(&[write(3, 2, 1, 2), Step::Create(group(4))]);
    log.batch(&[Step::Limit(group(4), Limit::Amnesia), write(1, 2, 8, 1)]);
    log.batch(&[write(2, 4, 11, 2)]);
    log.batch(&[write(2, 4, 13, 1)]);
    log.batch(&[Step::Peer(NodeId(3), StoreId(4))]);
    log.batch(&[write(1, 5, 9, 0)]);
    log.image()
}

/// A log whose front was given up: with checkpoints, records that were moved, files that were segments before; a clean stop
/// and a start after another. Also the blocks that stood in its files at earlier times.
fn long() -> (Image, Vec<Change>) {
    let small = WalConfig { checkpoint_bytes: 100 << 10, spare_segments: 1, reserve_segments: 1, ..config(false) };
    let mut log = Writer::new(small);
    log.model.churns = true;
    let mut past = Vec::new();
    let mut random = Random(3);
    log.start();
    log.batch(&[1, 2, 3, 5, 9].map(|group| Step::Create(GroupId(group))));
    log.batch(&[write(1, 1, 1, 3), write(2, 1, 1, 2), write(3, 1, 1, 2)]);
    log.batch(&[Step::Chunks(GroupId(1), LogIndex(2), vec![5; 1500]), Step::Peer(NodeId(2), StoreId(3))]);
    log.batch(&[Step::Keep(GroupId(1), LogIndex(2), vec![5; 1500]), Step::Compact(GroupId(1), LogIndex(2))]);
    for index in 1..40 {
        let filler = vec![entry(1, index, &vec![index as u8; 40_000])];
        let filler = Step::Write { group: GroupId(9), hard_state: None, entries: filler };
        log.settle(&[filler, Step::Compact(GroupId(9), LogIndex(index))]);
        if index == 25 {
            log.settle(&[Step::Remove(GroupId(3)), Step::Remove(GroupId(5))]);
        }
        if index % 8 == 0 {
            log.settle(&[write(2, index, index / 8 + 2, 1)]);
            past.push(MemDisk::of(&log.disk, Directory::Wal(rig::WAL)));
        }
    }
    log.settle(&[write(2, 50, 6, 2), Step::Limit(GroupId(1), Limit::Bound(position(60, 20)))]);
    log.close();
    log.start();
    for _ in 0..6 {
        log.random_batch(&mut random, 3);
    }
    log.start();
    for _ in 0..6 {
        log.random_batch(&mut random, 3);
    }
    let image = log.image();
    let kinds: BTreeSet<&str> = image.batches.iter().flat_map(|batch| batch.kinds.iter().copied()).collect();
    assert!(["relocated", "chunk", "checkpoint", "echo", "state"].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    assert!(image.whole.stats.first_segment.0 > 2 && image.whole.stats.checkpoint.is_some(), "{:?}", image.whole.stats);
    let earlier = image.earlier(&past);
    (image, earlier)
}

/// Some starts with whatever comes.
fn random(seed: u64) -> Image {
    let mut random = Random(seed);
    let mut log = Writer::new(WalConfig { depth: 1 + (seed % 3) as usize, ..config(false) });
    log.model.churns = !seed.is_multiple_of(4);
    for _ in 0..2 + random.below(3) {
        log.start();
        for _ in 0..2 + random.below(12) {
            let steps = random.below(4);
            log.random_batch(&mut random, steps);
        }
    }
    log.image()
}

/// Runs cases on all processors, each with a disk of its own, and counts them.
fn run<C: Send + Sync>(name: &str, image: &Image, cases: &[C], changes: impl Fn(&C) -> Vec<Change> + Sync) {
    let next = AtomicUsize::new(0);
    let [holes, limited, refused] = [0, 0, 0].map(AtomicUsize::new);
    let broken = Mutex::new(Vec::new());
    let work = || {
        let mut disk = image.disk.clone();
        loop {
            let from = next.fetch_add(256, Ordering::Relaxed);
            for (place, case) in cases.iter().enumerate().skip(from).take(256) {
                let changes = changes(case);
                let hit = image.hit(&changes);
                let undo = change(&mut disk, &changes);
                // Whoever loses the same reads the same, so entries are read now and then.
                let verdict = judge(image, &mut disk, &hit, changes.len() > 1 || place % 64 == 0);
                change(&mut disk, &undo);
                let verdict = match verdict {
                    Ok(verdict) => verdict,
                    Err(why) => {
                        let places = changes.iter().map(|c| format!("{} {} +{}", c.file, c.at, c.bytes.len()));
                        let places: Vec<_> = places.collect();
                        broken.lock().unwrap().push(format!("case {place}, {places:?}, {hit:?}: {why}"));
                        continue;
                    }
                };
                holes.fetch_add(usize::from(verdict.holes > 0), Ordering::Relaxed);
                limited.fetch_add(usize::from(verdict.limited > 0), Ordering::Relaxed);
                refused.fetch_add(usize::from(verdict.refused), Ordering::Relaxed);
            }
            if from >= cases.len() {
                return;
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(4);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().for_each(|worker| worker.join().unwrap());
    });
    let broken = broken.into_inner().unwrap();
    let some = broken.iter().take(3).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(broken.is_empty(), "{name}: {} of {} cases:\n{some}", broken.len(), cases.len());
    println!("{name}: {} cases, with damage {holes:?}, with limits {limited:?}, refused {refused:?}", cases.len());
}

/// Each batch, and each two of them, are gone.
fn every_pair_of_batches(name: &str, image: &Image) {
    let count = image.batches.len();
    let pairs: Vec<(usize, usize)> = (0..count).flat_map(|a| (a..count).map(move |b| (a, b))).collect();
    run(name, image, &pairs, |(a, b)| [a, b].map(|place| image.without(&image.batches[*place])).to_vec());
}

#[test]
fn every_pair_of_lost_batches_is_made_good_or_limits_who_lost_something() {
    every_pair_of_batches("pairs, small", &small());
}

#[test]
fn whatever_is_lost_of_any_log_is_made_good_or_limits_who_lost_something() {
    for seed in 0..400 / STRIDE as u64 {
        every_pair_of_batches(&format!("pairs, seed {seed}"), &random(seed));
    }
}

#[test]
fn every_pair_of_lost_batches_of_a_long_log_is_made_good_or_limits_who_lost_something() {
    every_pair_of_batches("pairs, long", &long().0);
}

fn flip(image: &Image, file: FilePath, bit: usize) -> Vec<Change> {
    let byte = image.content(file, bit / 8..bit / 8 + 1)[0] ^ (1 << (bit % 8));
    vec![Change { file, at: bit / 8, bytes: vec![byte] }]
}

#[test]
fn every_flipped_bit_of_a_small_log_is_made_good_or_limits_who_lost_something() {
    let image = small();
    // One block behind the last batch of each file stands for all the zeroes after it.
    let mut blocks = image.blocks();
    let last = |file| image.blocks().iter().filter(|(known, _)| *known == file).map(|(_, at)| *at).max();
    blocks.extend(image.headers.iter().map(|(file, _)| (*file, last(*file).unwrap() + BLOCK_BYTES)));
    let bits = blocks.iter().flat_map(|(file, at)| (8 * at..8 * (at + BLOCK_BYTES)).map(move |bit| (*file, bit)));
    let bits: Vec<(FilePath, usize)> = bits.step_by(STRIDE).collect();
    run("bits, small", &image, &bits, |(file, bit)| flip(&image, *file, *bit));
}

#[test]
fn flipped_bits_of_a_long_log_are_made_good_or_limit_who_lost_something() {
    let image = long().0;
    // The headers and some of each block.
    let some = |at: usize| (8 * at..8 * at + 512).chain((8 * at + 512..8 * (at + BLOCK_BYTES)).step_by(509));
    let bits = image.blocks().into_iter().flat_map(|(file, at)| some(at).map(move |bit| (file, bit)));
    let bits: Vec<(FilePath, usize)> = bits.step_by(STRIDE).collect();
    run("bits, long", &image, &bits, |(file, bit)| flip(&image, *file, *bit));
}

/// Every place of `unit` bytes is zeroes, or what stands at each other place, or what stood there earlier.
fn misdirect(name: &str, image: &Image, unit: usize, stride: usize) {
    let places: Vec<(FilePath, usize)> = image
        .blocks()
        .iter()
        .flat_map(|(file, at)| (*at..at + BLOCK_BYTES).step_by(unit).map(|at| (*file, at)))
        .collect();
    let pairs = places.iter().flat_map(|to| places.iter().map(move |from| (*to, *from)));
    let pairs: Vec<_> = pairs.step_by(stride * STRIDE).collect();
    run(&format!("{name}, elsewhere"), image, &pairs, |((file, at), (from, from_at))| {
        vec![Change { file: *file, at: *at, bytes: image.content(*from, *from_at..from_at + unit).to_vec() }]
    });
    run(&format!("{name}, zeroes"), image, &places, |(file, at)| {
        vec![Change { file: *file, at: *at, bytes: vec![0; unit] }]
    });
}

#[test]
fn misdirected_writes_are_made_good_or_limit_who_lost_something() {
    let image = small();
    misdirect("blocks, small", &image, BLOCK_BYTES, 1);
    misdirect("sectors, small", &image, SECTOR_BYTES, 1);
    let (image, earlier) = long();
    misdirect("blocks, long", &image, BLOCK_BYTES, 1);
    misdirect("sectors, long", &image, SECTOR_BYTES, 31);
    assert!(earlier.len() > 100, "{}", earlier.len());
    run("earlier blocks, long", &image, &earlier, |change| vec![change.clone()]);
    // Any run of the sectors of a block is what stood there earlier.
    let runs = (0..8).flat_map(|from| (from + 1..9).map(move |to| SECTOR_BYTES * from..SECTOR_BYTES * to));
    let runs: Vec<(Range<usize>, &Change)> =
        runs.flat_map(|run| earlier.iter().map(move |change| (run.clone(), change))).step_by(STRIDE).collect();
    run("earlier sectors, long", &image, &runs, |(run, change)| {
        vec![Change { at: change.at + run.start, bytes: change.bytes[run.clone()].to_vec(), ..(*change).clone() }]
    });
}

/// Of each batch only some first or last sectors are there, also of two that follow each other.
#[test]
fn torn_batches_are_made_good_or_limit_who_lost_something() {
    for (name, image) in [("torn, small", small()), ("torn, long", long().0)] {
        let mut torn = Vec::new();
        for batch in &image.batches {
            let (start, end) = (batch.bytes.start, batch.bytes.end);
            for cut in (start..end).step_by(SECTOR_BYTES) {
                torn.extend([(batch.file, start..cut), (batch.file, cut..end)]);
            }
        }
        let pairs = torn.iter().enumerate().flat_map(|(place, a)| torn[place..].iter().take(40).map(move |b| [a, b]));
        let pairs: Vec<_> = pairs.step_by(STRIDE).collect();
        run(name, &image, &pairs, |pair| {
            pair.map(|(file, range)| Change { file: *file, at: range.start, bytes: vec![0; range.len()] }).to_vec()
        });
    }
}

/// All ways in which twelve sectors are kept, dropped, or torn in their middle: for each a number to the base of three.
fn subsets(name: &str, image: &Image, sectors: &[(FilePath, usize)]) {
    assert_eq!(sectors.len(), 12);
    for (file, at) in sectors {
        assert!(image.content(*file, *at..at + SECTOR_BYTES).iter().any(|byte| *byte != 0), "{file} {at}");
    }
    let all: Vec<usize> = (0..3usize.pow(12)).step_by(STRIDE).collect();
    run(name, image, &all, |number| {
        let ways = sectors.iter().enumerate().map(|(place, sector)| (*sector, number / 3usize.pow(place as u32) % 3));
        let kept = |way| [SECTOR_BYTES, 0, SECTOR_BYTES / 2][way];
        let lost =
            ways.filter(|(_, way)| *way > 0).map(|((file, at), way)| (file, at + kept(way), SECTOR_BYTES - kept(way)));
        lost.map(|(file, at, len)| Change { file, at, bytes: vec![0; len] }).collect()
    });
}

/// A log whose last batches are `writes`, of so many bytes, in flight at once.
fn in_flight(bytes: &[usize]) -> Image {
    let mut log = Writer::new(WalConfig { depth: bytes.len(), ..config(false) });
    log.start();
    log.batch(&[Step::Create(GroupId(1)), Step::Create(GroupId(2)), write(2, 1, 1, 2)]);
    log.batch(&[write(1, 1, 1, 1)]);
    for (place, bytes) in bytes.iter().enumerate() {
        let entries = vec![entry(1, 2 + place as u64, &vec![0xab; *bytes])];
        log.write(&[Step::Write { group: GroupId(1), hard_state: None, entries }]);
    }
    log.image()
}

fn last_sectors(image: &Image) -> Vec<(FilePath, usize)> {
    let batches = image.batches.iter().map(|batch| (batch.file, batch.bytes.clone()));
    let sectors = batches.flat_map(|(file, bytes)| bytes.step_by(SECTOR_BYTES).map(move |at| (file, at)));
    let written = |(file, at): &(FilePath, usize)| image.content(*file, *at..at + SECTOR_BYTES).iter().any(|b| *b != 0);
    let mut sectors: Vec<_> = sectors.filter(written).collect();
    sectors.split_off(sectors.len() - 12)
}

#[test]
fn every_part_of_the_last_sectors_missing_is_a_tear() {
    let one = in_flight(&[6600]);
    subsets("last sectors, one write in flight", &one, &last_sectors(&one));
    let two = in_flight(&[3800, 3800]);
    subsets("last sectors, two writes in flight", &two, &last_sectors(&two));
}

#[test]
fn every_cut_of_a_file_is_refused_or_harmless() {
    for (image, stride) in [(small(), 1), (long().0, 37)] {
        let mut cases = 0;
        for (file, header) in &image.headers {
            let mut disk = image.disk.clone();
            let needed = image.whole.stats.checkpoint.is_none_or(|from| header.number >= from.segment);
            for len in (0..header.segment_bytes).rev().step_by(stride * STRIDE) {
                disk.bytes(*file).truncate(len as usize);
                cases += 1;
                match read(&mut disk, rig::WAL) {
                    // Zeroes and length were durable before the file became a segment: no crash cuts it.
                    Err(WalError::Length { file: named, bytes, .. }) => assert_eq!((named, bytes), (*file, len)),
                    Err(WalError::HeaderDamaged { file: named }) => assert!(named == *file && len < 4096, "{len}"),
                    Ok(reading) => {
                        let found = reading.recovered;
                        assert!(
                            !needed && found == image.whole,
                            "{file} at {len}, {needed}: {found:?}, {:?}",
                            image.whole
                        );
                    }
                    Err(error) => panic!("{file} at {len}: {error}"),
                }
            }
            // One byte too many.
            *disk.bytes(*file) = image.disk.files[file].to_vec();
            disk.bytes(*file).push(0);
            assert_eq!(matches!(read(&mut disk, rig::WAL), Err(WalError::Length { .. })), needed);
            // None at all.
            disk.files.remove(file);
            let newest = header.number == image.headers.last().unwrap().1.number;
            match read(&mut disk, rig::WAL) {
                Err(WalError::SegmentMissing { file: missing, .. }) => assert!(missing == *file && needed && !newest),
                // Nothing names the newest one; the log up to it is what it was then.
                found => assert!(found.is_ok() && (newest || !needed), "{file}: {found:?}"),
            }
        }
        println!("cuts: {cases} cases");
    }
}

/// A start on a damaged log, some work, and starts after that: who was limited stays so, and nothing that was cut comes
/// back, not even when what was damaged reads well again.
fn go_on(image: &Image, changes: &[Change]) -> Result<(), String> {
    let mut disk = image.disk.clone();
    let undo = change(&mut disk, changes);
    let Ok(reading) = read(&mut disk, rig::WAL) else { return Ok(()) };
    let before = reading.recovered;
    let opened = Wal::open(&mut disk, config(true), 11);
    let (mut wal, recovered) = match opened {
        Ok(opened) => opened,
        Err(WalError::Damaged { .. }) if before.stats.batches == 0 => return Ok(()),
        Err(error) => return Err(format!("refused: {error}")),
    };
    if recovered != before {
        return Err(format!("read twice: {before:?}, {recovered:?}"));
    }
    let told = before.damage.iter().all(|damage| damage.explained);
    let once: BTreeSet<_> = image.states[..=before.stats.last.0 as usize]
        .iter()
        .flat_map(|state| state.groups.iter().map(|held| (held.group, held.replica)))
        .collect();
    for (group, replica) in once {
        if told && wal.may_create(group, replica) {
            return Err(format!("replica {replica} of group {group} could be created again"));
        }
    }
    let before = limits(&recovered.groups);
    for group in &recovered.groups {
        let term = Term(group.hard_state.term.0 + 1);
        let entry = entry(term.0, group.last.index.0 + 1, b"new");
        let entries = if group.limit == Limit::None { std::slice::from_ref(&entry) } else { &[] };
        wal.record_group(group.group, group.replica, Some(HardState { term, vote: None }), (entries, &[]));
    }
    rig::settle(&mut wal, &mut disk);
    let after = read(&mut disk, rig::WAL).map_err(|error| format!("after: {error}"))?.recovered;
    same(&before, &after.groups, 1).map_err(|error| format!("after: {error}"))?;
    let mut healed = disk.clone();
    for ((was, now), file) in undo.iter().rev().zip(changes).map(|pair| (pair, pair.1.file)) {
        let place = was.at..was.at + was.bytes.len();
        if healed.files.get(&file).and_then(|bytes| bytes.get(place)).is_some_and(|bytes| *bytes == now.bytes) {
            change(&mut healed, std::slice::from_ref(was));
        }
    }
    let again = read(&mut healed, rig::WAL).map_err(|error| format!("healed: {error}"))?.recovered;
    same(&before, &again.groups, 1).map_err(|error| format!("healed: {error}"))?;
    wal.close();
    rig::settle(&mut wal, &mut disk);
    let (_, closed) = Wal::open(&mut disk, config(true), 12).map_err(|error| format!("closed: {error}"))?;
    same(&before, &closed.groups, 1).map_err(|error| format!("closed: {error}"))
}

type Short = (GroupId, ReplicaId, Limit, LogPosition, HardState);

fn limits(groups: &[RecoveredGroup]) -> Vec<Short> {
    groups.iter().map(|g| (g.group, g.replica, g.limit, g.last, g.hard_state)).collect()
}

/// Each group is what it was, and who was not limited has one entry more.
fn same(before: &[Short], after: &[RecoveredGroup], more: u64) -> Result<(), String> {
    for short @ (group, replica, limit, last, hard_state) in before {
        let Some(now) = after.iter().find(|now| now.group == *group) else { return Err(format!("{group} is gone")) };
        let index = last.index.0 + if *limit == Limit::None { more } else { 0 };
        let longer = now.last.index.0 > index || (*limit == Limit::None && now.last.index.0 != index);
        let voted = now.hard_state.term.0 == hard_state.term.0 + 1;
        if now.replica != *replica || now.limit != *limit || longer || !voted {
            return Err(format!("{short:?} became {now:?}"));
        }
    }
    Ok(())
}

#[test]
fn limits_outlive_starts_and_what_was_cut_stays_cut() {
    let logs = [("small", small()), ("long", long().0)].map(|(name, image)| (name.to_string(), image));
    let random = (0..120 / STRIDE as u64).map(|seed| (format!("seed {seed}"), random(seed)));
    for (name, image) in logs.into_iter().chain(random) {
        let count = image.batches.len();
        let pairs = (0..count).flat_map(|a| (a..count).map(move |b| [a, b]));
        let pairs: Vec<_> = pairs.step_by(if count < 30 { 1 } else { 3 }).collect();
        let broken: Vec<String> = pairs
            .iter()
            .filter_map(|pair| {
                let lost = pair.map(|place| &image.batches[place]);
                let changes = if pair[0] == pair[1] {
                    vec![image.without(lost[0])]
                } else {
                    lost.map(|b| image.without(b)).to_vec()
                };
                let lost = lost.map(|batch| batch.sequence.0);
                go_on(&image, &changes).err().map(|error| format!("{lost:?}: {error}"))
            })
            .collect();
        let some = broken.iter().take(3).map(String::as_str).collect::<Vec<_>>().join("\n");
        assert!(broken.is_empty(), "{name}: {} of {}:\n{some}", broken.len(), pairs.len());
    }
}

/// Each planted bug of what reads a log must be found: otherwise these tests prove nothing. The others must not run beside
/// it: `cargo test --release -p raftyard-storage --test damage planted` with `--cfg raftyard_planted`.
#[cfg(raftyard_planted)]
#[test]
fn each_planted_bug_is_found() {
    use raftyard_raft::planted::{Bug, plant};
    let judged = |bug: Bug, image: &Image, cases: Vec<Vec<Change>>| {
        let broken = |changes: &&Vec<Change>| {
            let hit = image.hit(changes);
            let mut disk = image.disk.clone();
            change(&mut disk, changes);
            judge(image, &mut disk, &hit, true).is_err()
        };
        assert_eq!(cases.iter().filter(broken).count(), 0, "without {bug:?}");
        plant(Some(bug));
        let found = cases.iter().filter(broken).count();
        plant(None);
        println!("{bug:?}: found in {found} of {} cases", cases.len());
        assert!(found > 0, "{bug:?} was not found");
    };
    let image = small();
    let lost = image.batches.iter().map(|batch| vec![image.without(batch)]).collect();
    judged(Bug::EchoIgnored, &image, lost);
    let flipped = image.batches.iter().map(|batch| flip(&image, batch.file, 8 * (batch.bytes.start + 100)));
    judged(Bug::TornTaken, &image, flipped.collect());
    judged(Bug::WholeCut, &in_flight(&[6600]), vec![Vec::new()]);
    assert_eq!(go_on(&long().0, &[]), Ok(()));
    plant(Some(Bug::TombstoneDropped));
    let forgets = long().0;
    plant(None);
    println!("TombstoneDropped: {}", go_on(&forgets, &[]).unwrap_err());
}
