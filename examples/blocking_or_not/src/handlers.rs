//! One handler per scenario. Comments mark the lines that reports should point to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::{task, time};
use tower_stall::StallMonitor;

use super::BoxError;
use super::backends::{Database, Upstream};
use super::burn;
use super::clients;

/// The state that the handlers share.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// How long slow work takes.
    sleep: Duration,
    /// The number of smoothing passes that take about as long.
    passes: usize,
    upstream: Upstream,
    ledger: Arc<Mutex<u64>>,
    async_ledger: Arc<tokio::sync::Mutex<u64>>,
    jobs: Arc<AtomicUsize>,
    monitor: StallMonitor,
}

/// Counts work that continues after the response.
struct Job(Arc<AtomicUsize>);

type Response<T = ()> = Result<T, StatusCode>;

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/hello", get(hello))
        .route("/blocking-sleep", get(blocking_sleep))
        .route("/async-sleep", get(async_sleep))
        .route("/spawn-blocking", get(spawn_blocking))
        .route("/block-in-place", get(block_in_place))
        .route("/after/blocking-sleep", get(after_blocking_sleep))
        .route("/after/instrumented", get(after_instrumented))
        .route("/after/spawn-blocking", get(after_spawn_blocking))
        .route("/after/async-sleep", get(after_async_sleep))
        .route("/cpu", get(cpu))
        .route("/cpu/spawn-blocking", get(cpu_spawn_blocking))
        .route("/cpu/rayon", get(cpu_rayon))
        .route("/http", get(http))
        .route("/http/spawn-blocking", get(http_spawn_blocking))
        .route("/http/async", get(http_async))
        .route("/database", get(database))
        .route("/database/spawn-blocking", get(database_spawn_blocking))
        .route("/mutex", get(mutex))
        .route("/mutex/held-across-await", get(mutex_held_across_await))
        .route("/mutex/async", get(mutex_async))
}

/// Returns the route `/hello` alone, without the layer.
pub fn bare_routes() -> Router {
    Router::new().route("/hello", get(hello))
}

/// Returns the number of the line with a mark.
pub(crate) fn marked_line(mark: &str) -> Option<u32> {
    let mark = format!("// blocks: {mark}");
    let mut lines = include_str!("handlers.rs").lines().zip(1..);
    lines.find(|(line, _)| line.ends_with(&mark)).map(|(_, number)| number)
}

// === impl App ===

impl App {
    pub(crate) fn start(sleep: Duration, monitor: StallMonitor) -> Result<Self, BoxError> {
        Ok(Self {
            sleep,
            passes: passes(sleep),
            upstream: Upstream::start(sleep)?,
            ledger: Arc::default(),
            async_ledger: Arc::default(),
            jobs: Arc::default(),
            monitor,
        })
    }

    /// Returns whether work continues after a response.
    pub(crate) fn has_jobs(&self) -> bool {
        self.jobs.load(Ordering::Acquire) > 0
    }

    pub(crate) fn is_ledger_locked(&self) -> bool {
        self.ledger.try_lock().is_err()
    }

    fn job(&self) -> Job {
        self.jobs.fetch_add(1, Ordering::AcqRel);
        Job(Arc::clone(&self.jobs))
    }

    fn ledger(&self) -> MutexGuard<'_, u64> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner) // blocks: mutex
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn hello() -> Json<Value> {
    Json(json!({ "message": "Hello, World!" }))
}

// === 1 to 4: sleep ===

async fn blocking_sleep(State(app): State<App>) {
    thread::sleep(app.sleep); // blocks: blocking-sleep
}

async fn async_sleep(State(app): State<App>) {
    time::sleep(app.sleep).await;
}

async fn spawn_blocking(State(app): State<App>) -> Response {
    in_blocking_pool(move || thread::sleep(app.sleep)).await
}

async fn block_in_place(State(app): State<App>) {
    task::block_in_place(|| thread::sleep(app.sleep));
}

// === 5: work after the response ===

async fn after_blocking_sleep(State(app): State<App>) {
    let job = app.job();
    tokio::spawn(async move {
        thread::sleep(app.sleep); // blocks: unattributed
        drop(job);
    });
}

async fn after_instrumented(State(app): State<App>) {
    let job = app.job();
    let mail = async move {
        thread::sleep(app.sleep); // blocks: send-mail
        drop(job);
    };
    tokio::spawn(app.monitor.instrument("send-mail", mail));
}

async fn after_spawn_blocking(State(app): State<App>) {
    let job = app.job();
    task::spawn_blocking(move || {
        thread::sleep(app.sleep);
        drop(job);
    });
}

async fn after_async_sleep(State(app): State<App>) {
    let job = app.job();
    tokio::spawn(async move {
        time::sleep(app.sleep).await;
        drop(job);
    });
}

// === 6: CPU-bound work ===

async fn cpu(State(app): State<App>) {
    burn::smooth_sample(app.passes); // blocks: cpu
}

async fn cpu_spawn_blocking(State(app): State<App>) -> Response {
    in_blocking_pool(move || burn::smooth_sample(app.passes)).await
}

async fn cpu_rayon(State(app): State<App>) -> Response {
    let (done, is_done) = oneshot::channel();
    rayon::spawn(move || {
        burn::smooth_sample(app.passes);
        // Fails if the client has disconnected.
        let _ = done.send(());
    });
    is_done.await.map_err(server_error)
}

// === 9: synchronous clients ===

async fn http(State(app): State<App>) -> Response<String> {
    fetch(&app.upstream)
}

async fn http_spawn_blocking(State(app): State<App>) -> Response<String> {
    in_blocking_pool(move || fetch(&app.upstream)).await?
}

async fn http_async(State(app): State<App>) -> Response<String> {
    clients::get_once(app.upstream.address(), "/rows").await.map_err(server_error)
}

fn fetch(upstream: &Upstream) -> Response<String> {
    let uri = format!("http://{}/rows", upstream.address());
    let response = ureq::get(uri).call(); // blocks: http
    response.map_err(server_error)?.body_mut().read_to_string().map_err(server_error)
}

async fn database(State(app): State<App>) -> Response {
    let database = Database::locked().await.map_err(server_error)?;
    count_visits(&database.connect(app.sleep).map_err(server_error)?)
}

async fn database_spawn_blocking(State(app): State<App>) -> Response {
    let database = Database::locked().await.map_err(server_error)?;
    let query = move || count_visits(&database.connect(app.sleep).map_err(server_error)?);
    in_blocking_pool(query).await?
}

fn count_visits(database: &Connection) -> Response {
    let query = "SELECT count(*) FROM visits";
    let visits = database.query_row(query, (), |row| row.get::<_, i64>(0)); // blocks: database
    visits.map(drop).map_err(server_error)
}

// === 10: a mutex held across an await ===

async fn mutex(State(app): State<App>) {
    *app.ledger() += 1;
}

/// Holds the guard of a `std` mutex while async code runs. A handler cannot keep the guard across
/// an `.await`, because the guard is not `Send`; synchronous code that calls `block_on` can.
async fn mutex_held_across_await(State(app): State<App>) -> Response {
    let runtime = Handle::current();
    in_blocking_pool(move || {
        let mut ledger = app.ledger();
        runtime.block_on(time::sleep(app.sleep));
        *ledger += 1;
    })
    .await
}

async fn mutex_async(State(app): State<App>) {
    let mut ledger = app.async_ledger.lock().await;
    time::sleep(app.sleep).await;
    *ledger += 1;
}

/// Returns the number of smoothing passes that take the given time. Calibrates only once.
fn passes(time: Duration) -> usize {
    const TRIAL: Duration = Duration::from_millis(10);
    static PASSES: OnceLock<usize> = OnceLock::new();
    let passes = PASSES.get_or_init(|| burn::calibrate(TRIAL, burn::smooth_sample));
    (*passes as f64 * time.as_secs_f64() / TRIAL.as_secs_f64()).ceil() as usize
}

async fn in_blocking_pool<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Response<T> {
    task::spawn_blocking(work).await.map_err(server_error)
}

fn server_error<E>(_: E) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}
