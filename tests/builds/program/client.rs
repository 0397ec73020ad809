//! An HTTP client on threads that the runtime does not know.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

const CLIENTS: usize = 2;
const PAUSE: Duration = Duration::from_millis(5);

/// Sends a request on a connection of its own, and returns the body of the response.
pub(crate) fn get(addr: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = send(addr, path)?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(format!("{path}: {head}")));
    }
    Ok(body.to_owned())
}

/// Sends a request, and returns the connection.
pub(crate) fn send(addr: SocketAddr, path: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
    Ok(stream)
}

/// Sends requests to `/ok` until the process ends.
pub(crate) fn send_traffic(addr: SocketAddr) {
    for _ in 0..CLIENTS {
        thread::spawn(move || {
            loop {
                // A service that is stalled responds late.
                let _body = get(addr, "/ok");
                thread::sleep(PAUSE);
            }
        });
    }
    // The watchdog has begun to scan, and the traffic goes on.
    for _ in 0..20 {
        get(addr, "/ok").unwrap();
    }
}
