//! Containers that reeve did not make, as far as discovery has to know them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{ContainerState, Health, Networks, PublishedPort};
use crate::spec::Protocol;

/// `Registration::service` of what discovery registered: no service of a spec can have this name.
pub const DISCOVERED: &str = "@discovered";

/// A running container without any mark of reeve's. Of its environment and its labels only `SERVICE_*` is here: the rest may
/// hold secrets, and is nobody's business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Discovered {
    pub id: String,
    /// Without the leading slash.
    pub name: String,
    /// The reference that it was made from.
    pub image: String,
    /// `SERVICE_*` of its environment and its labels, as they are written; a label counts more.
    pub variables: BTreeMap<String, String>,
    /// Ports that its image, or who made it, exposes.
    pub exposed: Vec<(u16, Protocol)>,
    /// What Docker really publishes now.
    pub published: Vec<PublishedPort>,
    /// Networks that it is attached to, by Docker's name.
    pub networks: Networks,
    pub network_mode: String,
    pub state: ContainerState,
    pub health: Health,
    /// When it was told to stop, while it still runs.
    pub stopping: Option<Timestamp>,
    /// It could not be inspected, and was not before: what it is to be registered as is not known.
    pub unreadable: Option<String>,
}

impl Discovered {
    /// Why it is *seen* to be unfit for traffic, in words.
    pub fn unfit(&self) -> Option<String> {
        if self.stopping.is_some() && self.state.running() {
            return Some("being stopped".to_owned());
        }
        match &self.state {
            ContainerState::Running { .. } => {}
            ContainerState::Created => return Some("not started yet".to_owned()),
            ContainerState::Paused { .. } => return Some("paused".to_owned()),
            ContainerState::Restarting => return Some("restarting".to_owned()),
            ContainerState::Exited { code, .. } => return Some(format!("exited with code {code}")),
            ContainerState::Removing => return Some("being removed".to_owned()),
            ContainerState::Dead => return Some("dead".to_owned()),
        }
        match &self.health {
            Health::None | Health::Healthy => None,
            Health::Starting => Some("its HEALTHCHECK has not passed yet".to_owned()),
            Health::Unhealthy(output) => {
                let line = output.trim().lines().next().unwrap_or_default();
                Some(format!("its HEALTHCHECK fails: {}", line.chars().take(200).collect::<String>()))
            }
        }
    }

    /// It runs, and nobody has told it to stop: what it is registered as may stay.
    pub fn stays(&self) -> bool {
        self.state.running() && self.stopping.is_none()
    }
}
