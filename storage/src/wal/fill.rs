//! The batch that fills: records enter whole or not at all.

use crate::aligned::AlignedBuf;
use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::echo::Echo;

/// A buffer with room for a batch header, the echo of the batch before, and the records after it.
#[derive(Debug)]
pub(crate) struct Fill {
    buffer: AlignedBuf,
    echo_len: usize,
    record_count: u32,
}

impl Fill {
    pub(crate) fn new(mut buffer: AlignedBuf, echoes: impl Iterator<Item = Echo>) -> Fill {
        buffer.clear();
        buffer.resize(BATCH_HEADER_BYTES);
        echoes.for_each(|echo| buffer.extend_from_slice(&echo.encode()));
        Fill { echo_len: buffer.len() - BATCH_HEADER_BYTES, buffer, record_count: 0 }
    }

    /// Bytes of the echo section.
    pub(crate) fn echo_len(&self) -> usize {
        self.echo_len
    }

    /// Bytes of the records.
    pub(crate) fn records_len(&self) -> usize {
        self.buffer.len() - BATCH_HEADER_BYTES - self.echo_len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.record_count == 0
    }

    pub(crate) fn record_count(&self) -> u32 {
        self.record_count
    }

    pub(crate) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Lets `write` append one record; gives back where it starts in the batch and its length, both in bytes. If it
    /// unwinds, what it appended is cut off again: a panic can't leave half a record to be written with the others.
    pub(crate) fn record(&mut self, write: impl FnOnce(&mut AlignedBuf)) -> (usize, usize) {
        let mark = self.buffer.len();
        let mut reservation = Reservation { mark, committed: false, fill: self };
        write(&mut reservation.fill.buffer);
        reservation.committed = true;
        drop(reservation);
        self.record_count += 1;
        (mark, self.buffer.len() - mark)
    }

    /// The buffer, for a header to be put before its echo and records.
    pub(crate) fn into_buffer(self) -> AlignedBuf {
        self.buffer
    }
}

struct Reservation<'a> {
    fill: &'a mut Fill,
    mark: usize,
    committed: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.committed {
            self.fill.buffer.truncate(self.mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_panic_leaves_no_half_record() {
        let mut fill = Fill::new(AlignedBuf::new(), std::iter::empty());
        fill.record(|out| out.extend_from_slice(b"whole"));
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            fill.record(|out| {
                out.extend_from_slice(b"ha");
                panic!("in the middle of a record");
            });
        }));
        assert!(unwound.is_err());
        fill.record(|out| out.extend_from_slice(b"next"));
        assert_eq!(fill.record_count(), 2);
        assert_eq!(&fill.into_buffer()[BATCH_HEADER_BYTES..], b"wholenext");
    }
}
