//! STUB, dropped at the merge.
#![allow(missing_docs)]
use crate::io::{Disk, WalId, WriteMode};
use raftyard_raft::NodeId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreId(pub u128);

#[derive(Clone, Debug)]
pub struct WalConfig {
    pub wal: WalId,
    pub initialised: bool,
    pub segment_bytes: u64,
    pub batch_bytes_max: usize,
    pub batch_groups_max: usize,
    pub entry_bytes_max: usize,
    pub depth: usize,
    pub mode: WriteMode,
    pub zero_chunk_bytes: u64,
}

impl Default for WalConfig {
    fn default() -> Self {
        WalConfig {
            wal: WalId(0),
            initialised: false,
            segment_bytes: 64 << 20,
            batch_bytes_max: 1 << 20,
            batch_groups_max: 4096,
            entry_bytes_max: 8 << 20,
            depth: 1,
            mode: WriteMode::Dsync,
            zero_chunk_bytes: 1 << 20,
        }
    }
}

#[derive(Debug)]
pub struct Recovered {
    pub peers: Vec<(NodeId, StoreId)>,
}

#[derive(Debug)]
pub struct Wal;

#[derive(Debug, thiserror::Error)]
pub enum WalError {
    #[error("stub")]
    Stub,
}

impl Wal {
    pub fn open(_disk: &mut dyn Disk, _config: WalConfig, _seed: u64) -> Result<(Wal, Recovered), WalError> {
        Ok((Wal, Recovered { peers: Vec::new() }))
    }
}
impl WalConfig {
    pub fn new(wal: WalId) -> WalConfig {
        WalConfig { wal, ..WalConfig::default() }
    }
}
