//! Replicas: which containers of a service are wanted, which are created and started, and which must leave.
//!
//! The gates are conditions over what is observed. How a replica leaves is `retire`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;

use super::action::{Action, DockerAction, NewContainer};
use super::capacity::{Capacity, Place};
use super::changes;
use super::facts::Fitness;
use super::gates::Gate;
use super::order::{self, Order};
use super::planner::{Planner, after};
use super::ports::Taken;
use super::rollout::Rollout;
use super::{Change, ObjectKey};
use crate::observed::{ChosenPort, Container, ContainerState};
use crate::spec::container::NetworkMode;
use crate::spec::upstream::WhenEmpty;
use crate::spec::{PullPolicy, Service, UpdateOrder};

/// A container that ran for less than this is not started again at once.
const SHORT_RUN: Duration = Duration::from_secs(10);
/// How long such a container waits.
const RESTART_PAUSE: Duration = Duration::from_secs(5);

/// A starting container must not get the requests of the one that was there before.
const STILL_ROUTED: &str = "nginx still routes to its host port; it is started when that has ended";

/// The containers of one service, sorted by what is wanted of them.
pub(super) struct Roster<'a> {
    /// Up to date, one for each slot.
    pub current: BTreeMap<u32, &'a Container>,
    /// To be replaced or to go: with the cause and what differs.
    pub leaving: Vec<Leaving<'a>>,
    pub order: Order,
    /// The upstreams that route to some container of it.
    pub upstreams: BTreeSet<&'a str>,
    /// Everything of it must be gone before a new one can be made (its network is replaced).
    pub all_at_once: bool,
}

pub(super) struct Leaving<'a> {
    pub container: &'a Container,
    pub cause: String,
    pub changes: Vec<Change>,
    /// It is up to date, but a second one in its slot, or its slot is beyond `replicas`: nothing takes its place.
    pub surplus: bool,
    /// It is of another version: configuration or image.
    pub outdated: bool,
}

impl<'a> Planner<'a> {
    /// Sorts the containers of every service of the spec. First of all: dependencies look across services.
    pub(super) fn call_rosters(&mut self) {
        if self.facts.docker.is_none() {
            return;
        }
        let services = self.spec.services.values();
        self.rosters = Rc::new(services.map(|service| (service.name.as_str(), self.roster(service))).collect());
    }

    fn roster(&self, service: &'a Service) -> Roster<'a> {
        let mut roster = Roster {
            current: BTreeMap::new(),
            leaving: Vec::new(),
            order: order::decide(service),
            upstreams: BTreeSet::new(),
            all_at_once: false,
        };
        let replaced_network = service.config.networks.keys().find(|name| self.network_replaced(name));
        roster.all_at_once = replaced_network.is_some();
        for container in self.facts.containers(&service.name).iter().copied() {
            roster.upstreams.extend(self.facts.upstreams_of(container));
            let outdated = match replaced_network {
                Some(network) => Some((format!("network {network} is replaced"), Vec::new())),
                None => self.outdated(service, container),
            };
            if let Some((cause, changes)) = outdated {
                let surplus = container.slot > service.replicas;
                let outdated = container.hash != service.hash || self.other_image(service, container).is_some();
                roster.leaving.push(Leaving { container, cause, changes, surplus, outdated });
                continue;
            }
            if container.slot == 0 || container.slot > service.replicas {
                let cause = format!("scaled to {}", service.replicas);
                let changes = Vec::new();
                roster.leaving.push(Leaving { container, cause, changes, surplus: true, outdated: false });
                continue;
            }
            // Of two in one slot the fitter one stays; the id decides between equals, so that the engine's order cannot.
            let Some(other) = roster.current.insert(container.slot, container) else { continue };
            let keep_other = self.rank(service, other) >= self.rank(service, container);
            let (kept, second) = if keep_other { (other, container) } else { (container, other) };
            roster.current.insert(container.slot, kept);
            let cause = format!("a second replica in slot {}, beside {}", kept.slot, kept.name);
            let changes = Vec::new();
            roster.leaving.push(Leaving { container: second, cause, changes, surplus: true, outdated: false });
        }
        roster
    }

    fn rank(&self, service: &Service, container: &'a Container) -> u8 {
        match self.facts.fitness(container, Some(service)) {
            Fitness::Healthy if !self.places(container).is_empty() => 4,
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
        if let Some(id) = self.other_image(service, container) {
            let change = Change {
                field: "image id".to_owned(),
                old: Some(short_id(&container.image_id)),
                new: Some(short_id(id)),
            };
            let cause = match &service.image_id {
                Some(_) => format!("rolled back to the {} that served", service.config.image),
                None => format!("{} was tagged anew", service.config.image),
            };
            return Some((cause, vec![change]));
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

    /// The image that is wanted, when it is another one than the container's.
    fn other_image<'s>(&'s self, service: &'s Service, container: &Container) -> Option<&'s str> {
        let present = || self.facts.docker?.images.get(&service.config.image).map(|image| image.id.as_str());
        let wanted = service.image_id.as_deref().or_else(present)?;
        (!container.image_id.is_empty() && container.image_id != wanted).then_some(wanted)
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
        let mut taken = Taken::of(docker, self.holds(Gate::Strangers));
        let rosters = self.rosters.clone();
        let spec = self.spec;
        let mut work: Vec<(&'a Service, &Roster<'a>, Rollout)> = Vec::new();
        for service in spec.services.values().filter(|service| !self.held(&service.name)).collect::<Vec<_>>() {
            if let Some(roster) = rosters.get(service.name.as_str()) {
                work.push((service, roster, self.roll_out(service, roster)));
            }
        }
        // Every roster is looked at before anything is created: what leaves in this wave must not count as serving.
        for (service, roster, rollout) in &work {
            self.retire_of(service, roster, rollout, &taken);
        }
        for (service, roster, rollout) in &work {
            self.keep_running(service, roster, rollout);
            self.create_missing(service, roster, rollout, &mut taken);
        }
        self.retire_leaving_services();
    }

    // ------------------------------------------------------------------------------------------ keeping

    fn keep_running(&mut self, service: &'a Service, roster: &Roster<'a>, rollout: &Rollout) {
        for container in roster.current.values() {
            if !matches!(container.state, ContainerState::Removing) {
                self.connect_networks(service, container);
            }
            // What the wave turns back from is not begun any more.
            if rollout.turns_back && container.state == ContainerState::Created {
                continue;
            }
            self.keep(service, container, rollout.pending.get(&container.slot).copied());
        }
    }

    /// Sees to it that a container runs. `deadline`: until when it may take to be ready, if that is counted.
    fn keep(&mut self, service: &'a Service, container: &'a Container, deadline: Option<Timestamp>) {
        let object = || ObjectKey::Replica(container.name.clone());
        match &container.state {
            ContainerState::Created => match self.dependency_missing(service) {
                Some(reason) => self.wait(object(), "dependency", reason),
                None if self.still_routed(&container.chosen_ports) => self.wait(object(), "routed", STILL_ROUTED),
                None => self.start(object(), container, "it was made but not started"),
            },
            ContainerState::Paused { .. } => {
                let action = DockerAction::UnpauseContainer { id: container.id.clone(), name: container.name.clone() };
                self.step(object(), Action::Docker(action), "it is paused");
            }
            ContainerState::Exited { code, started_at, finished_at } => {
                if service.job && *code == 0 {
                    return;
                }
                if self.still_routed(&container.chosen_ports) {
                    return self.wait(object(), "routed", STILL_ROUTED);
                }
                let pause = restart_at(*started_at, *finished_at).filter(|_| self.holds(Gate::RestartPause));
                match pause.filter(|at| *at > self.now) {
                    Some(at) => {
                        let reason = format!("exited with code {code} soon after its start; started again in a moment");
                        self.wait_until(object(), "restart_pause", reason, at);
                    }
                    None => self.start(object(), container, &format!("it exited with code {code}")),
                }
            }
            ContainerState::Restarting => {
                self.wait_deadline(object(), "restarting", "Docker restarts it, by its restart policy", deadline);
            }
            ContainerState::Removing => self.wait(object(), "removing", "Docker is removing it"),
            ContainerState::Running { .. } => match self.facts.fitness(container, Some(service)) {
                Fitness::Healthy => {
                    if let Some(until) = deadline
                        && let Some(reason) = self.failing_check(container)
                    {
                        self.wait_until(object(), "unhealthy", reason, until);
                    }
                }
                Fitness::Starting(reason) | Fitness::Unhealthy(reason) | Fitness::NotRunning(reason) => {
                    self.wait_deadline(object(), "unhealthy", &reason, deadline);
                }
            },
            // A dead one is among the leaving.
            ContainerState::Dead => {}
        }
    }

    fn wait_deadline(&mut self, object: ObjectKey, kind: &'static str, reason: &str, deadline: Option<Timestamp>) {
        match deadline {
            Some(until) => self.wait_until(object, kind, reason, until),
            None => self.wait(object, kind, reason),
        }
    }

    /// nginx still sends requests to a host port, although our container there is gone.
    fn still_routed(&self, ports: &[ChosenPort]) -> bool {
        let sent = |host: u16| {
            let mut dead = self.facts.dead_ports().iter().filter(|(_, port)| *port == host);
            dead.any(|(upstream, _)| !self.kept_when_empty(upstream))
        };
        self.holds(Gate::PortStillRouted) && ports.iter().any(|port| sent(port.host))
    }

    /// The upstream has nothing else, and holds on to what it had: to wait until it lets go would never end.
    fn kept_when_empty(&self, upstream: &str) -> bool {
        let upstream = self.spec.upstreams.get(upstream).filter(|upstream| upstream.when_empty == WhenEmpty::Keep);
        let Some(query) = upstream.and_then(|upstream| upstream.query.as_ref()) else { return false };
        let answer = self.facts.consul.and_then(|consul| consul.catalog.get(query)?.known());
        let mut passing =
            answer.into_iter().flat_map(|answer| answer.instances.iter()).filter(|i| i.passing && !i.maintenance);
        !passing.any(|instance| match &instance.container {
            None => true,
            Some(id) => self.facts.docker.and_then(|docker| docker.containers.get(id)).is_some_and(|container| {
                self.facts.fitness(container, self.spec.services.get(&container.service)).healthy()
            }),
        })
    }

    fn start(&mut self, object: ObjectKey, container: &Container, cause: &str) {
        let action = DockerAction::StartContainer { container: container.id.clone(), name: container.name.clone() };
        self.step(object, Action::Docker(action), cause);
    }

    // ------------------------------------------------------------------------------------------ making

    fn create_missing(&mut self, service: &'a Service, roster: &Roster<'a>, rollout: &Rollout, taken: &mut Taken<'_>) {
        let missing: Vec<u32> = (1..=service.replicas).filter(|slot| !roster.current.contains_key(slot)).collect();
        if missing.is_empty() || rollout.turns_back {
            return;
        }
        let object = ObjectKey::Service(service.name.clone());
        if roster.all_at_once && !roster.leaving.is_empty() {
            return self.wait(object, "network", "its network is replaced; the old replicas must be gone first");
        }
        // A file that was cut changes the service that it was cut in: what replaces nothing is made, the rest waits.
        if let Some(held) = self.removals_held.clone().filter(|_| !roster.leaving.is_empty()) {
            return self.wait(object, "removal_held", held);
        }
        if let Some((kind, reason)) = self.means_missing(service, roster) {
            return self.wait(object, kind, reason);
        }
        let parallelism = parallelism(service);
        let occupied: BTreeSet<u32> = roster.leaving.iter().filter(|l| !l.surplus).map(|l| l.container.slot).collect();
        let surge = match roster.order.order {
            UpdateOrder::StartFirst => parallelism,
            UpdateOrder::StopFirst => 0,
        };
        let existing = count(self.facts.containers(&service.name).len());
        // A failed one that does not hold the others stands beside its predecessor, on top of the surge.
        let passed_over = match surge {
            0 => 0,
            _ => count(rollout.passed_over.iter().filter(|slot| occupied.contains(slot)).count()),
        };
        let most = service.replicas.saturating_add(surge).saturating_add(passed_over);
        let mut room = most.saturating_sub(existing);
        let unready = self.unready(service, roster, rollout);
        let mut replacements = parallelism.saturating_sub(unready);
        let mut held = Vec::new();
        // Slots without an old replica first: nothing stands in their way.
        let missing = missing.iter().partition::<Vec<u32>, _>(|slot| !occupied.contains(slot));
        for slot in missing.0.into_iter().chain(missing.1) {
            let replaces = occupied.contains(&slot);
            let stop_first = roster.order.order == UpdateOrder::StopFirst;
            let full = room == 0 && self.holds(Gate::Surge);
            let beside = stop_first && self.holds(Gate::StopFirst);
            // One that the engine refuses takes nothing from the others, if they go on without it.
            let refused = rollout.refused.contains(&slot);
            let aside = refused && rollout.passed_over.contains(&slot);
            let enough = replacements == 0 && !aside && self.holds(Gate::Parallelism);
            // An empty slot serves nobody: it is filled even when nothing more is begun.
            let waits = (rollout.paused.is_some() && !refused) || rollout.next_at().is_some();
            if full || (replaces && (beside || enough || waits)) {
                held.push(slot.to_string());
                continue;
            }
            let replaced = roster.leaving.iter().find(|leaving| !leaving.surplus && leaving.container.slot == slot);
            match self.create(service, slot, replaced, taken) {
                Created::Yes if aside => {}
                Created::Yes => {
                    room = room.saturating_sub(1);
                    if replaces {
                        replacements = replacements.saturating_sub(1);
                    }
                }
                Created::NotThisSlot => {}
                Created::NotThisService => return,
            }
        }
        if !held.is_empty() {
            let slots = if held.len() == 1 { "slot" } else { "slots" };
            let start_first = roster.order.order == UpdateOrder::StartFirst;
            if rollout.paused.is_some() {
                // The service says so already.
                return;
            }
            if let (true, Some((until, why))) = (start_first && replacements > 0, rollout.next_at()) {
                return self.wait_until(object, "roll", format!("{slots} {}: {why}", held.join(", ")), until);
            }
            let reason = match roster.order.order {
                UpdateOrder::StartFirst => format!("{parallelism} at a time, each when the one before serves"),
                UpdateOrder::StopFirst => format!("the old replica must be gone first ({})", roster.order.reason),
            };
            self.wait(object, "roll", format!("{slots} {}: {reason}", held.join(", ")));
        }
    }

    /// New replicas that others wait for.
    fn unready(&self, service: &'a Service, roster: &Roster<'a>, rollout: &Rollout) -> u32 {
        let unready = roster.current.values().filter(|container| {
            !rollout.passed_over.contains(&container.slot) && !self.ready(service, roster, container)
        });
        count(unready.count())
    }

    /// What a new container of the service needs, in whichever slot, and does not have.
    fn means_missing(&self, service: &Service, roster: &Roster<'a>) -> Option<(&'static str, String)> {
        let dependency = || Some(("dependency", self.dependency_missing(service)?));
        self.resources_missing(service, roster.all_at_once).or_else(dependency)
    }

    /// `replaced`: the old replica of the slot, when the new one is made beside it.
    fn create(
        &mut self,
        service: &'a Service,
        slot: u32,
        replaced: Option<&Leaving<'a>>,
        taken: &mut Taken<'_>,
    ) -> Created {
        let object = ObjectKey::Service(service.name.clone());
        let chosen = taken
            .choose_name(&self.spec.project, service, slot)
            .and_then(|name| Ok((name, taken.choose_ports(service, slot)?)));
        let (name, host_ports) = match chosen {
            Ok(chosen) => chosen,
            Err(reason) => {
                self.wait(object, "conflict", format!("slot {slot}: {reason}"));
                return Created::NotThisSlot;
            }
        };
        if self.still_routed(&host_ports) {
            self.wait(object, "routed", format!("slot {slot}: {STILL_ROUTED}"));
            return Created::NotThisSlot;
        }
        let network_mode = match self.network_mode(service) {
            Ok(network_mode) => network_mode,
            Err(reason) => {
                self.wait(object, "dependency", reason);
                return Created::NotThisService;
            }
        };
        taken.reserve(&name, &host_ports);
        let image = self.facts.docker.and_then(|docker| docker.images.get(service.image()));
        // What served is not pulled anew: the reference means something else by now.
        let always = service.pull_policy == PullPolicy::Always && service.image_id.is_none();
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
            image: service.image().to_owned(),
            host_ports,
            image_id: image.filter(|_| !always).map(|image| image.id.clone()).unwrap_or_default(),
            network_mode,
            registers: !service.register.is_empty(),
            depends_on: service.depends_on.keys().cloned().collect(),
        };
        let (cause, changes) = match replaced {
            Some(leaving) => (leaving.cause.clone(), leaving.changes.clone()),
            None => (format!("{} has no replica with this configuration in the slot", service.name), Vec::new()),
        };
        let create = Action::Docker(DockerAction::CreateContainer(Box::new(new)));
        self.step_with(object.clone(), create, cause, changes);
        let start = DockerAction::StartContainer { container: name.clone(), name };
        self.step(object, Action::Docker(start), "it is new");
        Created::Yes
    }

    // ------------------------------------------------------------------------------------------ leaving

    /// Starts (and goes on with) the retirement of what is outdated or surplus, as far as capacity allows.
    fn retire_of(&mut self, service: &'a Service, roster: &Roster<'a>, rollout: &Rollout, taken: &Taken<'_>) {
        if roster.leaving.is_empty() {
            return;
        }
        let parallelism = parallelism(service);
        let free = roster.all_at_once || service.job;
        let stop_first = roster.order.order == UpdateOrder::StopFirst;
        let must = if stop_first { service.replicas.saturating_sub(parallelism) } else { service.replicas };
        let current = roster.current.values().map(|container| self.places(container));
        let everyone = current.chain(roster.leaving.iter().map(|leaving| self.places_left(leaving.container)));
        let floor = |_: Place<'a>, serving: u32| if free { 0 } else { serving.min(must) };
        let mut capacity = Capacity::new(everyone, floor);
        // Under stop-first, replicas that are being replaced right now: on their way out, gone, or new and not ready.
        let replaced = || roster.leaving.iter().filter(|leaving| !leaving.surplus);
        let aside = rollout.refused.intersection(&rollout.passed_over).count();
        let under_way = self.unready(service, roster, rollout)
            + count(replaced().filter(|leaving| self.on_its_way(leaving.container)).count())
            + service.replicas.saturating_sub(count(roster.current.len() + replaced().count() + aside));
        let mut room = if free || !stop_first { u32::MAX } else { parallelism.saturating_sub(under_way) };
        // A slot is empty, and surplus ones take the room of the one that belongs there.
        let filled: BTreeSet<u32> =
            roster.current.keys().copied().chain(replaced().map(|leaving| leaving.container.slot)).collect();
        let crowded = count(filled.len()) < service.replicas
            && count(self.facts.containers(&service.name).len()) >= service.replicas;
        let means = self.means_missing(service, roster);
        // What serves nobody goes first, then what nothing has to take the place of, last what a failed one should replace.
        let mut leaving: Vec<(Vec<Place>, &Leaving)> =
            roster.leaving.iter().map(|leaving| (self.places_left(leaving.container), leaving)).collect();
        leaving.sort_by_key(|(places, leaving)| {
            let (slot, id) = (leaving.container.slot, leaving.container.id.as_str());
            let drains = self.draining(leaving.container);
            (!places.is_empty(), !drains, !leaving.surplus, rollout.passed_over.contains(&slot), slot, id)
        });
        for (places, leaving) in leaving {
            let container = leaving.container;
            let replaced = !leaving.surplus;
            let object = ObjectKey::Replica(container.name.clone());
            if let Some(why) = rollout.paused.as_ref().filter(|_| replaced && leaving.outdated)
                && !self.draining(container)
            {
                // It goes on as it did, and is kept running like one that is wanted.
                match container.state {
                    ContainerState::Running { .. } => {
                        self.wait(object, "roll", format!("{}; it stays as it is: {why}", leaving.cause));
                    }
                    _ => self.keep(service, container, None),
                }
                continue;
            }
            let stranger = || taken.stranger_in_the_way(&self.spec.project, service, container.slot);
            let missing = means
                .clone()
                .or_else(|| Some(("conflict", stranger()?)))
                .filter(|_| replaced && service.replicas > 0 && self.holds(Gate::Replaceable));
            let begun = self.on_its_way(container);
            if begun && !places.is_empty() && !capacity.take(&places) && self.holds(Gate::Capacity) {
                self.recall(container);
                continue;
            }
            let successor = if stop_first { rollout.next_at() } else { rollout.watched_until() };
            // What serves nobody, and whose place is needed while others may not go: to wait for room would never end.
            let idle = places.is_empty() && crowded;
            let stays = if begun {
                // It fell over, and nothing can take its place: better the old one than none.
                let fell = matches!(container.state, ContainerState::Exited { .. }) && leaving.outdated && !free;
                let startable = fell && !self.draining(container) && !taken.stranger_on(&container.chosen_ports);
                // One that stops for another reason than its own depends on what is missing, too.
                missing
                    .filter(|(kind, _)| startable && *kind != "dependency")
                    .map(|(kind, reason)| (kind, no_successor(&reason), None))
            } else if let Some(held) = self.removals_held.clone() {
                Some(("removal_held", held, None))
            } else if let Some((until, why)) = successor.filter(|_| replaced && leaving.outdated) {
                // Also one that serves nobody now: should the new one fail, the old one may be back.
                Some(("roll", why, Some(until)))
            } else if let Some((kind, reason)) = missing {
                Some((kind, no_successor(&reason), None))
            } else if replaced && room == 0 && !idle && self.holds(Gate::Room) {
                Some(("roll", format!("{parallelism} at a time"), None))
            } else if !capacity.take(&places) && self.holds(Gate::Capacity) {
                let reason = if stop_first {
                    format!("it goes on serving, as {must} of {} must", service.replicas)
                } else {
                    format!("it goes on serving until {must} others do")
                };
                Some(("roll", reason, None))
            } else {
                None
            };
            if let Some((kind, reason, until)) = stays {
                let reason = if kind == "removal_held" { reason } else { format!("{}; {reason}", leaving.cause) };
                match until {
                    Some(until) => self.wait_until(object, kind, reason, until),
                    None => self.wait(object, kind, reason),
                }
                if !matches!(container.state, ContainerState::Running { .. }) {
                    // It goes on as it did, and is kept running like one that is wanted.
                    self.keep(service, container, None);
                }
                continue;
            }
            if !begun && replaced {
                room = room.saturating_sub(1);
            }
            self.retire(container, leaving);
        }
    }
}

fn no_successor(reason: &str) -> String {
    format!("it stays, since nothing can take its place: {reason}")
}

/// What became of the attempt to make a replica.
enum Created {
    Yes,
    NotThisSlot,
    /// What is missing is missing for all slots.
    NotThisService,
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
