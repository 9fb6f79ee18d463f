//! The loop of a core: gather what happened, let the core end its turn, carry out what it wants, sleep.

use super::ring::{Event, Place};
use super::shared::Shared;
use super::{CoreLost, clock, link};
use crate::core::Core;
use crate::core::port::{Input, Notice, Output};
use crate::mail::{Answer, Mail};
use raftyard_raft::Instant;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Commands taken in one turn; the rest waits for the next, so that a flood of them can't keep sockets and completions
/// from being heard.
const MAILS_PER_TURN_MAX: usize = 1024;

/// What a core may still take to finish after it was asked to shut down.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// How long a core sleeps at most, so that a clock that jumps is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Long enough for the executor to hand over its operations and see what came back.
const EXECUTOR_SLEEP: Duration = Duration::from_micros(100);

/// How often the executor looks after connections that are being dialled.
const DIALLING_INTERVAL: Duration = Duration::from_millis(2);

/// Turns for as long as the core lives. While it sleeps the whole thread sleeps: nothing else runs on it but dialling.
pub(super) async fn run(shared: Rc<Shared>) {
    while !shared.ending.get() {
        let heard = turn(&shared).and_then(|sleep| hear(&shared, sleep));
        if let Err(error) = heard {
            return shared.lose(CoreLost::Ring { core: shared.id, error });
        }
        if shared.dialling.get() > 0 && shared.executor_due(DIALLING_INTERVAL) {
            // A sleep makes the executor look at its own rings, which nothing else does.
            glommio::timer::sleep(EXECUTOR_SLEEP).await;
        }
    }
}

/// One turn. Says how long to sleep after it.
fn turn(shared: &Rc<Shared>) -> io::Result<Duration> {
    let now = clock::now();
    let mut core = shared.core.borrow_mut();
    gather(shared, &mut core, now)?;
    core.end_turn();
    carry_out(shared, &mut core, now)?;
    if shared.end_by.get().is_some_and(|end| end <= now) {
        tracing::warn!(core = shared.id.0, "the core did not finish in time and is ended");
        shared.ending.set(true);
    }
    let more = !shared.mailbox.may_sleep() || core.has_work() || shared.ending.get();
    if more {
        return Ok(Duration::ZERO);
    }
    let next = core.next_deadline().into_iter().chain(shared.end_by.get()).chain(shared.accept_again.get()).min();
    let sleep = next.map_or(SLEEP_MAX, |next| next.since(now).min(SLEEP_MAX));
    Ok(if shared.dialling.get() > 0 { sleep.min(DIALLING_INTERVAL) } else { sleep })
}

/// Hands the core whatever waits for it. Bytes from sockets are with it already.
fn gather(shared: &Shared, core: &mut Core, now: Instant) -> io::Result<()> {
    shared.disk.borrow_mut().completions(|id, result| core.handle(now, Input::IoDone { id, result }))?;
    if core.next_deadline().is_some_and(|deadline| deadline <= now) {
        core.handle(now, Input::Deadline);
    }
    shared.mailbox.stay_awake();
    let mut mails = shared.mails.borrow_mut();
    mails.extend(std::iter::from_fn(|| shared.mailbox.receive()).take(MAILS_PER_TURN_MAX));
    if mails.is_empty() {
        return Ok(());
    }
    // The clock is read after the commands were: a lease that held before a read was asked for proves nothing.
    let now = clock::now();
    for mail in mails.drain(..) {
        if let Mail::Shutdown { .. } = mail {
            shared.end_by.set(Some(now.after(SHUTDOWN_MAX)));
        }
        core.handle(now, Input::Mail(mail));
    }
    Ok(())
}

/// Sends first, because a peer needs the longest for its part; then all disk operations with one system call; then the
/// answers, for which nobody in the cluster waits.
fn carry_out(shared: &Rc<Shared>, core: &mut Core, now: Instant) -> io::Result<()> {
    let mut answers = shared.answers.borrow_mut();
    let mut disk = shared.disk.borrow_mut();
    while let Some(output) = core.poll_output() {
        match output {
            Output::Send { link, buffer } => {
                if let Some(buffer) = link::send(shared, link, buffer)? {
                    core.handle(now, Input::Sent { link, buffer });
                }
            }
            Output::Io { id, op } => disk.submit(id, op),
            Output::Answer(answer) => answers.push(answer),
            Output::Dial { link, node, core } => link::dial(shared, link, node, core),
            Output::Close(link) => link::close(shared, link),
            Output::Notice(notice) => {
                tell(&notice, disk.root());
                if notice.is_fatal() {
                    shared.ending.set(true);
                }
            }
        }
    }
    disk.flush()?;
    for answer in answers.drain(..) {
        if let Answer::Shutdown(_) = answer {
            shared.goodbye.borrow_mut().push(answer);
            shared.ending.set(true);
        } else {
            answer.deliver();
        }
    }
    Ok(())
}

/// What is left to do of an event once the ring is free again.
enum After {
    Sent(Place, Vec<u8>),
    Ended(Place),
}

/// Sleeps until something happens, for `sleep` at most, and hands the core what came in.
fn hear(shared: &Rc<Shared>, sleep: Duration) -> io::Result<()> {
    let mut later = Vec::new();
    let mut knocked = false;
    {
        let mut ring = shared.ring.borrow_mut();
        ring.wait(sleep)?;
        let now = clock::now();
        let mut core = shared.core.borrow_mut();
        let links = shared.links.borrow();
        ring.events(|event| match event {
            // Commands wait, or disk operations have ended. Which, the turn finds out.
            Event::Bell => {}
            Event::Knock => knocked = true,
            Event::Received(place, bytes) => {
                if let Some(link) = links.link(place) {
                    core.handle(now, Input::Bytes { link, bytes });
                }
            }
            Event::Sent(place, buffer) => later.push(After::Sent(place, buffer)),
            Event::Ended(place) => later.push(After::Ended(place)),
        })?;
    }
    for event in later {
        match event {
            After::Sent(place, buffer) => {
                if let Some(link) = link::sent(shared, place) {
                    shared.core.borrow_mut().handle(clock::now(), Input::Sent { link, buffer });
                }
            }
            After::Ended(place) => {
                if let Some(link) = link::ended(shared, place) {
                    shared.core.borrow_mut().handle(clock::now(), Input::LinkDown(link));
                }
            }
        }
    }
    // Last: a new connection may get the place of one that has ended just now, which must be forgotten first.
    if knocked || shared.accept_again.get().is_some_and(|at| at <= clock::now()) {
        shared.accept_again.set(None);
        link::accept(shared)?;
    }
    Ok(())
}

/// A node may have its logs on several disks, and a machine several nodes.
fn tell(notice: &Notice, data_dir: &Path) {
    match notice {
        Notice::WalFailed { .. } => tracing::error!(data_dir = %data_dir.display(), "{notice}"),
        Notice::Refused(_) => tracing::error!("{notice}"),
    }
}
