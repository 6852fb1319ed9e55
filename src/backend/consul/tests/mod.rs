//! Faults of an agent, against a scripted one. What a real agent does is in `tests/real/consul.rs`.

mod actions;
mod again;
mod registered;
mod view;
mod watches;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::Consul;
use super::fake::{Asked, Fake, Reply, owner};
use crate::observed::{self, CheckStatus, Interest, Maintenance, View};
use crate::plan::ConsulAction;
use crate::plan::action::{NewRegistration, WantedCheck, WantedKind};
use crate::spec::upstream::CatalogQuery;
use crate::world::{ActionError, ViewError, Wake};

const ID: &str = "n1:shop-web-1-abc:80/tcp";
const RECORD: &str = "GET /v1/agent/service/n1:shop-web-1-abc:80%2Ftcp";
const RECORD_WITH_HEALTH: &str = "GET /v1/agent/health/service/id/n1:shop-web-1-abc:80%2Ftcp";

fn query(service: &str) -> CatalogQuery {
    CatalogQuery { service: service.to_owned(), tag: None, datacenter: None, filter: None }
}

fn interest(queries: impl IntoIterator<Item = CatalogQuery>) -> Interest {
    Interest { catalog: queries.into_iter().collect(), ..Interest::nothing(owner()) }
}

/// Spawned, so that it is also seen to be `Send`.
async fn view(consul: &Consul, interest: &Interest) -> Result<observed::Consul, ViewError> {
    let (consul, interest) = (consul.clone(), interest.clone());
    tokio::spawn(async move { consul.view(&interest).await }).await.expect("it does not panic")
}

fn reason<'a>(seen: &'a observed::Consul, service: &str) -> &'a str {
    seen.catalog[&query(service)].reason().unwrap_or("known")
}

fn entry(id: &str) -> Value {
    json!({
        "Node": { "Node": "n1", "Address": "192.0.2.1" },
        "Service": { "ID": id, "Service": "web", "Port": 80, "Address": "192.0.2.1" },
        "Checks": [{ "CheckID": "serfHealth", "Status": "passing" }]
    })
}

fn ours(meta: &[(&str, &str)]) -> Value {
    let mut all =
        json!({ "reeve-owner": "shop@n1", "reeve-service": "web", "reeve-slot": "1", "reeve-container": "c1" });
    for (key, value) in meta {
        all[*key] = (*value).into();
    }
    json!({ "ID": ID, "Service": "web", "Port": 8080, "Address": "192.0.2.1", "Meta": all })
}

fn new_registration() -> NewRegistration {
    NewRegistration {
        id: ID.to_owned(),
        name: "web".to_owned(),
        address: "192.0.2.1".to_owned(),
        port: 8080,
        tags: vec!["v1".to_owned()],
        meta: BTreeMap::from([("team".to_owned(), "web".to_owned())]),
        service: "web".to_owned(),
        slot: 1,
        container: "c1".to_owned(),
        check: Some(WantedCheck {
            kind: WantedKind::Tcp,
            interval: Duration::from_secs(5),
            timeout: Some(Duration::from_millis(1500)),
            deregister_after: None,
            initial: CheckStatus::Passing,
            address: "2001:db8::1".to_owned(),
            port: 80,
            digest: "d1".to_owned(),
        }),
        health: true,
        drain_start: None,
    }
}
