//! Tests with a version of axum other than the one that the layer is built against.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

use std::io;
use std::sync::{Arc, Mutex};

use axum_07::Router;
use axum_07::body::Body;
use axum_07::extract::MatchedPath;
use axum_07::routing::get;
use http::Request;
use support::{eventually_async, stats};
use tower::ServiceExt;
use tower_stall::StallMonitor;
use tracing::subscriber::DefaultGuard;

/// What a subscriber has written.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn warnings(&self) -> usize {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.matches("another version or copy of axum").count()
    }
}

/// Sets a subscriber for the current thread.
fn log() -> (Log, DefaultGuard) {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    (log, tracing::subscriber::set_default(subscriber))
}

async fn send(router: Router) {
    let request = Request::get("/users/7").body(Body::empty()).unwrap();
    assert_eq!(router.oneshot(request).await.unwrap().status(), 200);
}

#[tokio::test]
async fn another_axum_is_logged_once_and_its_requests_are_unmatched() {
    let (log, _subscriber) = log();
    let monitor = StallMonitor::builder().spawn().unwrap();
    for _ in 0..3 {
        let router = Router::new()
            .route("/users/:id", get(|| async {}))
            .route("/other", get(|| async {}))
            .layer(monitor.layer());
        send(router).await;
    }
    assert_eq!(stats(&monitor, "GET", "unmatched").unwrap().requests(), 3);
    eventually_async("it is logged", || log.warnings() > 0).await;
    monitor.shutdown();
    assert_eq!(log.warnings(), 1);
}

/// The work-around of the warning.
#[tokio::test]
async fn route_label_can_read_the_matched_path_of_another_axum() {
    let (log, _subscriber) = log();
    let monitor = StallMonitor::builder()
        .route_label(|request| {
            let path = request.extensions().get::<MatchedPath>()?;
            Some(path.as_str().to_owned().into())
        })
        .spawn()
        .unwrap();
    let router = Router::new().route("/users/:id", get(|| async {})).layer(monitor.layer());
    send(router).await;
    assert_eq!(stats(&monitor, "GET", "/users/:id").unwrap().requests(), 1);
    monitor.shutdown();
    assert_eq!(log.warnings(), 0);
}

#[tokio::test]
async fn the_axum_of_the_layer_is_not_logged() {
    let (log, _subscriber) = log();
    let monitor = StallMonitor::builder().spawn().unwrap();
    let _router: axum::Router = axum::Router::new()
        .route("/users/{id}", axum::routing::get(|| async {}))
        .layer(monitor.layer());
    monitor.shutdown();
    assert_eq!(log.warnings(), 0);
}
