//! `raftyard wal verify`.

use super::WalCommandError;
use super::inspect::{describe, whose};
use super::table::{at, groups, thousands};
use super::target::Target;
use crate::cli::progress::Progress;
use crate::cli::stdout::say;
use clap::Args;
use raftyard::GroupId;
use raftyard_storage::wal::tools::{Fault, Finding, Verification, VerifyStep, verify};
use serde_json::{Value, json};
use std::fmt::Write;
use std::time::Instant;

/// What to read.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    target: Target,
    /// Writes JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(super) fn run(args: &VerifyArgs) -> Result<(), WalCommandError> {
    let mut found = args.target.find()?;
    let mut bar = Bar::new();
    let mut logs = Vec::with_capacity(found.logs.len());
    for &wal in &found.logs {
        let verified = verify(&mut found.disk, wal, &mut |step| bar.step(step));
        logs.push(verified.map_err(|source| WalCommandError::Wal { root: found.root.clone(), source }));
    }
    bar.progress.clear();
    let logs = logs.into_iter().collect::<Result<Vec<_>, _>>()?;
    let shown = if args.json {
        let mut value = whose(&found);
        value["whole"] = logs.iter().all(|log| log.findings.is_empty()).into();
        value["logs"] = logs.iter().map(log_json).collect();
        format!("{value:#}\n")
    } else {
        let mut text = describe(&found);
        logs.iter().for_each(|log| text.push_str(&log_text(log)));
        text
    };
    say(&shown).map_err(WalCommandError::Stdout)?;
    let damaged = logs.iter().filter(|log| !log.findings.is_empty());
    let places = damaged.clone().map(|log| log.findings.len()).sum();
    if places > 0 { Err(WalCommandError::Damaged { places, logs: damaged.count() }) } else { Ok(()) }
}

/// The progress bar, phase by phase.
struct Bar {
    progress: Progress,
    phase: &'static str,
}

impl Bar {
    fn new() -> Bar {
        Bar { progress: Progress::new(), phase: "" }
    }

    fn step(&mut self, step: VerifyStep) {
        if self.phase != step.phase {
            self.phase = step.phase;
            self.progress.phase(step.phase, step.total);
        }
        let now = Instant::now();
        if self.progress.is_due(now) {
            // Of a start's reading nobody knows the length before.
            let known = step.total > 1;
            let message =
                if known { format!("{} of {} MiB", step.done >> 20, step.total >> 20) } else { String::new() };
            self.progress.draw(now, step.done, message);
        }
    }
}

fn log_text(log: &Verification) -> String {
    let verdict = if log.findings.is_empty() { "whole" } else { "DAMAGED" };
    let mut text = format!(
        "wal-{}: {verdict}. Read: {} segments, {} batches, {} records, {} bytes; {} entries and {} snapshot pieces of \
         {} groups. Last batch {}, durable up to {}.\n",
        log.wal.0,
        thousands(log.segments as u64),
        thousands(log.batches),
        thousands(log.records),
        thousands(log.checked_bytes),
        thousands(log.entries),
        thousands(log.pieces),
        thousands(log.groups as u64),
        log.last,
        log.durable_upto
    );
    if let Some((file, offset)) = log.tear {
        let _ = writeln!(text, "{}: the log ends in a torn batch, which is no damage", at(file, offset));
    }
    log.findings.iter().for_each(|finding| text.push_str(&finding_text(finding)));
    text
}

fn finding_text(finding: &Finding) -> String {
    let mut text = format!("{}: {}", at(finding.file, finding.offset), fault_text(&finding.fault));
    if let Fault::Batches { .. } = finding.fault {
        let touched = finding.touched.as_ref().map_or_else(|| "not known".to_owned(), |touched| groups(touched));
        let _ = write!(text, "; groups in it: {touched}");
    }
    if let Fault::Batches { .. } | Fault::Record { .. } | Fault::File(_) = finding.fault {
        let (lost, limited) = (groups(&finding.lost), groups(&finding.limited));
        let _ = write!(text, "; entries lost of groups: {lost}; groups that a start limits: {limited}");
    }
    text + "\n"
}

fn fault_text(fault: &Fault) -> String {
    match fault {
        Fault::Batches { first, last, .. } if first == last => format!("batch {first} was durable and is lost"),
        Fault::Batches { first, last, .. } => format!("batches {first} to {last} were durable and are lost"),
        Fault::Record { sequence, fault } => format!("a record of batch {sequence} is damaged: {fault}"),
        Fault::Entries { group, first, last } => format!("entries {first} to {last} of group {group} are not there"),
        Fault::Snapshot { group } => format!("a piece of the snapshot of group {group} is not there"),
        Fault::HeaderCopy => "a copy of the segment's header is damaged; the other one holds".to_owned(),
        Fault::File(error) => error.to_string(),
        Fault::Refused(error) => format!("a start refuses this log: {error}"),
    }
}

fn log_json(log: &Verification) -> Value {
    json!({
        "wal": log.wal.0,
        "whole": log.findings.is_empty(),
        "segments": log.segments,
        "batches": log.batches,
        "records": log.records,
        "checked_bytes": log.checked_bytes,
        "groups_count": log.groups,
        "entries": log.entries,
        "snapshot_pieces": log.pieces,
        "last": log.last.0,
        "durable_upto": log.durable_upto.0,
        "tear": log.tear.map(|(file, offset)| json!({ "file": file.to_string(), "offset": offset })),
        "findings": log.findings.iter().map(finding_json).collect::<Vec<_>>(),
    })
}

fn finding_json(finding: &Finding) -> Value {
    let numbers = |groups: &[GroupId]| groups.iter().map(|group| group.0).collect::<Vec<_>>();
    let mut value = json!({
        "file": finding.file.to_string(),
        "offset": finding.offset,
        "says": fault_text(&finding.fault),
        "touched": finding.touched.as_ref().map(|groups| numbers(groups)),
        "lost": numbers(&finding.lost),
        "limited": numbers(&finding.limited),
    });
    let more = match &finding.fault {
        Fault::Batches { first, last, explained } => {
            json!({ "what": "batches", "first": first.0, "last": last.0, "explained": explained })
        }
        Fault::Record { sequence, .. } => json!({ "what": "record", "sequence": sequence.0 }),
        Fault::Entries { group, first, last } => {
            json!({ "what": "entries", "group": group.0, "first": first.0, "last": last.0 })
        }
        Fault::Snapshot { group } => json!({ "what": "snapshot", "group": group.0 }),
        Fault::HeaderCopy => json!({ "what": "header copy" }),
        Fault::File(_) => json!({ "what": "file" }),
        Fault::Refused(_) => json!({ "what": "refused" }),
    };
    if let (Some(value), Value::Object(more)) = (value.as_object_mut(), more) {
        value.extend(more);
    }
    value
}
