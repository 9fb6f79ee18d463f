//! What the numbers say about a node's settings.

use super::cell::{Cell, DEPTHS, MODES, Measured, SIZES, mode_name};
use raftyard::WriteMode;
use serde::Serialize;
use std::fmt;

/// A mode that is so much worse where the machine is busy is not chosen for being better where it is quiet.
const BUSY_RATIO_MAX: f64 = 2.0;
/// More writes in flight must shorten the wait to this share, or they only make batches smaller.
const DEPTH_GAIN: f64 = 0.85;

/// What to set, and why.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Advice {
    /// For `NodeConfig::write_mode`.
    write_mode: &'static str,
    /// For `NodeConfig::wal_depth`.
    wal_depth: usize,
    /// Times of a 4 KiB write, one at a time, asleep.
    modes: Vec<ModeTimes>,
    /// What a command waits, with each depth, in us.
    waits_us: Vec<(usize, f64)>,
    /// Time with polled completions, by time asleep: the median over all ways on the quiet machine, and on the busy one.
    polled_by_asleep: [Option<f64>; 2],
    /// The same with registered file and buffers, by without.
    registered_by_not: [Option<f64>; 2],
}

#[derive(Clone, Copy, Debug, Serialize)]
struct ModeTimes {
    write_mode: &'static str,
    quiet_p50_us: f64,
    busy_p50_us: f64,
    busy_mean_us: f64,
    busy_p99_us: f64,
}

impl Advice {
    pub(super) fn from(cells: &[Measured]) -> Advice {
        let write_mode = best_mode(cells);
        let waits_us = DEPTHS.map(|depth| (depth, wait(cells, write_mode, depth)));
        let [(_, alone), ..] = waits_us;
        let better = waits_us.iter().filter(|(_, wait)| *wait <= alone * DEPTH_GAIN);
        let wal_depth = better.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(1, |(depth, _)| *depth);
        let modes = MODES.map(|mode| ModeTimes {
            write_mode: mode_name(mode),
            quiet_p50_us: at(cells, mode, false, |m| m.p50_us),
            busy_p50_us: at(cells, mode, true, |m| m.p50_us),
            busy_mean_us: at(cells, mode, true, mean_us),
            busy_p99_us: at(cells, mode, true, |m| m.p99_us),
        });
        let by = |busy, toggle: fn(&mut Cell) -> &mut bool| ratio(cells, busy, toggle);
        Advice {
            write_mode: mode_name(write_mode),
            wal_depth,
            modes: modes.to_vec(),
            waits_us: waits_us.to_vec(),
            polled_by_asleep: [false, true].map(|busy| by(busy, |cell| &mut cell.polled)),
            registered_by_not: [false, true].map(|busy| by(busy, |cell| &mut cell.registered)),
        }
    }
}

/// The mode that is faster on the quiet machine, unless the busy one makes it much worse than the other: by the mean,
/// because there a median hides that every tenth write waits for milliseconds, and few writes make a vague p99.
fn best_mode(cells: &[Measured]) -> WriteMode {
    let quiet = |mode| at(cells, mode, false, |m| m.p50_us);
    let busy = |mode| at(cells, mode, true, mean_us);
    let [one, other] = MODES;
    let (faster, slower) = if quiet(one) <= quiet(other) { (one, other) } else { (other, one) };
    if busy(faster) > busy(slower) * BUSY_RATIO_MAX { slower } else { faster }
}

/// One at a time, a write takes the time that there is for each.
fn mean_us(measured: &Measured) -> f64 {
    1e6 / measured.writes_per_s
}

/// A number of a mode's small writes, one at a time, as a log does them.
fn at(cells: &[Measured], write_mode: WriteMode, busy: bool, number: fn(&Measured) -> f64) -> f64 {
    let cell = Cell { bytes: SIZES[0], write_mode, depth: 1, registered: false, polled: false, busy };
    find(cells, cell).map_or(f64::INFINITY, number)
}

/// What a command waits on average that comes while `depth` writes of 64 KiB are kept in flight: until the next of them
/// ends, and then for its own.
fn wait(cells: &[Measured], write_mode: WriteMode, depth: usize) -> f64 {
    let cell = Cell { bytes: SIZES[1], write_mode, depth, registered: false, polled: false, busy: false };
    find(cells, cell).map_or(f64::INFINITY, |m| m.p50_us * (1.0 + 0.5 / depth as f64))
}

fn find(cells: &[Measured], cell: Cell) -> Option<&Measured> {
    cells.iter().find(|measured| measured.cell == cell)
}

/// The median, over all ways on such a machine, of the time with something by the time without it.
fn ratio(cells: &[Measured], busy: bool, toggle: fn(&mut Cell) -> &mut bool) -> Option<f64> {
    let with = cells.iter().filter(|measured| measured.cell.busy == busy).filter_map(|measured| {
        let mut without = measured.cell;
        let was_on = std::mem::take(toggle(&mut without));
        was_on.then(|| find(cells, without).map(|other| measured.p50_us / other.p50_us)).flatten()
    });
    let mut ratios = with.collect::<Vec<_>>();
    ratios.sort_unstable_by(f64::total_cmp);
    ratios.get(ratios.len() / 2).copied()
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "To set (NodeConfig):")?;
        writeln!(f, "  durability = Sync, write_mode = {}, wal_depth = {}", self.write_mode, self.wal_depth)?;
        for mode in &self.modes {
            writeln!(
                f,
                "  {}: a 4 KiB write takes {:.0} us; where other programs want the CPUs {:.0}, the mean {:.0}, p99 {:.0}.",
                mode.write_mode, mode.quiet_p50_us, mode.busy_p50_us, mode.busy_mean_us, mode.busy_p99_us
            )?;
        }
        write!(f, "  A command that comes while 64 KiB are written waits about")?;
        for (place, (depth, wait)) in self.waits_us.iter().enumerate() {
            let between = if place == 0 { "" } else { "," };
            write!(f, "{between} {wait:.0} us at depth {depth}")?;
        }
        writeln!(f, ".")?;
        if let [Some(quiet), Some(busy)] = self.polled_by_asleep {
            writeln!(
                f,
                "  Polling for completions takes {quiet:.2} x the time of sleeping ({busy:.2} x where the machine is busy) \
                 and a whole CPU;\n  a node sleeps, and there is no setting for it."
            )?;
        }
        match self.registered_by_not {
            [Some(quiet), Some(busy)] => writeln!(
                f,
                "  Registered files and buffers take {quiet:.2} x the time ({busy:.2} x busy); there is no setting for it."
            ),
            _ => {
                writeln!(f, "  Registered buffers could not be measured: too little memory may be locked (ulimit -l).")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device on which a write takes what `time` says, one in a hundred ten times that.
    fn cells(time: impl Fn(&Cell) -> f64) -> Vec<Measured> {
        let measured = |cell: Cell| {
            let p50_us = time(&cell);
            Measured { cell, p50_us, p99_us: p50_us * 10.0, writes_per_s: 1e6 / p50_us, writes: 1000 }
        };
        Cell::all().into_iter().map(measured).collect()
    }

    #[test]
    fn the_faster_mode_is_chosen_unless_a_busy_machine_spoils_it() {
        let device = |dsync_busy: f64| {
            cells(move |cell| match (cell.write_mode, cell.busy) {
                (WriteMode::Dsync, false) => 100.0,
                (WriteMode::Dsync, true) => dsync_busy,
                _ => 130.0,
            })
        };
        assert_eq!(Advice::from(&device(200.0)).write_mode, "Dsync");
        assert_eq!(Advice::from(&device(4000.0)).write_mode, "LinkedSync");
        let linked_faster = cells(|cell| if cell.write_mode == WriteMode::LinkedSync { 90.0 } else { 100.0 });
        assert_eq!(Advice::from(&linked_faster).write_mode, "LinkedSync");
    }

    #[test]
    fn depth_is_raised_only_where_the_device_works_in_parallel() {
        let one_at_a_time = cells(|cell| 100.0 * cell.depth as f64);
        assert_eq!(Advice::from(&one_at_a_time).wal_depth, 1);
        let hardly = cells(|cell| [100.0, 108.0, 125.0][cell.depth / 2]);
        assert_eq!(Advice::from(&hardly).wal_depth, 1, "a tenth less is not worth smaller batches");
        let parallel = cells(|_| 100.0);
        assert_eq!(Advice::from(&parallel).wal_depth, 4);
        let up_to_two = cells(|cell| if cell.depth == 4 { 250.0 } else { 100.0 });
        assert_eq!(Advice::from(&up_to_two).wal_depth, 2);
    }

    #[test]
    fn what_has_no_setting_is_told_as_a_ratio() {
        let time = |cell: &Cell| if cell.polled { 80.0 } else { 100.0 } * if cell.registered { 0.5 } else { 1.0 };
        let all = cells(time);
        let text = Advice::from(&all).to_string();
        assert!(text.contains("takes 0.80 x") && text.contains("take 0.50 x"), "{text}");
        let unregistered = all.into_iter().filter(|measured| !measured.cell.registered).collect::<Vec<_>>();
        assert!(Advice::from(&unregistered).to_string().contains("ulimit -l"));
    }
}
