//! When a request was last polled: a seqlock that the polling thread writes and the exporter reads.
//!
//! The time of the last poll is also the sequence, as in the current-poll slot: 0 stands between
//! two requests of a recycled record, and the route changes only then. So a reader that finds the
//! same time before and after reading the route knows that the two belong together. (Should two
//! requests begin in one tick, then the time is true of both.)

use crate::routes::{RouteId, Routes};
use crate::sync::{AtomicU64, Ordering};

/// The last poll of one request. Outlives the request, and serves the next one of its record.
///
/// Aligned, because neighbors are written by other threads.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct RequestActivity {
    /// The start of the current poll, or of the last one, in ticks; 0 if no request is in flight.
    polled_at: AtomicU64,
    route: AtomicU64,
}

impl RequestActivity {
    pub(super) fn new() -> Self {
        Self {
            polled_at: AtomicU64::new(0),
            route: AtomicU64::new(Routes::UNATTRIBUTED.get().into()),
        }
    }

    /// Sets the route of the next request. Must only be called while none is in flight.
    #[inline]
    pub(crate) fn set_route(&self, route: RouteId) {
        // Release: pairs with the Acquire in `read`. A reader that sees this route does not see the
        // polls of the request before.
        self.route.store(route.get().into(), Ordering::Release);
    }

    /// Records the start of a poll.
    #[inline(always)]
    pub(crate) fn poll(&self, start: u64) {
        // Release: pairs with the Acquire in `read`. A reader that sees this poll sees its route.
        self.polled_at.store(start, Ordering::Release);
    }

    /// Records the end of the request.
    #[inline(always)]
    pub(crate) fn end(&self) {
        // Relaxed: the Release in `set_route` publishes it, before the route can change.
        self.polled_at.store(0, Ordering::Relaxed);
    }

    /// Returns the route of the request in flight, and the start of its last poll. May be called by
    /// any thread.
    ///
    /// Also returns `None` if the request is polled meanwhile.
    pub(crate) fn read(&self) -> Option<(RouteId, u64)> {
        // Acquire: pairs with the Release in `poll`.
        let polled_at = self.polled_at.load(Ordering::Acquire);
        if polled_at == 0 {
            return None;
        }
        // Acquire: pairs with the Release in `set_route`.
        let route = self.route.load(Ordering::Acquire);
        let is_unchanged = self.polled_at.load(Ordering::Relaxed) == polled_at;
        is_unchanged.then(|| (RouteId::from_bits(route), polled_at))
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_poll_is_readable_while_the_request_is_in_flight() {
        let activity = RequestActivity::new();
        let route = RouteId::from_bits(u16::MAX.into());
        activity.set_route(route);
        assert_eq!(activity.read(), None);
        activity.poll(100);
        assert_eq!(activity.read(), Some((route, 100)));
        activity.poll(200);
        assert_eq!(activity.read(), Some((route, 200)));
        activity.end();
        assert_eq!(activity.read(), None);
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use super::*;
    use ::loom::{sync::Arc, thread};

    fn route(number: u64) -> RouteId {
        RouteId::from_bits(number)
    }

    /// A reader never pairs the poll of one request with the route of the next one of the record.
    ///
    /// The reader is the spawned thread: loom lets only that one see outdated values.
    #[test]
    fn loom_a_poll_is_read_with_its_own_route() {
        ::loom::model(|| {
            let activity = Arc::new(RequestActivity::new());
            let reader = {
                let activity = Arc::clone(&activity);
                thread::spawn(move || {
                    if let Some((read, polled_at)) = activity.read() {
                        assert_eq!(read, route(polled_at / 100));
                    }
                })
            };
            for number in 1..=2 {
                activity.set_route(route(number));
                activity.poll(number * 100);
                activity.poll(number * 100 + 1);
                activity.end();
            }
            assert_eq!(activity.read(), None);
            reader.join().unwrap();
        });
    }
}
