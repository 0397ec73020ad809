//! The shards of one monitor.
//!
//! Shards are never removed. When a thread ends, its shard goes to the next new thread. Scans look
//! only at those that are leased to a thread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::shard::{PollContext, Shard};
use crate::sync::{AtomicU64, Ordering};

#[derive(Debug)]
pub(crate) struct Shards {
    context: PollContext,
    first: Chunk,
    /// The number of chunks that have, or have had lately, leased shards.
    chunks: AtomicU64,
    /// Locked when a thread leases its shard, and when it ends.
    free: Mutex<FreeShards>,
}

/// A list of shards that only grows.
#[derive(Debug)]
struct Chunk {
    shards: [OnceLock<Arc<Shard>>; Chunk::LEN],
    /// A bit for each shard that is leased to a thread.
    leased: AtomicU64,
    next: OnceLock<Box<Chunk>>,
}

#[derive(Debug, Default)]
struct FreeShards {
    /// The indices of the shards that no thread has leased. The lowest is leased first, so that the
    /// leased ones stay together.
    indices: BinaryHeap<Reverse<usize>>,
    /// The number of all shards.
    len: usize,
}

// === impl Shards ===

impl Shards {
    pub(crate) fn new(context: PollContext) -> Self {
        Self { context, first: Chunk::new(), chunks: AtomicU64::new(0), free: Mutex::default() }
    }

    /// Returns the shards that are leased to a thread.
    pub(crate) fn leased(&self) -> impl Iterator<Item = &Arc<Shard>> + Clone {
        // Acquire: pairs with the Release in `lease`.
        self.chunks().take(self.chunks.load(Ordering::Acquire) as usize).flat_map(Chunk::leased)
    }

    /// Returns all shards, leased or not.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Shard>> + Clone {
        self.chunks().flat_map(|chunk| chunk.shards.iter().filter_map(OnceLock::get))
    }

    /// Returns the number of requests in flight, without instrumented tasks.
    pub(crate) fn requests_in_flight(&self) -> usize {
        let all = self.all();
        // Ends before starts: no request is seen to end that is not seen to start.
        let ended: u64 = all.clone().map(|shard| shard.requests_ended()).sum();
        let started: u64 = all.map(|shard| shard.requests_started()).sum();
        started.saturating_sub(ended) as usize
    }

    /// Leases a free shard, or a new one, to a thread. It must be released when the thread ends.
    pub(crate) fn lease(&self) -> Arc<Shard> {
        let mut free = self.lock();
        let index = free.take();
        let (chunk, slot) = self.chunk_of(index);
        let new = || Arc::new(Shard::new(index, self.context.clone()));
        let shard = Arc::clone(chunk.shards[slot].get_or_init(new));
        // Release: pairs with the Acquire in `Chunk::leased`.
        chunk.leased.fetch_or(1 << slot, Ordering::Release);
        // Release: pairs with the Acquire in `leased`.
        self.chunks.fetch_max(Chunk::of(index) as u64 + 1, Ordering::Release);
        shard
    }

    /// Takes back a shard from the thread that has leased it.
    pub(crate) fn release(&self, shard: &Shard) {
        // The lock orders what this thread has written before what the next one writes.
        let mut free = self.lock();
        let (chunk, slot) = self.chunk_of(shard.index());
        let leased = chunk.leased.fetch_and(!(1 << slot), Ordering::Relaxed);
        shard.forget_thread();
        free.indices.push(Reverse(shard.index()));
        if leased == 1 << slot {
            let used = self.chunks().map(|chunk| chunk.leased.load(Ordering::Relaxed) != 0);
            let chunks =
                used.enumerate().filter_map(|(index, is_used)| is_used.then_some(index + 1));
            self.chunks.store(chunks.last().unwrap_or(0) as u64, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, FreeShards> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chunks(&self) -> impl Iterator<Item = &Chunk> + Clone {
        std::iter::successors(Some(&self.first), |chunk| chunk.next.get().map(|next| &**next))
    }

    /// Returns the chunk of an index, and the place in it.
    fn chunk_of(&self, index: usize) -> (&Chunk, usize) {
        let mut chunk = &self.first;
        for _ in 0..Chunk::of(index) {
            chunk = chunk.next.get_or_init(|| Box::new(Chunk::new()));
        }
        (chunk, index % Chunk::LEN)
    }
}

// === impl FreeShards ===

impl FreeShards {
    fn take(&mut self) -> usize {
        self.indices.pop().map_or_else(
            || {
                self.len += 1;
                self.len - 1
            },
            |Reverse(index)| index,
        )
    }
}

// === impl Chunk ===

impl Chunk {
    const LEN: usize = 64;

    /// Returns in which chunk a shard is.
    fn of(index: usize) -> usize {
        index / Self::LEN
    }

    fn new() -> Self {
        Self {
            shards: [const { OnceLock::new() }; Self::LEN],
            leased: AtomicU64::new(0),
            next: OnceLock::new(),
        }
    }

    fn leased(&self) -> impl Iterator<Item = &Arc<Shard>> + Clone {
        // Acquire: pairs with the Release in `Shards::lease`.
        let first = self.leased.load(Ordering::Acquire);
        let words = std::iter::successors(Some(first), |word| Some(word & word.wrapping_sub(1)));
        words
            .take_while(|&word| word != 0)
            .filter_map(|word| self.shards[word.trailing_zeros() as usize].get())
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Clock;

    fn indices(shards: &Shards) -> Vec<usize> {
        shards.leased().map(|shard| shard.index()).collect()
    }

    #[test]
    fn only_leased_shards_are_looked_at_and_free_ones_are_reused() {
        let shards = &Shards::new(PollContext::new(Clock::new()));
        let all: Vec<_> = (0..150).map(|_| shards.lease()).collect();
        assert_eq!(indices(shards), Vec::from_iter(0..150));
        assert_eq!(shards.chunks.load(Ordering::Relaxed), 3);
        all.iter().filter(|shard| shard.index() != 70).for_each(|shard| shards.release(shard));
        assert_eq!(indices(shards), [70]);
        assert_eq!(shards.chunks.load(Ordering::Relaxed), 2);
        let _again = shards.lease();
        assert_eq!(indices(shards), [0, 70]);
    }
}

#[cfg(all(test, tower_stall_loom))]
mod loom {
    use ::loom::{sync::Arc, thread};

    use super::*;
    use crate::os::Clock;

    /// The free list has a lock of std, which loom does not see.
    #[test]
    fn loom_a_shard_that_is_seen_as_leased_exists() {
        ::loom::model(|| {
            let clock = Clock::Os(std::time::Instant::now());
            let shards = Arc::new(Shards::new(PollContext::new(clock)));
            let other = {
                let shards = Arc::clone(&shards);
                thread::spawn(move || _ = shards.lease())
            };
            assert!(shards.leased().count() <= shards.all().count());
            other.join().unwrap();
            assert_eq!(shards.leased().count(), 1);
        });
    }
}
