//! Raftyard's log asked from other threads: every writer is a thread, sends its entries to the log's thread through a
//! queue, and sleeps until it is woken. No node works like this; it shows what the crossing of threads costs.

use crate::case::{Case, Payloads, Writer};
use crate::options::{Options, Wake};
use crate::ours::{Counted, Log, Window};
use crate::sample::{Sample, latencies, note};
use crate::{Failure, ROUND_BYTES_MAX};
use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use hdrhistogram::Histogram;
use raftyard_storage::wal::BatchSeq;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Instant;

/// What the threads share.
struct Shared {
    queue: ArrayQueue<Request>,
    bell: OwnedFd,
    /// Whether the log's thread sleeps or is about to.
    asleep: AtomicBool,
    /// Whether what is finished now lies in the measured time.
    counts: AtomicBool,
    ended: AtomicBool,
    /// How many writes of each writer are durable.
    durable: Vec<AtomicU64>,
}

/// One write.
struct Request {
    writer: usize,
    thread: Thread,
    entries: Vec<(u64, u64, Bytes)>,
}

/// Runs one round.
pub(crate) fn run(case: &Case, options: &Options, payloads: &Payloads, dir: &Path) -> Result<Sample, Failure> {
    let mut log = Log::open(dir, &Options { wake: Wake::Eventfd, ..options.clone() })?;
    let shared = Shared {
        queue: ArrayQueue::new(case.writers as usize),
        bell: log.bell().ok_or("a bell was asked for")?.try_clone()?,
        asleep: AtomicBool::new(false),
        counts: AtomicBool::new(false),
        ended: AtomicBool::new(false),
        durable: (0..case.writers).map(|_| AtomicU64::new(0)).collect(),
    };
    let shared = Arc::new(shared);
    let threads = (0..case.writers).map(|number| {
        let (shared, case, load) = (shared.clone(), *case, Writer::new(case, number, payloads));
        std::thread::spawn(move || write(&shared, &case, number as usize, load))
    });
    let threads = threads.collect::<Vec<JoinHandle<_>>>();
    let counted = serve(&mut log, &shared, options);
    shared.counts.store(false, Ordering::SeqCst);
    shared.ended.store(true, Ordering::SeqCst);
    threads.iter().for_each(|thread| thread.thread().unpark());
    let mut all = latencies();
    for thread in threads {
        all.add(thread.join().map_err(|_| "a writer panicked")?)?;
    }
    Ok(counted?.sample(&all, case))
}

/// The thread of the log.
fn serve(log: &mut Log, shared: &Shared, options: &Options) -> Result<Counted, Failure> {
    let begin = Instant::now();
    let mut window: Option<(Instant, Window)> = None;
    let mut waiting = VecDeque::<(BatchSeq, usize, Thread)>::new();
    // What the batch had no room for.
    let mut held: Option<Request> = None;
    loop {
        while let Some(mut request) = held.take().or_else(|| shared.queue.pop()) {
            let mut sequence = BatchSeq(0);
            while log.has_room()
                && let Some(entry) = request.entries.pop()
            {
                sequence = log.record(entry);
            }
            if !request.entries.is_empty() {
                held = Some(request);
                break;
            }
            waiting.push_back((sequence, request.writer, request.thread));
        }
        log.submit();
        shared.asleep.store(true, Ordering::SeqCst);
        if shared.queue.is_empty() || held.is_some() {
            log.sleep()?
        } else {
            log.flush()?
        }
        shared.asleep.store(false, Ordering::SeqCst);
        let released = log.take_completions()?;
        while let Some((_, writer, thread)) = waiting.pop_front_if(|(sequence, ..)| *sequence <= released) {
            shared.durable[writer].fetch_add(1, Ordering::Release);
            thread.unpark();
        }
        match &window {
            None if begin.elapsed() >= options.warmup() => {
                shared.counts.store(true, Ordering::SeqCst);
                window = Some((Instant::now(), Window::begin(log)));
            }
            Some((since, window)) if since.elapsed() >= options.window() || log.handed >= ROUND_BYTES_MAX => {
                return Ok(window.end(log));
            }
            _ => {}
        }
    }
}

/// The thread of a writer.
fn write(shared: &Shared, case: &Case, number: usize, mut load: Writer) -> Histogram<u64> {
    let mut latencies = latencies();
    let mut writes = 0;
    while !shared.ended.load(Ordering::SeqCst) {
        load.begin_write();
        let began = Instant::now();
        let entries = (0..case.entries).map(|_| load.next_entry()).collect();
        let request = Request { writer: number, thread: std::thread::current(), entries };
        assert!(shared.queue.push(request).is_ok(), "the queue has a place for each writer");
        if shared.asleep.swap(false, Ordering::SeqCst) {
            rustix::io::write(&shared.bell, &1u64.to_ne_bytes()).expect("an eventfd takes a one");
        }
        writes += 1;
        while shared.durable[number].load(Ordering::Acquire) < writes {
            if shared.ended.load(Ordering::SeqCst) {
                return latencies;
            }
            std::thread::park();
        }
        if shared.counts.load(Ordering::Relaxed) {
            note(&mut latencies, began.elapsed());
        }
    }
    latencies
}
