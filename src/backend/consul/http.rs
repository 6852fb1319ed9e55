//! The way to the agent's HTTP API: address, TLS, token, limits, and failures in words.
//!
//! Owns the pooled clients. It knows nothing of what is asked. Every request has a time limit that covers its body too, and
//! requests other than watches share a bounded number of connections, because an agent takes 200 from one address. By TLS an
//! agent speaks HTTP/2, too: then many watches share a connection, and each of very many services can have one.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::lanes::{Lanes, WATCHES};
use crate::settings::ConsulSettings;
use crate::world::ViewError;

/// Connections of everything but the watches. With the watches' own limit far below the 200 that an agent takes from one
/// address, so that several controllers fit on one host.
const CONNECTIONS: usize = 16;
/// An agent on this host answers the handshake at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// First answers of watches at once.
const FIRST_ANSWERS: usize = 16;
/// Consul answers errors with a line; a proxy in front of it may answer a page.
const LONGEST_BODY_IN_A_MESSAGE: usize = 300;

#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    /// For messages: without credentials.
    name: Arc<str>,
    permits: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    lanes: Lanes,
}

/// One request, before it is sent.
pub(super) struct Request<'a> {
    pub method: Method,
    /// Each is escaped as a whole: ids contain `/`.
    pub path: &'a [&'a str],
    pub query: Vec<(&'a str, String)>,
    pub body: Option<serde_json::Value>,
    pub limit: Duration,
    /// 404 is an answer: `null`.
    pub or_null: bool,
    /// So are 404, 429 and 503, when their body may be one.
    pub or_unhealthy: bool,
}

impl<'a> Request<'a> {
    pub fn get(path: &'a [&'a str], limit: Duration) -> Self {
        Self { method: Method::GET, path, query: Vec::new(), body: None, limit, or_null: false, or_unhealthy: false }
    }

    pub fn put(path: &'a [&'a str], limit: Duration) -> Self {
        Self { method: Method::PUT, ..Self::get(path, limit) }
    }

    /// What does not exist is `null`, and no failure: it can be waited for.
    pub fn or_null(mut self) -> Self {
        self.or_null = true;
        self
    }

    /// An agent that is asked for a health tells it by the status, too.
    pub fn or_unhealthy(mut self) -> Self {
        self.or_unhealthy = true;
        self
    }

    pub fn query(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: serde_json::Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// A decoded answer.
#[derive(Debug)]
pub(super) struct Answer<T> {
    pub value: T,
    /// `X-Consul-Index`, for the next blocking query.
    pub index: u64,
    /// `X-Consul-KnownLeader: false`: the server that answered did not know a leader.
    pub without_leader: bool,
    /// Consul 1.11 and later say so when the token hides a part of the result.
    pub filtered_by_acl: bool,
}

/// Why a request gave no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// `Consul at http://127.0.0.1:8500: GET /v1/agent/self`.
    request: String,
    pub kind: FailureKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// Another status than success, with the body's text.
    Status { status: u16, body: String },
    /// Refused, closed, broken: with the whole cause chain. Whether a write had its effect is not known.
    Lost(String),
    /// No answer within this time.
    TimedOut(Duration),
    /// An answer that is not what Consul documents.
    Malformed(String),
}

impl Failure {
    pub fn status(&self) -> Option<u16> {
        match &self.kind {
            FailureKind::Status { status, .. } => Some(*status),
            FailureKind::Lost(_) | FailureKind::TimedOut(_) | FailureKind::Malformed(_) => None,
        }
    }

    pub fn timed_out(&self) -> bool {
        matches!(self.kind, FailureKind::TimedOut(_))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.request)?;
        match &self.kind {
            FailureKind::Status { status, body } if body.is_empty() => write!(f, " answered {status}"),
            FailureKind::Status { status, body } => write!(f, " answered {status}: {body}"),
            FailureKind::Lost(cause) => write!(f, " failed: {cause}"),
            // What is left of a limit that several requests share differs a little each time; the reason must not, or a
            // log would tell it anew with every pass.
            FailureKind::TimedOut(limit) => {
                write!(f, " gave no answer within {}s", limit.as_secs_f64().round().max(1.0))
            }
            FailureKind::Malformed(cause) => write!(f, " answered something that is not Consul's: {cause}"),
        }
    }
}

impl From<Failure> for ViewError {
    fn from(failure: Failure) -> Self {
        Self(failure.to_string())
    }
}

impl Client {
    /// Only settings can make this fail: nothing is sent.
    pub fn new(settings: &ConsulSettings) -> Result<Self, ViewError> {
        // reqwest panics in `build` without a provider; a second installation is refused, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let (plain, base, name) = builder(settings)?;
        let http = plain.http1_only().build();
        let http = http.map_err(|error| ViewError(format!("no client for Consul at {name}: {}", chain(&error))))?;
        let again = (base.scheme() == "https").then(|| settings.clone());
        // The same settings have just made one.
        let lanes = Lanes::new(Arc::new(move || builder(again.as_ref()?).ok().map(|(builder, ..)| builder)));
        let permits = Arc::new(Semaphore::new(CONNECTIONS));
        let turns = Arc::new(Semaphore::new(FIRST_ANSWERS));
        Ok(Self { http, base, name: name.into(), permits, turns, lanes })
    }

    /// `http://127.0.0.1:8500`, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends and decodes. The limit covers waiting for a free connection, too.
    pub async fn json<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<Answer<T>, Failure> {
        let limit = request.limit;
        let title = self.title(&request);
        let prepared = self.prepared(&self.http, request);
        self.limited(limit, &title, async {
            let permit = self.permits.acquire().await;
            let answer = prepared.send(&title).await;
            drop(permit);
            answer
        })
        .await
        .and_then(|raw| raw.decode(&title))
    }

    /// As `json`, for a blocking query: it holds its connection, or its part of one, for minutes, so the caller bounds how
    /// many there are (`lanes`).
    pub async fn watch<T: DeserializeOwned>(&self, request: Request<'_>) -> Result<Answer<T>, Failure> {
        let limit = request.limit;
        let title = self.title(&request);
        let lane = self.lanes.free();
        let prepared = self.prepared(lane.map_or(&self.http, |(http, _)| http), request);
        // On the heap, because what awaits a future holds it twice, once as its argument: a kilobyte for each that waits.
        let work = Box::pin(async {
            let stream = match lane {
                Some((_, streams)) => streams.acquire().await.ok(),
                None => None,
            };
            let answer = prepared.send(&title).await;
            drop(stream);
            answer
        });
        self.limited(limit, &title, work).await.and_then(|raw| raw.decode(&title))
    }

    /// What a watch waits for before its first answer, which comes at once and is as long as all that there is: read at the
    /// same time, those of a thousand would need the memory of all.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.turns.acquire().await.ok()
    }

    /// Of watches.
    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    /// Finds out how much room there is: what stands in front of the agent may be something else than before. Nothing is
    /// concluded while it does not answer at all.
    pub async fn measure_room(&self, limit: Duration) {
        let Some(lane) = self.lanes.asked() else { return };
        let answers = async |http| {
            let request = Request::get(&["v1", "status", "leader"], limit);
            let title = self.title(&request);
            let answer = self.limited(limit, &title, self.prepared(http, request).send(&title)).await;
            answer.map_or_else(|failure| failure.status().is_some(), |_| true)
        };
        let mut multiplexes = answers(lane).await;
        if !multiplexes {
            if !answers(&self.http).await {
                return;
            }
            // It may have come back between the two.
            multiplexes = answers(lane).await;
        }
        if self.lanes.found(multiplexes) {
            tracing::warn!(
                consul = %self.name,
                "it does not take watches by HTTP/2 any more: up to {WATCHES} services are watched each by itself, more of \
                 them as one"
            );
        }
    }

    /// For answers whose body says nothing.
    pub async fn done(&self, request: Request<'_>) -> Result<(), Failure> {
        let limit = request.limit;
        let title = self.title(&request);
        let prepared = self.prepared(&self.http, request);
        self.limited(limit, &title, async {
            let permit = self.permits.acquire().await;
            let answer = prepared.send(&title).await;
            drop(permit);
            answer
        })
        .await
        .map(drop)
    }

    async fn limited<T>(
        &self,
        limit: Duration,
        title: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(Failure { request: title.to_owned(), kind: FailureKind::TimedOut(limit) }))
    }

    fn title(&self, request: &Request<'_>) -> String {
        format!("Consul at {}: {} /{}", self.name, request.method, request.path.join("/"))
    }

    fn prepared(&self, http: &reqwest::Client, request: Request<'_>) -> Prepared {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(request.path);
        }
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        let mut builder = http.request(request.method, url);
        if let Some(body) = &request.body {
            builder = builder.json(body);
        }
        Prepared { builder, or_null: request.or_null, or_unhealthy: request.or_unhealthy }
    }
}

/// A request with nothing that only its making needs: a thousand of them wait at once.
struct Prepared {
    builder: reqwest::RequestBuilder,
    or_null: bool,
    or_unhealthy: bool,
}

impl Prepared {
    async fn send(self, title: &str) -> Result<Raw, Failure> {
        let lost = |error: reqwest::Error| Failure {
            request: title.to_owned(),
            kind: FailureKind::Lost(chain(&error.without_url())),
        };
        let Self { builder, or_null, or_unhealthy } = self;
        let response = builder.send().await.map_err(lost)?;
        let status = response.status();
        let headers = response.headers().clone();
        let body = response.bytes().await.map_err(lost)?;
        let unhealthy =
            matches!(status, StatusCode::NOT_FOUND | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
        if status == StatusCode::OK || (unhealthy && or_unhealthy && body.starts_with(b"{")) {
            return Ok(Raw { headers, body: body.to_vec() });
        }
        if status == StatusCode::NOT_FOUND && or_null {
            return Ok(Raw { headers, body: b"null".to_vec() });
        }
        let body = String::from_utf8_lossy(&body).trim().chars().take(LONGEST_BODY_IN_A_MESSAGE).collect();
        Err(Failure { request: title.to_owned(), kind: FailureKind::Status { status: status.as_u16(), body } })
    }
}

struct Raw {
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Raw {
    fn decode<T: DeserializeOwned>(self, title: &str) -> Result<Answer<T>, Failure> {
        let header = |name| self.headers.get(name).and_then(|value| value.to_str().ok());
        let value = serde_json::from_slice(&self.body)
            .map_err(|error| Failure { request: title.to_owned(), kind: FailureKind::Malformed(error.to_string()) })?;
        Ok(Answer {
            value,
            index: header("x-consul-index").and_then(|text| text.parse().ok()).unwrap_or_default(),
            without_leader: header("x-consul-knownleader") == Some("false"),
            filtered_by_acl: header("x-consul-results-filtered-by-acls") == Some("true"),
        })
    }
}

/// A client with everything but its protocol, what its URLs begin with, and its name for messages.
fn builder(settings: &ConsulSettings) -> Result<(reqwest::ClientBuilder, Url, String), ViewError> {
    // A proxy from the environment would be asked for the agent of this host.
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(CONNECTIONS)
        .user_agent(concat!("reeve/", env!("CARGO_PKG_VERSION")));
    if let Some(token) = &settings.token {
        let mut value = HeaderValue::from_str(token)
            .map_err(|_| ViewError("consul.token has characters that no HTTP header can carry".to_owned()))?;
        value.set_sensitive(true);
        builder = builder.default_headers(HeaderMap::from_iter([(
            reqwest::header::HeaderName::from_static("x-consul-token"),
            value,
        )]));
    }
    let (base, name) = match settings.address.strip_prefix("unix://") {
        Some(path) if path.starts_with('/') => {
            builder = builder.unix_socket(Path::new(path));
            (parse(&settings.address, "http://localhost/")?, settings.address.clone())
        }
        Some(_) => return Err(malformed(&settings.address, "the path of the socket must begin with /")),
        None => {
            let text = if settings.address.contains("://") {
                settings.address.clone()
            } else {
                format!("http://{}", settings.address)
            };
            let base = parse(&settings.address, &text)?;
            let host = base.host_str().ok_or_else(|| malformed(&settings.address, "it names no host"))?;
            let port = base.port_or_known_default().unwrap_or_default();
            let name = format!("{}://{host}:{port}", base.scheme());
            (base, name)
        }
    };
    let builder = match base.scheme() {
        "https" => with_tls(builder, settings)?,
        "http" => {
            for (key, file) in
                [("ca_file", &settings.ca_file), ("cert_file", &settings.cert_file), ("key_file", &settings.key_file)]
            {
                if file.is_some() {
                    return Err(ViewError(format!(
                        "consul.{key} is set, but consul.address {name} does not use TLS: write https://, or remove {key}"
                    )));
                }
            }
            // Without this, a host without CA files could not even speak plain HTTP.
            builder.tls_certs_only([])
        }
        other => return Err(malformed(&settings.address, &format!("{other}:// is not http, https or unix"))),
    };
    Ok((builder, base, name))
}

fn with_tls(
    mut builder: reqwest::ClientBuilder,
    settings: &ConsulSettings,
) -> Result<reqwest::ClientBuilder, ViewError> {
    if let Some(path) = &settings.ca_file {
        let certificates = reqwest::Certificate::from_pem_bundle(&read("ca_file", path)?)
            .map_err(|error| ViewError(format!("consul.ca_file {}: {}", path.display(), chain(&error))))?;
        if certificates.is_empty() {
            return Err(ViewError(format!("consul.ca_file {} holds no PEM certificate", path.display())));
        }
        builder = builder.tls_certs_only(certificates);
    }
    match (&settings.cert_file, &settings.key_file) {
        (None, None) => Ok(builder),
        (Some(certificate), Some(key)) => {
            let mut pem = read("key_file", key)?;
            pem.push(b'\n');
            pem.extend(read("cert_file", certificate)?);
            let identity = reqwest::Identity::from_pem(&pem).map_err(|error| {
                ViewError(format!(
                    "consul.cert_file {} with consul.key_file {}: {}",
                    certificate.display(),
                    key.display(),
                    chain(&error)
                ))
            })?;
            Ok(builder.identity(identity))
        }
        (Some(_), None) => Err(ViewError("consul.cert_file is set, and consul.key_file is not: set both".to_owned())),
        (None, Some(_)) => Err(ViewError("consul.key_file is set, and consul.cert_file is not: set both".to_owned())),
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>, ViewError> {
    std::fs::read(path).map_err(|error| ViewError(format!("consul.{key} {} cannot be read: {error}", path.display())))
}

fn parse(address: &str, text: &str) -> Result<Url, ViewError> {
    Url::parse(text).map_err(|error| malformed(address, &error.to_string()))
}

fn malformed(address: &str, why: &str) -> ViewError {
    // Credentials may stand between `//` and `@`.
    let shown = match (address.find("://"), address.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}://…{}", &address[..scheme], &address[at..]),
        _ => address.to_owned(),
    };
    ViewError(format!("consul.address {shown:?} is malformed: {why} (http://…, https://… or unix:///…)"))
}

/// An error with all its causes, each once. Display alone of reqwest's says only "error sending request".
pub(in crate::backend) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(address: &str) -> ConsulSettings {
        ConsulSettings {
            address: address.to_owned(),
            token: None,
            token_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }

    fn refusal(settings: &ConsulSettings) -> String {
        Client::new(settings).map(drop).expect_err("the settings are malformed").0
    }

    #[test]
    fn every_kind_of_address_is_taken() {
        for (address, name) in [
            ("http://127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("https://user:secret@consul.example", "https://consul.example:443"),
            ("http://[::1]:8500/", "http://[::1]:8500"),
            ("unix:///run/consul.sock", "unix:///run/consul.sock"),
        ] {
            let client = Client::new(&settings(address)).expect(address);
            assert_eq!(client.name(), name);
        }
    }

    #[test]
    fn a_malformed_address_is_named_without_its_credentials() {
        for address in ["http://", "ftp://x", "unix://run/consul.sock", "http://user:secret@[::1"] {
            let text = refusal(&settings(address));
            assert!(text.contains("consul.address"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn tls_files_are_refused_where_they_would_be_ignored_or_are_missing() {
        let mut plain = settings("http://127.0.0.1:8500");
        plain.ca_file = Some("/etc/ca.pem".into());
        assert!(refusal(&plain).contains("write https://"));
        let mut missing = settings("https://127.0.0.1:8501");
        missing.ca_file = Some("/nonexistent/ca.pem".into());
        assert!(refusal(&missing).contains("/nonexistent/ca.pem cannot be read"));
        let mut half = settings("https://127.0.0.1:8501");
        half.cert_file = Some("/etc/cert.pem".into());
        assert!(refusal(&half).contains("set both"));
    }

    #[test]
    fn what_is_left_of_a_shared_limit_is_told_the_same_each_time() {
        let late =
            |limit: Duration| Failure { request: "GET /x".to_owned(), kind: FailureKind::TimedOut(limit) }.to_string();
        assert_eq!(late(Duration::from_nanos(3_999_997_556)), "GET /x gave no answer within 4s");
        assert_eq!(late(Duration::from_nanos(3_999_990_001)), late(Duration::from_secs(4)));
    }

    #[test]
    fn a_token_is_never_printed() {
        let mut bad = settings("http://127.0.0.1:8500");
        bad.token = Some("s3cret\n".to_owned());
        assert!(!refusal(&bad).contains("s3cret"));
    }

    #[tokio::test]
    async fn an_agent_that_speaks_no_http2_gets_no_more_watches_than_connections() {
        let fake = super::super::fake::Fake::start(|_| None).await;
        let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let closed = format!("http://{}", closed.expect("a free port"));
        // One that is gone says nothing about what it speaks.
        for (address, refuses) in [(&fake.address, true), (&closed, false)] {
            let mut client = Client::new(&settings(address)).expect("an address");
            // As by TLS, where it is found out by asking.
            client.lanes = Lanes::new(Arc::new(|| Some(reqwest::Client::builder().tls_certs_only([]))));
            client.lanes.found(true);
            let changes = client.lanes.changes();
            client.measure_room(Duration::from_secs(10)).await;
            assert_eq!(client.lanes.room() == WATCHES, refuses, "{address}");
            assert_eq!(changes.has_changed().expect("the client is there"), refuses, "{address}");
            assert_eq!(client.lanes.asked().is_none(), refuses, "{address}: it is not tried again for a while");
        }
    }
}
