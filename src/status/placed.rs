//! Where a reason is shown: with the service or the upstream that it is about, or by itself.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::WaitingStatus;
use crate::observed::{Observed, Registration};
use crate::plan::{ObjectKey, Plan};
use crate::spec::Spec;

/// What waits, by where it is shown.
#[derive(Default)]
pub(super) struct Placed {
    pub services: BTreeMap<String, Vec<WaitingStatus>>,
    pub upstreams: BTreeMap<String, Vec<WaitingStatus>>,
    pub templates: BTreeMap<String, Vec<WaitingStatus>>,
    pub rest: Vec<WaitingStatus>,
}

impl Placed {
    pub fn of(spec: &Spec, observed: &Observed, plan: &Plan, held: &[(ObjectKey, String, Timestamp)]) -> Self {
        let mut placed = Self::default();
        for waiting in &plan.waiting {
            let status = WaitingStatus {
                object: waiting.object.to_string(),
                reason: waiting.reason.clone(),
                kind: waiting.kind.to_owned(),
                until: waiting.until,
                details: waiting.details.clone(),
            };
            placed.put(spec, observed, &waiting.object, status);
        }
        for (object, error, next_try) in held {
            let status = WaitingStatus {
                object: object.to_string(),
                reason: format!("failed and is tried again: {error}"),
                kind: "backoff".to_owned(),
                until: Some(*next_try),
                details: Vec::new(),
            };
            placed.put(spec, observed, object, status);
        }
        placed
    }

    fn put(&mut self, spec: &Spec, observed: &Observed, object: &ObjectKey, status: WaitingStatus) {
        if let ObjectKey::Upstream(name) = object {
            self.upstreams.entry(name.clone()).or_default().push(status);
            return;
        }
        if let ObjectKey::Template(name) = object {
            self.templates.entry(name.clone()).or_default().push(status);
            return;
        }
        match service_of(spec, observed, object) {
            Some(service) => self.services.entry(service).or_default().push(status),
            None => self.rest.push(status),
        }
    }
}

/// The service that the object belongs to, if it is of one alone.
pub(crate) fn service_of(spec: &Spec, observed: &Observed, object: &ObjectKey) -> Option<String> {
    match object {
        ObjectKey::Service(name) => Some(name.clone()),
        ObjectKey::Replica(name) => service_of_replica(spec, observed, name),
        ObjectKey::Registration(id) => service_of_registration(spec, observed, id),
        ObjectKey::Upstream(_)
        | ObjectKey::Network(_)
        | ObjectKey::Volume(_)
        | ObjectKey::Image(_)
        | ObjectKey::Nginx
        | ObjectKey::Directory
        | ObjectKey::Discovery
        | ObjectKey::Template(_) => None,
    }
}

fn service_of_replica(spec: &Spec, observed: &Observed, name: &str) -> Option<String> {
    let containers = observed.docker.known().map(|docker| &docker.containers);
    let seen = containers.and_then(|containers| containers.values().find(|container| container.name == name));
    if let Some(container) = seen {
        return Some(container.service.clone());
    }
    // One that is planned and not made yet: `<project>-<service>-<slot>-<hash8>`, or its own `container_name`.
    let own_name = spec.services.values().find(|one| one.config.container_name.as_deref() == Some(name));
    if let Some(service) = own_name {
        return Some(service.name.clone());
    }
    let rest = name.strip_prefix(&spec.project)?.strip_prefix('-')?;
    let mut parts = rest.rsplitn(3, '-');
    let (_hash, _slot, service) = (parts.next()?, parts.next()?, parts.next()?);
    spec.services.contains_key(service).then(|| service.to_owned())
}

fn service_of_registration(spec: &Spec, observed: &Observed, id: &str) -> Option<String> {
    let seen = observed.consul.known().and_then(|consul| consul.registrations.get(id));
    if seen.is_some_and(Registration::discovered) {
        return None;
    }
    if let Some(registration) = seen {
        return Some(registration.service.clone());
    }
    // `<node>:<replica>:<port>/<proto>`
    let replica = id.split(':').nth(1)?;
    service_of_replica(spec, observed, replica)
}
