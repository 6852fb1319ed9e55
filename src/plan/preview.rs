//! All waves of a plan, as far as they can be foreseen: the first is exactly what `run` would do now, the later ones come
//! from the model of what actions do, with the assumption that what is started becomes healthy.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::action::{Action, ConsulAction, DockerAction, NewGeneration, NginxAction};
use super::facts::{Facts, Fitness};
use super::{Context, Plan, plan};
use crate::observed::{Loaded, Maintenance, NginxProcess, Observed, RoutedUpstream};
use crate::spec::Spec;

/// More waves than any real roll-out has: the end of a preview that does not end.
const MOST_WAVES: usize = 5000;

/// Everything that would happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preview {
    /// At least one; the first is what would happen now.
    pub waves: Vec<Plan>,
    pub summary: Summary,
    /// How often nginx is reloaded or started.
    pub reloads: usize,
    /// For each service that is changed and ran before: the lowest count of healthy replicas on the way.
    pub lowest_healthy: BTreeMap<String, Lowest>,
    /// The generation that is loaded at the end, if a new one is written.
    pub generation: Option<Box<NewGeneration>>,
    /// Containers that are removed, by name, and the ones made in their place: for the symbols of a replacement.
    pub replaced: BTreeMap<String, Replacement>,
    pub removed: BTreeSet<String>,
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
    /// Why it is not start-first.
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

    pub fn of(spec: &Spec, observed: &Observed, now: Timestamp, context: &Context<'_>) -> Self {
        let before = routes_in_force(observed);
        let mut ledger = Ledger::default();
        let mut world = observed.clone();
        let mut now = now;
        let mut waves = Vec::new();
        let mut lowest = Lowlights::new(spec, observed, now);
        while waves.len() < MOST_WAVES {
            let wave = plan(spec, &world, now, context);
            if wave.steps.is_empty() {
                let next = wave.waiting.iter().filter_map(|waiting| waiting.until).filter(|until| *until > now).min();
                if waves.is_empty() {
                    waves.push(wave);
                }
                match next {
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
        }
        let after = routes_in_force(&world);
        let (summary, replaced) = ledger.summary(&before, &after);
        Self {
            waves,
            summary,
            reloads: ledger.reloads,
            lowest_healthy: lowest.changed(spec, &ledger.services),
            generation: ledger.generation,
            replaced,
            removed: ledger.containers_removed.keys().cloned().collect(),
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
    services: BTreeSet<String>,
    reloads: usize,
    nginx_touched: bool,
    generation: Option<Box<NewGeneration>>,
    step: usize,
}

impl Ledger {
    fn note(&mut self, action: &Action, world: &Observed) {
        self.step += 1;
        match action {
            Action::Docker(action) => self.note_docker(action, world),
            Action::Consul(action) => self.note_consul(action, world),
            Action::Nginx(action) => match action {
                NginxAction::WriteGeneration(new) => {
                    self.nginx_touched = true;
                    self.generation = Some(new.clone());
                }
                NginxAction::Reload { .. } | NginxAction::Start { .. } => {
                    self.nginx_touched = true;
                    self.reloads += 1;
                }
                NginxAction::SwitchGeneration { .. } | NginxAction::QuitOrphans { .. } => self.nginx_touched = true,
                // Old files, not an object that anybody counts.
                NginxAction::RemoveGeneration { .. } => {}
            },
            Action::Directory(_) => {}
        }
    }

    fn note_docker(&mut self, action: &DockerAction, world: &Observed) {
        match action {
            DockerAction::CreateNetwork(network) => self.add(format!("network {}", network.name)),
            DockerAction::RemoveNetwork { name, .. } => self.destroy(format!("network {name}")),
            DockerAction::CreateVolume(volume) => self.add(format!("volume {}", volume.name)),
            DockerAction::RemoveVolume { name } => self.destroy(format!("volume {name}")),
            DockerAction::PullImage { image, .. } => self.add(format!("image {image}")),
            DockerAction::CreateContainer(new) => {
                self.services.insert(new.service.clone());
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
            ConsulAction::Deregister { id } => self.destroy(format!("registration {id}")),
            ConsulAction::Drain { id, .. }
            | ConsulAction::LiftDrain { id }
            | ConsulAction::StartDrainClock { id, .. }
            | ConsulAction::SetHealth { id, .. } => self.change(format!("registration {id}")),
            ConsulAction::RemoveCheck { check } => self.change(format!("check {check}")),
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
            destroy: self.destroyed.iter().filter(|o| !self.added.contains(*o)).count(),
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

    fn changed(self, spec: &Spec, touched: &BTreeSet<String>) -> BTreeMap<String, Lowest> {
        self.lowest
            .into_iter()
            .filter(|(name, _)| touched.contains(name))
            .filter_map(|(name, healthy)| {
                let service = spec.services.get(&name).filter(|service| !service.job)?;
                let reason = super::order::decide(spec, service).reason;
                Some((name, Lowest { healthy, of: service.replicas, reason }))
            })
            .collect()
    }
}

fn healthy(spec: &Spec, world: &Observed, now: Timestamp, service: &str) -> u32 {
    let facts = Facts::new(world, now);
    let fit = facts.containers(service).iter().filter(|container| {
        let drains = facts
            .registrations(&container.id)
            .iter()
            .any(|registration| matches!(registration.maintenance, Maintenance::Draining { .. }));
        !drains && facts.fitness(container, spec.services.get(service)) == Fitness::Healthy
    });
    u32::try_from(fit.count()).unwrap_or(u32::MAX)
}
