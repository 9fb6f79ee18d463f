//! Cuts a byte stream into frames. A frame that arrives whole is read where it lies; only one that is cut by the end of
//! a read is kept.

use super::frame::{Frame, FrameError};

/// The receiving end of one connection.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a frame whose end has not come yet.
    ///
    /// Invariant: shorter than `frame_bytes_max` plus one read, because a header that announces more is refused.
    partial: Vec<u8>,
}

impl Decoder {
    /// Feeds bytes and hands each whole frame to `each`, in order.
    ///
    /// # Errors
    /// The first error of the stream, or of `each`; the stream is not to be fed again.
    pub fn feed<E: From<FrameError>>(
        &mut self,
        bytes: &[u8],
        bytes_max: usize,
        mut each: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.partial.is_empty() {
            let used = read_frames(bytes, bytes_max, &mut each)?;
            self.partial.extend_from_slice(&bytes[used..]);
            return Ok(());
        }
        self.partial.extend_from_slice(bytes);
        let used = read_frames(&self.partial, bytes_max, &mut each)?;
        self.partial.drain(..used);
        if self.partial.is_empty() && self.partial.capacity() > PARTIAL_KEPT_BYTES {
            self.partial = Vec::new();
        }
        Ok(())
    }
}

/// A buffer that one large frame has grown is given back above this.
const PARTIAL_KEPT_BYTES: usize = 1 << 20;

fn read_frames<E: From<FrameError>>(
    bytes: &[u8],
    bytes_max: usize,
    each: &mut impl FnMut(Frame<'_>) -> Result<(), E>,
) -> Result<usize, E> {
    let mut used = 0;
    while used < bytes.len() {
        let Some((frame, len)) = Frame::parse(&bytes[used..], bytes_max)? else { break };
        each(frame)?;
        used += len;
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::super::frame::{FrameKind, finish_frame, start_frame};
    use super::*;

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        for i in 0..5u8 {
            let start = start_frame(&mut stream);
            stream.extend(std::iter::repeat_n(i, usize::from(i) * 3));
            finish_frame(&mut stream, start, FrameKind::Messages, &[i]);
        }
        for read_bytes in 1..stream.len() {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for bytes in stream.chunks(read_bytes) {
                decoder
                    .feed::<FrameError>(bytes, 1024, |frame| {
                        seen.push((frame.body[0], frame.payload.len()));
                        Ok(())
                    })
                    .unwrap();
            }
            assert_eq!(seen, [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12)], "reads of {read_bytes}");
        }
    }
}
