//! Names the route that blocks your async runtime, while it blocks.
//!
//! An axum, hyper or tonic service is slow now and then, for everybody at once. The usual reason is one handler that holds its worker
//! thread: a blocking sleep, a synchronous client, a contended lock, a large document. `tower-stall` is a tower layer that measures
//! every poll of every request, and a watchdog that sees a long poll before it has ended. It works on stable Rust and unmodified
//! tokio, and is meant to stay switched on in production.
//!
#![cfg_attr(all(feature = "axum", feature = "prometheus"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "axum", feature = "prometheus")), doc = "```ignore")]
//! use tower_stall::StallMonitor;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     tower_stall::prometheus::serve(([127, 0, 0, 1], 9464))?;        // own thread: answers even while every worker is stalled
//!     let monitor = StallMonitor::builder().spawn()?;                 // the watchdog, for the current runtime
//!
//!     let app = axum::Router::new()
//!         .route("/users/{id}", axum::routing::get(show_user))
//!         .layer(monitor.layer());
//!     axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app).await?;
//!     Ok(())
//! }
//! # async fn show_user() {}
//! ```
//!
//! Stalls are then told as `tracing` events and as metrics. Services without axum name their routes by
//! [`route_label`](StallMonitorBuilder::route_label), background tasks are wrapped by [`StallMonitor::instrument`], and programs ask
//! [`StallMonitor::recent_stalls`] and [`StallMonitor::routes`] or set a hook,
//! [`on_stall`](StallMonitorBuilder::on_stall).
//!
//! # Words
//!
//! - **Poll**: one call of the response future's `poll`, of the response body's `poll_frame`, or of `Service::call`.
//! - **Phase**: `handler`, which is the call and the future, or `body`.
//! - **Stall**: one poll longer than the *stall threshold*. It is *in progress* until that poll returns.
//! - **Lag**: how late the runtime runs what is ready. `timer` lag is from a timer's deadline to its wake, `queue` lag from a wake to its
//!   poll.
//! - **Schedule delay**: a request's wake to its next poll. It is what the victim sees of somebody else's stall.
//! - **Driver starvation**: one worker looks after the timers and sockets of the whole runtime. When that one is inside a stall, nothing
//!   moves although other workers are idle: tokio wakes none of them to take its place.
//! - **Rescue**: the watchdog's cure for that. It wakes an empty task; an idle worker runs it and takes timers and sockets over.
//! - **Cause** of a stall: `cpu`, the thread was running; `blocked`, it was asleep in a system call or on a lock; `preempted`, it could have
//!   run, but the machine or the CPU quota of its control group ran something else; `paused`, the whole process was stopped; `unknown`.
//!   The machine's faults, `preempted` and `paused`, are never put on a handler: a poll that would not have been a stall but for them,
//!   or that they took more than half of, has them for its cause.
//! - **Handed off**: a long poll that gave its worker away by `tokio::task::block_in_place`. It holds up nobody, and is no stall.
//! - **Route**: the matched pattern, such as `/users/{id}`, never a raw path. `unmatched` where nothing matched, `overflow` past the
//!   cap on routes, `unattributed` for a worker that was held by something that nobody measures.
//!
//! # When does a request begin and end?
//!
//! It begins with `Service::call`. `poll_ready` comes before it, and so does the server's own work: accepting, TLS, parsing.
//!
//! It ends when the response body ends, or when the future or the body is dropped, whichever is first; it is then counted, exactly
//! once. An answer is complete, and counts under its status, when its body was polled to the end, says that it has ended, has given
//! all the bytes it promised, or has none to send (`HEAD`, 1xx, 204, 304). One that is dropped before is `cancelled`. One whose poll
//! unwinds is `panicked`, also where a middleware outside the layer makes an answer of the panic. At an upgrade (101) the request is over; what is
//! spoken afterwards, by a WebSocket for instance, is a task of its own: wrap it by [`StallMonitor::instrument`], and it shows in polls and in
//! flight while it lives.
//!
//! An instrumented task begins with the call of `instrument` and ends with its future.
//!
//! # Which clock?
//!
//! Wall clock, monotonic: the processor's time stamp counter where the kernel trusts it as its own clock, else the OS clock. Whatever
//! happens during a poll counts as its time, sleep in a system call and preemption included.
//!
//! # Defaults
//!
//! | option | default |
//! |---|---|
//! | [`stall_threshold`](StallMonitorBuilder::stall_threshold) | 25 ms, changeable [while running](StallMonitor::set_stall_threshold) |
//! | [`runtime`](StallMonitorBuilder::runtime), [`runtime_name`](StallMonitorBuilder::runtime_name) | the current runtime, `main` |
//! | [`max_routes`](StallMonitorBuilder::max_routes) | 512 pairs of method and route |
//! | [`route_label`](StallMonitorBuilder::route_label) | none: axum's `MatchedPath`, else `unmatched` |
//! | [`stacks`](StallMonitorBuilder::stacks) | on: of threads that are asleep, without disturbing them |
//! | [`stack_signals`](StallMonitorBuilder::stack_signals) | off: a thread that runs is not interrupted, so its line is not known |
//! | [`rescue`](StallMonitorBuilder::rescue) | on |
//! | [`on_stall`](StallMonitorBuilder::on_stall) | none |
//! | [`reports_per_minute`](StallMonitorBuilder::reports_per_minute) | 10 for each line of a route |
//!
//! # What a report looks like
//!
//! A stall that ends is one `WARN` event with the target `tower_stall`, inside the request's own span. One that lasts is reported
//! while it lasts: at 1 s, or at the threshold if that is longer, and each time its age has doubled. For people, [`Stall`] displays as
//!
//! ```text
//! GET /report held its thread for 212 ms (threshold 25 ms)
//!   in: handler, worker 1, cause: blocked in `recvfrom` (socket to 10.0.0.7:5432)
//!   at: src/billing.rs:87
//!   37 other requests were in flight and could not count on this thread
//!   all timers and I/O of the runtime stood still until a nudge woke another worker
//!     recv
//!     std::net::tcp::TcpStream::read at std/src/net/tcp.rs:681
//!     app::billing::invoices at src/billing.rs:87
//!     app::report at src/report.rs:20
//! ```
//!
//! | field of the event | meaning |
//! |---|---|
//! | `method`, `route`, `phase` | whose poll it was |
//! | `duration_ms`, `threshold_ms` | how long it has lasted, and the threshold it exceeded |
//! | `in_progress` | whether it had not returned yet |
//! | `worker` | index of the runtime's worker; absent on other threads |
//! | `held_up` | other requests in flight on the monitor |
//! | `io_starved` | timers and I/O of the whole runtime stood still when it was seen (known on Unix) |
//! | `rescued` | another worker took them over after a nudge |
//! | `suppressed` | reports of this culprit, a line of a route, left out since the last one |
//! | `cause` | why it lasted |
//! | `syscall`, `detail` | the system call it was blocked in, and what that waited for; of `preempted`, what kept it off the cores |
//! | `location` | the first line on the stack that is the application's own |
//! | `stack` | the calls from the innermost one out to the handler, one on each line |
//! | `missing` | why there is no line, or no stack, and what to do about it |
//!
//! Reports are written by a thread of the monitor's own, never by a worker. Only reports are limited, never counts.
//!
//! # What it costs
//!
//! - A poll costs two clock reads and a few writes to memory that no other thread writes: no lock, no system call, no allocation. Only the first
//!   one after a quiet time wakes the watchdog. A request knows its route by an address, where axum puts the layer around each
//!   route, or else from its thread's own table. It allocates nothing, whether it waits or not; in axum, a wrapped body is one allocation. The
//!   figures are in `BENCHMARKS.md`.
//! - A poll that is suspect, from 5 ms on, costs the watchdog 15 to 45 µs a look, for the files under `/proc`. Its thread pays nothing.
//! - The first stack costs the reporter some 30 ms and the process some 35 MB, most of it pages of the program's own file with its debug
//!   information; later ones 15 µs to a millisecond. A copy takes some 20 µs of the watchdog's time, and none of the thread's that sleeps. With
//!   signals it costs a thread that runs 1 µs, 5 at the 99th percentile. A stall that has ended costs its thread some 20 µs for the
//!   accounts of the kernel. (`./x costs`, release, two shared cores, a program of 15 MB.)
//! - A monitor has three threads: the watchdog, the reporter, and one that looks after the I/O driver. All are asleep when nothing is to
//!   do. [`prometheus::serve`] adds one for the process.
//! - It has two tasks inside the runtime, which count among its alive tasks: the lag probe and the rescue's sentinel.
//! - Idle, that is some eighteen wake-ups a second, sixteen of them the lag probe's. Under traffic the watchdog looks every 5 ms, and more often,
//!   down to every millisecond, with a threshold under 20 ms. It looks right after a measured poll has become a stall, too: half a millisecond
//!   later, as a rule, the gauge of stalls in progress has risen, on a machine with a core to spare.
//! - Memory is about 2 KiB for each route on each thread that serves it, 15 KiB for each thread, and a few hundred KiB for each monitor. It
//!   does not grow with the number of requests.
//!
//! # When it lies
//!
//! - **`RUST_BACKTRACE=1` makes a panic a stall.** The panic hook resolves symbols inside the poll, which takes tens of milliseconds. That is
//!   true, your runtime did stand still, but the route is slow only when it panics.
//! - **`block_in_place`** hands the worker's other tasks to another thread, so it holds up nobody. A long poll that uses it is counted in
//!   `tower_stall_handed_off_polls_total`. It is recognised by its stack, or else by the worker's counters, which move meanwhile; in a
//!   runtime so busy that no worker ever parks, one that burns CPU may be told as a stall. One that has held its worker
//!   before it gives it away is a stall up to then, as far as stacks were taken. One that finds no thread left in the blocking pool to give
//!   its worker to counts as handed off all the same.
//! - **A line is a sample.** The stack is taken shortly before the threshold, whenever the age has doubled, and each second; of a thread that runs and
//!   sleeps by turns, of each of the two. The report shows the line where most of that time went; what came and went between two samples is not seen.
//! - **Lines after optimization.** Inlined functions are told apart, but the compiler may fold equal functions into one, under either name
//!   (`TcpStream::read` may show as `UdpSocket::recv`), and a loop's line may be any of its body. Trust the application's lines more than names.
//!   Without line tables (`debug = "line-tables-only"`) there are functions at best, and without symbols only addresses; the report says so.
//! - **No line for a thread that runs**, unless [`stack_signals`](StallMonitorBuilder::stack_signals) is on; none of one that is on a stack that is not
//!   its own, as in a coroutine; none in a function that realigns its stack, if the thread is asleep. A stack that makes no sense is left out.
//! - **Wall clock includes preemption.** On a machine that is overloaded, throttled, suspended or in a debugger, innocent polls stall.
//!   `tower_stall_watchdog_late_seconds` rises at the same time: then look at the machine first.
//! - **The LIFO slot.** A task woken by the poll that stalls waits in a slot of that very worker, from which no other may take it and no
//!   rescue frees it. The connection whose handler holds the worker waits as well.
//! - **`held_up` is an upper bound.** It counts what else was in flight, some of which may have run on other workers.
//! - **Nested polls blame the innermost.** Where a measured poll runs inside another, an instrumented task around a server for
//!   instance, the time of a stall is told of once, for the inner; the outer stalls if it holds the thread long enough by itself. Both count in
//!   the histogram of polls. A request inside a request's own poll is measured once, as the outer one. With an instrumented task between the
//!   two, both are. Of more than eight polls in each other the innermost and the outermost are told right, those between may be blamed for the same stall.
//! - **`tower::buffer` between two layers of one monitor** moves the request to another task and hides the outer from the inner: it counts twice.
//! - **A layer around a whole `Router`** sees requests before they are matched: all are `unmatched`. Use `Router::layer`.
//! - **What no layer or `instrument` wraps has no name**: `tokio::spawn` inside a handler, TLS, the accept loop. If it holds a worker it is
//!   told as `TASK unattributed`, with its line. Asleep in one system call it is seen for certain, once it is longer than the threshold; running, or
//!   in many short calls, only after 20 thresholds and half a second, as tokio tells no single polls. In an idle process it is seen
//!   within a second. Its duration counts from the watchdog's first look.
//! - **Time before the layer is not a request's.** Who waits in an accept queue during a stall is in nobody's request duration.
//! - **Rescue cannot help** a runtime of one thread, nor one whose workers are all held.
//!
//! # Cargo features
//!
//! - `axum` (default) takes the route of a request from axum's `MatchedPath`.
//! - `prometheus` (default) adds the module [`prometheus`], an exporter on a thread of its own.
//! - `stacks` (default) gives reports their line of code, on x86_64 Linux with glibc.
//! - `serde` implements `serde::Serialize` for [`Stall`].
//!
//! # The gallery
//!
//! What is told of well-known illnesses. `tests/gallery` is this table, run over real sockets.
//!
#![doc = include_str!("docs/gallery.md")]
//!
//! # What it is not for
//!
//! - Metrics of single tasks and of the runtime's internals: tokio-metrics.
//! - Looking into one process interactively: tokio-console.
//! - Profiles of a whole process: samply.
//! - Full timelines: dial9.
//!
//! # Metrics
//!
#![doc = include_str!("docs/metrics.md")]

mod alarm;
mod board;
mod cells;
mod clock;
mod error;
mod evidence;
mod export;
mod limits;
mod meter;
mod middleware;
mod monitor;
// What is only used where stacks can be taken is compiled everywhere.
#[cfg_attr(
    not(all(
        feature = "stacks",
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu",
        not(tower_stall_elsewhere)
    )),
    allow(dead_code)
)]
mod os;
mod outcome;
mod own;
#[cfg(feature = "prometheus")]
pub mod prometheus;
mod report;
mod routes;
mod shared;
#[cfg_attr(
    not(all(
        feature = "stacks",
        target_os = "linux",
        target_arch = "x86_64",
        target_env = "gnu",
        not(tower_stall_elsewhere)
    )),
    allow(dead_code)
)]
mod stacks;
mod stall;
mod sync;
mod threads;
mod trace;
mod wake;
mod watch;

pub use crate::error::{SpawnError, ThresholdError};
pub use crate::middleware::{StallBody, StallFuture, StallLayer, StallService, StallTask};
pub use crate::monitor::{RouteStats, StallMonitor, StallMonitorBuilder};
pub use crate::outcome::Phase;
pub use crate::stall::{Cause, Frame, Location, Stall};
