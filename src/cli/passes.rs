//! Passes until the world is as the spec says, with visible progress: the heart of `apply` and `destroy`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::Progress;
use super::signals::Signals;
use crate::controller::backoff::Backoff;
use crate::engine::{Engine, Orders, Past};
use crate::pass::{Applied, Pass};
use crate::plan::display;
use crate::plan::{Plan, Waiting};
use crate::spec::Spec;
use crate::world::ActionError;

/// Between two passes that had nothing to do. What is waited for (a HEALTHCHECK, a check, a drain) takes longer.
const PAUSE: Duration = Duration::from_millis(200);
/// How long errors that nothing but a person can mend are shown without any progress before the command ends.
const GIVE_UP_AFTER: Duration = Duration::from_secs(10);

/// How the passes ended.
pub enum Ended {
    Converged,
    /// Why not, complete.
    Failed(String),
}

/// Makes passes until converged, until `timeout`, or until nothing but a person can help.
pub async fn converge(
    engine: &Engine,
    spec: &Arc<Spec>,
    orders: Orders,
    timeout: Duration,
    allowed: impl Fn(&Plan) -> Result<(), String>,
    done: impl Fn(&Pass) -> bool,
) -> anyhow::Result<Ended> {
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let progress = Mutex::new(Progress::stderr());
    let mut backoff = Backoff::default();
    let started = Instant::now();
    let mut last_progress = Instant::now();
    let mut permanent: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let mut refused = None;
        let report = |applied: &Applied| report(&progress, applied);
        let select = |plan: &mut Plan| {
            if let Err(reason) = allowed(plan) {
                plan.steps.clear();
                refused = Some(reason);
            }
        };
        let past = Past { backoff: &mut backoff, last: None, beside_nginx: false };
        let pass = engine.pass(spec, orders, past, &stop, select, &report);
        let pass = tokio::select! {
            pass = pass => pass,
            _ = signals.next() => return Ok(Ended::Failed("interrupted; what was begun is left as it is, and `reeve apply` goes on from there".to_owned())),
        };
        if let Some(reason) = refused {
            return Ok(Ended::Failed(reason));
        }
        if done(&pass) {
            return Ok(Ended::Converged);
        }
        for applied in &pass.applied {
            match &applied.result {
                Ok(()) => {
                    last_progress = Instant::now();
                    permanent.remove(&applied.object.to_string());
                }
                Err(ActionError::Permanent(error)) => {
                    permanent.insert(applied.object.to_string(), error.clone());
                }
                // It shows as what waits, unless the rest can be loaded without it.
                Err(ActionError::Refused(_)) => last_progress = Instant::now(),
                Err(ActionError::Conflict(_) | ActionError::Transient(_)) => {}
            }
        }
        let held: Vec<&Waiting> = pass.plan.waiting.iter().filter(|waiting| waiting.kind == "removal_held").collect();
        if let (Some(waiting), true) = (held.first(), pass.plan.steps.is_empty()) {
            return Ok(Ended::Failed(waiting.reason.clone()));
        }
        let refusals: Vec<String> = pass
            .plan
            .waiting
            .iter()
            .filter(|waiting| matches!(waiting.kind, "refused" | "rejected" | "template"))
            .map(|waiting| format!("{}: {}", waiting.object, waiting.reason))
            .collect();
        if !refusals.is_empty() && pass.plan.steps.is_empty() && last_progress.elapsed() > GIVE_UP_AFTER {
            return Ok(Ended::Failed(refusals.join("\n")));
        }
        if let Some(reason) = rollout_failed(&pass) {
            return Ok(Ended::Failed(reason));
        }
        if !permanent.is_empty() && last_progress.elapsed() > GIVE_UP_AFTER {
            let list: Vec<String> = permanent.iter().map(|(object, error)| format!("{object}: {error}")).collect();
            return Ok(Ended::Failed(list.join("\n")));
        }
        if started.elapsed() > timeout {
            return Ok(Ended::Failed(format!(
                "not converged after {} s; what is still open:\n{}",
                timeout.as_secs(),
                open_ends(&pass)
            )));
        }
        let progressed =
            pass.applied.iter().any(|applied| matches!(applied.result, Ok(()) | Err(ActionError::Refused(_))));
        if !progressed {
            show_waiting(&progress, &pass);
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                _ = signals.next() => return Ok(Ended::Failed("interrupted".to_owned())),
            }
        }
    }
}

/// A roll-out has failed, and nothing else is to be done or waited for that time would end: only a person can help now.
fn rollout_failed(pass: &Pass) -> Option<String> {
    let open = !pass.plan.steps.is_empty()
        || !pass.held.is_empty()
        || pass.plan.waiting.iter().any(|waiting| waiting.blocks() && waiting.until.is_some());
    let failed: Vec<String> = pass
        .plan
        .waiting
        .iter()
        .filter(|waiting| waiting.kind == "roll_failed")
        .map(|waiting| failure(&waiting.object.to_string(), &waiting.reason, &waiting.details))
        .collect();
    (!open && !failed.is_empty()).then(|| failed.join("\n"))
}

/// A failed roll-out for a person: why, and the end of the replica's log.
pub fn failure(object: &str, reason: &str, details: &[String]) -> String {
    let lines: String = details.iter().map(|line| format!("\n  | {line}")).collect();
    format!("{object}: {reason}{lines}")
}

fn report(progress: &Mutex<Progress>, applied: &Applied) {
    let Ok(mut progress) = progress.lock() else { return };
    let kind = applied.kind.replace('_', " ");
    match &applied.result {
        Ok(()) if applied.is_record() => {}
        Ok(()) => progress.done(&format!("  {}: {kind} ({} ms)", applied.object, applied.took.as_millis())),
        Err(ActionError::Conflict(_)) => {}
        Err(ActionError::Transient(error)) => {
            progress.done(&format!("  {}: {kind} failed, tried again: {error}", applied.object));
        }
        Err(ActionError::Permanent(error)) => {
            progress.done(&format!("  {}: {kind} failed: {error}", applied.object));
        }
        Err(ActionError::Refused(error)) => progress.done(&format!("  {}: {kind}: {error}", applied.object)),
    }
}

fn show_waiting(progress: &Mutex<Progress>, pass: &Pass) {
    let Ok(mut progress) = progress.lock() else { return };
    if let Some(waiting) = pass.plan.waiting.iter().find(|waiting| waiting.blocks()) {
        progress.now(&format!("  waits: {}: {}", waiting.object, waiting.reason));
    }
}

fn open_ends(pass: &Pass) -> String {
    let mut lines: Vec<String> =
        pass.plan.waiting.iter().filter(|w| w.blocks()).map(|w| format!("  {}: {}", w.object, w.reason)).collect();
    lines.extend(pass.held.iter().map(|(object, error, _)| format!("  {object}: {error}")));
    lines.extend(pass.plan.steps.iter().map(|step| format!("  {}: {}", step.object, display::verb(&step.action))));
    lines.join("\n")
}
