//! One sickness per handler, on the line that says so.

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

/// Several thresholds, so that a machine under load does not change the verdict.
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
        .route("/busy-neighbours", get(busy_neighbours))
        .route("/just-past-the-threshold", get(just_past_the_threshold))
}

async fn blocking_sleep() {
    thread::sleep(NAP); // sick: blocking-sleep
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
    drop(mutex.lock()); // sick: contended-mutex
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
    drop(lock.write()); // sick: contended-rwlock
}

async fn channel_receive() {
    let (sender, receiver) = mpsc::channel();
    meanwhile(move |ready| {
        ready();
        thread::sleep(NAP);
        let _ = sender.send(());
    })
    .await;
    let _ = receiver.recv(); // sick: channel-receive
}

async fn condition_variable() {
    let (is_there, bell) = (Mutex::new(false), Condvar::new());
    let is_there = is_there.lock().unwrap();
    let _ = bell.wait_timeout_while(is_there, NAP, |is_there| !*is_there); // sick: condition-variable
}

async fn tcp_read() {
    let mut stream = TcpStream::connect(answers_late()).unwrap();
    let _ = stream.read(&mut [0; 8]); // sick: tcp-read
}

async fn tcp_connect() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    // SAFETY: a system call on a socket that is open.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let _first = TcpStream::connect(address).unwrap();
    meanwhile(move |ready| {
        ready();
        thread::sleep(NAP);
        let _accepted = (listener.accept(), listener.accept());
    })
    .await;
    let _second = TcpStream::connect(address); // sick: tcp-connect
}

async fn name_lookup() {
    let began = Instant::now();
    while began.elapsed() < NAP {
        let _ = black_box(("tower-stall.invalid", 80).to_socket_addrs()); // sick: name-lookup
    }
}

async fn pipe_read() {
    // To start a child takes its time, too.
    let child = || Command::new("sleep").arg("0.2").stdout(Stdio::piped()).spawn().unwrap();
    let mut child = tokio::task::spawn_blocking(child).await.unwrap();
    let mut reader = child.stdout.take().unwrap();
    // Somebody else waits for its end.
    thread::spawn(move || child.wait());
    let _ = reader.read(&mut [0; 8]); // sick: pipe-read
}

async fn file_sync() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("gallery");
    let mut file = std::fs::File::create(path).unwrap(); // sick: file-sync, as the old content is dropped
    let (page, began) = (vec![7; 1 << 20], Instant::now());
    while began.elapsed() < NAP {
        file.write_all(&page).unwrap(); // sick: file-sync
        file.sync_all().unwrap(); // sick: file-sync
    }
}

async fn child_process() {
    let _ = Command::new("sleep").arg("0.2").status(); // sick: child-process
}

async fn inside_a_dependency() {
    let stream = TcpStream::connect(answers_late()).unwrap();
    let _ = tokio_tungstenite::tungstenite::client("ws://localhost/", stream); // sick: inside-a-dependency
}

async fn lazy_initialization() {
    let lazy = LazyLock::new(|| {
        thread::sleep(NAP); // sick: lazy-initialization
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
    thread::sleep(NAP); // sick: five-async-functions nested: 1
}

async fn in_the_body() -> Body {
    let mut frames = 0;
    Body::from_stream(futures_util::stream::poll_fn(move |_| {
        frames += 1;
        thread::sleep(NAP); // sick: in-the-body
        std::task::Poll::Ready((frames == 1).then(|| Ok::<_, std::io::Error>(Bytes::from_static(b"slow"))))
    }))
}

fn in_call(_: axum::extract::Request) -> std::future::Ready<Result<Response, std::convert::Infallible>> {
    thread::sleep(NAP); // sick: in-call
    std::future::ready(Ok(Response::new(Body::empty())))
}

async fn drop_in_a_panic() {
    struct Slow;
    impl Drop for Slow {
        fn drop(&mut self) {
            thread::sleep(2 * NAP); // sick: drop-in-a-panic
        }
    }
    let _slow = Slow;
    std::panic::resume_unwind(Box::new("a panic of the gallery"));
}

async fn busy_loop() {
    let began = Instant::now();
    while began.elapsed() < NAP {
        black_box(began); // sick: busy-loop
    } // sick: busy-loop, as is the line of the condition, 3 above
}

async fn polling_loop() {
    let began = Instant::now();
    // sick: polling-loop, from here
    while began.elapsed() < NAP {
        let until = Instant::now() + Duration::from_micros(1_500);
        while Instant::now() < until {}
        thread::sleep(Duration::from_micros(500));
    }
    // sick: polling-loop, to here
}

async fn large_json() {
    let text = format!("[{}1]", "{\"name\":\"value\",\"list\":[1,2,3]},".repeat(2_000));
    let began = Instant::now();
    while began.elapsed() < NAP {
        drop(serde_json::from_str::<serde_json::Value>(&text)); // sick: large-json
    }
}

/// Whether a text consists of the pattern's letters, each as often as wished: `(a*)*` for each of them.
// sick: backtracking, from here
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let Some((&letter, rest)) = pattern.split_first() else { return text.is_empty() };
    let longest = text.iter().take_while(|&&found| found == letter).count();
    (0..=longest).rev().any(|taken| matches(rest, &text[taken..]))
}
// sick: backtracking, to here

async fn backtracking() {
    let began = Instant::now();
    while began.elapsed() < NAP {
        black_box(matches(black_box(b"aaaaaaaa"), black_box(b"aaaaaaaaaaaaaaaab")));
    }
}

// sick: password-hash, from here
fn hash(password: &str, rounds: u32) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for _ in 0..rounds {
        for byte in password.bytes() {
            hash = black_box((hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        }
    }
    hash
}
// sick: password-hash, to here

async fn password_hash() {
    let began = Instant::now();
    while began.elapsed() < NAP {
        black_box(hash("correct horse battery staple", 100_000));
    }
}

async fn uninstrumented_task() {
    let _detached = tokio::spawn(async {
        thread::sleep(2 * NAP); // sick: uninstrumented-task
    });
}

async fn late_block_in_place() {
    thread::sleep(2 * NAP); // sick: late-block-in-place
    tokio::task::block_in_place(|| thread::sleep(2 * NAP));
}

async fn just_past_the_threshold() {
    thread::sleep(Duration::from_millis(27)); // sick: just-past-the-threshold
}

/// Little work, on a core that others keep busy.
async fn busy_neighbours() {
    let before = cores();
    let mut one = empty();
    // SAFETY: writes one bit of a set that is a plain array of bits.
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
    let began = own_time();
    while own_time() - began < Duration::from_millis(12) {
        std::hint::spin_loop();
    }
    pin(&before);
}

fn empty() -> libc::cpu_set_t {
    // SAFETY: a plain array of bits.
    unsafe { std::mem::zeroed() }
}

fn cores() -> libc::cpu_set_t {
    let mut cores = empty();
    // SAFETY: the kernel writes no more than the size says.
    assert_eq!(unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut cores) }, 0);
    cores
}

fn first(cores: &libc::cpu_set_t) -> usize {
    // SAFETY: reads one bit of a plain array of bits.
    (0..1024).find(|&core| unsafe { libc::CPU_ISSET(core, cores) }).unwrap()
}

fn pin(cores: &libc::cpu_set_t) {
    // SAFETY: the kernel reads no more than the size says.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), cores) };
}

fn own_time() -> Duration {
    // SAFETY: a plain struct of numbers.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes the struct that is passed.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Runs something on a thread of its own, and waits until it says that it is ready: by `.await`, as that may take a while.
async fn meanwhile(work: impl FnOnce(Box<dyn FnOnce()>) + Send + 'static) {
    let (tell, told) = oneshot::channel();
    thread::spawn(move || {
        work(Box::new(move || {
            let _ = tell.send(());
        }));
    });
    told.await.unwrap();
}

/// A server whose first byte comes after a while.
fn answers_late() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let client = listener.accept();
        thread::sleep(NAP);
        drop(client);
    });
    address
}
