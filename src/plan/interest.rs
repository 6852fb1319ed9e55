//! What an observation has to look at, derived from the spec, and from what stands in its place after a rollback.

use std::collections::{BTreeMap, BTreeSet};

use super::pins;
use crate::observed::{Directory, Interest, ProbeTarget};
use crate::spec::container::{MountSource, Secret};
use crate::spec::{Owner, Register, Service, Spec};

impl Interest {
    /// What is the owner's, and no more.
    pub fn nothing(owner: Owner) -> Self {
        Self {
            owner,
            networks: BTreeSet::new(),
            volumes: BTreeSet::new(),
            images: BTreeSet::new(),
            catalog: BTreeSet::new(),
            discovery: false,
            probes: BTreeMap::new(),
            listens: BTreeSet::new(),
            secrets: BTreeMap::new(),
            tls_files: BTreeMap::new(),
            adopted: BTreeMap::new(),
            templates: BTreeMap::new(),
        }
    }

    pub fn of(spec: &Spec, owner: &Owner) -> Self {
        let mut interest = Self {
            networks: spec.networks.keys().cloned().collect(),
            volumes: spec.volumes.keys().cloned().collect(),
            discovery: spec.discovery.is_some(),
            templates: spec.templates.clone(),
            ..Self::nothing(owner.clone())
        };
        for service in spec.services.values() {
            interest.add(service);
        }
        for upstream in spec.upstreams.values() {
            interest.listens.insert(upstream.listen);
            interest.catalog.extend(upstream.query.clone());
            if let Some(tls) = &upstream.tls {
                interest.tls_files.insert(upstream.name.clone(), vec![tls.certificate.clone(), tls.key.clone()]);
            }
        }
        interest
    }

    /// What pins need beside it: after a rollback the effective spec of the planner is wanted, and what was adopted is to
    /// be found.
    pub fn widen(&mut self, directory: &Directory) {
        self.adopted.extend(directory.adopted().map(|adopted| (adopted.container.clone(), adopted.clone())));
        for (name, configuration) in pins::all_instead(directory) {
            // Where it is probed, what was kept says, and nothing else.
            self.probes.remove(name);
            self.add(&configuration.service);
            if !configuration.image_id.is_empty() {
                self.images.insert(configuration.image_id.clone());
            }
        }
    }

    fn add(&mut self, service: &Service) {
        self.images.insert(service.config.image.clone());
        self.networks.extend(service.config.networks.keys().cloned());
        for mount in &service.config.mounts {
            if let MountSource::Volume { name, .. } = &mount.source {
                self.volumes.insert(name.clone());
            }
        }
        let target = |register: &Register| Some(ProbeTarget { port: register.port, check: register.check.clone()? });
        let targets: Vec<ProbeTarget> = service.register.iter().filter_map(target).collect();
        if !targets.is_empty() {
            self.probes.insert(service.name.clone(), targets);
        }
        let secrets: Vec<Secret> = service.config.secrets().cloned().collect();
        if !secrets.is_empty() {
            self.secrets.entry(service.name.clone()).or_default().extend(secrets);
        }
    }
}
