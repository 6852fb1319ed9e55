//! Verdicts: why an address is among the endpoints of an upstream, or is not, and why a replica stays or goes.
//!
//! Owns the words for what `routes` and `replicas` decide anyway; it decides nothing. `explain` shows them, so that nobody
//! keeps a second copy of the planner's reasons.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;

use super::discovery::Claim;
use super::order::Order;
use super::planner::Planner;
use super::replicas::Roster;
use crate::observed::{Endpoint, Instance};
use crate::spec::Service;

/// What the planner thinks of every endpoint and every replica.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdicts {
    /// By upstream of the spec: all that Consul lists and all that nginx routes to. Missing: nothing could be judged.
    pub upstreams: BTreeMap<String, Vec<Judged>>,
    /// By service of the spec: how a replica of it is replaced.
    pub orders: BTreeMap<String, Order>,
    /// By container id. Missing: Docker cannot be read.
    pub replicas: BTreeMap<String, Standing>,
    /// By container, port and protocol: what discovery makes of the containers that run.
    pub discovered: Vec<Found>,
}

/// What a port of a container that reeve did not make is registered as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Id and name.
    pub container: (String, String),
    /// `80/tcp`.
    pub port: String,
    /// Id of the registration.
    pub registration: String,
    /// Name of the Consul service, `address:port`, tags; or why there can be none.
    pub wanted: Result<(String, String, Vec<String>), String>,
}

/// One address, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    pub endpoint: Endpoint,
    /// Id of the registration, when Consul lists it.
    pub registration: Option<String>,
    /// Consul's node that the registration is on.
    pub node: Option<String>,
    pub verdict: Verdict,
    /// What Consul says of one that is in all the same.
    pub otherwise: Option<String>,
}

/// Why an address is in or out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// In: Consul says that it passes, and nothing is seen that speaks against it.
    Passing,
    /// In: a healthy replica of ours that is routed, and that the catalog does not list, or has not checked yet.
    Unlisted,
    /// In until then: the catalog suddenly lost too many.
    Distrusted { until: Timestamp },
    /// In: nothing passes, and the upstream keeps what it had.
    KeptWhenEmpty,
    /// In: Consul cannot be read, and nothing is seen that speaks against it.
    Unread,
    /// Out until then: it came back too often in short time.
    Flapping { until: Timestamp },
    /// Out: registered without a port.
    NoPort,
    /// Out: Consul says that it does not pass, with the check that says so.
    NotPassing { trouble: String },
    /// Out: an operator's maintenance.
    Maintenance { reason: String },
    /// Out: we drain it.
    Draining { reason: String },
    /// Out: its registration leaves, its replica stays.
    RegistrationLeaves,
    /// Out: its replica leaves.
    ReplicaLeaves,
    /// Out: its replica does not exist any more.
    Gone,
    /// Out: its replica is seen unfit for traffic.
    Unfit { reason: String },
    /// Out: the catalog does not list it any more.
    Delisted,
}

impl Verdict {
    /// nginx is to route to it.
    pub fn routes(&self) -> bool {
        match self {
            Self::Passing | Self::Unlisted | Self::Distrusted { .. } | Self::KeptWhenEmpty | Self::Unread => true,
            Self::Flapping { .. }
            | Self::NoPort
            | Self::NotPassing { .. }
            | Self::Maintenance { .. }
            | Self::Draining { .. }
            | Self::RegistrationLeaves
            | Self::ReplicaLeaves
            | Self::Gone
            | Self::Unfit { .. }
            | Self::Delisted => false,
        }
    }

    /// The fixed word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Unlisted => "unlisted",
            Self::Distrusted { .. } => "distrusted",
            Self::KeptWhenEmpty => "kept_when_empty",
            Self::Unread => "unread",
            Self::Flapping { .. } => "flapping",
            Self::NoPort => "no_port",
            Self::NotPassing { .. } => "not_passing",
            Self::Maintenance { .. } => "maintenance",
            Self::Draining { .. } => "draining",
            Self::RegistrationLeaves => "registration_leaves",
            Self::ReplicaLeaves => "replica_leaves",
            Self::Gone => "gone",
            Self::Unfit { .. } => "unfit",
            Self::Delisted => "delisted",
        }
    }

    /// When time alone changes it.
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Distrusted { until } | Self::Flapping { until } => Some(*until),
            _ => None,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passing => f.write_str("passes in Consul"),
            Self::Unlisted => f.write_str(
                "its replica is healthy and routed; Consul does not list it, and it is registered again first",
            ),
            Self::Distrusted { .. } => {
                f.write_str("the catalog suddenly lost it, with too many others to be believed at once")
            }
            Self::KeptWhenEmpty => f.write_str("nothing passes, and when_empty is keep"),
            Self::Unread => f.write_str("Consul cannot be read, and nothing else speaks against it"),
            Self::Flapping { .. } => f.write_str("it passes, and has come back too often in a short time"),
            Self::NoPort => f.write_str("it is registered without a port"),
            Self::NotPassing { trouble } if trouble.is_empty() => f.write_str("does not pass in Consul"),
            Self::NotPassing { trouble } => write!(f, "does not pass in Consul: {trouble}"),
            Self::Maintenance { reason } if reason.is_empty() => f.write_str("in maintenance by somebody else"),
            Self::Maintenance { reason } => write!(f, "in maintenance by somebody else: {reason}"),
            Self::Draining { reason } => write!(f, "drained by {reason}"),
            Self::RegistrationLeaves => f.write_str("its service does not register it any more"),
            Self::ReplicaLeaves => f.write_str("its replica leaves"),
            Self::Gone => f.write_str("its replica does not exist any more"),
            Self::Unfit { reason } => write!(f, "its replica is unfit: {reason}"),
            Self::Delisted => f.write_str("Consul does not list it any more"),
        }
    }
}

/// What is wanted of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is as the spec says, and stays.
    Current,
    Leaves {
        cause: String,
    },
}

impl<'a> Planner<'a> {
    /// Judges everything. The wave has been planned before, as far as the registrations: who leaves in it is known.
    pub(super) fn verdicts(mut self) -> Verdicts {
        self.judged = Some(BTreeMap::new());
        match self.facts.nginx {
            Some(nginx) => {
                self.wanted_routes(nginx);
            }
            None => self.judge_without_nginx(),
        }
        let services = self.spec.services.values();
        let orders = services.map(|service| (service.name.clone(), super::order::decide(service))).collect();
        Verdicts {
            upstreams: self.judged.take().unwrap_or_default(),
            orders,
            replicas: self.standings(),
            discovered: self.found(),
        }
    }

    fn found(&self) -> Vec<Found> {
        let found = |claim: Claim<'_>| Found {
            container: (claim.container.id.clone(), claim.container.name.clone()),
            port: format!("{}/{}", claim.port, claim.protocol),
            registration: claim.id,
            wanted: claim.wanted.map(|wanted| {
                let endpoint = Endpoint { address: wanted.address, port: wanted.port, weight: 1, container: None };
                (wanted.name, endpoint.to_string(), wanted.tags)
            }),
        };
        self.claims().into_iter().map(found).collect()
    }

    fn standings(&self) -> BTreeMap<String, Standing> {
        let mut standings = BTreeMap::new();
        for roster in self.rosters.values() {
            let Roster { current, leaving, .. } = roster;
            standings.extend(current.values().map(|container| (container.id.clone(), Standing::Current)));
            standings.extend(
                leaving
                    .iter()
                    .map(|leaving| (leaving.container.id.clone(), Standing::Leaves { cause: leaving.cause.clone() })),
            );
        }
        let known = |name: &str| self.spec.services.get(name).map(|service: &Service| service.name.as_str());
        for name in self.facts.services_seen().into_iter().filter(|name| known(name).is_none()) {
            let cause = "its service is not in the spec".to_owned();
            let gone = self.facts.containers(name).iter();
            standings.extend(gone.map(|c| (c.id.clone(), Standing::Leaves { cause: cause.clone() })));
        }
        standings
    }

    /// Writes a verdict down, if anybody wants to know.
    pub(super) fn judge(&mut self, upstream: &str, endpoint: &Endpoint, of: Option<&Instance>, verdict: Verdict) {
        let Some(judged) = &mut self.judged else { return };
        let judged = judged.entry(upstream.to_owned()).or_default();
        // Kept against Consul's word: one line for the address tells both.
        let mut otherwise = None;
        if matches!(verdict, Verdict::Unlisted | Verdict::Distrusted { .. } | Verdict::KeptWhenEmpty) {
            let same = |one: &Judged| (&one.endpoint.address, one.endpoint.port) == (&endpoint.address, endpoint.port);
            otherwise = judged.iter().find(|one| same(one)).map(|one| one.verdict.to_string());
            judged.retain(|one| !same(one));
        }
        judged.push(Judged {
            endpoint: endpoint.clone(),
            registration: of.map(|instance| instance.id.clone()),
            node: of.map(|instance| instance.node.clone()),
            verdict,
            otherwise,
        });
    }
}
