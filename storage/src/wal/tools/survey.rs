//! Which files of a log's directory count, and for how much.

use super::super::error::WalError;
use super::super::recovery::{Files, Link, list, read_header};
use crate::io::{Disk, FileName, FilePath, SegmentNumber, WalId};

/// What a file is to its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Its batches count.
    InUse,
    /// Its batches count up to this offset, in bytes: a start cut the log there, or it ended there.
    Cut {
        /// Where.
        end: u64,
    },
    /// The log goes on without it: a start made it and did not live to its first batch.
    Passed,
    /// Made ahead: the log will go on in it.
    Ahead,
    /// Given up; its file waits to become a segment again.
    Free,
    /// In the making, or kept for when the disk is full.
    Spare,
    /// A later segment continues it, and it is not there.
    Missing,
}

/// A file of a log's directory.
#[derive(Clone, Debug)]
pub(super) struct Surveyed {
    pub(super) file: FilePath,
    pub(super) bytes: u64,
    pub(super) state: SegmentState,
    /// Its header, if it can be read; free and spare files' are not.
    pub(super) link: Option<Link>,
    /// Why not.
    pub(super) trouble: Option<WalError>,
}

impl Surveyed {
    /// Whether it belongs to the log.
    pub(super) fn counts(&self) -> bool {
        matches!(self.state, SegmentState::InUse | SegmentState::Cut { .. } | SegmentState::Ahead)
    }

    /// Where what counts ends, in bytes.
    pub(super) fn limit(&self) -> u64 {
        match self.state {
            SegmentState::Cut { end } => end.min(self.bytes),
            _ => self.bytes,
        }
    }
}

/// All files of a log, in the order of their numbers. The log begins with segment `first` and its last batch is in `last`;
/// where these are not known, with whatever the newest header names, and in the newest.
pub(super) fn survey(
    disk: &mut dyn Disk,
    wal: WalId,
    first: Option<SegmentNumber>,
    last: Option<SegmentNumber>,
) -> Result<Vec<Surveyed>, WalError> {
    let files = list(disk, wal)?;
    let mut surveyed = segments(disk, wal, &files, first, last)?;
    surveyed.reverse();
    for (name, bytes) in &files.names {
        if matches!(name, FileName::Spare(_)) {
            let file = FilePath::in_wal(wal, *name);
            surveyed.push(Surveyed { file, bytes: *bytes, state: SegmentState::Spare, link: None, trouble: None });
        }
    }
    Ok(surveyed)
}

/// From the newest back: each names the one before it and where that ends.
fn segments(
    disk: &mut dyn Disk,
    wal: WalId,
    files: &Files,
    first: Option<SegmentNumber>,
    last: Option<SegmentNumber>,
) -> Result<Vec<Surveyed>, WalError> {
    let mut surveyed = Vec::new();
    let mut first = first.filter(|first| first.0 > 0);
    // The segment that must come next on the way back, and where it ends; `None` where a header is lost, so that the next
    // lower one is taken for it.
    let mut expected: Option<(SegmentNumber, u64, FilePath)> = None;
    let mut ended = false;
    for &number in files.segments.iter().rev() {
        let file = FilePath::segment(wal, number);
        let bytes = files.names.iter().find(|(name, _)| *name == file.name).map_or(0, |(_, bytes)| *bytes);
        let without_header = |state| Surveyed { file, bytes, state, link: None, trouble: None };
        if ended || first.is_some_and(|first| number < first) {
            surveyed.push(without_header(SegmentState::Free));
            continue;
        }
        if let Some((wanted, _, by)) = expected
            && number != wanted
        {
            if number > wanted {
                surveyed.push(without_header(SegmentState::Passed));
                continue;
            }
            surveyed.push(missing(wal, wanted, by));
            expected = None;
        }
        let end = expected.map_or(u64::MAX, |(_, end, _)| end);
        let state = match end {
            _ if last.is_some_and(|last| number > last) => SegmentState::Ahead,
            _ if end < bytes => SegmentState::Cut { end },
            _ => SegmentState::InUse,
        };
        match read_header(disk, wal, number) {
            Ok(link) => {
                first = first.or(Some(link.header.first));
                expected = link.header.previous.map(|previous| (previous.number, previous.end, file));
                ended = expected.is_none();
                surveyed.push(Surveyed { file, bytes, state, link: Some(link), trouble: None });
            }
            Err(error) if super::is_no_damage(&error) => return Err(error),
            Err(error) => {
                expected = None;
                surveyed.push(Surveyed { trouble: Some(error), ..without_header(state) });
            }
        }
    }
    if let Some((wanted, _, by)) = expected.filter(|(wanted, ..)| first.is_none_or(|first| *wanted >= first))
        && !files.segments.contains(&wanted)
        && !ended
    {
        surveyed.push(missing(wal, wanted, by));
    }
    Ok(surveyed)
}

fn missing(wal: WalId, number: SegmentNumber, named_by: FilePath) -> Surveyed {
    let file = FilePath::segment(wal, number);
    let trouble = Some(WalError::SegmentMissing { file, named_by });
    Surveyed { file, bytes: 0, state: SegmentState::Missing, link: None, trouble }
}
