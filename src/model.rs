//! `Observed::after`: a pure model of what an action does to the world.
//!
//! It serves the preview of later waves in `plan`, and the tests' in-memory world; the tests on real servers check it. It
//! knows nothing of what is wanted.

mod consul;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::Timestamp;

use crate::observed::{
    CheckSeen, CheckStatus, Container, ContainerState, Destination, Directory, Docker, EndpointsSeen, FileSeen,
    Generation, GenerationId, Health, ImageSeen, ListenState, Loaded, NetworkEndpoint, NetworkSeen, Nginx,
    NginxProcess, Observed, Pin, Probe, PublishedPort, TemplateRecord, TemplateSeen, Templates, View, VolumeSeen,
};
use crate::plan::action::{Action, DirectoryAction, DockerAction, NewContainer, NginxAction, TemplateAction};
use crate::plan::canonical;
use crate::render::endpoints;
use crate::spec::Owner;
use consul::all_pass;

/// Addresses of this block (`0.0.0.0/8`, which no host can have) stand for those that Docker will choose.
pub fn is_placeholder(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 0 && !v4.is_unspecified())
}

/// Host ports from here on stand for those that Docker will choose: Linux gives out lower ones.
const PLACEHOLDER_PORTS: u16 = 61_001;

pub fn is_placeholder_port(port: u16) -> bool {
    port >= PLACEHOLDER_PORTS
}

impl Observed {
    /// The world after the action had its full effect. A view that is Unknown stays so.
    pub fn after(&mut self, action: &Action, owner: &Owner, now: Timestamp) {
        match action {
            Action::Docker(action) => {
                if let Some(docker) = self.docker.known_mut() {
                    docker.after(action, now);
                }
                let tried = match action {
                    DockerAction::CreateContainer(new) => Some(&new.name),
                    DockerAction::StartContainer { name, .. } => Some(name),
                    _ => None,
                };
                if let (Some(name), Some(directory)) = (tried, self.directory.known_mut()) {
                    directory.refused.remove(name);
                }
            }
            Action::Consul(action) => {
                if let Some(consul) = self.consul.known_mut() {
                    consul.after(action, owner, now);
                }
            }
            Action::Nginx(action) => {
                if let Some(nginx) = self.nginx.known_mut() {
                    nginx.after(action, now);
                }
            }
            Action::Directory(action) => {
                if let Some(directory) = self.directory.known_mut() {
                    directory.after(action);
                }
            }
            Action::Template(action) => self.templates.after(action),
        }
    }

    /// What a preview assumes between two waves: containers become healthy, and checks run and pass.
    /// False: that changes nothing.
    pub fn assume_healthy(&mut self) -> bool {
        let mut changed = false;
        if let Some(docker) = self.docker.known_mut() {
            for container in docker.containers.values_mut().filter(|container| container.state.running()) {
                match container.health {
                    Health::None => {
                        let before = container.probe.replace(Probe::Passing);
                        changed |= before != container.probe;
                    }
                    Health::Starting => {
                        container.health = Health::Healthy;
                        changed = true;
                    }
                    Health::Healthy | Health::Unhealthy(_) => {}
                }
            }
        }
        if let Some(consul) = self.consul.known_mut() {
            let mut passing = Vec::new();
            for registration in consul.registrations.values_mut() {
                for check in
                    registration.checks.iter_mut().map(|(_, check)| check).filter(|check| check.output.is_empty())
                {
                    *check = CheckSeen { status: CheckStatus::Passing, output: "assumed to pass".to_owned() };
                    changed = true;
                }
                if all_pass(registration) {
                    passing.push(registration.id.clone());
                }
            }
            for catalog in consul.catalog.values_mut().filter_map(|view| view.known_mut()) {
                let doubtful = catalog.instances.iter_mut().filter(|instance| instance.doubtful);
                for instance in doubtful.filter(|instance| passing.contains(&instance.id)) {
                    (instance.passing, instance.doubtful) = (true, false);
                    changed = true;
                }
            }
        }
        changed
    }

    /// A job runs and ends well.
    pub fn assume_done(&mut self, service: &str, now: Timestamp) {
        let Some(docker) = self.docker.known_mut() else { return };
        for container in docker.containers.values_mut().filter(|container| container.service == service) {
            if let ContainerState::Running { started_at } = container.state {
                container.state =
                    ContainerState::Exited { code: 0, started_at: Some(started_at), finished_at: Some(now) };
            }
        }
    }
}

/// Which replica each Raft peer of Consul is: a server that comes back under another address is the same peer.
#[derive(Debug, Clone, Default)]
pub struct Peers(BTreeMap<String, (String, u32)>);

impl Peers {
    pub fn of(world: &Observed) -> Self {
        let (Some(docker), Some(consul)) = (world.docker.known(), world.consul.known()) else { return Self::default() };
        let place = |peer: &String| {
            let address: IpAddr = peer.rsplit_once(':')?.0.parse().ok()?;
            let at = |container: &&Container| container.networks.values().any(|n| n.address == Some(address));
            let container = docker.containers.values().find(at)?;
            Some((peer.clone(), (container.service.clone(), container.slot)))
        };
        Self(consul.peers.iter().filter_map(place).collect())
    }

    /// Servers that run again are among the peers again.
    pub fn follow(&mut self, world: &mut Observed) {
        let (Some(docker), Some(consul)) = (world.docker.known(), world.consul.known_mut()) else { return };
        let moved: Vec<(String, String)> = self
            .0
            .iter()
            .filter_map(|(peer, (service, slot))| {
                let running = docker.containers.values().find(|container| {
                    (&container.service, &container.slot) == (service, slot) && container.state.running()
                })?;
                let address = running.networks.values().find_map(|endpoint| endpoint.address)?;
                let (_, port) = peer.rsplit_once(':')?;
                let now = format!("{address}:{port}");
                (now != *peer).then(|| (peer.clone(), now))
            })
            .collect();
        for (old, new) in moved {
            if let Some(place) = self.0.remove(&old) {
                self.0.insert(new.clone(), place);
            }
            for peer in consul.peers.iter_mut().filter(|peer| **peer == old) {
                peer.clone_from(&new);
            }
        }
    }
}

impl Templates {
    fn after(&mut self, action: &TemplateAction) {
        let seen = &mut self.seen;
        match action {
            TemplateAction::Write(new) => {
                let Some(seen) = seen.get_mut(&new.name).and_then(View::known_mut) else { return };
                seen.destination = Destination::File(FileSeen {
                    digest: new.record.text.clone(),
                    text: Some(new.text.clone()),
                    mode: new.mode,
                    user: new.user.unwrap_or_default(),
                    group: new.group.unwrap_or_default(),
                });
                seen.record = Some(Arc::new(new.record.clone()));
            }
            TemplateAction::Run(run) => {
                for (name, text) in &run.templates {
                    let seen = seen.get_mut(name).and_then(View::known_mut);
                    let Some(TemplateSeen { record: Some(record), .. }) = seen else { continue };
                    if record.text == *text {
                        *record = Arc::new(TemplateRecord { pending: false, failed: None, ..(**record).clone() });
                    }
                }
            }
            TemplateAction::Note { name, record } => {
                if let Some(seen) = seen.get_mut(name).and_then(View::known_mut) {
                    seen.record = Some(record.clone());
                }
            }
        }
    }
}

impl Docker {
    fn after(&mut self, action: &DockerAction, now: Timestamp) {
        match action {
            DockerAction::CreateNetwork(network) => {
                let seen = NetworkSeen {
                    id: format!("id-{}", network.name),
                    name: network.name.clone(),
                    ours: true,
                    config: Some(canonical(network)),
                    gateway: Some(IpAddr::V4(Ipv4Addr::new(0, 0, 255, 254))),
                    attached: 0,
                };
                self.networks.entry(network.name.clone()).or_insert(seen);
            }
            DockerAction::RemoveNetwork { name, .. } => {
                self.networks.remove(name);
            }
            DockerAction::CreateVolume(volume) => {
                let seen = VolumeSeen { name: volume.name.clone(), ours: true, config: Some(canonical(volume)) };
                self.volumes.entry(volume.name.clone()).or_insert(seen);
            }
            DockerAction::RemoveVolume { name } => {
                self.volumes.remove(name);
            }
            DockerAction::PullImage { image, .. } => {
                let seen = ImageSeen { id: format!("id-{image}"), healthcheck: false, exposed: Vec::new() };
                self.images.entry(image.clone()).or_insert(seen);
            }
            DockerAction::CreateContainer(new) => {
                if !self.containers.values().any(|container| container.name == new.name) {
                    let container = self.created(new, now);
                    // Docker refuses to remove a network also while only stopped containers are attached to it.
                    self.attach(&container, |attached| attached + 1);
                    self.containers.insert(container.id.clone(), container);
                }
            }
            DockerAction::StartContainer { container, .. } => self.start(container, now),
            DockerAction::UnpauseContainer { id, .. } => {
                if let Some(container) = self.containers.get_mut(id)
                    && let ContainerState::Paused { started_at } = container.state
                {
                    container.state = ContainerState::Running { started_at };
                }
            }
            DockerAction::StopContainer { id, .. } => self.stop(id, now),
            DockerAction::RemoveContainer { id, .. } => {
                if self.containers.get(id).is_some_and(|container| !container.state.running())
                    && let Some(container) = self.containers.remove(id)
                {
                    self.attach(&container, |attached| attached.saturating_sub(1));
                }
            }
            DockerAction::ConnectNetwork { id, attachment, .. } => {
                let address = self.free_address();
                let network = self.networks.get_mut(&attachment.network);
                if let (Some(container), Some(network)) = (self.containers.get_mut(id), network) {
                    if container.networks.contains_key(&attachment.network) {
                        return;
                    }
                    let running = container.state.running();
                    network.attached += 1;
                    let endpoint = NetworkEndpoint {
                        network_id: network.id.clone(),
                        address: running.then_some(address),
                        address6: None,
                        gateway: network.gateway,
                    };
                    container.networks.insert(attachment.network.clone(), endpoint);
                }
            }
            DockerAction::DisconnectNetwork { id, network, .. } => {
                if let Some(container) = self.containers.get_mut(id)
                    && container.networks.remove(network).is_some()
                    && let Some(seen) = self.networks.get_mut(network)
                {
                    seen.attached = seen.attached.saturating_sub(1);
                }
            }
        }
    }

    fn created(&self, new: &NewContainer, now: Timestamp) -> Container {
        let image = self.images.get(&new.image);
        let network_mode = match &new.network_mode {
            None => new.config.networks.keys().next().cloned().unwrap_or_else(|| "default".to_owned()),
            Some(crate::spec::container::NetworkMode::Host) => "host".to_owned(),
            Some(crate::spec::container::NetworkMode::None) => "none".to_owned(),
            Some(crate::spec::container::NetworkMode::Bridge) => "bridge".to_owned(),
            Some(crate::spec::container::NetworkMode::Container(id)) => format!("container:{id}"),
            Some(crate::spec::container::NetworkMode::Service(name)) => format!("container:{name}"),
        };
        Container {
            id: new.name.clone(),
            name: new.name.clone(),
            service: new.service.clone(),
            slot: new.slot,
            hash: new.hash.clone(),
            config: new.config.canonical(),
            image_id: image.map(|image| image.id.clone()).unwrap_or_default(),
            chosen_ports: new.host_ports.clone(),
            registers: new.registers,
            depends_on: new.depends_on.clone(),
            state: ContainerState::Created,
            // Docker tells of a HEALTHCHECK only when it has run.
            health: Health::None,
            networks: new.config.networks.keys().map(|name| (name.clone(), NetworkEndpoint::default())).collect(),
            published: Vec::new(),
            probe: None,
            created_at: Some(now),
            restarts: 0,
            trouble: None,
            network_mode,
        }
    }

    fn start(&mut self, reference: &str, now: Timestamp) {
        let found = self.containers.values().find(|container| container.id == reference || container.name == reference);
        let Some(id) = found.map(|container| container.id.clone()) else { return };
        let addresses: Vec<(String, IpAddr)> = {
            let names: Vec<String> = self.containers[&id].networks.keys().cloned().collect();
            let mut next = self.free_address();
            names
                .into_iter()
                .map(|name| {
                    let address = next;
                    next = following(next);
                    (name, address)
                })
                .collect()
        };
        let mut port = self.free_port();
        let healthcheck = self.has_healthcheck(&self.containers[&id].config);
        let networks = &self.networks;
        let Some(container) = self.containers.get_mut(&id) else { return };
        if container.state.running() {
            return;
        }
        container.state = ContainerState::Running { started_at: now };
        container.probe = None;
        container.health = if healthcheck { Health::Starting } else { Health::None };
        for (name, address) in addresses {
            let seen = networks.get(&name);
            let gateway = seen.and_then(|seen| seen.gateway);
            let network_id = seen.map(|seen| seen.id.clone()).unwrap_or_default();
            let endpoint = NetworkEndpoint { network_id, address: Some(address), address6: None, gateway };
            container.networks.insert(name, endpoint);
        }
        container.published = container
            .chosen_ports
            .iter()
            .map(|chosen| {
                let host = if chosen.host == 0 { port } else { chosen.host };
                if chosen.host == 0 {
                    port = port.checked_add(1).unwrap_or(PLACEHOLDER_PORTS);
                }
                PublishedPort { target: chosen.target, protocol: chosen.protocol, host_ip: chosen.host_ip, host }
            })
            .collect();
    }

    fn stop(&mut self, id: &str, now: Timestamp) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let started_at = match container.state {
            ContainerState::Running { started_at } | ContainerState::Paused { started_at } => Some(started_at),
            ContainerState::Restarting => None,
            ContainerState::Created
            | ContainerState::Exited { .. }
            | ContainerState::Removing
            | ContainerState::Dead => return,
        };
        container.state = ContainerState::Exited { code: 0, started_at, finished_at: Some(now) };
        container.published.clear();
        for (_, endpoint) in &mut container.networks {
            *endpoint = NetworkEndpoint::default();
        }
    }

    /// Of its own configuration, or else of its image.
    fn has_healthcheck(&self, config: &str) -> bool {
        let config: serde_json::Value = serde_json::from_str(config).unwrap_or_default();
        match config.pointer("/healthcheck/test/0") {
            Some(word) => word != "NONE",
            None => {
                let image = config["image"].as_str().and_then(|image| self.images.get(image));
                image.is_some_and(|image| image.healthcheck)
            }
        }
    }

    fn attach(&mut self, container: &Container, change: impl Fn(usize) -> usize) {
        for name in container.networks.keys() {
            if let Some(seen) = self.networks.get_mut(name) {
                seen.attached = change(seen.attached);
            }
        }
    }

    fn free_port(&self) -> u16 {
        let used = self.containers.values().flat_map(|container| &container.published).map(|published| published.host);
        let highest = used.filter(|port| is_placeholder_port(*port)).max();
        highest.and_then(|port| port.checked_add(1)).unwrap_or(PLACEHOLDER_PORTS)
    }

    fn free_address(&self) -> IpAddr {
        let used = self.containers.values().flat_map(|c| c.networks.values()).filter_map(|endpoint| endpoint.address);
        let highest = used.filter(|address| is_placeholder(*address)).max();
        highest.map_or(IpAddr::V4(Ipv4Addr::new(0, 0, 0, 1)), following)
    }
}

fn following(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(u32::from(v4) + 1)),
        IpAddr::V6(_) => address,
    }
}

impl Nginx {
    fn after(&mut self, action: &NginxAction, now: Timestamp) {
        match action {
            NginxAction::WriteGeneration(new) => {
                let generation = Generation {
                    manifest: new.manifest.clone().into(),
                    damaged: Vec::new(),
                    created_at: now,
                    rejected: None,
                    files: new.files.clone(),
                    endpoints: endpoints::of_manifest(&new.manifest)
                        .map(|set| EndpointsSeen { file: Some(endpoints::hash(&set)), loaded: None }),
                };
                self.generations.insert(new.id.clone(), generation);
                self.templates.insert(new.manifest.template.clone(), new.template.clone());
            }
            NginxAction::SwitchGeneration { id } => {
                if self.generations.contains_key(id) {
                    self.current = Some(id.clone());
                }
            }
            NginxAction::Reload { expect } => {
                let running = matches!(self.process, NginxProcess::Running { .. });
                if running && self.current.as_ref() == Some(expect) {
                    self.load(expect, now);
                }
            }
            NginxAction::Start { expect } => {
                if self.process == NginxProcess::Stopped && self.current.as_ref() == Some(expect) {
                    self.process = NginxProcess::Running { master: 1 };
                    self.load(expect, now);
                }
            }
            NginxAction::SetEndpoints { expect, endpoints } => {
                let loaded = self.loaded == Loaded::Generation(expect.clone());
                if let Some(generation) = self.generations.get_mut(expect).filter(|_| loaded) {
                    endpoints::replace(Arc::make_mut(&mut generation.manifest), endpoints);
                    let hash = Some(endpoints::hash(endpoints));
                    generation.endpoints = Some(EndpointsSeen { file: hash.clone(), loaded: hash });
                    self.routed_since = now;
                }
            }
            NginxAction::QuitOrphans { .. } => {
                if matches!(self.process, NginxProcess::Orphans { .. }) {
                    self.process = NginxProcess::Stopped;
                    self.unload_endpoints();
                    self.loaded = Loaded::Nothing;
                    self.loaded_since = now;
                    self.routed_since = now;
                }
            }
            NginxAction::RemoveGeneration { id } => {
                self.generations.remove(id);
            }
        }
    }

    fn unload_endpoints(&mut self) {
        for endpoints in self.generations.values_mut().filter_map(|generation| generation.endpoints.as_mut()) {
            endpoints.loaded = None;
        }
    }

    fn load(&mut self, id: &GenerationId, now: Timestamp) {
        // What the one before listened on is let go.
        if let Loaded::Generation(before) = &self.loaded
            && let Some(before) = self.generations.get(before)
        {
            let held = before.manifest.upstreams.values().map(|routed| (routed.upstream.listen, ListenState::Free));
            self.listens.extend(held);
        }
        self.unload_endpoints();
        self.loaded = Loaded::Generation(id.clone());
        self.loaded_since = now;
        self.routed_since = now;
        if let Some(generation) = self.generations.get_mut(id) {
            if let Some(endpoints) = &mut generation.endpoints {
                endpoints.loaded.clone_from(&endpoints.file);
            }
            for routed in generation.manifest.upstreams.values() {
                self.listens.remove(&routed.upstream.listen);
            }
        }
    }
}

impl Directory {
    fn after(&mut self, action: &DirectoryAction) {
        match action {
            DirectoryAction::AddPin { pin } => {
                if let Pin::Failed { service, .. } = pin {
                    self.refused.retain(|_, one| !one.is_of(service));
                }
                self.pins.insert(pin.clone());
            }
            DirectoryAction::RemovePin { pin } => {
                self.pins.remove(pin);
            }
            DirectoryAction::Keep { service, kept } => {
                self.kept.insert(service.clone(), kept.clone());
            }
            DirectoryAction::Forget { service } => {
                self.kept.remove(service);
            }
        }
    }
}
