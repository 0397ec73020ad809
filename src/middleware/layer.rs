use std::sync::Arc;

use tower_layer::Layer;

use super::StallService;
use super::entrance::Entrance;
use super::entry::Entry;
use crate::threads::Watch;

/// Measures the requests of the services it wraps. From [`StallMonitor::layer`](crate::StallMonitor::layer).
///
/// With axum, add it by `Router::layer`, `route_layer` or `MethodRouter::layer`: there the matched route is known. Around a whole
/// `Router`, as in `ServiceBuilder::new().layer(…).service(router)`, it is not known yet, and every request is `unmatched`
/// unless [`route_label`](crate::StallMonitorBuilder::route_label) says otherwise.
#[derive(Clone, Debug)]
pub struct StallLayer {
    pub(crate) watch: Arc<Watch>,
}

impl<S> Layer<S> for StallLayer {
    type Service = StallService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        StallService { inner, entry: Entry::new(Entrance::new(Arc::clone(&self.watch))) }
    }
}
