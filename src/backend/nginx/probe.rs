//! The probe: which generation does the worker that answers have loaded?
//!
//! Owns one question on a fresh connection, and the reading of its answer. A worker's configuration never changes while it
//! lives, so an answer is true for that worker for ever; what that means for nginx as a whole is `loaded`'s matter.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::observed::GenerationId;

/// How long one answer may take. nginx answers without asking anybody.
const TIMEOUT: Duration = Duration::from_secs(1);

/// More is not our answer.
const MAX_ANSWER: u64 = 2048;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A worker, and what it has loaded.
    Worker {
        id: GenerationId,
        /// Hash of the endpoints that this generation has now; `None`: they are part of it.
        endpoints: Option<String>,
        pid: i32,
    },
    /// Nobody listens.
    Nobody,
    /// Somebody accepted the connection and closed it without a word: a worker that was just told to leave.
    Closed,
    /// Somebody listens who gives another answer.
    Stranger(String),
    /// Somebody listens, and does not answer in time.
    Silent,
}

/// Asks once, on a connection of its own.
pub async fn ask(probe: SocketAddr) -> Answer {
    match tokio::time::timeout(TIMEOUT, exchange(probe)).await {
        Ok(Ok(bytes)) => read(&bytes),
        Ok(Err(error)) => match error.kind() {
            ErrorKind::ConnectionRefused => Answer::Nobody,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => Answer::Closed,
            _ => Answer::Stranger(format!("the connection failed: {error}")),
        },
        Err(_) => Answer::Silent,
    }
}

async fn exchange(probe: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(probe).await?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: reeve-probe\r\n\r\n").await?;
    let mut bytes = Vec::with_capacity(256);
    match stream.take(MAX_ANSWER).read_to_end(&mut bytes).await {
        Err(error) if bytes.is_empty() => Err(error),
        _ => Ok(bytes),
    }
}

fn read(bytes: &[u8]) -> Answer {
    if bytes.is_empty() {
        return Answer::Closed;
    }
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let ok = head.starts_with("HTTP/1.1 200 ") || head.starts_with("HTTP/1.0 200 ");
    match worker(body.trim_end()).filter(|_| ok) {
        Some(worker) => worker,
        None => {
            let first: String =
                text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(80).collect();
            Answer::Stranger(first)
        }
    }
}

/// `<id> <pid>`, or `<id> <hash of the endpoints> <pid>`.
fn worker(body: &str) -> Option<Answer> {
    let words: Vec<&str> = body.split(' ').collect();
    let (id, endpoints, pid) = match words.as_slice() {
        [id, pid] => (id, None, pid),
        [id, endpoints, pid] => (id, Some((*endpoints).to_owned()), pid),
        _ => return None,
    };
    Some(Answer::Worker { id: GenerationId::parse(id)?, endpoints, pid: pid.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_answer_counts() {
        let id = GenerationId { hash: "abc123".to_owned(), number: 2 };
        let plain = Answer::Worker { id: id.clone(), endpoints: None, pid: 77 };
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nabc123-2 77\n"), plain);
        let by_lua = Answer::Worker { id, endpoints: Some("0123ab".to_owned()), pid: 77 };
        assert_eq!(read(b"HTTP/1.1 200 OK\r\n\r\nabc123-2 0123ab 77\n"), by_lua);
        assert_eq!(read(b""), Answer::Closed);
        for other in ["HTTP/1.1 404 Not Found\r\n\r\nabc123-2 77\n", "HTTP/1.1 200 OK\r\n\r\nhello\n", "SSH-2.0\r\n"] {
            assert!(matches!(read(other.as_bytes()), Answer::Stranger(_)), "{other}");
        }
    }

    #[tokio::test]
    async fn a_port_without_a_listener_is_nobody_and_a_silent_one_is_silent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let probe = listener.local_addr().expect("an address");
        assert_eq!(ask(probe).await, Answer::Silent);
        drop(listener);
        assert_eq!(ask(probe).await, Answer::Nobody);
    }
}
