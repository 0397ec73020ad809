//! The clock of every measurement: the processor's counter if it is stable, otherwise the OS clock.

use std::time::{Duration, Instant};

/// A monotonic clock that is read in *ticks*, whose length only the clock knows.
///
/// The poll path stores ticks; they are converted to seconds off that path.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    Counter(quanta::Clock),
    Os(Instant),
    #[cfg(all(test, not(tower_stall_loom)))]
    Manual(std::sync::Arc<std::sync::atomic::AtomicU64>),
}

impl Clock {
    /// Creates a clock. The first call in a process calibrates the counter against the OS clock,
    /// which takes about a millisecond and at most 200 ms.
    pub(crate) fn new() -> Self {
        if counter_is_stable() {
            Self::Counter(quanta::Clock::new())
        } else {
            Self::Os(Instant::now())
        }
    }

    /// Returns the current time in ticks since an arbitrary moment; never 0 in practice.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::Counter(clock) => read(clock),
            Self::Os(origin) => duration_nanos(origin.elapsed()),
            #[cfg(all(test, not(tower_stall_loom)))]
            Self::Manual(now) => now.load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    /// Converts ticks to nanoseconds.
    pub(crate) fn nanos(&self, ticks: u64) -> u64 {
        match self {
            Self::Counter(clock) => clock.delta_as_nanos(0, ticks),
            _ => ticks,
        }
    }

    /// Converts ticks, or a fraction of one, to seconds.
    pub(crate) fn seconds(&self, ticks: f64) -> f64 {
        const SCALE: u64 = 1_000_000_000_000;
        ticks * self.nanos(SCALE) as f64 / SCALE as f64 / 1e9
    }

    pub(crate) fn duration(&self, ticks: u64) -> Duration {
        Duration::from_nanos(self.nanos(ticks))
    }

    /// Converts a duration to ticks, rounded down. Durations over a day count as a day.
    pub(crate) fn ticks(&self, duration: Duration) -> u64 {
        const DAY: u64 = 86_400_000_000_000;
        const SECOND: u64 = 1_000_000_000;
        let nanos = duration_nanos(duration).min(DAY);
        let nanos_of_a_billion_ticks = self.nanos(SECOND).max(1);
        let ticks = u128::from(nanos) * u128::from(SECOND) / u128::from(nanos_of_a_billion_ticks);
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// Reads the counter that quanta uses, without quanta's function call, which is not inlined: 4
/// instructions instead of 12.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[inline]
fn read(_: &quanta::Clock) -> u64 {
    super::linux::rdtsc()
}

#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
#[inline]
fn read(_: &quanta::Clock) -> u64 {
    super::linux::cntvct()
}

#[cfg(not(all(target_os = "linux", any(target_arch = "aarch64", target_arch = "x86_64"))))]
#[inline]
fn read(clock: &quanta::Clock) -> u64 {
    clock.raw()
}

/// Returns a duration in nanoseconds, saturated.
pub(crate) fn duration_nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns whether the kernel uses the counter as its own clock source. It stops doing so when the
/// counters of two cores disagree, which no CPUID flag shows.
#[cfg(target_os = "linux")]
fn counter_is_stable() -> bool {
    const CURRENT: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    std::fs::read_to_string(CURRENT)
        .is_ok_and(|source| matches!(source.trim(), "tsc" | "arch_sys_counter"))
}

#[cfg(not(target_os = "linux"))]
fn counter_is_stable() -> bool {
    cfg!(all(target_os = "macos", target_arch = "aarch64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_survives_the_round_trip_through_ticks() {
        for clock in [Clock::new(), Clock::Os(Instant::now())] {
            let ticks = clock.ticks(Duration::from_secs(1));
            let nanos = clock.nanos(ticks);
            assert!(nanos.abs_diff(1_000_000_000) < 1_000, "{clock:?}: {nanos} ns");
        }
    }

    #[test]
    fn durations_are_capped_at_a_day() {
        let clock = Clock::new();
        assert_eq!(clock.ticks(Duration::MAX), clock.ticks(Duration::from_secs(86_400)));
    }
}
