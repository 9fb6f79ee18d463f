//! STUB, dropped at the merge.
#![allow(missing_docs)]
use crate::io::{Disk, WalId};
use crate::wal::StoreId;
use raftyard_raft::NodeId;

#[derive(Clone, Debug)]
pub struct Manifest {
    pub node: NodeId,
    pub cluster: u64,
    pub store: StoreId,
    pub wals: Vec<WalId>,
}

#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("stub")]
    Stub,
}

impl Manifest {
    pub fn load(_disk: &mut dyn Disk) -> Result<Option<Manifest>, ManifestError> {
        Ok(None)
    }
    pub fn create(_disk: &mut dyn Disk, _manifest: &Manifest) -> Result<(), ManifestError> {
        Ok(())
    }
}
