//! What the variants of a process record to.

mod otel;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::runtime::{Handle, Runtime};
use tower_stall::StallMonitor;
use tracing::Level;

use otel::Otel;

pub struct Recorders {
    pub prometheus: PrometheusHandle,
    pub monitor: StallMonitor,
    pub task_monitor: tokio_metrics::TaskMonitor,
    pub future_monitor_requests: Arc<AtomicU64>,
    otel: OnceLock<Otel>,
    runtime: Option<Runtime>,
}

static LOG_LINES: AtomicU64 = AtomicU64::new(0);

/// A writer that counts and discards the lines of the subscriber.
struct LogSink;

impl Recorders {
    /// Installs the global recorders of a typical service: a `metrics` recorder for Prometheus and
    /// a `tracing` subscriber at INFO.
    pub fn install() -> Self {
        let builder = tower_stall::prometheus::buckets(PrometheusBuilder::new());
        Self::new(builder.install_recorder().expect("the first recorder"))
    }

    /// Like [`install`](Self::install), but `prometheus::serve` installs the `metrics` recorder.
    /// The field `prometheus` is then a recorder that receives nothing.
    pub fn install_server() -> Self {
        let server = tower_stall::prometheus::serve(([127, 0, 0, 1], 0)).expect("a server");
        std::mem::forget(server);
        Self::new(PrometheusBuilder::new().build_recorder().handle())
    }

    fn new(prometheus: PrometheusHandle) -> Self {
        tracing_subscriber::fmt().with_max_level(Level::INFO).with_writer(|| LogSink).init();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        // Under callgrind and ptrace every poll would exceed the default threshold.
        let monitor = StallMonitor::builder()
            .runtime(runtime.handle().clone())
            .stall_threshold(Duration::from_secs(600));
        Self {
            prometheus,
            monitor: monitor.spawn().expect("a monitor"),
            task_monitor: tokio_metrics::TaskMonitor::new(),
            future_monitor_requests: Arc::default(),
            otel: OnceLock::new(),
            runtime: Some(runtime),
        }
    }

    /// Replaces the monitor with one for another runtime, with default settings.
    pub fn monitor_runtime(mut self, runtime: &Handle) -> Self {
        let monitor = StallMonitor::builder().runtime(runtime.clone());
        self.monitor = monitor.spawn().expect("a monitor");
        self
    }

    /// Returns the OpenTelemetry providers and installs them at the first call.
    pub fn otel(&self) -> &Otel {
        self.otel.get_or_init(Otel::install)
    }

    /// Returns the sum over all series of a metric in the Prometheus text.
    pub fn sum(&self, name: &str) -> Option<u64> {
        let text = self.prometheus.render();
        let series = text.lines().filter(|line| line.starts_with(name));
        let values = series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        Some(values.sum())
    }

    /// Returns the lines that the subscriber has written.
    pub fn log_lines(&self) -> u64 {
        LOG_LINES.load(Ordering::Relaxed)
    }
}

impl Drop for Recorders {
    /// Shuts the runtime down in the background, because dropping it panics inside another runtime.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl io::Write for LogSink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LOG_LINES.fetch_add(1, Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
