//! One core of a Raftyard node, and what drives it.
#![deny(unsafe_code)]

pub mod core;
#[cfg(feature = "driver")]
pub mod driver;
pub mod group;
pub mod mail;
pub mod mailbox;
pub mod wire;

pub use crate::core::{Core, CoreConfig};
