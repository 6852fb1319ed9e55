//! What `rollback`, `hold` and `release` share: the service that is meant, its pins, and waiting until the daemon has taken
//! the change.
//!
//! These commands write a pin and nothing else. What a pin means is the planner's.

use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::status::from_daemon;
use super::{Context, project};
use crate::engine::Engine;
use crate::lock::{Lock, LockError};
use crate::observed::Directory;
use crate::spec::suggest::did_you_mean;
use crate::spec::{Service, Spec};

/// The daemon looks at the pins four times a second, and a pass may be under way.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(100);

/// The spec as it is in the files, and the engine for it.
pub fn open(context: &Context) -> anyhow::Result<(Spec, Engine)> {
    let source = project::open(context)?;
    let spec = Spec::clone(source.spec());
    let engine = project::engine(context, &spec.project)?;
    Ok((spec, engine))
}

/// The service of this name.
///
/// # Errors
/// When the spec has none: with what was meant, perhaps.
pub fn service<'s>(spec: &'s Spec, name: &str) -> anyhow::Result<&'s Service> {
    spec.services.get(name).ok_or_else(|| unknown(name, spec.services.keys().map(String::as_str)))
}

pub fn unknown<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone) -> anyhow::Error {
    let help = did_you_mean(name, names.clone())
        .unwrap_or_else(|| format!("services: {}", names.collect::<Vec<_>>().join(", ")));
    anyhow::anyhow!("the spec has no service `{name}`; {help}")
}

/// reeve's folder as it is now.
///
/// # Errors
/// When it cannot be read.
pub fn directory(engine: &Engine) -> anyhow::Result<Directory> {
    engine.world().directory().view().map_err(|error| anyhow::anyhow!("{error}"))
}

/// Says who obeys the pins that were changed just now: waits, for a bounded time, until the daemon has made a pass with
/// them. `did`: what was done, a whole sentence.
///
/// # Errors
/// When a daemon runs and does not take it in time, or cannot be asked. The pin is written all the same.
pub async fn obeyed(context: &Context, project: &str, did: &str) -> anyhow::Result<String> {
    let written = Timestamp::now();
    let started = Instant::now();
    let mut seen = false;
    loop {
        let asked = from_daemon(&context.settings, Some(project)).await;
        match asked {
            Ok(Some(report)) if report.observe_only => {
                return Ok(format!("{did} The daemon only observes: `reeve apply` or `reeve run` will obey."));
            }
            Ok(Some(report)) if report.at >= written => return Ok(format!("{did} The daemon has taken it.")),
            Ok(Some(_)) => seen = true,
            Ok(None) if !seen => match Lock::acquire(&context.settings.lock_path(project)) {
                Ok(_) | Err(LockError::File { .. }) => {
                    return Ok(format!("{did} No daemon runs: `reeve apply` or `reeve run` will obey."));
                }
                Err(held @ LockError::Held { .. }) => anyhow::ensure!(
                    started.elapsed() < TAKEN_WITHIN,
                    "{did} But {held}, and does not answer on http.listen: it will obey, and cannot be followed"
                ),
            },
            Ok(None) => {}
            Err(error) => {
                anyhow::ensure!(started.elapsed() < TAKEN_WITHIN, "{did} But the daemon cannot be asked: {error:#}");
            }
        }
        anyhow::ensure!(
            started.elapsed() < TAKEN_WITHIN,
            "{did} But the daemon has not taken it within {} s: look at its log and at `reeve status`",
            TAKEN_WITHIN.as_secs()
        );
        tokio::time::sleep(LOOK).await;
    }
}
