//! Handlers that stall their worker thread, one blocking pattern each, on the marked line.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::response::Response;
use axum::routing::{get, get_service};
use tokio::sync::oneshot;

/// Several times the threshold, so that a machine under load does not change the cause.
pub(crate) const NAP: Duration = Duration::from_millis(150);

pub(crate) fn router() -> Router {
    Router::new()
        .route("/blocking-sleep", get(blocking_sleep))
        .route("/contended-mutex", get(contended_mutex))
        .route("/contended-rwlock", get(contended_rwlock))
        .route("/channel-receive", get(channel_receive))
        .route("/condition-variable", get(condition_variable))
        .route("/tcp-read", get(tcp_read))
        .route("/tcp-connect", get(tcp_connect))
        .route("/name-lookup", get(name_lookup))
        .route("/pipe-read", get(pipe_read))
        .route("/file-sync", get(file_sync))
        .route("/child-process", get(child_process))
        .route("/inside-a-dependency", get(inside_a_dependency))
        .route("/lazy-initialization", get(lazy_initialization))
        .route("/five-async-functions", get(five_async_functions))
        .route("/in-the-body", get(in_the_body))
        .route("/in-call", get_service(tower::service_fn(in_call)))
        .route("/drop-in-a-panic", get(drop_in_a_panic))
        .route("/busy-loop", get(busy_loop))
        .route("/polling-loop", get(polling_loop))
        .route("/large-json", get(large_json))
        .route("/backtracking", get(backtracking))
        .route("/password-hash", get(password_hash))
        .route("/uninstrumented-task", get(uninstrumented_task))
        .route("/late-block-in-place", get(late_block_in_place))
        .route("/busy-neighbors", get(busy_neighbors))
        .route("/just-past-the-threshold", get(just_past_the_threshold))
}

async fn blocking_sleep() {
    thread::sleep(NAP); // stalls: blocking-sleep
}

async fn contended_mutex() {
    let mutex = Arc::new(Mutex::new(()));
    let held = Arc::clone(&mutex);
    meanwhile(move |ready| {
        let _guard = held.lock();
        ready();
        thread::sleep(NAP);
    })
    .await;
    drop(mutex.lock()); // stalls: contended-mutex
}

async fn contended_rwlock() {
    let lock = Arc::new(RwLock::new(()));
    let held = Arc::clone(&lock);
    meanwhile(move |ready| {
        let _guard = held.read();
        ready();
        thread::sleep(NAP);
    })
    .await;
    drop(lock.write()); // stalls: contended-rwlock
}

async fn channel_receive() {
    let (sender, receiver) = mpsc::channel();
    meanwhile(move |ready| {
        ready();
        thread::sleep(NAP);
        let _ = sender.send(());
    })
    .await;
    let _ = receiver.recv(); // stalls: channel-receive
}

async fn condition_variable() {
    let (ready, condition) = (Mutex::new(false), Condvar::new());
    let ready = ready.lock().unwrap();
    let _ = condition.wait_timeout_while(ready, NAP, |ready| !*ready); // stalls: condition-variable
}

async fn tcp_read() {
    let mut stream = TcpStream::connect(late_server()).unwrap();
    let _ = stream.read(&mut [0; 8]); // stalls: tcp-read
}

async fn tcp_connect() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // SAFETY: the socket is open.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let _first = TcpStream::connect(address).unwrap();
    meanwhile(move |ready| {
        ready();
        thread::sleep(NAP);
        let _accepted = (listener.accept(), listener.accept());
    })
    .await;
    let _second = TcpStream::connect(address); // stalls: tcp-connect
}

async fn name_lookup() {
    let start = Instant::now();
    while start.elapsed() < NAP {
        let _ = black_box(("tower-stall.invalid", 80).to_socket_addrs()); // stalls: name-lookup
    }
}

async fn pipe_read() {
    // Starting a child process takes a while, too.
    let child = || Command::new("sleep").arg("0.2").stdout(Stdio::piped()).spawn().unwrap();
    let mut child = tokio::task::spawn_blocking(child).await.unwrap();
    let mut reader = child.stdout.take().unwrap();
    // Another thread waits for its exit.
    thread::spawn(move || child.wait());
    let _ = reader.read(&mut [0; 8]); // stalls: pipe-read
}

async fn file_sync() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("patterns");
    let mut file = std::fs::File::create(path).unwrap(); // stalls: file-sync, while it truncates
    let (page, start) = (vec![7; 1 << 20], Instant::now());
    while start.elapsed() < NAP {
        file.write_all(&page).unwrap(); // stalls: file-sync
        file.sync_all().unwrap(); // stalls: file-sync
    }
}

async fn child_process() {
    let _ = Command::new("sleep").arg("0.2").status(); // stalls: child-process
}

async fn inside_a_dependency() {
    let stream = TcpStream::connect(late_server()).unwrap();
    let _ = serde_json::from_reader::<_, serde_json::Value>(stream); // stalls: inside-a-dependency
}

async fn lazy_initialization() {
    let lazy = LazyLock::new(|| {
        thread::sleep(NAP); // stalls: lazy-initialization
        7
    });
    black_box(*lazy);
}

async fn five_async_functions() {
    level_2().await; // nested: 5
}

async fn level_2() {
    level_3().await; // nested: 4
}

async fn level_3() {
    level_4().await; // nested: 3
}

async fn level_4() {
    level_5().await; // nested: 2
}

async fn level_5() {
    thread::sleep(NAP); // stalls: five-async-functions nested: 1
}

async fn in_the_body() -> Body {
    let mut frames = 0;
    Body::from_stream(futures_util::stream::poll_fn(move |_| {
        frames += 1;
        thread::sleep(NAP); // stalls: in-the-body
        std::task::Poll::Ready(
            (frames == 1).then(|| Ok::<_, std::io::Error>(Bytes::from_static(b"slow"))),
        )
    }))
}

fn in_call(
    _: axum::extract::Request,
) -> std::future::Ready<Result<Response, std::convert::Infallible>> {
    thread::sleep(NAP); // stalls: in-call
    std::future::ready(Ok(Response::new(Body::empty())))
}

async fn drop_in_a_panic() {
    struct Slow;
    impl Drop for Slow {
        fn drop(&mut self) {
            thread::sleep(2 * NAP); // stalls: drop-in-a-panic
        }
    }
    let _slow = Slow;
    std::panic::resume_unwind(Box::new("a panic of the test"));
}

async fn busy_loop() {
    let start = Instant::now();
    while start.elapsed() < NAP {
        black_box(start); // stalls: busy-loop
    } // stalls: busy-loop, like its condition, 2 lines above
}

async fn polling_loop() {
    let start = Instant::now();
    // stalls: polling-loop, from here
    while start.elapsed() < NAP {
        let until = Instant::now() + Duration::from_micros(1_500);
        while Instant::now() < until {}
        thread::sleep(Duration::from_micros(500));
    }
    // stalls: polling-loop, to here
}

async fn large_json() {
    let text = format!("[{}1]", "{\"name\":\"value\",\"list\":[1,2,3]},".repeat(2_000));
    let start = Instant::now();
    while start.elapsed() < NAP {
        drop(serde_json::from_str::<serde_json::Value>(&text)); // stalls: large-json
    }
}

/// Returns whether a text matches the pattern whose letters may each occur any number of times.
// stalls: backtracking, from here
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let Some((&letter, rest)) = pattern.split_first() else { return text.is_empty() };
    let longest = text.iter().take_while(|&&found| found == letter).count();
    (0..=longest).rev().any(|taken| matches(rest, &text[taken..]))
}
// stalls: backtracking, to here

async fn backtracking() {
    let start = Instant::now();
    while start.elapsed() < NAP {
        black_box(matches(black_box(b"aaaaaaaa"), black_box(b"aaaaaaaaaaaaaaaab")));
    }
}

// stalls: password-hash, from here
fn hash(password: &str, rounds: u32) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for _ in 0..rounds {
        for byte in password.bytes() {
            hash = black_box((hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        }
    }
    hash
}
// stalls: password-hash, to here

async fn password_hash() {
    let start = Instant::now();
    while start.elapsed() < NAP {
        black_box(hash("correct horse battery staple", 100_000));
    }
}

async fn uninstrumented_task() {
    let _detached = tokio::spawn(async {
        thread::sleep(2 * NAP); // stalls: uninstrumented-task
    });
}

async fn late_block_in_place() {
    thread::sleep(2 * NAP); // stalls: late-block-in-place
    tokio::task::block_in_place(|| thread::sleep(2 * NAP));
}

async fn just_past_the_threshold() {
    thread::sleep(Duration::from_millis(27)); // stalls: just-past-the-threshold
}

/// Does little work, on a core that other threads keep busy.
async fn busy_neighbors() {
    let before = cores();
    let mut one = empty();
    // SAFETY: the set is a plain array of bits, and the core is one of its bits.
    unsafe { libc::CPU_SET(first(&before), &mut one) };
    let end = Instant::now() + 3 * NAP;
    for _ in 0..8 {
        thread::spawn(move || {
            pin(&one);
            while Instant::now() < end {
                std::hint::spin_loop();
            }
        });
    }
    pin(&one);
    let start = thread_cpu_time();
    while thread_cpu_time() - start < Duration::from_millis(12) {
        std::hint::spin_loop();
    }
    pin(&before);
}

fn empty() -> libc::cpu_set_t {
    // SAFETY: the set is a plain array of bits.
    unsafe { std::mem::zeroed() }
}

fn cores() -> libc::cpu_set_t {
    let mut cores = empty();
    // SAFETY: the kernel writes at most as many bytes as the size passed.
    assert_eq!(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut cores) }, 0);
    cores
}

fn first(cores: &libc::cpu_set_t) -> usize {
    // SAFETY: the set is a plain array of at least 1024 bits.
    (0..1024).find(|&core| unsafe { libc::CPU_ISSET(core, cores) }).unwrap()
}

fn pin(cores: &libc::cpu_set_t) {
    // SAFETY: the kernel reads at most as many bytes as the size passed.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cores) };
}

fn thread_cpu_time() -> Duration {
    // SAFETY: all zeros are a valid `timespec`.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timespec` on the stack.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs a closure on a new thread, and waits until it reports that it is ready, without blocking.
async fn meanwhile(work: impl FnOnce(Box<dyn FnOnce()>) + Send + 'static) {
    let (send_ready, ready) = oneshot::channel();
    thread::spawn(move || {
        work(Box::new(move || {
            let _ = send_ready.send(());
        }));
    });
    ready.await.unwrap();
}

/// Starts a server that sends nothing for a while.
fn late_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let client = listener.accept();
        thread::sleep(NAP);
        drop(client);
    });
    address
}
