//! One frame: a fixed header, then `payload` (entry data, raw) and `body` (everything else).
//!
//! The payload comes first so that a sender copies entry data straight into its send buffer and appends the body when
//! it knows it. Layout of the header, little-endian: magic 4, version 1, kind 1, header check 2, payload length 4, body
//! length 4, CRC32C 4 (over the whole frame with this field zero). The header has a check of its own, because a length
//! that was damaged on the way would be waited for, and nothing be heard meanwhile.

/// Version of everything on the wire. A peer of another version is refused in the handshake.
pub const WIRE_VERSION: u8 = 3;

/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 20;

const MAGIC: [u8; 4] = *b"RYDF";
const CHECK_AT: usize = 6;
const CRC_AT: usize = 16;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// The dialling core introduces itself.
    Hello = 1,
    /// The accepting core answers: go on.
    Welcome = 2,
    /// The accepting core answers: no, and why.
    Refusal = 3,
    /// A batch of protocol messages.
    Messages = 4,
    /// A snapshot follows.
    SnapshotBegin = 5,
    /// A piece of it.
    SnapshotChunk = 6,
    /// The last piece was sent.
    SnapshotEnd = 7,
    /// No more of it will come.
    SnapshotAbort = 8,
    /// What the receiver says of it.
    SnapshotAnswer = 9,
}

/// A whole, checked frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// Entry data.
    pub payload: &'a [u8],
    /// Everything else.
    pub body: &'a [u8],
}

/// Why bytes are no frame. The connection that carried them is closed: what follows can't be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not our protocol.
    #[error("the bytes don't start with a frame's magic number: not a Raftyard peer")]
    Magic,
    /// Another version.
    #[error("wire version {found}, this node speaks {WIRE_VERSION}: run the same release on both")]
    Version {
        /// The version found.
        found: u8,
    },
    /// An unknown kind of frame.
    #[error("unknown kind of frame: {found}")]
    Kind {
        /// The kind found.
        found: u8,
    },
    /// Longer than allowed.
    #[error("a frame of {bytes} bytes, at most {bytes_max} are allowed (frame_bytes_max)")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: usize,
    },
    /// The checksum doesn't match.
    #[error("a frame's checksum doesn't match: bytes were damaged on the way")]
    Checksum,
    /// The body can't be read.
    #[error("a frame's body can't be read: {0}")]
    Body(&'static str),
}

/// Reserves room for a header at the end of `out` and returns where the frame starts.
pub fn start_frame(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    start
}

/// Completes the frame that starts at `start`: the payload is already there, `body` is appended, the header filled in.
pub fn finish_frame(out: &mut Vec<u8>, start: usize, kind: FrameKind, body: &[u8]) {
    let payload_len = out.len() - start - HEADER_BYTES;
    out.extend_from_slice(body);
    let header = &mut out[start..start + HEADER_BYTES];
    header[0..4].copy_from_slice(&MAGIC);
    header[4] = WIRE_VERSION;
    header[5] = kind as u8;
    header[8..12].copy_from_slice(&len_u32(payload_len).to_le_bytes());
    header[12..16].copy_from_slice(&len_u32(body.len()).to_le_bytes());
    let check = header_check(header);
    header[CHECK_AT..CHECK_AT + 2].copy_from_slice(&check.to_le_bytes());
    header[CRC_AT..].fill(0);
    let crc = crc32c::crc32c(&out[start..]);
    out[start + CRC_AT..start + HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

impl<'a> Frame<'a> {
    /// Reads the frame at the start of `bytes`: the frame and its length, or `None` while bytes are missing. A bad
    /// header is an error at once, before anything is allocated for what it announces.
    ///
    /// # Errors
    /// Says what is wrong; nothing after it in the stream can be trusted.
    pub fn parse(bytes: &'a [u8], bytes_max: usize) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else {
            return check_start(bytes).map(|()| None);
        };
        check_start(header)?;
        if header_check(header) != u16::from_le_bytes([header[CHECK_AT], header[CHECK_AT + 1]]) {
            return Err(FrameError::Checksum);
        }
        let kind = kind_of(header[5])?;
        let payload_len = read_u32(header, 8);
        let body_len = read_u32(header, 12);
        let len = HEADER_BYTES as u64 + u64::from(payload_len) + u64::from(body_len);
        if len > bytes_max as u64 {
            return Err(FrameError::TooLarge { bytes: len, bytes_max });
        }
        let len = len as usize;
        let Some(frame) = bytes.get(..len) else { return Ok(None) };
        let mut crc = crc32c::crc32c(&frame[..CRC_AT]);
        crc = crc32c::crc32c_append(crc, &[0; 4]);
        crc = crc32c::crc32c_append(crc, &frame[HEADER_BYTES..]);
        if crc != read_u32(header, CRC_AT) {
            return Err(FrameError::Checksum);
        }
        let (payload, body) = frame[HEADER_BYTES..].split_at(payload_len as usize);
        Ok(Some((Frame { kind, payload, body }, len)))
    }
}

/// Refuses a stranger from its first bytes, however few they are.
fn check_start(bytes: &[u8]) -> Result<(), FrameError> {
    let seen = bytes.len().min(MAGIC.len());
    if bytes[..seen] != MAGIC[..seen] {
        return Err(FrameError::Magic);
    }
    match bytes.get(4) {
        Some(&found) if found != WIRE_VERSION => Err(FrameError::Version { found }),
        _ => Ok(()),
    }
}

/// The low half of the CRC32C of what the header says before the checksum, without this field.
fn header_check(header: &[u8]) -> u16 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..CHECK_AT]), &header[CHECK_AT + 2..CRC_AT]);
    crc as u16
}

fn kind_of(byte: u8) -> Result<FrameKind, FrameError> {
    match byte {
        1 => Ok(FrameKind::Hello),
        2 => Ok(FrameKind::Welcome),
        3 => Ok(FrameKind::Refusal),
        4 => Ok(FrameKind::Messages),
        5 => Ok(FrameKind::SnapshotBegin),
        6 => Ok(FrameKind::SnapshotChunk),
        7 => Ok(FrameKind::SnapshotEnd),
        8 => Ok(FrameKind::SnapshotAbort),
        9 => Ok(FrameKind::SnapshotAnswer),
        found => Err(FrameError::Kind { found }),
    }
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn len_u32(len: usize) -> u32 {
    u32::try_from(len).expect("frame_bytes_max is below 4 GiB, and a frame is cut before it grows past it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(payload: &[u8], body: &[u8]) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let start = start_frame(&mut out);
        out.extend_from_slice(payload);
        finish_frame(&mut out, start, FrameKind::Messages, body);
        out.split_off(start)
    }

    #[test]
    fn a_frame_comes_back_whole_and_only_when_complete() {
        let bytes = frame(b"payload", b"body");
        for cut in 0..bytes.len() {
            assert_eq!(Frame::parse(&bytes[..cut], 1024), Ok(None), "cut at {cut}");
        }
        let (frame, len) = Frame::parse(&bytes, 1024).unwrap().unwrap();
        assert_eq!((frame.kind, frame.payload, frame.body), (FrameKind::Messages, &b"payload"[..], &b"body"[..]));
        assert_eq!(len, bytes.len());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = frame(b"payload", b"body");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // At once, also where it makes the frame longer: nobody waits for what will never come.
            assert!(Frame::parse(&bad, 1 << 30).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_huge_length_is_refused_from_the_header_alone() {
        let mut bytes = frame(b"", b"");
        bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
        let check = header_check(&bytes);
        bytes[CHECK_AT..CHECK_AT + 2].copy_from_slice(&check.to_le_bytes());
        assert_eq!(
            Frame::parse(&bytes, 1024),
            Err(FrameError::TooLarge { bytes: u64::from(u32::MAX) + HEADER_BYTES as u64, bytes_max: 1024 })
        );
    }

    #[test]
    fn a_stranger_is_refused_from_its_first_byte() {
        assert_eq!(Frame::parse(b"G", 1024), Err(FrameError::Magic));
    }
}
