//! Rot: bytes of a node's log that change behind its back, below what a later batch proves to have been durable. Where the
//! newest window rots, no log can tell it from a torn write, and this is not asked of it.

use crate::world::World;
use raftyard_raft::{GroupId, Limit};
use raftyard_storage::format::batch::{Batch, claimed_bytes, decode};
use raftyard_storage::format::record::{Record, decode_all};
use raftyard_storage::format::segment::{BATCHES_OFFSET, decode_header};
use raftyard_storage::io::{BLOCK_BYTES, Directory, FileName, FilePath, WalId};
use raftyard_storage::sim::{SECTOR_BYTES, SimDisk};

/// One batch on a disk.
#[derive(Clone, Debug)]
struct Place {
    file: FilePath,
    start: usize,
    end: usize,
    sequence: u64,
    /// Groups that it has entries of.
    groups: Vec<GroupId>,
}

impl World {
    /// Some of what a node has on its disk goes bad, if its groups survive without it. Only one node's disk does so in a
    /// schedule: what is bad may be noticed late.
    pub(crate) fn rot(&mut self, node: usize) {
        let another = self.nodes.iter().enumerate().any(|(other, known)| other != node && known.rotten);
        if another || self.nodes[node].lost || !self.can_lose(node) {
            return;
        }
        let Some((batches, proved)) = batches(&self.nodes[node].disk) else { return };
        let sealed: Vec<usize> = (0..batches.len()).filter(|&place| batches[place].sequence <= proved).collect();
        let Some(place) = self.rng.pick(&sealed) else { return };
        self.nodes[node].rotten = true;
        let many = self.rng.chance(20) && batches.get(place + 1).is_some_and(|next| next.sequence <= proved);
        self.hits.hit(if many { "several batches rotten" } else { "batch rotten" });
        for place in place..place + 1 + usize::from(many) {
            self.spoil(node, &batches[place]);
        }
        // Sooner or later somebody starts it again.
        if self.rng.chance(70) {
            let power = self.rng.chance(50);
            self.crash(node, power);
        }
    }

    /// The last batch that a group has on a node's disk goes bad, if the group survives without it.
    pub(crate) fn rot_last_of(&mut self, node: usize, group: GroupId) -> bool {
        let another = self.nodes.iter().enumerate().any(|(other, known)| other != node && known.rotten);
        if another || self.nodes[node].lost || !self.can_lose(node) {
            return false;
        }
        let Some((batches, proved)) = batches(&self.nodes[node].disk) else { return false };
        let last = batches.iter().rev().find(|place| place.groups.contains(&group));
        let Some(last) = last.filter(|place| place.sequence <= proved).cloned() else { return false };
        self.nodes[node].rotten = true;
        self.hits.hit("batch rotten");
        self.spoil(node, &last);
        true
    }

    fn spoil(&mut self, node: usize, batch: &Place) {
        let &Place { file, start, end, sequence, .. } = batch;
        let kind = self.rng.below(4);
        let (at, other) = (self.rng.below((end - start) as u64) as usize, self.rng.next());
        self.tell(|_| format!("node {}: batch {sequence} in {file} goes bad ({kind})", node + 1));
        self.nodes[node].disk.damage(file, |bytes| match kind {
            0 => bytes[start + at] ^= 1 << (other % 8),
            1 => {
                let sector = start + at / SECTOR_BYTES * SECTOR_BYTES;
                // A sector of padding may be zeroes already.
                bytes[sector..sector + SECTOR_BYTES].fill(0xa5);
            }
            2 => {
                // A block that belongs elsewhere.
                let from = BATCHES_OFFSET as usize + (other as usize % (bytes.len() / BLOCK_BYTES - 2)) * BLOCK_BYTES;
                let to = start + at / BLOCK_BYTES * BLOCK_BYTES;
                let block = bytes[from..from + BLOCK_BYTES].to_vec();
                bytes[to..to + BLOCK_BYTES].copy_from_slice(&block);
            }
            _ => bytes[start..end].fill(0),
        });
    }

    /// Counts what rot led to. Where nothing has gone bad nothing is limited.
    pub(crate) fn look_at_limits(&mut self, node: usize) -> Result<(), String> {
        let Some(core) = &self.nodes[node].core else { return Ok(()) };
        let limits: Vec<Limit> = core.replicas().map(raftyard_raft::Raft::limit).collect();
        let now = limits.iter().any(|limit| matches!(limit, Limit::Bound(_)));
        let amnesia = limits.contains(&Limit::Amnesia);
        if (now || amnesia) && !self.nodes[node].rotten {
            return Err(format!("node {}: a replica is limited, and nothing of its disk went bad", node + 1));
        }
        if !std::mem::replace(&mut self.nodes[node].forgetful, amnesia) && amnesia {
            self.hits.hit("replica with amnesia");
        }
        let before = std::mem::replace(&mut self.nodes[node].limited, now);
        if now && !before {
            self.hits.hit("replica limited");
        }
        if before && !now {
            self.hits.hit("limited replica whole again");
        }
        Ok(())
    }
}

fn groups(version: u16, batch: &Batch<'_>) -> Vec<GroupId> {
    let mut groups = Vec::new();
    let read = decode_all(version, batch.records, batch.header.record_count, |record, _, _| {
        if let Record::Group(record) = record
            && !record.entries.is_empty()
        {
            groups.push(record.group);
        }
        Ok(())
    });
    read.expect("a whole batch can be read");
    groups
}

/// Every whole batch of the node's log, in order, and the highest sequence that one of them proves.
fn batches(disk: &SimDisk) -> Option<(Vec<Place>, u64)> {
    let mut found = Vec::new();
    let mut proved = 0;
    for file in disk.paths(Directory::Wal(WalId(0))) {
        let (FileName::Segment(_), Some(content)) = (file.name, disk.content(file)) else { continue };
        let Ok(header) = decode_header(content.get(..2 * BLOCK_BYTES)?) else { continue };
        let seed = header.checksum_seed();
        let mut start = BATCHES_OFFSET as usize;
        while let Some(block) = content.get(start..start + BLOCK_BYTES) {
            let whole =
                claimed_bytes(block, seed, start as u64).and_then(|bytes| content.get(start..start + bytes as usize));
            match whole.map(|bytes| (bytes.len(), decode(bytes, seed, start as u64))) {
                Some((len, Ok(batch))) => {
                    proved = proved.max(batch.header.durable_upto.0);
                    let (end, sequence) = (start + len, batch.header.sequence.0);
                    found.push(Place { file, start, end, sequence, groups: groups(header.version, &batch) });
                    start += len;
                }
                _ => start += BLOCK_BYTES,
            }
        }
    }
    found.sort_by_key(|place| place.sequence);
    Some((found, proved))
}
