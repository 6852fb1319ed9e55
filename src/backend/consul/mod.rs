//! The consul backend: one thin client of the local agent's HTTP API.
//!
//! - `http`: address, TLS, token, limits, failures in words; `lanes`: how many watches, and on which connections
//! - `wire`: Consul's JSON, and the way to `observed`'s words
//! - `view`: one look at the agent and the catalog; `kept`, `again`: at what has changed alone; `registered`: after
//!   registrations of our own
//! - `answers`: what templates ask for
//! - `memory`: since when something is so, between two looks
//! - `execute`: what an action does
//! - `watch`: blocking queries that wake the loop
//!
//! Own registrations are read from the agent, which answers with what was just written; endpoints are read from the
//! catalog, which only a leader can vouch for. Nothing without our owner in its `Meta` is changed: every write first
//! reads the record that it is about. reeve never deregisters a node, and never sends `replace-existing-checks`, which
//! lifts maintenance.

mod again;
mod answers;
mod execute;
#[cfg(test)]
mod fake;
mod http;
mod kept;
mod lanes;
mod memory;
mod registered;
#[cfg(test)]
mod tests;
mod view;
mod watch;
mod wire;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::observed::Dependency;
use crate::settings::ConsulSettings;
use crate::spec::Owner;
use crate::world::ViewError;

pub(super) use http::chain;

const RELIST: Duration = Duration::from_secs(30);

/// The local agent. Clones share connections and memory.
#[derive(Clone)]
pub struct Consul {
    client: http::Client,
    owner: Arc<Owner>,
    /// What tells this machine from another one that has its name; `None`: nothing does.
    host: Option<Arc<str>>,
    memory: Arc<Mutex<memory::Memory>>,
    kept: Arc<Mutex<kept::Memory>>,
    /// How many looks have begun: a watch may wait for the next one.
    looks: tokio::sync::watch::Sender<u64>,
    /// Looks wait for each other: an older one must not overwrite what a newer one keeps.
    looking: Arc<tokio::sync::Mutex<()>>,
    /// Everything is read again after so long.
    relist: Duration,
    /// Names of the Consul services under which ours are registered, from the last view: the watches follow them.
    own_names: tokio::sync::watch::Sender<BTreeSet<String>>,
    /// What templates asked for in the last view: the watches follow it, too.
    asked: tokio::sync::watch::Sender<BTreeSet<Dependency>>,
}

impl Consul {
    /// Sends nothing.
    ///
    /// # Errors
    /// Only malformed settings and TLS files that cannot be used, named by their key.
    pub fn new(settings: &ConsulSettings, owner: Owner) -> Result<Self, ViewError> {
        Ok(Self {
            client: http::Client::new(settings)?,
            owner: Arc::new(owner),
            host: None,
            memory: Arc::default(),
            kept: Arc::default(),
            looks: tokio::sync::watch::Sender::default(),
            looking: Arc::default(),
            relist: RELIST,
            own_names: tokio::sync::watch::Sender::default(),
            asked: tokio::sync::watch::Sender::default(),
        })
    }

    /// How long a look may go by what has changed alone, while everything that matters is watched.
    pub fn that_reads_everything_after(mut self, relist: Duration) -> Self {
        self.relist = relist;
        self
    }

    /// Of what the next look would still believe: when it was read.
    pub fn read_at(&self) -> Option<Instant> {
        self.keeping(|memory| memory.read_at())
    }

    fn keeping<T>(&self, work: impl FnOnce(&mut kept::Memory) -> T) -> T {
        // As below.
        work(&mut self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Marks what it writes with this machine, too, and leaves alone what another one has written under the same mark.
    #[must_use]
    pub fn on_host(self, host: Option<String>) -> Self {
        Self { host: host.map(Arc::from), ..self }
    }

    fn remembering<T>(&self, work: impl FnOnce(&mut memory::Memory) -> T) -> T {
        // A panic elsewhere cannot leave the memory half-written: its methods only replace whole values.
        work(&mut self.memory.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}
