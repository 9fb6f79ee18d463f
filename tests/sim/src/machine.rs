//! The state machine of the simulated groups: keys and values, and a memory of everything it was fed.
//!
//! A command is an operation's number, a key, and padding; the number is the value. A query is a key.

use bytes::Bytes;
use raftyard_raft::{Base, GroupId};
use raftyard_runtime::group::{Commands, Responses, SnapshotSink, SnapshotSource, StateMachine};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a machine says when it was told to panic.
pub(crate) const TOLD_TO_PANIC: &str = "the machine was told to panic";

/// What the simulator sees and steers of a node's machines.
#[derive(Debug, Default)]
pub(crate) struct Inside {
    /// The operations that each group's machine applied, in order.
    pub(crate) applied: BTreeMap<GroupId, Vec<u64>>,
    /// Groups whose machine panics at its next command.
    pub(crate) armed: BTreeSet<GroupId>,
    /// Groups whose machine panicked.
    pub(crate) panicked: BTreeSet<GroupId>,
}

/// The machines of one node in one of its lives.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machines(Arc<Mutex<Inside>>);

struct Machine {
    group: GroupId,
    values: BTreeMap<u64, u64>,
    machines: Machines,
}

impl Machines {
    pub(crate) fn look(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().expect("nobody panics while it is held")
    }

    pub(crate) fn open(&self, group: GroupId) -> impl StateMachine + use<> {
        // A replica that is opened again is fed from the beginning.
        self.look().applied.remove(&group);
        Machine { group, values: BTreeMap::new(), machines: self.clone() }
    }
}

impl StateMachine for Machine {
    fn apply(&mut self, commands: Commands<'_>, responses: &mut Responses) {
        for command in commands {
            let operation = operation(command.data);
            let armed = {
                let mut inside = self.machines.look();
                let armed = inside.armed.remove(&self.group);
                if armed {
                    inside.panicked.insert(self.group);
                } else {
                    inside.applied.entry(self.group).or_default().push(operation);
                }
                armed
            };
            assert!(!armed, "{TOLD_TO_PANIC}");
            self.values.insert(number(command.data, 8), operation);
            responses.push(command.data.slice(..8));
        }
    }

    fn snapshot(&mut self) -> Option<Box<dyn SnapshotSource>> {
        let inside = self.machines.look();
        let applied = inside.applied.get(&self.group).map(|applied| &applied[..]).unwrap_or_default();
        let applied = applied.iter().map(|operation| (0, *operation));
        let words = applied.chain(self.values.iter().map(|(key, value)| (key + 1, *value)));
        let bytes: Vec<u8> = words.flat_map(|(key, value)| [key.to_le_bytes(), value.to_le_bytes()].concat()).collect();
        Some(Box::new(Picture(bytes.into())))
    }

    fn restore(&mut self) -> Option<Box<dyn SnapshotSink>> {
        Some(Box::new(Staging { group: self.group, machines: self.machines.clone(), bytes: Vec::new() }))
    }

    fn read(&mut self, query: &Bytes) -> Bytes {
        let value = self.values.get(&number(query, 0)).copied().unwrap_or_default();
        Bytes::copy_from_slice(&value.to_le_bytes())
    }
}

/// A snapshot: pairs of numbers, zero and an operation that was applied, or a key plus one and its value.
struct Picture(Bytes);

impl SnapshotSource for Picture {
    fn next(&mut self, bytes_max: usize) -> io::Result<Option<Bytes>> {
        // Small pieces, so that a window of them closes.
        let len = self.0.len().min(bytes_max).min(512);
        Ok((len > 0).then(|| self.0.split_to(len)))
    }
}

struct Staging {
    group: GroupId,
    machines: Machines,
    bytes: Vec<u8>,
}

impl SnapshotSink for Staging {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn finish(self: Box<Self>, _: &Base) -> io::Result<Box<dyn StateMachine>> {
        let Staging { group, machines, bytes } = *self;
        if !bytes.len().is_multiple_of(16) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a snapshot that is not whole"));
        }
        let (mut applied, mut values) = (Vec::new(), BTreeMap::new());
        for pair in bytes.chunks(16) {
            match number(pair, 0) {
                0 => applied.push(number(pair, 8)),
                key => drop(values.insert(key - 1, number(pair, 8))),
            }
        }
        machines.look().applied.insert(group, applied);
        Ok(Box::new(Machine { group, values, machines }))
    }
}

/// The command that sets `key` to `operation`.
pub(crate) fn command(operation: u64, key: u64, padding: usize) -> Bytes {
    let mut data = operation.to_le_bytes().to_vec();
    data.extend_from_slice(&key.to_le_bytes());
    data.resize(16 + padding, operation as u8);
    data.into()
}

/// The operation of a command, or the value in an answer.
pub(crate) fn operation(data: &[u8]) -> u64 {
    number(data, 0)
}

fn number(data: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(data[at..at + 8].try_into().expect("clients send whole numbers"))
}
