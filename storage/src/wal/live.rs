//! How many bytes of each segment still count.

use super::runs::Place;
use std::collections::BTreeMap;

/// Bytes of records that count, by segment and in all. A record counts once for every run and every piece of a snapshot that
/// stands in it: one of which only the middle was moved counts twice, until both ends are gone.
#[derive(Debug, Default)]
pub(super) struct Live {
    segments: BTreeMap<u32, u64>,
    /// Sum over all segments, kept because it is asked for at every batch.
    total: u64,
}

impl Live {
    pub(super) fn bytes(&self, segment: u32) -> u64 {
        self.segments.get(&segment).copied().unwrap_or_default()
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.total
    }

    /// The record at a place counts from now on.
    pub(super) fn add(&mut self, place: Place) {
        *self.segments.entry(place.segment).or_default() += u64::from(place.len);
        self.total += u64::from(place.len);
    }

    /// The record at a place counts no more.
    pub(super) fn kill(&mut self, place: Place) {
        if let Some(bytes) = self.segments.get_mut(&place.segment) {
            let dead = u64::from(place.len).min(*bytes);
            *bytes -= dead;
            self.total -= dead;
        }
    }

    /// Nothing counts of a segment any more.
    pub(super) fn forget(&mut self, segment: u32) {
        self.total -= self.segments.remove(&segment).unwrap_or_default();
    }
}
