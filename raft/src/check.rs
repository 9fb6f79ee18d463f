//! Which messages may be acted on. A peer's bytes are hostile until they have passed here: this file changes nothing
//! and must never panic; the rules behind it rely on what it promises.

use crate::codec::ConfigurationEntry;
use crate::message::{Body, Message, Sender};
use crate::raft::{NOBODY, Raft, State};
use crate::types::{Entry, EntryKind, GroupId, LogIndex, LogPosition, NodeId, ReplicaId, Term};

/// Why a message was refused. No correct replica of the group sends such a message to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// It is for another group.
    #[error("a message for group {0}")]
    WrongGroup(GroupId),
    /// It is for another replica.
    #[error("a message for replica {0}")]
    WrongReplica(ReplicaId),
    /// Its sender can't be: this replica itself, or nobody.
    #[error("a message from replica {0}, which is no peer of this replica")]
    NoPeer(ReplicaId),
    /// It came from another node than the one that holds its sender.
    #[error("a message from replica {replica} came from node {node}, which doesn't hold it")]
    WrongNode {
        /// The sender.
        replica: ReplicaId,
        /// Where it came from.
        node: NodeId,
    },
    /// A term or an index is zero where it can't be, or out of range.
    #[error("a term or an index of the message is out of range")]
    OutOfRange,
    /// The entries of an append don't follow each other, or not what is before them.
    #[error("entry {found} of an append stands where entry {expected} should be")]
    NotContiguous {
        /// The index that should be there.
        expected: LogIndex,
        /// The index that is.
        found: LogIndex,
    },
    /// The term of an entry is below that of the one before it, or above the message's.
    #[error("entry {index} of an append has term {term} out of order")]
    TermOutOfOrder {
        /// The entry.
        index: LogIndex,
        /// Its term.
        term: Term,
    },
    /// An entry should hold a configuration and doesn't.
    #[error("entry {0} of an append holds no configuration that this version knows")]
    NoConfiguration(LogIndex),
    /// It contradicts what is committed here.
    #[error("an append contradicts what is committed up to {commit} at index {index}")]
    ContradictsCommitted {
        /// Where.
        index: LogIndex,
        /// The commit index.
        commit: LogIndex,
    },
    /// It is from a second leader of the term.
    #[error("replica {from} leads term {term}, in which another replica is the leader")]
    SecondLeader {
        /// The sender.
        from: ReplicaId,
        /// The term.
        term: Term,
    },
    /// It speaks of entries that this replica doesn't have, as if it had.
    #[error("a message speaks of index {index}, but the log ends at {last}")]
    BeyondLog {
        /// The index in the message.
        index: LogIndex,
        /// The last index here.
        last: LogIndex,
    },
}

impl Raft {
    /// After this: terms and indexes can be added to without overflow; an append is contiguous, its terms in order and
    /// its configurations readable; what answers this leader speaks of what it has said; and, if its term is not behind,
    /// it is from the only leader of its term and doesn't contradict what is committed. A sender that this replica
    /// doesn't know may be one that was added or removed without its knowledge.
    pub(crate) fn check(&self, from: Sender, message: &Message<'_>) -> Result<(), MessageError> {
        if message.group != self.group {
            return Err(MessageError::WrongGroup(message.group));
        }
        if message.to != self.replica {
            return Err(MessageError::WrongReplica(message.to));
        }
        if message.from == self.replica || message.from.0 == 0 || from.node.0 == 0 {
            return Err(MessageError::NoPeer(message.from));
        }
        if self.configuration.node_of(message.from).is_some_and(|node| node != from.node) {
            return Err(MessageError::WrongNode { replica: message.from, node: from.node });
        }
        if message.term == Term(0) || message.term > Term::MAX {
            // A pre-vote is refused by replicas that were never in a term.
            if !matches!(message.body, Body::PreVoteAnswer { granted: false }) || message.term > Term::MAX {
                return Err(MessageError::OutOfRange);
            }
        }
        self.check_body(message)
    }

    fn check_body(&self, message: &Message<'_>) -> Result<(), MessageError> {
        match message.body {
            Body::PreVote { last, .. } | Body::Vote { last, .. } => check_position(last, message.term),
            Body::PreVoteAnswer { .. } | Body::VoteAnswer { .. } | Body::ReadRequest { .. } => Ok(()),
            Body::NotMember { index } => check_index(index),
            Body::Append { .. } => self.check_append(message),
            Body::Heartbeat { commit, .. } => {
                self.check_leader(message)?;
                // A leader tells a follower at most what it knows it to hold; it can't know of what a disk has lost.
                let exact = message.term >= self.term && !self.is_limited();
                if exact { self.check_in_log(commit) } else { check_index(commit) }
            }
            Body::TimeoutNow { last } => {
                self.check_leader(message)?;
                check_index(last)
            }
            Body::Snapshot { .. } => self.check_snapshot(message),
            Body::AppendAccepted { matched } => {
                if self.is_answered_by(message) {
                    self.check_in_log(matched)
                } else {
                    check_index(matched)
                }
            }
            Body::AppendRejected { rejected, last, hint, .. } => {
                check_index(rejected)?;
                check_index(last)?;
                check_position(hint, message.term)?;
                if hint.index > rejected || hint.index > last { Err(MessageError::OutOfRange) } else { Ok(()) }
            }
            Body::HeartbeatAnswer { sent, .. } => match &self.state {
                // Nobody can have heard what was not said yet.
                State::Leader(leadership) if self.is_answered_by(message) && sent > leadership.round => {
                    Err(MessageError::OutOfRange)
                }
                _ => Ok(()),
            },
            Body::ReadAnswer { index, .. } => index.map_or(Ok(()), check_index),
        }
    }

    fn check_append(&self, message: &Message<'_>) -> Result<(), MessageError> {
        let Body::Append { previous, commit, entries } = message.body else { return Ok(()) };
        check_position(previous, message.term)?;
        check_index(commit)?;
        self.check_leader(message)?;
        let stale = message.term < self.term;
        if !stale {
            self.check_committed(previous)?;
        }
        let mut before = previous;
        for entry in entries.0.iter().chain(entries.1) {
            check_entry(entry, before, message.term)?;
            if !stale {
                self.check_committed(entry.position())?;
            }
            before = entry.position();
        }
        Ok(())
    }

    fn check_snapshot(&self, message: &Message<'_>) -> Result<(), MessageError> {
        let Body::Snapshot { last, configuration, configuration_index } = message.body else { return Ok(()) };
        check_position(last, message.term)?;
        self.check_leader(message)?;
        if last.index == LogIndex(0) || configuration_index > last.index || configuration.is_empty() {
            return Err(MessageError::OutOfRange);
        }
        if message.term < self.term { Ok(()) } else { self.check_committed(last) }
    }

    /// Every leader has all that is committed (Raft paper, section 5.4.3), so it never contradicts it. What was compacted
    /// can't be compared any more.
    fn check_committed(&self, position: LogPosition) -> Result<(), MessageError> {
        let comparable = position.index <= self.commit && position.index >= self.log.base().index;
        if !comparable || self.log.contains(position) {
            return Ok(());
        }
        Err(MessageError::ContradictsCommitted { index: position.index, commit: self.commit })
    }

    /// A term has at most one leader (Raft paper, section 5.2, election safety).
    fn check_leader(&self, message: &Message<'_>) -> Result<(), MessageError> {
        let (from, term) = (message.from, message.term);
        let follows_another = self.leader != NOBODY && self.leader != from;
        let another = matches!(self.state, State::Leader(_)) || follows_another;
        if term == self.term && another { Err(MessageError::SecondLeader { from, term }) } else { Ok(()) }
    }

    fn is_answered_by(&self, message: &Message<'_>) -> bool {
        message.term == self.term && matches!(self.state, State::Leader(_))
    }

    fn check_in_log(&self, index: LogIndex) -> Result<(), MessageError> {
        let last = self.log.last_index();
        if index > last { Err(MessageError::BeyondLog { index, last }) } else { Ok(()) }
    }
}

fn check_entry(entry: &Entry, before: LogPosition, term: Term) -> Result<(), MessageError> {
    let expected = before.index.next();
    if entry.index != expected {
        return Err(MessageError::NotContiguous { expected, found: entry.index });
    }
    check_index(entry.index)?;
    if entry.term == Term(0) || entry.term < before.term || entry.term > term {
        return Err(MessageError::TermOutOfOrder { index: entry.index, term: entry.term });
    }
    if entry.kind == EntryKind::Configuration && ConfigurationEntry::decode(&entry.data).is_err() {
        return Err(MessageError::NoConfiguration(entry.index));
    }
    Ok(())
}

fn check_index(index: LogIndex) -> Result<(), MessageError> {
    if index > LogIndex::MAX { Err(MessageError::OutOfRange) } else { Ok(()) }
}

/// Only the beginning of the log has term zero, and no entry is of a later term than who speaks of it.
fn check_position(position: LogPosition, term: Term) -> Result<(), MessageError> {
    check_index(position.index)?;
    let begins = position.index == LogIndex(0);
    if begins != (position.term == Term(0)) || position.term > term {
        return Err(MessageError::OutOfRange);
    }
    Ok(())
}
