//! `raftyard bench` as its users run it: a short run, what it leaves behind, and what it refuses.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A directory of this test on a real file system, unlike many a temporary directory.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory takes a directory")
}

fn bench(directory: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftyard"));
    command.current_dir(directory).arg("bench").args(flags).stdin(Stdio::null());
    command
}

fn run(directory: &Path, flags: &[&str]) -> Output {
    bench(directory, flags).output().expect("the program starts")
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).expect("it is there");
    entries.map(|entry| entry.expect("readable").path()).collect()
}

const SHORT: [&str; 8] = ["--groups", "8", "--concurrency", "8", "--duration", "1s", "--warmup", "200ms"];

#[test]
fn a_short_run_is_verified_reported_and_cleaned_up() {
    let scratch = scratch();
    let json = scratch.path().join("report.json");
    let flags = [&SHORT[..], &["--json", "report.json", "--seed", "7"]].concat();
    let output = run(scratch.path(), &flags);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    assert!(stdout.contains("operations/s") && stdout.contains("durability"), "{stdout}");
    assert!(!stderr.contains('\u{1b}'), "no progress bar where nobody watches: {stderr:?}");

    let report: Value = serde_json::from_slice(&std::fs::read(&json).expect("written")).expect("JSON");
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}"));
    assert_eq!(report.pointer("/verified/replicas_equal"), Some(&Value::Bool(true)));
    assert_eq!(report.pointer("/verified/acknowledged_applied_once"), Some(&Value::Bool(true)));
    assert!(number("/acknowledged") > 0.0 && number("/throughput_ops_per_s") > 0.0);
    assert!(number("/latency_us/p50") > 0.0 && number("/latency_us/p50") <= number("/latency_us/max"));
    assert!(number("/floor/durable_write_us/p50") > 0.0 && number("/floor/loopback_rtt_us/p50") > 0.0);
    assert!(number("/cpu_us_per_op") > 0.0 && number("/rss_bytes") > 0.0);
    assert_eq!((number("/config/groups"), number("/config/seed")), (8.0, 7.0));
    assert_eq!(entries(scratch.path()), [json], "the data directory is gone");
}

#[test]
fn a_reader_of_the_table_that_leaves_is_no_failure() {
    let scratch = scratch();
    let flags = [&SHORT[..], &["--json", "report.json", "--data-dir", "a/b/c"]].concat();
    let mut child = bench(scratch.path(), &flags)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // Before the table is printed, and maybe before the first line.
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    assert_eq!(entries(scratch.path()), [scratch.path().join("report.json")], "made parents are gone, too");
    let json = std::fs::read(scratch.path().join("report.json")).expect("written");
    serde_json::from_slice::<Value>(&json).expect("whole");
}

#[test]
fn several_cores_and_no_durability_are_verified_as_well() {
    let scratch = scratch();
    let flags = [&SHORT[..], &["--cores-per-node", "2", "--durability", "none", "--data-dir", "data"]].concat();
    let output = run(scratch.path(), &flags);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
    assert!(stdout.contains("NONE"), "it says that nothing was durable: {stdout}");
    assert_eq!(entries(scratch.path()), Vec::<PathBuf>::new());
}

#[test]
fn refusals_are_one_line_and_leave_everything_alone() {
    let scratch = scratch();
    let precious = scratch.path().join("full/precious");
    std::fs::create_dir(scratch.path().join("full")).expect("mkdir");
    std::fs::write(&precious, b"data").expect("write");
    for (flags, words, code) in [
        (&["--data-dir", "full"][..], "not empty", 1),
        (&["--value-bytes", "7"], "--value-bytes", 2),
        (&["--duration", "forever"], "--duration", 2),
        (&["--no-such-flag"], "--no-such-flag", 2),
        (&["--json", "missing/report.json"], "--json", 1),
        (&["--data-dir", "/dev/shm/raftyard-bench-test"], "memory", 1),
    ] {
        let output = run(scratch.path(), &[&SHORT[..], flags].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{flags:?}: {stderr}");
        assert!(stderr.contains(words), "{flags:?}: {stderr}");
    }
    assert_eq!(std::fs::read(&precious).expect("still there"), b"data");
    assert_eq!(entries(scratch.path()).len(), 1);
    assert!(!Path::new("/dev/shm/raftyard-bench-test").exists());
}

#[test]
fn an_interrupted_run_cleans_up() {
    let scratch = scratch();
    let mut child = bench(scratch.path(), &["--groups", "8", "--duration", "60m"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    // As soon as its directory is there: in the midst of the floor, of the creation, or of the load.
    while entries(scratch.path()).is_empty() {
        assert_eq!(child.try_wait().expect("a child"), None, "it ended by itself");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(entries(scratch.path()), Vec::<PathBuf>::new());
}
