//! The HTTP server of the daemon: metrics, health, status, plan.
//!
//! It only reads what the loop has published, so that a request can neither slow a pass down nor change anything.

mod connection;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::explain::Explanation;
use crate::metrics::Metrics;
use crate::status::Status;
use connection::Limited;

/// So many resync intervals without a sign of life of the loop, and the daemon is not ready.
const STUCK_AFTER_RESYNCS: u32 = 4;

/// How long open requests may take after the daemon was told to end.
const SHUTDOWN_GRACE: Duration = Duration::from_millis(500);

const PATHS: &str = "/metrics\n/healthz\n/readyz\n/v1/status\n/v1/plan\n/v1/explain?name=SERVICE|UPSTREAM\n";

/// Actions that an explanation shows, and at most.
const ACTIONS: usize = 10;
const MOST_ACTIONS: usize = 1000;

/// The answer of `/v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When the pass began.
    pub at: Timestamp,
    /// Node of the daemon.
    pub node: String,
    /// `run --observe`: it plans and writes nothing.
    pub observe_only: bool,
    /// Why the spec's files, as they are now, are not taken; the status is of the last good ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec_refused: Option<String>,
    #[serde(flatten)]
    pub status: Status,
}

/// The answer of `/v1/explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// When the pass began.
    pub at: Timestamp,
    pub node: String,
    pub observe_only: bool,
    #[serde(flatten)]
    pub explanation: Explanation,
}

/// The same when there is nothing of this name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unexplained {
    pub error: String,
    pub node: String,
    pub project: String,
}

/// Explains a service or an upstream as the last pass saw it, with so many actions.
pub type Explain = Arc<dyn Fn(&str, usize) -> Result<Explained, Unexplained> + Send + Sync>;

/// The plan as the last pass saw it: the same JSON as `reeve plan -o json` prints.
pub type Foresee = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

/// The answers about the last pass. What costs as much as a pass (all waves of the plan, an explanation) is made when it is
/// asked for.
#[derive(Default)]
struct Published {
    status: Option<Arc<str>>,
    plan: Option<Foresee>,
    explain: Option<Explain>,
}

/// What the loop tells and the server answers. Cheap to share.
pub struct Shared {
    metrics: Arc<Metrics>,
    published: watch::Sender<Published>,
    /// Last sign of life of the loop, and after how long without one it counts as stuck.
    pulse: Mutex<(Instant, Duration)>,
}

impl Shared {
    /// `resync`: the loop's own interval, by which it is judged.
    pub fn new(metrics: Arc<Metrics>, resync: Duration) -> Arc<Self> {
        let shared = Self {
            metrics,
            published: watch::Sender::new(Published::default()),
            pulse: Mutex::new((Instant::now(), Duration::ZERO)),
        };
        shared.set_resync(resync);
        Arc::new(shared)
    }

    /// After a reload of the settings.
    pub fn set_resync(&self, resync: Duration) {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner).1 = resync * STUCK_AFTER_RESYNCS;
    }

    /// The loop is alive: called when a pass begins and after each action, because one pass may pull images for minutes.
    pub fn heartbeat(&self) {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner).0 = Instant::now();
    }

    /// A pass has ended. Without `explain` nothing is explained.
    ///
    /// # Errors
    /// When the report cannot be serialised, which is a defect of its types.
    pub fn publish(&self, report: &Report, plan: Foresee, explain: Option<Explain>) -> Result<(), serde_json::Error> {
        let status = serde_json::to_string(report)?;
        self.heartbeat();
        self.published.send_replace(Published { status: Some(status.into()), plan: Some(plan), explain });
        Ok(())
    }

    /// Why the daemon is not ready; none: it is.
    fn unready(&self) -> Option<String> {
        if self.published.borrow().status.is_none() {
            return Some("the first pass is not done yet".to_owned());
        }
        let (last, limit) = *self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        let silent = last.elapsed();
        (silent > limit).then(|| {
            format!("the loop has shown no sign of life for {} s (limit {} s)", silent.as_secs(), limit.as_secs())
        })
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    #[error(
        "http.listen: {address} is taken by another process; stop that one, or set http.listen (REEVE_HTTP_LISTEN) to another port or to off"
    )]
    Taken { address: SocketAddr },
    #[error("http.listen: {address} cannot be listened on: {error}")]
    Listen { address: SocketAddr, error: io::Error },
}

/// A server that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Takes the port, so that a taken one stops the daemon before it has done anything.
    ///
    /// # Errors
    /// Names the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, HttpError> {
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => HttpError::Taken { address },
            _ => HttpError::Listen { address, error },
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens: the port that was chosen when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop`, then gives open requests half a second.
    pub async fn run(self, shared: Arc<Shared>, stop: CancellationToken) {
        let ended = stop.clone();
        let serve = axum::serve(Limited::new(self.listener), router(shared))
            .with_graceful_shutdown(async move { stop.cancelled().await })
            .into_future();
        let limit = async {
            ended.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            result = serve => {
                if let Err(error) = result {
                    tracing::error!(%error, "the HTTP server ended");
                }
            }
            () = limit => {}
        }
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(async || PATHS))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .route("/v1/status", get(status))
        .route("/v1/plan", get(plan))
        .route("/v1/explain", get(explain))
        .fallback(unknown_path)
        .with_state(shared)
}

async fn unknown_path(uri: Uri) -> Response {
    (StatusCode::NOT_FOUND, format!("there is no {}; there are:\n{PATHS}", uri.path())).into_response()
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    match shared.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response {
    match shared.unready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response(),
    }
}

async fn status(State(shared): State<Arc<Shared>>) -> Response {
    json(shared.published.borrow().status.clone())
}

async fn plan(State(shared): State<Arc<Shared>>) -> Response {
    let Some(foresee) = shared.published.borrow().plan.clone() else { return json(None) };
    aside(move || (StatusCode::OK, serde_json::to_string(&foresee()))).await
}

#[derive(Debug, Deserialize)]
struct Asked {
    name: String,
    actions: Option<usize>,
}

async fn explain(State(shared): State<Arc<Shared>>, Query(asked): Query<Asked>) -> Response {
    let Some(explain) = shared.published.borrow().explain.clone() else { return json(None) };
    let actions = asked.actions.unwrap_or(ACTIONS).min(MOST_ACTIONS);
    aside(move || match explain(&asked.name, actions) {
        Ok(explained) => (StatusCode::OK, serde_json::to_string(&explained)),
        Err(unexplained) => (StatusCode::NOT_FOUND, serde_json::to_string(&unexplained)),
    })
    .await
}

/// An answer that is planned for, or read from a file: not on a thread that the loop may need.
async fn aside(answer: impl FnOnce() -> (StatusCode, serde_json::Result<String>) + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(answer).await {
        Ok((code, Ok(text))) => (code, json(Some(text.into()))).into_response(),
        Ok((_, Err(error))) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn json(text: Option<Arc<str>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    match text {
        Some(text) => (kind, text.as_ref().to_owned()).into_response(),
        None => {
            let text = serde_json::json!({ "error": "the first pass is not done yet" }).to_string();
            (StatusCode::SERVICE_UNAVAILABLE, kind, text).into_response()
        }
    }
}

#[cfg(test)]
mod tests;
