//! A core, its disk, and a clock that the test moves.

use bytes::Bytes;
use raftyard_raft::{Configuration, GroupId, Instant, LogIndex, Member, NodeId, ReplicaId, Settings};
use raftyard_runtime::core::port::{Input, LinkId, Notice, Output};
use raftyard_runtime::group::{Commands, GroupConfig, GroupStatus, Responses, StateMachine};
use raftyard_runtime::mail::{Applied, CreateGroupError, Mail, ProposeError};
use raftyard_runtime::{Core, CoreConfig};
use raftyard_storage::io::{IoId, WalId};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{Wal, WalConfig};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Contents = Arc<Mutex<BTreeMap<GroupId, Vec<Bytes>>>>;
pub(crate) type Answer = oneshot::Receiver<Result<Applied, ProposeError>>;

struct Machine(GroupId, Contents, u64);

impl StateMachine for Machine {
    fn applied_index(&self) -> LogIndex {
        LogIndex(self.2)
    }

    fn apply(&mut self, commands: Commands<'_>, responses: &mut Responses) {
        for command in commands {
            assert!(&command.data[..] != b"panic", "the machine was told to panic");
            self.1.lock().expect("no panic holds it").entry(self.0).or_default().push(command.data.clone());
            responses.push(command.data.clone());
        }
    }
}

pub(crate) fn config() -> CoreConfig {
    CoreConfig {
        peers: vec![NodeId(2)],
        raft: Settings {
            election_timeout_min: Duration::from_millis(100),
            election_timeout_max: Duration::from_millis(200),
            uncommitted_bytes_max: 20_000,
            ..Settings::default()
        },
        proposal_timeout: Duration::from_secs(1),
        entry_bytes_max: 4096,
        log_bytes_max: 200_000,
        ..CoreConfig::default()
    }
}

pub(crate) struct Rig {
    config: CoreConfig,
    core: Core,
    pub(crate) disk: SimDisk,
    now: Instant,
    held: Vec<IoId>,
    /// While set, no disk operation ends.
    pub(crate) hold_disk: bool,
    pub(crate) notices: Vec<Notice>,
    pub(crate) closed: Vec<LinkId>,
    accepted: u64,
    contents: Contents,
    /// What a machine that is opened says it has applied.
    pub(crate) machine_applied: Arc<AtomicU64>,
}

impl Rig {
    pub(crate) fn new(config: CoreConfig) -> Rig {
        let mut disk = SimDisk::new();
        let contents = Contents::default();
        let machine_applied = Arc::default();
        let core = open(&config, &mut disk, false, &contents, &machine_applied, Instant(0));
        Rig {
            config,
            core,
            disk,
            now: Instant(0),
            held: Vec::new(),
            hold_disk: false,
            notices: Vec::new(),
            closed: Vec::new(),
            accepted: 0,
            contents,
            machine_applied,
        }
    }

    /// Power failure and start.
    pub(crate) fn restart(&mut self) {
        self.disk.crash(&mut || 0);
        self.held.clear();
        self.contents.lock().expect("no panic holds it").clear();
        self.core = open(&self.config, &mut self.disk, true, &self.contents, &self.machine_applied, self.now);
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    pub(crate) fn create_group(&mut self, group: u64, node: u64) -> Result<(), CreateGroupError> {
        self.create_group_with(group, &[node])
    }

    pub(crate) fn create_group_with(&mut self, group: u64, nodes: &[u64]) -> Result<(), CreateGroupError> {
        let members = nodes.iter().map(|&n| Member { replica: ReplicaId(n), node: NodeId(n) }).collect();
        let configuration = Configuration::new(members).expect("distinct nodes");
        let config = GroupConfig { group: GroupId(group), configuration, preferred_leader: Some(NodeId(nodes[0])) };
        let (reply, answer) = oneshot::channel();
        self.input(Input::Mail(Mail::CreateGroup { config, reply }));
        self.settle();
        answer.try_recv().expect("a creation is answered at once or when it is durable")
    }

    pub(crate) fn propose(&mut self, group: u64, data: &[u8]) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.input(Input::Mail(Mail::Propose { group: GroupId(group), data: Bytes::copy_from_slice(data), reply }));
        answer
    }

    pub(crate) fn answer(&self, answer: &Answer) -> Option<Result<Applied, ProposeError>> {
        match answer.try_recv() {
            Ok(result) => Some(result),
            Err(oneshot::TryRecvError::Empty) => None,
            Err(oneshot::TryRecvError::Disconnected) => panic!("a reply was dropped without an answer"),
        }
    }

    pub(crate) fn status(&mut self, group: u64) -> Option<GroupStatus> {
        let (reply, answer) = oneshot::channel();
        self.input(Input::Mail(Mail::Status { group: GroupId(group), reply }));
        self.settle();
        answer.try_recv().expect("a status is answered in its turn").ok()
    }

    pub(crate) fn applied(&self, group: u64) -> Vec<Bytes> {
        self.contents.lock().expect("no panic holds it").get(&GroupId(group)).cloned().unwrap_or_default()
    }

    pub(crate) fn begin_shutdown(&mut self) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        self.input(Input::Mail(Mail::Shutdown { reply }));
        answer
    }

    pub(crate) fn shut_down(&mut self) {
        let ended = self.begin_shutdown();
        self.settle();
        assert!(ended.try_recv().is_ok(), "a shutdown is answered");
    }

    pub(crate) fn accept(&mut self) -> LinkId {
        self.accepted += 1;
        let link = LinkId::accepted(self.accepted);
        self.input(Input::LinkUp(link));
        link
    }

    pub(crate) fn bytes(&mut self, link: LinkId, bytes: &[u8]) {
        self.input(Input::Bytes { link, bytes });
        self.settle();
    }

    /// Time passes, in ticks.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now.after(duration);
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(10));
            self.input(Input::Deadline);
            self.settle();
        }
    }

    /// Turns until nothing more happens.
    pub(crate) fn settle(&mut self) {
        loop {
            self.core.end_turn();
            let mut quiet = true;
            while let Some(output) = self.core.poll_output() {
                quiet = false;
                self.carry_out(output);
            }
            if !self.hold_disk {
                for id in std::mem::take(&mut self.held) {
                    quiet = false;
                    let result = self.disk.complete(id);
                    self.input(Input::IoDone { id, result });
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Io { id, op } => {
                self.disk.submit(id, op);
                self.held.push(id);
            }
            // There is no other node.
            Output::Dial { link, .. } => self.input(Input::LinkDown(link)),
            Output::Send { .. } => {}
            Output::Close(link) => self.closed.push(link),
            Output::Answer(answer) => answer.deliver(),
            Output::Notice(notice) => self.notices.push(notice),
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.core.handle(self.now, input);
    }
}

fn open(
    config: &CoreConfig,
    disk: &mut SimDisk,
    initialised: bool,
    contents: &Contents,
    applied: &Arc<AtomicU64>,
    now: Instant,
) -> Core {
    let wal_config = WalConfig { initialised, ..WalConfig::new(WalId(0)).with_segment_bytes(1 << 20) };
    let (wal, recovered) = Wal::open(disk, wal_config, 7).expect("an honest disk opens");
    let (contents, applied) = (Arc::clone(contents), Arc::clone(applied));
    let machines = move |group| Machine(group, Arc::clone(&contents), applied.load(Ordering::Relaxed));
    Core::open(config.clone(), wal, recovered, Arc::new(machines), now, 11).expect("what was written can be read")
}
