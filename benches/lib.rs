//! Micro-benchmarks that need crates which no user's build should meet. Nothing is here for anybody to call: a package has
//! to have a library or a program. The protocol's benchmark is `cargo bench -p raftyard-raft`.
