//! One core of a node: its groups, its log, its links, its deadlines. Synchronous and pure: no clock, no I/O, no
//! thread; a driver feeds it inputs and carries out its outputs.

pub mod port;
