//! raft-engine as its users call it: every writer is a thread that fills a `LogBatch` of its own and calls `write` with
//! sync; the engine writes what several threads bring as one group.

use crate::Failure;
use crate::case::{Case, Payloads, Writer};
use crate::options::Options;
use crate::sample::{Mark, Sample, latencies, note};
use hdrhistogram::Histogram;
use raft::eraftpb::Entry;
use raft_engine::{Config, Engine, LogBatch, MessageExt, ReadableSize};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

/// Groups that get their first entry in one write, before the load.
const GROUPS_PER_WRITE: u64 = 256;
/// Files that are filled before they are used: room for a round.
const FILLED_MIB: u64 = 1024;

const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const ENDED: u8 = 2;

struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

/// Runs one round.
pub(crate) fn run(case: &Case, options: &Options, payloads: &Payloads, dir: &Path) -> Result<Sample, Failure> {
    let engine = Engine::open(config(options, dir)?)?;
    let mut writers = (0..case.writers).map(|number| Writer::new(case, number, payloads)).collect::<Vec<_>>();
    writers.iter_mut().try_for_each(|writer| found_groups(&engine, writer))?;
    let phase = AtomicU8::new(WARMING);
    let mut all = latencies();
    let mut marks = None;
    std::thread::scope(|scope| {
        let threads = writers.into_iter().map(|load| scope.spawn(|| write(&engine, case, load, &phase)));
        let threads = threads.collect::<Vec<_>>();
        std::thread::sleep(options.warmup());
        let begin = Mark::now();
        phase.store(COUNTING, Ordering::SeqCst);
        std::thread::sleep(options.window());
        marks = Some((begin, Mark::now()));
        phase.store(ENDED, Ordering::SeqCst);
        threads.into_iter().try_for_each(|thread| {
            all.add(thread.join().map_err(|_| "a writer panicked")??)?;
            Ok::<(), Failure>(())
        })
    })?;
    Ok(Sample::new(&all, marks.ok_or("the load ran")?, case.payload_bytes(), None))
}

/// The defaults, and by default files that were filled and are recycled: what an engine that has run for long has, and
/// its faster half.
fn config(options: &Options, dir: &Path) -> Result<Config, Failure> {
    let config = Config { dir: dir.to_str().ok_or("--dir must be UTF-8")?.to_owned(), ..Config::default() };
    if options.rival_unfilled {
        return Ok(config);
    }
    Ok(Config { prefill_for_recycle: true, prefill_limit: Some(ReadableSize::mb(FILLED_MIB)), ..config })
}

/// Writes a first entry of every group of a writer, so that the groups are known when the load begins, as in a node.
fn found_groups(engine: &Engine, writer: &mut Writer) -> Result<(), Failure> {
    let mut batch = LogBatch::with_capacity(GROUPS_PER_WRITE as usize);
    for place in 0..writer.groups() {
        add(&mut batch, writer)?;
        if (place as u64 + 1).is_multiple_of(GROUPS_PER_WRITE) {
            engine.write(&mut batch, false)?;
        }
    }
    engine.write(&mut batch, true)?;
    Ok(())
}

fn add(batch: &mut LogBatch, writer: &mut Writer) -> Result<(), Failure> {
    let (group, index, data) = writer.next_entry();
    let entry = Entry { term: 1, index, data, ..Entry::default() };
    Ok(batch.add_entries::<Entries>(group, &[entry])?)
}

fn write(engine: &Engine, case: &Case, mut load: Writer, phase: &AtomicU8) -> Result<Histogram<u64>, Failure> {
    let mut latencies = latencies();
    let mut batch = LogBatch::with_capacity(case.entries as usize);
    loop {
        load.begin_write();
        let began = std::time::Instant::now();
        for _ in 0..case.entries {
            add(&mut batch, &mut load)?;
        }
        engine.write(&mut batch, true)?;
        match phase.load(Ordering::Relaxed) {
            WARMING => {}
            COUNTING => note(&mut latencies, began.elapsed()),
            _ => return Ok(latencies),
        }
    }
}
