//! The metrics of this process, read from `/proc/self` at each scrape; absent on systems other than Linux.

use std::fs;

/// `/proc/self/stat` counts in ticks of `USER_HZ`, which is 100 on every architecture Rust's Linux targets
/// have.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory in bytes.
pub(crate) fn resident_bytes() -> Option<u64> {
    parse_resident(&fs::read_to_string("/proc/self/status").ok()?)
}

/// CPU time used so far by all threads, user and system, in seconds.
pub(crate) fn cpu_seconds() -> Option<f64> {
    parse_cpu(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// `VmRSS:      1234 kB`
fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Fields 14 and 15 of proc_pid_stat(5), counted behind the command's name, which may itself hold `)` and
/// spaces.
fn parse_cpu(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_brackets_and_spaces_shifts_nothing() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 900 0 0 0 150 25 8 9 20 0 4 0 100 1000 50";
        assert_eq!(parse_cpu(stat), Some(1.75));
        assert_eq!(parse_cpu("7 (x) S 1"), None);
        assert_eq!(parse_cpu(""), None);
    }

    #[test]
    fn resident_memory_is_in_bytes() {
        assert_eq!(parse_resident("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t1\n"), Some(2_097_152));
        assert_eq!(parse_resident("Name:\tx\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_can_be_read() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 16));
        assert!(cpu_seconds().is_some_and(|seconds| seconds >= 0.0));
    }
}
