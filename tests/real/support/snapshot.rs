//! The world as Docker, Consul and the disk tell it, to see that nothing was written, or that two ways lead to the same end.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::Site;
use super::docker::{Container, docker};

/// One line for each fact, so that a difference names itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    facts: BTreeMap<String, String>,
}

impl Snapshot {
    pub fn of(site: &Site) -> Self {
        let mut facts = BTreeMap::new();
        for container in site.containers() {
            facts.insert(format!("container {}", container.id), format!("{container:?}"));
        }
        for (kind, list) in [
            ("image", &["image", "ls", "--no-trunc", "--format", "{{.ID}} {{.Repository}}:{{.Tag}}"][..]),
            ("network", &["network", "ls", "--no-trunc", "--format", "{{.ID}} {{.Name}}"]),
            ("volume", &["volume", "ls", "--format", "{{.Name}}"]),
        ] {
            // Other tests make networks and volumes of their own meanwhile.
            let lines = docker(list);
            let ours = lines.lines().filter(|line| kind == "image" || line.contains(&site.project));
            facts.extend(ours.map(|line| (format!("{kind} {line}"), String::new())));
        }
        consul(site, &mut facts);
        files(site.state(), &mut facts);
        Self { facts }
    }

    /// What must be the same however it came about: ids, times, addresses and chosen host ports are replaced by what they
    /// stand for.
    pub fn masked(site: &Site) -> Self {
        let mut facts = BTreeMap::new();
        let containers = site.containers();
        let replica = |one: &Container| format!("{} {}", one.service, one.slot);
        let port_of = |text: &str| {
            let owner =
                containers.iter().find(|one| one.published.iter().any(|port| text.ends_with(&port.to_string())));
            owner.map_or_else(|| text.to_owned(), |one| format!("host port of {}", replica(one)))
        };
        for one in &containers {
            let networks: Vec<&String> = one.networks.keys().collect();
            let fact = format!("{} {} {:?} {networks:?}", one.image, one.state, one.environment);
            facts.insert(format!("container {} ({})", one.name, replica(one)), fact);
        }
        for (kind, list) in [("network", ["network", "ls"]), ("volume", ["volume", "ls"])] {
            let lines = docker(&[list[0], list[1], "--format", "{{.Name}}"]);
            let ours = lines.lines().filter(|line| line.contains(&site.project));
            facts.extend(ours.map(|line| (format!("{kind} {line}"), String::new())));
        }
        let consul = site.consul();
        for (id, mut service) in consul.services() {
            if let Some(container) = service["Meta"].get_mut("reeve-container") {
                let one = containers.iter().find(|one| container == one.id.as_str());
                *container = one.map(replica).into();
            }
            if let Some(digest) = service["Meta"].get_mut("reeve-check") {
                // Of an address among other things.
                *digest = Value::Null;
            }
            let port = port_of(&service["Port"].to_string());
            facts.insert(
                format!("agent {id}"),
                format!("{} {port} {} {}", service["Service"], service["Tags"], service["Meta"]),
            );
        }
        for (id, check) in consul.get("/v1/agent/checks").as_object().into_iter().flatten() {
            facts.insert(format!("check {id}"), check["Status"].to_string());
        }
        for (name, path) in site.nginx.files() {
            let text = fs::read_to_string(path).unwrap_or_default();
            let mut lines: Vec<String> = text.lines().map(|line| port_of(line.trim_end_matches(';'))).collect();
            // Servers are sorted by port, and ports are masked.
            lines.sort();
            facts.insert(format!("nginx {name}"), lines.join("\n"));
        }
        facts.insert("loaded".to_owned(), format!("{:?}", site.loaded_is_current().is_ok()));
        // What is kept for a rollback and for a person to look back is history: a crash may cost it.
        let history = ["kept", "history.jsonl", "history.1.jsonl"];
        for entry in fs::read_dir(site.state()).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !history.contains(&name.as_str()) {
                facts.insert(format!("file {name}"), String::new());
            }
        }
        Self { facts }
    }

    /// Fails with the facts that differ.
    #[track_caller]
    pub fn assert_same(&self, later: &Self) {
        let differences = self.differences(later);
        assert!(differences.is_empty(), "something was written:\n  {}", differences.join("\n  "));
    }

    pub fn differences(&self, later: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        for key in self.facts.keys().chain(later.facts.keys()) {
            let (before, after) = (self.facts.get(key), later.facts.get(key));
            if before != after {
                differences.push(format!("{key}:\n    before {before:?}\n    after  {after:?}"));
            }
        }
        differences
    }
}

/// Index values: Consul raises them with each write, also with one that changes nothing that could be read.
fn consul(site: &Site, facts: &mut BTreeMap<String, String>) {
    let consul = site.consul();
    for node in consul.get("/v1/catalog/nodes").as_array().into_iter().flatten() {
        let name = node["Node"].as_str().unwrap_or_default();
        let services = consul.get(&format!("/v1/catalog/node/{name}"));
        for (id, service) in services["Services"].as_object().into_iter().flatten() {
            facts.insert(format!("catalog {name} {id}"), service["ModifyIndex"].to_string());
        }
    }
    for check in consul.get("/v1/health/state/any").as_array().into_iter().flatten() {
        let key = format!("check {} {}", check["Node"], check["CheckID"]);
        facts.insert(key, format!("{} {}", check["Status"], check["ModifyIndex"]));
    }
    let mut services = consul.get("/v1/agent/services");
    for (id, service) in services.as_object_mut().into_iter().flatten() {
        facts.insert(format!("agent {id}"), std::mem::take(service).to_string());
    }
    facts.insert("kv".to_owned(), consul.try_get("/v1/kv/?recurse").unwrap_or(Value::Null).to_string());
}

/// Everything in a folder: kind, size, inode, time of the last change.
fn files(folder: &Path, facts: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let value = format!(
            "{:?} {} bytes, inode {}, changed {}.{:09}",
            metadata.file_type(),
            metadata.len(),
            metadata.ino(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        facts.insert(format!("file {}", path.display()), value);
        if metadata.is_dir() {
            files(&path, facts);
        }
    }
}

/// For `docker events --since`, which counts in seconds with a fraction.
pub fn docker_now() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

/// What Docker tells that was done to this site's objects since then; its own runs of health checks left out.
pub fn docker_events(site: &Site, since: &str) -> Vec<String> {
    let label = format!("label=reeve.owner={}", site.owner());
    let until = docker_now();
    let format = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}";
    let events = docker(&["events", "--since", since, "--until", &until, "--filter", &label, "--format", format]);
    let done = events.lines().filter(|line| !line.contains(" exec_") && !line.contains(" health_status"));
    done.map(str::to_owned).collect()
}
