//! Time to write and read a frame of appends.
//! `cargo bench -p raftyard-benches --bench wire`
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use raftyard_raft::{Body, Entry, EntryKind, GroupId, LogIndex, LogPosition, Message, ReplicaId, Term};
use raftyard_runtime::wire::{BatchReader, BatchWriter, Frame};
use std::hint::black_box;

fn frames(criterion: &mut Criterion) {
    let entry = Entry { term: Term(1), index: LogIndex(2), kind: EntryKind::Command, data: Bytes::from(vec![7; 128]) };
    let entries = [entry];
    let message = |group| Message {
        group: GroupId(group),
        from: ReplicaId(1),
        to: ReplicaId(2),
        term: Term(1),
        body: Body::Append {
            previous: LogPosition { index: LogIndex(1), term: Term(1) },
            commit: LogIndex(1),
            entries: (&entries, &[]),
        },
    };
    let mut group = criterion.benchmark_group("appends of one 128 B entry");
    for count in [1u64, 64] {
        let (mut writer, mut out) = (BatchWriter::default(), Vec::new());
        let mut write = |out: &mut Vec<u8>| {
            out.clear();
            (0..count).for_each(|group| writer.push(out, &message(group)));
            writer.finish(out);
        };
        group.throughput(Throughput::Elements(count));
        group.bench_function(format!("write {count}"), |bencher| bencher.iter(|| write(&mut out)));
        write(&mut out);
        let mut reader = BatchReader::default();
        group.bench_function(format!("read {count}"), |bencher| {
            bencher.iter(|| {
                let frame = Frame::parse(&out, 1 << 20).ok().flatten().expect("a whole frame").0;
                reader.read(&frame, |message| _ = black_box(message.term)).expect("a valid batch");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, frames);
criterion_main!(benches);
