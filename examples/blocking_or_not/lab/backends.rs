//! What makes handlers wait: a slow service, and a database that somebody else has locked.

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

use super::Failure;
use super::service;

/// Another service, on a thread and a runtime of its own, which takes its time for each answer and can do any number of them at once.
#[derive(Clone)]
pub(crate) struct Upstream {
    address: SocketAddr,
    _end: Arc<oneshot::Sender<()>>,
}

/// A database that a nightly job, on a thread of its own, has locked. In a file of its own, which is removed with it.
pub(crate) struct Database {
    file: PathBuf,
    /// Tells the job how much longer it takes.
    job: mpsc::Sender<Duration>,
}

// === impl Upstream ===

impl Upstream {
    pub(crate) fn start(nap: Duration) -> Result<Self, Failure> {
        let answer = move || async move {
            tokio::time::sleep(nap).await;
            "rows"
        };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let routes = Router::new().route("/rows", get(answer));
        let (address, end) = service::serve(runtime, (Ipv4Addr::LOCALHOST, 0).into(), routes)?;
        Ok(Self { address, _end: Arc::new(end) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

// === impl Database ===

impl Database {
    pub(crate) async fn locked() -> Result<Self, Failure> {
        let (job, rest) = mpsc::channel();
        let database = Self { file: new_file(), job };
        let file = database.file.clone();
        let (locked, is_locked) = oneshot::channel();
        thread::Builder::new().name("nightly-job".into()).spawn(move || nightly_job(&file, locked, &rest))?;
        is_locked.await?;
        Ok(database)
    }

    /// Connects while the job goes on for this long. Does not wait for anybody.
    pub(crate) fn connect(&self, rest: Duration) -> Result<Connection, Failure> {
        let connection = Connection::open(&self.file)?;
        connection.busy_timeout(Duration::from_secs(60))?;
        self.job.send(rest)?;
        Ok(connection)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // What cannot be removed stays in the directory for such files.
        let _ = std::fs::remove_file(&self.file);
    }
}

fn new_file() -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("tower-stall-{}-{number}.db", std::process::id()))
}

/// Whoever waits for the lock is told by the loss of the sender, should the job fail.
fn nightly_job(file: &Path, locked: oneshot::Sender<()>, rest: &mpsc::Receiver<Duration>) -> rusqlite::Result<()> {
    let connection = Connection::open(file)?;
    connection.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE visits (at INTEGER); BEGIN EXCLUSIVE")?;
    let _ = locked.send(());
    // A request that was dropped needs no lock any more.
    thread::sleep(rest.recv().unwrap_or_default());
    connection.execute_batch("COMMIT")
}
