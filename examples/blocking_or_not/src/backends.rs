//! Backends that handlers wait for: a slow service and a locked database.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use rusqlite::Connection;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

use super::BoxError;
use super::service;

/// A slow HTTP service on its own thread and runtime. It serves any number of requests at once.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    address: SocketAddr,
    _shutdown: Arc<oneshot::Sender<()>>,
}

/// A database that a job on another thread has locked. Its file is removed on drop.
pub(crate) struct Database {
    file: PathBuf,
    /// Sends how much longer the job should hold the lock.
    job: mpsc::Sender<Duration>,
}

// === impl Upstream ===

impl Upstream {
    pub(crate) fn start(sleep: Duration) -> Result<Self, BoxError> {
        let rows = move || async move {
            tokio::time::sleep(sleep).await;
            "rows"
        };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let routes = Router::new().route("/rows", get(rows));
        let (address, shutdown) = service::serve(runtime, (Ipv4Addr::LOCALHOST, 0).into(), routes)?;
        Ok(Self { address, _shutdown: Arc::new(shutdown) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

// === impl Database ===

impl Database {
    /// Creates a database and waits, without blocking, until the job has locked it.
    pub(crate) async fn locked() -> Result<Self, BoxError> {
        let (job, hold) = mpsc::channel();
        let database = Self { file: new_file(), job };
        let file = database.file.clone();
        let (locked, is_locked) = oneshot::channel();
        let work = move || nightly_job(&file, locked, &hold);
        thread::Builder::new().name("nightly-job".into()).spawn(work)?;
        is_locked.await?;
        Ok(database)
    }

    /// Connects without blocking. The job holds the lock for the given time from now on.
    pub(crate) fn connect(&self, hold: Duration) -> Result<Connection, BoxError> {
        let connection = Connection::open(&self.file)?;
        connection.busy_timeout(Duration::from_secs(60))?;
        self.job.send(hold)?;
        Ok(connection)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A file that cannot be removed stays in the directory for temporary files.
        let _ = std::fs::remove_file(&self.file);
    }
}

fn new_file() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("tower-stall-{}-{number}.db", std::process::id()))
}

/// Locks the database, receives how long to hold the lock, and unlocks it after that time. If an
/// error occurs, the sender `locked` is dropped, which ends the wait for the lock.
fn nightly_job(
    file: &Path,
    locked: oneshot::Sender<()>,
    hold: &mpsc::Receiver<Duration>,
) -> rusqlite::Result<()> {
    let connection = Connection::open(file)?;
    connection.execute_batch(
        "PRAGMA synchronous = OFF; CREATE TABLE visits (at INTEGER); BEGIN EXCLUSIVE",
    )?;
    let _ = locked.send(());
    // If the request was dropped, nothing waits for the lock.
    thread::sleep(hold.recv().unwrap_or_default());
    connection.execute_batch("COMMIT")
}
