//! `discovery`: what is said of containers that reeve did not make.

use std::collections::BTreeSet;

use super::super::discovery::{DiscoveredAddress, DiscoveredIds, Discovers, Discovery};
use super::super::names;
use super::super::tree::Node;
use super::{Context, text};

/// `None`: nothing is discovered.
pub fn read(node: &Node, context: &mut Context<'_>) -> Option<Discovery> {
    let networks = list(node, "networks", context, |name| names::docker(name, true));
    let tags = list(node, "tags", context, tag);
    let metadata = list(node, "metadata", context, attribute);
    let hostname = text(node, "hostname").map(str::to_owned);
    if let (Some(hostname), Some(entry)) = (&hostname, node.get("hostname"))
        && let Err(reason) = names::consul(hostname)
    {
        let message = format!("`{}` is not a host's name: {reason}", entry.value.shown());
        context.report.error(&entry.value.place, message);
    }
    let address = match text(node, "address") {
        Some("container") => DiscoveredAddress::Container,
        _ => DiscoveredAddress::Published,
    };
    let ids = match text(node, "ids") {
        Some("registrator") => DiscoveredIds::Registrator,
        _ => DiscoveredIds::Reeve,
    };
    if let (DiscoveredAddress::Published, Some(entry)) = (address, node.get("networks")) {
        let help = "set `address: container` as well, or take `networks` out";
        context.report.error_help(&entry.key_place, "`networks` means something for `address: container` alone", help);
    }
    if let (DiscoveredIds::Reeve, Some(entry)) = (ids, node.get("hostname")) {
        let help =
            "set `ids: registrator` as well, or take `hostname` out: ids of reeve's begin with `node` of reeve.yaml";
        context.report.error_help(&entry.key_place, "`hostname` means something for `ids: registrator` alone", help);
    }
    let containers = match text(node, "containers") {
        Some("all") => Discovers::All,
        Some("labelled") => Discovers::Labelled,
        _ => return None,
    };
    let metadata: BTreeSet<String> = metadata.into_iter().map(|name| name.to_ascii_lowercase()).collect();
    Some(Discovery { containers, address, networks, tags, ids, hostname, metadata })
}

/// The texts of a list that are what `rule` wants, each once.
fn list(node: &Node, key: &str, context: &mut Context<'_>, rule: impl Fn(&str) -> Result<(), String>) -> Vec<String> {
    let mut list = Vec::new();
    let Some(items) = node.value(key) else { return list };
    for item in items.items() {
        let Some(text) = item.text() else { continue };
        if let Err(reason) = rule(text) {
            let message = format!("`{}` cannot be one of `{key}`: {reason}", item.shown());
            context.report.error(&item.place, message);
        } else if !list.iter().any(|known| known == text) {
            list.push(text.to_owned());
        }
    }
    list
}

fn tag(tag: &str) -> Result<(), String> {
    match tag.is_empty() || tag.len() > 255 || tag.chars().any(char::is_control) {
        true => Err("a tag is 1 to 255 bytes without control characters".to_owned()),
        false => Ok(()),
    }
}

/// The part of `SERVICE_TEAM` that becomes a key of `Meta`.
fn attribute(name: &str) -> Result<(), String> {
    let letters = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || name.len() > 128 || !name.chars().all(letters) {
        return Err("Consul takes 1 to 128 letters, digits, `-` and `_`".to_owned());
    }
    if let Some(rest) = lower.strip_prefix("service_") {
        return Err(format!("write it without `SERVICE_`: `{rest}`"));
    }
    if matches!(lower.as_str(), "name" | "id" | "tags" | "ignore") || lower.starts_with("check_") {
        return Err("it has a meaning of its own, and is no metadata".to_owned());
    }
    match lower.starts_with("reeve-") || lower.starts_with("consul-") {
        true => Err("keys that begin with `reeve-` or `consul-` are reserved".to_owned()),
        false => Ok(()),
    }
}
