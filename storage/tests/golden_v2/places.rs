//! The fields of the golden files at the places FORMAT.md gives, read without the crate's own decoder.

use crate::{MANIFEST, RESTART, SEGMENT, rig};
use raftyard_storage::io::BLOCK_BYTES;

/// Where a batch stands.
pub(crate) struct BatchIn {
    pub(crate) at: usize,
    pub(crate) end: usize,
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

pub(crate) fn batches(bytes: &[u8]) -> Vec<BatchIn> {
    let mut found = Vec::new();
    let mut at = 2 * BLOCK_BYTES;
    while bytes.len() > at && bytes[at..].starts_with(b"RYBT") {
        let len = 64 + number(bytes, at + 32, 4) + number(bytes, at + 36, 4);
        let end = at + usize::try_from(len).unwrap().next_multiple_of(BLOCK_BYTES);
        found.push(BatchIn { at, end });
        at = end;
    }
    found
}

/// The bytes with four at each of these places zero.
fn zeroed(bytes: &[u8], places: &[usize]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    places.iter().for_each(|at| bytes[*at..at + 4].fill(0));
    bytes
}

/// Where the records of the batch at `at` start: their kinds and places.
fn records(bytes: &[u8], at: usize) -> Vec<(u8, usize)> {
    let mut record = at + 64 + usize::try_from(number(bytes, at + 32, 4)).unwrap();
    let end = record + usize::try_from(number(bytes, at + 36, 4)).unwrap();
    let mut found = Vec::new();
    while record < end {
        found.push((bytes[record + 4], record));
        record += usize::try_from(number(bytes, record, 4)).unwrap();
    }
    assert_eq!(record, end);
    found
}

#[test]
fn headers_and_batches_stand_where_the_format_says() {
    let n = |at: usize, len: usize| number(SEGMENT, at, len);
    assert_eq!(&SEGMENT[..8], b"RYSEGMNT");
    assert_eq!((n(8, 2), n(10, 2), n(16, 8), n(24, 8)), (2, 0, 2, rig::SEGMENT_BYTES));
    assert_eq!((n(48, 8), n(56, 8), n(64, 8), n(72, 8)), (1, rig::SEGMENT_BYTES, 1, 1));
    assert_eq!((n(80, 8), n(88, 8), n(96, 8), n(104, 8)), (0, 0, 0, 0), "no checkpoint was complete");
    assert_eq!((n(128, 2), n(130, 2), n(132, 2), n(134, 2)), (0, 1, 0, 0), "written by raftyard 0.1.0");
    let r = |at: usize, len: usize| number(RESTART, at, len);
    assert_eq!((r(48, 8), r(56, 8), r(64, 8), r(72, 8)), (2, SEGMENT.len() as u64, 24, 2));
    assert_eq!([r(80, 8), r(88, 8), r(96, 8)], [2, 86016, 21]);
    assert_eq!([r(104, 8), r(112, 8), r(120, 8)], [2, 61440, 17]);
    for bytes in [SEGMENT, RESTART] {
        assert_eq!(bytes[..BLOCK_BYTES], bytes[BLOCK_BYTES..2 * BLOCK_BYTES]);
        assert_eq!(number(bytes, 12, 4), u64::from(crc32c::crc32c(&zeroed(&bytes[..BLOCK_BYTES], &[12]))));
        let mut previous = None;
        for BatchIn { at, end } in batches(bytes) {
            let batch = &bytes[at..end];
            let field = |at: usize, len: usize| number(batch, at, len);
            let start = crc32c::crc32c(&[&bytes[32..48], &(at as u64).to_le_bytes()[..]].concat());
            let header = crc32c::crc32c_append(start, &zeroed(&batch[..64], &[28, 44]));
            assert_eq!(field(44, 4), u64::from(header), "the header at {at}");
            assert_eq!(
                field(28, 4),
                u64::from(crc32c::crc32c_append(start, &zeroed(batch, &[28]))),
                "the batch at {at}"
            );
            assert_eq!(field(4, 2), 2);
            if let Some((sequence, checksum)) = previous {
                assert_eq!((field(8, 8), field(16, 8), field(24, 4)), (sequence + 1, sequence, checksum));
            }
            previous = Some((field(8, 8), field(28, 4)));
            assert_eq!(field(40, 4), records(bytes, at).len() as u64);
            assert_eq!(number(batch, 56, 8), 0, "reserved");
        }
    }
    let flags = |bytes: &[u8]| batches(bytes).iter().map(|b| number(bytes, b.at + 6, 2)).collect::<Vec<_>>();
    assert_eq!(flags(SEGMENT), [vec![0; 14], vec![2]].concat());
    assert_eq!(flags(RESTART), [1, 0, 0, 0, 0, 2]);
    let first: Vec<u64> = batches(SEGMENT).iter().map(|b| n(b.at + 48, 8)).collect();
    assert_eq!(first, [vec![1; 11], vec![2; 4]].concat(), "the first segment is given up when all of it is elsewhere");
    let m = |at: usize, len: usize| number(MANIFEST, at, len);
    assert_eq!((&MANIFEST[..8], m(8, 2), m(10, 2), m(16, 8), m(24, 8)), (&b"RYMANIFS"[..], 2, 0, 1, 0x77));
    assert_eq!(m(12, 4), u64::from(crc32c::crc32c(&zeroed(MANIFEST, &[12]))));
    assert_eq!((MANIFEST[32], MANIFEST[47], m(48, 4), m(52, 4)), (0x10, 1, 2, 1), "forgetful");
    assert_eq!((m(56, 8), m(64, 2), m(66, 2)), (1 << 16, 0, 0x101));
}

/// Every kind of record, echo and item.
#[test]
fn records_stand_where_the_format_says() {
    let n = |at: usize| number(SEGMENT, at, 8);
    let all: Vec<(u8, usize)> = batches(SEGMENT).iter().flat_map(|batch| records(SEGMENT, batch.at)).collect();
    for (_, at) in &all {
        let len = usize::try_from(number(SEGMENT, *at, 4)).unwrap();
        let checksum = crc32c::crc32c(&zeroed(&SEGMENT[*at..at + len], &[8]));
        assert_eq!((number(SEGMENT, at + 8, 4), number(SEGMENT, at + 6, 2)), (u64::from(checksum), 0));
    }
    let of = |kind: u8| all.iter().filter(move |(known, _)| *known == kind).map(|(_, at)| *at).collect::<Vec<_>>();
    let head = |at: usize| (SEGMENT[at + 5], number(SEGMENT, at + 12, 4), n(at + 16), n(at + 24));

    let [learner, joining] = of(1)[..] else { panic!("two creations") };
    assert_eq!((head(learner), number(SEGMENT, learner + 32, 4)), ((0, 1, 0xc, 3), 1));
    assert_eq!([40, 48, 56, 64].map(|place| n(learner + place)), [3, 3, 9, 9]);
    assert_eq!((head(joining), n(joining + 32)), ((0, 0, 0xd, 4), 0));
    let with_entries = of(2)[1];
    assert_eq!((head(with_entries), n(with_entries + 32), n(with_entries + 40)), ((0, 2, 0xc, 3), 5, 0x31));
    assert_eq!(n(with_entries + 48), 1, "the first entry");
    let at = with_entries + 56;
    assert_eq!((n(at), number(SEGMENT, at + 8, 4), SEGMENT[at + 12], SEGMENT[at + 16]), (4, 1, 0, b'c'));
    assert_eq!((n(at + 17), SEGMENT[at + 17 + 12]), (5, 2), "a configuration");
    let alone = of(2)[2];
    assert_eq!((head(alone), n(alone + 32), n(alone + 48)), ((1, 0, 0xc, 3), 0x54, 0), "limited, and no entry");
    assert_eq!((n(alone + 56), n(alone + 64)), (2, 5), "its last entry");
    let peer = of(3)[0];
    assert_eq!((n(peer + 16), n(peer + 24), n(peer + 32)), (0x12, 0x0123_4567_89ab_cdef, 0));
    let promise = records(RESTART, batches(RESTART)[1].at)[0];
    assert_eq!((promise.0, number(RESTART, promise.1 + 16, 8)), (4, 0x0102_0304_0506));

    let [compacted, snapshot, bound, amnesiac] = of(5)[..] else { panic!("four states") };
    assert_eq!((head(compacted), n(compacted + 48), n(compacted + 56)), ((0, 0, 0xb, 2), 5, 4));
    assert_eq!((n(compacted + 64), n(compacted + 72), n(compacted + 80)), (5, 4, 0), "its base");
    assert_eq!((number(SEGMENT, compacted + 88, 4), number(SEGMENT, compacted + 92, 4)), (0, 24 + 32));
    assert_eq!(SEGMENT[compacted + 136..compacted + 138], [1, 2], "a configuration of two");
    assert_eq!((head(snapshot), n(snapshot + 32), n(snapshot + 40)), ((2, 0, 0xa, 1), 4, 0x31));
    assert_eq!([112, 120, 128].map(|place| n(snapshot + place)), [1, 4, 13]);
    assert_eq!((head(bound).0, number(SEGMENT, bound + 88, 4), n(bound + 96), n(bound + 104)), (0, 1, 0x52, 0x53));
    assert_eq!((head(amnesiac).0, number(SEGMENT, amnesiac + 88, 4), n(amnesiac + 96)), (1, 2, 0), "a reset, too");
    let moved = of(6)[0];
    assert_eq!((head(moved), n(moved + 48), n(moved + 56), n(moved + 64)), ((0, 2, 0xa, 1), 2, 3, 5));
    assert_eq!((n(moved + 72), SEGMENT[moved + 84], n(moved + 88)), (4, 1, 5), "an empty entry, then another");
    assert_eq!(head(of(7)[0]), (0, 0, 0xe, 5));
    let [begins, one, two] = of(8)[..] else { panic!("an empty piece, with which it begins, and two more") };
    assert_eq!((head(begins).0, n(begins + 32), n(begins + 48), number(SEGMENT, begins, 4)), (0, 1, 0, 56));
    assert_eq!((head(one), n(one + 32), n(one + 40), n(one + 48)), ((0, 0, 0xa, 1), 1, 4, 0));
    assert_eq!(
        (&SEGMENT[one + 56..one + 64], n(two + 48), &SEGMENT[two + 56..two + 61]),
        (&b"machine "[..], 8, &b"state"[..])
    );

    // Echoes of the batch before: a limited replica's bound, a replica nobody knows anything of, one that is gone.
    let echoes = batches(SEGMENT)[5].at + 64;
    assert_eq!([0, 8, 16, 24, 32, 40].map(|place| n(echoes + place)), [0xc, 3, 5, 0x31, 0x53, 0x52]);
    assert_eq!([0, 8, 16, 24, 32, 40].map(|place| n(echoes + 48 + place)), [0xd, 4, u64::MAX - 1, 0, 0, 0]);
    assert_eq!([0, 8, 16, 24, 32, 40].map(|place| n(echoes + 96 + place)), [0xe, 5, u64::MAX, 0, 0, 0]);
}

/// A checkpoint of three parts, the first of which cuts an item.
#[test]
fn checkpoints_stand_where_the_format_says() {
    let parts: Vec<usize> =
        batches(SEGMENT)[11..14].iter().map(|batch| records(SEGMENT, batch.at)[0]).map(|(_, at)| at).collect();
    assert_eq!(parts.iter().map(|at| SEGMENT[at + 5]).collect::<Vec<_>>(), [1 | 4, 0, 2], "first and cut, last");
    let mut items = Vec::new();
    for at in &parts {
        assert_eq!(number(SEGMENT, at + 16, 8), 21, "the batch of the first part");
        items.extend_from_slice(&SEGMENT[at + 24..at + usize::try_from(number(SEGMENT, *at, 4)).unwrap()]);
    }
    let mut found = Vec::new();
    let mut at = 0;
    while at < items.len() {
        found.push((number(&items, at + 4, 4), at));
        at += usize::try_from(number(&items, at, 4)).unwrap();
    }
    assert_eq!(at, items.len());
    assert_eq!(found.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(), [1, 1, 1, 1, 2, 4, 3, 5]);
    let n = |at: usize| number(&items, at, 8);
    let count = |at: usize, place: usize| number(&items, at + place, 4);
    let kept = found[0].1;
    // Runs of terms, of entries, configurations, pieces; a snapshot; and then as in a state record.
    assert_eq!([8, 12, 16, 20].map(|place| count(kept, place)), [2, 1, 0, 2]);
    assert_eq!((n(kept + 24), n(kept + 32), n(kept + 40), count(kept, 108)), (1, 0xa, 1, 24 + 48));
    let terms = kept + 32 + 120 + 72;
    assert_eq!([0, 8, 16, 24].map(|place| n(terms + place)), [2, 4, 3, 5], "index and term");
    assert_eq!(
        [0, 4, 8, 12].map(|place| count(terms + 32, place)),
        [2, 2, 82032, 105],
        "count, segment, offset, length"
    );
    assert_eq!([0, 4, 8, 12].map(|place| count(terms + 48, place)), [0, 2, 41080, 64], "a piece");
    let (gone, promise, peer, end) = (found[4].1, found[5].1, found[6].1, found[7].1);
    assert_eq!((n(gone + 8), n(gone + 16), n(promise + 8), n(peer + 8)), (0xe, 5, 0x600, 0x12));
    assert_eq!(n(peer + 16), 0x0123_4567_89ab_cdef);
    assert_eq!([8, 16, 24, 32, 40, 48].map(|place| n(end + place)), [2, 86016, 21, 2, 61440, 17]);
    // Entries in the batch that an item begins in are named by their place in it.
    let here = records(SEGMENT, batches(SEGMENT)[7].at);
    let item = here[1].1 + 24 + usize::try_from(number(SEGMENT, here[1].1 + 24, 4)).unwrap();
    assert_eq!((number(SEGMENT, item + 4, 4), number(SEGMENT, item + 32, 8)), (1, 0xb));
    let runs = item + 32 + 120 + 56 + 16;
    let run = [16, 20, 24, 28].map(|place| number(SEGMENT, runs + place, 4));
    assert_eq!(run, [1, u64::from(u32::MAX), (here[0].1 - batches(SEGMENT)[7].at) as u64, 5192]);
}
