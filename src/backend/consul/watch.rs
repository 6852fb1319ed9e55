//! Blocking queries that wake the loop. They carry no data: a pass looks for itself.
//!
//! One query for each service and datacenter that an upstream or a registration of ours names (whatever tag and filter:
//! the service's index is the same for all), each on its own connection for up to a minute, or by HTTP/2 on one that many
//! share. Beyond what there is room for (`lanes`), those of the local datacenter are watched by two queries on the whole
//! catalog, which wake more often than needed, and those of other datacenters by the full pass alone. What templates ask
//! for is watched the same way: keys, nodes and lists have queries of their own, and beyond that one on all keys and one on
//! all nodes stand for them.
//!
//! A first answer always wakes: something may have changed between the last look and the start of the watch.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch::Receiver;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::Consul;
use super::http::{Answer, Client, Failure, Request};
use super::wire::{self, Check, Entry};
use crate::observed::{Dependency, Interest};
use crate::world::{Wake, WakeSource};

/// Consul adds up to a sixteenth of its own to what is asked for.
const WAIT: Duration = Duration::from_secs(60);
/// The same where a connection of many watches is asked whether it is still there: so many answers, each as long as its
/// service, would be read every minute for nothing (seen: 9 MB for 1,000 services). Consul waits for ten minutes at most.
const LONG_WAIT: Duration = Duration::from_secs(9 * 60);
/// What a slow answer may take beyond the wait.
const SLACK: Duration = Duration::from_secs(5);
/// Between two answers of one query; doubled, up to the last, while answers come at once and bring nothing new.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// An answer holds all instances of its service, also those that have not changed. Where hundreds of one service come or go
/// one after the other, each change would cost as much as there are (seen: a quarter of a core in Consul for 17 changes a
/// second of 200): so much longer is the pause for each of them…
const PAUSE_FOR_EACH: Duration = Duration::from_millis(1);
/// …but never longer than this.
const PAUSE_FOR_ALL: Duration = Duration::from_millis(250);
/// An answer that comes sooner did not wait for a change.
const AT_ONCE: Duration = Duration::from_millis(50);
/// A query on the whole catalog is answered at every change of any service.
const WHOLE_CATALOG_PAUSE: Duration = Duration::from_secs(1);
/// A list is answered at every change of any of its members, whether or not it tells of that.
const LIST_PAUSE: Duration = Duration::from_millis(100);
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// The leader is asked for so often while there is none, and so often while there is one.
const WITHOUT_LEADER: Duration = Duration::from_secs(1);
const WITH_LEADER: Duration = Duration::from_secs(5);
const LEADER_LIMIT: Duration = Duration::from_secs(2);

/// One thing that is watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Service {
        name: String,
        datacenter: Option<String>,
    },
    /// Registered, changed and removed services, by the index alone: the answer does not hold addresses.
    AnyService,
    /// Checks that do not pass.
    AnyCheck,
    /// Names of services, with their tags.
    Services {
        datacenter: Option<String>,
    },
    Nodes {
        datacenter: Option<String>,
    },
    Node {
        name: String,
        datacenter: Option<String>,
    },
    /// One key, or every key that begins so.
    Keys {
        path: String,
        recurse: bool,
        datacenter: Option<String>,
    },
    /// Any key of the local datacenter, by the index alone.
    AnyPair,
    /// Any node of the local datacenter.
    AnyNode,
}

impl Key {
    fn local(&self) -> bool {
        match self {
            Self::Service { datacenter, .. }
            | Self::Services { datacenter }
            | Self::Nodes { datacenter }
            | Self::Node { datacenter, .. }
            | Self::Keys { datacenter, .. } => datacenter.is_none(),
            Self::AnyService | Self::AnyCheck | Self::AnyPair | Self::AnyNode => true,
        }
    }

    /// What is watched for what a template asks for; nothing for what only a full pass sees.
    fn of(dependency: &Dependency) -> Option<Self> {
        Some(match dependency.clone() {
            Dependency::Service { name, datacenter, .. } => Self::Service { name, datacenter },
            Dependency::Services { datacenter } => Self::Services { datacenter },
            Dependency::Nodes { datacenter, .. } => Self::Nodes { datacenter },
            Dependency::Node { name: Some(name), datacenter } => Self::Node { name, datacenter },
            Dependency::Node { name: None, datacenter } => Self::Services { datacenter },
            Dependency::Key { path, datacenter } => Self::Keys { path, recurse: false, datacenter },
            Dependency::Keys { prefix, datacenter } => Self::Keys { path: prefix, recurse: true, datacenter },
            Dependency::Datacenters | Dependency::Environment(_) | Dependency::File(_) => return None,
        })
    }
}

impl Consul {
    /// Watches what the interest names and what is registered, until the interest's sender is gone. Dropping the future
    /// ends every query. Wakes: when something relevant changed, and when the agent or its leader comes or goes.
    pub async fn watch(&self, interest: Receiver<Interest>, wake: Wake) {
        let wake = move || wake(WakeSource::ConsulChange, Timestamp::now());
        self.client.measure_room(LEADER_LIMIT).await;
        tokio::select! {
            () = self.watch_services(interest, wake.clone()) => {}
            () = self.watch_leader(wake) => {}
        }
    }

    async fn watch_services(&self, mut interest: Receiver<Interest>, wake: impl Fn() + Clone + Send + 'static) {
        let mut own = self.own_names.subscribe();
        let mut asked = self.asked.subscribe();
        let mut room = self.client.lanes().changes();
        // One for all: there may be a thousand.
        let consul = Arc::new(self.clone());
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<Key, AbortHandle> = BTreeMap::new();
        let mut keys_of: BTreeMap<Id, Key> = BTreeMap::new();
        loop {
            let free = self.client.lanes().room();
            let wanted =
                keys(&interest.borrow_and_update(), &own.borrow_and_update(), &asked.borrow_and_update(), free);
            running.retain(|key, task| {
                let keep = wanted.contains(key);
                if !keep {
                    task.abort();
                }
                keep
            });
            for key in wanted {
                if let Slot::Vacant(free) = running.entry(key) {
                    let task = tasks.spawn(watch_one(consul.clone(), free.key().clone(), wake.clone()));
                    keys_of.insert(task.id(), free.key().clone());
                    free.insert(task);
                }
            }
            // Every arm is cancel-safe: `changed` and `join_next` lose nothing when they are dropped.
            tokio::select! {
                changed = interest.changed() => if changed.is_err() { return },
                // Their senders live in `self`.
                _ = own.changed() => {}
                _ = asked.changed() => {}
                // Each begins anew by the other way: one that waits behind others for its turn would tell nothing.
                _ = room.changed() => std::mem::take(&mut running).into_values().for_each(|task| task.abort()),
                Some(ended) = tasks.join_next_with_id() => {
                    let id = match ended {
                        Ok((id, ())) => id,
                        Err(error) => {
                            if error.is_panic() {
                                tracing::error!(%error, "a watch on Consul ended; it is started again");
                            }
                            error.id()
                        }
                    };
                    // An aborted one is not in `running` any more, or has a successor there already.
                    if let Some(key) = keys_of.remove(&id)
                        && running.get(&key).is_some_and(|task| task.id() == id)
                    {
                        running.remove(&key);
                        tokio::time::sleep(FIRST_BACKOFF).await;
                    }
                }
            }
        }
    }

    /// Rests while a pass writes about what this watches: the look that follows reads it anyhow, and so each answer before
    /// that is for nothing. (Seen: up to 16 a second while 200 instances left, each with all that were there still.)
    async fn while_written(&self, key: &Key) {
        let mut looks = self.looks.subscribe();
        if self.keeping(|memory| memory.is_being_written(key)) {
            // In time, or the sender is gone with everything else.
            let _ = tokio::time::timeout(LONGEST_PAUSE, looks.changed()).await;
        }
    }

    /// A blocking query fails only when its time is up or the server answers; this one sees soon that there is a leader
    /// again, or that the agent is gone or hangs.
    async fn watch_leader(&self, wake: impl Fn()) {
        let mut before = None;
        loop {
            let leader = self.leader(LEADER_LIMIT).await.is_ok();
            if before.replace(leader) != Some(leader) {
                wake();
            }
            if leader {
                self.client.measure_room(LEADER_LIMIT).await;
            }
            tokio::time::sleep(if leader { WITH_LEADER } else { WITHOUT_LEADER }).await;
        }
    }
}

/// What can stand for many, and what it stands for.
type StandIn = (fn(&Key) -> bool, &'static [Key]);

fn keys(interest: &Interest, own: &BTreeSet<String>, asked: &BTreeSet<Dependency>, room: usize) -> BTreeSet<Key> {
    let mut keys: BTreeSet<Key> = interest
        .catalog
        .iter()
        .map(|query| Key::Service { name: query.service.clone(), datacenter: query.datacenter.clone() })
        .chain(own.iter().map(|name| Key::Service { name: name.clone(), datacenter: None }))
        .chain(asked.iter().filter_map(Key::of))
        .collect();
    // What can stand for many of the local datacenter, the most numerous first.
    let many: [StandIn; 3] = [
        (|key| matches!(key, Key::Service { .. }), &[Key::AnyService, Key::AnyCheck]),
        (|key| matches!(key, Key::Keys { .. }), &[Key::AnyPair]),
        (|key| matches!(key, Key::Node { .. }), &[Key::AnyNode, Key::AnyService]),
    ];
    for (stands_for, instead) in many {
        if keys.len() <= room {
            return keys;
        }
        let before = keys.len();
        keys.retain(|key| !(key.local() && stands_for(key)));
        if keys.len() < before {
            keys.extend(instead.iter().cloned());
        }
    }
    if keys.len() > room {
        let (local, remote): (BTreeSet<_>, BTreeSet<_>) = keys.into_iter().partition(Key::local);
        let free = room.saturating_sub(local.len());
        keys = local.into_iter().chain(remote.into_iter().take(free)).collect();
    }
    keys
}

/// What it watches is believed no more when it ends.
struct Watching<'a> {
    consul: &'a Consul,
    key: &'a Key,
    heard: bool,
}

impl Watching<'_> {
    fn heard(&mut self) {
        let first = !std::mem::replace(&mut self.heard, true);
        self.consul.keeping(|memory| memory.heard(self.key, first));
    }

    fn ended(&mut self) {
        if std::mem::take(&mut self.heard) {
            self.consul.keeping(|memory| memory.watch_ended(self.key));
        }
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.ended();
    }
}

async fn watch_one(consul: Arc<Consul>, key: Key, wake: impl Fn()) {
    let client = &consul.client;
    let mut watching = Watching { consul: &consul, key: &key, heard: false };
    let pause = match key {
        Key::Service { .. } | Key::Keys { .. } => PAUSE,
        Key::Services { .. } | Key::Nodes { .. } | Key::Node { .. } => LIST_PAUSE,
        Key::AnyService | Key::AnyCheck | Key::AnyPair | Key::AnyNode => WHOLE_CATALOG_PAUSE,
    };
    let mut index = 0;
    let mut facts = None;
    let mut failures = 0_u32;
    let mut rest = pause;
    loop {
        let wait = match index {
            // It comes at once.
            0 => Duration::ZERO,
            _ if client.lanes().multiplex() => LONG_WAIT,
            _ => WAIT,
        };
        let wait = wait.mul_f64(0.9 + 0.2 * fastrand::f64());
        // A datacenter that does not answer keeps nothing local waiting.
        let turn = if index == 0 && key.local() { client.turn().await } else { None };
        let asked = Instant::now();
        let heard = facts_of(client, &key, index, wait).await;
        drop(turn);
        match heard {
            Ok(Heard { index: next, facts: now, instances }) => {
                let news = facts.replace(now) != Some(now);
                if news || failures > 0 {
                    watching.heard();
                    wake();
                }
                failures = 0;
                // An index that goes backwards (a restored or restarted server) would never be reached again.
                index = if next < index { 0 } else { next };
                let idle = !news && asked.elapsed() < AT_ONCE;
                rest = if idle { (rest * 2).min(LONGEST_PAUSE) } else { pause.max(pause_for(instances)) };
                tokio::time::sleep(rest).await;
                consul.while_written(&key).await;
            }
            Err(failure) => {
                watching.ended();
                if failures == 0 {
                    tracing::debug!(%failure, "a watch on Consul failed");
                    wake();
                }
                // What comes back may count anew.
                index = 0;
                tokio::time::sleep(backoff(failures)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// How long to leave Consul alone after an answer that was so long.
fn pause_for(instances: usize) -> Duration {
    PAUSE_FOR_EACH.saturating_mul(u32::try_from(instances).unwrap_or(u32::MAX)).min(PAUSE_FOR_ALL)
}

/// What one blocking query has answered.
struct Heard {
    /// What the next one waits for.
    index: u64,
    /// A digest of the facts that matter.
    facts: u64,
    /// How many instances it told of, where it tells of one service.
    instances: usize,
}

impl Heard {
    fn of(index: u64, facts: u64) -> Self {
        Self { index, facts, instances: 0 }
    }
}

async fn facts_of(client: &Client, key: &Key, index: u64, wait: Duration) -> Result<Heard, Failure> {
    let limit = wait + wait / 16 + SLACK;
    let ask_for = Ask { index, wait, limit };
    match key {
        Key::Service { name, datacenter } => {
            let path = ["v1", "health", "service", name];
            let mut request = Request::get(&path, limit);
            if let Some(datacenter) = datacenter {
                request = request.query("dc", datacenter.clone());
            }
            let answer: Answer<Vec<Entry>> = ask(client, request, index, wait).await?;
            let facts = wire::facts_of_entries(&answer.value);
            Ok(Heard { index: answer.index, facts, instances: answer.value.len() })
        }
        Key::AnyService => {
            let request = Request::get(&["v1", "catalog", "services"], limit);
            let answer: Answer<BTreeMap<String, Option<Vec<String>>>> = ask(client, request, index, wait).await?;
            Ok(Heard::of(answer.index, answer.index))
        }
        Key::AnyCheck => {
            let path = ["v1", "health", "state", "any"];
            let request = Request::get(&path, limit).query("filter", "Status != passing");
            let answer: Answer<Vec<Check>> = ask(client, request, index, wait).await?;
            Ok(Heard::of(answer.index, wire::facts_of_checks(&answer.value)))
        }
        Key::Services { datacenter } => {
            digest_of(client, &["v1", "catalog", "services"], &[], datacenter, ask_for).await
        }
        Key::Nodes { datacenter } => digest_of(client, &["v1", "catalog", "nodes"], &[], datacenter, ask_for).await,
        Key::AnyNode => digest_of(client, &["v1", "catalog", "nodes"], &[], &None, ask_for).await,
        Key::Node { name, datacenter } => {
            digest_of(client, &["v1", "catalog", "node", name], &[], datacenter, ask_for).await
        }
        Key::Keys { path, recurse, datacenter } => {
            let parts: Vec<&str> = ["v1", "kv"].into_iter().chain(path.split('/')).collect();
            let query: &[(&str, &str)] = if *recurse { &[("recurse", "true")] } else { &[] };
            digest_of(client, &parts, query, datacenter, ask_for).await
        }
        Key::AnyPair => {
            // The top level alone; the index is that of all keys.
            let query = [("keys", "true"), ("separator", "/")];
            let Heard { index, .. } = digest_of(client, &["v1", "kv", ""], &query, &None, ask_for).await?;
            Ok(Heard::of(index, index))
        }
    }
}

#[derive(Clone, Copy)]
struct Ask {
    index: u64,
    wait: Duration,
    limit: Duration,
}

/// With a digest of the whole answer; what does not exist can be waited for.
async fn digest_of(
    client: &Client,
    path: &[&str],
    query: &[(&str, &str)],
    datacenter: &Option<String>,
    Ask { index, wait, limit }: Ask,
) -> Result<Heard, Failure> {
    let mut request = Request::get(path, limit).or_null();
    for (name, value) in query {
        request = request.query(name, *value);
    }
    if let Some(datacenter) = datacenter {
        request = request.query("dc", datacenter.clone());
    }
    let answer: Answer<serde_json::Value> = ask(client, request, index, wait).await?;
    let mut hasher = DefaultHasher::new();
    answer.value.to_string().hash(&mut hasher);
    Ok(Heard::of(answer.index, hasher.finish()))
}

async fn ask<T: serde::de::DeserializeOwned>(
    client: &Client,
    request: Request<'_>,
    index: u64,
    wait: Duration,
) -> Result<Answer<T>, Failure> {
    let request = request.query("index", index.to_string()).query("wait", format!("{}ms", wait.as_millis()));
    client.watch(request).await
}

/// Between half and all of the time, so that many watches do not come back at once.
fn backoff(failures: u32) -> Duration {
    (FIRST_BACKOFF * 2_u32.saturating_pow(failures.min(10))).min(LONGEST_BACKOFF).mul_f64(0.5 + 0.5 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::super::lanes::WATCHES;
    use super::*;
    use crate::spec::Owner;
    use crate::spec::upstream::CatalogQuery;

    fn interest(queries: impl IntoIterator<Item = CatalogQuery>) -> Interest {
        Interest {
            catalog: queries.into_iter().collect(),
            ..Interest::nothing(Owner { project: "shop".to_owned(), node: "n1".to_owned() })
        }
    }

    fn query(service: &str, tag: Option<&str>, datacenter: Option<&str>) -> CatalogQuery {
        CatalogQuery {
            service: service.to_owned(),
            tag: tag.map(str::to_owned),
            datacenter: datacenter.map(str::to_owned),
            filter: None,
        }
    }

    #[test]
    fn queries_of_one_service_and_its_registration_share_one_watch() {
        let interest =
            interest([query("web", Some("v1"), None), query("web", None, None), query("web", None, Some("b"))]);
        let keys = keys(&interest, &BTreeSet::from(["web".to_owned()]), &BTreeSet::new(), WATCHES);
        assert_eq!(keys.len(), 2, "{keys:?}");
    }

    #[test]
    fn however_many_services_the_connections_are_bounded() {
        let many =
            (0..100).flat_map(|n| [query(&format!("s{n}"), None, None), query(&format!("s{n}"), None, Some("b"))]);
        let many = interest(many);
        let few = keys(&many, &BTreeSet::new(), &BTreeSet::new(), WATCHES);
        assert!(few.len() <= WATCHES, "{}", few.len());
        assert!(few.contains(&Key::AnyService) && few.contains(&Key::AnyCheck));
        let each = keys(&many, &BTreeSet::new(), &BTreeSet::new(), 200);
        assert_eq!(each.len(), 200, "where there is room each has its own");
        assert!(!each.contains(&Key::AnyService));
    }

    #[test]
    fn however_much_templates_ask_for_the_connections_are_bounded_and_nothing_local_is_missed() {
        let service = |n: usize| Dependency::Service {
            name: format!("s{n}"),
            tag: None,
            datacenter: None,
            near: None,
            statuses: BTreeSet::new(),
        };
        let key = |n: usize| Dependency::Key { path: format!("k{n}"), datacenter: None };
        let node = |n: usize| Dependency::Node { name: Some(format!("n{n}")), datacenter: None };
        let none = interest([]);
        let few: BTreeSet<Dependency> = (0..10).flat_map(|n| [service(n), key(n)]).collect();
        assert_eq!(keys(&none, &BTreeSet::new(), &few, WATCHES).len(), 20);
        let services: BTreeSet<Dependency> = (0..1000).map(service).collect();
        let watched = keys(&none, &BTreeSet::new(), &services, WATCHES);
        assert_eq!(watched, BTreeSet::from([Key::AnyService, Key::AnyCheck]));
        let all: BTreeSet<Dependency> = (0..1000).flat_map(|n| [service(n), key(n), node(n)]).collect();
        let watched = keys(&none, &BTreeSet::new(), &all, WATCHES);
        assert_eq!(watched, BTreeSet::from([Key::AnyService, Key::AnyCheck, Key::AnyPair, Key::AnyNode]));
    }
}
