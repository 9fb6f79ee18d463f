//! The write-ahead log of one core: its format, its segments, its recovery, and the devices it can live on.
//!
//! Everything but [`device`] is pure: it forms operations ([`io::IoOp`]) and takes their outcomes. It makes no protocol
//! decision.

pub mod aligned;
pub mod io;
