//! The waist between pure code and IO: two traits.
//!
//! `plan` holds only `Observe`, so that a dry run cannot write, by type. `apply` holds `Execute`.

use std::future::Future;

use crate::observed::{Interest, Observed};
use crate::plan::Action;

/// Reads the world. Never writes, not even a cache file.
pub trait Observe: Send + Sync {
    /// Reads every backend, concurrently, each with a time limit. Never fails: what could not be read is Unknown.
    fn observe(&self, interest: &Interest) -> impl Future<Output = Observed> + Send;
}

/// Changes the world, one action at a time.
pub trait Execute: Observe {
    fn execute(&self, action: &Action) -> impl Future<Output = Result<(), ActionError>> + Send;
}

/// Why an action had no effect, by what the caller does about it. The message is complete: what failed, on which object,
/// why, what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ActionError {
    /// The world is not as it was when the action was planned: observe again, at once.
    #[error("{0}")]
    Conflict(String),
    /// May succeed later by itself: back off.
    #[error("{0}")]
    Transient(String),
    /// Will fail again until somebody changes something: longest backoff.
    #[error("{0}")]
    Permanent(String),
    /// nginx refused a generation, and that is recorded beside it: observe again, at once. What follows from the record,
    /// and when it is tried again, is the planner's.
    #[error("{0}")]
    Refused(String),
}

/// Who woke the loop. A wake-up carries no data: it only says that a look is worthwhile, and when the change happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WakeSource {
    DockerEvent,
    ConsulChange,
    NginxChange,
    SpecFile,
    Pin,
    Signal,
    Timer,
    OwnWrite,
    TemplateFile,
}

impl WakeSource {
    /// The word in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::DockerEvent => "docker_event",
            Self::ConsulChange => "consul_change",
            Self::NginxChange => "nginx_change",
            Self::SpecFile => "spec_file",
            Self::Pin => "pin",
            Self::Signal => "signal",
            Self::Timer => "timer",
            Self::OwnWrite => "own_write",
            Self::TemplateFile => "template_file",
        }
    }
}

/// Handed to everything that watches. Cheap to call, never blocks. The time is the change's own (a Docker event's time
/// stamp) when the source knows it, else when it was seen.
pub type Wake = std::sync::Arc<dyn Fn(WakeSource, jiff::Timestamp) + Send + Sync>;

/// Why a backend could not be read, complete, with the whole chain of causes: it becomes the reason of an Unknown view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ViewError(pub String);
