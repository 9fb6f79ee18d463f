//! What one side did in one round, and how it is summed up.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Longest latency told apart from longer ones, in nanoseconds.
const LATENCY_NS_MAX: u64 = 10_000_000_000;

/// In a round on a quiet machine less than this share of its CPU time goes elsewhere. Up to a fifth is the kernel's own,
/// for our writes.
pub(crate) const ELSEWHERE_MAX: f64 = 0.35;
/// And before it, while this process does nothing, less than this.
const ELSEWHERE_IDLE_MAX: f64 = 0.1;
/// How long one look at the machine takes.
const QUIET_LOOK: Duration = Duration::from_millis(300);

/// An empty histogram of nanoseconds.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constant")
}

/// Counts a latency.
pub(crate) fn note(latencies: &mut Histogram<u64>, took: Duration) {
    latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1));
}

/// Clocks and counters at one end of the measured time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    at: Instant,
    cpu: Duration,
    machine_busy: Duration,
    written: u64,
}

impl Mark {
    pub(crate) fn now() -> Mark {
        Mark { at: Instant::now(), cpu: cpu_time(), machine_busy: machine_busy(), written: bytes_written() }
    }
}

/// One side, one round.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) ops_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// Of all threads of this process, kernel time included, an operation.
    pub(crate) cpu_us: f64,
    /// Of the whole machine, an operation: with the kernel's own threads, and with whatever else ran.
    pub(crate) machine_us: f64,
    /// Share of the machine's CPU time that went elsewhere: to the kernel's own threads, and to strangers.
    pub(crate) elsewhere: f64,
    /// Bytes written, a byte of payload.
    pub(crate) written: f64,
    /// Bytes of one write to the device, where known.
    pub(crate) write_bytes: f64,
}

impl Sample {
    /// Of what was acknowledged between two marks. `payload_bytes` is of one operation; `handed` are the bytes the log
    /// handed to the device, where it tells: otherwise the kernel is asked.
    pub(crate) fn new(
        latencies: &Histogram<u64>,
        (begin, end): (Mark, Mark),
        payload_bytes: u64,
        handed: Option<u64>,
    ) -> Sample {
        let ops = latencies.len().max(1) as f64;
        let per_op = |from: Duration, to: Duration| (to.saturating_sub(from)).as_secs_f64() * 1e6 / ops;
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
        let (busy, own) = (end.machine_busy.saturating_sub(begin.machine_busy), end.cpu.saturating_sub(begin.cpu));
        let machine = (end.at - begin.at) * cpus();
        let written = handed.unwrap_or(end.written.saturating_sub(begin.written)) as f64;
        Sample {
            ops_per_s: latencies.len() as f64 / end.at.duration_since(begin.at).as_secs_f64(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            cpu_us: per_op(begin.cpu, end.cpu),
            machine_us: per_op(begin.machine_busy, end.machine_busy),
            elsewhere: busy.saturating_sub(own).as_secs_f64() / machine.as_secs_f64(),
            written: written / (ops * payload_bytes as f64),
            write_bytes: 0.0,
        }
    }

    /// The median of each number by itself.
    pub(crate) fn medians(samples: &[Sample]) -> Sample {
        let of = |field: fn(&Sample) -> f64| median(samples.iter().map(field));
        Sample {
            ops_per_s: of(|s| s.ops_per_s),
            p50_us: of(|s| s.p50_us),
            p99_us: of(|s| s.p99_us),
            p999_us: of(|s| s.p999_us),
            cpu_us: of(|s| s.cpu_us),
            machine_us: of(|s| s.machine_us),
            elsewhere: of(|s| s.elsewhere),
            written: of(|s| s.written),
            write_bytes: of(|s| s.write_bytes),
        }
    }
}

/// The middle of some numbers, or 0 of none.
pub(crate) fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut sorted = numbers.collect::<Vec<_>>();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
    }
}

/// Sleeps until the machine has little else to do, but no longer than that.
pub(crate) fn wait_for_quiet(patience: Duration) {
    let began = Instant::now();
    while began.elapsed() < patience {
        let before = Mark::now();
        std::thread::sleep(QUIET_LOOK);
        let after = Mark::now();
        let busy = after.machine_busy.saturating_sub(before.machine_busy);
        if busy.as_secs_f64() < ELSEWHERE_IDLE_MAX * ((after.at - before.at) * cpus()).as_secs_f64() {
            return;
        }
    }
}

fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
}

/// CPU time of all threads of this process, user and kernel: what getrusage adds up.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// How long all CPUs together were busy since the machine started, in the kernel's coarse ticks.
fn machine_busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let numbers = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks = numbers.filter_map(|number| number.parse::<u64>().ok()).collect::<Vec<_>>();
    // user nice system idle iowait irq softirq: all but idle and iowait; what other guests took doesn't count.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|&field| ticks.get(field)).sum::<u64>();
    Duration::from_millis(busy * 1000 / rustix::param::clock_ticks_per_second())
}

/// Bytes that this process caused to be written to storage.
fn bytes_written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|bytes| bytes.parse().ok()).unwrap_or(0)
}
