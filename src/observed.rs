//! The observed world: what was read from Docker, Consul, nginx and reeve's folder, as plain data.
//!
//! Owns the types only. Nothing here asks anybody anything, and nothing here decides: selection among duplicates, what is
//! stale, what is to be done are the planner's. Every map is sorted, so that the order in which a backend lists
//! things can never change a plan.

mod directory;
mod discovered;
mod nginx;
mod refused;
mod shared;
mod templates;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use litemap::LiteMap;
use serde::{Deserialize, Serialize};

use crate::spec::container::{ConfigHash, NetworkAttachment, Protocol, Secret};
use crate::spec::upstream::{CatalogQuery, Listen};
use crate::spec::{Check, Owner, Template};

pub use directory::{Adopted, Configuration, Directory, Kept, Pin, same_image};
pub use discovered::{DISCOVERED, Discovered};
pub use nginx::{
    Balancer, Endpoint, EndpointsSeen, Generation, GenerationId, HttpBlock, ListenState, Loaded, Manifest, Nginx,
    NginxProcess, Rejection, RoutedUpstream, Stage,
};
pub use refused::{Refused, RefusedNew};
pub use shared::Shared;
pub use templates::{
    Answer, Answers, Dependency, Destination, FileSeen, TemplateFailure, TemplateRecord, TemplateSeen, TemplateStage,
    Templates,
};

/// A backend's answer. `Unknown` is not empty: nothing that depends on it may be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View<T> {
    Known(T),
    /// Why, for the person who reads it, and since when the backend could not be read.
    Unknown {
        reason: String,
        since: Timestamp,
    },
}

impl<T> View<T> {
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }

    pub fn known_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Unknown { .. } => None,
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Unknown { reason, .. } => Some(reason),
        }
    }
}

/// Everything that a pass sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    pub docker: View<Docker>,
    pub consul: View<Consul>,
    pub nginx: View<Nginx>,
    pub directory: View<Directory>,
    pub host: Host,
    pub templates: Templates,
}

/// The machine that reeve runs on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Every address of every interface.
    pub addresses: BTreeSet<IpAddr>,
    /// The source address of the default route, if there is one.
    pub default_route: Option<IpAddr>,
    /// What the kernel calls it.
    pub name: String,
}

// ---------------------------------------------------------------------------------------------- Docker

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Docker {
    /// `1.41`.
    pub api_version: String,
    /// Ours, by Docker's id.
    pub containers: BTreeMap<String, Container>,
    /// All others, by id: they hold names, host ports and addresses that we must not want.
    pub strangers: BTreeMap<String, Stranger>,
    /// Those of the others that discovery is to look at, by id: running, and without any mark of reeve's. Empty unless the
    /// interest asks for them.
    pub discovered: BTreeMap<String, Discovered>,
    /// Every network of the engine that the spec names or that is ours, by Docker's name.
    pub networks: BTreeMap<String, NetworkSeen>,
    /// Every volume that the spec names or that is ours, by Docker's name.
    pub volumes: BTreeMap<String, VolumeSeen>,
    /// By the reference that the spec uses. Missing: the engine does not have it.
    pub images: BTreeMap<String, ImageSeen>,
    /// Our containers that are good again after having been bad again and again, by id: not to be taken back before.
    pub flapping: BTreeMap<String, Timestamp>,
}

/// One of our containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    /// Without the leading slash.
    pub name: String,
    pub service: String,
    /// From 1.
    pub slot: u32,
    pub hash: ConfigHash,
    /// The label `reeve.config`: canonical JSON.
    pub config: String,
    /// Id of the image that it was made from, by the label.
    pub image_id: String,
    /// Host ports that the planner chose when it was made, by the label.
    pub chosen_ports: Vec<ChosenPort>,
    /// The label `reeve.registers`: its service registered when it was made.
    pub registers: bool,
    /// The label `reeve.depends_on`: services that its service depended on when it was made. A service that left the spec
    /// is taken down before those.
    pub depends_on: BTreeSet<String>,
    pub state: ContainerState,
    pub health: Health,
    /// Networks that it is attached to, by Docker's name.
    pub networks: Networks,
    /// What Docker really publishes now; ephemeral host ports are here.
    pub published: Vec<PublishedPort>,
    /// What reeve's own probe of the declared check said, for a container without HEALTHCHECK that is not registered yet.
    /// `None`: not probed.
    pub probe: Option<Probe>,
    pub created_at: Option<Timestamp>,
    /// How often Docker has started it again by its restart policy since somebody last started it.
    pub restarts: u32,
    /// What it says for itself while it is in trouble.
    pub trouble: Option<Arc<Trouble>>,
    /// `network_mode: host`, `container:…` and `none` have no address of their own.
    pub network_mode: String,
}

/// By Docker's name of the network. A sorted list: nearly every container has one, for which a tree takes a node of a
/// kilobyte, and ten thousand of those are what a pass then waits for.
pub type Networks = LiteMap<String, NetworkEndpoint>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running {
        started_at: Timestamp,
    },
    Paused {
        started_at: Timestamp,
    },
    /// It has ended, and Docker is about to start it again by its restart policy, or has not told yet whether it does.
    Restarting,
    Exited {
        code: i64,
        started_at: Option<Timestamp>,
        finished_at: Option<Timestamp>,
    },
    /// Docker is taking it away.
    Removing,
    /// Docker could not; only removing it helps.
    Dead,
}

impl ContainerState {
    pub fn running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// No HEALTHCHECK.
    None,
    Starting,
    Healthy,
    /// With the last probe's output.
    Unhealthy(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    Passing,
    /// Why, for the person who reads it.
    Failing(String),
}

/// Of a container that exited, is unhealthy, or is not ready for a while. Secrets of the spec are masked in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trouble {
    /// What the last failed probe said: the HEALTHCHECK's output, as far as it is kept.
    pub probe: Option<String>,
    /// The last lines that it wrote to either output.
    pub log: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkEndpoint {
    pub network_id: String,
    /// None while the container does not run.
    pub address: Option<IpAddr>,
    pub address6: Option<IpAddr>,
    pub gateway: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ChosenPort {
    /// Container port.
    pub target: u16,
    pub protocol: Protocol,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// 0: Docker chooses.
    pub host: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedPort {
    pub target: u16,
    pub protocol: Protocol,
    /// `0.0.0.0` and `::` mean every address.
    pub host_ip: Option<IpAddr>,
    pub host: u16,
}

/// A container without our mark.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stranger {
    pub name: String,
    /// Our mark's label, when it is another owner's.
    pub owner: Option<String>,
    pub running: bool,
    pub published: Vec<PublishedPort>,
    /// Addresses by Docker's name of the network.
    pub networks: Networks,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSeen {
    pub id: String,
    pub name: String,
    /// It carries our mark.
    pub ours: bool,
    /// The label `reeve.config`: canonical JSON of `spec::Network`.
    pub config: Option<String>,
    pub gateway: Option<IpAddr>,
    /// How many containers are attached to it.
    pub attached: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSeen {
    pub name: String,
    pub ours: bool,
    pub config: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSeen {
    pub id: String,
    /// The image itself has a HEALTHCHECK.
    pub healthcheck: bool,
    /// Ports that it exposes.
    pub exposed: Vec<(u16, Protocol)>,
}

// ---------------------------------------------------------------------------------------------- Consul

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Consul {
    pub agent: Agent,
    /// `address:port` of the leader; none: no election is won, nothing can be registered for good.
    pub leader: Option<String>,
    /// `address:port` of the Raft peers.
    pub peers: Vec<String>,
    /// How many servers may fail without losing the quorum, by the autopilot: a server that is back among the peers is
    /// not a voter for another minute. `None`: not told.
    pub failure_tolerance: Option<u32>,
    pub nodes: Vec<Node>,
    /// Names of the services in the catalog, with their tags.
    pub services: Shared<BTreeMap<String, Vec<String>>>,
    /// Ours, from the agent (read-your-writes), by id.
    pub registrations: BTreeMap<String, Registration>,
    /// Ids at the agent that are not ours.
    pub strangers: Shared<BTreeMap<String, StrangerRegistration>>,
    /// One answer for each query of the interest.
    pub catalog: BTreeMap<CatalogQuery, View<Catalog>>,
    /// Ids of our registrations that are in the agent and, for longer than a moment, not in the catalog.
    pub unsynced: BTreeMap<String, Timestamp>,
    /// Ids of our registrations with a check that has run and does not pass, and since when that is seen: a registration
    /// begins as passing, so that a check which never passed looks like one that just stopped to.
    pub failing: BTreeMap<String, Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Agent {
    pub node: String,
    pub node_id: String,
    pub datacenter: String,
    pub version: String,
    pub address: Option<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    pub name: String,
    pub address: String,
    /// Status of its serf check: `passing`, `critical`; empty when not known.
    pub status: String,
}

/// One of our entries in the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    pub id: String,
    /// Name of the Consul service.
    pub name: String,
    pub address: String,
    pub port: u16,
    pub tags: Vec<String>,
    /// Without the keys of reeve itself.
    pub meta: BTreeMap<String, String>,
    /// From `Meta`: the spec's service, the slot, the container's id.
    pub service: String,
    pub slot: u32,
    pub container: String,
    /// From `Meta`: digest of the declared check's definition, so that a changed one is seen.
    pub check_digest: Option<String>,
    /// From `Meta`: when nginx was first seen not routing to it while it drained.
    pub drain_start: Option<Timestamp>,
    pub maintenance: Maintenance,
    /// By check id, maintenance checks left out.
    pub checks: Checks,
}

impl Registration {
    /// Discovery registered it, for a container that reeve did not make.
    pub fn discovered(&self) -> bool {
        self.service == DISCOVERED
    }

    /// The check that has run and does not pass, and nobody asked for that.
    pub fn failing(&self) -> Option<&CheckSeen> {
        let failing = |check: &&CheckSeen| check.status != CheckStatus::Passing && !check.output.is_empty();
        self.checks.values().find(failing).filter(|_| self.maintenance == Maintenance::Off)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Maintenance {
    Off,
    /// Ours: the reason begins with `reeve: `.
    Draining {
        reason: String,
    },
    /// Somebody's: unrouted, shown, never lifted.
    Operator {
        reason: String,
    },
}

/// By id; a sorted list like [`Networks`].
pub type Checks = LiteMap<String, CheckSeen>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckSeen {
    pub status: CheckStatus,
    pub output: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckStatus {
    Passing,
    Warning,
    Critical,
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// Behind the owner of what another machine has registered under our own mark.
pub const OTHER_HOST: &str = " on another host of this name";

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StrangerRegistration {
    pub name: String,
    /// The owner in its `Meta`, when it is another of reeve's; or ours, and [`OTHER_HOST`].
    pub owner: Option<String>,
}

/// The answer to a `CatalogQuery`: every instance, with what Consul says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalog {
    pub instances: Shared<Vec<Instance>>,
    /// When the set of passing instances last lost one, or since when this process watches: an answer that is suddenly
    /// small is not believed until it has lasted.
    pub shrunk_at: Timestamp,
    /// When it could be read again after it could not: what it says then may be of the time in which the agent was cut off.
    /// `None`: this process has seen no such gap.
    pub returned_at: Option<Timestamp>,
    /// The same for instances, by node and id, as `Docker::flapping`.
    pub flapping: BTreeMap<(String, String), Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Registration id.
    pub id: String,
    pub node: String,
    /// The service's address, else the node's.
    pub address: String,
    pub port: u16,
    pub passing: bool,
    /// It does not pass, and no check that has run says so: the node is not known to be alive, or an agent that has just
    /// started begins each of its checks as critical. Seen: for as long as the check's interval, although all serve.
    pub doubtful: bool,
    /// Service or node maintenance, whoever's.
    pub maintenance: bool,
    pub weight: u32,
    /// The owner in its `Meta`, if it is one of reeve's (ours or another's).
    pub owner: Option<String>,
    /// Container id in its `Meta`.
    pub container: Option<String>,
    /// Why it does not pass, or is in maintenance, for the person who reads it. Nothing is decided by it.
    pub trouble: Option<String>,
}

// ---------------------------------------------------------------------------------------------- what to look at

/// What an observation has to look at, derived from the spec alone. It says where to look, never what to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interest {
    pub owner: Owner,
    /// Docker's names.
    pub networks: BTreeSet<String>,
    pub volumes: BTreeSet<String>,
    /// References as the spec writes them.
    pub images: BTreeSet<String>,
    pub catalog: BTreeSet<CatalogQuery>,
    /// Containers that reeve did not make are to be looked at, too.
    pub discovery: bool,
    /// Services that register with a check and whose containers must be probed by reeve when they have no HEALTHCHECK.
    pub probes: BTreeMap<String, Vec<ProbeTarget>>,
    pub listens: BTreeSet<Listen>,
    /// Credentials, by service: what a container writes must not show them.
    pub secrets: BTreeMap<String, Vec<Secret>>,
    /// Files whose digest matters (TLS certificates and keys), by upstream.
    pub tls_files: BTreeMap<String, Vec<std::path::PathBuf>>,
    /// Containers without our mark that are replicas, by id.
    pub adopted: BTreeMap<String, Adopted>,
    /// What they ask for is found by running them.
    pub templates: BTreeMap<String, Arc<Template>>,
}

/// A declared check, to be made once by reeve itself at the container's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeTarget {
    pub port: u16,
    pub check: Check,
}

/// Attach a container to a network, as the spec wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedAttachment {
    pub network: String,
    pub attachment: NetworkAttachment,
}

/// How long a backend may take before its view is Unknown.
pub const VIEW_TIMEOUT: Duration = Duration::from_secs(10);

/// So old what was seen may be for a pass that follows from our own writes to Consul: no older than it is in a pass whose
/// other views take their time.
pub const FRESH: Duration = Duration::from_millis(100);
