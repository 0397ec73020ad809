//! Routes by id: names are interned once, are bounded in number and length, and are never raw text
//! of a client.
//!
//! A pair of method and route is a *candidate* until an answer shows that it exists, see
//! [`Routes::confirm`]. Until then it is a part of the row `unmatched`, and takes no place of
//! another pair: the method, at least, is whatever a client sends.

mod method;
mod route_request;
#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

pub(crate) use self::method::MethodLabel;
pub(crate) use self::route_request::RouteLabelFn;
pub use self::route_request::RouteRequest;

use crate::sync::{AtomicBool, AtomicU64, Ordering};
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

/// The route of a new request.
#[derive(Debug)]
pub(crate) struct RequestRoute {
    pub(crate) id: RouteId,
    /// The name of a pair that no answer has confirmed yet.
    pub(crate) candidate: Option<Arc<str>>,
}

/// The routes of a monitor.
#[derive(Debug)]
pub(crate) struct Routes {
    /// By id. The first ids are fixed: `unmatched` and `overflow` of each method, and
    /// `unattributed`.
    routes: Box<[OnceLock<Entry>]>,
    ids: RwLock<InternedIds>,
    max_routes: usize,
    /// Relaxed: a count by itself.
    overflowed: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    route: Route,
    method: MethodLabel,
    /// Whether an answer has confirmed the pair. Relaxed: written under the lock of the ids.
    is_confirmed: AtomicBool,
    /// Whether the pair has rows of its own. Relaxed: it only decides where figures are added.
    has_row: AtomicBool,
}

#[derive(Debug, Default)]
struct InternedIds {
    ids: RouteIds,
    /// How many of them are confirmed.
    confirmed: usize,
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
/// How many pairs may be candidates at one time.
const MAX_CANDIDATES: usize = 256;

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

    pub(crate) fn from_index(index: usize) -> Self {
        Self(index as u16)
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

    /// Creates a table for up to `max_routes` distinct pairs beside the fixed ones and the
    /// candidates.
    pub(crate) fn new(max_routes: usize) -> Self {
        let len = FIXED + max_routes + MAX_CANDIDATES;
        let routes: Box<[OnceLock<Entry>]> = (0..len).map(|_| OnceLock::new()).collect();
        let set = |id: RouteId, method, name| {
            let _ = routes[id.index()].set(Entry::new(method, name, true));
        };
        for method in MethodLabel::all() {
            set(RouteId::unmatched(method), method, UNMATCHED);
            set(RouteId::overflow(method), method, OVERFLOW);
        }
        set(Self::UNATTRIBUTED, MethodLabel::TASK, UNATTRIBUTED);
        Self { routes, ids: RwLock::default(), max_routes, overflowed: AtomicU64::new(0) }
    }

    /// Returns the number of ids, in use or not.
    pub(crate) fn len(&self) -> usize {
        self.routes.len()
    }

    /// Returns the route of a new request. Without a name it is `unmatched`. Instrumented tasks are
    /// named by the program, so they need no answer.
    pub(crate) fn of_request(&self, method: MethodLabel, name: Option<&str>) -> RequestRoute {
        let Some(name) = name else { return RouteId::unmatched(method).into() };
        if let Some(id) = fixed_id(method, name) {
            return id.into();
        }
        let name = label_value(name);
        let (known, is_full) = {
            let interned = self.ids.read().unwrap_or_else(PoisonError::into_inner);
            (interned.ids.get(method, &name), interned.confirmed == self.max_routes)
        };
        match known {
            Some(id) if self.is_confirmed(id) => id.into(),
            _ if is_full => {
                self.overflowed.fetch_add(1, Ordering::Relaxed);
                RouteId::overflow(method).into()
            }
            _ if method == MethodLabel::TASK => self.confirm(method, &name).into(),
            Some(id) => self.candidate(id),
            None => self.add_candidate(method, &name),
        }
    }

    /// Returns the id of a pair that is confirmed.
    #[cfg(test)]
    pub(crate) fn id(&self, method: MethodLabel, name: &str) -> RouteId {
        fixed_id(method, name).unwrap_or_else(|| self.confirm(method, &label_value(name)))
    }

    /// Records that a pair exists: a request of it was answered as only the code of a route does.
    /// Returns its id from now on.
    #[cold]
    pub(crate) fn confirm(&self, method: MethodLabel, name: &str) -> RouteId {
        let mut interned = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        let known = interned.ids.get(method, name);
        if let Some(id) = known.filter(|&id| self.is_confirmed(id)) {
            return id;
        }
        if interned.confirmed == self.max_routes {
            return RouteId::overflow(method);
        }
        let id = known.unwrap_or_else(|| self.intern(&mut interned.ids, method, name));
        interned.confirmed += 1;
        if let Some(entry) = self.entry(id) {
            entry.is_confirmed.store(true, Ordering::Relaxed);
            entry.has_row.store(true, Ordering::Relaxed);
        }
        id
    }

    /// Gives a pair rows of its own, though no answer has confirmed it. It takes no place of those
    /// that are confirmed.
    pub(crate) fn add_row(&self, id: RouteId) {
        if let Some(entry) = self.entry(id) {
            entry.has_row.store(true, Ordering::Relaxed);
        }
    }

    /// Returns the id whose rows have the figures of `id`: its own, or `unmatched`.
    pub(crate) fn row(&self, id: RouteId) -> RouteId {
        match self.entry(id) {
            Some(entry) if !entry.has_row.load(Ordering::Relaxed) => {
                RouteId::unmatched(entry.method)
            }
            _ => id,
        }
    }

    /// Returns the ids that have rows of their own, each with all the ids whose figures are in them.
    pub(crate) fn rows(&self) -> BTreeMap<RouteId, Vec<RouteId>> {
        let mut rows = BTreeMap::<_, Vec<_>>::new();
        for (id, _) in self.iter() {
            rows.entry(self.row(id)).or_default().push(id);
        }
        rows
    }

    /// Returns the number of requests that were counted as `overflow`.
    pub(crate) fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    pub(crate) fn get(&self, id: RouteId) -> Option<&Route> {
        Some(&self.entry(id)?.route)
    }

    /// Returns whether `id` has exactly this name, and not one that replaces it.
    pub(crate) fn is_named(&self, id: RouteId, name: &str) -> bool {
        self.get(id).is_some_and(|route| &*route.name == name)
    }

    /// Returns every id that has been assigned.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RouteId, &Route)> {
        let entries = self.routes.iter().zip(0..);
        entries.filter_map(|(entry, id)| Some((RouteId(id), &entry.get()?.route)))
    }

    /// Returns whether `id` is an instrumented task, not a request.
    pub(crate) fn is_task(&self, id: RouteId) -> bool {
        self.get(id).is_some_and(|route| route.method == MethodLabel::TASK.as_str())
    }

    fn entry(&self, id: RouteId) -> Option<&Entry> {
        self.routes.get(id.index())?.get()
    }

    fn is_confirmed(&self, id: RouteId) -> bool {
        self.entry(id).is_some_and(|entry| entry.is_confirmed.load(Ordering::Relaxed))
    }

    fn candidate(&self, id: RouteId) -> RequestRoute {
        let name = self.get(id).map(|route| Arc::clone(&route.name));
        RequestRoute { id, candidate: name }
    }

    #[cold]
    fn add_candidate(&self, method: MethodLabel, name: &str) -> RequestRoute {
        let mut interned = self.ids.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = interned.ids.get(method, name) {
            return self.candidate(id);
        }
        if interned.ids.len() - interned.confirmed == MAX_CANDIDATES {
            let candidate = Some(name.into());
            return RequestRoute { id: RouteId::unmatched(method), candidate };
        }
        self.candidate(self.intern(&mut interned.ids, method, name))
    }

    /// Assigns the next id. The table has one for each pair that is confirmed or a candidate.
    fn intern(&self, ids: &mut RouteIds, method: MethodLabel, name: &str) -> RouteId {
        let id = RouteId((FIXED + ids.len()) as u16);
        let _ = self.routes[id.index()].set(Entry::new(method, name, false));
        ids.insert(method, name, id);
        id
    }
}

/// Returns the id of a name that has the same one in each monitor.
fn fixed_id(method: MethodLabel, name: &str) -> Option<RouteId> {
    match name {
        "" | UNMATCHED => Some(RouteId::unmatched(method)),
        OVERFLOW => Some(RouteId::overflow(method)),
        UNATTRIBUTED if method == MethodLabel::TASK => Some(Routes::UNATTRIBUTED),
        _ => None,
    }
}

// === impl RequestRoute ===

impl From<RouteId> for RequestRoute {
    #[inline]
    fn from(id: RouteId) -> Self {
        Self { id, candidate: None }
    }
}

// === impl Entry ===

impl Entry {
    fn new(method: MethodLabel, name: &str, is_confirmed: bool) -> Self {
        let route = Route { method: method.as_str(), name: name.into() };
        let [is_confirmed, has_row] = [is_confirmed; 2].map(AtomicBool::new);
        Self { route, method, is_confirmed, has_row }
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
