//! Checkpoints: everything that records add up to, item by item, in parts that lie among the other records of a log. A
//! part says how things stand at its own place, so a checkpoint is made while the log runs, and counts when its last part
//! is there.

use super::BatchSeq;
use super::StoreId;
use super::field::{Fields, put};
use super::record::{State, read_state, write_state};
use super::segment::BatchPlace;
use bytes::Bytes;
use raftyard_raft::{GroupId, LogIndex, LogPosition, NodeId, ReplicaId, Term};
use std::time::Duration;

/// Bytes of an item beside its body.
const ITEM_HEADER_BYTES: usize = 8;
const TAG_GROUP: u32 = 1;
const TAG_REMOVED: u32 = 2;
const TAG_PEER: u32 = 3;
const TAG_PROMISE: u32 = 4;
const TAG_END: u32 = 5;

/// A part of a checkpoint: some of its items. An item that is cut goes on in the next part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The first part.
    pub first: bool,
    /// The last part.
    pub last: bool,
    /// The last item goes on in the next part; nothing else stands between.
    pub cut: bool,
    /// Sequence of the batch with the first part.
    pub checkpoint: BatchSeq,
    /// The items.
    pub items: &'a [u8],
}

impl<'a> Part<'a> {
    const FLAG_FIRST: u8 = 1;
    const FLAG_LAST: u8 = 2;
    const FLAG_CUT: u8 = 4;
    pub(super) const FLAGS: u8 = 7;

    pub(crate) fn flags(&self) -> u8 {
        let flag = |is: bool, flag| if is { flag } else { 0 };
        flag(self.first, Self::FLAG_FIRST) | flag(self.last, Self::FLAG_LAST) | flag(self.cut, Self::FLAG_CUT)
    }

    pub(super) fn decode(body: &mut Fields<'a>, flags: u8) -> Option<Part<'a>> {
        let has = |flag| flags & flag != 0;
        let checkpoint = BatchSeq(body.u64()?);
        let items = body.rest();
        let (first, last, cut) = (has(Self::FLAG_FIRST), has(Self::FLAG_LAST), has(Self::FLAG_CUT));
        (!(last && cut)).then_some(Part { first, last, cut, checkpoint, items })
    }
}

/// Where a run of a group's entries, or a piece of its snapshot, stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// How many entries of it count; zero for a piece of a snapshot.
    pub count: u32,
    /// The segment; [`u32::MAX`] for the batch that the item begins in.
    pub segment: u32,
    /// Where its record starts, in bytes: in the segment, or in that batch.
    pub offset: u32,
    /// The length of the record, in bytes.
    pub len: u32,
}

impl Stretch {
    const BYTES: usize = 16;

    fn write(&self, out: &mut Vec<u8>) {
        for number in [self.count, self.segment, self.offset, self.len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<Stretch> {
        Some(Stretch { count: fields.u32()?, segment: fields.u32()?, offset: fields.u32()?, len: fields.u32()? })
    }
}

/// One group, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupItem {
    /// Everything but entries.
    pub state: State,
    /// First positions of runs of equal terms, above the base.
    pub terms: Vec<LogPosition>,
    /// Where the entries stand, from the one after the base on, without a gap.
    pub runs: Vec<Stretch>,
    /// The configurations among the entries: index, data of the entry.
    pub configurations: Vec<(LogIndex, Bytes)>,
    /// Where the pieces of its snapshot stand, in order.
    pub chunks: Vec<Stretch>,
    /// The position of a snapshot that is being recorded, and where its pieces stand: the record that names it may come
    /// behind this checkpoint.
    pub incoming: Option<(LogPosition, Vec<Stretch>)>,
}

/// One thing that a checkpoint holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A group.
    Group(Box<GroupItem>),
    /// The highest replica of a group that was removed here.
    Removed {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
    },
    /// The store of a peer.
    Peer {
        /// The peer.
        node: NodeId,
        /// Its store.
        store: StoreId,
    },
    /// What replicas may have promised.
    Promise {
        /// For how long at most after a start they keep it.
        wait: Duration,
    },
    /// The end of the checkpoint.
    End {
        /// Where its first part stands.
        begin: BatchPlace,
        /// Where the first part of the one before stands.
        previous: Option<BatchPlace>,
    },
}

impl Item {
    /// Appends its bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + ITEM_HEADER_BYTES, 0);
        let tag = match self {
            Item::Group(group) => {
                group.write(out);
                TAG_GROUP
            }
            Item::Removed { group, replica } => {
                out.extend_from_slice(&group.0.to_le_bytes());
                out.extend_from_slice(&replica.0.to_le_bytes());
                TAG_REMOVED
            }
            Item::Peer { node, store } => {
                out.extend_from_slice(&node.0.to_le_bytes());
                out.extend_from_slice(&store.0.to_le_bytes());
                TAG_PEER
            }
            Item::Promise { wait } => {
                let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
                out.extend_from_slice(&nanos.to_le_bytes());
                TAG_PROMISE
            }
            Item::End { begin, previous } => {
                out.extend_from_slice(&BatchPlace::bytes(Some(*begin)));
                out.extend_from_slice(&BatchPlace::bytes(*previous));
                TAG_END
            }
        };
        let len = u32::try_from(out.len() - start).expect("an item is smaller than 4 GiB");
        put(&mut out[start..], 0, len.to_le_bytes());
        put(&mut out[start..], 4, tag.to_le_bytes());
    }

    /// The items of whole parts, put together.
    ///
    /// `None` at the first that makes no sense; `Some(rest)` with the bytes of an item that is cut.
    pub fn read_all(bytes: &[u8], mut each: impl FnMut(Item)) -> Option<&[u8]> {
        let mut rest = bytes;
        while let Some((len, _)) = rest.split_first_chunk::<4>() {
            let len = u32::from_le_bytes(*len) as usize;
            let Some((item, after)) = rest.split_at_checked(len) else { return Some(rest) };
            each(Item::read(item.get(4..)?)?);
            rest = after;
        }
        Some(rest)
    }

    fn read(bytes: &[u8]) -> Option<Item> {
        let mut fields = Fields::new(bytes);
        let item = match fields.u32()? {
            TAG_GROUP => Item::Group(Box::new(GroupItem::read(&mut fields)?)),
            TAG_REMOVED => Item::Removed { group: GroupId(fields.u64()?), replica: ReplicaId(fields.u64()?) },
            TAG_PEER => Item::Peer { node: NodeId(fields.u64()?), store: StoreId(fields.u128()?) },
            TAG_PROMISE => Item::Promise { wait: Duration::from_nanos(fields.u64()?) },
            TAG_END => Item::End { begin: BatchPlace::read(&mut fields)??, previous: BatchPlace::read(&mut fields)? },
            _ => return None,
        };
        fields.is_empty().then_some(item)
    }
}

impl GroupItem {
    fn write(&self, out: &mut Vec<u8>) {
        let count = |len: usize| u32::try_from(len).expect("fewer than 2^32 of them fit memory").to_le_bytes();
        for len in [self.terms.len(), self.runs.len(), self.configurations.len(), self.chunks.len()] {
            out.extend_from_slice(&count(len));
        }
        let flags = u64::from(self.state.snapshot.is_some()) | u64::from(self.incoming.is_some()) << 1;
        out.extend_from_slice(&flags.to_le_bytes());
        write_state(out, &self.state);
        for position in &self.terms {
            out.extend_from_slice(&position.index.0.to_le_bytes());
            out.extend_from_slice(&position.term.0.to_le_bytes());
        }
        for run in &self.runs {
            run.write(out);
        }
        for (index, data) in &self.configurations {
            out.extend_from_slice(&index.0.to_le_bytes());
            out.extend_from_slice(&(data.len() as u64).to_le_bytes());
            out.extend_from_slice(data);
        }
        for chunk in &self.chunks {
            chunk.write(out);
        }
        if let Some((position, chunks)) = &self.incoming {
            for number in [position.index.0, position.term.0, chunks.len() as u64] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            chunks.iter().for_each(|chunk| chunk.write(out));
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<GroupItem> {
        let [terms, runs, configurations, chunks] = [fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?];
        let (has_snapshot, has_incoming) = match fields.u64()? {
            flags @ 0..=3 => (flags & 1 != 0, flags & 2 != 0),
            _ => return None,
        };
        let state = read_state(fields, has_snapshot)?;
        // Counts are believed only as far as there are bytes: nothing is allocated for one that lies.
        let bounded = |count: u32, each: usize| (count as usize).min(fields.peek().len() / each + 1);
        let mut item = GroupItem {
            terms: Vec::with_capacity(bounded(terms, 16)),
            runs: Vec::with_capacity(bounded(runs, Stretch::BYTES)),
            configurations: Vec::new(),
            chunks: Vec::new(),
            incoming: None,
            state,
        };
        for _ in 0..terms {
            item.terms.push(LogPosition { index: LogIndex(fields.u64()?), term: Term(fields.u64()?) });
        }
        for _ in 0..runs {
            item.runs.push(Stretch::read(fields)?);
        }
        for _ in 0..configurations {
            let (index, len) = (LogIndex(fields.u64()?), usize::try_from(fields.u64()?).ok()?);
            item.configurations.push((index, Bytes::copy_from_slice(fields.bytes(len)?)));
        }
        for _ in 0..chunks {
            item.chunks.push(Stretch::read(fields)?);
        }
        if has_incoming {
            let position = LogPosition { index: LogIndex(fields.u64()?), term: Term(fields.u64()?) };
            let mut pieces = Vec::new();
            for _ in 0..fields.u64()? {
                pieces.push(Stretch::read(fields)?);
            }
            item.incoming = Some((position, pieces));
        }
        item.holds().then_some(item)
    }

    /// Whether runs and terms make the log from base to last. A limited replica's log may end before what it once held.
    fn holds(&self) -> bool {
        let (base, last) = (self.state.base.index.0, self.state.last.index.0);
        let entries: u64 = self.runs.iter().map(|run| u64::from(run.count)).sum();
        let rising = self.terms.windows(2).all(|pair| pair[0].index < pair[1].index);
        let within = self.terms.iter().all(|position| (base + 1..=last).contains(&position.index.0));
        let begins = self.terms.first().is_none_or(|position| position.index.0 == base + 1);
        let told = self.terms.is_empty() == (entries == 0);
        let counted = self.runs.iter().all(|run| run.count > 0);
        base.checked_add(entries) == Some(last) && rising && within && begins && told && counted
    }
}
