//! A message that owns its entries, so that it can wait on a simulated network, and its description in words.

use raftyard_raft::{
    Body, Configuration, ConfigurationEntry, Entries, Entry, EntryKind, LogIndex, LogPosition, Member, Message, NodeId,
};
use std::fmt::Write as _;

/// A message on its way.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    /// Without what it borrows.
    message: Message<'static>,
    borrowed: Borrowed,
    node: NodeId,
}

#[derive(Clone, Debug)]
enum Borrowed {
    Nothing,
    Append { previous: LogPosition, commit: LogIndex, entries: Vec<Entry> },
    Snapshot { last: LogPosition, configuration: Configuration, index: LogIndex },
}

impl Packet {
    /// `node` holds the receiver.
    pub(crate) fn new(message: Message<'_>, node: NodeId) -> Packet {
        let Message { group, from, to, term, body } = message;
        let borrowed = match body {
            Body::Append { previous, commit, entries: (left, right) } => {
                Borrowed::Append { previous, commit, entries: left.iter().chain(right).cloned().collect() }
            }
            Body::Snapshot { last, configuration, configuration_index: index } => {
                Borrowed::Snapshot { last, configuration: configuration.clone(), index }
            }
            _ => Borrowed::Nothing,
        };
        let body = body.detached().unwrap_or(Body::PreVoteAnswer { granted: false });
        Packet { message: Message { group, from, to, term, body }, borrowed, node }
    }

    /// The message; its entries are cut in two in the middle, as those of a ring buffer may be.
    pub(crate) fn message(&self) -> Message<'_> {
        let mut message: Message<'_> = self.message;
        match &self.borrowed {
            Borrowed::Nothing => {}
            Borrowed::Append { previous, commit, entries } => {
                let entries = entries.split_at(entries.len() / 2);
                message.body = Body::Append { previous: *previous, commit: *commit, entries };
            }
            Borrowed::Snapshot { last, configuration, index } => {
                message.body = Body::Snapshot { last: *last, configuration, configuration_index: *index };
            }
        }
        message
    }

    pub(crate) fn node(&self) -> NodeId {
        self.node
    }

    pub(crate) fn from(&self) -> usize {
        self.message.from.0 as usize
    }

    pub(crate) fn to(&self) -> usize {
        self.message.to.0 as usize
    }

    pub(crate) fn is_append_from(&self, id: usize) -> bool {
        self.from() == id && matches!(self.borrowed, Borrowed::Append { .. })
    }

    /// The name of its kind.
    pub(crate) fn kind(&self) -> String {
        self.describe().split(' ').nth(3).unwrap_or_default().to_owned()
    }

    pub(crate) fn describe(&self) -> String {
        let Message { from, to, term, .. } = self.message;
        let body = match self.message().body {
            Body::PreVote { last, priority: 0 } => format!("PreVote last {}", position(last)),
            Body::PreVote { last, priority } => format!("PreVote last {} priority {priority}", position(last)),
            Body::PreVoteAnswer { granted } => format!("PreVoteAnswer {}", yes(granted)),
            Body::Vote { last, transfer } => {
                format!("Vote last {}{}", position(last), if transfer { " as its leader wished" } else { "" })
            }
            Body::VoteAnswer { granted } => format!("VoteAnswer {}", yes(granted)),
            Body::Append { previous, commit, entries } => {
                format!("Append after {} [{}] commit {commit}", position(previous), list(entries))
            }
            Body::AppendAccepted { matched } => format!("AppendAccepted {matched}"),
            Body::AppendRejected { rejected, last, hint, lost } => {
                let lost = if lost { " lost" } else { "" };
                format!("AppendRejected {rejected} last {last} hint {}{lost}", position(hint))
            }
            Body::Heartbeat { commit, sent } => format!("Heartbeat commit {commit} sent {}", sent.0),
            Body::HeartbeatAnswer { sent, lost } => {
                format!("HeartbeatAnswer {}{}", sent.0, if lost { " lost" } else { "" })
            }
            Body::TimeoutNow { last } => format!("TimeoutNow last {last}"),
            Body::NotMember { index } => format!("NotMember since {index}"),
            // Its name is random.
            Body::ReadRequest { .. } => "ReadRequest".to_owned(),
            Body::ReadAnswer { index: Some(index), .. } => format!("ReadAnswer {index}"),
            Body::ReadAnswer { index: None, .. } => "ReadAnswer unknown".to_owned(),
            Body::Snapshot { last, configuration, configuration_index } => {
                let members = members(configuration);
                format!("Snapshot up to {} members {members} since {configuration_index}", position(last))
            }
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
        match entry.kind {
            EntryKind::Command => {
                let _ = write!(text, "={}", String::from_utf8_lossy(&entry.data));
            }
            EntryKind::Configuration => text.push_str(&describe_change(entry)),
            EntryKind::Empty => {}
        }
    }
    text
}

fn describe_change(entry: &Entry) -> String {
    let held = ConfigurationEntry::decode(&entry.data).expect("an honest entry");
    let context = String::from_utf8_lossy(&held.context);
    let context = if context.is_empty() { String::new() } else { format!(" {context}") };
    let forced = if held.forced { "forced " } else { "" };
    format!("={{{forced}{}{context}}}", members(&held.configuration))
}

/// Members as `1 2 3`, with `~` before learners; a joint configuration as `new from old`.
pub(crate) fn members(configuration: &Configuration) -> String {
    let ids = |members: &mut dyn Iterator<Item = Member>, mark: &str| {
        members.map(|m| format!("{mark}{}", m.replica)).collect::<Vec<_>>()
    };
    let mut text = ids(&mut configuration.voters(), "");
    text.extend(ids(&mut configuration.learners(), "~"));
    if configuration.is_joint() {
        text.push("from".to_owned());
        text.extend(ids(&mut configuration.outgoing(), ""));
    }
    if text.is_empty() { "none".to_owned() } else { text.join(" ") }
}

fn yes(granted: bool) -> &'static str {
    if granted { "granted" } else { "refused" }
}
