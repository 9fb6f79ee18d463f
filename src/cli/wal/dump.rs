//! `raftyard wal dump`.

use super::WalCommandError;
use super::target::Target;
use clap::Args;
use line::Line;
use raftyard::GroupId;
use raftyard_storage::format::BatchSeq;
use raftyard_storage::format::echo::EchoState;
use raftyard_storage::format::record::{EntriesIn, Record};
use raftyard_storage::io::SegmentNumber;
use raftyard_storage::wal::tools::{DumpFilter, Dumped, dump};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::ops::ControlFlow;

mod line;

/// What to print.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    #[command(flatten)]
    target: Target,
    /// Only what is said of this group.
    #[arg(long, value_name = "GROUP")]
    group: Option<u64>,
    /// Only batches from this sequence on.
    #[arg(long, value_name = "SEQUENCE", default_value_t = 0)]
    from_seq: u64,
    /// Only this segment, whether or not it still counts.
    #[arg(long, value_name = "NUMBER")]
    segment: Option<u64>,
    /// Each entry on a line of its own, with so many bytes of its data [default: 32].
    #[arg(long, value_name = "BYTES", num_args = 0..=1, require_equals = true, default_missing_value = "32")]
    entries: Option<usize>,
    /// Writes JSON, one object a line.
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(super) fn run(args: &DumpArgs) -> Result<(), WalCommandError> {
    let mut found = args.target.find()?;
    if args.segment.is_some() && found.logs.len() > 1 {
        return Err(WalCommandError::WhichLog { root: found.root, logs: found.logs.len() });
    }
    let mut printer = Printer { out: BufWriter::new(io::stdout().lock()), args, held: Vec::new(), failed: None };
    let filter = DumpFilter { segment: args.segment.map(SegmentNumber), from: BatchSeq(args.from_seq) };
    for &wal in &found.logs {
        let dumped = dump(&mut found.disk, wal, filter, &mut |what| printer.print(&what));
        dumped.map_err(|source| WalCommandError::Wal { root: found.root.clone(), source })?;
        if printer.failed.is_some() {
            break;
        }
    }
    match printer.failed.map_or_else(|| printer.out.flush(), Err) {
        // A reader that left has seen enough.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(WalCommandError::Stdout(error)),
        _ => Ok(()),
    }
}

struct Printer<'a, W: Write> {
    out: W,
    args: &'a DumpArgs,
    /// The lines of segment and batch, which come only if something in them is wanted.
    held: Vec<Line>,
    failed: Option<io::Error>,
}

impl<W: Write> Printer<'_, W> {
    fn print(&mut self, what: &Dumped<'_>) -> ControlFlow<()> {
        let written = match what {
            Dumped::Segment { .. } => {
                self.held = vec![head(what)];
                self.all_if_unfiltered()
            }
            Dumped::Batch { .. } => {
                // Of the lines that nobody wanted only the segment's is of use still.
                self.held.retain(|line| line.kind == "segment");
                self.held.push(head(what));
                self.all_if_unfiltered()
            }
            Dumped::Echo(echo) => self.wanted(Some(echo.group)).map_or(Ok(()), |()| self.lines(&[head(what)])),
            Dumped::Record { record, .. } => self.wanted(group_of(record)).map_or(Ok(()), |()| {
                self.lines(&[head(what)])?;
                self.entries(record)
            }),
            // Whoever filters wants to know all the same what is not there.
            Dumped::Malformed(_) | Dumped::Gap { .. } | Dumped::Unreadable(_) => self.lines(&[head(what)]),
        };
        match written {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    fn wanted(&self, group: Option<GroupId>) -> Option<()> {
        self.args.group.is_none_or(|wanted| group == Some(GroupId(wanted))).then_some(())
    }

    fn all_if_unfiltered(&mut self) -> io::Result<()> {
        if self.args.group.is_none() { self.lines(&[]) } else { Ok(()) }
    }

    /// What is held, and these.
    fn lines(&mut self, lines: &[Line]) -> io::Result<()> {
        for line in self.held.drain(..).as_slice().iter().chain(lines) {
            line.write(&mut self.out, self.args.json)?;
        }
        Ok(())
    }

    fn entries(&mut self, record: &Record<'_>) -> io::Result<()> {
        let (Some(bytes_max), Some(entries)) = (self.args.entries, entries_of(record)) else { return Ok(()) };
        for entry in entries.iter() {
            let data = &entry.data[..entry.data.len().min(bytes_max)];
            let hex = data.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let line = Line::new(2, "entry")
                .with("index", entry.index.0)
                .with("term", entry.term.0)
                .with("type", format!("{:?}", entry.kind).to_lowercase())
                .with("bytes", entry.data.len())
                .with("data", hex)
                .with("cut", data.len() < entry.data.len());
            line.write(&mut self.out, self.args.json)?;
        }
        Ok(())
    }
}

fn entries_of<'a>(record: &'a Record<'_>) -> Option<&'a EntriesIn<'a>> {
    match record {
        Record::Group(record) | Record::Relocated(record) => Some(&record.entries),
        _ => None,
    }
}

fn group_of(record: &Record<'_>) -> Option<GroupId> {
    match record {
        Record::Creation { group, .. } | Record::Removal { group, .. } => Some(*group),
        Record::Group(record) | Record::Relocated(record) => Some(record.group),
        Record::State(state) => Some(state.group),
        Record::Chunk(chunk) => Some(chunk.group),
        Record::Peer { .. } | Record::Promise { .. } | Record::Checkpoint(_) => None,
    }
}

/// The line for what was found, without entries.
fn head(what: &Dumped<'_>) -> Line {
    match what {
        Dumped::Segment { file, header } => Line::new(0, "segment")
            .with("file", file.to_string())
            .with("version", header.version)
            .with("bytes", header.segment_bytes)
            .with("previous", header.previous.map(|previous| previous.number.0))
            .with("previous_end", header.previous.map(|previous| previous.end))
            .with("durable_upto", header.durable_upto.0)
            .with("first_segment", header.first.0)
            .with("checkpoints", header.checkpoints.iter().flatten().map(|place| place.sequence.0).collect::<Vec<_>>())
            .with("writer", header.writer.to_string()),
        Dumped::Batch { place, header, bytes } => Line::new(0, "batch")
            .with("sequence", place.sequence.0)
            .with("segment", place.segment.0)
            .with("offset", place.offset)
            .with("bytes", *bytes)
            .with("durable_upto", header.durable_upto.0)
            .with("first_segment", header.first_segment.0)
            .with("echo_bytes", header.echo_len)
            .with("records", header.record_count)
            .with("opening", header.opening)
            .with("clean", header.clean),
        Dumped::Echo(echo) => {
            let line = Line::new(1, "echo").with("group", echo.group.0).with("replica", echo.replica.0);
            match echo.state {
                EchoState::There(hard_state, last) => line.hard_state(Some(hard_state)).position("last", Some(last)),
                EchoState::Amnesia => line.with("limit", "amnesia"),
                EchoState::Removed => line.with("removed", true),
            }
        }
        Dumped::Record { offset, len, record } => Line::record(*offset, *len, record),
        Dumped::Malformed(fault) => Line::new(1, "malformed").with("fault", fault.to_string()),
        Dumped::Gap { offset, bytes } => Line::new(0, "gap").with("offset", *offset).with("bytes", *bytes),
        Dumped::Unreadable(error) => Line::new(0, "unreadable").with("error", error.to_string()),
    }
}
