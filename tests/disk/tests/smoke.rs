//! The workload on a disk that is well: it writes, ends like a crash, and finds what it wrote; and it would notice if
//! something were missing.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

struct Workload {
    directory: TempDir,
    nodes: usize,
}

impl Workload {
    fn new(nodes: usize) -> Workload {
        // The target directory is on a real file system, unlike many a temporary directory.
        Workload { directory: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory"), nodes }
    }

    fn ledger(&self) -> PathBuf {
        self.directory.path().join("ledger")
    }

    /// Runs it to its end. Returns whether it found all well, and what it printed.
    fn run(&self, run: &str, arguments: &[&str]) -> (bool, String) {
        let dirs = (1..=self.nodes).map(|n| self.directory.path().join(format!("node-{n}")).display().to_string());
        let output = Command::new(env!("CARGO_BIN_EXE_raftyard-disk"))
            .args(["--dirs", &dirs.collect::<Vec<_>>().join(",")])
            .arg("--ledger")
            .arg(self.ledger())
            .args(["--run", run])
            .args(arguments)
            .output()
            .expect("the program starts");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), told + &String::from_utf8_lossy(&output.stderr))
    }

    fn acknowledged(&self) -> usize {
        std::fs::read_to_string(self.ledger()).expect("a ledger").lines().count()
    }
}

#[test]
fn what_was_acknowledged_is_found_run_after_run() {
    for nodes in [1, 3] {
        let workload = Workload::new(nodes);
        let mut before = 0;
        for run in ["0", "1"] {
            let (good, told) = workload.run(run, &["load", "--seconds", "1"]);
            assert!(good && told.contains("log_failed=false"), "{nodes} nodes: {told}");
            let (good, told) = workload.run("0", &["verify"]);
            let acknowledged = workload.acknowledged();
            assert!(good && told.contains(&format!("acknowledged={acknowledged} lost=0 ")), "{nodes} nodes: {told}");
            assert!(acknowledged > before, "run {run} acknowledged something");
            before = acknowledged;
        }
    }
}

#[test]
fn what_is_missing_or_elsewhere_is_noticed() {
    let workload = Workload::new(1);
    let (good, told) = workload.run("0", &["load", "--seconds", "0.5"]);
    assert!(good, "{told}");
    let mut ledger = std::fs::OpenOptions::new().append(true).open(workload.ledger()).expect("a ledger");
    // Never proposed; and the first line's value at the index of nothing.
    let text = std::fs::read_to_string(workload.ledger()).expect("a ledger");
    let first = text.lines().next().expect("something was acknowledged");
    let (value, _) = first.rsplit_once(' ').expect("three numbers");
    writeln!(ledger, "1 {} 1000000\n{value} 1000001", u64::MAX).expect("the disk is well");
    let (good, told) = workload.run("0", &["verify"]);
    assert!(!good && told.contains("FAIL") && told.contains("lost=2 "), "{told}");
}

#[test]
fn a_directory_that_was_emptied_has_lost_everything() {
    let workload = Workload::new(1);
    let (good, told) = workload.run("0", &["load", "--seconds", "0.5"]);
    assert!(good, "{told}");
    std::fs::remove_dir_all(workload.directory.path().join("node-1")).expect("nobody uses it");
    let (good, told) = workload.run("0", &["verify"]);
    assert!(!good && told.contains(&format!("lost={} ", workload.acknowledged())), "{told}");
}
