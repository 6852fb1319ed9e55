//! Consul's servers among our containers: which they are, and whether the others could spare one.
//!
//! Owns the answers; that they are replaced one at a time is the planner's.

use std::net::IpAddr;

use super::facts::Facts;
use crate::observed::Container;

impl Facts<'_> {
    /// The container is a Raft peer of Consul: such are replaced one at a time.
    pub fn consul_peer(&self, container: &Container) -> bool {
        let Some(consul) = self.consul else { return false };
        consul.peers.iter().any(|peer| peer_host(peer).is_some_and(|address| has_address(container, address)))
    }

    /// Whether Consul tells which containers are its servers.
    pub fn peers_known(&self) -> bool {
        self.consul.is_some_and(|consul| consul.leader.is_some() && !consul.peers.is_empty())
    }

    /// A leader is there, and every peer that lives on a network of ours is a running container.
    pub fn consul_quorum_complete(&self) -> Result<(), String> {
        let Some(consul) = self.consul else {
            return Err("Consul cannot be read".to_owned());
        };
        if consul.leader.is_none() {
            return Err("Consul has no leader".to_owned());
        }
        if consul.peers.len() > 2 && consul.failure_tolerance == Some(0) {
            return Err("Consul would lose its quorum with one server less: not every server is a voter yet".to_owned());
        }
        let Some(docker) = self.docker else {
            return Err("Docker cannot be read".to_owned());
        };
        let running: Vec<&Container> = docker.containers.values().filter(|c| c.state.running()).collect();
        let missing = consul.peers.iter().find(|peer| {
            let Some(address) = peer_host(peer) else { return false };
            let on_our_network = docker
                .networks
                .values()
                .any(|network| network.ours && network.gateway.is_some_and(|gateway| same_slash_16(gateway, address)));
            on_our_network && !running.iter().any(|container| has_address(container, address))
        });
        match missing {
            Some(peer) => Err(format!("Consul's peer {peer} is not back yet")),
            None => Ok(()),
        }
    }
}

fn peer_host(peer: &str) -> Option<IpAddr> {
    let (host, _) = peer.rsplit_once(':')?;
    host.trim_matches(['[', ']']).parse().ok()
}

fn has_address(container: &Container, address: IpAddr) -> bool {
    container.networks.values().any(|endpoint| endpoint.address == Some(address) || endpoint.address6 == Some(address))
}

/// Docker's own pools are /16; a coarser answer only makes a gate stricter.
fn same_slash_16(a: IpAddr, b: IpAddr) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => a.octets()[..2] == b.octets()[..2],
        (IpAddr::V6(a), IpAddr::V6(b)) => a.octets()[..8] == b.octets()[..8],
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}
