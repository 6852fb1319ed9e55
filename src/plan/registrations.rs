//! Registrations: one entry in Consul for each replica and each `register` of its service.
//!
//! A replica that leaves is `retire`'s; here its registrations are only kept as they are until then.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use foldhash::{HashSet, HashSetExt};

use super::action::{Action, ConsulAction, NewRegistration};
use super::declared::{DECLARED, Declared, HEALTH, RegistrationId, Wanted, own_check, reads};
use super::discovered::foreign;
use super::facts::{Fitness, displaced, one_line, own_address, passing};
use super::gates::Gate;
use super::planner::{Planner, after};
use super::retire::seconds;
use super::{Change, ObjectKey};
use crate::observed::{CheckSeen, CheckStatus, Container, Health, Maintenance, Registration};
use crate::spec::{CheckAddress, Register, Service};

/// How long the agent may take to bring a registration into the catalog.
const SYNC_TIME: Duration = Duration::from_secs(10);

impl<'a> Planner<'a> {
    pub(super) fn registrations(&mut self) {
        let spec = self.spec;
        let registering: Vec<&'a Service> = spec.services.values().filter(|s| !s.register.is_empty()).collect();
        let Some(consul) = self.facts.consul else {
            let reason = format!("Consul cannot be read: {}", self.observed.consul.reason().unwrap_or_default());
            for service in registering {
                self.wait(ObjectKey::Service(service.name.clone()), "consul_unknown", reason.clone());
            }
            if spec.discovery.is_some() {
                self.wait(ObjectKey::Discovery, "consul_unknown", reason);
            }
            return;
        };
        if self.facts.docker.is_none() && self.holds(Gate::DockerKnown) {
            // Which replicas run is not known: nothing is registered, and nothing is removed.
            if spec.discovery.is_some() {
                let reason = format!("Docker cannot be read: {}", self.observed.docker.reason().unwrap_or_default());
                self.wait(ObjectKey::Discovery, "docker_unknown", reason);
            }
            return;
        }
        let no_leader = consul.leader.is_none() && self.holds(Gate::Leader);
        if no_leader {
            for service in registering {
                self.wait(ObjectKey::Service(service.name.clone()), "no_leader", "Consul has no leader");
            }
            if spec.discovery.is_some() {
                self.wait(ObjectKey::Discovery, "no_leader", "Consul has no leader");
            }
        }
        // Ids of registrations that are there and stay. Only ever asked, never gone through.
        let mut kept: HashSet<&str> = HashSet::with_capacity(consul.registrations.len());
        let rosters = self.rosters.clone();
        for service in spec.services.values() {
            let Some(roster) = rosters.get(service.name.as_str()) else { continue };
            if self.held(&service.name) {
                let containers = self.facts.containers(&service.name).to_vec();
                self.keep_health(&containers);
                continue;
            }
            let declared = Declared::of(service);
            for container in roster.current.values().copied() {
                if self.retiring.contains(container.id.as_str()) && self.holds(Gate::NotRetiring) {
                    continue;
                }
                for declared in &declared {
                    self.declared(service, container, declared, &mut kept);
                }
            }
            for leaving in &roster.leaving {
                let leaves = self.retiring.contains(leaving.container.id.as_str()) && self.holds(Gate::NotRetiring);
                if !leaves && self.holds(Gate::KeepRegistered) {
                    self.keep_registered(service, leaving.container, no_leader, &mut kept);
                }
            }
        }
        self.discovered(no_leader, &mut kept);
        self.unwanted_registrations(&kept);
        // A moment is what anti-entropy takes.
        let now = self.now;
        for (id, since) in consul.unsynced.iter().filter(|(_, since)| after(**since, SYNC_TIME) <= now) {
            let reason = format!(
                "the agent has it since {since} and the catalog does not: the agent does not sync (a recreated agent of the \
                 same name with another node id is locked out for minutes; see the agent's log)"
            );
            self.wait(ObjectKey::Registration(id.clone()), "unsynced", reason);
        }
    }

    pub(super) fn registration_id(&self, container: &Container, register: &Register) -> String {
        self.id_of(container, register).to_string()
    }

    fn id_of<'r>(&'r self, container: &'r Container, register: &'r Register) -> RegistrationId<'r> {
        let Register { port, protocol, .. } = *register;
        RegistrationId { node: &self.context.owner.node, container: &container.name, port, protocol }
    }

    /// What the container is registered as by this `register`, when that is the container's own.
    pub(super) fn own_registration(&self, container: &Container, register: &Register) -> Option<&'a Registration> {
        let id = self.id_of(container, register);
        self.facts.registrations(container).iter().copied().find(|one| reads(&id, &one.id))
    }

    /// Of a held service only what its containers say of their health is passed on: that corrects nothing.
    fn keep_health(&mut self, containers: &[&'a Container]) {
        for container in containers {
            for registration in self.facts.registrations(container).to_vec() {
                self.word_of(container, registration);
            }
        }
    }

    /// A replica that is to leave, and serves until others can: what it is registered as stays as it is, since the spec
    /// speaks of its successor. One that lost it all, or was started again on another host port, is registered as the spec
    /// says, if it can be.
    fn keep_registered(
        &mut self,
        service: &'a Service,
        container: &'a Container,
        no_leader: bool,
        kept: &mut HashSet<&'a str>,
    ) {
        let registrations = self.facts.registrations(container).to_vec();
        for registration in registrations.iter().copied() {
            kept.insert(registration.id.as_str());
            match self.moved(service, container, registration).filter(|_| !no_leader) {
                Some(declared) => {
                    self.registration(service, container, &declared, &registration.id, Some(registration))
                }
                None => self.word_of(container, registration),
            }
        }
        if !registrations.is_empty() || no_leader {
            return;
        }
        let advertise = self.context.advertise.as_deref();
        for declared in Declared::of(service) {
            if self.facts.registered_address(container, declared.register, advertise).is_ok() {
                self.declared(service, container, &declared, kept);
            }
        }
    }

    /// Sees to what one `register` of its service makes of a container.
    fn declared(
        &mut self,
        service: &'a Service,
        container: &'a Container,
        declared: &Declared<'a>,
        kept: &mut HashSet<&'a str>,
    ) {
        let (id, seen) = match self.own_registration(container, declared.register) {
            Some(own) => (Cow::Borrowed(own.id.as_str()), Some(own)),
            None => {
                let id = self.registration_id(container, declared.register);
                let seen = self.facts.registration(&id);
                (Cow::Owned(id), seen)
            }
        };
        self.registration(service, container, declared, &id, seen);
        if let Some(seen) = seen {
            kept.insert(seen.id.as_str());
        }
    }

    /// What the registration should be instead, when nobody answers any more where it sends requests to: its container was
    /// started again, and Docker chose another host port. Consul's check does not tell when it asks the container itself.
    fn moved(&self, service: &'a Service, container: &Container, seen: &Registration) -> Option<Declared<'a>> {
        let own = |address: IpAddr| address.to_string() == seen.address;
        let answers = container.published.iter().any(|published| published.host == seen.port)
            || container.networks.values().filter_map(own_address).any(own);
        let settled = seen.maintenance == Maintenance::Off && self.facts.fitness(container, Some(service)).healthy();
        let mut declared = Declared::of(service).into_iter().filter(|_| settled && !answers);
        declared.find(|one| {
            let advertise = self.context.advertise.as_deref();
            let address = self.facts.registered_address(container, one.register, advertise);
            self.registration_id(container, one.register) == seen.id
                && address.is_ok_and(|(address, port)| (&address, port) != (&seen.address, seen.port))
        })
    }

    /// `seen`: what has this id now.
    fn registration(
        &mut self,
        service: &'a Service,
        container: &'a Container,
        declared: &Declared<'a>,
        id: &str,
        seen: Option<&'a Registration>,
    ) {
        let Some(consul) = self.facts.consul else { return };
        let object = || ObjectKey::Registration(id.to_owned());
        let fitness = self.facts.fitness(container, Some(service));
        let unfit = fitness != Fitness::Healthy;
        if seen.is_none() && unfit && self.holds(Gate::Healthy) {
            // The replica itself waits with this reason.
            return;
        }
        let no_leader = consul.leader.is_none() && self.holds(Gate::Leader);
        let another = seen.is_some_and(|seen| seen.container != container.id);
        if another && (unfit || no_leader) && self.holds(Gate::SameContainer) {
            // What passes there is the container of the same name that was before: this one must earn it.
            let deregister = ConsulAction::Deregister { id: id.to_owned() };
            self.step(object(), Action::Consul(deregister), "its container is gone");
            return self.mark_drift();
        }
        if let (true, Some(seen)) = (no_leader, seen) {
            // The agent takes its container's word without one.
            return self.word_of(container, seen);
        }
        if no_leader {
            return;
        }
        let unsettled = matches!(fitness, Fitness::NotRunning(_)) || self.detached(service, container).next().is_some();
        if unsettled && self.holds(Gate::SettledAddress) {
            // Its addresses are those of another moment.
            return;
        }
        if let Some(stranger) = consul.strangers.get(id).filter(|_| self.holds(Gate::RegistrationOwner)) {
            let reason = foreign(id, stranger.owner.as_deref());
            return self.wait(object(), "conflict", reason);
        }
        if let Some(seen) = seen.filter(|_| unfit && self.holds(Gate::FitDefinition)) {
            // A new definition keeps the old one's state; it has to be true when it is made.
            return self.health(&container.health, seen);
        }
        let wanted = match self.wanted_registration(container, declared) {
            Ok(wanted) => wanted,
            Err(reason) => return self.wait(object(), "address", reason),
        };
        let Some(seen) = seen else {
            let cause = "its container is healthy and not registered";
            let action = ConsulAction::Register(Box::new(wanted.written(id)));
            return self.step(object(), Action::Consul(action), cause);
        };
        if !wanted.is(seen) {
            let wanted = wanted.written(id);
            let changes = differences(seen, &wanted);
            // Tags in another order are the same tags.
            if !changes.is_empty() {
                let wanted = NewRegistration { drain_start: seen.drain_start, ..wanted };
                let cause = format!("{} changed", super::changes::fields(&changes));
                let action = ConsulAction::Register(Box::new(wanted));
                return self.step_with(object(), Action::Consul(action), cause, changes);
            }
        }
        match &seen.maintenance {
            Maintenance::Draining { .. } => {
                let action = ConsulAction::LiftDrain { id: id.to_owned() };
                self.step(object(), Action::Consul(action), "it was drained, and is wanted again");
                self.recalled.insert(&container.id);
            }
            Maintenance::Operator { .. } if !self.holds(Gate::OperatorMaintenance) => {
                let action = ConsulAction::LiftDrain { id: id.to_owned() };
                self.step(object(), Action::Consul(action), "it is in maintenance");
            }
            Maintenance::Operator { reason } => {
                let reason = format!("in maintenance by somebody else: {reason}");
                self.wait(object(), "maintenance", reason);
            }
            Maintenance::Off => {}
        }
        self.health(&container.health, seen);
    }

    /// What one that does not run said last is of another moment.
    fn word_of(&mut self, container: &Container, seen: &Registration) {
        if container.state.running() || !self.holds(Gate::SettledAddress) {
            self.health(&container.health, seen);
        }
    }

    /// The TTL check follows the HEALTHCHECK; it is written only when the state changed.
    pub(super) fn health(&mut self, health: &Health, seen: &Registration) {
        let status = match health {
            Health::None => return,
            Health::Healthy => CheckStatus::Passing,
            Health::Starting | Health::Unhealthy(_) => CheckStatus::Critical,
        };
        let changed = |check: &CheckSeen| check.status != status || !self.holds(Gate::HealthChanged);
        if !own_check(seen, HEALTH).is_some_and(changed) {
            return;
        }
        let output = match health {
            // Without a text, a critical check counts as one that has not run.
            Health::Unhealthy(output) if output.trim().is_empty() => "the container is unhealthy".to_owned(),
            Health::Unhealthy(output) => one_line(output),
            Health::Starting => "the container's HEALTHCHECK has not passed yet".to_owned(),
            Health::Healthy | Health::None => "the container is healthy".to_owned(),
        };
        let action = ConsulAction::SetHealth { id: seen.id.clone(), status, output };
        let object = ObjectKey::Registration(seen.id.clone());
        self.step(object, Action::Consul(action), format!("its HEALTHCHECK says {status}"));
    }

    fn wanted_registration<'w>(&self, container: &'w Container, declared: &Declared<'w>) -> Result<Wanted<'w>, String> {
        let register = declared.register;
        let advertise = self.context.advertise.as_deref();
        let (address, port) = self.facts.registered_address(container, register, advertise)?;
        let checked = register.check.as_ref().and_then(|check| match check.address {
            CheckAddress::Auto => self.facts.address_for_agent(&container.networks),
            CheckAddress::Container => container.networks.values().find_map(own_address),
            CheckAddress::Registered => None,
        });
        let digest = declared.digest.as_ref().map(|digest| match checked {
            Some(own) => digest.at(&own.to_string(), register.port),
            None => digest.at(&address, port),
        });
        Ok(Wanted { container, register, address, port, checked, digest })
    }

    /// Ours, and wanted by no replica: without a container it is removed; with one (its `register` left the spec) it is
    /// drained first.
    fn unwanted_registrations(&mut self, kept: &HashSet<&'a str>) {
        let Some(consul) = self.facts.consul else { return };
        let docker = self.facts.docker;
        let unwanted = consul.registrations.values();
        let unwanted = unwanted.filter(|r| !kept.contains(r.id.as_str()) && !self.held(&r.service));
        for registration in unwanted.collect::<Vec<_>>() {
            if registration.discovered() {
                self.unwanted_discovered(registration);
                continue;
            }
            let object = ObjectKey::Registration(registration.id.clone());
            let deregister = ConsulAction::Deregister { id: registration.id.clone() };
            let container = docker.and_then(|docker| docker.containers.get(&registration.container));
            let container = container.filter(|_| self.holds(Gate::ContainerGone));
            let Some(container) = container else {
                if let Some(unread) = self.unmarked(&registration.container) {
                    self.wait(object, "directory_unknown", unread);
                    continue;
                }
                self.step(object, Action::Consul(deregister), "its container is gone");
                // A replica that leaves is deregistered before it is removed: somebody else has removed this one.
                self.mark_drift();
                continue;
            };
            if self.retiring.contains(registration.container.as_str()) {
                // `retire` goes on with it, in its order.
                continue;
            }
            if registration.maintenance == Maintenance::Off {
                // As long as it stays Consul gives it out, and that has to be true: its container may be the reason why
                // nothing takes over.
                self.word_of(container, registration);
            }
            if !self.spec.services.contains_key(&registration.service) {
                continue;
            }
            if let Some(held) = self.removals_held.clone() {
                self.wait(object, "removal_held", held);
                continue;
            }
            if registration.maintenance == Maintenance::Off
                && !displaced(container, registration)
                && let Some(reason) = self.successor_missing(container, registration)
                && self.holds(Gate::SuccessorServes)
            {
                self.wait(object, "roll", reason);
                continue;
            }
            self.retire_registration(registration, container, object);
        }
    }

    /// It runs, and nothing says that it is ours: it may have been adopted, which only reeve's folder tells. Why that cannot
    /// be told.
    fn unmarked(&self, container: &str) -> Option<String> {
        let stranger = self.facts.docker?.strangers.get(container).filter(|stranger| stranger.running)?;
        let why = self.observed.directory.reason()?;
        Some(format!("container {} may have been adopted, and reeve's folder cannot be read: {why}", stranger.name))
    }

    /// Another port or name of the same replica takes over: that one must serve before this one goes. Why it does not.
    fn successor_missing(&self, container: &Container, registration: &Registration) -> Option<String> {
        let service = self.spec.services.get(&container.service)?;
        let consul = self.facts.consul?;
        let advertise = self.context.advertise.as_deref();
        for register in &service.register {
            let id = self.registration_id(container, register);
            let Some(seen) = consul.registrations.get(&id).filter(|seen| passing(seen)) else {
                if self.facts.registered_address(container, register, advertise).is_err() {
                    // It cannot be had; nobody knows for how long.
                    continue;
                }
                return Some(format!("its service does not register it any more; it stays until {id} passes"));
            };
            let asked = self
                .selecting(&register.name)
                .iter()
                .any(|upstream| upstream.query.as_ref().is_some_and(|query| self.will_answer(service, query)));
            if asked
                && self.context.nginx.is_some()
                && self.facts.address_routed(&registration.address, registration.port) == Some(true)
                && self.facts.address_routed(&seen.address, seen.port) == Some(false)
            {
                return Some(format!("its service does not register it any more; it stays until {id} is routed"));
            }
        }
        None
    }

    /// The next step of a registration that leaves while its container stays.
    fn retire_registration(&mut self, registration: &'a Registration, container: &'a Container, object: ObjectKey) {
        let cause = "its service does not register it any more";
        let routed = self.facts.registration_routed(registration);
        // Nobody answers where one that is displaced sends requests to: nothing of what serves depends on it.
        let idle = displaced(container, registration) && self.facts.nginx.is_some();
        let unseen = routed.is_none() && !idle;
        if registration.maintenance == Maintenance::Off {
            if unseen && self.context.nginx.is_some() && self.holds(Gate::CapacitySeen) {
                // Whether its successor serves in its place cannot be told.
                let why = self.observed.nginx.reason().unwrap_or("what it runs cannot be told");
                let reason = format!("{cause}; it stays while nginx cannot be read: {why}");
                return self.wait(object, "nginx_unknown", reason);
            }
            self.retiring_registrations.insert(registration.id.as_str());
            let drain = ConsulAction::Drain { id: registration.id.clone(), reason: format!("reeve: {cause}") };
            return self.step(object, Action::Consul(drain), cause);
        }
        self.retiring_registrations.insert(registration.id.as_str());
        let nginx = self.facts.nginx.filter(|_| self.context.nginx.is_some());
        if self.context.nginx.is_some() {
            match routed {
                Some(false) => {}
                Some(true) if !self.holds(Gate::RegistrationUnrouted) => {}
                None if !self.holds(Gate::RegistrationRoutedKnown) => {}
                Some(true) => {
                    self.stop_drain_clock(registration, object.clone());
                    return self.wait(object, "routed", "drained; a generation without it is not loaded yet");
                }
                None => {
                    return self.wait(object, "nginx_unknown", "drained; whether nginx routes to it cannot be read");
                }
            }
        }
        let start = match (&registration.maintenance, registration.drain_start) {
            (Maintenance::Draining { .. }, None) => {
                let clock = ConsulAction::StartDrainClock { id: registration.id.clone(), at: self.now };
                return self.step(object, Action::Consul(clock), "nothing loaded routes to it");
            }
            (_, Some(start)) => Some(start),
            // Somebody else's maintenance: there is no clock of ours.
            (_, None) => nginx.map(|nginx| nginx.routed_since),
        };
        let drain = self.drain_time(container);
        let over = start.map(|start| after(start, drain)).filter(|_| self.holds(Gate::RegistrationDrainTime));
        match over.filter(|over| *over > self.now) {
            Some(over) => {
                let reason = format!("unrouted; requests under way get {} to end", seconds(drain));
                self.wait_until(object, "drain", reason, over);
            }
            None => {
                let deregister = ConsulAction::Deregister { id: registration.id.clone() };
                self.step(object, Action::Consul(deregister), cause);
            }
        }
    }
}

/// What an update of the registration would change.
pub(super) fn differences(seen: &Registration, wanted: &NewRegistration) -> Vec<Change> {
    let digest = wanted.check.as_ref().map(|check| check.digest.as_str());
    let mut changes = Vec::new();
    let mut field = |name: &str, old: String, new: String| {
        if old != new {
            let side = |text: String| Some(text).filter(|text| !text.is_empty());
            changes.push(Change { field: name.to_owned(), old: side(old), new: side(new) });
        }
    };
    field("name", seen.name.clone(), wanted.name.clone());
    field("address", seen.address.clone(), wanted.address.clone());
    field("port", seen.port.to_string(), wanted.port.to_string());
    field("tags", list(&seen.tags), list(&wanted.tags));
    field("meta", map(&seen.meta), map(&wanted.meta));
    match (short(&seen.container), short(&wanted.container)) {
        // Long ids may begin alike.
        (old, new) if old == new => field("container", seen.container.clone(), wanted.container.clone()),
        (old, new) => field("container", old, new),
    }
    field("check", seen.check_digest.clone().unwrap_or_default(), digest.unwrap_or_default().to_owned());
    let there = |present: bool| if present { "there" } else { "none" }.to_owned();
    field("declared check", there(own_check(seen, DECLARED).is_some()), there(wanted.check.is_some()));
    field("health check", there(own_check(seen, HEALTH).is_some()), there(wanted.health));
    changes
}

/// Tags are a set: Consul may give them back in another order.
fn list(tags: &[String]) -> String {
    let sorted: BTreeSet<&str> = tags.iter().map(String::as_str).collect();
    format!("{sorted:?}").replace(['{', '}'], "")
}

fn map(meta: &BTreeMap<String, String>) -> String {
    serde_json::to_string(meta).unwrap_or_default()
}

fn short(id: &str) -> String {
    id.chars().take(12).collect()
}
