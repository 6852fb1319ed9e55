//! The explanation of one service, upstream, template or discovered container, as data and as text: what is wanted, what is seen, and why they differ.
//! Pure.
//!
//! Owns what `reeve explain` and `/v1/explain` say. Every reason is the planner's own (`plan::verdicts`, what waits), none
//! is found here. The JSON form is stable: fields are added, never renamed.

mod discovered;
mod service;
mod text;
mod upstream;

use std::collections::BTreeSet;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::history::Entry;
use crate::observed::Observed;
use crate::plan::facts::Facts;
use crate::plan::verdict::Verdicts;
use crate::plan::{ObjectKey, Plan};
use crate::spec::suggest::did_you_mean;
use crate::spec::{Owner, Spec};
use crate::status::{BackendStatus, Status, TemplateStatus};
pub use discovered::{DiscoveredExplanation, DiscoveredSeen};
pub use service::{KeptVersion, RegistrationSeen, ReplicaSeen, ServiceExplanation, ServiceWanted};
pub use upstream::{EndpointSeen, UpstreamExplanation, UpstreamWanted};

/// What an explanation is made from: the pass, or an observation and its plan.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub owner: &'a Owner,
    pub spec: &'a Spec,
    pub observed: &'a Observed,
    pub plan: &'a Plan,
    /// As in [`crate::pass::Pass::held`].
    pub held: &'a [(ObjectKey, String, Timestamp)],
    pub now: Timestamp,
}

/// Neither the spec nor the world has anything of this name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownName {
    name: String,
    /// Complete: what was meant, perhaps, and what there is.
    help: String,
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "there is no service, no upstream, no template and no discovered container `{}`; {}",
            self.name, self.help
        )
    }
}

impl std::error::Error for UnknownName {}

/// Everything that is known of what bears a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    pub name: String,
    pub project: String,
    /// Digest of the spec in force.
    pub spec: String,
    pub backends: Vec<BackendStatus>,
    pub service: Option<ServiceExplanation>,
    /// An upstream may have the name of a service.
    pub upstream: Option<UpstreamExplanation>,
    /// And so may a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateStatus>,
    /// And so may what discovery registers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovered: Option<DiscoveredExplanation>,
    /// The last actions that were about it, newest first.
    pub actions: Vec<Entry>,
    /// The last one that failed, however long ago.
    pub last_error: Option<Entry>,
    /// Why there are no `actions`, when the history cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history_problem: Option<String>,
}

impl Explanation {
    /// Without the history.
    ///
    /// # Errors
    /// When there is nothing of this name.
    pub fn of(name: &str, seen: &Seen<'_>, verdicts: &Verdicts) -> Result<Self, UnknownName> {
        let facts = Facts::new(seen.observed, seen.now);
        let status = Status::of(seen.spec, seen.observed, seen.plan, seen.held);
        let service = service::explain(name, seen, &facts, &status, verdicts);
        let upstream = upstream::explain(name, seen, &facts, &status, verdicts);
        let template = status.templates.iter().find(|template| template.name == name).cloned();
        let discovered = discovered::explain(name, seen, &status, verdicts);
        if service.is_none() && upstream.is_none() && template.is_none() && discovered.is_none() {
            return Err(unknown(name, &status, &facts, verdicts));
        }
        Ok(Self {
            name: name.to_owned(),
            project: status.project,
            spec: status.spec,
            backends: status.backends,
            service,
            upstream,
            template,
            discovered,
            actions: Vec::new(),
            last_error: None,
            history_problem: None,
        })
    }

    /// The action was about the service, what it is made from, or an upstream that it serves; or about the upstream.
    pub fn is_about(&self, entry: &Entry) -> bool {
        let of_service = self.service.as_ref().is_some_and(|service| {
            entry.services.contains(&service.name)
                || entry.upstreams.iter().any(|name| service.upstreams.contains(name))
        });
        let of_template = self
            .template
            .as_ref()
            .is_some_and(|template| entry.object == ObjectKey::Template(template.name.clone()).to_string());
        let of_discovered = self.discovered.as_ref().is_some_and(|one| {
            let object = |port: &DiscoveredSeen| ObjectKey::Registration(port.registration.clone()).to_string();
            one.ports.iter().any(|port| entry.object == object(port))
        });
        of_service
            || of_template
            || of_discovered
            || self.upstream.as_ref().is_some_and(|upstream| entry.upstreams.contains(&upstream.name))
    }
}

fn unknown(name: &str, status: &Status, facts: &Facts<'_>, verdicts: &Verdicts) -> UnknownName {
    let loaded =
        facts.loaded_generations().into_iter().flat_map(|(_, generation)| generation.manifest.upstreams.keys());
    let services: BTreeSet<&str> = status.services.iter().map(|service| service.name.as_str()).collect();
    let upstreams: BTreeSet<&str> =
        status.upstreams.iter().map(|upstream| upstream.name.as_str()).chain(loaded.map(String::as_str)).collect();
    let templates: BTreeSet<&str> = status.templates.iter().map(|template| template.name.as_str()).collect();
    let found = discovered::names(status, verdicts);
    let found = found.iter().map(String::as_str);
    let help = did_you_mean(name, services.iter().chain(&upstreams).chain(&templates).copied().chain(found))
        .unwrap_or_else(|| {
            let list = |names: &BTreeSet<&str>| match names.is_empty() {
                true => "none".to_owned(),
                false => names.iter().copied().collect::<Vec<_>>().join(", "),
            };
            let more = if templates.is_empty() { String::new() } else { format!("; templates: {}", list(&templates)) };
            format!("services: {}; upstreams: {}{more}", list(&services), list(&upstreams))
        });
    UnknownName { name: name.to_owned(), help }
}

/// Docker's short form of an id.
fn short(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(12).collect()
}

#[cfg(test)]
mod tests;
