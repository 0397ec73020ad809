//! A layer that is one function around the call of an axum route.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use axum::routing::Route;
use tower::{Layer, Service};

/// Calls the route as the function says.
#[derive(Clone)]
pub struct Around<F>(pub F);

#[derive(Clone)]
pub struct AroundRoute<F> {
    route: Route,
    call: F,
}

impl<F: Clone> Layer<Route> for Around<F> {
    type Service = AroundRoute<F>;

    fn layer(&self, route: Route) -> Self::Service {
        AroundRoute { route, call: self.0.clone() }
    }
}

impl<F, R> Service<Request> for AroundRoute<F>
where
    F: FnMut(&mut Route, Request) -> R,
    R: Future<Output = Result<Response, Infallible>>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = R;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request>::poll_ready(&mut self.route, cx)
    }

    fn call(&mut self, request: Request) -> R {
        (self.call)(&mut self.route, request)
    }
}
