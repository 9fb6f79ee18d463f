//! The batch that fills: records enter whole or not at all.

use crate::aligned::AlignedBuf;
use crate::format::batch::BATCH_HEADER_BYTES;

/// A buffer with room for a batch header, and the records after it.
#[derive(Debug)]
pub(crate) struct Fill {
    buffer: AlignedBuf,
    record_count: u32,
}

impl Fill {
    pub(crate) fn new(mut buffer: AlignedBuf) -> Fill {
        buffer.clear();
        buffer.resize(BATCH_HEADER_BYTES);
        Fill { buffer, record_count: 0 }
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

    /// Lets `write` append one record. If it unwinds, what it appended is cut off again: a panic can't leave half a
    /// record to be written with the others.
    pub(crate) fn record(&mut self, write: impl FnOnce(&mut AlignedBuf)) {
        let mut reservation = Reservation { mark: self.buffer.len(), committed: false, fill: self };
        write(&mut reservation.fill.buffer);
        reservation.committed = true;
        reservation.fill.record_count += 1;
    }

    /// The buffer, for a header to be put before its records. `next` fills from here on.
    pub(crate) fn take(&mut self, next: AlignedBuf) -> AlignedBuf {
        std::mem::replace(self, Fill::new(next)).buffer
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
        let mut fill = Fill::new(AlignedBuf::new());
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
        assert_eq!(&fill.take(AlignedBuf::new())[BATCH_HEADER_BYTES..], b"wholenext");
    }
}
