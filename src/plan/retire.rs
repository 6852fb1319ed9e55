//! How a replica leaves: drain in Consul → a generation without it is seen loaded → the drain time is over → stop →
//! deregister → remove. Each step is planned only when the world shows the one before done.
//!
//! Owns the order of the last steps of a replica's life and the order among services that leave together. Which replica
//! may begin to leave is `replicas`'.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::action::{Action, ConsulAction, DockerAction};
use super::facts::Fitness;
use super::planner::{Planner, after};
use super::replicas::Leaving;
use super::{Change, ObjectKey};
use crate::observed::{Container, ContainerState, Loaded, Maintenance, Registration};

/// Compose's default for a service that left the spec, and with it its own `stop_grace_period`.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

impl<'a> Planner<'a> {
    /// The next step of a container that leaves.
    pub(super) fn retire(&mut self, container: &'a Container, leaving: &Leaving<'a>, grace: Duration) {
        let object = ObjectKey::Replica(container.name.clone());
        let registrations: Vec<&'a Registration> = self.facts.registrations(&container.id).to_vec();
        let running = match container.state {
            ContainerState::Running { .. } | ContainerState::Paused { .. } | ContainerState::Restarting => true,
            ContainerState::Created | ContainerState::Exited { .. } | ContainerState::Dead => false,
            ContainerState::Removing => return self.wait(object, "removing", "Docker is removing it"),
        };
        let bears_traffic = self.bears_traffic(container, &registrations);
        if bears_traffic && self.facts.consul.is_none() && !self.without_consul() {
            let why = self.observed.consul.reason().unwrap_or_default();
            let reason = format!("{}; it cannot be drained, since Consul cannot be read: {why}", leaving.cause);
            return self.wait(object, "consul_unknown", reason);
        }
        if !running {
            self.retiring.insert(&container.id);
            for registration in &registrations {
                let action = ConsulAction::Deregister { id: registration.id.clone() };
                self.step(object.clone(), Action::Consul(action), leaving.cause.clone());
            }
            let action = DockerAction::RemoveContainer { id: container.id.clone(), name: container.name.clone() };
            return self.step_with(object, Action::Docker(action), leaving.cause.clone(), leaving.changes.clone());
        }
        if bears_traffic && !self.drained(container, leaving, &registrations, &object) {
            return;
        }
        if !self.may_stop_peer(container, &object) {
            return;
        }
        self.retiring.insert(&container.id);
        let action = DockerAction::StopContainer { id: container.id.clone(), name: container.name.clone(), grace };
        self.step_with(object, Action::Docker(action), leaving.cause.clone(), leaving.changes.clone());
    }

    /// Something registers it, or may have, or something loaded routes to it. Otherwise it is traffic-free: replacing it
    /// needs no view of Consul, else a mistyped Consul service could never be mended.
    fn bears_traffic(&self, container: &Container, registrations: &[&Registration]) -> bool {
        let registers = self.spec.services.get(&container.service).is_some_and(|service| !service.register.is_empty());
        container.registers || registers || !registrations.is_empty() || self.facts.routed(&container.id) == Some(true)
    }

    fn without_consul(&self) -> bool {
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
        if let Some(reason) = self.capacity_unseen(container) {
            self.wait(object.clone(), "nginx_unknown", format!("{}; {reason}", leaving.cause));
            return false;
        }
        self.retiring.insert(&container.id);
        let undrained: Vec<&Registration> =
            registrations.iter().filter(|registration| registration.maintenance == Maintenance::Off).copied().collect();
        if !undrained.is_empty() {
            for registration in undrained {
                let action =
                    ConsulAction::Drain { id: registration.id.clone(), reason: format!("reeve: {}", leaving.cause) };
                self.step_with(object.clone(), Action::Consul(action), leaving.cause.clone(), leaving.changes.clone());
            }
            return false;
        }
        let with_nginx = self.context.nginx.is_some();
        if with_nginx {
            match self.facts.routed(&container.id) {
                Some(false) => {}
                Some(true) => {
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
        let drain = self.facts.drain(self.spec, container);
        let Some(started) = self.drain_clock(registrations, object) else { return false };
        let over = after(started, drain);
        if over > self.now {
            let reason = format!("unrouted; requests under way get {} to end", seconds(drain));
            self.wait_until(object.clone(), "drain", reason, over);
            return false;
        }
        true
    }

    /// Whether draining it now would take capacity away cannot be told while nginx's view of it is missing.
    fn capacity_unseen(&self, container: &Container) -> Option<String> {
        self.context.nginx.as_ref()?;
        let Some(nginx) = self.facts.nginx else {
            return Some(format!("nginx cannot be read: {}", self.observed.nginx.reason().unwrap_or_default()));
        };
        let service = self.spec.services.get(&container.service)?;
        let selected = service.register.iter().any(|register| {
            self.spec.upstreams.values().any(|up| up.query.as_ref().is_some_and(|q| q.service == register.name))
        });
        let healthy = self.facts.fitness(container, Some(service)) == Fitness::Healthy;
        let loaded = matches!(nginx.loaded, Loaded::Generation(_));
        (selected && healthy && !loaded && !self.draining(container))
            .then(|| "nginx runs no generation of ours, so that what serves cannot be told".to_owned())
    }

    /// When nginx was first seen not routing to it. Stored in Consul's `Meta`, which survives a crash; for a replica that
    /// is not registered the observer's own time is taken, which a restart can only make later.
    fn drain_clock(&mut self, registrations: &[&Registration], object: &ObjectKey) -> Option<Timestamp> {
        let draining = registrations.iter().filter(|r| matches!(r.maintenance, Maintenance::Draining { .. }));
        let draining: Vec<&&Registration> = draining.collect();
        if draining.is_empty() {
            return Some(self.facts.nginx.map_or(Timestamp::MIN, |nginx| nginx.loaded_since));
        }
        let unset: Vec<String> = draining.iter().filter(|r| r.drain_start.is_none()).map(|r| r.id.clone()).collect();
        if !unset.is_empty() {
            for id in unset {
                let action = ConsulAction::StartDrainClock { id, at: self.now };
                self.step(object.clone(), Action::Consul(action), "nginx is seen not routing to it");
            }
            return None;
        }
        draining.iter().filter_map(|registration| registration.drain_start).max()
    }

    /// Consul's servers are replaced one at a time: all at once lose the Raft quorum for a long time.
    fn may_stop_peer(&mut self, container: &Container, object: &ObjectKey) -> bool {
        if self.context.teardown.is_some() || !self.facts.consul_peer(container) {
            return true;
        }
        if self.peer_replaced {
            self.wait(object.clone(), "consul_peers", "another Consul server is being replaced");
            return false;
        }
        if let Err(reason) = self.facts.consul_quorum_complete() {
            self.wait(object.clone(), "consul_peers", format!("it is a Consul server, and {reason}"));
            return false;
        }
        self.peer_replaced = true;
        true
    }

    // ------------------------------------------------------------------------------------------ services that left

    /// Services that are not in the spec any more: the registering ones first, the others when those are gone, then in
    /// reverse `depends_on`.
    pub(super) fn retire_leaving_services(&mut self) {
        let spec = self.spec;
        let leaving: Vec<&'a str> =
            self.facts.services_seen().filter(|name| !spec.services.contains_key(*name)).collect();
        if leaving.is_empty() {
            return;
        }
        if let Some(held) = self.removals_held.clone() {
            for name in leaving {
                self.wait(ObjectKey::Service(name.to_owned()), "removal_held", held.clone());
            }
            return;
        }
        let registering: BTreeSet<&str> = leaving.iter().copied().filter(|name| self.registers(name)).collect();
        for name in leaving {
            let containers: Vec<&'a Container> = self.facts.containers(name).to_vec();
            if !registering.is_empty() && !registering.contains(name) {
                let who = registering.iter().copied().collect::<Vec<_>>().join(", ");
                let reason = format!("leaves after the services that are registered in Consul: {who}");
                self.wait(ObjectKey::Service(name.to_owned()), "removal_order", reason);
                continue;
            }
            if let Some(dependent) = self.dependent_still_there(name) {
                let reason = format!("leaves after {dependent}, which depended on it");
                self.wait(ObjectKey::Service(name.to_owned()), "removal_order", reason);
                continue;
            }
            for container in containers {
                let leaving = Leaving {
                    container,
                    cause: "its service is not in the spec".to_owned(),
                    changes: Vec::<Change>::new(),
                    surplus: true,
                };
                self.retire(container, &leaving, DEFAULT_GRACE);
            }
        }
    }

    fn registers(&self, service: &str) -> bool {
        self.facts
            .containers(service)
            .iter()
            .any(|container| container.registers || !self.facts.registrations(&container.id).is_empty())
    }

    fn dependent_still_there(&self, service: &str) -> Option<String> {
        let docker = self.facts.docker?;
        docker
            .containers
            .values()
            .find(|other| {
                other.service != service
                    && !self.spec.services.contains_key(&other.service)
                    && other.depends_on.contains(service)
                    // Two services that name each other cannot both wait; the spec refuses cycles, old labels may not.
                    && !self.facts.containers(service).iter().any(|own| own.depends_on.contains(&other.service))
            })
            .map(|other| other.service.clone())
    }
}

/// A duration in a sentence: `10 s`, `500 ms`.
pub(super) fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}
