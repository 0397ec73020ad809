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

    /// Returns whether a flush to `recorder` is to be full, which it then is.
    pub(super) fn take_due(&mut self, recorder: &dyn Recorder, now: Instant) -> bool {
        let address = std::ptr::from_ref(recorder).addr();
        let is_recent = |last| now.saturating_duration_since(last) < Self::PERIOD;
        if self.last.is_some_and(is_recent) && self.recorder == address {
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
        let mut is_full = |seconds, recorder: usize| {
            full.take_due(&recorders[recorder], start + Duration::from_secs(seconds))
        };
        assert!(is_full(0, 0));
        assert!(!is_full(1, 0));
        assert!(is_full(2, 0));
        assert!(is_full(3, 1) && !is_full(4, 1));
    }
}
