//! The report for people: one table.

use super::report::{Quantiles, Report};
use std::fmt;

/// Columns of a row of numbers.
const WIDTH: usize = 10;
/// Column of the names.
const NAME_WIDTH: usize = 26;

/// Shows a report as a table.
pub(super) struct Table<'a>(pub(super) &'a Report);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let args = &report.config.args;
        let latency = &report.latency_us;
        let rule = "-".repeat(NAME_WIDTH + 6 * WIDTH);
        writeln!(f, "{rule}")?;
        row(f, "operations/s", &[thousands(report.throughput_ops_per_s)])?;
        row(f, "", &["p50", "p90", "p99", "p99.9", "p99.99", "max"].map(str::to_owned))?;
        let percentiles = [latency.p50, latency.p90, latency.p99, latency.p999, latency.p9999, latency.max];
        row(f, "latency, us", &percentiles.map(thousands))?;
        row(f, "CPU an operation, us", &[format!("{:.1}", report.cpu_us_per_op)])?;
        row(f, "resident bytes a replica", &[thousands(report.rss_bytes_per_replica)])?;
        line(f, "durability", args.durability.described())?;
        writeln!(f, "{rule}")?;
        row(f, "floor, in this run", &["p50", "p99"].map(str::to_owned))?;
        let quantiles = |q: &Quantiles| [q.p50, q.p99].map(|us| format!("{us:.1}"));
        row(f, "durable 4 KiB write, us", &quantiles(&report.floor.durable_write_us))?;
        row(f, "128 B round trip, us", &quantiles(&report.floor.loopback_rtt_us))?;
        let floor = report.floor.durable_write_us.p50 + report.floor.loopback_rtt_us.p50;
        if floor > 0.0 {
            row(f, "p50 / (write + trip)", &[format!("{:.2}", latency.p50 / floor)])?;
        }
        writeln!(f, "{rule}")?;
        row(f, "acknowledged", &[thousands(report.acknowledged as f64)])?;
        row(f, "with warm-up", &[thousands(report.acknowledged_in_all as f64)])?;
        row(f, "unknown", &[thousands(report.unknown as f64)])?;
        for (kind, count) in &report.errors {
            row(f, &format!("answered {kind}"), &[thousands(*count as f64)])?;
        }
        let verified = &report.verified;
        line(f, "replicas equal", yes_or_no(verified.replicas_equal))?;
        line(f, "acknowledged applied once", yes_or_no(verified.acknowledged_applied_once))?;
        writeln!(f, "{rule}")
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, cells: &[String]) -> fmt::Result {
    write!(f, "{name:NAME_WIDTH$}")?;
    for cell in cells {
        write!(f, "{cell:>WIDTH$}")?;
    }
    writeln!(f)
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, words: &str) -> fmt::Result {
    writeln!(f, "{name:NAME_WIDTH$}  {words}")
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "NO" }
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

#[cfg(test)]
mod tests {
    use super::super::report::tests::sample;
    use super::*;

    #[test]
    fn the_table_says_what_was_measured_and_whether_it_holds() {
        let mut report = sample();
        let table = Table(&report).to_string();
        for words in ["operations/s", "2,000", "p99.99", "sync (", "durable 4 KiB write", "105.0", "2.38", "not_leader"]
        {
            assert!(table.contains(words), "{words} in\n{table}");
        }
        assert!(!table.contains("NO"));
        assert!(table.lines().all(|line| line.len() <= NAME_WIDTH + 6 * WIDTH), "{table}");
        report.verified.replicas_equal = false;
        assert!(Table(&report).to_string().contains("NO"));
    }

    #[test]
    fn thousands_are_set_apart() {
        for (value, text) in [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(thousands(value), text);
        }
    }
}
