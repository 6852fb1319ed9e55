//! Which ports of a container are registered, and at which address and port each is reached.
//!
//! Never a pair that nobody answers at: a host port goes with an address of the host, a container port with the container's.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use super::Surroundings;
use super::attributes::named_ports;
use crate::observed::{Discovered, Docker, Networks, PublishedPort};
use crate::plan::facts::own_address;
use crate::spec::Protocol;
use crate::spec::discovery::DiscoveredAddress;

/// A container port, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub port: u16,
    pub protocol: Protocol,
    pub at: Result<(String, u16), String>,
}

/// The network that a container lives in: its own, the host's, or another container's.
enum Network<'a> {
    Host,
    None,
    Own {
        published: &'a [PublishedPort],
        networks: &'a Networks,
        shared: bool,
    },
    /// Whose it is, is not known.
    Gone(&'a str),
}

fn network<'a>(docker: &'a Docker, container: &'a Discovered) -> Network<'a> {
    let Some(owner) = container.network_mode.strip_prefix("container:") else {
        return match container.network_mode.as_str() {
            "host" => Network::Host,
            "none" => Network::None,
            _ => Network::Own { published: &container.published, networks: &container.networks, shared: false },
        };
    };
    let found = if let Some(other) = docker.discovered.get(owner) {
        Some((other.published.as_slice(), &other.networks))
    } else if let Some(ours) = docker.containers.get(owner) {
        Some((ours.published.as_slice(), &ours.networks))
    } else {
        docker.strangers.get(owner).map(|other| (other.published.as_slice(), &other.networks))
    };
    match found {
        None => Network::Gone(owner),
        Some((_, networks)) if networks.contains_key("host") => Network::Host,
        Some((published, networks)) => Network::Own { published, networks, shared: true },
    }
}

/// By port and protocol.
pub(super) fn of(
    address: DiscoveredAddress,
    surroundings: &Surroundings<'_, '_>,
    container: &Discovered,
) -> Vec<Place> {
    // Nothing is published by itself in another network: what is exposed, or named by a variable, is meant.
    let declared = || -> BTreeSet<(u16, Protocol)> {
        let named = named_ports(&container.variables).map(|port| (port, Protocol::Tcp));
        let exposed = container.exposed.iter().copied();
        let udp = |port: u16| container.exposed.contains(&(port, Protocol::Udp));
        let tcp = |port: u16| container.exposed.contains(&(port, Protocol::Tcp));
        exposed.chain(named.filter(|(port, _)| tcp(*port) || !udp(*port))).collect()
    };
    let place = |(port, protocol), at| Place { port, protocol, at };
    match network(surroundings.docker, container) {
        Network::None => Vec::new(),
        Network::Gone(owner) => {
            let reason = || {
                let short: String = owner.chars().take(12).collect();
                Err(format!("it lives in the network of container {short}, which is not there"))
            };
            declared().into_iter().map(|port| place(port, reason())).collect()
        }
        Network::Host => declared()
            .into_iter()
            .map(|port| place(port, advertised(surroundings, &container.networks).map(|address| (address, port.0))))
            .collect(),
        Network::Own { published, networks, shared } => match address {
            DiscoveredAddress::Published => {
                let bound: BTreeSet<(u16, Protocol)> =
                    published.iter().map(|port| (port.target, port.protocol)).collect();
                let wanted = if shared { declared().intersection(&bound).copied().collect() } else { bound };
                let at = |port| host_place(surroundings, published, networks, port);
                wanted.into_iter().map(|port| place(port, at(port))).collect()
            }
            DiscoveredAddress::Container => {
                let exposed = if shared { declared() } else { container.exposed.iter().copied().collect() };
                let bound = published.iter().map(|port| (port.target, port.protocol)).filter(|_| !shared);
                let wanted: BTreeSet<(u16, Protocol)> = exposed.into_iter().chain(bound).collect();
                let at = chosen(surroundings.preferred, networks);
                wanted.into_iter().map(|port| place(port, at.clone().map(|address| (address, port.0)))).collect()
            }
        },
    }
}

fn advertised(surroundings: &Surroundings<'_, '_>, networks: &Networks) -> Result<String, String> {
    (surroundings.advertise)(networks).ok_or_else(|| {
        "this host has no default route, and the container no network with a gateway: set `advertise` in reeve.yaml"
            .to_owned()
    })
}

/// The best of the host ports on which it is published: of every address, then of one, then of this host alone. Docker may
/// choose another port for `[::]` than for `0.0.0.0` (seen), so the one of the advertised address's family counts.
fn host_place(
    surroundings: &Surroundings<'_, '_>,
    published: &[PublishedPort],
    networks: &Networks,
    (port, protocol): (u16, Protocol),
) -> Result<(String, u16), String> {
    let advertised = advertised(surroundings, networks);
    let v6 = advertised.as_ref().is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok());
    let rank = |one: &&PublishedPort| match one.host_ip {
        None => (0, one.host),
        Some(address) if address.is_unspecified() => (if address.is_ipv6() == v6 { 0 } else { 4 }, one.host),
        Some(IpAddr::V4(address)) if !address.is_loopback() => (1, one.host),
        Some(IpAddr::V6(address)) if !address.is_loopback() => (2, one.host),
        Some(_) => (3, one.host),
    };
    let all = published.iter().filter(|one| one.target == port && one.protocol == protocol);
    let Some(best) = all.min_by_key(rank) else {
        return Err(format!("container port {port}/{protocol} is not published"));
    };
    if best.host == 0 {
        return Err(format!("Docker has not told yet on which host port {port}/{protocol} is published"));
    }
    let address = match best.host_ip.filter(|address| !address.is_unspecified()) {
        Some(address) => address.to_string(),
        None => advertised?,
    };
    if let Some(only) = best.host_ip.filter(|only| only.is_unspecified() && only.is_ipv6() != v6) {
        return Err(format!(
            "{port}/{protocol} is published on {only} alone, and this host is advertised as {address}: nobody would answer"
        ));
    }
    Ok((address, best.host))
}

/// The container's address on the network that the spec prefers; without a preference, on its only one.
fn chosen(preferred: &[String], networks: &Networks) -> Result<String, String> {
    let names = || networks.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let (name, endpoint) = if preferred.is_empty() {
        let mut all = networks.iter();
        match (all.next(), all.next()) {
            (Some(only), None) => only,
            (None, _) => return Err("it is attached to no network".to_owned()),
            (Some(_), Some(_)) => {
                let reason =
                    format!("it is attached to several networks ({}); name one in `discovery.networks`", names());
                return Err(reason);
            }
        }
    } else {
        let found = preferred.iter().find_map(|name| networks.get(name).map(|endpoint| (name, endpoint)));
        found.ok_or_else(|| {
            format!(
                "it is on none of the networks of `discovery.networks` ({}), but on: {}",
                preferred.join(", "),
                names()
            )
        })?
    };
    let address = own_address(endpoint).ok_or_else(|| format!("it has no address on the network {name} yet"))?;
    Ok(address.to_string())
}
