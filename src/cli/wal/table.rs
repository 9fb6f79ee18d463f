//! Words and numbers for people.

use raftyard::GroupId;
use raftyard_storage::io::FilePath;
use std::fmt;

/// Groups named in one line; the rest is counted. `--json` names all.
const GROUPS_SHOWN: usize = 20;

/// Lines of cells under a head: the first column to the left, the others to the right, each as wide as it needs.
pub(super) struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(head: [&'static str; N]) -> Table<N> {
        Table { head, rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.head.map(str::to_owned);
        let lines = || std::iter::once(&head).chain(&self.rows);
        let widths: [usize; N] =
            std::array::from_fn(|column| lines().map(|cells| cells[column].chars().count()).max().unwrap_or(0));
        for cells in lines() {
            write!(f, "{:<width$}", cells[0], width = widths[0])?;
            for (cell, width) in cells.iter().zip(widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A number with its thousands set apart.
pub(super) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Some groups, by number.
pub(super) fn groups(groups: &[GroupId]) -> String {
    let shown: Vec<String> = groups.iter().take(GROUPS_SHOWN).map(ToString::to_string).collect();
    match groups.len().saturating_sub(GROUPS_SHOWN) {
        0 if shown.is_empty() => "none".to_owned(),
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// A file and a place in it.
pub(super) fn at(file: FilePath, offset: u64) -> String {
    format!("{file} at byte {offset}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let mut table = Table::new(["name", "n"]);
        table.row(["a".to_owned(), thousands(1_234_567)]);
        table.row(["longer".to_owned(), thousands(12)]);
        assert_eq!(table.to_string(), "name            n\na       1,234,567\nlonger         12\n");
    }

    #[test]
    fn many_groups_are_counted() {
        let ids = |count| (1..=count).map(GroupId).collect::<Vec<_>>();
        assert_eq!((groups(&[]), groups(&ids(2))), ("none".to_owned(), "1, 2".to_owned()));
        assert!(groups(&ids(25)).ends_with("20 and 5 more"), "{}", groups(&ids(25)));
    }
}
