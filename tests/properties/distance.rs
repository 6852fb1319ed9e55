//! How far a world is from what the spec wants: every wave must lessen it.

use reeve::observed::{Container, ContainerState, Health, Loaded, Maintenance, NginxProcess, Observed, Probe};
use reeve::spec::Spec;

/// How much is missing until the world is what the spec says: each replica, registration and route by how far it has come.
pub fn distance(spec: &Spec, world: &Observed) -> u64 {
    let (Some(docker), Some(consul), Some(nginx)) = (world.docker.known(), world.consul.known(), world.nginx.known())
    else {
        return u64::MAX;
    };
    let mut sum = 0_u64;
    let mut add = |weight: u64, count: usize| sum += weight * u64::try_from(count).expect("few");
    let current = |container: &Container| {
        spec.services.get(&container.service).is_some_and(|service| {
            let image = docker.images.get(&service.config.image);
            container.hash == service.hash
                && (1..=service.replicas).contains(&container.slot)
                && image.is_none_or(|image| image.id == container.image_id)
        })
    };
    let fit = |container: &Container| {
        container.state.running()
            && match container.health {
                Health::Healthy => true,
                Health::None => !matches!(container.probe, Some(Probe::Failing(_))),
                Health::Starting | Health::Unhealthy(_) => false,
            }
    };
    let loaded = match &nginx.loaded {
        Loaded::Generation(id) => nginx.generations.get(id),
        _ => None,
    };
    let routes = || loaded.into_iter().flat_map(|generation| generation.manifest.upstreams.values());
    let endpoints = || routes().flat_map(|routed| &routed.endpoints);
    // How far each container that leaves has come: drained, unrouted, its clock started, stopped.
    for container in docker.containers.values().filter(|container| !current(container)) {
        let ours = || consul.registrations.values().filter(|r| r.container == container.id);
        let runs = !matches!(container.state, ContainerState::Exited { .. } | ContainerState::Created);
        add(64, 1 + usize::from(runs));
        add(64, ours().filter(|r| r.maintenance == Maintenance::Off).count());
        add(16, ours().filter(|r| r.drain_start.is_none()).count());
        // One that somebody deregistered is registered first, so that it goes on serving until others do.
        let registers = spec.services.get(&container.service).map_or(0, |service| service.register.len());
        add(96, if runs && ours().next().is_none() { registers } else { 0 });
        add(12, endpoints().filter(|endpoint| endpoint.container.as_ref() == Some(&container.id)).count());
    }
    for service in spec.services.values() {
        for slot in 1..=service.replicas {
            let ours = || docker.containers.values().filter(|c| c.service == service.name && c.slot == slot);
            let filled: Vec<&Container> = ours().filter(|container| current(container)).collect();
            let Some(container) = filled.first() else {
                add(640 + 128 * u64::try_from(service.register.len()).expect("few"), 1);
                continue;
            };
            add(256, filled.len() - 1);
            add(256, usize::from(!container.state.running()));
            add(32, usize::from(!fit(container)));
            for register in &service.register {
                let own =
                    consul.registrations.values().find(|r| r.name == register.name && r.container == container.id);
                let published = container.published.iter().find(|published| published.target == register.port);
                let Some(registration) = own else {
                    add(128, 1);
                    continue;
                };
                add(
                    64,
                    usize::from(registration.maintenance != Maintenance::Off || registration.tags != register.tags),
                );
                add(32, usize::from(published.is_none_or(|published| published.host != registration.port)));
                let asking = spec
                    .upstreams
                    .values()
                    .filter(|upstream| upstream.query.as_ref().is_some_and(|query| query.service == register.name));
                for upstream in asking {
                    let routed = loaded.and_then(|generation| generation.manifest.upstreams.get(&upstream.name));
                    let here = routed.is_some_and(|routed| {
                        routed.endpoints.iter().any(|endpoint| {
                            endpoint.container.as_ref() == Some(&container.id) && endpoint.port == registration.port
                        })
                    });
                    // Routed while it is fit, and only then.
                    add(12, usize::from(here != fit(container)));
                }
            }
        }
    }
    add(64, consul.registrations.values().filter(|r| !docker.containers.contains_key(&r.container)).count());
    let dead = |id: &String| docker.containers.get(id).is_none_or(|container| !container.state.running());
    add(12, endpoints().filter(|endpoint| endpoint.container.as_ref().is_some_and(dead)).count());
    add(64, spec.networks.keys().filter(|name| !docker.networks.contains_key(*name)).count());
    add(64, spec.volumes.keys().filter(|name| !docker.volumes.contains_key(*name)).count());
    let gone = docker.networks.values().filter(|seen| seen.ours && !spec.networks.contains_key(&seen.name));
    add(64, gone.count());
    let missing = spec.upstreams.values().filter(|upstream| {
        !loaded.is_some_and(|g| {
            g.manifest.upstreams.get(&upstream.name).is_some_and(|routed| *routed.upstream == **upstream)
        })
    });
    add(12, missing.count());
    add(12, routes().filter(|routed| !spec.upstreams.contains_key(&routed.upstream.name)).count());
    add(24, usize::from(nginx.process == NginxProcess::Stopped));
    let in_force = nginx.current.as_ref().and_then(|id| nginx.generations.get(id));
    let intact = in_force.is_some_and(|generation| generation.damaged.is_empty() && generation.rejected.is_none());
    let same = matches!(&nginx.loaded, Loaded::Generation(id) if nginx.current.as_ref() == Some(id));
    add(8, usize::from(!intact) + usize::from(!same));
    add(1, nginx.generations.len().saturating_sub(6).min(4));
    sum
}
