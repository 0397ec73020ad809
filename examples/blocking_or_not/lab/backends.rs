//! What makes handlers wait: a slow service, and a database that somebody else has locked.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// A database in a file of its own, which is removed with it.
pub(crate) struct Database {
    file: PathBuf,
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
    /// A database that a nightly job, on a thread of its own, has locked, for this long from now on.
    pub(crate) async fn locked_for(nap: Duration) -> Result<Self, Failure> {
        let database = Self::in_a_new_file();
        let file = database.file.clone();
        let (locked, is_locked) = oneshot::channel();
        let job = move || nightly_job(&file, nap, locked);
        thread::Builder::new().name("nightly-job".into()).spawn(job)?;
        is_locked.await?;
        Ok(database)
    }

    /// Does not wait for anybody.
    pub(crate) fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(&self.file)?;
        connection.busy_timeout(Duration::from_secs(60))?;
        Ok(connection)
    }

    fn in_a_new_file() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-stall-{}-{number}.db", std::process::id());
        Self { file: std::env::temp_dir().join(name) }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // What cannot be removed stays in the directory for such files.
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Whoever waits for the lock is told by the loss of the sender, should the job fail.
fn nightly_job(file: &Path, nap: Duration, locked: oneshot::Sender<()>) -> rusqlite::Result<()> {
    let connection = Connection::open(file)?;
    connection.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE visits (at INTEGER); BEGIN EXCLUSIVE")?;
    let _ = locked.send(());
    thread::sleep(nap);
    connection.execute_batch("COMMIT")
}
