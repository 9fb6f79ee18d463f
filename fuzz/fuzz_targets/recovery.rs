//! A small valid log that is changed in ways its writer never would, with checksums made right again, so that what is behind
//! them is reached: read, opened, written to, and read again. Nothing may panic, hang, or take memory without bound.
#![no_main]

#[path = "../../storage/tests/rig/mod.rs"]
mod rig;

use libfuzzer_sys::fuzz_target;
use raftyard_raft::{GroupId, LogIndex, NodeId};
use raftyard_storage::format::segment::{SegmentHeader, decode_header};
use raftyard_storage::io::{Directory, Disk, FileName, FilePath, SegmentNumber};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{StoreId, Wal, WalConfig, read};
use rig::image::Image;
use rig::memory::MemDisk;
use rig::{Model, Random, Step, WAL, config, entry};
use std::sync::OnceLock;

/// What of a base log is changed.
struct Fuzzed {
    disk: MemDisk,
    /// Batches whose checksums stay as they are.
    raw: Vec<bool>,
}

fuzz_target!(|data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    let image = &images()[usize::from(which & 127) % images().len()];
    let mut fuzzed = Fuzzed { disk: image.disk.clone(), raw: vec![false; image.batches.len()] };
    for change in data.chunks(12).take(16) {
        let mut bytes = [0; 12];
        bytes[..change.len()].copy_from_slice(change);
        fuzzed.change(image, bytes);
    }
    fuzzed.mend(image);
    exercise(&mut fuzzed.disk, which & 128 != 0);
});

fn exercise(disk: &mut MemDisk, initialised: bool) {
    if let Ok(reading) = read(disk, WAL) {
        let _ = reading.load(disk, WAL);
        for group in &reading.recovered.groups {
            let _ = reading.load_snapshot(disk, WAL, group.group);
        }
    }
    let Ok((mut wal, recovered)) = Wal::open(disk, small(initialised), 5) else { return };
    for group in recovered.groups.iter().take(8) {
        wal.fetch(group.group, group.base.index.next(), group.last.index, 1 << 16);
        wal.fetch_chunk(group.group, 0);
        if wal.has_room() {
            wal.record_group(group.group, group.replica, None, (&[], &[]));
        }
    }
    // Enough to make checkpoints and to empty the oldest segments.
    for number in 0..24 {
        settle(&mut wal, disk);
        if wal.has_room() {
            wal.record_peer(NodeId(number), StoreId(1));
        }
    }
    while wal.poll_fetched().is_some() || wal.poll_lost().is_some() {}
    wal.close();
    settle(&mut wal, disk);
    drop(wal);
    let before = read(disk, WAL).map(|reading| reading.recovered);
    let after = read(disk, WAL).map(|reading| reading.recovered);
    assert_eq!(before, after);
    let _ = Wal::open(disk, small(true), 6);
}

fn settle(wal: &mut Wal, disk: &mut dyn Disk) {
    for _ in 0..10_000 {
        wal.submit();
        let Some((id, op)) = wal.poll_io() else { return };
        let result = disk.execute(op);
        wal.handle_io(id, result);
    }
    panic!("it never comes to an end");
}

fn small(initialised: bool) -> WalConfig {
    WalConfig { checkpoint_bytes: 40 << 10, spare_segments: 0, reserve_segments: 1, ..config(initialised) }
}

impl Fuzzed {
    fn change(&mut self, image: &Image, change: [u8; 12]) {
        let [kind, a, b, c, value @ ..] = change;
        let place = usize::from(a) % image.batches.len();
        let batch = &image.batches[place];
        let file = image.headers[usize::from(a) % image.headers.len()].0;
        if !self.disk.files.contains_key(&batch.file) || !self.disk.files.contains_key(&file) {
            return;
        }
        let at = usize::from(b) | usize::from(c) << 8;
        let some = 1 + usize::from(kind >> 5);
        match kind & 31 {
            // Bytes of a batch, its checksums made right or not.
            0..=9 => {
                let len = batch.bytes.len();
                let at = batch.bytes.start + at % len;
                let bytes = self.disk.bytes(batch.file);
                for (place, value) in value.iter().take(some).enumerate() {
                    if at + place < batch.bytes.end.min(bytes.len()) {
                        bytes[at + place] = *value;
                    }
                }
                self.raw[place] = kind & 31 >= 8;
            }
            // A whole number where one may stand.
            10..=19 => {
                let at = (batch.bytes.start + 8 * (at % (batch.bytes.len() / 8))) & !7;
                let numbers = [0, 1, 2, 3, u64::MAX, u64::MAX - 1, u64::MAX / 2, 1 << 32, u64::from(u32::MAX), 4096];
                let number = match value[0] % 12 {
                    10 => u64::from(value[1]),
                    11 => u64::from_le_bytes(value),
                    known => numbers[usize::from(known)],
                };
                if let Some(bytes) = self.disk.bytes(batch.file).get_mut(at..at + 8) {
                    bytes.copy_from_slice(&number.to_le_bytes());
                }
            }
            // A batch is not there.
            20 => {
                if let Some(bytes) = self.disk.bytes(batch.file).get_mut(batch.bytes.clone()) {
                    bytes.fill(0);
                }
                self.raw[place] = true;
            }
            // The records of one batch in the place of another's.
            21..=23 => {
                let from = &image.batches[usize::from(value[0]) % image.batches.len()];
                let len = from.bytes.len().min(batch.bytes.len()) - 64;
                let source = image.content(from.file, from.bytes.start + 64..from.bytes.start + 64 + len).to_vec();
                let lens = image.content(from.file, from.bytes.start + 32..from.bytes.start + 44).to_vec();
                let start = batch.bytes.start;
                let bytes = self.disk.bytes(batch.file);
                if bytes.len() >= batch.bytes.end {
                    bytes[start + 64..start + 64 + len].copy_from_slice(&source);
                    bytes[start + 32..start + 44].copy_from_slice(&lens);
                }
            }
            // Fields of a segment's header.
            24..=27 => {
                let at = (at % 136) & !7;
                let bytes = self.disk.bytes(file);
                if bytes.len() >= 8192 {
                    let was = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
                    let now = if kind & 1 == 0 {
                        was.wrapping_add(u64::from(value[0]).wrapping_sub(128))
                    } else {
                        u64::from_le_bytes(value)
                    };
                    for copy in [0, 4096] {
                        bytes[copy + at..copy + at + 8].copy_from_slice(&now.to_le_bytes());
                    }
                }
            }
            28 => self.disk.bytes(file).truncate(at * 4),
            29 => drop(self.disk.files.remove(&file)),
            30 => {
                let number = SegmentNumber(u64::from(value[0]));
                let name = if value[1] & 1 == 0 { FileName::Segment(number) } else { FileName::Spare(number) };
                if let Some(bytes) = self.disk.files.get(&file).cloned() {
                    self.disk.files.insert(FilePath { directory: Directory::Wal(WAL), name }, bytes);
                }
            }
            // Bytes anywhere.
            _ => {
                let bytes = self.disk.bytes(file);
                if !bytes.is_empty() {
                    let at = at * 4 % bytes.len();
                    bytes[at] = value[0];
                }
            }
        }
    }

    /// Makes the checksums of headers, records and batches right, each batch naming the one before it.
    fn mend(&mut self, image: &Image) {
        let mut headers: Vec<Option<SegmentHeader>> = Vec::new();
        for (file, _) in &image.headers {
            headers.push(self.disk.files.contains_key(file).then(|| mend_header(self.disk.bytes(*file))).flatten());
        }
        let mut previous = None;
        for (batch, raw) in image.batches.iter().zip(&self.raw) {
            let place = image.headers.iter().position(|(file, _)| *file == batch.file).expect("of some segment");
            let Some(header) = headers[place] else { continue };
            if !raw && let Some(bytes) = self.disk.bytes(batch.file).get_mut(batch.bytes.clone()) {
                let seed = header.checksum_seed().at(batch.bytes.start as u64);
                previous = Some(mend_batch(bytes, seed, previous));
            } else {
                previous = None;
            }
        }
    }
}

fn mend_header(bytes: &mut [u8]) -> Option<SegmentHeader> {
    let blocks = bytes.get_mut(..8192)?;
    for copy in [0, 4096] {
        let block = &mut blocks[copy..copy + 4096];
        let checksum = around(0, block, 12);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
    }
    decode_header(blocks).ok()
}

fn mend_batch(bytes: &mut [u8], seed: u32, previous: Option<u32>) -> u32 {
    let number =
        |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let echo = number(bytes, 32);
    let mut at = 64usize.saturating_add(echo);
    while at + 16 <= bytes.len() {
        let len = number(bytes, at);
        if len < 16 || at + len > bytes.len() {
            break;
        }
        let checksum = around(0, &bytes[at..at + len], 8);
        bytes[at + 8..at + 12].copy_from_slice(&checksum.to_le_bytes());
        at += len;
    }
    if let Some(previous) = previous {
        bytes[24..28].copy_from_slice(&previous.to_le_bytes());
    }
    bytes[28..32].fill(0);
    bytes[44..48].fill(0);
    let header = crc32c::crc32c_append(seed, &bytes[..64]);
    bytes[44..48].copy_from_slice(&header.to_le_bytes());
    let whole = around(seed, bytes, 28);
    bytes[28..32].copy_from_slice(&whole.to_le_bytes());
    whole
}

fn around(seed: u32, bytes: &[u8], at: usize) -> u32 {
    let crc = crc32c::crc32c_append(seed, &bytes[..at]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[at + 4..])
}

/// Valid logs to begin with.
fn images() -> &'static [Image] {
    static IMAGES: OnceLock<Vec<Image>> = OnceLock::new();
    IMAGES.get_or_init(|| (0..6).map(image).collect())
}

fn image(seed: u64) -> Image {
    let mut random = Random(seed);
    let mut disk = SimDisk::new();
    let mut model = Model { churns: seed > 0, ..Model::default() };
    for start in 0..2 {
        let (mut wal, _) = Wal::open(&mut disk, small(start > 0), seed).expect("a fresh log");
        for round in 0..10 {
            for _ in 0..random.below(4) {
                if wal.has_room() {
                    let step = match random.below(16) {
                        0 => model.reset(&mut random),
                        1 => model.limit(&mut random),
                        _ => None,
                    };
                    let step = step.unwrap_or_else(|| model.next_step(&mut random, 60));
                    model.record(&mut wal, step);
                }
            }
            rig::settle(&mut wal, &mut disk);
            // Some are long enough for checkpoints and for a front that was given up.
            if seed > 2 && round > 3 {
                filler(&mut wal, &mut model, &mut disk);
            }
        }
        if seed % 2 == 1 {
            wal.close();
            rig::settle(&mut wal, &mut disk);
        }
    }
    Image::of(&disk, model)
}

fn filler(wal: &mut Wal, model: &mut Model, disk: &mut SimDisk) {
    let group = GroupId(9);
    if !model.now.groups.iter().any(|held| held.group == group) {
        model.record(wal, Step::Create(group));
    }
    let last = model.now.groups.iter().find(|held| held.group == group).map_or(0, |held| held.last().index.0);
    for index in last + 1..last + 3 {
        let entries = vec![entry(1, index, &vec![7; 50_000])];
        model.record(wal, Step::Write { group, hard_state: None, entries });
        rig::settle(wal, disk);
        model.record(wal, Step::Compact(group, LogIndex(index)));
        rig::settle(wal, disk);
    }
}
