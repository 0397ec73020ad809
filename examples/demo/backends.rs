//! Backends that make some routes slow: a remote disk and contended locks.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A network file system with a slow server. Reads are synchronous, as on any mounted disk.
#[derive(Clone, Copy)]
pub(crate) struct NetworkDisk {
    server: SocketAddr,
}

/// A cache behind one lock. A refresher thread holds the lock most of the time.
#[derive(Clone)]
pub(crate) struct Cache {
    entries: Arc<Mutex<HashMap<String, String>>>,
}

/// The balances of ten customers, each behind its own lock.
#[derive(Clone, Default)]
pub(crate) struct Accounts {
    balances: Arc<[Mutex<i64>; 10]>,
}

// === impl NetworkDisk ===

impl NetworkDisk {
    pub(crate) fn mount() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = listener.local_addr()?;
        spawn("network-disk", move || listener.incoming().flatten().for_each(spawn_response))?;
        Ok(Self { server })
    }

    pub(crate) fn read(self, name: &str) -> io::Result<String> {
        let mut file = TcpStream::connect(self.server)?;
        writeln!(file, "{name}")?;
        let mut content = String::new();
        file.read_to_string(&mut content)?;
        Ok(content)
    }
}

/// Responds on a thread of its own. Errors only mean that the client gets no response.
fn spawn_response(client: TcpStream) {
    let _ = spawn("network-disk", move || {
        let _ = respond(client);
    });
}

fn respond(mut client: TcpStream) -> io::Result<()> {
    thread::sleep(Duration::from_millis(55));
    let mut name = [0; 256];
    let length = client.read(&mut name)?;
    write!(client, "the content of {}", String::from_utf8_lossy(&name[..length]))
}

// === impl Cache ===

impl Cache {
    pub(crate) fn open() -> io::Result<Self> {
        let cache = Self { entries: Arc::default() };
        let refreshed = cache.clone();
        spawn("cache-refresher", move || refreshed.refresh_forever())?;
        Ok(cache)
    }

    pub(crate) fn get_or_insert(&self, key: &str) -> String {
        let mut entries = self.lock();
        entries.entry(key.to_owned()).or_insert_with(|| format!("value of {key}")).clone()
    }

    fn refresh_forever(&self) {
        for millis in [80, 60, 70].into_iter().cycle() {
            let mut entries = self.lock();
            thread::sleep(Duration::from_millis(millis));
            entries.clear();
            drop(entries);
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Accounts ===

impl Accounts {
    /// Deadlocks if both accounts are the same one.
    pub(crate) fn transfer(&self, from: usize, to: usize) {
        let account = |number: usize| {
            self.balances[number % 10].lock().unwrap_or_else(PoisonError::into_inner)
        };
        let mut payer = account(from);
        let mut payee = account(to);
        *payer -= 1;
        *payee += 1;
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}
