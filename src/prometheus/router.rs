//! The pages of the server.

use std::sync::Arc;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};

use super::recorder::Drain;
use super::stalls::StallsPage;

const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The state that all connections share.
#[derive(Clone)]
pub(super) struct Router {
    pub(super) metrics: Arc<Drain>,
    pub(super) stalls: StallsPage,
}

enum Page {
    Metrics,
    Stalls,
}

impl Router {
    pub(super) fn respond(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let Some(page) = self.page(request.uri().path()) else {
            let pages = match self.stalls.is_enabled() {
                true => "metrics are at /metrics, reports at /stalls\n",
                false => "metrics are at /metrics\n",
            };
            return plain(StatusCode::NOT_FOUND, pages);
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let (content_type, text) = match page {
            Page::Metrics => (METRICS, self.metrics.render()),
            Page::Stalls => (TEXT, self.stalls.render()),
        };
        let mut response = Response::new(Full::from(text));
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }

    fn page(&self, path: &str) -> Option<Page> {
        match path {
            "/metrics" => Some(Page::Metrics),
            "/stalls" if self.stalls.is_enabled() => Some(Page::Stalls),
            _ => None,
        }
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
