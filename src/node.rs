//! One process of a cluster: its cores, from the checks before the start to the last thread's end.

use crate::config::{ConfigError, NodeConfig};
use crate::group::{self, CreateGroup, GroupHandle, RemoveGroup};
use crate::preflight::{self, DataDirLock, PreflightError};
use raftyard_raft::{GroupId, NodeId, ReplicaId};
use raftyard_runtime::core::core_of;
use raftyard_runtime::core::port::CoreId;
use raftyard_runtime::driver::{
    self, CoreLost, CoreRunning, CoreStart, CoreStarting, Resolver, StartError, address_of_core,
};
use raftyard_runtime::group::{GroupConfig, Joining, StateMachineFactory};
use raftyard_storage::device::UringDisk;
use raftyard_storage::io::WalId;
use raftyard_storage::manifest::{ClusterId, Manifest, ManifestError};
use raftyard_storage::wal::StoreId;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// A running node. Groups are reached through [`GroupHandle`]s. Dropping it shuts it down and waits for that.
#[derive(Debug)]
pub struct Node {
    cores: Vec<CoreRunning>,
    node: NodeId,
    /// Held until every core has ended.
    _lock: DataDirLock,
}

/// Why a node didn't start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A value of the configuration can't be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It can't start on this machine or in this directory.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The data directory can't be opened for the log.
    #[error("data_dir = {}: {error}", path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The manifest can't be read or written.
    #[error("data_dir = {}: {error}", path.display())]
    Manifest {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        error: ManifestError,
    },
    /// The data directory belongs to another node.
    #[error("data_dir = {}: it belongs to node {found}, this is node {expected}", path.display())]
    OtherNode {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who we are.
        expected: NodeId,
    },
    /// The data directory belongs to another cluster.
    #[error("data_dir = {}: it belongs to cluster {found}, this is cluster {expected}", path.display())]
    OtherCluster {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: u64,
        /// Where we are.
        expected: u64,
    },
    /// The data directory was made with another number of cores.
    #[error("cores = {expected}: data_dir = {} was made with {found}, and groups can't move yet", path.display())]
    OtherCores {
        /// The directory.
        path: PathBuf,
        /// The number of logs in it.
        found: usize,
        /// The number of cores asked for.
        expected: u16,
    },
    /// The system gave no random numbers.
    #[error("no random numbers: {0}")]
    Random(io::Error),
    /// A core didn't start.
    #[error(transparent)]
    Core(#[from] StartError),
}

impl Node {
    /// Starts a node: checks the configuration, the machine and the data directory, recovers what the directory holds,
    /// and serves. Blocks until then. Each group found in the log gets its state machine from `machines`.
    ///
    /// # Errors
    /// Why it can't start. Nothing of it runs then, and nothing it found was changed for the worse.
    pub fn open(config: NodeConfig, machines: impl StateMachineFactory + 'static) -> Result<Node, OpenError> {
        config.validate()?;
        // Before the memory that cores lock: too many cores want too much of that, too, and are what to change.
        let cpus = if config.pin { Some(preflight::cpus(config.cores)?) } else { None };
        preflight::check_system(config.cores)?;
        let lock = preflight::take_data_dir(&config.data_dir)?;
        let path = config.data_dir.clone();
        let mut disk = UringDisk::open(path.clone(), MANIFEST_RING_ENTRIES)
            .map_err(|error| OpenError::Disk { path: path.clone(), error })?;
        let found = Manifest::load(&mut disk).map_err(|error| OpenError::Manifest { path: path.clone(), error })?;
        if let Some(manifest) = &found {
            check_manifest(manifest, &config)?;
        }
        let store = match &found {
            Some(manifest) => manifest.store,
            None => StoreId(random()?),
        };
        let (starting, lost) = open_cores(&config, store, found.is_some(), cpus.as_deref(), Arc::new(machines))?;
        let forgetful = lost || found.as_ref().is_some_and(|manifest| manifest.forgetful);
        if let Some(manifest) = found.as_ref().filter(|manifest| manifest.forgetful != forgetful) {
            // Before any core serves: what it founds anew may be what it has forgotten.
            let marked = Manifest { forgetful, ..manifest.clone() };
            if let Err(error) = marked.replace(&mut disk) {
                starting.into_iter().for_each(CoreStarting::abandon);
                return Err(OpenError::Manifest { path, error });
            }
        }
        if found.is_none() {
            // Only now that every log exists: a manifest promises its logs. And before any core speaks to a peer,
            // which would remember a store id that a crash makes us forget.
            let wals = (0..config.cores).map(WalId).collect();
            let manifest =
                Manifest { node: config.node, cluster: ClusterId(config.cluster), store, wals, forgetful: false };
            if let Err(error) = manifest.create(&mut disk) {
                starting.into_iter().for_each(CoreStarting::abandon);
                return Err(OpenError::Manifest { path, error });
            }
        }
        let cores = serve_cores(starting, forgetful)?;
        tracing::info!(node = %config.node, address = %cores[0].address, cores = cores.len(), "the node serves");
        Ok(Node { cores, node: config.node, _lock: lock })
    }

    /// This node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.node
    }

    /// Where the first core listens for other nodes.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.cores[0].address
    }

    /// How many cores the node has.
    #[must_use]
    pub fn cores(&self) -> u16 {
        u16::try_from(self.cores.len()).expect("checked when the node was opened")
    }

    /// Creates this node's replica of a group; every member's node must be given the same configuration. Answered when
    /// the creation is durable.
    pub fn create_group(&self, config: GroupConfig) -> CreateGroup {
        group::create(&self.core_of(config.group).mailbox, config)
    }

    /// Creates this node's replica of a group that exists on other nodes. It does nothing until a change of members, on the
    /// group's leader, adds it ([`GroupHandle::change_membership`]); then the leader brings it up to date. `replica` must
    /// be above every id that the group ever had ([`Configuration::highest_replica`](crate::Configuration)). Answered when
    /// the creation is durable.
    pub fn join_group(&self, group: GroupId, replica: ReplicaId) -> CreateGroup {
        group::join(&self.core_of(group).mailbox, Joining { group, replica })
    }

    /// Removes this node's replica of a group for good: whatever is under way is answered
    /// [`Unknown::GroupRemoved`](crate::Unknown), its bytes are given back, and its replica id can't be used on this node
    /// again. Refused while the replica is a member, by what this node knows to be committed: change the members first.
    /// Answered when the removal is durable.
    pub fn remove_group(&self, group: GroupId) -> RemoveGroup {
        group::remove(&self.core_of(group).mailbox, group, false)
    }

    /// As [`remove_group`](Node::remove_group), also if the replica is a member: for the others that is as if this node's
    /// disk were lost. For a group that is given up on all its nodes, or after
    /// [`force_membership`](GroupHandle::force_membership) elsewhere.
    pub fn remove_group_anyway(&self, group: GroupId) -> RemoveGroup {
        group::remove(&self.core_of(group).mailbox, group, true)
    }

    /// A handle of a group. Whether it exists here, the first answer tells.
    #[must_use]
    pub fn group(&self, group: GroupId) -> GroupHandle {
        GroupHandle::new(group, Arc::clone(&self.core_of(group).mailbox))
    }

    /// Stops the node: takes no more proposals, finishes what is under way, and waits for all cores to end. Proposals
    /// that can't be finished in time are answered `Unknown`.
    ///
    /// # Errors
    /// A core was lost before or meanwhile; the others were shut down.
    pub fn shutdown(mut self) -> Result<(), CoreLost> {
        self.end()
    }

    fn core_of(&self, group: GroupId) -> &CoreRunning {
        &self.cores[usize::from(core_of(group, self.cores()).0)]
    }

    fn end(&mut self) -> Result<(), CoreLost> {
        // All are asked before any is waited for: they finish in parallel.
        self.cores.iter().for_each(CoreRunning::shut_down);
        let ended: Vec<_> = self.cores.drain(..).map(CoreRunning::join).collect();
        ended.into_iter().collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(lost) = self.end() {
            tracing::error!("{lost}");
        }
    }
}

/// The manifest is read and written one operation after the other.
const MANIFEST_RING_ENTRIES: u32 = 4;

fn check_manifest(manifest: &Manifest, config: &NodeConfig) -> Result<(), OpenError> {
    let path = config.data_dir.clone();
    if manifest.cluster.0 != config.cluster {
        return Err(OpenError::OtherCluster { path, found: manifest.cluster.0, expected: config.cluster });
    }
    if manifest.node != config.node {
        return Err(OpenError::OtherNode { path, found: manifest.node, expected: config.node });
    }
    if manifest.wals.len() != usize::from(config.cores) {
        return Err(OpenError::OtherCores { path, found: manifest.wals.len(), expected: config.cores });
    }
    Ok(())
}

/// Opens the logs of all cores in parallel; no core serves yet. Says whether one may have forgotten replicas. On an error
/// all are ended again.
fn open_cores(
    config: &NodeConfig,
    store: StoreId,
    initialised: bool,
    cpus: Option<&[usize]>,
    machines: Arc<dyn StateMachineFactory>,
) -> Result<(Vec<CoreStarting>, bool), OpenError> {
    let boot = random()? as u64;
    let resolver: Arc<dyn Resolver> = Arc::new(config.peers.clone());
    let mut starting = Vec::with_capacity(usize::from(config.cores));
    let mut failed = None;
    for number in 0..config.cores {
        let core = CoreId(number);
        let start = CoreStart {
            config: config.core(core, store, boot),
            wal: config.wal(core, initialised),
            data_dir: config.data_dir.clone(),
            listen: address_of_core(config.listen, core).expect("validated: every core has a port"),
            resolver: Arc::clone(&resolver),
            pin: cpus.map(|cpus| cpus[usize::from(number)]),
            machines: Arc::clone(&machines),
            mailbox_max: config.mailbox_max,
            connect_timeout: config.connect_timeout,
            seed: random()? as u64,
        };
        match driver::start(start) {
            Ok(core) => starting.push(core),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let mut forgetful = false;
    for core in &mut starting {
        match core.opened() {
            Ok(lost) => forgetful |= lost,
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    if let Some(error) = failed {
        starting.into_iter().for_each(CoreStarting::abandon);
        return Err(error.into());
    }
    Ok((starting, forgetful))
}

/// Lets all cores serve. On an error all are ended again.
fn serve_cores(starting: Vec<CoreStarting>, forgetful: bool) -> Result<Vec<CoreRunning>, OpenError> {
    let mut serving = Vec::with_capacity(starting.len());
    let mut failed = None;
    for core in starting {
        match core.serve(forgetful) {
            Ok(core) => serving.push(core),
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    let Some(error) = failed else { return Ok(serving) };
    serving.iter().for_each(CoreRunning::shut_down);
    for core in serving {
        if let Err(lost) = core.join() {
            tracing::error!("{lost}");
        }
    }
    Err(error.into())
}

fn random() -> Result<u128, OpenError> {
    let mut bytes = [0; 16];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| OpenError::Random(error.into()))?;
    // The system gives up to 256 bytes whole or not at all.
    assert_eq!(got, bytes.len(), "getrandom gives small requests whole");
    Ok(u128::from_le_bytes(bytes))
}
