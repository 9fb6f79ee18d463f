//! A simulated node: the shipped core, log, wire and mailbox on a simulated disk, in one of its lives.

use crate::machine::{Machines, TOLD_TO_PANIC};
use crate::rng::Rng;
use raftyard_raft::{GroupId, Instant, NodeId, Settings};
use raftyard_runtime::core::Counters;
use raftyard_runtime::core::port::CoreId;
use raftyard_runtime::mailbox::Mailbox;
use raftyard_runtime::{Core, CoreConfig};
use raftyard_storage::io::WalId;
use raftyard_storage::sim::SimDisk;
use raftyard_storage::wal::{StoreId, Wal, WalConfig, WalError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const PROPOSAL_TIMEOUT: Duration = Duration::from_secs(3);

/// What a simulated cluster is made of.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    /// Nodes that hold the first groups.
    pub(crate) nodes: usize,
    /// Nodes that hold nothing at first.
    pub(crate) spares: usize,
    pub(crate) groups: u64,
    pub(crate) clients: usize,
    pub(crate) wal_depth: usize,
    /// How soon old segments are emptied, and checkpoints made.
    pub(crate) spare_segments: usize,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) mailbox_max: usize,
    pub(crate) leases: bool,
    pub(crate) uncommitted_bytes_max: usize,
    /// Bytes and entries that are kept for peers that lag; the usual limits are never reached here.
    pub(crate) retained: Option<(u64, u64)>,
}

/// How far a clock may run from true time, in millionths.
const DRIFT_MAX_PPM: u32 = 50_000;

impl Shape {
    /// What a seed decides about a cluster before it starts.
    pub(crate) fn of(rng: &mut Rng) -> Shape {
        Shape {
            nodes: if rng.chance(25) { 5 } else { 3 },
            spares: 1 + rng.below(2) as usize,
            groups: 1 + rng.below(4),
            clients: 3 + rng.below(6) as usize,
            wal_depth: 1 + rng.below(2) as usize,
            spare_segments: rng.below(4) as usize,
            checkpoint_bytes: [64 << 10, 256 << 10, 1 << 20][rng.below(3) as usize],
            mailbox_max: if rng.chance(30) { 2 } else { 64 },
            leases: rng.chance(50),
            uncommitted_bytes_max: if rng.chance(30) { 4 << 10 } else { 1 << 20 },
            retained: rng.chance(60).then(|| (100 + rng.below(3_000), 1 + rng.below(12))),
        }
    }

    pub(crate) fn all(&self) -> usize {
        self.nodes + self.spares
    }

    fn settings(&self) -> Settings {
        Settings {
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(600),
            append_bytes_max: 2_000,
            inflight_appends_max: 4,
            uncommitted_bytes_max: self.uncommitted_bytes_max,
            leases: self.leases,
            clock_drift_max_ppm: DRIFT_MAX_PPM,
            ..Settings::default()
        }
    }

    fn core(&self, node: NodeId, store: StoreId, boot: u64) -> CoreConfig {
        let defaults = CoreConfig::default();
        let (retain_bytes, retain_entries) = self.retained.unwrap_or((defaults.retain_bytes, defaults.retain_entries));
        CoreConfig {
            retain_bytes,
            retain_entries,
            snapshots_max: 1 + usize::from(self.groups > 2),
            snapshot_timeout: Duration::from_secs(1),
            cluster: 7,
            node,
            core: CoreId(0),
            cores: 1,
            store,
            boot,
            peers: (1..=self.all() as u64).map(NodeId).filter(|id| *id != node).collect(),
            raft: self.settings(),
            heartbeat_interval: Duration::from_millis(50),
            proposal_timeout: PROPOSAL_TIMEOUT,
            entry_bytes_max: 4 << 10,
            frame_bytes_max: 64 << 10,
            send_buffer_bytes_max: 32 << 10,
            ..defaults
        }
    }

    fn wal(&self, initialised: bool) -> WalConfig {
        WalConfig {
            segment_bytes: 256 << 10,
            depth: self.wal_depth,
            spare_segments: self.spare_segments,
            checkpoint_bytes: self.checkpoint_bytes,
            batch_bytes_max: 16 << 10,
            entry_bytes_max: 4 << 10,
            initialised,
            promise: if self.leases { self.settings().promise_after_restart() } else { Duration::ZERO },
            ..WalConfig::new(WalId(0)).with_segment_bytes(256 << 10)
        }
    }
}

/// A node's clock: it began some time ago, and runs a little fast or slow.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// True time at which `at_origin` was right.
    origin: Instant,
    at_origin: u64,
    drift_ppm: i64,
}

impl Clock {
    fn read(&self, now: Instant) -> Instant {
        let passed = i128::from(now.0 - self.origin.0);
        let passed = passed + passed * i128::from(self.drift_ppm) / 1_000_000;
        Instant(self.at_origin + u64::try_from(passed).expect("time passes"))
    }

    fn set(&mut self, now: Instant, at_origin: u64) {
        (self.origin, self.at_origin) = (now, at_origin);
    }
}

pub(crate) struct SimNode {
    pub(crate) id: NodeId,
    pub(crate) disk: SimDisk,
    pub(crate) store: StoreId,
    /// `None` while it is down.
    pub(crate) core: Option<Core>,
    pub(crate) mailbox: Mailbox,
    /// Counts its starts; events of an earlier life are void.
    pub(crate) life: u64,
    /// Its disk's log was opened before.
    initialised: bool,
    pub(crate) machines: Machines,
    /// What its core had counted when that was last looked at.
    pub(crate) counted: Counters,
    /// Groups that stopped here in this life.
    pub(crate) ailing: BTreeSet<GroupId>,
    /// A turn is due; inputs until then share it.
    pub(crate) turn_due: bool,
    /// Its disk answers nothing until then.
    pub(crate) stalled_until: Instant,
    /// It does nothing until then, and its clock goes on.
    pub(crate) paused_until: Instant,
    /// Its disk was lost: it will never hold a group again.
    pub(crate) lost: bool,
    /// Something on its disk went bad.
    pub(crate) rotten: bool,
    /// A replica of it is limited.
    pub(crate) limited: bool,
    /// A replica of it knows nothing of what it held.
    pub(crate) forgetful: bool,
    /// Nodes that know it, durably, by the disk it has, or had when it was lost.
    pub(crate) known_by: BTreeSet<usize>,
    clock: Clock,
}

impl SimNode {
    pub(crate) fn new(id: NodeId, shape: &Shape, rng: &mut Rng) -> SimNode {
        let drift = i64::from(DRIFT_MAX_PPM - 2_000);
        SimNode {
            id,
            disk: SimDisk::new(),
            store: StoreId(u128::from(id.0) + 100),
            core: None,
            mailbox: Mailbox::new(shape.mailbox_max, || ()),
            life: 0,
            initialised: false,
            machines: Machines::default(),
            counted: Counters::default(),
            ailing: BTreeSet::new(),
            turn_due: false,
            stalled_until: Instant(0),
            paused_until: Instant(0),
            lost: false,
            rotten: false,
            limited: false,
            forgetful: false,
            known_by: BTreeSet::new(),
            clock: Clock {
                origin: Instant(0),
                at_origin: 1 + rng.below(10_000_000_000),
                drift_ppm: rng.below(2 * drift as u64 + 1) as i64 - drift,
            },
        }
    }

    /// What its clock shows.
    pub(crate) fn local(&self, now: Instant) -> Instant {
        self.clock.read(now)
    }

    /// Its machine slept for so long, and nobody but its clock noticed.
    pub(crate) fn jump(&mut self, now: Instant, by: Duration) {
        let shown = self.local(now).after(by);
        self.clock.set(now, shown.0);
    }

    /// Starts the node on what its disk holds.
    pub(crate) fn start(&mut self, shape: &Shape, now: Instant, rng: &mut Rng) -> Result<(), WalError> {
        self.life += 1;
        self.machines = Machines::default();
        self.counted = Counters::default();
        self.ailing.clear();
        self.mailbox = Mailbox::new(shape.mailbox_max, || ());
        self.turn_due = false;
        let (wal, recovered) = Wal::open(&mut self.disk, shape.wal(self.initialised), rng.next())?;
        self.initialised = true;
        let machines = self.machines.clone();
        let config = shape.core(self.id, self.store, rng.next());
        let factory = Arc::new(move |group: GroupId| machines.open(group));
        let (local, disk) = (self.local(now), &mut self.disk);
        let mut load = |wal: &Wal, group| wal.load_snapshot(disk, group);
        let core = Core::open(config, wal, recovered, factory, &mut load, local, rng.next());
        self.core = Some(core.expect("what the log returns is what a replica wrote"));
        Ok(())
    }

    /// The process dies, with the power or without: of what it didn't sync, the disk keeps what chance decides.
    pub(crate) fn crash(&mut self, now: Instant, power: bool, rng: &mut Rng) {
        self.core = None;
        // Whoever waits in the mailbox is told that the core is gone.
        self.mailbox.close();
        self.paused_until = Instant(0);
        if power {
            self.disk.crash(&mut || rng.next());
            // The machine boots, and its clock begins anew.
            self.clock.set(now, 1 + rng.below(1_000_000_000));
        } else {
            self.disk.kill(&mut || rng.next());
        }
    }

    /// The disk is gone; an empty one takes its place.
    pub(crate) fn lose_disk(&mut self, rng: &mut Rng) {
        self.disk = SimDisk::new();
        self.initialised = false;
        self.store = StoreId(u128::from(rng.next()));
        self.lost = true;
    }
}

/// Keeps the panics that the simulator causes itself from being printed, and remembers where the others were.
pub(crate) fn quiet_panics() {
    use std::sync::Once;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let text = info.payload_as_str().unwrap_or("a panic without words");
            if !text.contains(TOLD_TO_PANIC) {
                let place = info.location().map(ToString::to_string).unwrap_or_default();
                LAST_PANIC.with(|last| *last.borrow_mut() = Some(format!("{text} ({place})")));
            }
        }));
    });
}

thread_local! {
    static LAST_PANIC: std::cell::RefCell<Option<String>> = const { std::cell::RefCell::new(None) };
}

/// What the last panic of this thread said, and where.
pub(crate) fn last_panic() -> Option<String> {
    LAST_PANIC.with(|last| last.borrow_mut().take())
}
