//! reeve's own folder as it was read: pins, and the configurations that served.
//!
//! Owns these types and what follows from them alone: which kept configuration is not the one that a pin speaks of. What
//! a pin means for a plan is the planner's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ChosenPort, Refused};
use crate::spec::container::ConfigHash;
use crate::spec::{Network, Service, Volume};

/// reeve's own folder: decisions that must outlive a restart, and history. Losing it costs history, never safety.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directory {
    pub pins: BTreeSet<Pin>,
    /// What served, by service.
    pub kept: BTreeMap<String, Arc<Kept>>,
    /// What was kept of these services cannot be read: with the reason. Only history is lost with it.
    pub unreadable: BTreeMap<String, String>,
    /// What the engine refused to make or to start, by the replica's name.
    pub refused: BTreeMap<String, Refused>,
}

impl Directory {
    /// The pins of a service.
    pub fn pins_of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Pin> {
        self.pins.iter().filter(move |pin| pin.service() == Some(service))
    }

    /// Containers that somebody else made and that are replicas.
    pub fn adopted(&self) -> impl Iterator<Item = &Adopted> {
        self.pins.iter().filter_map(|pin| match pin {
            Pin::Adopted(adopted) => Some(&**adopted),
            Pin::AllowRemovals { .. } | Pin::Failed { .. } | Pin::RolledBack { .. } | Pin::Hold { .. } => None,
        })
    }
}

/// A decision that must outlive a restart. One that names a service dies when the spec says something else of that service
/// (see [`Service::digest`]), or its image was tagged anew.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// `apply --allow-removals` allowed the mass removal that the spec with this digest means.
    AllowRemovals { spec: String },
    /// The roll-out to this configuration failed, and `failure_action` is `rollback`: the last configuration that served
    /// is wanted in its place.
    Failed {
        service: String,
        hash: ConfigHash,
        /// Of what the spec said of the service. Empty: not known.
        #[serde(default)]
        digest: String,
        /// Empty: not known.
        image_id: String,
        at: Timestamp,
        /// In words, complete.
        reason: String,
        /// The last lines of the replica that failed.
        #[serde(default)]
        log: Vec<String>,
    },
    /// `reeve rollback`: the last configuration that served and is not this one is wanted in its place.
    RolledBack {
        service: String,
        from: ConfigHash,
        /// Of what the spec said of the service. Empty: not known.
        #[serde(default)]
        digest: String,
        /// Empty: not known.
        #[serde(default)]
        image_id: String,
    },
    /// `reeve hold`: nothing of the service is corrected.
    Hold {
        service: String,
        hash: ConfigHash,
        /// Of what the spec said of the service. Empty: not known.
        #[serde(default)]
        digest: String,
    },
    /// `reeve adopt`: a container that somebody else made is a replica. Docker cannot give it our labels, so what they
    /// would say stands here. It lives as long as the container does.
    Adopted(Box<Adopted>),
}

/// What the labels of a container would say, had reeve made it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Adopted {
    pub service: String,
    pub slot: u32,
    /// Docker's id.
    pub container: String,
    /// Of the configuration that the spec had of the service when it was adopted.
    pub hash: ConfigHash,
    /// The same as canonical JSON, secrets as digests.
    pub config: String,
    pub image_id: String,
    pub chosen_ports: Vec<ChosenPort>,
    pub registers: bool,
    pub depends_on: BTreeSet<String>,
}

impl Pin {
    /// The service that it is about.
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::AllowRemovals { .. } => None,
            Self::Failed { service, .. } | Self::RolledBack { service, .. } | Self::Hold { service, .. } => {
                Some(service)
            }
            Self::Adopted(adopted) => Some(&adopted.service),
        }
    }

    /// It was made for what the spec says of the service now: its container, its registrations, how it is rolled out.
    /// An adoption is for a container, whatever the spec says.
    pub fn is_for(&self, service: &Service) -> bool {
        let (name, hash, digest) = match self {
            Self::AllowRemovals { .. } | Self::Adopted(_) => return false,
            Self::Failed { service, hash, digest, .. }
            | Self::RolledBack { service, from: hash, digest, .. }
            | Self::Hold { service, hash, digest } => (service, hash, digest),
        };
        *name == service.name && *hash == service.hash && (digest.is_empty() || *digest == service.digest())
    }
}

/// What is kept of a service: the configuration that serves, and the one before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub present: Configuration,
    pub before: Option<Configuration>,
}

impl Kept {
    /// The newest configuration that served and is not this version of the service.
    pub fn other_than(&self, hash: &ConfigHash, image_id: &str) -> Option<&Configuration> {
        std::iter::once(&self.present).chain(&self.before).find(|kept| !kept.is(hash, image_id))
    }
}

/// A service as it served, complete: with the values of its secrets, and what it needs of the rest of the spec.
#[derive(Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Without a meaning here: `replicas` and `job`, which are always the spec's.
    pub service: Arc<Service>,
    /// Id of the image that its replicas were made from.
    pub image_id: String,
    /// The networks that it is attached to, by Docker's name.
    pub networks: BTreeMap<String, Network>,
    /// The volumes that it mounts, by Docker's name.
    pub volumes: BTreeMap<String, Volume>,
}

impl Configuration {
    /// `localhost/web:1 (0a1b2c3d)`.
    pub fn title(&self) -> String {
        format!("{} ({})", self.service.config.image, self.service.hash)
    }

    /// The same version: configuration and image. An id that is not known differs from none.
    pub fn is(&self, hash: &ConfigHash, image_id: &str) -> bool {
        same_image(&self.image_id, image_id) && self.service.hash == *hash
    }
}

/// An id that is not known (empty) differs from none.
pub fn same_image(a: &str, b: &str) -> bool {
    a.is_empty() || b.is_empty() || a == b
}

/// Without the configuration itself: credentials can stand within its values.
impl fmt::Debug for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configuration")
            .field("service", &self.service.name)
            .field("hash", &self.service.hash)
            .field("image", &self.service.config.image)
            .field("image_id", &self.image_id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{LoadOptions, load_text};

    fn service(register: &str, update: &str, replicas: u32) -> Service {
        let text = format!(
            "name: shop\nservices:\n  web:\n    image: localhost/web:1\n    ports: [\"80\"]\n    deploy: {{ replicas: {replicas}, update_config: {{ {update} }} }}\n    register: {register}\n"
        );
        let mut spec = load_text(&[("spec.yaml", &text)], &LoadOptions::default()).expect("a valid spec").spec;
        spec.services.remove("web").expect("it is there")
    }

    #[test]
    fn a_pin_is_for_what_the_spec_said_of_the_service_and_not_for_its_container_alone() {
        let failed = service("{ check: { http: /helth, interval: 1s } }", "monitor: 5s", 2);
        let pin = |digest: String| Pin::Hold { service: "web".to_owned(), hash: failed.hash.clone(), digest };
        let pin_of = pin(failed.digest());
        assert!(pin_of.is_for(&failed));
        assert!(pin_of.is_for(&service("{ check: { http: /helth, interval: 1s } }", "monitor: 5s", 4)), "scaled");
        let mended = service("{ check: { http: /health, interval: 1s } }", "monitor: 5s", 2);
        assert_eq!(mended.hash, failed.hash, "the container is the same");
        assert!(!pin_of.is_for(&mended), "its check is not");
        assert!(!pin_of.is_for(&service("{ check: { http: /helth, interval: 1s } }", "monitor: 9s", 2)));
        assert!(pin(String::new()).is_for(&mended), "written when pins had no digest: the container decides");
        assert!(!pin_of.is_for(&Service { name: "api".to_owned(), ..failed }));
    }

    #[test]
    fn the_digest_of_a_service_is_the_same_in_every_version() {
        let web = service("{ check: { http: /health, interval: 1s }, tags: [a] }", "monitor: 5s", 2);
        let known = "v1:b9907d1e876ac7caacf7d981bd2b9182ff695f2de89099ebf07ef3f88f8bc1d7";
        assert_eq!(web.digest(), known, "a roll-out that failed is tried again if this changes");
    }
}
