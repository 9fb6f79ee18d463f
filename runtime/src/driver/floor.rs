//! The floor of every latency: what one durable write and one round trip cost on this machine, measured through the
//! same device, socket and wake-up code that a core uses.

use super::bell::Bell;
use super::{socket, thread};
use raftyard_storage::aligned::AlignedBuf;
use raftyard_storage::device::UringDisk;
use raftyard_storage::io::{
    BLOCK_BYTES, Directory, Disk, FileName, FilePath, IoError, IoId, IoOp, IoOutput, SegmentNumber, WriteMode,
};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes of a message of the round trip.
const MESSAGE_BYTES: usize = 128;

/// Bytes of the file that is written over and over. Zero-filled first, like a segment.
const FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Rounds before the first that counts.
const WARM_UP: usize = 50;

/// Why the floor could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The executor can't be had.
    #[error("can't set up the executor: {0}")]
    Executor(glommio::GlommioError<()>),
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
    on_executor("raftyard-floor", move || durable_writes(dir, samples))
}

/// The time of each of `samples` round trips of 128 B over loopback TCP between two executors on two threads. Blocks.
///
/// # Errors
/// What failed.
pub fn loopback_rtt(samples: usize) -> Result<Vec<Duration>, FloorError> {
    let bound = socket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let address = bound.local_addr()?.as_socket().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    // Listening before the other side dials: the connection waits to be accepted.
    bound.listen(1)?;
    let echo = std::thread::spawn(move || on_executor("raftyard-echo", move || echo(bound)));
    let times = on_executor("raftyard-rtt", move || round_trips(address, samples));
    echo.join().map_err(|_| FloorError::Panicked)??;
    times
}

/// Runs a future on an executor like a core's, on a thread of its own.
fn on_executor<T, F>(name: &'static str, task: impl FnOnce() -> F + Send + 'static) -> Result<T, FloorError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, FloorError>>,
{
    let body = move || thread::executor(name).map_err(FloorError::Executor)?.run(task());
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
    thread.join().map_err(|_| FloorError::Panicked)?
}

async fn durable_writes(root: PathBuf, samples: usize) -> Result<Vec<Duration>, FloorError> {
    let mut disk = UringDisk::open(root, 8)?;
    let path = FilePath { directory: Directory::Root, name: FileName::Spare(SegmentNumber(0)) };
    let IoOutput::File { file, .. } = disk.execute(IoOp::Create(path))? else { unreachable!("a file was created") };
    disk.execute(IoOp::Zero { file, offset: 0, len: FILE_BYTES })?;
    disk.execute(IoOp::Sync(file))?;
    disk.execute(IoOp::SyncDirectory(Directory::Root))?;

    let bell = Arc::new(Bell::new()?);
    let ear = bell.ear()?;
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
            ear.listen().await?;
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

async fn echo(bound: socket2::Socket) -> Result<(), FloorError> {
    let listener = socket::listen(bound)?;
    let (mut reader, writer) = socket::accept(&listener).await?;
    loop {
        let bytes = reader.read().await?;
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = writer.send_now(bytes)?;
        if sent < bytes.len() {
            let rest = bytes[sent..].to_vec();
            writer.send_rest(&rest).await?;
        }
    }
}

async fn round_trips(address: SocketAddr, samples: usize) -> Result<Vec<Duration>, FloorError> {
    let (mut reader, writer) = socket::connect(address, Duration::from_secs(5)).await?;
    let message = [7; MESSAGE_BYTES];
    let mut times = Vec::with_capacity(samples);
    for round in 0..WARM_UP + samples {
        let begin = Instant::now();
        let sent = writer.send_now(&message)?;
        assert_eq!(sent, MESSAGE_BYTES, "an idle connection takes a small message");
        let mut received = 0;
        while received < MESSAGE_BYTES {
            let bytes = reader.read().await?;
            if bytes.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            received += bytes.len();
        }
        if round >= WARM_UP {
            times.push(begin.elapsed());
        }
    }
    writer.shut_down();
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_floor_is_measured_and_leaves_nothing_behind() {
        let target = std::env::current_exe().expect("a test has a file");
        let dir = tempfile::tempdir_in(target.parent().expect("in a directory")).expect("a directory");
        assert_eq!(durable_write(dir.path(), 20).expect("the disk works").len(), 20);
        assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
        assert_eq!(loopback_rtt(200).expect("loopback works").len(), 200);
    }

    /// Far more than a socket's buffers hold: the rest is written as the peer reads, and all of it arrives.
    #[test]
    fn what_the_kernel_does_not_take_at_once_is_written_later() {
        const BYTES: usize = 24 << 20;
        let bound = socket::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port");
        let address = bound.local_addr().expect("bound").as_socket().expect("an address");
        bound.listen(1).expect("listens");
        let receiver = std::thread::spawn(move || {
            on_executor("receiver", move || async move {
                let listener = socket::listen(bound)?;
                let (mut reader, _writer) = socket::accept(&listener).await?;
                let mut received = 0usize;
                loop {
                    let bytes = reader.read().await?;
                    if bytes.is_empty() {
                        return Ok(received);
                    }
                    for &byte in bytes {
                        assert_eq!(byte, (received % 251) as u8);
                        received += 1;
                    }
                }
            })
        });
        let sent = on_executor("sender", move || async move {
            let (_reader, writer) = socket::connect(address, Duration::from_secs(5)).await?;
            let bytes: Vec<u8> = (0..BYTES).map(|n| (n % 251) as u8).collect();
            let sent = writer.send_now(&bytes)?;
            writer.send_rest(&bytes[sent..]).await?;
            writer.shut_down();
            Ok(sent)
        });
        assert!(sent.expect("sent") < BYTES, "the buffers took it all: the test tests nothing");
        assert_eq!(receiver.join().expect("no panic").expect("received"), BYTES);
    }
}
