//! Routes by number: names are interned once, bounded, and never the client's free text.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::sync::{AtomicU64, Ordering};

/// The `method` of a label: one of the nine standard ones, `OTHER`, or `TASK` for what is not a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Method(u8);

/// The number of a (method, route) pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RouteId(u16);

/// A (method, route) pair as labels show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) name: Arc<str>,
}

/// All routes of a monitor.
#[derive(Debug)]
pub(crate) struct Routes {
    /// Fixed routes first: `unmatched` and `overflow` of each method, and `unattributed`.
    names: Box<[OnceLock<Route>]>,
    known: RwLock<Known>,
    capacity: usize,
    overflowed: AtomicU64,
}

/// Numbers by name. Each thread keeps one of its own in front of the shared one, so that a look-up shares nothing.
#[derive(Debug, Default)]
pub(crate) struct Known([HashMap<Box<str>, RouteId>; METHODS.len()]);

/// The route of requests that matched none.
pub(crate) const UNMATCHED: &str = "unmatched";
/// The route of stalls outside all that is measured.
pub(crate) const UNATTRIBUTED: &str = "unattributed";
/// The route of requests whose own one is past the cap.
pub(crate) const OVERFLOW: &str = "overflow";

const METHODS: [&str; 11] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER", "TASK"];
const FIXED: usize = 2 * METHODS.len() + 1;
const LONGEST_NAME: usize = 256;

// === impl Method ===

impl Method {
    pub(crate) const HEAD: Self = Self(1);
    const OTHER: Self = Self(9);
    pub(crate) const TASK: Self = Self(10);

    #[inline]
    pub(crate) fn of(method: &http::Method) -> Self {
        match *method {
            http::Method::GET => Self(0),
            http::Method::HEAD => Self(1),
            http::Method::POST => Self(2),
            http::Method::PUT => Self(3),
            http::Method::DELETE => Self(4),
            http::Method::CONNECT => Self(5),
            http::Method::OPTIONS => Self(6),
            http::Method::TRACE => Self(7),
            http::Method::PATCH => Self(8),
            _ => Self::OTHER,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        METHODS[self.index()]
    }

    #[inline]
    fn index(self) -> usize {
        usize::from(self.0)
    }

    fn unmatched(self) -> RouteId {
        RouteId(u16::from(self.0))
    }

    fn overflow(self) -> RouteId {
        RouteId(METHODS.len() as u16 + u16::from(self.0))
    }
}

// === impl RouteId ===

impl RouteId {
    #[inline]
    pub(crate) fn get(self) -> u16 {
        self.0
    }

    /// The number in the lowest 16 of `bits`.
    #[inline]
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self(bits as u16)
    }

    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
}

// === impl Routes ===

impl Routes {
    /// Stalls outside all that is measured.
    pub(crate) const UNATTRIBUTED: RouteId = RouteId(2 * METHODS.len() as u16);

    /// The most distinct pairs that the numbers can tell apart.
    pub(crate) const MOST: usize = 16_384;

    /// Room for `capacity` distinct pairs beside the fixed ones.
    pub(crate) fn new(capacity: usize) -> Self {
        let names: Box<[OnceLock<Route>]> = (0..FIXED + capacity).map(|_| OnceLock::new()).collect();
        for (index, method) in METHODS.into_iter().enumerate() {
            let fixed = [(index, UNMATCHED), (METHODS.len() + index, OVERFLOW)];
            for (id, name) in fixed {
                let _ = names[id].set(Route { method, name: name.into() });
            }
        }
        let unattributed = Route { method: Method::TASK.as_str(), name: UNATTRIBUTED.into() };
        let _ = names[Self::UNATTRIBUTED.index()].set(unattributed);
        Self { names, known: RwLock::default(), capacity, overflowed: AtomicU64::new(0) }
    }

    /// How many numbers there are, used or not.
    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// The number of a pair, given out now if it is a new one. `None` as the name: `unmatched`.
    pub(crate) fn id(&self, method: Method, name: Option<&str>) -> RouteId {
        match name {
            None | Some("" | UNMATCHED) => method.unmatched(),
            Some(OVERFLOW) => method.overflow(),
            Some(UNATTRIBUTED) if method == Method::TASK => Self::UNATTRIBUTED,
            Some(name) => {
                let name = label(name);
                self.known(method, &name).unwrap_or_else(|| self.intern(method, &name))
            }
        }
    }

    /// Requests that were counted as `overflow`.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, id: RouteId) -> Option<&Route> {
        self.names.get(id.index())?.get()
    }

    /// Whether `id` is the number of that very name, and not one that stands for it.
    pub(crate) fn is_named(&self, id: RouteId, name: &str) -> bool {
        self.get(id).is_some_and(|route| &*route.name == name)
    }

    /// Every number that has a name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RouteId, &Route)> {
        self.names.iter().zip(0..).filter_map(|(name, id)| Some((RouteId(id), name.get()?)))
    }

    /// Whether `id` is an instrumented task, not a request.
    pub(crate) fn is_task(&self, id: RouteId) -> bool {
        self.get(id).is_some_and(|route| route.method == Method::TASK.as_str())
    }

    /// The number of a pair that has one, or will not get one any more.
    fn known(&self, method: Method, name: &str) -> Option<RouteId> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(method, name).or_else(|| self.is_full(&known).then(|| self.overflow(method)))
    }

    #[cold]
    fn intern(&self, method: Method, name: &str) -> RouteId {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = known.get(method, name) {
            return id;
        }
        if self.is_full(&known) {
            return self.overflow(method);
        }
        let id = RouteId((FIXED + known.len()) as u16);
        let _ = self.names[id.index()].set(Route { method: method.as_str(), name: name.into() });
        known.insert(method, name, id);
        id
    }

    fn is_full(&self, known: &Known) -> bool {
        known.len() == self.capacity
    }

    fn overflow(&self, method: Method) -> RouteId {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
        method.overflow()
    }
}

// === impl Known ===

impl Known {
    #[inline]
    pub(crate) fn get(&self, method: Method, name: &str) -> Option<RouteId> {
        self.0[method.index()].get(name).copied()
    }

    pub(crate) fn insert(&mut self, method: Method, name: &str, id: RouteId) {
        self.0[method.index()].insert(name.into(), id);
    }

    fn len(&self) -> usize {
        self.0.iter().map(HashMap::len).sum()
    }
}

/// A name as it may stand in a label: bounded, on one line, and without the characters that exporters escape ambiguously.
fn label(name: &str) -> Cow<'_, str> {
    let is_unclean = |c: char| c.is_control() || matches!(c, '"' | '\\');
    if name.len() <= LONGEST_NAME && !name.contains(is_unclean) {
        return Cow::Borrowed(name);
    }
    let mut end = name.len().min(LONGEST_NAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(name[..end].replace(is_unclean, "_"))
}

#[cfg(all(test, not(tower_stall_loom)))]
mod tests {
    use super::*;

    fn get() -> Method {
        Method::of(&http::Method::GET)
    }

    #[test]
    fn a_pair_has_one_number() {
        let routes = Routes::new(8);
        let id = routes.id(get(), Some("/users/{id}"));
        assert_eq!(routes.id(get(), Some("/users/{id}")), id);
        assert_ne!(routes.id(Method::of(&http::Method::PUT), Some("/users/{id}")), id);
        let route = routes.get(id).unwrap();
        assert_eq!((route.method, &*route.name), ("GET", "/users/{id}"));
    }

    #[test]
    fn past_the_cap_all_are_overflow_and_counted() {
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
    fn labels_are_bounded_and_unambiguous() {
        assert_eq!(label("/a\n\"b\\c"), "/a__b_c");
        assert_eq!(label(&"é".repeat(1_000)).len(), LONGEST_NAME);
        let routes = Routes::new(8);
        assert_eq!(routes.id(get(), Some("/a\nb")), routes.id(get(), Some("/a\\b")));
        assert_eq!(routes.iter().filter(|(_, route)| &*route.name == "/a_b").count(), 1);
    }

    #[test]
    fn unknown_methods_are_other() {
        let method = http::Method::from_bytes(b"BREW").unwrap();
        assert_eq!(Method::of(&method).as_str(), "OTHER");
        assert_eq!(Method::of(&http::Method::PATCH).as_str(), "PATCH");
    }
}
