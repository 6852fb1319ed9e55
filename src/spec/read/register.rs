//! `register`: what each replica of a service gets in Consul.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::super::container::{ContainerConfig, NetworkMode, Protocol};
use super::super::tree::{Entry, Node, Place, shown};
use super::super::{Check, CheckAddress, CheckKind, Register, RegisterAddress, names, units};
use super::ports::parse_protocol;
use super::{Context, RegisterPlaces, boolean, duration, text};

const INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(2);
/// Consul's own minimum.
const DEREGISTER_AFTER_MIN: Duration = Duration::from_secs(60);
/// Consul takes 64 pairs of `Meta`; reeve's own are among them.
const META_PAIRS: usize = 56;
const META_KEY: usize = 128;
const META_VALUE: usize = 512;

/// The registrations of a service, with the places that later checks point at.
pub fn read(
    service: &Entry,
    config: &ContainerConfig,
    context: &mut Context<'_>,
) -> (Vec<Register>, Vec<RegisterPlaces>) {
    let mut registers = Vec::new();
    let mut places = Vec::new();
    let Some(entry) = service.value.get("register") else { return (registers, places) };
    let empty = Node::null(&entry.key_place);
    let items: Vec<&Node> = match entry.value.text() {
        Some(text) if units::boolean(text) == Some(true) => vec![&empty],
        Some(_) => Vec::new(),
        None => entry.value.items().iter().collect(),
    };
    if config.network_mode == Some(NetworkMode::None) && !items.is_empty() {
        let help = "take `register` or `network_mode: none` out";
        context.report.error_help(&entry.key_place, "a service without a network cannot be registered", help);
        return (registers, places);
    }
    for item in items {
        if let Some((register, place)) = one(service, item, &entry.key_place, config, context) {
            // The port tells a replica's registrations apart: two on one would overwrite each other for ever.
            let same = |known: &&Register| (known.port, known.protocol) == (register.port, register.protocol);
            if let Some(known) = registers.iter().find(same) {
                let (port, protocol, name) = (register.port, register.protocol, &register.name);
                if known.name == *name {
                    context.report.error(&place.all, format!("port {port}/{protocol} is registered twice as `{name}`"));
                } else {
                    let message = format!("port {port}/{protocol} is registered as `{}` and as `{name}`", known.name);
                    let help = "a port has one name in Consul; tell its users apart by `tags`";
                    context.report.error_help(&place.all, message, help);
                }
            }
            registers.push(register);
            places.push(place);
        }
    }
    (registers, places)
}

fn one(
    service: &Entry,
    item: &Node,
    key_place: &Place,
    config: &ContainerConfig,
    context: &mut Context<'_>,
) -> Option<(Register, RegisterPlaces)> {
    let place_of = |key: &str| item.get(key).map_or(key_place, |entry| &entry.value.place).clone();
    let name = text(item, "name").unwrap_or(&service.key).to_owned();
    if let Err(reason) = names::consul(&name) {
        let shown = item.get("name").map_or_else(|| shown(&name), |entry| entry.value.shown());
        let message = format!("`{shown}` is not a name for a Consul service: {reason}");
        context.report.error(&place_of("name"), message);
    }
    let address = address(item, context);
    let places = RegisterPlaces {
        all: key_place.clone(),
        port: place_of("port"),
        address: place_of("address"),
        check: item.get("check").map_or(key_place, |entry| &entry.key_place).clone(),
    };
    // All of them before the first `?`: every mistake is to be told.
    let port = port(item, key_place, config, context);
    let (tags, meta, check) = (tags(item, context), meta(item, context), check(item, context));
    let (port, protocol) = port?;
    let register = Register { name, port, protocol, address: address?, tags, meta, check };
    Some((register, places))
}

/// The container port that is registered.
fn port(
    item: &Node,
    key_place: &Place,
    config: &ContainerConfig,
    context: &mut Context<'_>,
) -> Option<(u16, Protocol)> {
    let published: Vec<(u16, Protocol)> = config.ports.iter().map(|port| (port.target, port.protocol)).collect();
    if let Some(entry) = item.get("port") {
        let text = entry.value.text()?;
        let (number, protocol) = match text.split_once('/') {
            Some((number, protocol)) => (number, Some(parse_protocol(protocol))),
            None => (text, None),
        };
        let number = number.parse::<u16>().ok().filter(|number| *number > 0);
        return match (number, protocol) {
            (Some(number), Some(Ok(protocol))) => Some((number, protocol)),
            (Some(number), None) => {
                // A port that is published for UDP alone is meant so.
                let tcp = published.contains(&(number, Protocol::Tcp));
                let other = published.iter().find(|(target, _)| *target == number).map(|(_, protocol)| *protocol);
                Some((number, if tcp { Protocol::Tcp } else { other.unwrap_or_default() }))
            }
            _ => {
                let message = format!("`{}` is not a container port", entry.value.shown());
                context.report.error_help(&entry.value.place, message, "write `80`, or `53/udp`");
                None
            }
        };
    }
    let exposed = config.expose.iter().filter_map(|text| {
        let (number, protocol) = text.split_once('/')?;
        Some((number.parse().ok()?, parse_protocol(protocol).ok()?))
    });
    let mut candidates: Vec<(u16, Protocol)> = published.clone();
    if candidates.is_empty() {
        candidates.extend(exposed);
    }
    candidates.sort_unstable();
    candidates.dedup();
    match candidates.as_slice() {
        [only] => Some(*only),
        [] => {
            let help = "name it: `register: { port: 80 }`";
            context.report.error_help(key_place, "the service names no port to register", help);
            None
        }
        several => {
            let list: Vec<String> = several.iter().map(|(port, protocol)| format!("{port}/{protocol}")).collect();
            let message = format!("the service has several ports ({}); which one is registered?", list.join(", "));
            let help = format!("name it: `register: {{ port: {} }}`", several.first().map_or(80, |(port, _)| *port));
            context.report.error_help(key_place, message, help);
            None
        }
    }
}

fn address(item: &Node, context: &mut Context<'_>) -> Option<RegisterAddress> {
    let Some(entry) = item.get("address") else { return Some(RegisterAddress::Published) };
    match entry.value.text()? {
        "published" => Some(RegisterAddress::Published),
        "container" => Some(RegisterAddress::Container),
        text if text.parse::<IpAddr>().is_ok() => Some(RegisterAddress::Fixed(text.to_owned())),
        _ => {
            let message = format!("`{}` is not an address to register", entry.value.shown());
            context.report.error_help(&entry.value.place, message, "it must be `published`, `container` or an IP");
            None
        }
    }
}

fn tags(item: &Node, context: &mut Context<'_>) -> Vec<String> {
    let mut tags = Vec::new();
    let Some(list) = item.value("tags") else { return tags };
    for item in list.items() {
        let Some(tag) = item.text() else { continue };
        if tag.is_empty() || tag.len() > 255 || tag.chars().any(char::is_control) {
            let message = format!("`{}` is not a tag", item.shown());
            context.report.error_help(&item.place, message, "a tag is 1 to 255 bytes without control characters");
        } else if tags.iter().any(|known| known == tag) {
            context.report.error(&item.place, format!("the tag `{}` is given twice", item.shown()));
        } else {
            tags.push(tag.to_owned());
        }
    }
    // Consul keeps the order, and a difference in order would look like a change.
    tags.sort();
    tags
}

fn meta(item: &Node, context: &mut Context<'_>) -> BTreeMap<String, String> {
    let mut meta = BTreeMap::new();
    let Some(entry) = item.get("meta") else { return meta };
    for pair in entry.value.entries() {
        let value = pair.value.text().unwrap_or_default();
        let key_letters = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        let problem = if pair.key.is_empty() || !pair.key.chars().all(key_letters) {
            Some("Consul takes only letters, digits, `-` and `_`".to_owned())
        } else if pair.key.len() > META_KEY {
            Some(format!("Consul takes at most {META_KEY} characters"))
        } else if pair.key.starts_with("reeve-") || pair.key.starts_with("consul-") {
            Some("keys that begin with `reeve-` or `consul-` are reserved".to_owned())
        } else {
            None
        };
        if let Some(problem) = problem {
            let message = format!("`{}` is not a key for metadata: {problem}", shown(&pair.key));
            context.report.error(&pair.key_place, message);
        }
        if value.len() > META_VALUE {
            let message = format!("the value of `{}` has {} bytes", shown(&pair.key), value.len());
            context.report.error_help(&pair.value.place, message, format!("Consul takes at most {META_VALUE}"));
        }
        meta.insert(pair.key.clone(), value.to_owned());
    }
    if meta.len() > META_PAIRS {
        let message = format!("{} pairs of metadata", meta.len());
        let help = format!("Consul takes 64, of which reeve needs some: at most {META_PAIRS}");
        context.report.error_help(&entry.key_place, message, help);
    }
    meta
}

fn check(item: &Node, context: &mut Context<'_>) -> Option<Check> {
    let entry = item.get("check")?;
    let node = &entry.value;
    let kind = match node.text() {
        Some("tcp") => Some(CheckKind::Tcp),
        Some(_) => return None,
        None => kind(entry, context),
    };
    let positive = |key: &str, default: Duration, context: &mut Context<'_>| match (node.get(key), duration(node, key))
    {
        (Some(entry), Some(value)) if value.is_zero() => {
            context.report.error(&entry.value.place, format!("`{key}` must be more than 0"));
            default
        }
        (_, Some(value)) => value,
        (_, None) => default,
    };
    let interval = positive("interval", INTERVAL, context);
    let timeout = positive("timeout", TIMEOUT, context);
    let deregister_after = duration(node, "deregister_after");
    if let (Some(after), Some(entry)) = (deregister_after, node.get("deregister_after"))
        && after < DEREGISTER_AFTER_MIN
    {
        let message = "`deregister_after` must be at least 1m";
        context.report.error_help(&entry.value.place, message, "Consul silently takes less as 1m");
    }
    let address = match text(node, "address") {
        Some("registered") => CheckAddress::Registered,
        Some("container") => CheckAddress::Container,
        _ => CheckAddress::Auto,
    };
    Some(Check { kind: kind?, interval, timeout, deregister_after, address })
}

fn kind(entry: &Entry, context: &mut Context<'_>) -> Option<CheckKind> {
    let node = &entry.value;
    let tcp = node.get("tcp").filter(|_| boolean(node, "tcp") != Some(false));
    let grpc = node.get("grpc").filter(|entry| entry.value.text().and_then(units::boolean) != Some(false));
    let http = node.get("http");
    let given: Vec<&Entry> = [http, tcp, grpc].into_iter().flatten().collect();
    let [given] = given.as_slice() else {
        let (place, message) = match given.get(1) {
            Some(second) => (&second.key_place, "a check is one of `http`, `tcp`, `grpc`, not several"),
            None => (&entry.key_place, "a check needs one of `http`, `tcp`, `grpc`"),
        };
        context.report.error_help(place, message, "for example `check: { http: /health }`; `check: none` for none");
        return None;
    };
    let text = given.value.text()?;
    match given.key.as_str() {
        "http" => {
            let bad = text.chars().any(|letter| letter.is_control() || letter == ' ') || text.len() > 1024;
            if !text.starts_with('/') || bad {
                let message = format!("`{}` is not a path to check", given.value.shown());
                context.report.error_help(&given.value.place, message, "it must begin with `/` and hold no blanks");
            }
            Some(CheckKind::Http { path: text.to_owned() })
        }
        "grpc" => {
            let service = if units::boolean(text).is_some() { "" } else { text };
            let letters = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
            if !service.chars().all(letters) {
                let message = format!("`{}` is not the name of a gRPC service", given.value.shown());
                context.report.error(&given.value.place, message);
            }
            Some(CheckKind::Grpc { service: service.to_owned() })
        }
        _ => Some(CheckKind::Tcp),
    }
}
