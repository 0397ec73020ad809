//! Renders a page once for all clients that wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tokio::sync::oneshot;

use super::connections::Connections;

/// After a rendering, the server is idle for this many times as long as the rendering took, so that
/// it takes no more than a fifth of a core.
const IDLE_SHARE: u32 = 4;
/// The longest such pause: a client must not wait longer than a scrape may take.
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// How many renderings are in memory at once because clients read them slowly.
pub(super) const MAX_IN_MEMORY: usize = 4;

/// One page.
#[derive(Clone)]
pub(super) struct Renderings {
    render: Arc<dyn Fn() -> String + Send + Sync>,
    connections: Connections,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// The clients that wait for the next rendering.
    waiting: Vec<oneshot::Sender<Bytes>>,
    /// When the next rendering may start.
    not_before: Option<Instant>,
    /// Those that may still be in memory.
    in_memory: Vec<Weak<String>>,
}

/// A text that is freed with the last client that reads it.
struct SharedText(Arc<String>);

impl Renderings {
    pub(super) fn new(
        render: impl Fn() -> String + Send + Sync + 'static,
        connections: Connections,
    ) -> Self {
        Self { render: Arc::new(render), connections, state: Arc::default() }
    }

    /// Returns a rendering that is begun after this call. All calls that wait share it. `None` if
    /// the runtime is shutting down.
    pub(super) async fn next(&self) -> Option<Bytes> {
        let (sender, receiver) = oneshot::channel();
        let is_first = {
            let mut state = self.lock();
            state.waiting.push(sender);
            state.waiting.len() == 1
        };
        if is_first {
            tokio::spawn(self.clone().render_next());
        }
        receiver.await.ok()
    }

    async fn render_next(self) {
        let not_before = self.lock().not_before;
        if let Some(pause) = not_before.map(|at| at.saturating_duration_since(Instant::now())) {
            tokio::time::sleep(pause).await;
        }
        // Connections that can be read, or that are closed, come first.
        tokio::task::yield_now().await;
        if !self.has_waiting() {
            return;
        }
        self.make_room().await;
        let waiting = std::mem::take(&mut self.lock().waiting);
        let start = Instant::now();
        let text = Arc::new((self.render)());
        let end = Instant::now();
        {
            let mut state = self.lock();
            state.in_memory.push(Arc::downgrade(&text));
            state.not_before = Some(end + ((end - start) * IDLE_SHARE).min(MAX_PAUSE));
        }
        let text = Bytes::from_owner(SharedText(text));
        for client in waiting {
            // Some have gone meanwhile.
            let _ = client.send(text.clone());
        }
    }

    /// Forgets the clients that have gone, and returns whether there are others.
    fn has_waiting(&self) -> bool {
        let mut state = self.lock();
        state.waiting.retain(|client| !client.is_closed());
        !state.waiting.is_empty()
    }

    /// Disconnects the slowest clients while too many renderings are in memory.
    async fn make_room(&self) {
        while self.in_memory() >= MAX_IN_MEMORY && self.connections.close_slowest() {
            // The connection's task frees its rendering.
            tokio::task::yield_now().await;
        }
    }

    fn in_memory(&self) -> usize {
        let mut state = self.lock();
        state.in_memory.retain(|text| text.strong_count() > 0);
        state.in_memory.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsRef<[u8]> for SharedText {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(not(tower_stall_loom))]
#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn counting() -> (Renderings, Arc<AtomicUsize>) {
        let count = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&count);
        let render = move || format!("{}", counter.fetch_add(1, Ordering::Relaxed));
        (Renderings::new(render, Connections::default()), count)
    }

    #[tokio::test]
    async fn all_that_wait_get_one_rendering() {
        let (renderings, count) = counting();
        let clients: Vec<_> = (0..50)
            .map(|_| {
                let renderings = renderings.clone();
                tokio::spawn(async move { renderings.next().await.unwrap() })
            })
            .collect();
        for client in clients {
            assert_eq!(client.await.unwrap(), "0");
        }
        assert_eq!(renderings.next().await.unwrap(), "1", "a later one is a new one");
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn nothing_is_rendered_for_clients_that_have_gone() {
        let (renderings, count) = counting();
        // So that the next one is not rendered at once.
        renderings.lock().not_before = Some(Instant::now() + Duration::from_millis(50));
        let own = renderings.clone();
        let client = tokio::spawn(async move { own.next().await });
        while renderings.lock().waiting.is_empty() {
            tokio::task::yield_now().await;
        }
        client.abort();
        assert!(client.await.is_err());
        while renderings.has_waiting() || Arc::strong_count(&renderings.state) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(count.load(Ordering::Relaxed), 0);
        assert_eq!(renderings.next().await.unwrap(), "0");
    }

    #[tokio::test]
    async fn a_rendering_is_freed_with_its_last_reader() {
        let (renderings, _) = counting();
        let texts = [renderings.next().await, renderings.next().await];
        assert_eq!(renderings.in_memory(), 2);
        drop(texts);
        assert_eq!(renderings.in_memory(), 0);
    }
}
