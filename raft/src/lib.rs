//! The Raft protocol of one replica of one group, and nothing else.
//!
//! This crate owns the rules: elections, replication, commitment. It must never know a clock, a socket, a disk, a
//! thread or a source of randomness: time and seeds are inputs, and everything it wants done is an output that the
//! caller polls. Its caller is a core of `raftyard-runtime`, or a test.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod check;
mod election;
mod follower;
mod leader;
mod log;
mod message;
mod output;
mod progress;
mod raft;
mod random;
mod restore;
mod settings;
mod status;
mod types;

pub use check::MessageError;
pub use message::{Body, Durability, Entries, Message, Outgoing};
pub use output::{Persist, Receipt};
pub use raft::{ProposeError, Raft};
pub use restore::{RestoreError, Restored};
pub use settings::{Settings, SettingsError};
pub use status::Role;
pub use types::{
    Configuration, ConfigurationError, Entry, EntryKind, GroupId, HardState, Instant, LogIndex, LogPosition, Member,
    NodeId, ReplicaId, Term,
};
