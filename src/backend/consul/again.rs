//! A look at what has changed alone: what it costs depends on that, and not on what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Instant;

use futures_util::StreamExt as _;

use super::Consul;
use super::execute::literal;
use super::http::{Failure, Request};
use super::kept::{Digests, Kept, MOST, Mark};
use super::view::{AGENT_LIMIT, CATALOG_LIMIT, QUERIES_AT_ONCE};
use super::wire::{CatalogNode, Check, Counted, NodeServices, Service};
use crate::observed::{self, Registration, StrangerRegistration};
use crate::spec::upstream::CatalogQuery;

/// What the agent has under one name, and which of ours the catalog lacks.
struct AtAgent {
    registrations: BTreeMap<String, Registration>,
    strangers: BTreeMap<String, StrangerRegistration>,
    missing: BTreeSet<String>,
}

impl Consul {
    /// Reads what is marked, and puts it into what was kept. `None`: everything has to be read.
    pub(super) async fn renew(&self, mut kept: Kept, marks: BTreeSet<Mark>) -> Option<Kept> {
        let started = Instant::now();
        let mut names: BTreeSet<String> = kept.restless().cloned().collect();
        let mut remote = BTreeSet::new();
        let mut some = false;
        for mark in marks {
            match mark {
                Mark::Service { name, datacenter: None } => drop(names.insert(name)),
                Mark::Service { name, datacenter } => drop(remote.insert((name, datacenter))),
                Mark::Some => some = true,
                Mark::All => return None,
            }
        }
        if some {
            let now = self.digests().await.ok()?;
            names.extend(kept.digests.replace(now.clone())?.differing(&now)?);
        }
        if names.len() > MOST {
            return None;
        }
        let changed = |query: &CatalogQuery| match &query.datacenter {
            None => names.contains(&query.service),
            Some(_) => {
                remote.contains(&(query.service.clone(), query.datacenter.clone()))
                    || !self.keeping(|memory| memory.watches_remote(query))
            }
        };
        let unknown = |query: &CatalogQuery| kept.queries.get(query).is_none_or(|view| view.known().is_none());
        let asked: Vec<_> = kept.asked.iter().filter(|query| changed(query) || unknown(query)).cloned().collect();
        let asked: Vec<_> = asked.into_iter().map(|query| self.query(query, started)).collect();
        let node = kept.agent.node.clone();
        let at_agent: Vec<_> = names.iter().cloned().map(|name| self.at_agent(name, &node)).collect();
        let (answers, at_agent): (Vec<_>, Vec<_>) = tokio::join!(
            futures_util::stream::iter(asked).buffer_unordered(QUERIES_AT_ONCE).collect(),
            futures_util::stream::iter(at_agent).buffer_unordered(QUERIES_AT_ONCE).collect(),
        );
        kept.queries.extend(answers);
        let ours = |id: &String, kept: &Kept| kept.registrations.get(id).is_some_and(|one| names.contains(&one.name));
        kept.missing = kept.missing.iter().filter(|id| !ours(id, &kept)).cloned().collect();
        kept.registrations.retain(|_, one| !names.contains(&one.name));
        // Only what changes them touches them: the last pass shares them, and the first change is a copy of all.
        if kept.strangers.values().any(|one| names.contains(&one.name)) {
            kept.strangers.retain(|_, one| !names.contains(&one.name));
        }
        for at_agent in at_agent {
            let AtAgent { registrations, strangers, missing } = at_agent?;
            // What was registered anew under another name, or by somebody else.
            for id in registrations.keys().filter(|id| kept.strangers.contains_key(*id)).cloned().collect::<Vec<_>>() {
                kept.strangers.remove(&id);
            }
            kept.registrations.retain(|id, _| !strangers.contains_key(id));
            kept.registrations.extend(registrations);
            if !strangers.is_empty() {
                kept.strangers.extend(strangers);
            }
            kept.missing.extend(missing);
        }
        // The list of names is as long as the catalog: it is read when it can have changed.
        if names.iter().any(|name| !kept.lists(name)) {
            kept.services = self.service_names().await.ok()?.into();
        }
        Some(kept)
    }

    async fn at_agent(&self, name: String, node: &str) -> Option<AtAgent> {
        let services = Request::get(&["v1", "agent", "services"], AGENT_LIMIT)
            .query("filter", format!("Service == {}", literal(&name)?));
        let services = self.client.json::<BTreeMap<String, Service>>(services).await.ok()?.value;
        let ours: Vec<&String> =
            services.iter().filter(|(_, service)| service.owned_by(&self.owner)).map(|(id, _)| id).collect();
        if ours.is_empty() {
            let (registrations, strangers) = self.divide(services, &BTreeMap::new());
            return Some(AtAgent { registrations, strangers, missing: BTreeSet::new() });
        }
        // By the registration's id, as a look at everything finds them: a check tells the name that its service had when
        // the check was made. Beyond so many, all of them are the shorter request.
        let mut checks = Request::get(&["v1", "agent", "checks"], AGENT_LIMIT);
        if ours.len() <= MOST {
            let mut filter = "ServiceID == ``".to_owned();
            for id in ours {
                let _ = write!(filter, " or ServiceID == {}", literal(id)?);
            }
            checks = checks.query("filter", filter);
        }
        let path = ["v1", "catalog", "node", node];
        let known = Request::get(&path, CATALOG_LIMIT).query("filter", format!("Service == {}", literal(&name)?));
        let (checks, known) = tokio::join!(
            self.client.json::<BTreeMap<String, Check>>(checks),
            self.client.json::<Option<NodeServices>>(known)
        );
        let (registrations, strangers) = self.divide(services, &checks.ok()?.value);
        let missing = missing_of(&registrations, &known.ok()?.value.unwrap_or_default().services);
        Some(AtAgent { registrations, strangers, missing })
    }

    /// Of every service of the local datacenter: what each change counts up. One answer for each node, which is as long as
    /// what runs there: the catalog tells no other way which of very many services has changed.
    pub(super) async fn digests(&self) -> Result<Digests, Failure> {
        let checks =
            Request::get(&["v1", "health", "state", "any"], CATALOG_LIMIT).query("filter", "Status != passing");
        let (nodes, checks) = tokio::join!(
            self.client.json::<Vec<CatalogNode>>(Request::get(&["v1", "catalog", "nodes"], CATALOG_LIMIT)),
            self.client.json::<Vec<Check>>(checks)
        );
        let mut digests = Digests::default();
        let digest = |hash: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = DefaultHasher::new();
            hash(&mut hasher);
            hasher.finish()
        };
        for check in checks?.value {
            let facts = digest(&|hasher| {
                (&check.node, &check.check_id, &check.status, &check.notes, check.output.is_empty()).hash(hasher);
            });
            let sum = match check.service_name.as_str() {
                "" => &mut digests.nodes,
                name => digests.services.entry(name.to_owned()).or_default(),
            };
            // A sum does not depend on the order of the answer.
            *sum = sum.wrapping_add(facts);
        }
        let nodes = nodes?.value;
        let asked = nodes.into_iter().map(|node| async move {
            let path = ["v1", "catalog", "node", &node.node];
            let answer = self.client.json::<Option<Counted>>(Request::get(&path, CATALOG_LIMIT)).await?;
            Ok::<_, Failure>((node, answer.value.unwrap_or_default()))
        });
        let asked: Vec<_> = asked.collect();
        let mut answers = futures_util::stream::iter(asked).buffer_unordered(QUERIES_AT_ONCE);
        while let Some(answer) = answers.next().await {
            let (node, counted) = answer?;
            let facts = digest(&|hasher| (&node.node, &node.address, &node.meta).hash(hasher));
            digests.nodes = digests.nodes.wrapping_add(facts);
            for (id, service) in counted.services {
                let facts = digest(&|hasher| (&node.node, &id, service.modify_index).hash(hasher));
                let sum = digests.services.entry(service.service).or_default();
                *sum = sum.wrapping_add(facts);
            }
        }
        Ok(digests)
    }
}

/// Our registrations of which the catalog does not know, or knows something older. An agent syncs what it was told before
/// it answers, so this lasts only when it cannot.
pub(super) fn missing_of(
    registrations: &BTreeMap<String, Registration>,
    known: &BTreeMap<String, Service>,
) -> BTreeSet<String> {
    let lacks = |ours: &&observed::Registration| {
        known.get(&ours.id).is_none_or(|theirs| {
            let theirs = theirs.clone().registration(&[], None);
            (&theirs.address, theirs.port, &theirs.container) != (&ours.address, ours.port, &ours.container)
        })
    };
    registrations.values().filter(lacks).map(|ours| ours.id.clone()).collect()
}
