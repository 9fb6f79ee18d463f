//! The bytes of a log, as FORMAT.md fixes them: written by hand, little-endian, at fixed places.
//!
//! Owns encoding and decoding of segment headers, batches and records. It must never do I/O or trust a byte: a decoder
//! returns a fault or a valid value, and bounds every length before it is used. Called by [`crate::wal`].

pub mod batch;
pub mod checkpoint;
pub mod echo;
pub(crate) mod field;
pub mod record;
pub mod segment;
mod v1;

use std::fmt;

/// The version of everything this crate writes. A reader refuses any that it doesn't know by name.
pub const FORMAT_VERSION: u16 = 2;
/// The oldest version this crate reads.
pub const FORMAT_VERSION_OLDEST: u16 = 1;

/// Where a batch stands in its log: the first is 1, each next one higher. Zero is before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchSeq(pub u64);

impl BatchSeq {
    /// The sequence of the batch after this one.
    #[must_use]
    pub const fn next(self) -> BatchSeq {
        BatchSeq(self.0 + 1)
    }

    /// The sequence of the batch before this one; that of the first is zero.
    #[must_use]
    pub const fn previous(self) -> BatchSeq {
        BatchSeq(self.0.saturating_sub(1))
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

/// Which program wrote a file: its major, minor and patch number. It stands at a place that all versions from 2 on keep,
/// so that a refusal can say what reads the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writer(pub [u16; 3]);

impl Writer {
    /// This program.
    #[must_use]
    pub fn this() -> Writer {
        let number = |text: &str| text.parse().unwrap_or_default();
        Writer([
            number(env!("CARGO_PKG_VERSION_MAJOR")),
            number(env!("CARGO_PKG_VERSION_MINOR")),
            number(env!("CARGO_PKG_VERSION_PATCH")),
        ])
    }

    pub(crate) fn bytes(self) -> [u8; 8] {
        let mut bytes = [0; 8];
        for (place, number) in self.0.into_iter().enumerate() {
            bytes[2 * place..2 * place + 2].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// `None` if what this version leaves zero isn't.
    pub(crate) fn read(fields: &mut field::Fields<'_>) -> Option<Writer> {
        let bytes = fields.array()?;
        (bytes[6..] == [0; 2]).then(|| Writer::from_bytes(bytes))
    }

    pub(crate) fn from_bytes(bytes: [u8; 8]) -> Writer {
        let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Writer([number(0), number(2), number(4)])
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "raftyard {major}.{minor}.{patch}")
    }
}
