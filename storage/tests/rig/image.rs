//! A log as it lies on its disk, taken apart: where its batches are, whom each of them touched, and what all of them up
//! to each one add up to.

use super::memory::MemDisk;
use super::{Model, State, WAL};
use raftyard_raft::GroupId;
use raftyard_storage::format::batch::{claimed_bytes, decode};
use raftyard_storage::format::record::{Record, decode_all};
use raftyard_storage::format::segment::{BATCHES_OFFSET, SegmentHeader, decode_header};
use raftyard_storage::io::{BLOCK_BYTES, Directory, FileName, FilePath};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{BatchSeq, Recovered, read};
use std::collections::BTreeSet;
use std::ops::Range;

/// One batch.
#[derive(Clone, Debug)]
pub struct Batch {
    pub file: FilePath,
    pub bytes: Range<usize>,
    pub sequence: BatchSeq,
    pub durable_upto: BatchSeq,
    pub after_loss: bool,
    /// Whose records are in it.
    pub touched: BTreeSet<GroupId>,
    pub kinds: BTreeSet<&'static str>,
}

/// A log on its disk.
pub struct Image {
    pub disk: MemDisk,
    pub model: Model,
    pub whole: Recovered,
    /// By sequence, without a gap.
    pub batches: Vec<Batch>,
    pub headers: Vec<(FilePath, SegmentHeader)>,
    /// What all batches up to each sequence add up to; the same without compaction.
    pub states: Vec<State>,
    pub uncompacted: Vec<State>,
}

/// Other bytes at a place.
#[derive(Clone, Debug)]
pub struct Change {
    pub file: FilePath,
    pub at: usize,
    pub bytes: Vec<u8>,
}

/// What a change hit.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    pub lost: BTreeSet<BatchSeq>,
    /// A copy of a segment's header is not what it was; of some segment, both are.
    pub header: bool,
    pub headers: bool,
}

impl Image {
    pub fn of(disk: &SimDisk, model: Model) -> Image {
        let mut disk = MemDisk::of(disk, Directory::Wal(WAL));
        let whole = read(&mut disk, WAL).unwrap().recovered;
        let mut headers: Vec<(FilePath, SegmentHeader)> = Vec::new();
        let mut batches = Vec::new();
        // From the newest one back: a file that was made ahead and never written to is not of the log.
        for (path, content) in disk.files.iter().rev() {
            let next = headers.last().and_then(|(_, header)| header.previous).map(|previous| previous.number);
            let follows = |number| headers.is_empty() || next == Some(number);
            if !matches!(path.name, FileName::Segment(n) if follows(n) && n >= whole.stats.first_segment) {
                continue;
            }
            headers.push((*path, decode_header(&content[..2 * BLOCK_BYTES]).unwrap()));
        }
        headers.reverse();
        for (path, header) in &headers {
            let content = &disk.files[path];
            let (seed, mut start) = (header.checksum_seed(), BATCHES_OFFSET as usize);
            while let Some(bytes) = content.get(start..).and_then(|rest| claimed_bytes(rest, seed, start as u64)) {
                let end = start + bytes as usize;
                batches.push(batch(*path, start..end, &content[start..end], header));
                start = end;
            }
        }
        assert!(batches.windows(2).all(|pair| pair[0].sequence.next() == pair[1].sequence), "{batches:?}");
        assert_eq!(batches.last().map(|batch| batch.sequence), Some(whole.stats.last));
        let all = || (0..=whole.stats.last.0).map(BatchSeq);
        let states = all().map(|last| model.state(last)).collect();
        let uncompacted = all().map(|last| model.uncompacted(last)).collect();
        Image { disk, model, whole, batches, headers, states, uncompacted }
    }

    pub fn batch(&self, sequence: BatchSeq) -> Option<&Batch> {
        let first = self.batches.first()?.sequence;
        self.batches.get(usize::try_from(sequence.0.checked_sub(first.0)?).ok()?)
    }

    /// Every block of the log that something stands in: of its headers and of its batches.
    pub fn blocks(&self) -> Vec<(FilePath, usize)> {
        let headers = self.headers.iter().flat_map(|(file, _)| [(*file, 0), (*file, BLOCK_BYTES)]);
        let batches = self.batches.iter().flat_map(|b| b.bytes.clone().step_by(BLOCK_BYTES).map(|at| (b.file, at)));
        let mut blocks: Vec<_> = headers.chain(batches).collect();
        blocks.sort_unstable();
        blocks
    }

    /// What stood at the places of the log's blocks at earlier times, in whatever file there was then.
    pub fn earlier(&self, past: &[MemDisk]) -> Vec<Change> {
        let mut earlier = Vec::new();
        for (file, at) in self.blocks() {
            let now = self.content(file, at..at + BLOCK_BYTES);
            let mut blocks: BTreeSet<&[u8]> = BTreeSet::new();
            for content in past.iter().flat_map(|disk| disk.files.values()) {
                blocks.extend(content.get(at..at + BLOCK_BYTES).filter(|block| *block != now));
            }
            earlier.extend(blocks.into_iter().map(|block| Change { file, at, bytes: block.to_vec() }));
        }
        earlier
    }

    pub fn content(&self, file: FilePath, bytes: Range<usize>) -> &[u8] {
        &self.disk.files[&file][bytes]
    }

    /// A change that leaves nothing but zeroes of a batch.
    pub fn without(&self, batch: &Batch) -> Change {
        Change { file: batch.file, at: batch.bytes.start, bytes: vec![0; batch.bytes.len()] }
    }

    /// What changes hit: bytes that are what they were are none.
    pub fn hit(&self, changes: &[Change]) -> Hit {
        let mut hit = Hit::default();
        let mut copies = BTreeSet::new();
        for change in changes {
            let was = self.content(change.file, change.at..change.at + change.bytes.len());
            let differs = |from: usize, to: usize| {
                let from = from.clamp(change.at, change.at + change.bytes.len()) - change.at;
                let to = to.clamp(change.at, change.at + change.bytes.len()) - change.at;
                was[from..to] != change.bytes[from..to]
            };
            for batch in self.batches.iter().filter(|batch| batch.file == change.file) {
                if differs(batch.bytes.start, batch.bytes.end) {
                    hit.lost.insert(batch.sequence);
                }
            }
            let counts = self.headers.iter().any(|(file, _)| *file == change.file);
            copies.extend(
                (0..2)
                    .filter(|copy| counts && differs(copy * BLOCK_BYTES, (copy + 1) * BLOCK_BYTES))
                    .map(|copy| (change.file, copy)),
            );
        }
        hit.header = !copies.is_empty();
        hit.headers = copies.iter().any(|(file, _)| copies.contains(&(*file, 0)) && copies.contains(&(*file, 1)));
        hit
    }
}

/// Changes a disk, and gives back what undoes it.
pub fn change(disk: &mut MemDisk, changes: &[Change]) -> Vec<Change> {
    let mut undo = Vec::new();
    for Change { file, at, bytes } in changes {
        let place = &mut disk.bytes(*file)[*at..*at + bytes.len()];
        undo.push(Change { file: *file, at: *at, bytes: place.to_vec() });
        place.copy_from_slice(bytes);
    }
    undo.reverse();
    undo
}

fn batch(file: FilePath, range: Range<usize>, bytes: &[u8], header: &SegmentHeader) -> Batch {
    let found = decode(bytes, header.checksum_seed(), range.start as u64).unwrap();
    let (mut touched, mut kinds) = (BTreeSet::new(), BTreeSet::new());
    decode_all(header.version, found.records, found.header.record_count, |record, _, _| {
        let (kind, group) = match record {
            Record::Creation { group, .. } => ("creation", Some(group)),
            Record::Group(record) => ("group", Some(record.group)),
            Record::Relocated(record) => ("relocated", Some(record.group)),
            Record::State(state) => ("state", Some(state.group)),
            Record::Removal { group, .. } => ("removal", Some(group)),
            Record::Chunk(chunk) => ("chunk", Some(chunk.group)),
            Record::Peer { .. } => ("peer", None),
            Record::Promise { .. } => ("promise", None),
            Record::Checkpoint(_) => ("checkpoint", None),
        };
        touched.extend(group);
        kinds.insert(kind);
        Ok(())
    })
    .unwrap();
    if !found.echo.is_empty() {
        kinds.insert("echo");
    }
    let raftyard_storage::format::batch::BatchHeader { sequence, durable_upto, after_loss, .. } = found.header;
    Batch { file, bytes: range, sequence, durable_upto, after_loss, touched, kinds }
}
