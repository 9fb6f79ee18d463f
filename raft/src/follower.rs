//! The follower's side of replication: takes what the leader's log has, and owes it the answers.
//!
//! It must never say that it holds more than this leader's appends have verified, and never remove an entry that
//! doesn't contradict the leader's.

use crate::flags::Flag;
use crate::message::{Body, Entries};
use crate::output::Answer;
use crate::raft::{Raft, State};
use crate::types::{EntryKind, Instant, LogIndex, LogPosition, Member};
use alloc::sync::Arc;

impl Raft {
    /// Takes entries if the log has what is before them, and says where the logs can agree if not (Raft paper, section
    /// 5.3). `check` has made sure that nothing committed is contradicted.
    pub(crate) fn handle_append(
        &mut self,
        now: Instant,
        peer: Member,
        previous: LogPosition,
        commit: LogIndex,
        entries: Entries<'_>,
    ) {
        if previous.index < self.log.base().index {
            // What is below the base is committed, so the leader has it too (Raft paper, section 5.4.3).
            return self.owe_accepted(self.commit);
        }
        if !self.log.contains(previous) {
            let answer = self.rejection(peer, previous);
            return self.owe(answer);
        }
        let count = (entries.0.len() + entries.1.len()) as u64;
        let matched = LogIndex(previous.index.0 + count);
        let members = Arc::clone(&self.configuration);
        self.take(entries);
        if !Arc::ptr_eq(&members, &self.configuration) {
            // It may have got a vote, or lost it.
            self.reset_deadline(now);
        }
        self.lift_by_append(now, matched);
        self.owe_accepted(matched);
        // Beyond what this append verified the log may still differ from the leader's (Raft paper, figure 2).
        self.commit_to(commit.min(matched));
    }

    /// The leader says what is committed, at most what it knows this replica to hold.
    pub(crate) fn handle_heartbeat(&mut self, commit: LogIndex, sent: Instant) {
        // Of several the last is answered: it says more than those before it.
        if let State::Follower(following) = &mut self.state {
            let before = if self.flags.has(Flag::HeartbeatOwed) { following.heartbeat } else { sent };
            following.heartbeat = sent.max(before);
            self.flags.raise(Flag::HeartbeatOwed);
        }
        // It rests on what this replica acknowledged, and its disk may have lost that.
        if !self.is_limited() {
            self.commit_to(commit);
        }
        self.ask_again();
        self.fetch_again();
    }

    /// A message of an earlier term: whoever leads or campaigns in it learns of this one. A replica that was cut off
    /// with a higher term would otherwise never be heard: it refuses the leader, and its pre-votes are refused.
    pub(crate) fn answer_stale(&mut self, peer: Member, body: &Body<'_>) {
        match *body {
            Body::Vote { .. } => self.owe(Answer::Vote { to: peer, granted: false }),
            Body::Append { previous, .. } => {
                let answer = self.rejection(peer, previous);
                self.owe(answer);
            }
            Body::Snapshot { last, .. } => {
                let answer = self.rejection(peer, last);
                self.owe(answer);
            }
            // It names no heartbeat: one that leads this term by now would take it for the answer to one of its own.
            Body::Heartbeat { .. } => self.owe(Answer::Heartbeat { to: peer, sent: Instant(0) }),
            // Late answers to questions nobody asks any more.
            _ => {}
        }
    }

    pub(crate) fn commit_to(&mut self, index: LogIndex) {
        assert!(index <= self.log.last_index(), "only what is in the log is committed");
        self.commit = self.commit.max(index);
    }

    /// Appends what is new. Removes only from the first entry that contradicts: an append that was overtaken by a later
    /// one ends before the log does, and cutting there would lose entries already acknowledged (Raft paper, figure 2).
    fn take(&mut self, entries: Entries<'_>) {
        for entry in entries.0.iter().chain(entries.1) {
            if self.log.contains(entry.position()) {
                continue;
            }
            if entry.index <= self.log.last_index() {
                assert!(entry.index > self.commit, "what is committed never changes");
                self.log.truncate(entry.index);
                self.revert(entry.index);
            }
            self.log.push(entry.clone());
            if entry.kind == EntryKind::Configuration {
                self.adopt_entry(entry);
            }
        }
    }

    fn rejection(&self, to: Member, previous: LogPosition) -> Answer {
        let last = self.log.last_index();
        let from = previous.index.min(last);
        let agree = self.log.highest_at_most(from, previous.term);
        // Below the base nothing is known but that it is committed; the base itself is the lowest that can be told.
        let hint = if agree < self.log.base().index { LogPosition::default() } else { self.log.position(agree) };
        Answer::Rejected { to, rejected: previous.index, last, hint }
    }
}
