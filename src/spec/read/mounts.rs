//! Volumes: those that the spec declares, and what a service mounts (volumes, folders of the host, memory, devices).

use std::collections::{BTreeMap, BTreeSet};

use super::super::container::{Device, Mount, MountSource};
use super::super::diagnostic::Diagnostic;
use super::super::suggest::did_you_mean;
use super::super::tree::{Entry, Node, Place, shown};
use super::super::{Volume, names};
use super::grants::octal;
use super::networks::{docker_name, refuse_beside_external};
use super::{Context, boolean, external, labels, owned, pairs, size, text};

/// The top level's volumes by key.
pub fn declared(root: &Node, context: &mut Context<'_>) -> BTreeMap<String, Volume> {
    let mut volumes = BTreeMap::new();
    let Some(section) = root.value("volumes") else { return volumes };
    for entry in section.entries() {
        volumes.insert(entry.key.clone(), volume(entry, context));
    }
    volumes
}

fn volume(entry: &Entry, context: &mut Context<'_>) -> Volume {
    let node = &entry.value;
    if let Err(reason) = names::key(&entry.key) {
        let message = format!("`{}` is not a volume's name: {reason}", shown(&entry.key));
        context.report.error(&entry.key_place, message);
    }
    let (external, _) = external(node);
    if external {
        refuse_beside_external("volume", entry, context);
    }
    Volume {
        name: docker_name("volume", entry, context),
        external,
        driver: owned(node, "driver"),
        driver_opts: pairs(node, "driver_opts"),
        labels: labels(node, context),
    }
}

/// What a service mounts, sorted by target, and the keys of the volumes among it.
pub fn read(
    node: &Node,
    declared: &BTreeMap<String, Volume>,
    context: &mut Context<'_>,
) -> (Vec<Mount>, BTreeSet<String>) {
    let mut mounts: Vec<Mount> = Vec::new();
    let mut used = BTreeSet::new();
    let mut add = |mount: Mount, place: &Place, context: &mut Context<'_>| {
        if !mount.target.starts_with('/') {
            let message = format!("`{}` is not a path in the container", shown(&mount.target));
            context.report.error_help(place, message, "it must begin with `/`");
        } else if mounts.iter().any(|known| known.target == mount.target) {
            let message = format!("`{}` is mounted twice", shown(&mount.target));
            context.report.error(place, message);
        } else {
            mounts.push(mount);
        }
    };
    if let Some(volumes) = node.value("volumes") {
        for item in volumes.list() {
            let mount = match item.text() {
                Some(text) => short(text, item, declared, &mut used, context),
                None if item.entries().is_empty() => None,
                None => long(item, declared, &mut used, context),
            };
            if let Some(mount) = mount {
                add(mount, &item.place, context);
            }
        }
    }
    if let Some(tmpfs) = node.value("tmpfs") {
        for item in tmpfs.items() {
            let Some(text) = item.text() else { continue };
            let (target, options) = match text.split_once(':') {
                Some((target, options)) => (target, Some(options.to_owned()).filter(|options| !options.is_empty())),
                None => (text, None),
            };
            let source = MountSource::Tmpfs { size: None, mode: None, options };
            add(Mount { target: trimmed(target), source, read_only: false }, &item.place, context);
        }
    }
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    (mounts, used)
}

/// `[source:]target[:options]`.
fn short(
    text: &str,
    item: &Node,
    declared: &BTreeMap<String, Volume>,
    used: &mut BTreeSet<String>,
    context: &mut Context<'_>,
) -> Option<Mount> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] if target.starts_with('/') || !source.starts_with('/') => (Some(*source), *target, ""),
        // `/data:ro`: an anonymous volume with options.
        [target, options] => (None, *target, *options),
        [source, target, options] => (Some(*source), *target, *options),
        _ => {
            let message = format!("`{}` is not a mount: it has too many parts", item.shown());
            context.report.error_help(&item.place, message, "write `source:target:options`, or use the long form");
            return None;
        }
    };
    if source == Some("") || target.is_empty() {
        context.report.error(&item.place, format!("`{}` is not a mount: a part of it is empty", item.shown()));
        return None;
    }
    let mut read_only = false;
    let mut nocopy = false;
    let mut propagation = None;
    let mut selinux = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" | "cached" | "delegated" | "consistent" => {}
            "nocopy" => nocopy = true,
            "z" | "Z" => selinux = Some(option.to_owned()),
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => propagation = Some(option.to_owned()),
            _ => {
                let message = format!("`{}` is not an option of a mount", shown(option));
                let known = ["ro", "rw", "nocopy", "z", "Z", "shared", "rshared", "slave", "rslave", "private"];
                let help = did_you_mean(option, known).unwrap_or_else(|| format!("it can be: {}", known.join(", ")));
                context.report.error_help(&item.place, message, help);
            }
        }
    }
    let source = match source {
        None => MountSource::Anonymous,
        Some(path) if is_path(path) => {
            MountSource::Bind { path: context.path(path), create: true, propagation, selinux }
        }
        Some(key) => MountSource::Volume { name: named(key, item, declared, used, context)?, nocopy },
    };
    Some(Mount { target: trimmed(target), source, read_only })
}

fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.', '~'])
}

fn trimmed(target: &str) -> String {
    match target.trim_end_matches('/') {
        "" => target.to_owned(),
        trimmed => trimmed.to_owned(),
    }
}

/// Docker's name of a declared volume.
fn named(
    key: &str,
    item: &Node,
    declared: &BTreeMap<String, Volume>,
    used: &mut BTreeSet<String>,
    context: &mut Context<'_>,
) -> Option<String> {
    if let Some(volume) = declared.get(key) {
        used.insert(key.to_owned());
        return Some(volume.name.clone());
    }
    let message = format!("the volume `{}` is not declared", shown(key));
    let help = did_you_mean(key, declared.keys().map(String::as_str))
        .unwrap_or_else(|| format!("declare it in the top-level `volumes`, or write `./{}` for a folder", shown(key)));
    context.report.push(Diagnostic::error(&item.place.within(key), message).with_help(help));
    None
}

fn long(
    item: &Node,
    declared: &BTreeMap<String, Volume>,
    used: &mut BTreeSet<String>,
    context: &mut Context<'_>,
) -> Option<Mount> {
    let Some(target) = text(item, "target") else {
        context.report.error(&item.place, "a mount needs a `target`, the path in the container");
        return None;
    };
    let source = item.get("source");
    let source_text = source.and_then(|entry| entry.value.text()).filter(|text| !text.is_empty());
    let kind = match text(item, "type") {
        Some(kind) => kind,
        None if source_text.is_some_and(is_path) => "bind",
        None => "volume",
    };
    for (key, belongs) in [("bind", "bind"), ("volume", "volume"), ("tmpfs", "tmpfs")] {
        if kind != belongs
            && let Some(options) = item.get(key)
        {
            let message = format!("`{key}` does not belong to a mount of type `{kind}`");
            context.report.error(&options.key_place, message);
        }
    }
    let source = match kind {
        "bind" => {
            let Some(path) = source_text else {
                context.report.error(&item.place, "a bind needs a `source`, the path on the host");
                return None;
            };
            let options = item.value("bind");
            MountSource::Bind {
                path: context.path(path),
                create: options.and_then(|options| boolean(options, "create_host_path")).unwrap_or(false),
                propagation: options.and_then(|options| owned(options, "propagation")),
                selinux: options.and_then(|options| owned(options, "selinux")),
            }
        }
        "volume" => {
            let nocopy = item.value("volume").and_then(|options| boolean(options, "nocopy")).unwrap_or(false);
            match (source_text, source) {
                (Some(key), Some(entry)) => {
                    MountSource::Volume { name: named(key, &entry.value, declared, used, context)?, nocopy }
                }
                _ => MountSource::Anonymous,
            }
        }
        "tmpfs" => {
            if let Some(source) = source {
                context.report.error(&source.key_place, "a tmpfs has no `source`");
            }
            let options = item.value("tmpfs");
            let mode = options.and_then(|options| options.get("mode"));
            let parsed = mode.and_then(|entry| entry.value.text()).and_then(octal);
            if let (Some(entry), None) = (mode, parsed) {
                let message = format!("`{}` is not a file mode", entry.value.shown());
                context.report.error_help(&entry.value.place, message, "write it in octal: `1777`");
            }
            MountSource::Tmpfs { size: options.and_then(|options| size(options, "size")), mode: parsed, options: None }
        }
        "image" | "npipe" | "cluster" => {
            let place = item.get("type").map_or(&item.place, |entry| &entry.value.place);
            let message = format!("a mount of type `{kind}` is known to Compose, but reeve does not support it");
            context.report.error_help(place, message, "use `volume`, `bind` or `tmpfs`");
            return None;
        }
        _ => return None,
    };
    Some(Mount { target: trimmed(target), source, read_only: boolean(item, "read_only").unwrap_or(false) })
}

/// Devices of the host: `source[:target[:permissions]]`.
pub fn devices(node: &Node, context: &mut Context<'_>) -> Vec<Device> {
    let Some(list) = node.value("devices") else { return Vec::new() };
    let mut devices = Vec::new();
    for item in list.list() {
        let device = match item.text() {
            Some(text) => {
                let parts: Vec<&str> = text.split(':').collect();
                match parts.as_slice() {
                    [host] => Some((*host, *host, "rwm")),
                    [host, container] if container.starts_with('/') => Some((*host, *container, "rwm")),
                    [host, permissions] => Some((*host, *host, *permissions)),
                    [host, container, permissions] => Some((*host, *container, *permissions)),
                    _ => None,
                }
            }
            None if item.entries().is_empty() => continue,
            None => text(item, "source").map(|host| {
                let container = text(item, "target").unwrap_or(host);
                (host, container, text(item, "permissions").unwrap_or("rwm"))
            }),
        };
        let letters = |permissions: &str| !permissions.is_empty() && permissions.chars().all(|c| "rwm".contains(c));
        match device {
            Some((host, container, permissions))
                if host.starts_with('/') && container.starts_with('/') && letters(permissions) =>
            {
                devices.push(Device {
                    host: host.to_owned(),
                    container: container.to_owned(),
                    permissions: permissions.to_owned(),
                });
            }
            _ => {
                let message = format!("`{}` is not a device", item.shown());
                let help = "write `/dev/host[:/dev/container[:rwm]]`; CDI devices are not supported";
                context.report.error_help(&item.place, message, help);
            }
        }
    }
    devices
}
