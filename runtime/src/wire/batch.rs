//! A batch of protocol messages as one frame: rkyv for the messages, entry data raw beside them.

use super::frame::{Frame, FrameError, FrameKind, finish_frame, start_frame};
use bytes::Bytes;
use raftyard_raft::{Body, Entry, EntryKind, GroupId, Instant, LogIndex, LogPosition, Message, ReplicaId, Term};
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Serialize};

#[derive(Debug, Default, Archive, Serialize)]
struct WireBatch {
    messages: Vec<WireMessage>,
    /// Of all appends, in their order; `Append::entries` says how many are whose.
    entries: Vec<WireEntry>,
}

#[derive(Debug, Archive, Serialize)]
struct WireMessage {
    group: u64,
    from: u64,
    to: u64,
    term: u64,
    body: WireBody,
}

#[derive(Debug, Archive, Serialize)]
enum WireBody {
    PreVote { last_index: u64, last_term: u64, priority: u8 },
    PreVoteAnswer { granted: bool },
    Vote { last_index: u64, last_term: u64, transfer: bool },
    VoteAnswer { granted: bool },
    Append { previous_index: u64, previous_term: u64, commit: u64, entries: u32 },
    AppendAccepted { matched: u64 },
    AppendRejected { rejected: u64, last: u64, hint_index: u64, hint_term: u64, lost: bool },
    Heartbeat { commit: u64, sent: u64 },
    HeartbeatAnswer { sent: u64, lost: bool },
    TimeoutNow { last: u64 },
    NotMember { index: u64 },
    ReadRequest { id: u64 },
    ReadAnswer { id: u64, known: bool, index: u64 },
}

#[derive(Debug, Archive, Serialize)]
struct WireEntry {
    term: u64,
    len: u32,
    kind: u8,
}

/// Collects messages into one frame at the end of a send buffer.
#[derive(Debug, Default)]
pub struct BatchWriter {
    batch: WireBatch,
    /// Where the open frame starts in the send buffer.
    start: Option<usize>,
    scratch: AlignedVec,
}

impl BatchWriter {
    /// Adds a message; its entries' data goes straight into `out`.
    pub fn push(&mut self, out: &mut Vec<u8>, message: &Message<'_>) {
        if self.start.is_none() {
            self.start = Some(start_frame(out));
        }
        if let Body::Append { entries, .. } = message.body {
            for entry in entries.0.iter().chain(entries.1) {
                out.extend_from_slice(&entry.data);
                self.batch.entries.push(WireEntry {
                    term: entry.term.0,
                    len: u32::try_from(entry.data.len()).expect("entry_bytes_max is below 4 GiB"),
                    kind: entry.kind as u8,
                });
            }
        }
        self.batch.messages.push(WireMessage {
            group: message.group.0,
            from: message.from.0,
            to: message.to.0,
            term: message.term.0,
            body: wire_body(&message.body),
        });
    }

    /// Bytes the open frame has and will have, roughly and from above.
    #[must_use]
    pub fn open_bytes(&self, out: &[u8]) -> usize {
        let Some(start) = self.start else { return 0 };
        out.len() - start + self.batch.messages.len() * MESSAGE_BYTES + self.batch.entries.len() * ENTRY_BYTES + 64
    }

    /// Bytes `message` would add to a frame, roughly and from above.
    #[must_use]
    pub fn bytes_of(message: &Message<'_>) -> usize {
        let Body::Append { entries, .. } = message.body else { return MESSAGE_BYTES };
        let data: usize = entries.0.iter().chain(entries.1).map(|e| e.data.len() + ENTRY_BYTES).sum();
        MESSAGE_BYTES + data
    }

    /// Closes the open frame, if there is one.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let Some(start) = self.start.take() else { return };
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let body = rkyv::api::high::to_bytes_in::<_, Failure>(&self.batch, scratch)
            .expect("plain numbers into growing memory can't fail");
        finish_frame(out, start, FrameKind::Messages, &body);
        self.scratch = body;
        self.batch.messages.clear();
        self.batch.entries.clear();
    }

    /// Forgets the open frame: the connection it was for is gone.
    pub fn abandon(&mut self) {
        self.start = None;
        self.batch.messages.clear();
        self.batch.entries.clear();
    }
}

const MESSAGE_BYTES: usize = size_of::<ArchivedWireMessage>();
const ENTRY_BYTES: usize = size_of::<ArchivedWireEntry>();

fn wire_body(body: &Body<'_>) -> WireBody {
    match *body {
        Body::PreVote { last, priority } => {
            WireBody::PreVote { last_index: last.index.0, last_term: last.term.0, priority }
        }
        Body::PreVoteAnswer { granted } => WireBody::PreVoteAnswer { granted },
        Body::Vote { last, transfer } => WireBody::Vote { last_index: last.index.0, last_term: last.term.0, transfer },
        Body::VoteAnswer { granted } => WireBody::VoteAnswer { granted },
        Body::Append { previous, commit, entries } => WireBody::Append {
            previous_index: previous.index.0,
            previous_term: previous.term.0,
            commit: commit.0,
            entries: u32::try_from(entries.0.len() + entries.1.len()).expect("an append is bounded by its bytes"),
        },
        Body::AppendAccepted { matched } => WireBody::AppendAccepted { matched: matched.0 },
        Body::AppendRejected { rejected, last, hint, lost } => WireBody::AppendRejected {
            rejected: rejected.0,
            last: last.0,
            hint_index: hint.index.0,
            hint_term: hint.term.0,
            lost,
        },
        Body::Heartbeat { commit, sent } => WireBody::Heartbeat { commit: commit.0, sent: sent.0 },
        Body::HeartbeatAnswer { sent, lost } => WireBody::HeartbeatAnswer { sent: sent.0, lost },
        Body::TimeoutNow { last } => WireBody::TimeoutNow { last: last.0 },
        Body::NotMember { index } => WireBody::NotMember { index: index.0 },
        Body::ReadRequest { id } => WireBody::ReadRequest { id },
        Body::ReadAnswer { id, index } => {
            WireBody::ReadAnswer { id, known: index.is_some(), index: index.unwrap_or_default().0 }
        }
        Body::Snapshot { .. } => {
            unreachable!("a snapshot travels on a connection of its own, and its end stands for this message")
        }
    }
}

/// Reads batches; keeps its scratch memory between them.
#[derive(Debug, Default)]
pub struct BatchReader {
    scratch: AlignedVec,
    entries: Vec<Entry>,
}

impl BatchReader {
    /// Hands each message of the frame to `each`, in order. Allocates once an append: for its entries' data, copied out
    /// of the receive buffer so that they don't pin it.
    ///
    /// # Errors
    /// The frame is not a batch; messages before the bad place were handed out already.
    pub fn read(&mut self, frame: &Frame<'_>, mut each: impl FnMut(&Message<'_>)) -> Result<(), FrameError> {
        // rkyv reads in place and wants alignment, which a place in a stream doesn't have.
        self.scratch.clear();
        self.scratch.extend_from_slice(frame.body);
        let batch = rkyv::access::<ArchivedWireBatch, Failure>(&self.scratch)
            .map_err(|_| FrameError::Body("not a valid batch of messages"))?;
        let mut entries = batch.entries.as_slice();
        let mut payload = frame.payload;
        for message in batch.messages.iter() {
            self.entries.clear();
            if let ArchivedWireBody::Append { previous_index, entries: count, .. } = &message.body {
                let count = count.to_native() as usize;
                let Some((mine, rest)) = entries.split_at_checked(count) else {
                    return Err(FrameError::Body("an append announces more entries than the batch has"));
                };
                entries = rest;
                payload = read_entries(&mut self.entries, mine, previous_index.to_native(), payload)?;
            }
            each(&Message {
                group: GroupId(message.group.to_native()),
                from: ReplicaId(message.from.to_native()),
                to: ReplicaId(message.to.to_native()),
                term: Term(message.term.to_native()),
                body: read_body(&message.body, &self.entries),
            });
        }
        self.entries.clear();
        if !entries.is_empty() || !payload.is_empty() {
            return Err(FrameError::Body("a batch has entries or data that no append claims"));
        }
        Ok(())
    }
}

/// Reads one append's entries and returns the payload after them.
fn read_entries<'a>(
    into: &mut Vec<Entry>,
    entries: &[ArchivedWireEntry],
    previous: u64,
    payload: &'a [u8],
) -> Result<&'a [u8], FrameError> {
    let bytes: u64 = entries.iter().map(|e| u64::from(e.len.to_native())).sum();
    let split = usize::try_from(bytes).ok().and_then(|bytes| payload.split_at_checked(bytes));
    let (mine, rest) = split.ok_or(FrameError::Body("entries announce more data than the frame has"))?;
    let data = Bytes::copy_from_slice(mine);
    let mut at = 0;
    for (i, entry) in entries.iter().enumerate() {
        let index = previous.checked_add(i as u64 + 1).ok_or(FrameError::Body("a log index overflows"))?;
        let kind = EntryKind::from_byte(entry.kind).ok_or(FrameError::Body("an unknown kind of entry"))?;
        let end = at + entry.len.to_native() as usize;
        // Of several, each shares the append's memory; a single one owns it.
        let data = if entries.len() == 1 { data.clone() } else { data.slice(at..end) };
        into.push(Entry { term: Term(entry.term.to_native()), index: LogIndex(index), kind, data });
        at = end;
    }
    Ok(rest)
}

fn read_body<'a>(body: &ArchivedWireBody, entries: &'a [Entry]) -> Body<'a> {
    match body {
        ArchivedWireBody::PreVote { last_index, last_term, priority } => {
            Body::PreVote { last: position(last_index.to_native(), last_term.to_native()), priority: *priority }
        }
        ArchivedWireBody::PreVoteAnswer { granted } => Body::PreVoteAnswer { granted: *granted },
        ArchivedWireBody::Vote { last_index, last_term, transfer } => {
            Body::Vote { last: position(last_index.to_native(), last_term.to_native()), transfer: *transfer }
        }
        ArchivedWireBody::VoteAnswer { granted } => Body::VoteAnswer { granted: *granted },
        ArchivedWireBody::Append { previous_index, previous_term, commit, .. } => Body::Append {
            previous: position(previous_index.to_native(), previous_term.to_native()),
            commit: LogIndex(commit.to_native()),
            entries: (entries, &[]),
        },
        ArchivedWireBody::AppendAccepted { matched } => Body::AppendAccepted { matched: LogIndex(matched.to_native()) },
        ArchivedWireBody::AppendRejected { rejected, last, hint_index, hint_term, lost } => Body::AppendRejected {
            rejected: LogIndex(rejected.to_native()),
            last: LogIndex(last.to_native()),
            hint: position(hint_index.to_native(), hint_term.to_native()),
            lost: *lost,
        },
        ArchivedWireBody::Heartbeat { commit, sent } => {
            Body::Heartbeat { commit: LogIndex(commit.to_native()), sent: Instant(sent.to_native()) }
        }
        ArchivedWireBody::HeartbeatAnswer { sent, lost } => {
            Body::HeartbeatAnswer { sent: Instant(sent.to_native()), lost: *lost }
        }
        ArchivedWireBody::TimeoutNow { last } => Body::TimeoutNow { last: LogIndex(last.to_native()) },
        ArchivedWireBody::NotMember { index } => Body::NotMember { index: LogIndex(index.to_native()) },
        ArchivedWireBody::ReadRequest { id } => Body::ReadRequest { id: id.to_native() },
        ArchivedWireBody::ReadAnswer { id, known, index } => {
            Body::ReadAnswer { id: id.to_native(), index: known.then(|| LogIndex(index.to_native())) }
        }
    }
}

const fn position(index: u64, term: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(term) }
}

/// Checksum of a sample batch as this build lays it out. rkyv's layout depends on features that any crate of a build
/// can turn on, so two nodes compare this in the handshake instead of trusting the version alone.
#[must_use]
pub fn format_descriptor() -> u32 {
    let mut writer = BatchWriter::default();
    let mut out = Vec::new();
    let entry = |index, data| Entry {
        term: Term(0x0102_0304_0506_0708),
        index: LogIndex(index),
        kind: EntryKind::Command,
        data: Bytes::from_static(data),
    };
    let entries = [entry(0x1112_1314_1516_1719, b"sample"), entry(0x1112_1314_1516_171a, b"")];
    let bodies = [
        Body::PreVote { last: position(1, 2), priority: 3 },
        Body::Vote { last: position(1, 2), transfer: true },
        Body::VoteAnswer { granted: true },
        Body::Append {
            previous: position(0x1112_1314_1516_1718, 0x0102_0304_0506_0708),
            commit: LogIndex(0x2122_2324_2526_2728),
            entries: (&entries, &[]),
        },
        Body::AppendRejected { rejected: LogIndex(3), last: LogIndex(4), hint: position(5, 6), lost: true },
        Body::HeartbeatAnswer { sent: Instant(0x3132_3334_3536_3738), lost: true },
        Body::ReadAnswer { id: 0x4142_4344_4546_4748, index: Some(LogIndex(11)) },
    ];
    for body in bodies {
        writer
            .push(&mut out, &Message { group: GroupId(7), from: ReplicaId(8), to: ReplicaId(9), term: Term(10), body });
    }
    writer.finish(&mut out);
    crc32c::crc32c(&out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut writer = BatchWriter::default();
        let mut out = Vec::new();
        let entries: Vec<Entry> = (6..9)
            .map(|i| Entry {
                term: Term(2),
                index: LogIndex(i),
                kind: EntryKind::Command,
                data: Bytes::from(vec![i as u8; i as usize]),
            })
            .collect();
        let bodies = [
            Body::Append { previous: position(5, 2), commit: LogIndex(4), entries: (&entries[..1], &entries[1..]) },
            Body::Heartbeat { commit: LogIndex(3), sent: Instant(4) },
            Body::PreVote { last: position(1, 2), priority: 3 },
            Body::PreVoteAnswer { granted: true },
            Body::Vote { last: position(1, 2), transfer: true },
            Body::VoteAnswer { granted: true },
            Body::AppendAccepted { matched: LogIndex(5) },
            Body::AppendRejected { rejected: LogIndex(7), last: LogIndex(6), hint: position(6, 1), lost: true },
            Body::HeartbeatAnswer { sent: Instant(8), lost: true },
            Body::TimeoutNow { last: LogIndex(9) },
            Body::NotMember { index: LogIndex(10) },
            Body::ReadRequest { id: 11 },
            Body::ReadAnswer { id: 12, index: Some(LogIndex(13)) },
            Body::ReadAnswer { id: 14, index: None },
            Body::Append { previous: position(8, 2), commit: LogIndex(4), entries: (&[], &[]) },
        ];
        for body in bodies {
            writer.push(
                &mut out,
                &Message { group: GroupId(1), from: ReplicaId(2), to: ReplicaId(3), term: Term(2), body },
            );
        }
        assert!(writer.open_bytes(&out) >= 200);
        writer.finish(&mut out);
        out
    }

    #[test]
    fn messages_come_back_as_pushed() {
        let bytes = sample();
        let (frame, len) = Frame::parse(&bytes, 1 << 20).unwrap().unwrap();
        assert_eq!(len, bytes.len());
        let mut seen = Vec::new();
        BatchReader::default().read(&frame, |m| seen.push(format!("{m:?}"))).unwrap();
        assert_eq!(seen.len(), 15);
        assert!(seen[0].contains("index: LogIndex(8)"), "{}", seen[0]);
        for (message, body) in seen[1..].iter().zip([
            "Heartbeat { commit: LogIndex(3), sent: Instant(4) }",
            "PreVote { last: LogPosition { index: LogIndex(1), term: Term(2) }, priority: 3 }",
            "PreVoteAnswer { granted: true }",
            "Vote { last: LogPosition { index: LogIndex(1), term: Term(2) }, transfer: true }",
            "VoteAnswer { granted: true }",
            "AppendAccepted { matched: LogIndex(5) }",
            "AppendRejected { rejected: LogIndex(7), last: LogIndex(6), hint: LogPosition { index: LogIndex(6), term: Term(1) }, lost: true }",
            "HeartbeatAnswer { sent: Instant(8), lost: true }",
            "TimeoutNow { last: LogIndex(9) }",
            "NotMember { index: LogIndex(10) }",
            "ReadRequest { id: 11 }",
            "ReadAnswer { id: 12, index: Some(LogIndex(13)) }",
            "ReadAnswer { id: 14, index: None }",
        ]) {
            assert!(message.contains(body), "{message}");
        }
    }

    #[test]
    fn damaged_bodies_are_errors_and_never_panics() {
        let bytes = sample();
        let (frame, _) = Frame::parse(&bytes, 1 << 20).unwrap().unwrap();
        let mut reader = BatchReader::default();
        for bit in 0..frame.body.len() * 8 {
            let mut body = frame.body.to_vec();
            body[bit / 8] ^= 1 << (bit % 8);
            let _ = reader.read(&Frame { body: &body, ..frame }, |_| ());
        }
        for cut in 0..frame.body.len() {
            assert!(reader.read(&Frame { body: &frame.body[..cut], ..frame }, |_| ()).is_err());
        }
        assert!(reader.read(&Frame { payload: &frame.payload[1..], ..frame }, |_| ()).is_err());
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        assert_eq!(format_descriptor(), 2_299_873_739, "the layout of messages changed: raise WIRE_VERSION");
    }
}
