//! What this process has used: CPU time and memory.

use std::time::Duration;

/// CPU time of all threads of this process since it started, in user mode and in the kernel: all nodes and the client
/// together. The same sum as getrusage's, in nanoseconds.
pub(super) fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// Bytes of this process in memory, or 0 where /proc doesn't tell.
pub(super) fn resident_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status").ok().as_deref().and_then(resident_in).unwrap_or(0)
}

/// The line is `VmRSS:     12345 kB`.
fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib = line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_time() {
        assert!(resident_bytes() > 100_000);
        let before = cpu_time();
        let mut sum = 0_u64;
        while cpu_time() == before {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(cpu_time() > before);
    }

    #[test]
    fn a_status_without_the_line_tells_nothing() {
        assert_eq!(resident_in("Name: x\nVmRSS:\t   2048 kB\nThreads: 1"), Some(2048 * 1024));
        assert_eq!(resident_in("Name: x"), None);
        assert_eq!(resident_in("VmRSS: many kB"), None);
    }
}
