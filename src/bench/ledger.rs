//! What every replica applied, kept outside the nodes, and the state machine that writes it down.

use super::verify::{AppliedSequence, GroupReplicas};
use raftyard::{Base, Bytes, Commands, GroupId, NodeId, Responses, SnapshotSink, SnapshotSource, StateMachine};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The applied sequences of all replicas: one lock a replica, taken once a batch by its core and otherwise free, so
/// that recording costs the measured cores next to nothing.
#[derive(Debug)]
pub(super) struct Ledger {
    groups: usize,
    /// By node, then by group.
    sequences: Vec<Mutex<AppliedSequence>>,
}

impl Ledger {
    /// For nodes and groups counted from 1.
    pub(super) fn new(nodes: u16, groups: u32) -> Arc<Ledger> {
        let groups = groups as usize;
        let sequences = (0..usize::from(nodes) * groups).map(|_| Mutex::default()).collect();
        Arc::new(Ledger { groups, sequences })
    }

    /// The machine of one replica. A machine opened anew is fed its whole log again, so it starts an empty sequence.
    pub(super) fn machine(self: &Arc<Ledger>, node: NodeId, group: GroupId) -> RecordingMachine {
        let place = self.place(node, group);
        *self.sequence(place) = AppliedSequence::default();
        RecordingMachine { ledger: Arc::clone(self), place }
    }

    /// Whether every replica of every group has applied as many operations as the others.
    pub(super) fn has_converged(&self) -> bool {
        (0..self.groups).all(|group| {
            let mut counts =
                (group..self.sequences.len()).step_by(self.groups).map(|p| self.sequence(p).operations.len());
            let first = counts.next();
            counts.all(|count| Some(count) == first)
        })
    }

    /// Takes all sequences out, by node and then by group.
    pub(super) fn take(&self) -> Vec<AppliedSequence> {
        (0..self.sequences.len()).map(|place| std::mem::take(&mut *self.sequence(place))).collect()
    }

    /// Arranges what [`take`](Self::take) gave by group.
    pub(super) fn by_group<'a>(&self, taken: &'a [AppliedSequence]) -> Vec<GroupReplicas<'a>> {
        let replicas_of = |group: usize| {
            let places = (group..taken.len()).step_by(self.groups);
            (1..).map(NodeId).zip(places.map(|place| &taken[place])).collect()
        };
        (0..self.groups)
            .map(|group| GroupReplicas { group: GroupId(group as u64 + 1), replicas: replicas_of(group) })
            .collect()
    }

    fn place(&self, node: NodeId, group: GroupId) -> usize {
        let (node, group) = (node.0 as usize - 1, group.0 as usize - 1);
        assert!(group < self.groups, "the benchmark creates its groups from 1 on");
        node * self.groups + group
    }

    fn sequence(&self, place: usize) -> MutexGuard<'_, AppliedSequence> {
        // A core that panicked while recording leaves a sequence that fails the comparison: what it should do.
        self.sequences[place].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A state machine that only writes down what it is given.
#[derive(Debug)]
pub(super) struct RecordingMachine {
    ledger: Arc<Ledger>,
    place: usize,
}

impl StateMachine for RecordingMachine {
    fn apply(&mut self, commands: Commands<'_>, _responses: &mut Responses) {
        let mut sequence = self.ledger.sequence(self.place);
        for command in commands {
            sequence.push(command.index, command.data);
        }
    }

    fn snapshot(&mut self) -> Option<Box<dyn SnapshotSource>> {
        Some(Box::new(Picture(self.ledger.sequence(self.place).encode().into())))
    }

    fn restore(&mut self) -> Option<Box<dyn SnapshotSink>> {
        let (ledger, place) = (Arc::clone(&self.ledger), self.place);
        Some(Box::new(Staging { machine: RecordingMachine { ledger, place }, bytes: Vec::new() }))
    }
}

/// A replica's sequence as it was.
struct Picture(Bytes);

impl SnapshotSource for Picture {
    fn next(&mut self, bytes_max: usize) -> io::Result<Option<Bytes>> {
        let len = self.0.len().min(bytes_max);
        Ok((len > 0).then(|| self.0.split_to(len)))
    }
}

/// The sequence of another replica, as far as it came.
struct Staging {
    machine: RecordingMachine,
    bytes: Vec<u8>,
}

impl SnapshotSink for Staging {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn finish(self: Box<Self>, _: &Base) -> io::Result<Box<dyn StateMachine>> {
        let sequence = AppliedSequence::decode(&self.bytes).ok_or(io::ErrorKind::InvalidData)?;
        *self.machine.ledger.sequence(self.machine.place) = sequence;
        Ok(Box::new(self.machine))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raftyard::LogIndex;

    #[test]
    fn sequences_are_found_by_group_and_node() {
        let ledger = Ledger::new(3, 2);
        let machine = ledger.machine(NodeId(2), GroupId(2));
        assert!(ledger.has_converged());
        ledger.sequence(machine.place).push(LogIndex(5), b"operation");
        assert!(!ledger.has_converged(), "one replica is ahead");
        let taken = ledger.take();
        let groups = ledger.by_group(&taken);
        let counts =
            |group: usize| groups[group].replicas.iter().map(|(n, s)| (n.0, s.operations.len())).collect::<Vec<_>>();
        assert_eq!(counts(0), [(1, 0), (2, 0), (3, 0)]);
        assert_eq!(counts(1), [(1, 0), (2, 1), (3, 0)]);
    }

    #[test]
    fn a_snapshot_makes_the_same_sequence_elsewhere() {
        let ledger = Ledger::new(2, 1);
        let mut machine = ledger.machine(NodeId(1), GroupId(1));
        ledger.sequence(machine.place).push(LogIndex(3), b"operation and more");
        let mut source = machine.snapshot().expect("it has one");
        let mut sink = ledger.machine(NodeId(2), GroupId(1)).restore().expect("it takes one");
        while let Some(piece) = source.next(5).expect("in memory") {
            sink.write(&piece).expect("in memory");
        }
        let base = Base::initial(Arc::new(raftyard::Configuration::joining()));
        sink.finish(&base).expect("whole");
        let taken = ledger.take();
        assert_eq!((&taken[0].operations, taken[0].digest), (&taken[1].operations, taken[1].digest));
        assert_eq!(taken[1].operations.len(), 1);
    }

    #[test]
    fn a_machine_opened_again_starts_anew() {
        let ledger = Ledger::new(1, 1);
        let machine = ledger.machine(NodeId(1), GroupId(1));
        ledger.sequence(machine.place).push(LogIndex(1), b"operation");
        ledger.machine(NodeId(1), GroupId(1));
        assert!(ledger.take()[0].operations.is_empty());
    }
}
