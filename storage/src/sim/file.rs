//! The content of one simulated file: what a reader sees, what is durable, and the writes between the two.

use super::SECTOR_BYTES;

/// One file.
#[derive(Debug, Default)]
pub(super) struct SimFile {
    visible: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors written and not known to be durable, in the order of writing.
    pending: Vec<Pending>,
}

#[derive(Debug)]
struct Pending {
    sector: usize,
    bytes: SectorBytes,
    /// A sync of it failed, or its write did: no later sync makes it durable.
    doomed: bool,
}

/// Zeroes are not stored: zero-filled segments would fill the memory.
#[derive(Debug)]
enum SectorBytes {
    Zero(usize),
    Data(Box<[u8]>),
}

impl SimFile {
    pub(super) fn content(&self) -> &[u8] {
        &self.visible
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let start = usize::try_from(offset).map_or(self.visible.len(), |o| o.min(self.visible.len()));
        let len = buffer.len().min(self.visible.len() - start);
        buffer[..len].copy_from_slice(&self.visible[start..start + len]);
        len
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        put(&mut self.visible, offset, bytes);
        self.push_pending(offset, bytes, false);
    }

    /// A write that failed: a reader may or may not see it after a crash, until then it doesn't.
    pub(super) fn write_doomed(&mut self, offset: u64, bytes: &[u8]) {
        self.push_pending(offset, bytes, true);
    }

    fn push_pending(&mut self, offset: u64, bytes: &[u8], doomed: bool) {
        let first = sector_of(offset);
        for (place, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let zero = sector.iter().all(|b| *b == 0);
            let bytes = if zero { SectorBytes::Zero(sector.len()) } else { SectorBytes::Data(sector.into()) };
            self.pending.push(Pending { sector: first + place, bytes, doomed });
        }
    }

    pub(super) fn sync(&mut self) {
        let (doomed, synced) = std::mem::take(&mut self.pending).into_iter().partition(|p| p.doomed);
        self.pending = doomed;
        let synced: Vec<Pending> = synced;
        for pending in synced {
            pending.apply(&mut self.durable);
        }
    }

    /// Makes one range durable, as a write with RWF_DSYNC does for itself alone.
    pub(super) fn sync_range(&mut self, offset: u64, len: usize) {
        let sectors = sector_of(offset)..sector_of(offset) + len.div_ceil(SECTOR_BYTES);
        let durable = &mut self.durable;
        self.pending.retain(|pending| {
            let covered = sectors.contains(&pending.sector);
            if covered {
                pending.apply(durable);
            }
            !covered
        });
    }

    pub(super) fn doom(&mut self) {
        for pending in &mut self.pending {
            pending.doomed = true;
        }
    }

    pub(super) fn crash(&mut self, keep: &mut impl FnMut() -> bool) {
        for pending in std::mem::take(&mut self.pending) {
            if keep() {
                pending.apply(&mut self.durable);
            }
        }
        self.visible.clone_from(&self.durable);
    }

    pub(super) fn damage(&mut self, mut change: impl FnMut(&mut Vec<u8>)) {
        change(&mut self.visible);
        change(&mut self.durable);
    }
}

impl Pending {
    fn apply(&self, image: &mut Vec<u8>) {
        let offset = (self.sector * SECTOR_BYTES) as u64;
        match &self.bytes {
            SectorBytes::Zero(len) => put(image, offset, &[0; SECTOR_BYTES][..*len]),
            SectorBytes::Data(bytes) => put(image, offset, bytes),
        }
    }
}

fn sector_of(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated file fits memory") / SECTOR_BYTES
}

fn put(image: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).expect("a simulated file fits memory");
    let end = start + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[start..end].copy_from_slice(bytes);
}
