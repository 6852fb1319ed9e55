//! The observed world, indexed for the planner and for `status`: which container is fit, registered, routed.
//!
//! Owns the answers to "is it …?". It decides nothing; what follows from an answer is in the modules beside it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use jiff::Timestamp;

use super::about::About;
use super::planner::after;
use crate::observed::{
    CheckSeen, CheckStatus, Consul, Container, ContainerState, Docker, Endpoint, Generation, GenerationId, Health,
    Loaded, Maintenance, NetworkEndpoint, Networks, Nginx, NginxProcess, Observed, Probe, Registration,
};
use crate::spec::{Register, RegisterAddress, Service};

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
    /// Only ever asked; its order is another one in every run.
    by_service: HashMap<&'a str, Vec<&'a Container>>,
    about: About<'a>,
    /// By id; asked for what no container of ours has.
    registrations: OnceCell<HashMap<&'a str, &'a Registration>>,
    /// The same as addresses, whoever's they are.
    addresses_routed: OnceCell<BTreeSet<(&'a str, u16)>>,
    /// By the service that a loaded upstream asks Consul for: the longest drain.
    loaded_drains: OnceCell<BTreeMap<&'a str, Duration>>,
    remembered_drains: OnceCell<BTreeMap<&'a str, Duration>>,
    /// By container: the endpoints that some live worker has for it, with their upstreams.
    endpoints: OnceCell<HashMap<&'a str, Vec<(&'a str, &'a Endpoint)>>>,
    /// Containers that some generation on disk routes to.
    ever_routed: OnceCell<BTreeSet<&'a str>>,
    dead_ports: OnceCell<BTreeSet<(&'a str, u16)>>,
    holders: OnceCell<Holders<'a>>,
    agent_network: OnceCell<Option<&'a str>>,
}

/// The upstreams of a generation that route to a container, by its id.
fn routes_of(generation: &Generation) -> HashMap<&str, Vec<&str>> {
    let mut routes: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, routed) in &generation.manifest.upstreams {
        for container in routed.endpoints.iter().filter_map(|endpoint| endpoint.container.as_deref()) {
            let names = routes.entry(container).or_default();
            // Two of its ports may be endpoints of one upstream.
            if names.last().is_none_or(|last| *last != name.as_str()) {
                names.push(name);
            }
        }
    }
    routes
}

/// By the service that is asked of Consul.
fn longest_drains<'a>(generations: impl Iterator<Item = &'a Generation>) -> BTreeMap<&'a str, Duration> {
    let mut drains: BTreeMap<&str, Duration> = BTreeMap::new();
    for routed in generations.flat_map(|generation| generation.manifest.upstreams.values()) {
        if let Some(query) = &routed.upstream.query {
            let longest = drains.entry(&query.service).or_default();
            *longest = (*longest).max(routed.upstream.drain);
        }
    }
    drains
}

/// Which of our running containers answers at an address.
#[derive(Default)]
struct Holders<'a> {
    by_address: BTreeMap<IpAddr, &'a str>,
    /// Host port: the address that it is published on, if that is one of the host's only, and the container.
    by_host_port: BTreeMap<u16, Vec<(Option<IpAddr>, &'a str)>>,
}

impl<'a> Facts<'a> {
    pub fn new(observed: &'a Observed, now: Timestamp) -> Self {
        let docker = observed.docker.known();
        let consul = observed.consul.known();
        let nginx = observed.nginx.known();
        let mut by_service: HashMap<&str, Vec<&Container>> = HashMap::new();
        for container in docker.iter().flat_map(|docker| docker.containers.values()) {
            by_service.entry(&container.service).or_default().push(container);
        }
        let mut facts = Self {
            docker,
            consul,
            nginx,
            now,
            observed,
            by_service,
            about: About::default(),
            registrations: OnceCell::new(),
            addresses_routed: OnceCell::new(),
            loaded_drains: OnceCell::new(),
            remembered_drains: OnceCell::new(),
            dead_ports: OnceCell::new(),
            endpoints: OnceCell::new(),
            ever_routed: OnceCell::new(),
            holders: OnceCell::new(),
            agent_network: OnceCell::new(),
        };
        let mut routes = HashMap::new();
        for (number, (_, generation)) in facts.loaded_generations().into_iter().enumerate() {
            let also = routes_of(generation);
            if number == 0 {
                routes = also;
                continue;
            }
            for (container, upstreams) in &mut routes {
                let also = also.get(container);
                upstreams.retain(|name| also.is_some_and(|also| also.contains(name)));
            }
            for container in also.into_keys() {
                routes.entry(container).or_default();
            }
        }
        facts.about = About::of(docker, consul, routes);
        facts
    }

    /// Our containers of a service, by id.
    pub fn containers(&self, service: &str) -> &[&'a Container] {
        self.by_service.get(service).map_or(&[], Vec::as_slice)
    }

    /// Our container with this id.
    pub fn container(&self, id: &str) -> Option<&'a Container> {
        self.about.id(id)?.container
    }

    /// Our registration with this id.
    pub fn registration(&self, id: &str) -> Option<&'a Registration> {
        let index = self.registrations.get_or_init(|| {
            let all = self.consul.iter().flat_map(|consul| &consul.registrations);
            all.map(|(id, registration)| (id.as_str(), registration)).collect()
        });
        index.get(id).copied()
    }

    /// Our registration with this id, most likely one of this container: those are at hand.
    pub fn registration_of(&self, container: &Container, id: &str) -> Option<&'a Registration> {
        let own = self.registrations(container).iter().copied().find(|registration| registration.id == id);
        own.or_else(|| self.registration(id))
    }

    /// Every service that has a container of ours.
    pub fn services_seen(&self) -> BTreeSet<&'a str> {
        self.by_service.keys().copied().collect()
    }

    /// Our registrations of a container. Empty when Consul is Unknown.
    pub fn registrations(&self, container: &Container) -> &[&'a Registration] {
        self.about.registrations(self.about.container(container))
    }

    /// The same of a container that need not be one of ours, by its id.
    pub fn registrations_of_id(&self, container: &str) -> &[&'a Registration] {
        self.about.registrations(self.about.id(container))
    }

    /// Our container with this id is not any more where its registration with that id sends requests to.
    pub fn displaced(&self, container: &str, registration: &str) -> bool {
        let about = self.about.id(container);
        let own = self.about.registrations(about).iter().copied().find(|one| one.id == registration);
        match (own, about.and_then(|about| about.container)) {
            (Some(own), Some(container)) => displaced(container, own),
            (Some(_), None) => false,
            (None, _) => self.registration(registration).is_some_and(|another| {
                self.container(&another.container).is_some_and(|container| displaced(container, another))
            }),
        }
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
    pub fn routed(&self, container: &Container) -> Option<bool> {
        let routed = || self.about.container(container).is_some_and(|about| about.routes.is_some());
        self.routes_known().then(routed)
    }

    /// What live workers send requests to can be told.
    pub fn routes_known(&self) -> bool {
        match self.nginx.map(|nginx| (&nginx.loaded, &nginx.generations)) {
            // Something else answers on the probe port; what nginx runs cannot be told.
            None | Some((Loaded::Stranger(_), _)) => false,
            Some((Loaded::Nothing, _)) => true,
            Some((Loaded::Generation(id), generations)) => generations.contains_key(id),
            Some((Loaded::Mixed(ids), generations)) => ids.iter().all(|id| generations.contains_key(id)),
        }
    }

    /// The same by address, for a registration whose container stays.
    pub fn address_routed(&self, address: &str, port: u16) -> Option<bool> {
        if !self.routes_known() {
            return None;
        }
        let routed = self.addresses_routed.get_or_init(|| {
            self.loaded_generations()
                .into_iter()
                .flat_map(|(_, generation)| generation.manifest.upstreams.values())
                .flat_map(|routed| &routed.endpoints)
                .map(|endpoint| (endpoint.address.as_str(), endpoint.port))
                .collect()
        });
        Some(routed.contains(&(address, port)))
    }

    /// The same for what a registration stands for: another container of ours may be at the place that it had, or another
    /// port of its own.
    pub fn registration_routed(&self, registration: &Registration) -> Option<bool> {
        let there = self.address_routed(&registration.address, registration.port)?;
        let at = |endpoint: &&Endpoint| {
            let whose = endpoint.container.as_ref().is_none_or(|container| *container == registration.container);
            whose && (&endpoint.address, endpoint.port) == (&registration.address, registration.port)
        };
        let loaded = || self.loaded_generations().into_iter().flat_map(|(_, one)| one.manifest.upstreams.values());
        let own = self.container(&registration.container).filter(|container| displaced(container, registration));
        let another = |one: &&Registration| {
            one.id != registration.id && (&one.address, one.port) == (&registration.address, registration.port)
        };
        if own.is_some_and(|container| self.registrations(container).iter().any(another)) {
            return Some(false);
        }
        Some(there && loaded().flat_map(|routed| &routed.endpoints).any(|endpoint| at(&endpoint)))
    }

    /// Host ports that some live worker still sends requests to although our container there is gone or does not run, with
    /// the upstream. Empty when nothing can be done about it now: a container that does not come back would be worse.
    pub fn dead_ports(&self) -> &BTreeSet<(&'a str, u16)> {
        self.dead_ports.get_or_init(|| {
            let (Some(docker), Some(_), Some(nginx)) = (self.docker, self.consul, self.nginx) else {
                return BTreeSet::new();
            };
            // With suspects, the others can still be unrouted.
            let refused =
                nginx.generations.values().any(|one| one.rejected.is_some() && one.manifest.suspects.is_empty());
            if refused || !matches!(nginx.process, NginxProcess::Running { .. }) {
                return BTreeSet::new();
            }
            let dead = |id: &String| docker.containers.get(id).is_none_or(|container| !container.state.running());
            self.loaded_generations()
                .into_iter()
                .flat_map(|(_, generation)| &generation.manifest.upstreams)
                .flat_map(|(name, routed)| routed.endpoints.iter().map(move |endpoint| (name.as_str(), endpoint)))
                .filter(|(_, endpoint)| endpoint.container.as_ref().is_some_and(dead))
                .map(|(name, endpoint)| (name, endpoint.port))
                .collect()
        })
    }

    /// It was ready once: some generation on disk routes to it.
    pub fn ever_routed(&self, container: &str) -> bool {
        let routed = self.ever_routed.get_or_init(|| {
            let generations = self.nginx.into_iter().flat_map(|nginx| nginx.generations.values());
            let upstreams = generations.flat_map(|generation| generation.manifest.upstreams.values());
            let endpoints = upstreams.flat_map(|routed| &routed.endpoints);
            endpoints.filter_map(|endpoint| endpoint.container.as_deref()).collect()
        });
        routed.contains(container)
    }

    /// The longest drain of the loaded upstreams that ask Consul for this service.
    pub fn loaded_drain(&self, consul_service: &str) -> Option<Duration> {
        let loaded = || longest_drains(self.loaded_generations().into_iter().map(|(_, generation)| generation));
        self.loaded_drains.get_or_init(loaded).get(consul_service).copied()
    }

    /// The same over all generations on disk: for what neither the spec nor the loaded one has any more.
    pub fn remembered_drain(&self, consul_service: &str) -> Option<Duration> {
        let on_disk = || longest_drains(self.nginx.into_iter().flat_map(|nginx| nginx.generations.values()));
        self.remembered_drains.get_or_init(on_disk).get(consul_service).copied()
    }

    /// The upstreams in which every live worker routes to the container.
    pub fn upstreams_of(&self, container: &Container) -> impl Iterator<Item = &'a str> + '_ {
        self.about.container(container).into_iter().flat_map(|about| &about.routes).flatten().copied()
    }

    /// Where live workers send the requests for the container: upstream and endpoint.
    pub fn endpoints_of(&self, container: &str) -> &[(&'a str, &'a Endpoint)] {
        let endpoints = self.endpoints.get_or_init(|| {
            let mut endpoints: HashMap<&str, Vec<(&str, &Endpoint)>> = HashMap::new();
            let generations = self.loaded_generations().into_iter();
            for (name, routed) in generations.flat_map(|(_, generation)| &generation.manifest.upstreams) {
                for endpoint in &routed.endpoints {
                    if let Some(container) = &endpoint.container {
                        endpoints.entry(container).or_default().push((name, endpoint));
                    }
                }
            }
            endpoints
        });
        endpoints.get(container).map_or(&[], Vec::as_slice)
    }

    /// Our running container that answers at an address and port, whoever registered those.
    pub fn container_at(&self, address: &str, port: u16, advertise: Option<&str>) -> Option<&'a str> {
        let holders = self.holders.get_or_init(|| self.find_holders());
        let parsed: Option<IpAddr> = address.parse().ok();
        if let Some(container) = parsed.and_then(|address| holders.by_address.get(&address)) {
            return Some(container);
        }
        let of_host = advertise == Some(address)
            || parsed.is_some_and(|address| {
                self.observed.host.addresses.contains(&address) || self.observed.host.default_route == Some(address)
            });
        let published = holders.by_host_port.get(&port)?;
        let found = published.iter().find(|(only, _)| match only {
            None => of_host,
            Some(only) => parsed == Some(*only),
        });
        found.map(|(_, container)| *container)
    }

    fn find_holders(&self) -> Holders<'a> {
        let mut holders = Holders::default();
        for container in self.docker.iter().flat_map(|docker| docker.containers.values()) {
            for endpoint in container.networks.values() {
                for address in endpoint.address.into_iter().chain(endpoint.address6) {
                    holders.by_address.insert(address, &container.id);
                }
            }
            for published in &container.published {
                if published.host == 0 {
                    continue;
                }
                let only = published.host_ip.filter(|address| !address.is_unspecified());
                holders.by_host_port.entry(published.host).or_default().push((only, &container.id));
            }
        }
        holders
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
                let registered = !self.registrations(container).is_empty();
                match &container.probe {
                    _ if !declared => Fitness::Healthy,
                    Some(Probe::Failing(reason)) if !registered || self.just_started(container, service) => {
                        Fitness::Starting(format!("its check fails: {reason}"))
                    }
                    None if !registered => Fitness::Starting("its check has not been tried yet".to_owned()),
                    Some(Probe::Passing | Probe::Failing(_)) | None => Fitness::Healthy,
                }
            }
        }
    }

    /// Consul's own check has not run since the container was started: what it says is of the time before.
    fn just_started(&self, container: &Container, service: Option<&Service>) -> bool {
        let ContainerState::Running { started_at } = container.state else { return false };
        let checks = service.into_iter().flat_map(|service| &service.register).filter_map(|r| r.check.as_ref());
        checks
            .map(|check| after(started_at, check.interval.saturating_add(check.timeout)))
            .max()
            .is_some_and(|judged| judged > self.now)
    }

    /// Why the container is *seen* to be unfit for traffic, as opposed to not known to be fit: a probe that was not made
    /// says nothing.
    pub fn unfit(&self, container: &Container, service: Option<&Service>) -> Option<String> {
        match self.fitness(container, service) {
            Fitness::Healthy => None,
            Fitness::NotRunning(reason) | Fitness::Unhealthy(reason) => Some(reason),
            Fitness::Starting(reason) => {
                (container.health != Health::None || container.probe.is_some()).then_some(reason)
            }
        }
    }

    /// The address under which published ports are registered: the setting, the default route's, or the gateway of a
    /// network of the project.
    pub fn advertise(&self, setting: Option<&str>, networks: &Networks) -> Option<String> {
        if let Some(address) = setting {
            return Some(address.to_owned());
        }
        if let Some(address) = self.observed.host.default_route {
            return Some(address.to_string());
        }
        networks.values().find_map(|endpoint| endpoint.gateway).map(|gateway| gateway.to_string())
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
                .find_map(own_address)
                .map(|address| (address.to_string(), register.port))
                .ok_or_else(|| "the container has no address on any network".to_owned()),
            RegisterAddress::Fixed(address) => {
                Ok((address.clone(), published.map_or(register.port, |published| published.host)))
            }
            RegisterAddress::Published | RegisterAddress::Container => {
                let (host_ip, port) = match published {
                    Some(published) if published.host == 0 => {
                        return Err(format!(
                            "Docker has not told yet on which host port {}/{} is published",
                            register.port, register.protocol
                        ));
                    }
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
                specific
                    .or_else(|| self.advertise(advertise, &container.networks))
                    .map(|address| (address, port))
                    .ok_or_else(|| {
                        "this host has no default route and the project no network with a gateway: set `advertise`"
                            .to_owned()
                    })
            }
        }
    }

    /// The container's own address as the agent reaches it: any, when the agent runs on this host; the one on a network
    /// that they share, when it runs in a container; else none.
    pub fn address_for_agent(&self, networks: &Networks) -> Option<IpAddr> {
        let agent = self.consul?.agent.address?;
        if self.observed.host.addresses.contains(&agent) || agent.is_loopback() {
            return networks.values().find_map(own_address);
        }
        let shared = self.agent_network.get_or_init(|| {
            let docker = self.docker?;
            let of_ours = docker.containers.values().map(|container| &container.networks);
            let of_others = docker.strangers.values().map(|stranger| &stranger.networks);
            of_ours.chain(of_others).find_map(|networks| {
                let mut networks = networks.iter();
                networks.find(|(_, endpoint)| own_address(endpoint) == Some(agent)).map(|(name, _)| name.as_str())
            })
        });
        networks.get((*shared)?).and_then(own_address)
    }
}

/// Every check passes, a declared one has run at least once, and nobody keeps it out of traffic.
pub fn passing(registration: &Registration) -> bool {
    let ran = |(id, check): (&String, &CheckSeen)| !id.ends_with(":declared") || !check.output.is_empty();
    believed(registration) && registration.checks.iter().all(ran)
}

/// Consul gives it out: every check passes, be it only because none has run yet.
pub fn believed(registration: &Registration) -> bool {
    registration.maintenance == Maintenance::Off
        && registration.checks.values().all(|check| check.status == CheckStatus::Passing)
}

/// A check that has run says that it does not pass. One that has not run yet says nothing: an agent that has just started
/// begins each as critical (seen), and stays at that for up to the check's interval.
pub fn refuted(registration: &Registration) -> bool {
    registration.checks.values().any(|check| check.status != CheckStatus::Passing && !check.output.is_empty())
}

/// The container was started again, and Docker has published its port elsewhere: nobody answers any more where the
/// registration sends requests to, so that nothing is lost with it.
pub fn displaced(container: &Container, registration: &Registration) -> bool {
    let published = || container.published.iter().filter(|one| one.host != 0);
    // Asked for every endpoint in every pass: what nearly all of them are is told without reading texts.
    if published().all(|one| one.host == registration.port) || !container.state.running() {
        return false;
    }
    let declared = registration.id.rsplit(':').next().and_then(|end| end.split_once('/'));
    let Some((Ok(port), protocol)) = declared.map(|(port, protocol)| (port.parse::<u16>(), protocol)) else {
        return false;
    };
    let own = |address: IpAddr| address.to_string() == registration.address;
    // What stands there now may be another port of its own.
    let mut published = published().filter(|one| one.target == port && one.protocol.to_string() == protocol).peekable();
    registration.port != port
        && !container.networks.values().filter_map(own_address).any(own)
        && published.peek().is_some()
        && published.all(|one| one.host != registration.port)
}

/// The address of a container on a network.
pub fn own_address(endpoint: &NetworkEndpoint) -> Option<IpAddr> {
    endpoint.address.or(endpoint.address6)
}

/// The first line of a text, shortened: outputs of checks can be pages long.
pub fn one_line(text: &str) -> String {
    let line = text.trim().lines().next().unwrap_or_default();
    if line.chars().count() > 200 { line.chars().take(200).chain(['…']).collect() } else { line.to_owned() }
}
