//! From a container that reeve did not make to its registrations, by registrator's `SERVICE_*` conventions.
//!
//! Owns what such a container is registered as, and every reason why it is not: `attributes` (which variable counts for a
//! port), `naming` (names, ids, tags, metadata), `places` (which address and port), `checks`. Pure, and it knows nothing of
//! what is registered already: that is the planner's. Where registrator takes a guess, this gives a reason in words.

pub(crate) mod attributes;
mod checks;
pub(crate) mod naming;
mod places;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::action::NewRegistration;
use crate::observed::{DISCOVERED, Discovered, Docker, Health, Networks};
use crate::spec::Protocol;
use crate::spec::discovery::{DiscoveredAddress, DiscoveredIds, Discovers, Discovery};
use attributes::Attributes;
use places::Place;

/// What must be known beside the containers.
pub(super) struct Surroundings<'a, 's> {
    pub docker: &'a Docker,
    /// `node` of the settings.
    pub node: &'s str,
    /// What the kernel calls this host.
    pub host_name: &'s str,
    /// The address of this host for published ports of a container on these networks.
    pub advertise: &'s dyn Fn(&Networks) -> Option<String>,
    /// `discovery.networks`.
    pub preferred: &'s [String],
    /// The container's own address where Consul's agent reaches it.
    pub reached: &'s dyn Fn(&Networks) -> Option<IpAddr>,
}

/// A port of a container that is to be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim<'a> {
    pub container: &'a Discovered,
    pub port: u16,
    pub protocol: Protocol,
    /// Of the registration.
    pub id: String,
    /// Or why it cannot be.
    pub wanted: Result<Box<NewRegistration>, String>,
}

/// Every claim of the containers that run and are not about to stop, by container, port and protocol. `holder`: the
/// container that has the id now.
pub(super) fn claims<'a>(
    discovery: &Discovery,
    surroundings: &Surroundings<'a, '_>,
    holder: impl Fn(&str) -> Option<&'a str>,
) -> Vec<Claim<'a>> {
    let mut containers: Vec<&Discovered> = surroundings.docker.discovered.values().collect();
    containers.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    let readable = containers.into_iter().filter(|container| container.stays() && container.unreadable.is_none());
    let mut claims: Vec<Claim> =
        readable.flat_map(|container| of_container(discovery, surroundings, container)).collect();
    tell_apart(&mut claims, holder);
    claims
}

fn of_container<'a>(
    discovery: &Discovery,
    surroundings: &Surroundings<'_, '_>,
    container: &'a Discovered,
) -> Vec<Claim<'a>> {
    let places = places::of(discovery.address, surroundings, container);
    // As registrator counts: what is ignored is still one of several.
    let group = places.len() > 1;
    let mut claims = Vec::new();
    for place in places {
        let attributes = Attributes::of(&container.variables, place.port);
        let labelled = attributes.get("name").is_some();
        if attributes.says("ignore") || (discovery.containers == Discovers::Labelled && !labelled) {
            continue;
        }
        let id = match (discovery.ids, attributes.get("id")) {
            (DiscoveredIds::Registrator, Some(id)) => id.to_owned(),
            (DiscoveredIds::Registrator, None) => {
                let host = discovery.hostname.as_deref().unwrap_or(surroundings.host_name);
                naming::registrator_id(host, container, &place)
            }
            (DiscoveredIds::Reeve, _) => {
                format!("{}:{}:{}/{}", surroundings.node, container.name, place.port, place.protocol)
            }
        };
        let (port, protocol) = (place.port, place.protocol);
        let wanted = wanted(discovery, surroundings, container, &attributes, place, group, &id).map(Box::new);
        claims.push(Claim { container, port, protocol, id, wanted });
    }
    claims
}

fn wanted(
    discovery: &Discovery,
    surroundings: &Surroundings<'_, '_>,
    container: &Discovered,
    attributes: &Attributes<'_>,
    place: Place,
    group: bool,
    id: &str,
) -> Result<NewRegistration, String> {
    naming::check_id(id)?;
    let name = naming::name(container, attributes, place.port, group)?;
    let tags = naming::tags(discovery, attributes, place.protocol)?;
    let meta = naming::meta(discovery, attributes)?;
    let (address, port) = place.at?;
    // A published port accepts connections although nothing listens behind it, so the container itself is asked.
    let own = match discovery.address {
        DiscoveredAddress::Published => (surroundings.reached)(&container.networks),
        DiscoveredAddress::Container => None,
    };
    let asked = own.map_or_else(|| (address.clone(), port), |own| (own.to_string(), place.port));
    let registered = (address.as_str(), port);
    let check = checks::of(container, attributes, place.port, registered, asked)?;
    Ok(NewRegistration {
        id: id.to_owned(),
        name,
        address,
        port,
        tags,
        meta,
        service: DISCOVERED.to_owned(),
        slot: 0,
        container: container.id.clone(),
        check,
        health: container.health != Health::None,
        drain_start: None,
    })
}

/// An id that several want is one's alone: whose it is already, else the first one's by name. Several ports of one container
/// have none of it: which one would be a guess.
fn tell_apart<'a>(claims: &mut [Claim<'a>], holder: impl Fn(&str) -> Option<&'a str>) {
    let mut by_id: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, claim) in claims.iter().enumerate() {
        by_id.entry(claim.id.clone()).or_default().push(at);
    }
    for (id, all) in by_id.into_iter().filter(|(_, all)| all.len() > 1) {
        let holds = |at: &&usize| holder(&id) == Some(claims[**at].container.id.as_str());
        let Some(first) = all.iter().find(holds).or(all.first()).copied() else { continue };
        let winner = claims[first].container;
        let mut containers: BTreeSet<&str> = BTreeSet::new();
        let mut ports: Vec<String> = Vec::new();
        for claim in all.iter().map(|at| &claims[*at]) {
            containers.insert(&claim.container.id);
            if claim.container.id == winner.id {
                ports.push(format!("{}/{}", claim.port, claim.protocol));
            }
        }
        for at in all {
            let claim = &mut claims[at];
            let reason = if claim.container.id != winner.id {
                format!("container {} has this id; give {} another SERVICE_ID", winner.name, claim.container.name)
            } else if ports.len() > 1 {
                format!(
                    "SERVICE_ID gives the ports {} of container {} one id; name each: SERVICE_{}_ID=…",
                    ports.join(" and "),
                    claim.container.name,
                    claim.port
                )
            } else {
                continue;
            };
            claim.wanted = Err(reason);
        }
    }
}
