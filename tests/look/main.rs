//! `raftyard wal` as its users run it: on the directory of a node that was stopped, of one that runs, on damaged ones, and
//! on what is none.

mod refused;

use raftyard::{
    Commands, Configuration, GroupConfig, GroupId, Member, Node, NodeConfig, NodeId, ReplicaId, Responses, StateMachine,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;
use tempfile::TempDir;

struct Nothing;

impl StateMachine for Nothing {
    fn apply(&mut self, commands: Commands<'_>, responses: &mut Responses) {
        commands.for_each(|_| responses.push(Vec::new().into()));
    }
}

fn temp_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory on the target's filesystem")
}

fn open(dir: &Path) -> Node {
    let config = NodeConfig { node: NodeId(1), data_dir: dir.to_owned(), pin: false, ..NodeConfig::default() };
    Node::open(config.with_segment_bytes(256 << 10), |_: GroupId| Nothing).expect("the node starts")
}

fn create(node: &Node, group: u64) {
    let configuration = Configuration::new(vec![Member { replica: ReplicaId(1), node: NodeId(1) }]).expect("one");
    let config = GroupConfig { group: GroupId(group), configuration, preferred_leader: Some(NodeId(1)) };
    node.create_group(config).wait().expect("created");
}

fn propose(node: &Node, group: u64, command: &str) {
    // Before the leader is elected, proposals are refused.
    while node.group(GroupId(group)).propose(command.to_owned()).wait().is_err() {
        std::thread::yield_now();
    }
}

/// A node that ran: three groups, ten commands each, one after the other.
fn data_dir() -> TempDir {
    let dir = temp_dir();
    let node = open(dir.path());
    (1..=3).for_each(|group| create(&node, group));
    for number in 0..10 {
        (1..=3).for_each(|group| propose(&node, group, &format!("group {group} command {number}")));
    }
    node.shutdown().expect("no core was lost");
    dir
}

fn wal(arguments: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftyard"));
    command.arg("wal").args(arguments).arg(dir).stdin(Stdio::null());
    command.output().expect("the program starts")
}

/// What it said, and that it said no more than that.
fn succeeded(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stderr.is_empty(), "{}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("{pointer} in {value:#}"))
}

/// Every file below a directory: its bytes and when it was changed.
fn content(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            let changed = path.metadata().and_then(|metadata| metadata.modified()).expect("it is there");
            found.insert(path.clone(), (std::fs::read(&path).expect("readable"), changed));
        }
    }
    found
}

#[test]
fn a_stopped_node_s_directory_is_looked_at_and_left_alone() {
    let dir = data_dir();
    let before = content(dir.path());
    let text = succeeded(&wal(&["inspect", "--groups"], dir.path()));
    for words in ["node 1 of cluster 1", "wal-0", "segment-0000000000000001.wal", "in use", "limited groups", "none"] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    assert!(!text.contains("a node runs") && !text.contains("DAMAGED"), "{text}");
    let found = json(&wal(&["inspect", "--json", "--groups"], dir.path()));
    assert_eq!((number(&found, "/manifest/node"), number(&found, "/logs/0/groups_count")), (1, 3));
    assert_eq!(found.pointer("/logs/0/clean"), Some(&Value::Bool(true)), "{found:#}");
    // A leader's empty entry and ten commands.
    assert_eq!((number(&found, "/logs/0/groups/2/group"), number(&found, "/logs/0/groups/2/last/index")), (3, 11));

    assert!(succeeded(&wal(&["verify"], dir.path())).contains("wal-0: whole"));
    let verified = json(&wal(&["verify", "--json", "--wal"], &dir.path().join("wal-0")));
    assert_eq!((verified.pointer("/whole"), number(&verified, "/logs/0/entries")), (Some(&Value::Bool(true)), 33));
    assert_eq!(verified.pointer("/manifest"), Some(&Value::Null), "the log alone was asked for");

    let all = succeeded(&wal(&["dump"], dir.path()));
    let count = |words: &str| all.lines().filter(|line| line.contains(words)).count();
    assert_eq!((count("creation"), count("batch sequence")), (3, number(&found, "/logs/0/last") as usize), "{all}");
    let one = succeeded(&wal(&["dump", "--group", "2", "--entries=12", "--json", "--from-seq", "3"], dir.path()));
    let lines: Vec<Value> = one.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines.iter().all(|line| line.pointer("/group").is_none_or(|group| group == 2)), "{one}");
    let entries: Vec<&Value> =
        lines.iter().filter(|line| line["kind"] == "entry" && line["type"] == "command").collect();
    assert_eq!((entries.len(), &entries[9]["bytes"], &entries[9]["cut"]), (10, &17.into(), &true.into()));
    assert_eq!(entries[9]["data"], "67726f7570203220636f6d6d", "`group 2 comm`");
    assert_eq!(content(dir.path()), before, "nothing was changed");
}

/// Ends the writing also when a check fails: who waits for the writer would wait for ever.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_running_node_s_directory_can_be_looked_at() {
    let dir = temp_dir();
    let node = open(dir.path());
    (1..=3).for_each(|group| create(&node, group));
    let before: Vec<PathBuf> =
        content(dir.path()).into_keys().filter(|path| !path.to_string_lossy().contains("wal-0")).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // More than a segment, so that files come and go.
            for number in 0.. {
                propose(&node, number % 3 + 1, &"x".repeat(3000));
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let stopping = Stopping(&stop);
        for _ in 0..5 {
            let text = succeeded(&wal(&["inspect"], dir.path()));
            assert!(text.contains("a node runs on it") && !text.contains("DAMAGED"), "{text}");
            assert!(succeeded(&wal(&["verify"], dir.path())).contains("wal-0: whole"));
            let dumped = succeeded(&wal(&["dump", "--json"], dir.path()));
            assert!(
                dumped.lines().all(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line["kind"] != "gap"))
            );
        }
        drop(stopping);
    });
    let after: Vec<PathBuf> =
        content(dir.path()).into_keys().filter(|path| !path.to_string_lossy().contains("wal-0")).collect();
    assert_eq!(before, after, "no file of the tools' own");
    node.shutdown().expect("it served on");
    assert!(!succeeded(&wal(&["inspect"], dir.path())).contains("a node runs"));
}

/// The file below `dir` that holds `words`, and the first byte of them in it.
fn place_of(words: &str, dir: &Path) -> (PathBuf, u64) {
    let places = content(dir).into_iter().filter_map(|(file, (bytes, _))| {
        let at = bytes.windows(words.len()).position(|window| window == words.as_bytes())?;
        Some((file, at as u64))
    });
    places.min().expect("the command is in the log")
}

#[test]
fn a_flipped_byte_is_found_with_its_batch_and_groups() {
    let dir = data_dir();
    let (file, at) = place_of("group 2 command 4", dir.path());
    let damaged = OpenOptions::new().write(true).open(&file).expect("a segment");
    damaged.write_all_at(b"G", at).expect("written");
    let output = wal(&["verify", "--json"], dir.path());
    assert_eq!(output.status.code(), Some(4));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(stderr, "raftyard wal verify: damaged places: 1, in logs: 1\n");
    let found = json(&output);
    let finding = &found["logs"][0]["findings"][0];
    let name = file.file_name().expect("a file").to_string_lossy();
    assert_eq!((&finding["file"], &finding["what"]), (&format!("wal-0/{name}").into(), &"batches".into()), "{found:#}");
    let offset = number(finding, "/offset");
    assert!(offset < at && at - offset < 4096, "batch at {offset}, byte at {at}");
    assert_eq!(
        (&finding["touched"], &finding["lost"]),
        (&serde_json::json!([2]), &serde_json::json!([2])),
        "{found:#}"
    );
    // The batch before and the one after are there, this one isn't.
    let (first, last) = (number(finding, "/first"), number(finding, "/last"));
    let dumped = succeeded(&wal(&["dump"], dir.path()));
    let has = |sequence: u64| dumped.contains(&format!("batch sequence {sequence} "));
    assert!(first == last && has(first - 1) && !has(first) && has(first + 1), "{dumped}");
    assert!(dumped.contains(&format!("gap offset {offset} bytes 4096")), "{dumped}");
    let text = String::from_utf8_lossy(&wal(&["verify"], dir.path()).stdout).into_owned();
    for words in [&format!("{name} at byte {offset}: batch {first} was durable and is lost"), "groups: 2;"] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    let text = String::from_utf8_lossy(&wal(&["inspect"], dir.path()).stdout).into_owned();
    assert!(text.contains("limited groups"), "{text}");

    damaged.write_all_at(b"g", at).expect("written");
    assert!(succeeded(&wal(&["verify"], dir.path())).contains("whole"));
}
