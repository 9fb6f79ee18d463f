//! What a node refuses at its start: as the library's errors, and as whoever runs a node process sees it.

mod library;
mod process;

use raftyard::{Commands, GroupId, Node, NodeConfig, NodeId, OpenError, Responses, StateMachine};
use std::path::Path;
use tempfile::TempDir;

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, commands: Commands<'_>, responses: &mut Responses) {
        commands.for_each(|_| responses.push(Vec::new().into()));
    }
}

pub(crate) fn open(config: NodeConfig) -> Result<Node, OpenError> {
    Node::open(config.with_segment_bytes(256 << 10), |_: GroupId| Nothing)
}

pub(crate) fn config(dir: &Path) -> NodeConfig {
    NodeConfig { node: NodeId(1), data_dir: dir.to_owned(), pin: false, ..NodeConfig::default() }
}

pub(crate) fn temp_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on the target's filesystem")
}
