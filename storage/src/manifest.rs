//! The manifest of a node: whose data directory this is, and which logs belong to it.
//!
//! Owns its bytes and its atomic replacement. It is written last at a node's first start, when every log it names was
//! opened once: before it is durable the node has recorded nothing and spoken to nobody, so a crash on the way leaves
//! logs without records and no manifest, which the next start opens again as fresh. Once it is durable each log it names
//! must be there ([`crate::wal::WalConfig::initialised`]). Called by a node's start, before its cores.

use crate::aligned::AlignedBuf;
use crate::format::field::{Fields, checksum_around, is_zero, put};
use crate::format::{FORMAT_VERSION, FORMAT_VERSION_OLDEST, StoreId, Writer};
use crate::io::{BLOCK_BYTES, Directory, Disk, FileId, FileName, FilePath, IoError, IoOp, IoOutput, WalId, WriteMode};
use raftyard_raft::NodeId;
use std::fmt;

/// First bytes of a manifest.
pub const MANIFEST_MAGIC: [u8; 8] = *b"RYMANIFS";
const CHECKSUM_AT: usize = 12;
const WRITER_AT: usize = 56;
const WALS_AT: usize = 64;
const FLAG_FORGETFUL: u32 = 1;
const ENOENT: i32 = 2;

/// Names a cluster. Nodes of different clusters refuse each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub u64);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose data directory this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Random, made with the manifest: an emptied directory comes back with another one and is refused by the peers.
    pub store: StoreId,
    /// The node's logs, one a core. Invariant: 1 to [`Manifest::WALS_MAX`].
    pub wals: Vec<WalId>,
    /// A log lost batches and nothing says whose: the node may have forgotten that it had a replica, so that groups are
    /// only joined here, under new replica ids.
    pub forgetful: bool,
}

/// Why there is no usable manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The disk refused an operation.
    #[error("{file}: {error}")]
    Io {
        /// On what.
        file: FilePath,
        /// What the system said.
        error: IoError,
    },
    /// Its bytes are not what was written.
    #[error(
        "manifest: damaged; put back a copy of this node's manifest, or start it with an empty data directory and a new \
         node id"
    )]
    Damaged,
    /// Written by another version.
    #[error(
        "manifest: format version {version}, written by {writer}; this is {this}, which reads versions \
         {FORMAT_VERSION_OLDEST} to {FORMAT_VERSION}: start {writer} or a later one", this = Writer::this()
    )]
    UnknownVersion {
        /// The version found.
        version: u16,
        /// Who wrote it.
        writer: Writer,
    },
    /// The node would have no log, or too many.
    #[error("{count} logs: 1 to {max} are allowed", max = Manifest::WALS_MAX)]
    WalCount {
        /// How many were given.
        count: usize,
    },
    /// There is a manifest already.
    #[error("manifest: exists; this data directory belongs to a node")]
    Exists,
}

impl Manifest {
    /// Most logs a node can have.
    pub const WALS_MAX: usize = 1024;

    /// Reads the manifest and makes its name durable; `None` if the directory never had one. Blocking.
    ///
    /// # Errors
    /// [`ManifestError`] if it can't be read or is damaged.
    pub fn load(disk: &mut dyn Disk) -> Result<Option<Manifest>, ManifestError> {
        let found = Manifest::read(disk)?;
        if found.is_some() {
            // The start that wrote it may have been killed before it synced the directory. A node that serves on a name
            // that is not durable would come back from a power failure with logs and no manifest.
            execute(disk, path(FileName::Manifest), IoOp::SyncDirectory(Directory::Root))?;
        }
        Ok(found)
    }

    /// The same for one who only looks: nothing is made durable.
    ///
    /// # Errors
    /// As [`Manifest::load`].
    pub fn read(disk: &mut dyn Disk) -> Result<Option<Manifest>, ManifestError> {
        let path = path(FileName::Manifest);
        let (file, len) = match disk.execute(IoOp::Open(path)) {
            Ok(output) => opened(output),
            Err(error) if error.errno == ENOENT => return Ok(None),
            Err(error) => return Err(ManifestError::Io { file: path, error }),
        };
        let buffer = AlignedBuf::zeroed(BLOCK_BYTES);
        let output = execute(disk, path, IoOp::Read { file, offset: 0, buffer })?;
        execute(disk, path, IoOp::Close(file))?;
        let IoOutput::Buffer(block) = output else { panic!("the device answers a read with the buffer") };
        if len != BLOCK_BYTES as u64 {
            return Err(ManifestError::Damaged);
        }
        Manifest::decode(&block).map(Some)
    }

    /// Writes the manifest of a directory that has none, durably and as a whole: after a crash it is there or not.
    /// Blocking. Every log in it must have been opened before.
    ///
    /// # Errors
    /// [`ManifestError`] if there is one, or the disk fails; the call can be repeated after the latter.
    pub fn create(&self, disk: &mut dyn Disk) -> Result<(), ManifestError> {
        if self.wals.is_empty() || self.wals.len() > Self::WALS_MAX {
            return Err(ManifestError::WalCount { count: self.wals.len() });
        }
        let names = match execute(disk, path(FileName::Manifest), IoOp::List(Directory::Root))? {
            IoOutput::Names(names) => names,
            _ => panic!("the device answers a listing with names"),
        };
        if names.iter().any(|(name, _)| *name == FileName::Manifest) {
            return Err(ManifestError::Exists);
        }
        self.write(disk, &names)
    }

    /// Writes it in the place of the one that is there, durably and as a whole. Blocking.
    ///
    /// # Errors
    /// [`ManifestError`] if the disk fails; the call can be repeated.
    pub fn replace(&self, disk: &mut dyn Disk) -> Result<(), ManifestError> {
        match execute(disk, path(FileName::Manifest), IoOp::List(Directory::Root))? {
            IoOutput::Names(names) => self.write(disk, &names),
            _ => panic!("the device answers a listing with names"),
        }
    }

    fn write(&self, disk: &mut dyn Disk, names: &[(FileName, u64)]) -> Result<(), ManifestError> {
        let new = path(FileName::ManifestNew);
        if names.iter().any(|(name, _)| *name == FileName::ManifestNew) {
            // Left by a start that did not finish.
            execute(disk, new, IoOp::Remove(new))?;
        }
        let (file, _) = opened(execute(disk, new, IoOp::Create(new))?);
        let mut buffer = AlignedBuf::zeroed(BLOCK_BYTES);
        self.encode(&mut buffer);
        execute(disk, new, IoOp::Write { file, offset: 0, buffer, mode: WriteMode::Dsync })?;
        // The length too must be durable before the name points here.
        execute(disk, new, IoOp::Sync(file))?;
        execute(disk, new, IoOp::Close(file))?;
        let to = path(FileName::Manifest);
        execute(disk, new, IoOp::Rename { from: new, to })?;
        execute(disk, to, IoOp::SyncDirectory(Directory::Root)).map(drop)
    }

    fn encode(&self, block: &mut [u8]) {
        put(block, 0, MANIFEST_MAGIC);
        put(block, 8, FORMAT_VERSION.to_le_bytes());
        put(block, 16, self.node.0.to_le_bytes());
        put(block, 24, self.cluster.0.to_le_bytes());
        put(block, 32, self.store.0.to_le_bytes());
        put(block, 48, u32::try_from(self.wals.len()).expect("at most WALS_MAX logs").to_le_bytes());
        let flags = if self.forgetful { FLAG_FORGETFUL } else { 0 };
        put(block, 52, flags.to_le_bytes());
        put(block, WRITER_AT, Writer::this().bytes());
        for (place, wal) in self.wals.iter().enumerate() {
            put(block, WALS_AT + 2 * place, wal.0.to_le_bytes());
        }
        let checksum = checksum_around(0, block, CHECKSUM_AT);
        put(block, CHECKSUM_AT, checksum.to_le_bytes());
    }

    /// Reads the bytes of a manifest.
    ///
    /// # Errors
    /// [`ManifestError::Damaged`] or [`ManifestError::UnknownVersion`].
    pub fn decode(block: &[u8]) -> Result<Manifest, ManifestError> {
        if block.len() != BLOCK_BYTES || !block.starts_with(&MANIFEST_MAGIC) {
            return Err(ManifestError::Damaged);
        }
        let mut fields = Fields::new(&block[MANIFEST_MAGIC.len()..]);
        let version = fields.u16().ok_or(ManifestError::Damaged)?;
        let reserved = fields.u16().ok_or(ManifestError::Damaged)?;
        if fields.u32() != Some(checksum_around(0, block, CHECKSUM_AT)) {
            return Err(ManifestError::Damaged);
        }
        if !(FORMAT_VERSION_OLDEST..=FORMAT_VERSION).contains(&version) {
            let writer = block[WRITER_AT..].first_chunk().map_or_else(Writer::default, |b| Writer::from_bytes(*b));
            return Err(ManifestError::UnknownVersion { version, writer });
        }
        let manifest = Self::decode_body(&mut fields, version).ok_or(ManifestError::Damaged)?;
        let rest = &block[WALS_AT + 2 * manifest.wals.len()..];
        if reserved == 0 && is_zero(rest) { Ok(manifest) } else { Err(ManifestError::Damaged) }
    }

    fn decode_body(fields: &mut Fields<'_>, version: u16) -> Option<Manifest> {
        let node = NodeId(fields.u64()?);
        let cluster = ClusterId(fields.u64()?);
        let store = StoreId(fields.u128()?);
        let count = fields.u32()? as usize;
        let flags = fields.u32()?;
        let writer = Writer::read(fields)?;
        if flags & !FLAG_FORGETFUL != 0 || (version == 1 && (flags != 0 || writer != Writer::default())) {
            return None;
        }
        if !(1..=Self::WALS_MAX).contains(&count) {
            return None;
        }
        let wals = (0..count).map(|_| fields.u16().map(WalId)).collect::<Option<Vec<WalId>>>()?;
        Some(Manifest { node, cluster, store, wals, forgetful: flags & FLAG_FORGETFUL != 0 })
    }
}

const _: () = assert!(WALS_AT + 2 * Manifest::WALS_MAX <= BLOCK_BYTES, "a manifest is one block");

fn path(name: FileName) -> FilePath {
    FilePath { directory: Directory::Root, name }
}

fn opened(output: IoOutput) -> (FileId, u64) {
    match output {
        IoOutput::File { file, len } => (file, len),
        _ => panic!("the device answers an open with a file"),
    }
}

fn execute(disk: &mut dyn Disk, file: FilePath, op: IoOp) -> Result<IoOutput, ManifestError> {
    disk.execute(op).map_err(|error| ManifestError::Io { file, error })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::SimDisk;

    fn manifest() -> Manifest {
        Manifest {
            node: NodeId(7),
            cluster: ClusterId(9),
            store: StoreId(1 << 100),
            wals: vec![WalId(0), WalId(1)],
            forgetful: false,
        }
    }

    #[test]
    fn is_there_or_not_after_a_crash_anywhere() {
        let mut seen = [false; 2];
        for operation in 0..8 {
            for seed in 0..64u64 {
                let mut disk = SimDisk::new();
                disk.inject_fault(crate::sim::FaultTarget::Any, operation, 5);
                let created = manifest().create(&mut disk).is_ok();
                disk.clear_faults();
                let mut coins = seed;
                disk.crash(&mut || {
                    coins = coins.rotate_right(1);
                    coins
                });
                let loaded = Manifest::load(&mut disk).unwrap();
                assert!(loaded.is_none() || loaded == Some(manifest()));
                assert!(loaded.is_some() || !created, "a manifest that was created is there");
                seen[usize::from(loaded.is_some())] = true;
                if loaded.is_none() {
                    manifest().create(&mut disk).unwrap();
                }
                assert_eq!(manifest().create(&mut disk), Err(ManifestError::Exists));
            }
        }
        assert_eq!(seen, [true; 2]);
    }

    #[test]
    fn what_this_version_leaves_zero_must_be_zero() {
        let mut written = AlignedBuf::zeroed(BLOCK_BYTES);
        manifest().encode(&mut written);
        assert_eq!(Manifest::decode(&written), Ok(manifest()));
        for at in [10, 53, WALS_AT - 1, WALS_AT + 4, BLOCK_BYTES - 1] {
            let mut block = written.to_vec();
            block[at] = 1;
            let checksum = checksum_around(0, &block, CHECKSUM_AT);
            put(&mut block, CHECKSUM_AT, checksum.to_le_bytes());
            assert_eq!(Manifest::decode(&block), Err(ManifestError::Damaged), "byte {at}");
        }
    }

    /// A start killed between the renaming and the directory's sync, and a power failure after the next start.
    #[test]
    fn what_was_loaded_stays_after_a_power_failure() {
        let mut disk = SimDisk::new();
        disk.inject_fault(crate::sim::FaultTarget::SyncDirectory, 0, 5);
        assert!(manifest().create(&mut disk).is_err(), "the start ends before the directory is synced");
        disk.kill(&mut || 0);
        assert_eq!(Manifest::load(&mut disk), Ok(Some(manifest())));
        disk.crash(&mut || 0);
        assert_eq!(Manifest::load(&mut disk), Ok(Some(manifest())));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_damage() {
        let mut disk = SimDisk::new();
        manifest().create(&mut disk).unwrap();
        let path = path(FileName::Manifest);
        for bit in 0..BLOCK_BYTES * 8 {
            disk.damage(path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
            assert_eq!(Manifest::load(&mut disk), Err(ManifestError::Damaged));
            disk.damage(path, |bytes| bytes[bit / 8] ^= 1 << (bit % 8));
        }
        for _ in 0..BLOCK_BYTES {
            disk.damage(path, |bytes| bytes.truncate(bytes.len() - 1));
            assert_eq!(Manifest::load(&mut disk), Err(ManifestError::Damaged));
        }
    }
}
