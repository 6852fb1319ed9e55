//! An upstream: what the spec wants of it, and each endpoint with the reason why it is in or out.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Seen;
use crate::observed::Endpoint;
use crate::plan::facts::Facts;
use crate::plan::verdict::{Judged, Verdicts};
use crate::settings::format_duration;
use crate::spec::Upstream;
use crate::spec::upstream::{Balance, WhenEmpty};
use crate::status::{Status, WaitingStatus};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamExplanation {
    pub name: String,
    /// None: the spec does not have it any more.
    pub wanted: Option<UpstreamWanted>,
    /// Services of the spec that register what it asks for.
    pub services: Vec<String>,
    /// The generations that are loaded and hold it.
    pub generations: Vec<String>,
    /// None: neither what Consul lists nor what is loaded is known.
    pub endpoints: Option<Vec<EndpointSeen>>,
    pub waiting: Vec<WaitingStatus>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamWanted {
    /// In consul-template's notation; none for a redirect.
    pub query: Option<String>,
    pub listen: String,
    pub server_name: Vec<String>,
    pub path: String,
    pub balance: String,
    pub drain: String,
    pub when_empty: String,
    pub tls: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSeen {
    /// `address:port`.
    pub address: String,
    /// nginx is to route to it.
    pub wanted: bool,
    /// Every loaded generation routes to it. None: that cannot be read.
    pub loaded: Option<bool>,
    /// The fixed word for the reason.
    pub kind: String,
    /// Why it is in or out.
    pub reason: String,
    /// When time alone will change that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Name of the container, when it is one of our replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
    /// Id of the registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<String>,
    /// Consul's node that it is registered on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

pub(super) fn explain(
    name: &str,
    seen: &Seen<'_>,
    facts: &Facts<'_>,
    status: &Status,
    verdicts: &Verdicts,
) -> Option<UpstreamExplanation> {
    let upstream = seen.spec.upstreams.get(name);
    let loaded: Vec<_> = facts
        .loaded_generations()
        .into_iter()
        .filter_map(|(id, generation)| Some((id, generation.manifest.upstreams.get(name)?)))
        .collect();
    if upstream.is_none() && loaded.is_empty() {
        return None;
    }
    let query = upstream.and_then(|upstream| upstream.query.as_ref());
    let registers = seen.spec.services.values().filter(|service| {
        query.is_some_and(|query| service.register.iter().any(|register| register.name == query.service))
    });
    let waiting = status.upstreams.iter().find(|one| one.name == name).map(|one| one.waiting.clone());
    let object = format!("upstream {name}");
    let elsewhere = || status.waiting.iter().filter(|waiting| waiting.object == object).cloned().collect();
    Some(UpstreamExplanation {
        name: name.to_owned(),
        wanted: upstream.map(wanted),
        services: registers.map(|service| service.name.clone()).collect(),
        generations: loaded.iter().map(|(id, _)| id.to_string()).collect(),
        endpoints: endpoints(
            name,
            upstream,
            &loaded.iter().map(|(_, routed)| &*routed.endpoints).collect::<Vec<_>>(),
            facts,
            verdicts,
        ),
        waiting: waiting.unwrap_or_else(elsewhere),
    })
}

fn wanted(upstream: &Upstream) -> UpstreamWanted {
    UpstreamWanted {
        query: upstream.query.as_ref().map(ToString::to_string),
        listen: upstream.listen.to_string(),
        server_name: upstream.server_name.clone(),
        path: upstream.path.clone(),
        balance: match &upstream.balance {
            Balance::RoundRobin => "round_robin".to_owned(),
            Balance::LeastConn => "least_conn".to_owned(),
            Balance::IpHash => "ip_hash".to_owned(),
            Balance::Random => "random".to_owned(),
            Balance::RandomTwo => "random_two".to_owned(),
            Balance::Hash(key) => format!("hash of {key}"),
        },
        drain: format_duration(upstream.drain),
        when_empty: match upstream.when_empty {
            WhenEmpty::Status(status) => status.to_string(),
            WhenEmpty::Keep => "keep".to_owned(),
        },
        tls: upstream.tls.is_some(),
        redirect: upstream.redirect.as_ref().map(|redirect| format!("{} ({})", redirect.to, redirect.code)),
    }
}

fn endpoints(
    name: &str,
    upstream: Option<&Upstream>,
    loaded: &[&Vec<Endpoint>],
    facts: &Facts<'_>,
    verdicts: &Verdicts,
) -> Option<Vec<EndpointSeen>> {
    let readable = facts.routes_known();
    let is_loaded = |endpoint: &Endpoint| {
        let place = |other: &Endpoint| (&other.address, other.port) == (&endpoint.address, endpoint.port);
        readable.then(|| !loaded.is_empty() && loaded.iter().all(|endpoints| endpoints.iter().any(&place)))
    };
    let replica = |endpoint: &Endpoint| {
        let (docker, id) = (facts.docker?, endpoint.container.as_deref()?);
        let ours = docker.containers.get(id).map(|container| &container.name);
        ours.or_else(|| docker.discovered.get(id).map(|container| &container.name)).cloned()
    };
    if let Some(judged) = verdicts.upstreams.get(name) {
        let mut seen: Vec<EndpointSeen> = judged
            .iter()
            .map(|Judged { endpoint, registration, node, verdict, otherwise }| EndpointSeen {
                address: endpoint.to_string(),
                wanted: verdict.routes(),
                loaded: is_loaded(endpoint),
                kind: verdict.kind().to_owned(),
                reason: match otherwise {
                    Some(otherwise) => format!("{verdict} (what Consul says: {otherwise})"),
                    None => verdict.to_string(),
                },
                until: verdict.until(),
                replica: replica(endpoint),
                registration: registration.clone(),
                node: node.clone(),
            })
            .collect();
        seen.sort_by(|a, b| (!a.wanted, &a.address, &a.registration).cmp(&(!b.wanted, &b.address, &b.registration)));
        return Some(seen);
    }
    if !readable {
        return None;
    }
    let (wanted, kind, reason) = match upstream {
        Some(_) => (true, "unread", "it is loaded; the upstream's answer from Consul is not known"),
        None => (false, "upstream_leaves", "its upstream is not in the spec"),
    };
    let places: BTreeSet<&Endpoint> = loaded.iter().copied().flatten().collect();
    let seen = places.into_iter().map(|endpoint| EndpointSeen {
        address: endpoint.to_string(),
        wanted,
        loaded: is_loaded(endpoint),
        kind: kind.to_owned(),
        reason: reason.to_owned(),
        until: None,
        replica: replica(endpoint),
        registration: None,
        node: None,
    });
    Some(seen.collect())
}
