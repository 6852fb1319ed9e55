//! What an observation has to look at, derived from the spec alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::observed::{Interest, ProbeTarget};
use crate::spec::container::MountSource;
use crate::spec::{Owner, Spec};

impl Interest {
    pub fn of(spec: &Spec, owner: &Owner) -> Self {
        let mut interest = Self {
            owner: owner.clone(),
            networks: spec.networks.keys().cloned().collect(),
            volumes: spec.volumes.keys().cloned().collect(),
            images: BTreeSet::new(),
            catalog: BTreeSet::new(),
            probes: BTreeMap::new(),
            listens: BTreeSet::new(),
            tls_files: BTreeMap::new(),
        };
        for service in spec.services.values() {
            interest.images.insert(service.config.image.clone());
            interest.networks.extend(service.config.networks.keys().cloned());
            for mount in &service.config.mounts {
                if let MountSource::Volume { name, .. } = &mount.source {
                    interest.volumes.insert(name.clone());
                }
            }
            let targets: Vec<ProbeTarget> = service
                .register
                .iter()
                .filter_map(|register| {
                    let check = register.check.clone()?;
                    Some(ProbeTarget { port: register.port, check })
                })
                .collect();
            if !targets.is_empty() {
                interest.probes.insert(service.name.clone(), targets);
            }
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
}
