//! A layer from a function that calls an axum route.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::Response;
use axum::routing::Route;
use tower::{Layer, Service};

#[derive(Clone)]
pub struct FromFnLayer<F>(pub F);

#[derive(Clone)]
pub struct FromFn<F> {
    route: Route,
    call: F,
}

impl<F: Clone> Layer<Route> for FromFnLayer<F> {
    type Service = FromFn<F>;

    fn layer(&self, route: Route) -> Self::Service {
        FromFn { route, call: self.0.clone() }
    }
}

impl<F, R> Service<Request> for FromFn<F>
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
