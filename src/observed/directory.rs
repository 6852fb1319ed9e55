//! reeve's own folder as it was read: pins, and the configurations that served.
//!
//! Owns these types and what follows from them alone: which kept configuration is not the one that a pin speaks of. What
//! a pin means for a plan is the planner's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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
}

impl Directory {
    /// The pins of a service.
    pub fn pins_of<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Pin> {
        self.pins.iter().filter(move |pin| pin.service() == Some(service))
    }
}

/// A decision that must outlive a restart. One that names a service dies when the hash that the spec gives to that
/// service is another one, or its image was tagged anew.
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
        /// Empty: not known.
        #[serde(default)]
        image_id: String,
    },
    /// `reeve hold`: nothing of the service is corrected.
    Hold { service: String, hash: ConfigHash },
}

impl Pin {
    /// The service that it is about.
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::AllowRemovals { .. } => None,
            Self::Failed { service, .. } | Self::RolledBack { service, .. } | Self::Hold { service, .. } => {
                Some(service)
            }
        }
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
