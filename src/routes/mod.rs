//! Routes by id: names are interned once, are bounded in number and length, and are never raw text
//! of a client.

mod method;
mod route_request;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

pub(crate) use self::method::MethodLabel;
pub(crate) use self::route_request::RouteLabelFn;
pub use self::route_request::RouteRequest;

use crate::sync::{AtomicU64, Ordering};
use crate::text::is_deceptive;

/// The id of a (method, route) pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RouteId(u16);

/// The label values of a (method, route) pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) name: Arc<str>,
}

/// The routes of a monitor.
#[derive(Debug)]
pub(crate) struct Routes {
    /// By id. The first ids are fixed: `unmatched` and `overflow` of each method, and
    /// `unattributed`.
    routes: Box<[OnceLock<Route>]>,
    ids: RwLock<RouteIds>,
    max_routes: usize,
    /// Relaxed: a count by itself.
    overflowed: AtomicU64,
}

/// Ids by name. Each thread has one of its own as a cache of the shared one, so that a lookup
/// touches no shared memory.
#[derive(Debug, Default)]
pub(crate) struct RouteIds([HashMap<Box<str>, RouteId>; METHODS]);

/// The route of requests that matched none.
const UNMATCHED: &str = "unmatched";
/// The route of stalls outside any measured poll.
const UNATTRIBUTED: &str = "unattributed";
/// The route of requests whose own route exceeds the limit.
const OVERFLOW: &str = "overflow";

const METHODS: usize = MethodLabel::ALL.len();
const FIXED: usize = 2 * METHODS + 1;
const MAX_NAME_BYTES: usize = 256;

// === impl RouteId ===

impl RouteId {
    #[inline]
    pub(crate) fn get(self) -> u16 {
        self.0
    }

    /// Returns the id in the lowest 16 bits.
    #[inline]
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits as u16)
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    fn unmatched(method: MethodLabel) -> Self {
        Self(method.index() as u16)
    }

    fn overflow(method: MethodLabel) -> Self {
        Self((METHODS + method.index()) as u16)
    }
}

// === impl Routes ===

impl Routes {
    /// The route of stalls outside any measured poll.
    pub(crate) const UNATTRIBUTED: RouteId = RouteId(2 * METHODS as u16);

    /// The largest number of distinct pairs that the ids can distinguish.
    pub(crate) const MAX: usize = 16_384;

    /// Creates a table for up to `max_routes` distinct pairs beside the fixed ones.
    pub(crate) fn new(max_routes: usize) -> Self {
        let routes: Box<[OnceLock<Route>]> =
            (0..FIXED + max_routes).map(|_| OnceLock::new()).collect();
        for (index, method) in MethodLabel::ALL.into_iter().enumerate() {
            for (id, name) in [(index, UNMATCHED), (METHODS + index, OVERFLOW)] {
                let _ = routes[id].set(Route { method, name: name.into() });
            }
        }
        let unattributed = Route { method: MethodLabel::TASK.as_str(), name: UNATTRIBUTED.into() };
        let _ = routes[Self::UNATTRIBUTED.index()].set(unattributed);
        Self { routes, ids: RwLock::default(), max_routes, overflowed: AtomicU64::new(0) }
    }

    /// Returns the number of ids, in use or not.
    pub(crate) fn len(&self) -> usize {
        self.routes.len()
    }

    /// Returns the id of a pair, which is assigned if the pair is new. Without a name it is
    /// `unmatched`.
    pub(crate) fn id(&self, method: MethodLabel, name: Option<&str>) -> RouteId {
        match name {
            None | Some("" | UNMATCHED) => RouteId::unmatched(method),
            Some(OVERFLOW) => RouteId::overflow(method),
            Some(UNATTRIBUTED) if method == MethodLabel::TASK => Self::UNATTRIBUTED,
            Some(name) => {
                let name = label_value(name);
                self.find(method, &name).unwrap_or_else(|| self.intern(method, &name))
            }
        }
    }

    /// Returns the number of requests that were counted as `overflow`.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, id: RouteId) -> Option<&Route> {
        self.routes.get(id.index())?.get()
    }

    /// Returns whether `id` has exactly this name, and not one that replaces it.
    pub(crate) fn is_named(&self, id: RouteId, name: &str) -> bool {
        self.get(id).is_some_and(|route| &*route.name == name)
    }

    /// Returns every id that has been assigned.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RouteId, &Route)> {
        self.routes.iter().zip(0..).filter_map(|(route, id)| Some((RouteId(id), route.get()?)))
    }

    /// Returns whether `id` is an instrumented task, not a request.
    pub(crate) fn is_task(&self, id: RouteId) -> bool {
        self.get(id).is_some_and(|route| route.method == MethodLabel::TASK.as_str())
    }

    /// Looks up the id of a pair; returns the overflow id once the table is full.
    fn find(&self, method: MethodLabel, name: &str) -> Option<RouteId> {
        let ids = self.ids.read().unwrap_or_else(PoisonError::into_inner);
        ids.get(method, name).or_else(|| self.is_full(&ids).then(|| self.overflow(method)))
    }

    #[cold]
    fn intern(&self, method: MethodLabel, name: &str) -> RouteId {
        let mut ids = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = ids.get(method, name) {
            return id;
        }
        if self.is_full(&ids) {
            return self.overflow(method);
        }
        let id = RouteId((FIXED + ids.len()) as u16);
        let _ = self.routes[id.index()].set(Route { method: method.as_str(), name: name.into() });
        ids.insert(method, name, id);
        id
    }

    fn is_full(&self, ids: &RouteIds) -> bool {
        ids.len() == self.max_routes
    }

    fn overflow(&self, method: MethodLabel) -> RouteId {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
        RouteId::overflow(method)
    }
}

// === impl RouteIds ===

impl RouteIds {
    #[inline]
    pub(crate) fn get(&self, method: MethodLabel, name: &str) -> Option<RouteId> {
        self.0[method.index()].get(name).copied()
    }

    pub(crate) fn insert(&mut self, method: MethodLabel, name: &str, id: RouteId) {
        self.0[method.index()].insert(name.into(), id);
    }

    fn len(&self) -> usize {
        self.0.iter().map(HashMap::len).sum()
    }
}

/// Returns a name as a label value: bounded, on one line, and without the characters that exporters
/// escape ambiguously.
fn label_value(name: &str) -> Cow<'_, str> {
    let is_replaced = |c: char| is_deceptive(c) || matches!(c, '"' | '\\');
    if name.len() <= MAX_NAME_BYTES && !name.contains(is_replaced) {
        return Cow::Borrowed(name);
    }
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(name[..end].replace(is_replaced, "_"))
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;

    const GET: http::Method = http::Method::GET;

    fn get() -> MethodLabel {
        MethodLabel::new(&GET)
    }

    #[test]
    fn a_pair_has_one_id() {
        let routes = Routes::new(8);
        let id = routes.id(get(), Some("/users/{id}"));
        assert_eq!(routes.id(get(), Some("/users/{id}")), id);
        assert_ne!(routes.id(MethodLabel::HEAD, Some("/users/{id}")), id);
        let route = routes.get(id).unwrap();
        assert_eq!((route.method, &*route.name), ("GET", "/users/{id}"));
    }

    #[test]
    fn routes_over_the_limit_are_counted_as_overflow() {
        let routes = Routes::new(2);
        for name in ["/a", "/b", "/c", "/d", "/a"] {
            routes.id(get(), Some(name));
        }
        let overflow = routes.get(routes.id(get(), Some("/e"))).unwrap();
        assert_eq!(&*overflow.name, OVERFLOW);
        assert_eq!(routes.overflowed(), 3);
        assert_eq!(&*routes.get(routes.id(get(), None)).unwrap().name, UNMATCHED);
    }

    #[test]
    fn label_values_are_bounded_and_unambiguous() {
        assert_eq!(label_value("/a\n\"b\\c"), "/a__b_c");
        assert_eq!(label_value(&"é".repeat(1_000)).len(), MAX_NAME_BYTES);
        let routes = Routes::new(8);
        assert_eq!(routes.id(get(), Some("/a\nb")), routes.id(get(), Some("/a\\b")));
        assert_eq!(routes.iter().filter(|(_, route)| &*route.name == "/a_b").count(), 1);
    }
}
