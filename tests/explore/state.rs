//! A state of the exploration: the world, what the oracle remembers of it, and what is going on around.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reeve::observed::{Consul, Container, Docker, GenerationId, Loaded, Manifest, Nginx, NginxProcess, Observed, View};
use reeve::plan::System;

use crate::measure::{passes, ran};

#[derive(Debug, Clone)]
pub struct State {
    pub world: Observed,
    pub now: Timestamp,
    pub spec: usize,
    pub ghost: Ghost,
    /// Faults that may still happen.
    pub faults: u32,
    /// Passes that may still see a view one write behind.
    pub stale: u32,
    /// The views as they were before the last write to each backend.
    pub older: Older,
    /// What cannot be read at present.
    pub hidden: Hidden,
    /// nginx refuses what is written now.
    pub refuses: bool,
    /// What others will put right when nothing else happens any more.
    pub ills: Vec<Ill>,
    /// Somebody took what this service wants, for good: the end is another one.
    pub stranger: Option<Taken>,
    /// This way had its crash.
    pub crashed: bool,
}

/// What the planner cannot know, and the oracle does.
#[derive(Debug, Clone, Default)]
pub struct Ghost {
    /// By container: when nginx last routed to it, and the longest drain of those upstreams.
    pub routed: BTreeMap<String, (Timestamp, Duration)>,
    /// The same by address, port and container, of what is registered there: a container may leave one and stay at another.
    pub places: BTreeMap<(String, u16, String), (Timestamp, Duration)>,
    /// What nginx's live workers really run, whatever is on the disk.
    pub running: Vec<(GenerationId, Arc<Manifest>)>,
    /// Containers that were drained under the present spec.
    pub drained: BTreeSet<String>,
    /// Containers that have run on since this check of them, by its digest, ran and passed. Registered anew with the same
    /// check, they serve as they did, although it has not run again.
    pub proven: BTreeSet<(String, Option<String>)>,
    /// All was as the spec before said when the present one came.
    pub settled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Taken {
    pub service: String,
    /// How many replicas of it served when that happened.
    pub served: u32,
}

#[derive(Debug, Clone, Default)]
pub struct Older {
    pub docker: Option<Arc<View<Docker>>>,
    pub consul: Option<Arc<View<Consul>>>,
    pub nginx: Option<Arc<View<Nginx>>>,
}

/// A view that is one write behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    Docker,
    /// Agent and catalog.
    Consul,
    Catalog,
    Nginx,
}

impl Behind {
    pub const ALL: [Self; 4] = [Self::Docker, Self::Consul, Self::Catalog, Self::Nginx];
}

/// Backends that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Hidden(pub u8);

impl Hidden {
    pub const SYSTEMS: [System; 4] = [System::Docker, System::Consul, System::Nginx, System::Directory];

    pub fn has(self, system: System) -> bool {
        let index = Self::SYSTEMS.iter().position(|one| *one == system);
        index.is_some_and(|index| self.0 & (1 << index) != 0)
    }

    pub fn any(self) -> bool {
        self.0 != 0
    }
}

/// What others broke and will mend.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ill {
    Unhealthy(String),
    Critical(String),
    Maintenance(String),
    Leader,
    Include,
    Listen(u16),
    /// The foreign instances of a query's answer.
    Catalog(String),
}

impl State {
    /// What the planner sees.
    pub fn seen(&self, behind: Option<Behind>) -> Cow<'_, Observed> {
        if !self.hidden.any() && behind.is_none() {
            return Cow::Borrowed(&self.world);
        }
        let mut seen = self.world.clone();
        match behind {
            Some(Behind::Docker) => replace(&mut seen.docker, self.older.docker.as_ref()),
            Some(Behind::Consul) => replace(&mut seen.consul, self.older.consul.as_ref()),
            Some(Behind::Nginx) => replace(&mut seen.nginx, self.older.nginx.as_ref()),
            Some(Behind::Catalog) => {
                let older = self.older.consul.as_ref().and_then(|older| older.known());
                if let (Some(older), Some(present)) = (older, seen.consul.known_mut()) {
                    // Queries of a new spec have no older answer.
                    for (query, answer) in &mut present.catalog {
                        if let Some(before) = older.catalog.get(query) {
                            answer.clone_from(before);
                        }
                    }
                }
            }
            None => {}
        }
        let since = self.now;
        for system in Hidden::SYSTEMS.into_iter().filter(|system| self.hidden.has(*system)) {
            let reason = || "it does not answer".to_owned();
            match system {
                System::Docker => seen.docker = View::Unknown { reason: reason(), since },
                System::Consul => seen.consul = View::Unknown { reason: reason(), since },
                System::Nginx => seen.nginx = View::Unknown { reason: reason(), since },
                System::Directory => seen.directory = View::Unknown { reason: reason(), since },
                // The scenarios have none.
                System::Templates => {}
            }
        }
        Cow::Owned(seen)
    }

    /// Before an action: the view that a pass may still see afterwards.
    pub fn keep_older(&mut self, system: System) {
        if self.stale == 0 {
            return;
        }
        match system {
            System::Docker => self.older.docker = Some(Arc::new(self.world.docker.clone())),
            System::Consul => self.older.consul = Some(Arc::new(self.world.consul.clone())),
            System::Nginx => self.older.nginx = Some(Arc::new(self.world.nginx.clone())),
            System::Directory | System::Templates => {}
        }
    }

    /// The oracle looks at what nginx runs.
    pub fn remember(&mut self) {
        if let Some(nginx) = self.world.nginx.known() {
            let ids: Vec<&GenerationId> = match &nginx.loaded {
                Loaded::Generation(id) => vec![id],
                Loaded::Mixed(ids) => ids.iter().collect(),
                Loaded::Nothing | Loaded::Stranger(_) => Vec::new(),
            };
            let before = &self.ghost.running;
            let same = before.len() == ids.len() && before.iter().zip(&ids).all(|((known, _), id)| known == *id);
            let by_lua = |id: &GenerationId| nginx.generations.get(id).is_some_and(|one| one.endpoints.is_some());
            if !same || ids.iter().any(|id| by_lua(id)) {
                let manifest = |id: &GenerationId| {
                    let known = before.iter().find(|(known, _)| known == id).map(|(_, manifest)| manifest.clone());
                    // Its endpoints change while it is loaded.
                    known.filter(|_| !by_lua(id)).or_else(|| Some(nginx.generations.get(id)?.manifest.clone()))
                };
                let running = ids.into_iter().filter_map(|id| Some((id.clone(), manifest(id)?))).collect();
                self.ghost.running = running;
            }
        }
        for (_, manifest) in &self.ghost.running {
            for routed in manifest.upstreams.values() {
                let drain = routed.upstream.drain;
                for endpoint in routed.endpoints.iter().filter(|endpoint| endpoint.container.is_some()) {
                    if let Some(container) = &endpoint.container {
                        let place = (endpoint.address.clone(), endpoint.port, container.clone());
                        note(self.ghost.places.entry(place), self.now, drain);
                        note(self.ghost.routed.entry(container.clone()), self.now, drain);
                    }
                }
            }
        }
        let consul = self.world.consul.known();
        let registered: BTreeSet<(&str, u16)> = consul
            .into_iter()
            .flat_map(|consul| consul.registrations.values())
            .map(|registration| (registration.address.as_str(), registration.port))
            .collect();
        self.ghost.places.retain(|(address, port, _), _| registered.contains(&(address.as_str(), *port)));
        let docker = self.world.docker.known();
        let there = |container: &String| docker.is_some_and(|docker| docker.containers.contains_key(container));
        for registration in consul.into_iter().flat_map(|consul| consul.registrations.values()) {
            if passes(registration) && ran(registration) {
                self.ghost.proven.insert((registration.container.clone(), registration.check_digest.clone()));
            }
        }
        let runs = |container: &String| {
            docker.is_some_and(|docker| docker.containers.get(container).is_some_and(|c| c.state.running()))
        };
        self.ghost.proven.retain(|(container, _)| runs(container));
        self.ghost.routed.retain(|container, _| there(container));
        self.ghost.drained.retain(there);
    }

    /// Upstream and container of every endpoint of ours that some live worker routes to.
    pub fn routes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.ghost.running.iter().flat_map(|(_, manifest)| {
            manifest.upstreams.iter().flat_map(|(name, routed)| {
                routed.endpoints.iter().filter_map(|e| Some((name.as_str(), e.container.as_deref()?)))
            })
        })
    }

    pub fn routed(&self, container: &str) -> bool {
        self.routes().any(|(_, routed)| routed == container)
    }

    pub fn docker(&self) -> &Docker {
        self.world.docker.known().expect("the world itself is always known")
    }

    pub fn consul(&self) -> &Consul {
        self.world.consul.known().expect("the world itself is always known")
    }

    pub fn nginx(&self) -> &Nginx {
        self.world.nginx.known().expect("the world itself is always known")
    }

    pub fn nginx_runs(&self) -> bool {
        matches!(self.nginx().process, NginxProcess::Running { .. })
    }

    /// What nginx runs stands on the disk, all of it: else nobody can tell what it routes to.
    pub fn content_seen(&self) -> bool {
        let generations = &self.nginx().generations;
        self.ghost.running.iter().all(|(id, _)| generations.contains_key(id))
    }

    /// What this kind adds is counted, if the way leads where it would have led: not while a stranger stands there.
    pub fn counted(&self, kind: &'static str) -> Option<&'static str> {
        self.stranger.is_none().then_some(kind)
    }

    /// By id, or by name for what was made in the same wave.
    pub fn container(&self, id: &str) -> Option<&Container> {
        let docker = self.docker();
        docker.containers.get(id).or_else(|| docker.containers.values().find(|container| container.name == id))
    }
}

/// When it was last routed, and for how long it is drained then.
fn note<K: Ord>(entry: Entry<'_, K, (Timestamp, Duration)>, now: Timestamp, drain: Duration) {
    entry
        .and_modify(|(last, longest)| {
            *longest = if *last == now { drain.max(*longest) } else { drain };
            *last = now;
        })
        .or_insert((now, drain));
}

fn replace<T: Clone>(view: &mut View<T>, older: Option<&Arc<View<T>>>) {
    if let Some(older) = older {
        *view = View::clone(older);
    }
}
