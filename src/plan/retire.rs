//! How a replica leaves: drain in Consul → a generation without it is seen loaded → the drain time is over → stop →
//! deregister → remove. Each step is planned only when the world shows the one before done.
//!
//! Owns the order of the last steps of a replica's life and the order among services that leave together. Which replica
//! may begin to leave is `replicas`'.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::action::{Action, ConsulAction, DockerAction};
use super::capacity::{Capacity, Place};
use super::facts::DEFAULT_DRAIN;
use super::gates::Gate;
use super::planner::{Planner, after};
use super::replicas::{Leaving, parallelism};
use super::{Change, ObjectKey};
use crate::observed::{Container, ContainerState, Maintenance, Registration};
use crate::spec::{Service, UpdateOrder};

/// Compose's default, for a container that was made without a `stop_grace_period`.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);
/// How long a server of Consul is given to be back among its peers while Consul does not tell.
const PEER_PAUSE: Duration = Duration::from_secs(30);

impl<'a> Planner<'a> {
    /// The next step of a container that leaves.
    pub(super) fn retire(&mut self, container: &'a Container, leaving: &Leaving<'a>) {
        let object = ObjectKey::Replica(container.name.clone());
        let registrations: Vec<&'a Registration> = self.facts.registrations(container).to_vec();
        let running = match container.state {
            ContainerState::Running { .. } | ContainerState::Paused { .. } | ContainerState::Restarting => true,
            ContainerState::Created | ContainerState::Exited { .. } | ContainerState::Dead => false,
            ContainerState::Removing => return self.wait(object, "removing", "Docker is removing it"),
        };
        let bears_traffic = self.bears_traffic(container, &registrations);
        let consul_missing = self.facts.consul.is_none() && self.holds(Gate::ConsulKnown);
        if bears_traffic && consul_missing && !self.without_consul() {
            let why = self.observed.consul.reason().unwrap_or_default();
            let reason = format!("{}; it cannot be drained, since Consul cannot be read: {why}", leaving.cause);
            return self.wait(object, "consul_unknown", reason);
        }
        if !running {
            return self.take_away(container, leaving, &registrations, object);
        }
        if bears_traffic && !self.drained(container, leaving, &registrations, &object) {
            return;
        }
        if !self.may_stop_peer(container, &object) {
            return;
        }
        let grace = stop_grace_period(&container.config);
        let action = DockerAction::StopContainer { id: container.id.clone(), name: container.name.clone(), grace };
        self.step_with(object.clone(), Action::Docker(action), leaving.cause.clone(), leaving.changes.clone());
        // In the same wave: what was stopped waits for nothing, and least of all for the others to be stopped.
        self.take_away(container, leaving, &registrations, object);
    }

    /// What does not run (any more).
    fn take_away(
        &mut self,
        container: &'a Container,
        leaving: &Leaving<'a>,
        registrations: &[&'a Registration],
        object: ObjectKey,
    ) {
        self.retiring.insert(&container.id);
        for registration in registrations {
            let action = ConsulAction::Deregister { id: registration.id.clone() };
            self.step(object.clone(), Action::Consul(action), leaving.cause.clone());
        }
        let action = DockerAction::RemoveContainer { id: container.id.clone(), name: container.name.clone() };
        self.step_with(object, Action::Docker(action), leaving.cause.clone(), leaving.changes.clone());
    }

    /// Others have died since it was drained, and nginx still routes to it: it goes on until they are back.
    pub(super) fn recall(&mut self, container: &'a Container) {
        self.recalled.insert(&container.id);
        for registration in self.facts.registrations(container).to_vec() {
            if matches!(registration.maintenance, Maintenance::Draining { .. }) {
                let lift = ConsulAction::LiftDrain { id: registration.id.clone() };
                let cause = "it was drained, and those that should serve in its place do not any more";
                self.step(ObjectKey::Registration(registration.id.clone()), Action::Consul(lift), cause);
            }
        }
    }

    /// Something registers it, or may have, or something loaded routes to it. Otherwise it is traffic-free: replacing it
    /// needs no view of Consul, else a mistyped Consul service could never be mended.
    fn bears_traffic(&self, container: &Container, registrations: &[&Registration]) -> bool {
        if !self.holds(Gate::BearsTraffic) {
            return !registrations.is_empty();
        }
        let registers = self.spec.services.get(&container.service).is_some_and(|service| !service.register.is_empty());
        container.registers || registers || !registrations.is_empty() || self.facts.routed(container) == Some(true)
    }

    pub(super) fn without_consul(&self) -> bool {
        self.context.teardown.is_some_and(|teardown| teardown.without_consul)
    }

    /// True when no request can reach it any more, and none is under way. Else the step or the wait is planned.
    fn drained(
        &mut self,
        container: &'a Container,
        leaving: &Leaving<'a>,
        registrations: &[&'a Registration],
        object: &ObjectKey,
    ) -> bool {
        if let Some(reason) = self.capacity_unseen(container).filter(|_| self.holds(Gate::CapacitySeen)) {
            self.wait(object.clone(), "nginx_unknown", format!("{}; {reason}", leaving.cause));
            return false;
        }
        self.retiring.insert(&container.id);
        let undrained: Vec<&Registration> =
            registrations.iter().filter(|registration| registration.maintenance == Maintenance::Off).copied().collect();
        if !undrained.is_empty() && self.holds(Gate::Drain) {
            for registration in undrained {
                let action =
                    ConsulAction::Drain { id: registration.id.clone(), reason: format!("reeve: {}", leaving.cause) };
                self.step_with(object.clone(), Action::Consul(action), leaving.cause.clone(), leaving.changes.clone());
            }
            return false;
        }
        let with_nginx = self.context.nginx.is_some();
        if with_nginx {
            match self.facts.routed(container) {
                Some(false) => {}
                Some(true) if !self.holds(Gate::Unrouted) => {}
                None if !self.holds(Gate::RoutedKnown) => {}
                Some(true) => {
                    for registration in registrations {
                        self.stop_drain_clock(registration, object.clone());
                    }
                    self.wait(object.clone(), "routed", "drained; a generation without it is not loaded yet");
                    return false;
                }
                None => {
                    self.wait(
                        object.clone(),
                        "nginx_unknown",
                        "drained; whether nginx still routes to it cannot be read",
                    );
                    return false;
                }
            }
        }
        let drain = self.drain_time(container);
        let Some(started) = self.drain_clock(container, registrations, object) else { return false };
        let over = after(started, drain);
        if over > self.now && self.holds(Gate::DrainTime) {
            let reason = format!("unrouted; requests under way get {} to end", seconds(drain));
            self.wait_until(object.clone(), "drain", reason, over);
            return false;
        }
        true
    }

    /// Whether draining it now would take capacity away cannot be told while nginx's view of it is missing.
    fn capacity_unseen(&self, container: &Container) -> Option<String> {
        self.context.nginx.as_ref()?;
        if self.facts.nginx.is_none() {
            return Some(format!("nginx cannot be read: {}", self.observed.nginx.reason().unwrap_or_default()));
        }
        let unseen = self.facts.routed(container).is_none() && !self.draining(container);
        unseen.then(|| "what nginx runs cannot be told, and with it what serves".to_owned())
    }

    /// How long a container is drained: the longest drain of the upstreams, of the spec or loaded, that ask for what it is
    /// registered as.
    pub(super) fn drain_time(&self, container: &Container) -> Duration {
        let registered = self.facts.registrations(container).iter().map(|registration| registration.name.as_str());
        let service = self.spec.services.get(&container.service);
        let declared = service.into_iter().flat_map(|service| &service.register).map(|register| register.name.as_str());
        let names: BTreeSet<&str> = registered.chain(declared).collect();
        let drains = names.iter().flat_map(|name| {
            let wanted = self.selecting(name).iter().map(|upstream| upstream.drain);
            wanted.chain(self.facts.loaded_drain(name))
        });
        let remembered = || names.iter().filter_map(|name| self.facts.remembered_drain(name)).max();
        drains.max().or_else(remembered).unwrap_or(DEFAULT_DRAIN)
    }

    /// Somebody loaded an older generation: the drain time begins anew when that is put right.
    pub(super) fn stop_drain_clock(&mut self, registration: &Registration, object: ObjectKey) {
        let runs = registration.drain_start.is_some() && self.holds(Gate::ClockStops);
        if runs && matches!(registration.maintenance, Maintenance::Draining { .. }) {
            let action = ConsulAction::StopDrainClock { id: registration.id.clone() };
            self.step(object, Action::Consul(action), "nginx routes to it again");
        }
    }

    /// When nginx was first seen not routing to it. Stored in Consul's `Meta`, which survives a crash; for a replica that
    /// is not registered the observer's own time is taken, which a restart can only make later, and not before its start:
    /// its first registration may only just have been written, and is not seen yet.
    fn drain_clock(
        &mut self,
        container: &Container,
        registrations: &[&Registration],
        object: &ObjectKey,
    ) -> Option<Timestamp> {
        let draining = registrations.iter().filter(|r| matches!(r.maintenance, Maintenance::Draining { .. }));
        let draining: Vec<&&Registration> = draining.collect();
        if draining.is_empty() {
            // Without an nginx of ours nothing routes to it, and nothing ever did.
            let nginx = self.facts.nginx.filter(|_| self.context.nginx.is_some());
            let unrouted = nginx.map_or(Timestamp::MIN, |nginx| nginx.routed_since);
            let healthy = || self.facts.fitness(container, self.spec.services.get(&container.service)).healthy();
            let started = match container.state {
                ContainerState::Running { started_at } if registrations.is_empty() && healthy() => started_at,
                _ => Timestamp::MIN,
            };
            return Some(unrouted.max(started));
        }
        let unset: Vec<String> = draining.iter().filter(|r| r.drain_start.is_none()).map(|r| r.id.clone()).collect();
        if !unset.is_empty() {
            for id in unset {
                let action = ConsulAction::StartDrainClock { id, at: self.now };
                self.step(object.clone(), Action::Consul(action), "nothing loaded routes to it");
            }
            return None;
        }
        draining.iter().filter_map(|registration| registration.drain_start).max()
    }

    /// Consul's servers are replaced one at a time: all at once lose the Raft quorum for a long time.
    fn may_stop_peer(&mut self, container: &Container, object: &ObjectKey) -> bool {
        if self.context.teardown.is_some() || !self.holds(Gate::Peers) {
            return true;
        }
        let known = self.facts.peers_known();
        let peer = if known { self.facts.consul_peer(container) } else { self.may_be_consul(container) };
        if !peer {
            return true;
        }
        if !container.state.running() {
            // It holds no vote: stopping it takes none away, and waiting for it to be back would never end.
            self.peer_replaced = true;
            return true;
        }
        if self.peer_replaced {
            self.wait(object.clone(), "consul_peers", "another Consul server is being replaced");
            return false;
        }
        if known {
            if let Err(reason) = self.facts.consul_quorum_complete() {
                self.wait(object.clone(), "consul_peers", format!("it is a Consul server, and {reason}"));
                return false;
            }
        } else if let Some((reason, until)) = self.consul_unsettled(container) {
            // It has to be replaced all the same, else a mistyped Consul service could never be mended.
            let reason = format!("it may be a Consul server, and while Consul does not tell, {reason}");
            match until {
                Some(until) => self.wait_until(object.clone(), "consul_peers", reason, until),
                None => self.wait(object.clone(), "consul_peers", reason),
            }
            return false;
        }
        self.peer_replaced = true;
        true
    }

    /// Only a guess, for the time in which Consul does not say who its servers are. One that keeps crashing holds no vote.
    fn may_be_consul(&self, container: &Container) -> bool {
        container.state.running() && names_consul(&container.config)
    }

    /// Why the next one cannot be replaced yet, and until when.
    fn consul_unsettled(&self, container: &Container) -> Option<(String, Option<Timestamp>)> {
        let docker = self.facts.docker?;
        let others = docker.containers.values().filter(|other| other.id != container.id && self.may_be_consul(other));
        for other in others {
            let ContainerState::Running { started_at } = other.state else { continue };
            let settled = after(started_at, PEER_PAUSE);
            if settled > self.now {
                return Some((format!("{} gets {} to join", other.name, seconds(PEER_PAUSE)), Some(settled)));
            }
        }
        // One that was stopped by an earlier wave, and whose successor does not run yet.
        let mut leaving = self.rosters.values().flat_map(|roster| &roster.leaving).map(|leaving| leaving.container);
        let halfway = leaving.find(|other| {
            let stopped = matches!(other.state, ContainerState::Exited { .. });
            stopped && other.id != container.id && names_consul(&other.config)
        });
        if let Some(other) = halfway {
            return Some((format!("{} is not back", other.name), None));
        }
        let missing = self.spec.services.values().find(|service| {
            let short = self.rosters.get(service.name.as_str()).is_some_and(|roster| {
                let there = roster.current.len() + roster.leaving.iter().filter(|leaving| !leaving.surplus).count();
                there < usize::try_from(service.replicas).unwrap_or(usize::MAX)
            });
            short && self.resources_missing(service, false).is_none() && names_consul(&service.config.canonical())
        });
        missing.map(|service| (format!("a replica of {} is not back", service.name), None))
    }

    // ------------------------------------------------------------------------------------------ services that left

    /// Services that are not in the spec any more: the registering ones first, the others when no registration is left,
    /// among themselves in reverse `depends_on`.
    pub(super) fn retire_leaving_services(&mut self) {
        let spec = self.spec;
        let gone = |name: &str| !spec.services.contains_key(name) && !self.held(name);
        let leaving: Vec<&'a str> = self.facts.services_seen().into_iter().filter(|name| gone(name)).collect();
        if leaving.is_empty() {
            return;
        }
        if let Some(held) = self.removals_held.clone() {
            for name in leaving {
                self.wait(ObjectKey::Service(name.to_owned()), "removal_held", held.clone());
            }
            return;
        }
        let (registering, others): (BTreeSet<&'a str>, BTreeSet<&'a str>) =
            leaving.into_iter().partition(|name| self.registers(name));
        let left = self.facts.consul.into_iter().flat_map(|consul| consul.registrations.values());
        let stays = |registration: &Registration| registration.discovered() && self.spec.discovery.is_some();
        let left = left.filter(|registration| gone(&registration.service) && !stays(registration)).count();
        let mut first = registering;
        if !self.holds(Gate::RegisteringFirst) {
            first.extend(others);
        } else if first.is_empty() && left == 0 {
            first = others;
        } else {
            let reason = if first.is_empty() {
                "leaves when the last registration of the services that leave is gone".to_owned()
            } else {
                let who = first.iter().copied().collect::<Vec<_>>().join(", ");
                format!("leaves after the services that are registered in Consul: {who}")
            };
            for name in others {
                self.wait(ObjectKey::Service(name.to_owned()), "removal_order", reason.clone());
            }
        }
        let mut capacity = self.succession(&first);
        let needed_by = self.needed_by(&first);
        for name in first {
            if let Some(dependent) = needed_by.get(name).filter(|_| self.holds(Gate::DependentsFirst)) {
                let reason = format!("leaves after {dependent}, which depended on it");
                self.wait(ObjectKey::Service(name.to_owned()), "removal_order", reason);
                continue;
            }
            let mut containers: Vec<(Vec<Place>, &'a Container)> =
                self.facts.containers(name).iter().map(|container| (self.places_left(container), *container)).collect();
            containers.sort_by_key(|(places, container)| (!places.is_empty(), container.slot, container.id.as_str()));
            for (places, container) in containers {
                let cause = "its service is not in the spec".to_owned();
                let begun = self.on_its_way(container);
                let spared = (begun && places.is_empty()) || capacity.take(&places);
                if begun && !spared && self.holds(Gate::Succession) {
                    self.recall(container);
                    continue;
                }
                if !begun && !spared && self.holds(Gate::Succession) {
                    let reason = format!("{cause}; it goes on serving until those that take its place do");
                    self.wait(ObjectKey::Replica(container.name.clone()), "roll", reason);
                    continue;
                }
                let leaving =
                    Leaving { container, cause, changes: Vec::<Change>::new(), surplus: true, outdated: false };
                self.retire(container, &leaving);
            }
        }
    }

    /// A service that left under one name may have come back under another: what asks for the new one must not lose the old
    /// one before.
    fn succession(&self, leaving: &BTreeSet<&'a str>) -> Capacity<'a> {
        let mut successors: BTreeSet<&'a str> = BTreeSet::new();
        let mut musts: BTreeMap<Place<'a>, u32> = BTreeMap::new();
        let ours = leaving.iter().flat_map(|name| self.facts.containers(name));
        let mut serving: Vec<Vec<Place<'a>>> = ours.map(|container| self.places_left(container)).collect();
        let places: BTreeSet<Place<'a>> = serving.iter().flatten().copied().collect();
        for place in places {
            let takes_over = |service: &Service| match place {
                Place::Running => false,
                Place::Registered(name) => service.register.iter().any(|register| register.name == name),
                Place::Routed(upstream) => {
                    let query = self.spec.upstreams.get(upstream).and_then(|upstream| upstream.query.as_ref());
                    query.is_some_and(|query| self.will_answer(service, query))
                }
            };
            for service in self.spec.services.values().filter(|service| takes_over(service)) {
                successors.insert(&service.name);
                let stop_first = self
                    .rosters
                    .get(service.name.as_str())
                    .is_some_and(|roster| roster.order.order == UpdateOrder::StopFirst);
                let missing = if stop_first { parallelism(service) } else { 0 };
                *musts.entry(place).or_default() += service.replicas.saturating_sub(missing);
            }
        }
        let successors = successors.into_iter().flat_map(|name| self.facts.containers(name));
        serving.extend(successors.map(|container| self.places(container)));
        Capacity::new(serving.into_iter(), |place, serving| serving.min(musts.get(&place).copied().unwrap_or(0)))
    }

    fn registers(&self, service: &str) -> bool {
        self.facts
            .containers(service)
            .iter()
            .any(|container| container.registers || !self.facts.registrations(container).is_empty())
    }

    /// Of the services that leave now, those on which another of them depended, with that one's name. Should they depend
    /// on each other in a circle (the spec refuses that, old labels may not), none waits.
    fn needed_by(&self, leaving: &BTreeSet<&'a str>) -> BTreeMap<&'a str, &'a str> {
        let mut needed: BTreeMap<&'a str, &'a str> = BTreeMap::new();
        for name in leaving {
            for container in self.facts.containers(name) {
                for dependency in &container.depends_on {
                    if dependency != name
                        && let Some(dependency) = leaving.get(dependency.as_str())
                    {
                        needed.entry(dependency).or_insert(name);
                    }
                }
            }
        }
        if leaving.iter().all(|name| needed.contains_key(name)) { BTreeMap::new() } else { needed }
    }
}

fn names_consul(config: &str) -> bool {
    let config: serde_json::Value = serde_json::from_str(config).unwrap_or_default();
    ["image", "command", "entrypoint"].iter().any(|key| config[key].to_string().to_lowercase().contains("consul"))
}

/// `stop_grace_period` as the container was made with.
fn stop_grace_period(config: &str) -> Duration {
    #[derive(serde::Deserialize)]
    struct Config {
        stop_grace_period: Option<Duration>,
    }
    let config: Option<Config> = serde_json::from_str(config).ok();
    config.and_then(|config| config.stop_grace_period).unwrap_or(DEFAULT_GRACE)
}

/// A duration in a sentence: `10 s`, `500 ms`.
pub(super) fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}
