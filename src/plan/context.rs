//! What the planner is told beside the spec and the observed world: who we are, and the settings that decide.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::gates::Gates;
use crate::render::Renderer;
use crate::settings::EndpointsMode;
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
    /// Why the template of the settings cannot be used, with file and line. `renderer` is then the built-in one, and only
    /// compares: what is rendered comes from the last template that nginx has accepted.
    pub template_fault: Option<&'a str>,
    pub start: bool,
    /// How a change of endpoints reaches nginx.
    pub endpoints: EndpointsMode,
    /// A reload is held while so many generations of retiring workers live.
    pub max_worker_generations: usize,
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
