//! History: what was applied, one entry for each action. Plain data.
//!
//! Owns the form of a line of `history.jsonl`, and which service and upstreams an action was about. Nothing is ever decided
//! by it: it is for people who ask what happened, and losing it costs nothing. It says what the log says, and so no secret.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::observed::{GenerationId, Loaded, Nginx, Observed, RoutedUpstream};
use crate::pass::Applied;
use crate::plan::{Action, DirectoryAction, NginxAction, ObjectKey, Plan, Step};
use crate::spec::container::MountSource;
use crate::spec::{Service, Spec};
use crate::status::service_of;

/// An error is a sentence or two; nginx can be made to say pages.
const LONGEST_ERROR: usize = 2000;

/// One action that was carried out, or tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it ended.
    pub at: Timestamp,
    /// `replica shop-web-1-0a1b2c3d`.
    pub object: String,
    /// The services that it was about: the one that the object belongs to, or those that are made from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
    /// Of an action on nginx: the upstreams whose routes it changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<String>,
    /// `Action::kind`.
    pub kind: String,
    pub cause: String,
    /// The word of metrics: `ok`, `conflict`, `transient`, `permanent`.
    pub result: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It put right what somebody else had changed, or what broke.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub drift: bool,
    pub took_ms: u64,
    /// Digest of the spec in force.
    pub spec: String,
}

impl Entry {
    /// `step`, `plan` and `observed`: of the pass that carried it out.
    pub fn of(applied: &Applied, step: &Step, at: Timestamp, spec: &Spec, observed: &Observed, plan: &Plan) -> Self {
        let (services, upstreams) = match &step.action {
            Action::Nginx(action) => (Vec::new(), changed_upstreams(action, observed.nginx.known(), plan)),
            Action::Directory(DirectoryAction::AddPin { pin } | DirectoryAction::RemovePin { pin }) => {
                (pin.service().map(str::to_owned).into_iter().collect(), Vec::new())
            }
            Action::Docker(_) | Action::Consul(_) | Action::Directory(_) => {
                let owner = service_of(spec, observed, &applied.object);
                let made_from = spec.services.values().filter(|service| needs(service).contains(&applied.object));
                let made_from: Vec<String> = made_from.map(|service| service.name.clone()).collect();
                (owner.map_or(made_from, |owner| vec![owner]), Vec::new())
            }
        };
        let error = applied.result.as_ref().err().map(|error| error.to_string().chars().take(LONGEST_ERROR).collect());
        Self {
            at,
            object: applied.object.to_string(),
            services,
            upstreams,
            kind: applied.kind.to_owned(),
            cause: applied.cause.clone(),
            result: applied.result_word().to_owned(),
            error,
            drift: applied.drift,
            took_ms: u64::try_from(applied.took.as_millis()).unwrap_or(u64::MAX),
            spec: spec.digest.clone(),
        }
    }

    /// It failed, and not only because the world had moved on.
    pub fn failed(&self) -> bool {
        matches!(self.result.as_str(), "transient" | "permanent")
    }
}

/// What a service is made from: its image, networks and volumes.
pub fn needs(service: &Service) -> Vec<ObjectKey> {
    let config = &service.config;
    let image = std::iter::once(ObjectKey::Image(config.image.clone()));
    let networks = config.networks.keys().cloned().map(ObjectKey::Network);
    let volumes = config.mounts.iter().filter_map(|mount| match &mount.source {
        MountSource::Volume { name, .. } => Some(ObjectKey::Volume(name.clone())),
        MountSource::Anonymous | MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
    });
    image.chain(networks).chain(volumes).collect()
}

/// The upstreams in which the generation differs from what is there; all of them when none does, since then the generation
/// itself is what was wrong.
fn changed_upstreams(action: &NginxAction, nginx: Option<&Nginx>, plan: &Plan) -> Vec<String> {
    let written = |id: &GenerationId| {
        plan.steps.iter().find_map(|step| match &step.action {
            Action::Nginx(NginxAction::WriteGeneration(new)) if new.id == *id => Some(&new.manifest.upstreams),
            _ => None,
        })
    };
    let on_disk = |id: &GenerationId| Some(&nginx?.generations.get(id)?.manifest.upstreams);
    let current = || on_disk(nginx?.current.as_ref()?);
    let (new, old) = match action {
        NginxAction::WriteGeneration(new) => (Some(&new.manifest.upstreams), current()),
        NginxAction::SwitchGeneration { id } => (written(id).or_else(|| on_disk(id)), current()),
        NginxAction::Reload { expect } | NginxAction::Start { expect } => {
            let loaded = match nginx.map(|nginx| &nginx.loaded) {
                Some(Loaded::Generation(id)) => on_disk(id),
                Some(Loaded::Nothing | Loaded::Mixed(_) | Loaded::Stranger(_)) | None => None,
            };
            (written(expect).or_else(|| on_disk(expect)), loaded)
        }
        NginxAction::QuitOrphans { .. } | NginxAction::RemoveGeneration { .. } => return Vec::new(),
    };
    let nothing: BTreeMap<String, RoutedUpstream> = BTreeMap::new();
    let (new, old) = (new.unwrap_or(&nothing), old.unwrap_or(&nothing));
    let mut changed: Vec<String> =
        new.iter().filter(|(name, routed)| old.get(*name) != Some(*routed)).map(|(name, _)| name.clone()).collect();
    changed.extend(old.keys().filter(|name| !new.contains_key(*name)).cloned());
    if changed.is_empty() { new.keys().cloned().collect() } else { changed }
}
