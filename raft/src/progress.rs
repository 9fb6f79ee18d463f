//! What a leader knows of one peer's log, and how much it may send it. Used by the leader's side of replication only.

use crate::settings::Settings;
use crate::types::{Instant, LogIndex};
use alloc::boxed::Box;
use alloc::collections::VecDeque;

/// How a leader sends to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It does not know where the logs agree: one append at a time, until one is accepted.
    Probe {
        /// One is on its way. Ended by an answer, or by a beat after a silent interval.
        outstanding: bool,
    },
    /// The logs agree up to `matched`: appends follow each other without waiting (Raft thesis, section 10.2.2).
    Replicate,
    /// It lacks entries that this log no longer has: a snapshot is on its way, and nothing else.
    Snapshot,
}

/// What a leader knows of one peer.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Invariant: the peer's durable log equals the leader's up to here, as the peer said in this term; unless its disk lost
    /// entries since. Then it votes as if it had them.
    pub(crate) matched: LogIndex,
    /// The next entry to send. Invariant: above `matched`.
    pub(crate) next: LogIndex,
    pub(crate) mode: Mode,
    /// A heartbeat is owed.
    pub(crate) heartbeat: bool,
    /// An empty append is owed, to learn what arrived.
    pub(crate) probe: bool,
    /// It lacked entries at the last beat and has answered no append since.
    pub(crate) silent: bool,
    /// A request to campaign is owed.
    pub(crate) timeout_now: bool,
    /// Whether the peer keeps its promise for `acked` over a restart.
    promises: bool,
    /// When the last heartbeat that it acknowledged was sent.
    pub(crate) acked: Instant,
    /// `None`: nothing is on its way.
    inflight: Option<Box<Inflight>>,
}

impl Progress {
    /// A new leader knows nothing of its peers and hopes for the best (Raft paper, figure 2, nextIndex).
    pub(crate) fn new(next: LogIndex) -> Progress {
        Progress {
            matched: LogIndex(0),
            next,
            mode: Mode::Probe { outstanding: false },
            heartbeat: false,
            probe: false,
            silent: false,
            timeout_now: false,
            promises: false,
            acked: Instant(0),
            inflight: None,
        }
    }

    /// Whether entries may go to this peer now.
    pub(crate) fn may_send(&self, settings: &Settings) -> bool {
        match self.mode {
            Mode::Probe { outstanding } => !outstanding,
            Mode::Replicate => self.inflight.as_ref().is_none_or(|inflight| {
                inflight.ends.len() < settings.inflight_appends_max && inflight.bytes < settings.inflight_bytes_max
            }),
            Mode::Snapshot => false,
        }
    }

    /// An append whose last entry is `last` goes out.
    #[inline]
    pub(crate) fn sent(&mut self, last: LogIndex, bytes: usize) {
        self.probe = false;
        match &mut self.mode {
            Mode::Probe { outstanding } => *outstanding = true,
            Mode::Replicate => {
                self.next = last.next();
                self.inflight.get_or_insert_default().push(last, bytes);
            }
            Mode::Snapshot => unreachable!("nothing goes beside a snapshot"),
        }
    }

    /// An append without entries goes out.
    pub(crate) fn sent_probe(&mut self) {
        self.probe = false;
        if let Mode::Probe { outstanding } = &mut self.mode {
            *outstanding = true;
        }
    }

    /// A snapshot up to `index` goes out.
    pub(crate) fn sent_snapshot(&mut self, index: LogIndex) {
        self.probe = false;
        self.mode = Mode::Snapshot;
        self.next = index.next();
        self.inflight = None;
    }

    /// The snapshot did not get there.
    pub(crate) fn snapshot_failed(&mut self) {
        if self.mode == Mode::Snapshot {
            self.become_probe();
        }
    }

    /// The peer acknowledged the heartbeat sent at `sent`. Says whether that is news.
    pub(crate) fn heard(&mut self, sent: Instant, promises: bool) -> bool {
        let news = sent > self.acked;
        if news {
            self.acked = sent;
            self.promises = promises;
        }
        news
    }

    /// Since when the peer's promise not to elect another is known; never if it would forget it in a restart.
    pub(crate) const fn promised(&self) -> Instant {
        if self.promises { self.acked } else { Instant(0) }
    }

    /// The peer has everything up to `matched`. Says whether that is news.
    pub(crate) fn accepted(&mut self, matched: LogIndex) -> bool {
        self.silent = false;
        let news = matched > self.matched;
        if news {
            self.matched = matched;
            self.next = self.next.max(matched.next());
        }
        match self.mode {
            Mode::Probe { .. } if matched == self.matched => {
                self.mode = Mode::Replicate;
                self.next = self.matched.next();
            }
            // The snapshot arrived. This log may have been compacted beyond it since: then it needs the next one.
            Mode::Snapshot if self.matched.next() >= self.next => self.become_probe(),
            Mode::Probe { .. } | Mode::Snapshot => {}
            Mode::Replicate => {
                if let Some(inflight) = &mut self.inflight {
                    inflight.free(self.matched);
                }
            }
        }
        news
    }

    /// The peer has no entry at `rejected`; the logs can agree at `agree` at the earliest (which is at or below
    /// `rejected`, and exactly there only if the append asked for a term that the hint does not have).
    pub(crate) fn rejected(&mut self, rejected: LogIndex, agree: LogIndex) {
        self.silent = false;
        match self.mode {
            // An answer to an append that a later answer has overtaken, or to none that was sent.
            Mode::Replicate if rejected <= self.matched || rejected >= self.next => {}
            Mode::Replicate => self.become_probe(),
            Mode::Probe { .. } if rejected != self.next.previous() || rejected <= self.matched => {}
            Mode::Probe { .. } => {
                self.next = rejected.min(agree.next()).max(self.matched.next());
                self.mode = Mode::Probe { outstanding: false };
            }
            // It is asked whether it has what the log begins with now: it hasn't, but it has the snapshot.
            Mode::Snapshot if rejected >= self.next && agree.next() >= self.next => self.become_probe(),
            Mode::Snapshot => {}
        }
    }

    /// The peer's disk lost entries: nothing above `held` is known to be there. What was committed because it was stays so.
    pub(crate) fn lost_entries(&mut self, held: LogIndex) {
        self.matched = self.matched.min(held);
    }

    /// The link was lost. While probing nothing is assumed to arrive, so nothing changes then; a snapshot has a link of
    /// its own, and whoever sends it tells when it fails.
    pub(crate) fn lost(&mut self) {
        if self.mode == Mode::Replicate {
            self.become_probe();
        }
    }

    /// A new link stands: nothing of what went before is on its way any more.
    pub(crate) fn found(&mut self) {
        match &mut self.mode {
            Mode::Replicate => self.become_probe(),
            Mode::Probe { outstanding } => *outstanding = false,
            Mode::Snapshot => {}
        }
    }

    /// What was on its way may be lost: start again from what is known.
    fn become_probe(&mut self) {
        self.next = self.matched.next();
        self.mode = Mode::Probe { outstanding: false };
        self.inflight = None;
    }

    /// A beat of the leader, whose last entry is `last`. A peer that lacks entries and answered nothing for a whole
    /// interval gets an empty append: its answer tells what was lost on the way. So does one that a snapshot was sent to:
    /// nothing else would say that it arrived if its one answer was lost.
    pub(crate) fn beat(&mut self, last: LogIndex) {
        self.heartbeat = true;
        let behind = self.matched < last;
        self.probe |= behind && self.silent;
        self.silent = behind;
        // An idle group keeps no buffer; a busy one has something on its way at most beats.
        self.inflight.take_if(|inflight| inflight.ends.is_empty());
    }
}

/// The appends on their way to a peer in [`Mode::Replicate`]: last index and bytes of each, oldest first.
#[derive(Debug, Default)]
struct Inflight {
    ends: VecDeque<(LogIndex, usize)>,
    bytes: usize,
}

impl Inflight {
    fn push(&mut self, last: LogIndex, bytes: usize) {
        self.ends.push_back((last, bytes));
        self.bytes += bytes;
    }

    fn free(&mut self, matched: LogIndex) {
        while let Some((last, bytes)) = self.ends.front().copied()
            && last <= matched
        {
            self.bytes -= bytes;
            self.ends.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicating(settings: &Settings) -> Progress {
        let mut progress = Progress::new(LogIndex(1));
        assert!(progress.may_send(settings));
        progress.sent(LogIndex(1), 10);
        assert!(!progress.may_send(settings), "one append while probing");
        assert!(progress.accepted(LogIndex(1)));
        progress
    }

    #[test]
    fn the_window_closes_by_appends_and_by_bytes_and_opens_with_answers() {
        let settings = Settings { inflight_appends_max: 2, inflight_bytes_max: 100, ..Settings::default() };
        let mut progress = replicating(&settings);
        progress.sent(LogIndex(2), 10);
        assert!(progress.may_send(&settings));
        progress.sent(LogIndex(4), 10);
        assert!(!progress.may_send(&settings), "two appends are on their way");
        progress.accepted(LogIndex(3));
        assert!(progress.may_send(&settings), "one arrived");
        progress.sent(LogIndex(5), 95);
        progress.accepted(LogIndex(4));
        assert!(progress.may_send(&settings), "95 bytes are below the limit");
        progress.accepted(LogIndex(5));
        progress.sent(LogIndex(6), 1_000);
        assert!(!progress.may_send(&settings), "too many bytes are on their way");
    }

    #[test]
    fn rejections_that_were_overtaken_change_nothing() {
        let settings = Settings::default();
        let mut progress = replicating(&settings);
        progress.sent(LogIndex(5), 10);
        progress.rejected(LogIndex(1), LogIndex(0));
        progress.rejected(LogIndex(9), LogIndex(0));
        assert_eq!((progress.mode, progress.next), (Mode::Replicate, LogIndex(6)));
        progress.rejected(LogIndex(5), LogIndex(0));
        assert_eq!((progress.mode, progress.next), (Mode::Probe { outstanding: false }, LogIndex(2)));
        progress.sent(LogIndex(5), 10);
        progress.rejected(LogIndex(5), LogIndex(0));
        assert_eq!(progress.mode, Mode::Probe { outstanding: true }, "the answer to an older append");
    }

    #[test]
    fn a_peer_is_probed_after_a_whole_silent_interval() {
        let mut progress = replicating(&Settings::default());
        progress.beat(LogIndex(2));
        assert!(!progress.probe, "it had no time to answer yet");
        progress.beat(LogIndex(2));
        assert!(progress.probe);
        progress.sent_probe();
        progress.accepted(LogIndex(1));
        progress.beat(LogIndex(3));
        assert!(!progress.probe, "it has answered since");
        progress.accepted(LogIndex(3));
        progress.beat(LogIndex(3));
        progress.beat(LogIndex(3));
        assert!(!progress.probe, "it lacks nothing");
    }

    #[test]
    fn a_snapshot_holds_everything_up_until_it_has_arrived_or_failed() {
        let settings = Settings::default();
        let mut progress = Progress::new(LogIndex(9));
        progress.sent_snapshot(LogIndex(7));
        assert!(!progress.may_send(&settings));
        progress.accepted(LogIndex(3));
        progress.rejected(LogIndex(7), LogIndex(3));
        assert_eq!(progress.mode, Mode::Snapshot, "answers from before");
        progress.snapshot_failed();
        assert_eq!((progress.mode, progress.next), (Mode::Probe { outstanding: false }, LogIndex(4)));
        progress.sent_snapshot(LogIndex(7));
        progress.accepted(LogIndex(7));
        assert_eq!((progress.mode, progress.next), (Mode::Probe { outstanding: false }, LogIndex(8)));
    }

    #[test]
    fn a_snapshot_whose_answer_was_lost_is_asked_for() {
        let mut progress = Progress::new(LogIndex(9));
        progress.sent_snapshot(LogIndex(7));
        progress.beat(LogIndex(9));
        assert!(!progress.probe, "it had no time to answer yet");
        progress.beat(LogIndex(9));
        assert!(progress.probe);
        progress.sent_probe();
        progress.rejected(LogIndex(7), LogIndex(7));
        assert_eq!(progress.mode, Mode::Snapshot, "it lacks what the snapshot holds");
        progress.rejected(LogIndex(8), LogIndex(7));
        assert_eq!(
            progress.mode,
            Mode::Probe { outstanding: false },
            "the log begins later now, and it has the snapshot"
        );
    }

    #[test]
    fn a_promise_counts_only_from_an_answer_that_made_it() {
        let mut progress = Progress::new(LogIndex(1));
        assert!(progress.heard(Instant(5), true));
        assert_eq!(progress.promised(), Instant(5));
        assert!(progress.heard(Instant(9), false));
        assert!(!progress.heard(Instant(7), true), "it was overtaken");
        assert_eq!((progress.acked, progress.promised()), (Instant(9), Instant(0)));
    }
}
