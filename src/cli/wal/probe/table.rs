//! What was measured, for people.

use super::Report;
use super::cell::{Cell, DEPTHS, MODES, SIZES, mode_name};
use std::fmt;

/// Columns of a number, and of the names before them.
const WIDTH: usize = 9;
const NAME_WIDTH: usize = 28;

/// A quiet machine has at most so much load a CPU.
const LOAD_OF_QUIET: f64 = 0.3;

/// Shows a report as tables and a recommendation.
pub(super) struct Table<'a>(pub(super) &'a Report);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        writeln!(f, "raftyard wal probe: durable writes in {}, {} CPUs", report.dir.display(), report.cpus)?;
        if report.load_before > LOAD_OF_QUIET * report.cpus as f64 {
            let load = report.load_before;
            writeln!(
                f,
                "the load was {load:.1} before it began: what follows as quiet is not; measure again without it"
            )?;
        }
        let rule = "-".repeat(NAME_WIDTH + 6 * WIDTH);
        for busy in [false, true] {
            writeln!(f, "{rule}")?;
            let title = if busy { "a spinning thread a CPU" } else { "quiet" };
            let (asleep, polled) = ("asleep", "polled");
            writeln!(f, "{title:NAME_WIDTH$}{asleep:>width$}{polled:>width$}", width = 3 * WIDTH)?;
            let heads = ["p50 us", "p99 us", "writes/s"];
            row(f, "", &[heads, heads].concat().into_iter().map(str::to_owned).collect::<Vec<_>>())?;
            for bytes in SIZES {
                for mode in MODES {
                    for depth in DEPTHS {
                        let name = format!("{:>3} KiB {:10} depth {depth}", bytes >> 10, mode_name(mode));
                        let cells = [false, true].map(|polled| {
                            numbers(report, Cell { bytes, write_mode: mode, depth, registered: false, polled, busy })
                        });
                        row(f, &name, &cells.concat())?;
                    }
                }
            }
        }
        writeln!(f, "{rule}")?;
        write!(f, "{}", report.advice)
    }
}

fn numbers(report: &Report, cell: Cell) -> [String; 3] {
    let Some(measured) = report.cells.iter().find(|measured| measured.cell == cell) else {
        return [const { String::new() }; 3];
    };
    [measured.p50_us, measured.p99_us, measured.writes_per_s].map(|number| format!("{number:.0}"))
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, cells: &[String]) -> fmt::Result {
    write!(f, "{name:NAME_WIDTH$}")?;
    for cell in cells {
        write!(f, "{cell:>WIDTH$}")?;
    }
    writeln!(f)
}
