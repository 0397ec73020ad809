//! Handlers that stall their worker thread, each in a common way.

use std::convert::Infallible;
use std::thread;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use futures_util::{Stream, StreamExt, stream};

use crate::service::App;
use crate::work::{self, Sizes};

/// Calls the blocking `sleep` instead of tokio's.
pub(crate) async fn report() -> &'static str {
    thread::sleep(Duration::from_millis(60 + clock_nanos() % 60));
    "the annual report"
}

/// Reads a file synchronously from a slow network disk.
pub(crate) async fn file(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<String, StatusCode> {
    app.disk.read(&name).map_err(|_| StatusCode::BAD_GATEWAY)
}

/// Waits for a `std` mutex that another thread holds.
pub(crate) async fn cached(State(app): State<App>, Path(key): Path<String>) -> String {
    app.cache.get_or_insert(&key)
}

/// Deadlocks if both accounts are the same: the handler already holds the lock it waits for.
pub(crate) async fn transfer(
    State(app): State<App>,
    Path((from, to)): Path<(usize, usize)>,
) -> &'static str {
    app.accounts.transfer(from, to);
    "done"
}

/// Serializes a large document in one go.
pub(crate) async fn export(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], work::document(app.sizes.rows))
}

/// Responds at once, but computes while the body is streamed.
pub(crate) async fn events(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(frames(app.sizes)))
}

fn frames(sizes: Sizes) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::iter(0..6).map(move |number| match number {
        3 => Ok(forecast(sizes)),
        _ => Ok(format!("data: event {number}\n\n").into()),
    })
}

fn forecast(sizes: Sizes) -> Bytes {
    let mut samples = work::sample();
    work::smooth(&mut samples, sizes.forecast);
    format!("event: forecast\ndata: {:?}\n\n", samples.last()).into()
}

fn clock_nanos() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.subsec_nanos().into())
}
