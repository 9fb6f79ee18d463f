//! The driver: one thread a core that moves bytes, completions and wake-ups between the kernel and the synchronous
//! [`Core`](crate::core::Core), and decides nothing.
//!
//! It owns the core's executor, the ring it sleeps on, its sockets and its log's device, each on the core's own thread.
//! Its caller is the node. The loop sleeps on the core's ring, and the whole thread with it; the executor runs besides
//! only while connections are dialled, in tasks that end by a flag and are never dropped.

mod bell;
pub mod clock;
mod descriptor;
pub mod floor;
mod link;
mod ring;
mod shared;
mod socket;
mod thread;
mod turn;

use crate::core::port::CoreId;
use crate::core::{CoreConfig, OpenError};
use crate::group::StateMachineFactory;
use crate::mailbox::Mailbox;
use raftyard_raft::NodeId;
use raftyard_storage::wal::{WalConfig, WalError};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

/// Tells where the cores of other nodes listen.
pub trait Resolver: Send + Sync {
    /// The address of that core, if known. Called on a core: it must not block.
    fn address(&self, node: NodeId, core: CoreId) -> Option<SocketAddr>;
}

/// The addresses of the nodes' first cores; each further core listens one port higher.
impl Resolver for BTreeMap<NodeId, SocketAddr> {
    fn address(&self, node: NodeId, core: CoreId) -> Option<SocketAddr> {
        address_of_core(*self.get(&node)?, core)
    }
}

/// Where a core of a node listens whose first core listens at `first`; `None` beyond the last port.
#[must_use]
pub fn address_of_core(first: SocketAddr, core: CoreId) -> Option<SocketAddr> {
    let port = first.port().checked_add(core.0)?;
    Some(SocketAddr::new(first.ip(), port))
}

/// What a core needs to start.
pub struct CoreStart {
    /// The core's own configuration.
    pub config: CoreConfig,
    /// Its log's configuration.
    pub wal: WalConfig,
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// Where this core listens for others; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Where others listen.
    pub resolver: Arc<dyn Resolver>,
    /// The CPU to run on; `None` lets the system move the thread.
    pub pin: Option<usize>,
    /// The application's state machines.
    pub machines: Arc<dyn StateMachineFactory>,
    /// Commands that may wait for the core.
    pub mailbox_max: usize,
    /// How long a connection to a peer may take.
    pub connect_timeout: Duration,
    /// Random: seeds election time-outs and the log's salts.
    pub seed: u64,
}

/// A core that is opening its log.
#[derive(Debug)]
pub struct CoreStarting {
    report: mpsc::Receiver<Result<Stage, StartError>>,
    go: mpsc::SyncSender<bool>,
    thread: JoinHandle<Result<(), CoreLost>>,
}

/// A core that serves.
#[derive(Debug)]
pub struct CoreRunning {
    /// Takes commands from any thread.
    pub mailbox: Arc<Mailbox>,
    /// Where the core listens.
    pub address: SocketAddr,
    thread: JoinHandle<Result<(), CoreLost>>,
}

/// How far a core is.
#[derive(Debug)]
enum Stage {
    /// Its log is open; it waits for the word to serve. Says whether the log may have forgotten replicas.
    Opened { forgetful: bool },
    /// It serves.
    Serves(Ready),
}

/// What a core reports when it serves.
#[derive(Debug)]
struct Ready {
    mailbox: Arc<Mailbox>,
    address: SocketAddr,
}

/// Why a core didn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port is taken.
    #[error("{address} is in use by another process (listen)")]
    PortInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address can't be bound.
    #[error("can't listen at {address} (listen): {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The bound port can't be listened on.
    #[error("core {} can't listen on its port: {error}", core.0)]
    Listen {
        /// The core.
        core: CoreId,
        /// What the system said.
        error: io::Error,
    },
    /// The thread can't be pinned.
    #[error("core {} can't be pinned to CPU {cpu}", core.0)]
    Pin {
        /// The core.
        core: CoreId,
        /// The CPU.
        cpu: usize,
    },
    /// The thread can't be started.
    #[error("can't start a thread: {0}")]
    Thread(io::Error),
    /// An eventfd can't be had.
    #[error("can't make an eventfd: {0}")]
    Bell(io::Error),
    /// A ring, the log's or the one the core sleeps on, can't be had.
    #[error("can't set up io_uring: {0}")]
    Ring(io::Error),
    /// The executor can't be had.
    #[error("can't set up the executor: {0}")]
    Executor(glommio::GlommioError<()>),
    /// The log can't be opened.
    #[error(transparent)]
    Wal(WalError),
    /// The core can't be opened.
    #[error(transparent)]
    Core(OpenError),
    /// The thread panicked while starting.
    #[error("the core's thread panicked while starting")]
    Panicked,
}

/// Why a core ended without being asked.
#[derive(Debug, thiserror::Error)]
pub enum CoreLost {
    /// A task of it panicked: a defect.
    #[error("core {} is lost: one of its tasks panicked", core.0)]
    Panicked {
        /// The core.
        core: CoreId,
    },
    /// Its thread panicked outside of any task: a defect, or the kernel refused io_uring.
    #[error("a core's thread panicked")]
    ThreadPanicked,
    /// The kernel takes no operations of its log or its connections any more.
    #[error("core {} is lost: io_uring failed: {error}", core.0)]
    Ring {
        /// The core.
        core: CoreId,
        /// What the system said.
        error: io::Error,
    },
}

impl StartError {
    fn listen(address: SocketAddr, error: io::Error) -> StartError {
        match error.kind() {
            io::ErrorKind::AddrInUse => StartError::PortInUse { address },
            _ => StartError::Bind { address, error },
        }
    }
}

/// Opens a core on a thread of its own. It serves nobody yet: what must be durable before any core of the node speaks
/// to others (the manifest of a new node, say) can be done between [`CoreStarting::opened`] and
/// [`CoreStarting::serve`]. Dropped instead, the core ends.
///
/// # Errors
/// No thread could be started. All else is told by [`CoreStarting::opened`].
pub fn start(start: CoreStart) -> Result<CoreStarting, StartError> {
    let (reporter, report) = mpsc::sync_channel(2);
    let (go, gone) = mpsc::sync_channel(1);
    let name = format!("raftyard-{}-{}", start.config.node, start.config.core.0);
    let thread = std::thread::Builder::new()
        .name(name)
        .spawn(move || thread::run(start, &reporter, &gone))
        .map_err(StartError::Thread)?;
    Ok(CoreStarting { report, go, thread })
}

impl CoreStarting {
    /// Waits until the core's log is open. Says whether it lost something of which nobody knows whose it was, so that the
    /// node may have forgotten that it had a replica; that is to be recorded in the manifest before any core serves.
    ///
    /// # Errors
    /// Why it can't be opened.
    pub fn opened(&mut self) -> Result<bool, StartError> {
        match self.report.recv() {
            Ok(Ok(stage)) => Ok(matches!(stage, Stage::Opened { forgetful: true })),
            Ok(Err(error)) => Err(error),
            Err(mpsc::RecvError) => Err(StartError::Panicked),
        }
    }

    /// Lets the core serve, once it is [`opened`](Self::opened), and waits until it does. On a node that is `forgetful`
    /// groups are only joined.
    ///
    /// # Errors
    /// Why it doesn't.
    pub fn serve(self, forgetful: bool) -> Result<CoreRunning, StartError> {
        // A thread that is gone has reported why, or panicked.
        let _ = self.go.send(forgetful);
        loop {
            match self.report.recv() {
                Ok(Ok(Stage::Opened { .. })) => {}
                Ok(Ok(Stage::Serves(Ready { mailbox, address }))) => {
                    return Ok(CoreRunning { mailbox, address, thread: self.thread });
                }
                Ok(Err(error)) => return Err(error),
                Err(mpsc::RecvError) => return Err(StartError::Panicked),
            }
        }
    }
}

impl CoreStarting {
    /// Ends the core instead, and waits until its files are closed.
    pub fn abandon(self) {
        drop(self.go);
        drop(self.thread.join());
    }
}

impl CoreRunning {
    /// Asks the core to finish what is under way and end; [`join`](Self::join) waits for it. Several cores are asked
    /// first and joined then.
    pub fn shut_down(&self) {
        // The thread's end says all that the answer would.
        drop(self.mailbox.shut_down());
    }

    /// Waits until the core's thread has ended.
    ///
    /// # Errors
    /// It was lost instead of being shut down.
    pub fn join(self) -> Result<(), CoreLost> {
        self.thread.join().unwrap_or(Err(CoreLost::ThreadPanicked))
    }
}

/// The CPUs this process may run on, in the order cores take them.
#[must_use]
pub fn cpus() -> Vec<usize> {
    core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|cpu| cpu.id).collect()
}
