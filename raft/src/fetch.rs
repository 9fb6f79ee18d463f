//! Entries that are on disk alone and are needed again: to be applied after a start, or sent to a peer that fell behind.
//!
//! The protocol can't read a disk. It says what it needs, at most one piece for each peer and one for applying at a time,
//! holds what it is given for as long as that is of use, and never believes that it is what it asked for: the log has
//! moved on since, and may have been cut. What is here is seldom in use, and takes no memory when it isn't.

use crate::leader::Leadership;
use crate::log::prefix;
use crate::message::Entries;
use crate::progress::Mode;
use crate::raft::{Raft, State};
use crate::types::{Entry, LogIndex, ReplicaId};
use alloc::vec::Vec;

/// Entries to be read from disk, to be given back with [`Raft::handle_fetched`] or [`Raft::handle_fetch_failed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The first entry. At least this one is needed.
    pub first: LogIndex,
    /// The last entry that is of use.
    pub last: LogIndex,
    /// About how many bytes ([`Entry::cost`]) are of use.
    pub bytes_max: usize,
    /// What for.
    pub purpose: Purpose,
    /// That of the log. Entries read before it was cut are others.
    pub(crate) generation: u32,
}

/// What entries are fetched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// To be applied.
    Apply,
    /// To be sent to this peer.
    Append(ReplicaId),
}

/// What became of a fetch.
#[derive(Debug)]
pub(crate) struct Page {
    fetch: Fetch,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// It has no answer yet. It stays so whatever happens, so that no two are under way for one purpose.
    UnderWay,
    /// It can't be read now. Asked again after the next beat.
    Failed,
    /// Entries of this log, from the first asked for; and their bytes.
    Held(Vec<Entry>, usize),
}

impl Raft {
    /// Leaves the entries up to `upto` to the disk, as far as they are applied and durable: they no longer take memory, and
    /// are read again if anybody needs them ([`poll_fetch`](Raft::poll_fetch)). Says how many bytes
    /// ([`Entry::cost`]) that frees. Its cost is that of the entries it drops.
    pub fn evict(&mut self, upto: LogIndex) -> usize {
        self.log.evict(upto.min(self.applied).min(self.log.durable()))
    }

    /// Index of the first entry in memory, or of the next if there is none. Those before it are on disk alone.
    #[must_use]
    pub fn first_in_memory(&self) -> LogIndex {
        self.log.floor().index.next()
    }

    /// The next entries to be read from disk. Each is answered once, at any time, by
    /// [`handle_fetched`](Raft::handle_fetched) or [`handle_fetch_failed`](Raft::handle_fetch_failed); until then none is
    /// asked for the same purpose. Poll it last in a turn: it also gives back what was fetched and is done with.
    pub fn poll_fetch(&mut self) -> Option<Fetch> {
        self.drop_pages();
        if !self.log.is_paged() {
            return None;
        }
        let (purpose, first, last) = self.wanted_to_apply().or_else(|| self.wanted_to_send())?;
        let (bytes_max, generation) = (self.settings.append_bytes_max, self.log.generation());
        let fetch = Fetch { first, last, bytes_max, purpose, generation };
        self.rare().pages.push(Page { fetch, content: Content::UnderWay });
        Some(fetch)
    }

    /// The entries that `fetch` asked for: from its first on, as many as there are up to its last and about its bytes, but
    /// at least one. They are held, counted in [`log_bytes`](Raft::log_bytes), until they are handed out or of no use any
    /// more. What is no answer to a fetch under way is ignored; entries that are not those of the log count as a failure.
    pub fn handle_fetched(&mut self, fetch: Fetch, mut entries: Vec<Entry>) {
        let most = fetch.last.0.saturating_sub(fetch.first.0).saturating_add(1);
        entries.truncate(usize::try_from(most).unwrap_or(usize::MAX));
        let in_order = |(at, entry): (usize, &Entry)| entry.index.0.checked_sub(fetch.first.0) == Some(at as u64);
        let held = |entry: &Entry| self.log.contains(entry.position());
        let good = !entries.is_empty() && entries.iter().enumerate().all(in_order) && entries.iter().all(held);
        let bytes = entries.iter().map(Entry::cost).sum();
        self.answer_fetch(fetch, if good { Content::Held(entries, bytes) } else { Content::Failed });
    }

    /// What `fetch` asked for can't be read now. It is asked for again after the next beat, if it is still needed.
    pub fn handle_fetch_failed(&mut self, fetch: Fetch) {
        self.answer_fetch(fetch, Content::Failed);
    }

    /// A beat: what could not be read may be now.
    pub(crate) fn fetch_again(&mut self) {
        if let Some(rare) = &mut self.rare
            && !rare.pages.is_empty()
        {
            rare.pages.retain(|page| !matches!(page.content, Content::Failed));
            self.tidy();
        }
    }

    /// As [`poll_committed`](Raft::poll_committed), of entries that were fetched.
    #[cold]
    pub(crate) fn poll_fetched(&mut self, last: LogIndex, bytes_max: usize) -> Option<Entries<'_>> {
        let first = self.applied.next();
        let pages = &self.rare.as_ref()?.pages;
        let entries = held(pages, Purpose::Apply, self.log.generation(), first)?;
        self.applied = prefix(entries.iter(), first, bytes_max).0;
        assert!(self.applied <= last, "no more was asked for than is committed");
        Some((&entries[..(self.applied.0 + 1 - first.0) as usize], &[]))
    }

    /// What was fetched for a peer, from the one after `previous` to `last`: they were found there when this was planned.
    #[cold]
    pub(crate) fn fetched(&self, replica: ReplicaId, previous: LogIndex, last: LogIndex) -> Entries<'_> {
        let pages = self.rare.as_ref().map_or(&[][..], |rare| &rare.pages);
        let entries = held(pages, Purpose::Append(replica), self.log.generation(), previous.next());
        (&entries.expect("it is planned from what is held")[..(last.0 - previous.0) as usize], &[])
    }

    /// Bytes of what was fetched and is held.
    pub(crate) fn fetched_bytes(&self) -> usize {
        let bytes = |page: &Page| if let Content::Held(_, bytes) = page.content { bytes } else { 0 };
        self.rare.as_ref().map_or(0, |rare| rare.pages.iter().map(bytes).sum())
    }

    /// What was asked of a log that was cut or compacted since is of no use, whatever the answer.
    fn answer_fetch(&mut self, fetch: Fetch, content: Content) {
        let Some(rare) = &mut self.rare else { return };
        let asked = |page: &Page| page.fetch == fetch && matches!(page.content, Content::UnderWay);
        let Some(place) = rare.pages.iter().position(asked) else { return };
        let current = fetch.generation == self.log.generation() && fetch.first > self.log.base().index;
        if current {
            rare.pages[place].content = content;
        } else {
            rare.pages.swap_remove(place);
        }
        self.tidy();
    }

    fn wanted_to_apply(&self) -> Option<(Purpose, LogIndex, LogIndex)> {
        let (first, last) = (self.applied.next(), self.commit.min(self.log.durable()).min(self.log.floor().index));
        (first <= last && self.is_free(Purpose::Apply)).then_some((Purpose::Apply, first, last))
    }

    /// Only for a peer that is known to agree with what is before: one that is probed may need less, or more.
    fn wanted_to_send(&self) -> Option<(Purpose, LogIndex, LogIndex)> {
        let State::Leader(leadership) = &self.state else { return None };
        let last = self.log.floor().index;
        self.others(leadership).find_map(|(replica, peer)| {
            let paged = peer.next <= last && peer.next > self.log.base().index;
            let wanted = paged && peer.mode == Mode::Replicate && peer.may_send(&self.settings);
            let purpose = Purpose::Append(replica);
            (wanted && self.is_free(purpose)).then_some((purpose, peer.next, last))
        })
    }

    fn is_free(&self, purpose: Purpose) -> bool {
        self.rare.as_ref().is_none_or(|rare| rare.pages.iter().all(|page| page.fetch.purpose != purpose))
    }

    /// Drops what was fetched and is of no use any more: handed out, or overtaken.
    fn drop_pages(&mut self) {
        let Some(rare) = &mut self.rare else { return };
        if rare.pages.is_empty() {
            return;
        }
        let mut pages = core::mem::take(&mut rare.pages);
        pages.retain(|page| !matches!(page.content, Content::Held(..)) || self.is_of_use(page));
        self.rare().pages = pages;
        self.tidy();
    }

    fn is_of_use(&self, page: &Page) -> bool {
        let next = match page.fetch.purpose {
            Purpose::Apply => Some(self.applied.next()),
            Purpose::Append(replica) => match &self.state {
                State::Leader(leadership) => {
                    let peer = self.others(leadership).find(|(other, _)| *other == replica);
                    peer.filter(|(_, peer)| peer.mode == Mode::Replicate).map(|(_, peer)| peer.next)
                }
                _ => None,
            },
        };
        next.is_some_and(|next| next > self.log.base().index && page.held(self.log.generation(), next).is_some())
    }

    /// The members that this leader sends to, with what it knows of them.
    fn others<'a>(
        &'a self,
        leadership: &'a Leadership,
    ) -> impl Iterator<Item = (ReplicaId, &'a crate::progress::Progress)> {
        let own = self.seat.map(usize::from);
        let members = self.configuration.members().iter().enumerate();
        members.filter_map(move |(seat, member)| Some((member.replica, leadership.at(own, seat)?)))
    }
}

impl Page {
    /// The entries from `next` on, if they are held.
    fn held(&self, generation: u32, next: LogIndex) -> Option<&[Entry]> {
        let Content::Held(entries, _) = &self.content else { return None };
        let place = usize::try_from(next.0.checked_sub(self.fetch.first.0)?).ok()?;
        entries.get(place..).filter(|rest| !rest.is_empty() && self.fetch.generation == generation)
    }
}

/// The entries from `next` on that were fetched for `purpose`.
pub(crate) fn held(pages: &[Page], purpose: Purpose, generation: u32, next: LogIndex) -> Option<&[Entry]> {
    pages.iter().find(|page| page.fetch.purpose == purpose)?.held(generation, next)
}
