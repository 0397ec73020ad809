//! The pages of the server.

use http::header::{ALLOW, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};

use super::host::is_for_loopback;
use super::renderings::Renderings;
use super::stalls::StallsPage;

const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const WRONG_HOST: &str = "this address is a loopback address: ask for localhost, or bind the server to \
                          another address to reach it by a name\n";

/// The state that all connections share.
#[derive(Clone)]
pub(super) struct Router {
    pub(super) metrics: Renderings,
    pub(super) stalls: StallsPage,
    pub(super) stalls_page: Renderings,
}

enum Page {
    Metrics,
    Stalls,
}

impl Router {
    /// `is_loopback` is whether the client has connected to a loopback address.
    pub(super) async fn respond(
        &self,
        request: &Request<Incoming>,
        is_loopback: bool,
    ) -> Response<Full<Bytes>> {
        let mut response = if is_loopback && !is_for_loopback(request.headers()) {
            plain(StatusCode::FORBIDDEN, WRONG_HOST)
        } else {
            self.respond_to(request).await
        };
        let no_sniff = HeaderValue::from_static("nosniff");
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, no_sniff);
        response
    }

    async fn respond_to(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
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
        let (content_type, renderings) = match page {
            Page::Metrics => (METRICS, &self.metrics),
            Page::Stalls => (TEXT, &self.stalls_page),
        };
        let Some(text) = renderings.next().await else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n");
        };
        let mut response = Response::new(Full::new(text));
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
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}
