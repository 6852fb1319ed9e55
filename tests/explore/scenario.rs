//! A sequence of specs, and what each leads to from nothing.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use reeve::observed::{Observed, View};
use reeve::plan::Context;
use reeve::render::Renderer;
use reeve::spec::Spec;

use crate::common;

pub struct Scenario {
    pub specs: Vec<Spec>,
    renderer: Renderer,
    /// What is there in the end, for each spec.
    pub ends: Vec<End>,
    pub empty: Observed,
}

impl Scenario {
    pub fn new(texts: &[&str]) -> Self {
        let specs: Vec<Spec> = texts.iter().map(|text| common::spec(text)).collect();
        let mut scenario = Self { specs, renderer: common::renderer(), ends: Vec::new(), empty: common::empty_world() };
        let mut ends = Vec::new();
        for spec in &scenario.specs {
            let mut world = scenario.empty.clone();
            let mut now = common::start();
            common::converge(&mut world, spec, &scenario.context(), &mut now);
            ends.push(End::of(&world));
        }
        scenario.ends = ends;
        scenario
    }

    pub fn context(&self) -> Context<'_> {
        common::context(&self.renderer, common::PROJECT)
    }

    pub fn look(&self, world: &mut Observed, spec: usize, now: Timestamp) {
        common::look(world, &self.specs[spec], &self.context().owner, now);
    }
}

/// A world at rest, with everything masked that two ways to it may do differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Service, slot, hash, running.
    replicas: BTreeSet<(String, u32, String, bool)>,
    /// Consul service, service, slot, tags, port of the container, passing.
    registrations: BTreeSet<(String, String, u32, Vec<String>, String, bool)>,
    /// By upstream: what is asked, and the service and slot of each endpoint.
    routes: BTreeMap<String, (String, Vec<String>)>,
    networks: BTreeSet<String>,
    volumes: BTreeSet<String>,
}

impl End {
    pub fn of(world: &Observed) -> Self {
        let (View::Known(docker), View::Known(consul), View::Known(nginx)) =
            (&world.docker, &world.consul, &world.nginx)
        else {
            panic!("an end is a world that can be read");
        };
        let replicas = docker
            .containers
            .values()
            .map(|c| (c.service.clone(), c.slot, c.hash.to_string(), c.state.running()))
            .collect();
        let registrations = consul
            .registrations
            .values()
            .map(|r| {
                let port = r.id.rsplit(':').next().unwrap_or_default().to_owned();
                let passing = reeve::plan::facts::passing(r);
                (r.name.clone(), r.service.clone(), r.slot, r.tags.clone(), port, passing)
            })
            .collect();
        let loaded = match &nginx.loaded {
            reeve::observed::Loaded::Generation(id) => nginx.generations.get(id),
            _ => None,
        };
        let routes = loaded.into_iter().flat_map(|generation| &generation.manifest.upstreams).map(|(name, routed)| {
            let place = |container: &String| {
                docker.containers.get(container).map_or("gone".to_owned(), |c| format!("{} {}", c.service, c.slot))
            };
            let mut endpoints: Vec<String> = routed
                .endpoints
                .iter()
                .map(|endpoint| endpoint.container.as_ref().map_or_else(|| endpoint.to_string(), place))
                .collect();
            endpoints.sort();
            (name.clone(), (format!("{:?} {}", routed.upstream.query, routed.upstream.listen), endpoints))
        });
        Self {
            replicas,
            registrations,
            routes: routes.collect(),
            networks: docker.networks.keys().cloned().collect(),
            volumes: docker.volumes.keys().cloned().collect(),
        }
    }
}
