//! The world of templates in memory: what an observation would see of them, with the data that a test gives.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use reeve::observed::{
    Answer, CheckStatus, Dependency, Destination, Maintenance, Observed, TemplateRecord, TemplateSeen, View,
};
use reeve::spec::{Spec, Template};
use reeve::template;
use serde_json::{Value, json};

/// What an observation for this spec would see: the answers that are not there yet, and the destinations.
pub fn look(world: &mut Observed, spec: &Spec, now: Timestamp) {
    world.templates.allowed = ["/etc", "/opt", "/srv"].map(PathBuf::from).to_vec();
    world.templates.own = PathBuf::from("/var/lib/reeve");
    world.templates.seen.retain(|name, _| spec.templates.contains_key(name));
    for template in spec.templates.values() {
        let mut run = template::run(template, &world.templates.answers, now);
        while !run.missing.is_empty() {
            for dependency in &run.missing {
                let answer = answer(world, dependency, now);
                Arc::make_mut(&mut world.templates.answers).insert(dependency.clone(), View::Known(answer));
            }
            run = template::run(template, &world.templates.answers, now);
        }
        let inputs = template::inputs(template, &run.asked, &world.templates.answers);
        let seen = world.templates.seen.entry(template.name.clone()).or_insert_with(|| View::Known(unseen(template)));
        let Some(seen) = seen.known_mut() else { continue };
        let written = |record: &&Arc<TemplateRecord>| record.inputs == inputs;
        let changed_at = seen.record.as_ref().filter(written).map_or(now, |record| record.changed_at);
        (seen.changed_at, seen.unwritten_since) = (changed_at, changed_at);
        (seen.asked, seen.inputs, seen.error) = (run.asked, inputs, run.text.err());
    }
}

/// What is registered by now counts: the answers about services are asked for anew.
pub fn forget_services(world: &mut Observed) {
    let service = |dependency: &Dependency| {
        matches!(dependency, Dependency::Service { .. } | Dependency::Services { .. } | Dependency::Node { .. })
    };
    Arc::make_mut(&mut world.templates.answers).retain(|dependency, _| !service(dependency));
}

fn unseen(template: &Template) -> TemplateSeen {
    TemplateSeen {
        real: template.destination.clone(),
        destination: Destination::Missing,
        mounted: None,
        record: None,
        asked: BTreeSet::new(),
        inputs: String::new(),
        changed_at: Timestamp::UNIX_EPOCH,
        unwritten_since: Timestamp::UNIX_EPOCH,
        error: None,
        owner: Ok((None, None)),
    }
}

/// From what is registered in memory; keys do not exist unless a test says so.
fn answer(world: &Observed, dependency: &Dependency, now: Timestamp) -> Answer {
    let node = world.consul.known().map_or("", |consul| consul.agent.node.as_str());
    let registrations = world.consul.known().into_iter().flat_map(|consul| consul.registrations.values());
    let (data, entries) = match dependency {
        Dependency::Service { name, .. } => {
            let found: BTreeMap<&String, Value> = registrations
                .filter(|one| one.name == *name)
                .filter(|one| one.maintenance == Maintenance::Off)
                .filter(|one| one.checks.values().all(|check| check.status == CheckStatus::Passing))
                .map(|one| (&one.id, json!({"ID": one.id, "Address": one.address, "Port": one.port})))
                .collect();
            let entries = found.keys().map(|id| format!("{node}/{id}")).collect();
            (found.into_values().collect(), entries)
        }
        Dependency::Services { .. } => {
            let names: BTreeSet<String> = registrations.map(|one| one.name.clone()).collect();
            (names.iter().map(|name| json!({"Name": name, "Tags": []})).collect(), names)
        }
        Dependency::Node { .. } => {
            let ids: BTreeSet<String> = registrations.map(|one| one.id.clone()).collect();
            let services: Value = ids.iter().map(|id| json!({"ID": id})).collect();
            (json!({"Node": {"Node": node}, "Services": services}), ids)
        }
        Dependency::Keys { .. } | Dependency::Nodes { .. } | Dependency::Datacenters => (json!([]), BTreeSet::new()),
        _ => (Value::Null, BTreeSet::new()),
    };
    Answer { data, entries, shrunk_at: now }
}

/// A key has this value from now on; `None`: it is gone.
pub fn key(world: &mut Observed, path: &str, value: Option<&str>, now: Timestamp) {
    let entries = value.map(|_| path.to_owned()).into_iter().collect();
    let answer = Answer { data: json!(value), entries, shrunk_at: now };
    let dependency = Dependency::Key { path: path.to_owned(), datacenter: None };
    Arc::make_mut(&mut world.templates.answers).insert(dependency, View::Known(answer));
}

/// Only so many instances of the service are left in the answers.
pub fn instances(world: &mut Observed, service: &str, left: usize, now: Timestamp) {
    for (dependency, view) in Arc::make_mut(&mut world.templates.answers) {
        let Dependency::Service { name, .. } = dependency else { continue };
        if let (true, View::Known(answer)) = (name == service, view) {
            answer.entries = answer.entries.iter().take(left).cloned().collect();
            answer.data.as_array_mut().expect("a list").truncate(left);
            answer.shrunk_at = now;
        }
    }
}
