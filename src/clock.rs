//! The clock of every measurement: the time stamp counter where it is stable, else the OS clock.

use std::time::{Duration, Instant};

/// A monotonic clock read in *ticks*, whose length in nanoseconds only the clock knows.
///
/// Ticks are what the poll path stores; they become seconds off it.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    Counter(quanta::Clock),
    Os(Instant),
    #[cfg(all(test, not(tower_stall_loom)))]
    Manual(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    /// The first call in a process compares the counter with the OS clock, which takes about a millisecond and 200 ms at most.
    pub(crate) fn new() -> Self {
        if counter_is_stable() { Self::Counter(quanta::Clock::new()) } else { Self::Os(Instant::now()) }
    }

    /// The time now, in ticks since an arbitrary point in the past; never 0 in practice.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::Counter(clock) => read(clock),
            Self::Os(origin) => saturating_nanos(origin.elapsed()),
            #[cfg(all(test, not(tower_stall_loom)))]
            Self::Manual(now) => now.load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    /// A length of time in ticks as nanoseconds.
    pub(crate) fn nanos(&self, ticks: u64) -> u64 {
        match self {
            Self::Counter(clock) => clock.delta_as_nanos(0, ticks),
            _ => ticks,
        }
    }

    /// A length of time in ticks, or a fraction of them, as seconds.
    pub(crate) fn seconds(&self, ticks: f64) -> f64 {
        const MANY: u64 = 1_000_000_000_000;
        ticks * self.nanos(MANY) as f64 / MANY as f64 / 1e9
    }

    pub(crate) fn duration(&self, ticks: u64) -> Duration {
        Duration::from_nanos(self.nanos(ticks))
    }

    /// A length of time in ticks, rounded down, no longer than a day.
    pub(crate) fn ticks(&self, duration: Duration) -> u64 {
        const DAY: u64 = 86_400_000_000_000;
        const SECOND: u64 = 1_000_000_000;
        let nanos = saturating_nanos(duration).min(DAY);
        let per_second = self.nanos(SECOND).max(1);
        let ticks = u128::from(nanos) * u128::from(SECOND) / u128::from(per_second);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// The counter that quanta reads, without the call into quanta that is not inlined: 4 instructions in place of 12.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[inline]
fn read(_: &quanta::Clock) -> u64 {
    crate::os::time_stamp()
}

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
#[inline]
fn read(clock: &quanta::Clock) -> u64 {
    clock.raw()
}

fn saturating_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The kernel gives up the counter as its own clock when cores disagree about it; a CPUID flag alone does not tell.
#[cfg(target_os = "linux")]
fn counter_is_stable() -> bool {
    const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    std::fs::read_to_string(CURRENT).is_ok_and(|source| matches!(source.trim(), "tsc" | "arch_sys_counter"))
}

#[cfg(not(target_os = "linux"))]
fn counter_is_stable() -> bool {
    cfg!(all(target_os = "macos", target_arch = "aarch64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_in_ticks_is_a_second_again() {
        for clock in [Clock::new(), Clock::Os(Instant::now())] {
            let ticks = clock.ticks(Duration::from_secs(1));
            let nanos = clock.nanos(ticks);
            assert!(nanos.abs_diff(1_000_000_000) < 1_000, "{clock:?}: {nanos} ns");
        }
    }

    #[test]
    fn absurd_lengths_are_a_day() {
        let clock = Clock::new();
        assert_eq!(clock.ticks(Duration::MAX), clock.ticks(Duration::from_secs(86_400)));
    }
}
