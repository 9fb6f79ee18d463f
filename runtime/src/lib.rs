//! One core of a Raftyard node, and what drives it.

pub mod core;
pub mod group;
pub mod mail;
pub mod mailbox;
pub mod wire;
#[cfg(feature = "driver")]
pub mod driver;
pub use crate::core::{Core, CoreConfig};
