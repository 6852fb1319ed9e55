//! A sequence of specs, what is around, and what each spec leads to from nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use reeve::model::Peers;
use reeve::observed::{Container, ContainerState, Health, Instance, Loaded, Observed, Probe, View};
#[cfg(debug_assertions)]
use reeve::plan::gates::{Gate, Gates};
use reeve::plan::{Context, Removals};
use reeve::render::Renderer;
use reeve::settings::EndpointsMode;
use reeve::spec::Spec;
use reeve::spec::upstream::CatalogQuery;

use crate::common;
use crate::measure::{Floor, floors, passes};

pub struct Scenario {
    pub name: &'static str,
    pub specs: Vec<Spec>,
    /// What must go on serving under each spec.
    pub floors: Vec<Vec<Floor>>,
    /// Instances in the catalog that are not ours, by Consul service.
    pub foreign: BTreeMap<String, Vec<Instance>>,
    /// The last spec removes too much at once, and nobody said that it is meant.
    pub held: bool,
    /// Lua balances.
    lua: bool,
    /// This service's containers are Consul's servers.
    pub servers: Option<&'static str>,
    /// What is there in the end, for each spec.
    pub ends: Vec<End>,
    pub empty: Observed,
    /// It begins where the first spec has led, long ago.
    settled: bool,
    /// …and the second spec is there already.
    pub begun: bool,
    /// So many generations of old workers still finish their requests.
    old_workers: usize,
    /// Where it begins, and when.
    pub begin: (Observed, Timestamp),
    /// The kinds of what may happen beside the way on and the next spec; `None`: everything.
    only: Option<&'static [&'static str]>,
    /// Faults strike only under this spec and those after it.
    pub faults_from: usize,
    /// The next spec comes only when nothing is left to be done at once.
    pub in_turn: bool,
    renderer: Renderer,
    #[cfg(debug_assertions)]
    pub off: Option<Gate>,
}

impl Scenario {
    pub fn new(name: &'static str, texts: &[&str]) -> Self {
        let specs: Vec<Spec> = texts.iter().map(|text| common::spec(text)).collect();
        let floors = specs.iter().map(floors).collect();
        Self {
            name,
            specs,
            floors,
            foreign: BTreeMap::new(),
            held: false,
            lua: false,
            servers: None,
            ends: Vec::new(),
            empty: common::empty_world(),
            settled: false,
            begun: false,
            old_workers: 0,
            begin: (common::empty_world(), common::start()),
            only: None,
            faults_from: 0,
            in_turn: false,
            renderer: common::renderer(),
            #[cfg(debug_assertions)]
            off: None,
        }
    }

    pub fn with_foreign(mut self, service: &str, count: u8) -> Self {
        let instance = |number: u8| Instance {
            id: format!("{service}-{number}"),
            node: "other".to_owned(),
            address: format!("192.0.2.{}", 100 + number),
            port: 80,
            passing: true,
            maintenance: false,
            weight: 1,
            owner: None,
            container: None,
            doubtful: false,
            trouble: None,
        };
        self.foreign.insert(service.to_owned(), (0..count).map(instance).collect());
        self
    }

    pub fn held(mut self) -> Self {
        self.held = true;
        self
    }

    pub fn servers(mut self, service: &'static str) -> Self {
        self.servers = Some(service);
        self
    }

    /// It begins where the first spec leads, and that was long ago.
    pub fn settled(mut self) -> Self {
        self.settled = true;
        self
    }

    /// It begins where the first spec has led, with the second one.
    pub fn begun(mut self) -> Self {
        self.begun = true;
        self.settled()
    }

    pub fn old_workers(mut self, count: usize) -> Self {
        self.old_workers = count;
        self
    }

    /// Nothing else may happen: kinds of faults, `crash` and `stale`.
    pub fn only(mut self, kinds: &'static [&'static str]) -> Self {
        self.only = Some(kinds);
        self
    }

    pub fn in_turn(mut self) -> Self {
        self.in_turn = true;
        self
    }

    /// Endpoints change without a reload.
    pub fn by_lua(mut self) -> Self {
        self.lua = true;
        self
    }

    pub fn faults_from(mut self, spec: usize) -> Self {
        self.faults_from = spec;
        self
    }

    pub fn tries(&self, kind: &str) -> bool {
        self.only.is_none_or(|kinds| kinds.contains(&kind))
    }

    /// Works out where each spec leads without any fault.
    pub fn ready(mut self) -> Self {
        let mut ends = Vec::new();
        self.begin = (self.empty.clone(), common::start());
        for number in 0..self.specs.len() {
            // What is held ends where the one before ended.
            let kept = (self.held && number + 1 == self.specs.len()) || self.bad(number);
            let number = if kept { number - 1 } else { number };
            let mut world = self.empty.clone();
            let mut now = common::start();
            self.look(&mut world, number, now);
            common::converge(&mut world, &self.specs[number], &self.all_gates(), &mut now);
            ends.push(End::of(&world));
            if self.settled && ends.len() == 1 {
                self.join(&mut world);
                self.begin = (world, now + SignedDuration::from_hours(1));
            }
        }
        if let Some(nginx) = self.begin.0.nginx.known_mut().filter(|_| self.old_workers > 0) {
            nginx.retiring_workers = self.old_workers;
            // A reload is held for them only for a while after the last one.
            nginx.loaded_since = self.begin.1;
        }
        self.ends = ends;
        self
    }

    fn all_gates(&self) -> Context<'_> {
        let mut context = common::context(&self.renderer, common::PROJECT);
        if self.held {
            context.removals = Removals::Held;
        }
        if let Some(nginx) = context.nginx.as_mut().filter(|_| self.lua) {
            nginx.endpoints = EndpointsMode::Auto;
        }
        context
    }

    pub fn context(&self) -> Context<'_> {
        #[cfg_attr(not(debug_assertions), expect(unused_mut, reason = "gates can be off in a test build only"))]
        let mut context = self.all_gates();
        #[cfg(debug_assertions)]
        if let Some(gate) = self.off {
            context.gates = Gates::without(gate);
        }
        context
    }

    /// What an observation for this spec would add.
    pub fn look(&self, world: &mut Observed, spec: usize, now: Timestamp) {
        let asked: BTreeSet<CatalogQuery> =
            world.consul.known().map(|consul| consul.catalog.keys().cloned().collect()).unwrap_or_default();
        common::look(world, &self.specs[spec], &self.context().owner, now);
        let Some(consul) = world.consul.known_mut() else { return };
        for (query, view) in consul.catalog.iter_mut().filter(|(query, _)| !asked.contains(query)) {
            if let (Some(foreign), Some(catalog)) = (self.foreign.get(&query.service), view.known_mut()) {
                catalog.instances.extend(foreign.iter().cloned());
            }
        }
    }

    /// What happens by itself between two passes: containers become healthy, checks run, jobs end, servers of Consul join.
    /// Of the versions that fail, `bad` never becomes healthy, `second` never in its second slot, and `late` dies three seconds
    /// after each start of its first minute.
    pub fn settle(&self, world: &mut Observed, spec: usize, now: Timestamp) {
        common::settle(world, &self.specs[spec], now);
        if let Some(docker) = world.docker.known_mut() {
            for container in docker.containers.values_mut().filter(|container| container.state.running()) {
                if is_bad(container) {
                    match container.health {
                        Health::None => container.probe = Some(Probe::Failing("500".to_owned())),
                        _ => container.health = Health::Unhealthy("500".to_owned()),
                    }
                }
                let ContainerState::Running { started_at } = container.state else { continue };
                let age = container.created_at.map(|at| now.duration_since(at));
                let young = age.is_some_and(|age| age < SignedDuration::from_secs(60));
                let lived = now.duration_since(started_at) >= SignedDuration::from_secs(3);
                if container.config.contains(":late") && young && lived {
                    container.state =
                        ContainerState::Exited { code: 1, started_at: Some(started_at), finished_at: Some(now) };
                    container.published.clear();
                    for (_, endpoint) in &mut container.networks {
                        endpoint.address = None;
                    }
                }
            }
        }
        self.join(world);
    }

    /// The spec wants a version that fails.
    pub fn bad(&self, spec: usize) -> bool {
        let fails = |image: &str| image.contains(":bad") || image.contains(":late") || image.contains(":second");
        self.specs[spec].services.values().any(|service| fails(&service.config.image))
    }

    /// Consul's servers are found at the addresses that they have.
    fn join(&self, world: &mut Observed) {
        let Some(service) = self.servers else { return };
        Peers::of(world).follow(world);
        let (Some(docker), Some(consul)) = (world.docker.known(), world.consul.known_mut()) else { return };
        let mut slots: BTreeMap<u32, String> = BTreeMap::new();
        for container in docker.containers.values().filter(|c| c.service == service && c.state.running()) {
            if let Some(address) = container.networks.values().find_map(|endpoint| endpoint.address) {
                slots.insert(container.slot, format!("{address}:8300"));
            }
        }
        // A server that is away stays among the peers under its last address.
        for (slot, address) in slots {
            let index = usize::try_from(slot).unwrap_or(1) - 1;
            match consul.peers.get_mut(index) {
                Some(peer) => *peer = address,
                None => consul.peers.push(address),
            }
        }
    }
}

/// A version that never becomes healthy, or not in the second slot.
pub fn is_bad(container: &Container) -> bool {
    container.config.contains(":bad") || (container.config.contains(":second") && container.slot == 2)
}

/// A version that does not go on serving, whatever is done.
pub fn fails(container: &Container) -> bool {
    is_bad(container) || container.config.contains(":late")
}

/// A world at rest, with everything masked that two ways to it may do differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Service, slot, hash, running.
    replicas: BTreeSet<(String, u32, String, bool)>,
    /// Consul service, service, slot, tags, port of the container, passing.
    registrations: BTreeSet<(String, String, u32, Vec<String>, String, bool)>,
    /// By upstream: what is asked, and the service and slot of each endpoint.
    routes: BTreeMap<String, (String, Vec<String>)>,
    networks: BTreeSet<String>,
    volumes: BTreeSet<String>,
}

impl End {
    pub fn of(world: &Observed) -> Self {
        let (View::Known(docker), View::Known(consul), View::Known(nginx)) =
            (&world.docker, &world.consul, &world.nginx)
        else {
            panic!("an end is a world that can be read");
        };
        let replicas = docker
            .containers
            .values()
            .map(|c| (c.service.clone(), c.slot, c.hash.to_string(), c.state.running()))
            .collect();
        let registrations = consul
            .registrations
            .values()
            .map(|r| {
                let port = r.id.rsplit(':').next().unwrap_or_default().to_owned();
                let passing = passes(r) && r.maintenance == reeve::observed::Maintenance::Off;
                (r.name.clone(), r.service.clone(), r.slot, r.tags.clone(), port, passing)
            })
            .collect();
        let loaded = match &nginx.loaded {
            Loaded::Generation(id) => nginx.generations.get(id),
            _ => None,
        };
        let routes = loaded.into_iter().flat_map(|generation| &generation.manifest.upstreams).map(|(name, routed)| {
            let place = |container: &String| {
                docker.containers.get(container).map_or("gone".to_owned(), |c| format!("{} {}", c.service, c.slot))
            };
            let mut endpoints: Vec<String> = routed
                .endpoints
                .iter()
                .map(|endpoint| endpoint.container.as_ref().map_or_else(|| endpoint.to_string(), place))
                .collect();
            endpoints.sort();
            (name.clone(), (format!("{:?} {}", routed.upstream.query, routed.upstream.listen), endpoints))
        });
        Self {
            replicas,
            registrations,
            routes: routes.collect(),
            networks: docker.networks.keys().cloned().collect(),
            volumes: docker.volumes.keys().cloned().collect(),
        }
    }

    /// Without what a stranger keeps from being done, and what depends on that: the rest must be there all the same.
    pub fn without(&self, service: &str, spec: &Spec) -> Self {
        let mut out: BTreeSet<&str> = [service].into();
        while let Some(dependent) = spec.services.values().find(|dependent| {
            !out.contains(dependent.name.as_str()) && dependent.depends_on.keys().any(|on| out.contains(on.as_str()))
        }) {
            out.insert(&dependent.name);
        }
        let mut rest = self.clone();
        rest.replicas.retain(|replica| !out.contains(replica.0.as_str()));
        rest.registrations.retain(|registration| !out.contains(registration.1.as_str()));
        let services = spec.services.values().filter(|service| out.contains(service.name.as_str()));
        let names: BTreeSet<&String> = services.flat_map(|service| &service.register).map(|r| &r.name).collect();
        // What left under the same name goes on serving until its successor can.
        let before =
            |name: &str, service: &str| names.contains(&name.to_owned()) && !spec.services.contains_key(service);
        let mut kept: BTreeSet<String> =
            rest.registrations.iter().filter(|one| before(&one.0, &one.1)).map(|one| one.1.clone()).collect();
        // It may have lost its registration meanwhile.
        let asks = |upstream: &String| spec.upstreams.get(upstream).and_then(|upstream| upstream.query.as_ref());
        let routed =
            rest.routes.iter().filter(|(name, _)| asks(name).is_some_and(|query| names.contains(&query.service)));
        let services =
            routed.flat_map(|(_, (_, endpoints))| endpoints).filter_map(|endpoint| endpoint.split(' ').next());
        kept.extend(services.filter(|name| !spec.services.contains_key(*name)).map(str::to_owned));
        rest.replicas.retain(|replica| !kept.contains(&replica.0));
        rest.registrations.retain(|registration| !kept.contains(&registration.1));
        rest.routes.retain(|upstream, (_, endpoints)| {
            let asks = spec.upstreams.get(upstream).and_then(|upstream| upstream.query.as_ref());
            let touched = endpoints.iter().any(|e| out.iter().any(|service| e.starts_with(&format!("{service} "))));
            !touched && !asks.is_some_and(|query| names.contains(&query.service))
        });
        rest
    }

    /// What differs, in a few lines.
    pub fn differences(&self, wanted: &Self) -> String {
        let mut lines = Vec::new();
        let mut sides = |what: &str, is: String, should: String| {
            if is != should {
                lines.push(format!("  {what}: {is}\n    wanted: {should}"));
            }
        };
        sides("replicas", format!("{:?}", self.replicas), format!("{:?}", wanted.replicas));
        sides("registrations", format!("{:?}", self.registrations), format!("{:?}", wanted.registrations));
        sides("routes", format!("{:?}", self.routes), format!("{:?}", wanted.routes));
        sides("networks", format!("{:?}", self.networks), format!("{:?}", wanted.networks));
        sides("volumes", format!("{:?}", self.volumes), format!("{:?}", wanted.volumes));
        lines.join("\n")
    }
}
