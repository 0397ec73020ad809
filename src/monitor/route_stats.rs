use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::routes::{Route, RouteId};
use crate::shard::{BOUNDS_NANOS, HistogramSnapshot, RouteTotals};
use crate::state::MonitorState;

/// The statistics of one route. Returned by [`StallMonitor::routes`](crate::StallMonitor::routes).
///
/// Counts and durations are those since the start of the monitor, except for what is in flight or
/// in progress now.
///
/// ```
/// # fn example(monitor: &tower_stall::StallMonitor) {
/// let mut routes = monitor.routes();
/// routes.sort_by_key(|route| std::cmp::Reverse(route.stolen_time()));
/// for route in routes {
///     println!("{} {}: {} stalls", route.method(), route.route(), route.stalls());
///     println!("  {:?} of {:?} stolen", route.stolen_time(), route.total_stall_duration());
///     println!("  {:?} caused, {:?} suffered", route.delay_caused(), route.delay_suffered());
///     println!("  {} of {} requests in flight", route.in_flight(), route.requests());
///     println!("  {} polls, the longest of {:?}", route.polls(), route.longest_poll());
///     if let Some(age) = route.oldest_stall_age() {
///         println!("  stalling for {age:?}");
///     }
///     if let Some(age) = route.oldest_request_age() {
///         println!("  a request was last polled {age:?} ago");
///     }
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RouteStats {
    method: &'static str,
    name: Arc<str>,
    started: u64,
    ended: u64,
    polls: HistogramSnapshot,
    longest_poll: Duration,
    socket_waits: HistogramSnapshot,
    total_socket_wait: Duration,
    stalls: u64,
    total_stall_duration: Duration,
    stolen_time: Duration,
    delay_caused: Duration,
    delay_suffered: Duration,
    oldest_stall_age: Option<Duration>,
    oldest_request_age: Option<Duration>,
}

impl RouteStats {
    /// Returns the statistics of each row that has requests or stalls.
    pub(super) fn all(monitor: &MonitorState) -> Vec<Self> {
        let oldest_requests = monitor.oldest_requests();
        let stats = |(row, ids): (RouteId, Vec<RouteId>)| {
            let oldest = ids.iter().filter_map(|id| oldest_requests.get(id)).max();
            let route = monitor.routes.get(row)?;
            Some(Self { oldest_request_age: oldest.copied(), ..Self::of(monitor, route, &ids)? })
        };
        monitor.routes.rows().into_iter().filter_map(stats).collect()
    }

    fn of(monitor: &MonitorState, route: &Route, ids: &[RouteId]) -> Option<Self> {
        let totals = monitor.totals_of(ids);
        let mut stalls = totals.unreported_stalls;
        let history = monitor.history.lock();
        let by_cause = ids.iter().filter_map(|id| history.stalls.get(id)).flat_map(HashMap::values);
        by_cause.for_each(|reported| stalls.merge(reported));
        let stolen: Duration = ids.iter().map(|&id| history.split(id).own()).sum();
        let delays: Vec<_> = ids.iter().map(|&id| history.delays.of(id)).collect();
        drop(history);
        let caused = delays.iter().map(|delays| delays.caused).sum();
        let suffered = delays.iter().flat_map(|delays| delays.suffered).sum();
        let in_progress = monitor.stalls_in_progress();
        let in_progress = in_progress.filter(|stall| ids.contains(&stall.poll.route));
        let oldest_stall_age = in_progress.map(|stall| stall.age).max();
        if totals.started == 0 && stalls.count() == 0 && oldest_stall_age.is_none() {
            return None;
        }
        let polls = totals.all_polls();
        Some(Self {
            method: route.method,
            name: Arc::clone(&route.name),
            started: totals.started,
            ended: totals.ended(),
            longest_poll: longest_poll(monitor, &totals, &polls),
            polls,
            socket_waits: totals.socket_wait,
            total_socket_wait: monitor.clock.duration(totals.socket_wait.ticks()),
            stalls: stalls.count(),
            total_stall_duration: monitor.clock.duration(stalls.ticks()),
            stolen_time: stolen + monitor.clock.duration(totals.unreported_stalls.ticks()),
            delay_caused: monitor.clock.duration(caused),
            delay_suffered: monitor.clock.duration(suffered),
            oldest_stall_age: oldest_stall_age.map(|age| monitor.clock.duration(age)),
            oldest_request_age: None,
        })
    }

    /// Returns the value of the label `method`.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method
    }

    /// Returns the value of the label `route`.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.name
    }

    /// Returns the number of requests that have started.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.started
    }

    /// Returns the number of requests that have not ended.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.started - self.ended
    }

    /// Returns the number of polls that have ended, of both phases.
    #[must_use]
    pub fn polls(&self) -> u64 {
        self.polls.count()
    }

    /// Returns an upper bound of a quantile of the poll durations: the upper bound of the
    /// histogram's bucket, or the longest poll if that is less. `None` before the first poll has
    /// ended.
    ///
    /// `quantile` is clamped to the range from 0 to 1; NaN counts as 0.
    ///
    /// ```
    /// # fn example(route: &tower_stall::RouteStats) {
    /// if let Some(p99) = route.poll_quantile(0.99) {
    ///     println!("99 % of the polls took at most {p99:?}");
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn poll_quantile(&self, quantile: f64) -> Option<Duration> {
        Some(upper_bound(&self.polls, quantile)?.min(self.longest_poll))
    }

    /// Returns the duration of the longest poll that has ended.
    ///
    /// Polls of up to 0.1 ms are not distinguished: the result is 0.1 ms if none was longer.
    #[must_use]
    pub fn longest_poll(&self) -> Duration {
        self.longest_poll
    }

    /// Returns the number of requests of which it is known for how long their bytes have waited in
    /// the socket: those that were read through [`StallMonitor::listener`] or
    /// [`StallMonitor::io`].
    ///
    /// [`StallMonitor::listener`]: crate::StallMonitor::listener
    /// [`StallMonitor::io`]: crate::StallMonitor::io
    #[must_use]
    pub fn socket_waits(&self) -> u64 {
        self.socket_waits.count()
    }

    /// Returns for how long the bytes of all these requests have waited in the socket.
    #[must_use]
    pub fn total_socket_wait(&self) -> Duration {
        self.total_socket_wait
    }

    /// Returns an upper bound of a quantile of these waits: the upper bound of the histogram's
    /// bucket, at least 0.1 ms. `None` if no wait is known.
    ///
    /// `quantile` is clamped to the range from 0 to 1; NaN counts as 0.
    #[must_use]
    pub fn socket_wait_quantile(&self, quantile: f64) -> Option<Duration> {
        upper_bound(&self.socket_waits, quantile)
    }

    /// Returns the number of stalls of worker threads that have ended, whatever their cause.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.stalls
    }

    /// Returns the total duration of all stalls that have ended, including host delays.
    #[must_use]
    pub fn total_stall_duration(&self) -> Duration {
        self.total_stall_duration
    }

    /// Returns the worker time that the route has stolen: the time of its stalls that have ended, in
    /// which the thread was on-CPU or off-CPU.
    ///
    /// It is [`total_stall_duration`](Self::total_stall_duration) without host delays, which the
    /// code is not responsible for: waiting in the run queue, and stops of the process. See
    /// [where the time went](crate::Stall#where-the-time-went).
    #[must_use]
    pub fn stolen_time(&self) -> Duration {
        self.stolen_time
    }

    /// Returns the sum of other requests' delays that polls of this route have caused: the harm that
    /// it has done. A poll of 1 ms or more may delay others; see
    /// [who delayed whom](crate::guide::reports#who-delayed-whom).
    #[must_use]
    pub fn delay_caused(&self) -> Duration {
        self.delay_caused
    }

    /// Returns the sum of the delays of 1 ms or more of this route's requests, whatever caused them.
    #[must_use]
    pub fn delay_suffered(&self) -> Duration {
        self.delay_suffered
    }

    /// Returns the age of the oldest stall in progress; `None` if there is none.
    #[must_use]
    pub fn oldest_stall_age(&self) -> Option<Duration> {
        self.oldest_stall_age
    }

    /// Returns how long ago the request in flight that has waited longest was last polled; `None`
    /// if each was polled within the last second, and for instrumented tasks.
    ///
    /// The time counts from the start of that poll, which may still be running. If it grows without
    /// end, the request is deadlocked, or waits by design, as a stream does. See
    /// [requests that are not polled](crate::guide::metrics#requests-that-are-not-polled).
    #[must_use]
    pub fn oldest_request_age(&self) -> Option<Duration> {
        self.oldest_request_age
    }
}

/// Returns the upper bound of the bucket that contains a quantile.
fn upper_bound(histogram: &HistogramSnapshot, quantile: f64) -> Option<Duration> {
    let bound = BOUNDS_NANOS.get(histogram.quantile(quantile)?);
    Some(bound.map_or(Duration::MAX, |&nanos| Duration::from_nanos(nanos)))
}

fn longest_poll(
    monitor: &MonitorState,
    totals: &RouteTotals,
    polls: &HistogramSnapshot,
) -> Duration {
    // Only polls beyond the first bucket are tracked: tracking all adds instructions to every poll.
    let unknown_below = Duration::from_nanos(BOUNDS_NANOS[0]);
    match monitor.clock.duration(totals.longest_poll) {
        _ if polls.count() == 0 => Duration::ZERO,
        longest => longest.max(unknown_below),
    }
}
