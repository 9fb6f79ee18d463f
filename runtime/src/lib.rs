//! One core of a Raftyard node, and what drives it.

pub mod core;
pub mod group;
pub mod mail;
pub mod wire;

pub use crate::core::{Core, CoreConfig};
