//! A service: what the spec wants of it, and each of its replicas as it is seen.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Seen, short};
use crate::history::needs;
use crate::observed::{CheckStatus, Container, ContainerState, Health, Maintenance, Registration};
use crate::plan::facts::{Facts, Fitness};
use crate::plan::order::Order;
use crate::plan::verdict::{Standing, Verdicts};
use crate::settings::format_duration;
use crate::spec::{CheckKind, DependencyCondition, FailureAction, Register, RegisterAddress, Service, UpdateOrder};
use crate::status::{ServiceStatus, Status, WaitingStatus};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceExplanation {
    pub name: String,
    /// None: the spec does not have it any more.
    pub wanted: Option<ServiceWanted>,
    /// The same figures, and what waits, as in `status`.
    pub status: ServiceStatus,
    /// By slot. None: Docker cannot be read.
    pub replicas: Option<Vec<ReplicaSeen>>,
    /// Upstreams that ask Consul for what it registers.
    pub upstreams: Vec<String>,
    /// What it is made from, as it prints: `image localhost/web:1`, its networks and volumes.
    #[serde(default)]
    pub needs: Vec<String>,
    /// What waits for one of these.
    #[serde(default)]
    pub needs_waiting: Vec<WaitingStatus>,
    /// The configurations that served, newest first: what `reeve rollback` may go back to.
    #[serde(default)]
    pub kept: Vec<KeptVersion>,
    /// Why they cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptVersion {
    pub image: String,
    pub image_id: String,
    pub hash: String,
    /// It is what the spec says.
    pub wanted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceWanted {
    pub image: String,
    pub replicas: u32,
    pub hash: String,
    pub job: bool,
    /// `start-first` or `stop-first`, as it was decided.
    pub order: String,
    /// Why it is not start-first; empty when it is.
    pub order_reason: String,
    /// 0: all at once.
    pub parallelism: u32,
    pub delay: String,
    pub monitor: String,
    pub failure_action: String,
    pub stop_grace_period: String,
    /// One sentence for each entry in Consul.
    pub register: Vec<String>,
    /// The condition by service.
    pub depends_on: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaSeen {
    pub name: String,
    /// Of the container, shortened as Docker does it.
    pub id: String,
    pub slot: u32,
    pub hash: String,
    pub image_id: String,
    /// It is as the spec says, and stays.
    pub current: bool,
    /// Why it leaves, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves: Option<String>,
    /// `running`, `exited with code 1`, …
    pub state: String,
    /// When it got into this state, if Docker tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    pub healthy: bool,
    /// With the last output, when it is not.
    pub health: String,
    /// None: Consul cannot be read.
    pub registrations: Option<Vec<RegistrationSeen>>,
    /// Upstreams by loaded generation. None: what nginx runs cannot be read.
    pub routed: Option<BTreeMap<String, Vec<String>>>,
    pub waiting: Vec<WaitingStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationSeen {
    pub id: String,
    /// Name of the Consul service.
    pub service: String,
    /// `address:port`.
    pub address: String,
    /// `passing`, `warning`, `critical`, `draining`, `maintenance`.
    pub state: String,
    /// Of draining and maintenance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When nginx was first seen not routing to it while it drains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_start: Option<Timestamp>,
    pub checks: Vec<CheckResult>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    pub id: String,
    pub status: CheckStatus,
    pub output: String,
}

pub(super) fn explain(
    name: &str,
    seen: &Seen<'_>,
    facts: &Facts<'_>,
    status: &Status,
    verdicts: &Verdicts,
) -> Option<ServiceExplanation> {
    let service = seen.spec.services.get(name);
    let needs: Vec<String> = service.into_iter().flat_map(needs).map(|object| object.to_string()).collect();
    let needs_waiting = status.waiting.iter().filter(|waiting| needs.contains(&waiting.object)).cloned().collect();
    let status = status.services.iter().find(|one| one.name == name)?.clone();
    let mut containers: Vec<&Container> = facts.containers(name).to_vec();
    containers.sort_by_key(|container| (container.slot, container.created_at, container.id.as_str()));
    let replicas =
        containers.iter().map(|container| replica(container, service, facts, &status, verdicts)).collect::<Vec<_>>();
    Some(ServiceExplanation {
        name: name.to_owned(),
        wanted: service.map(|service| wanted(service, verdicts.orders.get(name))),
        replicas: facts.docker.map(|_| replicas),
        upstreams: upstreams(name, seen, &containers, facts),
        needs,
        needs_waiting,
        kept: kept(name, service, seen),
        kept_problem: seen.observed.directory.known().and_then(|directory| directory.unreadable.get(name).cloned()),
        status,
    })
}

fn kept(name: &str, service: Option<&Service>, seen: &Seen<'_>) -> Vec<KeptVersion> {
    let kept = seen.observed.directory.known().and_then(|directory| directory.kept.get(name));
    let image = service.and_then(|service| seen.observed.docker.known()?.images.get(&service.config.image));
    let image_id = image.map_or("", |image| image.id.as_str());
    let configurations = kept.into_iter().flat_map(|kept| std::iter::once(&kept.present).chain(&kept.before));
    configurations
        .map(|configuration| KeptVersion {
            image: configuration.service.config.image.clone(),
            image_id: short(&configuration.image_id),
            hash: configuration.service.hash.as_str().to_owned(),
            wanted: service.is_some_and(|service| configuration.is(&service.hash, image_id)),
        })
        .collect()
}

/// Those of the spec that ask for what it registers, and those that route to it.
fn upstreams(name: &str, seen: &Seen<'_>, containers: &[&Container], facts: &Facts<'_>) -> Vec<String> {
    let registered: BTreeSet<&str> = seen
        .spec
        .services
        .get(name)
        .into_iter()
        .flat_map(|service| service.register.iter().map(|register| register.name.as_str()))
        .collect();
    let asking =
        seen.spec.upstreams.values().filter(|upstream| {
            upstream.query.as_ref().is_some_and(|query| registered.contains(query.service.as_str()))
        });
    let mut names: BTreeSet<String> = asking.map(|upstream| upstream.name.clone()).collect();
    for container in containers {
        names.extend(facts.upstreams_of(container).map(str::to_owned));
    }
    names.into_iter().collect()
}

fn wanted(service: &Service, order: Option<&Order>) -> ServiceWanted {
    let update = &service.update;
    ServiceWanted {
        image: service.config.image.clone(),
        replicas: service.replicas,
        hash: service.hash.as_str().to_owned(),
        job: service.job,
        order: match order.map(|order| order.order) {
            Some(UpdateOrder::StopFirst) => "stop-first",
            Some(UpdateOrder::StartFirst) | None => "start-first",
        }
        .to_owned(),
        order_reason: order.map(|order| order.reason.clone()).unwrap_or_default(),
        parallelism: update.parallelism,
        delay: format_duration(update.delay),
        monitor: format_duration(update.monitor),
        failure_action: match update.failure_action {
            FailureAction::Pause => "pause",
            FailureAction::Continue => "continue",
            FailureAction::Rollback => "rollback",
        }
        .to_owned(),
        stop_grace_period: format_duration(service.stop_grace_period),
        register: service.register.iter().map(register).collect(),
        depends_on: service
            .depends_on
            .iter()
            .map(|(name, dependency)| {
                let condition = match dependency.condition {
                    DependencyCondition::Started => "started",
                    DependencyCondition::Healthy => "healthy",
                    DependencyCondition::CompletedSuccessfully => "ended with exit code 0",
                };
                (name.clone(), condition.to_owned())
            })
            .collect(),
    }
}

/// `nginx: container port 80/tcp at the published address, checked by GET / every 5s`.
fn register(register: &Register) -> String {
    let address = match &register.address {
        RegisterAddress::Published => "the published address",
        RegisterAddress::Container => "the container's own address",
        RegisterAddress::Fixed(address) => address,
    };
    let check = match &register.check {
        None => "no check of its own".to_owned(),
        Some(check) => {
            let how = match &check.kind {
                CheckKind::Http { path } => format!("GET {path}"),
                CheckKind::Tcp => "a TCP connection".to_owned(),
                CheckKind::Grpc { service } if service.is_empty() => "gRPC".to_owned(),
                CheckKind::Grpc { service } => format!("gRPC {service}"),
            };
            format!("checked by {how} every {}", format_duration(check.interval))
        }
    };
    let tags = match register.tags.is_empty() {
        true => String::new(),
        false => format!(", tags {}", register.tags.join(" ")),
    };
    format!("{}: container port {}/{} at {address}{tags}, {check}", register.name, register.port, register.protocol)
}

fn replica(
    container: &Container,
    service: Option<&Service>,
    facts: &Facts<'_>,
    status: &ServiceStatus,
    verdicts: &Verdicts,
) -> ReplicaSeen {
    let (state, since) = state(&container.state);
    let fitness = facts.fitness(container, service);
    let standing = verdicts.replicas.get(&container.id);
    let object = format!("replica {}", container.name);
    // An id names the replica between its colons.
    let registration = format!(":{}:", container.name);
    ReplicaSeen {
        name: container.name.clone(),
        id: short(&container.id),
        slot: container.slot,
        hash: container.hash.as_str().to_owned(),
        image_id: short(&container.image_id),
        current: standing == Some(&Standing::Current),
        leaves: match standing {
            Some(Standing::Leaves { cause }) => Some(cause.clone()),
            Some(Standing::Current) | None => None,
        },
        state,
        since,
        healthy: fitness.healthy(),
        health: health(container, &fitness),
        registrations: facts
            .consul
            .map(|_| facts.registrations(container).iter().map(|registration| seen(registration)).collect()),
        routed: facts.routed(container).map(|_| {
            let loaded = facts.loaded_generations().into_iter().map(|(id, generation)| {
                let routed = generation.manifest.upstreams.iter().filter(|(_, routed)| {
                    routed.endpoints.iter().any(|endpoint| endpoint.container.as_ref() == Some(&container.id))
                });
                (id.to_string(), routed.map(|(name, _)| name.clone()).collect::<Vec<_>>())
            });
            loaded.filter(|(_, upstreams)| !upstreams.is_empty()).collect()
        }),
        waiting: status
            .waiting
            .iter()
            .filter(|waiting| waiting.object == object || waiting.object.contains(&registration))
            .cloned()
            .collect(),
    }
}

fn state(state: &ContainerState) -> (String, Option<Timestamp>) {
    match state {
        ContainerState::Created => ("made, not started".to_owned(), None),
        ContainerState::Running { started_at } => ("running".to_owned(), Some(*started_at)),
        ContainerState::Paused { .. } => ("paused".to_owned(), None),
        ContainerState::Restarting => ("restarting".to_owned(), None),
        ContainerState::Exited { code, finished_at, .. } => (format!("exited with code {code}"), *finished_at),
        ContainerState::Removing => ("being removed".to_owned(), None),
        ContainerState::Dead => ("dead".to_owned(), None),
    }
}

fn health(container: &Container, fitness: &Fitness) -> String {
    match (fitness, &container.health) {
        (Fitness::NotRunning(_), _) => "does not run".to_owned(),
        // All of the output: its first line is often a banner.
        (_, Health::Unhealthy(output)) => format!("unhealthy: {}", output.trim()),
        (Fitness::Healthy, Health::None) => "no HEALTHCHECK; nothing speaks against it".to_owned(),
        (Fitness::Healthy, _) => "healthy".to_owned(),
        (Fitness::Starting(reason) | Fitness::Unhealthy(reason), _) => reason.clone(),
    }
}

fn seen(registration: &Registration) -> RegistrationSeen {
    let worst = registration.checks.values().map(|check| check.status).max().unwrap_or(CheckStatus::Passing);
    let (state, reason) = match &registration.maintenance {
        Maintenance::Off => (worst.to_string(), None),
        Maintenance::Draining { reason } => ("draining".to_owned(), Some(reason.clone())),
        Maintenance::Operator { reason } => ("maintenance".to_owned(), Some(reason.clone())),
    };
    let check = |(id, check): (&String, &crate::observed::CheckSeen)| CheckResult {
        // The checks of a registration begin with its id, which says nothing new.
        id: id.strip_prefix(&format!("{}:", registration.id)).unwrap_or(id).to_owned(),
        status: check.status,
        output: check.output.trim().to_owned(),
    };
    RegistrationSeen {
        id: registration.id.clone(),
        service: registration.name.clone(),
        address: format!("{}:{}", registration.address, registration.port),
        state,
        reason,
        drain_start: registration.drain_start,
        checks: registration.checks.iter().map(check).collect(),
    }
}
