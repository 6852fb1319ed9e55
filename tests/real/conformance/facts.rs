//! A world as one line for each fact, masked, so that a difference names itself.

use std::collections::{BTreeMap, BTreeSet};

use reeve::observed::{
    Consul, Container, ContainerState, Docker, Health, Maintenance, Nginx, NginxProcess, Observed, Registration, View,
};

const FILE: &str = "file ";

/// By name.
pub struct Facts(BTreeMap<String, String>);

pub fn differences(expected: &Facts, seen: &Facts) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, value) in &expected.0 {
        if seen.0.get(key) != Some(value) {
            lines.push(format!("- {key}: {value}"));
        }
    }
    // Only of the generation that `current` points at is the text read: what is switched to has none in the model.
    let untold = !expected.0.keys().any(|key| key.starts_with(FILE));
    for (key, value) in seen.0.iter().filter(|(key, _)| !(untold && key.starts_with(FILE))) {
        if expected.0.get(key) != Some(value) {
            lines.push(format!("+ {key}: {value}"));
        }
    }
    lines
}

impl Facts {
    pub fn of(world: &Observed) -> Self {
        let mut facts = Self(BTreeMap::new());
        let names = match &world.docker {
            View::Known(docker) => {
                facts.docker(docker);
                docker.containers.values().map(|container| (container.id.clone(), container.name.clone())).collect()
            }
            View::Unknown { reason, .. } => panic!("Docker cannot be read: {reason}"),
        };
        match &world.consul {
            View::Known(consul) => facts.consul(consul, &names),
            View::Unknown { reason, .. } => panic!("Consul cannot be read: {reason}"),
        }
        match &world.nginx {
            View::Known(nginx) => facts.nginx(nginx),
            View::Unknown { reason, .. } => panic!("nginx cannot be read: {reason}"),
        }
        facts
    }

    fn add(&mut self, key: String, value: String) {
        self.0.insert(key, value);
    }

    fn docker(&mut self, docker: &Docker) {
        for container in docker.containers.values() {
            for (field, value) in self::container(container) {
                self.add(format!("container {}: {field}", container.name), value);
            }
        }
        for network in docker.networks.values() {
            let value = format!(
                "ours {}, config {:?}, gateway {}, attached {}",
                network.ours,
                network.config,
                network.gateway.is_some(),
                network.attached
            );
            self.add(format!("network {}", network.name), value);
        }
        for volume in docker.volumes.values() {
            self.add(format!("volume {}", volume.name), format!("ours {}, config {:?}", volume.ours, volume.config));
        }
    }

    fn consul(&mut self, consul: &Consul, names: &BTreeMap<String, String>) {
        for registration in consul.registrations.values() {
            self.add(format!("registration {}", registration.id), self::registration(registration, names));
        }
        for (query, view) in &consul.catalog {
            let catalog = view.known().unwrap_or_else(|| panic!("{query} cannot be read: {:?}", view.reason()));
            for instance in catalog.instances.iter() {
                let value = format!(
                    "{}:{} at {}, maintenance {}, weight {}, owner {:?}, container {:?}",
                    instance.address,
                    instance.port,
                    instance.node,
                    instance.maintenance,
                    instance.weight,
                    instance.owner,
                    instance.container.as_ref().map(|id| named(id, names))
                );
                self.add(format!("instance {} of {query}", instance.id), value);
            }
        }
        self.add("unsynced".to_owned(), format!("{:?}", consul.unsynced.keys()));
    }

    fn nginx(&mut self, nginx: &Nginx) {
        let process = match &nginx.process {
            NginxProcess::Stopped => "stopped",
            NginxProcess::Running { .. } => "running",
            NginxProcess::Orphans { .. } => "orphans",
        };
        self.add("nginx".to_owned(), process.to_owned());
        self.add("current".to_owned(), format!("{:?}", nginx.current));
        self.add("loaded".to_owned(), format!("{:?}", nginx.loaded));
        self.add("listens".to_owned(), format!("{:?}", nginx.listens));
        for (id, generation) in &nginx.generations {
            let value = format!(
                "upstreams {:?}, endpoints {:?}, damaged {:?}, rejected {}",
                generation.manifest.upstreams,
                generation.endpoints,
                generation.damaged,
                generation.rejected.is_some()
            );
            self.add(format!("generation {id}"), value);
        }
        let current = nginx.current.as_ref().and_then(|id| nginx.generations.get(id));
        for (name, text) in current.into_iter().flat_map(|generation| &generation.files) {
            self.add(format!("{FILE}{name}"), text.to_string());
        }
    }
}

/// Ids of the servers and of the model by the name that both give.
fn named(id: &str, names: &BTreeMap<String, String>) -> String {
    names.get(id).cloned().unwrap_or_else(|| "of a container that is gone".to_owned())
}

fn container(container: &Container) -> Vec<(&'static str, String)> {
    let state = match &container.state {
        ContainerState::Created => "created".to_owned(),
        ContainerState::Running { .. } => "running".to_owned(),
        ContainerState::Paused { .. } => "paused".to_owned(),
        ContainerState::Restarting => "restarting".to_owned(),
        ContainerState::Exited { code, .. } => format!("exited {code}"),
        ContainerState::Removing => "removing".to_owned(),
        ContainerState::Dead => "dead".to_owned(),
    };
    let networks: Vec<String> = container
        .networks
        .iter()
        .map(|(name, endpoint)| format!("{name} (address {})", endpoint.address.is_some()))
        .collect();
    // Published on every address, it is told once for each version of IP.
    let published: BTreeSet<_> = container
        .published
        .iter()
        .map(|one| (one.target, one.protocol, one.host_ip.filter(|ip| !ip.is_unspecified()), one.host))
        .collect();
    let fields: [(&str, String); 13] = [
        ("service", format!("{} {}", container.service, container.slot)),
        ("hash", container.hash.to_string()),
        ("state", state),
        ("image", container.image_id.clone()),
        ("config", container.config.clone()),
        ("chosen ports", format!("{:?}", container.chosen_ports)),
        ("registers", container.registers.to_string()),
        ("depends on", format!("{:?}", container.depends_on)),
        // Docker tells it only of a container that runs.
        ("HEALTHCHECK", (container.state.running() && container.health != Health::None).to_string()),
        ("networks", format!("{networks:?}")),
        ("network mode", container.network_mode.clone()),
        ("published", format!("{published:?}")),
        ("created at", container.created_at.is_some().to_string()),
    ];
    fields.into()
}

fn registration(registration: &Registration, names: &BTreeMap<String, String>) -> String {
    let maintenance = match &registration.maintenance {
        Maintenance::Off => "off".to_owned(),
        Maintenance::Draining { reason } => reason.clone(),
        Maintenance::Operator { reason } => format!("operator: {reason}"),
    };
    // The agent runs the declared check; the other one is written by us alone.
    let checks: Vec<String> = registration
        .checks
        .iter()
        .map(|(id, check)| if id.ends_with(":health") { format!("{id} {}", check.status) } else { id.clone() })
        .collect();
    format!(
        "{} at {}:{}, tags {:?}, meta {:?}, {} {} {}, check {:?}, drain {:?}, maintenance {maintenance}, checks {checks:?}",
        registration.name,
        registration.address,
        registration.port,
        registration.tags,
        registration.meta,
        registration.service,
        registration.slot,
        named(&registration.container, names),
        registration.check_digest,
        registration.drain_start,
    )
}
