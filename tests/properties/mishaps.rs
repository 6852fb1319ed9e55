//! Random worlds: what befalls one that had converged on an earlier spec.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;
use reeve::observed::{
    ContainerState, GenerationId, Health, Loaded, Maintenance, NginxProcess, Observed, Probe, PublishedPort, Rejection,
    Stage, Stranger, View,
};
use reeve::render::Renderer;
use reeve::spec::Spec;
use reeve::spec::container::Protocol;

use crate::common;

/// What happened to the world: which thing of a kind, and what.
#[derive(Debug, Clone)]
pub struct Mishap {
    pub kind: u8,
    pub which: Index,
    pub absurd: bool,
}

pub fn mishaps(absurd: bool) -> impl Strategy<Value = Vec<Mishap>> {
    let mishap = (0_u8..24, any::<Index>()).prop_map(move |(kind, which)| Mishap { kind, which, absurd });
    proptest::collection::vec(mishap, 0..6)
}

fn pick<'a, T>(which: &Index, of: impl Iterator<Item = &'a mut T>) -> Option<&'a mut T> {
    let mut all: Vec<&mut T> = of.collect();
    (!all.is_empty()).then(|| all.remove(which.index(all.len())))
}

fn stranger(name: &str, port: u16) -> Stranger {
    Stranger {
        name: name.to_owned(),
        owner: None,
        running: true,
        published: vec![PublishedPort { target: 80, protocol: Protocol::Tcp, host_ip: None, host: port }],
        networks: reeve::observed::Networks::new(),
    }
}

pub fn befall(world: &mut Observed, mishap: &Mishap, now: Timestamp) {
    let which = &mishap.which;
    let (Some(docker), Some(consul), Some(nginx)) =
        (world.docker.known_mut(), world.consul.known_mut(), world.nginx.known_mut())
    else {
        return;
    };
    match mishap.kind {
        0 => {
            if let Some(container) = pick(which, docker.containers.values_mut()) {
                container.state =
                    ContainerState::Exited { code: 137, started_at: container.created_at, finished_at: Some(now) };
                container.published.clear();
            }
        }
        1 => {
            let ids: Vec<String> = docker.containers.keys().cloned().collect();
            if !ids.is_empty() {
                docker.containers.remove(which.get(&ids));
            }
        }
        2 => {
            if let Some(container) = pick(which, docker.containers.values_mut())
                && let ContainerState::Running { started_at } = container.state
            {
                container.state = ContainerState::Paused { started_at };
            }
        }
        3 => {
            if let Some(container) =
                pick(which, docker.containers.values_mut()).filter(|container| container.health != Health::None)
            {
                container.health = Health::Starting;
            }
        }
        4 => {
            let ids: Vec<String> = consul.registrations.keys().cloned().collect();
            if !ids.is_empty() {
                let id = which.get(&ids);
                consul.registrations.remove(id);
                for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                    catalog.instances.retain(|instance| instance.id != *id);
                }
            }
        }
        5 => consul.registrations.clear(),
        6 => {
            if let Some(registration) = pick(which, consul.registrations.values_mut()) {
                registration.tags.push("by-hand".to_owned());
            }
        }
        7 => {
            let ids: Vec<GenerationId> = nginx.generations.keys().cloned().collect();
            if !ids.is_empty() {
                nginx.current = Some(which.get(&ids).clone());
            }
        }
        8 => {
            if let Some(generation) = pick(which, nginx.generations.values_mut()) {
                generation.damaged.push("reeve.conf".to_owned());
            }
        }
        9 => {
            nginx.process = NginxProcess::Stopped;
            nginx.loaded = Loaded::Nothing;
        }
        10 => {
            docker.strangers.insert("id-other".to_owned(), stranger("other", 7000));
        }
        11 => {
            if let Some(container) = pick(which, docker.containers.values_mut()) {
                container.probe = Some(Probe::Failing("refused".to_owned()));
            }
        }
        12 => {
            if let Some(image) = pick(which, docker.images.values_mut()) {
                image.id = "sha256:retagged".to_owned();
            }
        }
        13 => {
            if let Some(generation) = pick(which, nginx.generations.values_mut()) {
                generation.rejected = Some(Rejection { message: "emerg".to_owned(), at: now, stage: Stage::Check });
            }
        }
        // The others are not what a world can be, and must not make the planner panic.
        _ if !mishap.absurd => {}
        14 => {
            if let Some(container) = pick(which, docker.containers.values_mut()) {
                container.slot = u32::MAX;
                container.config = "not JSON".to_owned();
            }
        }
        15 => {
            if let Some(container) = pick(which, docker.containers.values_mut()) {
                container.slot = 0;
                container.networks.clear();
                container.published.push(PublishedPort { target: 0, protocol: Protocol::Tcp, host_ip: None, host: 0 });
            }
        }
        16 => {
            if let Some(container) = pick(which, docker.containers.values_mut()) {
                container.state = ContainerState::Running { started_at: Timestamp::MAX };
                container.created_at = Some(Timestamp::MIN);
            }
        }
        17 => {
            if let Some(registration) = pick(which, consul.registrations.values_mut()) {
                registration.drain_start = Some(Timestamp::MAX);
                registration.maintenance = Maintenance::Draining { reason: String::new() };
                registration.address = "[not an address".to_owned();
            }
        }
        18 => {
            nginx.loaded = Loaded::Mixed(BTreeSet::new());
            nginx.loaded_since = Timestamp::MAX;
        }
        19 => nginx.loaded = Loaded::Generation(GenerationId { hash: "beef".to_owned(), number: u32::MAX }),
        20 => {
            for id in nginx.generations.keys().cloned().collect::<Vec<_>>() {
                if let Some(mut generation) = nginx.generations.remove(&id) {
                    generation.rejected =
                        Some(Rejection { message: String::new(), at: Timestamp::MAX, stage: Stage::Load });
                    nginx.generations.insert(GenerationId { hash: id.hash, number: u32::MAX }, generation);
                }
            }
        }
        21 => {
            for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                catalog.shrunk_at = Timestamp::MAX;
                for instance in catalog.instances.iter_mut() {
                    instance.port = 0;
                    instance.address = "}\n;evil".to_owned();
                    instance.weight = u32::MAX;
                }
            }
        }
        22 => {
            consul.peers = vec![String::new(), ":".to_owned(), "[::1".to_owned()];
            consul.leader = Some(String::new());
        }
        _ => {
            let reason = String::new;
            match which.index(4) {
                0 => world.docker = View::Unknown { reason: reason(), since: now },
                1 => world.consul = View::Unknown { reason: reason(), since: now },
                2 => world.nginx = View::Unknown { reason: reason(), since: now },
                _ => world.directory = View::Unknown { reason: reason(), since: now },
            }
        }
    }
}

/// A world in which the first spec was deployed, and then things happened.
pub fn world_of(
    renderer: &Renderer,
    before: &Spec,
    after: &Spec,
    mishaps: &[Mishap],
    hurried: bool,
) -> (Observed, Timestamp) {
    let context = common::context(renderer, common::PROJECT);
    let mut world = common::empty_world();
    let mut now = common::start();
    common::converge(&mut world, before, &context, &mut now);
    now += if hurried { SignedDuration::from_secs(1) } else { SignedDuration::from_hours(1) };
    for mishap in mishaps {
        befall(&mut world, mishap, now);
    }
    common::look(&mut world, after, &context.owner, now);
    (world, now)
}
