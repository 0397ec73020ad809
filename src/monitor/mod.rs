//! The monitor that people hold, and how it begins and ends.

mod builder;
mod stats;

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

pub use self::builder::StallMonitorBuilder;
pub use self::stats::RouteStats;

use crate::error::ThresholdError;
use crate::meter::Meter;
use crate::middleware::{StallLayer, StallTask};
use crate::shared::Sighting;
use crate::stall::Stall;
use crate::threads::Watch;

/// Watches one runtime and measures what its layers wrap.
///
/// A handle: clones are cheap and stand for the same monitor. The watching threads and tasks end, on their own and without anybody
/// waiting for them, when the last clone, layer and service is gone, whether or not the runtime still runs. So an
/// [`on_stall`](StallMonitorBuilder::on_stall) hook that holds a clone keeps them alive for ever.
#[derive(Clone)]
pub struct StallMonitor {
    watch: Arc<Watch>,
}

impl StallMonitor {
    /// Begins a monitor with every option at its default.
    pub fn builder() -> StallMonitorBuilder {
        StallMonitorBuilder::new()
    }

    /// A layer that measures the requests of the services it wraps.
    ///
    /// A request counts once, however many layers of one monitor it passes: only the outermost measures it. So does a request that a
    /// handler makes of a measured service within its own poll. A middleware between two such layers that hands the request to another
    /// task, as `tower::buffer` does, hides the outer from the inner, and both count.
    #[must_use]
    pub fn layer(&self) -> StallLayer {
        StallLayer { watch: Arc::clone(&self.watch) }
    }

    /// Measures the polls of a background task, under `method="TASK"` and `route=name`.
    ///
    /// The name is a label value: one per kind of task, never one per task. It counts against
    /// [`max_routes`](StallMonitorBuilder::max_routes). The task is in flight from this call to its end; one that ends counts
    /// as `2xx`, one that is dropped before as `cancelled`. Unlike a request, a task may hold measured requests, for instance
    /// those of a connection: each is measured on its own.
    ///
    /// The task does not keep the monitor alive; without a monitor it runs on, unwatched.
    ///
    /// ```
    /// # async fn example(monitor: tower_stall::StallMonitor) {
    /// tokio::spawn(monitor.instrument("refresh-cache", async {
    ///     // …
    /// }));
    /// # }
    /// ```
    pub fn instrument<F: Future>(&self, name: &str, future: F) -> StallTask<F> {
        StallTask::new(future, Meter::task(self.watch.shared(), name))
    }

    /// Changes the stall threshold, from the next poll that ends and the watchdog's next look on.
    ///
    /// # Errors
    ///
    /// If the threshold is zero; the old one stays.
    pub fn set_stall_threshold(&self, threshold: Duration) -> Result<(), ThresholdError> {
        ThresholdError::check(threshold)?;
        self.watch.shared().set_threshold(threshold);
        Ok(())
    }

    /// The stall threshold, to the clock's precision.
    #[must_use]
    pub fn stall_threshold(&self) -> Duration {
        let shared = self.watch.shared();
        shared.clock.duration(shared.threshold())
    }

    /// The last 256 finished stalls, oldest first, then those in progress now.
    #[must_use]
    pub fn recent_stalls(&self) -> Vec<Stall> {
        let shared = self.watch.shared();
        let found = self.watch.board().read();
        let mut stalls: Vec<_> = found.recent.iter().cloned().collect();
        let now = shared.stalled().map(|stalled| Sighting::of(shared, &stalled));
        stalls.extend(now.filter_map(|now| Stall::of_sighting(shared, &now, found.samples.of(now.of), Duration::ZERO)));
        stalls
    }

    /// Where the time of all stalls went so far, those in progress included: one line for each distinct stack, `route;outer;inner milliseconds`,
    /// which is what flame-graph tools read.
    ///
    /// Each stack stands for the time since the one before it was taken: at the threshold, at each doubling of the age, and each
    /// second. Bounded: of the stacks past 4096 distinct ones, only the route and the time are kept. Empty where no stacks are taken.
    #[must_use]
    pub fn collapsed_stacks(&self) -> String {
        let shared = self.watch.shared();
        let found = self.watch.board().read();
        let mut collapsed = found.collapsed.clone();
        for stalled in shared.stalled() {
            let Some(route) = shared.routes.get(stalled.poll.route) else { continue };
            collapsed.add_all(route.method, &route.name, found.samples.of(stalled.of), stalled.age, &shared.clock);
        }
        collapsed.text()
    }

    /// The routes that had requests so far, in the order of their first one.
    ///
    /// Reads what each thread has counted up to now; costs about a microsecond for each route and thread.
    #[must_use]
    pub fn routes(&self) -> Vec<RouteStats> {
        RouteStats::all(self.watch.shared(), self.watch.board())
    }
}

impl fmt::Debug for StallMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StallMonitor").field("runtime", &self.watch.shared().runtime_name).finish_non_exhaustive()
    }
}
