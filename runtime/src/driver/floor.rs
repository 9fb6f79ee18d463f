//! The floor of every latency: what one durable write and one round trip cost on this machine, measured through the
//! same device, socket and wake-up code that a core uses.

use super::bell::Bell;
use super::ring::{Event, Ring};
use raftyard_storage::aligned::AlignedBuf;
use raftyard_storage::device::UringDisk;
use raftyard_storage::io::{
    BLOCK_BYTES, Directory, Disk, FileName, FilePath, IoError, IoId, IoOp, IoOutput, SegmentNumber, WriteMode,
};
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes of a message of the round trip.
const MESSAGE_BYTES: usize = 128;

/// Bytes of the file that is written over and over. Zero-filled first, like a segment.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// How long to sleep without being woken before looking again.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Rounds before the first that counts.
const WARM_UP: usize = 50;

/// Why the floor could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// A socket, an eventfd or a thread can't be had, or failed.
    #[error("measuring the floor failed: {0}")]
    System(#[from] io::Error),
    /// The disk failed.
    #[error("measuring the floor failed: {0}")]
    Disk(#[from] IoError),
    /// One of the measuring threads panicked.
    #[error("measuring the floor failed: a thread panicked")]
    Panicked,
}

/// The time of each of `samples` durable writes of 4 KiB, one after the other, into a zero-filled file that is made in
/// `dir` (which must exist) and removed again. Blocks.
///
/// # Errors
/// What failed.
pub fn durable_write(dir: &Path, samples: usize) -> Result<Vec<Duration>, FloorError> {
    let dir = dir.to_owned();
    on_thread("raftyard-floor", move || durable_writes(dir, samples))
}

/// The time of each of `samples` round trips of 128 B over loopback TCP between two threads. Blocks. Where the machine has
/// two CPUs, each thread has its own, as two nodes have: on one CPU a round trip is two switches between threads and tells
/// nothing about a network.
///
/// # Errors
/// What failed.
pub fn loopback_rtt(samples: usize) -> Result<Vec<Duration>, FloorError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let far = listener.accept()?.0;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let cpus = core_affinity::get_core_ids().unwrap_or_default();
    let (first, last) = (cpus.first().copied(), cpus.last().copied());
    let echo = std::thread::spawn(move || on_thread("raftyard-echo", move || pinned(last, || echo(far))));
    let times = on_thread("raftyard-rtt", move || pinned(first, || round_trips(near, samples)));
    echo.join().map_err(|_| FloorError::Panicked)??;
    times
}

/// Runs on a thread of its own, as a core does: a ring belongs to the thread that made it.
fn on_thread<T: Send + 'static>(
    name: &'static str,
    task: impl FnOnce() -> Result<T, FloorError> + Send + 'static,
) -> Result<T, FloorError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(task)?;
    thread.join().map_err(|_| FloorError::Panicked)?
}

/// Runs on that CPU, or wherever the system likes if it can't.
fn pinned<T>(cpu: Option<core_affinity::CoreId>, task: impl FnOnce() -> T) -> T {
    if let Some(cpu) = cpu
        && !core_affinity::set_for_current(cpu)
    {
        tracing::debug!("a thread can't be pinned");
    }
    task()
}

fn durable_writes(root: PathBuf, samples: usize) -> Result<Vec<Duration>, FloorError> {
    let mut disk = UringDisk::open(root, 8)?;
    let path = FilePath { directory: Directory::Root, name: FileName::Spare(SegmentNumber(0)) };
    let IoOutput::File { file, .. } = disk.execute(IoOp::Create(path))? else { unreachable!("a file was created") };
    disk.execute(IoOp::Zero { file, offset: 0, len: FILE_BYTES })?;
    disk.execute(IoOp::Sync(file))?;
    disk.execute(IoOp::SyncDirectory(Directory::Root))?;

    let bell = Bell::new()?;
    let mut ring = Ring::new(bell.as_fd())?;
    disk.register_eventfd(bell.as_fd())?;
    let mut buffer = AlignedBuf::zeroed(BLOCK_BYTES);
    let mut times = Vec::with_capacity(samples);
    for round in 0..WARM_UP + samples {
        let offset = (round * BLOCK_BYTES) as u64 % FILE_BYTES;
        buffer.fill(u8::try_from(round % 251).expect("below 251"));
        let begin = Instant::now();
        disk.submit(IoId(round as u64), IoOp::Write { file, offset, buffer, mode: WriteMode::Dsync });
        disk.flush()?;
        let mut written = None;
        while written.is_none() {
            ring.wait(WAIT_MAX)?;
            ring.events(|_| ())?;
            disk.completions(|_, result| written = Some(result))?;
        }
        if round >= WARM_UP {
            times.push(begin.elapsed());
        }
        buffer = match written.expect("the loop ends with one")? {
            IoOutput::Buffer(buffer) => buffer,
            _ => unreachable!("a write gives its buffer back"),
        };
    }
    disk.execute(IoOp::Close(file))?;
    disk.execute(IoOp::Remove(path))?;
    Ok(times)
}

/// Sends back what comes in, until the other side closes.
fn echo(socket: TcpStream) -> Result<(), FloorError> {
    let bell = Bell::new()?;
    let mut ring = Ring::new(bell.as_fd())?;
    let place = ring.open(socket.into())?;
    loop {
        ring.wait(WAIT_MAX)?;
        let mut came = Vec::new();
        let mut ended = false;
        ring.events(|event| match event {
            Event::Received(_, bytes) => came.extend_from_slice(bytes),
            Event::Ended(_) => ended = true,
            _ => {}
        })?;
        if ended {
            return Ok(());
        }
        if !came.is_empty() {
            ring.send(place, came)?;
        }
    }
}

fn round_trips(socket: TcpStream, samples: usize) -> Result<Vec<Duration>, FloorError> {
    let bell = Bell::new()?;
    let mut ring = Ring::new(bell.as_fd())?;
    let place = ring.open(socket.into())?;
    let mut times = Vec::with_capacity(samples);
    let mut message = vec![7; MESSAGE_BYTES];
    for round in 0..WARM_UP + samples {
        let begin = Instant::now();
        let sent = ring.send(place, message)?;
        message = sent.expect("an idle connection takes a small message");
        let mut received = 0;
        while received < MESSAGE_BYTES {
            ring.wait(WAIT_MAX)?;
            let mut ended = false;
            ring.events(|event| match event {
                Event::Received(_, bytes) => received += bytes.len(),
                Event::Ended(_) => ended = true,
                _ => {}
            })?;
            if ended {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
        if round >= WARM_UP {
            times.push(begin.elapsed());
        }
    }
    Ok(times)
}
