//! The non-blocking counterpart of each pattern: it takes as long, without stalling its worker.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use axum::routing::{get, get_service};
use tokio::io::AsyncReadExt;
use tokio::sync::{Mutex, Notify, RwLock, mpsc, oneshot};

const NAP: Duration = Duration::from_millis(150);

pub(crate) const ROUTES: [&str; 17] = [
    "/async-sleep",
    "/async-mutex",
    "/async-rwlock",
    "/async-channel",
    "/notified",
    "/async-tcp",
    "/async-lookup",
    "/async-dependency",
    "/async-file",
    "/async-child",
    "/async-once",
    "/async-body",
    "/five-async-sleeps",
    "/async-call",
    "/quick-drop",
    "/spawn-blocking",
    "/block-in-place",
];

pub(crate) fn router() -> Router {
    Router::new()
        .route("/async-sleep", get(async || tokio::time::sleep(NAP).await))
        .route("/async-mutex", get(async_mutex))
        .route("/async-rwlock", get(async_rwlock))
        .route("/async-channel", get(async_channel))
        .route("/notified", get(notified))
        .route("/async-tcp", get(async_tcp))
        .route("/async-lookup", get(async_lookup))
        .route("/async-dependency", get(async_dependency))
        .route("/async-file", get(async_file))
        .route("/async-child", get(async_child))
        .route("/async-once", get(async_once))
        .route("/async-body", get(async_body))
        .route("/five-async-sleeps", get(async || level_2().await))
        .route("/async-call", get_service(tower::service_fn(async_call)))
        .route("/quick-drop", get(quick_drop))
        .route("/spawn-blocking", get(spawn_blocking))
        .route("/block-in-place", get(block_in_place))
        // The same under a route that only one test uses.
        .route("/handed-off", get(block_in_place))
}

async fn async_mutex() {
    let mutex = std::sync::Arc::new(Mutex::new(()));
    let held = mutex.clone().lock_owned().await;
    tokio::spawn(async move {
        tokio::time::sleep(NAP).await;
        drop(held);
    });
    drop(mutex.lock().await);
}

async fn async_rwlock() {
    let lock = std::sync::Arc::new(RwLock::new(()));
    let held = lock.clone().read_owned().await;
    tokio::spawn(async move {
        tokio::time::sleep(NAP).await;
        drop(held);
    });
    drop(lock.write().await);
}

async fn async_channel() {
    let (sender, mut receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        tokio::time::sleep(NAP).await;
        let _ = sender.send(()).await;
    });
    receiver.recv().await;
}

async fn notified() {
    let _ = tokio::time::timeout(NAP, Notify::new().notified()).await;
}

async fn async_tcp() {
    let _ = connect_to_late_server().await.read(&mut [0; 8]).await;
}

/// Connects to a server that sends nothing for a while.
async fn connect_to_late_server() -> tokio::net::TcpStream {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let client = listener.accept().await;
        tokio::time::sleep(NAP).await;
        drop(client);
    });
    tokio::net::TcpStream::connect(address).await.unwrap()
}

async fn async_lookup() {
    let _ = tokio::net::lookup_host(("tower-stall.invalid", 80)).await;
}

async fn async_dependency() {
    let mut text = Vec::new();
    let _ = connect_to_late_server().await.read_to_end(&mut text).await;
    let _ = serde_json::from_slice::<serde_json::Value>(&text);
}

async fn level_2() {
    level_3().await;
}

async fn level_3() {
    level_4().await;
}

async fn level_4() {
    level_5().await;
}

async fn level_5() {
    tokio::time::sleep(NAP).await;
}

async fn async_call(_: axum::extract::Request) -> Result<Response, std::convert::Infallible> {
    tokio::time::sleep(NAP).await;
    Ok(Response::new(Body::empty()))
}

async fn quick_drop() {
    struct Quick;
    impl Drop for Quick {
        fn drop(&mut self) {
            std::hint::black_box(&self);
        }
    }
    let _quick = Quick;
    tokio::time::sleep(NAP).await;
    std::panic::resume_unwind(Box::new("a panic of the test"));
}

async fn async_file() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("patterns-non-blocking");
    tokio::fs::write(&path, vec![7; 1 << 20]).await.unwrap();
    tokio::fs::File::open(&path).await.unwrap().sync_all().await.unwrap();
}

/// Starting a child blocks for milliseconds, waiting for it does not block.
async fn async_child() {
    let start = || tokio::process::Command::new("sleep").arg("0.2").spawn().unwrap();
    let _ = tokio::task::spawn_blocking(start).await.unwrap().wait().await;
}

async fn async_once() {
    let once = tokio::sync::OnceCell::new();
    once.get_or_init(|| tokio::time::sleep(NAP)).await;
}

async fn async_body() -> Body {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        tokio::time::sleep(NAP).await;
        let _ = sender.send(Bytes::from_static(b"late"));
    });
    Body::from_stream(futures_util::stream::once(receiver))
}

async fn spawn_blocking() {
    tokio::task::spawn_blocking(work).await.unwrap();
}

async fn block_in_place() {
    tokio::task::block_in_place(work);
}

/// Blocks for half of the time, and computes for the other half.
fn work() {
    std::thread::sleep(NAP);
    let start = Instant::now();
    while start.elapsed() < NAP {
        std::hint::spin_loop();
    }
}
