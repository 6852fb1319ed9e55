//! Containers without reeve's mark, compared with what reeve would have made for a service.
//!
//! The create call that the service would get is set beside what the engine says of the container, key by key: whatever the
//! spec sets must be so, and what it leaves out must be the image's. Nothing is changed here, and nothing is decided.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;

use super::connection::Link;
use super::create::{self, Creation};
use super::error::Fault;
use super::names;
use super::wire::{self, Listed};
use crate::observed::ChosenPort;
use crate::plan::Change;
use crate::plan::action::NewContainer;
use crate::plan::adoption::Candidate;
use crate::spec::container::{ContainerConfig, EnvironmentValue, FileContent, MountSource, NetworkMode, Published};
use crate::spec::{Owner, Service};
use crate::world::ViewError;

const LIMIT: Duration = Duration::from_secs(10);
/// Inspects under way at once.
const INSPECTS: usize = 8;

const COMPOSE_PROJECT: &str = "com.docker.compose.project";
const COMPOSE_SERVICE: &str = "com.docker.compose.service";
const COMPOSE_NUMBER: &str = "com.docker.compose.container-number";

pub(super) struct Comparer<'a> {
    pub(super) link: &'a Link,
    pub(super) owner: &'a Owner,
}

impl Comparer<'_> {
    /// Every container without a mark, whoever's.
    pub(super) async fn candidates(&self, service: &Service) -> Result<Vec<Candidate>, ViewError> {
        let error = |what: &str, fault: &Fault| ViewError(format!("docker at {}: {what}: {fault}", self.link.host()));
        let connection = self.link.connection().await.map_err(|fault| error("connect", &fault))?;
        let image = service.image();
        if !names::is_reference(image) {
            return Err(ViewError(format!("`{image}` is no image reference")));
        }
        let found: Option<Value> = self
            .link
            .find(LIMIT, &format!("/images/{image}/json"))
            .await
            .map_err(|fault| error(&format!("inspect image {image}"), &fault))?;
        let Some(image) = found else {
            return Err(ViewError(format!("the engine has no image {image}: nothing can be made from it")));
        };
        let text = self.link.get(LIMIT, "/containers/json?all=1").await;
        let list = text.and_then(|text| wire::lenient_list::<Listed>(&text, Listed::IDENTITY));
        let list = list.map_err(|fault| error("list containers", &fault))?;
        let unmarked = list.into_iter().filter(|one| !one.labels.contains_key(super::labels::OWNER));
        let inspect = |listed: Listed| async move {
            let found = self.link.find::<Value>(LIMIT, &format!("/containers/{}/json", listed.id)).await;
            found.map(|found| found.map(|seen| (listed, seen)))
        };
        let found: Vec<_> =
            futures_util::stream::iter(unmarked).map(inspect).buffer_unordered(INSPECTS).collect().await;
        let mut candidates = Vec::new();
        for found in found {
            let Some((listed, seen)) = found.map_err(|fault| error("inspect a container", &fault))? else { continue };
            let (chosen_ports, mut differences) = ports(&service.config, &listed);
            let new = as_made(service, chosen_ports.clone());
            match create::creation(&new, self.owner, "", connection.version) {
                Ok(creation) => differences.extend(compare(service, &creation, &seen, &image)),
                Err(reason) => differences.push(missing("service", &reason)),
            }
            differences.sort_by(|a, b| a.field.cmp(&b.field));
            let label = |name: &str| listed.labels.get(name).cloned();
            let number = || label(COMPOSE_NUMBER)?.parse().ok();
            let composed = || Some((label(COMPOSE_PROJECT)?, label(COMPOSE_SERVICE)?, number()?));
            candidates.push(Candidate {
                name: listed.name().to_owned(),
                running: listed.state == "running",
                composed: composed(),
                image_id: text_of(seen.get("Image")),
                chosen_ports,
                differences,
                id: listed.id,
            });
        }
        candidates.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(candidates)
    }
}

/// What would be made, with the ports that the container has.
fn as_made(service: &Service, host_ports: Vec<ChosenPort>) -> NewContainer {
    // Whose network it joins is an id that is not known here; that it joins one is compared by hand.
    let network_mode = service.config.network_mode.clone().filter(|mode| !matches!(mode, NetworkMode::Service(_)));
    NewContainer {
        name: service.name.clone(),
        service: service.name.clone(),
        slot: 1,
        hash: service.hash.clone(),
        config: service.config.clone(),
        image: service.image().to_owned(),
        host_ports,
        image_id: String::new(),
        network_mode,
        registers: !service.register.is_empty(),
        depends_on: BTreeSet::new(),
    }
}

fn missing(field: &str, why: &str) -> Change {
    Change { field: field.to_owned(), old: None, new: Some(why.to_owned()) }
}

fn text_of(value: Option<&Value>) -> String {
    value.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The host ports that it has of those that the spec publishes, and what else is published or is not.
fn ports(config: &ContainerConfig, listed: &Listed) -> (Vec<ChosenPort>, Vec<Change>) {
    let published = listed.published();
    let mut differences = Vec::new();
    let mut used = BTreeSet::new();
    let mut chosen = Vec::new();
    for port in &config.ports {
        let fits = |host: u16| match port.published {
            Published::Ephemeral => host != 0,
            Published::Range { first, last } => (first..=last).contains(&host),
        };
        // No address in the spec is every address.
        let same_address = |held: Option<std::net::IpAddr>| {
            port.host_ip == held || (port.host_ip.is_none() && held.is_none_or(|held| held.is_unspecified()))
        };
        let found = published.iter().find(|held| {
            let same = held.target == port.target && held.protocol == port.protocol;
            same && fits(held.host) && same_address(held.host_ip)
        });
        match found {
            Some(held) => {
                used.insert((held.target, held.protocol, held.host));
                chosen.push(ChosenPort {
                    target: port.target,
                    protocol: port.protocol,
                    host_ip: port.host_ip,
                    host: if port.published == Published::Ephemeral { 0 } else { held.host },
                });
            }
            None => differences.push(missing("ports", &format!("{}/{} published", port.target, port.protocol))),
        }
    }
    for held in published.iter().filter(|held| held.host != 0) {
        if used.insert((held.target, held.protocol, held.host)) {
            let old = format!("{}:{}/{}", held.host, held.target, held.protocol);
            differences.push(Change { field: "ports".to_owned(), old: Some(old), new: None });
        }
    }
    (chosen, differences)
}

/// Keys of the create call that are compared in another way, or not at all: a label that is missing is what adoption is for.
const BY_HAND: [&str; 8] =
    ["Image", "Labels", "Env", "ExposedPorts", "HostConfig", "NetworkingConfig", "Cmd", "Entrypoint"];
const HOST_BY_HAND: [&str; 5] = ["NetworkMode", "PortBindings", "Binds", "Mounts", "Tmpfs"];
/// What the spec leaves out is the image's.
const OF_IMAGE: [&str; 4] = ["Cmd", "Entrypoint", "User", "WorkingDir"];

fn compare(service: &Service, creation: &Creation, seen: &Value, image: &Value) -> Vec<Change> {
    let config = &*service.config;
    let wanted = serde_json::to_value(&creation.body).unwrap_or(Value::Null);
    let mut differences = Vec::new();
    let (of, image_id) = (text_of(seen.get("Image")), text_of(image.get("Id")));
    if of != image_id {
        let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let old = format!("{} ({})", text_of(seen.pointer("/Config/Image")), short(&of));
        let new = format!("{} ({})", config.image, short(&image_id));
        differences.push(Change { field: "image".to_owned(), old: Some(old), new: Some(new) });
    }
    let seen_config = seen.get("Config").unwrap_or(&Value::Null);
    let fields = wanted.as_object().into_iter().flatten();
    for (key, value) in fields.filter(|(key, _)| !BY_HAND.contains(&key.as_str())) {
        differ(key, value, seen_config.get(key), &mut differences);
    }
    for key in OF_IMAGE {
        let own = wanted.get(key).filter(|value| !value.is_null());
        // A replaced entrypoint takes the image's command away.
        let of_image = || image.get("Config").and_then(|config| config.get(key));
        let entrypoint = wanted.get("Entrypoint").is_some_and(|value| !value.is_null());
        let expected = own.or_else(|| if key == "Cmd" && entrypoint { None } else { of_image() });
        if !same(expected.unwrap_or(&Value::Null), seen_config.get(key)) {
            differences.push(change(key, seen_config.get(key), expected));
        }
    }
    differences.extend(environment(config, seen_config, image));
    let seen_host = seen.get("HostConfig").unwrap_or(&Value::Null);
    let fields = wanted.get("HostConfig").and_then(Value::as_object).into_iter().flatten();
    for (key, value) in fields.filter(|(key, _)| !HOST_BY_HAND.contains(&key.as_str())) {
        differ(key, value, seen_host.get(key), &mut differences);
    }
    differences.extend(networks(config, seen));
    differences.extend(mounts(config, seen));
    differences
}

/// Whatever is wanted must be so; what the engine adds by itself does not count.
fn differ(field: &str, wanted: &Value, seen: Option<&Value>, differences: &mut Vec<Change>) {
    if let (Value::Object(wanted), Some(Value::Object(seen))) = (wanted, seen) {
        for (key, value) in wanted {
            differ(&format!("{field}.{key}"), value, seen.get(key), differences);
        }
        return;
    }
    if !wanted.is_null() && !same(wanted, seen) {
        differences.push(change(field, seen, Some(wanted)));
    }
}

fn change(field: &str, old: Option<&Value>, new: Option<&Value>) -> Change {
    let side = |value: Option<&Value>| value.filter(|value| !empty(value)).map(Value::to_string);
    Change { field: field.to_owned(), old: side(old), new: side(new) }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Equal, where the engine writes nothing, `null` and an empty list for the same.
fn same(wanted: &Value, seen: Option<&Value>) -> bool {
    let seen = seen.unwrap_or(&Value::Null);
    wanted == seen || (empty(wanted) && empty(seen)) || (*wanted == Value::Bool(false) && seen.is_null())
}

/// Names alone where a value could be a secret.
fn environment(config: &ContainerConfig, seen: &Value, image: &Value) -> Vec<Change> {
    let lines = |value: Option<&Value>| -> BTreeMap<String, String> {
        let list = value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        list.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    };
    let has = lines(seen.get("Env"));
    let of_image = lines(image.pointer("/Config/Env"));
    let mut differences = Vec::new();
    for (name, value) in &config.environment {
        let (wanted, shown) = match value {
            EnvironmentValue::Unset => continue,
            EnvironmentValue::Plain(value) => (value.as_str(), true),
            EnvironmentValue::Secret(secret) => (secret.reveal(), false),
        };
        let old = has.get(name);
        if old.is_some_and(|old| old == wanted) {
            continue;
        }
        let show = |value: &str| if shown { format!("{value:?}") } else { "(secret)".to_owned() };
        let (old, new) = (old.map(|old| show(old)), Some(show(wanted)));
        differences.push(Change { field: format!("environment.{name}"), old, new });
    }
    let more = has.iter().filter(|(name, value)| {
        !config.environment.contains_key(*name) && of_image.get(*name).is_none_or(|of_image| of_image != *value)
    });
    differences.extend(more.map(|(name, _)| Change {
        field: format!("environment.{name}"),
        old: Some("(set, and not shown)".to_owned()),
        new: None,
    }));
    differences
}

fn networks(config: &ContainerConfig, seen: &Value) -> Vec<Change> {
    let mode = text_of(seen.pointer("/HostConfig/NetworkMode"));
    let wanted = match &config.network_mode {
        None => None,
        Some(NetworkMode::Host) => Some("host"),
        Some(NetworkMode::None) => Some("none"),
        Some(NetworkMode::Bridge) => Some("bridge"),
        Some(NetworkMode::Service(_) | NetworkMode::Container(_)) => Some("container:"),
    };
    if let Some(wanted) = wanted {
        let bridge = wanted == "bridge" && mode == "default";
        let fits = mode == wanted || bridge || (wanted == "container:" && mode.starts_with(wanted));
        let new = Some(wanted.to_owned());
        return if fits { Vec::new() } else { vec![Change { field: "network_mode".to_owned(), old: Some(mode), new }] };
    }
    let attached = seen.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
    let attached = |name: &str| attached.is_some_and(|networks| networks.contains_key(name));
    let absent = config.networks.keys().filter(|name| !attached(name));
    absent.map(|name| missing(&format!("networks.{name}"), "attached")).collect()
}

fn mounts(config: &ContainerConfig, seen: &Value) -> Vec<Change> {
    let list = || seen.get("Mounts").and_then(Value::as_array).into_iter().flatten();
    let at = |target: &str| list().find(|mount| text_of(mount.get("Destination")) == target);
    let in_memory = |target: &str| {
        let tmpfs = seen.pointer("/HostConfig/Tmpfs").and_then(Value::as_object);
        tmpfs.is_some_and(|tmpfs| tmpfs.contains_key(target))
            || at(target).is_some_and(|mount| text_of(mount.get("Type")) == "tmpfs")
            || seen
                .pointer("/HostConfig/Mounts")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .any(|mount| text_of(mount.get("Type")) == "tmpfs" && text_of(mount.get("Target")) == target)
    };
    let mut differences = Vec::new();
    for mount in &config.mounts {
        let (kind, key, source) = match &mount.source {
            MountSource::Volume { name, .. } => ("volume", "Name", name.clone()),
            MountSource::Bind { path, .. } => ("bind", "Source", path.display().to_string()),
            MountSource::Anonymous => ("volume", "Name", String::new()),
            MountSource::Tmpfs { .. } => {
                if !in_memory(&mount.target) {
                    differences.push(missing(&format!("volumes.{}", mount.target), "a tmpfs"));
                }
                continue;
            }
        };
        let there = at(&mount.target).filter(|there| text_of(there.get("Type")) == kind);
        let same_source = there.is_some_and(|there| source.is_empty() || text_of(there.get(key)) == source);
        let same_mode = there.is_some_and(|there| there.get("RW") == Some(&Value::Bool(!mount.read_only)));
        if !(same_source && same_mode) {
            let old = at(&mount.target).map(|there| {
                let name = text_of(there.get("Name"));
                let from = if name.is_empty() { text_of(there.get("Source")) } else { name };
                let write = if there.get("RW") == Some(&Value::Bool(true)) { "" } else { ", read-only" };
                format!("{} {from}{write}", text_of(there.get("Type")))
            });
            let write = if mount.read_only { ", read-only" } else { "" };
            let new = Some(format!("{kind} {source}{write}"));
            differences.push(Change { field: format!("volumes.{}", mount.target), old, new });
        }
    }
    for file in &config.files {
        match &file.content {
            FileContent::File { path, .. } => {
                let source = path.display().to_string();
                if at(&file.target).is_none_or(|there| text_of(there.get("Source")) != source) {
                    differences.push(missing(&format!("configs.{}", file.target), &source));
                }
            }
            FileContent::Inline(_) | FileContent::Secret(_) => {
                let why = "a file that is copied in, and that cannot be compared";
                differences.push(missing(&format!("configs.{}", file.target), why));
            }
        }
    }
    let declared: BTreeSet<&str> = config
        .mounts
        .iter()
        .map(|mount| mount.target.as_str())
        .chain(config.files.iter().map(|file| file.target.as_str()))
        .collect();
    for more in list() {
        let target = text_of(more.get("Destination"));
        // A volume that the image asks for has a name of 64 digits; nobody wrote it anywhere.
        let name = text_of(more.get("Name"));
        let anonymous = name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !declared.contains(target.as_str()) && !anonymous {
            let old = Some(text_of(more.get("Type")));
            differences.push(Change { field: format!("volumes.{target}"), old, new: None });
        }
    }
    differences
}

#[cfg(test)]
#[path = "adoptable_tests.rs"]
mod tests;
