//! The follower's side of replication: takes what the leader's log has, and owes it the answers.
//!
//! It must never say that it holds more than this leader's appends have verified, and never remove an entry that
//! doesn't contradict the leader's.

use crate::message::{Body, Entries};
use crate::output::Answer;
use crate::raft::Raft;
use crate::types::{LogIndex, LogPosition};

impl Raft {
    /// Takes entries if the log has what is before them, and says where the logs can agree if not (Raft paper, section
    /// 5.3). `check` has made sure that nothing committed is contradicted.
    pub(crate) fn handle_append(&mut self, seat: usize, previous: LogPosition, commit: LogIndex, entries: Entries<'_>) {
        if !self.log.contains(previous) {
            let answer = self.rejection(seat, previous);
            return self.owe(answer);
        }
        let count = (entries.0.len() + entries.1.len()) as u64;
        let matched = LogIndex(previous.index.0 + count);
        self.take(entries);
        self.owe_accepted(seat, matched);
        // Beyond what this append verified the log may still differ from the leader's (Raft paper, figure 2).
        self.commit_to(commit.min(matched));
    }

    /// The leader says what is committed, at most what it knows this replica to hold.
    pub(crate) fn handle_heartbeat(&mut self, commit: LogIndex) {
        self.heartbeat_owed = true;
        self.commit_to(commit);
    }

    /// A message of an earlier term: whoever leads or campaigns in it learns of this one. A replica that was cut off
    /// with a higher term would otherwise never be heard: it refuses the leader, and its pre-votes are refused.
    pub(crate) fn answer_stale(&mut self, seat: usize, body: &Body<'_>) {
        match *body {
            Body::Vote { .. } => self.owe(Answer::Vote { seat, granted: false }),
            Body::Append { previous, .. } => {
                let answer = self.rejection(seat, previous);
                self.owe(answer);
            }
            Body::Heartbeat { .. } => self.owe(Answer::Heartbeat { seat }),
            // Late answers to questions nobody asks any more.
            _ => {}
        }
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
            }
            self.log.push(entry.clone());
        }
    }

    fn rejection(&self, seat: usize, previous: LogPosition) -> Answer {
        let last = self.log.last_index();
        let hint = self.log.highest_at_most(previous.index.min(last), previous.term);
        Answer::Rejected { seat, rejected: previous.index, last, hint }
    }

    fn commit_to(&mut self, index: LogIndex) {
        assert!(index <= self.log.last_index(), "only what is in the log is committed");
        self.commit = self.commit.max(index);
    }
}
