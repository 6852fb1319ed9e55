//! A scripted agent for tests: answers as told, hangs, closes, cuts off. No HTTP library, because none sends what is broken.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Consul;
use crate::settings::ConsulSettings;
use crate::spec::Owner;

/// One request, as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `PUT /v1/agent/service/register`, percent-encoded, without the query.
    pub line: String,
    pub query: String,
    pub headers: String,
    pub body: Value,
}

pub enum Reply {
    Json(Value),
    /// JSON, with a status that tells of a failing check.
    Unhealthy(Value),
    Indexed(u64, Value),
    /// Name and value of one header.
    Headed(&'static str, &'static str, Value),
    Status(u16, &'static str),
    /// Never answers.
    Hang,
    /// Reads the request and closes: the reply is lost.
    Close,
    /// Announces more than it sends.
    Truncated,
    /// Complete HTTP, half a JSON.
    HalfJson,
}

pub struct Fake {
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    /// `script` says what to answer; `None`: what a healthy agent without services would.
    pub async fn start(script: impl Fn(&Asked) -> Option<Reply> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("it is bound"));
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let script = Arc::new(script);
        let server = tokio::spawn({
            let asked = asked.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, script.clone(), asked.clone()));
                }
            }
        });
        Self { address, asked, server }
    }

    /// A client of it, for the owner `shop@n1`.
    pub fn consul(&self) -> Consul {
        let settings = ConsulSettings {
            address: self.address.clone(),
            token: Some("t0ken".to_owned()),
            token_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        };
        Consul::new(&settings, owner()).expect("good settings")
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no test panics while it holds this").clone()
    }

    /// The lines of all requests that write.
    pub fn writes(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line).filter(|line| line.starts_with("PUT")).collect()
    }
}

pub fn owner() -> Owner {
    Owner { project: "shop".to_owned(), node: "n1".to_owned() }
}

async fn serve(mut stream: TcpStream, script: Arc<impl Fn(&Asked) -> Option<Reply>>, log: Arc<Mutex<Vec<Asked>>>) {
    while let Some(asked) = read(&mut stream).await {
        log.lock().expect("no test panics while it holds this").push(asked.clone());
        let text = match script(&asked).unwrap_or_else(|| healthy(&asked.line)) {
            Reply::Json(value) => http(200, "", &value.to_string()),
            Reply::Unhealthy(value) => http(503, "", &value.to_string()),
            Reply::Indexed(index, value) => http(200, &format!("X-Consul-Index: {index}\r\n"), &value.to_string()),
            Reply::Headed(name, header, value) => http(200, &format!("{name}: {header}\r\n"), &value.to_string()),
            Reply::Status(status, body) => http(status, "", body),
            Reply::HalfJson => http(200, "", r#"{"ID": "we"#),
            Reply::Truncated => "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"a\":".to_owned(),
            Reply::Hang => std::future::pending().await,
            Reply::Close => return,
        };
        let cut = text.contains("Content-Length: 500\r\n");
        if stream.write_all(text.as_bytes()).await.is_err() || cut {
            return;
        }
    }
}

fn http(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} Text\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let (line, headers) = head.split_once("\r\n")?;
            let length = headers
                .lines()
                .find_map(|header| header.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
                .unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                let target = line.trim_end_matches(" HTTP/1.1");
                let (line, query) = target.split_once('?').unwrap_or((target, ""));
                return Some(Asked {
                    line: line.to_owned(),
                    query: query.to_owned(),
                    headers: headers.to_owned(),
                    body: serde_json::from_slice(&bytes[end + 4..]).unwrap_or_default(),
                });
            }
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn healthy(line: &str) -> Reply {
    match line {
        "GET /v1/agent/self" => Reply::Json(json!({
            "Config": { "Datacenter": "dc1", "NodeName": "n1", "NodeID": "id", "Version": "1.8.7" },
            "Member": { "Addr": "192.0.2.1" }
        })),
        "GET /v1/agent/services" | "GET /v1/agent/checks" | "GET /v1/catalog/services" => Reply::Json(json!({})),
        "GET /v1/status/leader" => Reply::Json(json!("192.0.2.1:8300")),
        "GET /v1/status/peers" => Reply::Json(json!(["192.0.2.1:8300"])),
        "GET /v1/catalog/nodes" => Reply::Json(json!([{ "Node": "n1", "Address": "192.0.2.1" }])),
        "GET /v1/health/state/any" => {
            Reply::Json(json!([{ "Node": "n1", "CheckID": "serfHealth", "Status": "passing" }]))
        }
        "GET /v1/catalog/node/n1" => Reply::Json(json!(null)),
        line if line.starts_with("GET /v1/agent/health/") => {
            Reply::Status(404, r#"{"AggregatedStatus":"critical","Service":null,"Checks":null}"#)
        }
        line if line.starts_with("GET /v1/agent/service/") => Reply::Status(404, "unknown service ID"),
        line if line.starts_with("PUT ") => Reply::Status(200, ""),
        _ => Reply::Json(json!([])),
    }
}
