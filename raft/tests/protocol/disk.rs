//! What is durable of one replica, and what it is like when part of that is lost.

use crate::packet::{list, members, position};
use raftyard_raft::{
    Base, Configuration, ConfigurationEntry, Entry, EntryKind, Fetch, HardState, Limit, LogIndex, LogPosition, Paged,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// So many states of the log before the last are remembered.
const FORMER_MAX: usize = 8;

/// What is durable of one replica.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) base: Base,
    pub(crate) hard: HardState,
    /// The entries after the base.
    pub(crate) entries: Vec<Entry>,
    /// What it may not do, because it lost something.
    pub(crate) limit: Limit,
    /// What it lost since it was whole: others may count on it.
    pub(crate) lost: Vec<Entry>,
    /// What is known to be durable of the state machine, which has a disk of its own.
    pub(crate) machine: Base,
    /// What the log was before the last writes, the oldest first.
    former: VecDeque<(Base, Vec<Entry>)>,
}

/// What one write makes durable.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    pub(crate) base: Option<Base>,
    pub(crate) hard: Option<HardState>,
    pub(crate) limit: Option<Limit>,
    pub(crate) entries: Vec<Entry>,
}

impl Disk {
    pub(crate) fn fresh(configuration: Configuration) -> Disk {
        let base = Base::initial(Arc::new(configuration));
        Disk {
            machine: base.clone(),
            base,
            hard: HardState::default(),
            entries: Vec::new(),
            limit: Limit::None,
            lost: Vec::new(),
            former: VecDeque::new(),
        }
    }

    /// The entry at `index`, if it is above the base and there.
    pub(crate) fn entry(&self, index: LogIndex) -> Option<&Entry> {
        let place = index.0.checked_sub(self.base.position.index.0 + 1)?;
        self.entries.get(usize::try_from(place).ok()?)
    }

    /// Where its log ends.
    pub(crate) fn last(&self) -> LogIndex {
        LogIndex(self.base.position.index.0 + self.entries.len() as u64)
    }

    /// Whether it holds that entry, or a base that covers it.
    pub(crate) fn holds(&self, entry: &Entry) -> bool {
        entry.index <= self.base.position.index || self.entry(entry.index) == Some(entry)
    }

    /// Whether others may count on it for that entry: it holds it, or votes as if it did.
    pub(crate) fn stands_for(&self, entry: &Entry) -> bool {
        self.holds(entry) || self.lost.contains(entry)
    }

    /// The state machine holds everything up to `base`; the log begins there.
    pub(crate) fn compact(&mut self, base: Base) {
        let gone = base.position.index.0 - self.base.position.index.0;
        self.entries.drain(..gone as usize);
        self.machine = base.clone();
        self.base = base;
    }

    pub(crate) fn take(&mut self, saved: Saved) {
        if saved.base.is_some() || !saved.entries.is_empty() {
            self.former.truncate(FORMER_MAX);
            self.former.push_back((self.base.clone(), self.entries.clone()));
            if self.former.len() > FORMER_MAX {
                self.former.pop_front();
            }
        }
        if let Some(base) = saved.base {
            if base.position.index > self.machine.position.index {
                self.machine = base.clone();
            }
            self.base = base;
            self.entries.clear();
        }
        self.hard = saved.hard.unwrap_or(self.hard);
        if let Some(first) = saved.entries.first() {
            let before = (first.index.0 - self.base.position.index.0) as usize - 1;
            assert!(before <= self.entries.len(), "a write leaves no gap");
            self.entries.truncate(before);
            self.entries.extend(saved.entries);
        }
        if let Some(limit) = saved.limit {
            assert_eq!(limit, Limit::None, "a replica only lifts a limit");
            let whole = self.lost.iter().all(|lost| self.last() >= lost.index || lost.term < self.position().term);
            assert!(whole, "it is not whole again");
            (self.limit, self.lost) = (limit, Vec::new());
        }
    }

    /// Where its log ends.
    fn position(&self) -> LogPosition {
        self.entries.last().map_or(self.base.position, Entry::position)
    }

    /// What a fetch asks for, as far as it is there.
    pub(crate) fn read(&self, fetch: &Fetch) -> Vec<Entry> {
        let mut bytes = 0;
        let mut entries = Vec::new();
        let mut index = fetch.first;
        while let Some(entry) = self.entry(index).filter(|_| index <= fetch.last) {
            bytes += entry.cost();
            if bytes > fetch.bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry.clone());
            index = index.next();
        }
        entries
    }

    /// What a replica is told of the entries up to `upto`, and the entries after them.
    pub(crate) fn paged(&self, upto: LogIndex) -> (Paged, Vec<Entry>) {
        let count = upto.0.saturating_sub(self.base.position.index.0).min(self.entries.len() as u64) as usize;
        let (paged, rest) = self.entries.split_at(count);
        let Some(last) = paged.last() else { return (Paged::default(), rest.to_vec()) };
        let mut terms: Vec<LogPosition> = Vec::new();
        for entry in paged {
            if terms.last().is_none_or(|run| run.term != entry.term) {
                terms.push(entry.position());
            }
        }
        let changes = paged.iter().filter(|entry| entry.kind == EntryKind::Configuration);
        let held = |entry: &Entry| ConfigurationEntry::decode(&entry.data).expect("an honest entry").configuration;
        let configurations = changes.map(|entry| (entry.index, held(entry))).collect();
        (Paged { last: last.index, terms, configurations }, rest.to_vec())
    }

    /// How many earlier states of its log it may be thrown back to.
    pub(crate) fn former(&self) -> usize {
        self.former.len()
    }

    /// Whether the last `back` writes of the log replaced entries.
    pub(crate) fn replaces(&self, back: usize) -> bool {
        let (_, entries) = &self.former[self.former.len() - back];
        entries.iter().any(|entry| self.entry(entry.index).is_some_and(|now| now.term != entry.term))
    }

    /// The last `back` writes of the log are lost, which may have replaced what is there now: term and vote, and where the
    /// log ended, are known from elsewhere. So is what the state machine holds.
    pub(crate) fn lose_writes(&mut self, back: usize) {
        let place = self.former.len() - back;
        let (base, entries) = self.former[place].clone();
        self.former.truncate(place);
        self.lose(base, entries);
    }

    /// The entries after `kept` are lost.
    pub(crate) fn lose_after(&mut self, kept: LogIndex) {
        let count = kept.0.saturating_sub(self.base.position.index.0) as usize;
        let entries = self.entries[..count.min(self.entries.len())].to_vec();
        self.former.clear();
        self.lose(self.base.clone(), entries);
    }

    /// Everything is lost but that it existed.
    pub(crate) fn lose_all(&mut self, configuration: &Arc<Configuration>) {
        self.lost.extend(std::mem::take(&mut self.entries));
        let base = Base::initial(Arc::clone(configuration));
        (self.base, self.machine, self.hard) = (base.clone(), base, HardState::default());
        self.former.clear();
        self.limit = Limit::Amnesia;
    }

    fn lose(&mut self, base: Base, entries: Vec<Entry>) {
        let newest = self.position();
        let before = std::mem::take(&mut self.entries);
        let compacted = std::mem::replace(&mut self.base, base);
        self.entries = entries;
        // The log may have been compacted since. If it lacks the place, the state machine knows.
        if self.entry(compacted.position.index).is_some_and(|entry| entry.position() == compacted.position) {
            let machine = self.machine.clone();
            self.compact(compacted);
            self.machine = machine;
        }
        let gone: Vec<Entry> = before.into_iter().filter(|entry| !self.holds(entry)).collect();
        // Where it was limited already there are two bounds. One that is there again binds no more.
        let there = |bound: LogPosition| self.entry(bound.index).is_some_and(|entry| entry.position() == bound);
        let bound = match self.limit {
            Limit::Bound(old) if !there(old) && (there(newest) || old.at_least_as_new_as(newest)) => old,
            _ => newest,
        };
        self.lost.extend(gone);
        self.limit = Limit::Bound(bound);
    }
}

impl Saved {
    pub(crate) fn describe(&self) -> String {
        let vote = |hard: HardState| hard.vote.map_or_else(|| "nobody".to_owned(), |v| v.to_string());
        let base = self.base.as_ref();
        let base = base.map(|b| format!("base {} members {}", position(b.position), members(&b.configuration)));
        let hard = self.hard.map(|h| format!("term {} vote {}", h.term, vote(h)));
        let limit = self.limit.map(|_| "that it is whole".to_owned());
        let entries = (!self.entries.is_empty()).then(|| format!("[{}]", list((&self.entries, &[]))));
        base.into_iter().chain(hard).chain(limit).chain(entries).collect::<Vec<_>>().join(" ")
    }
}
