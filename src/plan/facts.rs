//! The observed world, indexed for the planner and for `status`: which container is fit, registered, routed.
//!
//! Owns the answers to "is it …?". It decides nothing; what follows from an answer is in the modules beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;

use crate::observed::{
    CheckStatus, Consul, Container, ContainerState, Docker, Generation, GenerationId, Health, Loaded, Maintenance,
    Nginx, Observed, Probe, Registration,
};
use crate::spec::{Register, RegisterAddress, Service, Spec};

/// The drain of a registered replica that no upstream of ours selects: others may read the catalog.
pub const DEFAULT_DRAIN: Duration = Duration::from_secs(10);

/// How fit a container is for traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fitness {
    /// With the state in words.
    NotRunning(String),
    /// Runs, but is not known to be healthy yet.
    Starting(String),
    Healthy,
    Unhealthy(String),
}

impl Fitness {
    pub fn healthy(&self) -> bool {
        *self == Self::Healthy
    }

    /// In words; empty when healthy.
    pub fn reason(&self) -> &str {
        match self {
            Self::NotRunning(reason) | Self::Starting(reason) | Self::Unhealthy(reason) => reason,
            Self::Healthy => "",
        }
    }
}

/// An index over one observation.
pub struct Facts<'a> {
    pub docker: Option<&'a Docker>,
    pub consul: Option<&'a Consul>,
    pub nginx: Option<&'a Nginx>,
    pub now: Timestamp,
    observed: &'a Observed,
    by_service: BTreeMap<&'a str, Vec<&'a Container>>,
    by_container: BTreeMap<&'a str, Vec<&'a Registration>>,
    routed: BTreeSet<&'a str>,
    /// By upstream: the containers that the loaded generation routes to.
    routed_by_upstream: BTreeMap<&'a str, BTreeSet<&'a str>>,
}

impl<'a> Facts<'a> {
    pub fn new(observed: &'a Observed, now: Timestamp) -> Self {
        let docker = observed.docker.known();
        let consul = observed.consul.known();
        let nginx = observed.nginx.known();
        let mut by_service: BTreeMap<&str, Vec<&Container>> = BTreeMap::new();
        for container in docker.iter().flat_map(|docker| docker.containers.values()) {
            by_service.entry(&container.service).or_default().push(container);
        }
        let mut by_container: BTreeMap<&str, Vec<&Registration>> = BTreeMap::new();
        for registration in consul.iter().flat_map(|consul| consul.registrations.values()) {
            by_container.entry(&registration.container).or_default().push(registration);
        }
        let mut facts = Self {
            docker,
            consul,
            nginx,
            now,
            observed,
            by_service,
            by_container,
            routed: BTreeSet::new(),
            routed_by_upstream: BTreeMap::new(),
        };
        for (_, generation) in facts.loaded_generations() {
            for (name, routed) in &generation.manifest.upstreams {
                let containers = routed.endpoints.iter().filter_map(|endpoint| endpoint.container.as_deref());
                facts.routed_by_upstream.entry(name).or_default().extend(containers);
            }
        }
        facts.routed = facts.routed_by_upstream.values().flatten().copied().collect();
        facts
    }

    /// Our containers of a service, by id.
    pub fn containers(&self, service: &str) -> &[&'a Container] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    /// Every service that has a container of ours.
    pub fn services_seen(&self) -> impl Iterator<Item = &'a str> + '_ {
        self.by_service.keys().copied()
    }

    /// Our registrations of a container. Empty when Consul is Unknown.
    pub fn registrations(&self, container: &str) -> &[&'a Registration] {
        self.by_container.get(container).map_or(&[], Vec::as_slice)
    }

    /// The generations that some live worker runs.
    pub fn loaded_generations(&self) -> Vec<(&'a GenerationId, &'a Generation)> {
        let Some(nginx) = self.nginx else { return Vec::new() };
        let of = |id: &'a GenerationId| nginx.generations.get(id).map(|generation| (id, generation));
        match &nginx.loaded {
            Loaded::Nothing | Loaded::Stranger(_) => Vec::new(),
            Loaded::Generation(id) => of(id).into_iter().collect(),
            Loaded::Mixed(ids) => ids.iter().filter_map(of).collect(),
        }
    }

    /// Some live worker may send a request to it. `None`: nginx is Unknown, or what it runs is.
    pub fn routed(&self, container: &str) -> Option<bool> {
        let nginx = self.nginx?;
        let readable = match &nginx.loaded {
            Loaded::Nothing => true,
            // Something else answers on the probe port; what nginx runs cannot be told.
            Loaded::Stranger(_) => false,
            Loaded::Generation(id) => nginx.generations.contains_key(id),
            Loaded::Mixed(ids) => ids.iter().all(|id| nginx.generations.contains_key(id)),
        };
        readable.then(|| self.routed.contains(container))
    }

    /// The same by address, for a registration whose container stays.
    pub fn address_routed(&self, address: &str, port: u16) -> Option<bool> {
        self.routed("")?;
        let mut endpoints = self
            .loaded_generations()
            .into_iter()
            .flat_map(|(_, g)| g.manifest.upstreams.values())
            .flat_map(|r| &r.endpoints);
        Some(endpoints.any(|endpoint| endpoint.address == address && endpoint.port == port))
    }

    pub fn routed_by(&self, upstream: &str, container: &str) -> bool {
        self.routed_by_upstream.get(upstream).is_some_and(|containers| containers.contains(container))
    }

    /// Fitness by the HEALTHCHECK; without one, by reeve's own probe of the declared check as long as the container is not
    /// registered (afterwards Consul's check judges it).
    pub fn fitness(&self, container: &Container, service: Option<&Service>) -> Fitness {
        match &container.state {
            ContainerState::Running { .. } => {}
            ContainerState::Created => return Fitness::NotRunning("not started yet".to_owned()),
            ContainerState::Paused { .. } => return Fitness::NotRunning("paused".to_owned()),
            ContainerState::Restarting => return Fitness::NotRunning("restarting".to_owned()),
            ContainerState::Exited { code, .. } => return Fitness::NotRunning(format!("exited with code {code}")),
            ContainerState::Removing => return Fitness::NotRunning("being removed".to_owned()),
            ContainerState::Dead => return Fitness::NotRunning("dead".to_owned()),
        }
        match &container.health {
            Health::Healthy => Fitness::Healthy,
            Health::Starting => Fitness::Starting("its HEALTHCHECK has not passed yet".to_owned()),
            Health::Unhealthy(output) => Fitness::Unhealthy(format!("its HEALTHCHECK fails: {}", one_line(output))),
            Health::None => {
                let declared = service.is_some_and(|service| service.register.iter().any(|r| r.check.is_some()));
                if !declared || !self.registrations(&container.id).is_empty() {
                    return Fitness::Healthy;
                }
                match &container.probe {
                    Some(Probe::Passing) => Fitness::Healthy,
                    Some(Probe::Failing(reason)) => Fitness::Starting(format!("its check fails: {reason}")),
                    None => Fitness::Starting("its check has not been tried yet".to_owned()),
                }
            }
        }
    }

    /// The container counts as serving: healthy; and when its service registers, registered with every check passed once;
    /// and when an upstream of the spec selects it, routed by the loaded generation.
    pub fn serving(&self, spec: &Spec, container: &Container) -> bool {
        let service = spec.services.get(&container.service);
        if !self.fitness(container, service).healthy() {
            return false;
        }
        let registers = service.map_or(container.registers, |service| !service.register.is_empty());
        if !registers {
            return true;
        }
        let registrations = self.registrations(&container.id);
        if registrations.is_empty() || !registrations.iter().all(|registration| passing(registration)) {
            return false;
        }
        registrations.iter().all(|registration| {
            spec.upstreams
                .values()
                .filter(|upstream| upstream.query.as_ref().is_some_and(|query| query.service == registration.name))
                .all(|upstream| self.nginx.is_none() || self.routed_by(&upstream.name, &container.id))
        })
    }

    /// How long a container is drained: the longest drain of the upstreams that route to its registrations, in the spec or
    /// in a loaded generation.
    pub fn drain(&self, spec: &Spec, container: &Container) -> Duration {
        let mut names: BTreeSet<&str> = self.registrations(&container.id).iter().map(|r| r.name.as_str()).collect();
        if let Some(service) = spec.services.get(&container.service) {
            names.extend(service.register.iter().map(|register| register.name.as_str()));
        }
        let loaded = self.loaded_generations();
        let in_generations =
            loaded.iter().flat_map(|(_, generation)| generation.manifest.upstreams.values()).map(|r| &r.upstream);
        spec.upstreams
            .values()
            .chain(in_generations)
            .filter(|upstream| upstream.query.as_ref().is_some_and(|query| names.contains(query.service.as_str())))
            .map(|upstream| upstream.drain)
            .max()
            .unwrap_or(DEFAULT_DRAIN)
    }

    /// The address under which published ports are registered: the setting, the default route's, or the gateway of a
    /// network of the project.
    pub fn advertise(&self, setting: Option<&str>, container: &Container) -> Option<String> {
        if let Some(address) = setting {
            return Some(address.to_owned());
        }
        if let Some(address) = self.observed.host.default_route {
            return Some(address.to_string());
        }
        container.networks.values().find_map(|endpoint| endpoint.gateway).map(|gateway| gateway.to_string())
    }

    /// The `address:port` that a registration gets. The error says what is missing.
    pub fn registered_address(
        &self,
        container: &Container,
        register: &Register,
        advertise: Option<&str>,
    ) -> Result<(String, u16), String> {
        let host_network = container.network_mode == "host";
        let published = container
            .published
            .iter()
            .find(|published| published.target == register.port && published.protocol == register.protocol);
        match &register.address {
            RegisterAddress::Container if !host_network => container
                .networks
                .values()
                .find_map(|endpoint| endpoint.address.or(endpoint.address6))
                .map(|address| (address.to_string(), register.port))
                .ok_or_else(|| "the container has no address on any network".to_owned()),
            RegisterAddress::Fixed(address) => {
                Ok((address.clone(), published.map_or(register.port, |published| published.host)))
            }
            RegisterAddress::Published | RegisterAddress::Container => {
                let (host_ip, port) = match published {
                    Some(published) => (published.host_ip, published.host),
                    None if host_network => (None, register.port),
                    None => {
                        return Err(format!(
                            "container port {}/{} is not published; publish it or set `address: container`",
                            register.port, register.protocol
                        ));
                    }
                };
                let specific = host_ip.filter(|address| !address.is_unspecified()).map(|address| address.to_string());
                specific.or_else(|| self.advertise(advertise, container)).map(|address| (address, port)).ok_or_else(
                    || {
                        "this host has no default route and the project no network with a gateway: set `advertise`"
                            .to_owned()
                    },
                )
            }
        }
    }

    /// The container's own address as the agent reaches it: any, when the agent runs on this host; the one on a network
    /// that they share, when it runs in a container; else none.
    pub fn address_for_agent(&self, container: &Container) -> Option<IpAddr> {
        let agent = self.consul?.agent.address?;
        let own = |endpoint: &crate::observed::NetworkEndpoint| endpoint.address.or(endpoint.address6);
        if self.observed.host.addresses.contains(&agent) || agent.is_loopback() {
            return container.networks.values().find_map(own);
        }
        let docker = self.docker?;
        let shares = |networks: &BTreeMap<String, crate::observed::NetworkEndpoint>| {
            networks
                .iter()
                .filter(|(_, endpoint)| own(endpoint) == Some(agent))
                .find_map(|(network, _)| container.networks.get(network).and_then(own))
        };
        docker
            .containers
            .values()
            .map(|other| &other.networks)
            .chain(docker.strangers.values().map(|other| &other.networks))
            .find_map(shares)
    }

    /// The container is a Raft peer of Consul: such are replaced one at a time.
    pub fn consul_peer(&self, container: &Container) -> bool {
        let Some(consul) = self.consul else { return false };
        consul.peers.iter().any(|peer| peer_host(peer).is_some_and(|address| has_address(container, address)))
    }

    /// A leader is there, and every peer that lives on a network of ours is a running container.
    pub fn consul_quorum_complete(&self) -> Result<(), String> {
        let Some(consul) = self.consul else {
            return Err("Consul cannot be read".to_owned());
        };
        if consul.leader.is_none() {
            return Err("Consul has no leader".to_owned());
        }
        if consul.peers.len() > 2 && consul.failure_tolerance == Some(0) {
            return Err("Consul would lose its quorum with one server less: not every server is a voter yet".to_owned());
        }
        let Some(docker) = self.docker else {
            return Err("Docker cannot be read".to_owned());
        };
        let running: Vec<&Container> = docker.containers.values().filter(|c| c.state.running()).collect();
        let missing = consul.peers.iter().find(|peer| {
            let Some(address) = peer_host(peer) else { return false };
            let on_our_network = docker
                .networks
                .values()
                .any(|network| network.ours && network.gateway.is_some_and(|gateway| same_slash_16(gateway, address)));
            on_our_network && !running.iter().any(|container| has_address(container, address))
        });
        match missing {
            Some(peer) => Err(format!("Consul's peer {peer} is not back yet")),
            None => Ok(()),
        }
    }
}

/// Every check passes, a declared one has run at least once, and nobody keeps it out of traffic.
pub fn passing(registration: &Registration) -> bool {
    registration.maintenance == Maintenance::Off
        && registration.checks.iter().all(|(id, check)| {
            let ran = !id.ends_with(":declared") || !check.output.is_empty();
            check.status == CheckStatus::Passing && ran
        })
}

fn peer_host(peer: &str) -> Option<IpAddr> {
    let (host, _) = peer.rsplit_once(':')?;
    host.trim_matches(['[', ']']).parse().ok()
}

fn has_address(container: &Container, address: IpAddr) -> bool {
    container.networks.values().any(|endpoint| endpoint.address == Some(address) || endpoint.address6 == Some(address))
}

/// Docker's own pools are /16; a coarser answer only makes a gate stricter.
fn same_slash_16(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..2] == b.octets()[..2],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.octets()[..8] == b.octets()[..8],
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

/// The first line of a text, shortened: outputs of checks can be pages long.
pub fn one_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    if line.chars().count() > 200 { line.chars().take(200).chain(['…']).collect() } else { line.to_owned() }
}
