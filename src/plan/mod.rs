//! The plan: what the spec and the observed world together ask for. Pure: no async, no IO, no clock, no memory.
//!
//! A plan is one *wave*: the steps whose conditions hold now, and what waits for which reason. Later steps appear when the
//! world shows the earlier ones done, so there is no program counter that a crash could lose.

mod about;
pub mod action;
pub mod adoption;
mod candidate;
mod capacity;
pub mod changes;
pub mod context;
mod culprits;
mod declared;
mod dependencies;
mod discovered;
pub(crate) mod discovery;
pub mod display;
pub mod facts;
pub mod gates;
mod generations;
pub mod interest;
pub mod order;
mod peers;
pub mod pins;
mod planner;
mod ports;
pub mod preview;
mod records;
mod registrations;
pub mod registrator;
mod replicas;
mod resources;
mod retire;
mod rollout;
mod routes;
mod template_diff;
mod templates;
pub mod verdict;

use std::fmt;

use jiff::Timestamp;

use crate::observed::Observed;
use crate::spec::Spec;
pub use action::{Action, ConsulAction, DirectoryAction, DockerAction, NginxAction, System, TemplateAction};
pub use context::{Context, NginxContext, Removals, Teardown};
pub use resources::canonical;

/// One wave: the steps whose conditions hold now, and what waits.
pub fn plan(spec: &Spec, observed: &Observed, now: Timestamp, context: &Context<'_>) -> Plan {
    let effective = pins::effective(spec, observed);
    let mut planner = planner::Planner::new(spec, &effective, observed, now, context);
    planner.hold_mass_removal();
    planner.pins();
    planner.call_rosters();
    planner.resources();
    planner.replicas();
    planner.registrations();
    planner.nginx();
    planner.templates();
    planner.records();
    planner.finish()
}

/// The generation that the spec and the observed world ask for, whether or not it is loaded already.
///
/// With it the upstreams that wait, and why: they are not in it, or not as the spec says.
///
/// # Errors
/// When nginx is not managed or cannot be read, or the template cannot be rendered.
pub fn wanted_generation(
    spec: &Spec,
    observed: &Observed,
    now: Timestamp,
    context: &Context<'_>,
) -> Result<(action::NewGeneration, Vec<Waiting>), crate::render::RenderError> {
    judged(spec, observed, now, context, |mut planner| {
        let generation = planner.wanted_generation()?;
        let waiting = planner.finish().waiting.into_iter();
        Ok((
            generation,
            waiting.filter(|one| matches!(one.object, ObjectKey::Upstream(_) | ObjectKey::Nginx)).collect(),
        ))
    })
}

/// What the planner thinks of every endpoint and replica: the same computation as `plan`, asked for its reasons.
pub fn verdicts(spec: &Spec, observed: &Observed, now: Timestamp, context: &Context<'_>) -> verdict::Verdicts {
    judged(spec, observed, now, context, |planner| planner.verdicts())
}

/// A planner that has decided on everything but nginx, asked for something else than its steps.
fn judged<T>(
    spec: &Spec,
    observed: &Observed,
    now: Timestamp,
    context: &Context<'_>,
    ask: impl FnOnce(planner::Planner<'_>) -> T,
) -> T {
    let effective = pins::effective(spec, observed);
    let mut planner = planner::Planner::new(spec, &effective, observed, now, context);
    planner.hold_mass_removal();
    planner.call_rosters();
    planner.replicas();
    planner.registrations();
    ask(planner)
}

/// What a step is about. Steps of one object are applied in order; objects are applied in parallel.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKey {
    Network(String),
    Volume(String),
    Image(String),
    Service(String),
    /// By the container's name.
    Replica(String),
    /// By its id.
    Registration(String),
    Upstream(String),
    /// All generations of this nginx.
    Nginx,
    Directory,
    /// All that discovery registers.
    Discovery,
    /// By its name in the spec.
    Template(String),
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(name) => write!(f, "network {name}"),
            Self::Volume(name) => write!(f, "volume {name}"),
            Self::Image(name) => write!(f, "image {name}"),
            Self::Service(name) => write!(f, "service {name}"),
            Self::Replica(name) => write!(f, "replica {name}"),
            Self::Registration(id) => write!(f, "registration {id}"),
            Self::Upstream(name) => write!(f, "upstream {name}"),
            Self::Nginx => f.write_str("nginx"),
            Self::Directory => f.write_str("directory"),
            Self::Discovery => f.write_str("discovery"),
            Self::Template(name) => write!(f, "template {name}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub object: ObjectKey,
    pub action: Action,
    /// Why, in words.
    pub cause: String,
    /// The world differs from what an earlier pass had made, as opposed to a changed spec. For nginx the planner can tell;
    /// for the others the loop, which knows whether it had converged on this spec.
    pub drift: bool,
    /// `old => new` lines for the plan's text.
    pub changes: Vec<Change>,
}

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub field: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
        write!(f, "{}: {} => {}", self.field, side(&self.old), side(&self.new))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub object: ObjectKey,
    /// In words, complete: what is waited for, and what to do if it is the reader's turn.
    pub reason: String,
    /// A short, fixed word for metrics: `unhealthy`, `no_leader`, `drain`, …
    pub kind: &'static str,
    /// When time alone will end it.
    pub until: Option<Timestamp>,
    /// More of it, line by line: the end of a container's log.
    pub details: Vec<String>,
}

impl Waiting {
    /// It keeps the world from being what the spec says. The others are only worth knowing.
    pub fn blocks(&self) -> bool {
        kind_blocks(self.kind)
    }
}

/// The same for the kind alone, as `status` reports it.
pub fn kind_blocks(kind: &str) -> bool {
    !matches!(kind, "empty" | "maintenance" | "discovery" | "volume_differs" | "held" | "rolled_back")
}

/// What must be seen before a plan can tell what follows a wait of this kind; `None`: nothing is hidden.
pub fn hidden_until(kind: &str) -> Option<&'static str> {
    match kind {
        "docker_unknown" => Some("Docker can be read"),
        "consul_unknown" => Some("Consul can be read"),
        "no_leader" => Some("Consul has a leader"),
        "nginx_unknown" => Some("nginx can be read"),
        "directory_unknown" => Some("reeve's folder can be read"),
        _ => None,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub waiting: Vec<Waiting>,
    /// What reeve notes for itself in its folder: applied like steps, and no change that anybody would want to see.
    pub records: Vec<Step>,
    /// Until when what serves may take to prove itself; then it is recorded. A moment for `apply` to wait for, no reason
    /// not to have converged.
    pub proven_at: Option<Timestamp>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Nothing is to be done, and nothing that matters waits.
    pub fn converged(&self) -> bool {
        self.steps.is_empty() && !self.waiting.iter().any(Waiting::blocks)
    }
}
