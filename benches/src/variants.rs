//! Who is measured: each neighbour as its docs would have it put around a router.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::routing::Route;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tower::Service;
use tower::layer::util::Identity;
use tower_http::trace::{DefaultMakeSpan, DefaultOnResponse, TraceLayer};
use tower_stall::StallMonitor;
use tracing::Level;

use crate::around::Around;
use crate::floor;
use crate::least::{self, LeastLayer};
use crate::wrapped::WrapLayer;

/// A middleware, or what stands for the lack of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Variant {
    Bare,
    Identity,
    Wrapped,
    Least,
    Floor,
    FloorOs,
    TowerStall,
    TokioMetrics,
    FutureMonitor,
    CachedHandles,
    Macros,
    AxumPrometheus,
    TraceOff,
    TraceOn,
    OtelTower,
    AxumOtel,
}

/// What the variants of one process share, and where it is seen whether they record.
pub struct Recorders {
    pub prometheus: PrometheusHandle,
    pub monitor: StallMonitor,
    pub task_monitor: tokio_metrics::TaskMonitor,
    otel: OnceLock<Otel>,
    futures: Arc<AtomicU64>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Meter providers whose reader never fires by itself.
struct Otel {
    tower: opentelemetry_sdk::metrics::SdkMeterProvider,
    tower_out: opentelemetry_sdk::metrics::InMemoryMetricExporter,
    axum: opentelemetry_sdk_0_32::metrics::SdkMeterProvider,
    axum_out: opentelemetry_sdk_0_32::metrics::InMemoryMetricExporter,
}

/// Lines that the subscriber has written.
static LINES: AtomicU64 = AtomicU64::new(0);

/// Where the subscriber writes to.
struct Lines;

// === impl Variant ===

impl Variant {
    pub const ALL: [Self; 16] = [
        Self::Bare,
        Self::Identity,
        Self::Wrapped,
        Self::Least,
        Self::Floor,
        Self::FloorOs,
        Self::TowerStall,
        Self::TokioMetrics,
        Self::FutureMonitor,
        Self::CachedHandles,
        Self::Macros,
        Self::AxumPrometheus,
        Self::TraceOff,
        Self::TraceOn,
        Self::OtelTower,
        Self::AxumOtel,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare router",
            Self::Identity => "`identity`",
            Self::Wrapped => "a wrapped body, nothing else",
            Self::Least => "the least that tells the same",
            Self::Floor => "floor, TSC",
            Self::FloorOs => "floor, OS clock",
            Self::TowerStall => "**tower-stall**",
            Self::TokioMetrics => "tokio-metrics `TaskMonitor`",
            Self::FutureMonitor => "tokio-metrics `FutureMonitor`",
            Self::CachedHandles => "`metrics`, cached handles",
            Self::Macros => "`metrics`, macros",
            Self::AxumPrometheus => "axum-prometheus",
            Self::TraceOff => "tower-http `TraceLayer`, its level off",
            Self::TraceOn => "tower-http `TraceLayer`, a line each",
            Self::OtelTower => "opentelemetry-instrumentation-tower",
            Self::AxumOtel => "axum-otel-metrics",
        }
    }

    /// The router with the middleware around each route.
    pub fn around(self, router: Router, recorders: &Recorders) -> Router {
        match self {
            Self::Bare => router,
            Self::Identity => router.layer(Identity::new()),
            Self::Wrapped => router.layer(WrapLayer),
            Self::Least => router.layer(LeastLayer),
            Self::Floor => router.layer(Around(floor::call(floor::Counter))),
            Self::FloorOs => router.layer(Around(floor::call(floor::Os(Instant::now())))),
            Self::TowerStall => router.layer(recorders.monitor.layer()),
            Self::TokioMetrics => {
                let monitor = recorders.task_monitor.clone();
                router.layer(Around(move |route: &mut Route, request| monitor.instrument(route.call(request))))
            }
            Self::FutureMonitor => {
                let polls = Arc::clone(&recorders.futures);
                router.layer(Around(move |route: &mut Route, request| {
                    let (call, polls) = (route.call(request), Arc::clone(&polls));
                    async move {
                        let (response, metrics) = tokio_metrics::FutureMonitor::new().instrument(call).await;
                        let is_slow = metrics.total_poll_duration > Duration::from_secs(60);
                        polls.fetch_add(u64::from(!is_slow), Ordering::Relaxed);
                        response
                    }
                }))
            }
            Self::CachedHandles => {
                let counter = metrics::counter!("cached_requests_total");
                let histogram = metrics::histogram!("cached_request_duration_seconds");
                let handles = Arc::new((counter, histogram));
                router.layer(Around(move |route: &mut Route, request| {
                    let (start, handles) = (Instant::now(), Arc::clone(&handles));
                    let call = route.call(request);
                    async move {
                        let response = call.await;
                        handles.0.increment(1);
                        handles.1.record(start.elapsed());
                        response
                    }
                }))
            }
            // As in axum's example `prometheus-metrics`.
            Self::Macros => router.layer(Around(|route: &mut Route, request: Request| {
                let start = Instant::now();
                let matched = request.extensions().get::<MatchedPath>();
                let path = matched.map_or_else(|| request.uri().path().to_owned(), |path| path.as_str().to_owned());
                let method = request.method().clone();
                let call = route.call(request);
                async move {
                    let response = call.await?;
                    let latency = start.elapsed().as_secs_f64();
                    let status = response.status().as_u16().to_string();
                    let labels = [("method", method.to_string()), ("path", path), ("status", status)];
                    metrics::counter!("macro_requests_total", &labels).increment(1);
                    metrics::histogram!("macro_request_duration_seconds", &labels).record(latency);
                    Ok(response)
                }
            })),
            Self::AxumPrometheus => router.layer(axum_prometheus::PrometheusMetricLayer::new()),
            Self::TraceOff => router.layer(TraceLayer::new_for_http()),
            Self::TraceOn => {
                let (span, line) =
                    (DefaultMakeSpan::new().level(Level::INFO), DefaultOnResponse::new().level(Level::INFO));
                router.layer(TraceLayer::new_for_http().make_span_with(span).on_response(line))
            }
            Self::OtelTower => {
                recorders.otel();
                router.layer(opentelemetry_instrumentation_tower::http::server::Layer::new())
            }
            Self::AxumOtel => {
                let provider = recorders.otel().axum.clone();
                let builder = axum_otel_metrics::HttpMetricsLayerBuilder::new().with_provider(provider);
                router.layer(builder.build())
            }
        }
    }

    /// How many requests the variant has recorded so far; `None` where it has nothing to record with.
    pub fn recorded(self, recorders: &Recorders) -> Option<u64> {
        match self {
            Self::Bare | Self::Identity | Self::Wrapped | Self::TraceOff => None,
            Self::Least => Some(least::counted()),
            Self::Floor | Self::FloorOs => Some(floor::counted()),
            Self::TowerStall => Some(recorders.monitor.routes().iter().map(|route| route.requests()).sum()),
            Self::TokioMetrics => Some(recorders.task_monitor.cumulative().dropped_count),
            Self::FutureMonitor => Some(recorders.futures.load(Ordering::Relaxed)),
            Self::CachedHandles => recorders.rendered("cached_request_duration_seconds_count"),
            Self::Macros => recorders.rendered("macro_request_duration_seconds_count"),
            Self::AxumPrometheus => recorders.rendered("axum_http_requests_duration_seconds_count"),
            Self::TraceOn => Some(LINES.load(Ordering::Relaxed)),
            Self::OtelTower => Some(recorders.otel().tower_count()),
            Self::AxumOtel => Some(recorders.otel().axum_count()),
        }
    }
}

// === impl Recorders ===

impl Recorders {
    /// Installs what is one for the process: the `metrics` recorder and a subscriber at INFO, as a service has them.
    pub fn install() -> Self {
        let builder = tower_stall::prometheus::buckets(PrometheusBuilder::new());
        Self::beside(builder.install_recorder().expect("the first recorder"))
    }

    /// The same, where `prometheus::serve` has installed its own: nobody writes to the one that is held here.
    pub fn serving() -> Self {
        let server = tower_stall::prometheus::serve(([127, 0, 0, 1], 0)).expect("a server");
        std::mem::forget(server);
        Self::beside(PrometheusBuilder::new().build_recorder().handle())
    }

    fn beside(prometheus: PrometheusHandle) -> Self {
        tracing_subscriber::fmt().with_max_level(Level::INFO).with_writer(|| Lines).init();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        // No stall is to be reported where a debugger steps through a poll.
        let monitor =
            StallMonitor::builder().runtime(runtime.handle().clone()).stall_threshold(Duration::from_secs(600));
        Self {
            prometheus,
            monitor: monitor.spawn().expect("a monitor"),
            task_monitor: tokio_metrics::TaskMonitor::new(),
            otel: OnceLock::new(),
            futures: Arc::default(),
            runtime: Some(runtime),
        }
    }

    /// The same, with a monitor at its defaults that watches another runtime.
    pub fn watching(mut self, runtime: &tokio::runtime::Handle) -> Self {
        self.monitor = StallMonitor::builder().runtime(runtime.clone()).spawn().expect("a monitor");
        self
    }

    fn otel(&self) -> &Otel {
        self.otel.get_or_init(Otel::install)
    }

    /// The sum of a metric's samples in what Prometheus would scrape.
    fn rendered(&self, name: &str) -> Option<u64> {
        let text = self.prometheus.render();
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        Some(values.filter_map(|value| value.parse::<u64>().ok()).sum())
    }
}

impl Drop for Recorders {
    /// Inside a runtime none may be dropped in the usual way.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

// === impl Otel ===

/// The same for both versions of the SDK.
macro_rules! provider {
    ($sdk:ident) => {{
        let out = $sdk::metrics::InMemoryMetricExporter::default();
        let reader = $sdk::metrics::PeriodicReader::builder(out.clone()).with_interval(NEVER).build();
        ($sdk::metrics::SdkMeterProvider::builder().with_reader(reader).build(), out)
    }};
}

macro_rules! count {
    ($sdk:ident, $provider:expr, $out:expr) => {{
        use $sdk::metrics::data::{AggregatedMetrics, MetricData};
        $provider.force_flush().expect("a flush");
        let finished = $out.get_finished_metrics().expect("what was exported");
        let scopes = finished.last().into_iter().flat_map(|all| all.scope_metrics());
        let metrics = scopes.flat_map(|scope| scope.metrics()).filter(|m| m.name() == "http.server.request.duration");
        let counts = metrics.map(|metric| match metric.data() {
            AggregatedMetrics::F64(MetricData::Histogram(all)) => all.data_points().map(|point| point.count()).sum(),
            _ => 0,
        });
        counts.sum()
    }};
}

const NEVER: Duration = Duration::from_secs(86_400);

impl Otel {
    fn install() -> Self {
        let (tower, tower_out) = provider!(opentelemetry_sdk);
        let (axum, axum_out) = provider!(opentelemetry_sdk_0_32);
        opentelemetry::global::set_meter_provider(tower.clone());
        Self { tower, tower_out, axum, axum_out }
    }

    fn tower_count(&self) -> u64 {
        count!(opentelemetry_sdk, self.tower, self.tower_out)
    }

    fn axum_count(&self) -> u64 {
        count!(opentelemetry_sdk_0_32, self.axum, self.axum_out)
    }
}

// === impl Lines ===

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.fetch_add(1, Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
