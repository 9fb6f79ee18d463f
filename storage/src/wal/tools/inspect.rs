//! How a log stands.

use super::super::error::WalError;
use super::super::reader::SegmentReader;
use super::super::recovery::{Found, Reading, Recovered, RecoveredGroup, WINDOW_BYTES, look, read};
use super::survey::{SegmentState, Surveyed, survey};
use crate::format::segment::{BATCHES_OFFSET, BatchPlace};
use crate::format::{BatchSeq, Writer};
use crate::io::{BLOCK_BYTES, Disk, FileName, FilePath, WalId};

/// How a log stands.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// Which log.
    pub wal: WalId,
    /// Its files: segments by number, then spare files.
    pub segments: Vec<SegmentSummary>,
    /// What a start would find, but for the groups.
    pub recovered: Recovered,
    /// The groups, sorted.
    pub groups: Vec<GroupSummary>,
    /// The last two complete checkpoints, newest first.
    pub checkpoints: [Option<BatchPlace>; 2],
    /// How many groups were removed here and not created again.
    pub removed: usize,
}

/// One file.
#[derive(Clone, Debug)]
pub struct SegmentSummary {
    /// Its name.
    pub file: FilePath,
    /// Its length in bytes.
    pub bytes: u64,
    /// What it is to the log.
    pub state: SegmentState,
    /// Format version and writer, if its header was read.
    pub written: Option<(u16, Writer)>,
    /// Whole batches that count; those that the log lost are not among them.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of them, padding included.
    pub batch_bytes: u64,
    /// Sequences of the first and the last of them.
    pub sequences: Option<(BatchSeq, BatchSeq)>,
    /// Bytes of records that still count.
    pub live_bytes: u64,
    /// Why it can't be read.
    pub trouble: Option<WalError>,
}

/// One group.
#[derive(Clone, Debug)]
pub struct GroupSummary {
    /// As a start would find it.
    pub group: RecoveredGroup,
    /// How many places its entries stand in.
    pub runs: usize,
    /// Bytes of the records that hold them, and of the pieces of its snapshot.
    pub live_bytes: u64,
}

/// Reads how a log stands, as a start would find it, and counts what its segments hold. Blocking; reads all of it, with
/// memory for what a start keeps of each group.
///
/// # Errors
/// What would keep a start from opening it; [`super::verify`] says more then.
pub fn inspect(disk: &mut dyn Disk, wal: WalId) -> Result<Inspection, WalError> {
    super::settled(
        || inspect_once(disk, wal),
        |found, _| !found.recovered.damage.is_empty() || found.segments.iter().any(|file| file.trouble.is_some()),
    )
}

fn inspect_once(disk: &mut dyn Disk, wal: WalId) -> Result<Inspection, WalError> {
    let mut reading = read(disk, wal)?;
    let end = reading.end.map(|end| end.segment);
    let surveyed = survey(disk, wal, Some(reading.first), end)?;
    let mut segments = Vec::with_capacity(surveyed.len());
    for file in &surveyed {
        segments.push(summary(disk, &reading, file));
    }
    let checkpoints = reading.complete.map_or([None, None], |complete| [Some(complete.begin), complete.previous]);
    let groups = std::mem::take(&mut reading.recovered.groups);
    let groups = groups.into_iter().map(|group| group_summary(&reading, group)).collect();
    let removed = reading.index.removed.len();
    Ok(Inspection { wal, segments, recovered: reading.recovered, groups, checkpoints, removed })
}

fn group_summary(reading: &Reading, group: RecoveredGroup) -> GroupSummary {
    let slot = reading.index.slot(group.group).expect("made from the index");
    let tracked = reading.index.at(slot);
    let chunks = tracked.snapshot().into_iter().flat_map(|snapshot| snapshot.chunks.iter().map(|(_, place)| place));
    let places = tracked.runs.iter().map(|run| &run.place).chain(chunks);
    let live_bytes = places.map(|place| u64::from(place.len)).sum();
    GroupSummary { runs: tracked.runs.iter().count(), live_bytes, group }
}

fn summary(disk: &mut dyn Disk, reading: &Reading, surveyed: &Surveyed) -> SegmentSummary {
    let live_bytes = match surveyed.file.name {
        FileName::Segment(number) if surveyed.counts() => {
            u32::try_from(number.0).map_or(0, |number| reading.index.live_bytes(number))
        }
        _ => 0,
    };
    let mut summary = SegmentSummary {
        file: surveyed.file,
        bytes: surveyed.bytes,
        state: surveyed.state,
        written: surveyed.link.map(|link| (link.header.version, link.header.writer)),
        batches: 0,
        records: 0,
        batch_bytes: 0,
        sequences: None,
        live_bytes,
        trouble: surveyed.trouble.clone(),
    };
    if surveyed.counts()
        && let Err(error) = count(disk, surveyed, &mut summary)
    {
        summary.trouble = Some(error);
    }
    summary
}

/// Counts the whole batches of a segment, up to where it counts.
fn count(disk: &mut dyn Disk, surveyed: &Surveyed, summary: &mut SegmentSummary) -> Result<(), WalError> {
    let Some(link) = surveyed.link else { return Ok(()) };
    let seed = link.header.checksum_seed();
    let mut reader = SegmentReader::open(disk, surveyed.file, WINDOW_BYTES)?;
    let (mut offset, limit) = (BATCHES_OFFSET, surveyed.limit());
    let mut counted = Ok(());
    while offset + BLOCK_BYTES as u64 <= limit {
        match look(disk, &mut reader, seed, offset, limit) {
            Ok((Found::Whole(batch, bytes), _)) => {
                let sequence = batch.header.sequence;
                // Behind the log's end there may be batches of a write that was not the next.
                let first = summary.sequences.map_or(sequence, |(first, _)| first);
                summary.sequences = Some((first, sequence));
                summary.batches += 1;
                summary.records += u64::from(batch.header.record_count);
                summary.batch_bytes += bytes.len() as u64;
                offset += bytes.len() as u64;
            }
            Ok(_) => offset += BLOCK_BYTES as u64,
            Err(error) => {
                counted = Err(error);
                break;
            }
        }
    }
    reader.close(disk)?;
    counted
}
