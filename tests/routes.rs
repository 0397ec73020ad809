//! Which route a request counts under.
#![allow(clippy::unwrap_used, missing_docs)]
#![cfg(all(feature = "axum", feature = "prometheus"))]

mod support;

use std::convert::Infallible;
use std::future::{Ready, ready};

use axum::Router;
use axum::body::Body;
use axum::handler::Handler;
use axum::routing::{any, get, post};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use support::{builder, by_path, eventually, scrape};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_stall::StallMonitor;

fn monitor() -> StallMonitor {
    builder().spawn().unwrap()
}

/// Sends a request to a router and reads the answer.
async fn send(router: &Router, method: &str, path: &str) -> StatusCode {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    response.into_body().collect().await.unwrap();
    status
}

/// All routes a monitor has counted: method, route, requests. None may be left in flight.
fn seen(monitor: &StallMonitor) -> Vec<(String, String, u64)> {
    let routes = monitor.routes();
    assert!(routes.iter().all(|stats| stats.in_flight() == 0), "{routes:?}");
    routes.iter().map(|stats| (stats.method().into(), stats.route().into(), stats.requests())).collect()
}

#[track_caller]
fn assert_seen(monitor: &StallMonitor, expected: &[(&str, &str, u64)]) {
    let seen = seen(monitor);
    let seen: Vec<_> = seen.iter().map(|(method, route, count)| (&**method, &**route, *count)).collect();
    assert_eq!(seen, expected);
}

/// Answers any request.
fn answer<B>(_: Request<B>) -> Ready<Result<Response<Body>, Infallible>> {
    ready(Ok(Response::new(Body::from("answer"))))
}

// === axum ===

/// A test that `Router::layer` measures each request under the pattern that matched it, and those that matched none as `unmatched`.
#[tokio::test]
async fn a_router_layer_sees_patterns() {
    let monitor = monitor();
    let router = Router::new()
        .route("/users/{id}", get(|| async { "user" }).post(|| async { "made" }))
        .route("/files/{*path}", get(|| async { "file" }))
        .layer(monitor.layer());
    assert_eq!(send(&router, "GET", "/users/1").await, 200);
    assert_eq!(send(&router, "GET", "/users/2?q=3").await, 200);
    assert_eq!(send(&router, "POST", "/users/1").await, 200);
    assert_eq!(send(&router, "HEAD", "/users/1").await, 200);
    assert_eq!(send(&router, "DELETE", "/users/1").await, 405);
    assert_eq!(send(&router, "GET", "/files/a/b").await, 200);
    assert_eq!(send(&router, "GET", "/nothing/here").await, 404);
    // The fixed route comes first; the others in the order of their first request.
    assert_seen(
        &monitor,
        &[
            ("GET", "unmatched", 1),
            ("GET", "/users/{id}", 2),
            ("POST", "/users/{id}", 1),
            ("HEAD", "/users/{id}", 1),
            ("DELETE", "/users/{id}", 1),
            ("GET", "/files/{*path}", 1),
        ],
    );
}

/// A test that `Router::route_layer` measures what matched, and only that.
#[tokio::test]
async fn a_route_layer_sees_what_matched() {
    let monitor = monitor();
    let router = Router::new().route("/a/{id}", get(|| async {})).route_layer(monitor.layer());
    let router = router.route("/b/{id}", get(|| async {}));
    send(&router, "GET", "/a/1").await;
    send(&router, "GET", "/b/1").await;
    assert_eq!(send(&router, "GET", "/nothing").await, 404);
    assert_seen(&monitor, &[("GET", "/a/{id}", 1)]);
}

/// A test that a layer around one route's methods, or one handler, measures those alone, under the pattern.
#[tokio::test]
async fn layers_of_methods_and_handlers_see_patterns() {
    let monitor = monitor();
    let one = get(|| async {}).layer(monitor.layer()).post(|| async {});
    let handler = (|| async {}).layer(monitor.layer());
    let router = Router::new().route("/methods/{id}", one).route("/handler/{id}", post(handler));
    send(&router, "GET", "/methods/1").await;
    send(&router, "POST", "/methods/1").await;
    send(&router, "POST", "/handler/1").await;
    assert_seen(&monitor, &[("GET", "/methods/{id}", 1), ("POST", "/handler/{id}", 1)]);
}

/// A test that nested and merged routers are measured under the whole pattern, wherever the layer is.
#[tokio::test]
async fn nested_routers_have_whole_patterns() {
    let (outside, inside) = (monitor(), monitor());
    let users = Router::new().route("/users/{id}", get(|| async {})).layer(inside.layer());
    let merged = Router::new().route("/merged/{id}", get(|| async {}));
    let router = Router::new().nest("/api/{version}", users).merge(merged).layer(outside.layer());
    send(&router, "GET", "/api/1/users/2").await;
    send(&router, "GET", "/merged/1").await;
    assert_eq!(send(&router, "GET", "/api/1/nothing").await, 404);
    assert_seen(&inside, &[("GET", "/api/{version}/users/{id}", 1)]);
    let expected = [("GET", "unmatched", 1), ("GET", "/api/{version}/users/{id}", 1), ("GET", "/merged/{id}", 1)];
    assert_seen(&outside, &expected);
}

/// A test that a nested service is `unmatched`, as axum tells no pattern of it, and its raw paths are no labels.
#[tokio::test]
async fn a_nested_service_is_unmatched() {
    let monitor = monitor();
    let router = Router::new().nest_service("/static", service_fn(answer::<Body>)).layer(monitor.layer());
    assert_eq!(send(&router, "GET", "/static/secret").await, 200);
    assert_seen(&monitor, &[("GET", "unmatched", 1)]);
}

/// A test that a fallback is `unmatched`, with a handler of one's own too.
#[tokio::test]
async fn a_fallback_is_unmatched() {
    let monitor = monitor();
    let router = Router::new().fallback(|uri: Uri| async move { uri.to_string() }).layer(monitor.layer());
    assert_eq!(send(&router, "GET", "/token/12345").await, 200);
    assert_seen(&monitor, &[("GET", "unmatched", 1)]);
}

/// A test that a layer around a whole router counts `unmatched`, as nothing has matched there yet.
#[tokio::test]
async fn a_layer_around_a_router_is_unmatched() {
    let monitor = monitor();
    let router = Router::new().route("/around/{id}", get(|| async {}));
    let service = ServiceBuilder::new().layer(monitor.layer()).service(router);
    let request = Request::get("/around/1").body(Body::empty()).unwrap();
    service.oneshot(request).await.unwrap().into_body().collect().await.unwrap();
    assert_seen(&monitor, &[("GET", "unmatched", 1)]);
}

/// A test that neither a raw path nor a query ever gets into the scraped text.
#[tokio::test]
async fn a_raw_path_is_never_a_label() {
    let monitor = monitor();
    let router = Router::new()
        .route("/raw/{id}", get(|| async {}))
        .nest_service("/raw_nested", service_fn(answer::<Body>))
        .layer(monitor.layer());
    for path in ["/raw/needle", "/needle", "/raw/1?needle", "/raw/1/needle", "/raw_nested/needle"] {
        send(&router, "GET", path).await;
    }
    let requests = |route| scrape().sum("tower_stall_requests_total", &[("route", route)]);
    eventually("all are told of", || requests("/raw/{id}") == 2.0 && requests("unmatched") >= 3.0);
    scrape().assert_lacks("needle");
}

// === Labels of one's own ===

/// A test that a plain service has the labels it was given, and `unmatched` for `None` and without a function.
#[tokio::test]
async fn a_plain_service_has_labels_of_its_own() {
    let label = |method: &Method, uri: &Uri| (uri.path() != "/none").then(|| format!("{method} {}", uri.path().len()));
    let labelled = builder().route_label(label).spawn().unwrap();
    let plain = monitor();
    for monitor in [&labelled, &plain] {
        let service = monitor.layer().layer(service_fn(answer::<()>));
        for path in ["/none", "/12345"] {
            let response = service.clone().oneshot(support::get(path)).await.unwrap();
            response.into_body().collect().await.unwrap();
        }
    }
    assert_seen(&labelled, &[("GET", "unmatched", 1), ("GET", "GET 6", 1)]);
    assert_seen(&plain, &[("GET", "unmatched", 2)]);
}

/// A test that the pattern axum matched goes before a label of one's own, which is for what it did not match.
#[tokio::test]
async fn a_matched_path_goes_first() {
    let monitor = builder().route_label(|_, _| Some("mine".into())).spawn().unwrap();
    let router = Router::new().route("/matched/{id}", get(|| async {})).layer(monitor.layer());
    send(&router, "GET", "/matched/1").await;
    send(&router, "GET", "/nothing").await;
    assert_seen(&monitor, &[("GET", "/matched/{id}", 1), ("GET", "mine", 1)]);
}

/// A test that a method nobody knows is `OTHER`, so that clients cannot make labels.
#[tokio::test]
async fn an_unknown_method_is_other() {
    let monitor = monitor();
    let router = Router::new().route("/pot", any(|| async {})).layer(monitor.layer());
    send(&router, "BREW", "/pot").await;
    send(&router, "get", "/pot").await;
    send(&router, "PATCH", "/pot").await;
    assert_seen(&monitor, &[("OTHER", "/pot", 2), ("PATCH", "/pot", 1)]);
    eventually("they are told of", || scrape().has("tower_stall_requests_total", &[("route", "/pot")]));
    scrape().assert_lacks("BREW");
}

/// A test that a client that asks for a method `TASK` does not get among the tasks.
#[tokio::test]
async fn a_method_task_is_no_task() {
    let monitor = monitor();
    let router = Router::new().route("/work", any(|| async {})).layer(monitor.layer());
    send(&router, "TASK", "/work").await;
    assert_seen(&monitor, &[("OTHER", "/work", 1)]);
}

/// A test that past `max_routes` pairs all further ones are `overflow`, that those before stay apart, and that each request of theirs is
/// counted as overflowed.
#[tokio::test]
async fn past_the_cap_routes_overflow() {
    let monitor = by_path().max_routes(2).spawn().unwrap();
    let service = monitor.layer().layer(service_fn(answer::<()>));
    for path in ["/cap/a", "/cap/b", "/cap/c", "/cap/d", "/cap/c", "/cap/a"] {
        service.clone().oneshot(support::get(path)).await.unwrap().into_body().collect().await.unwrap();
    }
    assert_seen(&monitor, &[("GET", "overflow", 3), ("GET", "/cap/a", 2), ("GET", "/cap/b", 1)]);
    // No other test here overflows.
    let overflowed = || scrape().sum("tower_stall_routes_overflowed_total", &[]);
    eventually("the overflow is counted", || overflowed() >= 3.0);
    assert_eq!(overflowed(), 3.0);
    scrape().assert_lacks("/cap/c");
}

/// A test that a label with characters that would break the text is one line of clean text, and a long one is cut.
#[tokio::test]
async fn labels_are_cleaned() {
    let label = |_: &Method, uri: &Uri| match uri.path() {
        "/long" => Some("ü".repeat(1_000)),
        _ => Some("weird\n\"label\\with\u{7}all, {of}=it".into()),
    };
    let monitor = builder().route_label(label).spawn().unwrap();
    let service = monitor.layer().layer(service_fn(answer::<()>));
    for path in ["/weird", "/long"] {
        service.clone().oneshot(support::get(path)).await.unwrap().into_body().collect().await.unwrap();
    }
    let (weird, long) = ("weird__label_with_all, {of}=it", "ü".repeat(128));
    assert_seen(&monitor, &[("GET", weird, 1), ("GET", &long, 1)]);
    for route in [weird, &long] {
        support::assert_outcomes(route, &[("2xx", 1)]);
    }
}

/// A test that labels which differ only past what is kept of them take no memory each.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn labels_cut_to_the_same_take_no_memory() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    const REQUESTS: usize = 20_000;
    const MIB: usize = 1 << 20;
    let served = AtomicUsize::new(0);
    let label = move |_: &Method, _: &Uri| Some(format!("{:04096}{}", 0, served.fetch_add(1, Ordering::Relaxed)));
    let monitor = builder().route_label(label).spawn().unwrap();
    let mut service = monitor.layer().layer(service_fn(answer::<()>));
    let resident = || {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    for _ in 0..REQUESTS {
        drop(service.call(support::get("/")).await.unwrap().into_body().collect().await.unwrap());
    }
    assert_seen(&monitor, &[("GET", &"0".repeat(256), REQUESTS as u64)]);
    let grown = resident().saturating_sub(before) / MIB;
    assert!(grown < 32, "{grown} MiB for {REQUESTS} labels of 4 KiB");
}

// === More than one layer ===

/// A test that a request through several layers of one monitor counts once, its polls too.
#[tokio::test]
async fn several_layers_of_a_monitor_count_once() {
    let count = |layers: usize| async move {
        let monitor = monitor();
        let handler = || async {
            tokio::task::yield_now().await;
            "answer"
        };
        let mut methods = get(handler);
        if layers > 2 {
            methods = methods.layer(monitor.layer());
        }
        let mut router = Router::new().route("/several/{id}", methods);
        if layers > 1 {
            router = router.route_layer(monitor.layer());
        }
        let router = router.layer(monitor.layer());
        assert_eq!(send(&router, "GET", "/several/1").await, 200);
        let routes = monitor.routes();
        assert_eq!(routes.len(), 1, "{routes:?}");
        (routes[0].requests(), routes[0].in_flight(), routes[0].polls())
    };
    let one = count(1).await;
    assert_eq!((one.0, one.1), (1, 0));
    assert_eq!(count(2).await, one);
    assert_eq!(count(3).await, one);
}

/// A test that requests after one that several layers saw are measured as well: on the same thread, by each of the layers alone.
#[tokio::test]
async fn an_inner_layer_measures_what_comes_by_another_way() {
    let monitor = by_path().spawn().unwrap();
    let inner = monitor.layer().layer(service_fn(answer::<()>));
    let outer = monitor.layer().layer(inner.clone());
    for _ in 0..3 {
        outer.clone().oneshot(support::get("/way/outer")).await.unwrap().into_body().collect().await.unwrap();
        inner.clone().oneshot(support::get("/way/inner")).await.unwrap().into_body().collect().await.unwrap();
    }
    assert_seen(&monitor, &[("GET", "/way/outer", 3), ("GET", "/way/inner", 3)]);
}

/// A test that two monitors each count a request that passes both, in the scraped text together.
#[tokio::test]
async fn two_monitors_count_each() {
    let (one, other) = (monitor(), monitor());
    let router = Router::new().route("/both", get(|| async {})).layer(one.layer()).layer(other.layer());
    send(&router, "GET", "/both").await;
    assert_seen(&one, &[("GET", "/both", 1)]);
    assert_seen(&other, &[("GET", "/both", 1)]);
    support::assert_outcomes("/both", &[("2xx", 2)]);
}
