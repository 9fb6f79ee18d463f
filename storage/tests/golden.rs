//! The bytes on disk, fixed for ever: what FORMAT.md says is what is written, and what was written can be read.
//!
//! A change here is a new format version, not a new golden file.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_raft::{
    Configuration, ConfigurationEntry, Entry, EntryKind, GroupId, HardState, LogIndex, Member, MemberChange, NodeId,
    ReplicaId, Term,
};
use raftyard_storage::io::{BLOCK_BYTES, Directory, FileName, FilePath};
use raftyard_storage::manifest::{ClusterId, Manifest};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{StoreId, Wal, WalConfig, read};
use rig::{config, entry, open, segment};
use std::time::Duration;

const SEGMENT: &[u8] = include_bytes!("golden/v1-segment.bin");
/// What came later within version 1: other creations, configurations in the log, promises.
const MEMBERS: &[u8] = include_bytes!("golden/v1-members.bin");
const MANIFEST: &[u8] = include_bytes!("golden/v1-manifest.bin");

fn hard_state() -> HardState {
    HardState { term: Term(0x21), vote: Some(ReplicaId(2)) }
}

/// Two headers, the opening batch, and a batch with each kind of record: five blocks.
fn written_segment() -> Vec<u8> {
    let mut disk = SimDisk::new();
    let (mut wal, _) = Wal::open(&mut disk, config(false), 42).unwrap();
    wal.record_creation(GroupId(0x11), ReplicaId(1), &rig::configuration());
    let entries = [entry(0x21, 1, b""), entry(0x21, 2, b"command")];
    wal.record_group(GroupId(0x11), ReplicaId(1), Some(hard_state()), (&entries[..1], &entries[1..]));
    wal.record_group(GroupId(0x11), ReplicaId(1), None, (&[], &[]));
    wal.record_peer(NodeId(3), StoreId(0x0123_4567_89ab_cdef));
    rig::settle(&mut wal, &mut disk);
    disk.content(segment(1)).unwrap()[..4 * BLOCK_BYTES].to_vec()
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

fn written_members() -> Vec<u8> {
    let mut disk = SimDisk::new();
    let promise = Duration::from_nanos(0x0102_0304_0506);
    let (mut wal, recovered) = Wal::open(&mut disk, WalConfig { promise, ..config(false) }, 42).unwrap();
    assert_eq!(recovered.promise, Duration::ZERO, "none was given before");
    wal.record_creation(GroupId(0x11), ReplicaId(1), &with_learner());
    wal.record_creation(GroupId(0x12), ReplicaId(7), &Configuration::joining());
    wal.record_group(
        GroupId(0x12),
        ReplicaId(7),
        Some(HardState { term: Term(1), vote: None }),
        (&[configuration_entry()], &[]),
    );
    rig::settle(&mut wal, &mut disk);
    disk.content(segment(1)).unwrap()[..5 * BLOCK_BYTES].to_vec()
}

fn manifest() -> Manifest {
    Manifest {
        node: NodeId(1),
        cluster: ClusterId(0x77),
        store: StoreId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        wals: vec![rig::WAL, raftyard_storage::io::WalId(1)],
    }
}

fn written_manifest() -> Vec<u8> {
    let mut disk = SimDisk::new();
    manifest().create(&mut disk).unwrap();
    let path = FilePath { directory: Directory::Root, name: FileName::Manifest };
    disk.content(path).unwrap().to_vec()
}

#[test]
fn what_is_written_is_what_was_always_written() {
    for (name, golden, written) in [
        ("v1-segment.bin", SEGMENT, written_segment()),
        ("v1-members.bin", MEMBERS, written_members()),
        ("v1-manifest.bin", MANIFEST, written_manifest()),
    ] {
        let differs = golden.iter().zip(&written).position(|(a, b)| a != b);
        assert!(
            golden == written,
            "{name}: {} and {} bytes, first difference at {differs:?}",
            golden.len(),
            written.len()
        );
    }
}

#[test]
fn what_was_always_written_is_read() {
    let mut disk = SimDisk::new();
    drop(open(&mut disk, false).unwrap());
    disk.damage(segment(1), |bytes| bytes[..SEGMENT.len()].copy_from_slice(SEGMENT));
    let recovered = read(&mut disk, rig::WAL).unwrap().recovered;
    assert_eq!((recovered.stats.batches, recovered.stats.records), (2, 4));
    let group = &recovered.groups[0];
    assert_eq!(
        (group.group, group.replica, &group.configuration),
        (GroupId(0x11), ReplicaId(1), &rig::configuration())
    );
    assert_eq!(group.hard_state, hard_state());
    assert_eq!(group.entries, [entry(0x21, 1, b""), entry(0x21, 2, b"command")]);
    assert_eq!(recovered.peers, [(NodeId(3), StoreId(0x0123_4567_89ab_cdef))]);
    assert_eq!(Manifest::decode(MANIFEST), Ok(manifest()));
    disk.damage(segment(1), |bytes| bytes[..MEMBERS.len()].copy_from_slice(MEMBERS));
    let recovered = read(&mut disk, rig::WAL).unwrap().recovered;
    assert_eq!((recovered.stats.batches, recovered.stats.records), (3, 4));
    let [first, second] = &recovered.groups[..] else { panic!("two groups") };
    assert_eq!((&first.configuration, &first.entries[..]), (&with_learner(), &[][..]));
    assert_eq!((second.replica, &second.configuration), (ReplicaId(7), &Configuration::joining()));
    assert_eq!(second.entries, [configuration_entry()]);
    assert_eq!(recovered.promise, Duration::from_nanos(0x0102_0304_0506));
}

/// The fields of the golden files at the places FORMAT.md gives, read without the crate's own decoder.
#[test]
fn fields_stand_where_the_format_says() {
    let number = |at: usize, len: usize| SEGMENT[at..at + len].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    assert_eq!(&SEGMENT[..8], b"RYSEGMNT");
    assert_eq!((number(8, 2), number(10, 2), number(16, 8), number(24, 8)), (1, 0, 1, rig::SEGMENT_BYTES));
    assert_eq!((number(48, 8), number(56, 8), number(64, 8)), (0, 0, 0));
    assert_eq!(SEGMENT[..BLOCK_BYTES], SEGMENT[BLOCK_BYTES..2 * BLOCK_BYTES]);
    let zeroed = |range: std::ops::Range<usize>, at: usize| {
        let mut bytes = SEGMENT[range].to_vec();
        bytes[at..at + 4].fill(0);
        bytes
    };
    assert_eq!(number(12, 4), u64::from(crc32c::crc32c(&zeroed(0..BLOCK_BYTES, 12))));
    let (opening, second) = (2 * BLOCK_BYTES, 3 * BLOCK_BYTES);
    let salt = crc32c::crc32c(&SEGMENT[32..48]);
    for (batch, flags, sequence, upto, previous, records) in
        [(opening, 1, 1, 0, 0, 0), (second, 0, 2, 1, number(opening + 28, 4), 4)]
    {
        assert_eq!(&SEGMENT[batch..batch + 4], b"RYBT");
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
    let members = |at: usize, len: usize| MEMBERS[at..at + len].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    assert_eq!((members(second + 64, 4), members(second + 68, 1)), (16, 4));
    assert_eq!(members(second + 72, 8), 0x0102_0304_0506);
    let third = 4 * BLOCK_BYTES;
    let mut at = third + 64;
    for (kind, len) in [(1, 80), (1, 48), (2, 56 + 16 + 8 + 72 + 3)] {
        assert_eq!((members(at, 4), members(at + 4, 1)), (len, kind));
        at += usize::try_from(len).unwrap();
    }
    assert_eq!(members(third + 64 + 40, 8), 1 << 32 | 1, "one voter and one learner");
    assert_eq!(&SEGMENT[second + 64 + 96 + 56 + 16 + 16..][..7], b"command");
    assert_eq!(
        (&MANIFEST[..8], MANIFEST[8], MANIFEST[16], MANIFEST[24], MANIFEST[48]),
        (&b"RYMANIFS"[..], 1, 1, 0x77, 2)
    );
    assert_eq!((MANIFEST[32], MANIFEST[47], MANIFEST[66]), (0x10, 1, 1));
}
