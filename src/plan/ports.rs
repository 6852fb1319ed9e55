//! Choosing host ports and names for a new replica.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::observed::{ChosenPort, Container, ContainerState, Docker};
use crate::spec::Service;
use crate::spec::container::{Port, Protocol, Published};

/// Who holds a host port.
struct Holder {
    protocol: Protocol,
    host_ip: Option<IpAddr>,
    host: u16,
    /// In words.
    name: String,
    ours: bool,
}

/// The host ports and names that are taken on this engine.
pub struct Taken {
    holders: Vec<Holder>,
    names: BTreeSet<String>,
    stranger_names: BTreeSet<String>,
}

impl Taken {
    pub fn of(docker: &Docker) -> Self {
        let mut taken = Self { holders: Vec::new(), names: BTreeSet::new(), stranger_names: BTreeSet::new() };
        for container in docker.containers.values() {
            taken.hold_container(container);
        }
        for stranger in docker.strangers.values() {
            taken.stranger_names.insert(stranger.name.clone());
            if stranger.running {
                let holders =
                    stranger.published.iter().filter(|published| published.host != 0).map(|published| Holder {
                        protocol: published.protocol,
                        host_ip: published.host_ip,
                        host: published.host,
                        name: format!("container {}, which is not ours", stranger.name),
                        ours: false,
                    });
                taken.holders.extend(holders);
            }
        }
        taken
    }

    fn hold_container(&mut self, container: &Container) {
        self.names.insert(container.name.clone());
        let bound =
            !matches!(container.state, ContainerState::Exited { .. } | ContainerState::Dead | ContainerState::Removing);
        let chosen = container.chosen_ports.iter().filter(|port| bound && port.host != 0);
        self.holders.extend(chosen.map(|port| Holder {
            protocol: port.protocol,
            host_ip: port.host_ip,
            host: port.host,
            name: format!("replica {}", container.name),
            ours: true,
        }));
    }

    /// Takes what a replica that this wave creates will hold.
    pub fn reserve(&mut self, name: &str, ports: &[ChosenPort]) {
        self.names.insert(name.to_owned());
        self.holders.extend(ports.iter().filter(|port| port.host != 0).map(|port| Holder {
            protocol: port.protocol,
            host_ip: port.host_ip,
            host: port.host,
            name: format!("replica {name}"),
            ours: true,
        }));
    }

    fn holder(&self, port: &Port, host: u16) -> Option<&Holder> {
        self.holders
            .iter()
            .find(|held| held.host == host && held.protocol == port.protocol && overlap(held.host_ip, port.host_ip))
    }

    /// One host port for each published port of the service, for the replica in this slot: slot k gets the k-th port of
    /// a range, or, while that is held by a replica of ours, a spare one beyond the replicas' own.
    pub fn choose_ports(&self, service: &Service, slot: u32) -> Result<Vec<ChosenPort>, String> {
        service.config.ports.iter().map(|port| self.choose_port(service, port, slot)).collect()
    }

    fn choose_port(&self, service: &Service, port: &Port, slot: u32) -> Result<ChosenPort, String> {
        let chosen = |host| ChosenPort { target: port.target, protocol: port.protocol, host_ip: port.host_ip, host };
        let (first, last) = match port.published {
            Published::Ephemeral => return Ok(chosen(0)),
            Published::Range { first, last } => (first, last),
        };
        let at = |index: u32| u16::try_from(u32::from(first) + index).ok().filter(|host| *host <= last);
        let Some(own) = at(slot.saturating_sub(1)) else {
            return Err(format!("host ports {first}-{last} have none for slot {slot}"));
        };
        let Some(holder) = self.holder(port, own) else {
            return Ok(chosen(own));
        };
        let spare = (service.replicas..).map_while(at).find(|host| self.holder(port, *host).is_none());
        if let (Some(host), true) = (spare, holder.ours) {
            return Ok(chosen(host));
        }
        Err(format!("host port {own} is held by {}", holder.name))
    }

    /// `<project>-<service>-<slot>-<hash8>`, with a number when a replica of ours still has that name (the image was
    /// tagged anew: same configuration, same hash), or `container_name`.
    pub fn choose_name(&self, project: &str, service: &Service, slot: u32) -> Result<String, String> {
        if let Some(name) = &service.config.container_name {
            if self.names.contains(name) {
                return Err(format!("the replica that has the name {name} is not removed yet"));
            }
            return self.unless_stranger(name.clone());
        }
        let plain = format!("{project}-{}-{slot}-{}", service.name, service.hash.short());
        let free = std::iter::once(plain.clone())
            .chain((2..).map(|number| format!("{plain}-{number}")))
            .find(|name| !self.names.contains(name));
        self.unless_stranger(free.unwrap_or(plain))
    }

    fn unless_stranger(&self, name: String) -> Result<String, String> {
        if self.stranger_names.contains(&name) {
            return Err(format!(
                "the name {name} is taken by a container that is not ours; remove or rename that container"
            ));
        }
        Ok(name)
    }
}

/// Two bindings of one port clash unless both name an address and the addresses differ.
fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a.filter(|address| !address.is_unspecified()), b.filter(|address| !address.is_unspecified())) {
        (Some(a), Some(b)) => a == b,
        (None, _) | (_, None) => true,
    }
}
