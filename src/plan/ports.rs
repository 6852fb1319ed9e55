//! Choosing host ports and names for a new replica.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::observed::{ChosenPort, Container, ContainerState, Docker};
use crate::spec::Service;
use crate::spec::container::{Port, Protocol, Published};

/// Who holds a host port.
struct Holder {
    protocol: Protocol,
    host_ip: Option<IpAddr>,
    /// In words.
    name: String,
    ours: bool,
}

/// The host ports and names that are taken on this engine. Gathered when the first one is asked for: nearly always nothing
/// is to be made.
pub struct Taken<'a> {
    docker: &'a Docker,
    strangers: bool,
    held: OnceCell<Held>,
}

#[derive(Default)]
struct Held {
    /// By host port.
    holders: BTreeMap<u16, Vec<Holder>>,
    names: BTreeSet<String>,
    stranger_names: BTreeSet<String>,
}

impl Held {
    /// `strangers`: those count, too.
    fn of(docker: &Docker, strangers: bool) -> Self {
        let mut taken = Self::default();
        for container in docker.containers.values() {
            taken.hold_container(container);
        }
        for stranger in docker.strangers.values().filter(|_| strangers) {
            taken.stranger_names.insert(stranger.name.clone());
            if stranger.running {
                for published in stranger.published.iter().filter(|published| published.host != 0) {
                    taken.holders.entry(published.host).or_default().push(Holder {
                        protocol: published.protocol,
                        host_ip: published.host_ip,
                        name: format!("container {}, which is not ours", stranger.name),
                        ours: false,
                    });
                }
            }
        }
        taken
    }

    fn hold_container(&mut self, container: &Container) {
        self.names.insert(container.name.clone());
        let bound =
            !matches!(container.state, ContainerState::Exited { .. } | ContainerState::Dead | ContainerState::Removing);
        if bound {
            self.hold(&container.name, &container.chosen_ports);
        }
    }

    fn hold(&mut self, replica: &str, ports: &[ChosenPort]) {
        for port in ports.iter().filter(|port| port.host != 0) {
            self.holders.entry(port.host).or_default().push(Holder {
                protocol: port.protocol,
                host_ip: port.host_ip,
                name: format!("replica {replica}"),
                ours: true,
            });
        }
    }
}

impl<'a> Taken<'a> {
    /// `strangers`: those count, too.
    pub fn of(docker: &'a Docker, strangers: bool) -> Self {
        Self { docker, strangers, held: OnceCell::new() }
    }

    fn held(&self) -> &Held {
        self.held.get_or_init(|| Held::of(self.docker, self.strangers))
    }

    /// Takes what a replica that this wave creates will hold.
    pub fn reserve(&mut self, name: &str, ports: &[ChosenPort]) {
        let mut held = self.held.take().unwrap_or_else(|| Held::of(self.docker, self.strangers));
        held.names.insert(name.to_owned());
        held.hold(name, ports);
        self.held = OnceCell::from(held);
    }

    fn holder(&self, port: &Port, host: u16) -> Option<&Holder> {
        let mut held = self.held().holders.get(&host)?.iter();
        held.find(|held| held.protocol == port.protocol && overlap(held.host_ip, port.host_ip))
    }

    /// One host port for each published port of the service, for the replica in this slot: slot k gets the k-th port of
    /// a range, or, while that is held by a replica of ours, a free one of the range.
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
        let all = || (0..=u32::from(last - first)).filter_map(at);
        let beyond = usize::try_from(service.replicas).unwrap_or(usize::MAX);
        // First those that are nobody's own; but a replica of another slot may live on one of them.
        let spare = all().skip(beyond).chain(all().take(beyond)).find(|host| self.holder(port, *host).is_none());
        if let (Some(host), true) = (spare, holder.ours) {
            return Ok(chosen(host));
        }
        Err(in_the_way(own, holder, service))
    }

    /// Why the slot cannot be filled even when our own old replica has left it: somebody else holds its name or a port.
    pub fn stranger_in_the_way(&self, project: &str, service: &Service, slot: u32) -> Option<String> {
        let name = service.config.container_name.clone().unwrap_or_else(|| plain_name(project, service, slot));
        if let Err(reason) = self.unless_stranger(name, service) {
            return Some(reason);
        }
        service.config.ports.iter().find_map(|port| {
            let Published::Range { first, last } = port.published else { return None };
            let own = u16::try_from(u32::from(first) + slot.saturating_sub(1)).ok().filter(|own| *own <= last)?;
            let holder = self.holder(port, own).filter(|holder| !holder.ours)?;
            Some(in_the_way(own, holder, service))
        })
    }

    /// Somebody else holds a host port that the container was made with: it cannot be started.
    pub fn stranger_on(&self, ports: &[ChosenPort]) -> bool {
        let held = self.held();
        let clashes = |port: &ChosenPort, holder: &Holder| {
            !holder.ours && holder.protocol == port.protocol && overlap(holder.host_ip, port.host_ip)
        };
        ports
            .iter()
            .any(|port| held.holders.get(&port.host).is_some_and(|all| all.iter().any(|one| clashes(port, one))))
    }

    /// `<project>-<service>-<slot>-<hash8>`, with a number when a replica of ours still has that name (the image was
    /// tagged anew: same configuration, same hash), or `container_name`.
    pub fn choose_name(&self, project: &str, service: &Service, slot: u32) -> Result<String, String> {
        if let Some(name) = &service.config.container_name {
            if self.held().names.contains(name) {
                return Err(format!("the replica that has the name {name} is not removed yet"));
            }
            return self.unless_stranger(name.clone(), service);
        }
        let plain = plain_name(project, service, slot);
        let free = std::iter::once(plain.clone())
            .chain((2..).map(|number| format!("{plain}-{number}")))
            .find(|name| !self.held().names.contains(name));
        self.unless_stranger(free.unwrap_or(plain), service)
    }

    fn unless_stranger(&self, name: String, service: &Service) -> Result<String, String> {
        if self.held().stranger_names.contains(&name) {
            return Err(format!(
                "the name {name} is taken by a container that is not ours; remove or rename that container, or take it \
                 over: `reeve adopt {}`",
                service.name
            ));
        }
        Ok(name)
    }
}

fn in_the_way(port: u16, holder: &Holder, service: &Service) -> String {
    let held = format!("host port {port} is held by {}", holder.name);
    match holder.ours {
        true => held,
        false => format!("{held}; remove it, or take it over: `reeve adopt {}`", service.name),
    }
}

fn plain_name(project: &str, service: &Service, slot: u32) -> String {
    format!("{project}-{}-{slot}-{}", service.name, service.hash.short())
}

/// Two bindings of one port clash unless both name an address and the addresses differ.
fn overlap(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a.filter(|address| !address.is_unspecified()), b.filter(|address| !address.is_unspecified())) {
        (Some(a), Some(b)) => a == b,
        (None, _) | (_, None) => true,
    }
}
