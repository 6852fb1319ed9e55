//! The load's connections: HTTP/1.1 that tells apart what broke when, and a WebSocket that is echoed.

use std::fmt;
use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::http::local;

/// How an exchange ended early.
pub enum Broken {
    /// No byte of an answer came: whether the request was read cannot be told.
    BeforeAnswer(io::Error),
    /// In the middle of the answer.
    Cut(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeAnswer(error) => write!(f, "closed without an answer: {error}"),
            Self::Cut(what) => write!(f, "cut: {what}"),
        }
    }
}

pub struct Answer {
    pub status: u16,
    pub body: String,
    pub keep_alive: bool,
}

pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    pub async fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(local(port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream })
    }

    pub async fn exchange(&mut self, request: &str) -> Result<Answer, Broken> {
        self.stream.write_all(request.as_bytes()).await.map_err(Broken::BeforeAnswer)?;
        let mut bytes = Vec::new();
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            self.more(&mut bytes).await?;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let header = |name: &str| {
            let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            lines.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let length = header("content-length").and_then(|length| length.parse::<usize>().ok());
        // The web server and nginx itself always tell the length.
        let (Some(status), Some(length)) = (status, length) else {
            return Err(Broken::Cut(format!("an answer without status or length: {head:?}")));
        };
        while bytes.len() < end + 4 + length {
            self.more(&mut bytes).await?;
        }
        let body = String::from_utf8_lossy(&bytes[end + 4..end + 4 + length]).into_owned();
        let keep_alive = header("connection").is_none_or(|value| value.eq_ignore_ascii_case("keep-alive"));
        Ok(Answer { status, body, keep_alive })
    }

    async fn more(&mut self, bytes: &mut Vec<u8>) -> Result<(), Broken> {
        let read = self.stream.read_buf(bytes).await;
        let error = match read {
            Ok(0) => io::Error::other("end of the connection"),
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        if bytes.is_empty() {
            return Err(Broken::BeforeAnswer(error));
        }
        Err(Broken::Cut(format!("{error} after {:?}", String::from_utf8_lossy(bytes))))
    }
}

/// The key of RFC 6455's own example, and what proves it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub struct Socket {
    stream: TcpStream,
}

impl Socket {
    pub async fn open(port: u16) -> Result<Self, String> {
        let mut stream = TcpStream::connect(local(port)).await.map_err(|error| format!("connect: {error}"))?;
        let head = format!(
            "GET /socket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            // One by one: what follows the head is the first frame's.
            bytes.push(stream.read_u8().await.map_err(|error| format!("no whole answer: {error}"))?);
        }
        let answer = String::from_utf8_lossy(&bytes);
        if answer.starts_with("HTTP/1.1 101 ") && answer.contains(ACCEPT) {
            Ok(Self { stream })
        } else {
            Err(format!("answered {:?}", answer.lines().next().unwrap_or_default()))
        }
    }

    /// Sends a message and waits for it to come back. False when the connection is closed.
    pub async fn echo(&mut self) -> bool {
        const WORD: &[u8; 4] = b"ping";
        // A whole text message, masked with zeros.
        let frame = [&[0x81, 0x80 | 4, 0, 0, 0, 0], &WORD[..]].concat();
        let mut echo = [0; 6];
        self.stream.write_all(&frame).await.is_ok()
            && self.stream.read_exact(&mut echo).await.is_ok()
            && echo[..2] == [0x81, 4]
            && echo[2..] == WORD[..]
    }
}
