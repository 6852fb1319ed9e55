//! What the planner is told beside the spec and the observed world: who we are, and the settings that decide.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::gates::Gates;
use crate::render::Renderer;
use crate::spec::Owner;

#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub owner: Owner,
    /// `advertise` of the settings.
    pub advertise: Option<String>,
    /// `None`: `nginx.mode: off`.
    pub nginx: Option<NginxContext<'a>>,
    /// Share of an upstream's endpoints, in percent, that may vanish from the catalog at once and be believed.
    pub distrust_percent: u8,
    /// How long a larger loss must last until it is believed.
    pub distrust_for: Duration,
    pub removals: Removals,
    /// Set by `destroy`.
    pub teardown: Option<Teardown>,
    /// All of them, but in the explorer's tests.
    pub gates: Gates,
}

#[derive(Debug, Clone)]
pub struct NginxContext<'a> {
    pub renderer: &'a Renderer,
    pub start: bool,
    pub probe: SocketAddr,
    /// `<directory>/generations`, absolute.
    pub generations: &'a Path,
}

/// What is done about a spec that removes every service, or more than half of two or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removals {
    /// Held, unless a pin allows it: a half-written file is valid YAML.
    Held,
    Allowed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Teardown {
    pub volumes: bool,
    /// Take registered services down although Consul cannot be read: unroute, wait the drain, go on.
    pub without_consul: bool,
}
