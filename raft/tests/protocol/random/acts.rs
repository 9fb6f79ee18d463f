//! What happens in a random schedule, one thing a step.

use super::ambush::ambush;
use super::damage;
use super::events::Event;
use super::schedule::{REPLICAS, Schedule};
use crate::cluster::{Start, member};
use bytes::Bytes;
use raftyard_raft::{CompactError, Configuration, LogIndex, Member, MemberChange, Raft, ReplicaId, Role};
use std::fmt::Write as _;

/// One thing happens; mostly the replica is polled then, sometimes more happens in the same turn.
pub(crate) fn act(s: &mut Schedule) {
    let touched = match s.dice.below(424) {
        0..176 => deliver(s),
        176..262 => with_someone(s, Schedule::persisted),
        262..292 => propose(s),
        292..312 => beat(s),
        312..319 => with_someone(s, |s, id| {
            // Its time runs out.
            if let Some(deadline) = s.raft(id).and_then(Raft::deadline) {
                s.wait_until(id, deadline);
            }
            s.deadline(id);
        }),
        319..324 => with_someone(s, campaign),
        324..327 => with_someone(s, link),
        327..335 => return crash_or_restart(s),
        335..347 => return change(s),
        347..352 => return join(s),
        352..358 => transfer(s),
        358..372 => read(s),
        372..378 => with_someone(s, compact),
        378..382 => report_snapshot(s),
        382..384 => return pause(s),
        384..386 => return part(s),
        386 => with_someone(s, |s, id| {
            let priority = s.dice.below(3) as u8;
            s.promises.prefer(id, priority);
            s.touch(id, |cluster| cluster.raft(id).expect("it is up").set_priority(priority));
        }),
        387..398 => return flush(s, 3),
        398 => return ambush(s),
        399 => return stall(s),
        400..408 => with_someone(s, damage::evict),
        408..421 => damage::fetch(s),
        _ => return damage::damage(s),
    };
    if let Some(id) = touched
        && s.dice.below(4) > 0
    {
        s.turn(id);
    }
}

fn with_someone(s: &mut Schedule, act: impl FnOnce(&mut Schedule, usize)) -> Option<usize> {
    let id = s.someone()?;
    act(s, id);
    Some(id)
}

fn deliver(s: &mut Schedule) -> Option<usize> {
    let packet = s.take()?;
    s.deliver(packet)
}

fn propose(s: &mut Schedule) -> Option<usize> {
    let id = s.leader()?;
    let mut data = String::new();
    let _ = write!(data, "{}", s.step);
    data.push_str(&"x".repeat(s.dice.below(100)));
    let transfers = s.raft(id).is_some_and(|raft| raft.transferee().is_some());
    let proposed = s.touch(id, |cluster| cluster.propose(id, &data));
    assert!(!transfers || proposed.is_err(), "{id} takes proposals while it gives its leadership away");
    Some(id)
}

pub(crate) fn beat(s: &mut Schedule) -> Option<usize> {
    let id = s.leader()?;
    let now = s.cluster.time(id);
    s.touch(id, |cluster| cluster.raft(id).expect("it leads").beat(now));
    Some(id)
}

pub(crate) fn campaign(s: &mut Schedule, id: usize) {
    let (now, stops) = (s.cluster.time(id), s.dice.once_in(4));
    let campaigns = s.touch(id, |cluster| {
        let raft = cluster.raft(id).expect("it is up");
        if stops {
            raft.step_down(now);
            return false;
        }
        raft.campaign(now).is_ok()
    });
    s.totals.add(Event::Campaigned, usize::from(campaigns));
}

fn link(s: &mut Schedule, id: usize) {
    let (peer, stands) = (ReplicaId(1 + s.dice.below(REPLICAS) as u64), s.dice.once_in(2));
    s.touch(id, |cluster| {
        let raft = cluster.raft(id).expect("it is up");
        if stands { raft.handle_reachable(peer) } else { raft.handle_unreachable(peer) }
    });
}

fn crash_or_restart(s: &mut Schedule) {
    let down: Vec<usize> =
        s.cluster.ids().filter(|id| s.cluster.replica(*id).exists && s.raft(*id).is_none()).collect();
    if !down.is_empty() && s.dice.once_in(2) {
        let id = down[s.dice.below(down.len())];
        return restart(s, id, LogIndex(0));
    }
    if s.dice.below(12) < s.nastiness
        && let Some(id) = s.someone()
    {
        let applied = crash(s, id);
        if s.dice.once_in(3) {
            restart(s, id, applied);
        }
    }
}

/// Takes a replica down; says what its state machine held.
pub(crate) fn crash(s: &mut Schedule, id: usize) -> LogIndex {
    let applied = s.raft(id).expect("it is up").applied();
    let writes = s.cluster.writes(id);
    let kept = s.dice.below(writes + 1);
    if s.cluster.crash(id, kept) {
        // Whoever sent it has to hear of that, too.
        let others: Vec<usize> = s.cluster.ids().filter(|other| s.raft(*other).is_some()).collect();
        s.failed.extend(others.into_iter().map(|other| (other, id)));
    }
    s.reads.forget(id);
    s.totals.add(Event::Crashed, 1);
    s.totals.add(Event::WriteLost, writes - kept);
    applied
}

/// Starts a replica again. A state machine with a disk of its own comes back with what it had, or less.
pub(crate) fn restart(s: &mut Schedule, id: usize, applied: LogIndex) {
    let disk = &s.cluster.replica(id).disk;
    let (base, last, most) = (disk.machine.position.index, disk.last(), applied);
    let kept = LogIndex(base.0 + s.dice.below(most.0.saturating_sub(base.0) as usize + 1) as u64);
    s.totals.add(Event::AppliedKept, usize::from(kept > base));
    s.totals.add(Event::MachineAhead, usize::from(kept > last));
    let paged = if s.dice.once_in(2) { LogIndex(s.dice.below(last.0 as usize + 1) as u64) } else { LogIndex(0) };
    s.totals.add(Event::RestartedPaged, usize::from(paged > base));
    let promises = s.settings.leases && s.cluster.replica(id).keeps_promises;
    s.totals.add(if promises { Event::RestartedWithPromise } else { Event::ForgotPromise }, 1);
    s.told &= !(1 << id);
    s.promises.started(id);
    let with_machine = s.dice.once_in(2);
    s.cluster.start(id, Start { applied: kept, paged, with_machine });
}

/// The leader is asked for one change of members, or several at once.
fn change(s: &mut Schedule) {
    let Some(id) = s.leader() else { return };
    s.turn(id);
    let Some(raft) = s.raft(id) else { return };
    let (configuration, before, term) = (raft.configuration().clone(), raft.configuration_index(), raft.term());
    let settled = before <= raft.commit() && !configuration.is_joint();
    let allowed = settled && raft.entry_term(raft.commit()) == Some(term);
    let changes = changes(s, &configuration);
    if settled && configuration.changed(&changes).is_ok_and(|next| !damage::is_bearable(s, &next)) {
        return;
    }
    let changed = s.touch(id, |cluster| {
        let raft = cluster.raft(id).expect("it leads");
        raft.change_membership(&changes, Bytes::from_static(b"why"))
    });
    s.totals.add(if changed.is_ok() { Event::Changed } else { Event::ChangeRefused }, 1);
    if changed.is_err() {
        return;
    }
    assert!(allowed, "{id} changes the members before the change of {before} is settled, or in ignorance");
    let joint = s.raft(id).is_some_and(|raft| raft.configuration().is_joint());
    s.totals.add(Event::ChangedJointly, usize::from(joint));
    for change in &changes {
        count_change(s, change);
    }
    if s.dice.below(4) > 0 {
        s.turn(id);
    }
}

/// Some that are possible, and some that are not. New replicas may leave ids out, but none comes twice.
fn changes(s: &mut Schedule, configuration: &Configuration) -> Vec<MemberChange> {
    let mut next = configuration.highest_replica().0 as usize + s.dice.below(4) / 3;
    let count = [1, 1, 1, 2, 2, 3, 4][s.dice.below(7)];
    let learners: Vec<Member> = configuration.learners().collect();
    let members = configuration.members();
    let change = |_| {
        next += 1;
        let old = members[s.dice.below(members.len())].replica;
        match s.dice.below(9) {
            0..3 if next <= REPLICAS => MemberChange::AddVoter(member(next)),
            3..5 if next <= REPLICAS => MemberChange::AddLearner(member(next)),
            5 if !learners.is_empty() => MemberChange::Promote(learners[s.dice.below(learners.len())].replica),
            5 | 6 => MemberChange::Demote(old),
            _ => MemberChange::Remove(old),
        }
    };
    (0..count).map(change).collect()
}

fn count_change(s: &mut Schedule, change: &MemberChange) {
    let event = match change {
        MemberChange::AddVoter(_) => Event::VoterAdded,
        MemberChange::AddLearner(_) => Event::LearnerAdded,
        MemberChange::Promote(_) => Event::Promoted,
        MemberChange::Demote(_) => Event::Demoted,
        MemberChange::Remove(replica) if !s.cluster.replica(replica.0 as usize).exists => Event::RemovedBeforeCreated,
        MemberChange::Remove(_) => Event::Removed,
    };
    s.totals.add(event, 1);
}

/// A replica is created, before or after the group gets to know it, or never was wanted.
fn join(s: &mut Schedule) {
    let missing: Vec<usize> = s.cluster.ids().filter(|id| !s.cluster.replica(*id).exists).collect();
    let wanted = |id: &&usize| {
        s.cluster
            .ids()
            .filter_map(|m| s.raft(m))
            .any(|raft| raft.configuration().seat(ReplicaId(**id as u64)).is_some())
    };
    let id = match missing.iter().find(wanted) {
        Some(id) => *id,
        None if missing.is_empty() || s.dice.below(6) > 0 => return,
        None => missing[s.dice.below(missing.len())],
    };
    s.totals.add(Event::Joined, 1);
    s.cluster.join(id);
}

pub(crate) fn transfer(s: &mut Schedule) -> Option<usize> {
    let id = s.leader()?;
    let (now, raft) = (s.cluster.time(id), s.raft(id)?);
    let members = raft.configuration().members().to_vec();
    let to = members[s.dice.below(members.len())].replica;
    let begun = s.touch(id, |cluster| cluster.raft(id).expect("it leads").transfer_leadership(now, to));
    s.totals.add(Event::TransferBegun, usize::from(begun.is_ok()));
    Some(id)
}

fn read(s: &mut Schedule) -> Option<usize> {
    let id = if s.dice.once_in(2) { s.leader()? } else { s.someone()? };
    s.reads.begin(&mut s.cluster, id);
    Some(id)
}

fn compact(s: &mut Schedule, id: usize) {
    let raft = s.raft(id).expect("it is up");
    let (base, applied) = (raft.base().position.index, raft.applied());
    let index = LogIndex(base.0 + s.dice.below((applied.0 - base.0) as usize + 1) as u64);
    match s.cluster.compact(id, index) {
        Ok(()) => s.totals.add(Event::Compacted, usize::from(index > base)),
        Err(error) => {
            assert_eq!(error, CompactError::MembersUnknown { index });
            s.totals.add(Event::CompactedTooEarly, 1);
        }
    }
}

/// A leader hears that a snapshot did not arrive; seldom though it did, or will.
fn report_snapshot(s: &mut Schedule) -> Option<usize> {
    let (from, to) = match s.failed.len() {
        0 if s.dice.once_in(4) => (s.leader()?, 1 + s.dice.below(REPLICAS)),
        0 => return None,
        count => {
            let place = s.dice.below(count);
            s.failed.remove(place)
        }
    };
    s.raft(from)?;
    s.totals.add(Event::SnapshotFailed, 1);
    s.touch(from, |cluster| cluster.raft(from).expect("it is up").handle_snapshot_failed(ReplicaId(to as u64)));
    Some(from)
}

fn pause(s: &mut Schedule) {
    if s.dice.below(12) >= s.nastiness {
        return;
    }
    let id = if s.dice.once_in(2) { s.leader() } else { s.someone() };
    if let Some(id) = id {
        s.paused[id] = s.step + 1 + s.dice.below(80) as u32;
        s.totals.add(Event::Paused, 1);
    }
}

fn part(s: &mut Schedule) {
    if s.dice.below(12) < s.nastiness {
        let side = s.dice.next() as u32;
        s.side = (side, s.step + 1 + s.dice.below(80) as u32);
        s.totals.add(Event::Parted, 1);
    }
}

/// A good while passes in no time: what gets through is delivered, and what is written is durable.
pub(crate) fn flush(s: &mut Schedule, rounds: usize) {
    for _ in 0..rounds {
        for _ in 0..s.cluster.network.len() {
            let Some(packet) = s.take() else { break };
            if let Some(to) = s.deliver(packet) {
                s.turn(to);
            }
        }
        for id in s.cluster.ids() {
            while s.is_awake(id) && s.cluster.writes(id) > 0 {
                s.persisted(id);
            }
            while s.is_awake(id) && !s.cluster.replica(id).fetches.is_empty() {
                s.touch(id, |cluster| cluster.fetched(id, 0, usize::MAX));
                s.turn(id);
            }
            s.turn_if_up(id);
        }
    }
}

/// A leader that is heard, but whose entries arrive nowhere, for so long that it gives up.
fn stall(s: &mut Schedule) {
    let Some(id) = s.leader().filter(|_| s.dice.once_in(3)) else { return };
    s.mute = Some(id);
    let pause = s.settings.election_timeout_min.as_nanos() as usize / 4;
    for _ in 0..60 {
        if s.raft(id).is_none_or(|raft| raft.role() != Role::Leader) || !s.is_awake(id) {
            break;
        }
        let _ = s.touch(id, |cluster| cluster.propose(id, "stalled"));
        beat(s);
        s.turn(id);
        flush(s, 2);
        s.pass(pause);
        s.check();
    }
    s.mute = None;
}
