//! The bytes on disk, fixed for ever: what FORMAT.md says is what is written, and what was written can be read.
//!
//! A change here is a new format version, not a new golden file.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_raft::{
    Configuration, ConfigurationEntry, Entry, EntryKind, GroupId, HardState, LogIndex, Member, MemberChange, NodeId,
    ReplicaId, Term,
};
use raftyard_storage::io::{BLOCK_BYTES, Directory};
use raftyard_storage::manifest::{ClusterId, Manifest};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::StoreId;
use rig::{entry, open, segment};
use std::time::Duration;

const V1_SEGMENT: &[u8] = include_bytes!("golden/v1-segment.bin");
/// What came later within version 1: other creations, configurations in the log, promises.
const V1_MEMBERS: &[u8] = include_bytes!("golden/v1-members.bin");
const V1_MANIFEST: &[u8] = include_bytes!("golden/v1-manifest.bin");

fn hard_state() -> HardState {
    HardState { term: Term(0x21), vote: Some(ReplicaId(2)) }
}

fn configuration_entry() -> Entry {
    let changes = [MemberChange::Demote(ReplicaId(2)), MemberChange::Remove(ReplicaId(3))];
    let configuration = rig::configuration().changed(&changes).unwrap();
    let held = ConfigurationEntry { configuration, context: "why".into(), forced: false };
    Entry { term: Term(1), index: LogIndex(1), kind: EntryKind::Configuration, data: held.encode() }
}

fn with_learner() -> Configuration {
    let member = |id| Member { replica: ReplicaId(id), node: NodeId(id) };
    Configuration::with_learners(vec![member(2)], vec![member(1)]).unwrap()
}

fn manifest() -> Manifest {
    Manifest {
        node: NodeId(1),
        cluster: ClusterId(0x77),
        store: StoreId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        wals: vec![rig::WAL, raftyard_storage::io::WalId(1)],
        forgetful: false,
    }
}

/// A log as version 1 wrote it: one segment.
fn log_of_version_1(written: &[u8]) -> SimDisk {
    let mut disk = SimDisk::new();
    drop(open(&mut disk, false).unwrap());
    for path in disk.paths(Directory::Wal(rig::WAL)) {
        if path == segment(1) {
            disk.damage(path, |bytes| {
                bytes.fill(0);
                bytes[..written.len()].copy_from_slice(written);
            });
        }
    }
    disk
}

#[test]
fn what_version_1_wrote_is_read_and_gone_on_with() {
    let mut disk = log_of_version_1(V1_SEGMENT);
    let (held, recovered) = rig::state(&mut disk).unwrap();
    assert_eq!((recovered.stats.batches, recovered.stats.records), (2, 4));
    let group = &held.groups[0];
    assert_eq!(
        (group.group, group.replica, &group.configuration),
        (GroupId(0x11), ReplicaId(1), &rig::configuration())
    );
    assert_eq!(group.hard_state, hard_state());
    assert_eq!(group.entries, [entry(0x21, 1, b""), entry(0x21, 2, b"command")]);
    assert_eq!(held.peers, [(NodeId(3), StoreId(0x0123_4567_89ab_cdef))]);
    let (mut wal, _) = open(&mut disk, true).unwrap();
    wal.record_group(GroupId(0x11), ReplicaId(1), None, (&[entry(0x22, 3, b"more")], &[]));
    rig::settle(&mut wal, &mut disk);
    let (after, _) = rig::state(&mut disk).unwrap();
    assert_eq!(after.groups[0].entries[..2], group.entries);
    assert_eq!(after.groups[0].entries[2], entry(0x22, 3, b"more"));

    let mut disk = log_of_version_1(V1_MEMBERS);
    let (held, recovered) = rig::state(&mut disk).unwrap();
    assert_eq!((recovered.stats.batches, recovered.stats.records), (3, 4));
    let [first, second] = &held.groups[..] else { panic!("two groups") };
    assert_eq!((&first.configuration, &first.entries[..]), (&with_learner(), &[][..]));
    assert_eq!((second.replica, &second.configuration), (ReplicaId(7), &Configuration::joining()));
    assert_eq!(second.entries, [configuration_entry()]);
    assert_eq!(recovered.groups[1].configurations, [(LogIndex(1), configuration_entry().data)]);
    assert_eq!(recovered.promise, Duration::from_nanos(0x0102_0304_0506));
    assert_eq!(Manifest::decode(V1_MANIFEST), Ok(manifest()));
}

/// The fields of the golden files at the places FORMAT.md gives, read without the crate's own decoder.
#[test]
fn fields_of_version_1_stand_where_the_format_says() {
    let number =
        |at: usize, len: usize| V1_SEGMENT[at..at + len].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    assert_eq!(&V1_SEGMENT[..8], b"RYSEGMNT");
    assert_eq!((number(8, 2), number(10, 2), number(16, 8), number(24, 8)), (1, 0, 1, rig::SEGMENT_BYTES));
    assert_eq!((number(48, 8), number(56, 8), number(64, 8)), (0, 0, 0));
    assert_eq!(V1_SEGMENT[..BLOCK_BYTES], V1_SEGMENT[BLOCK_BYTES..2 * BLOCK_BYTES]);
    let zeroed = |range: std::ops::Range<usize>, at: usize| {
        let mut bytes = V1_SEGMENT[range].to_vec();
        bytes[at..at + 4].fill(0);
        bytes
    };
    assert_eq!(number(12, 4), u64::from(crc32c::crc32c(&zeroed(0..BLOCK_BYTES, 12))));
    let (opening, second) = (2 * BLOCK_BYTES, 3 * BLOCK_BYTES);
    let salt = crc32c::crc32c(&V1_SEGMENT[32..48]);
    for (batch, flags, sequence, upto, previous, records) in
        [(opening, 1, 1, 0, 0, 0), (second, 0, 2, 1, number(opening + 28, 4), 4)]
    {
        assert_eq!(&V1_SEGMENT[batch..batch + 4], b"RYBT");
        assert_eq!((number(batch + 4, 2), number(batch + 6, 2), number(batch + 8, 8)), (1, flags, sequence));
        assert_eq!((number(batch + 16, 8), number(batch + 24, 4)), (upto, previous));
        let header = &zeroed(batch..batch + 64, 28);
        let header = [&header[..44], &[0; 4], &header[48..]].concat();
        assert_eq!(number(batch + 44, 4), u64::from(crc32c::crc32c_append(salt, &header)));
        let checksum = crc32c::crc32c_append(salt, &zeroed(batch..batch + BLOCK_BYTES, 28));
        assert_eq!(number(batch + 28, 4), u64::from(checksum));
        assert_eq!((number(batch + 32, 4), number(batch + 40, 4)), (0, records), "no echo");
    }
    let mut at = second + 64;
    for (kind, len) in [(1, 96), (2, 95), (2, 56), (3, 32)] {
        assert_eq!((number(at, 4), number(at + 4, 1)), (len, kind));
        at += usize::try_from(len).unwrap();
    }
    assert_eq!(number(second + 36, 4), (at - second - 64) as u64);
    let members =
        |at: usize, len: usize| V1_MEMBERS[at..at + len].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    assert_eq!((members(second + 64, 4), members(second + 68, 1)), (16, 4));
    assert_eq!(members(second + 72, 8), 0x0102_0304_0506);
    let third = 4 * BLOCK_BYTES;
    let mut at = third + 64;
    for (kind, len) in [(1, 80), (1, 48), (2, 56 + 16 + 8 + 72 + 3)] {
        assert_eq!((members(at, 4), members(at + 4, 1)), (len, kind));
        at += usize::try_from(len).unwrap();
    }
    assert_eq!(members(third + 64 + 40, 8), 1 << 32 | 1, "one voter and one learner");
    assert_eq!(&V1_SEGMENT[second + 64 + 96 + 56 + 16 + 16..][..7], b"command");
    assert_eq!(
        (&V1_MANIFEST[..8], V1_MANIFEST[8], V1_MANIFEST[16], V1_MANIFEST[24], V1_MANIFEST[48]),
        (&b"RYMANIFS"[..], 1, 1, 0x77, 2)
    );
    assert_eq!((V1_MANIFEST[32], V1_MANIFEST[47], V1_MANIFEST[66]), (0x10, 1, 1));
}
