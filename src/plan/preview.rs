//! All waves of a plan, as far as they can be foreseen: the first is exactly what `run` would do now, the later ones come
//! from the model of what actions do, with the assumption that what is started becomes healthy.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::action::{Action, ConsulAction, DockerAction, NewGeneration, NginxAction, TemplateAction};
use super::facts::{Facts, Fitness};
use super::{Context, Plan, Waiting, hidden_until, plan};
use crate::model::Peers;
use crate::observed::{Destination, Loaded, Maintenance, NginxProcess, Observed, RoutedUpstream, View};
use crate::spec::{Spec, UpdateOrder};

/// More waves than any real roll-out has: the end of a preview that does not end.
const MOST_WAVES: usize = 5000;

/// Everything that would happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// At least one; the first is what would happen now.
    pub waves: Vec<Plan>,
    /// What still waits when all waves are done: time and the waves end all else.
    pub left: Vec<Waiting>,
    pub summary: Summary,
    /// How often nginx is reloaded or started.
    pub reloads: usize,
    /// For each service that ran before, loses a container and is still wanted: the lowest count of healthy replicas on the way.
    pub lowest_healthy: BTreeMap<String, Lowest>,
    /// How endpoints change in nginx, and why, where the settings leave that open.
    pub endpoints: Option<String>,
    /// The generation that is in force at the end, if that is another one than now.
    pub generation: Option<Box<NewGeneration>>,
    /// Containers that are removed, by name, and the ones made in their place.
    pub replaced: BTreeMap<String, Replacement>,
    /// Objects that are removed on the way, and objects that are made, as they print.
    pub destroyed: BTreeSet<String>,
    pub added: BTreeSet<String>,
}

/// Objects over all waves; a replacement is one to add and one to destroy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Summary {
    pub add: usize,
    pub change: usize,
    pub destroy: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Lowest {
    pub healthy: u32,
    pub of: u32,
    /// Why it cannot be otherwise; empty when all go on serving.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replacement {
    /// `-/+`
    StopFirst,
    /// `+/-`
    StartFirst,
}

impl Preview {
    pub fn is_empty(&self) -> bool {
        self.waves.iter().all(Plan::is_empty)
    }

    /// Why this is not all, if so: what follows what cannot be seen now.
    pub fn incomplete(&self) -> Option<String> {
        let until: BTreeSet<&str> = self.left.iter().filter_map(|waiting| hidden_until(waiting.kind)).collect();
        let until: Vec<&str> = until.into_iter().collect();
        (!until.is_empty()).then(|| format!("more may follow as soon as {}", until.join(" and ")))
    }

    pub fn of(spec: &Spec, observed: &Observed, now: Timestamp, context: &Context<'_>) -> Self {
        let before = routes_in_force(observed);
        let mut ledger = Ledger::default();
        let mut world = observed.clone();
        let mut now = now;
        let mut waves = Vec::new();
        let mut lowest = Lowlights::new(spec, observed, now);
        let mut left = Vec::new();
        let mut peers = Peers::of(observed);
        while waves.len() < MOST_WAVES {
            let wave = plan(spec, &world, now, context);
            if wave.steps.is_empty() {
                left.clone_from(&wave.waiting);
                // That a replica is given up when its time is over is not foreseen, since it may still get ready.
                let ends = wave.waiting.iter().filter(|waiting| !matches!(waiting.kind, "unhealthy" | "restarting"));
                let next = ends.filter_map(|waiting| waiting.until).filter(|until| *until > now).min();
                if waves.is_empty() {
                    waves.push(wave);
                }
                match next {
                    // What has been started before becomes healthy, too, and then there may be more to do: before its
                    // time is over.
                    _ if world.assume_healthy() => {}
                    Some(until) => now = until,
                    None => break,
                }
                continue;
            }
            for step in &wave.steps {
                ledger.note(&step.action, &world);
                world.after(&step.action, &context.owner, now);
            }
            lowest.note(spec, &world, now);
            waves.push(wave);
            world.assume_healthy();
            peers.follow(&mut world);
            for job in spec.services.values().filter(|service| service.job) {
                world.assume_done(&job.name, now);
            }
        }
        let after = routes_in_force(&world);
        let (summary, replaced) = ledger.summary(&before, &after);
        let current = |observed: &Observed| observed.nginx.known().and_then(|nginx| nginx.current.clone());
        let id = current(&world).filter(|id| current(observed).as_ref() != Some(id));
        let generation = id.zip(context.nginx.as_ref()).and_then(|(id, settings)| {
            let nginx = world.nginx.known()?;
            let balancer = nginx.generations.get(&id)?.manifest.balancer;
            settings
                .renderer
                .balanced_by(balancer, nginx.http)
                .render(&id, &context.owner, &after, settings.probe, settings.generations)
                .ok()
                .map(Box::new)
        });
        Self {
            waves,
            left,
            summary,
            reloads: ledger.reloads,
            lowest_healthy: lowest.changed(spec, &ledger.services, &ledger.networks),
            endpoints: super::generations::endpoints_words(observed, context),
            generation,
            replaced,
            destroyed: ledger.destroyed,
            added: ledger.added,
        }
    }
}

fn routes_in_force(observed: &Observed) -> BTreeMap<String, RoutedUpstream> {
    let Some(nginx) = observed.nginx.known() else { return BTreeMap::new() };
    let loaded = match &nginx.loaded {
        Loaded::Generation(id) => nginx.generations.get(id),
        Loaded::Nothing | Loaded::Mixed(_) | Loaded::Stranger(_) => None,
    };
    let current = nginx.current.as_ref().and_then(|id| nginx.generations.get(id));
    let running = matches!(nginx.process, NginxProcess::Running { .. });
    let in_force = if running { loaded } else { loaded.or(current) };
    in_force.map(|generation| generation.manifest.upstreams.clone()).unwrap_or_default()
}

/// What happened to each object over all waves.
#[derive(Default)]
struct Ledger {
    added: BTreeSet<String>,
    changed: BTreeSet<String>,
    destroyed: BTreeSet<String>,
    /// By name: (service, slot, number of the wave's step).
    containers_added: BTreeMap<String, (String, u32, usize)>,
    containers_removed: BTreeMap<String, (String, u32, usize)>,
    /// Services that lose a container.
    services: BTreeSet<String>,
    /// Networks that are removed.
    networks: BTreeSet<String>,
    reloads: usize,
    nginx_touched: bool,
    step: usize,
}

impl Ledger {
    fn note(&mut self, action: &Action, world: &Observed) {
        self.step += 1;
        match action {
            Action::Docker(action) => self.note_docker(action, world),
            Action::Consul(action) => self.note_consul(action, world),
            Action::Nginx(action) => match action {
                NginxAction::Reload { .. } | NginxAction::Start { .. } => {
                    self.nginx_touched = true;
                    self.reloads += 1;
                }
                NginxAction::WriteGeneration(_)
                | NginxAction::SwitchGeneration { .. }
                | NginxAction::SetEndpoints { .. }
                | NginxAction::QuitOrphans { .. } => self.nginx_touched = true,
                // Old files, not an object that anybody counts.
                NginxAction::RemoveGeneration { .. } => {}
            },
            Action::Directory(_) => {}
            Action::Template(action) => self.note_template(action, world),
        }
    }

    fn note_docker(&mut self, action: &DockerAction, world: &Observed) {
        match action {
            DockerAction::CreateNetwork(network) => self.add(format!("network {}", network.name)),
            DockerAction::RemoveNetwork { name, .. } => {
                self.networks.insert(name.clone());
                self.destroy(format!("network {name}"));
            }
            DockerAction::CreateVolume(volume) => self.add(format!("volume {}", volume.name)),
            DockerAction::RemoveVolume { name } => self.destroy(format!("volume {name}")),
            DockerAction::PullImage { image, .. } => self.add(format!("image {image}")),
            DockerAction::CreateContainer(new) => {
                self.containers_added.insert(new.name.clone(), (new.service.clone(), new.slot, self.step));
                self.add(format!("replica {}", new.name));
            }
            DockerAction::StartContainer { name, .. }
            | DockerAction::StopContainer { name, .. }
            | DockerAction::UnpauseContainer { name, .. }
            | DockerAction::ConnectNetwork { name, .. }
            | DockerAction::DisconnectNetwork { name, .. } => self.change(format!("replica {name}")),
            DockerAction::RemoveContainer { id, name } => {
                let container = world.docker.known().and_then(|docker| docker.containers.get(id));
                if let Some(container) = container {
                    self.services.insert(container.service.clone());
                    let place = (container.service.clone(), container.slot, self.step);
                    self.containers_removed.insert(name.clone(), place);
                }
                self.destroy(format!("replica {name}"));
            }
        }
    }

    fn note_consul(&mut self, action: &ConsulAction, world: &Observed) {
        let there = |id: &str| world.consul.known().is_some_and(|consul| consul.registrations.contains_key(id));
        match action {
            ConsulAction::Register(new) if there(&new.id) => self.change(format!("registration {}", new.id)),
            ConsulAction::Register(new) => self.add(format!("registration {}", new.id)),
            ConsulAction::Adopt(new) => self.change(format!("registration {}", new.id)),
            ConsulAction::Deregister { id } | ConsulAction::RemoveUnmarked { id } => {
                self.destroy(format!("registration {id}"))
            }
            ConsulAction::Drain { id, .. }
            | ConsulAction::LiftDrain { id }
            | ConsulAction::StartDrainClock { id, .. }
            | ConsulAction::StopDrainClock { id }
            | ConsulAction::SetHealth { id, .. } => self.change(format!("registration {id}")),
            ConsulAction::RemoveCheck { check } => self.change(format!("check {check}")),
        }
    }

    fn note_template(&mut self, action: &TemplateAction, world: &Observed) {
        let seen = |name: &str| world.templates.seen.get(name).and_then(View::known);
        let missing = |name: &str| seen(name).is_some_and(|seen| seen.destination == Destination::Missing);
        match action {
            TemplateAction::Write(new) if missing(&new.name) => self.add(format!("template {}", new.name)),
            TemplateAction::Write(new) => self.change(format!("template {}", new.name)),
            TemplateAction::Run(run) => run.templates.keys().for_each(|name| self.change(format!("template {name}"))),
            TemplateAction::Note { .. } => {}
        }
    }

    fn add(&mut self, object: String) {
        self.added.insert(object);
    }

    fn change(&mut self, object: String) {
        self.changed.insert(object);
    }

    fn destroy(&mut self, object: String) {
        self.destroyed.insert(object);
    }

    fn summary(
        &self,
        before: &BTreeMap<String, RoutedUpstream>,
        after: &BTreeMap<String, RoutedUpstream>,
    ) -> (Summary, BTreeMap<String, Replacement>) {
        let mut summary = Summary {
            add: self.added.len(),
            change: self.changed.iter().filter(|o| !self.added.contains(*o) && !self.destroyed.contains(*o)).count(),
            destroy: self.destroyed.len(),
        };
        if self.nginx_touched {
            let mut touched = false;
            for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
                match (before.get(name), after.get(name)) {
                    (None, Some(_)) => summary.add += 1,
                    (Some(_), None) => summary.destroy += 1,
                    (Some(old), Some(new)) if old != new => summary.change += 1,
                    (Some(_), Some(_)) | (None, None) => continue,
                }
                touched = true;
            }
            if !touched {
                // Nothing of the routes changes, but what nginx runs is put right.
                summary.change += 1;
            }
        }
        let mut replaced = BTreeMap::new();
        for (old, (service, slot, removed_at)) in &self.containers_removed {
            let new = self.containers_added.iter().find(|(_, (s, k, _))| s == service && k == slot);
            if let Some((name, (_, _, added_at))) = new {
                let how = if added_at < removed_at { Replacement::StartFirst } else { Replacement::StopFirst };
                replaced.insert(old.clone(), how);
                replaced.insert(name.clone(), how);
            }
        }
        (summary, replaced)
    }
}

/// The lowest count of healthy replicas of each service on the way.
struct Lowlights {
    lowest: BTreeMap<String, u32>,
}

impl Lowlights {
    fn new(spec: &Spec, observed: &Observed, now: Timestamp) -> Self {
        let lowest = spec
            .services
            .keys()
            .map(|name| (name.clone(), healthy(spec, observed, now, name)))
            .filter(|(_, healthy)| *healthy > 0)
            .collect();
        Self { lowest }
    }

    fn note(&mut self, spec: &Spec, world: &Observed, now: Timestamp) {
        for (name, lowest) in &mut self.lowest {
            *lowest = (*lowest).min(healthy(spec, world, now, name));
        }
    }

    /// `networks`: those that are removed on the way.
    fn changed(self, spec: &Spec, touched: &BTreeSet<String>, networks: &BTreeSet<String>) -> BTreeMap<String, Lowest> {
        self.lowest
            .into_iter()
            .filter(|(name, _)| touched.contains(name))
            .filter_map(|(name, healthy)| {
                let service = spec.services.get(&name).filter(|service| !service.job && service.replicas > 0)?;
                let network = service.config.networks.keys().find(|name| networks.contains(*name));
                let order = super::order::decide(service);
                let reason = match (network, order.order) {
                    _ if healthy >= service.replicas => String::new(),
                    (Some(network), _) => format!("network {network} is replaced"),
                    (None, UpdateOrder::StopFirst) => format!("stop-first: {}", order.reason),
                    (None, UpdateOrder::StartFirst) => String::new(),
                };
                Some((name, Lowest { healthy, of: service.replicas, reason }))
            })
            .collect()
    }
}

fn healthy(spec: &Spec, world: &Observed, now: Timestamp, service: &str) -> u32 {
    let facts = Facts::new(world, now);
    let fit = facts.containers(service).iter().filter(|container| {
        let drains = facts
            .registrations(container)
            .iter()
            .any(|registration| matches!(registration.maintenance, Maintenance::Draining { .. }));
        !drains && facts.fitness(container, spec.services.get(service)) == Fitness::Healthy
    });
    u32::try_from(fit.count()).unwrap_or(u32::MAX)
}
