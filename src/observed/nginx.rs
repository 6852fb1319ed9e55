//! nginx as it was read: its process, what is loaded, and the generations on disk.
//!
//! Owns these types and what follows from them alone: a generation's name, and which one is in force. What is to be done
//! about it is the planner's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Shared;
use crate::spec::upstream::{Listen, Upstream};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nginx {
    /// `1.22.1`.
    pub version: String,
    /// The line that the main configuration must contain, and whether it does.
    pub include_line: String,
    pub included: bool,
    /// Path of the main configuration.
    pub config: String,
    /// `worker_shutdown_timeout` of the main configuration; without one, a worker that is shutting down lives until its
    /// last connection closes.
    pub worker_shutdown_timeout: Option<String>,
    /// Whether this nginx can balance by Lua; if not, why, in words.
    pub lua: Result<(), String>,
    /// Looked at only where Lua is asked for.
    pub http: HttpBlock,
    pub process: NginxProcess,
    /// What `current` points at.
    pub current: Option<GenerationId>,
    pub generations: BTreeMap<GenerationId, Generation>,
    pub loaded: Loaded,
    /// Sources of the templates that `current` and the loaded generations were rendered from, by digest.
    pub templates: BTreeMap<String, Arc<str>>,
    /// Since when this process has seen exactly that. A restart only makes it later, which only prolongs a wait.
    pub loaded_since: Timestamp,
    /// Since when this process has seen it route exactly so: where Lua balances, endpoints change while the generation stays.
    pub routed_since: Timestamp,
    /// Generations of workers that are shutting down but still alive.
    pub retiring_workers: usize,
    /// For each listen address of the interest that the loaded generation does not hold: can it be bound?
    pub listens: BTreeMap<Listen, ListenState>,
    /// Digests of the TLS files that the upstreams of the interest name, by upstream and path; an unreadable one is an
    /// error in words.
    pub tls: BTreeMap<String, BTreeMap<String, Result<String, String>>>,
}

impl Nginx {
    /// The generation that is in force or should be: the loaded one, else the current one, else the newest one that nginx
    /// has accepted.
    pub fn accepted(&self) -> Option<(&GenerationId, &Generation)> {
        let loaded = match &self.loaded {
            Loaded::Generation(id) => self.generations.get_key_value(id),
            Loaded::Nothing | Loaded::Mixed(_) | Loaded::Stranger(_) => None,
        };
        let good = |(_, generation): &(&GenerationId, &Generation)| generation.rejected.is_none();
        let current = || self.current.as_ref().and_then(|id| self.generations.get_key_value(id)).filter(good);
        let newest = || self.generations.iter().filter(good).max_by_key(|(id, one)| (one.created_at, *id));
        loaded.or_else(current).or_else(newest)
    }

    /// What stands for nginx with `nginx.mode: off`: nothing of ours is loaded, and never will be.
    pub fn off(now: Timestamp) -> Self {
        Self {
            version: String::new(),
            include_line: String::new(),
            included: true,
            config: String::new(),
            process: NginxProcess::Stopped,
            current: None,
            generations: BTreeMap::new(),
            loaded: Loaded::Nothing,
            templates: BTreeMap::new(),
            loaded_since: now,
            routed_since: now,
            retiring_workers: 0,
            listens: BTreeMap::new(),
            tls: BTreeMap::new(),
            worker_shutdown_timeout: None,
            lua: Err("nginx is not managed".to_owned()),
            http: HttpBlock::default(),
        }
    }

    /// `nginx.mode: off`.
    pub fn unmanaged(&self) -> bool {
        self.config.is_empty()
    }
}

/// What the user's own `http` block says that a generation has to heed whose upstreams Lua balances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HttpBlock {
    /// It says how often memory is given back (`lua_malloc_trim`), which ours would override.
    pub trims: bool,
    /// It says something that could change the answer of an upstream that only the balancer finds empty: an `error_page`, a
    /// cache, a rule of access, Lua, or what nobody knows.
    pub meddles: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NginxProcess {
    Stopped,
    Running {
        master: i32,
    },
    /// Workers serve, but their master is gone: they go on serving and block the ports.
    Orphans {
        pids: Vec<i32>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// Nothing answers on the probe port: no generation is loaded.
    Nothing,
    /// Every live worker runs it.
    Generation(GenerationId),
    /// More than one answered: a reload is under way, or was lost half-way.
    Mixed(BTreeSet<GenerationId>),
    /// The probe port answers something that is not ours.
    Stranger(String),
}

/// `<hash>-<n>`: the digest of what it was rendered from, and a number that tells a rewritten one from an edited one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct GenerationId {
    pub hash: String,
    pub number: u32,
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash, self.number)
    }
}

impl GenerationId {
    /// The reverse of `Display`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (hash, number) = text.rsplit_once('-')?;
        let plain = !hash.is_empty() && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = number.parse().ok()?;
        plain.then(|| Self { hash: hash.to_owned(), number })
    }
}

/// One generation on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    pub manifest: Arc<Manifest>,
    /// Names of files whose bytes are not the manifest's (edited), that are missing, or that do not belong. With
    /// `manifest.json` among them the manifest is empty, and what the generation routes to is not known.
    pub damaged: Vec<String>,
    pub created_at: Timestamp,
    /// nginx refused it, in the check or when it should load it.
    pub rejected: Option<Rejection>,
    /// The files' present text, by name; only of the generation that `current` points at.
    pub files: BTreeMap<String, Arc<str>>,
    /// Of a generation that is balanced by Lua: where its endpoints stand. Those in the manifest are then the ones in
    /// force, or, of a generation that is not loaded, the ones that nginx would load.
    pub endpoints: Option<EndpointsSeen>,
}

/// The endpoints of a generation that is balanced by Lua, as hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointsSeen {
    /// Of the file that nginx loads at its start; `None`: it is not there, or was edited.
    pub file: Option<String>,
    /// Of those that nginx routes to; `None`: the generation is not loaded.
    pub loaded: Option<String>,
}

/// Who balances the upstreams of a generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Balancer {
    /// nginx itself: the endpoints stand in its configuration, and a change of them is a reload.
    #[default]
    Nginx,
    /// A small program in Lua: the endpoints can be set while nginx runs.
    Lua,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// nginx's own message.
    pub message: String,
    pub at: Timestamp,
    pub stage: Stage,
}

/// What nginx refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// The check (`nginx -t`): nothing of it was ever in force.
    #[default]
    Check,
    /// The load, after it had passed the check: what was loaded before stayed in force.
    Load,
    /// The start of nginx, after it had passed the check: nothing is in force.
    Start,
}

/// `manifest.json` of a generation: what it was rendered from, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub owner: String,
    /// Digest of the template's source.
    pub template: String,
    pub upstreams: BTreeMap<String, RoutedUpstream>,
    #[serde(default, skip_serializing_if = "by_nginx")]
    pub balancer: Balancer,
    /// SHA-256 of each file, by name.
    pub files: BTreeMap<String, String>,
    /// The upstreams in which it differs from what was in force when it was made (one that it lacks, too): should nginx
    /// refuse it, one of them is at fault. With how often nginx had refused this very content before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub suspects: BTreeMap<String, u32>,
    /// How often nginx had refused this template before.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub template_refused: u32,
}

/// An upstream with the endpoints that it routes to: all that a generation is rendered from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RoutedUpstream {
    pub upstream: Shared<Upstream>,
    /// Sorted, so that equal sets render equal bytes.
    pub endpoints: Shared<Vec<Endpoint>>,
    /// Digests of the TLS files: renewed files are a new generation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
}

/// One `address:port` that nginx sends requests to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    pub address: String,
    pub port: u16,
    #[serde(default = "one")]
    pub weight: u32,
    /// Container id, when it is one of our replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
fn by_nginx(balancer: &Balancer) -> bool {
    *balancer == Balancer::Nginx
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.contains(':') {
            write!(f, "[{}]:{}", self.address, self.port)
        } else {
            write!(f, "{}:{}", self.address, self.port)
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenState {
    Free,
    /// The system's words.
    Taken(String),
}
