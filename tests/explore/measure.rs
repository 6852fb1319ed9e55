//! Who serves where: counted without the planner.
//!
//! A place is an upstream (by what nginx's workers really run), a name in Consul, or a service that nothing registers.

use std::collections::BTreeSet;

use reeve::observed::{CheckStatus, Container, Docker, Health, Maintenance, Probe, Registration};
use reeve::spec::container::{MountSource, NetworkMode, Published};
use reeve::spec::{Service, Spec, UpdateOrder};

use crate::state::State;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Upstream(String),
    Consul(String),
    Service(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Upstream(name) => write!(f, "upstream {name}"),
            Self::Consul(name) => write!(f, "{name} in Consul"),
            Self::Service(name) => write!(f, "service {name}"),
        }
    }
}

/// A place of a spec, and how many must go on serving there whatever is done, if so many did.
#[derive(Debug, Clone)]
pub struct Floor {
    pub place: Place,
    pub must: u32,
    /// Networks of those who serve there: when one is made anew, everything on it has to go.
    pub networks: BTreeSet<String>,
}

/// How many serve in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count {
    /// Their declared check has run, and passes.
    pub proven: u32,
    /// They get requests: nothing speaks against them.
    pub believed: u32,
}

pub struct Serving {
    pub proven: bool,
    pub believed: bool,
}

/// Replaced in place: nothing takes over before the old one is gone.
pub fn stop_first(service: &Service) -> bool {
    let config = &service.config;
    let single = config.container_name.is_some()
        || config.hostname.is_some()
        || matches!(config.network_mode, Some(NetworkMode::Host))
        || config.ports.iter().any(|port| match port.published {
            Published::Ephemeral => false,
            Published::Range { first, last } => u32::from(last - first) < service.replicas,
        });
    let writes = config
        .mounts
        .iter()
        .any(|mount| matches!(mount.source, MountSource::Volume { .. } | MountSource::Bind { .. }) && !mount.read_only);
    single
        || match service.update.order {
            Some(order) => order == UpdateOrder::StopFirst,
            None => service.job || writes || service.register.is_empty(),
        }
}

pub fn parallelism(service: &Service) -> u32 {
    if service.update.parallelism == 0 { service.replicas.max(1) } else { service.update.parallelism }
}

/// What must go on, by the spec alone.
pub fn floors(spec: &Spec) -> Vec<Floor> {
    let must = |service: &Service| {
        let missing = if stop_first(service) { parallelism(service) } else { 0 };
        service.replicas.saturating_sub(missing)
    };
    let floor = |place: Place, services: Vec<&Service>| Floor {
        place,
        must: services.iter().map(|service| must(service)).sum(),
        networks: services.iter().flat_map(|service| service.config.networks.keys().cloned()).collect(),
    };
    let registering = |name: &str, tag: Option<&String>| -> Vec<&Service> {
        let services = spec.services.values().filter(|service| {
            let mut all = service.register.iter();
            all.any(|register| register.name == name && tag.is_none_or(|tag| register.tags.contains(tag)))
        });
        services.collect()
    };
    let mut floors = Vec::new();
    for upstream in spec.upstreams.values() {
        if let Some(query) = &upstream.query {
            let services = registering(&query.service, query.tag.as_ref());
            floors.push(floor(Place::Upstream(upstream.name.clone()), services));
        }
    }
    let names: BTreeSet<&String> = spec.services.values().flat_map(|s| &s.register).map(|r| &r.name).collect();
    for name in names {
        floors.push(floor(Place::Consul(name.clone()), registering(name, None)));
    }
    for service in spec.services.values().filter(|service| service.register.is_empty() && !service.job) {
        floors.push(floor(Place::Service(service.name.clone()), vec![service]));
    }
    floors
}

/// It runs and answers its own check, whatever anybody says of it.
pub fn fit(container: &Container) -> bool {
    container.state.running()
        && match container.health {
            Health::Healthy => true,
            Health::Starting | Health::Unhealthy(_) => false,
            Health::None => container.probe.is_none() || container.probe == Some(Probe::Passing),
        }
}

pub fn passes(registration: &Registration) -> bool {
    registration.checks.values().all(|check| check.status == CheckStatus::Passing)
}

pub fn ran(registration: &Registration) -> bool {
    registration.checks.iter().all(|(id, check)| !id.ends_with(":declared") || !check.output.is_empty())
}

/// Whether a container serves who is sent to it by nginx.
pub fn serving(state: &State, container: &Container) -> Serving {
    let mut serving = Serving { proven: fit(container), believed: fit(container) };
    for r in state.consul().registrations.values().filter(|r| r.container == container.id) {
        let hindered = matches!(r.maintenance, Maintenance::Operator { .. }) || !passes(r);
        serving.believed &= !hindered;
        let before = || state.ghost.proven.contains(&(container.id.clone(), r.check_digest.clone()));
        serving.proven &= !hindered && (ran(r) || before());
    }
    serving
}

/// The container answers at this port of the host: started again, it may have another one.
fn answers(state: &State, container: &str, port: u16) -> bool {
    state.container(container).is_some_and(|container| container.published.iter().any(|one| one.host == port))
}

/// Both are of one service.
fn sisters(state: &State, one: &str, other: &str) -> bool {
    let service = |id: &str| state.container(id).map(|container| container.service.as_str());
    service(one).is_some() && service(one) == service(other)
}

/// Taken out of traffic by reeve.
pub fn drains(state: &State, container: &str) -> bool {
    let mut registrations = state.consul().registrations.values();
    registrations.any(|r| r.container == container && matches!(r.maintenance, Maintenance::Draining { .. }))
        && !state.consul().registrations.values().any(|r| r.container == container && r.maintenance == Maintenance::Off)
}

/// The containers that may be missed: those that serve before the wave. What only the wave brings back was not there to
/// be kept.
pub struct Before {
    believed: BTreeSet<String>,
    proven: BTreeSet<String>,
    /// Believed, whoever sends requests to them.
    running: BTreeSet<String>,
}

impl Before {
    /// `seen`: Docker as the wave saw it, when that was one write late: whom it shows unfit there, nobody can spare.
    /// `unseen`: the spec, when the wave could not see what nginx routes to. Then nobody can tell that one that drains is
    /// needed there still, or one whose service left the spec, and whose registration is lost, too.
    pub fn of(state: &State, seen: Option<&Docker>, unseen: Option<&Spec>) -> Self {
        let mut before = Self { believed: BTreeSet::new(), proven: BTreeSet::new(), running: BTreeSet::new() };
        for container in state.docker().containers.values() {
            if seen.is_some_and(|docker| docker.containers.get(&container.id).is_none_or(|seen| !fit(seen))) {
                continue;
            }
            let serving = serving(state, container);
            if serving.believed {
                before.running.insert(container.id.clone());
            }
            let mut registrations = state.consul().registrations.values();
            let traceless = |spec: &Spec| {
                let left = !spec.services.contains_key(&container.service);
                drains(state, &container.id) || (left && registrations.all(|one| one.container != container.id))
            };
            if unseen.is_some_and(traceless) {
                continue;
            }
            if serving.believed {
                before.believed.insert(container.id.clone());
            }
            if serving.proven {
                before.proven.insert(container.id.clone());
            }
        }
        before
    }
}

/// How many serve in each place, in the order of the floors. What drains serves as long as nginx routes to it.
pub fn counts(state: &State, floors: &[Floor], before: &Before, unseen: Option<&Spec>) -> Vec<Count> {
    let now = Before::of(state, None, unseen);
    let believed = |id: &str| now.believed.contains(id) && before.believed.contains(id);
    // A check that is made anew has not run yet; what passed before the wave goes on being proven.
    let proven = |id: &str| now.believed.contains(id) && before.proven.contains(id);
    // A container that is there under two ports, one of which leaves, is one that serves.
    let of = |ours: BTreeSet<&str>, others: usize| {
        let count = |serves: &dyn Fn(&str) -> bool| {
            u32::try_from(ours.iter().filter(|id| serves(id)).count() + others).expect("few")
        };
        Count { proven: count(&proven), believed: count(&believed) }
    };
    let mut counts = Vec::with_capacity(floors.len());
    for floor in floors {
        let count = match &floor.place {
            Place::Upstream(name) => {
                // Served by every live worker, whichever gets the request.
                let mut least: Option<Count> = None;
                for (_, manifest) in &state.ghost.running {
                    let endpoints = manifest.upstreams.get(name).into_iter().flat_map(|routed| &routed.endpoints);
                    let containers = endpoints.clone().filter_map(|endpoint| {
                        let meant = endpoint.container.as_deref()?;
                        let mut ours = state.docker().containers.values().map(|container| container.id.as_str());
                        // Whoever answers there gets the requests.
                        ours.find(|id| answers(state, id, endpoint.port))
                            .filter(|id| *id == meant || sisters(state, id, meant))
                    });
                    let count = of(containers.collect(), endpoints.filter(|e| e.container.is_none()).count());
                    least = Some(least.map_or(count, |least| Count {
                        proven: least.proven.min(count.proven),
                        believed: least.believed.min(count.believed),
                    }));
                }
                least.unwrap_or(Count { proven: 0, believed: 0 })
            }
            Place::Consul(name) => {
                let given_out = state.consul().registrations.values();
                let given_out = given_out.filter(|r| r.name == *name && r.maintenance == Maintenance::Off && passes(r));
                let given_out = given_out.filter(|r| answers(state, &r.container, r.port));
                of(given_out.map(|registration| registration.container.as_str()).collect(), 0)
            }
            Place::Service(name) => {
                let ours = state.docker().containers.values().filter(|container| container.service == *name);
                let runs = |id: &String| now.running.contains(id) && before.running.contains(id);
                let serving = ours.filter(|container| runs(&container.id)).count();
                let serving = u32::try_from(serving).expect("few");
                Count { proven: serving, believed: serving }
            }
        };
        counts.push(count);
    }
    counts
}

/// Networks that are not as the spec says: Docker cannot change one in place.
pub fn replaced_networks(state: &State, spec: &Spec) -> BTreeSet<String> {
    let differs = |seen: &&reeve::observed::NetworkSeen| {
        let wanted = spec.networks.get(&seen.name).filter(|wanted| !wanted.external);
        seen.ours && wanted.is_some_and(|wanted| serde_json::to_string(wanted).ok() != seen.config)
    };
    state.docker().networks.values().filter(differs).map(|seen| seen.name.clone()).collect()
}

/// No step takes what serves below what must.
pub fn kept(floors: &[Floor], replaced: &BTreeSet<String>, before: &[Count], after: &[Count]) -> Result<(), String> {
    for ((floor, before), after) in floors.iter().zip(before).zip(after) {
        if !floor.networks.is_disjoint(replaced) {
            continue;
        }
        for (what, had, has) in
            [("serve", before.believed, after.believed), ("are proven to serve", before.proven, after.proven)]
        {
            let must = had.min(floor.must);
            if has < must {
                return Err(format!("{}: {had} {what}, and then {has}, where {must} must", floor.place));
            }
        }
    }
    Ok(())
}
