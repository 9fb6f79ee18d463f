//! What the commands refuse, in one line; and logs of other versions.

use crate::{json, number, succeeded, temp_dir, wal};
use std::path::Path;

const SEGMENT_BYTES: usize = 256 << 10;

/// The complaint, which is one line, and that the code says failure.
fn complaint(arguments: &[&str], dir: &Path) -> String {
    let output = wal(arguments, dir);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), stderr.lines().count()), (Some(1), 1), "{output:?}");
    assert!(output.stdout.is_empty() && stderr.starts_with(&format!("raftyard wal {}: ", arguments[0])), "{output:?}");
    stderr
}

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("storage/tests/golden").join(name);
    std::fs::read(path).expect("a golden file")
}

/// A data directory with the golden manifest of a version and these segments in its first log.
fn directory(manifest: &str, segments: &[(u64, Vec<u8>)]) -> tempfile::TempDir {
    let dir = temp_dir();
    std::fs::write(dir.path().join("manifest"), golden(manifest)).expect("written");
    std::fs::create_dir(dir.path().join("wal-0")).expect("made");
    for (number, bytes) in segments {
        let mut bytes = bytes.clone();
        bytes.resize(SEGMENT_BYTES, 0);
        let name = format!("wal-0/segment-{number:016}.wal");
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
    dir
}

#[test]
fn a_directory_that_is_none() {
    let dir = temp_dir();
    for command in ["inspect", "verify", "dump"] {
        let line = complaint(&[command], &dir.path().join("nowhere"));
        assert!(line.contains("nowhere: No such file or directory"), "{line}");
        assert!(complaint(&[command], dir.path()).contains("no manifest"));
        assert!(complaint(&[command, "--wal"], dir.path()).contains("is called wal-<id>"));
        std::fs::write(dir.path().join("file"), b"").expect("written");
        assert!(complaint(&[command], &dir.path().join("file")).contains("no directory"));
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 1, "nothing was made");
    std::fs::write(dir.path().join("manifest"), b"RYMANIFS, but not really").expect("written");
    assert!(complaint(&["verify"], dir.path()).contains("manifest: damaged"));
}

#[test]
fn logs_that_are_not_there() {
    // The manifest names two logs.
    let dir = directory("v2-manifest.bin", &[(2, golden("v2-segment.bin"))]);
    for command in ["inspect", "verify"] {
        assert!(complaint(&[command], dir.path()).contains("wal-257: list failed"));
    }
    assert!(complaint(&["dump", "--segment", "2"], dir.path()).contains("has 2 logs"));
    let log = dir.path().join("wal-0");
    assert!(
        complaint(&["dump", "--wal", "--segment", "3"], &log).contains("segment-0000000000000003.wal: open failed")
    );
    // And one without a segment, which a node that served never leaves.
    std::fs::create_dir(dir.path().join("wal-257")).expect("made");
    let output = wal(&["verify", "--json"], dir.path());
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert_eq!(json(&output)["logs"][1]["findings"][0]["what"], "refused");
}

#[test]
fn version_1_and_2_are_read() {
    let dir = directory("v1-manifest.bin", &[(1, golden("v1-segment.bin"))]);
    let log = dir.path().join("wal-0");
    let verified = json(&wal(&["verify", "--json", "--wal"], &log));
    assert_eq!((number(&verified, "/logs/0/records"), number(&verified, "/logs/0/entries")), (4, 2), "{verified:#}");
    let found = json(&wal(&["inspect", "--json", "--wal"], &log));
    assert_eq!((number(&found, "/logs/0/segments/0/version"), number(&found, "/logs/0/groups_count")), (1, 1));
    let dumped = succeeded(&wal(&["dump", "--wal", "--entries"], &log));
    assert!(dumped.contains("type command bytes 7 data 636f6d6d616e64\n"), "{dumped}");

    let dir = directory("v2-manifest.bin", &[(2, golden("v2-segment.bin")), (4, golden("v2-restart.bin"))]);
    let log = dir.path().join("wal-0");
    let dumped = succeeded(&wal(&["dump", "--wal"], &log));
    for kind in ["creation", "group", "relocated", "state", "removal", "chunk", "peer", "promise", "checkpoint", "echo"]
    {
        assert!(dumped.lines().any(|line| line.trim_start().starts_with(&format!("{kind} "))), "{kind} in\n{dumped}");
    }
    let verified = json(&wal(&["verify", "--json", "--wal"], &log));
    assert_eq!(
        (number(&verified, "/logs/0/snapshot_pieces"), number(&verified, "/logs/0/batches")),
        (2, 21),
        "{verified:#}"
    );
    let found = json(&wal(&["inspect", "--json", "--wal"], &log));
    assert_eq!(found["logs"][0]["limited"], serde_json::json!([0xc, 0xd]));
}

#[test]
fn a_version_to_come_is_no_damage() {
    let mut bytes = golden("v2-segment.bin");
    for block in bytes[..8192].chunks_mut(4096) {
        block[8] = 3;
        block[12..16].fill(0);
        let checksum = crc32c(block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
    }
    let dir = directory("v2-manifest.bin", &[(2, bytes)]);
    for command in ["inspect", "verify", "dump"] {
        let line = complaint(&[command, "--wal"], &dir.path().join("wal-0"));
        assert!(line.contains("format version 3, written by raftyard 0.1.0"), "{line}");
    }
}

/// CRC32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}
