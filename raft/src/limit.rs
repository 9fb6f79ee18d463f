//! What a replica may do whose disk lost something that it may have acknowledged, and when it is whole again.
//!
//! Other replicas counted on what it said: an entry may be committed, or a vote refused, because this one said that it has
//! the entry. So it must go on voting as if it still had it, and must never win an election by its own log.
//!
//! **Bound.** Of a lost log it is known where it ended: the newest position by the order of the writes, `b`, in the log L
//! that ended there. The hard state is known too. Every entry that this replica ever acknowledged and that is committed, or
//! ever will be with its acknowledgement counted, is in L: whoever cut it off L was a later leader, and all of those have
//! it (Raft paper, section 5.4.3).
//!
//! - *Votes.* It votes for logs at least as new as `b` and as its own end. With L intact it would have asked for no more
//!   than that: if it has taken entries of a later leader since, L's end would be theirs or `b`. So leader completeness
//!   holds by the same proof. It never campaigns: its own log may lack what L had.
//! - *Promises.* Its answers to heartbeats count for leases and reads: they promise not to vote for others, and it votes
//!   for fewer than an intact replica would.
//! - *Commit.* A leader may still count what was acknowledged before the loss, and late or doubled acknowledgements may
//!   make it count that again. That is safe, for the vote is as if it were there. But the leader must send it anew. So
//!   answers to heartbeats say `lost`, which makes a leader that has nothing to send ask, and rejections say it, which
//!   takes `matched` down. A late acknowledgement that raises it again costs one more rejection, and there are finitely
//!   many. A heartbeat's commit index rests on `matched`, so a limited replica doesn't follow it; that of an append rests
//!   on what this append verified.
//! - *The end.* What is to be shown is that it holds every such entry e again. L had e at or below `b`, with a term not
//!   above that of `b`. (a) Its log contains `b`: then it is L up to there, by log matching. (b) A leader of its term
//!   verified its log up to a position p at or above `b`, by term and then index. The leader has e if that is committed,
//!   in its own log or as its own entry. With the term of `b`, p has an index not below that of `b`, nor below e's; with a
//!   later term, e is before p because terms rise along the leader's log. (c) A snapshot at a position p at or above
//!   `b` came: e is committed, if ever, in the log that the snapshot ends, and is below p by the same argument. That its
//!   index is not below that of `b` would do as well, but not where `b` is the newer of two bounds, as below.
//! - *Two losses.* A limited replica may lose more before it is whole, of a log that ended at `b2`. An e of either log has a
//!   term and an index that the argument of (b) and (c) needs for the newer of the two, and (a) is the case of (b) then:
//!   what the log lacks after the loss it can only have from a leader.
//! - That its own log ends at or above `b` proves nothing, and that it ends below `b` neither: a leader of a later term may
//!   replace many entries by few, and what it has beyond the verified part may be what the lost part had replaced.
//! - When it is whole, it holds all that any leader of its term has counted as `matched`: those are such entries too. So
//!   rejections are ordinary again, and so is a heartbeat's commit index.
//!
//! **Amnesia.** Not even that is known. It takes nothing and says nothing, for ever: as if its node was down. A majority
//! without it has to elect, and meets every majority that committed anything, with it or not, in another replica.

use crate::planted::{Bug, planted};
use crate::raft::Raft;
use crate::types::{Instant, LogIndex, LogPosition};

/// What a replica may do after its disk lost something. Whoever finds that out makes it durable before the replica is
/// opened with it; the replica says when it is over ([`Persist::limit`](crate::Persist::limit)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Nothing is lost.
    #[default]
    None,
    /// It once had a log that ended here, by the order of the writes, and may have acknowledged all of it. It has less now:
    /// the beginning of a log that it once had. Term and vote are not lost. It takes what its leader sends, and votes for
    /// logs at least as new as this one; it does not campaign until it is whole again. Where a replica that is limited
    /// loses more, there are two such positions: of those that what it has now doesn't contain, the newer one by term and
    /// then index.
    Bound(LogPosition),
    /// Where its log ended, whom it voted for, or in which term, is not known. It takes nothing and answers nobody for ever.
    Amnesia,
}

impl Raft {
    /// What this replica may not do, because its disk lost something.
    #[must_use]
    #[inline]
    pub fn limit(&self) -> Limit {
        self.rare.as_ref().map_or(Limit::None, |rare| rare.limit)
    }

    #[inline]
    pub(crate) fn is_limited(&self) -> bool {
        self.limit() != Limit::None
    }

    /// Whether a log that ends at `last` has all that this replica may have acknowledged and lost.
    pub(crate) fn meets_bound(&self, last: LogPosition) -> bool {
        match self.limit() {
            Limit::Bound(bound) => last.at_least_as_new_as(bound) || planted(Bug::BoundIgnored),
            // With amnesia nobody's question is even heard.
            Limit::None | Limit::Amnesia => true,
        }
    }

    /// A leader of this term has verified the log up to `verified`.
    #[inline]
    pub(crate) fn lift_by_append(&mut self, now: Instant, verified: LogIndex) {
        if let Limit::Bound(bound) = self.limit() {
            self.lift_if_reached(now, verified, bound);
        }
    }

    #[cold]
    fn lift_if_reached(&mut self, now: Instant, verified: LogIndex, bound: LogPosition) {
        if self.log.contains(bound) {
            self.lift(now, bound.index);
        } else if self.log.position(verified).at_least_as_new_as(bound) {
            self.lift(now, verified);
        }
    }

    /// All that is committed up to `base` is in this log, or in the state that it goes on from.
    pub(crate) fn lift_by_base(&mut self, now: Instant, base: LogPosition) {
        let Limit::Bound(bound) = self.limit() else { return };
        if base.at_least_as_new_as(bound) {
            self.lift(now, base.index);
        }
    }

    /// The end of a limit, if it is to be made durable now: not before what ended it is.
    pub(crate) fn take_lifted(&mut self) -> Option<Limit> {
        self.rare.as_ref()?;
        self.take_lifted_now()
    }

    #[cold]
    fn take_lifted_now(&mut self) -> Option<Limit> {
        let by = self.rare.as_ref()?.lifted?;
        // If it was cut off since, the replica was whole before that.
        if self.log.durable() < by.min(self.log.last_index()) {
            return None;
        }
        self.rare().lifted = None;
        self.tidy();
        Some(Limit::None)
    }

    /// An operator forced this replica to lead with what it has. What it lost is given up; what it has from `first` on, the
    /// group's log from then on, begins a new time.
    pub(crate) fn give_up_bound(&mut self, first: LogIndex) {
        if matches!(self.limit(), Limit::Bound(_)) {
            let rare = self.rare();
            (rare.limit, rare.lifted) = (Limit::None, Some(first));
        }
    }

    /// The replica is whole again by its log up to `by`, and may campaign.
    fn lift(&mut self, now: Instant, by: LogIndex) {
        let rare = self.rare();
        (rare.limit, rare.lifted) = (Limit::None, Some(by));
        self.reset_deadline(now);
    }
}
