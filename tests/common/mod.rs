//! A world in memory for tests of the planner: `Observed` and `Observed::after`, driven by plans.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use reeve::observed::{
    Agent, Catalog, Consul, Directory, Docker, Host, ImageSeen, Interest, Loaded, Nginx, NginxProcess, Observed, View,
};
use reeve::plan::{Context, NginxContext, Plan, Removals, plan};
use reeve::render::Renderer;
use reeve::spec::{Owner, Spec};

pub fn probe() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9465))
}

pub fn start() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time stamp")
}

pub fn context<'a>(renderer: &'a Renderer, project: &str) -> Context<'a> {
    Context {
        owner: Owner { project: project.to_owned(), node: "edge-1".to_owned() },
        advertise: Some("192.0.2.10".to_owned()),
        nginx: Some(NginxContext {
            renderer,
            start: true,
            probe: probe(),
            generations: Path::new("/var/lib/reeve/generations"),
        }),
        distrust_percent: 50,
        distrust_for: Duration::from_secs(10),
        removals: Removals::Allowed,
        teardown: None,
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
            loaded_since: start(),
            retiring_workers: 0,
            listens: BTreeMap::new(),
            tls: BTreeMap::new(),
            worker_shutdown_timeout: Some("30s".to_owned()),
        }),
        directory: View::Known(Directory::default()),
        host: Host { addresses: [IpAddr::from([127, 0, 0, 1])].into(), default_route: None },
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
    if let View::Known(consul) = &mut world.consul {
        for query in &interest.catalog {
            let empty = View::Known(Catalog { instances: Vec::new(), shrunk_at: now });
            consul.catalog.entry(query.clone()).or_insert(empty);
        }
    }
}

/// Applies plans until there is nothing left to do; panics when that does not happen.
pub fn converge(world: &mut Observed, spec: &Spec, context: &Context<'_>, now: &mut Timestamp) -> Vec<Plan> {
    let mut waves = Vec::new();
    look(world, spec, &context.owner, *now);
    for _ in 0..500 {
        let wave = plan(spec, world, *now, context);
        if wave.steps.is_empty() {
            match wave.waiting.iter().filter_map(|waiting| waiting.until).filter(|until| *until > *now).min() {
                Some(until) => *now = until,
                None => return waves,
            }
            continue;
        }
        for step in &wave.steps {
            world.after(&step.action, &context.owner, *now);
        }
        world.assume_healthy();
        waves.push(wave);
    }
    panic!("no end after 500 waves; the last one: {:#?}", waves.last());
}
