//! What hurts most if a promise is broken, and seldom happens by chance: a leader that is cut off at a bad moment, while the
//! others elect another as soon as they may, and the new one commits.

use super::acts::{beat, campaign, crash, flush, restart, transfer};
use super::schedule::Schedule;
use raftyard_raft::{Raft, Role};

pub(crate) fn ambush(s: &mut Schedule) {
    let Some(old) = s.leader() else { return };
    if s.dice.once_in(2) {
        beat(s);
        s.turn(old);
        flush(s, 2);
    }
    let transfers = s.dice.once_in(3);
    if transfers {
        transfer(s);
        s.turn(old);
        let rounds = s.dice.below(2);
        flush(s, rounds);
    }
    if s.dice.once_in(2) {
        s.reads.begin(&mut s.cluster, old);
        s.turn(old);
    }
    s.check();
    // The old leader stays behind, sometimes with company.
    let company = s.dice.next() as u32 & s.dice.next() as u32;
    s.side = (1 << old | company & if s.dice.once_in(3) { u32::MAX } else { 0 }, s.step + 1 + s.dice.below(40) as u32);
    let others: Vec<usize> = s.cluster.ids().filter(|id| s.side.0 & (1 << id) == 0 && s.raft(*id).is_some()).collect();
    if others.is_empty() {
        return;
    }
    if s.dice.once_in(4) {
        for id in &others {
            let applied = crash(s, *id);
            restart(s, *id, applied);
        }
    }
    for _ in 0..1 + s.dice.below(4) {
        let rival = others[s.dice.below(others.len())];
        if s.raft(rival).is_none() || !s.is_awake(rival) {
            continue;
        }
        // Some are early and are refused, or wait until nothing binds them any more.
        if s.dice.below(3) > 0
            && let Some(promise) = s.raft(rival).map(Raft::promise)
        {
            s.wait_until(rival, promise);
        }
        campaign(s, rival);
        s.turn(rival);
        flush(s, 3);
        s.check();
        if s.raft(rival).is_some_and(|raft| raft.role() == Role::Leader) {
            let _ = s.touch(rival, |cluster| cluster.propose(rival, "usurped"));
            s.turn(rival);
            flush(s, 2);
            s.check();
            // Who stayed behind knows nothing of that, and must not answer readers as if nothing was.
            let side = s.side.0;
            for id in s.cluster.ids().filter(|id| side & (1 << id) != 0) {
                s.reads.begin(&mut s.cluster, id);
                s.turn_if_up(id);
            }
            flush(s, 2);
            s.check();
            break;
        }
    }
}
