//! One line of a dump: for people words, for programs an object.

use raftyard::{Configuration, GroupId, ReplicaId};
use raftyard_raft::Limit;
use raftyard_raft::{HardState, LogPosition};
use raftyard_storage::format::record::{GroupRecord, Record, State};
use serde_json::{Map, Value};
use std::io::{self, Write};

/// A kind, and what there is to say, in order.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) kind: &'static str,
    depth: usize,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    pub(super) fn new(depth: usize, kind: &'static str) -> Line {
        Line { kind, depth, fields: Vec::new() }
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Line {
        self.fields.push((name, value.into()));
        self
    }

    pub(super) fn of(self, group: GroupId, replica: ReplicaId) -> Line {
        self.with("group", group.0).with("replica", replica.0)
    }

    pub(super) fn hard_state(self, hard_state: Option<HardState>) -> Line {
        let vote = hard_state.and_then(|hard_state| hard_state.vote);
        self.with("term", hard_state.map(|hard_state| hard_state.term.0)).with("vote", vote.map(|vote| vote.0))
    }

    /// Index/term.
    pub(super) fn position(self, name: &'static str, position: Option<LogPosition>) -> Line {
        self.with(name, position.map(|position| format!("{}/{}", position.index, position.term)))
    }

    fn configuration(self, configuration: &Configuration) -> Line {
        let ids = |ids: Vec<u64>| Value::from(ids);
        let voters = configuration.voters().map(|member| member.replica.0).collect();
        let learners = configuration.learners().map(|member| member.replica.0).collect();
        self.with("voters", ids(voters)).with("learners", ids(learners))
    }

    fn state(self, state: &State) -> Line {
        let limit = match state.limit {
            Limit::None => None,
            Limit::Bound(bound) => Some(format!("bound {}/{}", bound.index, bound.term)),
            Limit::Amnesia => Some("amnesia".to_owned()),
        };
        self.of(state.group, state.replica)
            .hard_state(Some(state.hard_state))
            .position("last", Some(state.last))
            .position("base", Some(state.base))
            .configuration(&state.configuration)
            .with("limit", limit)
            .with("reset", state.reset)
            .position("snapshot", state.snapshot.map(|(position, _)| position))
            .with("snapshot_bytes", state.snapshot.map(|(_, bytes)| bytes))
    }

    fn group(self, record: &GroupRecord<'_>) -> Line {
        let entries = &record.entries;
        let (first, last) =
            if entries.is_empty() { (None, None) } else { (Some(entries.first().0), Some(entries.last().0)) };
        self.of(record.group, record.replica)
            .hard_state(record.hard_state)
            .with("entries", entries.len())
            .with("from", first)
            .with("to", last)
            .position("last", record.last)
            .with("limited", record.limited)
    }

    /// The line of a record.
    pub(super) fn record(offset: u64, len: u64, record: &Record<'_>) -> Line {
        let line = |kind| Line::new(1, kind).with("offset", offset).with("bytes", len);
        match record {
            Record::Creation { group, replica, configuration } => {
                line("creation").of(*group, *replica).configuration(configuration)
            }
            Record::Group(record) => line("group").group(record),
            Record::Relocated(record) => line("relocated").group(record),
            Record::State(state) => line("state").state(state),
            Record::Removal { group, replica } => line("removal").of(*group, *replica),
            Record::Chunk(chunk) => line("chunk")
                .of(chunk.group, chunk.replica)
                .position("snapshot", Some(chunk.snapshot))
                .with("at", chunk.offset)
                .with("data_bytes", chunk.data.len()),
            Record::Peer { node, store } => line("peer").with("node", node.0).with("store", store.to_string()),
            Record::Promise { wait } => line("promise").with("ns", u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)),
            Record::Checkpoint(part) => line("checkpoint")
                .with("checkpoint", part.checkpoint.0)
                .with("is_first", part.first)
                .with("is_last", part.last)
                .with("cut", part.cut)
                .with("items_bytes", part.items.len()),
        }
    }

    /// Words leave out what is not there or not so; an object has all.
    pub(super) fn write(&self, out: &mut impl Write, json: bool) -> io::Result<()> {
        if json {
            let fields = self.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
            let object: Map<String, Value> =
                std::iter::once(("kind".to_owned(), self.kind.into())).chain(fields).collect();
            return writeln!(out, "{}", Value::Object(object));
        }
        write!(out, "{:indent$}{}", "", self.kind, indent = 2 * self.depth)?;
        for (name, value) in &self.fields {
            match value {
                Value::Null | Value::Bool(false) => {}
                Value::Bool(true) => write!(out, " {name}")?,
                Value::String(text) => write!(out, " {name} {text}")?,
                Value::Array(values) if values.is_empty() => {}
                Value::Array(values) => {
                    let shown: Vec<String> = values.iter().map(ToString::to_string).collect();
                    write!(out, " {name} {}", shown.join(","))?;
                }
                other => write!(out, " {name} {other}")?,
            }
        }
        writeln!(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_words_or_is_an_object() {
        let line = Line::new(1, "group").with("vote", None::<u64>).with("limited", true).with("voters", vec![1, 2]);
        let written = |json| {
            let mut out = Vec::new();
            line.write(&mut out, json).expect("memory takes it");
            String::from_utf8(out).expect("text")
        };
        assert_eq!(written(false), "  group limited voters 1,2\n");
        let object: Value = serde_json::from_str(&written(true)).expect("JSON");
        assert_eq!(object, serde_json::json!({ "kind": "group", "vote": null, "limited": true, "voters": [1, 2] }));
    }
}
