//! What a pass must not leave undone: judged over the whole wave, where the oracle judges what is done.

use reeve::observed::{CheckStatus, Health, ListenState, Loaded, Maintenance, Probe};
use reeve::plan::action::{Action, ConsulAction};
use reeve::plan::{Step, System};
use reeve::spec::Spec;

use crate::measure::{fit, passes, replaced_networks};
use crate::oracle::{Verdict, ensure, turned_back};
use crate::state::State;

/// Judged when everything can be seen.
pub fn undone(state: &State, spec: &Spec, steps: &[Step]) -> Verdict {
    if state.hidden.any() {
        return Ok(());
    }
    let consul = state.consul();
    let nginx = state.nginx();
    // Who died is unrouted in the pass that sees it.
    let hindered = state.refuses
        || !nginx.included
        || nginx.listens.values().any(|listen| *listen != ListenState::Free)
        || nginx.generations.values().any(|generation| generation.rejected.is_some())
        || !matches!(nginx.loaded, Loaded::Generation(_))
        || !state.content_seen()
        || !state.nginx_runs();
    let acts = steps.iter().any(|step| step.action.system() == System::Nginx);
    if !hindered && !acts {
        for (upstream, id) in state.routes() {
            let keeps = spec
                .upstreams
                .get(upstream)
                .is_some_and(|upstream| upstream.when_empty == reeve::spec::upstream::WhenEmpty::Keep);
            let dead = state.container(id).is_none_or(|container| !container.state.running());
            ensure(keeps || !dead, format!("{upstream} goes on routing to {id}, which is dead"))?;
        }
    }
    // Nobody passes by what another container earned.
    let about = |id: &str| {
        steps.iter().any(|step| match &step.action {
            Action::Consul(
                ConsulAction::Deregister { id: own }
                | ConsulAction::SetHealth { id: own, .. }
                | ConsulAction::Drain { id: own, .. },
            ) => own == id,
            Action::Consul(ConsulAction::Register(new)) => new.id == id,
            _ => false,
        })
    };
    for registration in consul.registrations.values() {
        let gone = state.container(&registration.container).is_none();
        let believed = registration.maintenance == Maintenance::Off && passes(registration);
        if gone && believed && !about(&registration.id) {
            return Err(format!("{} passes in Consul, and its container is gone", registration.id));
        }
    }
    // Nobody is sent where the container is not any more: started again, it may have another port.
    for registration in consul.registrations.values().filter(|r| r.maintenance == Maintenance::Off && passes(r)) {
        let Some(container) = state.container(&registration.container).filter(|c| c.state.running()) else { continue };
        let there = container.published.iter().any(|published| published.host == registration.port);
        let fits = consul.leader.is_some() && fit(container) && !container.published.is_empty();
        if fits && !there && !about(&registration.id) {
            return Err(format!("Consul gives out {}, which is not there any more", registration.id));
        }
    }
    // What an agent lost is back in one pass.
    if consul.leader.is_some() {
        let replaced = replaced_networks(state, spec);
        for container in state.docker().containers.values() {
            let Some(service) = spec.services.get(&container.service) else { continue };
            let declared = service.register.iter().any(|register| register.check.is_some());
            let healthy = container.state.running()
                && match container.health {
                    Health::Healthy => true,
                    Health::None => !declared || container.probe == Some(Probe::Passing),
                    Health::Starting | Health::Unhealthy(_) => false,
                };
            let alone = state
                .docker()
                .containers
                .values()
                .filter(|other| other.service == container.service && other.slot == container.slot)
                .count()
                == 1;
            let image = state.docker().images.get(&service.config.image);
            let wanted = service.hash == container.hash
                && !turned_back(state, service)
                && container.slot <= service.replicas
                && image.is_none_or(|image| image.id == container.image_id);
            let registered = consul.registrations.values().any(|r| r.container == container.id);
            // Docker cannot change a network in place: everything on it has to go.
            let stays = service.config.networks.keys().all(|name| !replaced.contains(name));
            let lost = !service.register.is_empty() && healthy && alone && wanted && stays && !registered;
            let makes = steps.iter().any(|step| match &step.action {
                Action::Consul(ConsulAction::Register(new)) => new.container == container.id,
                _ => false,
            });
            // The name may still be that of another container, or a stranger's.
            let id = format!(":{}:", container.name);
            let free = !consul.registrations.keys().chain(consul.strangers.keys()).any(|known| known.contains(&id));
            if lost && free && !makes {
                return Err(format!("{} is healthy, and nobody registers it", container.name));
            }
        }
    }
    // The agent's word is the HEALTHCHECK's.
    for registration in consul.registrations.values() {
        let Some(check) = registration.checks.get(&format!("{}:health", registration.id)) else { continue };
        let Some(container) = state.container(&registration.container) else { continue };
        let unhealthy = container.state.running() && matches!(container.health, Health::Unhealthy(_));
        let draining = registration.maintenance != Maintenance::Off;
        if unhealthy && check.status == CheckStatus::Passing && !draining && !about(&registration.id) {
            return Err(format!("{} is unhealthy, and Consul is not told", container.name));
        }
    }
    Ok(())
}
