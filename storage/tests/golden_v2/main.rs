//! The bytes of version 2, fixed for ever: a fixed scenario is written as the golden files hold it, and these are read as
//! what it meant. `golden.rs` does the same for version 1, which is only read.
//!
//! A change here is a new format version, not a new golden file.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod places;
#[path = "../rig/mod.rs"]
mod rig;

use places::batches;
use raftyard_raft::Limit;
use raftyard_raft::{
    Configuration, ConfigurationEntry, Entry, EntryKind, GroupId, HardState, LogIndex, LogPosition, Member,
    MemberChange, NodeId, ReplicaId, Term,
};
use raftyard_storage::aligned::AlignedBuf;
use raftyard_storage::format::{FORMAT_VERSION, Writer};
use raftyard_storage::io::{BLOCK_BYTES, Directory, Disk, FileName, FilePath, IoOp, IoOutput, WalId, WriteMode};
use raftyard_storage::manifest::{ClusterId, Manifest, ManifestError};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{BatchSeq, StateChange, StoreId, Wal, WalConfig, WalError};
use rig::{entry, segment, settle};
use std::time::Duration;

const SEGMENT: &[u8] = include_bytes!("../golden/v2-segment.bin");
/// The segment after it, of another start.
const RESTART: &[u8] = include_bytes!("../golden/v2-restart.bin");
const MANIFEST: &[u8] = include_bytes!("../golden/v2-manifest.bin");
const SEGMENT_WRITER_AT: usize = 128;
const MANIFEST_WRITER_AT: usize = 56;
const MANIFEST_FILE: FilePath = FilePath { directory: Directory::Root, name: FileName::Manifest };

const KEPT: (GroupId, ReplicaId) = (GroupId(0xa), ReplicaId(1));
const FILLED: (GroupId, ReplicaId) = (GroupId(0xb), ReplicaId(2));
const BOUND: (GroupId, ReplicaId) = (GroupId(0xc), ReplicaId(3));
const AMNESIAC: (GroupId, ReplicaId) = (GroupId(0xd), ReplicaId(4));
const GONE: (GroupId, ReplicaId) = (GroupId(0xe), ReplicaId(5));

fn manifest() -> Manifest {
    Manifest {
        node: NodeId(1),
        cluster: ClusterId(0x77),
        store: StoreId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        wals: vec![rig::WAL, WalId(0x101)],
        forgetful: true,
    }
}

fn config(initialised: bool, promise: u64) -> WalConfig {
    WalConfig {
        batch_bytes_max: 600,
        checkpoint_bytes: 24 << 10,
        spare_segments: 1,
        reserve_segments: 0,
        promise: Duration::from_nanos(promise),
        ..rig::config(initialised)
    }
}

fn position(index: u64, term: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(term) }
}

fn voted(term: u64) -> HardState {
    HardState { term: Term(term), vote: Some(ReplicaId(0x31)) }
}

fn member(id: u64) -> Member {
    Member { replica: ReplicaId(id), node: NodeId(id) }
}

fn with_learner() -> Configuration {
    Configuration::with_learners(vec![member(3)], vec![member(9)]).unwrap()
}

fn configuration_entry() -> Entry {
    let changes = [MemberChange::Demote(ReplicaId(2)), MemberChange::Remove(ReplicaId(3))];
    let configuration = rig::configuration().changed(&changes).unwrap();
    let held = ConfigurationEntry { configuration, context: "why".into(), forced: false };
    Entry { term: Term(5), index: LogIndex(2), kind: EntryKind::Configuration, data: held.encode() }
}

fn fill(wal: &mut Wal, disk: &mut SimDisk, index: u64, bytes: usize) {
    wal.record_group(FILLED.0, FILLED.1, None, (&[entry(4, index, &vec![0; bytes])], &[]));
    settle(wal, disk);
}

/// The log that the golden segments are. Its first segment is full and given up.
fn written() -> SimDisk {
    let mut disk = SimDisk::new();
    let (mut wal, _) = Wal::open(&mut disk, config(false, 0x600), 42).unwrap();
    wal.record_creation(KEPT.0, KEPT.1, &rig::configuration());
    wal.record_group(KEPT.0, KEPT.1, Some(voted(4)), (&[entry(4, 1, b"kept"), entry(4, 2, b"")], &[entry(5, 3, b"b")]));
    wal.record_creation(FILLED.0, FILLED.1, &Configuration::joining());
    wal.record_creation(GONE.0, GONE.1, &Configuration::joining());
    settle(&mut wal, &mut disk);
    for index in 1..=4 {
        fill(&mut wal, &mut disk, index, 55 << 10);
    }
    // The first batch of the second segment.
    wal.record_creation(BOUND.0, BOUND.1, &with_learner());
    wal.record_creation(AMNESIAC.0, AMNESIAC.1, &Configuration::joining());
    wal.record_peer(NodeId(0x12), StoreId(0x0123_4567_89ab_cdef));
    fill(&mut wal, &mut disk, 5, 20 << 10);
    let base = Some((position(5, 4), with_learner(), LogIndex(0)));
    wal.record_state(FILLED.0, FILLED.1, StateChange { base, ..StateChange::default() });
    wal.record_group(BOUND.0, BOUND.1, Some(voted(5)), (&[entry(4, 1, b"c"), configuration_entry()], &[]));
    settle(&mut wal, &mut disk);
    wal.record_chunk(KEPT.0, KEPT.1, position(1, 4), 0, b"machine ");
    wal.record_chunk(KEPT.0, KEPT.1, position(1, 4), 8, b"state");
    let change = StateChange {
        base: Some((position(1, 4), rig::configuration(), LogIndex(0))),
        snapshot: Some((position(1, 4), 13)),
        ..StateChange::default()
    };
    wal.record_state(KEPT.0, KEPT.1, change);
    settle(&mut wal, &mut disk);
    let limit = Some(Limit::Bound(position(0x52, 0x53)));
    wal.record_state(BOUND.0, BOUND.1, StateChange { limit, ..StateChange::default() });
    let limit = Some(Limit::Amnesia);
    wal.record_state(AMNESIAC.0, AMNESIAC.1, StateChange { limit, reset: true, ..StateChange::default() });
    wal.record_removal(GONE.0, GONE.1);
    settle(&mut wal, &mut disk);
    // Term and vote alone.
    wal.record_group(BOUND.0, BOUND.1, Some(voted(0x54)), (&[], &[]));
    settle(&mut wal, &mut disk);
    // Checkpoints, and what of the first segment still counts is recorded again.
    for index in 6..=8 {
        fill(&mut wal, &mut disk, index, 5 << 10);
    }
    stop(wal, &mut disk);
    let (wal, recovered) = Wal::open(&mut disk, config(true, 0x0102_0304_0506), 43).unwrap();
    assert!(recovered.stats.clean);
    stop(wal, &mut disk);
    disk
}

fn stop(mut wal: Wal, disk: &mut SimDisk) {
    wal.close();
    settle(&mut wal, disk);
    assert!(wal.is_closed() && wal.failure().is_none());
}

/// A segment up to the end of its last batch.
fn content(disk: &SimDisk, number: u64) -> Vec<u8> {
    let bytes = disk.content(segment(number)).unwrap();
    let end = batches(bytes).last().unwrap().end;
    bytes[..end].to_vec()
}

/// The golden files say who wrote them; a later program writes the same under its own name.
fn signed_by_this(golden: &[u8], writer_at: usize) -> Vec<u8> {
    let this = Writer::this().0.map(u16::to_le_bytes).concat();
    let mut bytes = golden.to_vec();
    for block in bytes[..writer_block_end(writer_at)].chunks_mut(BLOCK_BYTES) {
        block[writer_at..writer_at + 6].copy_from_slice(&this);
        sign(block);
    }
    bytes
}

/// A segment has two copies of its header, a manifest is one block.
fn writer_block_end(writer_at: usize) -> usize {
    if writer_at == SEGMENT_WRITER_AT { 2 * BLOCK_BYTES } else { BLOCK_BYTES }
}

/// Puts the checksum of a header or manifest right.
fn sign(block: &mut [u8]) {
    block[12..16].fill(0);
    let checksum = crc32c::crc32c(block);
    block[12..16].copy_from_slice(&checksum.to_le_bytes());
}

fn manifest_written() -> Vec<u8> {
    let mut disk = SimDisk::new();
    manifest().create(&mut disk).unwrap();
    disk.content(MANIFEST_FILE).unwrap().to_vec()
}

/// A log of these segments, each as long as it was.
fn log_of(segments: &[(u64, &[u8])]) -> SimDisk {
    let mut disk = SimDisk::new();
    disk.execute(IoOp::MakeDirectory(Directory::Wal(rig::WAL))).unwrap();
    for (number, bytes) in segments {
        let mut buffer = AlignedBuf::zeroed(usize::try_from(rig::SEGMENT_BYTES).unwrap());
        buffer[..bytes.len()].copy_from_slice(bytes);
        let Ok(IoOutput::File { file, .. }) = disk.execute(IoOp::Create(segment(*number))) else { panic!("a file") };
        disk.execute(IoOp::Write { file, offset: 0, buffer, mode: WriteMode::Dsync }).unwrap();
    }
    disk
}

#[test]
fn the_scenario_is_written_byte_for_byte() {
    let disk = written();
    let segments = disk.paths(Directory::Wal(rig::WAL));
    assert_eq!(segments, [2, 4, 5].map(segment), "the first one is given up, the last one made ahead");
    // To make the files of a new version: write these three, and look at every byte.
    assert!(content(&disk, 2) == signed_by_this(SEGMENT, SEGMENT_WRITER_AT), "v2-segment.bin");
    assert!(content(&disk, 4) == signed_by_this(RESTART, SEGMENT_WRITER_AT), "v2-restart.bin");
    assert!(manifest_written() == signed_by_this(MANIFEST, MANIFEST_WRITER_AT), "v2-manifest.bin");
}

#[test]
fn what_version_2_wrote_is_read() {
    let mut disk = log_of(&[(2, SEGMENT)]);
    let (held, recovered) = rig::state(&mut disk).unwrap();
    let stats = recovered.stats;
    assert_eq!((stats.last, stats.durable_upto, stats.clean, stats.tear), (BatchSeq(24), BatchSeq(23), true, None));
    assert_eq!(stats.checkpoint.map(|place| (place.offset, place.sequence)), Some((86016, BatchSeq(21))));
    let mut restarted = log_of(&[(2, SEGMENT), (4, RESTART)]);
    let (again, recovered) = rig::state(&mut restarted).unwrap();
    assert_eq!((again, recovered.promise), (held.clone(), Duration::from_nanos(0x0102_0304_0506)));
    assert_eq!((recovered.stats.last, recovered.stats.clean), (BatchSeq(30), true));
    // The same from the log's first batch on, as if no checkpoint could be read.
    restarted.damage(segment(4), |bytes| bytes[16384] ^= 1);
    restarted.damage(segment(2), |bytes| bytes[86016] ^= 1);
    let (_, recovered) = rig::state(&mut restarted).unwrap();
    assert_eq!(recovered.damage.iter().map(|damage| damage.first.0).collect::<Vec<_>>(), [21, 27]);

    assert_eq!(held.peers, [(NodeId(0x12), StoreId(0x0123_4567_89ab_cdef))]);
    let [kept, filled, bound, amnesiac] = &held.groups[..] else { panic!("four groups: {held:?}") };
    assert_eq!((kept.group, kept.replica, kept.hard_state, kept.limit), (KEPT.0, KEPT.1, voted(4), Limit::None));
    assert_eq!((kept.base, &kept.configuration), (position(1, 4), &rig::configuration()));
    assert_eq!(kept.entries, [entry(4, 2, b""), entry(5, 3, b"b")]);
    assert_eq!(kept.snapshot, Some((position(1, 4), b"machine state".to_vec())));
    assert_eq!((filled.group, filled.base, &filled.configuration), (FILLED.0, position(5, 4), &with_learner()));
    assert_eq!(
        filled.entries.iter().map(|e| (e.index.0, e.data.len())).collect::<Vec<_>>(),
        [6, 7, 8].map(|n| (n, 5120))
    );
    assert_eq!(
        (bound.replica, bound.hard_state, bound.limit),
        (BOUND.1, voted(0x54), Limit::Bound(position(0x52, 0x53)))
    );
    assert_eq!(
        (&bound.configuration, &bound.entries[..]),
        (&with_learner(), &[entry(4, 1, b"c"), configuration_entry()][..])
    );
    assert_eq!((amnesiac.group, amnesiac.replica, amnesiac.limit), (AMNESIAC.0, AMNESIAC.1, Limit::Amnesia));
    let (wal, _) = Wal::open(&mut disk, config(true, 0), 44).unwrap();
    assert!(!wal.may_create(GONE.0, GONE.1), "the removed replica's id is used up");
    assert_eq!(Manifest::decode(MANIFEST), Ok(manifest()));
}

#[test]
fn a_version_to_come_is_refused_with_who_wrote_it_and_what_reads_it() {
    let mut to_come = SEGMENT.to_vec();
    for block in to_come[..2 * BLOCK_BYTES].chunks_mut(BLOCK_BYTES) {
        block[8] = 3;
        block[SEGMENT_WRITER_AT..SEGMENT_WRITER_AT + 6].copy_from_slice(&[1, 0, 7, 0, 4, 0]);
        // What the writer's version uses of what is reserved today.
        block[200] = 1;
        sign(block);
    }
    let refused = rig::state(&mut log_of(&[(2, &to_come)])).unwrap_err();
    assert!(matches!(refused, WalError::UnknownVersion { version: 3, .. }), "{refused}");
    let this = Writer::this();
    let words = format!(
        "format version 3, written by raftyard 1.7.4; this is {this}, which reads versions 1 to {FORMAT_VERSION}: \
         start raftyard 1.7.4 or a later one"
    );
    assert_eq!(refused.to_string(), format!("wal-0/segment-0000000000000002.wal: {words}"));
    let mut to_come = MANIFEST.to_vec();
    to_come[8] = 3;
    to_come[MANIFEST_WRITER_AT..MANIFEST_WRITER_AT + 6].copy_from_slice(&[1, 0, 7, 0, 4, 0]);
    sign(&mut to_come);
    let refused = Manifest::decode(&to_come).unwrap_err();
    assert!(matches!(refused, ManifestError::UnknownVersion { version: 3, .. }), "{refused}");
    assert_eq!(refused.to_string(), format!("manifest: {words}"));
}
