//! Raftyard: a runtime that hosts thousands to a million Raft groups on one node.
//!
//! A [`Node`] is one process of a cluster. It runs one thread a core, each with its own write-ahead log and sockets;
//! every group lives on one of them. A [`GroupHandle`] proposes commands from any thread or executor; the group's
//! [`StateMachine`] on every node applies those that a majority holds durably.
#![forbid(unsafe_code)]

mod config;
mod group;
mod node;
mod pending;
mod preflight;

pub use config::{ConfigError, Durability, NodeConfig};
pub use group::{
    Campaign, ChangeMembership, Compact, CreateGroup, ForceMembership, GroupHandle, Propose, Read, RemoveGroup, Status,
    Transfer,
};
pub use node::{Node, OpenError};
pub use pending::Pending;
pub use preflight::PreflightError;

pub use bytes::Bytes;
pub use raftyard_raft::{
    Base, Configuration, ConfigurationError, GroupId, LogIndex, LogPosition, Member, MemberChange, NodeId, ReplicaId,
    Term,
};
pub use raftyard_runtime::driver::{CoreLost, StartError, floor};
pub use raftyard_runtime::group::{
    Command, Commands, GroupConfig, GroupStatus, Responses, RoleName, SnapshotSink, SnapshotSource, StateMachine,
    StateMachineFactory,
};
pub use raftyard_runtime::mail::{
    Applied, CampaignError, ChangeError, Changed, CompactError, CreateGroupError, ForceError, Limit, NotChanged,
    NotProposed, ProposeError, ReadAnswer, ReadError, ReadMode, RemoveError, TransferError, Unavailable, Unknown,
};
pub use raftyard_storage::io::WriteMode;

/// The README's example is compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
