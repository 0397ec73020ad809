//! The times that the parts of the watchdog agree on.

use std::time::Duration;

/// The longest pause between two scans while something is polled.
pub(super) const MAX_PERIOD: Duration = Duration::from_millis(5);
/// The shortest regular pause between two scans.
pub(super) const MIN_PERIOD: Duration = Duration::from_millis(1);
/// The shortest pause before a poll becomes a stall.
pub(super) const MIN_PAUSE: Duration = Duration::from_micros(500);
/// Added to the time at which a poll becomes a stall, so that the scan finds it over the threshold.
pub(super) const SLACK: Duration = Duration::from_micros(50);
/// The time without a poll after which the watchdog goes idle.
pub(super) const IDLE_AFTER: Duration = Duration::from_millis(100);
/// The pause between two scans while idle: so short that blocking of 100 ms outside of measured
/// polls is still there when it has been seen for as long as the default threshold.
pub(super) const IDLE_PERIOD: Duration = Duration::from_millis(65);
/// The time between two flushes of the counters while idle.
pub(super) const IDLE_FLUSH_PERIOD: Duration = Duration::from_secs(1);
/// The time between two flushes of the counters while something is polled.
pub(super) const FLUSH_PERIOD: Duration = Duration::from_millis(250);

/// The age at which a poll may have starved the I/O driver, and its thread is first sampled.
pub(super) const SUSPECT_AGE: Duration = Duration::from_millis(5);
/// The age at which a stall in progress is reported, if it exceeds the threshold; then at each
/// doubling.
pub(super) const FIRST_REPORT_AGE: Duration = Duration::from_secs(1);
/// A stack is captured when the age of a poll has doubled, and at least this often.
pub(super) const MAX_CAPTURE_INTERVAL: Duration = Duration::from_secs(1);

/// Returns the pause after a scan: a fraction of the threshold, so that stalls over a short
/// threshold are detected in time, and hardly longer than the time until a poll becomes a stall.
pub(super) fn period(threshold: Duration, until_next_stall: Duration) -> Duration {
    let regular = (threshold / 4).clamp(MIN_PERIOD, MAX_PERIOD);
    regular.min((until_next_stall + SLACK).max(MIN_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_scan_is_soon_and_right_after_the_next_stall() {
        let micros = Duration::from_micros;
        assert_eq!(period(micros(25_000), micros(25_000)), MAX_PERIOD);
        assert_eq!(period(micros(25_000), micros(2_000)), micros(2_000) + SLACK);
        assert_eq!(period(micros(8_000), micros(8_000)), micros(2_000));
        assert_eq!(period(micros(1_000), micros(1_000)), MIN_PERIOD);
        assert_eq!(period(micros(1_000), micros(0)), MIN_PAUSE);
    }
}
