//! Routes: which endpoints each upstream gets, and from there the generation that nginx should have loaded.
//!
//! Endpoints are Consul's passing set, whoever registered it, less our own replicas that are seen dead, unhealthy or
//! leaving. What cannot be read, or is suspicious, keeps what is loaded.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use jiff::Timestamp;

use super::ObjectKey;
use super::facts::refuted;
use super::gates::Gate;
use super::planner::{Planner, after};
use super::verdict::Verdict;
use crate::observed::{
    Catalog, Container, Endpoint, Instance, ListenState, Maintenance, Nginx, Registration, RoutedUpstream, Shared, View,
};
use crate::spec::Upstream;
use crate::spec::upstream::{CatalogQuery, WhenEmpty};

/// An address and port: what nginx tells endpoints apart by.
type Place<'e> = (&'e str, u16);

fn place(endpoint: &Endpoint) -> Place<'_> {
    (&endpoint.address, endpoint.port)
}

/// The answer of the catalog for one upstream, indexed when something is missing from it: what it says of an instance that
/// is no endpoint.
struct Answer<'a> {
    catalog: &'a Catalog,
    /// By place: is everything that it lists there in maintenance?
    listed: OnceCell<BTreeMap<Place<'a>, bool>>,
    /// By container: is everything that it lists of it only doubtful?
    containers: OnceCell<BTreeMap<&'a str, bool>>,
    /// By id: is it only doubtful?
    ids: OnceCell<BTreeMap<&'a str, bool>>,
}

impl<'a> Answer<'a> {
    fn of(catalog: &'a Catalog) -> Self {
        Self { catalog, listed: OnceCell::new(), containers: OnceCell::new(), ids: OnceCell::new() }
    }

    /// Whether everything that it lists at this place is in maintenance; `None`: it lists nothing there.
    fn maintenance_at(&self, place: Place<'_>) -> Option<bool> {
        let listed = self.listed.get_or_init(|| {
            let instances = self.catalog.instances.iter();
            all_by_key(instances.map(|one| ((one.address.as_str(), one.port), one.maintenance)))
        });
        listed.get(&place).copied()
    }

    /// Whether everything that it lists of this container is only doubtful; `None`: it lists nothing of it.
    fn doubts(&self, container: &str) -> Option<bool> {
        let containers = self.containers.get_or_init(|| {
            let instances = self.catalog.instances.iter();
            all_by_key(instances.filter_map(|one| Some((one.container.as_deref()?, one.doubtful))))
        });
        containers.get(container).copied()
    }

    /// Something that it lists of this container may be routed to.
    fn offers(&self, container: &str) -> bool {
        let mut instances = self.catalog.instances.iter();
        instances.any(|one| one.container.as_deref() == Some(container) && not_offered(one).is_none())
    }

    /// The same of the instance that is registered with this id.
    fn doubts_id(&self, id: &str) -> Option<bool> {
        let ids = self.ids.get_or_init(|| {
            let instances = self.catalog.instances.iter();
            all_by_key(instances.map(|one| (one.id.as_str(), one.doubtful)))
        });
        ids.get(id).copied()
    }
}

/// By key: does it hold for everything that has the key?
fn all_by_key<K: Ord>(each: impl Iterator<Item = (K, bool)>) -> BTreeMap<K, bool> {
    let mut all = BTreeMap::new();
    for (key, holds) in each {
        *all.entry(key).or_insert(true) &= holds;
    }
    all
}

impl<'a> Planner<'a> {
    /// What the wanted generation routes, by upstream.
    pub(super) fn wanted_routes(&mut self, nginx: &'a Nginx) -> BTreeMap<String, RoutedUpstream> {
        let in_force = in_force(nginx);
        // nginx does not hold that address itself: neither a start nor a reload could load it, and the other upstreams with
        // it.
        let taken =
            |before: &RoutedUpstream| matches!(nginx.listens.get(&before.upstream.listen), Some(ListenState::Taken(_)));
        let mut wanted = BTreeMap::new();
        let spec = self.spec;
        for upstream in spec.upstreams.values() {
            let before = in_force.and_then(|routes| routes.get(&upstream.name));
            let routed = match self.upstream_held(nginx, upstream) {
                Some((kind, reason)) => {
                    self.wait(ObjectKey::Upstream(upstream.name.clone()), kind, reason);
                    before.filter(|before| !taken(before)).map(|before| self.last_good(before))
                }
                None => self.routed_upstream(nginx, upstream, before),
            };
            if let Some(routed) = routed {
                wanted.insert(upstream.name.clone(), routed);
            }
        }
        // Whether a spec removes everything cannot be told without Docker.
        let unseen = self.facts.docker.is_none() && self.holds(Gate::RemovalsSeen);
        let blind = unseen && self.context.teardown.is_none();
        let held = self.removals_held.clone().or_else(|| {
            blind.then(|| "the spec does not have it any more; it stays while Docker cannot be read".to_owned())
        });
        if let (Some(reason), Some(in_force)) = (held, in_force) {
            for (name, routed) in in_force.iter().filter(|(name, _)| !spec.upstreams.contains_key(*name)) {
                self.wait(ObjectKey::Upstream(name.clone()), "removal_held", reason.clone());
                if !taken(routed) {
                    wanted.insert(name.clone(), self.last_good(routed));
                }
            }
        }
        let stranded = in_force
            .into_iter()
            .flatten()
            .filter(|(name, routed)| !spec.upstreams.contains_key(*name) && self.stranded(routed));
        for (name, routed) in stranded.collect::<Vec<_>>() {
            if !wanted.contains_key(name) {
                let reason = "the spec does not have it any more; it stays until its replicas can be drained";
                self.wait(ObjectKey::Upstream(name.clone()), "removal_order", reason);
                wanted.insert(name.clone(), self.last_good(routed));
            }
        }
        wanted
    }

    /// It routes to replicas of a service that leaves, and that cannot leave while Consul cannot be read: taking the route
    /// away would be an outage and nothing else.
    fn stranded(&self, routed: &RoutedUpstream) -> bool {
        let undrainable = self.facts.consul.is_none() && !self.without_consul() && self.holds(Gate::Stranded);
        let Some(docker) = self.facts.docker.filter(|_| undrainable) else {
            return false;
        };
        let containers = routed.endpoints.iter().filter_map(|endpoint| endpoint.container.as_ref());
        containers
            .filter_map(|id| docker.containers.get(id))
            .any(|container| container.state.running() && !self.spec.services.contains_key(&container.service))
    }

    /// The configuration that is in force, with what is still true of its endpoints.
    pub(super) fn last_good(&mut self, before: &'a RoutedUpstream) -> RoutedUpstream {
        self.endpoints_of(before.clone(), Some(before))
    }

    /// Why the upstream's new configuration cannot be loaded, if so.
    fn upstream_held(&self, nginx: &Nginx, upstream: &Upstream) -> Option<(&'static str, String)> {
        let listen = nginx.listens.get(&upstream.listen).filter(|_| self.holds(Gate::ListenFree));
        if let Some(ListenState::Taken(reason)) = listen {
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
        before: Option<&'a RoutedUpstream>,
    ) -> Option<RoutedUpstream> {
        let files = nginx.tls.get(&upstream.name).into_iter().flatten();
        let files = files.filter_map(|(path, digest)| Some((path.clone(), digest.as_ref().ok()?.clone()))).collect();
        // What has not changed stays one and the same: at a thousand upstreams each copy of them would be megabytes.
        let same = before.filter(|before| *before.upstream == *upstream);
        let shared = same.map_or_else(|| upstream.clone().into(), |before| before.upstream.clone());
        let routed = RoutedUpstream { upstream: shared, endpoints: Shared::default(), files };
        let Some(query) = &upstream.query else { return Some(routed) };
        let unreadable = match self.facts.consul.map(|consul| consul.catalog.get(query)) {
            Some(Some(View::Known(_))) => {
                let asks_anew = before.filter(|before| before.upstream.query.as_ref() != Some(query));
                let unseen = self.facts.docker.is_none() && self.holds(Gate::ReplicasKnown);
                let Some(before) = asks_anew.filter(|_| unseen) else {
                    return Some(self.endpoints_of(routed, before));
                };
                // Our own replicas are not registered under another name before they can be seen.
                let reason = format!("its replicas cannot be seen; it goes on as it is until {query} can be trusted");
                self.wait(ObjectKey::Upstream(upstream.name.clone()), "docker_unknown", reason);
                return Some(self.last_good(before));
            }
            Some(Some(View::Unknown { reason, .. })) => format!("Consul's service {query} cannot be read: {reason}"),
            Some(None) => format!("{query} has not been read yet"),
            None => format!("Consul cannot be read: {}", self.observed.consul.reason().unwrap_or_default()),
        };
        if !self.holds(Gate::CatalogKnown) {
            return Some(routed);
        }
        let object = ObjectKey::Upstream(upstream.name.clone());
        let Some(before) = before else {
            self.wait(object, "consul_unknown", unreadable);
            return None;
        };
        self.wait(object, "consul_unknown", format!("{unreadable}; it keeps its endpoints"));
        if before.upstream.query == upstream.query {
            return Some(self.endpoints_of(routed, Some(before)));
        }
        // Endpoints of another query say nothing about this one: all of it stays as it is.
        Some(self.last_good(before))
    }

    /// The verdicts where nothing is known of what nginx routes to.
    pub(super) fn judge_without_nginx(&mut self) {
        for upstream in self.spec.upstreams.values() {
            let routed = RoutedUpstream {
                upstream: upstream.clone().into(),
                endpoints: Shared::default(),
                files: BTreeMap::new(),
            };
            self.endpoints_of(routed, None);
        }
    }

    /// Fills in the endpoints from the catalog and from what is known of our own replicas.
    fn endpoints_of(&mut self, mut routed: RoutedUpstream, before: Option<&'a RoutedUpstream>) -> RoutedUpstream {
        let Some(query) = &routed.upstream.query else { return routed };
        let name = routed.upstream.name.clone();
        if let Some(judged) = &mut self.judged {
            judged.insert(name.clone(), Vec::new());
        }
        let in_force = before.map(|before| before.endpoints.as_slice()).unwrap_or_default();
        let answer = self.facts.consul.and_then(|consul| consul.catalog.get(query)?.known()).map(Answer::of);
        let Some(answer) = answer else {
            routed.endpoints.clear();
            for endpoint in in_force {
                match self.own_trouble(endpoint) {
                    Some(verdict) => self.judge(&name, endpoint, None, verdict),
                    None => {
                        self.judge(&name, endpoint, None, Verdict::Unread);
                        routed.endpoints.push(endpoint.clone());
                    }
                }
            }
            return routed;
        };
        // By address and port: what is registered twice, by reeve and by something else, is one endpoint.
        let mut endpoints: BTreeMap<Place<'a>, Endpoint> = BTreeMap::new();
        let mut flapping: Vec<(Timestamp, Endpoint, &'a Instance)> = Vec::new();
        for instance in answer.catalog.instances.iter() {
            let refused = not_offered(instance);
            if refused.is_some() && self.judged.is_none() {
                continue;
            }
            let endpoint = self.endpoint(instance, in_force);
            // What is seen of our own replica says more than Consul's word for it.
            if let Some(verdict) = self.own_out(instance, &endpoint).or(refused) {
                self.judge(&name, &endpoint, Some(instance), verdict);
                continue;
            }
            let spot = (instance.address.as_str(), instance.port);
            if let Some(until) = self.flapping(answer.catalog, instance, &endpoint)
                && !in_force.iter().any(|old| place(old) == spot)
            {
                flapping.push((until, endpoint, instance));
                continue;
            }
            self.judge(&name, &endpoint, Some(instance), Verdict::Passing);
            let known = endpoints.get(&spot).is_some_and(|known| known.container.is_some());
            if !known {
                endpoints.insert(spot, endpoint);
            }
        }
        // What `current` points at and nginx is not seen running yet: a reload may be under way.
        let next = self.facts.nginx.and_then(|nginx| nginx.generations.get(nginx.current.as_ref()?));
        let next = next.filter(|generation| generation.rejected.is_none());
        let next = next.and_then(|generation| generation.manifest.upstreams.get(&name));
        for endpoint in in_force.iter().chain(next.into_iter().flat_map(|routed| &routed.endpoints)) {
            let unlisted = || self.holds(Gate::Unlisted) && self.own_unlisted(query, &answer, endpoint);
            // Nothing is subtracted that cannot be seen: what was told of it before is not told to be wrong.
            let unseen = || {
                let ours = self.facts.docker.is_none() && endpoint.container.is_some();
                ours && answer.maintenance_at(place(endpoint)).is_none() && self.holds(Gate::ReplicasKnown)
            };
            // Whether the others suffice cannot be told without Docker.
            let drained_unseen = || {
                let ours = endpoint.container.as_deref().filter(|_| self.facts.docker.is_none());
                let registrations = ours.map(|id| self.facts.registrations_of_id(id)).unwrap_or_default();
                let drains = |one: &&&Registration| {
                    let here = (one.address.as_str(), one.port) == place(endpoint);
                    here && matches!(one.maintenance, Maintenance::Draining { .. }) && !refuted(one)
                };
                registrations.iter().any(|one| drains(&one)) && self.holds(Gate::ReplicasKnown)
            };
            let recalled = || endpoint.container.as_deref().is_some_and(|id| self.recalled.contains(id));
            if !endpoints.contains_key(&place(endpoint)) && (recalled() || unlisted() || unseen() || drained_unseen()) {
                self.judge(&name, endpoint, None, Verdict::Unlisted);
                endpoints.insert(place(endpoint), endpoint.clone());
            }
        }
        // Endpoints of another query say nothing about this one.
        let same = before.is_some_and(|before| before.upstream.query.as_ref() == Some(query));
        let missing: Vec<&Endpoint> = in_force.iter().filter(|old| !endpoints.contains_key(&place(old))).collect();
        let lost: Vec<&Endpoint> =
            missing.iter().copied().filter(|old| same && !self.loss_explained(&answer, old)).collect();
        let share = usize::from(self.context.distrust_percent);
        // An agent that was cut off tells for a moment what its checks saw meanwhile (seen): then no loss is believed at once.
        let large = lost.len() * 100 > share * in_force.len();
        let since = answer.catalog.returned_at.into_iter().chain(large.then_some(answer.catalog.shrunk_at)).max();
        let believed_at = since.map(|since| after(since, self.context.distrust_for)).filter(|until| *until > self.now);
        let object = ObjectKey::Upstream(routed.upstream.name.clone());
        let sudden = !lost.is_empty() && self.holds(Gate::Distrust);
        if let Some(believed_at) = believed_at.filter(|_| sudden) {
            let reason = format!(
                "the catalog suddenly lost {} of {} endpoints; they stay until that has lasted",
                lost.len(),
                in_force.len()
            );
            for old in lost {
                self.judge(&name, old, None, Verdict::Distrusted { until: believed_at });
                endpoints.insert(place(old), old.clone());
            }
            self.wait_until(object.clone(), "distrust", reason, believed_at);
        }
        let alone = endpoints.is_empty();
        for (until, endpoint, instance) in flapping {
            if alone {
                // Better one that comes and goes than none.
                self.judge(&name, &endpoint, Some(instance), Verdict::Passing);
                endpoints.insert((instance.address.as_str(), instance.port), endpoint);
                continue;
            }
            self.judge(&name, &endpoint, Some(instance), Verdict::Flapping { until });
            let reason = format!("{endpoint} has come back too often in a short time; it must pass for a while first");
            self.wait_until(object.clone(), "flapping", reason, until);
        }
        for old in missing {
            if self.judged.is_some()
                && !endpoints.contains_key(&place(old))
                && answer.maintenance_at(place(old)).is_none()
            {
                let verdict = self.own_trouble(old).unwrap_or(Verdict::Delisted);
                self.judge(&name, old, None, verdict);
            }
        }
        if endpoints.is_empty() {
            if routed.upstream.when_empty == WhenEmpty::Keep && same {
                // A replica that leaves must be unrouted all the same, else it could never be stopped.
                for old in in_force.iter().filter(|old| !self.leaves(old)).collect::<Vec<_>>() {
                    self.judge(&name, old, None, Verdict::KeptWhenEmpty);
                    endpoints.insert(place(old), old.clone());
                }
            }
            let reason = if endpoints.is_empty() {
                "no endpoint passes; requests are answered by when_empty"
            } else {
                "no endpoint passes; it keeps the last ones (when_empty: keep)"
            };
            self.wait(object, "empty", reason);
        }
        let mut endpoints: Vec<Endpoint> = endpoints.into_values().collect();
        endpoints.sort();
        routed.endpoints = match before.filter(|before| *before.endpoints == endpoints) {
            Some(before) => before.endpoints.clone(),
            None => endpoints.into(),
        };
        routed
    }

    /// Until when it has to pass before it is taken back, having come back too often: by Consul's word, or by Docker's.
    fn flapping(&self, catalog: &Catalog, instance: &Instance, endpoint: &Endpoint) -> Option<Timestamp> {
        if catalog.flapping.is_empty() && self.facts.docker.is_none_or(|docker| docker.flapping.is_empty()) {
            return None;
        }
        let passes = catalog.flapping.get(&(instance.node.clone(), instance.id.clone()));
        let runs = endpoint.container.as_ref().and_then(|id| self.facts.docker?.flapping.get(id));
        passes.into_iter().chain(runs).max().copied().filter(|until| *until > self.now)
    }

    /// The endpoint of an instance, with our container that answers there, whoever registered it.
    fn endpoint(&self, instance: &Instance, in_force: &[Endpoint]) -> Endpoint {
        let container = if instance.owner.as_deref() == Some(self.owner.as_str()) {
            let advertise = self.context.advertise.as_deref();
            let there = || self.facts.container_at(&instance.address, instance.port, advertise).map(str::to_owned);
            // Started again, it may be elsewhere, and another one of ours there.
            instance
                .container
                .clone()
                .filter(|container| !self.facts.displaced(container, &instance.id))
                .or_else(there)
                .or_else(|| instance.container.clone())
        } else if self.facts.docker.is_some() {
            let advertise = self.context.advertise.as_deref();
            self.facts.container_at(&instance.address, instance.port, advertise).map(str::to_owned)
        } else {
            // Nothing is learnt, so nothing changes.
            let known = in_force.iter().find(|old| old.address == instance.address && old.port == instance.port);
            known.and_then(|known| known.container.clone())
        };
        Endpoint { address: instance.address.clone(), port: instance.port, weight: instance.weight.max(1), container }
    }

    /// A replica that this wave takes out of traffic.
    fn leaves(&self, endpoint: &Endpoint) -> bool {
        let leaves = endpoint.container.as_deref().is_some_and(|container| self.retiring.contains(container));
        leaves && self.holds(Gate::LeavesWhenEmpty)
    }

    /// Why one of our own replicas is out, whatever Consul still says: it is seen unfit for traffic, or leaves. Docker or
    /// the agent Unknown: nothing is subtracted.
    fn own_out(&self, instance: &Instance, endpoint: &Endpoint) -> Option<Verdict> {
        self.facts.consul?;
        let seen = match endpoint.container.as_deref().and_then(|id| self.facts.container(id)) {
            Some(container) => self.facts.registration_of(container, &instance.id),
            None => self.facts.registration(&instance.id),
        };
        match seen.map(|registration| &registration.maintenance) {
            Some(Maintenance::Draining { reason }) => return Some(Verdict::Draining { reason: reason.clone() }),
            Some(Maintenance::Operator { reason }) => return Some(Verdict::Maintenance { reason: reason.clone() }),
            Some(Maintenance::Off) | None => {}
        }
        if self.retiring_registrations.contains(instance.id.as_str()) {
            return Some(Verdict::RegistrationLeaves);
        }
        self.own_trouble(endpoint)
    }

    /// The same for an endpoint of which no catalog tells.
    pub(super) fn own_gone(&self, endpoint: &Endpoint) -> bool {
        self.own_trouble(endpoint).is_some()
    }

    /// It does not merely leave: requests to it fail.
    pub(super) fn own_dead(&self, endpoint: &Endpoint) -> bool {
        matches!(self.own_trouble(endpoint), Some(Verdict::Gone | Verdict::Unfit { .. }))
    }

    fn own_trouble(&self, endpoint: &Endpoint) -> Option<Verdict> {
        self.container_trouble(endpoint.container.as_deref()?)
    }

    /// Why a container of ours, or one that discovery found, is seen to be out, or is on its way out.
    pub(super) fn container_trouble(&self, id: &str) -> Option<Verdict> {
        let Some(docker) = self.facts.docker.filter(|_| self.facts.consul.is_some()) else {
            return (!self.holds(Gate::ReplicasKnown)).then_some(Verdict::Gone);
        };
        if self.retiring.contains(id) {
            return Some(Verdict::ReplicaLeaves);
        }
        let service = |container: &Container| self.spec.services.get(&container.service);
        let verdict = match self.facts.container(id) {
            None => self.discovered_trouble(docker, id),
            Some(container) => self.facts.unfit(container, service(container)).map(|reason| Verdict::Unfit { reason }),
        };
        verdict.filter(|_| self.holds(Gate::SeenUnfit))
    }

    /// A replica of ours that is healthy and routed is not unrouted because the catalog does not list it: its registration
    /// is *missing* (deregistered by hand, an agent that lost its state) and made again first; or the catalog lags behind
    /// the agent; or the upstream begins to ask for something else, which its successor or itself is about to be. Nor
    /// because the catalog doubts it: an agent that was restarted has not run its checks yet, or its node is not heard of.
    fn own_unlisted(&self, query: &CatalogQuery, answer: &Answer<'_>, endpoint: &Endpoint) -> bool {
        let (Some(docker), Some(consul), Some(id)) =
            (self.facts.docker, self.facts.consul, endpoint.container.as_deref())
        else {
            return false;
        };
        let Some(container) = docker.containers.get(id) else {
            return self.discovered_unlisted(query, endpoint, id, |id| answer.doubts_id(id));
        };
        // Its registration by id, when it is at a place where the spec registers it: another port of it may be on its way
        // out, and says nothing about this one.
        let service = self.spec.services.get(&container.service);
        let advertise = self.context.advertise.as_deref();
        let declared = service.into_iter().flat_map(|service| &service.register).find(|register| {
            let address = self.facts.registered_address(container, register, advertise);
            address.is_ok_and(|(address, port)| (address.as_str(), port) == place(endpoint))
        });
        let own = declared.map(|register| self.registration_id(container, register));
        let registrations = self.facts.registrations(container);
        let there = |registration: &Registration| match &own {
            Some(own) => registration.id == *own,
            None => (registration.address.as_str(), registration.port) == place(endpoint),
        };
        let here = own.is_some() || registrations.iter().any(|registration| there(registration));
        let listed = match &own {
            Some(own) => answer.doubts_id(own),
            // It is registered there under what the spec said before; what it is to be registered as may not be offered yet.
            None if here && !answer.offers(id) => None,
            None => answer.doubts(id),
        };
        if self.own_gone(endpoint) || listed == Some(false) {
            // The catalog has it, and says that it does not pass, or under another address.
            return false;
        }
        let hindered = registrations.iter().filter(|registration| !here || there(registration)).any(|registration| {
            match registration.maintenance {
                Maintenance::Off => refuted(registration),
                // Another port of it drains, and says nothing about this one.
                Maintenance::Draining { .. } => here,
                Maintenance::Operator { .. } => true,
            }
        });
        if hindered || !self.in_datacenter(query) {
            return false;
        }
        let Some(service) = service else {
            // Its service left under this name.
            return self.spec.services.values().any(|service| self.will_answer(service, query));
        };
        if !self.will_answer(service, query) {
            return false;
        }
        let roster = self.rosters.get(service.name.as_str());
        if roster.is_some_and(|roster| roster.current.get(&container.slot).is_none_or(|current| current.id != id)) {
            return true;
        }
        let answers: Vec<&&Registration> = registrations
            .iter()
            .filter(|registration| {
                registration.name == query.service
                    && query.tag.as_ref().is_none_or(|tag| registration.tags.contains(tag))
            })
            .collect();
        // Whether a filter selects it is Consul's to say; only while Consul cannot know it yet, it stays.
        answers.is_empty()
            || query.filter.is_none()
            || listed.is_some()
            || answers.iter().any(|registration| consul.unsynced.contains_key(&registration.id))
    }

    /// The endpoint went for a reason that is seen elsewhere: our own replica is unfit or leaving, or it is in maintenance.
    /// Checks that fail are no reason when most endpoints go by them at once: an agent that is cut off the network calls
    /// everything critical that it cannot reach (seen), while nginx reaches all of it.
    fn loss_explained(&self, answer: &Answer<'_>, endpoint: &Endpoint) -> bool {
        match answer.maintenance_at(place(endpoint)) {
            Some(maintenance) => maintenance || self.own_gone(endpoint),
            // With both views at hand, what is ours was judged by them.
            None => {
                let ours = endpoint.container.is_some();
                self.own_gone(endpoint) || (ours && self.facts.docker.is_some() && self.facts.consul.is_some())
            }
        }
    }
}

/// Why Consul itself does not offer the instance, if so.
fn not_offered(instance: &Instance) -> Option<Verdict> {
    let trouble = || instance.trouble.clone().unwrap_or_default();
    if instance.maintenance {
        return Some(Verdict::Maintenance { reason: trouble() });
    }
    if !instance.passing {
        return Some(Verdict::NotPassing { trouble: trouble() });
    }
    (instance.port == 0).then_some(Verdict::NoPort)
}

/// What the generation in force routes, or the one that should be.
pub(super) fn in_force(nginx: &Nginx) -> Option<&BTreeMap<String, RoutedUpstream>> {
    nginx.accepted().map(|(_, generation)| &generation.manifest.upstreams)
}
