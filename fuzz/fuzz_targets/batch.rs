//! Arbitrary bytes for every decoder of the log's format. The first byte says which, and whether checksums are made right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raftyard_storage::format::batch::{BATCH_HEADER_BYTES, BATCH_MAGIC, claimed_bytes, decode};
use raftyard_storage::format::checkpoint::Item;
use raftyard_storage::format::echo;
use raftyard_storage::format::record::{Record, decode_all, decode_one};
use raftyard_storage::format::segment::{ChecksumSeed, SegmentHeader, decode_header};

fuzz_target!(|data: &[u8]| {
    let Some((&kind, data)) = data.split_first() else { return };
    match kind % 6 {
        0 => batch(data, kind & 64 == 0),
        1 => records(2, data, u32::from(kind >> 4)),
        2 => records(1, data, u32::from(kind >> 4)),
        3 => items(data),
        4 => header(data, kind & 64 == 0),
        _ => one(data),
    }
});

fn around(seed: u32, bytes: &[u8], at: usize) -> u32 {
    let crc = crc32c::crc32c_append(seed, &bytes[..at]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[at + 4..])
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn seed() -> ChecksumSeed {
    static SEED: std::sync::OnceLock<ChecksumSeed> = std::sync::OnceLock::new();
    *SEED.get_or_init(|| {
        let mut blocks = vec![0; 8192];
        put(&mut blocks, 0, b"RYSEGMNT");
        put(&mut blocks, 8, &2u16.to_le_bytes());
        put(&mut blocks, 16, &1u64.to_le_bytes());
        put(&mut blocks, 72, &1u64.to_le_bytes());
        let checksum = around(0, &blocks[..4096], 12);
        put(&mut blocks, 12, &checksum.to_le_bytes());
        decode_header(&blocks).expect("a header").checksum_seed()
    })
}

fn batch(data: &[u8], mend: bool) {
    let (seed, offset) = (seed(), 8192);
    let mut bytes = data.to_vec();
    if mend && bytes.len() >= BATCH_HEADER_BYTES {
        put(&mut bytes, 0, &BATCH_MAGIC);
        put(&mut bytes, 4, &2u16.to_le_bytes());
        // What is claimed is there, more often than not.
        let len = |at: usize| u64::from(u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")));
        let claimed = (64 + len(32) + len(36)).next_multiple_of(4096);
        if claimed <= 1 << 16 {
            bytes.resize(claimed as usize, 0);
        }
        put(&mut bytes, 28, &[0; 4]);
        put(&mut bytes, 44, &[0; 4]);
        let header = crc32c::crc32c_append(seed.at(offset), &bytes[..BATCH_HEADER_BYTES]);
        put(&mut bytes, 44, &header.to_le_bytes());
        let whole = around(seed.at(offset), &bytes, 28);
        put(&mut bytes, 28, &whole.to_le_bytes());
    }
    let _ = claimed_bytes(&bytes, seed, offset);
    let Ok(found) = decode(&bytes, seed, offset) else { return };
    if let Some(echoes) = echo::decode_all(found.echo) {
        for echo in echoes {
            assert_eq!(echo::decode_all(&echo.encode()).expect("one").next(), Some(echo));
        }
    }
    records(2, found.records, found.header.record_count);
}

fn records(version: u16, data: &[u8], count: u32) {
    let _ = decode_all(version, data, count, |record, at, len| {
        assert!(at + len <= data.len());
        match record {
            Record::Group(record) | Record::Relocated(record) => {
                assert_eq!(record.entries.iter().count(), record.entries.len() as usize);
            }
            Record::Checkpoint(part) => items(part.items),
            _ => {}
        }
        Ok(())
    });
}

fn items(data: &[u8]) {
    let mut all = Vec::new();
    let mut written = Vec::new();
    if let Some(rest) = Item::read_all(data, |item| all.push(item)) {
        assert!(rest.len() <= data.len());
    }
    for item in all {
        written.clear();
        item.write(&mut written);
        let mut again = None;
        assert_eq!(Item::read_all(&written, |item| again = Some(item)), Some(&[][..]));
        assert_eq!(again, Some(item));
    }
}

fn header(data: &[u8], mend: bool) {
    let mut blocks = data.to_vec();
    blocks.resize(8192, 0);
    if mend {
        put(&mut blocks, 0, b"RYSEGMNT");
        blocks[9] = 0;
        blocks[136..4096].fill(0);
        let checksum = around(0, &blocks[..4096], 12);
        put(&mut blocks, 12, &checksum.to_le_bytes());
    }
    if let Ok(header) = decode_header(&blocks)
        && header.version == 2
    {
        let mut again = vec![0; 8192];
        header.encode(&mut again);
        assert_eq!(SegmentHeader::decode(&again[..4096]), Ok(header));
    }
}

fn one(data: &[u8]) {
    let mut bytes = data.to_vec();
    if bytes.len() >= 16 {
        let len = bytes.len() as u32;
        put(&mut bytes, 0, &len.to_le_bytes());
        let checksum = around(0, &bytes, 8);
        put(&mut bytes, 8, &checksum.to_le_bytes());
    }
    let _ = decode_one(2, &bytes);
    let _ = decode_one(1, &bytes);
}
