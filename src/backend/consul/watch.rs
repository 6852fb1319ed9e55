//! Blocking queries that wake the loop. They carry no data: a pass looks for itself.
//!
//! One query for each service and datacenter that an upstream or a registration of ours names (whatever tag and filter:
//! the service's index is the same for all), each on its own connection for up to a minute. Beyond `WATCHES` services,
//! those of the local datacenter are watched by two queries on the whole catalog, which wake more often than needed, and
//! those of other datacenters by the full pass alone.
//!
//! A first answer always wakes: something may have changed between the last look and the start of the watch.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch::Receiver;
use tokio::task::{AbortHandle, Id, JoinSet};

use super::Consul;
use super::http::{Answer, Client, Failure, Request};
use super::wire::{self, Check, Entry};
use crate::observed::Interest;
use crate::world::{Wake, WakeSource};

/// Connections that the watches may hold. Two controllers and everybody's own tools must fit into the agent's 200.
const WATCHES: usize = 64;
/// Consul adds up to a sixteenth of its own to what is asked for.
const WAIT: Duration = Duration::from_secs(60);
/// What a slow answer may take beyond the wait.
const SLACK: Duration = Duration::from_secs(5);
/// Between two answers of one query; doubled, up to the last, while answers come at once and bring nothing new.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// An answer that comes sooner did not wait for a change.
const AT_ONCE: Duration = Duration::from_millis(50);
/// A query on the whole catalog is answered at every change of any service.
const WHOLE_CATALOG_PAUSE: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// The leader is asked for so often while there is none, and so often while there is one.
const WITHOUT_LEADER: Duration = Duration::from_secs(1);
const WITH_LEADER: Duration = Duration::from_secs(5);
const LEADER_LIMIT: Duration = Duration::from_secs(2);

/// One thing that is watched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Service {
        name: String,
        datacenter: Option<String>,
    },
    /// Registered, changed and removed services, by the index alone: the answer does not hold addresses.
    AnyService,
    /// Checks that do not pass.
    AnyCheck,
}

impl Consul {
    /// Watches what the interest names and what is registered, until the interest's sender is gone. Dropping the future
    /// ends every query. Wakes: when something relevant changed, and when the agent or its leader comes or goes.
    pub async fn watch(&self, interest: Receiver<Interest>, wake: Wake) {
        let wake = move || wake(WakeSource::ConsulChange, Timestamp::now());
        tokio::select! {
            () = self.watch_services(interest, wake.clone()) => {}
            () = self.watch_leader(wake) => {}
        }
    }

    async fn watch_services(&self, mut interest: Receiver<Interest>, wake: impl Fn() + Clone + Send + 'static) {
        let mut own = self.own_names.subscribe();
        let mut tasks = JoinSet::new();
        let mut running: BTreeMap<Key, AbortHandle> = BTreeMap::new();
        let mut keys_of: BTreeMap<Id, Key> = BTreeMap::new();
        loop {
            let wanted = keys(&interest.borrow_and_update(), &own.borrow_and_update());
            running.retain(|key, task| {
                let keep = wanted.contains(key);
                if !keep {
                    task.abort();
                }
                keep
            });
            for key in wanted {
                if let Slot::Vacant(free) = running.entry(key) {
                    let task = tasks.spawn(watch_one(self.client.clone(), free.key().clone(), wake.clone()));
                    keys_of.insert(task.id(), free.key().clone());
                    free.insert(task);
                }
            }
            // Every arm is cancel-safe: `changed` and `join_next` lose nothing when they are dropped.
            tokio::select! {
                changed = interest.changed() => if changed.is_err() { return },
                // Its sender lives in `self`.
                _ = own.changed() => {}
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

    /// A blocking query fails only when its time is up or the server answers; this one sees soon that there is a leader
    /// again, or that the agent is gone or hangs.
    async fn watch_leader(&self, wake: impl Fn()) {
        let mut before = None;
        loop {
            let leader = self.leader(LEADER_LIMIT).await.is_ok();
            if before.replace(leader) != Some(leader) {
                wake();
            }
            tokio::time::sleep(if leader { WITH_LEADER } else { WITHOUT_LEADER }).await;
        }
    }
}

fn keys(interest: &Interest, own: &BTreeSet<String>) -> BTreeSet<Key> {
    let services: BTreeSet<Key> = interest
        .catalog
        .iter()
        .map(|query| Key::Service { name: query.service.clone(), datacenter: query.datacenter.clone() })
        .chain(own.iter().map(|name| Key::Service { name: name.clone(), datacenter: None }))
        .collect();
    if services.len() <= WATCHES {
        services
    } else {
        let (local, remote): (BTreeSet<_>, BTreeSet<_>) =
            services.into_iter().partition(|key| matches!(key, Key::Service { datacenter: None, .. }));
        let mut keys: BTreeSet<Key> = remote.into_iter().take(WATCHES - 2).collect();
        if !local.is_empty() {
            keys.extend([Key::AnyService, Key::AnyCheck]);
        }
        keys
    }
}

async fn watch_one(client: Client, key: Key, wake: impl Fn()) {
    let pause = match key {
        Key::Service { .. } => PAUSE,
        Key::AnyService | Key::AnyCheck => WHOLE_CATALOG_PAUSE,
    };
    let mut index = 0;
    let mut facts = None;
    let mut failures = 0_u32;
    let mut rest = pause;
    loop {
        let wait = WAIT.mul_f64(0.9 + 0.2 * fastrand::f64());
        let asked = Instant::now();
        match facts_of(&client, &key, index, wait).await {
            Ok((next, now)) => {
                let news = facts.replace(now) != Some(now);
                if news || failures > 0 {
                    wake();
                }
                failures = 0;
                // An index that goes backwards (a restored or restarted server) would never be reached again.
                index = if next < index { 0 } else { next };
                let idle = !news && asked.elapsed() < AT_ONCE;
                rest = if idle { (rest * 2).min(LONGEST_PAUSE) } else { pause };
                tokio::time::sleep(rest).await;
            }
            Err(failure) => {
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

/// One blocking query: the next index, and a digest of the facts that matter.
async fn facts_of(client: &Client, key: &Key, index: u64, wait: Duration) -> Result<(u64, u64), Failure> {
    let limit = wait + wait / 16 + SLACK;
    match key {
        Key::Service { name, datacenter } => {
            let path = ["v1", "health", "service", name];
            let mut request = Request::get(&path, limit);
            if let Some(datacenter) = datacenter {
                request = request.query("dc", datacenter.clone());
            }
            let answer: Answer<Vec<Entry>> = ask(client, request, index, wait).await?;
            Ok((answer.index, wire::facts_of_entries(&answer.value)))
        }
        Key::AnyService => {
            let request = Request::get(&["v1", "catalog", "services"], limit);
            let answer: Answer<BTreeMap<String, Option<Vec<String>>>> = ask(client, request, index, wait).await?;
            Ok((answer.index, answer.index))
        }
        Key::AnyCheck => {
            let path = ["v1", "health", "state", "any"];
            let request = Request::get(&path, limit).query("filter", "Status != passing");
            let answer: Answer<Vec<Check>> = ask(client, request, index, wait).await?;
            Ok((answer.index, wire::facts_of_checks(&answer.value)))
        }
    }
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
    use super::*;
    use crate::spec::Owner;
    use crate::spec::upstream::CatalogQuery;

    fn interest(queries: impl IntoIterator<Item = CatalogQuery>) -> Interest {
        Interest {
            owner: Owner { project: "shop".to_owned(), node: "n1".to_owned() },
            networks: BTreeSet::new(),
            volumes: BTreeSet::new(),
            images: BTreeSet::new(),
            catalog: queries.into_iter().collect(),
            discovery: false,
            probes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            listens: BTreeSet::new(),
            tls_files: BTreeMap::new(),
            adopted: BTreeMap::new(),
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
        let keys = keys(&interest, &BTreeSet::from(["web".to_owned()]));
        assert_eq!(keys.len(), 2, "{keys:?}");
    }

    #[test]
    fn however_many_services_the_connections_are_bounded() {
        let many =
            (0..100).flat_map(|n| [query(&format!("s{n}"), None, None), query(&format!("s{n}"), None, Some("b"))]);
        let keys = keys(&interest(many), &BTreeSet::new());
        assert!(keys.len() <= WATCHES, "{}", keys.len());
        assert!(keys.contains(&Key::AnyService) && keys.contains(&Key::AnyCheck));
    }
}
