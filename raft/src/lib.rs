//! The Raft protocol of one replica of one group, and nothing else.
//!
//! This crate owns the rules: elections, replication, commitment, membership, reads, leases, transfer. It must never know
//! a clock, a socket, a disk, a thread or a source of randomness: time and seeds are inputs, and everything it wants done
//! is an output that the caller polls. Its caller is a core of `raftyard-runtime`, or a test.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod authority;
mod check;
mod codec;
mod configuration;
mod election;
mod fetch;
mod flags;
mod follower;
mod leader;
mod limit;
mod log;
mod membership;
mod message;
mod output;
#[doc(hidden)]
pub mod planted;
mod progress;
mod raft;
mod random;
mod reads;
mod restore;
mod runs;
mod settings;
mod snapshot;
mod status;
mod transfer;
mod types;

pub use check::MessageError;
pub use codec::{ConfigurationEntry, DecodeError};
pub use configuration::{Configuration, ConfigurationError, MemberChange};
pub use election::CampaignError;
pub use fetch::{Fetch, Purpose};
pub use limit::Limit;
pub use membership::{ChangeError, ForceError};
pub use message::{Body, Durability, Entries, Message, Outgoing, Sender};
pub use output::{Persist, Receipt};
pub use raft::{ProposeError, Raft};
pub use reads::{ReadError, ReadState, ReadTicket};
pub use restore::{Base, Paged, RestoreError, Restored};
pub use settings::{Settings, SettingsError};
pub use snapshot::CompactError;
pub use status::Role;
pub use transfer::TransferError;
pub use types::{
    Entry, EntryKind, GroupId, HardState, Instant, LogIndex, LogPosition, Member, NodeId, ReplicaId, Term,
};
