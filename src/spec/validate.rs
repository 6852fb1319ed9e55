//! What several parts of a spec must hold together: references, ports, dependencies, upstreams against services.
//!
//! Owns the checks that need more than one object. It must not look at the world: what is judged here can be judged offline.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::container::{NetworkMode, Port, Protocol, Published};
use super::diagnostic::{Diagnostic, Report};
use super::read::{DependencyPlaces, Draft, Drafted, HealthDeclared};
use super::suggest::did_you_mean;
use super::tree::{Place, shown};
use super::{CheckAddress, CheckKind, DependencyCondition, RegisterAddress};

/// Checks the whole draft and marks the jobs. `probe`: where nginx tells its generation; nothing else may listen there.
pub fn validate(draft: &mut Draft, probe: Option<SocketAddr>, report: &mut Report) {
    mark_jobs(draft);
    for drafted in draft.services.values() {
        alone(drafted, report);
        dependencies(drafted, draft, report);
        registrations(drafted, report);
    }
    names(draft, report);
    cycles(draft, report);
    host_ports(draft, probe, report);
    upstreams(draft, probe, report);
}

fn mark_jobs(draft: &mut Draft) {
    let jobs: BTreeSet<String> = draft
        .services
        .values()
        .filter(|drafted| drafted.active)
        .flat_map(|drafted| &drafted.service.depends_on)
        .filter(|(_, dependency)| dependency.condition == DependencyCondition::CompletedSuccessfully)
        .map(|(name, _)| name.clone())
        .collect();
    for (name, drafted) in &mut draft.services {
        drafted.service.job = jobs.contains(name);
    }
}

/// What one service says that does not go together with its number of replicas.
fn alone(drafted: &Drafted, report: &mut Report) {
    let replicas = drafted.service.replicas;
    if replicas < 2 {
        return;
    }
    for (key, place) in &drafted.single {
        let message = format!("`{key}` with {replicas} replicas");
        report.error_help(place, message, "only one container can have it; take it out, or keep one replica");
    }
    for (port, place) in &drafted.ports {
        if let Published::Range { first, last } = port.published {
            let room = u32::from(last - first) + 1;
            if room < replicas {
                let message = match room {
                    1 => format!("host port {first} for {replicas} replicas"),
                    _ => format!("{room} host ports ({first}-{last}) for {replicas} replicas"),
                };
                let wanted = u32::from(first) + replicas - 1;
                let help = match wanted <= 65_535 {
                    true => format!("each replica needs one of its own: `{first}-{wanted}:{}`", port.target),
                    false => "each replica needs one of its own".to_owned(),
                };
                report.error_help(place, message, help);
            }
        }
    }
}

fn dependencies(drafted: &Drafted, draft: &Draft, report: &mut Report) {
    let name = &drafted.service.name;
    for (target, dependency) in &drafted.service.depends_on {
        let Some(places) = drafted.depends.get(target) else { continue };
        let place = &places.name;
        if target == name {
            report.error(place, format!("the service `{}` depends on itself", shown(name)));
            continue;
        }
        let Some(other) = draft.services.get(target) else {
            let message = format!("the service `{}` is not declared", shown(target));
            let help = did_you_mean(target, draft.services.keys().map(String::as_str));
            match (dependency.required, help) {
                (false, _) => {}
                (true, Some(help)) => report.error_help(place, message, help),
                (true, None) => report.error(place, message),
            }
            continue;
        };
        if drafted.active && !other.active && dependency.required {
            let message = format!("`{name}` needs `{target}`, which is off");
            let first = other.profiles.first().map_or("", String::as_str);
            let help = format!(
                "turn a profile of it on (`COMPOSE_PROFILES={}` in the environment or in `.env`), or write `required: false`",
                shown(first)
            );
            report.error_help(place, message, help);
        }
        match (dependency.condition, other.health) {
            (DependencyCondition::Healthy, HealthDeclared::Disabled) => {
                let message = format!("`{target}` can never be healthy: its healthcheck is disabled");
                report.error_help(&places.condition, message, "give it a healthcheck, or wait for `service_started`");
            }
            (DependencyCondition::Healthy, HealthDeclared::No) => {
                let message = format!("`{target}` has no healthcheck in the spec");
                let help = "it becomes healthy only if its image brings one; else give it a `healthcheck`";
                report.warning(&places.condition, message, help);
            }
            (DependencyCondition::Healthy, HealthDeclared::Yes)
            | (DependencyCondition::Started | DependencyCondition::CompletedSuccessfully, _) => {}
        }
        if drafted.shares.as_ref().is_some_and(|(shared, _)| shared == target) && other.service.replicas > 1 {
            let message = format!("`{target}` has {} replicas, whose networks differ", other.service.replicas);
            report.error_help(place, message, "a shared network needs a service with one replica");
        }
    }
}

fn registrations(drafted: &Drafted, report: &mut Report) {
    let service = &drafted.service;
    for (register, places) in service.register.iter().zip(&drafted.registers) {
        if service.job {
            let message = format!("`{}` is a job, which ends; it cannot be registered", service.name);
            let help = "some service depends on it with `service_completed_successfully`; take `register` out";
            report.error_help(&places.all, message, help);
            continue;
        }
        let published =
            drafted.ports.iter().any(|(port, _)| (port.target, port.protocol) == (register.port, register.protocol));
        let host = service.config.network_mode == Some(NetworkMode::Host);
        let own = match &service.config.network_mode {
            None | Some(NetworkMode::Bridge) => true,
            Some(NetworkMode::Host | NetworkMode::None | NetworkMode::Service(_) | NetworkMode::Container(_)) => false,
        };
        match &register.address {
            RegisterAddress::Published if !published && !host => {
                let message = format!("port {}/{} is not published", register.port, register.protocol);
                let help = format!(
                    "publish it with `ports: [\"{}\"]`, or register another `address`: `container`, or an IP",
                    register.port
                );
                report.error_help(&places.port, message, help);
            }
            RegisterAddress::Container if !own => {
                let help = "register `published`, or an IP";
                report.error_help(&places.address, "the container has no address of its own to register", help);
            }
            RegisterAddress::Container => {
                let message = "the address of a container changes when it is restarted";
                let help = "after a reboot nginx may route to the wrong container until reeve runs; publish the port, \
                            or give a fixed `ipv4_address`";
                let fixed = service.config.networks.values().any(|network| network.ipv4_address.is_some());
                if !fixed {
                    report.warning(&places.address, message, help);
                }
            }
            RegisterAddress::Published | RegisterAddress::Fixed(_) => {}
        }
        let through_proxy = match &register.address {
            RegisterAddress::Published | RegisterAddress::Fixed(_) => published,
            RegisterAddress::Container => false,
        };
        if let Some(check) = &register.check {
            let registered = check.address == CheckAddress::Registered;
            if matches!(check.kind, CheckKind::Tcp) && registered && through_proxy {
                let message = "a TCP check of a published port always passes";
                let help = "docker-proxy accepts with nothing listening behind it: check `http`, or \
                            `address: container`";
                report.error_help(&places.check, message, help);
            }
            if check.address == CheckAddress::Container && !own {
                let help = "check the `registered` address";
                report.error_help(&places.check, "the container has no address of its own to check", help);
            }
        }
    }
}

/// Two services with one container's name.
fn names(draft: &Draft, report: &mut Report) {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, drafted) in &draft.services {
        let Some(container) = &drafted.service.config.container_name else { continue };
        if !drafted.active {
            continue;
        }
        if let Some(other) = seen.insert(container, name)
            && let Some((_, place)) = drafted.single.iter().find(|(key, _)| *key == "container_name")
        {
            report.error(place, format!("the services `{other}` and `{name}` have one container's name"));
        }
    }
}

fn cycles(draft: &Draft, report: &mut Report) {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in draft.services.keys() {
        let mut path: Vec<&str> = Vec::new();
        // Depth first without recursion: a name and the dependencies of it that are still to be visited.
        let mut stack: Vec<(&str, Vec<&str>)> = vec![(start, targets(draft, start))];
        while let Some((name, mut rest)) = stack.pop() {
            if !path.contains(&name) {
                path.push(name);
            }
            let Some(next) = rest.pop() else {
                path.retain(|known| *known != name);
                done.insert(name);
                continue;
            };
            stack.push((name, rest));
            if next != name
                && let Some(at) = path.iter().position(|known| *known == next)
            {
                let circle: Vec<&str> = path[at..].iter().copied().chain([next]).collect();
                let place = draft.services.get(name).and_then(|drafted| drafted.depends.get(next));
                if let Some(DependencyPlaces { name: place, .. }) = place {
                    let message = format!("services depend on each other in a circle: {}", circle.join(" -> "));
                    report.error_help(place, message, "none of them could be started first; break the circle here");
                }
            } else if next != name && !done.contains(next) {
                stack.push((next, targets(draft, next)));
            }
        }
    }
}

/// Dependencies that are declared, in an order that makes the first be visited first.
fn targets<'a>(draft: &'a Draft, name: &str) -> Vec<&'a str> {
    let Some(drafted) = draft.services.get(name) else { return Vec::new() };
    let keys = drafted.service.depends_on.keys().rev();
    keys.filter_map(|key| draft.services.get_key_value(key)).map(|(key, _)| key.as_str()).collect()
}

/// One use of host ports.
struct Use<'a> {
    service: &'a str,
    port: &'a Port,
    first: u16,
    last: u16,
    place: &'a Place,
}

fn uses(draft: &Draft) -> Vec<Use<'_>> {
    let mut uses = Vec::new();
    for (name, drafted) in draft.services.iter().filter(|(_, drafted)| drafted.active) {
        for (port, place) in &drafted.ports {
            if let Published::Range { first, last } = port.published {
                uses.push(Use { service: name, port, first, last, place });
            }
        }
    }
    // In the order in which they stand, so that the second one is to blame.
    uses.sort_by_key(|used| (used.first, used.place.line(), used.place.column()));
    uses
}

fn host_ports(draft: &Draft, probe: Option<SocketAddr>, report: &mut Report) {
    let uses = uses(draft);
    for (at, used) in uses.iter().enumerate() {
        // Sorted by the first port: what begins after the end cannot meet it. Bounded by what overlaps.
        for other in uses[at + 1..].iter().take_while(|other| other.first <= used.last) {
            if used.port.protocol != other.port.protocol || !addresses_meet(used.port.host_ip, other.port.host_ip) {
                continue;
            }
            let (early, late) =
                match (used.place.line(), used.place.column()) <= (other.place.line(), other.place.column()) {
                    true => (used, other),
                    false => (other, used),
                };
            let port = used.first.max(other.first);
            let message = match early.service == late.service {
                true => format!("host port {port}/{} is published twice by `{}`", used.port.protocol, late.service),
                false => {
                    let protocol = used.port.protocol;
                    format!("host port {port}/{protocol} is published by `{}` already", early.service)
                }
            };
            let help = format!("`{}` has it in line {} of {}", early.service, early.place.line(), early.place.file());
            report.error_help(late.place, message, help);
            // One is enough: with many on one port, all pairs of them would say nothing more.
            break;
        }
        if let Some(probe) = probe
            && used.port.protocol == Protocol::Tcp
            && (used.first..=used.last).contains(&probe.port())
            && addresses_meet(used.port.host_ip, Some(probe.ip()))
        {
            let message = format!("host port {} is where nginx tells its generation", probe.port());
            report.error_help(
                used.place,
                message,
                format!("choose another port, or another `nginx.probe` than {probe}"),
            );
        }
    }
}

/// Can a socket on one of the addresses keep one on the other from being opened?
fn addresses_meet(a: Option<IpAddr>, b: Option<IpAddr>) -> bool {
    match (a, b) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified())),
    }
}

fn upstreams(draft: &Draft, probe: Option<SocketAddr>, report: &mut Report) {
    let uses = uses(draft);
    let registered: BTreeSet<&str> = draft
        .services
        .values()
        .flat_map(|drafted| &drafted.service.register)
        .map(|register| register.name.as_str())
        .collect();
    // By the order in which they stand, so that the later one is to blame.
    let mut all: Vec<_> = draft.upstreams.values().collect();
    all.sort_by_key(|drafted| (drafted.place.file().to_owned(), drafted.place.line(), drafted.place.column()));
    for (at, drafted) in all.iter().enumerate() {
        let upstream = &drafted.upstream;
        let listen = upstream.listen;
        for used in &uses {
            if used.port.protocol == Protocol::Tcp
                && (used.first..=used.last).contains(&listen.port)
                && addresses_meet(used.port.host_ip, listen.address)
            {
                let message = format!("nginx cannot listen on {listen}: `{}` publishes this port", used.service);
                let help = format!("it does so in line {} of {}", used.place.line(), used.place.file());
                report.error_help(&drafted.listen, message, help);
            }
        }
        if let Some(probe) = probe
            && probe.port() == listen.port
            && addresses_meet(listen.address, Some(probe.ip()))
        {
            let message = format!("{listen} is where nginx tells its generation");
            report.error_help(
                &drafted.listen,
                message,
                format!("choose another port, or another `nginx.probe` than {probe}"),
            );
        }
        for other in &all[..at] {
            if other.upstream.listen == listen {
                beside(other, drafted, report);
            }
        }
        if let (Some(query), Some(place)) = (&upstream.query, &drafted.service)
            && query.datacenter.is_none()
            && !registered.contains(query.service.as_str())
        {
            let meant = did_you_mean(&query.service, registered.iter().copied());
            if meant.is_none() && draft.discovery.is_some() {
                // What discovery will find, no spec tells.
                continue;
            }
            let message = format!("no service of this spec registers `{}`", shown(&query.service));
            let help = meant.unwrap_or_else(|| "that is right if someone else registers it".to_owned());
            report.push(Diagnostic::warning(place, message).with_help(help));
        }
    }
}

/// Two upstreams on one listen address: servers by name, locations of one server by path.
fn beside(first: &super::read::DraftedUpstream, second: &super::read::DraftedUpstream, report: &mut Report) {
    let (a, b) = (&first.upstream, &second.upstream);
    let listen = b.listen;
    if a.tls.is_some() != b.tls.is_some() {
        let place = second.tls.as_ref().unwrap_or(&second.listen);
        let message =
            format!("{listen} is with TLS for one of `{}` and `{}`, and without for the other", a.name, b.name);
        report.error_help(
            place,
            message,
            "one address speaks TLS or does not: choose another `listen` for one of them",
        );
        return;
    }
    if a.server_name == b.server_name {
        if a.path == b.path {
            let message = format!("`{}` answers for {listen}, these names and `{}` already", a.name, b.path);
            report.error_help(&second.place, message, "give one of them another `listen`, `server_name` or `path`");
        } else if a.tls != b.tls {
            let place = second.tls.as_ref().unwrap_or(&second.listen);
            let message = format!("`{}` has another certificate for the same names on {listen}", a.name);
            report.error_help(place, message, "they are one server, which has one certificate");
        }
    } else if let Some(name) = a.server_name.iter().find(|name| b.server_name.contains(name)) {
        let message = format!("`{}` answers for `{name}` on {listen} too, but not for the same list of names", a.name);
        report.error_help(
            &second.server_name,
            message,
            "give both the same `server_name`, or lists with nothing in common",
        );
    }
}
