//! One look at the agent and the catalog: at everything, or at what has changed alone (`kept` says which, `again` does it).
//!
//! The agent's part must be readable, or the whole view fails. The catalog's part needs a leader: without one, its
//! queries are Unknown and the agent's part is Known. Lists that are only shown (nodes, names of services) are empty when
//! they cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use jiff::Timestamp;

use super::Consul;
use super::again::missing_of;
use super::http::{Failure, Request};
use super::kept::Kept;
use super::memory::Memory;
use super::wire::{self, AgentSelf, AutopilotHealth, CatalogNode, Check, Entry, NodeServices, Service};
use crate::observed::{self, Catalog, Interest, Node, Registration, View};
use crate::spec::upstream::CatalogQuery;
use crate::world::ViewError;

/// The agent answers from its memory. With `CATALOG_LIMIT` below `observed::VIEW_TIMEOUT`: a slow catalog must not make
/// the agent's part Unknown.
pub(super) const AGENT_LIMIT: Duration = Duration::from_secs(4);
/// The catalog is asked over the network; a server without a leader holds a request for 7 s before it gives up.
pub(super) const CATALOG_LIMIT: Duration = Duration::from_secs(4);
/// What has changed is read again within this, or everything is: both together must end within `observed::VIEW_TIMEOUT`.
const AGAIN_LIMIT: Duration = Duration::from_millis(1500);
/// Queries that are asked at the same time.
pub(super) const QUERIES_AT_ONCE: usize = 12;

/// What the catalog part is made of.
struct FromCatalog {
    nodes: Vec<Node>,
    services: BTreeMap<String, Vec<String>>,
    /// Both of these could be read.
    listed: bool,
    /// Our ids that it lacks, or has with other facts; `None`: it could not be asked.
    missing: Option<BTreeSet<String>>,
    queries: BTreeMap<CatalogQuery, View<Catalog>>,
}

impl Consul {
    /// Reads what has to be read, concurrently. It ends within ten seconds.
    ///
    /// # Errors
    /// The agent cannot be read: the complete reason, with Consul's own words.
    pub async fn view(&self, interest: &Interest) -> Result<observed::Consul, ViewError> {
        self.view_after(interest, None).await
    }

    /// As `view`; with what the look saw which our own last writes followed from, if nothing but they happened since: see
    /// `registered`.
    ///
    /// # Errors
    /// As for `view`.
    pub async fn view_after(
        &self,
        interest: &Interest,
        before: Option<&observed::Consul>,
    ) -> Result<observed::Consul, ViewError> {
        let _one_at_a_time = self.looking.lock().await;
        if let Some(before) = before
            && let Ok(Some(seen)) = tokio::time::timeout(AGAIN_LIMIT, self.as_registered(interest, before)).await
        {
            return Ok(seen);
        }
        let view = self.look(interest).await;
        if view.is_err() {
            self.remembering(Memory::unreachable);
        }
        view
    }

    async fn look(&self, interest: &Interest) -> Result<observed::Consul, ViewError> {
        let now = Instant::now();
        let begun = self.keeping(|memory| memory.begin(&interest.catalog, self.relist, now));
        self.looks.send_modify(|looks| *looks += 1);
        if let Some((kept, marks)) = begun.kept {
            let parts = async {
                let renewed = Box::pin(self.renew(kept, marks));
                tokio::join!(self.leader(AGENT_LIMIT), self.peers(), self.failure_tolerance(), renewed)
            };
            if let Ok((Ok(leader), peers, failure_tolerance, Some(kept))) =
                tokio::time::timeout(AGAIN_LIMIT, parts).await
            {
                let unsynced = self.remembering(|memory| memory.unsynced(kept.missing.clone(), Timestamp::now()));
                self.keeping(|memory| memory.end(begun.since, kept.clone()));
                return Ok(self.seen(kept, Some(leader), peers, failure_tolerance, unsynced));
            }
        }
        Box::pin(self.look_at_everything(interest, begun.since)).await
    }

    async fn look_at_everything(&self, interest: &Interest, since: u64) -> Result<observed::Consul, ViewError> {
        let at = Instant::now();
        let leader = async {
            let leader = self.leader(AGENT_LIMIT).await;
            // Before the queries: what changes in between is then read once more.
            let digests = match self.keeping(|memory| memory.watches_whole_catalog()) && leader.is_ok() {
                true => tokio::time::timeout(AGENT_LIMIT.saturating_sub(at.elapsed()), self.digests()).await,
                false => return (leader, None),
            };
            (leader, digests.ok().and_then(Result::ok))
        };
        let (me, services, checks, (leader, digests), peers) = tokio::join!(
            self.client.json::<AgentSelf>(Request::get(&["v1", "agent", "self"], AGENT_LIMIT)),
            self.client.json::<BTreeMap<String, Service>>(Request::get(&["v1", "agent", "services"], AGENT_LIMIT)),
            self.client.json::<BTreeMap<String, Check>>(Request::get(&["v1", "agent", "checks"], AGENT_LIMIT)),
            leader,
            self.peers(),
        );
        let agent = me?.value.agent();
        let (registrations, strangers) = self.divide(services?.value, &checks?.value);

        self.remembering(|memory| memory.keep_only(&interest.catalog));
        let (catalog, failure_tolerance) = match &leader {
            Ok(_) => {
                let catalog = self.catalog(&agent, &registrations, &interest.catalog);
                tokio::join!(catalog, self.failure_tolerance())
            }
            Err(reason) => (self.without_leader(reason, &interest.catalog), Some(0)),
        };
        let certain = leader.is_ok() && catalog.listed && catalog.missing.is_some();
        let unsynced = self.remembering(|memory| match &catalog.missing {
            Some(missing) => memory.unsynced(missing.clone(), Timestamp::now()),
            None => memory.still_unsynced(|id| registrations.contains_key(id)),
        });
        let kept = Kept {
            at,
            asked: interest.catalog.clone(),
            agent,
            registrations,
            strangers: strangers.into(),
            nodes: catalog.nodes,
            services: catalog.services.into(),
            missing: catalog.missing.unwrap_or_default(),
            queries: catalog.queries,
            digests,
        };
        if certain {
            self.keeping(|memory| memory.end(since, kept.clone()));
        }
        Ok(self.seen(kept, leader.ok(), peers, failure_tolerance, unsynced))
    }

    fn seen(
        &self,
        kept: Kept,
        leader: Option<String>,
        peers: Vec<String>,
        failure_tolerance: Option<u32>,
        unsynced: BTreeMap<String, Timestamp>,
    ) -> observed::Consul {
        let Kept { agent, registrations, strangers, nodes, services, queries, .. } = kept;
        let failing =
            registrations.values().filter(|registration| registration.failing().is_some()).map(|one| one.id.clone());
        let failing = self.remembering(|memory| memory.failing(failing.collect(), Timestamp::now()));
        let names: BTreeSet<String> = registrations.values().map(|registration| registration.name.clone()).collect();
        self.own_names.send_if_modified(|known| {
            let changed = *known != names;
            *known = names;
            changed
        });
        observed::Consul {
            agent,
            leader,
            peers,
            failure_tolerance,
            nodes,
            services,
            registrations,
            strangers,
            catalog: queries,
            unsynced,
            failing,
        }
    }

    async fn peers(&self) -> Vec<String> {
        let peers = self.client.json::<Vec<String>>(Request::get(&["v1", "status", "peers"], AGENT_LIMIT)).await;
        peers.map(|answer| answer.value).unwrap_or_default()
    }

    /// `address:port` of the leader, or in words why there is none.
    pub(super) async fn leader(&self, limit: Duration) -> Result<String, String> {
        match self.client.json::<String>(Request::get(&["v1", "status", "leader"], limit)).await {
            Ok(answer) if answer.value.is_empty() => Err(format!("Consul at {} has no leader", self.client.name())),
            Ok(answer) => Ok(answer.value),
            // An agent that knows no server answers 500.
            Err(failure) => Err(format!("Consul has no leader that can be asked: {failure}")),
        }
    }

    /// Ours, and all others, of what the agent has.
    pub(super) fn divide(
        &self,
        services: BTreeMap<String, Service>,
        checks: &BTreeMap<String, Check>,
    ) -> (BTreeMap<String, Registration>, BTreeMap<String, observed::StrangerRegistration>) {
        let mut by_service: BTreeMap<&str, Vec<&Check>> = BTreeMap::new();
        for check in checks.values() {
            by_service.entry(&check.service_id).or_default().push(check);
        }
        let node = checks.get(wire::NODE_MAINTENANCE).map(|check| check.notes.as_str());
        let mut registrations = BTreeMap::new();
        let mut strangers = BTreeMap::new();
        for (id, mut service) in services {
            service.tell_apart(&self.owner, self.host.as_deref());
            if service.owned_by(&self.owner) {
                let checks = by_service.get(id.as_str()).map_or(&[][..], Vec::as_slice);
                registrations.insert(id, service.registration(checks, node));
            } else {
                strangers.insert(id, service.stranger());
            }
        }
        (registrations, strangers)
    }

    /// How many servers may fail. `None`: it will not be told, for want of the right to ask or of an autopilot.
    async fn failure_tolerance(&self) -> Option<u32> {
        let request = Request::get(&["v1", "operator", "autopilot", "health"], AGENT_LIMIT);
        match self.client.json::<AutopilotHealth>(request).await {
            Ok(answer) => Some(answer.value.failure_tolerance),
            Err(failure) if matches!(failure.status(), Some(400..=428 | 430..=499)) => None,
            // 429 is how Consul answers while a server is unhealthy. Any other failure passes, and is most likely while a
            // server or the agent has just been replaced: seen, the next server was then stopped and the quorum lost.
            Err(_) => Some(0),
        }
    }

    fn without_leader(&self, reason: &str, queries: &BTreeSet<CatalogQuery>) -> FromCatalog {
        let now = (Timestamp::now(), Instant::now());
        let queries = self.remembering(|memory| {
            queries
                .iter()
                .map(|query| (query.clone(), memory.unreadable(query, reason.to_owned(), false, now)))
                .collect()
        });
        FromCatalog { nodes: Vec::new(), services: BTreeMap::new(), listed: false, missing: None, queries }
    }

    async fn catalog(
        &self,
        agent: &observed::Agent,
        registrations: &BTreeMap<String, Registration>,
        queries: &BTreeSet<CatalogQuery>,
    ) -> FromCatalog {
        let (nodes, services, missing, queries) = tokio::join!(
            self.nodes(),
            self.service_names(),
            self.missing(&agent.node, registrations),
            self.queries(queries),
        );
        FromCatalog {
            listed: nodes.is_ok() && services.is_ok(),
            nodes: nodes.unwrap_or_default(),
            services: services.unwrap_or_default(),
            missing: missing.ok(),
            queries,
        }
    }

    /// Every service of the local datacenter, with its tags.
    pub(super) async fn service_names(&self) -> Result<BTreeMap<String, Vec<String>>, Failure> {
        let services = Request::get(&["v1", "catalog", "services"], CATALOG_LIMIT);
        let answer = self.client.json::<BTreeMap<String, Option<Vec<String>>>>(services).await?;
        Ok(answer.value.into_iter().map(|(name, tags)| (name, tags.unwrap_or_default())).collect())
    }

    async fn nodes(&self) -> Result<Vec<Node>, Failure> {
        let (nodes, health) = tokio::join!(
            self.client.json::<Vec<CatalogNode>>(Request::get(&["v1", "catalog", "nodes"], CATALOG_LIMIT)),
            self.client.json::<Vec<Check>>(
                Request::get(&["v1", "health", "state", "any"], CATALOG_LIMIT)
                    .query("filter", format!("CheckID=={}", wire::SERF_HEALTH))
            ),
        );
        let mut health: BTreeMap<String, String> = health
            .map(|answer| answer.value.into_iter().map(|check| (check.node, check.status)).collect())
            .unwrap_or_default();
        let mut nodes: Vec<Node> = nodes?
            .value
            .into_iter()
            .map(|node| Node {
                status: health.remove(&node.node).unwrap_or_default(),
                name: node.node,
                address: node.address,
            })
            .collect();
        nodes.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(nodes)
    }

    async fn missing(
        &self,
        node: &str,
        registrations: &BTreeMap<String, Registration>,
    ) -> Result<BTreeSet<String>, Failure> {
        if registrations.is_empty() {
            return Ok(BTreeSet::new());
        }
        let known = self
            .client
            .json::<Option<NodeServices>>(Request::get(&["v1", "catalog", "node", node], CATALOG_LIMIT))
            .await?
            .value
            .unwrap_or_default()
            .services;
        Ok(missing_of(registrations, &known))
    }

    async fn queries(&self, queries: &BTreeSet<CatalogQuery>) -> BTreeMap<CatalogQuery, View<Catalog>> {
        let started = Instant::now();
        let asked: Vec<_> = queries.iter().cloned().map(|query| self.query(query, started)).collect();
        futures_util::stream::iter(asked).buffer_unordered(QUERIES_AT_ONCE).collect().await
    }

    pub(super) async fn query(&self, query: CatalogQuery, started: Instant) -> (CatalogQuery, View<Catalog>) {
        if let Some(view) = self.remembering(|memory| memory.resting(&query, Instant::now())) {
            return (query, view);
        }
        // All together keep to one limit, however many there are.
        let limit = CATALOG_LIMIT.saturating_sub(started.elapsed());
        let path = ["v1", "health", "service", &query.service];
        let request = narrowed(Request::get(&path, limit), &query);
        let result = match self.client.json::<Vec<Entry>>(request).await {
            Ok(answer) if answer.without_leader => {
                Err((format!("Consul answered for {query} without knowing a leader: not believed"), false))
            }
            Ok(answer) if answer.filtered_by_acl => Err((
                format!(
                    "the token may not see all of {query}: it needs service:read on {:?} and node:read",
                    query.service
                ),
                false,
            )),
            Ok(answer) => Ok(answer.value),
            // Only another datacenter rests: the local catalog is back as soon as a leader is.
            Err(failure) => {
                let rests = failure.timed_out() && query.datacenter.is_some() && limit >= CATALOG_LIMIT / 2;
                Err((failure.to_string(), rests))
            }
        };
        let view = self.remembering(|memory| match result {
            Ok(entries) => {
                let mut instances: Vec<_> = entries
                    .into_iter()
                    .map(|mut entry| {
                        entry.service.tell_apart(&self.owner, self.host.as_deref());
                        entry.instance()
                    })
                    .collect();
                // They stand in the memory of the answer, which takes more than twice as much and is kept as long as they are.
                instances.shrink_to_fit();
                instances.sort_unstable_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
                memory.read(&query, instances, Timestamp::now())
            }
            Err((reason, rests)) => memory.unreadable(&query, reason, rests, (Timestamp::now(), Instant::now())),
        });
        (query, view)
    }
}

fn narrowed<'a>(mut request: Request<'a>, query: &CatalogQuery) -> Request<'a> {
    for (name, value) in [("tag", &query.tag), ("dc", &query.datacenter), ("filter", &query.filter)] {
        if let Some(value) = value {
            request = request.query(name, value.clone());
        }
    }
    request
}
