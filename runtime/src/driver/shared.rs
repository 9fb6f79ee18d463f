//! What the tasks of one core share. Everything here stays on the core's thread; no borrow is held across a wait.

use super::bell::{Alarm, Bell};
use super::link::Link;
use super::notify::{Breath, Notify};
use super::{CoreLost, Resolver};
use crate::core::Core;
use crate::core::port::{CoreId, LinkId};
use crate::mail::Answer;
use crate::mailbox::Mailbox;
use futures_lite::FutureExt;
use raftyard_raft::Instant;
use raftyard_storage::device::UringDisk;
use rustc_hash::FxHashMap;
use std::cell::{Cell, RefCell};
use std::future::Future;
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
    /// Commands from other threads.
    pub(super) mailbox: Arc<Mailbox>,
    /// Rung by the mailbox and by the device.
    pub(super) bell: Arc<Bell>,
    /// Set to the core's next deadline.
    pub(super) alarm: Alarm,
    /// Wakes the loop: there is something for a turn.
    pub(super) work: Notify,
    /// Where tasks wait until the executor has looked at its rings.
    pub(super) breath: Breath,
    /// The connections that stand, and those that are being dialled (without a socket).
    pub(super) links: RefCell<FxHashMap<LinkId, Option<Rc<Link>>>>,
    /// Where peers listen.
    pub(super) resolver: Arc<dyn Resolver>,
    /// How long a connection may take.
    pub(super) connect_timeout: Duration,
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
    /// Wakes the main task when the core ends.
    pub(super) ended: Notify,
    /// Tasks that run, the main one not counted.
    pub(super) tasks: Cell<usize>,
}

impl Shared {
    /// Runs `task` beside the others. One that panics takes the core with it: what the core believes may be wrong
    /// from then on, so it must not answer anybody again.
    pub(super) fn spawn(self: &Rc<Self>, task: impl Future<Output = ()> + 'static) {
        let shared = Rc::clone(self);
        self.tasks.set(self.tasks.get() + 1);
        drop(
            glommio::spawn_local(async move {
                if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                    shared.lose(CoreLost::Panicked { core: shared.id });
                }
                shared.tasks.set(shared.tasks.get() - 1);
            })
            .detach(),
        );
    }

    /// Returns after the executor has looked at its rings. A task that has more to do at once waits for this now and
    /// then: the executor looks only when no task wants to run, and nobody else would be heard.
    pub(super) async fn breathe(&self) {
        self.bell.ring();
        self.breath.wait().await;
    }

    /// The core can't go on.
    pub(super) fn lose(&self, why: CoreLost) {
        tracing::error!(core = self.id.0, "{why}");
        self.mailbox.close();
        self.lost.set(Some(why));
        self.end();
    }

    /// The core hands out nothing and takes nothing from now on.
    pub(super) fn end(&self) {
        self.ending.set(true);
        self.ended.notify();
        self.work.notify();
    }
}
