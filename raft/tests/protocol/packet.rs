//! A message that owns its entries, so that it can wait on a simulated network, and its description in words.

use raftyard_raft::{Body, Entries, Entry, EntryKind, LogPosition, Message};
use std::fmt::Write as _;

/// A message on its way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    message: Message<'static>,
    entries: Vec<Entry>,
}

impl Packet {
    pub(crate) fn new(message: Message<'_>) -> Packet {
        let mut entries = Vec::new();
        let Message { group, from, to, term, body } = message;
        let body = match body {
            Body::Append { previous, commit, entries: (left, right) } => {
                entries.extend(left.iter().chain(right).cloned());
                Body::Append { previous, commit, entries: (&[], &[]) }
            }
            other => other.detached().expect("only an append borrows"),
        };
        Packet { message: Message { group, from, to, term, body }, entries }
    }

    /// The message; its entries are cut in two in the middle, as those of a ring buffer may be.
    pub(crate) fn message(&self) -> Message<'_> {
        let mut message: Message<'_> = self.message;
        if let Body::Append { previous, commit, .. } = message.body {
            let entries = self.entries.split_at(self.entries.len() / 2);
            message.body = Body::Append { previous, commit, entries };
        }
        message
    }

    pub(crate) fn from(&self) -> usize {
        self.message.from.0 as usize
    }

    pub(crate) fn to(&self) -> usize {
        self.message.to.0 as usize
    }

    pub(crate) fn is_append_from(&self, id: usize) -> bool {
        self.from() == id && matches!(self.message.body, Body::Append { .. })
    }

    pub(crate) fn describe(&self) -> String {
        let Message { from, to, term, .. } = self.message;
        let body = match self.message().body {
            Body::PreVote { last } => format!("PreVote last {}", position(last)),
            Body::PreVoteAnswer { granted } => format!("PreVoteAnswer {}", yes(granted)),
            Body::Vote { last } => format!("Vote last {}", position(last)),
            Body::VoteAnswer { granted } => format!("VoteAnswer {}", yes(granted)),
            Body::Append { previous, commit, entries } => {
                format!("Append after {} [{}] commit {commit}", position(previous), list(entries))
            }
            Body::AppendAccepted { matched } => format!("AppendAccepted {matched}"),
            Body::AppendRejected { rejected, last, hint } => {
                format!("AppendRejected {rejected} last {last} hint {}", position(hint))
            }
            Body::Heartbeat { commit } => format!("Heartbeat commit {commit}"),
            Body::HeartbeatAnswer => "HeartbeatAnswer".to_owned(),
        };
        format!("{from}->{to} term {term} {body}")
    }
}

/// `index@term`.
pub(crate) fn position(position: LogPosition) -> String {
    format!("{}@{}", position.index, position.term)
}

/// Entries as `index@term` and what they hold.
pub(crate) fn list((left, right): Entries<'_>) -> String {
    let mut text = String::new();
    for entry in left.iter().chain(right) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&position(entry.position()));
        if entry.kind == EntryKind::Command {
            let _ = write!(text, "={}", String::from_utf8_lossy(&entry.data));
        }
    }
    text
}

fn yes(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}
