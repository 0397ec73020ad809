//! A handler for each scenario. What the reports should point to is marked.

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

use super::Failure;
use super::backends::{Database, Upstream};
use super::clients;
use crate::burn;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct App {
    nap: Duration,
    /// How much work takes about one nap.
    passes: usize,
    upstream: Upstream,
    ledger: Arc<Mutex<u64>>,
    async_ledger: Arc<tokio::sync::Mutex<u64>>,
    jobs: Arc<AtomicUsize>,
    monitor: StallMonitor,
}

/// Work that goes on after its request was answered.
struct Job(Arc<AtomicUsize>);

type Answer<T = ()> = Result<T, StatusCode>;

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

/// What everybody else asks for, without a layer.
pub(crate) fn bare() -> Router {
    Router::new().route("/hello", get(hello))
}

/// The line that a mark is on.
pub(crate) fn marked(name: &str) -> Option<u32> {
    let mark = format!("// sick: {name}");
    include_str!("handlers.rs").lines().zip(1..).find(|(line, _)| line.ends_with(&mark)).map(|(_, number)| number)
}

// === impl App ===

impl App {
    pub(crate) fn start(nap: Duration, monitor: StallMonitor) -> Result<Self, Failure> {
        Ok(Self {
            nap,
            passes: passes(nap),
            upstream: Upstream::start(nap)?,
            ledger: Arc::default(),
            async_ledger: Arc::default(),
            jobs: Arc::default(),
            monitor,
        })
    }

    /// Whether work goes on whose request was answered.
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
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner) // sick: mutex
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

// === 1 to 4: a sleep ===

async fn blocking_sleep(State(app): State<App>) {
    thread::sleep(app.nap); // sick: blocking-sleep
}

async fn async_sleep(State(app): State<App>) {
    time::sleep(app.nap).await;
}

async fn spawn_blocking(State(app): State<App>) -> Answer {
    elsewhere(move || thread::sleep(app.nap)).await
}

async fn block_in_place(State(app): State<App>) {
    task::block_in_place(|| thread::sleep(app.nap));
}

// === 5: work after the answer ===

async fn after_blocking_sleep(State(app): State<App>) {
    let job = app.job();
    tokio::spawn(async move {
        thread::sleep(app.nap); // sick: unattributed
        drop(job);
    });
}

async fn after_instrumented(State(app): State<App>) {
    let job = app.job();
    let mail = async move {
        thread::sleep(app.nap); // sick: send-mail
        drop(job);
    };
    tokio::spawn(app.monitor.instrument("send-mail", mail));
}

async fn after_spawn_blocking(State(app): State<App>) {
    let job = app.job();
    task::spawn_blocking(move || {
        thread::sleep(app.nap);
        drop(job);
    });
}

async fn after_async_sleep(State(app): State<App>) {
    let job = app.job();
    tokio::spawn(async move {
        time::sleep(app.nap).await;
        drop(job);
    });
}

// === 6: CPU-bound work ===

async fn cpu(State(app): State<App>) {
    burn::smooth_sample(app.passes); // sick: cpu
}

async fn cpu_spawn_blocking(State(app): State<App>) -> Answer {
    elsewhere(move || burn::smooth_sample(app.passes)).await
}

async fn cpu_rayon(State(app): State<App>) -> Answer {
    let (done, is_done) = oneshot::channel();
    rayon::spawn(move || {
        burn::smooth_sample(app.passes);
        // A client that has gone waits for nothing.
        let _ = done.send(());
    });
    is_done.await.map_err(failed)
}

// === 9: synchronous clients ===

async fn http(State(app): State<App>) -> Answer<String> {
    fetch(&app.upstream)
}

async fn http_spawn_blocking(State(app): State<App>) -> Answer<String> {
    elsewhere(move || fetch(&app.upstream)).await?
}

async fn http_async(State(app): State<App>) -> Answer<String> {
    clients::ask_once(app.upstream.address(), "/rows").await.map_err(failed)
}

fn fetch(upstream: &Upstream) -> Answer<String> {
    let answer = ureq::get(format!("http://{}/rows", upstream.address())).call(); // sick: http
    answer.map_err(failed)?.body_mut().read_to_string().map_err(failed)
}

async fn database(State(app): State<App>) -> Answer {
    let database = Database::locked().await.map_err(failed)?;
    count(&database.connect(app.nap).map_err(failed)?)
}

async fn database_spawn_blocking(State(app): State<App>) -> Answer {
    let database = Database::locked().await.map_err(failed)?;
    elsewhere(move || count(&database.connect(app.nap).map_err(failed)?)).await?
}

fn count(database: &Connection) -> Answer {
    let visits = database.query_row("SELECT count(*) FROM visits", (), |row| row.get::<_, i64>(0)); // sick: database
    visits.map(drop).map_err(failed)
}

// === 10: a mutex held across an await ===

async fn mutex(State(app): State<App>) {
    *app.ledger() += 1;
}

/// The compiler refuses to keep std's guard across an `.await` here, as it is not `Send`. This is how it is kept nevertheless:
/// by synchronous code that waits for asynchronous code.
async fn mutex_held_across_await(State(app): State<App>) -> Answer {
    let runtime = Handle::current();
    elsewhere(move || {
        let mut ledger = app.ledger();
        runtime.block_on(time::sleep(app.nap));
        *ledger += 1;
    })
    .await
}

async fn mutex_async(State(app): State<App>) {
    let mut ledger = app.async_ledger.lock().await;
    time::sleep(app.nap).await;
    *ledger += 1;
}

/// How much work takes that long, measured once.
fn passes(nap: Duration) -> usize {
    const TRIAL: Duration = Duration::from_millis(10);
    static PASSES: OnceLock<usize> = OnceLock::new();
    let passes = PASSES.get_or_init(|| burn::units(TRIAL, burn::smooth_sample));
    (*passes as f64 * nap.as_secs_f64() / TRIAL.as_secs_f64()).ceil() as usize
}

/// On a thread of the blocking pool.
async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
    task::spawn_blocking(work).await.map_err(failed)
}

fn failed<E>(_: E) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}
