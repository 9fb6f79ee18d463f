//! The write-ahead log of one core: its format, its segments, its recovery, and the devices it can live on.
//!
//! Everything but [`device`] is pure: it forms operations ([`io::IoOp`]) and takes their outcomes. It makes no protocol
//! decision. `FORMAT.md` beside this crate's manifest fixes every byte that is written.

pub mod aligned;
pub mod format;
pub mod io;
mod seed;
pub mod sim;
pub mod wal;
