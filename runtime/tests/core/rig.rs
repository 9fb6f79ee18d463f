//! A core, its disk, and a clock that the test moves.

use bytes::Bytes;
use raftyard_raft::{
    Base, Configuration, GroupId, Instant, LogIndex, LogPosition, Member, NodeId, ReplicaId, Settings, Term,
};
use raftyard_runtime::core::port::{Input, LinkId, Notice, Output};
use raftyard_runtime::group::{
    Commands, GroupConfig, GroupStatus, Responses, SnapshotSink, SnapshotSource, StateMachine,
};
use raftyard_runtime::mail::{Applied, CompactError, CreateGroupError, Mail, ProposeError};
use raftyard_runtime::{Core, CoreConfig};
use raftyard_storage::io::{IoId, WalId};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{Wal, WalConfig};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Contents = Arc<Mutex<BTreeMap<GroupId, Vec<Bytes>>>>;
type Stores = Arc<Mutex<BTreeMap<GroupId, (Base, Vec<Bytes>)>>>;
pub(crate) type Answer = oneshot::Receiver<Result<Applied, ProposeError>>;

/// What machines are made of.
#[derive(Clone, Default)]
struct Parts {
    contents: Contents,
    /// What machines with a disk of their own hold durably.
    stores: Stores,
    on_disk: Arc<AtomicBool>,
    /// What a machine that is opened says it has applied.
    applied: Arc<AtomicU64>,
}

struct Machine(GroupId, Parts);

impl Parts {
    fn open(&self, group: GroupId) -> Machine {
        let held = self.stores.lock().expect("no panic holds it").get(&group).map(|(_, held)| held.clone());
        self.contents.lock().expect("no panic holds it").insert(group, held.unwrap_or_default());
        Machine(group, self.clone())
    }
}

impl StateMachine for Machine {
    fn durable(&self) -> Option<Base> {
        let nothing = Base::initial(Arc::new(Configuration::joining()));
        match self.1.applied.load(Ordering::Relaxed) {
            0 if !self.1.on_disk.load(Ordering::Relaxed) => None,
            0 => {
                let stores = self.1.stores.lock().expect("no panic holds it");
                Some(stores.get(&self.0).map_or(nothing, |(base, _)| base.clone()))
            }
            index => Some(Base { position: LogPosition { index: LogIndex(index), term: Term(1) }, ..nothing }),
        }
    }

    fn apply(&mut self, commands: Commands<'_>, responses: &mut Responses) {
        for command in commands {
            assert!(&command.data[..] != b"panic", "the machine was told to panic");
            self.1.contents.lock().expect("no panic holds it").entry(self.0).or_default().push(command.data.clone());
            responses.push(command.data.clone());
        }
    }

    fn snapshot(&mut self) -> Option<Box<dyn SnapshotSource>> {
        let contents = self.1.contents.lock().expect("no panic holds it");
        let held = contents.get(&self.0).map(|held| held.join(&b'\n')).unwrap_or_default();
        Some(Box::new(Picture(held.into())))
    }

    fn restore(&mut self) -> Option<Box<dyn SnapshotSink>> {
        Some(Box::new(Staging(self.0, self.1.clone(), Vec::new())))
    }
}

struct Picture(Bytes);

impl SnapshotSource for Picture {
    fn next(&mut self, bytes_max: usize) -> io::Result<Option<Bytes>> {
        let len = self.0.len().min(bytes_max);
        Ok((len > 0).then(|| self.0.split_to(len)))
    }
}

struct Staging(GroupId, Parts, Vec<u8>);

impl SnapshotSink for Staging {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        if piece == b"broken" {
            return Err(io::Error::other("a piece that no machine takes"));
        }
        self.2.extend_from_slice(piece);
        Ok(())
    }

    fn finish(self: Box<Self>, base: &Base) -> io::Result<Box<dyn StateMachine>> {
        let Staging(group, parts, bytes) = *self;
        let held: Vec<Bytes> = bytes.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice).collect();
        if parts.on_disk.load(Ordering::Relaxed) {
            parts.stores.lock().expect("no panic holds it").insert(group, (base.clone(), held.clone()));
        }
        parts.contents.lock().expect("no panic holds it").insert(group, held);
        Ok(Box::new(Machine(group, parts)))
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
    parts: Parts,
}

impl Rig {
    pub(crate) fn new(config: CoreConfig) -> Rig {
        let mut disk = SimDisk::new();
        let parts = Parts::default();
        let core = open(&config, &mut disk, false, &parts, Instant(0));
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
            parts,
        }
    }

    /// Machines have a disk of their own from now on.
    pub(crate) fn machines_on_disk(&self) {
        self.parts.on_disk.store(true, Ordering::Relaxed);
    }

    /// A machine that is opened says from now on that it has applied so much.
    pub(crate) fn machines_claim(&self, applied: u64) {
        self.parts.applied.store(applied, Ordering::Relaxed);
    }

    /// Power failure and start.
    pub(crate) fn restart(&mut self) {
        self.disk.crash(&mut || 0);
        self.held.clear();
        self.parts.contents.lock().expect("no panic holds it").clear();
        self.core = open(&self.config, &mut self.disk, true, &self.parts, self.now);
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
        self.parts.contents.lock().expect("no panic holds it").get(&GroupId(group)).cloned().unwrap_or_default()
    }

    pub(crate) fn compact(&mut self, group: u64, index: u64) -> oneshot::Receiver<Result<(), CompactError>> {
        let (reply, answer) = oneshot::channel();
        self.input(Input::Mail(Mail::Compact { group: GroupId(group), index: LogIndex(index), reply }));
        answer
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

fn open(config: &CoreConfig, disk: &mut SimDisk, initialised: bool, parts: &Parts, now: Instant) -> Core {
    let wal_config = WalConfig { initialised, ..WalConfig::new(WalId(0)).with_segment_bytes(1 << 20) };
    let (wal, recovered) = Wal::open(disk, wal_config, 7).expect("an honest disk opens");
    let parts = parts.clone();
    let machines = move |group| parts.open(group);
    let mut load = |wal: &Wal, group| wal.load_snapshot(disk, group);
    let core = Core::open(config.clone(), wal, recovered, Arc::new(machines), &mut load, now, 11);
    core.expect("what was written can be read")
}
