//! What the tasks of one core share. Everything here stays on the core's thread; no borrow is held across a wait.

use super::link::Links;
use super::ring::Ring;
use super::{CoreLost, Resolver, clock};
use crate::core::Core;
use crate::core::port::CoreId;
use crate::mail::{Answer, Mail};
use crate::mailbox::Mailbox;
use futures_lite::FutureExt;
use raftyard_raft::Instant;
use raftyard_storage::device::UringDisk;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The state of one core's driver.
pub(super) struct Shared {
    /// The core's number, for the log.
    pub(super) id: CoreId,
    /// The core itself.
    pub(super) core: RefCell<Core>,
    /// Its log's device.
    pub(super) disk: RefCell<UringDisk>,
    /// What it waits on.
    pub(super) ring: RefCell<Ring>,
    /// Commands from other threads.
    pub(super) mailbox: Arc<Mailbox>,
    /// The connections that stand, and those that are being dialled.
    pub(super) links: RefCell<Links>,
    /// Where others connect; nothing once the core ends.
    pub(super) listener: RefCell<Option<OwnedFd>>,
    /// Where peers listen.
    pub(super) resolver: Arc<dyn Resolver>,
    /// How long a connection may take.
    pub(super) connect_timeout: Duration,
    /// Connections being dialled, by tasks of the executor: it must get its turn while there are any.
    pub(super) dialling: Cell<usize>,
    /// When the executor looked after them last.
    pub(super) executor_looked: Cell<Instant>,
    /// Accepting failed: when to try again.
    pub(super) accept_again: Cell<Option<Instant>>,
    /// Commands of this turn; empty between turns.
    pub(super) mails: RefCell<Vec<Mail>>,
    /// Answers to give at the end of the turn; empty between turns.
    pub(super) answers: RefCell<Vec<Answer>>,
    /// The answer to whoever asked for the shutdown: given when the core has ended.
    pub(super) goodbye: RefCell<Vec<Answer>>,
    /// When the core ends even if it has not finished what was under way.
    pub(super) end_by: Cell<Option<Instant>>,
    /// The core ends: no task hands it anything any more.
    pub(super) ending: Cell<bool>,
    /// Why it was lost, if it was.
    pub(super) lost: Cell<Option<CoreLost>>,
    /// Tasks that run, the main one not counted.
    pub(super) tasks: Cell<usize>,
}

impl Shared {
    /// Runs `task` beside the loop. One that panics takes the core with it: what the core believes may be wrong from
    /// then on, so it must not answer anybody again.
    pub(super) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let shared = Rc::clone(self);
        self.tasks.set(self.tasks.get() + 1);
        drop(
            glommio::spawn_local(async move {
                shared.contain(task).await;
                shared.tasks.set(shared.tasks.get() - 1);
            })
            .detach(),
        );
    }

    /// Runs `task`; if it panics, the core is lost.
    pub(super) async fn contain(&self, task: impl Future<Output = ()>) {
        if AssertUnwindSafe(task).catch_unwind().await.is_err() {
            self.lose(CoreLost::Panicked { core: self.id });
        }
    }

    /// Whether the executor has not looked at its rings for `interval`; then it does now.
    pub(super) fn executor_due(&self, interval: Duration) -> bool {
        let now = clock::now();
        let due = now.since(self.executor_looked.get()) >= interval;
        if due {
            self.executor_looked.set(now);
        }
        due
    }

    /// The core can't go on.
    pub(super) fn lose(&self, why: CoreLost) {
        tracing::error!(core = self.id.0, "{why}");
        self.mailbox.close();
        self.lost.set(Some(why));
        self.ending.set(true);
    }
}
