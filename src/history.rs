//! History: what was applied, one entry for each action. Plain data.
//!
//! Owns the form of a line of `history.jsonl`, and which service and upstreams an action was about. Nothing is ever decided
//! by it: it is for people who ask what happened, and losing it costs nothing. It says what the log says, and so no secret.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::observed::{GenerationId, Loaded, Nginx, Observed, RoutedUpstream, Shared};
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
            Action::Docker(_) | Action::Consul(_) | Action::Directory(_) | Action::Template(_) => {
                let owner = service_of(spec, observed, &applied.object).map(|owner| vec![owner]);
                (owner.unwrap_or_else(|| made_from(&applied.object, spec, observed)), Vec::new())
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

/// The services that need the object: as the spec has them, or as they are kept, for those that are rolled back.
fn made_from(object: &ObjectKey, spec: &Spec, observed: &Observed) -> Vec<String> {
    let kept = observed.directory.known().into_iter().flat_map(|directory| directory.kept.values());
    let kept = kept.flat_map(|kept| std::iter::once(&kept.present).chain(&kept.before));
    let services = spec.services.values().chain(kept.map(|configuration| configuration.service.as_ref()));
    let named = services.filter(|service| needs(service).contains(object)).map(|service| service.name.clone());
    named.collect::<BTreeSet<String>>().into_iter().collect()
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
        NginxAction::SetEndpoints { expect, endpoints } => {
            let before = on_disk(expect);
            let same = |name: &String, set: &Shared<Vec<_>>| {
                before.and_then(|before| before.get(name)).is_some_and(|routed| routed.endpoints == *set)
            };
            let changed: Vec<String> =
                endpoints.iter().filter(|(name, set)| !same(name, set)).map(|(name, _)| name.clone()).collect();
            return if changed.is_empty() { endpoints.keys().cloned().collect() } else { changed };
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::observed::{Configuration, Directory, Kept, Pin, View};
    use crate::plan::{DockerAction, System};
    use crate::spec::{ConfigHash, ContainerConfig};
    use crate::status::tests as world;
    use crate::world::ActionError;

    fn entry_in(observed: &Observed, object: ObjectKey, action: Action, result: Result<(), ActionError>) -> Entry {
        let step =
            Step { object: object.clone(), action, cause: "a cause".to_owned(), drift: false, changes: Vec::new() };
        let applied = Applied {
            object,
            system: System::Docker,
            kind: step.action.kind(),
            cause: step.cause.clone(),
            drift: false,
            took: Duration::from_millis(7),
            result,
        };
        let plan = Plan { steps: vec![step.clone()], ..Plan::default() };
        Entry::of(&applied, &step, world::at(0), &world::spec(), observed, &plan)
    }

    fn entry(object: ObjectKey, action: Action) -> Entry {
        entry_in(&world::observed(), object, action, Ok(()))
    }

    fn pull(image: &str) -> Action {
        Action::Docker(DockerAction::PullImage { image: image.to_owned(), platform: None })
    }

    #[test]
    fn a_generation_is_about_the_upstreams_that_differ_and_a_mended_one_about_all() {
        let id = |number| GenerationId { hash: "ab12".to_owned(), number };
        let upstreams = |action| entry(ObjectKey::Nginx, Action::Nginx(action)).upstreams;
        assert_eq!(upstreams(NginxAction::Reload { expect: id(2) }), ["http_backend"]);
        assert_eq!(upstreams(NginxAction::SwitchGeneration { id: id(1) }), ["http_backend"], "the same was edited");
        assert_eq!(upstreams(NginxAction::RemoveGeneration { id: id(2) }), Vec::<String>::new());
    }

    #[test]
    fn an_action_is_about_the_services_that_it_is_done_for() {
        let replica = ObjectKey::Replica("shop-web-1-0a1b2c3d".to_owned());
        assert_eq!(entry(replica, pull("")).services, ["web"]);
        // Both are made from it.
        assert_eq!(entry(ObjectKey::Image(String::new()), pull("")).services, ["db", "web"]);
        assert_eq!(entry(ObjectKey::Image("web:0".to_owned()), pull("web:0")).services, Vec::<String>::new());
        // It served before: a rollback wants it.
        let config = ContainerConfig { image: "web:0".to_owned(), ..ContainerConfig::default() };
        let mut service = world::spec().services.remove("web").expect("there");
        service.config = Arc::new(config);
        let (networks, volumes) = (BTreeMap::new(), BTreeMap::new());
        let present = Configuration { service: Arc::new(service), image_id: String::new(), networks, volumes };
        let kept = BTreeMap::from([("web".to_owned(), Arc::new(Kept { present, before: None }))]);
        let mut observed = world::observed();
        observed.directory = View::Known(Directory { kept, ..Directory::default() });
        assert_eq!(entry_in(&observed, ObjectKey::Image("web:0".to_owned()), pull("web:0"), Ok(())).services, ["web"]);
        let pin = Pin::Hold { service: "db".to_owned(), hash: ConfigHash::of("{}"), digest: String::new() };
        let remove = Action::Directory(DirectoryAction::RemovePin { pin });
        assert_eq!(entry(ObjectKey::Directory, remove).services, ["db"]);
    }

    #[test]
    fn a_conflict_is_no_failure_and_a_long_error_is_cut() {
        let of = |error| entry_in(&world::observed(), ObjectKey::Nginx, pull(""), Err(error));
        assert!(!of(ActionError::Conflict("the world moved on".to_owned())).failed());
        let failed = of(ActionError::Permanent("x".repeat(10_000)));
        assert!(failed.failed());
        assert_eq!((failed.result.as_str(), failed.error.map(|error| error.len())), ("permanent", Some(LONGEST_ERROR)));
    }
}
