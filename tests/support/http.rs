//! Requests: values for services, and HTTP/1.1 over a plain blocking socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use http::Request;

use super::DEADLINE;

/// Returns a `GET` request without a body.
pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(path).body(()).unwrap()
}

/// A response as it came over the socket.
#[derive(Debug)]
pub(crate) struct HttpResponse {
    /// The status line and the headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

/// Sends a `GET` request on a new connection; panics unless the status is 200.
#[track_caller]
pub(crate) fn http_get(addr: SocketAddr, path: &str) -> HttpResponse {
    let response = http_request(addr, "GET", path);
    assert!(response.is_ok(), "{path}: {}", response.head);
    response
}

/// Sends a request on a new connection and reads the whole response, whatever its status.
#[track_caller]
pub(crate) fn http_request(addr: SocketAddr, method: &str, path: &str) -> HttpResponse {
    let mut stream = connect(addr);
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-length: 0\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    HttpResponse::parse(&text)
}

/// A connection that stays open between requests.
pub(crate) struct HttpConnection(TcpStream);

impl HttpConnection {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        Self(connect(addr))
    }

    /// Sends a `GET` request and waits for the response, which must fit into one read and have the
    /// status 200.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) {
        write!(self.0, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut buffer = [0; 1024];
        let length = self.0.read(&mut buffer).unwrap();
        let response = HttpResponse::parse(&String::from_utf8_lossy(&buffer[..length]));
        assert!(response.is_ok(), "{path}: {}", response.head);
    }
}

impl HttpResponse {
    #[track_caller]
    fn parse(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").expect(text);
        assert!(head.starts_with("HTTP/1.1 "), "{head}");
        Self { head: head.to_owned(), body: body.to_owned() }
    }

    pub(crate) fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn is_ok(&self) -> bool {
        self.status() == 200
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}
