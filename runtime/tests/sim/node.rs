//! A simulated node: the shipped core and log on a simulated disk, in one of its lives.

use crate::checks::operation;
use crate::rng::Rng;
use raftyard_raft::{GroupId, Instant, NodeId, Settings};
use raftyard_runtime::core::port::CoreId;
use raftyard_runtime::group::{Commands, Responses, StateMachine};
use raftyard_runtime::{Core, CoreConfig};
use raftyard_storage::io::{IoId, WalId};
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{StoreId, Wal, WalConfig, WalError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the state machines of a node applied, by group.
pub(crate) type AppliedLog = Arc<Mutex<BTreeMap<GroupId, Vec<u64>>>>;

struct Recorder {
    group: GroupId,
    applied: AppliedLog,
}

impl StateMachine for Recorder {
    fn apply(&mut self, commands: Commands<'_>, responses: &mut Responses) {
        let mut applied = self.applied.lock().expect("no panic while it is held");
        let applied = applied.entry(self.group).or_default();
        for command in commands {
            applied.push(operation(command.data));
            responses.push(command.data.slice(..8));
        }
    }
}

pub(crate) struct SimNode {
    pub(crate) id: NodeId,
    pub(crate) disk: SimDisk,
    /// `None` while it is down.
    pub(crate) core: Option<Core>,
    /// Counts its starts; events of an earlier life are void.
    pub(crate) life: u64,
    pub(crate) applied: AppliedLog,
    /// A turn is due; inputs until then share it.
    pub(crate) turn_due: bool,
    pub(crate) in_flight: Vec<IoId>,
    /// Its disk answers nothing until then.
    pub(crate) stalled_until: Instant,
}

/// What a simulated cluster is made of.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) nodes: usize,
    pub(crate) groups: u64,
    pub(crate) wal_depth: usize,
}

impl SimNode {
    pub(crate) fn new(id: NodeId) -> SimNode {
        SimNode {
            id,
            disk: SimDisk::new(),
            core: None,
            life: 0,
            applied: AppliedLog::default(),
            turn_due: false,
            in_flight: Vec::new(),
            stalled_until: Instant(0),
        }
    }

    /// Starts the node on what its disk holds.
    pub(crate) fn start(&mut self, shape: &Shape, now: Instant, rng: &mut Rng) -> Result<(), WalError> {
        self.life += 1;
        self.applied.lock().expect("no panic while it is held").clear();
        let wal_config = wal_config(shape, self.life > 1);
        let (wal, recovered) = Wal::open(&mut self.disk, wal_config, rng.next())?;
        let applied = Arc::clone(&self.applied);
        let machines = move |group| Recorder { group, applied: Arc::clone(&applied) };
        let config = self.config(shape, rng);
        let core = Core::open(config, wal, recovered, Arc::new(machines), now, rng.next());
        self.core = Some(core.expect("what the log returns is what a replica wrote"));
        self.turn_due = false;
        self.in_flight.clear();
        Ok(())
    }

    /// The process dies, often with the power: of what it didn't sync, the disk keeps what chance decides.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        self.core = None;
        if rng.chance(50) {
            self.disk.crash(&mut || rng.next());
        } else {
            self.disk.kill(&mut || rng.next());
        }
    }

    fn config(&self, shape: &Shape, rng: &mut Rng) -> CoreConfig {
        CoreConfig {
            cluster: 7,
            node: self.id,
            core: CoreId(0),
            cores: 1,
            store: StoreId(u128::from(self.id.0) + 100),
            boot: rng.next(),
            peers: (1..=shape.nodes as u64).map(NodeId).filter(|id| *id != self.id).collect(),
            raft: Settings {
                election_timeout_min: Duration::from_millis(300),
                election_timeout_max: Duration::from_millis(600),
                append_bytes_max: 2_000,
                inflight_appends_max: 4,
                ..Settings::default()
            },
            heartbeat_interval: Duration::from_millis(50),
            proposal_timeout: Duration::from_secs(3),
            entry_bytes_max: 4 << 10,
            frame_bytes_max: 64 << 10,
            send_buffer_bytes_max: 32 << 10,
            ..CoreConfig::default()
        }
    }
}

fn wal_config(shape: &Shape, initialised: bool) -> WalConfig {
    WalConfig {
        segment_bytes: 256 << 10,
        depth: shape.wal_depth,
        batch_bytes_max: 16 << 10,
        entry_bytes_max: 4 << 10,
        initialised,
        ..WalConfig::new(WalId(0))
    }
}
