//! What an answer says of the route of its request.

use http::{HeaderMap, StatusCode};

/// Returns whether an answer shows that the pair of method and route exists. Routers answer 404,
/// 405, or for gRPC UNIMPLEMENTED, to what they do not know, and in the name of a route, too.
#[cold]
pub(super) fn is_of_a_route(status: StatusCode, headers: &HeaderMap) -> bool {
    const UNIMPLEMENTED: &str = "12";
    let is_unknown = matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
    !is_unknown && headers.get("grpc-status").is_none_or(|status| status != UNIMPLEMENTED)
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn case(status: u16, grpc_status: Option<&'static str>) -> bool {
        let headers = grpc_status.map(|status| {
            let name = http::HeaderName::from_static("grpc-status");
            (name, http::HeaderValue::from_static(status))
        });
        is_of_a_route(StatusCode::from_u16(status).unwrap(), &HeaderMap::from_iter(headers))
    }

    #[test]
    fn what_a_router_answers_by_itself_is_not_of_a_route() {
        assert!(!case(404, None) && !case(405, None) && !case(200, Some("12")));
        assert!(case(200, None) && case(400, None) && case(500, None));
        assert!(case(200, Some("0")) && case(200, Some("14")));
    }
}
