//! A small web server that says who it is: the service which the demo and the tests route to.
//!
//! It answers in plain text over HTTP/1.1 with keep-alive, and each request can ask for the behaviour that
//! a roll-out has to survive:
//!
//! | Request | Answer |
//! |---|---|
//! | `GET /`, any path not below | `web <name> (v<version>)`; the name is `$NAME`, else the host's |
//! | `GET /health` | 200, or 503 while it was told to fail or the file `$HEALTH_FILE` (`/tmp/unhealthy`) exists |
//! | `POST /health/fail`, `POST /health/ok` | switches it |
//! | `GET /headers` | the request as it arrived: what a proxy in front has made of it |
//! | `POST /echo` | the body that was sent, at most 64 KiB |
//! | `POST` anywhere else | the same as `GET`, and the number of bytes received |
//! | an upgrade to WebSocket, on any path | each message that is sent comes back |
//! | `?delay=500ms` on any of them | the answer, that much later (`ms`, `s`; at most ten minutes) |
//! | `?status=500` on any of them | the answer with that status |
//!
//! SIGTERM and SIGINT end it gracefully: it stops listening, closes idle connections, lets each request that
//! has begun have its answer, and exits 0. With `ON_STOP=exit` in its environment it ends at once and leaves what has begun
//! unanswered, as many servers do. As the first process of a container it has to handle the signal
//! itself, for the kernel gives such a process no default action. `--check` is its own health check, because an image
//! of one binary has no `curl`.
#![forbid(unsafe_code)]

mod websocket;

use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// What a request's head, or one line of a chunked body, may take.
const HEAD_LIMIT: usize = 16 * 1024;
/// Longer than nginx keeps an idle upstream connection (60 s), so that nginx is the one who closes it.
const IDLE_LIMIT: Duration = Duration::from_secs(120);
/// A request that has begun must go on arriving.
const READ_LIMIT: Duration = Duration::from_secs(30);
const DELAY_LIMIT: Duration = Duration::from_secs(600);
const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// What `/echo` keeps of a body.
const ECHO_LIMIT: usize = 64 * 1024;

const USAGE: &str = "\
Usage: reeve-web [--listen [ADDRESS:]PORT] [--check]

  --listen [ADDRESS:]PORT   where to listen (default 80, on all addresses)
  --check                   ask the server that listens there for its health: exit 0 or 1
  --help, --version

Environment: NAME (default: the host's name), VERSION (default 1), HEALTH_FILE (default /tmp/unhealthy),
  ON_STOP (finish: answer what has begun, the default; exit: at once)
";

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Parsed::Run(options)) => options,
        Ok(Parsed::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprint!("reeve-web: {message}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // One thread is plenty, and keeps four replicas from costing four times the machine's cores.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("reeve-web: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome =
        if options.check { runtime.block_on(check(options.listen)) } else { runtime.block_on(serve(options.listen)) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("reeve-web: {error}");
            ExitCode::FAILURE
        }
    }
}

// ------------------------------------------------------------------ command line

struct Options {
    listen: SocketAddr,
    check: bool,
}

enum Parsed {
    Run(Options),
    Print(String),
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Parsed, String> {
        let mut options = Options { listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)), check: false };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--check" => options.check = true,
                "--listen" => {
                    let value = args.next().ok_or("--listen needs a port")?;
                    options.listen = parse_listen(&value)?;
                }
                "--help" | "-h" => return Ok(Parsed::Print(USAGE.into())),
                "--version" => {
                    return Ok(Parsed::Print(format!("reeve-web {}\n", env!("CARGO_PKG_VERSION"))));
                }
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        Ok(Parsed::Run(options))
    }
}

fn parse_listen(value: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = value.parse::<u16>() {
        return Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
    }
    value.parse().map_err(|_| format!("--listen: {value:?} is neither PORT nor ADDRESS:PORT"))
}

/// Asks for `/health` where the server listens. The exit code is the answer; a message explains a bad one.
async fn check(listen: SocketAddr) -> io::Result<()> {
    let target =
        if listen.ip().is_unspecified() { SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())) } else { listen };
    let status = timeout(CHECK_LIMIT, async {
        let mut stream = TcpStream::connect(target).await?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        (&mut stream).take(HEAD_LIMIT as u64).read_to_end(&mut answer).await?;
        let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
        io::Result::Ok(line)
    })
    .await
    .map_err(|_| io::Error::other(format!("{target} gave no answer within {} s", CHECK_LIMIT.as_secs())))?
    .map_err(|error| io::Error::other(format!("{target}: {error}")))?;
    match status.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(io::Error::other(format!("{target} answered {status:?}"))),
    }
}

// ------------------------------------------------------------------ server

/// What all connections share.
struct Server {
    name: String,
    version: String,
    told_to_fail: AtomicBool,
    health_file: PathBuf,
    /// A signal ends it without an answer to what has begun.
    abrupt: bool,
}

impl Server {
    fn from_environment() -> Self {
        let set = |key: &str| std::env::var(key).ok().filter(|value| !value.is_empty());
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
        Server {
            name: set("NAME").or_else(|| host().ok()).unwrap_or_else(|| "unnamed".into()),
            version: set("VERSION").unwrap_or_else(|| "1".into()),
            told_to_fail: AtomicBool::new(false),
            health_file: set("HEALTH_FILE").map_or_else(|| Path::new("/tmp/unhealthy").into(), PathBuf::from),
            abrupt: set("ON_STOP").as_deref() == Some("exit"),
        }
    }

    fn healthy(&self) -> bool {
        !self.told_to_fail.load(Ordering::Relaxed) && !self.health_file.exists()
    }

    fn banner(&self) -> String {
        format!("web {} (v{})\n", self.name, self.version)
    }

    fn answer(&self, request: &Request) -> Answer {
        let posted = request.method == "POST";
        let mut answer = match request.path.as_str() {
            "/health" if self.healthy() => Answer::ok("healthy\n"),
            "/health" => Answer { status: 503, body: "unhealthy\n".into() },
            "/health/fail" | "/health/ok" if !posted => Answer { status: 405, body: "POST switches it\n".into() },
            "/health/fail" => {
                self.told_to_fail.store(true, Ordering::Relaxed);
                Answer::ok("from now on unhealthy\n")
            }
            "/health/ok" => {
                self.told_to_fail.store(false, Ordering::Relaxed);
                Answer::ok("from now on healthy\n")
            }
            "/headers" => Answer::ok(format!("{}\n", request.head)),
            "/echo" if posted && request.length > ECHO_LIMIT as u64 => {
                Answer { status: 413, body: "too long\n".into() }
            }
            "/echo" if posted => Answer::ok(String::from_utf8_lossy(&request.body)),
            _ => Answer::ok(self.banner()),
        };
        if posted && request.path != "/echo" && !request.path.starts_with("/health/") {
            // Infallible: a String takes whatever memory gives.
            let _ = writeln!(answer.body, "{} bytes", request.length);
        }
        if let Some(status) = request.status {
            answer.status = status;
        }
        answer
    }
}

struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn ok(body: impl Into<String>) -> Self {
        Answer { status: 200, body: body.into() }
    }
}

async fn serve(listen: SocketAddr) -> io::Result<()> {
    // Before listening: whoever sees the port open may send the signal.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| io::Error::other(format!("cannot listen on {listen}: {error}")))?;
    let server = Arc::new(Server::from_environment());
    let (stop, stopping) = watch::channel(false);
    println!("{}: listening on {}", server.banner().trim_end(), listener.local_addr()?);

    let welcome = |stream| {
        let connection = Connection::new(stream, server.clone(), stopping.clone());
        tokio::spawn(async move {
            // A peer that goes away or talks nonsense has been answered as far as it can be.
            let _ = connection.run().await;
        })
    };
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(welcome(stream)),
                // Out of descriptors, or a peer that gave up while it waited: the next one may fare better.
                Err(_) => sleep(Duration::from_millis(20)).await,
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }

    if server.abrupt {
        std::process::exit(0);
    }
    // What the kernel has accepted already would be reset with the listener.
    while let Ok(Ok((stream, _))) = timeout(Duration::ZERO, listener.accept()).await {
        welcome(stream);
    }
    drop(listener);
    drop(stopping);
    let _ = stop.send(true);
    // Each connection holds a receiver: the channel is closed when the last one has ended.
    tokio::select! {
        () = stop.closed() => {}
        _ = terminate.recv() => eprintln!("reeve-web: told twice: ending with requests unanswered"),
        _ = interrupt.recv() => eprintln!("reeve-web: told twice: ending with requests unanswered"),
    }
    Ok(())
}

// ------------------------------------------------------------------ one connection

struct Connection {
    stream: TcpStream,
    /// What was read and not yet consumed.
    buffer: Vec<u8>,
    server: Arc<Server>,
    stopping: watch::Receiver<bool>,
}

/// A request whose body has been read and counted.
struct Request {
    method: String,
    path: String,
    /// Request line and headers as they came.
    head: String,
    delay: Duration,
    status: Option<u16>,
    length: u64,
    /// What `/echo` was sent; of other requests nothing is kept.
    body: Vec<u8>,
    keep_alive: bool,
    /// `Sec-WebSocket-Key` of an upgrade.
    websocket: Option<String>,
}

enum Failed {
    /// The peer is gone or silent: nobody to answer.
    Gone,
    /// Answered with this status; then the connection ends, for what follows cannot be told apart.
    Refused(u16, &'static str),
}

impl From<io::Error> for Failed {
    fn from(_: io::Error) -> Self {
        Failed::Gone
    }
}

impl Connection {
    fn new(stream: TcpStream, server: Arc<Server>, stopping: watch::Receiver<bool>) -> Self {
        Connection { stream, buffer: Vec::new(), server, stopping }
    }

    async fn run(mut self) -> io::Result<()> {
        // Answers are small and whole: waiting for more to send only delays them.
        self.stream.set_nodelay(true)?;
        while self.wait_for_request().await? {
            let request = match self.request().await {
                Ok(request) => request,
                Err(Failed::Gone) => return Ok(()),
                Err(Failed::Refused(status, reason)) => {
                    self.respond(&Answer { status, body: format!("{reason}\n") }, false, false).await?;
                    return self.linger().await;
                }
            };
            sleep(request.delay).await;
            if let Some(key) = &request.websocket {
                return websocket::talk(self.stream, self.buffer, key, self.stopping).await;
            }
            let answer = self.server.answer(&request);
            let keep_alive = request.keep_alive && !*self.stopping.borrow();
            self.respond(&answer, keep_alive, request.method == "HEAD").await?;
            if !keep_alive {
                return self.stream.shutdown().await;
            }
        }
        Ok(())
    }

    /// True when the first bytes of a request are there; false when there will be none.
    async fn wait_for_request(&mut self) -> io::Result<bool> {
        if !self.buffer.is_empty() {
            return Ok(true);
        }
        let mut stopping = self.stopping.clone();
        tokio::select! {
            // In this order, so that a request which has arrived already is answered although the end has come.
            biased;
            read = timeout(IDLE_LIMIT, self.stream.read_buf(&mut self.buffer)) => match read {
                Ok(read) => Ok(read? > 0),
                Err(_) => Ok(false),
            },
            _ = stopping.wait_for(|stop| *stop) => Ok(false),
        }
    }

    async fn request(&mut self) -> Result<Request, Failed> {
        let head = self.until(b"\r\n\r\n").await?;
        let head = String::from_utf8(head).map_err(|_| Failed::Refused(400, "the request is not text"))?;
        let mut lines = head.split("\r\n");

        let line = lines.next().unwrap_or_default();
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(Failed::Refused(400, "the request line is not METHOD TARGET VERSION"));
        };
        if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(Failed::Refused(400, "the method is not a word"));
        }
        let mut keep_alive = match version {
            "HTTP/1.1" => true,
            "HTTP/1.0" => false,
            _ => return Err(Failed::Refused(505, "this server speaks HTTP/1.1")),
        };

        let (mut length, mut chunked, mut expects) = (None, false, false);
        let (mut upgrades, mut websocket) = (false, None);
        for line in lines.filter(|line| !line.is_empty()) {
            let Some((name, value)) = line.split_once(':') else {
                return Err(Failed::Refused(400, "a header without a colon"));
            };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    // Two different lengths are how one request is smuggled inside another.
                    let number =
                        value.parse::<u64>().map_err(|_| Failed::Refused(400, "Content-Length is not a number"))?;
                    if length.is_some_and(|other| other != number) {
                        return Err(Failed::Refused(400, "two different Content-Length"));
                    }
                    length = Some(number);
                }
                "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => chunked = true,
                "transfer-encoding" => {
                    return Err(Failed::Refused(501, "a Transfer-Encoding other than chunked"));
                }
                "upgrade" => upgrades = value.eq_ignore_ascii_case("websocket"),
                "sec-websocket-key" => websocket = Some(value.to_owned()),
                "expect" => expects = value.eq_ignore_ascii_case("100-continue"),
                "connection" => {
                    for option in value.split(',').map(str::trim) {
                        if option.eq_ignore_ascii_case("close") {
                            keep_alive = false;
                        } else if option.eq_ignore_ascii_case("keep-alive") {
                            keep_alive = true;
                        }
                    }
                }
                _ => {}
            }
        }
        if chunked && length.is_some() {
            return Err(Failed::Refused(400, "both Content-Length and chunked"));
        }

        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut request = Request {
            method: method.into(),
            path: path.into(),
            delay: Duration::ZERO,
            status: None,
            length: 0,
            body: Vec::new(),
            keep_alive,
            websocket: websocket.filter(|_| upgrades),
            head: String::new(),
        };
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "delay" => {
                    request.delay = parse_delay(value).ok_or(Failed::Refused(400, "delay is not like 500ms or 2s"))?
                }
                "status" => {
                    let status = value.parse().ok().filter(|status| (200..600).contains(status));
                    request.status = Some(status.ok_or(Failed::Refused(400, "status is not between 200 and 599"))?);
                }
                _ => {}
            }
        }

        if expects && (chunked || length.is_some_and(|length| length > 0)) {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut kept = (request.path == "/echo").then_some(&mut request.body);
        request.length = if chunked {
            self.take_chunks(&mut kept).await?
        } else {
            self.take(length.unwrap_or(0), &mut kept).await?
        };
        request.head = head.replace("\r\n", "\n");
        Ok(request)
    }

    /// Reads on; an end of the stream inside a request is nothing that could be answered.
    async fn more(&mut self) -> Result<(), Failed> {
        match timeout(READ_LIMIT, self.stream.read_buf(&mut self.buffer)).await {
            Ok(Ok(0) | Err(_)) => Err(Failed::Gone),
            Ok(Ok(_)) => Ok(()),
            Err(_) => Err(Failed::Refused(408, "the request did not go on arriving")),
        }
    }

    /// Takes everything up to and with `end`, and returns what is before it.
    async fn until(&mut self, end: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut searched = 0;
        loop {
            let found = self.buffer[searched..].windows(end.len()).position(|window| window == end);
            if let Some(at) = found.map(|at| at + searched).filter(|at| *at <= HEAD_LIMIT) {
                let mut taken: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                taken.truncate(at);
                return Ok(taken);
            }
            if self.buffer.len() > HEAD_LIMIT {
                return Err(Failed::Refused(431, "the head of the request is too long"));
            }
            searched = self.buffer.len().saturating_sub(end.len() - 1);
            self.more().await?;
        }
    }

    /// Takes so many bytes; `kept` gets them, up to the limit.
    async fn take(&mut self, length: u64, kept: &mut Option<&mut Vec<u8>>) -> Result<u64, Failed> {
        let mut left = length;
        loop {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let taken = self.buffer.drain(..here);
            if let Some(kept) = kept {
                let room = ECHO_LIMIT.saturating_sub(kept.len());
                kept.extend(taken.take(room));
            } else {
                drop(taken);
            }
            left -= here as u64;
            if left == 0 {
                return Ok(length);
            }
            self.more().await?;
        }
    }

    async fn take_chunks(&mut self, kept: &mut Option<&mut Vec<u8>>) -> Result<u64, Failed> {
        let mut total = 0_u64;
        loop {
            let line = self.until(b"\r\n").await?;
            let size = String::from_utf8_lossy(&line);
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16)
                .map_err(|_| Failed::Refused(400, "the size of a chunk is not a number"))?;
            if size == 0 {
                break;
            }
            total = total.checked_add(self.take(size, kept).await?).ok_or(Failed::Refused(413, "too large"))?;
            if !self.until(b"\r\n").await?.is_empty() {
                return Err(Failed::Refused(400, "a chunk is longer than its size"));
            }
        }
        // Trailers, up to an empty line.
        while !self.until(b"\r\n").await?.is_empty() {}
        Ok(total)
    }

    async fn respond(&mut self, answer: &Answer, keep_alive: bool, head_only: bool) -> io::Result<()> {
        let Answer { status, body } = answer;
        let bodiless = matches!(status, 204 | 304);
        let mut response = format!("HTTP/1.1 {status} {}\r\n", reason(*status));
        let _ = write!(
            response,
            "Content-Type: text/plain; charset=utf-8\r\nX-Served-By: {}\r\n",
            header_safe(&self.server.name)
        );
        if !bodiless {
            let _ = write!(response, "Content-Length: {}\r\n", body.len());
        }
        response.push_str(if keep_alive { "Connection: keep-alive\r\n\r\n" } else { "Connection: close\r\n\r\n" });
        if !head_only && !bodiless {
            response.push_str(body);
        }
        self.stream.write_all(response.as_bytes()).await
    }

    /// Closing with unread bytes resets the connection, and the peer may lose the answer that explains why.
    async fn linger(&mut self) -> io::Result<()> {
        self.stream.shutdown().await?;
        let mut rest = [0; 4096];
        let drain = async {
            while self.stream.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        timeout(Duration::from_secs(1), drain).await.unwrap_or(Ok(()))
    }
}

fn parse_delay(text: &str) -> Option<Duration> {
    let (number, scale) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s')?, 1000),
    };
    let delay = Duration::from_millis(number.parse::<u64>().ok()?.checked_mul(scale)?);
    (delay <= DELAY_LIMIT).then_some(delay)
}

/// `$NAME` is whatever the operator wrote: it must not end the header that carries it.
fn header_safe(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Answer",
    }
}
