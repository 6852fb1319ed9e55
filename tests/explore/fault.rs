//! What others may do to the world, once at any moment.

use reeve::observed::{
    CheckStatus, ContainerState, Health, Loaded, Maintenance, NginxProcess, PublishedPort, Stranger, View,
};
use reeve::plan::System;
use reeve::spec::Spec;
use reeve::spec::container::Published;

use crate::state::{Ill, State};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    Dies(String),
    Removed(String),
    Paused(String),
    Restarted(String),
    Unhealthy(String),
    Critical(String),
    Deregistered(String),
    AllDeregistered,
    Maintenance(String),
    Edited,
    SwitchedBack,
    GenerationsDeleted,
    ReloadedByHand,
    NginxStopped,
    Refuses,
    Hidden(System),
    NameTaken(String),
    PortTaken(u16),
    TimePasses,
}

impl Fault {
    /// All that can happen in this state.
    pub fn all(state: &State, spec: &Spec) -> Vec<Self> {
        let mut faults = vec![
            Self::AllDeregistered,
            Self::Edited,
            Self::SwitchedBack,
            Self::GenerationsDeleted,
            Self::ReloadedByHand,
            Self::NginxStopped,
            Self::Refuses,
            Self::Hidden(System::Docker),
            Self::Hidden(System::Consul),
            Self::Hidden(System::Nginx),
            Self::TimePasses,
        ];
        for container in state.world.docker.known().into_iter().flat_map(|docker| docker.containers.values()) {
            let id = || container.id.clone();
            faults.push(Self::Removed(id()));
            if container.state.running() {
                faults.extend([Self::Dies(id()), Self::Paused(id()), Self::Restarted(id())]);
                if container.health == Health::Healthy {
                    faults.push(Self::Unhealthy(id()));
                }
            }
        }
        for registration in state.world.consul.known().into_iter().flat_map(|consul| consul.registrations.keys()) {
            faults.push(Self::Deregistered(registration.clone()));
            faults.push(Self::Critical(registration.clone()));
            faults.push(Self::Maintenance(registration.clone()));
        }
        for service in spec.services.values() {
            faults.push(Self::NameTaken(format!("{}-{}-1-{}", spec.project, service.name, service.hash.short())));
            for port in &service.config.ports {
                if let Published::Range { first, .. } = port.published {
                    faults.push(Self::PortTaken(first));
                }
            }
        }
        faults
    }

    /// The state after it; `None` when it would change nothing.
    pub fn strike(&self, state: &State) -> Option<State> {
        let mut after = state.clone();
        after.faults -= 1;
        let now = state.now;
        let docker = after.world.docker.known_mut()?;
        let consul = after.world.consul.known_mut()?;
        let nginx = after.world.nginx.known_mut()?;
        match self {
            Self::Dies(id) => {
                let container = docker.containers.get_mut(id)?;
                let ContainerState::Running { started_at } = container.state else { return None };
                container.state =
                    ContainerState::Exited { code: 137, started_at: Some(started_at), finished_at: Some(now) };
                container.published.clear();
                for endpoint in container.networks.values_mut() {
                    endpoint.address = None;
                }
            }
            Self::Removed(id) => {
                let container = docker.containers.remove(id)?;
                for name in container.networks.keys() {
                    let seen = docker.networks.get_mut(name)?;
                    seen.attached = seen.attached.saturating_sub(1);
                }
            }
            Self::Paused(id) => {
                let container = docker.containers.get_mut(id)?;
                let ContainerState::Running { started_at } = container.state else { return None };
                container.state = ContainerState::Paused { started_at };
            }
            Self::Restarted(id) => {
                let container = docker.containers.get_mut(id)?;
                container.state = ContainerState::Running { started_at: now };
                match container.health {
                    Health::None => {
                        container.probe = Some(reeve::observed::Probe::Failing("connection refused".to_owned()));
                    }
                    _ => container.health = Health::Starting,
                }
            }
            Self::Unhealthy(id) => {
                docker.containers.get_mut(id)?.health = Health::Unhealthy("500".to_owned());
                after.ills.push(Ill::Unhealthy(id.clone()));
            }
            Self::Critical(id) => {
                let check = format!("{id}:declared");
                consul.registrations.get_mut(id)?.checks.get_mut(&check)?.status = CheckStatus::Critical;
                for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                    for instance in catalog.instances.iter_mut().filter(|instance| instance.id == *id) {
                        instance.passing = false;
                        catalog.shrunk_at = now;
                    }
                }
                after.ills.push(Ill::Critical(id.clone()));
            }
            Self::Deregistered(id) => {
                consul.registrations.remove(id)?;
                for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                    catalog.instances.retain(|instance| instance.id != *id);
                    catalog.shrunk_at = now;
                }
            }
            Self::AllDeregistered => {
                if consul.registrations.is_empty() {
                    return None;
                }
                consul.registrations.clear();
                for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                    catalog.instances.clear();
                    catalog.shrunk_at = now;
                }
            }
            Self::Maintenance(id) => {
                let registration = consul.registrations.get_mut(id)?;
                if registration.maintenance != Maintenance::Off {
                    return None;
                }
                registration.maintenance = Maintenance::Operator { reason: "disk".to_owned() };
                for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                    for instance in catalog.instances.iter_mut().filter(|instance| instance.id == *id) {
                        instance.maintenance = true;
                        catalog.shrunk_at = now;
                    }
                }
                after.ills.push(Ill::Maintenance(id.clone()));
            }
            Self::Edited => {
                let current = nginx.current.clone()?;
                let generation = nginx.generations.get_mut(&current)?;
                if !generation.damaged.is_empty() {
                    return None;
                }
                generation.damaged.push("files/upstream-free.conf".to_owned());
            }
            Self::SwitchedBack => {
                let current = nginx.current.clone();
                let other = nginx.generations.keys().find(|id| Some(*id) != current.as_ref())?.clone();
                nginx.current = Some(other);
            }
            Self::GenerationsDeleted => {
                if nginx.generations.is_empty() {
                    return None;
                }
                nginx.generations.clear();
                nginx.current = None;
            }
            Self::ReloadedByHand => {
                let current = nginx.current.clone()?;
                let same = nginx.loaded == Loaded::Generation(current.clone());
                if same || nginx.process == NginxProcess::Stopped {
                    return None;
                }
                nginx.loaded = Loaded::Generation(current);
                nginx.loaded_since = now;
            }
            Self::NginxStopped => {
                if nginx.process == NginxProcess::Stopped {
                    return None;
                }
                nginx.process = NginxProcess::Stopped;
                nginx.loaded = Loaded::Nothing;
                nginx.loaded_since = now;
            }
            Self::Refuses => after.refuses = true,
            Self::Hidden(system) => after.hidden = Some(*system),
            Self::NameTaken(name) => {
                let ours = docker.containers.values().any(|container| container.name == *name);
                if ours {
                    return None;
                }
                docker.strangers.insert(format!("id-{name}"), stranger(name, None));
                after.stranger = true;
            }
            Self::PortTaken(port) => {
                let ours = docker.containers.values().flat_map(|c| &c.published).any(|p| p.host == *port);
                if ours {
                    return None;
                }
                docker.strangers.insert("id-other".to_owned(), stranger("other", Some(*port)));
                after.stranger = true;
            }
            Self::TimePasses => after.now += jiff::SignedDuration::from_secs(7),
        }
        after.remember();
        Some(after)
    }
}

fn stranger(name: &str, port: Option<u16>) -> Stranger {
    let published =
        port.map(|host| PublishedPort { target: 80, protocol: reeve::spec::Protocol::Tcp, host_ip: None, host });
    Stranger {
        name: name.to_owned(),
        owner: None,
        running: true,
        published: published.into_iter().collect(),
        networks: std::collections::BTreeMap::new(),
    }
}

/// Others put right what they broke.
pub fn heal(state: &mut State) {
    let (Some(docker), Some(consul)) = (state.world.docker.known_mut(), state.world.consul.known_mut()) else { return };
    for ill in std::mem::take(&mut state.ills) {
        match ill {
            Ill::Unhealthy(id) => {
                if let Some(container) = docker.containers.get_mut(&id) {
                    container.health = Health::Healthy;
                }
            }
            Ill::Critical(id) => {
                let Some(registration) = consul.registrations.get_mut(&id) else { continue };
                for check in registration.checks.values_mut().filter(|check| check.status != CheckStatus::Passing) {
                    check.status = CheckStatus::Passing;
                }
                for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                    for instance in catalog.instances.iter_mut().filter(|instance| instance.id == id) {
                        instance.passing = true;
                    }
                }
            }
            Ill::Maintenance(id) => {
                let Some(registration) = consul.registrations.get_mut(&id) else { continue };
                if !matches!(registration.maintenance, Maintenance::Operator { .. }) {
                    continue;
                }
                registration.maintenance = Maintenance::Off;
                for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                    for instance in catalog.instances.iter_mut().filter(|instance| instance.id == id) {
                        instance.maintenance = false;
                    }
                }
            }
        }
    }
}
