//! The processes: starts them, kills those it started, and asks them what they hold.

use crate::connection::Connection;
use crate::node::{self, Settings};
use crate::ports;
use crate::verify::AppliedSequence;
use raftyard::{GroupId, NodeId};
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take that must come to pass. Generous: it only decides when a hanging test fails.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// Pause between two looks.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Three node processes in one directory.
pub(crate) struct Cluster {
    root: PathBuf,
    settings: Vec<Settings>,
    processes: Vec<Option<Child>>,
}

impl Cluster {
    /// Starts three nodes in a new directory.
    pub(crate) fn start(name: &str) -> Cluster {
        // The target directory is on a real file system, unlike many a temporary directory.
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kill-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).expect("the target directory takes a directory");
        let addresses = ports::free_runs(6, 1, std::process::id() ^ name.len() as u32).expect("six free ports");
        let settings = node::settings_of_all(&root, &addresses[..3], &addresses[3..]);
        let mut cluster = Cluster { root, settings, processes: vec![None, None, None] };
        (0..3).for_each(|place| cluster.start_node(place));
        cluster
    }

    /// Starts a node that doesn't run, and waits until it serves.
    pub(crate) fn start_node(&mut self, place: usize) {
        self.spawn_node(place);
        self.wait_to_serve(place);
    }

    /// Waits until a node that was just spawned serves.
    pub(crate) fn wait_to_serve(&mut self, place: usize) {
        self.wait_for(&format!("node {} to serve", place + 1), |cluster| {
            let child = cluster.processes[place].as_mut().expect("just started");
            if let Some(status) = child.try_wait().expect("a child") {
                panic!("node {} ended with {status}:\n{}", place + 1, cluster.log_of(place));
            }
            Connection::open(cluster.settings[place].control).is_ok()
        });
    }

    /// Starts a node that doesn't run. It may still be recovering when this returns.
    pub(crate) fn spawn_node(&mut self, place: usize) {
        assert!(self.processes[place].is_none(), "it runs");
        let settings = &self.settings[place];
        let log = self.log(place, OpenOptions::new().append(true).create(true));
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args(["node_process", "--exact", "--nocapture"])
            .env(node::ENVIRONMENT, settings.to_environment())
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .expect("this program starts");
        self.processes[place] = Some(child);
    }

    /// Starts all nodes, none of which runs, in fresh directories. They may still be making them when this returns.
    pub(crate) fn spawn_afresh(&mut self) {
        for place in 0..self.settings.len() {
            let directory = self.directory(place);
            // An earlier start may have been killed before it made it.
            if directory.exists() {
                std::fs::remove_dir_all(directory).expect("nobody uses it");
            }
        }
        (0..self.settings.len()).for_each(|place| self.spawn_node(place));
    }

    /// Files that a node made so far.
    pub(crate) fn files_of(&self, place: usize) -> usize {
        count_files(self.directory(place))
    }

    /// SIGKILL for all of them before waiting for any.
    pub(crate) fn kill(&mut self, places: &[usize]) {
        for &place in places {
            let child = self.processes[place].as_mut().expect("it runs");
            child.kill().expect("a child that was not waited for");
        }
        for &place in places {
            let mut child = self.processes[place].take().expect("it ran");
            let status = child.wait().expect("a child");
            // A node that ended by itself before the signal is a failure of its own.
            let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(9);
            assert!(killed, "node {} ended with {status}:\n{}", place + 1, self.log_of(place));
        }
    }

    /// Where clients reach the nodes.
    pub(crate) fn control(&self) -> Vec<SocketAddr> {
        self.settings.iter().map(|settings| settings.control).collect()
    }

    /// The data directory of a node.
    pub(crate) fn directory(&self, place: usize) -> &Path {
        &self.settings[place].directory
    }

    /// Asks a node that runs.
    pub(crate) fn ask(&self, place: usize, request: &str) -> String {
        let answer = Connection::open(self.settings[place].control).and_then(|mut node| node.ask(request));
        answer.unwrap_or_else(|e| panic!("node {} to {request}: {e}\n{}", place + 1, self.log_of(place)))
    }

    /// Creates groups 1 to `groups` on all nodes.
    pub(crate) fn create_groups(&self, groups: u64) {
        for group in 1..=groups {
            for place in 0..self.settings.len() {
                assert_eq!(self.ask(place, &format!("create {group}")), "created");
            }
        }
    }

    /// What every node holds of a group.
    pub(crate) fn replicas(&self, group: GroupId) -> Vec<(NodeId, AppliedSequence)> {
        let dump = |place| node::parse_dump(&self.ask(place, &format!("dump {group}")));
        (0..self.settings.len()).map(|place| (self.settings[place].node, dump(place))).collect()
    }

    /// Waits until something holds.
    pub(crate) fn wait_for(&mut self, what: &str, mut holds: impl FnMut(&mut Cluster) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            if began.elapsed() > WITHIN {
                let logs = (0..3).map(|place| format!("node {}:\n{}", place + 1, self.log_of(place)));
                panic!("waited {} s for {what}\n{}", WITHIN.as_secs(), logs.collect::<String>());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// The end of what a node wrote.
    pub(crate) fn log_of(&self, place: usize) -> String {
        let text = std::fs::read_to_string(self.log_path(place)).unwrap_or_default();
        let lines = text.lines().collect::<Vec<_>>();
        lines[lines.len().saturating_sub(40)..].join("\n") + "\n"
    }

    fn log(&self, place: usize, options: &OpenOptions) -> File {
        options.open(self.log_path(place)).expect("a log file")
    }

    fn log_path(&self, place: usize) -> PathBuf {
        self.root.join(format!("node-{}.log", place + 1))
    }
}

fn count_files(directory: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let paths = entries.map(|entry| entry.expect("readable").path());
    paths.map(|path| if path.is_dir() { count_files(&path) } else { 1 }).sum()
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for mut child in self.processes.iter_mut().filter_map(Option::take) {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("what the nodes left is in {}", self.root.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}
