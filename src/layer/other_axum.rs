//! Finds out whether a layer wraps a route of an axum other than the one this crate is built
//! against, whose `MatchedPath` is another type and is therefore never found.

/// Returns whether `S` has the name of axum's route and is another type.
#[cfg(feature = "axum")]
pub(super) fn is_route<S>() -> bool {
    use std::any::{TypeId, type_name};

    type Route = axum::routing::Route;
    typeid::of::<S>() != TypeId::of::<Route>() && type_name::<S>() == type_name::<Route>()
}

#[cfg(not(feature = "axum"))]
pub(super) fn is_route<S>() -> bool {
    false
}

#[cfg(all(test, feature = "axum"))]
mod tests {
    use super::*;

    #[test]
    fn the_route_of_this_axum_is_known() {
        assert!(!is_route::<axum::routing::Route>());
        assert!(!is_route::<u8>());
    }
}
