//! The spec: the desired state, parsed, interpolated, merged, validated.
//!
//! Owns the types that the rest of the program reads (this file) and the way from YAML text to them (the submodules).
//! It must not know how the world looks, nor do IO beyond reading the files that it is given (`load`), so that
//! `validate` works offline and the planner can be tested with text alone.

pub mod container;
mod credential;
pub mod diagnostic;
pub mod discovery;
mod dotenv;
mod interpolate;
pub mod load;
#[cfg(test)]
mod load_tests;
pub(crate) mod merge;
pub(crate) mod names;
mod read;
mod resolved;
mod schema;
mod shape;
pub mod stored;
pub(crate) mod suggest;
pub(crate) mod table;
pub mod template;
pub(crate) mod tree;
pub(crate) mod units;
pub mod upstream;
mod validate;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use container::{ConfigHash, ContainerConfig, Port, Protocol};
pub use credential::mask;
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use discovery::Discovery;
pub use load::{LoadOptions, Loaded, load, load_text, schema};
pub(crate) use read::{container_ports, words};
pub(crate) use shape::pick;
pub use template::Template;
pub use upstream::Upstream;

/// The desired state of one project, complete: every default is filled in, every reference checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// The project's name (Compose: `name`), `[a-z0-9][a-z0-9_-]*`.
    pub project: String,
    pub services: BTreeMap<String, Service>,
    /// By Docker's name of the network (`<project>_<key>`, or the `name` that the spec gives).
    pub networks: BTreeMap<String, Network>,
    /// By Docker's name of the volume.
    pub volumes: BTreeMap<String, Volume>,
    pub upstreams: BTreeMap<String, Upstream>,
    /// Containers that reeve did not make are registered; `None`: they are not.
    pub discovery: Option<Discovery>,
    pub templates: BTreeMap<String, Arc<Template>>,
    /// Digest of everything above. A pin that allows a mass removal names it, and `apply` compares it with the daemon's.
    pub digest: String,
}

impl Spec {
    /// The canonical form: every default filled in, secrets as digests, keys sorted.
    pub fn resolved(&self) -> serde_json::Value {
        resolved::resolved(self)
    }

    /// The spec in which the project wants nothing: what `destroy` plans against.
    pub fn empty(project: &str) -> Self {
        Self {
            project: project.to_owned(),
            services: BTreeMap::new(),
            networks: BTreeMap::new(),
            volumes: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            discovery: None,
            templates: BTreeMap::new(),
            digest: "empty".to_owned(),
        }
    }
}

/// The mark on everything that reeve makes: `project@node`. Nothing with another mark, or none, is touched.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    pub project: String,
    pub node: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.project, self.node)
    }
}

/// Containers of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub replicas: u32,
    /// What `hash` covers. A different hash means replace.
    pub config: Arc<ContainerConfig>,
    pub hash: ConfigHash,
    pub pull_policy: PullPolicy,
    pub depends_on: BTreeMap<String, Dependency>,
    /// Some `depends_on` names it with `service_completed_successfully`: exit 0 is its desired state.
    pub job: bool,
    pub update: UpdateConfig,
    /// How long `stop` waits between the stop signal and SIGKILL. Compose's default: 10 s.
    pub stop_grace_period: Duration,
    pub register: Vec<Register>,
    /// Set by a rollback alone: the image with this id, whatever `config.image` points at by now.
    pub image_id: Option<String>,
}

/// What the engine takes for a HEALTHCHECK that does not say: interval and timeout, and how many failures in a row.
const HEALTHCHECK_TIME: Duration = Duration::from_secs(30);
const HEALTHCHECK_RETRIES: u32 = 3;
/// A new replica gets no less than this to be ready.
const SHORTEST_DEADLINE: Duration = Duration::from_secs(60);

impl Service {
    /// How long a new replica may take to be ready, from its creation: what the spec says, else twice what its HEALTHCHECK
    /// and its declared checks can take, and a minute at least. `image_checks`: the image has a HEALTHCHECK of its own.
    pub fn deadline(&self, image_checks: bool) -> Duration {
        if let Some(deadline) = self.update.deadline {
            return deadline;
        }
        let declared = self.config.healthcheck.as_ref();
        let disabled = declared
            .and_then(|check| check.test.as_ref())
            .is_some_and(|test| test.first().is_none_or(|word| word == "NONE"));
        let own = declared.is_some_and(|check| check.test.is_some()) || image_checks;
        let health = if own && !disabled {
            let time = |given: Option<Duration>| given.unwrap_or(HEALTHCHECK_TIME);
            let once = time(declared.and_then(|check| check.interval))
                .saturating_add(time(declared.and_then(|check| check.timeout)));
            let retries = declared.and_then(|check| check.retries).unwrap_or(HEALTHCHECK_RETRIES);
            let start = declared.and_then(|check| check.start_period).unwrap_or_default();
            start.saturating_add(once.saturating_mul(retries.max(1)))
        } else {
            Duration::ZERO
        };
        let checks = self.register.iter().filter_map(|register| register.check.as_ref());
        let check = checks.map(|check| check.interval.saturating_add(check.timeout)).max().unwrap_or_default();
        health.saturating_add(check).saturating_mul(2).max(SHORTEST_DEADLINE)
    }

    /// Digest of all that the spec says of the service itself, but for what a rolled back one shares with its successor: how
    /// many replicas there are, and whether it is a job. Pins are compared by it: a failed roll-out can lie in the
    /// registration's check or in a deadline as well as in the container.
    ///
    /// A key that is added later must not change the digest of a service that does not set it, or every pin dies when
    /// reeve is upgraded.
    pub fn digest(&self) -> String {
        let Self {
            name: _,
            replicas: _,
            config: _,
            hash,
            pull_policy,
            depends_on,
            job: _,
            update,
            stop_grace_period,
            register,
            image_id: _,
        } = self;
        let said = (hash.as_str(), pull_policy, depends_on, update, stop_grace_period, register);
        let text = serde_json::to_string(&said).expect("maps have string keys and no value can fail to serialise");
        ConfigHash::of(&text).as_str().to_owned()
    }

    /// How the engine is asked for its image: by the id of a rollback, else by the reference.
    pub fn image(&self) -> &str {
        self.image_id.as_deref().unwrap_or(&self.config.image)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// Pull before every creation of a container.
    Always,
    /// Pull only what the engine does not have.
    #[default]
    Missing,
    Never,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub condition: DependencyCondition,
    /// `false`: a dependency that is not there (its profile is off) holds nothing.
    pub required: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyCondition {
    Started,
    Healthy,
    CompletedSuccessfully,
}

/// Compose's `deploy.update_config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateConfig {
    /// `None`: decided by what the service is, see `plan::order`.
    pub order: Option<UpdateOrder>,
    /// How many replicas are replaced at once; 0 means all. Compose's default: 1.
    pub parallelism: u32,
    pub delay: Duration,
    /// How long a new replica is watched before it counts as good. Compose's default: 5 s when set by nobody: 0 here.
    pub monitor: Duration,
    /// How long a new replica may take to be ready. `None`: see [`Service::deadline`].
    pub deadline: Option<Duration>,
    pub failure_action: FailureAction,
}

impl Default for UpdateConfig {
    fn default() -> Self {
        Self {
            order: None,
            parallelism: 1,
            delay: Duration::ZERO,
            monitor: Duration::ZERO,
            deadline: None,
            failure_action: FailureAction::Pause,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateOrder {
    StartFirst,
    StopFirst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureAction {
    Pause,
    Continue,
    Rollback,
}

/// One entry that each replica of a service gets in Consul.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    /// Name of the Consul service. Default: the service's name.
    pub name: String,
    /// Container port.
    pub port: u16,
    pub protocol: Protocol,
    pub address: RegisterAddress,
    pub tags: Vec<String>,
    pub meta: BTreeMap<String, String>,
    /// `None`: only the HEALTHCHECK's state (if there is one) and the node's health count.
    pub check: Option<Check>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegisterAddress {
    /// The advertise address (or the host IP that the port is published on) and the host port.
    Published,
    /// The container's own address and the container port.
    Container,
    /// This address, and the host port when the port is published, else the container port.
    Fixed(String),
}

/// The check that the spec declares for a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub kind: CheckKind,
    pub interval: Duration,
    pub timeout: Duration,
    /// Consul removes a registration that was critical for so long. Consul's minimum: 1 minute.
    pub deregister_after: Option<Duration>,
    pub address: CheckAddress,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// GET of this path; 2xx passes.
    Http {
        path: String,
    },
    Tcp,
    /// gRPC health protocol, for this service name (may be empty).
    Grpc {
        service: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckAddress {
    /// The container's own address when the agent can reach it, else the registered one.
    Auto,
    Registered,
    Container,
}

/// A network that the spec declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Docker's name.
    pub name: String,
    /// Not made and not removed by reeve; it must exist.
    pub external: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_opts: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub internal: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub attachable: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub enable_ipv6: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipam: Vec<IpamPool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipam_driver: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IpamPool {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux_addresses: BTreeMap<String, String>,
}

/// A volume that the spec declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Docker's name.
    pub name: String,
    pub external: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_opts: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

pub(crate) fn is_false(value: &bool) -> bool {
    !*value
}
