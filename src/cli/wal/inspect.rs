//! `raftyard wal inspect`.

use super::WalCommandError;
use super::table::{Table, at, groups, thousands};
use super::target::{Found, Target};
use crate::cli::stdout::say;
use clap::Args;
use raftyard_raft::Limit;
use raftyard_storage::format::segment::BatchPlace;
use raftyard_storage::wal::tools::{GroupSummary, Inspection, SegmentState, SegmentSummary, inspect};
use serde_json::{Value, json};
use std::fmt::Write;

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    target: Target,
    /// Lists the groups.
    #[arg(long)]
    groups: bool,
    /// Writes JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(super) fn run(args: &InspectArgs) -> Result<(), WalCommandError> {
    let mut found = args.target.find()?;
    let mut logs = Vec::with_capacity(found.logs.len());
    for &wal in &found.logs {
        let inspected = inspect(&mut found.disk, wal);
        logs.push(inspected.map_err(|source| WalCommandError::Wal { root: found.root.clone(), source })?);
    }
    let shown = if args.json {
        let mut value = whose(&found);
        value["logs"] = logs.iter().map(|log| log_json(log, args.groups)).collect();
        format!("{value:#}\n")
    } else {
        let mut text = describe(&found);
        logs.iter().for_each(|log| text.push_str(&log_text(log, args.groups)));
        text
    };
    say(&shown).map_err(WalCommandError::Stdout)
}

/// Whose directory it is, in a line, and another if a node runs.
pub(super) fn describe(found: &Found) -> String {
    let mut text = found.root.display().to_string();
    if let Some(manifest) = &found.manifest {
        let (node, cluster, store) = (manifest.node, manifest.cluster, manifest.store);
        let _ = write!(text, ": node {node} of cluster {cluster}, store {store}, logs: {}", manifest.wals.len());
        if manifest.forgetful {
            text.push_str("\nforgetful: a log lost batches and nothing says whose; groups are only joined here");
        }
    }
    if found.live {
        text.push_str("\na node runs on it and writes on: what is read may end anywhere");
    }
    text + "\n"
}

/// The same for programs.
pub(super) fn whose(found: &Found) -> Value {
    let manifest = found.manifest.as_ref().map(|manifest| {
        json!({
            "node": manifest.node.0,
            "cluster": manifest.cluster.0,
            "store": manifest.store.to_string(),
            "forgetful": manifest.forgetful,
        })
    });
    json!({ "directory": found.root.display().to_string(), "live": found.live, "manifest": manifest })
}

fn state(summary: &SegmentSummary) -> &'static str {
    match summary.state {
        _ if summary.trouble.is_some() => "DAMAGED",
        SegmentState::InUse => "in use",
        SegmentState::Cut { .. } => "cut",
        SegmentState::Passed => "passed",
        SegmentState::Ahead => "ahead",
        SegmentState::Free => "free",
        SegmentState::Spare => "spare",
        SegmentState::Missing => "missing",
    }
}

fn log_text(log: &Inspection, with_groups: bool) -> String {
    let mut table = Table::new(["segment", "state", "bytes", "batches", "records", "batch bytes", "sequences", "live"]);
    for segment in &log.segments {
        table.row([
            segment.file.name.to_string(),
            state(segment).to_owned(),
            thousands(segment.bytes),
            thousands(segment.batches),
            thousands(segment.records),
            thousands(segment.batch_bytes),
            segment.sequences.map_or_else(|| "-".to_owned(), |(first, last)| format!("{first}..{last}")),
            thousands(segment.live_bytes),
        ]);
    }
    let stats = &log.recovered.stats;
    let limited: Vec<_> = limited(log).map(|group| group.group.group).collect();
    let mut text = format!("\nwal-{}\n{table}", log.wal.0);
    let mut line = |name: &str, words: String| {
        let _ = writeln!(text, "{name:<22}{words}");
    };
    line("last batch", format!("{}, durable up to {}", stats.last, stats.durable_upto));
    let ended = match (stats.clean, stats.tear) {
        (true, _) => "cleanly".to_owned(),
        (false, Some((file, offset))) => format!("not cleanly, in a torn batch: {}", at(file, offset)),
        (false, None) => "not cleanly, or not yet".to_owned(),
    };
    line("ended", ended);
    line("checkpoints", log.checkpoints.iter().flatten().map(place).reduce(|a, b| a + "; " + &b).unwrap_or_else(none));
    line("first segment", stats.first_segment.0.max(1).to_string());
    line("a start reads", format!("{} batches, {} bytes", thousands(stats.batches), thousands(stats.bytes)));
    line("groups", format!("{}, removed for good {}", thousands(log.groups.len() as u64), log.removed));
    line("limited groups", groups(&limited));
    line("peers known", log.recovered.peers.len().to_string());
    line("promises kept for", format!("{:?}", log.recovered.promise));
    for damage in &log.recovered.damage {
        let words = format!("{}: batches {} to {} are lost", at(damage.file, damage.offset), damage.first, damage.last);
        line("DAMAGED", words);
    }
    for (file, trouble) in log.segments.iter().filter_map(|file| Some((file.file, file.trouble.as_ref()?))) {
        line("DAMAGED", format!("{file}: {trouble}"));
    }
    if with_groups {
        text.push('\n');
        text.push_str(&group_table(log));
    }
    text
}

fn none() -> String {
    "none".to_owned()
}

fn place(place: &BatchPlace) -> String {
    format!("batch {} in segment {} at byte {}", place.sequence, place.segment.0, place.offset)
}

fn limited(log: &Inspection) -> impl Iterator<Item = &GroupSummary> {
    log.groups.iter().filter(|group| group.group.limit != Limit::None)
}

fn limit(limit: Limit) -> String {
    match limit {
        Limit::None => "-".to_owned(),
        Limit::Bound(bound) => format!("bound {}/{}", bound.index, bound.term),
        Limit::Amnesia => "amnesia".to_owned(),
    }
}

fn group_table(log: &Inspection) -> String {
    let head = ["group", "replica", "term", "vote", "base", "last", "runs", "live", "limit", "snapshot"];
    let mut table = Table::new(head);
    for GroupSummary { group, runs, live_bytes } in &log.groups {
        let snapshot = group.snapshot.map(|(position, bytes)| format!("{}/{}, {bytes}", position.index, position.term));
        table.row([
            group.group.to_string(),
            group.replica.to_string(),
            group.hard_state.term.to_string(),
            group.hard_state.vote.map_or_else(|| "-".to_owned(), |vote| vote.to_string()),
            format!("{}/{}", group.base.index, group.base.term),
            format!("{}/{}", group.last.index, group.last.term),
            runs.to_string(),
            thousands(*live_bytes),
            limit(group.limit),
            snapshot.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.to_string()
}

fn log_json(log: &Inspection, with_groups: bool) -> Value {
    let stats = &log.recovered.stats;
    let segments: Vec<Value> = log.segments.iter().map(segment_json).collect();
    let damage = log.recovered.damage.iter().map(|damage| {
        json!({ "file": damage.file.to_string(), "offset": damage.offset, "first": damage.first.0,
                "last": damage.last.0, "explained": damage.explained })
    });
    let mut value = json!({
        "wal": log.wal.0,
        "segments": segments,
        "last": stats.last.0,
        "durable_upto": stats.durable_upto.0,
        "clean": stats.clean,
        "tear": stats.tear.map(|(file, offset)| json!({ "file": file.to_string(), "offset": offset })),
        "checkpoints": log.checkpoints.iter().flatten().map(place_json).collect::<Vec<_>>(),
        "first_segment": stats.first_segment.0.max(1),
        "start": { "batches": stats.batches, "records": stats.records, "bytes": stats.bytes },
        "groups_count": log.groups.len(),
        "removed_count": log.removed,
        "limited": limited(log).map(|group| group.group.group.0).collect::<Vec<_>>(),
        "peers": log.recovered.peers.iter().map(|(node, store)| json!({ "node": node.0, "store": store.to_string() }))
            .collect::<Vec<_>>(),
        "promise_ns": u64::try_from(log.recovered.promise.as_nanos()).unwrap_or(u64::MAX),
        "damage": damage.collect::<Vec<_>>(),
    });
    if with_groups {
        value["groups"] = log.groups.iter().map(group_json).collect();
    }
    value
}

fn segment_json(segment: &SegmentSummary) -> Value {
    let cut = match segment.state {
        SegmentState::Cut { end } => Some(end),
        _ => None,
    };
    json!({
        "file": segment.file.to_string(),
        "state": state(segment),
        "cut_at": cut,
        "bytes": segment.bytes,
        "version": segment.written.map(|(version, _)| version),
        "writer": segment.written.map(|(_, writer)| writer.to_string()),
        "batches": segment.batches,
        "records": segment.records,
        "batch_bytes": segment.batch_bytes,
        "first": segment.sequences.map(|(first, _)| first.0),
        "last": segment.sequences.map(|(_, last)| last.0),
        "live_bytes": segment.live_bytes,
        "trouble": segment.trouble.as_ref().map(ToString::to_string),
    })
}

fn place_json(place: &BatchPlace) -> Value {
    json!({ "segment": place.segment.0, "offset": place.offset, "sequence": place.sequence.0 })
}

fn group_json(summary: &GroupSummary) -> Value {
    let group = &summary.group;
    let position = |position: raftyard_raft::LogPosition| json!({ "index": position.index.0, "term": position.term.0 });
    json!({
        "group": group.group.0,
        "replica": group.replica.0,
        "term": group.hard_state.term.0,
        "vote": group.hard_state.vote.map(|vote| vote.0),
        "base": position(group.base),
        "last": position(group.last),
        "runs": summary.runs,
        "live_bytes": summary.live_bytes,
        "limit": match group.limit {
            Limit::None => Value::Null,
            Limit::Bound(bound) => json!({ "bound": position(bound) }),
            Limit::Amnesia => json!("amnesia"),
        },
        "snapshot": group.snapshot.map(|(at, bytes)| json!({ "position": position(at), "bytes": bytes })),
    })
}
