//! The layers that are compared, each applied to a router as its documentation recommends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::routing::Route;
use tower::Service;
use tower::layer::util::Identity;
use tower_http::trace::{DefaultMakeSpan, DefaultOnResponse, TraceLayer};
use tracing::Level;

use crate::layers::from_fn::FromFnLayer;
use crate::layers::minimal::{self, MinimalLayer};
use crate::layers::poll_timing::{self, OsClock, Tsc};
use crate::layers::wrap_body::WrapBodyLayer;
use crate::recorders::Recorders;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Variant {
    BareRouter,
    Identity,
    WrappedBody,
    Minimal,
    PollTimingTsc,
    PollTimingOsClock,
    TowerStall,
    TaskMonitor,
    FutureMonitor,
    CachedHandles,
    MetricsMacros,
    AxumPrometheus,
    TraceDisabled,
    TraceEnabled,
    OtelTower,
    AxumOtel,
}

impl Variant {
    pub const ALL: [Self; 16] = [
        Self::BareRouter,
        Self::Identity,
        Self::WrappedBody,
        Self::Minimal,
        Self::PollTimingTsc,
        Self::PollTimingOsClock,
        Self::TowerStall,
        Self::TaskMonitor,
        Self::FutureMonitor,
        Self::CachedHandles,
        Self::MetricsMacros,
        Self::AxumPrometheus,
        Self::TraceDisabled,
        Self::TraceEnabled,
        Self::OtelTower,
        Self::AxumOtel,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::BareRouter => "bare router",
            Self::Identity => "`identity`",
            Self::WrappedBody => "wrapped body only",
            Self::Minimal => "minimal layer, same data",
            Self::PollTimingTsc => "poll timing only, TSC",
            Self::PollTimingOsClock => "poll timing only, OS clock",
            Self::TowerStall => "**tower-stall**",
            Self::TaskMonitor => "tokio-metrics `TaskMonitor`",
            Self::FutureMonitor => "tokio-metrics `FutureMonitor`",
            Self::CachedHandles => "`metrics`, cached handles",
            Self::MetricsMacros => "`metrics`, macros",
            Self::AxumPrometheus => "axum-prometheus",
            Self::TraceDisabled => "tower-http `TraceLayer`, level disabled",
            Self::TraceEnabled => "tower-http `TraceLayer`, one line per request",
            Self::OtelTower => "opentelemetry-instrumentation-tower",
            Self::AxumOtel => "axum-otel-metrics",
        }
    }

    /// Returns whether the variant can instrument a task.
    pub fn measures_tasks(self) -> bool {
        matches!(self, Self::TowerStall | Self::TaskMonitor | Self::FutureMonitor)
    }

    /// Applies the layer to each route of the router.
    pub fn apply(self, router: Router, recorders: &Recorders) -> Router {
        match self {
            Self::BareRouter => router,
            Self::Identity => router.layer(Identity::new()),
            Self::WrappedBody => router.layer(WrapBodyLayer),
            Self::Minimal => router.layer(MinimalLayer),
            Self::PollTimingTsc => router.layer(FromFnLayer(poll_timing::time_polls(Tsc))),
            Self::PollTimingOsClock => {
                let clock = OsClock(Instant::now());
                router.layer(FromFnLayer(poll_timing::time_polls(clock)))
            }
            Self::TowerStall => router.layer(recorders.monitor.layer()),
            Self::TaskMonitor => {
                let monitor = recorders.task_monitor.clone();
                router.layer(FromFnLayer(move |route: &mut Route, request| {
                    monitor.instrument(route.call(request))
                }))
            }
            Self::FutureMonitor => {
                let requests = Arc::clone(&recorders.future_monitor_requests);
                router.layer(FromFnLayer(move |route: &mut Route, request| {
                    let (call, requests) = (route.call(request), Arc::clone(&requests));
                    async move {
                        let monitor = tokio_metrics::FutureMonitor::new();
                        let (response, metrics) = monitor.instrument(call).await;
                        let is_slow = metrics.total_poll_duration > Duration::from_secs(60);
                        requests.fetch_add(u64::from(!is_slow), Ordering::Relaxed);
                        response
                    }
                }))
            }
            Self::CachedHandles => {
                let counter = metrics::counter!("cached_requests_total");
                let histogram = metrics::histogram!("cached_request_duration_seconds");
                let handles = Arc::new((counter, histogram));
                router.layer(FromFnLayer(move |route: &mut Route, request| {
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
            // Follows axum's example `prometheus-metrics`.
            Self::MetricsMacros => {
                router.layer(FromFnLayer(|route: &mut Route, request: Request| {
                    let start = Instant::now();
                    let matched = request.extensions().get::<MatchedPath>();
                    let path = matched.map_or_else(
                        || request.uri().path().to_owned(),
                        |path| path.as_str().to_owned(),
                    );
                    let method = request.method().clone();
                    let call = route.call(request);
                    async move {
                        let response = call.await?;
                        let latency = start.elapsed().as_secs_f64();
                        let status = response.status().as_u16().to_string();
                        let labels =
                            [("method", method.to_string()), ("path", path), ("status", status)];
                        metrics::counter!("macro_requests_total", &labels).increment(1);
                        metrics::histogram!("macro_request_duration_seconds", &labels)
                            .record(latency);
                        Ok(response)
                    }
                }))
            }
            Self::AxumPrometheus => router.layer(axum_prometheus::PrometheusMetricLayer::new()),
            Self::TraceDisabled => router.layer(TraceLayer::new_for_http()),
            Self::TraceEnabled => {
                let span = DefaultMakeSpan::new().level(Level::INFO);
                let line = DefaultOnResponse::new().level(Level::INFO);
                router.layer(TraceLayer::new_for_http().make_span_with(span).on_response(line))
            }
            Self::OtelTower => {
                recorders.otel();
                router.layer(opentelemetry_instrumentation_tower::http::server::Layer::new())
            }
            Self::AxumOtel => {
                let provider = recorders.otel().axum.clone();
                let builder = axum_otel_metrics::HttpMetricsLayerBuilder::new();
                router.layer(builder.with_provider(provider).build())
            }
        }
    }

    /// Returns how many requests the variant has recorded so far, or `None` if it records nothing.
    pub fn recorded_requests(self, recorders: &Recorders) -> Option<u64> {
        match self {
            Self::BareRouter | Self::Identity | Self::WrappedBody | Self::TraceDisabled => None,
            Self::Minimal => Some(minimal::recorded_requests()),
            Self::PollTimingTsc | Self::PollTimingOsClock => Some(poll_timing::recorded_requests()),
            Self::TowerStall => {
                Some(recorders.monitor.routes().iter().map(|route| route.requests()).sum())
            }
            Self::TaskMonitor => Some(recorders.task_monitor.cumulative().dropped_count),
            Self::FutureMonitor => Some(recorders.future_monitor_requests.load(Ordering::Relaxed)),
            Self::CachedHandles => recorders.sum("cached_request_duration_seconds_count"),
            Self::MetricsMacros => recorders.sum("macro_request_duration_seconds_count"),
            Self::AxumPrometheus => recorders.sum("axum_http_requests_duration_seconds_count"),
            Self::TraceEnabled => Some(recorders.log_lines()),
            Self::OtelTower => Some(recorders.otel().tower_count()),
            Self::AxumOtel => Some(recorders.otel().axum_count()),
        }
    }
}
