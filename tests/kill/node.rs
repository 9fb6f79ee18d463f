//! One node process: a node, a state machine that keeps what it applied, and a line protocol on a loopback port.
//!
//! Every connection is served by a thread of its own, one request after the other: a line in, a line out.
//!
//! | request | answer |
//! |---|---|
//! | `create GROUP` | `created`, or `failed WHY` |
//! | `propose GROUP ID` | `applied INDEX`, `elsewhere NODE` (0: nobody known), `refused WHY`, `unknown WHY` |
//! | `status GROUP` | `none`, or `status LEADER APPLIED` (LEADER 0: nobody known) |
//! | `dump GROUP` | `dump DIGEST INDEX:ID INDEX:ID ..` |

use crate::random::Random;
use crate::verify::{AppliedSequence, OperationId};
use raftyard::{
    Base, Bytes, Commands, Configuration, CreateGroupError, GroupConfig, GroupId, LogIndex, Member, Node, NodeConfig,
    NodeId, NotProposed, ProposeError, ReplicaId, Responses, SnapshotSink, SnapshotSource, StateMachine, Unavailable,
};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Set for a node process: `NODE;DIRECTORY;CONTROL ADDRESS;ADDRESS OF NODE 1,ADDRESS OF NODE 2,..`.
pub(crate) const ENVIRONMENT: &str = "RAFTYARD_KILL_NODE";

/// What a node process is told.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) node: NodeId,
    pub(crate) directory: PathBuf,
    pub(crate) control: SocketAddr,
    /// Replication addresses of all nodes, from node 1 on.
    pub(crate) listen: Vec<SocketAddr>,
}

impl Settings {
    pub(crate) fn from_environment() -> Option<Settings> {
        let text = std::env::var(ENVIRONMENT).ok()?;
        let mut parts = text.split(';');
        let mut part = || parts.next().expect("four parts");
        Some(Settings {
            node: NodeId(part().parse().expect("a node id")),
            directory: part().into(),
            control: part().parse().expect("an address"),
            listen: part().split(',').map(|address| address.parse().expect("an address")).collect(),
        })
    }

    pub(crate) fn to_environment(&self) -> String {
        let listen = self.listen.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        format!("{};{};{};{listen}", self.node, self.directory.display(), self.control)
    }

    fn config(&self) -> NodeConfig {
        let addresses = (1..).map(NodeId).zip(self.listen.iter().copied());
        NodeConfig {
            node: self.node,
            cluster: 1,
            data_dir: self.directory.clone(),
            listen: self.listen[self.node.0 as usize - 1],
            peers: addresses.filter(|(node, _)| *node != self.node).collect(),
            cores: 1,
            pin: false,
            // Short, so that a round is: correctness doesn't depend on them.
            heartbeat_interval: Duration::from_millis(30),
            election_timeout_min: Duration::from_millis(200),
            election_timeout_max: Duration::from_millis(400),
            proposal_timeout: Duration::from_secs(2),
            // Small, so that logs are compacted and nodes that come back need snapshots.
            retain_bytes: 64 << 10,
            retain_entries: 200,
            ..NodeConfig::default()
        }
        // Small, so that a campaign goes through many.
        .with_segment_bytes(1 << 20)
    }
}

/// The command of an operation: its id, then bytes that follow from it, so that whoever reads it back can tell whether
/// they are the right ones. Sizes from 8 bytes to beyond a block.
pub(crate) fn command_of(id: OperationId) -> Vec<u8> {
    let mut random = Random::new(id.0);
    let bytes = match random.below(20) {
        0 => 4096 + random.below(4096),
        1..=4 => random.below(1500),
        _ => random.below(150),
    };
    let mut command = vec![0; 8 + bytes as usize];
    random.fill(&mut command);
    command[..8].copy_from_slice(&id.0.to_le_bytes());
    command
}

type Sequences = Arc<Mutex<HashMap<GroupId, Arc<Mutex<AppliedSequence>>>>>;

struct KeepingMachine(Arc<Mutex<AppliedSequence>>);

impl StateMachine for KeepingMachine {
    fn apply(&mut self, commands: Commands<'_>, _responses: &mut Responses) {
        let mut sequence = self.0.lock().expect("nobody panicked with it");
        for command in commands {
            sequence.push(command.index, command.data);
        }
    }

    fn snapshot(&mut self) -> Option<Box<dyn SnapshotSource>> {
        Some(Box::new(Picture(self.0.lock().expect("nobody panicked with it").encode().into())))
    }

    fn restore(&mut self) -> Option<Box<dyn SnapshotSink>> {
        Some(Box::new(Staging(Arc::clone(&self.0), Vec::new())))
    }
}

struct Picture(Bytes);

impl SnapshotSource for Picture {
    fn next(&mut self, bytes_max: usize) -> io::Result<Option<Bytes>> {
        let len = self.0.len().min(bytes_max);
        Ok((len > 0).then(|| self.0.split_to(len)))
    }
}

struct Staging(Arc<Mutex<AppliedSequence>>, Vec<u8>);

impl SnapshotSink for Staging {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.1.extend_from_slice(piece);
        Ok(())
    }

    fn finish(self: Box<Self>, _: &Base) -> io::Result<Box<dyn StateMachine>> {
        let sequence = AppliedSequence::decode(&self.1).ok_or(io::ErrorKind::InvalidData)?;
        *self.0.lock().expect("nobody panicked with it") = sequence;
        Ok(Box::new(KeepingMachine(self.0)))
    }
}

struct Served {
    node: Node,
    voters: Configuration,
    sequences: Sequences,
}

/// Serves until it is killed, or until whoever started it is gone. Never returns.
pub(crate) fn run(settings: Settings) -> ! {
    std::thread::spawn(end_with_parent);
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let sequences = Sequences::default();
    let machines = Arc::clone(&sequences);
    let opened = Node::open(settings.config(), move |group| {
        let sequence = Arc::new(Mutex::new(AppliedSequence::default()));
        machines.lock().expect("nobody panicked with it").insert(group, Arc::clone(&sequence));
        KeepingMachine(sequence)
    });
    let node = opened.unwrap_or_else(|error| {
        eprintln!("node {} does not start: {error}", settings.node);
        std::process::exit(1)
    });
    let members = (1..=settings.listen.len() as u64).map(|n| Member { replica: ReplicaId(n), node: NodeId(n) });
    let voters = Configuration::new(members.collect()).expect("distinct nodes");
    let served = Arc::new(Served { node, voters, sequences });
    let listener = TcpListener::bind(settings.control).expect("the control port is free");
    for connection in listener.incoming() {
        let (connection, served) = (connection.expect("loopback accepts"), Arc::clone(&served));
        std::thread::spawn(move || served.serve(&connection));
    }
    unreachable!("a listener accepts for ever");
}

/// The other end of standard input is held by the process that started this one.
fn end_with_parent() {
    let _ = std::io::stdin().read(&mut [0]);
    std::process::exit(2);
}

impl Served {
    fn serve(&self, connection: &TcpStream) {
        let _ = connection.set_nodelay(true);
        let mut writer = connection;
        for line in BufReader::new(connection).lines() {
            let Ok(line) = line else { return };
            let mut answer = self.answer(&line);
            answer.push('\n');
            if writer.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, request: &str) -> String {
        let words = request.split(' ').collect::<Vec<_>>();
        let number = |place: usize| words[place].parse::<u64>().expect("a number");
        let group = GroupId(number(1));
        match words[0] {
            "create" => self.create(group),
            "propose" => self.propose(group, OperationId(number(2))),
            "status" => match self.node.group(group).status().wait() {
                Err(Unavailable::NoSuchGroup) => "none".to_owned(),
                Err(why) => format!("failed {why}"),
                Ok(status) => format!("status {} {}", status.leader.unwrap_or_default(), status.applied_index),
            },
            "dump" => self.dump(group),
            other => panic!("{other}?"),
        }
    }

    fn create(&self, group: GroupId) -> String {
        let nodes = self.voters.voters().count() as u64;
        let config = GroupConfig {
            group,
            configuration: self.voters.clone(),
            preferred_leader: Some(NodeId(group.0 % nodes + 1)),
        };
        match self.node.create_group(config).wait() {
            Ok(()) | Err(CreateGroupError::Exists(_)) => "created".to_owned(),
            Err(why) => format!("failed {why}"),
        }
    }

    fn propose(&self, group: GroupId, id: OperationId) -> String {
        match self.node.group(group).propose(command_of(id)).wait() {
            Ok(applied) => format!("applied {}", applied.index),
            Err(ProposeError::NotProposed(NotProposed::NotLeader { leader })) => {
                format!("elsewhere {}", leader.unwrap_or_default())
            }
            Err(ProposeError::NotProposed(why)) => format!("refused {why}"),
            Err(ProposeError::Unknown(why)) => format!("unknown {why}"),
        }
    }

    fn dump(&self, group: GroupId) -> String {
        let sequence = self.sequences.lock().expect("nobody panicked with it").get(&group).cloned();
        let sequence = sequence.unwrap_or_default();
        let sequence = sequence.lock().expect("nobody panicked with it");
        let mut text = format!("dump {}", sequence.digest);
        for operation in &sequence.operations {
            write!(text, " {}:{}", operation.index, operation.id.0).expect("a string takes all");
        }
        text
    }
}

/// Reads what [`Served::dump`] wrote.
pub(crate) fn parse_dump(text: &str) -> AppliedSequence {
    let mut words = text.split(' ').skip(1);
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let digest = number(words.next().expect("a digest"));
    let operations = words.map(|word| {
        let (index, id) = word.split_once(':').expect("an index and an id");
        crate::verify::AppliedOperation { index: LogIndex(number(index)), id: OperationId(number(id)) }
    });
    AppliedSequence { operations: operations.collect(), digest }
}

/// Not only equal on all replicas but equal to what was proposed: the digest that these operations must have.
pub(crate) fn digest_of(sequence: &AppliedSequence) -> u64 {
    let mut expected = AppliedSequence::default();
    for operation in &sequence.operations {
        expected.push(operation.index, &command_of(operation.id));
    }
    expected.digest
}

/// All nodes of a cluster, as their settings say.
pub(crate) fn settings_of_all(root: &std::path::Path, listen: &[SocketAddr], control: &[SocketAddr]) -> Vec<Settings> {
    let nodes = (1..).map(NodeId).zip(control);
    let settings = |(node, control): (NodeId, &SocketAddr)| Settings {
        node,
        directory: root.join(format!("node-{node}")),
        control: *control,
        listen: listen.to_vec(),
    };
    nodes.map(settings).collect::<Vec<_>>()
}
