//! The client of the campaign: some threads that propose without pause, follow the leaders, and write down what they
//! were told. They go on while nodes die and come back.

use crate::connection::Connection;
use crate::random::Random;
use crate::verify::{Operation, OperationId, Outcome};
use raftyard::{GroupId, LogIndex};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Operations under way at a time.
const WORKERS: u64 = 16;
/// Pause before an operation is tried again where nobody led or listened.
const BACK_OFF: Duration = Duration::from_millis(5);

/// What all clients of one cluster were told, and believe.
pub(crate) struct Record {
    pub(crate) groups: u64,
    control: Vec<SocketAddr>,
    operations: Mutex<Vec<Operation>>,
    acknowledged: AtomicU64,
    /// By group: the place of the node that is asked first.
    leaders: Vec<AtomicUsize>,
}

impl Record {
    pub(crate) fn new(groups: u64, control: Vec<SocketAddr>) -> Arc<Record> {
        let leaders = (0..groups).map(|_| AtomicUsize::new(0)).collect();
        Arc::new(Record { groups, control, operations: Mutex::default(), acknowledged: AtomicU64::new(0), leaders })
    }

    /// How many operations were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Everything that was proposed so far, by id.
    pub(crate) fn operations(&self) -> Vec<Operation> {
        self.operations.lock().expect("nobody panicked with it").clone()
    }

    fn issue(&self, group: GroupId) -> OperationId {
        let mut operations = self.operations.lock().expect("nobody panicked with it");
        operations.push(Operation { group, outcome: Outcome::Unanswered });
        OperationId(operations.len() as u64 - 1)
    }

    fn settle(&self, id: OperationId, outcome: Outcome) {
        self.operations.lock().expect("nobody panicked with it")[id.0 as usize].outcome = outcome;
        if matches!(outcome, Outcome::Acknowledged(_)) {
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Load that runs until it is stopped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(record: &Arc<Record>, seed: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let worker = |number| {
            let (record, stop) = (Arc::clone(record), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut random = Random::new(seed.wrapping_mul(WORKERS).wrapping_add(number));
                let mut client = Client::new(&record);
                while !stop.load(Ordering::Relaxed) {
                    let group = GroupId(u64::from(random.below(record.groups as u32)) + 1);
                    client.operate(group, &|| stop.load(Ordering::Relaxed));
                }
            })
        };
        Load { workers: (0..WORKERS).map(worker).collect(), stop }
    }

    /// Ends when the last operation under way was answered.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            worker.join().expect("a worker doesn't panic");
        }
    }
}

/// One client: a connection to each node where it could get one.
pub(crate) struct Client<'a> {
    record: &'a Record,
    connections: Vec<Option<Connection>>,
}

impl<'a> Client<'a> {
    pub(crate) fn new(record: &'a Record) -> Client<'a> {
        Client { record, connections: record.control.iter().map(|_| None).collect() }
    }

    /// Proposes one operation until something final is known of it, or until `give_up` while it surely is not proposed.
    pub(crate) fn operate(&mut self, group: GroupId, give_up: &dyn Fn() -> bool) -> Outcome {
        let id = self.record.issue(group);
        let outcome = loop {
            match self.attempt(group, id) {
                Some(outcome) => break outcome,
                None if give_up() => break Outcome::NotProposed,
                None => {}
            }
        };
        self.record.settle(id, outcome);
        outcome
    }

    /// `None`: certainly not proposed; the next attempt goes where this one learnt.
    fn attempt(&mut self, group: GroupId, id: OperationId) -> Option<Outcome> {
        let leader = &self.record.leaders[group.0 as usize - 1];
        let asked = leader.load(Ordering::Relaxed);
        let another = (asked + 1) % self.connections.len();
        if self.connections[asked].is_none() {
            self.connections[asked] = Connection::open(self.record.control[asked]).ok();
        }
        let Some(connection) = self.connections[asked].as_mut() else {
            leader.store(another, Ordering::Relaxed);
            std::thread::sleep(BACK_OFF);
            return None;
        };
        let Ok(answer) = connection.ask(&format!("propose {group} {}", id.0)) else {
            // Killed with the request on its way: it may have been heard.
            self.connections[asked] = None;
            return Some(Outcome::Unknown);
        };
        let (kind, rest) = answer.split_once(' ').unwrap_or((&answer, ""));
        match kind {
            "applied" => Some(Outcome::Acknowledged(LogIndex(rest.parse().expect("an index")))),
            "unknown" => Some(Outcome::Unknown),
            "elsewhere" => {
                let node = rest.parse::<usize>().expect("a node");
                if node == 0 || node == asked + 1 {
                    leader.store(another, Ordering::Relaxed);
                    std::thread::sleep(BACK_OFF);
                } else {
                    leader.store(node - 1, Ordering::Relaxed);
                }
                None
            }
            "refused" => {
                leader.store(another, Ordering::Relaxed);
                std::thread::sleep(BACK_OFF);
                None
            }
            _ => panic!("node {} answered {answer}", asked + 1),
        }
    }
}
