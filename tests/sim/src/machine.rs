//! The state machine of the simulated groups: keys and values, and a memory of everything it was fed.
//!
//! A command is an operation's number, a key, and padding; the number is the value. A query is a key.

use bytes::Bytes;
use raftyard_raft::GroupId;
use raftyard_runtime::group::{Commands, Responses, StateMachine};
use std::collections::{BTreeMap, BTreeSet};
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

    fn read(&mut self, query: &Bytes) -> Bytes {
        let value = self.values.get(&number(query, 0)).copied().unwrap_or_default();
        Bytes::copy_from_slice(&value.to_le_bytes())
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
