//! As much of an HTTP client as the tests need: one request, one connection. A client that keeps connections or tries
//! again by itself would hide what a user sees.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.body))
    }
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

pub fn get(port: u16, path: &str) -> io::Result<Answer> {
    request(port, "GET", path, "localhost", "")
}

pub fn get_as(port: u16, host: &str, path: &str) -> io::Result<Answer> {
    request(port, "GET", path, host, "")
}

pub fn put(port: u16, path: &str, body: &Value) -> io::Result<Answer> {
    request(port, "PUT", path, "localhost", &if body.is_null() { String::new() } else { body.to_string() })
}

pub fn post(port: u16, path: &str) -> io::Result<Answer> {
    request(port, "POST", path, "localhost", "")
}

fn request(port: u16, method: &str, path: &str, host: &str, body: &str) -> io::Result<Answer> {
    exchange(connect(port)?, method, path, host, body)
}

pub fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&local(port), LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// HTTP/1.0: the answer is never chunked, and ends with the connection.
pub fn exchange(mut stream: TcpStream, method: &str, path: &str, host: &str, body: &str) -> io::Result<Answer> {
    // At once: a server that answers without having read the body, and closes, takes the answer back when more of it comes
    // (seen: a reset connection from an agent that was told of maintenance).
    let request = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let broken = || io::Error::other(format!("no complete answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    Ok(Answer { status, body: body.to_owned() })
}
