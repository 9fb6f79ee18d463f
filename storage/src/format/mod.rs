//! The bytes of a log, as FORMAT.md fixes them: written by hand, little-endian, at fixed places.
//!
//! Owns encoding and decoding of segment headers, batches and records. It must never do I/O or trust a byte: a decoder
//! returns a fault or a valid value, and bounds every length before it is used. Called by [`crate::wal`].

pub mod batch;
pub(crate) mod field;
pub mod record;
pub mod segment;

use std::fmt;

/// The version of everything this crate writes. A reader refuses any other by name.
pub const FORMAT_VERSION: u16 = 1;

/// Where a batch stands in its log: the first is 1, each next one higher. Zero is before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchSeq(pub u64);

impl BatchSeq {
    /// The sequence of the batch after this one.
    #[must_use]
    pub const fn next(self) -> BatchSeq {
        BatchSeq(self.0 + 1)
    }
}

impl fmt::Display for BatchSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of a data directory: random, made once. An emptied disk comes back with another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u128);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
