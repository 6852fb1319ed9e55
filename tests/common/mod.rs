//! A world in memory for tests of the planner: `Observed` and `Observed::after`, driven by plans.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod tamper;
pub mod templates;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use reeve::model::{Peers, is_placeholder, is_placeholder_port};
use reeve::observed::{
    Agent, Catalog, Consul, Directory, Docker, Host, HttpBlock, ImageSeen, Interest, Loaded, Nginx, NginxProcess,
    Observed, View,
};
use reeve::plan::gates::Gates;
use reeve::plan::{Action, Context, DockerAction, NginxContext, Plan, Removals, plan};
use reeve::render::{BUILT_IN, BUILT_IN_NAME, Renderer};
use reeve::settings::EndpointsMode;
use reeve::spec::load::{LoadOptions, load_text};
use reeve::spec::{Owner, Spec};

pub const PROJECT: &str = "shop";

pub fn probe() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9465))
}

pub fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time stamp")
}

pub fn renderer() -> Renderer {
    Renderer::new(BUILT_IN, BUILT_IN_NAME).expect("the built-in template compiles")
}

/// A spec from its text.
pub fn spec(text: &str) -> Spec {
    match load_text(&[("spec.yaml", text)], &LoadOptions::default()) {
        Ok(loaded) => loaded.spec,
        Err(problems) => panic!("the test's spec is wrong: {problems:#?}\n{text}"),
    }
}

pub fn context<'a>(renderer: &'a Renderer, project: &str) -> Context<'a> {
    Context {
        owner: Owner { project: project.to_owned(), node: "edge-1".to_owned() },
        advertise: Some("192.0.2.10".to_owned()),
        nginx: Some(NginxContext {
            renderer,
            template_fault: None,
            start: true,
            endpoints: EndpointsMode::Reload,
            max_worker_generations: 10,
            probe: probe(),
            generations: Path::new("/var/lib/reeve/generations"),
        }),
        distrust_percent: 50,
        distrust_for: Duration::from_secs(10),
        removals: Removals::Allowed,
        teardown: None,
        gates: Gates::default(),
    }
}

/// Everything is there and empty: an engine, a Consul with a leader, an nginx that runs without a generation of ours.
pub fn empty_world() -> Observed {
    Observed {
        docker: View::Known(Docker { api_version: "1.41".to_owned(), ..Docker::default() }),
        consul: View::Known(Consul {
            agent: Agent {
                node: "edge-1".to_owned(),
                datacenter: "dc1".to_owned(),
                address: Some(IpAddr::from([127, 0, 0, 1])),
                ..Agent::default()
            },
            leader: Some("127.0.0.1:8300".to_owned()),
            ..Consul::default()
        }),
        nginx: View::Known(Nginx {
            version: "1.22.1".to_owned(),
            include_line: "include /var/lib/reeve/current/reeve.conf;".to_owned(),
            included: true,
            config: "/etc/nginx/nginx.conf".to_owned(),
            process: NginxProcess::Running { master: 1 },
            current: None,
            generations: BTreeMap::new(),
            loaded: Loaded::Nothing,
            templates: BTreeMap::new(),
            loaded_since: start(),
            routed_since: start(),
            retiring_workers: 0,
            listens: BTreeMap::new(),
            tls: BTreeMap::new(),
            worker_shutdown_timeout: Some("30s".to_owned()),
            lua: Ok(()),
            http: HttpBlock::default(),
        }),
        directory: View::Known(Directory::default()),
        host: Host { addresses: [IpAddr::from([127, 0, 0, 1])].into(), default_route: None, name: "host1".to_owned() },
        templates: Default::default(),
    }
}

/// What an observation for this spec would add: answers to its queries, and the images that the engine has.
pub fn look(world: &mut Observed, spec: &Spec, owner: &Owner, now: Timestamp) {
    let interest = Interest::of(spec, owner);
    if let View::Known(docker) = &mut world.docker {
        for image in &interest.images {
            let seen = ImageSeen { id: format!("sha256:{image}"), healthcheck: false, exposed: Vec::new() };
            docker.images.entry(image.clone()).or_insert(seen);
        }
    }
    ask(world, &interest, now);
    templates::look(world, spec, now);
}

/// Answers to the queries of the interest, and to no others: from what is registered in memory.
pub fn ask(world: &mut Observed, interest: &Interest, now: Timestamp) {
    let View::Known(consul) = &mut world.consul else { return };
    consul.catalog.retain(|query, _| interest.catalog.contains(query));
    for query in &interest.catalog {
        if consul.catalog.contains_key(query) {
            continue;
        }
        let instances: Vec<reeve::observed::Instance> = consul
            .registrations
            .values()
            .filter(|registration| {
                registration.name == query.service
                    && query.tag.as_ref().is_none_or(|tag| registration.tags.contains(tag))
            })
            .map(|registration| reeve::observed::Instance {
                id: registration.id.clone(),
                node: consul.agent.node.clone(),
                address: registration.address.clone(),
                port: registration.port,
                passing: registration
                    .checks
                    .values()
                    .all(|check| check.status == reeve::observed::CheckStatus::Passing),
                doubtful: false,
                maintenance: registration.maintenance != reeve::observed::Maintenance::Off,
                weight: 1,
                owner: Some(interest.owner.to_string()),
                container: Some(registration.container.clone()),
                trouble: None,
            })
            .collect();
        consul.catalog.insert(
            query.clone(),
            View::Known(Catalog {
                instances: instances.into(),
                shrunk_at: now,
                returned_at: None,
                flapping: BTreeMap::new(),
            }),
        );
    }
}

/// An action with its full effect, and what Docker chooses by itself.
pub fn execute(world: &mut Observed, action: &Action, context: &Context<'_>, now: Timestamp) {
    execute_beside(world, action, context, now, &BTreeSet::new());
}

/// The same; these containers have been there, although nothing in the world tells of them any more.
pub fn execute_beside(
    world: &mut Observed,
    action: &Action,
    context: &Context<'_>,
    now: Timestamp,
    known: &BTreeSet<&str>,
) {
    let created = match action {
        Action::Docker(DockerAction::CreateContainer(new)) => {
            Some((new.name.clone(), next_id(world, &new.name, known)))
        }
        _ => None,
    };
    world.after(action, &context.owner, now);
    if let (Some((name, id)), Some(docker)) = (created, world.docker.known_mut())
        && let Some(mut container) = docker.containers.remove(&name)
    {
        container.id.clone_from(&id);
        docker.containers.insert(id, container);
    }
    choose(world);
}

/// An id that nothing in the world remembers: `name#2` after `name#1`.
fn next_id(world: &Observed, name: &str, known: &BTreeSet<&str>) -> String {
    let number = |id: &str| id.strip_prefix(name)?.strip_prefix('#')?.parse::<u32>().ok();
    let docker = world.docker.known().into_iter().flat_map(|docker| docker.containers.keys());
    let consul =
        world.consul.known().into_iter().flat_map(|consul| consul.registrations.values()).map(|r| &r.container);
    let generations = world.nginx.known().into_iter().flat_map(|nginx| nginx.generations.values());
    let routed = generations.flat_map(|generation| generation.manifest.upstreams.values());
    let routed = routed.flat_map(|routed| &routed.endpoints).filter_map(|endpoint| endpoint.container.as_ref());
    let known = known.iter().filter_map(|id| number(id));
    let last = docker.chain(consul).chain(routed).filter_map(|id| number(id)).chain(known).max().unwrap_or(0);
    format!("{name}#{}", last + 1)
}

/// Between two waves: containers become healthy, checks run and pass, jobs end well.
pub fn settle(world: &mut Observed, spec: &Spec, now: Timestamp) {
    world.assume_healthy();
    for job in spec.services.values().filter(|service| service.job) {
        world.assume_done(&job.name, now);
    }
}

/// Real addresses and host ports in place of the model's placeholders: the lowest free ones, so that what one container
/// leaves the next one gets; but no host port that nginx routes to, since Docker goes round all of them before that.
pub fn choose(world: &mut Observed) {
    let generations = world.nginx.known().into_iter().flat_map(|nginx| nginx.generations.iter());
    let loaded = generations.filter(|(id, _)| match world.nginx.known().map(|nginx| &nginx.loaded) {
        Some(Loaded::Generation(loaded)) => loaded == *id,
        _ => false,
    });
    let routed = loaded.flat_map(|(_, generation)| generation.manifest.upstreams.values());
    let routed: BTreeSet<u16> = routed.flat_map(|routed| &routed.endpoints).map(|endpoint| endpoint.port).collect();
    let Some(docker) = world.docker.known_mut() else { return };
    let network = |number: u16| {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([172, 18, high, low])
    };
    for seen in docker.networks.values_mut() {
        if seen.gateway.is_some_and(is_placeholder) {
            seen.gateway = Some(network(1));
        }
    }
    let containers = || docker.containers.values();
    let mut addresses: BTreeSet<IpAddr> =
        containers().flat_map(|c| c.networks.values()).filter_map(|endpoint| endpoint.address).collect();
    let mut ports: BTreeSet<u16> = containers().flat_map(|c| &c.published).map(|published| published.host).collect();
    ports.extend(routed);
    for container in docker.containers.values_mut() {
        for (_, endpoint) in &mut container.networks {
            if endpoint.address.is_some_and(is_placeholder) {
                let free = (2..).map(network).find(|address| !addresses.contains(address));
                addresses.extend(free);
                endpoint.address = free;
            }
            if endpoint.gateway.is_some_and(is_placeholder) {
                endpoint.gateway = Some(network(1));
            }
        }
        for published in container.published.iter_mut().filter(|published| is_placeholder_port(published.host)) {
            let free = (32768..).find(|port| !ports.contains(port)).expect("a free port");
            ports.insert(free);
            published.host = free;
        }
    }
}

/// Applies plans until there is nothing left to do; panics when that does not happen.
pub fn converge(world: &mut Observed, spec: &Spec, context: &Context<'_>, now: &mut Timestamp) -> Vec<Plan> {
    let mut waves = Vec::new();
    let mut peers = Peers::of(world);
    look(world, spec, &context.owner, *now);
    for _ in 0..500 {
        let wave = plan(spec, world, *now, context);
        if wave.steps.is_empty() {
            for record in &wave.records {
                execute(world, &record.action, context, *now);
            }
            match wave.waiting.iter().filter_map(|waiting| waiting.until).filter(|until| *until > *now).min() {
                Some(until) => *now = until,
                None => return waves,
            }
            continue;
        }
        for step in &wave.steps {
            execute(world, &step.action, context, *now);
        }
        settle(world, spec, *now);
        peers.follow(world);
        templates::forget_services(world);
        templates::look(world, spec, *now);
        waves.push(wave);
    }
    panic!("no end after 500 waves; the last one: {:#?}", waves.last());
}
