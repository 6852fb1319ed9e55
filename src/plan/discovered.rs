//! Registrations of containers that reeve did not make.
//!
//! What each is registered as, `discovery` says; here it is compared with what Consul has. Such a container is neither made
//! nor stopped by reeve, so there is no drain: what is told to stop leaves the catalog and nginx at once, while it can still
//! answer what is under way.

use std::collections::BTreeMap;

use foldhash::HashSet;

use super::ObjectKey;
use super::action::{Action, ConsulAction, NewRegistration};
use super::discovery::{Claim, Surroundings, claims};
use super::facts::{believed, refuted};
use super::gates::Gate;
use super::planner::Planner;
use super::registrations::differences;
use super::verdict::Verdict;
use crate::observed::{Discovered, Docker, Endpoint, Maintenance, OTHER_HOST, Registration};
use crate::spec::discovery::{DiscoveredIds, Discovery};
use crate::spec::upstream::CatalogQuery;

impl<'a> Planner<'a> {
    /// Every claim of what discovery finds. Empty while Docker cannot be read, and without `discovery`.
    pub(super) fn claims(&self) -> Vec<Claim<'a>> {
        let (Some(discovery), Some(docker)) = (&self.spec.discovery, self.facts.docker) else { return Vec::new() };
        let facts = &self.facts;
        let setting = self.context.advertise.as_deref();
        let surroundings = Surroundings {
            docker,
            node: &self.context.owner.node,
            host_name: &self.observed.host.name,
            preferred: &discovery.networks,
            advertise: &|networks| facts.advertise(setting, networks),
            reached: &|networks| facts.address_for_agent(networks),
        };
        claims(discovery, &surroundings, |id| facts.registration(id).map(|seen| seen.container.as_str()))
    }

    /// `kept`: what a replica of a service is registered as; what stays of these is added.
    pub(super) fn discovered(&mut self, no_leader: bool, kept: &mut HashSet<&'a str>) {
        let (Some(discovery), Some(docker), Some(consul)) =
            (&self.spec.discovery, self.facts.docker, self.facts.consul)
        else {
            return;
        };
        for container in docker.discovered.values().filter(|container| container.stays()) {
            let Some(reason) = &container.unreadable else { continue };
            // What it is registered as stays, since nobody knows better.
            for seen in self.facts.registrations_of_id(&container.id).to_vec() {
                kept.insert(seen.id.as_str());
                self.wait(ObjectKey::Registration(seen.id.clone()), "discovery", reason.clone());
            }
        }
        let mut offers: BTreeMap<&'a str, Vec<NewRegistration>> = BTreeMap::new();
        for Claim { container, id, wanted, .. } in self.claims() {
            let object = || ObjectKey::Registration(id.clone());
            let seen = self.facts.registration(&id);
            if seen.is_some_and(|seen| !seen.discovered()) || consul.strangers.contains_key(&id) {
                let reason = self.conflict(discovery, &id);
                self.wait(object(), "conflict", reason);
                continue;
            }
            let wanted = match wanted {
                Ok(wanted) => wanted,
                Err(reason) => {
                    // One bad word must not take away what serves.
                    if let Some(seen) = seen.filter(|seen| seen.container == container.id) {
                        kept.insert(seen.id.as_str());
                        self.health(&container.health, seen);
                    }
                    self.wait(object(), "discovery", format!("container {}: {reason}", container.name));
                    continue;
                }
            };
            if !no_leader {
                self.discovered_registration(container, &wanted, seen);
            }
            if let Some(seen) = seen.filter(|seen| seen.container == container.id || container.unfit().is_none()) {
                kept.insert(seen.id.as_str());
            }
            offers.entry(&container.id).or_default().push(*wanted);
        }
        self.offers = offers;
    }

    fn conflict(&self, discovery: &Discovery, id: &str) -> String {
        let stranger = self.facts.consul.and_then(|consul| consul.strangers.get(id));
        match stranger.map(|stranger| &stranger.owner) {
            None => "a replica of this project is registered under this id; give the container another SERVICE_ID".to_owned(),
            Some(Some(owner)) => foreign(id, Some(owner)),
            Some(None) => match discovery.ids {
                DiscoveredIds::Registrator => {
                    "the agent has a service with this id and nobody's mark. If a registrator left it, end that registrator \
                     and run `reeve adopt --registrator`, which takes it over"
                        .to_owned()
                }
                DiscoveredIds::Reeve => {
                    "the agent has a service with this id and nobody's mark; it is not ours to change (what a registrator \
                     left goes with `reeve adopt --registrator`)"
                        .to_owned()
                }
            },
        }
    }

    fn discovered_registration(
        &mut self,
        container: &'a Discovered,
        wanted: &NewRegistration,
        seen: Option<&'a Registration>,
    ) {
        let object = || ObjectKey::Registration(wanted.id.clone());
        let register = |wanted: NewRegistration| Action::Consul(ConsulAction::Register(Box::new(wanted)));
        let unfit = container.unfit().filter(|_| self.holds(Gate::Healthy));
        let Some(seen) = seen else {
            match unfit {
                // Whoever made it sees to it.
                Some(reason) => self.wait(object(), "discovery", format!("container {}: {reason}", container.name)),
                None => {
                    let cause = format!("container {} runs and is not registered", container.name);
                    self.step(object(), register(wanted.clone()), cause);
                }
            }
            return;
        };
        if unfit.is_some() {
            // A new definition keeps the old one's state; it has to be true when it is made. What was registered for the
            // container of the same name that was before goes, as nothing keeps it.
            if seen.container == container.id {
                self.health(&container.health, seen);
            }
            return;
        }
        let changes = differences(seen, wanted);
        if !changes.is_empty() {
            let cause = format!("{} changed", super::changes::fields(&changes));
            return self.step_with(object(), register(wanted.clone()), cause, changes);
        }
        match &seen.maintenance {
            Maintenance::Draining { .. } => {
                let action = ConsulAction::LiftDrain { id: seen.id.clone() };
                self.step(object(), Action::Consul(action), "it was drained, and is wanted again");
            }
            Maintenance::Operator { reason } => {
                self.wait(object(), "maintenance", format!("in maintenance by somebody else: {reason}"));
            }
            Maintenance::Off => {}
        }
        self.health(&container.health, seen);
    }

    /// Nothing wants it any more, so it goes; nginx stops routing to it in the same wave.
    pub(super) fn unwanted_discovered(&mut self, registration: &'a Registration) {
        let object = ObjectKey::Registration(registration.id.clone());
        if let Some(held) = self.removals_held.clone() {
            return self.wait(object, "removal_held", held);
        }
        if let Some(successor) = self.discovered_successor(registration) {
            let reason = format!("discovery registers it as {successor} now; it stays until that passes");
            return self.wait(object, "discovery", reason);
        }
        let container = self.facts.docker.and_then(|docker| docker.discovered.get(&registration.container));
        let cause = match container {
            _ if self.spec.discovery.is_none() => "the spec has no `discovery` any more".to_owned(),
            None => "its container is gone".to_owned(),
            Some(container) if container.stays() => "discovery does not register it any more".to_owned(),
            Some(container) => format!("its container: {}", container.unfit().unwrap_or_default()),
        };
        self.retiring_registrations.insert(registration.id.as_str());
        let deregister = ConsulAction::Deregister { id: registration.id.clone() };
        self.step(object, Action::Consul(deregister), cause);
    }

    /// The same container at the same place under another id (it was renamed, or the spec wants ids of another form), which
    /// Consul does not give out yet: without either, nothing would route to it for a moment.
    fn discovered_successor(&self, registration: &Registration) -> Option<String> {
        let offers = self.offers.get(registration.container.as_str()).map(Vec::as_slice).unwrap_or_default();
        let place = (registration.address.as_str(), registration.port, registration.name.as_str());
        let successor =
            offers.iter().find(|offer| (offer.address.as_str(), offer.port, offer.name.as_str()) == place)?;
        let ready = self.facts.registration(&successor.id).is_some_and(believed);
        (!ready && believed(registration)).then(|| successor.id.clone())
    }

    /// Why a container that is not ours is out, if it is one of those that discovery found, or was.
    pub(super) fn discovered_trouble(&self, docker: &Docker, id: &str) -> Option<Verdict> {
        match docker.discovered.get(id) {
            Some(container) => container.unfit().map(|reason| Verdict::Unfit { reason }),
            // Also while discovery is off, and what it registered is on its way out.
            None => Some(Verdict::Gone),
        }
    }

    /// It is routed and fit, and what the upstream asks for is what it is to be registered as, at this place: the catalog only
    /// does not know it (again) yet. `doubts`: whether the catalog only doubts what has this id; `None`: it lists nothing.
    pub(super) fn discovered_unlisted(
        &self,
        query: &CatalogQuery,
        endpoint: &Endpoint,
        id: &str,
        doubts: impl Fn(&str) -> Option<bool>,
    ) -> bool {
        let offers = self.offers.get(id).map(Vec::as_slice).unwrap_or_default();
        let place = (endpoint.address.as_str(), endpoint.port, query.service.as_str());
        let selected = |offer: &&NewRegistration| {
            (offer.address.as_str(), offer.port, offer.name.as_str()) == place
                && query.tag.as_ref().is_none_or(|tag| offer.tags.contains(tag))
        };
        let Some(offer) = offers.iter().find(selected) else { return false };
        let (seen, listed) = (self.facts.registration(&offer.id), doubts(&offer.id));
        let hindered = seen.is_some_and(|seen| seen.maintenance != Maintenance::Off || refuted(seen));
        if listed == Some(false) || hindered || self.own_gone(endpoint) || !self.in_datacenter(query) {
            return false;
        }
        // Whether a filter selects it is Consul's to say; only while Consul cannot know it, it stays.
        let unsynced = self.facts.consul.is_some_and(|consul| consul.unsynced.contains_key(&offer.id));
        query.filter.is_none() || listed.is_some() || seen.is_none() || unsynced
    }
}

/// Why a registration with somebody else's mark, or none, is in the way.
pub(super) fn foreign(id: &str, owner: Option<&str>) -> String {
    let whose = owner.map_or("nobody's mark".to_owned(), |owner| format!("the mark of {owner}"));
    let reason = format!("the agent has a service with this id and {whose}; it is not ours to change");
    match owner.is_some_and(|owner| owner.ends_with(OTHER_HOST)) {
        true => format!(
            "{reason}. Give each host a `node` of its own in the settings; of a host that is no more, `consul services \
             deregister -id={id}` removes it"
        ),
        false => reason,
    }
}
