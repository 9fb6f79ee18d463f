//! What was measured, as a table and as JSON.

use crate::case::Case;
use crate::options::Options;
use crate::sample::{ELSEWHERE_MAX, Sample, median};
use serde::Serialize;
use std::fmt;

const NAME_WIDTH: usize = 24;
const WIDTH: usize = 12;

/// What Raftyard's log is to reach.
const OPS_BY_RIVAL_MIN: f64 = 2.0;
const P50_BY_FLOOR_MAX: f64 = 1.15;
const ENTRIES_A_CPU_SECOND_BY_RIVAL_MIN: f64 = 2.0;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) options: Options,
    pub(crate) cpus: usize,
    pub(crate) cases: Vec<CaseReport>,
}

/// One case: every side's rounds, in the order they ran.
#[derive(Debug, Serialize)]
pub(crate) struct CaseReport {
    pub(crate) name: String,
    pub(crate) case: Case,
    pub(crate) ours: Vec<Sample>,
    pub(crate) rival: Vec<Sample>,
    /// Empty where it is not asked for.
    pub(crate) queue: Vec<Sample>,
    /// The device, 4 KiB at a time.
    pub(crate) floor: Vec<Sample>,
    /// The device, as much at a time as a batch of this case has.
    pub(crate) floor_of_batch: Vec<Sample>,
    /// Rounds that the table is made of: those in which the machine had little else to do, or all if there is none.
    pub(crate) rounds: Vec<usize>,
    /// Whether these were quiet.
    pub(crate) quiet: bool,
    pub(crate) ratios: Ratios,
}

/// Medians over the rounds of what one round gave for both sides.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Ratios {
    /// Ours by theirs.
    pub(crate) ops_per_s: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) cpu: f64,
    pub(crate) machine: f64,
    /// Ours by the device's, 4 KiB at a time, and a batch at a time.
    pub(crate) p50_by_floor: f64,
    pub(crate) p50_by_floor_of_batch: f64,
}

impl CaseReport {
    pub(crate) fn new(case: Case) -> CaseReport {
        CaseReport {
            name: case.to_string(),
            case,
            ours: Vec::new(),
            rival: Vec::new(),
            queue: Vec::new(),
            floor: Vec::new(),
            floor_of_batch: Vec::new(),
            rounds: Vec::new(),
            quiet: true,
            ratios: Ratios::default(),
        }
    }

    pub(crate) fn finish(&mut self) {
        let quiet = |round: &usize| {
            let sides = [&self.ours, &self.rival, &self.floor];
            sides.iter().all(|side| side[*round].elsewhere < ELSEWHERE_MAX)
        };
        let all = 0..self.ours.len();
        self.rounds = all.clone().filter(quiet).collect();
        self.quiet = !self.rounds.is_empty();
        if !self.quiet {
            self.rounds = all.collect();
        }
        let ratio = |theirs: &[Sample], field: fn(&Sample) -> f64| {
            median(self.rounds.iter().map(|&round| field(&self.ours[round]) / field(&theirs[round])))
        };
        self.ratios = Ratios {
            ops_per_s: ratio(&self.rival, |s| s.ops_per_s),
            p50: ratio(&self.rival, |s| s.p50_us),
            p99: ratio(&self.rival, |s| s.p99_us),
            cpu: ratio(&self.rival, |s| s.cpu_us),
            machine: ratio(&self.rival, |s| s.machine_us),
            p50_by_floor: ratio(&self.floor, |s| s.p50_us),
            p50_by_floor_of_batch: ratio(&self.floor_of_batch, |s| s.p50_us),
        };
    }
}

impl fmt::Display for CaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Where a write brings many entries, they are what is counted.
        let (entries, unit) = (self.case.entries as f64, if self.case.entries == 1 { "op" } else { "entry" });
        let heads = [
            format!("{}/s", if self.case.entries == 1 { "op" } else { "entries" }),
            "p50 us".to_owned(),
            "p99 us".to_owned(),
            "p99.9 us".to_owned(),
            format!("CPU/{unit}"),
            "machine".to_owned(),
            "elsewhere".to_owned(),
            "written".to_owned(),
            "write B".to_owned(),
        ];
        writeln!(f, "{}", "-".repeat(NAME_WIDTH + heads.len() * WIDTH))?;
        match self.quiet {
            true => writeln!(f, "{} ({} of {} rounds)", self.name, self.rounds.len(), self.ours.len())?,
            false => writeln!(f, "{} ({} rounds, NONE ON A QUIET MACHINE)", self.name, self.rounds.len())?,
        }
        row(f, "", &heads)?;
        let logs = [("raftyard", &self.ours), ("raft-engine", &self.rival), ("raftyard, by a queue", &self.queue)];
        for (name, samples) in logs.iter().filter(|(_, samples)| !samples.is_empty()) {
            let s = self.medians(samples);
            let mut cells = cells(&s, entries).to_vec();
            cells.push(format!("{:.2}", s.written));
            cells.extend((s.write_bytes > 0.0).then(|| thousands(s.write_bytes)));
            row(f, name, &cells)?;
        }
        for (name, samples) in [("device, 4 KiB", &self.floor), ("device, a batch", &self.floor_of_batch)] {
            let s = self.medians(samples);
            let mut cells = cells(&s, 1.0).to_vec();
            cells.extend([String::new(), thousands(s.write_bytes)]);
            row(f, name, &cells)?;
        }
        self.rows_of_ratios(f)
    }
}

impl CaseReport {
    fn medians(&self, samples: &[Sample]) -> Sample {
        let chosen = self.rounds.iter().map(|&round| samples[round].clone()).collect::<Vec<_>>();
        Sample::medians(&chosen)
    }

    fn rows_of_ratios(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.ratios;
        let by = |ratio: f64| format!("{ratio:.2}");
        let blank = String::new;
        let cells = [by(r.ops_per_s), by(r.p50), by(r.p99), blank(), by(r.cpu), by(r.machine)];
        row(f, "ours / raft-engine", &cells)?;
        row(f, "ours / device, 4 KiB", &[blank(), by(r.p50_by_floor)])?;
        row(f, "ours / device, a batch", &[blank(), by(r.p50_by_floor_of_batch)])?;
        let met = |met: bool| if met { "met" } else { "NOT MET" };
        match (self.case.entries, self.case.writers) {
            (1, 1) => {
                let reached = met(r.p50_by_floor <= P50_BY_FLOOR_MAX);
                writeln!(f, "wanted: p50 at most {P50_BY_FLOOR_MAX} x the device's: {reached}")
            }
            (1, _) => {
                let reached = met(r.ops_per_s >= OPS_BY_RIVAL_MIN && r.p99 < 1.0);
                writeln!(f, "wanted: {OPS_BY_RIVAL_MIN} x raft-engine's operations at a lower p99: {reached}")
            }
            _ => {
                let reached = met(1.0 / r.cpu >= ENTRIES_A_CPU_SECOND_BY_RIVAL_MIN);
                let wanted = ENTRIES_A_CPU_SECOND_BY_RIVAL_MIN;
                writeln!(f, "wanted: {wanted} x raft-engine's entries a CPU second: {reached} ({:.2} x)", 1.0 / r.cpu)
            }
        }
    }
}

/// Rates are of writes, and so is CPU; both are told of `parts` in each.
fn cells(s: &Sample, parts: f64) -> [String; 7] {
    [
        thousands(s.ops_per_s * parts),
        format!("{:.1}", s.p50_us),
        format!("{:.1}", s.p99_us),
        format!("{:.1}", s.p999_us),
        format!("{:.2}", s.cpu_us / parts),
        format!("{:.2}", s.machine_us / parts),
        format!("{:.0} %", s.elsewhere * 100.0),
    ]
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, cells: &[String]) -> fmt::Result {
    write!(f, "{name:NAME_WIDTH$}")?;
    for cell in cells {
        write!(f, "{cell:>WIDTH$}")?;
    }
    writeln!(f)
}

/// A whole number with its thousands set apart.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
