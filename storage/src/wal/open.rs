//! Opening a log: what recovery decided is made durable before anybody is told anything. Blocking; runs before a core does.
//!
//! Every step leaves a log that can be opened again. What was read may have come from a cache that a power failure
//! would lose, so it is synced before it is used. After a clean stop the log goes on where it ended. Otherwise a new segment
//! begins, whose header names where the log was cut, so that nothing behind the cut comes back; only when the opening batch
//! is durable are files that no longer count removed or used again.

use super::config::WalConfig;
use super::error::{Place, WalError};
use super::files::{Files, Free, Handle};
use super::index::Index;
use super::prepare::Preparation;
use super::reader::execute;
use super::recovery::{LogEnd, Reading, Recovered, list, read};
use super::write::RESERVE_NUMBERS;
use crate::aligned::AlignedBuf;
use crate::format::batch::{self, BATCH_HEADER_BYTES, BatchHeader};
use crate::format::echo::Echo;
use crate::format::segment::{BATCHES_OFFSET, BatchPlace, PreviousSegment, SegmentHeader};
use crate::format::{BatchSeq, FORMAT_VERSION, Writer};
use crate::io::{BLOCK_BYTES, Directory, Disk, FileId, FileName, FilePath, IoOp, IoOutput, SegmentNumber, WriteMode};
use crate::seed::salt;

const ENOENT: i32 = 2;
/// Nothing else runs while a log opens, so that its first segment is zero-filled in large pieces.
const OPENING_ZERO_CHUNK_BYTES: u64 = 1 << 20;

/// A freshly opened log.
pub(crate) struct Opened {
    pub(crate) header: SegmentHeader,
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) last: BatchSeq,
    pub(crate) checksum: u32,
    pub(crate) recovered: Recovered,
    /// Whether recovery limited a replica that it found less limited.
    pub(crate) limited: bool,
    pub(crate) index: Index,
    pub(crate) files: Files,
    pub(crate) checkpoints: [Option<BatchPlace>; 2],
    /// Bytes behind the last checkpoint.
    pub(crate) replayed_bytes: u64,
    pub(crate) first_segment: SegmentNumber,
    pub(crate) spares: u64,
}

pub(crate) fn open(disk: &mut dyn Disk, config: &WalConfig, seed: u64) -> Result<Opened, WalError> {
    config.check()?;
    ensure_directory(disk, config)?;
    let reading = read(disk, config.wal)?;
    check_presence(config, &reading)?;
    for number in &reading.read {
        sync_segment(disk, FilePath::segment(config.wal, *number))?;
    }
    let (header, file, at) = match continued(disk, config, &reading)? {
        Some(continued) => continued,
        None => begin(disk, config, &reading, seed)?,
    };
    let checkpoints = reading.checkpoints();
    let first = reading.first.max(SegmentNumber(1));
    let opening = Opening { header, file, at, end: reading.end, first, echoes: echoes(&reading) };
    let (offset, checksum) = write_opening(disk, &opening)?;
    let (files, spares) = sort_files(disk, config, &reading, &opening)?;
    let last = opening.sequence();
    Ok(Opened {
        header,
        file,
        offset,
        last,
        checksum,
        replayed_bytes: reading.recovered.stats.bytes,
        first_segment: opening.first,
        limited: !reading.limited.is_empty(),
        recovered: reading.recovered,
        index: reading.index,
        files,
        checkpoints,
        spares,
    })
}

/// The echo of the last kept batch. If later ones are lost it would be taken for theirs.
fn echoes(reading: &Reading) -> Vec<Echo> {
    if reading.end.is_none_or(|end| end.lost) {
        return Vec::new();
    }
    let mut touched = reading.touched.clone();
    touched.sort_unstable();
    touched.dedup();
    touched.iter().map(|(group, replica)| reading.index.echo(*group, *replica)).collect()
}

/// Makes the directory of a log that no manifest names yet, and its entry durable: an earlier start may have been
/// killed between the two.
fn ensure_directory(disk: &mut dyn Disk, config: &WalConfig) -> Result<(), WalError> {
    let directory = Directory::Wal(config.wal);
    if config.initialised {
        return match disk.execute(IoOp::List(directory)) {
            Ok(_) => Ok(()),
            Err(error) if error.errno == ENOENT => Err(WalError::Missing { wal: config.wal }),
            Err(error) => Err(WalError::Io { place: Place::Directory(directory), error }),
        };
    }
    execute(disk, Place::Directory(directory), IoOp::MakeDirectory(directory))?;
    execute(disk, Place::Directory(Directory::Root), IoOp::SyncDirectory(Directory::Root)).map(drop)
}

/// Before the manifest names a log nothing is recorded in it, and after that it always has a segment and in it the
/// first opening batch, which was durable before the manifest was written.
fn check_presence(config: &WalConfig, reading: &Reading) -> Result<(), WalError> {
    if config.initialised && reading.end.is_none() {
        let segment = reading.files.iter().find_map(|(name, _)| name.segment());
        let number = segment.ok_or(WalError::Missing { wal: config.wal })?;
        let file = FilePath::segment(config.wal, number);
        return Err(WalError::Damaged { file, offset: BATCHES_OFFSET, sequence: BatchSeq(1) });
    }
    if !config.initialised && reading.holds_records {
        return Err(WalError::ManifestLost { wal: config.wal });
    }
    Ok(())
}

fn sync_segment(disk: &mut dyn Disk, path: FilePath) -> Result<(), WalError> {
    let place = Place::File(path);
    let (file, _) = open_file(disk, path)?;
    execute(disk, place, IoOp::Sync(file))?;
    execute(disk, place, IoOp::Close(file)).map(drop)
}

fn open_file(disk: &mut dyn Disk, path: FilePath) -> Result<(FileId, u64), WalError> {
    match execute(disk, Place::File(path), IoOp::Open(path))? {
        IoOutput::File { file, len } => Ok((file, len)),
        _ => panic!("the device answers an open with a file"),
    }
}

/// After a clean stop nothing stands behind the end, so that the log can go on there.
fn continued(
    disk: &mut dyn Disk,
    config: &WalConfig,
    reading: &Reading,
) -> Result<Option<(SegmentHeader, FileId, u64)>, WalError> {
    let (Some(end), Some(header)) = (reading.end, reading.newest) else { return Ok(None) };
    let highest = reading.files.iter().filter_map(|(name, _)| name.segment()).max();
    let room = header.segment_bytes.saturating_sub(end.offset) >= 2 * BLOCK_BYTES as u64;
    let same = header.version == FORMAT_VERSION && highest == Some(header.number);
    if !(reading.recovered.stats.clean && reading.recovered.damage.is_empty() && room && same) {
        return Ok(None);
    }
    let (file, _) = open_file(disk, FilePath::segment(config.wal, header.number))?;
    Ok(Some((header, file, end.offset)))
}

/// A new segment that continues the log at its end. Its number is above every number ever named, also of segments that
/// do not count.
fn begin(
    disk: &mut dyn Disk,
    config: &WalConfig,
    reading: &Reading,
    seed: u64,
) -> Result<(SegmentHeader, FileId, u64), WalError> {
    let highest = reading.files.iter().filter_map(|(name, _)| name.segment()).max();
    let exhausted = WalError::Exhausted { wal: config.wal };
    let number = highest.map_or(0, |number| number.0).checked_add(1);
    let number = number.filter(|n| *n < u64::from(u32::MAX / 2)).ok_or(exhausted)?;
    let header = SegmentHeader {
        version: FORMAT_VERSION,
        wal: config.wal,
        number: SegmentNumber(number),
        segment_bytes: config.segment_bytes,
        salt: salt(seed, number),
        previous: reading.end.map(|end| PreviousSegment { number: end.segment, end: end.offset }),
        // Everything kept was synced above.
        durable_upto: reading.end.map_or(BatchSeq(0), |end| end.sequence),
        first: if reading.end.is_some() { reading.first.max(SegmentNumber(1)) } else { SegmentNumber(number) },
        checkpoints: reading.checkpoints(),
        writer: Writer::this(),
    };
    let file = make_segment(disk, config, reading, header)?;
    Ok((header, file, BATCHES_OFFSET))
}

fn make_segment(
    disk: &mut dyn Disk,
    config: &WalConfig,
    reading: &Reading,
    header: SegmentHeader,
) -> Result<FileId, WalError> {
    let own = FileName::Spare(header.number);
    // A file that is there already and counts no more: best a segment that durable batches say the log begins behind. On a
    // full disk there may be room for nothing else.
    let mut named: Vec<(FileName, u64)> = reading.files.clone();
    named.sort_by_key(|(name, _)| matches!(name, FileName::Spare(_)));
    let spare = named.iter().find(|(name, bytes)| {
        let free = match name {
            FileName::Spare(_) => *name != own,
            FileName::Segment(number) => *number < reading.first,
            FileName::Manifest | FileName::ManifestNew => false,
        };
        free && *bytes == config.segment_bytes
    });
    // One with the new segment's name would be in its way; those of another length are of no use to anybody.
    for (name, bytes) in &reading.files {
        if matches!(name, FileName::Spare(_)) && (*bytes != config.segment_bytes || *name == own) {
            let path = FilePath::in_wal(config.wal, *name);
            execute(disk, Place::File(path), IoOp::Remove(path))?;
        }
    }
    let mut preparation = match spare {
        Some((name, _)) => {
            let path = FilePath::in_wal(config.wal, *name);
            let free = Free { path, written: name.segment().is_some() };
            Preparation::recycled(header, free, OPENING_ZERO_CHUNK_BYTES)
        }
        None => Preparation::fresh(header, OPENING_ZERO_CHUNK_BYTES),
    };
    let place = Place::File(preparation.path());
    while let Some(op) = preparation.op() {
        let output = execute(disk, place, op)?;
        preparation.handle(&output);
    }
    let (_, file) = preparation.ready().expect("a preparation without a next operation is ready");
    Ok(file)
}

/// Where the first batch of a start goes.
struct Opening {
    header: SegmentHeader,
    file: FileId,
    at: u64,
    end: Option<LogEnd>,
    first: SegmentNumber,
    /// How the groups stand that the last kept batch touched.
    echoes: Vec<Echo>,
}

impl Opening {
    fn sequence(&self) -> BatchSeq {
        self.end.map_or(BatchSeq(1), |end| end.sequence.next())
    }
}

/// The first batch of this start: without records yet, and durable before anything leaves the core. Returns where the
/// next batch goes, and this one's checksum.
fn write_opening(disk: &mut dyn Disk, opening: &Opening) -> Result<(u64, u32), WalError> {
    let mut buffer = AlignedBuf::zeroed(BATCH_HEADER_BYTES);
    opening.echoes.iter().for_each(|echo| buffer.extend_from_slice(&echo.encode()));
    let echo_len = u32::try_from(buffer.len() - BATCH_HEADER_BYTES).expect("a batch touches few groups");
    buffer.pad_to_block();
    let bytes = buffer.len() as u64;
    let segment = &opening.header;
    let header = BatchHeader {
        opening: true,
        clean: false,
        after_loss: opening.end.is_some_and(|end| end.lost),
        sequence: opening.sequence(),
        durable_upto: opening.sequence().previous(),
        previous_checksum: opening.end.map_or(0, |end| end.checksum),
        checksum: 0,
        echo_len,
        records_len: 0,
        record_count: 0,
        first_segment: opening.first,
    };
    let checksum = batch::seal(&mut buffer, header, segment.checksum_seed(), opening.at);
    let place = Place::File(FilePath::segment(segment.wal, segment.number));
    let op = IoOp::Write { file: opening.file, offset: opening.at, buffer, mode: WriteMode::Dsync };
    execute(disk, place, op)?;
    Ok((opening.at + bytes, checksum))
}

/// Which files are segments of the log, and which are free; the rest is removed.
fn sort_files(
    disk: &mut dyn Disk,
    config: &WalConfig,
    reading: &Reading,
    opening: &Opening,
) -> Result<(Files, u64), WalError> {
    let mut files = Files::default();
    let mut spares = 0;
    let newest_kept = reading.end.map(|end| end.segment);
    for (name, bytes) in list(disk, config.wal)?.names {
        let path = FilePath::in_wal(config.wal, name);
        let counts = match name {
            FileName::Segment(number) if number == opening.header.number => {
                files.add(number, Handle::Open(opening.file), bytes);
                continue;
            }
            FileName::Segment(number) if number >= opening.first && Some(number) <= newest_kept => {
                files.add(number, Handle::Closed, bytes);
                continue;
            }
            FileName::Spare(number) => {
                spares = spares.max(number.0.saturating_sub(RESERVE_NUMBERS));
                number.0 >= RESERVE_NUMBERS
            }
            FileName::Segment(_) => true,
            FileName::Manifest | FileName::ManifestNew => continue,
        };
        if counts && bytes == config.segment_bytes && files.free.len() < config.reserve_segments + 2 {
            files.free.push(Free { path, written: name.segment().is_some() });
        } else {
            execute(disk, Place::File(path), IoOp::Remove(path))?;
        }
    }
    Ok((files, spares))
}
