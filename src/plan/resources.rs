//! Networks, volumes and images: made before the containers that need them, removed after the last one that did. And the
//! networks that a container should be attached to, and is not.

use std::collections::BTreeMap;

use super::action::{Action, DockerAction};
use super::gates::Gate;
use super::planner::Planner;
use super::{Change, ObjectKey, changes};
use crate::observed::{Container, ImageSeen, NetworkSeen, WantedAttachment};
use crate::spec::container::{MountSource, NetworkAttachment};
use crate::spec::{PullPolicy, Service};

impl<'a> Planner<'a> {
    pub(super) fn resources(&mut self) {
        if self.facts.docker.is_none() {
            return;
        }
        self.networks();
        self.volumes();
        self.images();
    }

    /// The network exists with our mark, and is not what the spec says. Docker cannot change one in place.
    pub(super) fn network_differs(&self, name: &str) -> bool {
        let differing = self.networks_differing.get_or_init(|| {
            let seen = self.facts.docker.into_iter().flat_map(|docker| &docker.networks);
            let differs = |(name, seen): &(&'a String, &NetworkSeen)| {
                let wanted = self.spec.networks.get(*name).filter(|wanted| !wanted.external);
                wanted.is_some_and(|wanted| seen.ours && seen.config.as_deref() != Some(canonical(wanted).as_str()))
            };
            seen.filter(differs).map(|(name, _)| name.as_str()).collect()
        });
        differing.contains(name)
    }

    /// It is about to be made anew. With a stranger on it that cannot be: it is left as it is, and so are our containers.
    pub(super) fn network_replaced(&self, name: &str) -> bool {
        self.network_differs(name) && self.stranger_on(name).is_none()
    }

    fn stranger_on(&self, network: &str) -> Option<&'a str> {
        let mut strangers = self.facts.docker?.strangers.values();
        let found = strangers.find(|stranger| stranger.running && stranger.networks.contains_key(network));
        found.map(|stranger| stranger.name.as_str())
    }

    fn networks(&mut self) {
        let (spec, Some(docker)) = (self.spec, self.facts.docker) else { return };
        for (name, wanted) in &spec.networks {
            let object = ObjectKey::Network(name.clone());
            match docker.networks.get(name) {
                None if wanted.external => {
                    let reason =
                        format!("network {name} is external and does not exist; `docker network create {name}`");
                    self.wait(object, "missing", reason);
                }
                None => {
                    let create = DockerAction::CreateNetwork(wanted.clone());
                    self.step(object, Action::Docker(create), "the spec declares it");
                }
                Some(seen) if !seen.ours && !wanted.external => {
                    let prefix = format!("{}_", self.spec.project);
                    let key = name.strip_prefix(&prefix).unwrap_or(name);
                    let reason = format!(
                        "a network {name} exists that is not ours; to use it, write `networks: {{ {key}: {{ external: true, \
                         name: {name} }} }}`; else give it another `name`"
                    );
                    self.wait(object, "conflict", reason);
                }
                Some(seen) if self.network_differs(name) => {
                    let changes = changes::between(seen.config.as_deref().unwrap_or("{}"), &canonical(wanted));
                    let cause = format!("{} changed, which Docker cannot do in place", changes::fields(&changes));
                    if let Some(stranger) = self.stranger_on(name) {
                        let reason = format!(
                            "{cause}; the network stays as it is while container {stranger}, which is not ours, is attached to it"
                        );
                        self.wait(object, "conflict", reason);
                        continue;
                    }
                    self.remove_network(seen, &cause, changes);
                }
                Some(_) => {}
            }
        }
        for seen in docker.networks.values().filter(|seen| seen.ours && !spec.networks.contains_key(&seen.name)) {
            if self.removals_held.is_none() {
                self.remove_network(seen, "the spec does not declare it any more", Vec::new());
            }
        }
    }

    fn remove_network(&mut self, seen: &NetworkSeen, cause: &str, changes: Vec<Change>) {
        let object = ObjectKey::Network(seen.name.clone());
        if seen.attached > 0 && self.holds(Gate::NetworkInUse) {
            let reason = format!("{cause}; {} containers are still attached to it", seen.attached);
            return self.wait(object, "in_use", reason);
        }
        let remove = DockerAction::RemoveNetwork { id: seen.id.clone(), name: seen.name.clone() };
        self.step_with(object, Action::Docker(remove), cause, changes);
    }

    fn volumes(&mut self) {
        let (spec, Some(docker)) = (self.spec, self.facts.docker) else { return };
        for (name, wanted) in &spec.volumes {
            let object = ObjectKey::Volume(name.clone());
            match docker.volumes.get(name) {
                None if wanted.external => {
                    let reason = format!("volume {name} is external and does not exist; `docker volume create {name}`");
                    self.wait(object, "missing", reason);
                }
                None => {
                    let create = DockerAction::CreateVolume(wanted.clone());
                    self.step(object, Action::Docker(create), "the spec declares it");
                }
                Some(seen) if seen.ours && seen.config.as_deref() != Some(canonical(wanted).as_str()) => {
                    let changes = changes::between(seen.config.as_deref().unwrap_or("{}"), &canonical(wanted));
                    let reason = format!(
                        "{} changed, which Docker cannot do in place; the volume is kept as it is: move its data and remove it by hand",
                        changes::fields(&changes)
                    );
                    self.wait(object, "volume_differs", reason);
                }
                // One without our mark is used as it is, as Compose does, and never removed.
                Some(_) => {}
            }
        }
        if self.context.teardown.is_some_and(|teardown| teardown.volumes) && docker.containers.is_empty() {
            for seen in docker.volumes.values().filter(|seen| seen.ours) {
                let remove = DockerAction::RemoveVolume { name: seen.name.clone() };
                self.step(ObjectKey::Volume(seen.name.clone()), Action::Docker(remove), "destroy --volumes");
            }
        }
    }

    /// Pulls what some service lacks, and has a replica to make for. `always` is pulled with each creation, too.
    fn images(&mut self) {
        let (spec, Some(docker)) = (self.spec, self.facts.docker) else { return };
        let incomplete = spec.services.values().filter(|service| !self.held(&service.name)).filter(|service| {
            let current = self.rosters.get(service.name.as_str()).map_or(0, |roster| roster.current.len());
            u32::try_from(current).is_ok_and(|current| current < service.replicas)
        });
        // One pull for an image, whoever needs it.
        let wanted: BTreeMap<&str, &Service> =
            incomplete.map(|service| (service.config.image.as_str(), service)).collect();
        for (image, service) in wanted {
            if docker.images.contains_key(image) {
                continue;
            }
            let object = ObjectKey::Image(image.to_owned());
            match service.pull_policy {
                // Also for `always`: a replica must not be taken away for an image that cannot be had.
                PullPolicy::Missing | PullPolicy::Always => {
                    let platform = service.config.platform.clone();
                    let pull = DockerAction::PullImage { image: image.to_owned(), platform };
                    self.step(object, Action::Docker(pull), "the engine does not have it");
                }
                PullPolicy::Never => {
                    let reason =
                        format!("the engine does not have {image}, and pull_policy is never; `docker pull {image}`");
                    self.wait(object, "image", reason);
                }
            }
        }
    }

    /// What a container of the service needs and does not have: a kind for metrics, and the reason. `replaced`: its
    /// network is being replaced, and is there again only when the last container has left it.
    pub(super) fn resources_missing(&self, service: &Service, replaced: bool) -> Option<(&'static str, String)> {
        let docker = self.facts.docker.filter(|_| self.holds(Gate::Resources))?;
        let config = &service.config;
        let network = config.networks.keys().find(|name| {
            let usable = docker.networks.get(*name).is_some_and(|seen| {
                let allowed = seen.ours || self.spec.networks.get(*name).is_none_or(|wanted| wanted.external);
                allowed && !self.network_replaced(name)
            });
            !usable && (!replaced || self.facts.containers(&service.name).is_empty())
        });
        if let Some(network) = network {
            return Some(("network", format!("network {network} is not there yet")));
        }
        let volume = config.mounts.iter().find_map(|mount| match &mount.source {
            MountSource::Volume { name, .. } if !docker.volumes.contains_key(name) => Some(name),
            MountSource::Volume { .. }
            | MountSource::Anonymous
            | MountSource::Bind { .. }
            | MountSource::Tmpfs { .. } => None,
        });
        if let Some(volume) = volume {
            return Some(("volume", format!("volume {volume} is not there yet")));
        }
        let image: Option<&ImageSeen> = docker.images.get(service.image());
        image.is_none().then(|| match &service.image_id {
            None => ("image", format!("image {} is not there yet", config.image)),
            Some(id) => ("image", format!("the {} that served ({id}) is not there any more", config.image)),
        })
    }

    /// Networks of the spec that exist, and that the container is not attached to.
    pub(super) fn detached<'s>(
        &'s self,
        service: &'s Service,
        container: &'s Container,
    ) -> impl Iterator<Item = (&'s String, &'s NetworkAttachment)> + 's {
        service.config.networks.iter().filter(|(network, _)| {
            let there = self.facts.docker.is_some_and(|docker| docker.networks.contains_key(*network));
            there && !container.networks.contains_key(*network)
        })
    }

    pub(super) fn connect_networks(&mut self, service: &Service, container: &Container) {
        let detached: Vec<(String, NetworkAttachment)> =
            self.detached(service, container).map(|(name, attachment)| (name.clone(), attachment.clone())).collect();
        for (network, attachment) in detached {
            let cause = format!("it is not attached to network {network}");
            let action = DockerAction::ConnectNetwork {
                id: container.id.clone(),
                name: container.name.clone(),
                attachment: WantedAttachment { network, attachment },
            };
            self.step(ObjectKey::Replica(container.name.clone()), Action::Docker(action), cause);
        }
    }
}

/// The text of the label `reeve.config` of a network or volume.
pub fn canonical<T: serde::Serialize>(wanted: &T) -> String {
    serde_json::to_string(wanted).expect("maps have string keys and no value can fail to serialise")
}
