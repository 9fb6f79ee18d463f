//! Opening a log: what recovery decided is made durable, and a new segment begins, before anybody is told anything.
//! Blocking; runs before a core does.
//!
//! Every step leaves a log that can be opened again. What was read may have come from a cache that a power failure
//! would lose, so it is synced before it is used. The new segment's header names where the log was cut, so that nothing
//! behind the cut comes back; only when the opening batch is durable are files that no longer count removed.

use super::config::WalConfig;
use super::error::{Place, WalError};
use super::prepare::Preparation;
use super::reader::execute;
use super::recovery::{LogEnd, Reading, Recovered, read, segment_path};
use crate::aligned::AlignedBuf;
use crate::format::BatchSeq;
use crate::format::batch::{self, BatchHeader};
use crate::format::segment::{BATCHES_OFFSET, PreviousSegment, SegmentHeader};
use crate::io::{BLOCK_BYTES, Directory, Disk, FileId, FileName, FilePath, IoOp, IoOutput, SegmentNumber, WriteMode};
use crate::seed::salt;

const ENOENT: i32 = 2;
/// Nothing else runs while a log opens, so that its first segment is zero-filled in large pieces.
const OPENING_ZERO_CHUNK_BYTES: u64 = 1 << 20;

/// The segment a freshly opened log writes to.
pub(crate) struct Opened {
    pub(crate) header: SegmentHeader,
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) last: BatchSeq,
    pub(crate) checksum: u32,
    pub(crate) recovered: Recovered,
}

pub(crate) fn open(disk: &mut dyn Disk, config: &WalConfig, seed: u64) -> Result<Opened, WalError> {
    config.check()?;
    ensure_directory(disk, config)?;
    let reading = read(disk, config.wal)?;
    check_presence(config, &reading)?;
    for number in &reading.kept {
        sync_segment(disk, segment_path(config.wal, *number))?;
    }
    let header = next_header(config, &reading, seed)?;
    // A spare was never part of the log; one with the new segment's name would be in its way.
    remove_all(disk, config, &reading.files, |name| matches!(name, FileName::Spare(_)))?;
    let file = make_segment(disk, header)?;
    let (offset, checksum) = write_opening(disk, &header, file, reading.end)?;
    remove_all(disk, config, &reading.files, |name| match name {
        FileName::Segment(number) => !reading.kept.contains(&number),
        _ => false,
    })?;
    let last = header.durable_upto.next();
    Ok(Opened { header, file, offset, last, checksum, recovered: reading.recovered })
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
        let file = reading.first.ok_or(WalError::Missing { wal: config.wal })?;
        return Err(WalError::Damaged { file, offset: BATCHES_OFFSET, sequence: BatchSeq(1) });
    }
    if !config.initialised && reading.holds_records {
        return Err(WalError::ManifestLost { wal: config.wal });
    }
    Ok(())
}

fn sync_segment(disk: &mut dyn Disk, path: FilePath) -> Result<(), WalError> {
    let place = Place::File(path);
    let IoOutput::File { file, .. } = execute(disk, place, IoOp::Open(path))? else {
        panic!("the device answers an open with a file");
    };
    execute(disk, place, IoOp::Sync(file))?;
    execute(disk, place, IoOp::Close(file)).map(drop)
}

/// The header of the segment that continues the log at its end. Its number is above every number ever named, also of
/// segments that do not count.
fn next_header(config: &WalConfig, reading: &Reading, seed: u64) -> Result<SegmentHeader, WalError> {
    let highest = reading.files.iter().filter_map(|name| match name {
        FileName::Segment(number) | FileName::Spare(number) => Some(number.0),
        _ => None,
    });
    let exhausted = WalError::Exhausted { wal: config.wal };
    let number = highest.max().unwrap_or(0).checked_add(1).filter(|n| *n < u64::MAX / 2).ok_or(exhausted)?;
    Ok(SegmentHeader {
        wal: config.wal,
        number: SegmentNumber(number),
        segment_bytes: config.segment_bytes,
        salt: salt(seed, number),
        previous: reading.end.map(|end| PreviousSegment { number: end.segment, end: end.offset }),
        // Everything kept was synced above.
        durable_upto: reading.end.map_or(BatchSeq(0), |end| end.sequence),
    })
}

fn make_segment(disk: &mut dyn Disk, header: SegmentHeader) -> Result<FileId, WalError> {
    let mut preparation = Preparation::new(header, OPENING_ZERO_CHUNK_BYTES);
    let place = Place::File(preparation.path());
    while let Some(op) = preparation.op() {
        let output = execute(disk, place, op)?;
        preparation.handle(&output);
    }
    let (_, file) = preparation.ready().expect("a preparation without a next operation is ready");
    Ok(file)
}

/// The first batch of this start: without records yet, and durable before anything leaves the core. Returns where the
/// next batch goes, and this one's checksum.
fn write_opening(
    disk: &mut dyn Disk,
    segment: &SegmentHeader,
    file: FileId,
    end: Option<LogEnd>,
) -> Result<(u64, u32), WalError> {
    let mut buffer = AlignedBuf::zeroed(BLOCK_BYTES);
    let header = BatchHeader {
        opening: true,
        sequence: segment.durable_upto.next(),
        durable_upto: segment.durable_upto,
        previous_checksum: end.map_or(0, |end| end.checksum),
        checksum: 0,
        echo_len: 0,
        records_len: 0,
        record_count: 0,
    };
    let checksum = batch::seal(&mut buffer, header, segment.checksum_seed());
    let place = Place::File(segment_path(segment.wal, segment.number));
    let op = IoOp::Write { file, offset: BATCHES_OFFSET, buffer, mode: WriteMode::Dsync };
    execute(disk, place, op)?;
    Ok((BATCHES_OFFSET + BLOCK_BYTES as u64, checksum))
}

fn remove_all(
    disk: &mut dyn Disk,
    config: &WalConfig,
    files: &[FileName],
    dead: impl Fn(FileName) -> bool,
) -> Result<(), WalError> {
    for name in files.iter().copied().filter(|name| dead(*name)) {
        let path = FilePath { directory: Directory::Wal(config.wal), name };
        execute(disk, Place::File(path), IoOp::Remove(path))?;
    }
    Ok(())
}
