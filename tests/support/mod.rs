//! Helpers that the integration tests share.
#![allow(dead_code, unused_imports)] // Each test uses only some of them.

#[cfg(feature = "axum")]
pub(crate) mod blocked_server;
mod bodies;
mod http;
#[cfg(feature = "prometheus")]
mod metrics;
mod monitors;
mod process;
mod random;
mod scrape;
mod subscriber;
mod waiting;
mod workers;

pub(crate) use self::bodies::{SCRIPTED, Script, Step};
pub(crate) use self::http::{HttpConnection, HttpResponse, get, http_get, http_request};
#[cfg(feature = "prometheus")]
pub(crate) use self::metrics::{assert_outcomes, builder, by_path, install_recorder, scrape};
pub(crate) use self::monitors::{
    builder_for, current_thread_runtime, ended, in_flight, in_progress, monitor_for, runtime, stats,
};
pub(crate) use self::process::{child_command, in_own_process, is_child};
pub(crate) use self::random::Random;
pub(crate) use self::scrape::Scrape;
pub(crate) use self::subscriber::PanickingSubscriber;
pub(crate) use self::waiting::{DEADLINE, eventually, eventually_async, holds_for, poll_until};
pub(crate) use self::workers::{tokio_tells_the_worker, wait_until_workers_are_known};
