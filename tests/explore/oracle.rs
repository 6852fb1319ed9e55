//! What must never happen, judged action by action, without a line of the planner's own code.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use reeve::observed::{CheckStatus, Container, ContainerState, Health, Maintenance, Probe};
use reeve::plan::action::{Action, ConsulAction, DockerAction, NginxAction};
use reeve::plan::{Step, System};
use reeve::spec::{Service, Spec, UpdateOrder};

use crate::state::State;

/// What is wrong with doing this now, if something is. `planned`: the state that the wave was planned for.
pub fn judge(planned: &State, before: &State, after: &State, step: &Step, spec: &Spec) -> Result<(), String> {
    if before.hidden == Some(step.action.system()) {
        return Err("it acts on what it cannot see".to_owned());
    }
    match &step.action {
        Action::Docker(DockerAction::StopContainer { id, .. }) => stop(before, id, spec)?,
        Action::Docker(DockerAction::RemoveContainer { id, .. }) => {
            if before.loaded_routes().any(|(_, container)| container == id) && alive(before, id) {
                return Err("it removes what nginx routes to".to_owned());
            }
        }
        Action::Docker(DockerAction::CreateContainer(new)) => {
            let strangers = before.world.docker.known().into_iter().flat_map(|docker| docker.strangers.values());
            if strangers.clone().any(|stranger| stranger.name == new.name) {
                return Err("the name is somebody else's".to_owned());
            }
            let ports = new.host_ports.iter().map(|port| port.host).filter(|port| *port != 0);
            let taken: BTreeSet<u16> = strangers.flat_map(|s| &s.published).map(|published| published.host).collect();
            if let Some(port) = ports.into_iter().find(|port| taken.contains(port)) {
                return Err(format!("host port {port} is somebody else's"));
            }
            let service = spec.services.get(&new.service).ok_or("its service is not wanted")?;
            surge(before, after, service)?;
        }
        Action::Docker(DockerAction::StartContainer { container, .. }) => start(before, after, container)?,
        Action::Consul(ConsulAction::Register(new)) => {
            if !fit(before, &new.container) {
                return Err("it registers what is not healthy".to_owned());
            }
        }
        Action::Consul(ConsulAction::Deregister { id }) => {
            let consul = before.world.consul.known().ok_or("Consul is not there")?;
            if consul.strangers.contains_key(id) {
                return Err("the registration is somebody else's".to_owned());
            }
            if let Some(registration) = consul.registrations.get(id) {
                let routed = before.loaded().into_iter().any(|(_, generation)| {
                    let endpoints = generation.manifest.upstreams.values().flat_map(|routed| &routed.endpoints);
                    endpoints.into_iter().any(|e| (&e.address, e.port) == (&registration.address, registration.port))
                });
                if routed && alive(before, &registration.container) {
                    return Err("it deregisters what nginx routes to".to_owned());
                }
            }
        }
        Action::Consul(ConsulAction::LiftDrain { id }) => {
            let consul = before.world.consul.known().ok_or("Consul is not there")?;
            let registration = consul.registrations.get(id);
            if registration.is_some_and(|r| matches!(r.maintenance, Maintenance::Operator { .. })) {
                return Err("it lifts an operator's maintenance".to_owned());
            }
        }
        Action::Nginx(NginxAction::SwitchGeneration { id }) => {
            let nginx = before.world.nginx.known().ok_or("nginx is not there")?;
            let checked = nginx.generations.get(id).is_some_and(|g| g.rejected.is_none() && g.damaged.is_empty());
            if !checked {
                return Err("it switches to what has not passed the check".to_owned());
            }
        }
        Action::Nginx(NginxAction::Reload { .. } | NginxAction::Start { .. }) => load(planned, before, after, spec)?,
        Action::Docker(_) | Action::Consul(_) | Action::Nginx(_) | Action::Directory(_) => {}
    }
    Ok(())
}

fn container<'s>(state: &'s State, id: &str) -> Option<&'s Container> {
    let docker = state.world.docker.known()?;
    docker.containers.get(id).or_else(|| docker.containers.values().find(|container| container.name == id))
}

fn alive(state: &State, id: &str) -> bool {
    container(state, id).is_some_and(|container| container.state.running())
}

/// It runs and answers its own check.
fn fit(state: &State, id: &str) -> bool {
    container(state, id).is_some_and(|container| {
        container.state.running()
            && match container.health {
                Health::Healthy => true,
                Health::Starting | Health::Unhealthy(_) => false,
                Health::None => container.probe == Some(Probe::Passing),
            }
    })
}

/// It is fit, and neither Consul's check nor an operator keeps it out of traffic.
fn serves(state: &State, id: &str) -> bool {
    let consul = state.world.consul.known();
    let registrations = consul.into_iter().flat_map(|consul| consul.registrations.values());
    let hindered = registrations.filter(|registration| registration.container == id).any(|registration| {
        matches!(registration.maintenance, Maintenance::Operator { .. })
            || registration.checks.values().any(|check| check.status != CheckStatus::Passing)
    });
    fit(state, id) && !hindered
}

fn stop(before: &State, id: &str, spec: &Spec) -> Result<(), String> {
    if before.loaded_routes().any(|(_, container)| container == id) {
        return Err("it stops what nginx routes to".to_owned());
    }
    let registered = container(before, id).is_some_and(|container| container.registers);
    match before.hidden {
        Some(System::Consul) if registered => return Err("it stops a registered one without seeing Consul".to_owned()),
        Some(System::Nginx) if registered => return Err("it stops a registered one without seeing nginx".to_owned()),
        _ => {}
    }
    if let Some(last) = before.last_routed.get(id) {
        // The shortest drain of all: the oracle does not know which upstream it was.
        let drain = spec.upstreams.values().map(|upstream| upstream.drain).min().unwrap_or(Duration::from_secs(5));
        let waited = before.now.duration_since(*last);
        if waited < jiff::SignedDuration::try_from(drain).expect("a short drain") {
            return Err(format!(
                "it stops {waited:#} after nginx was last seen routing to it, and the drain is {drain:?}"
            ));
        }
    }
    Ok(())
}

fn existing(state: &State, service: &str) -> usize {
    let containers = state.world.docker.known().into_iter().flat_map(|docker| docker.containers.values());
    containers.filter(|container| container.service == service).count()
}

fn stop_first(spec: &Service) -> bool {
    spec.update.order == Some(UpdateOrder::StopFirst)
}

fn surge(before: &State, after: &State, service: &Service) -> Result<(), String> {
    let most = service.replicas + if stop_first(service) { 0 } else { service.update.parallelism.max(1) };
    let most = usize::try_from(most).expect("few");
    let now = existing(after, &service.name);
    if now > existing(before, &service.name) && now > most {
        return Err(format!("{now} containers of {}, and {most} are the most", service.name));
    }
    Ok(())
}

fn start(before: &State, after: &State, id: &str) -> Result<(), String> {
    let Some(started) = container(after, id) else { return Ok(()) };
    let docker = after.world.docker.known().ok_or("Docker is not there")?;
    let ports: BTreeSet<u16> = started.published.iter().map(|published| published.host).collect();
    let clash = docker.containers.values().find(|other| {
        other.id != started.id
            && matches!(other.state, ContainerState::Running { .. } | ContainerState::Paused { .. })
            && other.published.iter().any(|published| ports.contains(&published.host))
    });
    if let Some(other) = clash {
        return Err(format!("its port is held by {}", other.name));
    }
    let nginx = before.world.nginx.known().ok_or("nginx is not there")?;
    let stuck = before.hidden.is_some() || nginx.generations.values().any(|generation| generation.rejected.is_some());
    let routed = before.loaded().into_iter().any(|(_, generation)| {
        let mut endpoints = generation.manifest.upstreams.values().flat_map(|routed| &routed.endpoints);
        endpoints.any(|endpoint| ports.contains(&endpoint.port))
    });
    if routed && !stuck {
        return Err("it starts where nginx already sends requests".to_owned());
    }
    Ok(())
}

/// Endpoints of each upstream that serve, by what nginx runs.
fn capacity(state: &State, planned: &State) -> BTreeMap<String, usize> {
    let mut capacity = BTreeMap::new();
    for (_, generation) in state.loaded() {
        for (name, routed) in &generation.manifest.upstreams {
            let serving = routed.endpoints.iter().filter(|endpoint| match &endpoint.container {
                // What only this wave brings back was not there to be kept.
                Some(container) => serves(state, container) && serves(planned, container),
                None => true,
            });
            capacity.insert(name.clone(), serving.count());
        }
    }
    capacity
}

fn load(planned: &State, before: &State, after: &State, spec: &Spec) -> Result<(), String> {
    let blind = before.hidden.is_some();
    for (upstream, id) in after.loaded_routes() {
        let was = before.loaded_routes().any(|route| route == (upstream, id));
        if !fit(after, id) && !blind {
            return Err(format!("it loads {upstream} with {id}, which is not healthy (routed before: {was})"));
        }
    }
    let (had, has) = (capacity(before, planned), capacity(after, planned));
    for (name, before_count) in had {
        let Some(upstream) = spec.upstreams.get(&name) else { continue };
        let query = upstream.query.as_ref().expect("every upstream asks");
        let must: u32 = spec
            .services
            .values()
            .filter(|service| service.register.iter().any(|register| register.name == query.service))
            .map(|service| {
                let missing = if stop_first(service) { service.update.parallelism.max(1) } else { 0 };
                service.replicas.saturating_sub(missing)
            })
            .sum();
        let must = before_count.min(usize::try_from(must).expect("few"));
        let now = has.get(&name).copied().unwrap_or(0);
        if now < must {
            return Err(format!("{name} goes from {before_count} to {now} endpoints that serve, and {must} must"));
        }
    }
    Ok(())
}
