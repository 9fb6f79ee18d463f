//! The write-ahead log of one core: its format, its segments, its recovery, and the devices it can live on.
//!
//! Everything but [`device`] is pure: it forms operations ([`io::IoOp`]) and takes their outcomes. It makes no protocol
//! decision. `FORMAT.md` beside this crate's manifest fixes every byte that is written.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod aligned;
pub mod device;
pub mod format;
pub mod io;
pub mod manifest;
mod seed;
pub mod sim;
pub mod wal;
