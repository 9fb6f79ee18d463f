//! What `raftyard bench` and `raftyard wal probe` say where the system gives it too little: one clear line and a non-zero exit, rather than a
//! panic of the executor. What a node refuses by itself is in `refused/`.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs a small benchmark in a process that `restrict` prepared, and gives back its only line of complaint.
fn complaint(restrict: fn() -> std::io::Result<()>) -> String {
    complaint_of(&["bench", "--groups", "1", "--duration", "1s"], restrict)
}

/// The same of any command.
fn complaint_of(arguments: &[&str], restrict: fn() -> std::io::Result<()>) -> String {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory takes a directory");
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftyard"));
    command.current_dir(scratch.path()).args(arguments);
    // SAFETY: the restrictions below only make system calls, which is allowed between fork and exec.
    unsafe { command.pre_exec(restrict) };
    let output = command.output().expect("the program starts");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "it must refuse: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "one line: {stderr}");
    assert_eq!(std::fs::read_dir(scratch.path()).expect("there").count(), 0, "it leaves nothing behind");
    stderr
}

fn checked(result: libc::c_int) -> std::io::Result<()> {
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Lets the process lock no memory.
fn lock_nothing() -> std::io::Result<()> {
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit outlives the call.
    checked(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &limit) })
}

/// Answers io_uring_setup with EPERM, as container runtimes do.
fn block_io_uring() -> std::io::Result<()> {
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut filter = [
        // The call's number is the first field of what a filter sees.
        step(LOAD_WORD, 0, 0),
        step(JUMP_EQUAL, 1, libc::SYS_io_uring_setup as u32),
        step(RETURN, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: no pointer is passed.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the program and its filter outlive the call.
    checked(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) })
}

#[test]
fn io_uring_blocked() {
    let line = complaint(block_io_uring);
    assert!(line.contains("io_uring is blocked"), "{line}");
}

#[test]
fn io_uring_blocked_for_the_probe() {
    let line = complaint_of(&["wal", "probe", "--seconds", "2"], block_io_uring);
    assert!(line.starts_with("raftyard wal probe: io_uring is blocked"), "{line}");
}

#[test]
fn too_little_memory_may_be_locked() {
    let line = complaint(lock_nothing);
    assert!(line.contains("ulimit -l"), "{line}");
}
