//! Consul's JSON, and the way from it to `observed`'s words. These types do not leave this folder.
//!
//! Go writes `null` for an empty list or map, and Consul lets anybody register numbers that are no ports: nothing
//! that a stranger registered may make a whole answer unreadable.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer};

use crate::observed::{
    self, CheckSeen, CheckStatus, Instance, Maintenance, OTHER_HOST, Registration, StrangerRegistration,
};
use crate::spec::Owner;

/// Keys of `Meta` that are reeve's own.
pub(super) mod meta {
    pub const OWNER: &str = "reeve-owner";
    pub const SERVICE: &str = "reeve-service";
    pub const SLOT: &str = "reeve-slot";
    pub const CONTAINER: &str = "reeve-container";
    /// Digest of the declared check.
    pub const CHECK: &str = "reeve-check";
    /// RFC 3339.
    pub const DRAIN_START: &str = "reeve-drain-start";
    /// The machine that wrote it.
    pub const HOST: &str = "reeve-host";

    pub const ALL: [&str; 7] = [OWNER, SERVICE, SLOT, CONTAINER, CHECK, DRAIN_START, HOST];
}

/// Maintenance whose reason begins so is reeve's drain; every other is an operator's.
pub(super) const OUR_REASON: &str = "reeve: ";
pub(super) const NODE_MAINTENANCE: &str = "_node_maintenance";
/// Whether the other members of the cluster hear the node.
pub(super) const SERF_HEALTH: &str = "serfHealth";

pub(super) fn service_maintenance(id: &str) -> String {
    format!("_service_maintenance:{id}")
}

pub(super) fn declared_check(id: &str) -> String {
    format!("{id}:declared")
}

pub(super) fn health_check(id: &str) -> String {
    format!("{id}:health")
}

pub(super) fn nullable<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AutopilotHealth {
    pub failure_tolerance: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentSelf {
    pub config: AgentConfig,
    #[serde(default, deserialize_with = "nullable")]
    pub member: Member,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct AgentConfig {
    pub datacenter: String,
    pub node_name: String,
    #[serde(default, rename = "NodeID")]
    pub node_id: String,
    #[serde(default)]
    pub version: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Member {
    pub addr: String,
}

impl AgentSelf {
    pub fn agent(self) -> observed::Agent {
        observed::Agent {
            node: self.config.node_name,
            node_id: self.config.node_id,
            datacenter: self.config.datacenter,
            version: self.config.version,
            address: self.member.addr.parse().ok(),
        }
    }
}

/// One service, as the agent lists it and as the catalog does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Service {
    #[serde(rename = "ID")]
    pub id: String,
    pub service: String,
    #[serde(deserialize_with = "nullable")]
    pub tags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub meta: BTreeMap<String, String>,
    pub port: i64,
    pub address: String,
    #[serde(deserialize_with = "nullable")]
    pub weights: Weights,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Weights {
    pub passing: i64,
    pub warning: i64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { passing: 1, warning: 1 }
    }
}

impl Service {
    pub fn owner(&self) -> Option<&str> {
        self.meta.get(meta::OWNER).map(String::as_str)
    }

    /// What another machine wrote under our mark, because it has our name, is not ours, and its mark says so from here on.
    /// Without knowing both machines, the mark is believed.
    pub fn tell_apart(&mut self, owner: &Owner, host: Option<&str>) {
        let theirs = self.meta.get(meta::HOST).map(String::as_str);
        let other = theirs.zip(host).is_some_and(|(theirs, ours)| theirs != ours);
        if other && self.owned_by(owner) {
            self.meta.insert(meta::OWNER.to_owned(), format!("{owner}{OTHER_HOST}"));
        }
    }

    pub fn owned_by(&self, owner: &Owner) -> bool {
        self.owner() == Some(owner.to_string().as_str())
    }

    /// 0 for what is no port: nothing can be routed there.
    fn port(&self) -> u16 {
        u16::try_from(self.port).unwrap_or(0)
    }

    pub fn stranger(self) -> StrangerRegistration {
        StrangerRegistration { owner: self.owner().map(str::to_owned), name: self.service }
    }

    /// `checks`: those of this id. `node`: the node's maintenance reason.
    pub fn registration(self, checks: &[&Check], node: Option<&str>) -> Registration {
        let text = |key| self.meta.get(key).cloned().unwrap_or_default();
        let marker = service_maintenance(&self.id);
        let maintenance = match (checks.iter().find(|check| check.check_id == marker), node) {
            (Some(check), _) => maintenance(&check.notes),
            (None, Some(reason)) => Maintenance::Operator { reason: format!("node maintenance: {reason}") },
            (None, None) => Maintenance::Off,
        };
        Registration {
            service: text(meta::SERVICE),
            slot: text(meta::SLOT).parse().unwrap_or(0),
            container: text(meta::CONTAINER),
            check_digest: self.meta.get(meta::CHECK).cloned(),
            drain_start: self.meta.get(meta::DRAIN_START).and_then(|text| text.parse::<Timestamp>().ok()),
            maintenance,
            checks: checks
                .iter()
                .filter(|check| check.check_id != marker)
                .map(|check| (check.check_id.clone(), check.seen()))
                .collect(),
            port: self.port(),
            meta: self.meta.into_iter().filter(|(key, _)| !meta::ALL.contains(&key.as_str())).collect(),
            id: self.id,
            name: self.service,
            address: self.address,
            tags: self.tags,
        }
    }
}

pub(super) fn maintenance(reason: &str) -> Maintenance {
    if reason.starts_with(OUR_REASON) {
        Maintenance::Draining { reason: reason.to_owned() }
    } else {
        Maintenance::Operator { reason: reason.to_owned() }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Check {
    pub node: String,
    #[serde(rename = "CheckID")]
    pub check_id: String,
    pub status: String,
    pub notes: String,
    pub output: String,
    #[serde(rename = "ServiceID")]
    pub service_id: String,
    /// Empty: a check of the node.
    pub service_name: String,
    /// `http`, `tcp`, `grpc`, `ttl`, `maintenance`.
    #[serde(rename = "Type")]
    pub kind: String,
}

/// What the agent tells of the health of one registration: of its checks, and of those of the node, but not their type
/// (1.8.7).
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ServiceHealth {
    /// Without it, it is not the agent's answer, but that of something in front of it.
    #[serde(rename = "AggregatedStatus")]
    pub _status: String,
    pub service: Option<Service>,
    #[serde(deserialize_with = "nullable")]
    pub checks: Vec<Check>,
}

impl Check {
    /// A status that Consul does not document is the worst one.
    pub fn status(&self) -> CheckStatus {
        match self.status.as_str() {
            "passing" => CheckStatus::Passing,
            "warning" => CheckStatus::Warning,
            _ => CheckStatus::Critical,
        }
    }

    fn seen(&self) -> CheckSeen {
        CheckSeen { status: self.status(), output: self.output.trim_end().to_owned() }
    }

    fn passes(&self) -> bool {
        self.status() == CheckStatus::Passing
    }

    /// It fails, and says nothing of the instance: it has not run yet, or is only the cluster's opinion of the node.
    fn doubtful(&self) -> bool {
        !self.passes() && !self.maintenance() && (self.check_id == SERF_HEALTH || self.output.trim().is_empty())
    }

    fn maintenance(&self) -> bool {
        self.check_id == NODE_MAINTENANCE || self.check_id.starts_with("_service_maintenance:")
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CatalogNode {
    pub node: String,
    pub address: String,
    #[serde(deserialize_with = "nullable")]
    pub meta: BTreeMap<String, String>,
}

/// What the catalog knows of one node; `null` for one that it does not know.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct NodeServices {
    #[serde(deserialize_with = "nullable")]
    pub services: BTreeMap<String, Service>,
}

/// The same, as far as it tells what has changed.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Counted {
    #[serde(deserialize_with = "nullable")]
    pub services: BTreeMap<String, CountedService>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CountedService {
    pub service: String,
    pub modify_index: u64,
}

/// One instance in `/v1/health/service/…`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Entry {
    pub node: CatalogNode,
    pub service: Service,
    #[serde(deserialize_with = "nullable")]
    pub checks: Vec<Check>,
}

impl Entry {
    /// The maintenance, else the worst check, with its output: all that a person needs to know.
    fn trouble(&self) -> Option<String> {
        let maintenance =
            self.checks.iter().find(|check| check.maintenance()).map(|check| match check.check_id.as_str() {
                NODE_MAINTENANCE => format!("node maintenance: {}", check.notes),
                _ => check.notes.clone(),
            });
        maintenance.or_else(|| {
            let worst = self.checks.iter().max_by_key(|check| check.status())?;
            (worst.status() != CheckStatus::Passing)
                .then(|| format!("check {} is {}: {}", worst.check_id, worst.status(), worst.output.trim()))
        })
    }

    pub fn instance(self) -> Instance {
        Instance {
            trouble: self.trouble(),
            passing: self.checks.iter().all(Check::passes),
            doubtful: {
                let mut failing = self.checks.iter().filter(|check| !check.passes()).peekable();
                failing.peek().is_some() && failing.all(Check::doubtful)
            },
            maintenance: self.checks.iter().any(Check::maintenance),
            weight: u32::try_from(self.service.weights.passing).unwrap_or(1),
            owner: self.service.owner().map(str::to_owned),
            container: self.service.meta.get(meta::CONTAINER).cloned(),
            port: self.service.port(),
            address: if self.service.address.is_empty() { self.node.address } else { self.service.address },
            id: self.service.id,
            node: self.node.node,
        }
    }

    /// What a watch compares. A check's output is left out: it may hold the time of day, and change with each run.
    fn facts(&self, hasher: &mut DefaultHasher) {
        let service = &self.service;
        (&self.node.node, &self.node.address, &self.node.meta).hash(hasher);
        (&service.id, &service.service, &service.address, service.port).hash(hasher);
        (&service.tags, &service.meta, service.weights.passing, service.weights.warning).hash(hasher);
        let mut checks: Vec<_> =
            self.checks.iter().map(|check| (&check.check_id, &check.status, &check.notes, check.doubtful())).collect();
        checks.sort_unstable();
        checks.hash(hasher);
    }
}

/// A digest of all that a pass would act on, whatever the order of the answer.
pub(super) fn facts_of_entries(entries: &[Entry]) -> u64 {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_unstable_by(|a, b| (&a.node.node, &a.service.id).cmp(&(&b.node.node, &b.service.id)));
    let mut hasher = DefaultHasher::new();
    for entry in sorted {
        entry.facts(&mut hasher);
    }
    hasher.finish()
}

/// As `facts_of_entries`, for checks alone.
pub(super) fn facts_of_checks(checks: &[Check]) -> u64 {
    let mut facts: Vec<_> = checks
        .iter()
        .map(|check| (&check.node, &check.check_id, &check.service_id, &check.status, &check.notes))
        .collect();
    facts.sort_unstable();
    let mut hasher = DefaultHasher::new();
    facts.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(json: serde_json::Value) -> Entry {
        serde_json::from_value(json).expect("an entry")
    }

    fn web() -> serde_json::Value {
        serde_json::json!({
            "Node": { "Node": "n1", "Address": "192.0.2.1" },
            "Service": { "ID": "web-1", "Service": "web", "Tags": null, "Meta": null, "Port": 80, "Address": "",
                "Weights": { "Passing": 3, "Warning": 1 } },
            "Checks": [{ "CheckID": "serfHealth", "Status": "passing", "Output": "12:00:01" }]
        })
    }

    #[test]
    fn null_lists_are_empty_and_the_nodes_address_stands_in() {
        let instance = entry(web()).instance();
        assert_eq!((instance.address.as_str(), instance.port, instance.weight), ("192.0.2.1", 80, 3));
        assert!(instance.passing && !instance.maintenance);
    }

    #[test]
    fn a_warning_and_maintenance_are_not_passing() {
        for check in ["_node_maintenance", "_service_maintenance:web-1", "service:web-1"] {
            let mut json = web();
            json["Checks"][0] = serde_json::json!({ "CheckID": check, "Status": "warning" });
            let instance = entry(json).instance();
            assert!(!instance.passing, "{check}");
            assert_eq!(instance.maintenance, check != "service:web-1");
        }
    }

    #[test]
    fn a_check_that_has_not_run_and_a_node_that_is_not_heard_of_are_doubts() {
        let doubtful = |check: &str, output: &str, more: Option<&str>| {
            let mut json = web();
            let critical =
                |id: &str, output: &str| serde_json::json!({ "CheckID": id, "Status": "critical", "Output": output });
            json["Checks"] = more.into_iter().map(|id| critical(id, "503")).chain([critical(check, output)]).collect();
            let instance = entry(json).instance();
            assert!(!instance.passing);
            instance.doubtful
        };
        assert!(doubtful("web-1:declared", "", None), "it has not run");
        assert!(!doubtful("web-1:declared", "HTTP GET …: 503", None), "it has, and fails");
        assert!(doubtful("serfHealth", "Agent not live or unreachable", None));
        assert!(!doubtful("serfHealth", "Agent not live or unreachable", Some("web-1:declared")), "one fails for sure");
        assert!(!doubtful("_service_maintenance:web-1", "", None), "maintenance is no doubt");
        assert!(!entry(web()).instance().doubtful, "it passes");
    }

    #[test]
    fn a_number_that_is_no_port_spoils_only_its_own_instance() {
        for port in [70000, -1, 0] {
            let mut json = web();
            json["Service"]["Port"] = port.into();
            assert_eq!(entry(json).instance().port, 0);
        }
    }

    #[test]
    fn output_and_order_do_not_change_the_facts_and_everything_else_does() {
        let first = entry(web());
        let mut other = web();
        other["Service"]["ID"] = "web-2".into();
        let second = entry(other);
        let facts = facts_of_entries(&[first.clone(), second.clone()]);
        let mut chatty = first.clone();
        chatty.checks[0].output = "12:00:02".to_owned();
        assert_eq!(facts, facts_of_entries(&[second.clone(), chatty]));
        for change in [
            |entry: &mut Entry| entry.checks[0].status = "critical".to_owned(),
            |entry: &mut Entry| entry.checks.clear(),
            |entry: &mut Entry| entry.service.address = "192.0.2.9".to_owned(),
            |entry: &mut Entry| entry.service.port = 81,
            |entry: &mut Entry| entry.node.address = "192.0.2.9".to_owned(),
            |entry: &mut Entry| entry.service.tags.push("v2".to_owned()),
            |entry: &mut Entry| drop(entry.service.meta.insert("team".to_owned(), "web".to_owned())),
            |entry: &mut Entry| entry.service.weights.passing = 1,
        ] {
            let mut changed = first.clone();
            change(&mut changed);
            assert_ne!(facts, facts_of_entries(&[changed, second.clone()]));
        }
    }

    #[test]
    fn maintenance_is_read_by_its_reason_and_the_services_own_goes_first() {
        let service = Service { id: "web-1".to_owned(), ..Service::default() };
        let check = |notes: &str| Check {
            check_id: service_maintenance("web-1"),
            notes: notes.to_owned(),
            status: "critical".to_owned(),
            ..Check::default()
        };
        let seen = |checks: &[&Check], node| service.clone().registration(checks, node).maintenance;
        assert_eq!(seen(&[], None), Maintenance::Off);
        assert_eq!(seen(&[], Some("disk")), Maintenance::Operator { reason: "node maintenance: disk".to_owned() });
        assert_eq!(
            seen(&[&check("reeve: replaced")], Some("x")),
            Maintenance::Draining { reason: "reeve: replaced".to_owned() }
        );
        assert_eq!(seen(&[&check("by hand")], None), Maintenance::Operator { reason: "by hand".to_owned() });
        assert!(service.clone().registration(&[&check("by hand")], None).checks.is_empty());
    }
}
