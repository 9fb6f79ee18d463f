//! What may come back of a damaged log, decided from what was recorded alone.
//!
//! Let D be the newest batch that something undamaged proves durable. The log ends before the first lost batch above D. What
//! was recorded up to there is there, or its group is limited: a bound at or above its newest position, or amnesia. Only
//! who was touched by a lost batch may be limited, unless nothing says who was: several lost batches in a row, the last one
//! of a start, the last one of the log, and whatever stood before a checkpoint when no checkpoint can be read.

use super::image::{Hit, Image};
use super::memory::MemDisk;
use super::{Held, State, WAL};
use raftyard_raft::{Entry, Limit, LogIndex, LogPosition, Term};
use raftyard_storage::wal::{BatchSeq, Loaded, Reading, Recovered, RecoveredGroup, WalError, read};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What was found to be so.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub refused: bool,
    pub limited: usize,
    pub holes: usize,
    pub recovered: Recovered,
}

/// What is expected of a damaged log.
struct Expected<'a> {
    image: &'a Image,
    hit: &'a Hit,
    /// The last batch that counts.
    last: BatchSeq,
    /// Lost batches that count.
    holes: BTreeSet<BatchSeq>,
    /// Whether some of them are lost without a word about whom they touched.
    unexplained: bool,
}

/// Reads a damaged log and judges what comes back. With `load` every entry is read too.
pub fn judge(image: &Image, disk: &mut MemDisk, hit: &Hit, load: bool) -> Result<Verdict, String> {
    let reading = catch_unwind(AssertUnwindSafe(|| read(disk, WAL))).map_err(|_| "recovery panicked".to_string())?;
    let reading = match reading {
        Ok(reading) => reading,
        Err(error) if hit.header && may_refuse(hit, &error) => {
            return Ok(Verdict { refused: true, ..Verdict::default() });
        }
        Err(error) => return Err(format!("refused: {error}")),
    };
    let loaded = if load { Some(entries(image, disk, hit, &reading)?) } else { None };
    let recovered = reading.recovered;
    let expected = Expected::new(image, hit, &recovered);
    expected.check(&recovered, loaded.flatten_ref())?;
    let limited = recovered.groups.iter().filter(|group| group.limit != Limit::None).count();
    Ok(Verdict { refused: false, limited, holes: expected.holes.len(), recovered })
}

/// Refusals that are stated.
fn may_refuse(hit: &Hit, error: &WalError) -> bool {
    match error {
        WalError::HeaderDamaged { .. } => hit.headers,
        // A whole header of another segment.
        WalError::Misplaced { .. } => true,
        _ => false,
    }
}

trait FlattenRef {
    fn flatten_ref(&self) -> Option<&Loaded>;
}

impl FlattenRef for Option<Option<Loaded>> {
    fn flatten_ref(&self) -> Option<&Loaded> {
        self.as_ref().and_then(Option::as_ref)
    }
}

/// All entries; `None` if some can't be read, which is found where they are lost.
fn entries(image: &Image, disk: &mut MemDisk, hit: &Hit, reading: &Reading) -> Result<Option<Loaded>, String> {
    match catch_unwind(AssertUnwindSafe(|| reading.load(disk, WAL))).map_err(|_| "reading panicked".to_string())? {
        Ok(loaded) => Ok(Some(loaded)),
        Err(WalError::Unreadable { file, offset, index }) => {
            let lost = hit.lost.iter().filter_map(|sequence| image.batch(*sequence));
            let there = lost.into_iter().any(|b| b.file == file && b.bytes.contains(&(offset as usize)));
            if there { Ok(None) } else { Err(format!("entry {index} at {file} {offset} can't be read")) }
        }
        Err(error) => Err(format!("can't be read: {error}")),
    }
}

impl<'a> Expected<'a> {
    fn new(image: &'a Image, hit: &'a Hit, recovered: &Recovered) -> Expected<'a> {
        let from = recovered.stats.checkpoint.map_or(BatchSeq(0), |place| place.sequence);
        let intact = image.batches.iter().filter(|batch| !hit.lost.contains(&batch.sequence));
        let proofs = intact.map(|batch| batch.durable_upto);
        let durable = proofs.chain(image.headers.iter().map(|(_, header)| header.durable_upto)).max().unwrap();
        let mut last = image.whole.stats.last;
        let mut holes = BTreeSet::new();
        for sequence in hit.lost.iter().copied().filter(|sequence| *sequence >= from) {
            if sequence > durable {
                last = sequence.previous();
                break;
            }
            holes.insert(sequence);
        }
        let explains = |sequence: BatchSeq| {
            let next = image.batch(sequence.next()).filter(|next| next.sequence <= last);
            next.is_some_and(|next| !next.after_loss && !hit.lost.contains(&next.sequence))
                && !holes.contains(&sequence.previous())
        };
        let front = recovered.stats.checkpoint.is_none() && image.batches[0].sequence.0 > 1;
        let unexplained = front || holes.iter().any(|sequence| !explains(*sequence));
        Expected { image, hit, last, holes, unexplained }
    }

    fn check(&self, recovered: &Recovered, loaded: Option<&Loaded>) -> Result<(), String> {
        if recovered.stats.last != self.last {
            return Err(format!("the log ends at {}, not {}", recovered.stats.last, self.last));
        }
        let told = recovered.damage.iter().any(|damage| !damage.explained);
        if recovered.damage.is_empty() != (self.holes.is_empty() && !self.unexplained) || told != self.unexplained {
            return Err(format!("lost: {:?}, told: {:?}", self.holes, recovered.damage));
        }
        let truth = &self.image.states[self.last.0 as usize];
        for held in &truth.groups {
            let found = recovered.groups.iter().find(|found| found.group == held.group);
            if found.is_none() && !self.unexplained {
                return Err(format!("group {} is gone", held.group));
            }
        }
        for found in &recovered.groups {
            let entries = loaded.map(|loaded| &loaded[&found.group][..]);
            let held = truth.groups.iter().find(|held| held.group == found.group);
            let checked = match held.filter(|held| held.replica == found.replica) {
                Some(held) => self.group(held, found, entries),
                None => self.stranger(found),
            };
            checked.map_err(|error| format!("group {} ({:?}): {error}; found {found:?}", found.group, found.limit))?;
        }
        self.peers(truth, recovered)
    }

    /// A replica that was there once and was removed, or never there.
    fn stranger(&self, found: &RecoveredGroup) -> Result<(), String> {
        let was = |state: &State| state.groups.iter().any(|g| (g.group, g.replica) == (found.group, found.replica));
        if !self.image.states.iter().take(self.last.0 as usize + 1).any(was) {
            return Err("was never there".into());
        }
        if found.limit == Limit::Amnesia && self.unexplained { Ok(()) } else { Err("was removed".into()) }
    }

    fn group(&self, held: &Held, found: &RecoveredGroup, entries: Option<&[Entry]>) -> Result<(), String> {
        let touched = |sequence: &BatchSeq| self.image.batch(*sequence).unwrap().touched.contains(&held.group);
        let lost = self.unexplained || self.holes.iter().any(touched);
        if found.limit != held.limit && !lost {
            return Err("limited, and lost nothing".into());
        }
        if found.limit == Limit::Amnesia {
            return Ok(());
        }
        if found.hard_state != held.hard_state {
            return Err(format!("{:?} instead of {:?}", found.hard_state, held.hard_state));
        }
        match (held.limit, found.limit) {
            (Limit::Amnesia, _) => return Err("had amnesia".into()),
            (Limit::Bound(_), Limit::None) => return Err("had a bound".into()),
            (Limit::Bound(before), Limit::Bound(bound)) if !bound.at_least_as_new_as(before) => {
                return Err(format!("bound by {before:?} before"));
            }
            (_, Limit::Bound(bound)) if !bound.at_least_as_new_as(held.last()) => {
                return Err(format!("held {:?}", held.last()));
            }
            _ => {}
        }
        if found.limit == Limit::None || !lost {
            if (found.last, &*found.configuration) != (held.last(), &held.configuration) {
                return Err(format!("not whole: {held:?}"));
            }
            if found.base.index > held.base.index {
                return Err(format!("begins too late: {held:?}"));
            }
            if !lost && (found.base, found.snapshot.map(|s| s.0)) != (held.base, held.snapshot.as_ref().map(|s| s.0)) {
                return Err(format!("not as it was: {held:?}"));
            }
        }
        let now = self.last.0 as usize;
        let oldest = if found.limit == Limit::None { now } else { 0 };
        // Without the snapshot that its log began with nothing is left of it.
        let forgotten = found.limit != Limit::None && found.last == LogPosition::default();
        let once = forgotten || (oldest..=now).any(|at| self.is_prefix(at, found, entries));
        if once { Ok(()) } else { Err(format!("its log never was so; now {held:?}, {entries:?}")) }
    }

    /// Whether a log is the beginning of what it was after a batch.
    fn is_prefix(&self, at: usize, found: &RecoveredGroup, entries: Option<&[Entry]>) -> bool {
        let same = |g: &&Held| (g.group, g.replica) == (found.group, found.replica);
        let Some(full) = self.image.uncompacted[at].groups.iter().find(same) else { return false };
        let at = |index: LogIndex| {
            let place = index.0.checked_sub(full.base.index.0 + 1)?;
            full.entries.get(usize::try_from(place).ok()?)
        };
        let term = |index: LogIndex| match at(index) {
            Some(entry) => Some(entry.term),
            None => (index == full.base.index).then_some(full.base.term),
        };
        let term_found = |index: LogIndex| {
            let run = found.terms.iter().rev().find(|position| position.index <= index);
            run.map_or(Term(0), |position| position.term)
        };
        let mut indexes = (found.base.index.0 + 1..=found.last.index.0).map(LogIndex);
        term(found.base.index) == Some(found.base.term)
            && term(found.last.index) == Some(found.last.term)
            && indexes.all(|index| term(index) == Some(term_found(index)))
            && entries.is_none_or(|entries| entries.iter().all(|entry| at(entry.index) == Some(entry)))
            && entries.is_none_or(|entries| entries.len() as u64 == found.last.index.0 - found.base.index.0)
    }

    /// Peers' stores are lost with the batch that they are in: nothing repeats them.
    fn peers(&self, truth: &State, recovered: &Recovered) -> Result<(), String> {
        let lost = |node| {
            let steps = self.image.model.steps.iter().filter(|(sequence, _)| *sequence <= self.last);
            let last = steps.rev().find(|(_, step)| matches!(step, super::Step::Peer(known, _) if *known == node));
            last.is_some_and(|(sequence, _)| self.hit.lost.contains(sequence))
        };
        for (node, store) in &truth.peers {
            let found = recovered.peers.iter().find(|(known, _)| known == node).map(|(_, store)| store);
            if found != Some(store) && !lost(*node) && !self.unexplained {
                return Err(format!("the store of {node} is {found:?}"));
            }
        }
        Ok(())
    }
}
