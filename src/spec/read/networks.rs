//! Networks: those that the spec declares, and how a service attaches to them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::container::{NetworkAttachment, NetworkMode};
use super::super::merge::as_mapping;
use super::super::names;
use super::super::suggest::did_you_mean;
use super::super::tree::{Entry, Node, Place, shown};
use super::super::{IpamPool, Network};
use super::{Context, boolean, external, labels, owned, pairs, texts};

/// The top level's networks by key. The default network is added when a service uses it.
pub fn declared(root: &Node, context: &mut Context<'_>) -> BTreeMap<String, Network> {
    let mut networks = BTreeMap::new();
    let Some(section) = root.value("networks") else { return networks };
    for entry in section.entries() {
        networks.insert(entry.key.clone(), network(entry, context));
    }
    networks
}

/// The network that services use which name none.
pub fn default_network(project: &str) -> Network {
    Network {
        name: format!("{project}_default"),
        external: false,
        driver: None,
        driver_opts: BTreeMap::new(),
        internal: false,
        attachable: false,
        enable_ipv6: false,
        ipam: Vec::new(),
        ipam_driver: None,
        labels: BTreeMap::new(),
    }
}

fn network(entry: &Entry, context: &mut Context<'_>) -> Network {
    let node = &entry.value;
    if let Err(reason) = names::key(&entry.key) {
        let message = format!("`{}` is not a network's name: {reason}", shown(&entry.key));
        context.report.error(&entry.key_place, message);
    }
    let name = docker_name("network", entry, context);
    let (external, _) = external(node);
    if external {
        refuse_beside_external("network", entry, context);
    }
    let ipam = node.value("ipam");
    Network {
        name,
        external,
        driver: owned(node, "driver"),
        driver_opts: pairs(node, "driver_opts"),
        internal: boolean(node, "internal").unwrap_or(false),
        attachable: boolean(node, "attachable").unwrap_or(false),
        enable_ipv6: boolean(node, "enable_ipv6").unwrap_or(false),
        ipam: ipam.map_or(Vec::new(), |ipam| pools(ipam, context)),
        ipam_driver: ipam.and_then(|ipam| owned(ipam, "driver")),
        labels: labels(node, context),
    }
}

/// Docker's name of a network or volume: what `name` says, an external one's key, or `<project>_<key>`.
pub fn docker_name(word: &str, entry: &Entry, context: &mut Context<'_>) -> String {
    let node = &entry.value;
    let (external, old_name) = external(node);
    let given = node.get("name").map(|name| &name.value);
    let name = match (given.and_then(Node::text), old_name, external) {
        (Some(name), _, _) => name.to_owned(),
        (None, Some(name), _) => name,
        (None, None, true) => entry.key.clone(),
        (None, None, false) => format!("{}_{}", context.project, entry.key),
    };
    if let Err(reason) = names::docker(&name, word == "network") {
        let place = given.map_or(&entry.key_place, |node| &node.place);
        let shown = given.map_or_else(|| shown(&name), Node::shown);
        context.report.error(place, format!("`{shown}` is not a name for a Docker {word}: {reason}"));
    }
    name
}

/// An external object is not made, so nothing can be said about how.
pub fn refuse_beside_external(word: &str, entry: &Entry, context: &mut Context<'_>) {
    for other in entry.value.entries() {
        if !matches!(other.key.as_str(), "external" | "name") && !other.value.is_null() {
            let message = format!("an external {word} cannot have `{}`", other.key);
            let help = format!("reeve does not make it; take `{}` out, or `external`", other.key);
            context.report.error_help(&other.key_place, message, help);
        }
    }
}

fn pools(ipam: &Node, context: &mut Context<'_>) -> Vec<IpamPool> {
    let Some(list) = ipam.value("config") else { return Vec::new() };
    let mut pools = Vec::new();
    for item in list.list() {
        for key in ["subnet", "ip_range"] {
            if let Some(entry) = item.get(key)
                && let Some(text) = entry.value.text()
                && !is_subnet(text)
            {
                let message = format!("`{}` is not a subnet", entry.value.shown());
                context.report.error_help(&entry.value.place, message, "write it as `172.28.0.0/16`");
            }
        }
        check_address(item, "gateway", context);
        pools.push(IpamPool {
            subnet: owned(item, "subnet"),
            gateway: owned(item, "gateway"),
            ip_range: owned(item, "ip_range"),
            aux_addresses: pairs(item, "aux_addresses"),
        });
    }
    pools
}

fn is_subnet(text: &str) -> bool {
    text.split_once('/').is_some_and(|(address, bits)| {
        let most = match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return false,
        };
        bits.parse::<u8>().is_ok_and(|bits| bits <= most)
    })
}

fn check_address(node: &Node, key: &str, context: &mut Context<'_>) {
    if let Some(entry) = node.get(key)
        && let Some(text) = entry.value.text()
    {
        let valid = match key {
            "ipv4_address" => text.parse::<std::net::Ipv4Addr>().is_ok(),
            "ipv6_address" => text.parse::<std::net::Ipv6Addr>().is_ok(),
            _ => text.parse::<IpAddr>().is_ok(),
        };
        if !valid {
            context
                .report
                .error(&entry.value.place, format!("`{}` is not an address for `{key}`", entry.value.shown()));
        }
    }
}

/// How a service is connected.
#[derive(Debug, Default)]
pub struct Connection {
    /// By Docker's name.
    pub networks: BTreeMap<String, NetworkAttachment>,
    pub mode: Option<NetworkMode>,
    /// Keys of the networks that it uses.
    pub used: Vec<String>,
    /// Addresses that only one replica can have.
    pub fixed: Vec<(&'static str, Place)>,
    pub shares: Option<(String, Place)>,
}

/// Reads `networks` and `network_mode` of a service.
pub fn connection(node: &Node, declared: &mut BTreeMap<String, Network>, context: &mut Context<'_>) -> Connection {
    let mut connection = Connection::default();
    if let Some(entry) = node.given("network_mode") {
        if let Some(networks) = node.get("networks") {
            let help = "take one of the two out";
            context.report.error_help(&networks.key_place, "`networks` does not go together with `network_mode`", help);
        }
        connection.mode = mode(&entry.value, &mut connection.shares, context);
        return connection;
    }
    let named = match node.value("networks") {
        Some(networks) => as_mapping(networks.clone(), None),
        None => Node::null(&node.place),
    };
    if named.entries().is_empty() {
        let network = declared.entry("default".to_owned()).or_insert_with(|| default_network(context.project));
        connection.networks.insert(network.name.clone(), NetworkAttachment::default());
        connection.used.push("default".to_owned());
        return connection;
    }
    for entry in named.entries() {
        if entry.key == "default" {
            declared.entry("default".to_owned()).or_insert_with(|| default_network(context.project));
        }
        let Some(network) = declared.get(&entry.key) else {
            let message = format!("the network `{}` is not declared", shown(&entry.key));
            let help = did_you_mean(&entry.key, declared.keys().map(String::as_str))
                .unwrap_or_else(|| "declare it in the top-level `networks`".to_owned());
            context.report.error_help(&entry.key_place, message, help);
            continue;
        };
        let settings = &entry.value;
        for key in ["ipv4_address", "ipv6_address"] {
            check_address(settings, key, context);
        }
        for key in ["ipv4_address", "ipv6_address", "mac_address"] {
            if let Some(fixed) = settings.get(key) {
                connection.fixed.push((key, fixed.value.place.clone()));
            }
        }
        if let Some(address) = settings.get("mac_address")
            && let Some(text) = address.value.text()
            && !is_mac(text)
        {
            let message = format!("`{}` is not a hardware address", address.value.shown());
            context.report.error_help(&address.value.place, message, "write it as `02:42:ac:11:00:02`");
        }
        let mut aliases = texts(settings, "aliases");
        aliases.sort();
        aliases.dedup();
        let attachment = NetworkAttachment {
            aliases,
            ipv4_address: owned(settings, "ipv4_address"),
            ipv6_address: owned(settings, "ipv6_address"),
            mac_address: owned(settings, "mac_address"),
            link_local_ips: texts(settings, "link_local_ips"),
        };
        connection.networks.insert(network.name.clone(), attachment);
        connection.used.push(entry.key.clone());
    }
    connection
}

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split([':', '-']).collect();
    parts.len() == 6 && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn mode(node: &Node, shares: &mut Option<(String, Place)>, context: &mut Context<'_>) -> Option<NetworkMode> {
    let text = node.text()?;
    match text.split_once(':') {
        Some(("service", service)) if !service.is_empty() => {
            *shares = Some((service.to_owned(), node.place.clone()));
            return Some(NetworkMode::Service(service.to_owned()));
        }
        Some(("container", container)) if !container.is_empty() => {
            return Some(NetworkMode::Container(container.to_owned()));
        }
        _ => {}
    }
    match text {
        "host" => Some(NetworkMode::Host),
        "none" => Some(NetworkMode::None),
        "bridge" => Some(NetworkMode::Bridge),
        _ => {
            let message = format!("`{}` is not a network mode that reeve knows", node.shown());
            let help = did_you_mean(text, ["host", "none", "bridge"]).unwrap_or_else(|| {
                "it must be `host`, `none`, `bridge`, `service:<name>` or `container:<name>`".to_owned()
            });
            context.report.error_help(&node.place, message, help);
            None
        }
    }
}

/// Extra lines for /etc/hosts, as `name:address`.
pub fn extra_hosts(node: &Node, context: &mut Context<'_>) -> Vec<String> {
    let Some(hosts) = node.value("extra_hosts") else { return Vec::new() };
    let mut lines = Vec::new();
    for item in super::super::merge::as_hosts(hosts.clone()).items() {
        let Some(line) = item.text() else { continue };
        let pair = line.split_once('=').or_else(|| line.split_once(':'));
        let parsed = pair.and_then(|(name, address)| {
            let inner = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
            let valid = inner == "host-gateway" || inner.parse::<IpAddr>().is_ok();
            (valid && !name.is_empty()).then(|| format!("{name}:{inner}"))
        });
        match parsed {
            Some(line) => lines.push(line),
            None => {
                let message = format!("`{}` is not a line for /etc/hosts", item.shown());
                context.report.error_help(&item.place, message, "write `name:address`, or `name:host-gateway`");
            }
        }
    }
    lines
}

/// Name servers, which must be addresses.
pub fn dns(node: &Node, context: &mut Context<'_>) -> Vec<String> {
    if let Some(servers) = node.value("dns") {
        for item in servers.items() {
            if item.text().is_some_and(|text| text.parse::<IpAddr>().is_err()) {
                context.report.error(&item.place, format!("`{}` is not the address of a name server", item.shown()));
            }
        }
    }
    texts(node, "dns")
}

/// `hostname` and `domainname`.
pub fn host_name(node: &Node, key: &str, context: &mut Context<'_>) -> Option<String> {
    let entry = node.given(key)?;
    let name = entry.value.text()?;
    let valid = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
    let whole = !name.is_empty() && name.len() <= 253 && name.chars().all(valid);
    if (!whole || name.starts_with(['.', '-']))
        && let Some(entry) = node.get(key)
    {
        let message = format!("`{}` is not a host name", entry.value.shown());
        context.report.error_help(&entry.value.place, message, "use letters, digits, `-` and `.`");
    }
    Some(name.to_owned())
}
