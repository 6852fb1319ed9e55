//! What must never happen, judged action by action, without a line of the planner's own code.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use reeve::observed::{
    CheckStatus, Container, ContainerState, Docker, Endpoint, Health, ListenState, Maintenance, Pin, Probe,
    Registration, RoutedUpstream, View,
};
use reeve::plan::action::{Action, ConsulAction, DirectoryAction, DockerAction, NewContainer, NewRegistration};
use reeve::plan::{Step, System};
use reeve::spec::container::MountSource;
use reeve::spec::upstream::WhenEmpty;
use reeve::spec::{DependencyCondition, Service, Spec};

use crate::measure::{fit, parallelism, passes, ran, serving, stop_first};
use crate::state::{Behind, State};

/// What is known when a wave is judged.
pub struct Judge<'s> {
    pub spec: &'s Spec,
    /// The state that the wave was planned for.
    pub planned: &'s State,
    /// The wave was planned from a view that was one write behind.
    pub behind: Option<Behind>,
    /// Nothing of what leaves the spec may be touched: it removes too much at once.
    pub held: bool,
}

pub type Verdict = Result<(), String>;

pub fn ensure(holds: bool, otherwise: impl Into<String>) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}

impl Judge<'_> {
    /// One of these views was one write behind, and the judgement rests on it: the planner cannot know of that write.
    pub fn late(&self, views: &[Behind]) -> bool {
        self.behind.is_some_and(|behind| views.contains(&behind))
    }

    /// Docker as the wave saw it, if that was one write late.
    pub fn late_docker(&self) -> Option<&Docker> {
        older_view(self.behind == Some(Behind::Docker), self.planned.older.docker.as_ref())
    }

    /// What is wrong with doing this now, if something is.
    pub fn before(&self, state: &State, step: &Step) -> Verdict {
        let system = step.action.system();
        ensure(!self.planned.hidden.has(system), "it acts on what it cannot see")?;
        match &step.action {
            Action::Docker(action) => self.docker(state, action),
            Action::Consul(action) => self.consul(state, action),
            Action::Nginx(action) => self.nginx(state, action),
            Action::Directory(action) => self.directory(state, action),
            Action::Template(_) => Ok(()),
        }
    }

    fn directory(&self, state: &State, action: &DirectoryAction) -> Verdict {
        let DirectoryAction::AddPin { pin: Pin::Failed { service, .. } } = action else { return Ok(()) };
        let given_up = |pin: &Pin| matches!(pin, Pin::Failed { service: known, .. } if known == service);
        let known = state.world.directory.known();
        ensure(
            !known.is_some_and(|directory| directory.pins.iter().any(given_up)),
            "it gives up what it went back to",
        )?;
        let Some(service) = self.service(service) else { return Ok(()) };
        let ours = state.docker().containers.values().filter(|c| c.service == service.name && c.hash == service.hash);
        let mut failed = ours.filter(|c| !serving(state, c).proven);
        let hopeless = failed.any(|c| {
            let old = c.created_at.is_none_or(|at| {
                let image = state.docker().images.get(&service.config.image);
                let deadline = service.deadline(image.is_some_and(|image| image.healthcheck));
                state.now.duration_since(at) >= SignedDuration::try_from(deadline).expect("a short deadline")
            });
            // One that was announced and fails within the time in which it is watched has failed, as in Compose.
            let ContainerState::Running { started_at } = c.state else { return true };
            let youth = SignedDuration::try_from(service.update.monitor).expect("a short time");
            let mut registrations = state.consul().registrations.values().filter(|r| r.container == c.id);
            let failed = |r: &Registration| matches!(c.health, Health::Unhealthy(_)) || !passes(r);
            old || (state.now.duration_since(started_at) < youth && registrations.any(failed))
        });
        ensure(
            hopeless || self.late(&[Behind::Docker, Behind::Consul]),
            "it gives up a replica that may still become ready",
        )
    }

    /// Somebody held it or rolled it back, and that cannot be read.
    fn pinned_blindly(&self, state: &State, service: &str) -> bool {
        let directory = state.world.directory.known();
        let pinned = directory.is_some_and(|directory| directory.pins_of(service).next().is_some());
        self.planned.hidden.has(System::Directory) && pinned
    }

    fn docker(&self, state: &State, action: &DockerAction) -> Verdict {
        let docker = state.docker();
        match action {
            DockerAction::CreateContainer(new) => self.create(state, new),
            DockerAction::StartContainer { container, .. } => self.start(state, container),
            DockerAction::StopContainer { id, .. } => {
                // What is registered was taken down when it was drained.
                let bare = |container: &&Container| container.state.running() && !container.registers;
                if let Some(container) = state.container(id).filter(bare) {
                    self.one_down(state, container)?;
                }
                self.stop(state, id)
            }
            DockerAction::RemoveContainer { id, .. } => {
                ensure(!docker.strangers.contains_key(id), "it removes a container that is not ours")?;
                let running = state.container(id).is_some_and(|container| container.state.running());
                // Docker refuses that.
                ensure(!running || self.late(&[Behind::Docker]), "it removes a container that runs")
            }
            DockerAction::RemoveNetwork { name, .. } => {
                let Some(network) = docker.networks.get(name) else { return Ok(()) };
                ensure(network.ours, "it removes a network that is not ours")?;
                // Docker refuses that.
                ensure(
                    network.attached == 0 || self.late(&[Behind::Docker]),
                    "it removes a network that containers are attached to",
                )
            }
            DockerAction::RemoveVolume { name } => {
                let ours = docker.volumes.get(name).is_none_or(|volume| volume.ours);
                ensure(ours, "it removes a volume that is not ours")
            }
            DockerAction::UnpauseContainer { id, .. }
            | DockerAction::ConnectNetwork { id, .. }
            | DockerAction::DisconnectNetwork { id, .. } => {
                ensure(!docker.strangers.contains_key(id), "it changes a container that is not ours")
            }
            DockerAction::CreateNetwork(_) | DockerAction::CreateVolume(_) | DockerAction::PullImage { .. } => Ok(()),
        }
    }

    fn service(&self, name: &str) -> Option<&Service> {
        self.spec.services.get(name)
    }

    /// The container is what the spec wants now, in a slot that it has.
    pub fn wanted(&self, state: &State, id: &str) -> bool {
        state.container(id).is_some_and(|container| {
            self.service(&container.service).is_some_and(|service| {
                let image = state.docker().images.get(&service.config.image);
                let present =
                    service.hash == container.hash && image.is_none_or(|image| image.id == container.image_id);
                // What was rolled back is not wanted, and what served before is.
                container.slot <= service.replicas && present != turned_back(state, service)
            })
        })
    }

    fn create(&self, state: &State, new: &NewContainer) -> Verdict {
        let docker = state.docker();
        let service = self.service(&new.service).ok_or("its service is not in the spec")?;
        ensure(
            !self.pinned_blindly(state, &new.service)
                || !docker.containers.values().any(|c| c.service == new.service && c.slot == new.slot),
            "it is replaced while its pins cannot be read",
        )?;
        if docker.containers.values().any(|container| container.name == new.name) {
            // It is there already: nothing happens.
            return Ok(());
        }
        let strangers = || docker.strangers.values();
        ensure(!strangers().any(|stranger| stranger.name == new.name), "the name is somebody else's")?;
        let ports: BTreeSet<u16> = new.host_ports.iter().map(|port| port.host).filter(|port| *port != 0).collect();
        let mut held = strangers().filter(|s| s.running).flat_map(|s| &s.published).map(|published| published.host);
        if let Some(port) = held.find(|port| ports.contains(port)) {
            return Err(format!("host port {port} is somebody else's"));
        }
        let networks = new.config.networks.keys().all(|name| docker.networks.contains_key(name));
        ensure(networks, "its network is not there")?;
        let volumes = new.config.mounts.iter().all(|mount| match &mount.source {
            MountSource::Volume { name, .. } => docker.volumes.contains_key(name),
            MountSource::Anonymous | MountSource::Bind { .. } | MountSource::Tmpfs { .. } => true,
        });
        ensure(volumes, "its volume is not there")?;
        ensure(docker.images.contains_key(&new.config.image), "its image is not there")?;
        // One that was made by a write that is not seen yet cannot be reckoned with.
        let late = self.late_docker();
        let seen = |id: &String| late.is_none_or(|docker| docker.containers.contains_key(id));
        let ours = || docker.containers.values().filter(|c| c.service == new.service && seen(&c.id));
        let count = |length: usize| u32::try_from(length).expect("few");
        let surge = if stop_first(service) { 0 } else { parallelism(service) };
        let most = service.replicas + surge;
        let now = count(ours().count()) + 1;
        ensure(now <= most, format!("{now} containers of {}, and {most} are the most", new.service))?;
        if stop_first(service) {
            let beside = ours().any(|container| container.slot == new.slot && container.hash != new.hash);
            ensure(!beside, "stop-first: the old replica of the slot is still there")?;
        }
        // New ones beside old ones: so many at a time.
        let replaces = |slot: u32| ours().any(|c| c.slot == slot && !self.wanted(state, &c.id));
        let given_up = new.hash == service.hash && turned_back(state, service);
        ensure(!given_up || ours().all(|c| c.slot != new.slot), "it rolls out again what was given up")?;
        if replaces(new.slot) {
            let soon = self.newest(state, service).is_some_and(|newest| newest < service.update.delay);
            ensure(!soon || self.late(&[Behind::Docker]), "the next one is made before the delay is over")?;
            self.watched(state, service)?;
            self.one_after_another(state, service, new)?;
            self.none_failed(service)?;
        }
        Ok(())
    }

    /// For how long the newest wanted replica has run, by what the wave saw.
    fn newest(&self, state: &State, service: &Service) -> Option<Duration> {
        let ours = self.planned.docker().containers.values();
        let ours = ours.filter(|c| c.service == service.name && self.wanted(self.planned, &c.id));
        let newest = ours.filter_map(|c| match c.state {
            ContainerState::Running { started_at } => Some(started_at),
            _ => None,
        });
        newest.max().map(|newest| Duration::try_from(state.now.duration_since(newest)).unwrap_or_default())
    }

    /// Nothing more is replaced while the newest replica may still die of its youth.
    fn watched(&self, state: &State, service: &Service) -> Verdict {
        let young = self.newest(state, service).is_some_and(|newest| newest < service.update.monitor);
        ensure(!young || self.late(&[Behind::Docker]), "one is replaced while the newest replica is still watched")
    }

    /// It is registered as its service wants, if it is to be.
    pub fn announced(&self, state: &State, container: &Container) -> bool {
        let registers = self.service(&container.service).is_some_and(|service| !service.register.is_empty());
        let registered = state.consul().registrations.values().any(|r| r.container == container.id && passes(r));
        !registers || registered
    }

    fn start(&self, state: &State, id: &str) -> Verdict {
        ensure(!state.docker().strangers.contains_key(id), "it starts a container that is not ours")?;
        let Some(container) = state.container(id) else { return Ok(()) };
        if container.state.running() {
            return Ok(());
        }
        let Some(service) = self.service(&container.service) else {
            return Err("it starts a container of a service that is not in the spec".to_owned());
        };
        if let ContainerState::Exited { started_at: Some(started), finished_at: Some(finished), .. } = container.state {
            let short = finished.duration_since(started) < SignedDuration::from_secs(10);
            let soon = state.now.duration_since(finished) < SignedDuration::from_secs(5);
            ensure(!(short && soon) || self.late(&[Behind::Docker]), "it starts again at once what died at once")?;
        }
        for (name, dependency) in &service.depends_on {
            let Some(target) = self.service(name) else { continue };
            // By what the wave saw: another object of it may just be replacing what was there.
            let there = self.planned.docker().containers.values().filter(|c| c.service == *name);
            let met = there.filter(|c| match dependency.condition {
                DependencyCondition::Started => c.state.running(),
                DependencyCondition::Healthy => fit(c),
                DependencyCondition::CompletedSuccessfully => {
                    c.hash == target.hash && matches!(c.state, ContainerState::Exited { code: 0, .. })
                }
            });
            let met = u32::try_from(met.count()).expect("few") >= target.replicas;
            ensure(met || self.late(&[Behind::Docker]), format!("it starts before {name}, which it depends on"))?;
        }
        let ports: BTreeSet<u16> =
            container.chosen_ports.iter().map(|port| port.host).filter(|port| *port != 0).collect();
        let clash = state.docker().containers.values().find(|other| {
            other.id != container.id
                && matches!(other.state, ContainerState::Running { .. } | ContainerState::Paused { .. })
                && other.published.iter().any(|published| ports.contains(&published.host))
        });
        if let Some(other) = clash {
            return Err(format!("its host port is held by {}", other.name));
        }
        let stuck = state.hidden.any()
            || state.refuses
            || !state.nginx_runs()
            || !state.content_seen()
            || state.nginx().generations.values().any(|generation| generation.rejected.is_some())
            || !state.nginx().included
            || state.nginx().listens.values().any(|listen| *listen != ListenState::Free);
        let sent = state.ghost.running.iter().flat_map(|(_, manifest)| manifest.upstreams.values());
        let sent = sent.filter(|routed| !held_dead(self.planned, routed, service));
        let sent = sent.flat_map(|routed| &routed.endpoints).any(|endpoint| {
            ports.contains(&endpoint.port) && endpoint.container.as_ref().is_some_and(|to| *to != container.id)
        });
        ensure(
            !sent || stuck || self.late(&[Behind::Docker, Behind::Nginx]),
            "it starts where nginx sends the requests of another one",
        )
    }

    fn stop(&self, state: &State, id: &str) -> Verdict {
        ensure(!state.docker().strangers.contains_key(id), "it stops a container that is not ours")?;
        let Some(container) = state.container(id) else { return Ok(()) };
        if !matches!(container.state, ContainerState::Running { .. } | ContainerState::Paused { .. }) {
            return Ok(());
        }
        ensure(!state.routed(id), "it stops what nginx routes to")?;
        let planned = self.planned;
        let registers =
            container.registers || self.service(&container.service).is_some_and(|service| !service.register.is_empty());
        let blind = |system| planned.hidden.has(system) && registers;
        ensure(!blind(System::Consul), "it stops a registered one without seeing Consul")?;
        ensure(!blind(System::Nginx), "it stops a registered one without seeing nginx")?;
        let consul = state.consul();
        let given_out = consul.registrations.values().any(|r| r.container == id && r.maintenance == Maintenance::Off);
        // Of one that has run for longer than the drain time, and of which nothing is registered in the view that is one
        // write late, no planner can know that it was registered just now.
        let older = older_view(self.behind == Some(Behind::Consul), self.planned.older.consul.as_ref());
        let unseen = older.is_some_and(|consul| consul.registrations.values().all(|r| r.container != id));
        let young = match container.state {
            ContainerState::Running { started_at } => state.now.duration_since(started_at) < self.shortest_drain(),
            _ => false,
        };
        ensure(!given_out || (unseen && !young), "it stops what Consul gives out")?;
        if let Some((last, drain)) = state.ghost.routed.get(id) {
            let waited = state.now.duration_since(*last);
            let drain = SignedDuration::try_from(*drain).expect("a short drain");
            if waited < drain {
                return Err(format!("it stops {waited:#} after nginx last routed to it, where the drain is {drain:#}"));
            }
        }
        self.leaves(state, &container.service)?;
        let addresses: Vec<String> =
            container.networks.values().filter_map(|n| n.address).map(|address| format!("{address}:8300")).collect();
        let votes = container.state.running() && addresses.iter().any(|address| consul.peers.contains(address));
        if votes {
            let alive = |peer: &&String| {
                state.docker().containers.values().any(|c| {
                    c.state.running()
                        && c.networks.values().any(|n| n.address.is_some_and(|a| peer.starts_with(&format!("{a}:"))))
                })
            };
            let there = consul.peers.iter().filter(alive).count();
            ensure(there == consul.peers.len(), "it stops a second server of Consul")?;
        }
        Ok(())
    }

    fn shortest_drain(&self) -> SignedDuration {
        let drain = self.spec.upstreams.values().map(|upstream| upstream.drain).min().unwrap_or_default();
        SignedDuration::try_from(drain).expect("a short drain")
    }

    /// A service that leaves the spec: in which order.
    fn leaves(&self, state: &State, service: &str) -> Verdict {
        if self.spec.services.contains_key(service) {
            return Ok(());
        }
        ensure(!self.held, "the spec removes too much at once, and nobody said that it is meant")?;
        let docker = state.docker();
        let left = |name: &str| !self.spec.services.contains_key(name);
        let registers = docker.containers.values().any(|c| c.service == service && c.registers);
        let registered = state.consul().registrations.values().any(|r| left(&r.service) && r.service != service);
        ensure(registers || !registered, "it leaves before the last registration of the services that leave")?;
        let dependent = docker.containers.values().find(|c| {
            left(&c.service) && c.service != service && c.depends_on.contains(service) && c.registers == registers
        });
        match dependent {
            Some(dependent) if self.planned.container(&dependent.id).is_some() => {
                Err(format!("it leaves before {}, which depended on it", dependent.service))
            }
            _ => Ok(()),
        }
    }

    fn consul(&self, state: &State, action: &ConsulAction) -> Verdict {
        let consul = state.consul();
        match action {
            ConsulAction::Register(new) => self.register(state, new),
            ConsulAction::Adopt(_) | ConsulAction::RemoveUnmarked { .. } => {
                Err("what nobody marked is taken only when a person asks for it".into())
            }
            ConsulAction::Deregister { id } => {
                ensure(!consul.strangers.contains_key(id), "the registration is somebody else's")?;
                ensure(!self.planned.hidden.has(System::Docker), "it deregisters without seeing Docker")?;
                let Some(registration) = consul.registrations.get(id) else { return Ok(()) };
                self.deregister(state, registration)
            }
            ConsulAction::Drain { id, .. } => {
                ensure(!consul.strangers.contains_key(id), "the registration is somebody else's")?;
                ensure(!self.planned.hidden.has(System::Nginx), "it drains without seeing what nginx routes")?;
                ensure(!self.planned.hidden.has(System::Docker), "it drains without seeing Docker")?;
                let Some(registration) = consul.registrations.get(id) else { return Ok(()) };
                if self.held {
                    self.leaves(state, &registration.service)?;
                }
                ensure(!self.pinned_blindly(state, &registration.service), "it drains while the pins cannot be read")?;
                if let Some(container) = state.container(&registration.container) {
                    self.one_down(state, container)?;
                }
                let replaced = !self.wanted(state, &registration.container);
                let service =
                    self.service(&registration.service).filter(|s| replaced && registration.slot <= s.replicas);
                match service {
                    Some(service) => self.watched(state, service),
                    None => Ok(()),
                }
            }
            ConsulAction::LiftDrain { id } => {
                let operator = consul.registrations.get(id).is_some_and(|r| is_operators(&r.maintenance));
                ensure(!operator || self.late(&[Behind::Consul]), "it lifts an operator's maintenance")
            }
            ConsulAction::StartDrainClock { id, .. } => {
                let Some(registration) = consul.registrations.get(id) else { return Ok(()) };
                let at = |routed: &reeve::observed::RoutedUpstream| {
                    routed.endpoints.iter().any(|endpoint| is_at(state, endpoint, registration))
                };
                let routed = state.ghost.running.iter().any(|(_, manifest)| manifest.upstreams.values().any(at));
                ensure(!routed || self.late(&[Behind::Nginx]), "the drain time begins while nginx routes to it")
            }
            ConsulAction::SetHealth { id, status, .. } => {
                let container = consul.registrations.get(id).and_then(|r| self.planned.container(&r.container));
                let runs = container.is_some_and(|container| container.state.running());
                ensure(
                    runs || *status != CheckStatus::Passing || self.late(&[Behind::Docker]),
                    "it says of a dead one that it is healthy",
                )
            }
            ConsulAction::StopDrainClock { .. } | ConsulAction::RemoveCheck { .. } => Ok(()),
        }
    }

    fn register(&self, state: &State, new: &NewRegistration) -> Verdict {
        let consul = state.consul();
        ensure(!consul.strangers.contains_key(&new.id), "the registration is somebody else's")?;
        ensure(!self.planned.hidden.has(System::Docker), "it registers without seeing Docker")?;
        ensure(consul.leader.is_some(), "it registers while Consul has no leader")?;
        let Some(container) = state.container(&new.container) else {
            return ensure(self.late(&[Behind::Docker]), "it registers a container that is not there");
        };
        let known = consul.registrations.get(&new.id).is_some_and(|seen| seen.container == new.container);
        let healthy = |container: &Container| match container.health {
            _ if !container.state.running() => false,
            Health::Healthy => true,
            Health::Starting | Health::Unhealthy(_) => false,
            // Consul's own check judges one that is registered already.
            Health::None => {
                let declared =
                    self.service(&container.service).is_some_and(|s| s.register.iter().any(|r| r.check.is_some()));
                !declared || known || container.probe == Some(Probe::Passing)
            }
        };
        // No planner can know of a write that it does not see yet; the next pass takes back what it could not know.
        let older = self.late_docker();
        let seen = older.and_then(|docker| docker.containers.get(&new.container));
        ensure(healthy(container) || seen.is_some_and(healthy), "it registers what is not healthy")?;
        let drained = state.ghost.drained.contains(&new.container) && !self.wanted(state, &new.container);
        // With the registration its drain is forgotten. Then it is one more that serves, if others are missing in Consul, or
        // nothing may be taken away while the newest is watched.
        let forgotten = self.planned.consul().registrations.values().all(|r| r.container != new.container);
        let needed = forgotten
            && self.service(&container.service).is_some_and(|service| {
                let others = self.planned.docker().containers.values();
                let others = others.filter(|c| c.service == service.name && c.id != container.id);
                // What their checks say now: of what they said before their registrations were lost nothing tells.
                let checked = |c: &&Container| {
                    let mut own = self.planned.consul().registrations.values().filter(|r| r.container == c.id);
                    own.all(ran)
                };
                let proven = |c: &&Container| serving(self.planned, c).proven && checked(c);
                let others = others.filter(|c| proven(c) && self.announced(self.planned, c)).count();
                let missing = if stop_first(service) { parallelism(service) } else { 0 };
                let short = u32::try_from(others).expect("few") < service.replicas.saturating_sub(missing);
                short || self.watched(state, service).is_err()
            });
        // Neither Consul nor what nginx runs tells any more that it was on its way out.
        let traceless = !self.planned.content_seen() || self.planned.hidden.has(System::Nginx);
        // Somebody may have held the service: nothing of it may leave.
        let unpinned = self.planned.hidden.has(System::Directory);
        // Nothing can take its place.
        let alone = state.stranger.as_ref().is_some_and(|taken| taken.service == container.service);
        let excused = needed || (forgotten && (traceless || unpinned || alone));
        ensure(!drained || known || excused, "it registers again what was drained")
    }

    fn deregister(&self, state: &State, registration: &Registration) -> Verdict {
        let Some(container) = state.container(&registration.container).filter(|c| c.state.running()) else {
            return Ok(());
        };
        // By what the wave saw: that it was just started again is not seen yet.
        let older = self.late_docker();
        if older.is_some_and(|docker| docker.containers.get(&container.id).is_none_or(|c| !c.state.running())) {
            return Ok(());
        }
        let at = |routed: &reeve::observed::RoutedUpstream| {
            routed.endpoints.iter().any(|endpoint| is_at(state, endpoint, registration))
        };
        let routed = state.ghost.running.iter().any(|(_, manifest)| manifest.upstreams.values().any(at));
        ensure(!routed, "it deregisters what nginx routes to")?;
        ensure(!self.planned.hidden.has(System::Nginx), "it deregisters without seeing what nginx routes")?;
        if registration.maintenance == Maintenance::Off && self.service(&container.service).is_some() {
            return Err("it deregisters a running one that was not drained".to_owned());
        }
        let place = (registration.address.clone(), registration.port, registration.container.clone());
        let mut others = state.consul().registrations.values().filter(|other| other.id != registration.id);
        let shared = others.any(|other| (&other.address, other.port) == (&registration.address, registration.port));
        if let Some((last, drain)) = state.ghost.places.get(&place).filter(|_| !shared) {
            let waited = state.now.duration_since(*last);
            let drain = SignedDuration::try_from(*drain).expect("a short drain");
            ensure(waited >= drain, format!("it deregisters {waited:#} after nginx last routed to it"))?;
        }
        Ok(())
    }
}

/// The older view, if that was what the wave saw.
fn older_view<T>(seen: bool, older: Option<&Arc<View<T>>>) -> Option<&T> {
    older.filter(|_| seen)?.known()
}

/// A roll-out of the service to what the spec says was given up.
pub fn turned_back(state: &State, service: &Service) -> bool {
    let directory = state.world.directory.known();
    directory.into_iter().flat_map(|directory| directory.pins_of(&service.name)).any(|pin| match pin {
        Pin::Failed { hash, .. } | Pin::RolledBack { from: hash, .. } => *hash == service.hash,
        Pin::Hold { .. } | Pin::AllowRemovals { .. } | Pin::Adopted(_) => false,
    })
}

/// `when_empty: keep` holds endpoints of which none runs, by what the wave saw, and nothing that runs could be routed to in their place: nginx
/// would go on pointing at the port until somebody listens there. The successor that registers what the upstream asks
/// for takes the port, and with it only requests that are meant for its service.
fn held_dead(state: &State, routed: &RoutedUpstream, successor: &Service) -> bool {
    let asked = routed.upstream.query.as_ref();
    let registers = asked.is_some_and(|query| {
        let mut declared = successor.register.iter();
        declared.any(|d| d.name == query.service && query.tag.as_ref().is_none_or(|tag| d.tags.contains(tag)))
    });
    let dead = |endpoint: &Endpoint| {
        let container = endpoint.container.as_ref();
        container.is_some_and(|id| state.container(id).is_none_or(|container| !container.state.running()))
    };
    routed.upstream.when_empty == WhenEmpty::Keep && registers && routed.endpoints.iter().all(dead)
}

/// Requests to the endpoint are meant for the registration: another container may be where that was before, or another port
/// of its own, when it was started again.
fn is_at(state: &State, endpoint: &Endpoint, registration: &Registration) -> bool {
    let at = |address: &str, port: u16| (address, port) == (registration.address.as_str(), registration.port);
    let whose = endpoint.container.as_ref().is_none_or(|container| *container == registration.container);
    let mut registrations = state.consul().registrations.values();
    let another = registrations.any(|other| {
        other.id != registration.id && other.container == registration.container && at(&other.address, other.port)
    });
    whose && !another && at(&endpoint.address, endpoint.port)
}

fn is_operators(maintenance: &Maintenance) -> bool {
    matches!(maintenance, Maintenance::Operator { .. })
}
