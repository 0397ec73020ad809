//! What the kernel tells of this process and its threads.

use std::fs;
use std::time::Duration;

/// Resident memory.
pub fn resident_mib() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
}

/// How long the threads whose names begin so have run.
pub fn thread_cpu(name: &str) -> Duration {
    let nanos = threads(name).filter_map(|folder| {
        let stat = fs::read_to_string(folder.join("schedstat")).ok()?;
        stat.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// How often the threads whose names begin so went to sleep, and so were woken.
pub fn wake_ups(name: &str) -> u64 {
    let counts = threads(name).filter_map(|folder| {
        let status = fs::read_to_string(folder.join("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    });
    counts.sum()
}

/// How long a process has run, all its threads together.
pub fn process_cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = rest.split(' ').skip(12).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    // The kernel tells of them in hundredths of a second, whatever its own tick is.
    Duration::from_millis(10 * ticks)
}

fn threads(name: &str) -> impl Iterator<Item = std::path::PathBuf> {
    let folders = fs::read_dir("/proc/self/task").into_iter().flatten().flatten().map(|entry| entry.path());
    // The kernel keeps 15 bytes of a name.
    let name = name[..name.len().min(15)].to_owned();
    folders.filter(move |folder| fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm.starts_with(&name)))
}
