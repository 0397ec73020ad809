//! A tower layer and a watchdog that report which route, and which line of code, is blocking your
//! async runtime, while it is blocked.
//!
//! Now and then, an axum, hyper or tonic service becomes slow for all its clients at once. The
//! usual reason is one handler that blocks a worker thread: a blocking sleep, a synchronous client,
//! a contended lock, parsing a large document. `tower-stall` measures every poll of every request,
//! and reports a poll that takes too long while it is still running. It runs on stable Rust and
//! unmodified tokio, and is cheap enough to leave on in production.
//!
#![doc = include_str!("docs/front_report.md")]
//!
//! # Usage
//!
#![cfg_attr(all(feature = "axum", feature = "prometheus"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "axum", feature = "prometheus")), doc = "```ignore")]
//! use tower_stall::StallMonitor;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     // The watchdog, for the current runtime.
//!     let monitor = StallMonitor::builder().spawn()?;
//!     // Metrics and reports, on their own thread, which responds while every worker is stalled.
//!     tower_stall::prometheus::serve(([127, 0, 0, 1], 9464))?.show(&monitor);
//!
//!     let app = axum::Router::new()
//!         .route("/users/{id}", axum::routing::get(show_user))
//!         .layer(monitor.layer());
//!     // Optional: also measures how long requests wait before the server reads them.
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(monitor.listener(listener), app).await?;
//!     Ok(())
//! }
//! # async fn show_user() {}
//! ```
//!
//! Stalls are reported as `tracing` events, for which a subscriber must be installed, and as
//! metrics. For services that do not use axum, set
//! [`route_label`](StallMonitorBuilder::route_label). Wrap background tasks with
//! [`StallMonitor::instrument`]. To read stalls from code, use [`StallMonitor::recent_stalls`],
//! [`StallMonitor::routes`], or a hook: [`on_stall`](StallMonitorBuilder::on_stall).
//!
//! # Guides
//!
//! - [Terminology](guide::terminology)
//! - [Requests](guide::requests): when a request begins and ends, and which clock measures it
//! - [Reports](guide::reports): the text, the event and its fields
//! - [Configuration](guide::configuration): options, defaults and line tables
//! - [Metrics](guide::metrics): names, labels, buckets
//! - [Blocking patterns](guide::blocking_patterns): what is reported for each, and what helps
//! - [Costs](guide::costs)
//! - [Limitations and accuracy](guide::limitations)
//! - [Compatibility](guide::compatibility): platforms and public dependencies
//!
//! # Platforms
//!
//! | | x86_64 Linux | aarch64 Linux, glibc | other Linux | macOS | Windows, FreeBSD | other Unix |
//! |---|---|---|---|---|---|---|
//! | route, duration, stalls in progress, metrics | yes | yes | yes | yes | yes | yes |
//! | line of a blocked thread | yes | yes | no | no | no | no |
//! | line of a running thread, with `stack_signals` | yes | yes | no | no | no | no |
//! | cause | yes | yes | yes | no `paused` | `cpu`, `blocked` | `unknown` |
//! | system call | yes | yes | yes | no | no | no |
//! | the socket or file that it waits for | yes | yes | no | no | no | no |
//! | socket wait | yes | yes | yes | no | no | no |
//! | stalls of unmeasured code | yes | yes | yes | yes | late | late |
//! | `block_in_place` recognized | yes | yes | yes | not tested | not tested | no |
//! | rescue when a measured poll starves the driver | yes | yes | yes | yes | yes | yes |
//! | driver starvation reported (`io_starved`, `rescued`) | yes | yes | yes | yes | yes | yes |
//! | tested | yes | emulated | compiled | compiled | Windows: under wine; FreeBSD: compiled | no |
//!
//! See [compatibility](guide::compatibility) for the details, and
//! [`stack_signals`](StallMonitorBuilder::stack_signals) for the lines of running threads.
//!
//! # Cargo features
//!
//! | feature | default | |
//! |---|---|---|
//! | `axum` | yes | Takes the route of a request from axum's `MatchedPath`, and wraps the listeners of `axum::serve`. |
//! | `prometheus` | yes | Adds the module [`prometheus`], an exporter on a thread of its own. |
//! | `stacks` | yes | Captures stacks; needed for the line of code. |
//! | `serde` | no | Implements `serde::Serialize` for [`Stall`] and its parts. |
//!
//! # When to use something else
//!
//! - Per-task metrics and runtime internals:
//!   [tokio-metrics](https://crates.io/crates/tokio-metrics).
//! - Interactive debugging of one process: [tokio-console](https://github.com/tokio-rs/console).
//! - Profiles of a whole process: [samply](https://github.com/mstange/samply).
//! - Full timelines of a runtime: [dial9](https://crates.io/crates/dial9).

mod error;
mod export;
mod layer;
mod monitor;
// Compiled on every platform, although parts are used only to capture stacks.
#[cfg_attr(not(stacks_supported), allow(dead_code))]
mod os;
#[cfg(feature = "prometheus")]
pub mod prometheus;
mod report;
mod request;
mod routes;
mod shard;
#[cfg_attr(not(stacks_supported), allow(dead_code))]
mod stacks;
mod stall;
mod state;
mod sync;
mod text;
mod threads;
mod trace;
mod watchdog;

pub use crate::error::Error;
#[cfg(feature = "axum")]
pub use crate::layer::StallListener;
pub use crate::layer::{
    Instrumented, SocketWaitLayer, SocketWaitService, StallBody, StallFuture, StallIo, StallLayer,
    StallService,
};
pub use crate::monitor::{RouteStats, StallMonitor, StallMonitorBuilder};
pub use crate::routes::RouteRequest;
pub use crate::stall::{Cause, Delayed, Frame, Location, Phase, Stall};

/// Compiles the example of the README.
#[cfg(all(doctest, feature = "axum", feature = "prometheus"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Guides to the terms, the reports, the metrics, the costs and the limitations.
pub mod guide {
    #[doc = include_str!("docs/blocking_patterns.md")]
    pub mod blocking_patterns {}
    #[doc = include_str!("docs/compatibility.md")]
    pub mod compatibility {}
    #[doc = include_str!("docs/configuration.md")]
    pub mod configuration {}
    #[doc = include_str!("docs/costs.md")]
    pub mod costs {}
    #[doc = include_str!("docs/in_production.md")]
    pub mod in_production {}
    #[doc = include_str!("docs/limitations.md")]
    pub mod limitations {}
    #[doc = include_str!("docs/metrics.md")]
    pub mod metrics {}
    #[doc = include_str!("docs/reports.md")]
    pub mod reports {}
    #[doc = include_str!("docs/requests.md")]
    pub mod requests {}
    #[doc = include_str!("docs/terminology.md")]
    pub mod terminology {}
}
