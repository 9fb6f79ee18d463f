//! The real device, on the file system below the target directory: the log runs on it and comes back.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod rig;

use raftyard_raft::GroupId;
use raftyard_storage::aligned::AlignedBuf;
use raftyard_storage::device::{UringDisk, probe};
use raftyard_storage::io::{
    BLOCK_BYTES, Directory, Disk, FileName, FilePath, IoId, IoOp, IoOutput, SegmentNumber, WriteMode,
};
use raftyard_storage::manifest::{ClusterId, Manifest};
use raftyard_storage::wal::{StoreId, Wal, WalConfig};
use rig::{Model, Random, config};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::{AsFd as _, FromRawFd as _};

/// Not /tmp: that may be a file system without direct I/O.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn device(directory: &tempfile::TempDir) -> UringDisk {
    UringDisk::open(directory.path().to_owned(), 16).unwrap()
}

fn file(output: IoOutput) -> raftyard_storage::io::FileId {
    match output {
        IoOutput::File { file, .. } => file,
        other => panic!("{other:?}"),
    }
}

#[test]
fn io_uring_works_here() {
    probe().unwrap();
}

#[test]
fn every_operation_does_what_the_simulated_disk_does() {
    let directory = directory();
    let mut disks: [Box<dyn Disk>; 2] = [Box::new(device(&directory)), Box::new(raftyard_storage::sim::SimDisk::new())];
    let answers: Vec<Vec<String>> = disks.iter_mut().map(|disk| script(disk.as_mut())).collect();
    for (real, simulated) in answers[0].iter().zip(&answers[1]) {
        assert_eq!(real, simulated);
    }
    assert_eq!(answers[0].len(), answers[1].len());
}

fn script(disk: &mut dyn Disk) -> Vec<String> {
    let wal = Directory::Wal(rig::WAL);
    let spare = FilePath { directory: wal, name: FileName::Spare(SegmentNumber(1)) };
    let mut answers = Vec::new();
    let mut run = |op: IoOp| {
        let name = op.name();
        let result = disk.execute(op);
        answers.push(match &result {
            Ok(IoOutput::Buffer(buffer)) => format!("{name}: {} {:x}", buffer.len(), crc32c::crc32c(buffer)),
            Ok(IoOutput::File { len, .. }) => format!("{name}: file of {len}"),
            other => format!("{name}: {other:?}"),
        });
        result
    };
    run(IoOp::List(wal)).unwrap_err();
    run(IoOp::Open(spare)).unwrap_err();
    for _ in 0..2 {
        run(IoOp::MakeDirectory(wal)).unwrap();
    }
    run(IoOp::SyncDirectory(Directory::Root)).unwrap();
    let id = file(run(IoOp::Create(spare)).unwrap());
    run(IoOp::Create(spare)).unwrap_err();
    run(IoOp::Zero { file: id, offset: 0, len: 700 << 10 }).unwrap();
    run(IoOp::Sync(id)).unwrap();
    for (block, mode) in [(1, WriteMode::Dsync), (7, WriteMode::LinkedSync), (9, WriteMode::Volatile)] {
        let mut buffer = AlignedBuf::zeroed(2 * BLOCK_BYTES);
        buffer.fill(block);
        run(IoOp::Write { file: id, offset: u64::from(block) * BLOCK_BYTES as u64, buffer, mode }).unwrap();
    }
    for offset in [0, 172 * BLOCK_BYTES as u64, 1 << 20] {
        run(IoOp::Read { file: id, offset, buffer: AlignedBuf::zeroed(16 * BLOCK_BYTES) }).unwrap();
    }
    run(IoOp::Rename { from: spare, to: rig::segment(1) }).unwrap();
    run(IoOp::Rename { from: spare, to: rig::segment(1) }).unwrap_err();
    run(IoOp::SyncDirectory(wal)).unwrap();
    run(IoOp::List(wal)).unwrap();
    run(IoOp::Close(id)).unwrap();
    run(IoOp::Close(id)).unwrap_err();
    run(IoOp::Sync(id)).unwrap_err();
    run(IoOp::Open(rig::segment(1))).unwrap();
    run(IoOp::Remove(rig::segment(1))).unwrap();
    run(IoOp::Remove(rig::segment(1))).unwrap_err();
    run(IoOp::List(wal)).unwrap();
    answers
}

#[test]
fn a_log_comes_back_in_every_write_mode() {
    for (mode, depth) in [(WriteMode::Dsync, 1), (WriteMode::LinkedSync, 2), (WriteMode::Volatile, 4)] {
        let directory = directory();
        let config = |initialised| WalConfig { mode, depth, ..config(initialised) };
        let mut model = Model::default();
        let mut random = Random(5);
        let mut disk = device(&directory);
        let (mut wal, _) = Wal::open(&mut disk, config(false), 7).unwrap();
        for _ in 0..200 {
            let step = model.next_step(&mut random, 5000);
            while !wal.has_room() {
                run(&mut wal, &mut disk, false);
            }
            model.record(&mut wal, step);
            run(&mut wal, &mut disk, false);
        }
        run(&mut wal, &mut disk, true);
        let released = wal.released();
        drop(disk);
        let mut disk = device(&directory);
        let (_, recovered) = Wal::open(&mut disk, config(true), 8).unwrap();
        model.check(&mut disk, released);
        assert!(recovered.stats.segments > 2, "{:?}", recovered.stats);
    }
}

/// One turn as a core makes it: submit, hand out, take what completed; or on until all is released.
fn run(wal: &mut Wal, disk: &mut UringDisk, to_the_end: bool) {
    loop {
        wal.submit();
        while let Some((id, op)) = wal.poll_io() {
            disk.submit(id, op);
        }
        disk.flush().unwrap();
        disk.completions(|id, result| wal.handle_io(id, result)).unwrap();
        assert!(wal.failure().is_none(), "{:?}", wal.failure());
        if !to_the_end || (wal.is_idle() && disk.in_flight() == 0) {
            return;
        }
    }
}

#[test]
fn more_operations_than_the_ring_holds_all_complete_once_and_wake_the_eventfd() {
    let directory = directory();
    let mut disk = device(&directory);
    // SAFETY: eventfd makes a descriptor or returns -1; nobody else owns it.
    let eventfd = unsafe { std::os::fd::OwnedFd::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
    disk.register_eventfd(eventfd.as_fd()).unwrap();
    let spare = FilePath { directory: Directory::Root, name: FileName::Spare(SegmentNumber(1)) };
    let id = file(disk.execute(IoOp::Create(spare)).unwrap());
    let mut seen = BTreeMap::new();
    for n in 0..100 {
        let mut buffer = AlignedBuf::zeroed(BLOCK_BYTES);
        buffer.fill(n);
        let offset = u64::from(n) * BLOCK_BYTES as u64;
        disk.submit(IoId(u64::from(n)), IoOp::Write { file: id, offset, buffer, mode: WriteMode::LinkedSync });
    }
    disk.flush().unwrap();
    let mut counter = std::fs::File::from(eventfd);
    while disk.in_flight() > 0 {
        // Blocks until a completion was counted.
        counter.read_exact(&mut [0; 8]).unwrap();
        disk.completions(|id, result| *seen.entry(id).or_insert(0) += i32::from(result.is_ok())).unwrap();
    }
    assert_eq!(seen.len(), 100);
    assert!(seen.values().all(|times| *times == 1));
    let buffer = AlignedBuf::zeroed(100 * BLOCK_BYTES);
    let IoOutput::Buffer(read) = disk.execute(IoOp::Read { file: id, offset: 0, buffer }).unwrap() else { panic!() };
    assert!(read.chunks(BLOCK_BYTES).enumerate().all(|(n, block)| block.iter().all(|b| usize::from(*b) == n)));
}

#[test]
fn dropping_the_device_waits_for_what_is_in_flight() {
    let directory = directory();
    let spare = FilePath { directory: Directory::Root, name: FileName::Spare(SegmentNumber(1)) };
    let mut disk = device(&directory);
    let id = file(disk.execute(IoOp::Create(spare)).unwrap());
    for n in 0..6u64 {
        let mut buffer = AlignedBuf::zeroed(64 << 10);
        buffer.fill(1);
        disk.submit(IoId(n), IoOp::Write { file: id, offset: n * (64 << 10), buffer, mode: WriteMode::Dsync });
    }
    drop(disk);
    let bytes = std::fs::read(directory.path().join("spare-0000000000000001.wal")).unwrap();
    assert!(bytes.len() == 6 * (64 << 10) && bytes.iter().all(|b| *b == 1));
}

#[test]
fn the_manifest_comes_back() {
    let directory = directory();
    let manifest = Manifest {
        node: raftyard_raft::NodeId(1),
        cluster: ClusterId(2),
        store: StoreId(3),
        wals: vec![rig::WAL],
        forgetful: false,
    };
    let mut disk = device(&directory);
    assert_eq!(Manifest::load(&mut disk), Ok(None));
    manifest.create(&mut disk).unwrap();
    assert_eq!(Manifest::load(&mut device(&directory)), Ok(Some(manifest)));
}

#[test]
fn a_huge_entry_comes_back() {
    let directory = directory();
    let mut disk = device(&directory);
    let config = WalConfig::new(rig::WAL);
    let (mut wal, _) = Wal::open(&mut disk, config.clone(), 7).unwrap();
    wal.record_creation(GroupId(1), raftyard_raft::ReplicaId(1), &rig::configuration());
    let entries = [rig::entry(1, 1, &vec![5; config.entry_bytes_max])];
    wal.record_group(GroupId(1), raftyard_raft::ReplicaId(1), None, (&entries, &[]));
    run(&mut wal, &mut disk, true);
    let config = WalConfig { initialised: true, ..config };
    let (wal, _) = Wal::open(&mut disk, config, 8).unwrap();
    assert_eq!(wal.load(&mut disk).unwrap()[&GroupId(1)], entries);
}
