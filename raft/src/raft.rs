//! One replica's protocol state: what it is made from, its inputs and its commands.
//!
//! The rules live beside: `election`, `authority`, `follower`, `leader`, `membership`, `reads`, `transfer`, `snapshot`;
//! what goes out is formed in `output`. This file owns the state and decides which rule an input belongs to. It must
//! never act on a message that `check` has not passed.

use crate::check::MessageError;
use crate::configuration::Configuration;
use crate::fetch::Page;
use crate::flags::{Flag, Flags};
use crate::leader::Leadership;
use crate::limit::Limit;
use crate::log::Log;
use crate::message::{Body, Message, Sender};
use crate::output::{Answer, Receipt};
use crate::planted::{Bug, planted};
use crate::random::Random;
use crate::reads::{Asked, Asking};
use crate::restore::{RestoreError, Restored};
use crate::settings::Settings;
use crate::transfer::Transfer;
use crate::types::{Entry, EntryKind, GroupId, HardState, Instant, LogIndex, LogPosition, Member, ReplicaId, Term};
use alloc::boxed::Box;
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
/// 4. [`poll_committed`](Raft::poll_committed) until `None`, or as much as the state machine takes;
/// 5. [`poll_fetch`](Raft::poll_fetch) until `None`: what must be read from disk. Never anything while all entries are in
///    memory, that is unless it was started with [paged](Restored::paged) ones or told to [`evict`](Raft::evict).
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
/// let restored = Restored::fresh(configuration);
/// let mut raft = Raft::new(GroupId(1), ReplicaId(1), restored, settings, Instant(0), 42).unwrap();
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
    /// The members, by the last entry of the log that says so, committed or not (Raft thesis, section 4.1).
    pub(crate) configuration: Arc<Configuration>,
    /// Index of that entry.
    pub(crate) configuration_index: LogIndex,
    pub(crate) settings: Arc<Settings>,
    pub(crate) log: Log,
    pub(crate) term: Term,
    /// Whom it voted for in `term`; nobody is zero.
    pub(crate) vote: ReplicaId,
    pub(crate) state: State,
    /// Who leads `term`, if known; nobody has id zero. Its node is that of the configuration, unless it is a leader that
    /// this replica doesn't know as a member ([`Rare::outsider`]).
    pub(crate) leader: ReplicaId,
    /// Invariant: everything up to here is committed, and in this log.
    pub(crate) commit: LogIndex,
    /// What was handed out to be applied. Invariant: at most `commit`, and at most what is durable here.
    pub(crate) applied: LogIndex,
    pub(crate) deadline: Instant,
    /// Until then this replica helps to elect nobody, itself neither: it promised that to a leader, or may have done so
    /// before it was started.
    pub(crate) promise: Instant,
    pub(crate) random: Random,
    pub(crate) rare: Option<Box<Rare>>,
    /// This replica's seat in the configuration, if it has one.
    pub(crate) seat: Option<u8>,
    /// Of two with equal logs the one with the higher should lead.
    pub(crate) priority: u8,
    pub(crate) flags: Flags,
}

/// What few replicas have at a time. Kept apart, so that an idle one is small.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// Answers owed to others than this term's leader, or refusing it. Of each kind at most one a peer.
    pub(crate) answers: Vec<Answer>,
    /// Configurations before the current one, oldest first, with the indexes of their entries: from the one that is in
    /// force at the log's base. A truncation goes back to one of them.
    pub(crate) former: Vec<(LogIndex, Arc<Configuration>)>,
    /// A leadership being given away.
    pub(crate) transfer: Option<Transfer>,
    /// Members that asked this leader what they may read, and wait for it to be sure that it leads.
    pub(crate) asked: Vec<Asked>,
    /// What this follower asked its leader.
    pub(crate) asking: Option<Asking>,
    /// What to begin with as leader: an operator's word.
    pub(crate) forced: Option<Configuration>,
    /// The leader, if it is no member by the configuration here.
    pub(crate) outsider: Option<Member>,
    /// Entries asked for that are on disk alone, at most one piece for each purpose.
    pub(crate) pages: Vec<Page>,
    /// What it may not do, because its disk lost something.
    pub(crate) limit: Limit,
    /// The limit has ended, by what the log has up to here, and that is still to be made durable.
    pub(crate) lifted: Option<LogIndex>,
}

/// What a replica is, with what only that role needs.
#[derive(Debug)]
pub(crate) enum State {
    Follower(Following),
    PreCandidate(Ballot),
    Candidate(Ballot),
    Leader(Box<Leadership>),
}

/// What a follower owes its leader.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Following {
    /// The highest index that this term's leader's appends verified. Many appends, one answer.
    pub(crate) accepted: LogIndex,
    /// The last heartbeat that is to be answered.
    pub(crate) heartbeat: Instant,
}

/// A campaign, by seats.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ballot {
    /// Who (pre-)granted its vote.
    pub(crate) granted: u32,
    /// Who is still to be asked.
    pub(crate) requests: u32,
}

pub(crate) const NOBODY: ReplicaId = ReplicaId(0);

/// Why a command was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This replica doesn't lead.
    #[error("not the leader{}", leader_hint(.leader))]
    NotLeader {
        /// Who leads, if known.
        leader: Option<Member>,
    },
    /// Too many bytes are uncommitted ([`Settings::uncommitted_bytes_max`]).
    #[error("too many uncommitted bytes (uncommitted_bytes_max)")]
    Uncommitted,
    /// The leadership is being given away; ask again soon.
    #[error("the leadership is being transferred to replica {to}")]
    Transferring {
        /// To whom.
        to: ReplicaId,
    },
}

impl Raft {
    /// Opens a replica with what its disk held. `seed` decides its election time-outs and names its read requests: it
    /// must differ between replicas and between starts.
    ///
    /// # Errors
    /// If a setting can't be, or what was read is no log that this crate wrote.
    pub fn new(
        group: GroupId,
        replica: ReplicaId,
        restored: Restored,
        settings: Arc<Settings>,
        now: Instant,
        seed: u64,
    ) -> Result<Raft, RestoreError> {
        settings.validate()?;
        let changes = restored.check()?;
        let applied = restored.machine.as_ref().map_or(restored.applied, |machine| machine.position.index);
        let Restored { hard_state, base, paged, entries, applied: _, machine, limit, promised_for } = restored;
        let mut raft = Raft {
            group,
            replica,
            seat: seat_of(&base.configuration, replica),
            configuration: base.configuration,
            configuration_index: base.configuration_index,
            settings,
            log: Log::restore(base.position, &paged.terms, paged.last, entries),
            term: hard_state.term,
            vote: hard_state.vote.unwrap_or_default(),
            state: State::Follower(Following::default()),
            leader: NOBODY,
            // The commit index costs no write of its own: what was applied was committed, the rest is learnt again.
            commit: applied,
            applied,
            deadline: Instant::NEVER,
            // A promise given before the start binds after it.
            promise: if promised_for.is_zero() || planted(Bug::PromiseForgotten) {
                Instant(0)
            } else {
                now.after(promised_for)
            },
            random: Random::new(seed),
            rare: None,
            priority: 0,
            flags: Flags::default(),
        };
        for (index, configuration) in paged.configurations.into_iter().chain(changes) {
            raft.adopt(index, Arc::new(configuration));
        }
        if let Some(machine) = machine.filter(|machine| !raft.log.contains(machine.position)) {
            if machine.position.term > raft.term {
                // A snapshot whose leader's term got lost with it: nothing was said in that term.
                raft.enter_term(machine.position.term);
            }
            raft.begin_after(machine);
        }
        if limit != Limit::None {
            raft.rare().limit = limit;
            raft.lift_by_base(now, raft.log.base());
            raft.lift_by_append(now, raft.log.base().index);
        }
        if limit == Limit::Amnesia {
            // It says nothing any more, not even to its disk.
            raft.flags = Flags::default();
        }
        raft.reset_deadline(now);
        Ok(raft)
    }

    /// Takes a message from a peer, which came from the node `from`.
    ///
    /// # Errors
    /// A message that no correct replica of this group sends to this one is refused and changes nothing.
    pub fn handle_message(&mut self, now: Instant, from: Sender, message: Message<'_>) -> Result<(), MessageError> {
        if self.limit() == Limit::Amnesia {
            let asks = matches!(message.body, Body::PreVote { .. } | Body::Vote { .. });
            if !(asks && planted(Bug::AmnesiaVotes)) {
                return Ok(());
            }
        }
        self.check(from, &message)?;
        let peer = Member { replica: message.from, node: from.node };
        if message.body.is_for_leaders() && self.configuration.seat(peer.replica).is_none() {
            // Who is no member any more has nothing to answer, and its term is nobody's.
            return Ok(());
        }
        match message.body {
            // Pre-votes carry a term that nobody is in yet, so they stay out of the rules for terms.
            Body::PreVote { last, priority } => self.handle_pre_vote(now, peer, message.term, last, priority),
            Body::PreVoteAnswer { granted: true } => self.handle_pre_vote_granted(now, peer, message.term),
            Body::NotMember { index } => self.handle_not_member(index),
            Body::HeartbeatAnswer { sent, .. } if planted(Bug::OldTermCounts) && message.term < self.term => {
                self.handle_heartbeat_answer(peer.replica, sent, from.keeps_promises);
            }
            Body::AppendAccepted { matched } if planted(Bug::OldTermCounts) && message.term < self.term => {
                self.handle_append_accepted(peer.replica, matched.min(self.log.last_index()));
            }
            Body::VoteAnswer { granted: true } if planted(Bug::OldTermCounts) && message.term < self.term => {
                self.count_vote(peer.replica);
            }
            _ if message.term < self.term => self.answer_stale(peer, &message.body),
            // Not even its term is taken: that alone would depose the leader (Raft thesis, section 4.2.3).
            Body::Vote { transfer: false, .. }
                if message.term > self.term && self.is_loyal(now) && !planted(Bug::Disturbance) => {}
            _ => {
                // A higher term ends whatever this replica was (Raft paper, section 5.1).
                if message.term > self.term {
                    self.enter_term(message.term);
                    self.become_follower(now);
                }
                self.handle_in_term(now, peer, from.keeps_promises, message.body);
            }
        }
        Ok(())
    }

    /// The deadline passed: who follows campaigns, who leads looks whether it is still heard. Harmless when early.
    pub fn handle_deadline(&mut self, now: Instant) {
        if now < self.deadline {
            return;
        }
        if matches!(self.state, State::Leader(_)) {
            return self.check_leadership(now);
        }
        self.flags.lower(Flag::SitsOut);
        if self.campaign(now).is_err() {
            self.reset_deadline(now);
        }
    }

    /// What was handed out with `receipt`, and everything before it, is durable. Own vote and own match count from here
    /// on, not earlier (Raft thesis, section 10.2.1).
    pub fn handle_persisted(&mut self, receipt: Receipt) {
        let durable_grew = self.log.persisted(receipt.generation, receipt.index);
        if matches!(self.state, State::Candidate(_)) && receipt.hard == self.hard_state() {
            assert_eq!(self.vote, self.replica, "a candidate votes for itself");
            self.count_own_vote();
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
    /// If this replica doesn't lead, gives its leadership away, or too much is uncommitted; nothing is appended then.
    pub fn propose(&mut self, data: Bytes) -> Result<LogPosition, ProposeError> {
        let State::Leader(leadership) = &self.state else {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        };
        if let Some(to) = self.transferee() {
            return Err(ProposeError::Transferring { to });
        }
        let entry = Entry { term: self.term, index: self.log.last_index().next(), kind: EntryKind::Command, data };
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
    fn handle_in_term(&mut self, now: Instant, peer: Member, keeps_promises: bool, body: Body<'_>) {
        match body {
            Body::Vote { last, transfer } => self.handle_vote(now, peer, last, transfer),
            Body::VoteAnswer { granted } => {
                if granted {
                    self.count_vote(peer.replica);
                }
            }
            Body::Append { previous, commit, entries } => {
                self.hear_leader(now, peer);
                self.handle_append(now, peer, previous, commit, entries);
            }
            Body::Heartbeat { commit, sent } => {
                self.hear_leader(now, peer);
                self.handle_heartbeat(commit, sent);
            }
            Body::Snapshot { last, configuration, configuration_index } => {
                self.hear_leader(now, peer);
                self.handle_snapshot(now, last, configuration, configuration_index);
            }
            Body::TimeoutNow { last } => self.handle_timeout_now(now, peer, last),
            Body::AppendAccepted { matched } => self.handle_append_accepted(peer.replica, matched),
            Body::AppendRejected { rejected, hint, lost, .. } => {
                self.handle_append_rejected(peer.replica, rejected, hint, lost);
            }
            Body::HeartbeatAnswer { sent, lost } => {
                if let Some(peer) = self.peer(peer.replica) {
                    peer.probe |= lost;
                }
                self.handle_heartbeat_answer(peer.replica, sent, keeps_promises);
            }
            Body::ReadRequest { id } => self.handle_read_request(now, peer, id),
            Body::ReadAnswer { id, index } => self.handle_read_answer(id, index),
            // A refusal; if its term was higher, it has already done its work. The others never come here.
            Body::PreVoteAnswer { .. } | Body::PreVote { .. } | Body::NotMember { .. } => {}
        }
    }

    pub(crate) fn hard_state(&self) -> HardState {
        HardState { term: self.term, vote: (self.vote.0 != 0).then_some(self.vote) }
    }

    /// Who leads this term; nobody has id zero.
    pub(crate) fn leading(&self) -> Member {
        let node = self.configuration.node_of(self.leader);
        let outsider = || self.rare.as_ref().and_then(|rare| rare.outsider).unwrap_or_default();
        node.map_or_else(outsider, |node| Member { replica: self.leader, node })
    }

    /// What is seldom needed, made at need.
    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Gives the memory back that nothing needs any more.
    pub(crate) fn tidy(&mut self) {
        self.rare.take_if(|rare| rare.is_empty());
    }
}

impl Rare {
    fn is_empty(&self) -> bool {
        let nothing_owed = self.answers.is_empty() && self.asked.is_empty() && self.asking.is_none();
        let nothing_planned = self.transfer.is_none() && self.forced.is_none() && self.outsider.is_none();
        let intact = self.limit == Limit::None && self.lifted.is_none();
        nothing_owed && nothing_planned && intact && self.former.is_empty() && self.pages.is_empty()
    }
}

pub(crate) fn seat_of(configuration: &Configuration, replica: ReplicaId) -> Option<u8> {
    let seat = configuration.seat(replica)?;
    Some(u8::try_from(seat).expect("a configuration has at most MEMBERS_MAX members"))
}

pub(crate) fn leader_hint(leader: &Option<Member>) -> alloc::string::String {
    match leader {
        Some(leader) => alloc::format!("; replica {} leads", leader.replica),
        None => "; no leader is known".into(),
    }
}
