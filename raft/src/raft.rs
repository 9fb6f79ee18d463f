//! One replica's protocol state: what it is made from, its inputs and its commands.
//!
//! The rules live beside: `election`, `follower`, `leader`; what goes out is formed in `output`. This file owns the
//! state and decides which rule an input belongs to. It must never act on a message that `check` has not passed.

use crate::check::MessageError;
use crate::leader::Leadership;
use crate::log::Log;
use crate::message::{Body, Message};
use crate::output::{Answer, Receipt};
use crate::random::Random;
use crate::restore::{RestoreError, Restored};
use crate::settings::Settings;
use crate::types::{Configuration, Entry, EntryKind, GroupId, HardState, Instant, LogIndex, LogPosition, ReplicaId};
use alloc::sync::Arc;
use alloc::vec::Vec;
use bytes::Bytes;

/// One replica of one group.
///
/// It does nothing by itself. The caller feeds it and, at the end of a turn, polls it, in this order:
///
/// 1. any number of inputs (`handle_*`) and commands ([`propose`](Raft::propose), [`beat`](Raft::beat), ...);
/// 2. [`poll_persist`](Raft::poll_persist) until `None`, or until the batch is full: what must be made durable;
/// 3. [`poll_message`](Raft::poll_message) until `None`: messages marked [`Durability::Now`] may leave at once, those
///    marked [`Durability::AfterPersist`] when everything handed out by step 2, in this turn and before, is durable;
/// 4. [`poll_committed`](Raft::poll_committed) until `None`, or as much as the state machine takes.
///
/// When what a `poll_persist` handed out is durable, the caller says so with
/// [`handle_persisted`](Raft::handle_persisted), which is an input of a later turn. Writes may be many at a time; they
/// are reported in the order of the polls, and a failed one never. Messages may be lost, doubled and reordered.
///
/// [`Durability::Now`]: crate::Durability::Now
/// [`Durability::AfterPersist`]: crate::Durability::AfterPersist
///
/// ```
/// use raftyard_raft::*;
/// use std::sync::Arc;
///
/// let member = Member { replica: ReplicaId(1), node: NodeId(1) };
/// let configuration = Arc::new(Configuration::new(vec![member]).unwrap());
/// let settings = Arc::new(Settings::default());
/// let mut raft =
///     Raft::new(GroupId(1), ReplicaId(1), configuration, Restored::default(), settings, Instant(0), 42).unwrap();
///
/// let mut disk: Vec<Entry> = Vec::new();
/// let mut machine: Vec<bytes::Bytes> = Vec::new();
/// let mut receipts: Vec<Receipt> = Vec::new();
/// let mut proposed = false;
/// while machine.is_empty() {
///     // 1. inputs
///     for receipt in receipts.drain(..) {
///         raft.handle_persisted(receipt);
///     }
///     if let Some(deadline) = raft.deadline() {
///         raft.handle_deadline(deadline);
///     }
///     if raft.role() == Role::Leader && !proposed {
///         raft.propose("set x 1".into()).unwrap();
///         proposed = true;
///     }
///     // 2. one durable write (here: a vector)
///     while let Some(persist) = raft.poll_persist(1 << 20) {
///         if let Some(first) = persist.entries.0.first() {
///             disk.truncate(first.index.0 as usize - 1); // an entry replaces what was at its index and after
///         }
///         disk.extend(persist.entries.0.iter().chain(persist.entries.1).cloned());
///         receipts.push(persist.receipt);
///     }
///     // 3. messages: a group of one has nobody to talk to
///     assert!(raft.poll_message().is_none());
///     // 4. the state machine
///     while let Some((left, right)) = raft.poll_committed(1 << 20) {
///         machine.extend(left.iter().chain(right).filter(|e| e.kind == EntryKind::Command).map(|e| e.data.clone()));
///     }
/// }
/// assert_eq!(machine, ["set x 1"]);
/// ```
#[derive(Debug)]
pub struct Raft {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) log: Log,
    pub(crate) hard: HardState,
    pub(crate) state: State,
    pub(crate) leader: Option<ReplicaId>,
    /// Invariant: everything up to here is committed, and in this log.
    pub(crate) commit: LogIndex,
    /// What was handed out to be applied. Invariant: at most `commit`, and at most what is durable here.
    pub(crate) applied: LogIndex,
    pub(crate) deadline: Option<Instant>,
    /// When the leader was heard last; means nothing without a leader.
    pub(crate) heard: Instant,
    pub(crate) random: Random,
    /// Answers owed to others than this term's leader, or refusing it: rare, so usually no memory.
    pub(crate) answers: Vec<Answer>,
    /// What this term's leader is to be told of: the highest index its appends verified. Many appends, one answer.
    pub(crate) accepted: Option<LogIndex>,
    /// Voters that (pre-)granted, by their place in the configuration.
    pub(crate) granted: u32,
    /// Voters still to be asked for a (pre-)vote.
    pub(crate) requests: u32,
    /// Whether `hard` changed since it was handed out.
    pub(crate) hard_changed: bool,
    /// Whether this term's leader is owed an answer to its heartbeat.
    pub(crate) heartbeat_owed: bool,
    /// This replica's place in the configuration.
    pub(crate) seat: u8,
}

const _: () = assert!(Configuration::VOTERS_MAX <= u32::BITS as usize, "voters are counted in bits of a u32");

/// What a replica is, with what only that role needs.
#[derive(Debug)]
pub(crate) enum State {
    Follower,
    PreCandidate,
    Candidate,
    Leader(alloc::boxed::Box<Leadership>),
}

/// Why a command was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica doesn't lead.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<ReplicaId>,
    },
    /// Too many bytes are uncommitted ([`Settings::uncommitted_bytes_max`]).
    #[error("too many uncommitted bytes (uncommitted_bytes_max)")]
    Uncommitted,
}

impl Raft {
    /// Opens a replica with what its disk held. `seed` decides its election time-outs and should differ between
    /// replicas.
    ///
    /// # Errors
    /// If the replica is no member, a setting can't be, or what was read is no log that this crate wrote.
    pub fn new(
        group: GroupId,
        replica: ReplicaId,
        configuration: Arc<Configuration>,
        restored: Restored,
        settings: Arc<Settings>,
        now: Instant,
        seed: u64,
    ) -> Result<Raft, RestoreError> {
        settings.validate()?;
        let seat = configuration.voter_index(replica).ok_or(RestoreError::NotMember(replica))?;
        restored.check()?;
        let mut raft = Raft {
            group,
            replica,
            configuration,
            settings,
            log: Log::restore(restored.entries),
            hard: restored.hard_state,
            state: State::Follower,
            leader: None,
            // The commit index costs no write of its own: what was applied was committed, the rest is learnt again.
            commit: restored.applied,
            applied: restored.applied,
            deadline: None,
            heard: now,
            random: Random::new(seed),
            answers: Vec::new(),
            accepted: None,
            granted: 0,
            requests: 0,
            hard_changed: false,
            heartbeat_owed: false,
            seat: u8::try_from(seat).expect("a configuration has at most VOTERS_MAX voters"),
        };
        raft.reset_deadline(now);
        Ok(raft)
    }

    /// Takes a message from a peer.
    ///
    /// # Errors
    /// A message that no correct replica of this group sends to this one is refused and changes nothing.
    pub fn handle_message(&mut self, now: Instant, message: Message<'_>) -> Result<(), MessageError> {
        let seat = self.check(&message)?;
        match message.body {
            // Pre-votes carry a term that nobody is in yet, so they stay out of the rules for terms.
            Body::PreVote { last } => self.handle_pre_vote(now, seat, message.term, last),
            Body::PreVoteAnswer { granted: true } => self.handle_pre_vote_granted(now, seat, message.term),
            _ if message.term < self.hard.term => self.answer_stale(seat, &message.body),
            _ => {
                // A higher term ends whatever this replica was (Raft paper, section 5.1).
                if message.term > self.hard.term {
                    self.enter_term(message.term);
                    self.become_follower(now);
                }
                self.handle_in_term(now, seat, message);
            }
        }
        Ok(())
    }

    /// The deadline passed: campaigns. Harmless when early.
    pub fn handle_deadline(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            self.campaign(now);
        }
    }

    /// What was handed out with `receipt`, and everything before it, is durable. Own vote and own match count from here
    /// on, not earlier (Raft thesis, section 10.2.1).
    pub fn handle_persisted(&mut self, receipt: Receipt) {
        let durable_grew = self.log.persisted(receipt.generation, receipt.index);
        if matches!(self.state, State::Candidate) && receipt.hard == self.hard {
            assert_eq!(self.hard.vote, Some(self.replica), "a candidate votes for itself");
            self.count_vote(usize::from(self.seat));
        }
        if durable_grew {
            self.advance_commit();
        }
    }

    /// The link to the node of `replica` was lost: what was on its way may never arrive, so one append at a time goes
    /// there until one is answered. Only a leader cares.
    pub fn handle_unreachable(&mut self, replica: ReplicaId) {
        if let Some(peer) = self.peer(replica) {
            peer.lost();
        }
    }

    /// A link to the node of `replica` stands again: if it lacks entries it is sent an append now, not after the beats
    /// that would notice its silence. Only a leader cares.
    pub fn handle_reachable(&mut self, replica: ReplicaId) {
        if let Some(peer) = self.peer(replica) {
            peer.found();
        }
    }

    /// Appends a command to the log of the leader. It is committed when
    /// [`poll_committed`](Raft::poll_committed) hands out an entry of that very position; another entry at that index
    /// means that it never will be.
    ///
    /// # Errors
    /// If this replica doesn't lead, or too much is uncommitted; nothing is appended then.
    pub fn propose(&mut self, data: Bytes) -> Result<LogPosition, ProposeError> {
        let State::Leader(leadership) = &self.state else {
            return Err(ProposeError::NotLeader { leader: self.leader });
        };
        let entry = Entry { term: self.hard.term, index: self.log.last_index().next(), kind: EntryKind::Command, data };
        let uncommitted = leadership.uncommitted_bytes;
        if uncommitted > 0 && uncommitted.saturating_add(entry.cost()) > self.settings.uncommitted_bytes_max {
            return Err(ProposeError::Uncommitted);
        }
        let position = entry.position();
        self.append_as_leader(entry);
        Ok(position)
    }
}

impl Raft {
    /// A message of this replica's own term.
    fn handle_in_term(&mut self, now: Instant, seat: usize, message: Message<'_>) {
        match message.body {
            Body::Vote { last } => self.handle_vote(now, seat, last),
            Body::VoteAnswer { granted } => {
                if granted && matches!(self.state, State::Candidate) {
                    self.count_vote(seat);
                }
            }
            Body::Append { previous, commit, entries } => {
                self.hear_leader(now, message.from);
                self.handle_append(seat, previous, commit, entries);
            }
            Body::Heartbeat { commit } => {
                self.hear_leader(now, message.from);
                self.handle_heartbeat(commit);
            }
            Body::AppendAccepted { matched } => self.handle_append_accepted(seat, matched),
            Body::AppendRejected { rejected, hint, .. } => self.handle_append_rejected(seat, rejected, hint),
            // Beats probe a silent peer on their own; the answer's term was its news.
            Body::HeartbeatAnswer => {}
            // A refusal; if its term was higher, it has already done its work. Granted ones never come here.
            Body::PreVoteAnswer { .. } | Body::PreVote { .. } => {}
        }
    }
}

fn leader_hint(leader: &Option<ReplicaId>) -> alloc::string::String {
    match leader {
        Some(leader) => alloc::format!("; replica {leader} leads"),
        None => "; no leader is known".into(),
    }
}
