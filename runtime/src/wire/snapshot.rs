//! Frames of a state machine's snapshot on its way to a peer. Written by hand, like the handshake: they are few, and what
//! they say is small beside the pieces they bring.

use super::frame::FrameError;
use raftyard_raft::{Base, Configuration, GroupId, LogIndex, LogPosition, ReplicaId, Term};
use std::sync::Arc;

/// Names one transfer among those of the core that sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferId(pub u64);

/// A snapshot follows.
#[derive(Clone, Debug)]
pub struct SnapshotBegin {
    /// The transfer.
    pub transfer: TransferId,
    /// Of which group.
    pub group: GroupId,
    /// The leader's replica.
    pub from: ReplicaId,
    /// Whom it is for.
    pub to: ReplicaId,
    /// The leader's term.
    pub term: Term,
    /// Up to where it goes, and who the members are there.
    pub base: Base,
}

/// The frame's payload is the next piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The transfer.
    pub transfer: TransferId,
    /// Bytes before this piece.
    pub offset: u64,
}

/// The last piece was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEnd {
    /// The transfer.
    pub transfer: TransferId,
    /// Bytes of all pieces.
    pub bytes: u64,
    /// CRC32C of all pieces.
    pub checksum: u32,
}

/// What the receiver says of a transfer, through its own connection to the sender's core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotAnswer {
    /// The transfer.
    pub transfer: TransferId,
    /// What of it.
    pub said: Said,
}

/// How a transfer fares at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// So many bytes are taken; more may come.
    Taken(u64),
    /// The protocol has got it, or has no need of it: its own answer follows.
    Done,
    /// Others are received at present; ask again later.
    Busy,
    /// It can't be taken, or what came is not whole.
    Failed,
}

impl SnapshotBegin {
    /// Appends the bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let position = self.base.position;
        for value in [self.transfer.0, self.group.0, self.from.0, self.to.0, self.term.0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        for value in [position.index.0, position.term.0, self.base.configuration_index.0] {
            out.extend_from_slice(&value.to_le_bytes());
        }
        self.base.configuration.encode(out);
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// Too few bytes, or no members.
    pub fn read(mut bytes: &[u8]) -> Result<SnapshotBegin, FrameError> {
        let transfer = TransferId(take(&mut bytes)?);
        let (group, from) = (GroupId(take(&mut bytes)?), ReplicaId(take(&mut bytes)?));
        let (to, term) = (ReplicaId(take(&mut bytes)?), Term(take(&mut bytes)?));
        let position = LogPosition { index: LogIndex(take(&mut bytes)?), term: Term(take(&mut bytes)?) };
        let configuration_index = LogIndex(take(&mut bytes)?);
        let configuration = Configuration::decode(bytes).map_err(|_| FrameError::Body("members that can't be read"))?;
        let base = Base { position, configuration: Arc::new(configuration), configuration_index };
        Ok(SnapshotBegin { transfer, group, from, to, term, base })
    }
}

impl SnapshotChunk {
    /// Appends the bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.transfer.0.to_le_bytes());
        out.extend_from_slice(&self.offset.to_le_bytes());
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// Too few or too many bytes.
    pub fn read(mut bytes: &[u8]) -> Result<SnapshotChunk, FrameError> {
        let chunk = SnapshotChunk { transfer: TransferId(take(&mut bytes)?), offset: take(&mut bytes)? };
        end(bytes).map(|()| chunk)
    }
}

impl SnapshotEnd {
    /// Appends the bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.transfer.0.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&u64::from(self.checksum).to_le_bytes());
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// Too few or too many bytes, or a checksum that is none.
    pub fn read(mut bytes: &[u8]) -> Result<SnapshotEnd, FrameError> {
        let (transfer, len) = (TransferId(take(&mut bytes)?), take(&mut bytes)?);
        let checksum = u32::try_from(take(&mut bytes)?).map_err(|_| FrameError::Body("a checksum is too long"))?;
        end(bytes).map(|()| SnapshotEnd { transfer, bytes: len, checksum })
    }
}

impl TransferId {
    /// Appends the bytes of a frame that says only that a transfer is given up.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0.to_le_bytes());
    }

    /// Reads them.
    ///
    /// # Errors
    /// Too few or too many bytes.
    pub fn read(mut bytes: &[u8]) -> Result<TransferId, FrameError> {
        let transfer = TransferId(take(&mut bytes)?);
        end(bytes).map(|()| transfer)
    }
}

impl SnapshotAnswer {
    /// Appends the bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let (said, bytes) = match self.said {
            Said::Taken(bytes) => (1, bytes),
            Said::Done => (2, 0),
            Said::Busy => (3, 0),
            Said::Failed => (4, 0),
        };
        for value in [self.transfer.0, said, bytes] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Reads the bytes.
    ///
    /// # Errors
    /// Too few or too many bytes, or an unknown answer.
    pub fn read(mut bytes: &[u8]) -> Result<SnapshotAnswer, FrameError> {
        let (transfer, said, taken) = (TransferId(take(&mut bytes)?), take(&mut bytes)?, take(&mut bytes)?);
        end(bytes)?;
        let said = match said {
            1 => Said::Taken(taken),
            2 => Said::Done,
            3 => Said::Busy,
            4 => Said::Failed,
            _ => return Err(FrameError::Body("an unknown answer to a snapshot")),
        };
        Ok(SnapshotAnswer { transfer, said })
    }
}

fn take(bytes: &mut &[u8]) -> Result<u64, FrameError> {
    let (head, tail) = bytes.split_first_chunk::<8>().ok_or(FrameError::Body("a snapshot's frame is too short"))?;
    *bytes = tail;
    Ok(u64::from_le_bytes(*head))
}

fn end(bytes: &[u8]) -> Result<(), FrameError> {
    if bytes.is_empty() { Ok(()) } else { Err(FrameError::Body("a snapshot's frame is too long")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftyard_raft::{Member, NodeId};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn begin() -> SnapshotBegin {
        let member = Member { replica: ReplicaId(0x31), node: NodeId(0x32) };
        let base = Base {
            position: LogPosition { index: LogIndex(0x21), term: Term(0x22) },
            configuration: Arc::new(Configuration::new(vec![member]).unwrap()),
            configuration_index: LogIndex(0x23),
        };
        let (from, to) = (ReplicaId(0x13), ReplicaId(0x14));
        SnapshotBegin { transfer: TransferId(0x11), group: GroupId(0x12), from, to, term: Term(0x15), base }
    }

    #[test]
    fn the_bytes_are_those_of_version_3() {
        let mut bytes = Vec::new();
        begin().write(&mut bytes);
        let expected = "1100000000000000 1200000000000000 1300000000000000 1400000000000000 1500000000000000 \
                        2100000000000000 2200000000000000 2300000000000000 \
                        01010000 01000000 00000000 00000000 3100000000000000 3100000000000000 3200000000000000";
        assert_eq!(hex(&bytes), expected.replace(' ', ""));
        bytes.clear();
        SnapshotChunk { transfer: TransferId(1), offset: 2 }.write(&mut bytes);
        SnapshotEnd { transfer: TransferId(3), bytes: 4, checksum: 5 }.write(&mut bytes);
        SnapshotAnswer { transfer: TransferId(6), said: Said::Taken(7) }.write(&mut bytes);
        TransferId(8).write(&mut bytes);
        let expected = [1u64, 2, 3, 4, 5, 6, 1, 7, 8].map(|value| hex(&value.to_le_bytes())).concat();
        assert_eq!(hex(&bytes), expected);
    }

    #[test]
    fn frames_come_back_as_sent_and_cut_ones_do_not() {
        let mut bytes = Vec::new();
        begin().write(&mut bytes);
        assert_eq!(format!("{:?}", SnapshotBegin::read(&bytes).unwrap()), format!("{:?}", begin()));
        for cut in 0..bytes.len() {
            assert!(SnapshotBegin::read(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let end = SnapshotEnd { transfer: TransferId(3), bytes: 4, checksum: 5 };
        bytes.clear();
        end.write(&mut bytes);
        assert_eq!(SnapshotEnd::read(&bytes), Ok(end));
        bytes.clear();
        let chunk = SnapshotChunk { transfer: TransferId(3), offset: 4 };
        chunk.write(&mut bytes);
        assert_eq!(SnapshotChunk::read(&bytes), Ok(chunk));
        for said in [Said::Taken(9), Said::Done, Said::Busy, Said::Failed] {
            let answer = SnapshotAnswer { transfer: TransferId(3), said };
            bytes.clear();
            answer.write(&mut bytes);
            assert_eq!(SnapshotAnswer::read(&bytes), Ok(answer));
            assert!(SnapshotAnswer::read(&bytes[1..]).is_err());
        }
    }
}
