use std::borrow::Cow;
use std::sync::Arc;

use http::{Extensions, HeaderMap, Method, Request, Uri};

/// The head of a request, as
/// [`StallMonitorBuilder::route_label`](crate::StallMonitorBuilder::route_label) sees it.
///
/// ```
/// use std::borrow::Cow;
///
/// use tower_stall::RouteRequest;
///
/// fn label(request: &RouteRequest<'_>) -> Option<Cow<'static, str>> {
///     if request.method() == http::Method::OPTIONS {
///         return Some("preflight".into());
///     }
///     // `Tenant` is a type of the application, which an outer layer has inserted.
///     let has_tenant = request.extensions().get::<Tenant>().is_some();
///     if request.headers().contains_key("x-probe") || !has_tenant {
///         return Some("internal".into());
///     }
///     match request.uri().path() {
///         "/health" => Some("/health".into()),
///         path if path.starts_with("/users/") => Some("/users/{id}".into()),
///         _ => None,
///     }
/// }
/// # #[derive(Clone)] struct Tenant;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RouteRequest<'a> {
    method: &'a Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
}

/// A user's function from a request to its route.
pub(crate) type RouteLabelFn =
    Arc<dyn Fn(&RouteRequest<'_>) -> Option<Cow<'static, str>> + Send + Sync>;

impl<'a> RouteRequest<'a> {
    pub(crate) fn new<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }

    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> &'a Method {
        self.method
    }

    /// Returns the URI.
    #[must_use]
    pub fn uri(&self) -> &'a Uri {
        self.uri
    }

    /// Returns the headers.
    #[must_use]
    pub fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the extensions, such as the `MatchedPath` of a router that this crate does not know.
    #[must_use]
    pub fn extensions(&self) -> &'a Extensions {
        self.extensions
    }
}
