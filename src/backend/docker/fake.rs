//! A fake engine for faults that a real one does not show on demand. Speaks just enough HTTP over a unix socket.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::Docker;
use crate::settings::DockerSettings;
use crate::spec::Owner;

const HANG_UP: &str = "hang up";
/// No test lasts so long.
const RELIST: std::time::Duration = std::time::Duration::from_secs(600);

#[derive(Debug, Clone)]
pub(super) enum Reply {
    Answer(u16, String),
    /// A head that promises more than follows.
    CutOff(String),
    /// Takes the request and says nothing.
    Hang,
    /// Takes the request and hangs up: the reply is lost.
    HangUp,
    /// Sends these lines, and nothing more; then stays open or ends.
    Stream {
        lines: String,
        stays: bool,
    },
}

impl Reply {
    pub(super) fn ok(text: &str) -> Self {
        Self::Answer(200, text.to_owned())
    }
}

#[derive(Default)]
struct Script {
    /// By the start of `GET /v1.41/containers/json?all=1`; the longest that fits.
    replies: BTreeMap<String, Reply>,
    requests: Vec<String>,
    /// What every open stream goes on with.
    emitted: Vec<String>,
    /// Of the requests that carried one.
    credentials: Vec<String>,
}

pub(super) struct FakeEngine {
    script: Arc<Mutex<Script>>,
    socket: PathBuf,
    server: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for FakeEngine {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeEngine {
    /// With API version 1.41 and nothing in it.
    pub(super) fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("engine.sock");
        let listener = UnixListener::bind(&socket).expect("binds");
        let script = Arc::new(Mutex::new(Script::default()));
        let served = script.clone();
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, served.clone()));
            }
        });
        let engine = Self { script, socket, server, _folder: folder };
        engine.reply("GET /version", Reply::ok(r#"{"ApiVersion":"1.41"}"#));
        engine.reply("GET /v1.41/_ping", Reply::ok("OK"));
        engine.reply("GET /v1.41/containers/json", Reply::ok("[]"));
        engine.reply("GET /v1.41/networks", Reply::ok("[]"));
        engine.reply("GET /v1.41/volumes", Reply::ok(r#"{"Volumes":null,"Warnings":null}"#));
        engine.reply("GET /v1.41/events", Reply::Stream { lines: String::new(), stays: true });
        engine
    }

    pub(super) fn reply(&self, start: &str, reply: Reply) {
        self.lock().replies.insert(start.to_owned(), reply);
    }

    /// Sends a line on every stream that stays open.
    pub(super) fn emit(&self, line: &str) {
        self.lock().emitted.push(format!("{}\n", line.replace('\n', "")));
    }

    /// Ends every stream that stays open.
    pub(super) fn hang_up(&self) {
        self.emit(HANG_UP);
    }

    pub(super) fn forget_requests(&self) {
        self.lock().requests.clear();
    }

    /// All of them, as they came.
    pub(super) fn requests(&self) -> Vec<String> {
        self.lock().requests.clone()
    }

    /// The socket stays, and nobody answers on it.
    pub(super) async fn stop_serving(&self) {
        self.server.abort();
        while !self.server.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    /// How many requests began like this.
    pub(super) fn asked(&self, start: &str) -> usize {
        self.lock().requests.iter().filter(|request| request.starts_with(start)).count()
    }

    /// What the requests carried as `X-Registry-Auth`.
    pub(super) fn credentials(&self) -> Vec<String> {
        self.lock().credentials.clone()
    }

    /// The first request that begins like this.
    pub(super) fn request(&self, start: &str) -> Option<String> {
        self.lock().requests.iter().find(|request| request.starts_with(start)).cloned()
    }

    /// As the user's Docker configuration.
    pub(super) fn configure(&self, config: &str) {
        std::fs::write(self.socket.with_file_name("config.json"), config).expect("written");
    }

    pub(super) fn docker(&self) -> Docker {
        self.docker_that_lists_again_after(RELIST)
    }

    pub(super) fn docker_that_lists_again_after(&self, relist: std::time::Duration) -> Docker {
        let host = format!("unix://{}", self.socket.display());
        let config = self.socket.parent().map(std::path::Path::to_owned);
        let settings = DockerSettings { host, cert_path: None, config };
        Docker::new(&settings, Owner { project: "shop".to_owned(), node: "edge-1".to_owned() }, relist)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(stream: UnixStream, script: Arc<Mutex<Script>>) {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    let mut credentials = None;
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim();
        if line.is_empty() {
            break;
        }
        if request.is_empty() {
            request = line.trim_end_matches(" HTTP/1.1").to_owned();
        } else if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        } else if let Some((_, value)) = line.split_once(": ").filter(|(name, _)| *name == "x-registry-auth") {
            credentials = Some(value.to_owned());
        }
    }
    let mut body = vec![0; length];
    if stream.read_exact(&mut body).await.is_err() {
        return;
    }
    let reply = {
        let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
        script.requests.push(request.clone());
        script.credentials.extend(credentials);
        let fits = script.replies.iter().filter(|(start, _)| request.starts_with(start.as_str()));
        fits.max_by_key(|(start, _)| start.len()).map(|(_, reply)| reply.clone())
    };
    let missing = Reply::Answer(404, format!(r#"{{"message":"no reply for {request}"}}"#));
    let (text, stays) = match reply.unwrap_or(missing) {
        Reply::Answer(status, body) => {
            (format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()), false)
        }
        Reply::CutOff(body) => (format!("HTTP/1.1 200 x\r\nContent-Length: {}\r\n\r\n{body}", body.len() + 100), false),
        Reply::Hang => {
            // Until the other side hangs up.
            drop(stream.read(&mut [0; 1]).await);
            return;
        }
        Reply::HangUp => return,
        Reply::Stream { lines, stays } => (format!("HTTP/1.1 200 x\r\nConnection: close\r\n\r\n{lines}"), stays),
    };
    let mut sent = script.lock().unwrap_or_else(PoisonError::into_inner).emitted.len();
    if stream.write_all(text.as_bytes()).await.is_err() || !stays {
        return;
    }
    let mut bytes = [0; 16];
    loop {
        tokio::select! {
            // Until the other side hangs up.
            _ = stream.read(&mut bytes) => return,
            () = tokio::time::sleep(std::time::Duration::from_millis(5)) => {}
        }
        let lines: Vec<String> = {
            let script = script.lock().unwrap_or_else(PoisonError::into_inner);
            script.emitted.iter().skip(sent).cloned().collect()
        };
        sent += lines.len();
        for line in lines {
            if line.trim() == HANG_UP || stream.write_all(line.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}
