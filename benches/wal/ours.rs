//! Raftyard's log as a core runs it: one thread owns log and device, and every writer is a task on it.

use crate::case::{Case, Payloads, Writer};
use crate::options::{Options, Wake};
use crate::sample::{Mark, Sample, latencies, note};
use crate::{Failure, ROUND_BYTES_MAX};
use hdrhistogram::Histogram;
use raftyard_raft::{Entry, EntryKind, GroupId, LogIndex, ReplicaId, Term};
use raftyard_storage::device::UringDisk;
use raftyard_storage::io::{IoOp, WalId};
use raftyard_storage::wal::{BatchSeq, Wal, WalConfig};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

/// A log, its device, and what it asked of it.
pub(crate) struct Log {
    wal: Wal,
    disk: UringDisk,
    /// Rung by the device, where the thread doesn't sleep in the device's ring.
    bell: Option<OwnedFd>,
    /// Bytes handed to the device, zeroes included.
    pub(crate) handed: u64,
    pub(crate) batches: u64,
    pub(crate) batch_bytes: u64,
}

impl Log {
    pub(crate) fn open(dir: &Path, options: &Options) -> Result<Log, Failure> {
        let mut disk = UringDisk::open(dir.to_owned(), 64)?;
        let config = WalConfig {
            depth: usize::from(options.depth),
            mode: options.write_mode.into(),
            segment_bytes: u64::from(options.segment_mib) << 20,
            ..WalConfig::new(WalId(0))
        };
        let (wal, _) = Wal::open(&mut disk, config, 1)?;
        let bell = match options.wake {
            Wake::Ring => None,
            Wake::Eventfd => {
                let bell = eventfd(0, EventfdFlags::CLOEXEC)?;
                disk.register_eventfd(bell.as_fd())?;
                Some(bell)
            }
        };
        Ok(Log { wal, disk, bell, handed: 0, batches: 0, batch_bytes: 0 })
    }

    /// The eventfd that wakes whoever sleeps on it.
    pub(crate) fn bell(&self) -> Option<&OwnedFd> {
        self.bell.as_ref()
    }

    pub(crate) fn has_room(&mut self) -> bool {
        if !self.wal.has_room() {
            self.wal.submit();
        }
        self.wal.has_room()
    }

    pub(crate) fn record(&mut self, entry: (u64, u64, bytes::Bytes)) -> BatchSeq {
        let (group, index, data) = entry;
        let entry = Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Command, data };
        self.wal.record_group(GroupId(group), ReplicaId(1), None, (&[entry], &[]))
    }

    /// The end of a turn: hands what was recorded to the kernel, if nothing is being written.
    pub(crate) fn submit(&mut self) {
        self.wal.submit();
        while let Some((id, op)) = self.wal.poll_io() {
            match &op {
                IoOp::Write { buffer, .. } => {
                    self.handed += buffer.len() as u64;
                    self.batches += 1;
                    self.batch_bytes += buffer.len() as u64;
                }
                IoOp::Zero { len, .. } => self.handed += len,
                _ => {}
            }
            self.disk.submit(id, op);
        }
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.disk.flush()?)
    }

    /// Flushes, and sleeps until the device has something to say, or the bell rings.
    pub(crate) fn sleep(&mut self) -> Result<(), Failure> {
        let Some(bell) = &self.bell else { return Ok(self.disk.wait()?) };
        self.disk.flush()?;
        rustix::io::read(bell, &mut [0; 8])?;
        Ok(())
    }

    /// Takes what the device completed; everything up to the answer is durable.
    pub(crate) fn take_completions(&mut self) -> Result<BatchSeq, Failure> {
        let Log { wal, disk, .. } = self;
        disk.completions(|id, result| wal.handle_io(id, result))?;
        match self.wal.failure() {
            Some(failure) => Err(failure.to_string().into()),
            None => Ok(self.wal.released()),
        }
    }
}

/// Where the counters of a log stood when the measured time began.
pub(crate) struct Window {
    begin: Mark,
    handed: u64,
    batches: u64,
    batch_bytes: u64,
}

/// What was counted in the measured time.
pub(crate) struct Counted {
    marks: (Mark, Mark),
    handed: u64,
    batch_bytes_mean: f64,
}

impl Window {
    pub(crate) fn begin(log: &Log) -> Window {
        Window { begin: Mark::now(), handed: log.handed, batches: log.batches, batch_bytes: log.batch_bytes }
    }

    pub(crate) fn end(&self, log: &Log) -> Counted {
        Counted {
            marks: (self.begin, Mark::now()),
            handed: log.handed - self.handed,
            batch_bytes_mean: (log.batch_bytes - self.batch_bytes) as f64 / (log.batches - self.batches).max(1) as f64,
        }
    }
}

impl Counted {
    pub(crate) fn sample(&self, latencies: &Histogram<u64>, case: &Case) -> Sample {
        let sample = Sample::new(latencies, self.marks, case.payload_bytes(), Some(self.handed));
        Sample { write_bytes: self.batch_bytes_mean, ..sample }
    }
}

/// A write under way.
struct Write {
    writer: usize,
    began: Instant,
    entries_left: u64,
    sequence: BatchSeq,
}

/// Runs one round.
pub(crate) fn run(case: &Case, options: &Options, payloads: &Payloads, dir: &Path) -> Result<Sample, Failure> {
    let mut log = Log::open(dir, options)?;
    let mut writers = (0..case.writers).map(|number| Writer::new(case, number, payloads)).collect::<Vec<_>>();
    let mut latencies = latencies();
    let begin = Instant::now();
    let mut window: Option<(Instant, Window)> = None;
    // Writes that want to be recorded, and those that wait to be durable: both in order.
    let mut wanting = VecDeque::with_capacity(writers.len());
    let mut waiting = VecDeque::<Write>::with_capacity(writers.len());
    for (writer, load) in writers.iter_mut().enumerate() {
        load.begin_write();
        wanting.push_back(Write { writer, began: begin, entries_left: case.entries, sequence: BatchSeq(0) });
    }
    loop {
        record(&mut log, &mut writers, &mut wanting, &mut waiting);
        log.submit();
        log.sleep()?;
        let released = log.take_completions()?;
        let now = Instant::now();
        while let Some(write) = waiting.pop_front_if(|write| write.sequence <= released) {
            note(&mut latencies, now - write.began);
            writers[write.writer].begin_write();
            wanting.push_back(Write { began: now, entries_left: case.entries, ..write });
        }
        match &window {
            None if now - begin >= options.warmup() => {
                latencies.reset();
                window = Some((now, Window::begin(&log)));
            }
            Some((since, window)) if now - *since >= options.window() || log.handed >= ROUND_BYTES_MAX => {
                return Ok(window.end(&log).sample(&latencies, case));
            }
            _ => {}
        }
    }
}

fn record(log: &mut Log, writers: &mut [Writer], wanting: &mut VecDeque<Write>, waiting: &mut VecDeque<Write>) {
    while let Some(write) = wanting.front_mut() {
        while write.entries_left > 0 {
            if !log.has_room() {
                return;
            }
            write.sequence = log.record(writers[write.writer].next_entry());
            write.entries_left -= 1;
        }
        waiting.extend(wanting.pop_front());
    }
}
