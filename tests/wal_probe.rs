//! `raftyard wal probe` as its users run it: what it prints, what it leaves behind (nothing), and what it refuses.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A directory of this test on a real file system, unlike many a temporary directory.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory takes a directory")
}

fn probe(directory: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftyard"));
    command.current_dir(directory).args(["wal", "probe"]).args(flags).stdin(Stdio::null());
    command
}

fn run(directory: &Path, flags: &[&str]) -> Output {
    probe(directory, flags).output().expect("the program starts")
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).expect("it is there").next().is_none()
}

#[test]
fn a_run_measures_every_way_and_recommends() {
    let scratch = scratch();
    let output = run(scratch.path(), &["--seconds", "2", "--json"]);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    assert!(!stderr.contains('\u{1b}'), "no progress bar where nobody watches: {stderr:?}");
    let report: Value = serde_json::from_str(&stdout).expect("JSON");
    let cells = report.pointer("/cells").and_then(Value::as_array).expect("cells");
    // 3 sizes, 2 modes, 3 depths, each registered or not, polled or not, busy or not; registering may be forbidden.
    let allowed = report.pointer("/registration_allowed") == Some(&Value::Bool(true));
    assert_eq!(cells.len(), if allowed { 144 } else { 72 });
    for cell in cells {
        let number = |name: &str| cell.get(name).and_then(Value::as_f64).expect("a number");
        assert!(number("p50_us") > 0.0 && number("p50_us") <= number("p99_us"), "{cell}");
        assert!(number("writes_per_s") > 0.0, "{cell}");
    }
    let mode = report.pointer("/advice/write_mode").and_then(Value::as_str);
    assert!(matches!(mode, Some("Dsync" | "LinkedSync")), "{mode:?}");
    let depth = report.pointer("/advice/wal_depth").and_then(Value::as_u64);
    assert!(matches!(depth, Some(1 | 2 | 4)), "{depth:?}");
    assert!(is_empty(scratch.path()));
}

#[test]
fn the_table_names_the_settings() {
    let scratch = scratch();
    let output = run(scratch.path(), &["--seconds", "2", "--dir", "."]);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}\n{stdout}", output.status);
    for words in ["256 KiB LinkedSync depth 4", "writes/s", "write_mode = ", "wal_depth = ", "durability = Sync"] {
        assert!(stdout.contains(words), "{words} in\n{stdout}");
    }
}

#[test]
fn refusals_are_one_line_and_leave_everything_alone() {
    let scratch = scratch();
    std::fs::write(scratch.path().join("file"), b"data").expect("write");
    for (flags, words, code) in [
        (&["--dir", "missing"][..], "--dir missing: ", 1),
        (&["--dir", "file"], "--dir file: ", 1),
        (&["--dir", "/dev/shm"], "--dir /dev/shm: it is in memory (tmpfs)", 1),
        // Nobody may make a file there, whoever asks.
        (&["--dir", "/proc/self"], "--dir /proc/self: ", 1),
        (&["--seconds", "1"], "--seconds", 2),
        (&["--seconds", "soon"], "--seconds", 2),
        (&["--no-such-flag"], "--no-such-flag", 2),
    ] {
        if words.contains("tmpfs") && !Path::new("/dev/shm").exists() {
            eprintln!("skipped: /dev/shm is not here");
            continue;
        }
        let output = run(scratch.path(), flags);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{flags:?}: {stderr}");
        assert!(stderr.contains(words), "{flags:?}: {stderr}");
    }
    assert_eq!(std::fs::read_dir(scratch.path()).expect("there").count(), 1);
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let scratch = scratch();
    let mut child = probe(scratch.path(), &["--seconds", "3600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Once its file is open, which by then has no name.
    let descriptors = format!("/proc/{}/fd", child.id());
    let has_file = || {
        let links = std::fs::read_dir(&descriptors).into_iter().flatten().flatten();
        links
            .filter_map(|link| std::fs::read_link(link.path()).ok())
            .any(|to| to.to_string_lossy().ends_with(" (deleted)"))
    };
    while !has_file() {
        assert_eq!(child.try_wait().expect("a child"), None, "it ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(is_empty(scratch.path()));
}
