//! Memory, CPU time and context switches, from `/proc`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Returns the resident memory of this process in MiB.
pub fn resident_memory_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let kib = lines.find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Returns the on-CPU time of all threads of this process whose names start with `prefix`.
pub fn thread_cpu_time(prefix: &str) -> Duration {
    let nanos = threads(prefix).filter_map(|directory| {
        let schedstat = fs::read_to_string(directory.join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Returns the wake-ups of all threads of this process whose names start with `prefix`, counted as
/// voluntary context switches.
pub fn wake_ups(prefix: &str) -> u64 {
    let counts = threads(prefix).filter_map(|directory| {
        let status = fs::read_to_string(directory.join("status")).ok()?;
        let mut lines = status.lines();
        let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
        count.trim().parse::<u64>().ok()
    });
    counts.sum()
}

/// Returns the user and system time of a process.
pub fn process_cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split(' ');
    let ticks: u64 = fields.skip(12).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // USER_HZ is 100, whatever the kernel's own tick rate.
    Duration::from_millis(10 * ticks)
}

fn threads(prefix: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    // The kernel truncates thread names to 15 bytes.
    let prefix = prefix[..prefix.len().min(15)].to_owned();
    entries.map(|entry| entry.path()).filter(move |directory| {
        fs::read_to_string(directory.join("comm")).is_ok_and(|name| name.starts_with(&prefix))
    })
}
