//! Capacity: in which places a replica serves, and how many replicas may be missing in each.
//!
//! Every place is counted by itself: an upstream that cannot be loaded at all must not make the replicas look as if they
//! served nobody, and one that routes to them already must not lose them because another does not yet.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::facts::{believed, displaced, own_address, passing, refuted};
use super::gates::Gate;
use super::planner::Planner;
use super::replicas::Roster;
use crate::observed::{Container, ContainerState, Endpoint, Maintenance, Registration};
use crate::spec::upstream::CatalogQuery;
use crate::spec::{Register, Service, Upstream};

/// Where a replica is of use to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place<'a> {
    /// It runs and is healthy; of a service that does not register.
    Running,
    /// Passing under this name in Consul: others may read the catalog.
    Registered(&'a str),
    /// Every live worker of nginx routes this upstream to it.
    Routed(&'a str),
}

/// How many replicas more may leave each place now.
pub(super) struct Capacity<'a> {
    spare: BTreeMap<Place<'a>, u32>,
}

impl<'a> Capacity<'a> {
    /// `floor`: of so many that serve in a place, how many must go on.
    pub fn new(serving: impl Iterator<Item = Vec<Place<'a>>>, floor: impl Fn(Place<'a>, u32) -> u32) -> Self {
        let mut counts: BTreeMap<Place<'a>, u32> = BTreeMap::new();
        for place in serving.flatten() {
            *counts.entry(place).or_default() += 1;
        }
        let spare =
            counts.into_iter().map(|(place, count)| (place, count.saturating_sub(floor(place, count)))).collect();
        Self { spare }
    }

    /// Takes one replica out of its places, if all of them can spare it.
    pub fn take(&mut self, places: &[Place<'a>]) -> bool {
        if places.iter().any(|place| self.spare.get(place).is_none_or(|spare| *spare == 0)) {
            return false;
        }
        for place in places {
            if let Some(spare) = self.spare.get_mut(place) {
                *spare -= 1;
            }
        }
        true
    }
}

impl<'a> Planner<'a> {
    /// Where the container is proven to serve: its declared check has run, and passes.
    pub(super) fn places(&self, container: &'a Container) -> Vec<Place<'a>> {
        let proven = if self.holds(Gate::ProvenCheck) { passing } else { believed };
        self.places_by(container, proven)
    }

    /// Where the container may be missed when it goes: also where it is believed without a proof, since it gets requests.
    /// Nowhere: taking it away costs nothing.
    pub(super) fn places_lost(&self, container: &'a Container) -> Vec<Place<'a>> {
        self.places_by(container, believed)
    }

    /// Where the container would be missed if it left now, be it that it has begun to.
    pub(super) fn places_left(&self, container: &'a Container) -> Vec<Place<'a>> {
        if self.draining(container) { self.places_draining(container) } else { self.places_lost(container) }
    }

    /// Where nginx still sends requests to one that is being drained.
    fn places_draining(&self, container: &'a Container) -> Vec<Place<'a>> {
        let service = self.spec.services.get(&container.service);
        let fit = self.facts.fitness(container, service).healthy();
        if !fit || !self.draining(container) || self.facts.registrations(container).iter().any(|r| refuted(r)) {
            return Vec::new();
        }
        self.routed_places(container, service).collect()
    }

    fn routed_places<'s>(
        &'s self,
        container: &'s Container,
        service: Option<&'s Service>,
    ) -> impl Iterator<Item = Place<'a>> + 's {
        let endpoints = self.facts.endpoints_of(&container.id);
        let answers = move |name: &&str| {
            let mut own = endpoints.iter().filter(|(upstream, _)| upstream == name);
            own.any(|(_, endpoint)| self.answers(container, service, endpoint))
        };
        self.facts.upstreams_of(container).filter(answers).map(Place::Routed)
    }

    fn places_by(&self, container: &'a Container, counts: fn(&Registration) -> bool) -> Vec<Place<'a>> {
        let service = self.spec.services.get(&container.service);
        if !self.facts.fitness(container, service).healthy() || self.draining(container) {
            return Vec::new();
        }
        let registrations = self.facts.registrations(container);
        let registered: Vec<Place> = registrations
            .iter()
            .filter(|r| counts(r) && !displaced(container, r))
            .map(|r| Place::Registered(&r.name))
            .collect();
        if registered.is_empty() && !registrations.is_empty() {
            // Consul, or an operator, keeps it out of traffic.
            return Vec::new();
        }
        let registers = service.map_or(container.registers, |service| !service.register.is_empty());
        let running = (!registers).then_some(Place::Running);
        let routed = self.routed_places(container, service);
        running.into_iter().chain(registered).chain(routed).collect()
    }

    /// The container answers where nginx sends its requests: started again, Docker may have published its port elsewhere.
    fn answers(&self, container: &Container, service: Option<&Service>, endpoint: &Endpoint) -> bool {
        let here = |address: &str, port: u16| (address, port) == (endpoint.address.as_str(), endpoint.port);
        let own = |address: IpAddr| address.to_string() == endpoint.address;
        let advertise = self.context.advertise.as_deref();
        let declared = |register: &Register| {
            let place = self.facts.registered_address(container, register, advertise);
            place.is_ok_and(|(address, port)| here(&address, port))
        };
        let registered = |one: &&Registration| here(&one.address, one.port) && !displaced(container, one);
        container.published.is_empty()
            || container.published.iter().any(|published| published.host == endpoint.port)
            || container.networks.values().filter_map(own_address).any(own)
            || self.facts.registrations(container).iter().any(registered)
            || service.is_some_and(|service| service.register.iter().any(declared))
    }

    /// A current replica that does all that it should: the next one may be replaced.
    pub(super) fn ready(&self, service: &Service, roster: &Roster<'a>, container: &'a Container) -> bool {
        if service.job && matches!(container.state, ContainerState::Exited { code: 0, .. }) {
            return true;
        }
        if self.places(container).is_empty() {
            return false;
        }
        let passes = |register| self.own_registration(container, register).is_some_and(passing);
        let registered = service.register.iter().all(passes);
        // An upstream that routes to a sister, and that Consul tells of this one, is about to route to it.
        let own: BTreeSet<&str> = self.facts.upstreams_of(container).collect();
        let awaited = roster.upstreams.iter().any(|name| !own.contains(name) && self.listed(name, &container.id));
        // While that cannot be seen, it may still be awaited.
        let unseen = self.context.nginx.is_some()
            && self.facts.routed(container).is_none()
            && service.register.iter().any(|register| !self.selecting(&register.name).is_empty());
        registered && !((awaited || unseen) && self.holds(Gate::AwaitedRoute))
    }

    /// The catalog's answer for the upstream has a passing instance of the container.
    fn listed(&self, upstream: &str, container: &str) -> bool {
        let query = self.spec.upstreams.get(upstream).and_then(|upstream| upstream.query.as_ref());
        let containers = self.listed_containers.get_or_init(|| {
            let answers = self.facts.consul.into_iter().flat_map(|consul| &consul.catalog);
            let known = answers.filter_map(|(query, view)| Some((query, view.known()?)));
            known
                .map(|(query, catalog)| {
                    let passing = catalog.instances.iter().filter(|i| i.passing && !i.maintenance);
                    (query, passing.filter_map(|instance| instance.container.as_deref()).collect())
                })
                .collect()
        });
        query.and_then(|query| containers.get(query)).is_some_and(|containers| containers.contains(container))
    }

    /// The upstreams of the spec that ask for this service of Consul.
    pub(super) fn selecting(&self, consul_service: &str) -> &[&'a Upstream] {
        self.upstreams_by_service.get(consul_service).map_or(&[], Vec::as_slice)
    }

    /// What the service registers is what the query asks for, as far as the spec can tell: a filter is Consul's.
    pub(super) fn will_answer(&self, service: &Service, query: &CatalogQuery) -> bool {
        self.in_datacenter(query) && service.register.iter().any(|register| matches(register, query))
    }

    pub(super) fn in_datacenter(&self, query: &CatalogQuery) -> bool {
        let own = self.facts.consul.map(|consul| consul.agent.datacenter.as_str());
        query.datacenter.as_deref().is_none_or(|datacenter| own.is_none_or(|own| own == datacenter))
    }

    /// Its retirement has begun: it drains, or it does not run any more.
    pub(super) fn on_its_way(&self, container: &Container) -> bool {
        let running = matches!(container.state, ContainerState::Running { .. } | ContainerState::Paused { .. });
        !running || self.draining(container)
    }

    pub(super) fn draining(&self, container: &Container) -> bool {
        self.facts
            .registrations(container)
            .iter()
            .any(|registration| matches!(registration.maintenance, Maintenance::Draining { .. }))
    }
}

fn matches(register: &Register, query: &CatalogQuery) -> bool {
    register.name == query.service && query.tag.as_ref().is_none_or(|tag| register.tags.contains(tag))
}
