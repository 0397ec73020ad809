use std::time::{Duration, Instant};

use metrics::Recorder;

use crate::os::Clock;

/// One hand-over to a recorder.
#[derive(Clone, Copy)]
pub(super) struct Flush<'a> {
    pub(super) recorder: &'a dyn Recorder,
    pub(super) clock: &'a Clock,
    /// Whether series that have not changed are handed over as well.
    pub(super) is_full: bool,
}

/// When a flush is a full one: for a recorder that has not seen all series, because it was
/// installed late or has forgotten those that were idle.
#[derive(Debug, Default)]
pub(super) struct FullFlushes {
    last: Option<Instant>,
    /// The address of the recorder.
    recorder: usize,
}

impl FullFlushes {
    /// Shorter than the idle timeout of any exporter that keeps a series between two scrapes.
    const PERIOD: Duration = Duration::from_secs(2);

    /// Returns whether a flush to `recorder` is to be full, which it then is: the first one, or one
    /// of all routes after the period.
    pub(super) fn take_due(
        &mut self,
        recorder: &dyn Recorder,
        now: Instant,
        is_of_all_routes: bool,
    ) -> bool {
        let address = std::ptr::from_ref(recorder).addr();
        let is_recent = |last| now.saturating_duration_since(last) < Self::PERIOD;
        let is_first = self.last.is_none() || self.recorder != address;
        if !is_first && (!is_of_all_routes || self.last.is_some_and(is_recent)) {
            return false;
        }
        *self = Self { last: Some(now), recorder: address };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_util::debugging::DebuggingRecorder;

    #[test]
    fn a_flush_is_full_from_time_to_time_and_for_another_recorder() {
        let recorders = [0, 1].map(|_| DebuggingRecorder::new());
        let (mut full, start) = (FullFlushes::default(), Instant::now());
        let mut is_full = |seconds, recorder: usize, is_of_all_routes| {
            let now = start + Duration::from_secs(seconds);
            full.take_due(&recorders[recorder], now, is_of_all_routes)
        };
        assert!(is_full(0, 0, false));
        assert!(!is_full(1, 0, true));
        assert!(!is_full(2, 0, false) && is_full(2, 0, true));
        assert!(is_full(3, 1, false) && !is_full(4, 1, true));
    }
}
