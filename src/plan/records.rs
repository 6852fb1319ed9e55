//! What is kept of what serves, so that there is something to roll back to.
//!
//! Owns when a configuration counts as having served: every replica is of this version, ready, and was watched for as long
//! as `monitor` says. These records are bookkeeping and no change of the world that anybody asked for: they are no steps of
//! the plan, and are not counted in it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::action::{Action, DirectoryAction};
use super::planner::{Planner, after};
use super::replicas::Roster;
use super::{ObjectKey, Step};
use crate::observed::{Configuration, ContainerState, Kept};
use crate::spec::Service;
use crate::spec::container::MountSource;

/// How long a replica is given until Consul has run its declared check: `apply` waits no longer for that.
const PROOF_TIME: Duration = Duration::from_secs(10);

impl<'a> Planner<'a> {
    pub(super) fn records(&mut self) {
        let (Some(directory), Some(_)) = (self.observed.directory.known(), self.facts.docker) else { return };
        let rosters = self.rosters.clone();
        let spec = self.spec;
        for service in spec.services.values() {
            let Some(roster) = rosters.get(service.name.as_str()) else { continue };
            if service.job || self.held(&service.name) {
                continue;
            }
            let kept = directory.kept.get(&service.name);
            let Some(kept) = self.to_keep(service, roster, kept.map(AsRef::as_ref)) else { continue };
            if self.serves_well(service, roster) {
                let action = DirectoryAction::Keep { service: service.name.clone(), kept: Arc::new(kept) };
                self.record(&service.name, action, "it serves");
            } else {
                let started = roster.current.values().filter_map(|container| match container.state {
                    ContainerState::Running { started_at } => Some(started_at),
                    _ => None,
                });
                let proven = started.max().map(|newest| after(newest, PROOF_TIME)).filter(|at| *at > self.now);
                proven.into_iter().for_each(|at| self.prove_until(at));
            }
        }
        let wanted = self.wanted;
        let gone = directory.kept.keys().chain(directory.unreadable.keys());
        let gone = gone.filter(|name| !wanted.services.contains_key(*name) && self.facts.containers(name).is_empty());
        for name in gone.cloned().collect::<Vec<_>>() {
            self.record(&name, DirectoryAction::Forget { service: name.clone() }, "the service is gone");
        }
    }

    fn record(&mut self, service: &str, action: DirectoryAction, cause: &str) {
        self.add_record(Step {
            object: ObjectKey::Service(service.to_owned()),
            action: Action::Directory(action),
            cause: cause.to_owned(),
            drift: false,
            changes: Vec::new(),
        });
    }

    /// What is to be kept of a service that is complete, if that is not what is kept already.
    fn to_keep(&self, service: &'a Service, roster: &Roster<'a>, kept: Option<&Kept>) -> Option<Kept> {
        let complete = usize::try_from(service.replicas).is_ok_and(|wanted| wanted == roster.current.len());
        if !complete || service.replicas == 0 || !roster.leaving.is_empty() {
            return None;
        }
        let mut images = roster.current.values().map(|container| container.image_id.as_str());
        let image_id = images.next().filter(|first| images.all(|other| other == *first))?;
        let networks = &self.spec.networks;
        let networks = service.config.networks.keys().filter_map(|name| Some((name, networks.get(name)?)));
        let mounted = service.config.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Volume { name, .. } => Some((name, self.spec.volumes.get(name)?)),
            MountSource::Anonymous | MountSource::Bind { .. } | MountSource::Tmpfs { .. } => None,
        });
        let rolled_back = self.pins.get(&service.name).is_some_and(|pins| pins.instead.is_some());
        // Nearly always it is kept already: told without building anything (performance only).
        if let Some(present) = kept.map(|kept| &kept.present)
            && present.image_id == image_id
            && present.service.hash == service.hash
            && (rolled_back
                || (same(&present.service, service)
                    && present.networks.iter().eq(networks.clone().collect::<BTreeMap<_, _>>())
                    && present.volumes.iter().eq(mounted.clone().collect::<BTreeMap<_, _>>())))
        {
            return None;
        }
        let present = Configuration {
            service: Arc::new(Service { replicas: 1, job: false, image_id: None, ..service.clone() }),
            image_id: image_id.to_owned(),
            networks: networks.map(|(name, network)| (name.clone(), network.clone())).collect(),
            volumes: mounted.map(|(name, volume)| (name.clone(), volume.clone())).collect(),
        };
        let before = kept.and_then(|kept| kept.other_than(&service.hash, image_id)).cloned();
        Some(Kept { present, before })
    }

    /// All of it was seen to serve, for long enough.
    fn serves_well(&self, service: &'a Service, roster: &Roster<'a>) -> bool {
        let registers = !service.register.is_empty();
        let seen =
            !registers || (self.facts.consul.is_some() && (self.context.nginx.is_none() || self.facts.nginx.is_some()));
        seen && roster.current.values().all(|container| {
            let ContainerState::Running { started_at } = container.state else { return false };
            after(started_at, service.update.monitor) <= self.now && self.ready(service, roster, container)
        })
    }
}

/// The same but for what is always the spec's.
fn same(a: &Service, b: &Service) -> bool {
    let Service {
        name: _,
        replicas: _,
        config,
        hash,
        pull_policy,
        depends_on,
        job: _,
        update,
        stop_grace_period,
        register,
        image_id: _,
    } = a;
    *hash == b.hash
        && *pull_policy == b.pull_policy
        && *depends_on == b.depends_on
        && *update == b.update
        && *stop_grace_period == b.stop_grace_period
        && *register == b.register
        && *config == b.config
}
