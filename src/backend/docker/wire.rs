//! The engine's JSON as far as we read it.
//!
//! Lenient on purpose: every field may be missing or null, and states are text, so that an engine that is newer than
//! this code, or one odd container, is read as far as it can be. These types do not leave `backend::docker`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};

use super::error::Fault;
use crate::observed::{NetworkEndpoint, Networks, PublishedPort};
use crate::spec::Protocol;

/// `null` as the default.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// One entry of `/containers/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Listed {
    pub(super) id: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) names: Vec<String>,
    pub(super) created: i64,
    #[serde(deserialize_with = "nullable")]
    pub(super) ports: Vec<ListedPort>,
    #[serde(deserialize_with = "nullable")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) state: String,
    /// For people, but the only place in the list that tells health, exit code and for how long.
    #[serde(deserialize_with = "nullable")]
    pub(super) status: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) host_config: HostConfig,
    #[serde(deserialize_with = "nullable")]
    pub(super) network_settings: NetworkSettings,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct ListedPort {
    #[serde(rename = "IP", deserialize_with = "nullable")]
    ip: String,
    private_port: u16,
    public_port: Option<u16>,
    #[serde(deserialize_with = "nullable")]
    r#type: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HostConfig {
    #[serde(deserialize_with = "nullable")]
    pub(super) network_mode: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NetworkSettings {
    #[serde(deserialize_with = "nullable")]
    networks: BTreeMap<String, Option<Endpoint>>,
    /// Only in an inspect: `80/tcp` to where it is published.
    #[serde(deserialize_with = "nullable")]
    ports: BTreeMap<String, Option<Vec<Binding>>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Endpoint {
    #[serde(rename = "NetworkID", deserialize_with = "nullable")]
    network_id: String,
    #[serde(rename = "IPAddress", deserialize_with = "nullable")]
    address: String,
    #[serde(rename = "GlobalIPv6Address", deserialize_with = "nullable")]
    address6: String,
    #[serde(deserialize_with = "nullable")]
    gateway: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Binding {
    #[serde(deserialize_with = "nullable")]
    host_ip: String,
    #[serde(deserialize_with = "nullable")]
    host_port: String,
}

/// `/containers/<id>/json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Inspected {
    pub(super) id: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) created: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) restart_count: u32,
    #[serde(deserialize_with = "nullable")]
    pub(super) state: State,
    #[serde(deserialize_with = "nullable")]
    pub(super) config: Config,
    #[serde(deserialize_with = "nullable")]
    pub(super) host_config: HostConfig,
    #[serde(deserialize_with = "nullable")]
    pub(super) network_settings: NetworkSettings,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct State {
    #[serde(deserialize_with = "nullable")]
    pub(super) status: String,
    pub(super) running: bool,
    pub(super) paused: bool,
    pub(super) restarting: bool,
    pub(super) dead: bool,
    pub(super) exit_code: i64,
    #[serde(deserialize_with = "nullable")]
    pub(super) started_at: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) finished_at: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) health: Option<HealthState>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HealthState {
    #[serde(deserialize_with = "nullable")]
    pub(super) status: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) log: Vec<HealthLog>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct HealthLog {
    pub(super) exit_code: i64,
    #[serde(deserialize_with = "nullable")]
    pub(super) output: String,
}

/// Of a container or an image.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Config {
    #[serde(deserialize_with = "nullable")]
    pub(super) image: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) labels: BTreeMap<String, String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "nullable")]
    env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub(super) stop_signal: String,
    /// Seconds.
    pub(super) stop_timeout: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    healthcheck: HealthTest,
    #[serde(deserialize_with = "nullable")]
    exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthTest {
    #[serde(deserialize_with = "nullable")]
    test: Vec<String>,
}

/// `/images/<reference>/json`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Image {
    pub(super) id: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) config: Config,
}

/// An entry of `/networks`, and `/networks/<id>`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Network {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(rename = "IPAM", deserialize_with = "nullable")]
    ipam: Ipam,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Ipam {
    #[serde(deserialize_with = "nullable")]
    config: Vec<IpamPool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct IpamPool {
    #[serde(deserialize_with = "nullable")]
    gateway: String,
}

/// `/volumes`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Volumes {
    #[serde(deserialize_with = "nullable")]
    pub(super) volumes: Vec<Volume>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Volume {
    pub(super) name: String,
    #[serde(deserialize_with = "nullable")]
    pub(super) labels: BTreeMap<String, String>,
}

/// Decodes a list entry by entry when it does not decode as a whole: an odd entry keeps only what tells whose it is
/// (`identity`), and fails the list only when it has not even that, because an entry that was left out would look as if
/// the object were gone.
pub(super) fn lenient_list<T: DeserializeOwned>(text: &str, identity: &[&str]) -> Result<Vec<T>, Fault> {
    if let Ok(list) = serde_json::from_str(text) {
        return Ok(list);
    }
    let broken = |error: serde_json::Error| Fault::Broken(error.to_string());
    let entries: Vec<serde_json::Map<String, serde_json::Value>> = serde_json::from_str(text).map_err(broken)?;
    let entry = |mut entry: serde_json::Map<String, serde_json::Value>| {
        serde_json::from_value(entry.clone().into()).or_else(|_| {
            entry.retain(|key, _| identity.contains(&key.as_str()));
            serde_json::from_value(entry.into()).map_err(broken)
        })
    };
    entries.into_iter().map(entry).collect()
}

impl Listed {
    /// The keys without which an entry is worth nothing.
    pub(super) const IDENTITY: &[&str] = &["Id", "Names", "Labels"];

    /// Without the slash. A container that others link to has further names with more slashes.
    pub(super) fn name(&self) -> &str {
        let plain = self.names.iter().find(|name| name.trim_start_matches('/').find('/').is_none());
        plain.or(self.names.first()).map_or("", |name| name.trim_start_matches('/'))
    }

    /// The entry that a list would have, by an inspect; without the status text.
    pub(super) fn of(inspected: &Inspected) -> Self {
        let mut ports = Vec::new();
        for published in inspected.network_settings.published() {
            ports.push(ListedPort {
                ip: published.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
                private_port: published.target,
                public_port: Some(published.host),
                r#type: published.protocol.to_string(),
            });
        }
        Self {
            id: inspected.id.clone(),
            names: vec![inspected.name.clone()],
            created: time(&inspected.created).map_or(0, Timestamp::as_second),
            ports,
            labels: inspected.config.labels.clone(),
            state: inspected.state.status.clone(),
            status: String::new(),
            host_config: inspected.host_config.clone(),
            network_settings: inspected.network_settings.clone(),
        }
    }

    pub(super) fn published(&self) -> Vec<PublishedPort> {
        let port = |port: &ListedPort| {
            Some(PublishedPort {
                target: port.private_port,
                protocol: protocol(&port.r#type)?,
                host_ip: port.ip.parse().ok(),
                host: port.public_port?,
            })
        };
        sorted(self.ports.iter().filter_map(port).collect())
    }
}

impl NetworkSettings {
    pub(super) fn endpoints(&self) -> Networks {
        let endpoint = |(name, endpoint): (&String, &Option<Endpoint>)| {
            let endpoint = endpoint.clone().unwrap_or_default();
            let seen = NetworkEndpoint {
                address: address(&endpoint.address),
                address6: address(&endpoint.address6),
                gateway: address(&endpoint.gateway),
                network_id: endpoint.network_id,
            };
            (name.clone(), seen)
        };
        self.networks.iter().map(endpoint).collect()
    }

    pub(super) fn published(&self) -> Vec<PublishedPort> {
        let mut published = Vec::new();
        for (key, bindings) in &self.ports {
            let Some((target, protocol)) = target(key) else { continue };
            for binding in bindings.iter().flatten() {
                let Ok(host) = binding.host_port.parse() else { continue };
                published.push(PublishedPort { target, protocol, host_ip: binding.host_ip.parse().ok(), host });
            }
        }
        sorted(published)
    }
}

impl Config {
    /// The image itself has a HEALTHCHECK that is not switched off.
    pub(super) fn has_healthcheck(&self) -> bool {
        self.healthcheck.test.first().is_some_and(|word| word != "NONE")
    }

    /// Variables and labels that begin with this. No other leaves here: they hold secrets.
    pub(super) fn variables(&self, prefix: &str) -> BTreeMap<String, String> {
        let environment = self.env.iter().filter_map(|pair| pair.split_once('='));
        let labels = self.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all = environment.chain(labels).filter(|(name, _)| name.starts_with(prefix));
        all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    pub(super) fn exposed(&self) -> Vec<(u16, Protocol)> {
        self.exposed_ports.keys().filter_map(|key| target(key)).collect()
    }
}

impl Network {
    pub(super) const IDENTITY: &[&str] = &["Id", "Name", "Labels"];

    pub(super) fn gateway(&self) -> Option<IpAddr> {
        // An IPv6 pool may come first; what is registered is an IPv4 address if there is one.
        let gateways: Vec<_> = self.ipam.config.iter().filter_map(|pool| address(&pool.gateway)).collect();
        gateways.iter().find(|gateway| gateway.is_ipv4()).or(gateways.first()).copied()
    }
}

fn sorted(mut ports: Vec<PublishedPort>) -> Vec<PublishedPort> {
    ports.sort();
    ports.dedup();
    ports
}

/// `80/tcp`.
fn target(key: &str) -> Option<(u16, Protocol)> {
    let (port, protocol_name) = key.split_once('/').unwrap_or((key, "tcp"));
    Some((port.parse().ok()?, protocol(protocol_name)?))
}

fn protocol(name: &str) -> Option<Protocol> {
    match name {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        "sctp" => Some(Protocol::Sctp),
        _ => None,
    }
}

/// Some engine versions write a gateway with the length of its prefix.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next().and_then(|address| address.parse().ok())
}

/// `None` for the zero time that the engine writes for "never", and for what is no time.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().filter(|time| *time > Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_odd_container_does_not_fail_the_list() {
        let text = r#"[{"Id":"a","Names":["/x"],"State":"quiesced","Ports":null},
                       {"Id":"b","Names":["/y"],"Labels":{"reeve.owner":"p@n"},"Ports":"all of them"}]"#;
        let list: Vec<Listed> = lenient_list(text, Listed::IDENTITY).expect("readable as far as it goes");
        assert_eq!(list[0].state, "quiesced");
        assert_eq!(list[1].name(), "y");
        assert_eq!(list[1].labels["reeve.owner"], "p@n");
        assert!(list[1].ports.is_empty());
    }

    #[test]
    fn a_list_that_was_cut_off_is_an_error_and_not_a_shorter_list() {
        assert!(lenient_list::<Listed>(r#"[{"Id":"a"},{"Id":"b""#, Listed::IDENTITY).is_err());
        assert!(lenient_list::<Listed>("", Listed::IDENTITY).is_err());
    }

    #[test]
    fn published_ports_are_read_from_the_list_and_from_an_inspect_alike() {
        let listed: Listed = serde_json::from_str(
            r#"{"Id":"a","Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},
                {"IP":"::","PrivatePort":80,"PublicPort":8080,"Type":"tcp"},{"PrivatePort":81,"Type":"udp"}]}"#,
        )
        .expect("valid");
        let inspected: NetworkSettings = serde_json::from_str(
            r#"{"Ports":{"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"},{"HostIp":"::","HostPort":"8080"}],
                "81/udp":null}}"#,
        )
        .expect("valid");
        assert_eq!(listed.published().len(), 2);
        assert_eq!(listed.published(), inspected.published());
    }

    #[test]
    fn a_linked_container_keeps_its_own_name() {
        let listed = Listed { names: vec!["/other/alias".into(), "/mine".into()], ..Listed::default() };
        assert_eq!(listed.name(), "mine");
    }

    #[test]
    fn the_zero_time_is_no_time() {
        assert_eq!(time("0001-01-01T00:00:00Z"), None);
        assert!(time("2026-11-23T14:44:00.123456789Z").is_some());
    }

    #[test]
    fn the_gateway_is_the_ipv4_one_when_there_are_two() {
        let network: Network = serde_json::from_str(
            r#"{"IPAM":{"Config":[{"Subnet":"fd00::/64","Gateway":"fd00::1"},{"Gateway":"172.18.0.1/16"}]}}"#,
        )
        .expect("valid");
        assert_eq!(network.gateway(), "172.18.0.1".parse().ok());
    }
}
