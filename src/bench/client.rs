//! The load: one thread that keeps `concurrency` operations under way, sends each to its group's leader, and writes
//! down what became of every single one.
//!
//! Closed loop: an operation begins where its predecessor ended, so a stalled cluster is asked less (and its latencies
//! look better than an arrival process would see them).

use super::options::VALUE_BYTES_MIN;
use super::random::Random;
use super::slots::Slots;
use super::usage;
use super::verify::{Operation, OperationId, Outcome};
use crate::cli::interrupt::Interrupt;
use crate::cli::progress::Progress;
use bytes::Bytes;
use hdrhistogram::Histogram;
use raftyard::{Applied, GroupId, Limit, NodeId, NotProposed, ProposeError, Unknown};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// How long an operation waits before it is proposed again where there was no room, or no leader.
const BACK_OFF: Duration = Duration::from_millis(1);
/// How long the client waits for the last answers. A node answers within its proposal time-out; one that doesn't has
/// broken its promise, and the verification says so.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(30);
/// How long the client sleeps at most, so that signals and the progress bar are served.
const SLEEP_MAX: Duration = Duration::from_millis(50);
/// Latencies beyond this are counted as this long.
const LATENCY_NANOS_MAX: u64 = 3_600_000_000_000;

/// What to load with.
#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) nodes: u16,
    pub(super) groups: u32,
    pub(super) value_bytes: usize,
    pub(super) concurrency: usize,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    pub(super) seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct LoadOutcome {
    /// All operations, by id, warm-up included.
    pub(super) operations: Vec<Operation>,
    /// Of the operations acknowledged within the window, from the first attempt to the answer, in nanoseconds.
    pub(super) latencies: Histogram<u64>,
    /// How long the window was.
    pub(super) window: Duration,
    /// CPU time of the whole process within the window.
    pub(super) cpu: Duration,
    /// Attempts that were answered otherwise than acknowledged, by kind, warm-up included.
    pub(super) errors: BTreeMap<&'static str, u64>,
}

/// One operation under way in a slot.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    id: OperationId,
    group: u32,
    began: Instant,
    /// Its random bytes, made again from this at every attempt.
    content: u64,
    /// The node of the last attempt, counted from 0.
    asked: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Window,
    LastAnswers,
}

/// The client. `propose` hands one command to one node's replica of a group; nodes and groups count from 1.
pub(super) struct Client<P, F> {
    load: Load,
    propose: P,
    slots: Slots<F>,
    under_way: Vec<Option<UnderWay>>,
    /// Slots whose operation waits for its next attempt; in order, because all wait equally long.
    waiting: VecDeque<(Instant, usize)>,
    /// The node believed to lead each group, counted from 0.
    leaders: Vec<u16>,
    random: Random,
    phase: Phase,
    phase_ends: Instant,
    window_began: (Instant, Duration),
    outcome: LoadOutcome,
}

impl<P, F> Client<P, F>
where
    P: FnMut(NodeId, GroupId, Bytes) -> F,
    F: Future<Output = Result<Applied, ProposeError>> + Unpin,
{
    /// A client on the calling thread that first asks `leaders[group]`, a node counted from 0.
    pub(super) fn new(load: Load, leaders: Vec<u16>, propose: P) -> Client<P, F> {
        assert!(load.value_bytes >= VALUE_BYTES_MIN, "a value begins with its operation's id");
        assert_eq!(leaders.len(), load.groups as usize, "one leader a group");
        let latencies = Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3).expect("the bounds are in order");
        let outcome = LoadOutcome {
            operations: Vec::new(),
            latencies,
            window: Duration::ZERO,
            cpu: Duration::ZERO,
            errors: BTreeMap::new(),
        };
        let now = Instant::now();
        Client {
            slots: Slots::new(load.concurrency),
            under_way: vec![None; load.concurrency],
            waiting: VecDeque::with_capacity(load.concurrency),
            leaders,
            random: Random::new(load.seed),
            phase: Phase::WarmUp,
            phase_ends: now + load.warmup,
            window_began: (now, Duration::ZERO),
            outcome,
            propose,
            load,
        }
    }

    /// Runs the whole load and waits for its last answers.
    pub(super) fn run(mut self, progress: &mut Progress, interrupt: &Interrupt) -> LoadOutcome {
        let began = Instant::now();
        self.phase_ends = began + self.load.warmup;
        (0..self.load.concurrency).for_each(|slot| self.begin(slot, began));
        let mut shown = (began, 0);
        loop {
            let now = Instant::now();
            self.advance_phase(now, interrupt.is_set());
            if self.phase == Phase::LastAnswers && (self.is_done() || now >= self.phase_ends) {
                return self.outcome;
            }
            if progress.is_due(now) {
                shown = self.show(progress, began, now, shown);
            }
            self.resume_waiting(now);
            let mut ended_some = false;
            // Bounded, because each answer begins an operation that may be answered at once.
            for _ in 0..self.load.concurrency {
                let Some((slot, answer)) = self.slots.poll_ended() else { break };
                ended_some = true;
                self.end(slot, answer);
            }
            if !ended_some {
                self.sleep(now);
            }
        }
    }

    fn is_done(&self) -> bool {
        self.under_way.iter().all(Option::is_none)
    }

    fn advance_phase(&mut self, now: Instant, interrupted: bool) {
        if interrupted && self.phase != Phase::LastAnswers {
            self.phase_ends = now;
        }
        if now < self.phase_ends {
            return;
        }
        match self.phase {
            Phase::WarmUp => {
                self.phase = Phase::Window;
                self.phase_ends = now + self.load.duration;
                self.window_began = (now, usage::cpu_time());
            }
            Phase::Window => {
                self.phase = Phase::LastAnswers;
                self.phase_ends = now + LAST_ANSWERS_MAX;
                let (began, cpu) = self.window_began;
                self.outcome.window = now.duration_since(began);
                self.outcome.cpu = usage::cpu_time().saturating_sub(cpu);
            }
            Phase::LastAnswers => {}
        }
    }

    fn sleep(&self, now: Instant) {
        let next_attempt = self.waiting.front().map_or(self.phase_ends, |(at, _)| *at);
        let until = self.phase_ends.min(next_attempt);
        self.slots.sleep(until.saturating_duration_since(now).min(SLEEP_MAX));
    }

    /// Begins the slot's next operation, in a group chosen at random.
    fn begin(&mut self, slot: usize, now: Instant) {
        let id = OperationId(self.outcome.operations.len() as u64);
        let group = self.random.below(self.load.groups);
        let operation = Operation { group: GroupId(u64::from(group) + 1), outcome: Outcome::Unanswered };
        self.outcome.operations.push(operation);
        self.under_way[slot] = Some(UnderWay { id, group, began: now, content: self.random.next(), asked: 0 });
        self.attempt(slot);
    }

    fn attempt(&mut self, slot: usize) {
        let operation = self.under_way[slot].as_mut().expect("only a slot with an operation attempts it");
        operation.asked = self.leaders[operation.group as usize];
        let mut value = vec![0; self.load.value_bytes];
        let (id, rest) = value.split_at_mut(VALUE_BYTES_MIN);
        id.copy_from_slice(&operation.id.0.to_le_bytes());
        Random::new(operation.content).fill(rest);
        let node = NodeId(u64::from(operation.asked) + 1);
        let group = GroupId(u64::from(operation.group) + 1);
        self.slots.put(slot, (self.propose)(node, group, Bytes::from(value)));
    }

    fn end(&mut self, slot: usize, answer: Result<Applied, ProposeError>) {
        let now = Instant::now();
        let operation = self.under_way[slot].expect("a slot that ended held an operation");
        match answer {
            Ok(applied) => {
                if self.phase == Phase::Window {
                    let nanos = now.duration_since(operation.began).as_nanos();
                    let nanos = u64::try_from(nanos).unwrap_or(u64::MAX).min(LATENCY_NANOS_MAX);
                    self.outcome.latencies.saturating_record(nanos.max(1));
                }
                self.settle(slot, Outcome::Acknowledged(applied.index), now);
            }
            Err(ProposeError::Unknown(why)) => {
                self.count(unknown_name(why));
                self.settle(slot, Outcome::Unknown, now);
            }
            Err(ProposeError::NotProposed(why)) => {
                self.count(not_proposed_name(why));
                self.redirect(operation, why);
                if self.phase == Phase::LastAnswers {
                    self.settle(slot, Outcome::NotProposed, now);
                } else if matches!(why, NotProposed::NotLeader { leader: Some(_) } | NotProposed::Superseded) {
                    self.attempt(slot);
                } else {
                    self.waiting.push_back((now + BACK_OFF, slot));
                }
            }
        }
    }

    /// Writes down what became of the slot's operation, and begins the next.
    fn settle(&mut self, slot: usize, outcome: Outcome, now: Instant) {
        let operation = self.under_way[slot].take().expect("only an operation under way is settled");
        self.outcome.operations[operation.id.0 as usize].outcome = outcome;
        if self.phase != Phase::LastAnswers {
            self.begin(slot, now);
        }
    }

    /// Whom to ask next. An answer that names nobody, or its own giver, sends the next attempt round, unless another
    /// operation has learnt better meanwhile.
    fn redirect(&mut self, operation: UnderWay, why: NotProposed) {
        let leader = &mut self.leaders[operation.group as usize];
        let asked = operation.asked;
        match why {
            NotProposed::NotLeader { leader: Some(NodeId(node)) }
                if (1..=u64::from(self.load.nodes)).contains(&node) && node - 1 != u64::from(asked) =>
            {
                *leader = (node - 1) as u16;
            }
            NotProposed::Overloaded(_) | NotProposed::Superseded | NotProposed::TooLarge { .. } => {}
            _ if *leader == asked => *leader = (asked + 1) % self.load.nodes,
            _ => {}
        }
    }

    fn resume_waiting(&mut self, now: Instant) {
        while let Some(&(at, slot)) = self.waiting.front() {
            if self.phase == Phase::LastAnswers {
                self.settle(slot, Outcome::NotProposed, now);
            } else if at <= now {
                self.attempt(slot);
            } else {
                return;
            }
            self.waiting.pop_front();
        }
    }

    fn count(&mut self, kind: &'static str) {
        *self.outcome.errors.entry(kind).or_default() += 1;
    }

    fn show(&self, progress: &mut Progress, began: Instant, now: Instant, shown: (Instant, usize)) -> (Instant, usize) {
        let issued = self.outcome.operations.len();
        let seconds = now.duration_since(shown.0).as_secs_f64();
        let rate = (issued - shown.1) as f64 / seconds.max(1e-9);
        let message = format!("{rate:.0} operations/s");
        progress.draw(now, now.duration_since(began).as_millis() as u64, message);
        (now, issued)
    }
}

fn not_proposed_name(why: NotProposed) -> &'static str {
    match why {
        NotProposed::NotLeader { .. } => "not_leader",
        NotProposed::Overloaded(Limit::Mailbox) => "overloaded_mailbox",
        NotProposed::Overloaded(Limit::LogMemory) => "overloaded_log_memory",
        NotProposed::Overloaded(Limit::Uncommitted) => "overloaded_uncommitted",
        NotProposed::Overloaded(Limit::Reads) => "overloaded_reads",
        NotProposed::Overloaded(Limit::Compactions) => "overloaded_compactions",
        NotProposed::NoSuchGroup => "no_such_group",
        NotProposed::TooLarge { .. } => "too_large",
        NotProposed::Transferring => "transferring",
        NotProposed::Superseded => "superseded",
        NotProposed::DiskFull => "disk_full",
        NotProposed::WalFailed => "wal_failed",
        NotProposed::GroupFailed => "group_failed",
        NotProposed::ShuttingDown => "shutting_down",
    }
}

fn unknown_name(why: Unknown) -> &'static str {
    match why {
        Unknown::TimedOut => "unknown_timed_out",
        Unknown::LeaderChanged => "unknown_leader_changed",
        Unknown::Stopped => "unknown_stopped",
        Unknown::WalFailed => "unknown_wal_failed",
        Unknown::GroupFailed => "unknown_group_failed",
        Unknown::GroupRemoved => "unknown_group_removed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftyard::{LogIndex, Term};
    use std::future::{Ready, ready};

    type Answer = Result<Applied, ProposeError>;

    fn load() -> Load {
        Load {
            nodes: 3,
            groups: 4,
            value_bytes: 20,
            concurrency: 8,
            warmup: Duration::from_millis(5),
            duration: Duration::from_millis(20),
            seed: 1,
        }
    }

    /// Runs a load against a cluster where `answer` speaks for every replica.
    fn run(answer: impl FnMut(NodeId, GroupId, Bytes) -> Answer) -> LoadOutcome {
        let mut answer = answer;
        let propose = |node, group, value| -> Ready<Answer> { ready(answer(node, group, value)) };
        let interrupt = Interrupt::listen().expect("signals");
        Client::new(load(), vec![0; 4], propose).run(&mut Progress::new(), &interrupt)
    }

    fn applied(index: u64) -> Answer {
        Ok(Applied { index: LogIndex(index), term: Term(1), response: Bytes::new() })
    }

    fn refused(why: NotProposed) -> Answer {
        Err(ProposeError::NotProposed(why))
    }

    #[test]
    fn every_value_names_its_operation_and_every_operation_is_written_down() {
        let mut proposed = Vec::new();
        let outcome = run(|_, group, value| {
            assert_eq!(value.len(), 20);
            let id = u64::from_le_bytes(*value.first_chunk().expect("8 bytes"));
            assert_eq!(id, proposed.len() as u64, "ids count up from 0");
            proposed.push((group, value));
            applied(id + 1)
        });
        assert_eq!(outcome.operations.len(), proposed.len());
        for (place, (operation, (group, _))) in outcome.operations.iter().zip(&proposed).enumerate() {
            assert_eq!(operation.group, *group);
            assert_eq!(operation.outcome, Outcome::Acknowledged(LogIndex(place as u64 + 1)));
        }
        let groups = proposed.iter().map(|(group, _)| group.0).collect::<std::collections::BTreeSet<_>>();
        assert_eq!(groups.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_ne!(proposed[0].1[8..], proposed[1].1[8..], "values are random");
        assert!(outcome.latencies.len() < outcome.operations.len() as u64, "the warm-up is not in the histogram");
        assert!(!outcome.latencies.is_empty() && outcome.errors.is_empty());
    }

    #[test]
    fn a_refusal_that_names_the_leader_is_followed_with_the_same_value() {
        let mut refusals = 0;
        let mut last = None;
        let outcome = run(|node, group, value| {
            let leader = NodeId(group.0 % 3 + 1);
            if node != leader {
                refusals += 1;
                last = Some(value);
                return refused(NotProposed::NotLeader { leader: Some(leader) });
            }
            if let Some(refused) = last.take().filter(|l| l[..8] == value[..8]) {
                assert_eq!(refused, value);
            }
            applied(1)
        });
        assert!(refusals <= 3 * 8, "once learnt, the leader is asked first; {refusals} refusals");
        assert_eq!(outcome.errors.get("not_leader"), Some(&refusals));
        assert!(outcome.operations.iter().all(|o| o.outcome == Outcome::Acknowledged(LogIndex(1))));
    }

    #[test]
    fn without_a_hint_all_nodes_are_tried() {
        let outcome = run(|node, _, _| match node {
            NodeId(3) => applied(1),
            _ => refused(NotProposed::NotLeader { leader: None }),
        });
        assert!(outcome.operations.iter().any(|o| o.outcome == Outcome::Acknowledged(LogIndex(1))));
    }

    #[test]
    fn overload_is_waited_out_and_counted() {
        let mut turn = 0;
        let outcome = run(|node, _, _| {
            assert_eq!(node, NodeId(1), "another node wouldn't help");
            turn += 1;
            if turn % 2 == 0 { applied(1) } else { refused(NotProposed::Overloaded(Limit::Mailbox)) }
        });
        assert!(outcome.errors["overloaded_mailbox"] > 0);
        assert!(!outcome.latencies.is_empty());
        assert!(outcome.operations.len() < 8 * 100, "an overloaded cluster is not hammered");
    }

    #[test]
    fn an_unknown_outcome_is_never_proposed_again() {
        let mut seen = std::collections::HashSet::new();
        let outcome = run(|_, _, value| {
            assert!(seen.insert(value[..8].to_vec()), "proposed twice");
            Err(ProposeError::Unknown(Unknown::TimedOut))
        });
        assert!(outcome.operations.iter().all(|o| o.outcome == Outcome::Unknown));
        assert_eq!(outcome.errors["unknown_timed_out"], outcome.operations.len() as u64);
        assert!(outcome.latencies.is_empty());
    }

    #[test]
    fn what_was_refused_to_the_end_is_written_down_as_not_proposed() {
        let outcome = run(|_, _, _| refused(NotProposed::WalFailed));
        assert!(outcome.operations.iter().all(|o| o.outcome == Outcome::NotProposed));
    }
}
