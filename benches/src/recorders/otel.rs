//! OpenTelemetry meter providers, one for each version of the SDK that a variant uses.

use std::time::Duration;

/// Meter providers whose periodic reader never fires, with their exporters.
pub struct Otel {
    pub axum: opentelemetry_sdk_0_32::metrics::SdkMeterProvider,
    axum_exporter: opentelemetry_sdk_0_32::metrics::InMemoryMetricExporter,
    tower: opentelemetry_sdk::metrics::SdkMeterProvider,
    tower_exporter: opentelemetry_sdk::metrics::InMemoryMetricExporter,
}

const NEVER: Duration = Duration::from_secs(86_400);

// Macros, because the two versions of the SDK have distinct types.
macro_rules! provider {
    ($sdk:ident) => {{
        let exporter = $sdk::metrics::InMemoryMetricExporter::default();
        let reader = $sdk::metrics::PeriodicReader::builder(exporter.clone());
        let reader = reader.with_interval(NEVER).build();
        ($sdk::metrics::SdkMeterProvider::builder().with_reader(reader).build(), exporter)
    }};
}

macro_rules! request_count {
    ($sdk:ident, $provider:expr, $exporter:expr) => {{
        use $sdk::metrics::data::{AggregatedMetrics, MetricData};
        $provider.force_flush().expect("a flush");
        let exported = $exporter.get_finished_metrics().expect("exported metrics");
        let scopes = exported.last().into_iter().flat_map(|resource| resource.scope_metrics());
        let metrics = scopes.flat_map(|scope| scope.metrics());
        let durations = metrics.filter(|metric| metric.name() == "http.server.request.duration");
        let counts = durations.map(|metric| match metric.data() {
            AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                histogram.data_points().map(|point| point.count()).sum()
            }
            _ => 0,
        });
        counts.sum()
    }};
}

impl Otel {
    pub fn install() -> Self {
        let (tower, tower_exporter) = provider!(opentelemetry_sdk);
        let (axum, axum_exporter) = provider!(opentelemetry_sdk_0_32);
        opentelemetry::global::set_meter_provider(tower.clone());
        Self { axum, axum_exporter, tower, tower_exporter }
    }

    /// Returns the requests recorded by opentelemetry-instrumentation-tower.
    pub fn tower_count(&self) -> u64 {
        request_count!(opentelemetry_sdk, self.tower, self.tower_exporter)
    }

    /// Returns the requests recorded by axum-otel-metrics.
    pub fn axum_count(&self) -> u64 {
        request_count!(opentelemetry_sdk_0_32, self.axum, self.axum_exporter)
    }
}
