//! What was acknowledged, written down on a disk that stays well: a line for each, before anybody counts it.
//!
//! The machine goes on when the disk under test fails, so a line is safe as soon as the system has taken it.

use raftyard::{GroupId, LogIndex};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

/// One acknowledged value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its group.
    pub(crate) group: GroupId,
    /// Its number.
    pub(crate) number: u64,
    /// Where the answer said that it was applied.
    pub(crate) index: LogIndex,
}

/// A ledger that is being written.
pub(crate) struct Ledger(Mutex<File>);

impl Ledger {
    /// Goes on with the ledger at `path`, or begins it.
    pub(crate) fn open(path: &Path) -> io::Result<Ledger> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Ledger(Mutex::new(file)))
    }

    /// Writes a line in one piece.
    pub(crate) fn append(&self, entry: Entry) -> io::Result<()> {
        let line = format!("{} {} {}\n", entry.group, entry.number, entry.index);
        self.0.lock().expect("nobody panicked with it").write_all(line.as_bytes())
    }
}

/// All that a ledger holds. A missing one holds nothing. A last line without an end is one whose writer was killed.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        result => result?,
    };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| parse(line).ok_or_else(|| io::Error::other(format!("not a ledger: {line}")))).collect()
}

fn parse(line: &str) -> Option<Entry> {
    let mut numbers = line.split(' ').map(|word| word.parse::<u64>().ok());
    let mut next = || numbers.next().flatten();
    Some(Entry { group: GroupId(next()?), number: next()?, index: LogIndex(next()?) })
}
