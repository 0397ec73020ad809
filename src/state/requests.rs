//! The requests of a monitor, found by the exporter without a lock on the path of a request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_queue::SegQueue;

use super::request_activity::RequestActivity;
use crate::routes::RouteId;
use crate::sync::{AtomicU64, Ordering};

/// The activity of each request record of a monitor, in flight or free.
///
/// A record registers once, when it is allocated. It does not unregister: a scan forgets the
/// activities that no record shares any more, and frees them.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Those registered since the last scan.
    registered: SegQueue<Arc<RequestActivity>>,
    /// Those registered before. Locked by scans only.
    known: Mutex<Vec<Arc<RequestActivity>>>,
    /// The length of both. Relaxed: it bounds the memory, so it may be off by the number of threads
    /// that register at the same time.
    len: AtomicU64,
}

impl Requests {
    /// The largest number of activities, 16 MiB. Without scans, because a recorder hangs, bursts of
    /// requests leave up to as many behind.
    const MAX: u64 = 1 << 18;

    /// Returns the activity of a new record. If there are too many of them, no scan finds it.
    pub(crate) fn register(&self) -> Arc<RequestActivity> {
        let activity = Arc::new(RequestActivity::new());
        if self.len.load(Ordering::Relaxed) < Self::MAX {
            self.len.fetch_add(1, Ordering::Relaxed);
            self.registered.push(Arc::clone(&activity));
        }
        activity
    }

    /// Returns, for each route, how long ago the request in flight that has waited longest was last
    /// polled, in ticks, if that is more than `min`.
    pub(super) fn longest_unpolled(&self, now: u64, min: u64) -> HashMap<RouteId, u64> {
        let mut longest = HashMap::new();
        for (route, polled_at) in self.scan().iter().filter_map(|activity| activity.read()) {
            let age = now.saturating_sub(polled_at);
            if age > min {
                let of_route = longest.entry(route).or_default();
                *of_route = age.max(*of_route);
            }
        }
        longest
    }

    /// Returns the activities of all records that exist.
    fn scan(&self) -> impl std::ops::Deref<Target = Vec<Arc<RequestActivity>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Bounded, because threads may register faster than this one takes.
        for _ in 0..self.registered.len() {
            known.extend(self.registered.pop());
        }
        let before = known.len();
        known.retain(|activity| Arc::strong_count(activity) > 1);
        self.len.fetch_sub((before - known.len()) as u64, Ordering::Relaxed);
        if known.len() < known.capacity() / 4 {
            let len = known.len();
            known.shrink_to(2 * len);
        }
        known
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn route(number: u64) -> RouteId {
        RouteId::from_bits(number)
    }

    fn request(requests: &Requests, number: u64, polled_at: u64) -> Arc<RequestActivity> {
        let activity = requests.register();
        activity.set_route(route(number));
        activity.poll(polled_at);
        activity
    }

    #[test]
    fn the_request_that_has_waited_longest_counts() {
        let requests = Requests::default();
        let polled = [(1, 700), (1, 500), (1, 900), (2, 900), (3, 1_000)];
        let all = polled.map(|(number, polled_at)| request(&requests, number, polled_at));
        let longest = requests.longest_unpolled(1_000, 50);
        assert_eq!(longest, HashMap::from([(route(1), 500), (route(2), 100)]));
        all[1].poll(1_000);
        all[0].end();
        let longest = requests.longest_unpolled(1_000, 50);
        assert_eq!(longest, HashMap::from([(route(1), 100), (route(2), 100)]));
    }

    #[test]
    fn a_poll_on_a_processor_whose_clock_is_ahead_has_no_age() {
        let requests = Requests::default();
        let _ahead = request(&requests, 1, 1_001);
        assert_eq!(requests.longest_unpolled(1_000, 0), HashMap::new());
    }

    #[test]
    fn the_memory_of_records_that_are_gone_is_freed_by_a_scan() {
        let requests = Requests::default();
        let gone: Vec<_> = (0..1_000).map(|_| request(&requests, 1, 1)).collect();
        let kept = request(&requests, 2, 1);
        assert_eq!(requests.scan().len(), 1_001);
        let weak = Arc::downgrade(&gone[0]);
        drop(gone);
        assert_eq!(requests.scan().len(), 1);
        assert!(requests.scan().capacity() < 100);
        assert!(weak.upgrade().is_none());
        assert_eq!(requests.len.load(Ordering::Relaxed), 1);
        assert_eq!(requests.longest_unpolled(3, 0), HashMap::from([(route(2), 2)]));
        drop(kept);
    }

    #[test]
    fn activities_that_no_scan_frees_are_bounded() {
        let requests = Requests::default();
        for _ in 0..Requests::MAX + 1_000 {
            drop(requests.register());
        }
        assert_eq!(requests.registered.len() as u64, Requests::MAX);
        assert_eq!(requests.scan().len(), 0);
        let _again = request(&requests, 1, 1);
        assert_eq!(requests.longest_unpolled(2, 0), HashMap::from([(route(1), 1)]));
    }

    #[test]
    fn requests_are_found_while_other_threads_register() {
        let requests = Requests::default();
        let kept = request(&requests, 1, 1);
        std::thread::scope(|scope| {
            let register = || (0..5_000).for_each(|_| request(&requests, 2, 1).end());
            let threads = [(); 3].map(|()| scope.spawn(register));
            while threads.iter().any(|thread| !thread.is_finished()) {
                assert_eq!(requests.longest_unpolled(2, 0).get(&route(1)), Some(&1));
            }
        });
        assert_eq!(requests.scan().len(), 1);
        drop(kept);
    }
}
