//! Routes: which endpoints each upstream gets, and from there the generation that nginx should have loaded.
//!
//! Endpoints are Consul's passing set, whoever registered it, less our own replicas that are seen dead, unhealthy or
//! leaving. What cannot be read, or is suspicious, keeps what is loaded.

use std::collections::{BTreeMap, BTreeSet};

use super::ObjectKey;
use super::facts::Fitness;
use super::planner::{Planner, after};
use crate::observed::{
    Catalog, CheckStatus, Endpoint, Instance, ListenState, Maintenance, Nginx, RoutedUpstream, View,
};
use crate::spec::Upstream;
use crate::spec::upstream::WhenEmpty;

impl<'a> Planner<'a> {
    /// What the wanted generation routes, by upstream.
    pub(super) fn wanted_routes(&mut self, nginx: &'a Nginx) -> BTreeMap<String, RoutedUpstream> {
        let in_force = in_force(nginx);
        let mut wanted = BTreeMap::new();
        let spec = self.spec;
        for upstream in spec.upstreams.values() {
            let before = in_force.and_then(|routes| routes.get(&upstream.name));
            let routed = match self.upstream_held(nginx, upstream) {
                Some((kind, reason)) => {
                    self.wait(ObjectKey::Upstream(upstream.name.clone()), kind, reason);
                    // The last good one goes on, with what is still true of its endpoints.
                    before.map(|before| self.endpoints_of(before.clone(), Some(before)))
                }
                None => self.routed_upstream(nginx, upstream, before),
            };
            if let Some(routed) = routed {
                wanted.insert(upstream.name.clone(), routed);
            }
        }
        if let (Some(reason), Some(in_force)) = (self.removals_held.clone(), in_force) {
            for (name, routed) in in_force.iter().filter(|(name, _)| !spec.upstreams.contains_key(*name)) {
                self.wait(ObjectKey::Upstream(name.clone()), "removal_held", reason.clone());
                wanted.insert(name.clone(), routed.clone());
            }
        }
        wanted
    }

    /// Why the upstream's new configuration cannot be loaded, if so.
    fn upstream_held(&self, nginx: &Nginx, upstream: &Upstream) -> Option<(&'static str, String)> {
        if let Some(ListenState::Taken(reason)) = nginx.listens.get(&upstream.listen) {
            let listen = upstream.listen;
            return Some((
                "listen_taken",
                format!("listen {listen} is taken: {reason}; free it or choose another `listen`"),
            ));
        }
        upstream.tls.as_ref()?;
        let unreadable = nginx.tls.get(&upstream.name)?.iter().find_map(|(path, digest)| {
            digest.as_ref().err().map(|error| format!("TLS file {path} cannot be read: {error}"))
        })?;
        Some(("tls_file", unreadable))
    }

    fn routed_upstream(
        &mut self,
        nginx: &Nginx,
        upstream: &Upstream,
        before: Option<&RoutedUpstream>,
    ) -> Option<RoutedUpstream> {
        let files = nginx.tls.get(&upstream.name).into_iter().flatten();
        let files = files.filter_map(|(path, digest)| Some((path.clone(), digest.as_ref().ok()?.clone()))).collect();
        let routed = RoutedUpstream { upstream: upstream.clone(), endpoints: Vec::new(), files };
        // Endpoints of another query say nothing about this one.
        let before = before.filter(|before| before.upstream.query == upstream.query);
        let answer = upstream.query.as_ref().and_then(|query| Some(self.facts.consul?.catalog.get(query)));
        let unreadable = match (&upstream.query, answer) {
            (None, _) => return Some(routed),
            (Some(_), Some(Some(View::Known(_)))) => None,
            (Some(query), Some(Some(View::Unknown { reason, .. }))) => {
                Some(format!("{query} cannot be read: {reason}"))
            }
            (Some(query), Some(None)) => Some(format!("{query} has not been read yet")),
            (Some(_), None) => {
                Some(format!("Consul cannot be read: {}", self.observed.consul.reason().unwrap_or_default()))
            }
        };
        if let Some(reason) = unreadable {
            let kept = if before.is_some() { "; it keeps its endpoints" } else { "" };
            self.wait(ObjectKey::Upstream(upstream.name.clone()), "consul_unknown", format!("{reason}{kept}"));
            return before.map(|before| RoutedUpstream { endpoints: before.endpoints.clone(), ..routed });
        }
        Some(self.endpoints_of(routed, before))
    }

    /// Fills in the endpoints from the catalog and from what is known of our own replicas.
    fn endpoints_of(&mut self, mut routed: RoutedUpstream, before: Option<&RoutedUpstream>) -> RoutedUpstream {
        let query = routed.upstream.query.clone();
        let catalog = query.and_then(|query| self.facts.consul?.catalog.get(&query)?.known());
        let Some(catalog) = catalog else {
            routed.endpoints = before.map(|before| before.endpoints.clone()).unwrap_or_default();
            return routed;
        };
        let mut endpoints: BTreeSet<Endpoint> = catalog
            .instances
            .iter()
            .filter(|instance| {
                instance.passing && !instance.maintenance && instance.port != 0 && !self.own_out(instance)
            })
            .map(|instance| self.endpoint(instance))
            .collect();
        let before_endpoints = before.map(|before| before.endpoints.as_slice()).unwrap_or_default();
        for endpoint in before_endpoints {
            let there = endpoints.iter().any(|new| (&new.address, new.port) == (&endpoint.address, endpoint.port));
            if !there && self.own_unregistered(catalog, endpoint) {
                endpoints.insert(endpoint.clone());
            }
        }
        let lost: Vec<&Endpoint> = before_endpoints
            .iter()
            .filter(|old| !endpoints.iter().any(|new| (&new.address, new.port) == (&old.address, old.port)))
            .filter(|old| !self.loss_explained(catalog, old))
            .collect();
        let share = usize::from(self.context.distrust_percent);
        let believed_at = after(catalog.shrunk_at, self.context.distrust_for);
        let name = routed.upstream.name.clone();
        if !lost.is_empty() && lost.len() * 100 > share * before_endpoints.len() && believed_at > self.now {
            let reason = format!(
                "the catalog suddenly lost {} of {} endpoints; they stay until that has lasted",
                lost.len(),
                before_endpoints.len()
            );
            endpoints.extend(lost.into_iter().cloned());
            self.wait_until(ObjectKey::Upstream(name.clone()), "distrust", reason, believed_at);
        }
        if endpoints.is_empty() {
            if routed.upstream.when_empty == WhenEmpty::Keep && !before_endpoints.is_empty() {
                endpoints.extend(before_endpoints.iter().cloned());
                self.wait(
                    ObjectKey::Upstream(name),
                    "empty",
                    "no endpoint passes; it keeps the last ones (when_empty: keep)",
                );
            } else {
                self.wait(
                    ObjectKey::Upstream(name),
                    "empty",
                    "no endpoint passes; requests are answered by when_empty",
                );
            }
        }
        routed.endpoints = endpoints.into_iter().collect();
        routed
    }

    fn endpoint(&self, instance: &Instance) -> Endpoint {
        let ours = instance.owner.as_deref() == Some(self.context.owner.to_string().as_str());
        Endpoint {
            address: instance.address.clone(),
            port: instance.port,
            weight: instance.weight.max(1),
            container: instance.container.clone().filter(|_| ours),
        }
    }

    /// One of our own replicas that is seen unfit for traffic, whatever Consul still says. Docker or the agent Unknown:
    /// nothing is subtracted.
    fn own_out(&self, instance: &Instance) -> bool {
        if instance.owner.as_deref() != Some(self.context.owner.to_string().as_str()) {
            return false;
        }
        let (Some(docker), Some(consul)) = (self.facts.docker, self.facts.consul) else { return false };
        let Some(container) = instance.container.as_deref() else { return false };
        if self.retiring.contains(container) || self.retiring_registrations.contains(instance.id.as_str()) {
            return true;
        }
        let Some(container) = docker.containers.get(container) else { return true };
        if consul.registrations.get(&instance.id).is_some_and(|r| r.maintenance != Maintenance::Off) {
            return true;
        }
        match self.facts.fitness(container, self.spec.services.get(&container.service)) {
            Fitness::Healthy => false,
            Fitness::Starting(_) | Fitness::NotRunning(_) | Fitness::Unhealthy(_) => true,
        }
    }

    /// A replica of ours that is healthy and routed is not unrouted because its registration is *missing* (deregistered by
    /// hand, an agent that lost its state, a catalog that lags behind the agent): it is registered again first.
    fn own_unregistered(&self, catalog: &Catalog, endpoint: &Endpoint) -> bool {
        let (Some(docker), Some(consul), Some(id)) =
            (self.facts.docker, self.facts.consul, endpoint.container.as_deref())
        else {
            return false;
        };
        let Some(container) = docker.containers.get(id) else { return false };
        let service = self.spec.services.get(&container.service);
        if self.retiring.contains(id) || self.facts.fitness(container, service) != Fitness::Healthy {
            return false;
        }
        if catalog.instances.iter().any(|instance| instance.container.as_deref() == Some(id)) {
            // The catalog has it, and says that it does not pass, or under another address.
            return false;
        }
        let mut registrations = consul.registrations.values().filter(|registration| registration.container == id);
        registrations.all(|registration| {
            registration.maintenance == Maintenance::Off
                && registration.checks.values().all(|check| check.status == CheckStatus::Passing)
        })
    }

    /// The endpoint went for a reason that is seen elsewhere: our own replica is unfit or leaving, or the catalog still
    /// has the instance and says why it does not count.
    fn loss_explained(&self, catalog: &Catalog, endpoint: &Endpoint) -> bool {
        let listed = catalog
            .instances
            .iter()
            .any(|instance| instance.address == endpoint.address && instance.port == endpoint.port);
        if listed {
            return true;
        }
        let (Some(docker), Some(id)) = (self.facts.docker, endpoint.container.as_deref()) else { return false };
        if self.retiring.contains(id) {
            return true;
        }
        match docker.containers.get(id) {
            None => true,
            Some(container) => {
                let service = self.spec.services.get(&container.service);
                self.facts.fitness(container, service) != Fitness::Healthy
                    || catalog.instances.iter().any(|instance| instance.container.as_deref() == Some(id))
            }
        }
    }
}

/// What the generation in force routes: the loaded one's if that can be told, else what `current` points at.
fn in_force(nginx: &Nginx) -> Option<&BTreeMap<String, RoutedUpstream>> {
    let loaded = match &nginx.loaded {
        crate::observed::Loaded::Generation(id) => nginx.generations.get(id),
        crate::observed::Loaded::Nothing | crate::observed::Loaded::Mixed(_) | crate::observed::Loaded::Stranger(_) => {
            None
        }
    };
    let current = nginx.current.as_ref().and_then(|id| nginx.generations.get(id));
    loaded.or(current).map(|generation| &generation.manifest.upstreams)
}
