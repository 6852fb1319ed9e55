//! Answers to what templates ask for: one read of Consul each, in consul-template's shape.
//!
//! Owns the way from Consul's JSON to that shape, and the memory of what an answer had before. An answer without a leader,
//! or from which a token hides something, is Unknown and never empty.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use base64::Engine as _;
use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::Consul;
use super::http::{Answer as HttpAnswer, Failure, Request};
use super::wire::{AgentSelf, nullable};
use crate::observed::{Answer, Dependency, View};

/// One read. Another datacenter that is away must not hold up the rest for long.
const LIMIT: Duration = Duration::from_secs(4);
/// Reads at the same time.
const AT_ONCE: usize = 12;
/// One that ran into its limit is not asked again for so long: else every pass would last as long as the limit.
const REST_AFTER_TIME_OUT: Duration = Duration::from_secs(10);

/// What each answer had before, and since when it cannot be read. Lost with the process, it only prolongs a wait.
#[derive(Default)]
pub(super) struct AnswerMemory(BTreeMap<Dependency, Past>);

#[derive(Default)]
struct Past {
    entries: Option<(BTreeSet<String>, Timestamp)>,
    unreadable: Option<(String, Timestamp)>,
    rests_until: Option<Instant>,
}

impl AnswerMemory {
    fn read(&mut self, dependency: &Dependency, data: Json, entries: BTreeSet<String>, now: Timestamp) -> View<Answer> {
        let past = self.0.entry(dependency.clone()).or_default();
        (past.unreadable, past.rests_until) = (None, None);
        let shrunk_at = match &past.entries {
            Some((before, shrunk_at)) if before.is_subset(&entries) => *shrunk_at,
            Some(_) | None => now,
        };
        past.entries = Some((entries.clone(), shrunk_at));
        View::Known(Answer { data, entries, shrunk_at })
    }

    fn unreadable(&mut self, dependency: &Dependency, reason: String, rests: bool, now: Timestamp) -> View<Answer> {
        let past = self.0.entry(dependency.clone()).or_default();
        let since = past.unreadable.as_ref().map_or(now, |(_, since)| *since);
        past.unreadable = Some((reason.clone(), since));
        past.rests_until = rests.then(|| Instant::now() + REST_AFTER_TIME_OUT);
        View::Unknown { reason, since }
    }

    fn resting(&self, dependency: &Dependency) -> Option<View<Answer>> {
        let past = self.0.get(dependency)?;
        let (reason, since) = past.unreadable.as_ref()?;
        (past.rests_until? > Instant::now()).then(|| View::Unknown { reason: reason.clone(), since: *since })
    }
}

/// What was read, before a template's own choice among it.
enum Raw {
    /// `near` keeps Consul's order.
    Instances(Vec<HealthEntry>),
    Data(Json, BTreeSet<String>),
}

impl Consul {
    /// Asks Consul for each of them, until `deadline`.
    pub async fn answers(
        &self,
        wanted: &BTreeSet<Dependency>,
        deadline: Instant,
    ) -> BTreeMap<Dependency, View<Answer>> {
        let mut answers = BTreeMap::new();
        // Two that differ in the statuses alone are one read.
        let mut reads: BTreeMap<Dependency, Vec<Dependency>> = BTreeMap::new();
        for dependency in wanted {
            match self.remembering(|memory| memory.answers.resting(dependency)) {
                Some(view) => drop(answers.insert(dependency.clone(), view)),
                None => reads.entry(read_of(dependency)).or_default().push(dependency.clone()),
            }
        }
        let work = reads.into_iter().map(|(read, dependencies)| async move {
            let limit = LIMIT.min(deadline.saturating_duration_since(Instant::now()));
            (dependencies, self.read(&read, limit).await)
        });
        let mut done = futures_util::stream::iter(work.collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        while let Some((dependencies, result)) = done.next().await {
            let now = Timestamp::now();
            for dependency in dependencies {
                let view = self.remembering(|memory| match &result {
                    Ok(raw) => {
                        let (data, entries) = raw.of(&dependency);
                        memory.answers.read(&dependency, data, entries, now)
                    }
                    Err((reason, rests)) => memory.answers.unreadable(&dependency, reason.clone(), *rests, now),
                });
                answers.insert(dependency, view);
            }
        }
        answers
    }

    /// What templates ask for from now on: it is watched, and what nobody asks for any more is forgotten.
    pub fn follow(&self, asked: BTreeSet<Dependency>) {
        self.remembering(|memory| memory.answers.0.retain(|dependency, _| asked.contains(dependency)));
        self.asked.send_if_modified(|known| {
            let changed = *known != asked;
            *known = asked;
            changed
        });
    }

    /// An error with whether it rests.
    async fn read(&self, dependency: &Dependency, limit: Duration) -> Result<Raw, (String, bool)> {
        let own_node;
        let dependency = match dependency {
            Dependency::Node { name: None, datacenter } => {
                let me = self.client.json::<AgentSelf>(Request::get(&["v1", "agent", "self"], limit)).await;
                let name = me.map_err(|failure| (failure.to_string(), false))?.value.agent().node;
                own_node = Dependency::Node { name: Some(name), datacenter: datacenter.clone() };
                &own_node
            }
            other => other,
        };
        let Some((path, query)) = address(dependency) else {
            return Err(("Consul does not know of it".to_owned(), false));
        };
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let mut request = Request::get(&path, limit).or_null();
        for (name, value) in query {
            request = request.query(name, value);
        }
        let remote = query_datacenter(dependency).is_some();
        let believe = |answer: HttpAnswer<Json>| {
            if answer.without_leader {
                return Err((
                    format!("Consul answered for {dependency} without knowing a leader: not believed"),
                    false,
                ));
            }
            if answer.filtered_by_acl {
                return Err((
                    format!("the token may not see all of {dependency}: it needs service:read, node:read and key:read"),
                    false,
                ));
            }
            Ok(answer.value)
        };
        let answer = self.client.json::<Json>(request).await;
        let json = answer
            .map_err(|failure: Failure| {
                let rests = failure.timed_out() && remote && limit >= LIMIT / 2;
                (failure.to_string(), rests)
            })
            .and_then(believe)?;
        shaped(dependency, json)
            .map_err(|error| (format!("Consul's answer to {dependency} is not understood: {error}"), false))
    }
}

/// The same for every choice among the answer.
pub(super) fn read_of(dependency: &Dependency) -> Dependency {
    match dependency.clone() {
        Dependency::Service { name, tag, datacenter, near, .. } => {
            Dependency::Service { name, tag, datacenter, near, statuses: BTreeSet::new() }
        }
        other => other,
    }
}

fn query_datacenter(dependency: &Dependency) -> Option<&String> {
    match dependency {
        Dependency::Service { datacenter, .. }
        | Dependency::Services { datacenter }
        | Dependency::Nodes { datacenter, .. }
        | Dependency::Node { datacenter, .. }
        | Dependency::Key { datacenter, .. }
        | Dependency::Keys { datacenter, .. } => datacenter.as_ref(),
        Dependency::Datacenters | Dependency::Environment(_) | Dependency::File(_) => None,
    }
}

type Address = (Vec<String>, Vec<(&'static str, String)>);

/// Where it is asked for.
pub(super) fn address(dependency: &Dependency) -> Option<Address> {
    let path = |text: &str| -> Vec<String> { text.split('/').map(str::to_owned).collect() };
    let mut query: Vec<(&'static str, String)> = Vec::new();
    let mut near_and_tag = |near: &Option<String>, tag: &Option<String>| {
        query.extend(near.clone().map(|near| ("near", near)));
        query.extend(tag.clone().map(|tag| ("tag", tag)));
    };
    let parts = match dependency {
        Dependency::Service { name, tag, near, .. } => {
            near_and_tag(near, tag);
            [path("v1/health/service"), vec![name.clone()]].concat()
        }
        Dependency::Services { .. } => path("v1/catalog/services"),
        Dependency::Nodes { near, .. } => {
            near_and_tag(near, &None);
            path("v1/catalog/nodes")
        }
        Dependency::Node { name, .. } => [path("v1/catalog/node"), vec![name.clone()?]].concat(),
        Dependency::Key { path: key, .. } => [path("v1/kv"), path(key)].concat(),
        Dependency::Keys { prefix, .. } => {
            query.push(("recurse", "true".to_owned()));
            [path("v1/kv"), path(prefix)].concat()
        }
        Dependency::Datacenters => path("v1/catalog/datacenters"),
        Dependency::Environment(_) | Dependency::File(_) => return None,
    };
    query.extend(query_datacenter(dependency).map(|datacenter| ("dc", datacenter.clone())));
    Some((parts, query))
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthNode {
    #[serde(rename = "ID")]
    id: String,
    node: String,
    address: String,
    datacenter: String,
    #[serde(deserialize_with = "nullable")]
    tagged_addresses: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    meta: BTreeMap<String, String>,
}

impl HealthNode {
    fn data(&self) -> Json {
        json!({"ID": self.id, "Node": self.node, "Address": self.address, "Datacenter": self.datacenter,
            "TaggedAddresses": self.tagged_addresses, "Meta": self.meta})
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthService {
    #[serde(rename = "ID")]
    id: String,
    service: String,
    address: String,
    port: i64,
    #[serde(deserialize_with = "nullable")]
    tags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    meta: BTreeMap<String, String>,
    #[serde(deserialize_with = "nullable")]
    tagged_addresses: BTreeMap<String, Json>,
    #[serde(deserialize_with = "nullable")]
    weights: super::wire::Weights,
}

/// Without the output, which may hold the time of day and change with every run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthCheck {
    node: String,
    #[serde(rename = "CheckID")]
    check_id: String,
    name: String,
    status: String,
    notes: String,
    #[serde(rename = "ServiceID")]
    service_id: String,
    service_name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct HealthEntry {
    node: HealthNode,
    service: HealthService,
    #[serde(deserialize_with = "nullable")]
    checks: Vec<HealthCheck>,
}

impl HealthEntry {
    /// consul-template's: maintenance, else the worst of its checks.
    fn status(&self) -> &'static str {
        let maintenance = |check: &HealthCheck| {
            check.check_id == "_node_maintenance" || check.check_id.starts_with("_service_maintenance:")
        };
        let any = |status: &str| self.checks.iter().any(|check| check.status == status);
        let odd = |check: &HealthCheck| !matches!(check.status.as_str(), "passing" | "warning");
        match () {
            () if self.checks.iter().any(maintenance) => "maintenance",
            () if any("critical") || self.checks.iter().any(odd) => "critical",
            () if any("warning") => "warning",
            () => "passing",
        }
    }

    fn data(&self) -> Json {
        let HealthEntry { node, service, checks } = self;
        let mut tags = service.tags.clone();
        tags.sort();
        let mut checks: Vec<&HealthCheck> = checks.iter().collect();
        checks.sort_by(|a, b| a.check_id.cmp(&b.check_id));
        let checks: Vec<Json> = checks
            .into_iter()
            .map(|check| {
                json!({"Node": check.node, "CheckID": check.check_id, "Name": check.name, "Status": check.status,
                    "Notes": check.notes, "ServiceID": check.service_id, "ServiceName": check.service_name})
            })
            .collect();
        let address = if service.address.is_empty() { &node.address } else { &service.address };
        json!({
            "Node": node.node, "NodeID": node.id, "NodeAddress": node.address, "NodeDatacenter": node.datacenter,
            "NodeTaggedAddresses": node.tagged_addresses, "NodeMeta": node.meta,
            "Address": address, "Port": service.port, "ID": service.id, "Name": service.service, "Tags": tags,
            "ServiceMeta": service.meta, "ServiceTaggedAddresses": service.tagged_addresses,
            "Status": self.status(), "Checks": checks,
            "Weights": {"Passing": service.weights.passing, "Warning": service.weights.warning},
        })
    }
}

impl Raw {
    fn of(&self, dependency: &Dependency) -> (Json, BTreeSet<String>) {
        match (self, dependency) {
            (Self::Instances(instances), Dependency::Service { statuses, .. }) => {
                let wanted = |one: &&HealthEntry| statuses.is_empty() || statuses.contains(one.status());
                let chosen: Vec<&HealthEntry> = instances.iter().filter(wanted).collect();
                let id = |one: &&HealthEntry| format!("{}/{}", one.node.node, one.service.id);
                let entries = chosen.iter().map(id).collect();
                (chosen.into_iter().map(HealthEntry::data).collect(), entries)
            }
            (Self::Instances(instances), _) => (instances.iter().map(HealthEntry::data).collect(), BTreeSet::new()),
            (Self::Data(data, entries), _) => (data.clone(), entries.clone()),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct KeyPair {
    key: String,
    value: Option<String>,
}

impl KeyPair {
    /// Bytes that are no text are replaced, as Go's templates would print them.
    fn text(&self) -> String {
        let bytes = self.value.as_ref().and_then(|value| base64::prelude::BASE64_STANDARD.decode(value).ok());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct NodeServices {
    node: HealthNode,
    #[serde(deserialize_with = "nullable")]
    services: BTreeMap<String, HealthService>,
}

fn shaped(dependency: &Dependency, json: Json) -> Result<Raw, serde_json::Error> {
    Ok(match dependency {
        Dependency::Service { near, .. } => {
            let mut instances: Vec<HealthEntry> = serde_json::from_value(list(json))?;
            if near.is_none() {
                instances.sort_by(|a, b| (&a.node.node, &a.service.id).cmp(&(&b.node.node, &b.service.id)));
            }
            Raw::Instances(instances)
        }
        Dependency::Services { .. } => {
            let services: BTreeMap<String, Option<Vec<String>>> =
                if json.is_null() { BTreeMap::new() } else { serde_json::from_value(json)? };
            let data = services.iter().map(|(name, tags)| {
                let mut tags = tags.clone().unwrap_or_default();
                tags.sort();
                json!({"Name": name, "Tags": tags})
            });
            Raw::Data(data.collect(), services.keys().cloned().collect())
        }
        Dependency::Nodes { near, .. } => {
            let mut nodes: Vec<HealthNode> = serde_json::from_value(list(json))?;
            if near.is_none() {
                nodes.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
            }
            let entries = nodes.iter().map(|node| node.node.clone()).collect();
            Raw::Data(nodes.iter().map(HealthNode::data).collect(), entries)
        }
        Dependency::Node { .. } => {
            let Some(found) = serde_json::from_value::<Option<NodeServices>>(json)? else {
                return Ok(Raw::Data(Json::Null, BTreeSet::new()));
            };
            let mut services: Vec<&HealthService> = found.services.values().collect();
            services.sort_by(|a, b| (&a.service, &a.id).cmp(&(&b.service, &b.id)));
            let entries = services.iter().map(|service| service.id.clone()).collect();
            let services: Vec<Json> = services
                .into_iter()
                .map(|one| {
                    json!({"ID": one.id, "Service": one.service, "Tags": one.tags, "Meta": one.meta, "Port": one.port,
                        "Address": one.address})
                })
                .collect();
            Raw::Data(json!({"Node": found.node.data(), "Services": services}), entries)
        }
        Dependency::Key { path, .. } => {
            let pairs: Vec<KeyPair> = serde_json::from_value(list(json))?;
            match pairs.first() {
                Some(pair) => Raw::Data(pair.text().into(), BTreeSet::from([path.clone()])),
                None => Raw::Data(Json::Null, BTreeSet::new()),
            }
        }
        Dependency::Keys { .. } => {
            let mut pairs: Vec<KeyPair> = serde_json::from_value(list(json))?;
            pairs.sort_by(|a, b| a.key.cmp(&b.key));
            let data = pairs.iter().map(|pair| json!({"Path": pair.key, "Value": pair.text()})).collect();
            Raw::Data(data, pairs.iter().map(|pair| pair.key.clone()).collect())
        }
        Dependency::Datacenters => {
            let mut names: Vec<String> = serde_json::from_value(list(json))?;
            names.sort();
            Raw::Data(json!(names), names.into_iter().collect())
        }
        Dependency::Environment(_) | Dependency::File(_) => Raw::Data(Json::Null, BTreeSet::new()),
    })
}

/// Go writes `null` for an empty list.
fn list(json: Json) -> Json {
    if json.is_null() { Json::Array(Vec::new()) } else { json }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(statuses: &[&str]) -> Dependency {
        Dependency::Service {
            name: "web".to_owned(),
            tag: None,
            datacenter: None,
            near: None,
            statuses: statuses.iter().map(|status| (*status).to_owned()).collect(),
        }
    }

    fn entry(node: &str, id: &str, checks: &[(&str, &str)]) -> Json {
        let checks: Vec<Json> =
            checks.iter().map(|(id, status)| json!({"CheckID": id, "Status": status, "Output": "12:01"})).collect();
        json!({"Node": {"Node": node, "Address": "192.0.2.1", "Meta": null},
            "Service": {"ID": id, "Service": "web", "Port": 80, "Tags": ["z", "a"], "Address": ""}, "Checks": checks})
    }

    fn ids(raw: &Raw, statuses: &[&str]) -> Vec<String> {
        let (data, entries) = raw.of(&service(statuses));
        let list = data.as_array().expect("a list");
        assert_eq!(list.len(), entries.len());
        list.iter().map(|one| one["ID"].as_str().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn instances_are_chosen_by_their_worst_check_and_sorted_by_node_and_id() {
        let json = json!([
            entry("n2", "b", &[("c", "passing")]),
            entry("n1", "d", &[("c", "warning")]),
            entry("n1", "a", &[("serfHealth", "passing")]),
            entry("n3", "e", &[("_node_maintenance", "critical")]),
            entry("n3", "f", &[("c", "passing"), ("d", "critical")]),
        ]);
        let raw = shaped(&service(&[]), json).expect("Consul's shape");
        assert_eq!(ids(&raw, &["passing"]), ["a", "b"]);
        assert_eq!(ids(&raw, &["passing", "warning"]), ["a", "d", "b"]);
        assert_eq!(ids(&raw, &["maintenance"]), ["e"]);
        assert_eq!(ids(&raw, &[]), ["a", "d", "b", "e", "f"]);
        let (data, _) = raw.of(&service(&["passing"]));
        assert_eq!((&data[0]["Address"], &data[0]["Tags"]), (&json!("192.0.2.1"), &json!(["a", "z"])));
        assert!(!data.to_string().contains("12:01"), "a check's output changes with every run");
    }

    #[test]
    fn keys_are_decoded_and_what_does_not_exist_is_null() {
        let key = Dependency::Key { path: "a".to_owned(), datacenter: None };
        let of = |json: Json| shaped(&key, json).expect("Consul's shape").of(&key).0;
        assert_eq!(of(json!([{"Key": "a", "Value": "aGk="}])), json!("hi"));
        assert_eq!(of(json!([{"Key": "a", "Value": null}])), json!(""));
        assert_eq!(of(Json::Null), Json::Null);
    }

    #[test]
    fn only_a_loss_moves_the_time_of_the_last_loss() {
        let mut memory = AnswerMemory::default();
        let at = |second| Timestamp::from_second(second).expect("a time");
        let mut read = |ids: &[&str], second| {
            let entries = ids.iter().map(|id| (*id).to_owned()).collect();
            let view = memory.read(&service(&[]), Json::Null, entries, at(second));
            view.known().expect("it was read").shrunk_at
        };
        let seen = [read(&["a"], 1), read(&["a", "b"], 2), read(&["b"], 3), read(&["b"], 4), read(&[], 5)];
        assert_eq!(seen, [at(1), at(1), at(3), at(3), at(5)]);
    }

    #[test]
    fn keys_become_paths_and_short_forms_become_parameters() {
        let of = |dependency: &Dependency| {
            let (path, query) = address(dependency).expect("Consul's");
            let query: Vec<String> = query.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("{}?{}", path.join("/"), query.join("&"))
        };
        let keys = Dependency::Keys { prefix: "app/x/".to_owned(), datacenter: Some("dc2".to_owned()) };
        assert_eq!(of(&keys), "v1/kv/app/x/?recurse=true&dc=dc2");
        let web = Dependency::Service {
            name: "web".to_owned(),
            tag: Some("v1".to_owned()),
            datacenter: None,
            near: Some("_agent".to_owned()),
            statuses: BTreeSet::new(),
        };
        assert_eq!(of(&web), "v1/health/service/web?near=_agent&tag=v1");
    }
}
