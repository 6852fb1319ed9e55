//! The Docker engine: what runs there, and what an action changes there.
//!
//! ours = the label `reeve.owner` is `project@node`, never a name. bollard's types and the engine's JSON do not leave
//! this module. It decides nothing: it reads (`view`), does what an action says (`execute`) and says when a look is
//! worthwhile (`watch`).
//!
//! - `connection`, `error`: the way to the engine, limits, what can go wrong
//! - `wire`, `convert`, `view`, `memory`, `dirty`: reading
//! - `execute`, `containers`, `create`, `mounts`, `pull`, `credentials`: changing
//! - `watch`, `stops`: events
//! - `adoptable`: containers that somebody else made, compared with what the spec says
//! - `labels`, `names`: the mark on what is ours, and what may become part of a URL

mod adoptable;
mod connection;
mod containers;
mod convert;
mod create;
mod credentials;
mod dirty;
mod error;
mod execute;
mod labels;
mod memory;
mod mounts;
mod names;
mod pull;
mod stops;
mod view;
mod watch;
mod wire;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod parts;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::query_parameters::LogsOptions;
use futures_util::StreamExt;

use crate::observed::{self, Interest};
use crate::plan::DockerAction;
use crate::plan::adoption::Candidate;
use crate::settings::DockerSettings;
use crate::spec::{Owner, Service};
use crate::world::{ActionError, ViewError, Wake};

use connection::Link;
use error::Fault;
use memory::Memory;

const LOGS_LIMIT: Duration = Duration::from_secs(10);
/// The last lines are wanted, not a container's whole past.
const LOGS_BYTES: usize = 1 << 20;

/// One engine, as one owner sees it. Cheap to clone.
#[derive(Clone)]
pub struct Docker {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    memory: Mutex<Memory>,
    /// Looks wait for each other.
    looking: tokio::sync::Mutex<()>,
    /// Everything is listed again after so long.
    relist: Duration,
    owner: Owner,
    /// `project@node`.
    mark: String,
    /// Where the user's registry credentials are.
    config: Option<PathBuf>,
}

impl Docker {
    /// Connects nobody: the first call does, and again after the engine was away. `relist`: how long a look may go by what
    /// has changed alone, while the engine's events are followed.
    pub fn new(settings: &DockerSettings, owner: Owner, relist: Duration) -> Self {
        let inner = Inner {
            link: Link::new(settings),
            memory: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            relist,
            mark: owner.to_string(),
            owner,
            config: settings.config.clone(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Everything of the engine that matters for this interest. Ends within `VIEW_TIMEOUT`. An error means that nothing
    /// is known, never that nothing is there.
    pub async fn view(&self, interest: &Interest) -> Result<observed::Docker, ViewError> {
        let Inner { link, memory, mark, looking, relist, .. } = &*self.inner;
        let _one_at_a_time = looking.lock().await;
        view::Viewer { link, memory, mark, relist: *relist }.view(interest).await
    }

    /// Of what the next look would still believe: when it was listed.
    pub fn listed_at(&self) -> Option<Instant> {
        self.inner.memory.lock().unwrap_or_else(PoisonError::into_inner).listed_at()
    }

    /// Every container without a mark, compared with what the spec says of the service.
    ///
    /// # Errors
    /// The engine cannot be read, or does not have the service's image.
    pub async fn candidates(&self, service: &Service) -> Result<Vec<Candidate>, ViewError> {
        let Inner { link, owner, .. } = &*self.inner;
        adoptable::Comparer { link, owner }.candidates(service).await
    }

    /// Does one action. Doing it again is harmless.
    pub async fn execute(&self, action: &DockerAction) -> Result<(), ActionError> {
        let Inner { link, owner, mark, config, memory, .. } = &*self.inner;
        let memory = || memory.lock().unwrap_or_else(PoisonError::into_inner);
        let adopted = memory().adopted.clone();
        let stops = match action {
            DockerAction::StopContainer { id, .. } | DockerAction::RemoveContainer { id, .. } => Some(id),
            _ => None,
        };
        let seen_ours = stops.is_some_and(|id| memory().saw_ours(id));
        let executor = execute::Executor { link, owner, mark, config: config.as_deref(), adopted: &adopted, seen_ours };
        if let Some(id) = stops {
            memory().stopping(id, true);
        }
        let result = executor.execute(action).await;
        if let Some(id) = stops {
            memory().stopping(id, false);
        }
        // The next look may come before the engine's event of it.
        memory().told(dirty::of_action(action));
        result
    }

    /// Sends a signal (`HUP`) to one of our containers. One that is gone, or does not run, needs none: success.
    pub async fn signal(&self, id: &str, name: &str, signal: &str) -> Result<(), ActionError> {
        let Inner { link, owner, mark, config, memory, .. } = &*self.inner;
        let adopted = memory.lock().unwrap_or_else(PoisonError::into_inner).adopted.clone();
        let executor =
            execute::Executor { link, owner, mark, config: config.as_deref(), adopted: &adopted, seen_ours: false };
        executor.signal_container(id, name, signal).await
    }

    /// Wakes on every change that concerns us or could, and after every new connection to the engine's events. Never
    /// returns.
    pub async fn watch(&self, wake: Wake) {
        let Inner { link, memory, mark, .. } = &*self.inner;
        watch::Watcher { link, memory, mark, wake }.run().await;
    }

    /// The last lines that a container wrote to either output.
    pub async fn logs(&self, container: &str, lines: usize) -> Result<String, ViewError> {
        let error = |why: &dyn std::fmt::Display| ViewError(format!("logs of container {container}: {why}"));
        if !names::is_name(container) {
            return Err(error(&"this is no container's name"));
        }
        let options = LogsOptions { stdout: true, stderr: true, tail: lines.to_string(), ..LogsOptions::default() };
        let work = async |connection: Arc<connection::Connection>| {
            let mut output = std::pin::pin!(connection.client.logs(container, Some(options)));
            let mut text = Vec::new();
            while let Some(part) = output.next().await {
                text.extend_from_slice(part.map_err(Fault::from)?.as_ref());
                if text.len() > LOGS_BYTES {
                    text.truncate(LOGS_BYTES);
                    break;
                }
            }
            Ok::<_, Fault>(String::from_utf8_lossy(&text).into_owned())
        };
        self.inner.link.call(LOGS_LIMIT, work).await.map_err(|fault| error(&fault))
    }
}
