//! What happens to a world in memory by other hands than reeve's, as lines of text: for the golden plans.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use reeve::observed::{
    CheckSeen, CheckStatus, Container, ContainerState, Destination, Discovered, FileSeen, Generation, Health,
    HttpBlock, Loaded, Maintenance, NginxProcess, Observed, PublishedPort, Refused, RefusedNew, Rejection, Stage,
    Stranger, StrangerRegistration, TemplateFailure, TemplateRecord, TemplateStage, Trouble, View,
};

use super::templates;

/// What happens to a destination, or to what was noted of it.
fn template(world: &mut Observed, name: &str, words: &[&str]) {
    let seen = world.templates.seen.get_mut(name).and_then(View::known_mut).expect("a template");
    let record = || seen.record.as_deref().expect("it was written").clone();
    match words {
        ["gone"] => seen.destination = Destination::Missing,
        ["edited", mode, words @ ..] => {
            let text = format!("{}\n", words.join(" "));
            seen.destination = Destination::File(FileSeen {
                digest: reeve::template::digest(text.as_bytes()),
                text: Some(text.into()),
                mode: u32::from_str_radix(mode, 8).expect("a mode"),
                user: 0,
                group: 0,
            });
        }
        ["folder"] => seen.destination = Destination::Other("a folder".to_owned()),
        ["pending"] => seen.record = Some(Arc::new(TemplateRecord { pending: true, ..record() })),
        ["mounted"] => seen.mounted = Some("/srv/app.conf of a file system of type ext4".to_owned()),
        ["leads", path] => seen.real = (*path).into(),
        ["refused", reason @ ..] => {
            let text = match &seen.destination {
                Destination::File(file) => file.digest.clone(),
                Destination::Missing | Destination::Other(_) => String::new(),
            };
            let (stage, since) = (TemplateStage::Command, record().changed_at);
            let failed = Some(TemplateFailure { stage, text, since, reason: reason.join(" ") });
            seen.record = Some(Arc::new(TemplateRecord { failed, pending: true, ..record() }));
        }
        other => panic!("nobody knows how to do {other:?} to a template"),
    }
}

/// Does what the lines say; `#` begins a comment.
pub fn apply(world: &mut Observed, text: &str, now: Timestamp) {
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        if !words.is_empty() {
            tamper(world, &words, now);
        }
    }
}

fn unknown<T>(reason: &str, now: Timestamp) -> View<T> {
    View::Unknown { reason: reason.to_owned(), since: now }
}

/// How many endpoints the generation routes to.
pub fn routes(one: &Generation) -> usize {
    one.manifest.upstreams.values().map(|routed| routed.endpoints.len()).sum()
}

/// The replica of a service in a slot, `web.2`; of two in a slot the newer one, or `old:web.2`.
fn replica<'a>(world: &'a mut Observed, name: &str) -> &'a mut Container {
    let (old, place) = name.strip_prefix("old:").map_or((false, name), |place| (true, place));
    let (service, slot) = place.split_once('.').expect("SERVICE.SLOT");
    let slot: u32 = slot.parse().expect("a slot");
    let docker = world.docker.known_mut().expect("Docker is known");
    docker
        .containers
        .values_mut()
        .filter(|container| container.service == service && container.slot == slot)
        .max_by_key(|container| {
            let made = container.created_at.map_or(0, |at| at.as_second());
            if old { -made } else { made }
        })
        .unwrap_or_else(|| panic!("there is no replica {name}"))
}

/// A container that nobody marked.
fn discovered<'a>(world: &'a mut Observed, name: &str) -> &'a mut Discovered {
    let docker = world.docker.known_mut().expect("Docker is known");
    let found = docker.discovered.values_mut().find(|container| container.name == name);
    found.unwrap_or_else(|| panic!("there is no container {name}"))
}

fn tamper(world: &mut Observed, words: &[&str], now: Timestamp) {
    match words {
        ["docker", "unknown"] => world.docker = unknown("connect /var/run/docker.sock: no such file", now),
        ["consul", "unknown"] => world.consul = unknown("GET http://127.0.0.1:8500/v1/agent/self: refused", now),
        ["nginx", "unknown"] => world.nginx = unknown("nginx -V: no such file", now),
        ["nginx", "stopped"] => {
            let nginx = world.nginx.known_mut().expect("nginx is known");
            nginx.process = NginxProcess::Stopped;
            nginx.loaded = reeve::observed::Loaded::Nothing;
            nginx.loaded_since = now;
            nginx.routed_since = now;
        }
        // It was started by hand with other files than those that `current` points at.
        ["nginx", "runs-nothing-of-ours"] => {
            let nginx = world.nginx.known_mut().expect("nginx is known");
            (nginx.loaded, nginx.loaded_since) = (Loaded::Nothing, now);
            nginx.routed_since = now;
        }
        // From the disk: nginx goes on with what it has loaded.
        ["generations-deleted"] => {
            let nginx = world.nginx.known_mut().expect("nginx is known");
            nginx.generations.clear();
            nginx.current = None;
        }
        ["key", path, value] => templates::key(world, path, Some(value), now),
        ["key-gone", path] => templates::key(world, path, None, now),
        ["instances", service, left] => {
            templates::instances(world, service, left.parse().expect("a number"), now);
        }
        ["template", name, words @ ..] => template(world, name, words),
        ["no-leader"] => world.consul.known_mut().expect("Consul is known").leader = None,
        ["image-missing", image] => {
            world.docker.known_mut().expect("Docker is known").images.remove(*image);
        }
        ["retag", image] => {
            let docker = world.docker.known_mut().expect("Docker is known");
            docker.images.get_mut(*image).expect("an image").id = "sha256:0123456789abcdef".to_owned();
        }
        ["exited", name, code] => {
            let code = code.parse().expect("an exit code");
            let earlier = now - jiff::SignedDuration::from_secs(3600);
            let container = replica(world, name);
            container.state = ContainerState::Exited { code, started_at: Some(earlier), finished_at: Some(now) };
            container.published.clear();
        }
        ["paused", name] => replica(world, name).state = ContainerState::Paused { started_at: now },
        // By hand: its HEALTHCHECK begins anew.
        ["restarted", name] => {
            let container = replica(world, name);
            container.state = ContainerState::Running { started_at: now };
            container.health = Health::Starting;
        }
        ["unhealthy", name] => replica(world, name).health = Health::Unhealthy("GET /: 500".to_owned()),
        ["wrote", name, words @ ..] => {
            let log = vec![words.join(" ")];
            replica(world, name).trouble = Some(Arc::new(Trouble { probe: None, log }));
        }
        ["healthy", name] => replica(world, name).health = Health::Healthy,
        ["crashed", name, code, ran] => {
            let ran = jiff::SignedDuration::from_secs(ran.parse().expect("seconds"));
            let code = code.parse().expect("an exit code");
            let container = replica(world, name);
            container.state = ContainerState::Exited { code, started_at: Some(now - ran), finished_at: Some(now) };
            container.published.clear();
        }
        ["directory", "unknown"] => world.directory = unknown("the pins in pins.json cannot be understood", now),
        ["disconnected", name, network] => {
            replica(world, name).networks.remove(*network).expect("it was attached");
        }
        ["removed", name] => {
            let id = replica(world, name).id.clone();
            world.docker.known_mut().expect("Docker is known").containers.remove(&id);
        }
        ["deregistered", name] => {
            let id = replica(world, name).id.clone();
            let consul = world.consul.known_mut().expect("Consul is known");
            consul.registrations.retain(|_, registration| registration.container != id);
            for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                catalog.instances.retain(|instance| instance.container.as_deref() != Some(&id));
                catalog.shrunk_at = now;
            }
        }
        // Of what it is registered as, what stands for this port of the container.
        ["deregistered", name, port] => {
            let (id, ends) = (replica(world, name).id.clone(), format!(":{port}/tcp"));
            let consul = world.consul.known_mut().expect("Consul is known");
            consul.registrations.retain(|one, registration| registration.container != id || !one.ends_with(&ends));
            for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                let there = |id: &String| consul.registrations.contains_key(id);
                catalog.instances.retain(|instance| instance.owner.is_none() || there(&instance.id));
                catalog.shrunk_at = now;
            }
        }
        // By reeve, for a spec that did not want it.
        ["draining", name] => {
            let id = replica(world, name).id.clone();
            let consul = world.consul.known_mut().expect("Consul is known");
            for registration in consul.registrations.values_mut().filter(|r| r.container == id) {
                registration.maintenance = Maintenance::Draining { reason: "reeve: scaled to 1".to_owned() };
            }
            for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                for instance in catalog.instances.iter_mut().filter(|i| i.container.as_deref() == Some(&id)) {
                    instance.maintenance = true;
                }
            }
        }
        ["maintenance", name] => {
            let id = replica(world, name).id.clone();
            let consul = world.consul.known_mut().expect("Consul is known");
            for registration in consul.registrations.values_mut().filter(|r| r.container == id) {
                registration.maintenance = Maintenance::Operator { reason: "disk is being replaced".to_owned() };
            }
            for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                for instance in catalog.instances.iter_mut().filter(|i| i.container.as_deref() == Some(&id)) {
                    instance.maintenance = true;
                }
            }
        }
        // Docker refuses to start it, with these words, for so many seconds. Not to make it: there is no container either.
        ["refused", what @ ("create" | "start"), name, seconds, words @ ..] => {
            let first = now - SignedDuration::from_secs(seconds.parse().expect("a number of seconds"));
            let container = replica(world, name);
            container.state = ContainerState::Created;
            let Container { id, name, service, slot, hash, image_id, .. } = container.clone();
            let new = (*what == "create").then_some(RefusedNew { service, slot, hash, image_id });
            if new.is_some() {
                world.docker.known_mut().expect("Docker is known").containers.remove(&id);
            }
            let refused =
                Refused { new, first, last: now, error: format!("{what} container {name}: {}", words.join(" ")) };
            world.directory.known_mut().expect("the folder is known").refused.insert(name, refused);
        }
        // It was made, and reeve ended before it was started.
        ["not-started", name] => replica(world, name).state = ContainerState::Created,
        // Its check has not passed for so many seconds.
        ["failing", name, seconds] => {
            let id = replica(world, name).id.clone();
            let since = now - SignedDuration::from_secs(seconds.parse().expect("a number of seconds"));
            let consul = world.consul.known_mut().expect("Consul is known");
            for registration in consul.registrations.values_mut().filter(|r| r.container == id) {
                let output = "HTTP GET http://172.18.0.5:80/helth: 404 Not Found".to_owned();
                let check = registration.checks.get_mut(&format!("{}:declared", registration.id));
                *check.expect("a declared check") = CheckSeen { status: CheckStatus::Critical, output };
                consul.failing.insert(registration.id.clone(), since);
            }
            for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                for instance in catalog.instances.iter_mut().filter(|i| i.container.as_deref() == Some(&id)) {
                    instance.passing = false;
                }
                catalog.shrunk_at = now;
            }
        }
        ["critical", name] => {
            let id = replica(world, name).id.clone();
            let consul = world.consul.known_mut().expect("Consul is known");
            for registration in consul.registrations.values_mut().filter(|r| r.container == id) {
                let declared = format!("{}:declared", registration.id);
                registration.checks.get_mut(&declared).expect("a declared check").status = CheckStatus::Critical;
            }
            for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                for instance in catalog.instances.iter_mut().filter(|i| i.container.as_deref() == Some(&id)) {
                    instance.passing = false;
                }
                catalog.shrunk_at = now;
            }
        }
        // The agent was restarted: no check has run yet, and the other members have not heard of the node again.
        ["unheard", name] => {
            let id = replica(world, name).id.clone();
            let consul = world.consul.known_mut().expect("Consul is known");
            for registration in consul.registrations.values_mut().filter(|r| r.container == id) {
                for (_, check) in &mut registration.checks {
                    *check = CheckSeen { status: CheckStatus::Critical, output: String::new() };
                }
            }
            for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                for instance in catalog.instances.iter_mut().filter(|i| i.container.as_deref() == Some(&id)) {
                    (instance.passing, instance.doubtful) = (false, true);
                }
                catalog.shrunk_at = now;
            }
        }
        // nginx refuses the newest generation, and goes on with the one before it.
        ["nginx-refuses", words @ ..] => {
            let nginx = world.nginx.known_mut().expect("nginx is known");
            let refused = nginx.current.clone().expect("there is a generation");
            let others = nginx.generations.iter().filter(|(id, _)| **id != refused);
            // Made in the same moment: the one that routes more came later.
            let before = others.max_by_key(|(_, one)| (one.created_at, routes(one))).map(|(id, _)| id.clone());
            let generation = nginx.generations.get_mut(&refused).expect("it is there");
            generation.rejected = Some(Rejection { message: words.join(" "), at: now, stage: Stage::Check });
            nginx.current = before.clone();
            nginx.loaded = before.map_or(Loaded::Nothing, Loaded::Generation);
        }
        // Somebody has switched `current` to the oldest generation; nginx was not told.
        ["switched-back"] => {
            let nginx = world.nginx.known_mut().expect("nginx is known");
            let others = nginx.generations.iter().filter(|(id, _)| nginx.current.as_ref() != Some(*id));
            // Of one moment, the one that routes more: with the hash as a judge, what is found would depend on the template.
            let oldest = others.min_by_key(|(_, one)| (one.created_at, Reverse(routes(one))));
            nginx.current = oldest.map(|(id, _)| id.clone());
        }
        // It was good and bad too often, and must be good for so many seconds more.
        ["flapping", name, seconds] => {
            let id = replica(world, name).id.clone();
            let until = now + SignedDuration::from_secs(seconds.parse().expect("a number of seconds"));
            world.docker.known_mut().expect("Docker is known").flapping.insert(id, until);
        }
        ["no-lua", words @ ..] => {
            world.nginx.known_mut().expect("nginx is known").lua = Err(words.join(" "));
        }
        // The user's own `http` block has an `error_page` or the like, or a `lua_malloc_trim`.
        ["http-block", what] => {
            let nginx = world.nginx.known_mut().expect("nginx is known");
            nginx.http = HttpBlock { trims: *what == "trims", meddles: *what == "meddles" };
        }
        // The file that nginx reads at its start; or nginx lost what was sent to it.
        ["endpoints", what] => {
            let nginx = world.nginx.known_mut().expect("nginx is known");
            let current = nginx.current.clone().expect("there is a generation");
            let generation = nginx.generations.get_mut(&current).expect("it is there");
            let seen = generation.endpoints.as_mut().expect("Lua balances it");
            match *what {
                "edited" => seen.file = None,
                "unsent" => seen.loaded = Some("000000000000".to_owned()),
                other => panic!("nobody knows how endpoints are {other}"),
            }
        }
        ["edited", file] => {
            let nginx = world.nginx.known_mut().expect("nginx is known");
            let current = nginx.current.clone().expect("there is a generation");
            let generation = nginx.generations.get_mut(&current).expect("it is there");
            generation.damaged.push((*file).to_owned());
        }
        ["stranger", name, "port", port] => stranger(world, name, Some(port.parse().expect("a port"))),
        ["stranger", name] => stranger(world, name, None),
        ["listen-taken", port] => {
            let port = port.parse().expect("a port");
            let nginx = world.nginx.known_mut().expect("nginx is known");
            let listen = reeve::spec::upstream::Listen { address: None, port };
            let taken = reeve::observed::ListenState::Taken("Address already in use (os error 98)".to_owned());
            nginx.listens.insert(listen, taken);
        }
        ["peers", names @ ..] => {
            let addresses: Vec<String> = names
                .iter()
                .map(|name| {
                    let container = replica(world, name);
                    let own = container.networks.values().find_map(|network| network.address).expect("an address");
                    format!("{own}:8300")
                })
                .collect();
            let consul = world.consul.known_mut().expect("Consul is known");
            consul.leader = addresses.first().cloned();
            consul.peers = addresses;
        }
        ["foreign", service, address, port] => {
            let consul = world.consul.known_mut().expect("Consul is known");
            let instance = reeve::observed::Instance {
                id: format!("{service}-{address}"),
                node: "other".to_owned(),
                address: (*address).to_owned(),
                port: port.parse().expect("a port"),
                passing: true,
                doubtful: false,
                maintenance: false,
                weight: 1,
                owner: None,
                container: None,
                trouble: None,
            };
            for (query, view) in &mut consul.catalog {
                if let (true, Some(catalog)) = (query.service == *service, view.known_mut()) {
                    catalog.instances.push(instance.clone());
                }
            }
        }
        // A container that nobody marked, with a port and variables.
        ["discovered", name, ports, variables @ ..] => {
            let (host, target) = ports.split_once(':').expect("HOST:CONTAINER");
            let (host, target) = (host.parse().expect("a port"), target.parse().expect("a port"));
            let tcp = reeve::spec::Protocol::Tcp;
            let any = Some(IpAddr::from([0, 0, 0, 0]));
            let variables = variables.iter().filter_map(|pair| pair.split_once('='));
            let container = Discovered {
                id: format!("{name}-id"),
                name: (*name).to_owned(),
                image: format!("localhost/{name}:1"),
                variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                exposed: vec![(target, tcp)],
                published: vec![PublishedPort { target, protocol: tcp, host_ip: any, host }],
                networks: reeve::observed::Networks::new(),
                network_mode: "bridge".to_owned(),
                state: ContainerState::Running { started_at: now },
                health: Health::None,
                stopping: None,
                unreadable: None,
            };
            world.docker.known_mut().expect("Docker is known").discovered.insert(container.id.clone(), container);
        }
        ["discovered-stopping", name] => discovered(world, name).stopping = Some(now),
        ["discovered-unreadable", name] => {
            let container = discovered(world, name);
            container.unreadable = Some(format!("container {name} cannot be inspected: it hangs"));
            container.published.clear();
        }
        ["discovered-unhealthy", name] => discovered(world, name).health = Health::Unhealthy("GET /: 500".to_owned()),
        ["discovered-healthy", name] => discovered(world, name).health = Health::Healthy,
        ["discovered-gone", name] => {
            let id = discovered(world, name).id.clone();
            world.docker.known_mut().expect("Docker is known").discovered.remove(&id);
        }
        ["unmarked-registration", id, name] => {
            let stranger = StrangerRegistration { name: (*name).to_owned(), owner: None };
            world.consul.known_mut().expect("Consul is known").strangers.insert((*id).to_owned(), stranger);
        }
        ["agent-lost-its-state"] => {
            let consul = world.consul.known_mut().expect("Consul is known");
            consul.registrations.clear();
            for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
                catalog.instances.clear();
                catalog.shrunk_at = now;
            }
        }
        other => panic!("nobody knows how to do this to a world: {other:?}"),
    }
}

fn stranger(world: &mut Observed, name: &str, port: Option<u16>) {
    let published = port.map(|host| PublishedPort {
        target: 80,
        protocol: reeve::spec::Protocol::Tcp,
        host_ip: Some(IpAddr::from([0, 0, 0, 0])),
        host,
    });
    let stranger = Stranger {
        name: name.to_owned(),
        owner: None,
        running: true,
        published: published.into_iter().collect(),
        networks: reeve::observed::Networks::new(),
    };
    world.docker.known_mut().expect("Docker is known").strangers.insert(format!("id-{name}"), stranger);
}
