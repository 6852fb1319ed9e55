//! What no plan may contain, whatever the world.

use std::collections::BTreeSet;

use jiff::Timestamp;
use reeve::observed::{GenerationId, Loaded, Observed};
use reeve::plan::{Action, ConsulAction, DockerAction, NginxAction, Plan, System};
use reeve::spec::Spec;

/// What no plan may contain, whatever the world.
pub fn lint(spec: &Spec, world: &Observed, plan: &Plan, now: Timestamp) -> Vec<String> {
    let mut faults = Vec::new();
    let docker = world.docker.known();
    let consul = world.consul.known();
    let nginx = world.nginx.known();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    let mut ports: BTreeSet<u16> = BTreeSet::new();
    let mut registered: BTreeSet<&str> = BTreeSet::new();
    let mut deregistered: BTreeSet<&str> = BTreeSet::new();
    let mut withdrawn: BTreeSet<&str> = BTreeSet::new();
    let mut written: BTreeSet<&GenerationId> = nginx.into_iter().flat_map(|nginx| nginx.generations.keys()).collect();
    let mut reloads = 0;
    let mut seen: Vec<&Action> = Vec::new();
    for step in &plan.steps {
        let readable = match step.action.system() {
            System::Docker => docker.is_some(),
            System::Consul => consul.is_some(),
            System::Nginx => nginx.is_some(),
            System::Directory => world.directory.known().is_some(),
            // Each template has a view of its own.
            System::Templates => true,
        };
        let mut say = |words: String| faults.push(format!("{}: {}: {words}", step.object, step.action.kind()));
        if !readable {
            say("its backend cannot be read".to_owned());
        }
        if step.cause.is_empty() {
            say("without a cause".to_owned());
        }
        if seen.contains(&&step.action) {
            say("twice".to_owned());
        }
        seen.push(&step.action);
        let container = |id: &str| docker.and_then(|docker| docker.containers.get(id));
        match &step.action {
            Action::Docker(DockerAction::CreateContainer(new)) => {
                if !names.insert(&new.name) {
                    say(format!("two containers get the name {}", new.name));
                }
                if !spec.services.get(&new.service).is_some_and(|s| (1..=s.replicas).contains(&new.slot)) {
                    say(format!("{} has no slot {}", new.service, new.slot));
                }
                for port in new.host_ports.iter().map(|port| port.host).filter(|port| *port != 0) {
                    let held = docker.into_iter().flat_map(|docker| docker.strangers.values());
                    let held = held.flat_map(|stranger| &stranger.published).any(|published| published.host == port);
                    if held || !ports.insert(port) {
                        say(format!("host port {port} is taken"));
                    }
                }
            }
            Action::Docker(DockerAction::StartContainer { container: id, .. })
                if container(id).is_none() && !names.contains(id.as_str()) =>
            {
                say(format!("{id} is not there, and not made before"));
            }
            Action::Docker(DockerAction::StopContainer { id, .. } | DockerAction::RemoveContainer { id, .. }) => {
                if container(id).is_none() {
                    say(format!("{id} is not ours"));
                }
                let routed = nginx.and_then(|nginx| match &nginx.loaded {
                    Loaded::Generation(id) => nginx.generations.get(id),
                    _ => None,
                });
                let endpoints =
                    routed.into_iter().flat_map(|g| g.manifest.upstreams.values()).flat_map(|r| &r.endpoints);
                let runs = container(id).is_some_and(|container| container.state.running());
                if runs && endpoints.into_iter().any(|endpoint| endpoint.container.as_deref() == Some(id)) {
                    say("nginx routes to it".to_owned());
                }
            }
            Action::Consul(ConsulAction::Register(new)) => {
                registered.insert(&new.id);
                if container(&new.container).is_none_or(|container| !container.state.running()) {
                    say("its container does not run".to_owned());
                }
                if withdrawn.contains(new.container.as_str()) {
                    say("its container leaves in the same wave".to_owned());
                }
            }
            Action::Consul(ConsulAction::Deregister { id }) => {
                deregistered.insert(id);
            }
            Action::Consul(ConsulAction::Drain { id, .. }) => {
                match consul.and_then(|consul| consul.registrations.get(id)) {
                    Some(registration) => {
                        withdrawn.insert(&registration.container);
                    }
                    None => say("it is not ours".to_owned()),
                }
            }
            Action::Nginx(NginxAction::WriteGeneration(new)) => {
                if !written.insert(&new.id) {
                    say(format!("{} is there already", new.id));
                }
                if new.files.is_empty() {
                    say("it has no files".to_owned());
                }
            }
            Action::Nginx(NginxAction::SwitchGeneration { id }) if !written.contains(id) => {
                say(format!("{id} is not there, and not written before"));
            }
            Action::Nginx(NginxAction::Reload { .. } | NginxAction::Start { .. }) => {
                reloads += 1;
                if reloads > 1 {
                    say("a second reload".to_owned());
                }
            }
            _ => {}
        }
    }
    for id in registered.intersection(&deregistered) {
        faults.push(format!("{id} is registered and deregistered in one wave"));
    }
    for waiting in &plan.waiting {
        if waiting.reason.is_empty() || waiting.kind.is_empty() {
            faults.push(format!("{} waits without a reason", waiting.object));
        }
        if waiting.until.is_some_and(|until| until <= now) {
            faults.push(format!("{} waits until a time that is past: {}", waiting.object, waiting.reason));
        }
    }
    faults
}
