//! What others may do to the world, at any moment.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use reeve::observed::{
    Catalog, CheckStatus, Consul, ContainerState, Docker, Health, Instance, ListenState, Loaded, Maintenance, Nginx,
    NginxProcess, Probe, PublishedPort, Stranger, StrangerRegistration, View,
};
use reeve::plan::System;
use reeve::spec::container::{Protocol, Published};
use reeve::spec::upstream::Listen;
use reeve::spec::{Service, Spec};

use crate::common::tamper;
use crate::measure::{drains, serving};
use crate::scenario::fails;
use crate::state::{Hidden, Ill, Older, State, Taken};

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
    /// The catalog suddenly answers nothing for a query whose instances are not ours.
    CatalogLost(String),
    LeaderLost,
    Edited,
    /// Of a generation that Lua balances: the file that nginx reads at its start.
    EndpointsEdited,
    SwitchedBack,
    GenerationsDeleted,
    ReloadedByHand,
    /// A reload that came half-way: old and new workers live on.
    HalfReload,
    NginxStopped,
    /// `kill -9` of the master: its workers go on serving.
    NginxKilled,
    IncludeRemoved,
    ListenTaken(u16),
    Refuses,
    Hidden(Hidden),
    NameTaken(String, String),
    PortTaken(String, u16),
    /// Another owner has the id of one of the service's registrations at the agent.
    RegistrationTaken(String, String),
    /// What was kept as having served is deleted.
    KeptLost,
    /// Nobody looked for so many seconds: every event was swallowed, and the timer was late.
    TimePasses(i64),
}

impl Fault {
    /// The name alone, for the count of what each may cost.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dies(_) => "dies",
            Self::Removed(_) => "removed",
            Self::Paused(_) => "paused",
            Self::Restarted(_) => "restarted",
            Self::Unhealthy(_) => "unhealthy",
            Self::Critical(_) => "critical",
            Self::Deregistered(_) => "deregistered",
            Self::AllDeregistered => "all_deregistered",
            Self::Maintenance(_) => "maintenance",
            Self::CatalogLost(_) => "catalog_lost",
            Self::LeaderLost => "leader_lost",
            Self::Edited => "edited",
            Self::EndpointsEdited => "endpoints_edited",
            Self::SwitchedBack => "switched_back",
            Self::GenerationsDeleted => "generations_deleted",
            Self::ReloadedByHand => "reloaded_by_hand",
            Self::HalfReload => "half_reload",
            Self::NginxStopped => "nginx_stopped",
            Self::NginxKilled => "nginx_killed",
            Self::IncludeRemoved => "include_removed",
            Self::ListenTaken(_) => "listen_taken",
            Self::Refuses => "refuses",
            Self::Hidden(hidden) if hidden.has(System::Directory) => "hidden_directory",
            Self::Hidden(_) => "hidden",
            Self::NameTaken(..) => "name_taken",
            Self::PortTaken(..) => "port_taken",
            Self::RegistrationTaken(..) => "registration_taken",
            Self::KeptLost => "kept_lost",
            Self::TimePasses(_) => "time_passes",
        }
    }

    /// All that can happen in this state.
    pub fn all(state: &State, spec: &Spec) -> Vec<Self> {
        let mut faults = vec![
            Self::AllDeregistered,
            Self::LeaderLost,
            Self::Edited,
            Self::EndpointsEdited,
            Self::SwitchedBack,
            Self::GenerationsDeleted,
            Self::ReloadedByHand,
            Self::HalfReload,
            Self::NginxStopped,
            Self::NginxKilled,
            Self::IncludeRemoved,
            Self::Refuses,
            Self::KeptLost,
            Self::TimePasses(7),
            Self::TimePasses(60),
        ];
        // Every subset of Docker, Consul and nginx; reeve's folder alone.
        faults.extend((1..=8).map(|bits| Self::Hidden(Hidden(bits))));
        for container in state.docker().containers.values() {
            let id = || container.id.clone();
            faults.push(Self::Removed(id()));
            if container.state.running() {
                faults.extend([Self::Dies(id()), Self::Paused(id()), Self::Restarted(id())]);
                if container.health == Health::Healthy {
                    faults.push(Self::Unhealthy(id()));
                }
            }
        }
        for registration in state.consul().registrations.keys() {
            faults.push(Self::Deregistered(registration.clone()));
            faults.push(Self::Critical(registration.clone()));
            faults.push(Self::Maintenance(registration.clone()));
        }
        let asked: BTreeSet<&String> =
            spec.upstreams.values().filter_map(|upstream| Some(&upstream.query.as_ref()?.service)).collect();
        faults.extend(asked.into_iter().map(|service| Self::CatalogLost(service.clone())));
        faults.extend(spec.upstreams.values().map(|upstream| Self::ListenTaken(upstream.listen.port)));
        for service in spec.services.values() {
            let name = format!("{}-{}-1-{}", spec.project, service.name, service.hash.short());
            faults.push(Self::NameTaken(service.name.clone(), name.clone()));
            for register in &service.register {
                let id = format!("edge-1:{name}:{}/{}", register.port, register.protocol);
                faults.push(Self::RegistrationTaken(service.name.clone(), id));
            }
            for port in &service.config.ports {
                if let Published::Range { first, .. } = port.published {
                    faults.push(Self::PortTaken(service.name.clone(), first));
                }
            }
        }
        faults
    }

    /// The state after it; `None` when it would change nothing.
    pub fn strike(&self, state: &State, spec: &Spec) -> Option<State> {
        let mut after = state.clone();
        after.faults -= 1;
        // What a pass may see late is reeve's own writing.
        after.older = Older::default();
        let now = state.now;
        match self {
            Self::Dies(_) | Self::Removed(_) | Self::Paused(_) | Self::Restarted(_) | Self::Unhealthy(_) => {
                self.strike_container(after.world.docker.known_mut()?, &mut after.ills, now, spec)?;
                // Somebody removed what still served, and a stranger is where it would be made again.
                let served = after.stranger.as_ref().map(|taken| served(&after, &taken.service));
                if let (Self::Removed(_), Some(taken)) = (self, &mut after.stranger) {
                    taken.served = taken.served.min(served.unwrap_or_default());
                }
            }
            Self::Critical(_)
            | Self::Deregistered(_)
            | Self::AllDeregistered
            | Self::Maintenance(_)
            | Self::CatalogLost(_)
            | Self::LeaderLost => self.strike_consul(after.world.consul.known_mut()?, &mut after.ills, now)?,
            Self::Edited
            | Self::EndpointsEdited
            | Self::SwitchedBack
            | Self::GenerationsDeleted
            | Self::ReloadedByHand
            | Self::HalfReload
            | Self::NginxStopped
            | Self::NginxKilled
            | Self::IncludeRemoved
            | Self::ListenTaken(_) => self.strike_nginx(after.world.nginx.known_mut()?, &mut after.ills, now)?,
            Self::Refuses => {
                if after.refuses {
                    return None;
                }
                after.refuses = true;
            }
            Self::Hidden(hidden) => {
                if after.hidden.any() {
                    return None;
                }
                after.hidden = *hidden;
            }
            Self::NameTaken(service, name) => {
                let docker = after.world.docker.known_mut()?;
                let ours = docker.containers.values().any(|container| container.name == *name);
                if ours || after.stranger.is_some() {
                    return None;
                }
                docker.strangers.insert(format!("id-{name}"), stranger(name, None));
                after.stranger = Some(taken(state, spec.services.get(service)?));
            }
            Self::RegistrationTaken(service, id) => {
                let consul = after.world.consul.known_mut()?;
                if consul.registrations.contains_key(id) || after.stranger.is_some() {
                    return None;
                }
                let other = StrangerRegistration { name: "other".to_owned(), owner: Some("other/edge-1".to_owned()) };
                consul.strangers.insert(id.clone(), other);
                after.stranger = Some(taken(state, spec.services.get(service)?));
            }
            Self::KeptLost => {
                let directory = after.world.directory.known_mut()?;
                if directory.kept.is_empty() {
                    return None;
                }
                directory.kept.clear();
            }
            Self::PortTaken(service, port) => {
                let docker = after.world.docker.known_mut()?;
                let ours = docker.containers.values().flat_map(|c| &c.published).any(|p| p.host == *port);
                if ours || after.stranger.is_some() {
                    return None;
                }
                docker.strangers.insert("id-other".to_owned(), stranger("other", Some(*port)));
                after.stranger = Some(taken(state, spec.services.get(service)?));
            }
            Self::TimePasses(seconds) => after.now += SignedDuration::from_secs(*seconds),
        }
        after.remember();
        Some(after)
    }

    fn strike_container(&self, docker: &mut Docker, ills: &mut Vec<Ill>, now: Timestamp, spec: &Spec) -> Option<()> {
        match self {
            Self::Dies(id) => {
                let container = docker.containers.get_mut(id)?;
                let ContainerState::Running { started_at } = container.state else { return None };
                container.state =
                    ContainerState::Exited { code: 137, started_at: Some(started_at), finished_at: Some(now) };
                container.published.clear();
                for (_, endpoint) in &mut container.networks {
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
                        // Only what the spec declares a check for is probed.
                        let declares = |service: &Service| service.register.iter().any(|one| one.check.is_some());
                        let probed = spec.services.get(&container.service).is_some_and(declares);
                        container.probe = probed.then(|| Probe::Failing("connection refused".to_owned()));
                    }
                    _ => container.health = Health::Starting,
                }
            }
            Self::Unhealthy(id) => {
                docker.containers.get_mut(id)?.health = Health::Unhealthy("500".to_owned());
                ills.push(Ill::Unhealthy(id.clone()));
            }
            _ => return None,
        }
        Some(())
    }

    fn strike_consul(&self, consul: &mut Consul, ills: &mut Vec<Ill>, now: Timestamp) -> Option<()> {
        match self {
            Self::Critical(id) => {
                let check = format!("{id}:declared");
                let check = consul.registrations.get_mut(id)?.checks.get_mut(&check)?;
                if check.status == CheckStatus::Critical {
                    return None;
                }
                check.status = CheckStatus::Critical;
                check.output = "500".to_owned();
                in_catalog(consul, id, now, |instance| instance.passing = false);
                ills.push(Ill::Critical(id.clone()));
            }
            Self::Deregistered(id) => {
                consul.registrations.remove(id)?;
                for catalog in answers(consul) {
                    catalog.instances.retain(|instance| instance.id != *id);
                    catalog.shrunk_at = now;
                }
            }
            Self::AllDeregistered => {
                if consul.registrations.is_empty() {
                    return None;
                }
                let ours: BTreeSet<String> = std::mem::take(&mut consul.registrations).into_keys().collect();
                for catalog in answers(consul) {
                    catalog.instances.retain(|instance| !ours.contains(&instance.id));
                    catalog.shrunk_at = now;
                }
            }
            Self::Maintenance(id) => {
                let registration = consul.registrations.get_mut(id)?;
                if registration.maintenance != Maintenance::Off {
                    return None;
                }
                registration.maintenance = Maintenance::Operator { reason: "disk".to_owned() };
                in_catalog(consul, id, now, |instance| instance.maintenance = true);
                ills.push(Ill::Maintenance(id.clone()));
            }
            Self::CatalogLost(service) => {
                let mut lost = false;
                for (query, view) in &mut consul.catalog {
                    let Some(catalog) = view.known_mut().filter(|_| query.service == *service) else { continue };
                    let before = catalog.instances.len();
                    catalog.instances.retain(|instance| instance.owner.is_some());
                    if catalog.instances.len() < before {
                        catalog.shrunk_at = now;
                        lost = true;
                    }
                }
                if !lost {
                    return None;
                }
                ills.push(Ill::Catalog(service.clone()));
            }
            Self::LeaderLost => {
                consul.leader.take()?;
                ills.push(Ill::Leader);
            }
            _ => return None,
        }
        Some(())
    }

    fn strike_nginx(&self, nginx: &mut Nginx, ills: &mut Vec<Ill>, now: Timestamp) -> Option<()> {
        match self {
            Self::Edited => {
                let current = nginx.current.clone()?;
                let generation = nginx.generations.get_mut(&current)?;
                if !generation.damaged.is_empty() {
                    return None;
                }
                generation.damaged.push("files/upstream.conf".to_owned());
            }
            Self::EndpointsEdited => {
                let generation = nginx.generations.get_mut(nginx.current.as_ref()?)?;
                generation.endpoints.as_mut()?.file.take()?;
            }
            Self::SwitchedBack => {
                let current = nginx.current.clone();
                let others = nginx.generations.iter().filter(|(id, _)| Some(*id) != current.as_ref());
                // The one that routes most: with the hash as a judge, what is found would depend on the template's text.
                let (other, _) = others.max_by_key(|(_, one)| tamper::routes(one))?;
                nginx.current = Some(other.clone());
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
                if same || !matches!(nginx.process, NginxProcess::Running { .. }) {
                    return None;
                }
                for (id, generation) in &mut nginx.generations {
                    if let Some(endpoints) = &mut generation.endpoints {
                        endpoints.loaded = endpoints.file.clone().filter(|_| *id == current);
                    }
                }
                nginx.loaded = Loaded::Generation(current);
                nginx.loaded_since = now;
                nginx.routed_since = now;
            }
            Self::HalfReload => {
                let current = nginx.current.clone()?;
                let Loaded::Generation(loaded) = &nginx.loaded else { return None };
                if *loaded == current || !matches!(nginx.process, NginxProcess::Running { .. }) {
                    return None;
                }
                nginx.loaded = Loaded::Mixed([loaded.clone(), current].into());
                nginx.loaded_since = now;
                nginx.routed_since = now;
            }
            Self::NginxStopped => {
                if nginx.process == NginxProcess::Stopped {
                    return None;
                }
                nginx.process = NginxProcess::Stopped;
                nginx.loaded = Loaded::Nothing;
                nginx.loaded_since = now;
                nginx.routed_since = now;
            }
            Self::NginxKilled => {
                if !matches!(nginx.process, NginxProcess::Running { .. }) {
                    return None;
                }
                // Without a generation of ours nothing answers on the probe port that would tell of the workers.
                if nginx.loaded == Loaded::Nothing {
                    return None;
                }
                nginx.process = NginxProcess::Orphans { pids: vec![7, 8] };
            }
            Self::IncludeRemoved => {
                if !nginx.included {
                    return None;
                }
                nginx.included = false;
                ills.push(Ill::Include);
            }
            Self::ListenTaken(port) => {
                let listen = Listen { address: None, port: *port };
                if nginx.listens.contains_key(&listen) || holds(nginx, *port) {
                    return None;
                }
                nginx.listens.insert(listen, ListenState::Taken("Address already in use (os error 98)".to_owned()));
                ills.push(Ill::Listen(*port));
            }
            _ => return None,
        }
        Some(())
    }
}

/// nginx listens there itself, by what it runs.
fn holds(nginx: &Nginx, port: u16) -> bool {
    let ids: Vec<_> = match &nginx.loaded {
        Loaded::Generation(id) => vec![id],
        Loaded::Mixed(ids) => ids.iter().collect(),
        Loaded::Nothing | Loaded::Stranger(_) => Vec::new(),
    };
    // One that is not on the disk may hold anything.
    ids.into_iter().any(|id| {
        nginx.generations.get(id).is_none_or(|generation| {
            generation.manifest.upstreams.values().any(|routed| routed.upstream.listen.port == port)
        })
    })
}

fn taken(state: &State, service: &Service) -> Taken {
    // A job serves nobody.
    let served = if service.job { 0 } else { served(state, &service.name) };
    Taken { service: service.name.clone(), served }
}

fn served(state: &State, service: &str) -> u32 {
    let ours = state.docker().containers.values().filter(|c| c.service == service);
    // What drains does not serve any more: its place is lost already.
    let served = ours
        .filter(|container| serving(state, container).believed && !drains(state, &container.id) && !fails(container))
        .count();
    u32::try_from(served).expect("few")
}

fn answers(consul: &mut Consul) -> impl Iterator<Item = &mut Catalog> {
    consul.catalog.values_mut().filter_map(View::known_mut)
}

fn in_catalog(consul: &mut Consul, id: &str, now: Timestamp, change: impl Fn(&mut Instance)) {
    for catalog in answers(consul) {
        for instance in catalog.instances.iter_mut().filter(|instance| instance.id == id) {
            change(instance);
            catalog.shrunk_at = now;
        }
    }
}

fn stranger(name: &str, port: Option<u16>) -> Stranger {
    let published = port.map(|host| PublishedPort { target: 80, protocol: Protocol::Tcp, host_ip: None, host });
    Stranger {
        name: name.to_owned(),
        owner: None,
        running: true,
        published: published.into_iter().collect(),
        networks: reeve::observed::Networks::new(),
    }
}

/// Others put right what they broke.
pub fn heal(state: &mut State, foreign: &BTreeMap<String, Vec<Instance>>) {
    let ills = std::mem::take(&mut state.ills);
    let world = &mut state.world;
    let (Some(docker), Some(consul), Some(nginx)) =
        (world.docker.known_mut(), world.consul.known_mut(), world.nginx.known_mut())
    else {
        return;
    };
    for ill in ills {
        match ill {
            Ill::Unhealthy(id) => {
                if let Some(container) = docker.containers.get_mut(&id)
                    && matches!(container.health, Health::Unhealthy(_))
                {
                    container.health = Health::Healthy;
                }
            }
            Ill::Critical(id) => {
                let Some(registration) = consul.registrations.get_mut(&id) else { continue };
                let Some(check) = registration.checks.get_mut(&format!("{id}:declared")) else { continue };
                check.status = CheckStatus::Passing;
                let passing = registration.checks.values().all(|check| check.status == CheckStatus::Passing);
                for catalog in answers(consul) {
                    for instance in catalog.instances.iter_mut().filter(|instance| instance.id == id) {
                        instance.passing = passing;
                    }
                }
            }
            Ill::Maintenance(id) => {
                let Some(registration) = consul.registrations.get_mut(&id) else { continue };
                if !matches!(registration.maintenance, Maintenance::Operator { .. }) {
                    continue;
                }
                registration.maintenance = Maintenance::Off;
                for catalog in answers(consul) {
                    for instance in catalog.instances.iter_mut().filter(|instance| instance.id == id) {
                        instance.maintenance = false;
                    }
                }
            }
            Ill::Leader => consul.leader = Some("127.0.0.1:8300".to_owned()),
            Ill::Include => nginx.included = true,
            Ill::Listen(port) => {
                nginx.listens.remove(&Listen { address: None, port });
            }
            Ill::Catalog(service) => {
                for (query, view) in &mut consul.catalog {
                    let Some(catalog) = view.known_mut().filter(|_| query.service == service) else { continue };
                    for instance in foreign.get(&service).into_iter().flatten() {
                        if !catalog.instances.iter().any(|known| known.id == instance.id) {
                            catalog.instances.push(instance.clone());
                        }
                    }
                }
            }
        }
    }
}
