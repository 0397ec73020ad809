//! The counters of one thread, by route.

use std::sync::{Arc, OnceLock};

use super::counters::RouteCounters;
use crate::routes::RouteId;

/// The counters of the routes that one thread has served. Only that thread adds to it.
///
/// In chunks, because most threads serve few of the routes.
#[derive(Debug)]
pub(crate) struct ThreadCounters(Box<[OnceLock<Box<CounterChunk>>]>);

type CounterChunk = [OnceLock<Arc<RouteCounters>>; CHUNK_LEN];

const CHUNK_LEN: usize = 32;

// === impl ThreadCounters ===

impl ThreadCounters {
    pub(crate) fn new(routes: usize) -> Self {
        Self((0..routes.div_ceil(CHUNK_LEN)).map(|_| OnceLock::new()).collect())
    }

    /// Returns the counters of a route, which are created when the thread first serves it.
    #[inline]
    pub(crate) fn get_or_create(
        &self,
        route: RouteId,
        create: impl FnOnce() -> Arc<RouteCounters>,
    ) -> &Arc<RouteCounters> {
        let (chunk, place) = (route.index() / CHUNK_LEN, route.index() % CHUNK_LEN);
        let new_chunk = || Box::new([const { OnceLock::new() }; CHUNK_LEN]);
        self.0[chunk].get_or_init(new_chunk)[place].get_or_init(create)
    }

    /// Returns the counters of each route that the thread has served.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (RouteId, &Arc<RouteCounters>)> {
        let chunks =
            self.0.iter().enumerate().filter_map(|(index, chunk)| Some((index, chunk.get()?)));
        chunks.flat_map(|(index, chunk)| {
            let counters = (index * CHUNK_LEN..).map(RouteId::from_index).zip(chunk.iter());
            counters.filter_map(|(route, counters)| Some((route, counters.get()?)))
        })
    }
}
