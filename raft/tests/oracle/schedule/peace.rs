//! The end of a schedule: nothing is lost any more, and what is promised for that must come true.

use super::Schedule;
use crate::replica::ELECTION_TIMEOUT_NANOS;
use raftyard_raft::LogIndex;

/// How often everything is delivered and persisted before all must agree.
const PEACE_ROUNDS_MAX: u32 = 400;

impl Schedule {
    /// Nothing is lost any more and everybody is up: all must agree, on all that was ever committed and on a command more.
    pub(super) fn peace(&mut self) {
        self.step = u32::MAX;
        for id in self.group.ids() {
            if !self.group.replica(id).is_up() {
                self.group.start(id, LogIndex(0));
            }
        }
        let mut proposed = LogIndex::MAX;
        for _ in 0..PEACE_ROUNDS_MAX {
            self.calm_round();
            let settled = self.agreed_leader();
            if self.group.invariants.applied.iter().all(|applied| *applied >= proposed) {
                self.agree();
                return self.hand_over();
            }
            // Tried again where a leader that had it fell in between.
            if let Some(id) = settled
                && (proposed == LogIndex::MAX || self.dice.once_in(20))
            {
                self.propose(id);
                proposed = LogIndex(self.group.replica(id).view().map_or(0, |view| view.last.index.0));
            }
        }
        panic!("a group that nobody disturbs does not agree");
    }

    fn calm_round(&mut self) {
        self.group.now.0 += ELECTION_TIMEOUT_NANOS / 10;
        let now = self.group.now;
        for id in self.group.ids() {
            self.group.touch(id, |replica| replica.pass(now));
        }
        self.settle();
    }

    /// Among replicas that agree a leader of either kind can hand over to any other, at once.
    fn hand_over(&mut self) {
        // What was begun before comes to its end.
        (0..30).for_each(|_| self.calm_round());
        let Some(leader) = self.agreed_leader() else { panic!("who agreed had a leader") };
        let others: Vec<usize> = self.group.ids().filter(|id| *id != leader).collect();
        let (to, now) = (others[self.dice.below(others.len())], self.group.now);
        if self.dice.once_in(2) {
            // What the other still lacks it gets first.
            self.propose(leader);
        }
        self.group.touch(leader, |replica| replica.transfer(now, to));
        self.settle();
        let kinds = (self.group.kind(leader), self.group.kind(to));
        assert_eq!(self.agreed_leader(), Some(to), "{leader} did not hand over to {to}: {kinds:?}");
    }

    fn agreed_leader(&self) -> Option<usize> {
        let term = self.group.ids().filter_map(|id| self.group.replica(id).view()).map(|view| view.term).max();
        let leads = |id: &usize| self.group.replica(*id).view().is_some_and(|v| v.leads && Some(v.term) == term);
        self.group.ids().find(leads)
    }

    /// Delivers and persists everything that is on its way.
    fn settle(&mut self) {
        for _ in 0..50 {
            let mut busy = false;
            for packet in std::mem::take(&mut self.group.network) {
                busy = true;
                self.group.deliver(&packet);
            }
            for id in self.group.ids() {
                while self.group.replica(id).writes() > 0 {
                    busy = true;
                    self.group.persisted(id);
                }
            }
            if !busy {
                return;
            }
        }
    }

    fn agree(&self) {
        let committed = &self.group.invariants.committed;
        for id in self.group.ids() {
            let view = self.group.replica(id).view().expect("all are up");
            let log = &self.group.replica(id).log()[..view.commit.0 as usize];
            assert!(log.len() <= committed.len() && log == &committed[..log.len()], "the log of {id} differs");
        }
    }
}
