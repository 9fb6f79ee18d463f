//! What replicas of either kind say, in the words of the other.
//!
//! Where the words differ, the translation says less rather than more: a message that claims what its sender did not know
//! could break what the test is to find unbroken.
//!
//! - A heartbeat of ours is named by its moment, theirs by the reads that wait for it. Ours travels in their `context`,
//!   which their answer echoes; one of theirs is named by its number on the network.
//! - Their rejection does not say where the log ends, only a hint that is in it: that is taken for the end.
//! - Their request to campaign does not say what the receiver must hold: nothing then. Theirs don't ask.
//! - Their answer to a message of an earlier term is an empty acceptance; it verifies index zero, which all logs share.
//! - What their votes say of the commit index has no word here and is left out. Theirs among each other keep it.

use crate::packet::Owned;
use crate::replica::GROUP;
use raft::eraftpb::{self, EntryType, MessageType};
use raftyard_raft::{Body, Entry, EntryKind, Instant, LogIndex, LogPosition, Message, ReplicaId, Term};

/// What their vote requests carry when a leader asked for the election.
const TRANSFER: &[u8] = b"CampaignTransfer";

pub(crate) fn to_ours(message: &eraftpb::Message, serial: u64) -> Option<Owned> {
    let entries: Vec<Entry> = message.entries.iter().map(entry_to_ours).collect();
    let position = LogPosition { index: LogIndex(message.index), term: Term(message.log_term) };
    let body = match message.get_msg_type() {
        MessageType::MsgRequestPreVote => Body::PreVote { last: position, priority: 0 },
        MessageType::MsgRequestPreVoteResponse => Body::PreVoteAnswer { granted: !message.reject },
        MessageType::MsgRequestVote => Body::Vote { last: position, transfer: *message.context == *TRANSFER },
        MessageType::MsgRequestVoteResponse => Body::VoteAnswer { granted: !message.reject },
        MessageType::MsgAppend => {
            Body::Append { previous: position, commit: LogIndex(message.commit), entries: (&entries, &[]) }
        }
        MessageType::MsgAppendResponse if message.reject => {
            let hint = LogPosition { index: LogIndex(message.reject_hint), term: Term(message.log_term) };
            Body::AppendRejected { rejected: LogIndex(message.index), last: hint.index, hint, lost: false }
        }
        MessageType::MsgAppendResponse => Body::AppendAccepted { matched: LogIndex(message.index) },
        MessageType::MsgHeartbeat => Body::Heartbeat { commit: LogIndex(message.commit), sent: Instant(serial) },
        MessageType::MsgHeartbeatResponse => {
            // Only a heartbeat of ours has a moment to echo; a late one to a leader of theirs that was here isn't.
            let sent = <[u8; 8]>::try_from(&*message.context).ok()?;
            Body::HeartbeatAnswer { sent: Instant(u64::from_le_bytes(sent)), lost: false }
        }
        MessageType::MsgTimeoutNow => Body::TimeoutNow { last: LogIndex(0) },
        other => panic!("no replica of theirs says {other:?} here"),
    };
    let (from, to) = (ReplicaId(message.from), ReplicaId(message.to));
    Some(Owned::new(Message { group: GROUP, from, to, term: Term(message.term), body }))
}

pub(crate) fn to_theirs(message: &Message<'_>) -> Option<eraftpb::Message> {
    let mut out = eraftpb::Message::default();
    (out.from, out.to, out.term) = (message.from.0, message.to.0, message.term.0);
    let kind = match message.body {
        Body::PreVote { last, .. } => {
            (out.index, out.log_term) = (last.index.0, last.term.0);
            MessageType::MsgRequestPreVote
        }
        // They take a message of term zero for one of their own.
        Body::PreVoteAnswer { .. } if message.term == Term(0) => return None,
        Body::PreVoteAnswer { granted } => {
            out.reject = !granted;
            MessageType::MsgRequestPreVoteResponse
        }
        Body::Vote { last, transfer } => {
            (out.index, out.log_term) = (last.index.0, last.term.0);
            if transfer {
                out.context = TRANSFER.into();
            }
            MessageType::MsgRequestVote
        }
        Body::VoteAnswer { granted } => {
            out.reject = !granted;
            MessageType::MsgRequestVoteResponse
        }
        Body::Append { previous, commit, entries: (left, right) } => {
            (out.index, out.log_term, out.commit) = (previous.index.0, previous.term.0, commit.0);
            out.set_entries(left.iter().chain(right).map(entry_to_theirs).collect());
            MessageType::MsgAppend
        }
        Body::AppendAccepted { matched } => {
            out.index = matched.0;
            MessageType::MsgAppendResponse
        }
        Body::AppendRejected { rejected, hint, .. } => {
            (out.index, out.reject) = (rejected.0, true);
            (out.reject_hint, out.log_term) = (hint.index.0, hint.term.0);
            MessageType::MsgAppendResponse
        }
        Body::Heartbeat { commit, sent } => {
            out.commit = commit.0;
            out.context = sent.0.to_le_bytes().to_vec().into();
            MessageType::MsgHeartbeat
        }
        Body::HeartbeatAnswer { sent, .. } => {
            out.context = sent.0.to_le_bytes().to_vec().into();
            MessageType::MsgHeartbeatResponse
        }
        Body::TimeoutNow { .. } => MessageType::MsgTimeoutNow,
        Body::NotMember { .. } | Body::ReadRequest { .. } | Body::ReadAnswer { .. } | Body::Snapshot { .. } => {
            panic!("nothing here makes a replica say {:?}", message.body)
        }
    };
    out.set_msg_type(kind);
    Some(out)
}

/// Only commands and the empty entries of new leaders: members never change here.
pub(crate) fn entry_to_ours(entry: &eraftpb::Entry) -> Entry {
    assert_eq!(entry.get_entry_type(), EntryType::EntryNormal, "members never change in a mixed group");
    let kind = if entry.data.is_empty() { EntryKind::Empty } else { EntryKind::Command };
    Entry { term: Term(entry.term), index: LogIndex(entry.index), kind, data: entry.data.clone() }
}

pub(crate) fn entry_to_theirs(entry: &Entry) -> eraftpb::Entry {
    assert!(entry.data.is_empty() == (entry.kind == EntryKind::Empty), "a command is never empty here");
    assert!(entry.kind != EntryKind::Configuration, "members never change in a mixed group");
    let mut out = eraftpb::Entry::default();
    (out.term, out.index, out.data) = (entry.term.0, entry.index.0, entry.data.clone());
    out
}
