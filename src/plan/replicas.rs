//! Replicas: which containers of a service are wanted, which are created and started, and which must leave.
//!
//! The gates are conditions over what is observed. How a replica leaves is `retire`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::action::{Action, DockerAction, NewContainer};
use super::changes;
use super::facts::{Facts, Fitness};
use super::order::{self, Order};
use super::planner::{Planner, after};
use super::ports::Taken;
use super::{Change, ObjectKey};
use crate::observed::{Container, ContainerState, WantedAttachment};
use crate::spec::container::NetworkMode;
use crate::spec::{DependencyCondition, PullPolicy, Service, UpdateOrder};

/// A container that ran for less than this is not started again at once.
const SHORT_RUN: Duration = Duration::from_secs(10);
/// How long such a container waits.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// The containers of one service, sorted by what is wanted of them.
pub(super) struct Roster<'a> {
    /// Up to date, one for each slot.
    pub current: BTreeMap<u32, &'a Container>,
    /// To be replaced or to go: with the cause and what differs.
    pub leaving: Vec<Leaving<'a>>,
    pub order: Order,
    /// Everything of it must be gone before a new one can be made (its network is replaced).
    pub all_at_once: bool,
}

pub(super) struct Leaving<'a> {
    pub container: &'a Container,
    pub cause: String,
    pub changes: Vec<Change>,
    /// It is up to date, but a second one in its slot, or its slot is beyond `replicas`: nothing takes its place.
    pub surplus: bool,
}

impl<'a> Planner<'a> {
    /// Sorts the containers of every service of the spec. First of all: dependencies look across services.
    pub(super) fn call_rosters(&mut self) {
        if self.facts.docker.is_none() {
            return;
        }
        let spec = self.spec;
        for service in spec.services.values() {
            let roster = self.roster(service);
            self.rosters.insert(&service.name, roster);
        }
    }

    fn roster(&self, service: &'a Service) -> Roster<'a> {
        let mut roster = Roster {
            current: BTreeMap::new(),
            leaving: Vec::new(),
            order: order::decide(self.spec, service),
            all_at_once: false,
        };
        let replaced_network = service.config.networks.keys().find(|name| self.network_differs(name));
        roster.all_at_once = replaced_network.is_some();
        for container in self.facts.containers(&service.name).iter().copied() {
            let outdated = match replaced_network {
                Some(network) => Some((format!("network {network} is replaced"), Vec::new())),
                None => self.outdated(service, container),
            };
            if let Some((cause, changes)) = outdated {
                let surplus = container.slot > service.replicas;
                roster.leaving.push(Leaving { container, cause, changes, surplus });
                continue;
            }
            if container.slot == 0 || container.slot > service.replicas {
                let cause = format!("scaled to {}", service.replicas);
                roster.leaving.push(Leaving { container, cause, changes: Vec::new(), surplus: true });
                continue;
            }
            // Of two in one slot the fitter one stays; the id decides between equals, so that the engine's order cannot.
            let Some(other) = roster.current.insert(container.slot, container) else { continue };
            let keep_other = self.rank(service, other) >= self.rank(service, container);
            let (kept, second) = if keep_other { (other, container) } else { (container, other) };
            roster.current.insert(container.slot, kept);
            let cause = format!("a second replica in slot {}, beside {}", kept.slot, kept.name);
            roster.leaving.push(Leaving { container: second, cause, changes: Vec::new(), surplus: true });
        }
        roster
    }

    fn rank(&self, service: &Service, container: &Container) -> u8 {
        match self.facts.fitness(container, Some(service)) {
            Fitness::Healthy if self.facts.serving(self.spec, container) => 4,
            Fitness::Healthy => 3,
            Fitness::Starting(_) => 2,
            Fitness::Unhealthy(_) => 1,
            Fitness::NotRunning(_) => 0,
        }
    }

    /// Why the container is not what the spec wants, if so.
    fn outdated(&self, service: &Service, container: &Container) -> Option<(String, Vec<Change>)> {
        if container.hash != service.hash {
            let changes = changes::between(&container.config, &service.config.canonical());
            return Some((format!("{} changed", changes::fields(&changes)), changes));
        }
        let image = self.facts.docker?.images.get(&service.config.image);
        if let Some(image) = image.filter(|image| !container.image_id.is_empty() && image.id != container.image_id) {
            let change = Change {
                field: "image id".to_owned(),
                old: Some(short_id(&container.image_id)),
                new: Some(short_id(&image.id)),
            };
            return Some((format!("{} was tagged anew", service.config.image), vec![change]));
        }
        if let Some(NetworkMode::Service(target)) = &service.config.network_mode {
            let joined = container.network_mode.strip_prefix("container:").unwrap_or_default();
            let there = self.facts.containers(target).iter().any(|c| c.id == joined);
            if !there {
                return Some((format!("the replica of {target} whose network it joined is gone"), Vec::new()));
            }
        }
        if container.state == ContainerState::Dead {
            return Some(("Docker calls it dead".to_owned(), Vec::new()));
        }
        None
    }

    pub(super) fn replicas(&mut self) {
        let Some(docker) = self.facts.docker else {
            let reason = format!("Docker cannot be read: {}", self.observed.docker.reason().unwrap_or_default());
            let names: Vec<&String> = self.spec.services.keys().collect();
            for name in names {
                self.wait(ObjectKey::Service(name.clone()), "docker_unknown", reason.clone());
            }
            return;
        };
        let mut taken = Taken::of(docker);
        let rosters = std::mem::take(&mut self.rosters);
        let spec = self.spec;
        // Every roster is looked at before anything is created: what leaves in this wave must not count as serving.
        for service in spec.services.values() {
            if let Some(roster) = rosters.get(service.name.as_str()) {
                self.retire_of(service, roster);
            }
        }
        for service in spec.services.values() {
            if let Some(roster) = rosters.get(service.name.as_str()) {
                self.keep_running(service, roster, &rosters);
                self.create_missing(service, roster, &rosters, &mut taken);
            }
        }
        self.rosters = rosters;
        self.retire_leaving_services();
    }

    // ------------------------------------------------------------------------------------------ keeping

    fn keep_running(&mut self, service: &'a Service, roster: &Roster<'a>, rosters: &BTreeMap<&'a str, Roster<'a>>) {
        for container in roster.current.values() {
            let object = ObjectKey::Replica(container.name.clone());
            if !matches!(container.state, ContainerState::Removing) {
                self.connect_networks(service, container);
            }
            match &container.state {
                ContainerState::Created => match self.dependency_missing(service, rosters) {
                    Some(reason) => self.wait(object, "dependency", reason),
                    None => self.start(object, container, "it was made but not started"),
                },
                ContainerState::Paused { .. } => {
                    let action =
                        DockerAction::UnpauseContainer { id: container.id.clone(), name: container.name.clone() };
                    self.step(object, Action::Docker(action), "it is paused");
                }
                ContainerState::Exited { code, started_at, finished_at } => {
                    if service.job && *code == 0 {
                        continue;
                    }
                    match restart_at(*started_at, *finished_at).filter(|at| *at > self.now) {
                        Some(at) => {
                            let reason =
                                format!("exited with code {code} soon after its start; started again in a moment");
                            self.wait_until(object, "restart_pause", reason, at);
                        }
                        None => self.start(object, container, &format!("it exited with code {code}")),
                    }
                }
                ContainerState::Restarting => {
                    self.wait(object, "restarting", "Docker restarts it, by its restart policy");
                }
                ContainerState::Removing => self.wait(object, "removing", "Docker is removing it"),
                ContainerState::Running { .. } => match self.facts.fitness(container, Some(service)) {
                    Fitness::Healthy => {}
                    Fitness::Starting(reason) | Fitness::Unhealthy(reason) | Fitness::NotRunning(reason) => {
                        self.wait(object, "unhealthy", reason);
                    }
                },
                // A dead one is among the leaving.
                ContainerState::Dead => {}
            }
        }
    }

    fn start(&mut self, object: ObjectKey, container: &Container, cause: &str) {
        let action = DockerAction::StartContainer { container: container.id.clone(), name: container.name.clone() };
        self.step(object, Action::Docker(action), cause);
    }

    fn connect_networks(&mut self, service: &Service, container: &Container) {
        for (network, attachment) in &service.config.networks {
            let there = self.facts.docker.is_some_and(|docker| docker.networks.contains_key(network));
            if there && !container.networks.contains_key(network) {
                let action = DockerAction::ConnectNetwork {
                    id: container.id.clone(),
                    name: container.name.clone(),
                    attachment: WantedAttachment { network: network.clone(), attachment: attachment.clone() },
                };
                let cause = format!("it is not attached to network {network}");
                self.step(ObjectKey::Replica(container.name.clone()), Action::Docker(action), cause);
            }
        }
    }

    // ------------------------------------------------------------------------------------------ making

    fn create_missing(
        &mut self,
        service: &'a Service,
        roster: &Roster<'a>,
        rosters: &BTreeMap<&'a str, Roster<'a>>,
        taken: &mut Taken,
    ) {
        let missing: Vec<u32> = (1..=service.replicas).filter(|slot| !roster.current.contains_key(slot)).collect();
        if missing.is_empty() {
            return;
        }
        let object = ObjectKey::Service(service.name.clone());
        if roster.all_at_once && !roster.leaving.is_empty() {
            return self.wait(object, "network", "its network is replaced; the old replicas must be gone first");
        }
        if let Some((kind, reason)) = self.resources_missing(service) {
            return self.wait(object, kind, reason);
        }
        if let Some(reason) = self.dependency_missing(service, rosters) {
            return self.wait(object, "dependency", reason);
        }
        let mut room = creation_room(&self.facts, self, service, roster);
        for slot in missing {
            if room == 0 {
                let reason = match roster.order.order {
                    UpdateOrder::StartFirst => "the replicas made before it must serve first".to_owned(),
                    UpdateOrder::StopFirst => {
                        format!("an old replica must be gone first ({})", roster.order.reason)
                    }
                };
                return self.wait(object, "roll", format!("slot {slot}: {reason}"));
            }
            room -= 1;
            if !self.create(service, slot, taken) {
                return;
            }
        }
    }

    /// False when something holds it, which then holds the service's other slots too.
    fn create(&mut self, service: &'a Service, slot: u32, taken: &mut Taken) -> bool {
        let object = ObjectKey::Service(service.name.clone());
        let chosen = taken
            .choose_name(&self.spec.project, service, slot)
            .and_then(|name| Ok((name, taken.choose_ports(service, slot)?)));
        let (name, host_ports) = match chosen {
            Ok(chosen) => chosen,
            Err(reason) => {
                self.wait(object, "conflict", format!("slot {slot}: {reason}"));
                return true;
            }
        };
        let network_mode = match self.network_mode(service) {
            Ok(network_mode) => network_mode,
            Err(reason) => {
                self.wait(object, "dependency", reason);
                return false;
            }
        };
        taken.reserve(&name, &host_ports);
        let image = self.facts.docker.and_then(|docker| docker.images.get(&service.config.image));
        let always = service.pull_policy == PullPolicy::Always;
        let object = ObjectKey::Replica(name.clone());
        if always {
            let pull = DockerAction::PullImage {
                image: service.config.image.clone(),
                platform: service.config.platform.clone(),
            };
            self.step(object.clone(), Action::Docker(pull), "pull_policy is always");
        }
        let new = NewContainer {
            name: name.clone(),
            service: service.name.clone(),
            slot,
            hash: service.hash.clone(),
            config: service.config.clone(),
            host_ports,
            image_id: image.filter(|_| !always).map(|image| image.id.clone()).unwrap_or_default(),
            network_mode,
            registers: !service.register.is_empty(),
            depends_on: service.depends_on.keys().cloned().collect(),
        };
        let cause = format!("slot {slot} of {} has no replica with this configuration", service.name);
        self.step(object.clone(), Action::Docker(DockerAction::CreateContainer(Box::new(new))), cause);
        let start = DockerAction::StartContainer { container: name.clone(), name };
        self.step(object, Action::Docker(start), "it is new");
        true
    }

    fn network_mode(&self, service: &Service) -> Result<Option<NetworkMode>, String> {
        match &service.config.network_mode {
            Some(NetworkMode::Service(target)) => {
                let joined = self.facts.containers(target).iter().find(|container| container.state.running());
                match joined {
                    Some(container) => Ok(Some(NetworkMode::Container(container.id.clone()))),
                    None => Err(format!("it joins the network of {target}, which does not run yet")),
                }
            }
            other => Ok(other.clone()),
        }
    }

    /// The dependency that is not met yet, in words.
    fn dependency_missing(&self, service: &Service, rosters: &BTreeMap<&'a str, Roster<'a>>) -> Option<String> {
        for (name, dependency) in &service.depends_on {
            let Some(target) = self.spec.services.get(name) else {
                if dependency.required {
                    return Some(format!("depends_on {name}, which the spec does not have"));
                }
                continue;
            };
            let wanted = usize::try_from(target.replicas).unwrap_or(usize::MAX);
            let containers = self.facts.containers(name);
            let met = match dependency.condition {
                DependencyCondition::Started => containers.iter().filter(|c| c.state.running()).count() >= wanted,
                DependencyCondition::Healthy => {
                    let healthy = containers.iter().filter(|c| self.facts.fitness(c, Some(target)).healthy());
                    healthy.count() >= wanted
                }
                DependencyCondition::CompletedSuccessfully => {
                    let current = rosters.get(name.as_str()).map(|roster| &roster.current);
                    current.is_some_and(|current| {
                        let done =
                            current.values().filter(|c| matches!(c.state, ContainerState::Exited { code: 0, .. }));
                        done.count() >= wanted
                    })
                }
            };
            if !met {
                let condition = match dependency.condition {
                    DependencyCondition::Started => "be started",
                    DependencyCondition::Healthy => "be healthy",
                    DependencyCondition::CompletedSuccessfully => "end with exit code 0",
                };
                return Some(format!("depends_on {name}, which must {condition} first"));
            }
        }
        None
    }

    // ------------------------------------------------------------------------------------------ leaving

    /// Starts (and goes on with) the retirement of what is outdated or surplus, as far as capacity allows.
    fn retire_of(&mut self, service: &'a Service, roster: &Roster<'a>) {
        let wanted = service.replicas;
        let parallelism = parallelism(service);
        let serving = |container: &Container| self.facts.serving(self.spec, container) && !self.draining(container);
        let current_serving = roster.current.values().filter(|c| serving(c)).count();
        let leaving_serving: BTreeSet<&str> =
            roster.leaving.iter().filter(|l| serving(l.container)).map(|l| l.container.id.as_str()).collect();
        let total = count(current_serving + leaving_serving.len());
        let floor = match roster.order.order {
            _ if roster.all_at_once || service.job => 0,
            UpdateOrder::StartFirst => total.min(wanted),
            UpdateOrder::StopFirst => total.min(wanted.saturating_sub(parallelism)),
        };
        let mut spare = total - floor;
        let unready = count(roster.current.values().filter(|c| !self.ready(service, c)).count());
        let on_their_way = count(roster.leaving.iter().filter(|l| !l.surplus && self.on_its_way(l.container)).count());
        let empty_slots = wanted
            .saturating_sub(count(roster.current.len()))
            .saturating_sub(count(roster.leaving.iter().filter(|l| !l.surplus).count()));
        let mut places = match roster.order.order {
            _ if roster.all_at_once || service.job => u32::MAX,
            // A new one that serves opens the place; `spare` is the gate.
            UpdateOrder::StartFirst => u32::MAX,
            UpdateOrder::StopFirst => parallelism.saturating_sub(unready + on_their_way + empty_slots),
        };
        let stop_first = roster.order.order == UpdateOrder::StopFirst;
        // What does not serve goes first: it costs no capacity.
        let mut leaving: Vec<&Leaving> = roster.leaving.iter().collect();
        leaving.sort_by_key(|l| {
            (leaving_serving.contains(l.container.id.as_str()), l.container.slot, l.container.id.as_str())
        });
        for leaving in leaving {
            let container = leaving.container;
            if self.on_its_way(container) {
                self.retire(container, leaving, service.stop_grace_period);
                continue;
            }
            let object = ObjectKey::Replica(container.name.clone());
            if leaving_serving.contains(container.id.as_str()) {
                if spare == 0 {
                    let reason = format!("{}; it goes on serving until {} of {wanted} others do", leaving.cause, floor);
                    self.wait(object, "roll", reason);
                    continue;
                }
                if stop_first && !leaving.surplus && places == 0 {
                    let reason = format!("{}; {parallelism} at a time", leaving.cause);
                    self.wait(object, "roll", reason);
                    continue;
                }
                spare -= 1;
            } else if stop_first && !leaving.surplus && places == 0 {
                self.wait(object, "roll", format!("{}; {parallelism} at a time", leaving.cause));
                continue;
            }
            if stop_first && !leaving.surplus {
                places -= 1;
            }
            self.retire(container, leaving, service.stop_grace_period);
        }
    }

    /// A current replica that does all that it should: the next one may be replaced.
    fn ready(&self, service: &Service, container: &Container) -> bool {
        let done = service.job && matches!(container.state, ContainerState::Exited { code: 0, .. });
        done || self.facts.serving(self.spec, container)
    }

    /// Its retirement has begun: it drains, or it does not run any more.
    fn on_its_way(&self, container: &Container) -> bool {
        let running = matches!(container.state, ContainerState::Running { .. } | ContainerState::Paused { .. });
        !running || self.draining(container)
    }

    pub(super) fn draining(&self, container: &Container) -> bool {
        self.facts
            .registrations(&container.id)
            .iter()
            .any(|registration| matches!(registration.maintenance, crate::observed::Maintenance::Draining { .. }))
    }
}

/// How many replicas may be made now.
fn creation_room(facts: &Facts<'_>, planner: &Planner<'_>, service: &Service, roster: &Roster<'_>) -> u32 {
    let replaced: Vec<&Leaving> = roster.leaving.iter().filter(|leaving| !leaving.surplus).collect();
    if replaced.is_empty() && roster.order.order == UpdateOrder::StartFirst {
        return u32::MAX;
    }
    let existing = count(facts.containers(&service.name).len());
    let unready = count(roster.current.values().filter(|c| !planner.ready(service, c)).count());
    match roster.order.order {
        UpdateOrder::StopFirst if replaced.is_empty() => {
            // Surplus replicas hold no slot that is wanted, but a second writer on one volume is what stop-first prevents.
            service.replicas.saturating_sub(existing.min(service.replicas).max(count(roster.current.len())))
        }
        UpdateOrder::StopFirst => {
            let free = service.replicas.saturating_sub(count(roster.current.len() + replaced.len()));
            free.min(parallelism(service).saturating_sub(unready).max(u32::from(unready == 0)))
        }
        UpdateOrder::StartFirst => {
            let surge = (service.replicas + parallelism(service)).saturating_sub(existing);
            surge.min(parallelism(service).saturating_sub(unready))
        }
    }
}

/// `update_config.parallelism`, where 0 means all.
pub(super) fn parallelism(service: &Service) -> u32 {
    if service.update.parallelism == 0 { service.replicas.max(1) } else { service.update.parallelism }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn restart_at(started_at: Option<Timestamp>, finished_at: Option<Timestamp>) -> Option<Timestamp> {
    let (started, finished) = (started_at?, finished_at?);
    let short = after(started, SHORT_RUN) > finished;
    short.then(|| after(finished, RESTART_PAUSE))
}

fn short_id(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(12).collect()
}
