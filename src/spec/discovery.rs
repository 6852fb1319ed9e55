//! `discovery`: which containers that reeve did not make are registered, and how.
//!
//! Owns what a spec says of it. What follows from a container's `SERVICE_*` variables is `plan::discovery`'s.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Discovery {
    pub containers: Discovers,
    pub address: DiscoveredAddress,
    /// Docker's names, in order of preference.
    pub networks: Vec<String>,
    /// Added to each registration, in this order.
    pub tags: Vec<String>,
    pub ids: DiscoveredIds,
    /// What registrator's ids begin with; `None`: the host's name.
    pub hostname: Option<String>,
    /// Attributes that become `Meta`, in lower case.
    pub metadata: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Discovers {
    All,
    /// Those with a `SERVICE_NAME`, or a `SERVICE_<port>_NAME` for that port.
    Labelled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscoveredAddress {
    /// The advertise address (or the host IP that the port is published on) and the host port.
    Published,
    /// The container's own address and the container port.
    Container,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiscoveredIds {
    /// `<node>:<container>:<port>/<protocol>`.
    Reeve,
    /// `<hostname>:<container>:<port>`, and `:udp` behind it; or what `SERVICE_ID` says.
    Registrator,
}
