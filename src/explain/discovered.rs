//! What discovery makes of a container that reeve did not make: asked for by the name that it is registered under, by the
//! container's name or id, or by the registration's id.

use serde::{Deserialize, Serialize};

use super::Seen;
use crate::observed::{Discovered, Docker};
use crate::plan::verdict::{Found, Verdicts};
use crate::spec::discovery::Discovers;
use crate::status::{DiscoveredStatus, Status, WaitingStatus};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveredExplanation {
    pub name: String,
    /// Every port of every container that it may mean, and what is registered beyond that.
    pub ports: Vec<DiscoveredSeen>,
    /// Of a container of this name: why nothing of it is registered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nothing: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscoveredSeen {
    /// Id of the registration.
    pub registration: String,
    /// The container's name; none: it is gone, or discovery leaves it out by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// `80/tcp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
    /// Name of the Consul service, and `address:port`, as they should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Why it cannot be registered so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// As Consul's agent has it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered: Option<DiscoveredStatus>,
    pub waiting: Vec<WaitingStatus>,
}

pub(super) fn explain(
    name: &str,
    seen: &Seen<'_>,
    status: &Status,
    verdicts: &Verdicts,
) -> Option<DiscoveredExplanation> {
    let docker = seen.observed.docker.known();
    let container = docker.and_then(|docker| container(docker, name));
    let meant = |found: &&Found| {
        let named = found.wanted.as_ref().is_ok_and(|(service, ..)| service == name);
        let (id, called) = &found.container;
        named || called == name || found.registration == name || container.is_some_and(|one| one.id == *id)
    };
    let waiting = |id: &str| -> Vec<WaitingStatus> {
        let object = format!("registration {id}");
        status.waiting.iter().filter(|waiting| waiting.object == object).cloned().collect()
    };
    let registered = |id: &str| status.discovered.iter().find(|one| one.id == id).cloned();
    let mut ports: Vec<DiscoveredSeen> = Vec::new();
    for found in verdicts.discovered.iter().filter(meant) {
        let (service, endpoint, tags, problem) = match &found.wanted {
            Ok((service, endpoint, tags)) => (Some(service.clone()), Some(endpoint.clone()), tags.clone(), None),
            Err(reason) => (None, None, Vec::new(), Some(reason.clone())),
        };
        ports.push(DiscoveredSeen {
            container: Some(found.container.1.clone()),
            port: Some(found.port.clone()),
            service,
            endpoint,
            tags,
            problem,
            registered: registered(&found.registration),
            waiting: waiting(&found.registration),
            registration: found.registration.clone(),
        });
    }
    // What nothing stands behind any more.
    for one in status.discovered.iter().filter(|one| one.service == name || one.id == name) {
        if !ports.iter().any(|known| known.registration == one.id) {
            ports.push(DiscoveredSeen {
                registration: one.id.clone(),
                container: None,
                port: None,
                service: None,
                endpoint: None,
                tags: Vec::new(),
                problem: None,
                registered: Some(one.clone()),
                waiting: waiting(&one.id),
            });
        }
    }
    let nothing = container.filter(|_| ports.is_empty()).map(|container| nothing(container, seen));
    (!ports.is_empty() || nothing.is_some()).then(|| DiscoveredExplanation { name: name.to_owned(), ports, nothing })
}

/// By name, or by at least twelve digits of its id.
fn container<'a>(docker: &'a Docker, name: &str) -> Option<&'a Discovered> {
    let by_id = |one: &&Discovered| name.len() >= 12 && one.id.starts_with(name);
    let mut all = docker.discovered.values();
    all.clone().find(|one| one.name == name).or_else(|| all.find(by_id))
}

fn nothing(container: &Discovered, seen: &Seen<'_>) -> String {
    let labelled = seen.spec.discovery.as_ref().is_some_and(|one| one.containers == Discovers::Labelled);
    let named = container.variables.keys().any(|name| name.to_ascii_uppercase().ends_with("_NAME"));
    if let Some(reason) = &container.unreadable {
        return reason.clone();
    }
    if !container.stays() {
        return format!("it is {}", container.unfit().unwrap_or_else(|| "about to stop".to_owned()));
    }
    if labelled && !named {
        return "it has no SERVICE_NAME, and `discovery.containers` is `labelled`".to_owned();
    }
    "no port of it is meant: none is published (or exposed, where that counts), or SERVICE_IGNORE says so".to_owned()
}

/// Names that would have been understood.
pub(super) fn names(status: &Status, verdicts: &Verdicts) -> Vec<String> {
    let wanted = verdicts.discovered.iter().flat_map(|found| {
        let service = found.wanted.as_ref().ok().map(|(service, ..)| service.clone());
        service.into_iter().chain([found.container.1.clone()])
    });
    wanted.chain(status.discovered.iter().map(|one| one.service.clone())).collect()
}
