//! Whether all of a log is what was written: every byte of every segment that counts, also below the last checkpoint,
//! which a start does not read.

use super::super::error::WalError;
use super::super::recovery::{Damage, Link, Proof, Proved, Reading, prove, read};
use super::finding::{Fault, Finding, Verification, VerifyStep};
use super::runs::{self, Counted, Unreadable};
use super::survey::{Surveyed, survey};
use crate::aligned::AlignedBuf;
use crate::format::BatchSeq;
use crate::format::segment::{BATCHES_OFFSET, SegmentHeader};
use crate::io::{BLOCK_BYTES, Directory, Disk, FilePath, IoOp, IoOutput, WalId};
use raftyard_raft::GroupId;
use raftyard_raft::Limit;

/// Reads all of a log. Blocking; memory as for a start. A damaged log is read twice.
///
/// # Errors
/// The directory can't be read, or the log is of another version. Damage is no error.
pub fn verify(disk: &mut dyn Disk, wal: WalId, each: &mut dyn FnMut(VerifyStep)) -> Result<Verification, WalError> {
    super::settled(
        || verify_once(disk, wal, each),
        |found, before| {
            if let Some(before) = before {
                let known = |finding: &Finding| {
                    before
                        .findings
                        .iter()
                        .any(|old| (old.file, old.offset, &old.fault) == (finding.file, finding.offset, &finding.fault))
                };
                found.findings.retain(known);
            }
            !found.findings.is_empty()
        },
    )
}

fn verify_once(disk: &mut dyn Disk, wal: WalId, each: &mut dyn FnMut(VerifyStep)) -> Result<Verification, WalError> {
    let mut findings = Vec::new();
    each(VerifyStep { phase: "recovery", done: 0, total: 1 });
    let reading = match read(disk, wal).and_then(|reading| presence(wal, reading)) {
        Ok(reading) => Some(reading),
        Err(error) if super::is_no_damage(&error) => return Err(error),
        Err(error) => {
            let (file, offset) = place_of(&error, wal);
            findings.push(Finding::new(file, offset, Fault::Refused(error)));
            None
        }
    };
    let first = reading.as_ref().map(|reading| reading.first);
    let end = reading.as_ref().and_then(|reading| reading.end).map(|end| end.segment);
    let surveyed = survey(disk, wal, first, end)?;
    let segments: Vec<(Link, u64)> =
        surveyed.iter().filter(|file| file.counts()).filter_map(|file| Some((file.link?, file.limit()))).collect();
    let total = segments.iter().map(|(_, limit)| limit).sum();
    let mut done = 0;
    let proved = prove(disk, &segments, |bytes| {
        done += bytes;
        each(VerifyStep { phase: "batches", done, total });
    });
    headers(disk, &surveyed, &mut findings);
    batches(&proved, reading.as_ref(), &mut findings);
    let mut counted = Counted::default();
    if let Some(reading) = &reading {
        files_lost(reading, &mut findings);
        let (total, mut done) = (reading.index.live_bytes_total(), 0);
        let (read, unreadable) = runs::check(disk, wal, reading, |bytes| {
            done += bytes;
            each(VerifyStep { phase: "entries", done, total });
        });
        counted = read;
        unreadable.into_iter().for_each(|lost| attribute(lost, &proved.proof, &mut findings));
    }
    findings.sort_by_key(|finding| (finding.file, finding.offset));
    findings.iter_mut().for_each(Finding::tidy);
    let Proved { stats, .. } = proved;
    Ok(Verification {
        wal,
        segments: segments.len(),
        batches: stats.batches,
        records: stats.records,
        checked_bytes: stats.checked_bytes,
        groups: reading.map_or(0, |reading| reading.recovered.groups.len()),
        entries: counted.entries,
        pieces: counted.pieces,
        last: stats.last,
        durable_upto: stats.durable_upto,
        tear: stats.tear,
        findings,
    })
}

/// A log that was ever opened has a batch.
fn presence(wal: WalId, reading: Reading) -> Result<Reading, WalError> {
    if reading.end.is_some() {
        return Ok(reading);
    }
    let segment = reading.files.iter().find_map(|(name, _)| name.segment());
    let file = segment.map(|number| FilePath::segment(wal, number));
    let damaged = |file| WalError::Damaged { file, offset: BATCHES_OFFSET, sequence: BatchSeq(1) };
    Err(file.map_or(WalError::Missing { wal }, damaged))
}

/// Where an error says that something is wrong.
fn place_of(error: &WalError, wal: WalId) -> (FilePath, u64) {
    use super::super::error::Place;
    match error {
        WalError::Damaged { file, offset, .. }
        | WalError::Malformed { file, offset, .. }
        | WalError::Unreadable { file, offset, .. } => (*file, *offset),
        WalError::HeaderDamaged { file }
        | WalError::Length { file, .. }
        | WalError::SegmentMissing { file, .. }
        | WalError::Misplaced { file }
        | WalError::Io { place: Place::File(file), .. } => (*file, 0),
        _ => (super::super::files::path(wal, 0), 0),
    }
}

/// Headers that can't be read, and copies of one that can.
fn headers(disk: &mut dyn Disk, surveyed: &[Surveyed], findings: &mut Vec<Finding>) {
    for file in surveyed {
        if let Some(trouble) = &file.trouble {
            tell_file(file.file, 0, trouble.clone(), findings);
        }
        if file.link.is_none() || !file.counts() {
            continue;
        }
        let Some(blocks) = first_blocks(disk, file.file) else { continue };
        for (copy, block) in blocks.chunks(BLOCK_BYTES).enumerate() {
            if SegmentHeader::decode(block).ok() != file.link.map(|link| link.header) {
                findings.push(Finding::new(file.file, (copy * BLOCK_BYTES) as u64, Fault::HeaderCopy));
            }
        }
    }
}

/// A start's refusal and what the file itself shows are told once.
fn tell_file(file: FilePath, offset: u64, error: WalError, findings: &mut Vec<Finding>) {
    let told = |known: &Finding| matches!(&known.fault, Fault::Refused(told) | Fault::File(told) if *told == error);
    if !findings.iter().any(told) {
        findings.push(Finding::new(file, offset, Fault::File(error)));
    }
}

fn first_blocks(disk: &mut dyn Disk, path: FilePath) -> Option<AlignedBuf> {
    let Ok(IoOutput::File { file, .. }) = disk.execute(IoOp::Open(path)) else { return None };
    let buffer = AlignedBuf::zeroed(usize::try_from(BATCHES_OFFSET).ok()?);
    let read = disk.execute(IoOp::Read { file, offset: 0, buffer });
    drop(disk.execute(IoOp::Close(file)));
    match read {
        Ok(IoOutput::Buffer(buffer)) => Some(buffer),
        _ => None,
    }
}

/// Lost batches, records that don't hold, and files that could not be read to their end.
fn batches(proved: &Proved, reading: Option<&Reading>, findings: &mut Vec<Finding>) {
    for (file, error) in &proved.failed {
        let (_, offset) = place_of(error, file_wal(*file));
        tell_file(*file, offset, error.clone(), findings);
    }
    for (file, offset, sequence, fault) in &proved.proof.records {
        findings.push(Finding::new(*file, *offset, Fault::Record { sequence: *sequence, fault: *fault }));
    }
    let explained: Vec<GroupId> = proved.damage.iter().filter_map(|hole| touched(proved, hole)).flatten().collect();
    for hole in &proved.damage {
        let Damage { file, offset, first, last, explained: is_explained } = *hole;
        let touched = touched(proved, hole);
        // A version that no start reads on with: the start's refusal says the same.
        findings.retain(
            |known| !matches!(known.fault, Fault::Refused(WalError::Damaged { sequence, .. }) if sequence == first),
        );
        let mut finding = Finding::new(file, offset, Fault::Batches { first, last, explained: is_explained });
        if let Some(reading) = reading.filter(|reading| sees(reading, hole)) {
            for &group in &reading.limited {
                let counts = touched.as_ref().map_or(!explained.contains(&group), |touched| touched.contains(&group));
                if counts {
                    finding.limited.push(group);
                    finding.lost.extend(lost_entries(reading, group).then_some(group));
                }
            }
        }
        finding.touched = touched;
        findings.push(finding);
    }
}

/// Groups that a start limits for want of a file: all that no lost batch accounts for.
fn files_lost(reading: &Reading, findings: &mut [Finding]) {
    let counted: Vec<GroupId> = findings.iter().flat_map(|finding| finding.limited.clone()).collect();
    let rest: Vec<GroupId> = reading.limited.iter().copied().filter(|group| !counted.contains(group)).collect();
    for finding in findings.iter_mut().filter(|finding| matches!(finding.fault, Fault::File(_))) {
        finding.limited.extend(&rest);
        finding.lost.extend(rest.iter().filter(|group| lost_entries(reading, **group)));
    }
}

fn file_wal(file: FilePath) -> WalId {
    match file.directory {
        Directory::Wal(wal) => wal,
        Directory::Root => WalId(0),
    }
}

/// The groups that an explained hole touched.
fn touched(proved: &Proved, hole: &Damage) -> Option<Vec<GroupId>> {
    let behind = proved.proof.behind.iter().find(|behind| hole.explained && behind.sequence == hole.last.next());
    behind.map(|behind| behind.touched.clone())
}

/// Whether a start gets to see these lost batches.
fn sees(reading: &Reading, hole: &Damage) -> bool {
    reading.recovered.damage.iter().any(|seen| seen.first <= hole.last && seen.last >= hole.first)
}

/// Whether a group's log ends below what it may have acknowledged.
fn lost_entries(reading: &Reading, group: GroupId) -> bool {
    let Some(slot) = reading.index.slot(group) else { return false };
    let tracked = reading.index.at(slot);
    match tracked.limit() {
        // Of an amnesiac one nobody knows.
        Limit::None | Limit::Amnesia => false,
        Limit::Bound(bound) => tracked.last.index < bound.index,
    }
}

/// What can't be read belongs to the damage it lies in, or is one of its own.
fn attribute(lost: Unreadable, proof: &Proof, findings: &mut Vec<Finding>) {
    let Unreadable { file, offset, group, entries } = lost;
    let holds = |finding: &&mut Finding| match &finding.fault {
        Fault::Batches { last, .. } => {
            let behind = proof.behind.iter().find(|behind| behind.sequence == last.next());
            let end = behind.filter(|behind| behind.file == file).map_or(u64::MAX, |behind| behind.offset);
            finding.file == file && (finding.offset..end).contains(&offset)
        }
        Fault::Record { .. } => finding.file == file && finding.offset == offset,
        Fault::File(_) => finding.file == file,
        _ => false,
    };
    match findings.iter_mut().find(holds) {
        Some(finding) => finding.lost.push(group),
        None => {
            let fault =
                entries.map_or(Fault::Snapshot { group }, |(first, last)| Fault::Entries { group, first, last });
            findings.push(Finding { lost: vec![group], ..Finding::new(file, offset, fault) });
        }
    }
}
