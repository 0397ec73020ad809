//! What the service depends on, and what makes some of its routes slow: a disk far away, and a lock that others hold.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Files on another machine, which answers after a while. Reading is synchronous, as with any mounted disk.
#[derive(Clone, Copy)]
pub(crate) struct NetworkDisk {
    server: SocketAddr,
}

/// A cache behind one lock, which a refresher holds most of the time.
#[derive(Clone)]
pub(crate) struct Cache {
    entries: Arc<Mutex<HashMap<String, String>>>,
}

/// What ten customers have, each behind a lock of its own.
#[derive(Clone, Default)]
pub(crate) struct Accounts {
    balances: Arc<[Mutex<i64>; 10]>,
}

// === impl NetworkDisk ===

impl NetworkDisk {
    pub(crate) fn mount() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = listener.local_addr()?;
        start("network-disk", move || listener.incoming().flatten().for_each(answer_later))?;
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

/// A client that has gone, or a machine out of threads, gets no answer.
fn answer_later(client: TcpStream) {
    let _ = start("network-disk", move || {
        let _ = answer(client);
    });
}

fn answer(mut client: TcpStream) -> io::Result<()> {
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
        start("cache-refresher", move || refreshed.refresh_forever())?;
        Ok(cache)
    }

    pub(crate) fn get_or_make(&self, key: &str) -> String {
        let mut entries = self.lock();
        entries.entry(key.to_owned()).or_insert_with(|| format!("value of {key}")).clone()
    }

    fn refresh_forever(&self) {
        for held in [80, 60, 70].into_iter().cycle() {
            let mut entries = self.lock();
            thread::sleep(Duration::from_millis(held));
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
    pub(crate) fn transfer(&self, from: usize, to: usize) {
        let account = |number: usize| self.balances[number % 10].lock().unwrap_or_else(PoisonError::into_inner);
        let mut payer = account(from);
        let mut payee = account(to);
        *payer -= 1;
        *payee += 1;
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}
