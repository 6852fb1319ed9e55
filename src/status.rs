//! The status of every service and upstream, as data and as a table. Pure.
//!
//! Owns what `reeve status`, `/v1/status` and the gauges say about the last pass. It decides nothing: every figure is
//! counted from what was observed, and every reason is the planner's. The JSON form is stable: fields are added, never
//! renamed.

mod placed;
mod table;
mod templates;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::observed::{Balancer, CheckStatus, Generation, Nginx};
use crate::observed::{
    Container, GenerationId, Health, Loaded, Maintenance, NginxProcess, Observed, Pin, Probe, Registration, View,
};
use crate::plan::{ObjectKey, Plan};
use crate::spec::{Service, Spec, Template};
use placed::Placed;
pub(crate) use placed::service_of;
pub use templates::{DependencyStatus, TemplateStatus};

/// A count that may be unknown (its backend could not be read) or make no sense (a service that does not register).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    Known(u32),
    Unknown,
    Irrelevant,
}

impl Figure {
    pub fn known(self) -> Option<u32> {
        match self {
            Self::Known(count) => Some(count),
            Self::Unknown | Self::Irrelevant => None,
        }
    }
}

impl Serialize for Figure {
    /// A number, `"unknown"`, or null when it makes no sense.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(count) => serializer.serialize_u32(*count),
            Self::Unknown => serializer.serialize_str("unknown"),
            Self::Irrelevant => serializer.serialize_none(),
        }
    }
}

impl<'de> Deserialize<'de> for Figure {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Count(u32),
            Word(serde::de::IgnoredAny),
        }
        Ok(match Option::<Form>::deserialize(deserializer)? {
            Some(Form::Count(count)) => Self::Known(count),
            Some(Form::Word(_)) => Self::Unknown,
            None => Self::Irrelevant,
        })
    }
}

/// The whole status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub project: String,
    /// Digest of the spec in force.
    pub spec: String,
    /// By name; a service that left the spec and still has containers is among them, with nothing desired.
    pub services: Vec<ServiceStatus>,
    pub upstreams: Vec<UpstreamStatus>,
    /// What discovery has registered, by id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub discovered: Vec<DiscoveredStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<TemplateStatus>,
    pub backends: Vec<BackendStatus>,
    pub nginx: Option<NginxStatus>,
    pub consul: Option<ConsulStatus>,
    /// What waits and belongs to no service or upstream.
    pub waiting: Vec<WaitingStatus>,
    /// Steps that the last plan still had.
    pub steps: usize,
    /// Complete sentences: what would make this installation better.
    pub advice: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub name: String,
    /// Exit 0 is what is wanted of it.
    pub job: bool,
    pub desired: u32,
    /// Running; of a job: running, or ended with exit 0.
    pub running: Figure,
    /// Running, and not known to be unhealthy.
    pub healthy: Figure,
    /// Replicas whose registrations all pass and are not in maintenance.
    pub registered: Figure,
    /// Replicas that every loaded generation routes to.
    pub routed: Figure,
    /// The decisions of reeve's folder that are in force for it: `hold`, `rolled_back`, `failed`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<String>,
    pub waiting: Vec<WaitingStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStatus {
    pub name: String,
    /// The Consul query in consul-template's notation; none for a redirect.
    pub query: Option<String>,
    pub listen: String,
    pub server_name: Vec<String>,
    pub path: String,
    /// `address:port` of what the loaded generation routes to; none: not known, or not loaded.
    pub endpoints: Option<Vec<String>>,
    /// The generation that nginx has loaded and that holds this upstream.
    pub generation: Option<String>,
    pub waiting: Vec<WaitingStatus>,
}

/// A registration of a container that reeve did not make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveredStatus {
    /// Id of the registration.
    pub id: String,
    /// Name of the Consul service.
    pub service: String,
    /// `address:port`.
    pub endpoint: String,
    /// `passing`, `warning`, `critical`, or `maintenance`.
    pub status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    pub name: String,
    pub known: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NginxStatus {
    pub version: String,
    /// `running`, `stopped`, `orphans`, or `off`: it is not managed.
    pub process: String,
    /// What is loaded; several while a reload is under way.
    pub loaded: Vec<String>,
    /// What `current` points at.
    pub current: Option<String>,
    /// Every live worker runs `current`.
    pub matches: bool,
    /// Generations of workers that are shutting down.
    pub retiring_workers: usize,
    /// How a change of endpoints reaches nginx: `lua`, or `reload`.
    #[serde(default)]
    pub endpoints: String,
    /// Why they are not set by Lua.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints_reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsulStatus {
    pub version: String,
    pub datacenter: String,
    /// Node name of the local agent.
    pub agent: String,
    pub leader: Option<String>,
    pub peers: Vec<String>,
    pub nodes: Vec<NodeStatus>,
    /// Tags by name of the Consul service.
    pub services: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    pub address: String,
    /// `passing`, `critical`, or `unknown`.
    pub status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingStatus {
    /// `replica shop-web-1-0a1b2c3d`.
    pub object: String,
    pub reason: String,
    /// The fixed word of metrics; `backoff` for a step that failed and is tried again.
    pub kind: String,
    /// When time alone will end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// More of it, line by line: the end of a container's log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

impl Status {
    /// Counts. `held` as in [`crate::pass::Pass::held`].
    pub fn of(spec: &Spec, observed: &Observed, plan: &Plan, held: &[(ObjectKey, String, Timestamp)]) -> Self {
        let loaded = LoadedRoutes::of(observed.nginx.known());
        let mut waiting = Placed::of(spec, observed, plan, held);
        let services = services(spec, observed, &loaded, &mut waiting.services);
        let upstreams = spec
            .upstreams
            .values()
            .map(|upstream| UpstreamStatus {
                name: upstream.name.clone(),
                query: upstream.query.as_ref().map(ToString::to_string),
                listen: upstream.listen.to_string(),
                server_name: upstream.server_name.clone(),
                path: upstream.path.clone(),
                endpoints: loaded.upstreams.get(&upstream.name).cloned(),
                generation: loaded
                    .upstreams
                    .contains_key(&upstream.name)
                    .then(|| loaded.generations.join(", "))
                    .filter(|id| !id.is_empty()),
                waiting: waiting.upstreams.remove(&upstream.name).unwrap_or_default(),
            })
            .collect();
        let of = |template: &Arc<Template>| {
            TemplateStatus::of(template, observed, waiting.templates.remove(&template.name).unwrap_or_default())
        };
        let templates = spec.templates.values().map(of).collect();
        // What belongs to a service or an upstream that is not listed must not be lost.
        let mut rest = waiting.rest;
        rest.extend(waiting.services.into_values().flatten());
        rest.extend(waiting.upstreams.into_values().flatten());
        rest.extend(waiting.templates.into_values().flatten());
        Self {
            project: spec.project.clone(),
            spec: spec.digest.clone(),
            services,
            upstreams,
            discovered: discovered(observed),
            templates,
            backends: vec![
                backend("docker", &observed.docker),
                backend("consul", &observed.consul),
                backend("nginx", &observed.nginx),
                backend("directory", &observed.directory),
            ],
            nginx: observed.nginx.known().map(nginx_status),
            consul: observed.consul.known().map(consul_status),
            waiting: rest,
            steps: plan.steps.len(),
            advice: advice(observed),
        }
    }

    /// Every backend could be read.
    pub fn all_known(&self) -> bool {
        self.backends.iter().all(|backend| backend.known)
    }

    /// Everything that waits, wherever it is listed.
    pub fn all_waiting(&self) -> impl Iterator<Item = &WaitingStatus> {
        let services = self.services.iter().flat_map(|service| &service.waiting);
        let upstreams = self.upstreams.iter().flat_map(|upstream| &upstream.waiting);
        let templates = self.templates.iter().flat_map(|template| &template.waiting);
        services.chain(upstreams).chain(templates).chain(&self.waiting)
    }
}

fn services(
    spec: &Spec,
    observed: &Observed,
    loaded: &LoadedRoutes,
    waiting: &mut BTreeMap<String, Vec<WaitingStatus>>,
) -> Vec<ServiceStatus> {
    let mut containers: BTreeMap<&str, Vec<&Container>> = BTreeMap::new();
    for container in observed.docker.known().into_iter().flat_map(|docker| docker.containers.values()) {
        containers.entry(&container.service).or_default().push(container);
    }
    let passing = passing_registrations(observed);
    let routable: BTreeSet<&str> = spec
        .upstreams
        .values()
        .filter_map(|upstream| upstream.query.as_ref().map(|query| query.service.as_str()))
        .collect();
    let names: BTreeSet<&str> = spec.services.keys().map(String::as_str).chain(containers.keys().copied()).collect();
    names
        .into_iter()
        .map(|name| {
            let service = spec.services.get(name);
            let own = containers.get(name).map(Vec::as_slice).unwrap_or_default();
            let job = service.is_some_and(|service| service.job);
            let count = |known: bool, good: &dyn Fn(&Container) -> bool| {
                if !known {
                    return Figure::Unknown;
                }
                Figure::Known(u32::try_from(own.iter().filter(|one| good(one)).count()).unwrap_or(u32::MAX))
            };
            let docker = observed.docker.known().is_some();
            let needed = service.map_or(0, |service| service.register.len());
            // A service that left the spec counts as far as its containers say.
            let registers = needed > 0 || own.iter().any(|container| container.registers);
            let routes = match service {
                Some(service) => service.register.iter().any(|register| routable.contains(register.name.as_str())),
                None => own.iter().any(|container| loaded.containers.contains(&container.id)),
            };
            ServiceStatus {
                name: name.to_owned(),
                job,
                desired: service.map_or(0, |service| service.replicas),
                running: count(docker, &|one| one.state.running() || (job && succeeded(one))),
                healthy: count(docker, &|one| healthy(one) || (job && succeeded(one))),
                registered: if registers {
                    count(docker && observed.consul.known().is_some(), &|one| {
                        passing.get(one.id.as_str()).is_some_and(|passing| *passing >= needed.max(1))
                    })
                } else {
                    Figure::Irrelevant
                },
                routed: if routes {
                    count(docker && observed.nginx.known().is_some(), &|one| loaded.containers.contains(&one.id))
                } else {
                    Figure::Irrelevant
                },
                pins: pins(name, service, observed),
                waiting: waiting.remove(name).unwrap_or_default(),
            }
        })
        .collect()
}

/// Those that are not dead, that is: made for what the spec says now.
fn pins(name: &str, service: Option<&Service>, observed: &Observed) -> Vec<String> {
    let of_service = observed.directory.known().into_iter().flat_map(|directory| directory.pins_of(name));
    let words = of_service.filter_map(|pin| {
        let word = match pin {
            Pin::Hold { .. } => "hold",
            Pin::RolledBack { .. } => "rolled_back",
            Pin::Failed { .. } => "failed",
            Pin::Adopted(_) => return Some("adopted".to_owned()),
            Pin::AllowRemovals { .. } => return None,
        };
        service.is_none_or(|service| pin.is_for(service)).then(|| word.to_owned())
    });
    // Each container that was adopted has a pin of its own.
    words.collect::<BTreeSet<String>>().into_iter().collect()
}

fn healthy(container: &Container) -> bool {
    let good = match &container.health {
        Health::Healthy => true,
        Health::None => !matches!(container.probe, Some(Probe::Failing(_))),
        Health::Starting | Health::Unhealthy(_) => false,
    };
    container.state.running() && good
}

fn succeeded(container: &Container) -> bool {
    matches!(container.state, crate::observed::ContainerState::Exited { code: 0, .. })
}

fn discovered(observed: &Observed) -> Vec<DiscoveredStatus> {
    let registrations = observed.consul.known().into_iter().flat_map(|consul| consul.registrations.values());
    let of = |registration: &Registration| {
        let worst = registration.checks.values().map(|check| check.status).max();
        DiscoveredStatus {
            id: registration.id.clone(),
            service: registration.name.clone(),
            endpoint: match registration.address.contains(':') {
                true => format!("[{}]:{}", registration.address, registration.port),
                false => format!("{}:{}", registration.address, registration.port),
            },
            status: match registration.maintenance {
                Maintenance::Off => worst.unwrap_or(CheckStatus::Passing).to_string(),
                Maintenance::Draining { .. } | Maintenance::Operator { .. } => "maintenance".to_owned(),
            },
        }
    };
    registrations.filter(|registration| registration.discovered()).map(of).collect()
}

/// How many registrations of each container pass; 0 as soon as one of them does not, or is in maintenance.
fn passing_registrations(observed: &Observed) -> BTreeMap<&str, usize> {
    let mut passing: BTreeMap<&str, Option<usize>> = BTreeMap::new();
    for registration in observed.consul.known().into_iter().flat_map(|consul| consul.registrations.values()) {
        let good = matches!(registration.maintenance, Maintenance::Off)
            && registration.checks.values().all(|check| check.status != CheckStatus::Critical);
        let count = passing.entry(&registration.container).or_insert(Some(0));
        *count = count.filter(|_| good).map(|count| count + 1);
    }
    passing.into_iter().map(|(container, count)| (container, count.unwrap_or(0))).collect()
}

/// What the loaded generation routes to; of several, what all of them do.
#[derive(Default)]
struct LoadedRoutes {
    generations: Vec<String>,
    containers: BTreeSet<String>,
    upstreams: BTreeMap<String, Vec<String>>,
}

impl LoadedRoutes {
    fn of(nginx: Option<&Nginx>) -> Self {
        let Some(nginx) = nginx else { return Self::default() };
        let ids = loaded_ids(nginx);
        let mut routes = Self { generations: ids.iter().map(ToString::to_string).collect(), ..Self::default() };
        for (number, id) in ids.iter().enumerate() {
            let manifest = nginx.generations.get(id).map(|generation| generation.manifest.as_ref());
            let mut containers = BTreeSet::new();
            let mut upstreams = BTreeMap::new();
            for (name, routed) in manifest.into_iter().flat_map(|manifest| &manifest.upstreams) {
                containers.extend(routed.endpoints.iter().filter_map(|endpoint| endpoint.container.clone()));
                upstreams.insert(name.clone(), routed.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>());
            }
            if number == 0 {
                routes.containers = containers;
                routes.upstreams = upstreams;
            } else {
                routes.containers.retain(|container| containers.contains(container));
                routes.upstreams.retain(|name, endpoints| {
                    upstreams.get(name).is_some_and(|other| {
                        endpoints.retain(|endpoint| other.contains(endpoint));
                        true
                    })
                });
            }
        }
        routes
    }
}

fn loaded_ids(nginx: &Nginx) -> Vec<&GenerationId> {
    match &nginx.loaded {
        Loaded::Nothing | Loaded::Stranger(_) => Vec::new(),
        Loaded::Generation(id) => vec![id],
        Loaded::Mixed(ids) => ids.iter().collect(),
    }
}

fn backend<T>(name: &str, view: &View<T>) -> BackendStatus {
    let (reason, since) = match view {
        View::Known(_) => (None, None),
        View::Unknown { reason, since } => (Some(reason.clone()), Some(*since)),
    };
    BackendStatus { name: name.to_owned(), known: reason.is_none(), reason, since }
}

fn nginx_status(nginx: &Nginx) -> NginxStatus {
    let by_lua = |(_, generation): (&GenerationId, &Generation)| generation.manifest.balancer == Balancer::Lua;
    let (endpoints, endpoints_reason) = match (nginx.accepted().is_some_and(by_lua), &nginx.lua) {
        (true, Ok(())) => ("lua", None),
        (true, Err(reason)) => ("lua", Some(format!("not for new generations: {reason}"))),
        (false, Err(reason)) => ("reload", Some(reason.clone())),
        (false, Ok(())) => ("reload", Some("nginx has Lua, and no generation that uses it yet".to_owned())),
    };
    NginxStatus {
        version: nginx.version.clone(),
        process: match &nginx.process {
            NginxProcess::Running { .. } => "running",
            NginxProcess::Stopped if nginx.unmanaged() => "off",
            NginxProcess::Stopped => "stopped",
            NginxProcess::Orphans { .. } => "orphans",
        }
        .to_owned(),
        loaded: loaded_ids(nginx).into_iter().map(ToString::to_string).collect(),
        current: nginx.current.as_ref().map(ToString::to_string),
        matches: match (&nginx.loaded, &nginx.current) {
            (Loaded::Generation(loaded), Some(current)) => loaded == current,
            // Nothing is wanted and nothing is there.
            (Loaded::Nothing, None) => true,
            (Loaded::Nothing | Loaded::Generation(_) | Loaded::Mixed(_) | Loaded::Stranger(_), _) => false,
        },
        retiring_workers: nginx.retiring_workers,
        endpoints: endpoints.to_owned(),
        endpoints_reason,
    }
}

fn consul_status(consul: &crate::observed::Consul) -> ConsulStatus {
    let nodes = consul.nodes.iter().map(|node| NodeStatus {
        name: node.name.clone(),
        address: node.address.clone(),
        status: if node.status.is_empty() { "unknown".to_owned() } else { node.status.clone() },
    });
    ConsulStatus {
        version: consul.agent.version.clone(),
        datacenter: consul.agent.datacenter.clone(),
        agent: consul.agent.node.clone(),
        leader: consul.leader.clone().filter(|leader| !leader.is_empty()),
        peers: consul.peers.clone(),
        nodes: nodes.collect(),
        services: (*consul.services).clone(),
    }
}

fn advice(observed: &Observed) -> Vec<String> {
    let mut advice = Vec::new();
    if let Some(nginx) = observed.nginx.known()
        && !nginx.unmanaged()
        && nginx.worker_shutdown_timeout.is_none()
    {
        advice.push(format!(
            "Put `worker_shutdown_timeout 1m;` at the top of {}: without it, old nginx workers stay after each reload for as long as a client keeps a connection open, and each of them keeps its memory.",
            nginx.config
        ));
    }
    advice
}

#[cfg(test)]
pub(crate) mod tests;
