//! A state of the exploration: the world, what the oracle remembers of it, and what is going on around.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use reeve::observed::{ContainerState, Generation, GenerationId, Loaded, Observed, View};
use reeve::plan::System;

/// Older than this is old: no wait of the planner is longer.
const OLD: i64 = 40;

#[derive(Debug, Clone)]
pub struct State {
    pub world: Observed,
    pub now: Timestamp,
    pub spec: usize,
    /// When each container was last seen routed by what nginx runs; the planner does not know this.
    pub last_routed: BTreeMap<String, Timestamp>,
    /// Faults that may still happen.
    pub faults: u32,
    /// What cannot be read at present.
    pub hidden: Option<System>,
    /// nginx refuses what is written now.
    pub refuses: bool,
    /// Something that will be put right by others when nothing else happens any more.
    pub ills: Vec<Ill>,
    /// Somebody took what the spec wants: the end is another one.
    pub stranger: bool,
    /// This way had its crash.
    pub crashed: bool,
}

/// What others broke and will mend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ill {
    Unhealthy(String),
    Critical(String),
    Maintenance(String),
}

impl State {
    /// What the planner sees.
    pub fn seen(&self) -> Observed {
        let mut seen = self.world.clone();
        let reason = || "it does not answer".to_owned();
        match self.hidden {
            Some(System::Docker) => seen.docker = View::Unknown { reason: reason(), since: self.now },
            Some(System::Consul) => seen.consul = View::Unknown { reason: reason(), since: self.now },
            Some(System::Nginx) => seen.nginx = View::Unknown { reason: reason(), since: self.now },
            Some(System::Directory) | None => {}
        }
        seen
    }

    /// The oracle looks at what nginx runs.
    pub fn remember(&mut self) {
        let now = self.now;
        let routed: Vec<String> = self.loaded_routes().map(|(_, container)| container.to_owned()).collect();
        for container in routed {
            self.last_routed.insert(container, now);
        }
        let docker = self.world.docker.known();
        self.last_routed.retain(|container, _| docker.is_some_and(|docker| docker.containers.contains_key(container)));
    }

    pub fn loaded(&self) -> Vec<(&GenerationId, &Generation)> {
        let Some(nginx) = self.world.nginx.known() else { return Vec::new() };
        let find = |id: &GenerationId| nginx.generations.get_key_value(id);
        match &nginx.loaded {
            Loaded::Generation(id) => find(id).into_iter().collect(),
            Loaded::Mixed(ids) => ids.iter().filter_map(find).collect(),
            Loaded::Nothing | Loaded::Stranger(_) => Vec::new(),
        }
    }

    /// Upstream and container of every endpoint of ours that nginx runs.
    pub fn loaded_routes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.loaded().into_iter().flat_map(|(_, generation)| {
            generation.manifest.upstreams.iter().flat_map(|(name, routed)| {
                routed.endpoints.iter().filter_map(|e| Some((name.as_str(), e.container.as_deref()?)))
            })
        })
    }

    /// Equal for states that behave alike: ages in place of times, without the history of generations.
    pub fn key(&self) -> u64 {
        let age = |time: Timestamp| self.now.duration_since(time).as_secs().min(OLD);
        let mut text = String::new();
        let _ = write!(text, "{} {} {:?} {} {:?}", self.spec, self.faults, self.hidden, self.refuses, self.ills);
        let _ = write!(text, "{} {}", self.stranger, self.crashed);
        for (container, last) in &self.last_routed {
            let _ = write!(text, "\n{container} {}", age(*last));
        }
        if let Some(docker) = self.world.docker.known() {
            for (id, container) in &docker.containers {
                let state = match &container.state {
                    ContainerState::Running { started_at } => format!("running {}", age(*started_at)),
                    ContainerState::Paused { .. } => "paused".to_owned(),
                    ContainerState::Exited { code, started_at, finished_at } => {
                        format!("exited {code} {:?} {:?}", started_at.map(age), finished_at.map(age))
                    }
                    other => format!("{other:?}"),
                };
                let addresses: Vec<_> = container.networks.iter().map(|(n, e)| (n, e.address)).collect();
                let _ = write!(
                    text,
                    "\n{id} {} {state} {:?} {:?} {addresses:?} {:?} {}",
                    container.hash.short(),
                    container.health,
                    container.probe,
                    container.published,
                    container.image_id,
                );
            }
            let _ = write!(text, "\n{:?} {:?} {:?}", docker.strangers, docker.networks.keys(), docker.volumes.keys());
            for network in docker.networks.values() {
                let _ = write!(text, "{} {:?}", network.attached, network.config);
            }
        }
        if let Some(consul) = self.world.consul.known() {
            for r in consul.registrations.values() {
                let drain = r.drain_start.map(age);
                let _ = write!(
                    text,
                    "\n{} {} {}:{} {:?} {} {:?} {:?} {drain:?} {:?}",
                    r.id, r.name, r.address, r.port, r.tags, r.container, r.maintenance, r.checks, r.check_digest
                );
            }
            for (query, view) in &consul.catalog {
                let _ = write!(text, "\n{query}");
                if let Some(catalog) = view.known() {
                    let _ = write!(text, " {:?} {}", catalog.instances, age(catalog.shrunk_at).min(11));
                }
            }
        }
        if let Some(nginx) = self.world.nginx.known() {
            let _ = write!(text, "\n{:?} {} {:?}", nginx.process, age(nginx.loaded_since).min(11), nginx.listens);
            for id in nginx.current.iter().chain(self.loaded().into_iter().map(|(id, _)| id)) {
                let generation = nginx.generations.get(id);
                let _ = write!(
                    text,
                    "\n{} {:?}",
                    id.hash,
                    generation.map(|g| (&g.manifest.upstreams, &g.damaged, g.rejected.is_some()))
                );
            }
            // More than are kept: one of them is about to be removed.
            let _ = write!(text, "\n{}", nginx.generations.len().saturating_sub(5));
            let rejected = nginx.generations.iter().filter_map(|(id, g)| Some((id, g.rejected.as_ref()?)));
            for (id, rejection) in rejected {
                let _ = write!(text, "\nrejected {} {}", id.hash, age(rejection.at));
            }
        }
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        hasher.finish()
    }
}
