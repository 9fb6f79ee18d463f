//! A message on its way, in the form that its sender gave it.

use raft::eraftpb;
use raftyard_raft::{Body, Entry, LogIndex, LogPosition, Message};
use std::borrow::Cow;

use crate::translate;

#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Counts what is sent in a group; a doubled packet keeps its number.
    pub(crate) serial: u64,
    pub(crate) wire: Wire,
}

#[derive(Clone, Debug)]
pub(crate) enum Wire {
    Ours(Owned),
    Theirs(eraftpb::Message),
}

/// A message of this crate that owns its entries.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    /// Without entries.
    head: Message<'static>,
    append: Option<(LogPosition, LogIndex, Vec<Entry>)>,
}

impl Owned {
    pub(crate) fn new(message: Message<'_>) -> Owned {
        let Message { group, from, to, term, body } = message;
        let append = match body {
            Body::Append { previous, commit, entries: (left, right) } => {
                Some((previous, commit, left.iter().chain(right).cloned().collect()))
            }
            _ => None,
        };
        let empty = Body::Append { previous: LogPosition::default(), commit: LogIndex(0), entries: (&[], &[]) };
        let body = body.detached().unwrap_or(empty);
        Owned { head: Message { group, from, to, term, body }, append }
    }

    /// The message; its entries are cut in two in the middle, as those of a ring buffer may be.
    pub(crate) fn message(&self) -> Message<'_> {
        let mut message: Message<'_> = self.head;
        if let Some((previous, commit, entries)) = &self.append {
            let entries = entries.split_at(entries.len() / 2);
            message.body = Body::Append { previous: *previous, commit: *commit, entries };
        }
        message
    }
}

impl Packet {
    pub(crate) fn from(&self) -> usize {
        match &self.wire {
            Wire::Ours(owned) => owned.head.from.0 as usize,
            Wire::Theirs(message) => message.from as usize,
        }
    }

    pub(crate) fn to(&self) -> usize {
        match &self.wire {
            Wire::Ours(owned) => owned.head.to.0 as usize,
            Wire::Theirs(message) => message.to as usize,
        }
    }

    /// In the words of this crate; `None` if it has none for it.
    pub(crate) fn ours(&self) -> Option<Cow<'_, Owned>> {
        match &self.wire {
            Wire::Ours(owned) => Some(Cow::Borrowed(owned)),
            Wire::Theirs(message) => translate::to_ours(message, self.serial).map(Cow::Owned),
        }
    }

    /// In the words of raft-rs; `None` if it has none for it.
    pub(crate) fn theirs(&self) -> Option<eraftpb::Message> {
        match &self.wire {
            Wire::Ours(owned) => translate::to_theirs(&owned.message()),
            Wire::Theirs(message) => Some(message.clone()),
        }
    }
}
