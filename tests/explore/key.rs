//! When two states are the same: equal keys behave alike.
//!
//! Ages stand in for times, digests for content; ids keep their numbers, and the history of generations does not count.

use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use reeve::observed::{
    CheckStatus, Configuration, Consul, ContainerState, Docker, Health, Loaded, Maintenance, Nginx, NginxProcess, Pin,
    Probe, View,
};
use reeve::spec::Service;

use crate::state::State;

/// Older than this is old: no wait of the planner is longer.
const OLD: i64 = 61;

struct Ages(Timestamp);

impl Ages {
    fn of(&self, time: Timestamp) -> i64 {
        self.0.duration_since(time).as_secs().clamp(0, OLD)
    }
}

impl State {
    pub fn key(&self) -> u64 {
        let ages = Ages(self.now);
        let mut hasher = DefaultHasher::new();
        let h = &mut hasher;
        (self.spec, self.faults, self.stale, self.hidden, self.refuses, self.crashed, self.ghost.settled).hash(h);
        (&self.ills, &self.stranger, &self.ghost.drained, &self.ghost.proven).hash(h);
        for (container, (last, drain)) in &self.ghost.routed {
            (container, ages.of(*last), drain).hash(h);
        }
        for (place, (last, drain)) in &self.ghost.places {
            (place, ages.of(*last), drain).hash(h);
        }
        for (id, _) in &self.ghost.running {
            id.hash.hash(h);
        }
        docker(&self.world.docker, &ages, h);
        consul(&self.world.consul, &ages, h);
        nginx(&self.world.nginx, &ages, h);
        if let Some(directory) = self.world.directory.known() {
            (directory.pins.len(), directory.kept.len()).hash(h);
            for pin in &directory.pins {
                match pin {
                    Pin::AllowRemovals { spec } => (0_u8, spec).hash(h),
                    Pin::Failed { service, digest, image_id, .. } => (1_u8, service, digest, image_id).hash(h),
                    Pin::RolledBack { service, digest, image_id, .. } => (2_u8, service, digest, image_id).hash(h),
                    Pin::Hold { service, digest, .. } => (3_u8, service, digest).hash(h),
                    Pin::Adopted(adopted) => (4_u8, &adopted.container).hash(h),
                }
            }
            for (service, kept) in &directory.kept {
                service.hash(h);
                configuration(&kept.present, h);
                kept.before.is_some().hash(h);
                kept.before.iter().for_each(|before| configuration(before, h));
            }
        }
        if self.stale > 0 {
            for older in [self.older.docker.is_some(), self.older.consul.is_some(), self.older.nginx.is_some()] {
                older.hash(h);
            }
            if let Some(older) = &self.older.docker {
                docker(older, &ages, h);
            }
            if let Some(older) = &self.older.consul {
                consul(older, &ages, h);
            }
            if let Some(older) = &self.older.nginx {
                nginx(older, &ages, h);
            }
        }
        hasher.finish()
    }
}

/// What is kept is written anew when it differs, and not only when the hash of its containers does.
fn configuration(kept: &Configuration, h: &mut DefaultHasher) {
    let Service { hash, depends_on, update, stop_grace_period, register, .. } = kept.service.as_ref();
    (hash.as_str(), &kept.image_id, stop_grace_period).hash(h);
    format!("{depends_on:?}{update:?}{register:?}{:?}{:?}", kept.networks, kept.volumes).hash(h);
}

fn docker(view: &View<Docker>, ages: &Ages, h: &mut DefaultHasher) {
    let Some(docker) = view.known() else { return };
    docker.containers.len().hash(h);
    for (id, container) in &docker.containers {
        id.hash(h);
        match &container.state {
            ContainerState::Created => 1_u8.hash(h),
            ContainerState::Running { started_at } => (2_u8, ages.of(*started_at)).hash(h),
            ContainerState::Paused { .. } => 3_u8.hash(h),
            ContainerState::Restarting => 4_u8.hash(h),
            ContainerState::Exited { code, started_at, finished_at } => {
                (5_u8, code, started_at.map(|at| ages.of(at)), finished_at.map(|at| ages.of(at))).hash(h);
            }
            ContainerState::Removing => 6_u8.hash(h),
            ContainerState::Dead => 7_u8.hash(h),
        }
        match &container.health {
            Health::None => 0_u8,
            Health::Starting => 1,
            Health::Healthy => 2,
            Health::Unhealthy(_) => 3,
        }
        .hash(h);
        match &container.probe {
            None => 0_u8,
            Some(Probe::Passing) => 1,
            Some(Probe::Failing(_)) => 2,
        }
        .hash(h);
        (&container.image_id, container.restarts).hash(h);
        container.created_at.map(|at| ages.of(at)).hash(h);
        for (name, endpoint) in &container.networks {
            (name, endpoint.address).hash(h);
        }
        for published in &container.published {
            published.host.hash(h);
        }
    }
    for (id, stranger) in &docker.strangers {
        (id, stranger.running).hash(h);
    }
    for (name, network) in &docker.networks {
        (name, network.attached, &network.config).hash(h);
    }
    docker.volumes.len().hash(h);
    for (name, image) in &docker.images {
        (name, &image.id).hash(h);
    }
}

fn consul(view: &View<Consul>, ages: &Ages, h: &mut DefaultHasher) {
    let Some(consul) = view.known() else { return };
    (&consul.leader, &consul.peers, consul.registrations.len(), consul.strangers.len()).hash(h);
    for r in consul.registrations.values() {
        (&r.id, &r.name, &r.address, r.port, &r.tags, &r.container, &r.check_digest).hash(h);
        match &r.maintenance {
            Maintenance::Off => 0_u8,
            Maintenance::Draining { .. } => 1,
            Maintenance::Operator { .. } => 2,
        }
        .hash(h);
        r.drain_start.map(|at| ages.of(at)).hash(h);
        for (id, check) in &r.checks {
            (id, status(check.status), check.output.is_empty()).hash(h);
        }
    }
    for (query, view) in &consul.catalog {
        query.hash(h);
        let Some(catalog) = view.known() else { continue };
        // Only whether a loss is still fresh matters.
        (catalog.instances.len(), ages.of(catalog.shrunk_at).min(11)).hash(h);
        for i in catalog.instances.iter() {
            (&i.id, &i.address, i.port, i.passing, i.doubtful, i.maintenance, &i.container).hash(h);
        }
    }
}

fn status(status: CheckStatus) -> u8 {
    match status {
        CheckStatus::Passing => 0,
        CheckStatus::Warning => 1,
        CheckStatus::Critical => 2,
    }
}

fn nginx(view: &View<Nginx>, ages: &Ages, h: &mut DefaultHasher) {
    let Some(nginx) = view.known() else { return };
    match &nginx.process {
        NginxProcess::Stopped => 0_u8,
        NginxProcess::Running { .. } => 1,
        NginxProcess::Orphans { .. } => 2,
    }
    .hash(h);
    (nginx.included, ages.of(nginx.loaded_since), ages.of(nginx.routed_since), nginx.retiring_workers).hash(h);
    for (listen, state) in &nginx.listens {
        (listen, *state == reeve::observed::ListenState::Free).hash(h);
    }
    let mut in_use: Vec<_> = nginx.current.iter().collect();
    match &nginx.loaded {
        Loaded::Nothing => 0_u8.hash(h),
        Loaded::Generation(id) => {
            1_u8.hash(h);
            in_use.push(id);
        }
        Loaded::Mixed(ids) => {
            2_u8.hash(h);
            in_use.extend(ids);
        }
        Loaded::Stranger(_) => 3_u8.hash(h),
    }
    for id in in_use {
        let generation = nginx.generations.get(id);
        (&id.hash, generation.map(|g| (g.damaged.len(), g.rejected.is_some()))).hash(h);
        // Where Lua balances, the hash of a generation does not tell its endpoints.
        if let Some((g, endpoints)) = generation.and_then(|g| Some((g, g.endpoints.as_ref()?))) {
            (endpoints.file.is_some(), endpoints.file == endpoints.loaded).hash(h);
            for (name, routed) in &g.manifest.upstreams {
                (name, &routed.endpoints).hash(h);
            }
        }
    }
    (nginx.current == loaded(nginx).cloned()).hash(h);
    // More than are kept: one of them is about to be removed.
    nginx.generations.len().saturating_sub(5).hash(h);
    for (id, rejection) in nginx.generations.iter().filter_map(|(id, g)| Some((id, g.rejected.as_ref()?))) {
        (&id.hash, ages.of(rejection.at)).hash(h);
    }
}

fn loaded(nginx: &Nginx) -> Option<&reeve::observed::GenerationId> {
    match &nginx.loaded {
        Loaded::Generation(id) => Some(id),
        Loaded::Nothing | Loaded::Mixed(_) | Loaded::Stranger(_) => None,
    }
}
