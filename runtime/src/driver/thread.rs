//! The thread of a core, from opening its log to the end of its last task.

use super::bell::Bell;
use super::link::Links;
use super::ring::Ring;
use super::shared::Shared;
use super::{CoreLost, CoreStart, Ready, Stage, StartError, clock, socket, turn};
use crate::core::Core;
use crate::mailbox::Mailbox;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use raftyard_raft::Instant;
use raftyard_storage::device::UringDisk;
use raftyard_storage::wal::Wal;
use socket2::Socket;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// Memory the executor registers for its own file I/O, which a core doesn't use: the least it takes.
const EXECUTOR_IO_BYTES: usize = 64 * 1024;

/// After this the executor would interrupt its tasks to look at its rings: never, practically. Should that timer fire
/// before the first task of a round has run (the thread was off its CPU for a while), the executor takes the round for
/// idle and sleeps with tasks that want to run. The loop lets the executor look by itself while it has something to do.
const PREEMPTION: Duration = Duration::from_secs(3600);

/// What the tasks of a core may take to end.
const TASKS_END_MAX: Duration = Duration::from_secs(1);

/// Disk operations the device's ring takes at once.
const RING_ENTRIES: u32 = 64;

/// How long a port in use is waited for: the kernel closes a killed process's within milliseconds.
const PORT_PATIENCE: Duration = Duration::from_secs(1);

/// Closes the mailbox however the thread ends, so that nobody waits for a core that is gone.
struct Lifeline(Arc<Mailbox>);

impl Drop for Lifeline {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The body of a core's thread. Reports through `report` when the log is open, waits for `go`, and reports again when
/// the core serves; or reports once why it can't.
pub(super) fn run(
    start: CoreStart,
    report: &mpsc::SyncSender<Result<Stage, StartError>>,
    go: &mpsc::Receiver<bool>,
) -> Result<(), CoreLost> {
    // Whoever started the core may have given up waiting: then nobody is told, here and below.
    let mut opened = match open(start) {
        Ok(opened) => opened,
        Err(error) => {
            drop(report.send(Err(error)));
            return Ok(());
        }
    };
    let _lifeline = Lifeline(Arc::clone(&opened.mailbox));
    let executor = match executor(&format!("raftyard-{}", opened.start.id.0)) {
        Ok(executor) => executor,
        Err(error) => {
            drop(report.send(Err(StartError::Executor(error))));
            return Ok(());
        }
    };
    let forgetful = opened.core.is_forgetful();
    let told = report.send(Ok(Stage::Opened { forgetful })).map_err(drop);
    let Ok(forgetful) = told.and_then(|()| go.recv().map_err(drop)) else { return Ok(()) };
    if forgetful {
        opened.core.forget();
    }
    let report = report.clone();
    executor.run(async move { serve(opened, &report).await })
}

/// A core that could start, before its tasks run.
struct Opened {
    core: Core,
    disk: UringDisk,
    socket: Socket,
    mailbox: Arc<Mailbox>,
    ring: Ring,
    start: Parts,
}

/// What of the start is used after opening.
struct Parts {
    id: crate::core::port::CoreId,
    resolver: Arc<dyn super::Resolver>,
    connect_timeout: Duration,
}

fn open(start: CoreStart) -> Result<Opened, StartError> {
    if let Some(cpu) = start.pin
        && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
    {
        return Err(StartError::Pin { core: start.config.core, cpu });
    }
    let address = start.listen;
    let socket = socket::bind_patiently(address, PORT_PATIENCE).map_err(|error| StartError::listen(address, error))?;
    let bell = Bell::new().map_err(StartError::Bell)?;
    let mut disk = UringDisk::open(start.data_dir, RING_ENTRIES).map_err(StartError::Ring)?;
    let (wal, recovered) = Wal::open(&mut disk, start.wal, start.seed).map_err(StartError::Wal)?;
    let id = start.config.core;
    let now = clock::now();
    let mut load = |wal: &Wal, group| wal.load_snapshot(&mut disk, group);
    let core = Core::open(start.config, wal, recovered, start.machines, &mut load, now, start.seed);
    let core = core.map_err(StartError::Core)?;
    // From here on the device is not waited for but heard.
    disk.register_eventfd(bell.as_fd()).map_err(StartError::Ring)?;
    let ring = Ring::new(bell.as_fd()).map_err(StartError::Ring)?;
    let mailbox = Arc::new(Mailbox::new(start.mailbox_max, move || bell.ring()));
    let start = Parts { id, resolver: start.resolver, connect_timeout: start.connect_timeout };
    Ok(Opened { core, disk, socket, mailbox, ring, start })
}

/// An executor for this thread. The thread is pinned already, if it is to be: a placement by the executor would also
/// let it spin.
pub(super) fn executor(name: &str) -> Result<LocalExecutor, glommio::GlommioError<()>> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .name(name)
        .io_memory(EXECUTOR_IO_BYTES)
        .preempt_timer(PREEMPTION)
        .make()
}

async fn serve(opened: Opened, report: &mpsc::SyncSender<Result<Stage, StartError>>) -> Result<(), CoreLost> {
    let Opened { core, disk, socket, mailbox, mut ring, start } = opened;
    let listening = socket.local_addr().and_then(|address| {
        let address = address.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
        let listener = socket::listen(socket)?;
        ring.listen(listener.try_clone()?)?;
        Ok((listener, address))
    });
    let (listener, address) = match listening {
        Ok(listening) => listening,
        Err(error) => {
            drop(report.send(Err(StartError::Listen { core: start.id, error })));
            return Ok(());
        }
    };
    let shared = Rc::new(Shared {
        id: start.id,
        core: RefCell::new(core),
        disk: RefCell::new(disk),
        ring: RefCell::new(ring),
        mailbox: Arc::clone(&mailbox),
        links: RefCell::new(Links::default()),
        listener: RefCell::new(Some(listener)),
        resolver: start.resolver,
        connect_timeout: start.connect_timeout,
        dialling: Cell::new(0),
        executor_looked: Cell::new(Instant(0)),
        accept_again: Cell::new(None),
        mails: RefCell::new(Vec::new()),
        answers: RefCell::new(Vec::new()),
        goodbye: RefCell::new(Vec::new()),
        end_by: Cell::new(None),
        ending: Cell::new(false),
        lost: Cell::new(None),
        tasks: Cell::new(0),
    });
    drop(report.send(Ok(Stage::Serves(Ready { mailbox, address }))));
    shared.contain(turn::run(Rc::clone(&shared))).await;
    end(&shared).await
}

/// Lets every task end by itself: a task that is dropped instead would leak, and with it the core.
async fn end(shared: &Rc<Shared>) -> Result<(), CoreLost> {
    shared.mailbox.close();
    // The port is free before anybody is told that the core has ended.
    *shared.listener.borrow_mut() = None;
    shared.ring.borrow_mut().end();
    let end_by = clock::now().after(shared.connect_timeout.max(TASKS_END_MAX));
    while shared.tasks.get() > 0 {
        if clock::now() > end_by {
            tracing::warn!(core = shared.id.0, tasks = shared.tasks.get(), "tasks did not end in time");
            break;
        }
        glommio::timer::sleep(Duration::from_millis(1)).await;
    }
    for answer in shared.goodbye.borrow_mut().drain(..) {
        answer.deliver();
    }
    shared.lost.take().map_or(Ok(()), Err)
}
