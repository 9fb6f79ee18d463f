//! Did the cluster keep its word? Compares what was answered with what every replica applied.
//!
//! Knows operations and sequences only: no node, no clock. The benchmark and the process-kill campaign call it with
//! what they recorded.

use raftyard::{GroupId, LogIndex, NodeId};
use std::fmt;

/// Names one operation of a run: its place among all operations issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OperationId(pub(crate) u64);

/// One operation, and what became of it as far as its client was told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    /// Where it was proposed.
    pub(crate) group: GroupId,
    /// What was answered.
    pub(crate) outcome: Outcome,
}

/// What a client was told of an operation in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing. A run that ends with one has a future that was never answered.
    Unanswered,
    /// It was applied, at this index of its group.
    Acknowledged(LogIndex),
    /// It will never be applied.
    NotProposed,
    /// It may be applied.
    Unknown,
}

/// One operation as a replica applied it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AppliedOperation {
    /// Its index in the group's log.
    pub(crate) index: LogIndex,
    /// What the command said it was; not to be trusted.
    pub(crate) id: OperationId,
}

/// All that one replica applied, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppliedSequence {
    /// The operations.
    pub(crate) operations: Vec<AppliedOperation>,
    /// A hash of every byte applied, so that equal ids with other bytes don't pass for equal.
    pub(crate) digest: u64,
}

impl AppliedSequence {
    /// Adds one command. Its operation is in the first 8 bytes; a shorter one names no operation that was ever issued.
    pub(crate) fn push(&mut self, index: LogIndex, command: &[u8]) {
        let id = command.first_chunk::<8>().map_or(u64::MAX, |id| u64::from_le_bytes(*id));
        self.operations.push(AppliedOperation { index, id: OperationId(id) });
        self.digest = fold(self.digest, &index.0.to_le_bytes());
        self.digest = fold(self.digest, command);
    }

    /// The snapshot of a machine that holds this.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let pairs = self.operations.iter().flat_map(|operation| [operation.index.0, operation.id.0]);
        [self.digest].into_iter().chain(pairs).flat_map(u64::to_le_bytes).collect()
    }

    /// What [`encode`](Self::encode) wrote, all of it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<AppliedSequence> {
        let (digest, pairs) = bytes.split_first_chunk::<8>()?;
        let (pairs, rest) = pairs.as_chunks::<16>();
        let number = |bytes: &[u8]| bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let operation = |pair: &[u8; 16]| AppliedOperation {
            index: LogIndex(number(&pair[..8])),
            id: OperationId(number(&pair[8..])),
        };
        let operations = pairs.iter().map(operation).collect();
        rest.is_empty().then_some(AppliedSequence { operations, digest: u64::from_le_bytes(*digest) })
    }
}

/// The replicas of one group, each with its node.
pub(crate) struct GroupReplicas<'a> {
    /// The group.
    pub(crate) group: GroupId,
    /// At most 32: as many as a group has voters.
    pub(crate) replicas: Vec<(NodeId, &'a AppliedSequence)>,
}

/// Most faults that are told one by one.
const FAULTS_TOLD_MAX: usize = 20;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// The first faults, to be printed.
    pub(crate) told: Vec<Fault>,
    /// How many say that replicas differ, or applied out of order.
    pub(crate) unequal: u64,
    /// How many say that an operation was lost, doubled, or not what was answered.
    pub(crate) broken: u64,
}

impl Verdict {
    /// Whether all replicas of all groups applied the same.
    pub(crate) fn replicas_equal(&self) -> bool {
        self.unequal == 0
    }

    /// Whether every acknowledged operation was applied exactly once everywhere, and nothing else but `Unknown` ones.
    pub(crate) fn acknowledged_applied_once(&self) -> bool {
        self.broken == 0
    }

    fn add(&mut self, fault: Fault) {
        match fault.kind {
            FaultKind::Differ { .. } | FaultKind::OutOfOrder { .. } => self.unequal += 1,
            _ => self.broken += 1,
        }
        if self.told.len() < FAULTS_TOLD_MAX {
            self.told.push(fault);
        }
    }
}

/// One broken promise.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// In which group.
    pub(crate) group: GroupId,
    /// Which.
    pub(crate) kind: FaultKind,
}

/// The promises that can be found broken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// Two replicas did not apply the same; `position` is where they part, counted in operations.
    Differ { one: NodeId, other: NodeId, position: usize },
    /// A replica applied an index not above the one before.
    OutOfOrder { node: NodeId, index: LogIndex },
    /// An acknowledged operation is missing on a replica.
    Lost { id: OperationId, node: NodeId },
    /// A replica applied an operation twice.
    Twice { id: OperationId, node: NodeId, index: LogIndex },
    /// An acknowledged operation was applied at another index than its answer said.
    Elsewhere { id: OperationId, node: NodeId, answered: LogIndex, applied: LogIndex },
    /// An operation was applied though it was answered that it never would be.
    AppliedThoughNot { id: OperationId, node: NodeId },
    /// Something was applied that nobody proposed to this group.
    Foreign { id: OperationId, node: NodeId, index: LogIndex },
    /// An operation's future was never answered.
    Unanswered { id: OperationId },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "group {}: ", self.group)?;
        match self.kind {
            FaultKind::Differ { one, other, position } => {
                write!(f, "nodes {one} and {other} differ from applied operation {position} on")
            }
            FaultKind::OutOfOrder { node, index } => write!(f, "node {node} applied index {index} out of order"),
            FaultKind::Lost { id: OperationId(id), node } => {
                write!(f, "operation {id} was acknowledged and is missing on node {node}")
            }
            FaultKind::Twice { id: OperationId(id), node, index } => {
                write!(f, "operation {id} was applied a second time on node {node}, at index {index}")
            }
            FaultKind::Elsewhere { id: OperationId(id), node, answered, applied } => {
                write!(f, "operation {id} was answered index {answered}, and node {node} applied it at {applied}")
            }
            FaultKind::AppliedThoughNot { id: OperationId(id), node } => {
                write!(f, "operation {id} was answered as not proposed, and node {node} applied it")
            }
            FaultKind::Foreign { id: OperationId(id), node, index } => {
                write!(f, "node {node} applied {id} at index {index}, which nobody proposed to this group")
            }
            FaultKind::Unanswered { id: OperationId(id) } => write!(f, "operation {id} was never answered"),
        }
    }
}

/// Checks a whole run: `operations` by id, and every replica of every group.
pub(crate) fn verify(operations: &[Operation], groups: &[GroupReplicas<'_>]) -> Verdict {
    let mut verdict = Verdict::default();
    // For each operation a bit for each replica of its group that applied it.
    let mut applied_on = vec![0_u32; operations.len()];
    for group in groups {
        compare_replicas(group, &mut verdict);
        for (bit, (node, sequence)) in group.replicas.iter().enumerate() {
            check_sequence(group.group, *node, sequence, operations, 1 << bit, &mut applied_on, &mut verdict);
        }
    }
    check_answers(operations, groups, &applied_on, &mut verdict);
    verdict
}

fn compare_replicas(group: &GroupReplicas<'_>, verdict: &mut Verdict) {
    assert!(group.replicas.len() <= 32, "one bit a replica");
    let Some(((one, first), others)) = group.replicas.split_first() else { return };
    for (other, sequence) in others {
        if first == sequence {
            continue;
        }
        let pairs = first.operations.iter().zip(&sequence.operations);
        // Where no operation differs, one sequence is longer or some bytes differ.
        let position = pairs.take_while(|(a, b)| a == b).count();
        let kind = FaultKind::Differ { one: *one, other: *other, position };
        verdict.add(Fault { group: group.group, kind });
    }
}

fn check_sequence(
    group: GroupId,
    node: NodeId,
    sequence: &AppliedSequence,
    operations: &[Operation],
    bit: u32,
    applied_on: &mut [u32],
    verdict: &mut Verdict,
) {
    let mut before = LogIndex(0);
    for &AppliedOperation { index, id } in &sequence.operations {
        if index <= before {
            verdict.add(Fault { group, kind: FaultKind::OutOfOrder { node, index } });
        }
        before = index;
        let place = usize::try_from(id.0).unwrap_or(usize::MAX);
        let Some(operation) = operations.get(place).filter(|operation| operation.group == group) else {
            verdict.add(Fault { group, kind: FaultKind::Foreign { id, node, index } });
            continue;
        };
        if applied_on[place] & bit != 0 {
            verdict.add(Fault { group, kind: FaultKind::Twice { id, node, index } });
            continue;
        }
        applied_on[place] |= bit;
        match operation.outcome {
            Outcome::Acknowledged(answered) if answered != index => {
                let kind = FaultKind::Elsewhere { id, node, answered, applied: index };
                verdict.add(Fault { group, kind });
            }
            Outcome::NotProposed => verdict.add(Fault { group, kind: FaultKind::AppliedThoughNot { id, node } }),
            Outcome::Acknowledged(_) | Outcome::Unknown | Outcome::Unanswered => {}
        }
    }
}

fn check_answers(operations: &[Operation], groups: &[GroupReplicas<'_>], applied_on: &[u32], verdict: &mut Verdict) {
    let places: std::collections::HashMap<u64, &GroupReplicas<'_>> = groups.iter().map(|g| (g.group.0, g)).collect();
    for (place, operation) in operations.iter().enumerate() {
        let (group, id) = (operation.group, OperationId(place as u64));
        match operation.outcome {
            Outcome::Unanswered => verdict.add(Fault { group, kind: FaultKind::Unanswered { id } }),
            Outcome::Acknowledged(_) => {
                let replicas = places.get(&group.0).map_or(&[][..], |g| &g.replicas);
                for (bit, (node, _)) in replicas.iter().enumerate() {
                    if applied_on[place] & (1 << bit) == 0 {
                        verdict.add(Fault { group, kind: FaultKind::Lost { id, node: *node } });
                    }
                }
            }
            Outcome::NotProposed | Outcome::Unknown => {}
        }
    }
}

/// Mixes `bytes` into `hash`, eight at a time: a few nanoseconds for a small value, because it runs on the cores that
/// are being measured. It finds accidents, not attackers.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15;
    let mix = |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(ODD);
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(hash, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(mix(hash, u64::from_le_bytes(last)), bytes.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(7);
    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    fn value(id: u64) -> Vec<u8> {
        let mut value = id.to_le_bytes().to_vec();
        value.extend_from_slice(b"and more");
        value
    }

    /// Operations 0 to 3: acknowledged at 2, acknowledged at 3, unknown, not proposed.
    fn operations() -> Vec<Operation> {
        [Outcome::Acknowledged(LogIndex(2)), Outcome::Acknowledged(LogIndex(3)), Outcome::Unknown, Outcome::NotProposed]
            .map(|outcome| Operation { group: GROUP, outcome })
            .to_vec()
    }

    fn sequence(applied: &[(u64, u64)]) -> AppliedSequence {
        let mut sequence = AppliedSequence::default();
        for &(index, id) in applied {
            sequence.push(LogIndex(index), &value(id));
        }
        sequence
    }

    fn check(operations: &[Operation], sequences: &[AppliedSequence; 3]) -> Verdict {
        let replicas = NODES.into_iter().zip(sequences).collect();
        verify(operations, &[GroupReplicas { group: GROUP, replicas }])
    }

    fn kinds(verdict: &Verdict) -> Vec<&FaultKind> {
        verdict.told.iter().map(|fault| &fault.kind).collect()
    }

    #[test]
    fn a_run_that_kept_its_word_passes_with_and_without_the_unknown_operation() {
        for applied in [&[(2, 0), (3, 1)][..], &[(2, 0), (3, 1), (9, 2)]] {
            let verdict = check(&operations(), &[applied, applied, applied].map(sequence));
            assert!(verdict.replicas_equal() && verdict.acknowledged_applied_once(), "{verdict:?}");
        }
    }

    #[test]
    fn a_lost_operation_is_found_on_the_replica_that_misses_it() {
        let whole = sequence(&[(2, 0), (3, 1)]);
        let verdict = check(&operations(), &[whole.clone(), sequence(&[(2, 0)]), whole]);
        assert!(!verdict.acknowledged_applied_once() && !verdict.replicas_equal());
        assert!(kinds(&verdict).contains(&&FaultKind::Lost { id: OperationId(1), node: NODES[1] }), "{verdict:?}");
    }

    #[test]
    fn an_operation_lost_everywhere_is_found_though_replicas_are_equal() {
        let verdict = check(&operations(), &[const { &[(2, 0)] }; 3].map(|s| sequence(s)));
        assert!(verdict.replicas_equal() && !verdict.acknowledged_applied_once());
        assert_eq!(verdict.broken, 3, "one a replica");
    }

    #[test]
    fn a_doubled_operation_is_found_even_if_its_outcome_was_unknown() {
        for doubled in [[(2, 0), (3, 1), (4, 1)], [(2, 0), (3, 1), (4, 0)]] {
            let verdict = check(&operations(), &[doubled; 3].map(|s| sequence(&s)));
            assert!(verdict.replicas_equal() && !verdict.acknowledged_applied_once());
            assert!(matches!(kinds(&verdict)[0], FaultKind::Twice { index: LogIndex(4), .. }), "{verdict:?}");
        }
        let unknown = [(2, 0), (3, 1), (4, 2), (5, 2)];
        assert!(!check(&operations(), &[unknown; 3].map(|s| sequence(&s))).acknowledged_applied_once());
    }

    #[test]
    fn unequal_replicas_are_found_by_order_and_by_bytes() {
        let good = sequence(&[(2, 0), (3, 1), (4, 2)]);
        let swapped = sequence(&[(2, 0), (3, 2), (4, 1)]);
        let verdict = check(&operations(), &[good.clone(), good.clone(), swapped]);
        let differ = FaultKind::Differ { one: NODES[0], other: NODES[2], position: 1 };
        assert!(kinds(&verdict).contains(&&differ), "{verdict:?}");

        let mut other_bytes = sequence(&[(2, 0), (3, 1)]);
        other_bytes.push(LogIndex(4), &2_u64.to_le_bytes());
        let verdict = check(&operations(), &[good.clone(), other_bytes, good]);
        assert!(!verdict.replicas_equal() && verdict.acknowledged_applied_once(), "{verdict:?}");
    }

    #[test]
    fn what_was_never_to_be_applied_or_never_proposed_is_found() {
        let verdict = check(&operations(), &[const { &[(2, 0), (3, 1), (4, 3)] }; 3].map(|s| sequence(s)));
        assert_eq!(kinds(&verdict)[0], &FaultKind::AppliedThoughNot { id: OperationId(3), node: NODES[0] });

        let mut short = sequence(&[(2, 0), (3, 1)]);
        short.push(LogIndex(4), b"short");
        let foreign = sequence(&[(2, 0), (3, 1), (4, 99)]);
        for applied in [short, foreign] {
            let verdict = check(&operations(), &[applied.clone(), applied.clone(), applied]);
            assert!(matches!(kinds(&verdict)[0], FaultKind::Foreign { .. }), "{verdict:?}");
        }

        let mut elsewhere = operations();
        elsewhere[0].group = GroupId(8);
        let verdict = check(&elsewhere, &[const { &[(2, 0), (3, 1)] }; 3].map(|s| sequence(s)));
        assert!(matches!(kinds(&verdict)[0], FaultKind::Foreign { .. }), "{verdict:?}");
    }

    #[test]
    fn a_wrong_index_an_order_that_falls_and_a_missing_answer_are_found() {
        let verdict = check(&operations(), &[const { &[(2, 0), (4, 1)] }; 3].map(|s| sequence(s)));
        assert!(matches!(kinds(&verdict)[0], FaultKind::Elsewhere { answered: LogIndex(3), .. }), "{verdict:?}");

        let verdict = check(&operations(), &[const { &[(3, 1), (2, 0)] }; 3].map(|s| sequence(s)));
        assert!(!verdict.replicas_equal());

        let mut unanswered = operations();
        unanswered[2].outcome = Outcome::Unanswered;
        let verdict = check(&unanswered, &[const { &[(2, 0), (3, 1)] }; 3].map(|s| sequence(s)));
        assert_eq!(kinds(&verdict), [&FaultKind::Unanswered { id: OperationId(2) }]);
    }

    #[test]
    fn faults_are_all_counted_and_only_some_told() {
        let many = vec![Operation { group: GROUP, outcome: Outcome::Acknowledged(LogIndex(1)) }; 100];
        let verdict = check(&many, &[const { &[] }; 3].map(|s| sequence(s)));
        assert_eq!((verdict.broken, verdict.told.len()), (300, FAULTS_TOLD_MAX));
    }
}
