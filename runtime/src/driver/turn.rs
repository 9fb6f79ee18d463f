//! The loop of a core: gather what happened, let the core end its turn, carry out what it wants, sleep.

use super::shared::Shared;
use super::{CoreLost, clock, link};
use crate::core::Core;
use crate::core::port::{Input, Output};
use crate::mail::{Answer, Mail};
use raftyard_raft::Instant;
use std::io;
use std::rc::Rc;
use std::time::Duration;

/// Commands taken in one turn; the rest waits for the next, so that a flood of them can't keep sockets and completions
/// from being heard.
const MAILS_PER_TURN_MAX: usize = 1024;

/// What a core may still take to finish after it was asked to shut down.
const SHUTDOWN_MAX: Duration = Duration::from_secs(10);

/// Turns for as long as the core lives.
pub(super) async fn run(shared: Rc<Shared>) {
    while !shared.ending.get() {
        turn(&shared);
        // Everything else of this core runs while this waits: the readers that have bytes hand them over first, and
        // share the next turn.
        shared.work.wait().await;
    }
}

/// Hears the bell: commands wait, or disk operations have ended. Which, the turn finds out.
pub(super) async fn hear_bell(shared: Rc<Shared>) {
    let ear = match shared.bell.ear() {
        Ok(ear) => ear,
        Err(error) => return shared.lose(CoreLost::Deaf { core: shared.id, error }),
    };
    while !shared.ending.get() {
        if let Err(error) = ear.listen().await {
            return shared.lose(CoreLost::Deaf { core: shared.id, error });
        }
        shared.work.notify();
        shared.breath.release();
    }
}

/// Hears the alarm: a deadline has come.
pub(super) async fn hear_alarm(shared: Rc<Shared>) {
    let ear = match shared.alarm.ear() {
        Ok(ear) => ear,
        Err(error) => return shared.lose(CoreLost::Deaf { core: shared.id, error }),
    };
    while !shared.ending.get() {
        if let Err(error) = ear.listen().await {
            return shared.lose(CoreLost::Deaf { core: shared.id, error });
        }
        shared.alarm.rang();
        shared.work.notify();
    }
}

fn turn(shared: &Rc<Shared>) {
    let now = clock::now();
    let mut core = shared.core.borrow_mut();
    let carried_out = gather(shared, &mut core, now).and_then(|()| {
        core.end_turn(now);
        carry_out(shared, &mut core, now)
    });
    if let Err(error) = carried_out {
        return shared.lose(CoreLost::Ring { core: shared.id, error });
    }
    set_alarm(shared, &core, now);
    let more = core.has_work();
    drop(core);
    if shared.end_by.get().is_some_and(|end| end <= now) {
        tracing::warn!(core = shared.id.0, "the core did not finish in time and is ended");
        shared.end();
    }
    // More to do than one turn takes: ring our own bell, so that the executor looks at sockets and completions before
    // the next turn. It looks only when no task wants to run, so turning again at once would starve them.
    if !shared.mailbox.may_sleep() || more {
        shared.bell.ring();
    }
}

/// Hands the core whatever waits for it. Bytes from sockets are there already: the readers hand them over themselves.
fn gather(shared: &Rc<Shared>, core: &mut Core, now: Instant) -> io::Result<()> {
    shared.disk.borrow_mut().completions(|id, result| core.handle(now, Input::IoDone { id, result }))?;
    if core.next_deadline().is_some_and(|deadline| deadline <= now) {
        core.handle(now, Input::Deadline);
    }
    shared.mailbox.stay_awake();
    for _ in 0..MAILS_PER_TURN_MAX {
        let Some(mail) = shared.mailbox.receive() else { break };
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
    let mut submitted = false;
    while let Some(output) = core.poll_output() {
        match output {
            Output::Send { link, buffer } => {
                if let Some(buffer) = link::send(shared, link, buffer) {
                    core.handle(now, Input::Sent { link, buffer });
                }
            }
            Output::Io { id, op } => {
                disk.submit(id, op);
                submitted = true;
            }
            Output::Answer(answer) => answers.push(answer),
            Output::Dial { link, node, core } => link::dial(shared, link, node, core),
            Output::Close(link) => link::close(shared, link),
            Output::Notice(notice) => {
                tracing::error!("{notice}");
                if notice.is_fatal() {
                    shared.end();
                }
            }
        }
    }
    if submitted {
        disk.flush()?;
    }
    drop(disk);
    for answer in answers.drain(..) {
        if let Answer::Shutdown(_) = answer {
            shared.goodbye.borrow_mut().push(answer);
            shared.end();
        } else {
            answer.deliver();
        }
    }
    Ok(())
}

fn set_alarm(shared: &Shared, core: &Core, now: Instant) {
    let deadline = match (core.next_deadline(), shared.end_by.get()) {
        (Some(deadline), Some(end)) => Some(deadline.min(end)),
        (deadline, end) => deadline.or(end),
    };
    if let Some(deadline) = deadline {
        shared.alarm.set(now, deadline);
    }
}
