//! The canonical form of a spec: every default filled in, secrets as digests, keys sorted. Its digest names the spec.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::container::hex;
use super::{Dependency, DependencyCondition, FailureAction, Register, RegisterAddress, Service, Spec, UpdateOrder};

/// The spec as JSON. No secret is in it.
pub fn resolved(spec: &Spec) -> Value {
    let services: Map<String, Value> =
        spec.services.iter().map(|(name, service)| (name.clone(), service_value(service))).collect();
    let mut resolved = json!({
        "project": spec.project,
        "services": services,
        "networks": value(&spec.networks),
        "volumes": value(&spec.volumes),
        "upstreams": value(&spec.upstreams),
    });
    // Only where it is used: a spec without it keeps its digest.
    if let Some(discovery) = &spec.discovery {
        resolved["discovery"] = value(discovery);
    }
    // A spec without templates keeps the digest that it has always had.
    if !spec.templates.is_empty() {
        let templates = spec.templates.iter().map(|(name, template)| (name.clone(), value(&**template)));
        resolved["templates"] = Value::Object(templates.collect());
    }
    resolved
}

/// SHA-256 of the canonical form, in hexadecimal digits.
pub fn digest(resolved: &Value) -> String {
    // `serde_json`'s maps are sorted, so equal specs have equal text.
    hex(&Sha256::digest(resolved.to_string().as_bytes()))
}

fn value<T: serde::Serialize>(of: &T) -> Value {
    serde_json::to_value(of).expect("maps have string keys and no value can fail to serialise")
}

fn service_value(service: &Service) -> Value {
    let depends_on: Map<String, Value> =
        service.depends_on.iter().map(|(name, dependency)| (name.clone(), dependency_value(dependency))).collect();
    let update = &service.update;
    let mut resolved = json!({
        "replicas": service.replicas,
        "config": serde_json::from_str::<Value>(&service.config.canonical()).expect("the canonical form is JSON"),
        "hash": service.hash.as_str(),
        "pull_policy": value(&service.pull_policy),
        "depends_on": depends_on,
        "job": service.job,
        "update": {
            "order": update.order.map(|order| match order {
                UpdateOrder::StartFirst => "start-first",
                UpdateOrder::StopFirst => "stop-first",
            }),
            "parallelism": update.parallelism,
            "delay": value(&update.delay),
            "monitor": value(&update.monitor),
            "failure_action": match update.failure_action {
                FailureAction::Pause => "pause",
                FailureAction::Continue => "continue",
                FailureAction::Rollback => "rollback",
            },
        },
        "stop_grace_period": value(&service.stop_grace_period),
        "register": service.register.iter().map(register_value).collect::<Vec<_>>(),
    });
    if let Some(deadline) = &update.deadline {
        resolved["update"]["deadline"] = value(deadline);
    }
    resolved
}

fn dependency_value(dependency: &Dependency) -> Value {
    json!({
        "condition": match dependency.condition {
            DependencyCondition::Started => "service_started",
            DependencyCondition::Healthy => "service_healthy",
            DependencyCondition::CompletedSuccessfully => "service_completed_successfully",
        },
        "required": dependency.required,
    })
}

fn register_value(register: &Register) -> Value {
    json!({
        "name": register.name,
        "port": format!("{}/{}", register.port, register.protocol),
        "address": match &register.address {
            RegisterAddress::Published => "published",
            RegisterAddress::Container => "container",
            RegisterAddress::Fixed(address) => address,
        },
        "tags": register.tags,
        "meta": register.meta,
        "check": value(&register.check),
    })
}
