//! Time a proposal takes in the protocol alone: three replicas, durable and delivered at once.
//! `cargo bench -p raftyard-benches --bench protocol`
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use raftyard_benches::Trio;

fn proposals(criterion: &mut Criterion) {
    let command = Bytes::from(vec![7; 128]);
    let mut group = criterion.benchmark_group("proposal over three replicas");
    for batch in [1, 64] {
        group.throughput(Throughput::Elements(64 * batch as u64));
        group.bench_function(format!("batch of {batch}"), |bencher| {
            // A fresh group each time: the log stays in memory and grows.
            let run = |mut trio: Trio| {
                for _ in 0..64 {
                    trio.propose(batch, &command);
                }
                trio
            };
            bencher.iter_batched(|| Trio::new(1), run, BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, proposals);
criterion_main!(benches);
