//! Rot: every flipped bit and every cut of a small log is either repaired by a second copy, cut off where nothing
//! acknowledged stood, or refused naming the very place. Read by the recovery alone, in memory.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_raft::{GroupId, NodeId, ReplicaId};
use raftyard_storage::format::batch::{BATCH_HEADER_BYTES, BatchHeader, claimed_bytes, seal};
use raftyard_storage::format::segment::decode_header;
use raftyard_storage::io::{BLOCK_BYTES, FilePath};
use raftyard_storage::sim::{SECTOR_BYTES, SimDisk};
use raftyard_storage::wal::{BatchSeq, Recovered, StoreId, WalError, read};
use rig::{Model, Random, Step, entry, open, segment, settle};

/// A log on its disk, and where its batches are.
struct Image {
    disk: SimDisk,
    model: Model,
    whole: Recovered,
    batches: Vec<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    file: FilePath,
    start: usize,
    end: usize,
    sequence: BatchSeq,
}

fn image(mut disk: SimDisk, model: Model) -> Image {
    let whole = read(&mut disk, rig::WAL).unwrap().recovered;
    let mut batches = Vec::new();
    for path in disk.paths(raftyard_storage::io::Directory::Wal(rig::WAL)) {
        let content = disk.content(path).unwrap();
        let seed = decode_header(&content[..2 * BLOCK_BYTES]).unwrap().checksum_seed();
        let mut start = 2 * BLOCK_BYTES;
        while let Some(bytes) = content.get(start..).and_then(|rest| claimed_bytes(rest, seed)) {
            let end = start + bytes as usize;
            batches.push(Place { file: path, start, end, sequence: BatchSeq(batches.len() as u64 + 1) });
            start = end;
        }
    }
    assert_eq!(batches.len() as u64, whole.stats.batches);
    Image { disk, model, whole, batches }
}

/// Two starts: the second segment's header says where the first was left.
fn restarted() -> Image {
    let mut disk = SimDisk::new();
    let mut model = Model::default();
    let mut random = Random(9);
    for start in 0..2 {
        let (mut wal, _) = open(&mut disk, start > 0).unwrap();
        for _ in 0..4 {
            for _ in 0..3 {
                let step = model.next_step(&mut random, 200);
                model.record(&mut wal, step);
            }
            settle_batches(&mut wal, &mut disk);
        }
    }
    image(disk, model)
}

/// One start that filled its first segment and went on in the next.
fn rolled_over() -> Image {
    let mut disk = SimDisk::new();
    let mut model = Model::default();
    let (mut wal, _) = open(&mut disk, false).unwrap();
    model.record(&mut wal, Step::Create(GroupId(1)));
    for index in 1..7 {
        let entries = vec![entry(1, index, &vec![index as u8; 50_000])];
        model.record(&mut wal, Step::Write { group: GroupId(1), hard_state: None, entries });
        settle(&mut wal, &mut disk);
    }
    model.record(&mut wal, Step::Peer(NodeId(2), StoreId(3)));
    settle(&mut wal, &mut disk);
    image(disk, model)
}

/// Writes what fills, and not the next segment, so that only starts make segments.
fn settle_batches(wal: &mut raftyard_storage::wal::Wal, disk: &mut SimDisk) {
    wal.submit();
    while let Some((id, op)) = wal.poll_io() {
        if matches!(op, raftyard_storage::io::IoOp::Write { .. }) {
            let result = raftyard_storage::io::Disk::execute(disk, op);
            wal.handle_io(id, result);
        }
    }
    assert!(wal.is_idle());
}

impl Image {
    /// What recovery must say when the byte at `at` of `file` is not what was written.
    fn check(&mut self, file: FilePath, at: usize) {
        let result = read(&mut self.disk, rig::WAL);
        let hit = self.batches.iter().find(|b| b.file == file && (b.start..b.end).contains(&at));
        let Some(hit) = hit else {
            // A header's copy, or room nobody wrote to.
            assert_eq!(content(result.unwrap().recovered), content(self.whole.clone()), "{file} at {at}");
            return;
        };
        if hit.sequence <= self.whole.stats.durable_upto {
            let expected = WalError::Damaged { file, offset: hit.start as u64, sequence: hit.sequence };
            assert_eq!(result.unwrap_err(), expected, "at {at}");
        } else {
            // The newest batch, which nothing later proves: rot can't be told from a tear.
            let recovered = result.unwrap().recovered;
            assert_eq!(recovered.stats.last.next(), hit.sequence, "{file} at {at}");
            assert_eq!(recovered.stats.tear, Some((file, hit.start as u64)));
            self.model.check(&recovered, BatchSeq(0));
        }
    }

    fn flip_and_check(&mut self, file: FilePath, bit: usize) {
        self.disk.damage(file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        self.check(file, bit / 8);
        self.disk.damage(file, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
    }

    /// What recovery says when some batches are zeroes.
    fn without(&mut self, lost: std::ops::Range<usize>) -> WalError {
        let mut kept = Vec::new();
        for place in &self.batches[lost] {
            self.disk.damage(place.file, |bytes| {
                kept.push((*place, bytes[place.start..place.end].to_vec()));
                bytes[place.start..place.end].fill(0);
            });
        }
        let error = read(&mut self.disk, rig::WAL).unwrap_err();
        for (place, written) in kept.iter().rev() {
            self.disk.damage(place.file, |bytes| bytes[place.start..place.end].copy_from_slice(written));
        }
        error
    }

    fn files(&self) -> Vec<FilePath> {
        let mut files: Vec<FilePath> = self.batches.iter().map(|b| b.file).collect();
        files.dedup();
        files
    }
}

fn content(recovered: Recovered) -> impl PartialEq + std::fmt::Debug {
    (recovered.groups, recovered.peers, recovered.stats.last)
}

/// Every bit with optimisation; without, a part, so that the test stays quick.
const STRIDE: usize = if cfg!(debug_assertions) { 61 } else { 1 };

#[test]
fn every_flipped_bit_of_a_small_log_is_noticed_or_harmless() {
    let mut image = restarted();
    assert_eq!(image.files(), [segment(1), segment(2)]);
    assert_eq!(image.whole.stats.last.0, image.whole.stats.durable_upto.0 + 1);
    for file in image.files() {
        let written = image.batches.iter().filter(|b| b.file == file).map(|b| b.end).max().unwrap();
        // One block behind the last batch stands for all the zeroes after it.
        for bit in (0..(written + BLOCK_BYTES) * 8).step_by(STRIDE) {
            image.flip_and_check(file, bit);
        }
    }
}

#[test]
fn flipped_bits_round_the_end_of_a_segment_are_noticed_or_harmless() {
    let mut image = rolled_over();
    assert_eq!(image.files(), [segment(1), segment(2)]);
    for place in image.batches.clone() {
        // The header and some of the payload of each; the test above has every bit of smaller ones.
        let header = (place.start * 8..(place.start + 256) * 8).step_by(STRIDE.min(7));
        for bit in header.chain((place.start * 8..place.end * 8).step_by(10_007)) {
            image.flip_and_check(place.file, bit);
        }
    }
    // A batch that is gone without a trace, as by a write that went elsewhere.
    for place in image.batches.clone() {
        let mut kept = Vec::new();
        image.disk.damage(place.file, |bytes| {
            kept = bytes[place.start..place.end].to_vec();
            bytes[place.start..place.end].fill(0);
        });
        let result = read(&mut image.disk, rig::WAL);
        if place.sequence <= image.whole.stats.durable_upto {
            let (file, offset, sequence) = (place.file, place.start as u64, place.sequence);
            assert_eq!(result.unwrap_err(), WalError::Damaged { file, offset, sequence });
        } else {
            assert_eq!(result.unwrap().recovered.stats.last.next(), place.sequence);
        }
        image.disk.damage(place.file, |bytes| bytes[place.start..place.end].copy_from_slice(&kept));
    }
}

#[test]
fn every_cut_of_a_segment_is_refused() {
    let mut image = restarted();
    for file in image.files() {
        let whole = image.disk.content(file).unwrap().to_vec();
        for len in (0..whole.len()).rev().step_by(STRIDE) {
            image.disk.damage(file, |bytes| bytes.truncate(len));
            // Zero-filling and length were durable before the file became a segment: no crash cuts it.
            let error = read(&mut image.disk, rig::WAL).unwrap_err();
            let named = match error {
                WalError::Length { file: named, bytes, .. } => named == file && bytes == len as u64,
                WalError::HeaderDamaged { .. } => len < BLOCK_BYTES,
                _ => false,
            };
            assert!(named, "{len}: {error}");
        }
        image.disk.damage(file, |bytes| bytes.clone_from(&whole));
        image.disk.damage(file, |bytes| bytes.push(0));
        assert!(matches!(read(&mut image.disk, rig::WAL), Err(WalError::Length { .. })));
        image.disk.damage(file, |bytes| bytes.clone_from(&whole));
    }
    assert_eq!(read(&mut image.disk, rig::WAL).unwrap().recovered, image.whole);
}

#[test]
fn every_part_of_the_last_sectors_missing_is_a_tear() {
    let mut disk = SimDisk::new();
    let mut model = Model::default();
    let (mut wal, _) = open(&mut disk, false).unwrap();
    model.record(&mut wal, Step::Create(GroupId(1)));
    settle_batches(&mut wal, &mut disk);
    let entries = vec![entry(1, 1, &[0xab; 8000])];
    model.record(&mut wal, Step::Write { group: GroupId(1), hard_state: None, entries });
    settle_batches(&mut wal, &mut disk);
    let mut image = image(disk, model);
    let last = *image.batches.last().unwrap();
    assert_eq!(last.end - last.start, 2 * BLOCK_BYTES);
    let written = image.disk.content(last.file).unwrap()[last.start..last.end].to_vec();
    // The batch has 16 sectors, all with something in them; each subset of 12 is lost, first ones included.
    for lost in 1u32..1 << 12 {
        image.disk.damage(last.file, |bytes| {
            for sector in (0..12).filter(|sector| lost & (1 << sector) != 0) {
                let start = last.start + sector * SECTOR_BYTES;
                bytes[start..start + SECTOR_BYTES].fill(0);
            }
        });
        let recovered = read(&mut image.disk, rig::WAL).unwrap().recovered;
        assert_eq!(recovered.stats.last.next(), last.sequence);
        assert_eq!(recovered.stats.tear, Some((last.file, last.start as u64)));
        image.model.check(&recovered, image.whole.stats.durable_upto);
        image.disk.damage(last.file, |bytes| bytes[last.start..last.end].copy_from_slice(&written));
    }
}

#[test]
fn missing_and_misplaced_segments_are_refused() {
    let remove = |disk: &mut SimDisk, path| {
        drop(raftyard_storage::io::Disk::execute(disk, raftyard_storage::io::IoOp::Remove(path)))
    };
    let mut image = restarted();
    remove(&mut image.disk, segment(1));
    let error = read(&mut image.disk, rig::WAL).unwrap_err();
    assert_eq!(error, WalError::SegmentMissing { file: segment(1), named_by: segment(2) });
    let mut image = restarted();
    let op = raftyard_storage::io::IoOp::Rename { from: segment(2), to: segment(7) };
    raftyard_storage::io::Disk::execute(&mut image.disk, op).unwrap();
    assert_eq!(read(&mut image.disk, rig::WAL).unwrap_err(), WalError::Misplaced { file: segment(7) });
    let mut image = restarted();
    image.disk.damage(segment(2), |bytes| bytes[..2 * BLOCK_BYTES].fill(0));
    assert_eq!(read(&mut image.disk, rig::WAL).unwrap_err(), WalError::HeaderDamaged { file: segment(2) });
}

#[test]
fn bytes_behind_a_cut_never_come_back() {
    let mut image = restarted();
    let last = *image.batches.last().unwrap();
    let whole = image.disk.content(last.file).unwrap().to_vec();
    image.disk.damage(last.file, |bytes| bytes[last.start + 100] ^= 1);
    // The start cuts the damaged batch off, and goes on elsewhere.
    let (mut wal, recovered) = open(&mut image.disk, true).unwrap();
    assert_eq!(recovered.stats.last.next(), last.sequence);
    wal.record_group(GroupId(1), ReplicaId(1), None, (&[], &[]));
    settle_batches(&mut wal, &mut image.disk);
    // Now the old bytes read well again, as after a bad cable: they stay cut off.
    image.disk.damage(last.file, |bytes| bytes.clone_from(&whole));
    let again = read(&mut image.disk, rig::WAL).unwrap().recovered;
    assert_eq!(again.groups, recovered.groups);
    assert_eq!(again.stats.last, wal.released());
}

/// Batches that are gone without a trace at the border of two segments. The first of a segment used to be looked for at
/// the end of the one before, and the last of a segment in the next one when that had a torn batch.
#[test]
fn what_is_missing_at_the_border_of_two_segments_is_named_where_it_stood() {
    for (mut image, torn) in [(rolled_over(), false), (rolled_over(), true), (restarted(), false), (restarted(), true)]
    {
        if torn {
            let newest = *image.batches.last().unwrap();
            image.disk.damage(newest.file, |bytes| bytes[newest.start + 100] ^= 1);
        }
        let first = image.batches.iter().position(|batch| batch.file == segment(2)).unwrap();
        for lost in [first - 2..first, first - 1..first, first..first + 1] {
            let error = image.without(lost.clone());
            let Place { file, start, sequence, .. } = image.batches[lost.start];
            let expected = WalError::Damaged { file, offset: start as u64, sequence };
            assert_eq!(error, expected, "{lost:?}, torn: {torn}");
        }
        // One on each side: the room that is free in the next segment may have held both, so either place is right.
        let (a, b) = (image.batches[first - 1], image.batches[first]);
        let WalError::Damaged { file, offset, sequence } = image.without(first - 1..first + 1) else { panic!() };
        assert_eq!(sequence, a.sequence);
        assert!([a, b].map(|place| (place.file, place.start as u64)).contains(&(file, offset)));
    }
}

/// A torn value whose every block begins like a batch that takes the rest of the segment: each claim used to be
/// checksummed to its end, in time quadratic in the segment. Who wrote the value can't know the salt.
#[test]
fn forged_headers_in_a_torn_value_cost_no_more_than_other_bytes() {
    let mut disk = SimDisk::new();
    let (mut wal, _) = open(&mut disk, false).unwrap();
    rig::settle(&mut wal, &mut disk);
    let entries = [entry(1, 1, &[0xab; 60_000])];
    wal.record_creation(GroupId(1), ReplicaId(1), &rig::configuration());
    wal.record_group(GroupId(1), ReplicaId(1), None, (&entries, &[]));
    settle_batches(&mut wal, &mut disk);
    let start = 3 * BLOCK_BYTES;
    let forged = |len: usize| {
        let mut batch = vec![0; len];
        let records_len = (len - BATCH_HEADER_BYTES) as u32;
        let (sequence, durable_upto) = (BatchSeq(9), BatchSeq(8));
        let header = BatchHeader {
            opening: false,
            sequence,
            durable_upto,
            previous_checksum: 0,
            checksum: 0,
            echo_len: 0,
            records_len,
            record_count: 0,
        };
        seal(&mut batch, header, 0x5eed);
        batch
    };
    disk.damage(segment(1), |bytes| {
        for block in (start + BLOCK_BYTES..start + 60_000).step_by(BLOCK_BYTES) {
            let header = &forged(bytes.len() - block)[..BATCH_HEADER_BYTES];
            bytes[block..block + BATCH_HEADER_BYTES].copy_from_slice(header);
        }
    });
    let stats = read(&mut disk, rig::WAL).unwrap().recovered.stats;
    assert_eq!((stats.last, stats.tear), (BatchSeq(1), Some((segment(1), start as u64))));
    assert!(stats.checked_bytes <= 2 * rig::SEGMENT_BYTES, "{} bytes checksummed", stats.checked_bytes);
}

/// The power fails for a log of one segment and everything behind its header is gone: nothing left in it says what was
/// durable, but the manifest does, since the opening batch was durable before it. A start used to begin afresh here and
/// to remove the segment.
#[test]
fn a_log_that_the_manifest_names_and_that_holds_no_batch_is_damaged() {
    let mut disk = SimDisk::new();
    let (mut wal, _) = open(&mut disk, false).unwrap();
    wal.record_creation(GroupId(1), ReplicaId(1), &rig::configuration());
    settle_batches(&mut wal, &mut disk);
    disk.damage(segment(1), |bytes| bytes[2 * BLOCK_BYTES..].fill(0));
    let expected = WalError::Damaged { file: segment(1), offset: 8192, sequence: BatchSeq(1) };
    refused_untouched(&mut disk, &expected);
    // Without a manifest it is a first start that was cut short.
    assert!(open(&mut disk, false).unwrap().1.groups.is_empty());
}

#[test]
fn a_start_on_a_damaged_log_is_refused_and_changes_nothing() {
    let mut image = rolled_over();
    for place in image.batches.clone() {
        if place.sequence > image.whole.stats.durable_upto {
            continue;
        }
        image.disk.damage(place.file, |bytes| bytes[place.start + 70] ^= 4);
        let expected = WalError::Damaged { file: place.file, offset: place.start as u64, sequence: place.sequence };
        refused_untouched(&mut image.disk, &expected);
        assert_eq!(
            expected.to_string(),
            format!("{} at byte {}: batch {} was durable and is damaged", place.file, place.start, place.sequence)
        );
        image.disk.damage(place.file, |bytes| bytes[place.start + 70] ^= 4);
    }
    image.disk.damage(segment(1), |bytes| bytes[..2 * BLOCK_BYTES].fill(0));
    refused_untouched(&mut image.disk, &WalError::HeaderDamaged { file: segment(1) });
}

/// Starts a log that the manifest names and asserts that it is refused so, and that every byte stays.
fn refused_untouched(disk: &mut SimDisk, expected: &WalError) {
    let bytes = |disk: &SimDisk| -> Vec<(FilePath, Vec<u8>)> {
        let paths = disk.paths(raftyard_storage::io::Directory::Wal(rig::WAL));
        paths.into_iter().map(|path| (path, disk.content(path).unwrap().to_vec())).collect()
    };
    let before = bytes(disk);
    assert_eq!(open(disk, true).map(|(_, recovered)| recovered).as_ref(), Err(expected));
    assert!(bytes(disk) == before, "{expected}: the start changed the disk");
}
