//! Runs the scenarios of `tests/scenarios`: commands with what happens then below each.
//!
//! A command stands on one or more lines, then `----`, then its output up to an empty line; lines with `#` are for the
//! reader. With `RAFTYARD_REWRITE=1` the outputs are written anew; read the difference before it is kept.
//!
//! ```text
//! cluster 5 [voters=1,2,3] [learners=4] [name=value ...]   five replicas, all voters unless it is said who is what; who
//!                              is neither is created by `join`. Settings in the words of `Settings`, and
//!                              write_bytes_max, writes_max, apply_bytes_max; `leases=yes`, `drift=` in millionths, `forgetful=2`: nodes that
//!                              don't keep their promises over a restart
//! log 2 terms=1,1,4 [term=5] [vote=1]     what replica 2 has on disk, before anything happens
//! elect 1                      a long silence, then 1 campaigns and wins, and everybody knows what is committed
//! elect 1 by 2 3               the same, but 1 talks to 2 and 3 alone, and only its first appends are on their way
//! campaign 1 | deadline 1 | beat 1 | step_down 1 | unreachable 1 2 | reachable 1 2 | priority 1 5
//! propose 1 data ...
//! change 1 add=4 learner=5 promote=5 demote=2 remove=3 [context=why]     all in one step
//! force 3 [learners=1,2]       an operator makes 3 the only voter
//! join 4                       replica 4 is created, and knows nobody
//! transfer 1 2                 1 gives its leadership to 2
//! read 1 name ...              reads by index at 1, in one turn; what becomes of each is told when it is known
//! lease 1                      a read by lease at 1
//! compact 1 5 | snapshot_failed 1 2
//! evict 1 5                    1 leaves its entries up to 5 to its disk
//! fetched 1 [count] | unread 1 the oldest fetch of 1 is answered with so many entries, or with what it asked for; or fails
//! deliver 1->2 [count | Kind]  the oldest messages from 1 to 2, in one turn of 2; `all` for all of them, or the oldest
//!                              of a kind, as in `deliver 1->2 Append`
//! drop 1->2 [count | Kind] | double 1->2 | postpone 1->2      the same: lost, sent again, or put behind the others
//! hold 1->2 [count | Kind]     the same: out of the way, and nothing delivers it, until `release 1->2`
//! cut 1 2                      everything on its way from, and to, these replicas is lost
//! split 1 2                    from now on nothing passes between these and the others, until `heal`
//! persist 1 [count]            the oldest writes of 1 complete
//! settle                       everything is delivered, persisted and read, until nothing happens any more
//! rest [rounds]                the leader beats and everything settles, three times
//! crash 1 [kept]               1 loses all writes under way but the first `kept`
//! restart 1 [applied] [paged=5]    its entries up to 5 stay on disk
//! lose 1 after=3 | writes=2 | all    while 1 is down its disk loses entries, its last writes of the log, or everything
//! wait 150                     time passes, and whose time has run out is told
//! clock 150                    time passes, and nobody is told
//! status | network | logs | members     what the replicas are, what is on its way, what the logs hold, who is a member
//! ```
//! After `quiet` only changes of role are told.

use crate::stage::Stage;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[test]
fn scenarios_end_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    let rewrite = std::env::var_os("RAFTYARD_REWRITE").is_some();
    assert!(rewrite || files.len() >= 60, "only {} scenarios in {}", files.len(), folder.display());
    let mut wrong = Vec::new();
    for file in files {
        let written = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // A breach of an invariant panics; the scenarios after it are played all the same.
        match std::panic::catch_unwind(|| play(&written)) {
            Err(_) => wrong.push(format!("{name}: a promise was broken, or a replica panicked; see above")),
            Ok(Err(error)) => wrong.push(format!("{name}, {error}")),
            Ok(Ok(happened)) if rewrite => std::fs::write(&file, happened).unwrap(),
            Ok(Ok(happened)) if happened != written => wrong.push(difference(&name, &written, &happened)),
            Ok(Ok(_)) => {}
        }
    }
    assert!(wrong.is_empty(), "{} scenarios end otherwise\n{}", wrong.len(), wrong.join("\n"));
}

fn difference(name: &str, written: &str, happened: &str) -> String {
    let same = written.lines().zip(happened.lines()).take_while(|(a, b)| a == b).count();
    let at = |text: &str| text.lines().skip(same.saturating_sub(3)).take(12).collect::<Vec<_>>().join("\n    ");
    format!("{name}, line {}: expected\n    {}\nbut it was\n    {}", same + 1, at(written), at(happened))
}

/// The text with what happened in place of what was expected.
fn play(text: &str) -> Result<String, String> {
    let mut stage = Stage::default();
    let mut happened = String::new();
    let mut lines = text.lines().enumerate().peekable();
    let mut output = Vec::new();
    while let Some((at, line)) = lines.next() {
        happened.push_str(line);
        happened.push('\n');
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if line != "----" {
            output.extend(stage.run(line).map_err(|error| format!("line {}: `{line}`: {error}", at + 1))?);
            continue;
        }
        while lines.peek().is_some_and(|(_, l)| !l.is_empty()) {
            lines.next();
        }
        for line in output.drain(..) {
            let _ = writeln!(happened, "{line}");
        }
    }
    if output.is_empty() { Ok(happened) } else { Err("the last command has no ---- below it".to_owned()) }
}
