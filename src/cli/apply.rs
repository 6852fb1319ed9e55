//! `reeve apply`: passes until the world is as the spec says.

use std::cell::Cell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;

use super::arguments::duration;
use super::passes::{Ended, converge, failure};
use super::saved::SavedPlan;
use super::status::from_daemon;
use super::{Context, Exit, Progress, plan, project, runtime};
use crate::engine::{Engine, Orders};
use crate::lock::{Lock, LockError};
use crate::observed::Pin;
use crate::plan::{Removals, display, kind_blocks};
use crate::spec::Spec;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve apply                    Do what the spec says, and wait until it serves.
  reeve apply --timeout 5m       Give up after five minutes; what still waits is told.
  reeve apply today.plan         Apply what `reeve plan --out today.plan` showed, or refuse.

Exit 0 means: the new set serves, the old one is drained and gone. While a daemon runs
for this project, this waits until the daemon has converged on the same spec.")]
pub struct ApplyArguments {
    /// Apply this plan, written by `reeve plan --out FILE`; refuse when the outcome would differ from it.
    #[arg(value_name = "FILE")]
    pub plan: Option<PathBuf>,

    /// Give up after this time.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,

    /// Allow a spec that removes every service, or more than half of them.
    #[arg(long)]
    pub allow_removals: bool,
}

/// # Errors
/// When the spec is invalid, a step fails for good, or time is up.
pub fn run(context: &mut Context, arguments: &ApplyArguments) -> anyhow::Result<Exit> {
    let saved = arguments.plan.as_deref().map(SavedPlan::read).transpose()?;
    if let Some(saved) = &saved {
        context.settings.spec.clone_from(&saved.files);
        context.global.project.clone_from(&saved.name);
    }
    let source = project::open(context)?;
    let spec = source.spec().clone();
    let engine = project::engine(context, &spec.project)?;
    let removals = if arguments.allow_removals { Removals::Allowed } else { Removals::Held };
    let orders = Orders { removals, teardown: None, dry: false };
    runtime()?.block_on(async {
        let _lock = match Lock::acquire(&context.settings.lock_path(&spec.project)) {
            Ok(lock) => lock,
            Err(error @ LockError::Held { .. }) => {
                anyhow::ensure!(saved.is_none(), "{error}; a saved plan is applied only without a daemon");
                return through_daemon(context, arguments, &engine, &spec, &error).await;
            }
            Err(error) => return Err(error.into()),
        };
        let (_, preview) = plan::foresee(engine.reader(), &spec, &engine.context(orders)).await;
        if let Some(saved) = &saved {
            saved.compare(&source, &context.settings.node, &preview)?;
        }
        context.output.line(display::summary(&preview))?;
        let quiet = preview.is_empty() && preview.waves.iter().all(crate::plan::Plan::converged);
        if quiet && preview.waves.iter().all(|wave| wave.records.is_empty()) {
            return Ok(Exit::Success);
        }
        let allowed = |wave: &crate::plan::Plan| match &saved {
            None => Ok(()),
            Some(saved) => match wave.steps.iter().find(|step| !saved.lists(step)) {
                None => Ok(()),
                Some(step) => Err({
                    let what = format!("{}: {} is not in the saved plan", step.object, display::verb(&step.action));
                    match saved.rest() {
                        Some(rest) => format!("{what}; {rest}"),
                        None => format!("{what}; the world has changed, and nothing more is done"),
                    }
                }),
            },
        };
        let everything = Cell::new(false);
        let converged = |pass: &crate::pass::Pass| {
            // What serves is kept before the end, so that there is something to roll back to.
            let proven = quiet || pass.plan.proven_at.is_none_or(|at| at <= pass.started_at);
            let converged = pass.plan.converged() && pass.held.is_empty() && proven;
            everything.set(converged);
            converged || saved.as_ref().is_some_and(|saved| saved.is_done(pass))
        };
        match converge(&engine, &spec, orders, arguments.timeout, allowed, converged).await? {
            Ended::Converged if !everything.get() => {
                anyhow::bail!("{}", saved.as_ref().and_then(SavedPlan::rest).unwrap_or_default())
            }
            Ended::Converged if quiet => Ok(Exit::Success),
            Ended::Converged => {
                context.output.line("Everything is as the spec says.")?;
                Ok(Exit::Success)
            }
            Ended::Failed(reason) => anyhow::bail!("{reason}"),
        }
    })
}

/// A daemon is the one writer: wait until it has converged on the same spec, refuse when its spec differs.
async fn through_daemon(
    context: &mut Context,
    arguments: &ApplyArguments,
    engine: &Engine,
    spec: &Spec,
    held: &LockError,
) -> anyhow::Result<Exit> {
    if arguments.allow_removals {
        let pin = Pin::AllowRemovals { spec: spec.digest.clone() };
        engine.world().directory().add_pin(pin).map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    let mut progress = Progress::stderr();
    progress.done(&format!("{held}; waiting until it has converged on this spec"));
    let started = Instant::now();
    // The daemon takes a changed file when it has been quiet for half a second.
    let takes_spec = Duration::from_secs(10).min(arguments.timeout);
    let removals = if arguments.allow_removals { Removals::Allowed } else { Removals::Held };
    let context_of_daemon = engine.context(Orders { removals, teardown: None, dry: false });
    loop {
        let report = from_daemon(&context.settings, Some(&spec.project)).await.ok().flatten();
        match report {
            Some(report) if report.status.spec == spec.digest => {
                let blocked: Vec<String> = report
                    .status
                    .all_waiting()
                    .filter(|waiting| kind_blocks(&waiting.kind))
                    .map(|waiting| format!("{}: {}", waiting.object, waiting.reason))
                    .collect();
                let removal_held = report.status.all_waiting().find(|waiting| waiting.kind == "removal_held");
                if let (Some(waiting), false) = (removal_held, arguments.allow_removals) {
                    anyhow::bail!("{}", waiting.reason);
                }
                // The report is of the daemon's last pass, which may be older than what was changed since; so this looks
                // for itself as well.
                if report.status.steps == 0 && blocked.is_empty() {
                    let (_, own) = plan::foresee(engine.reader(), spec, &context_of_daemon).await;
                    if own.is_empty() && own.waves.iter().all(crate::plan::Plan::converged) {
                        context.output.line("Everything is as the spec says.")?;
                        return Ok(Exit::Success);
                    }
                }
                let settled = report.status.steps == 0
                    && !report.status.all_waiting().any(|w| kind_blocks(&w.kind) && w.until.is_some());
                let failed = report.status.all_waiting().find(|waiting| waiting.kind == "roll_failed");
                if let (Some(failed), true) = (failed, settled) {
                    anyhow::bail!("{}", failure(&failed.object, &failed.reason, &failed.details));
                }
                if let Some(first) = blocked.first() {
                    progress.now(&format!("  waits: {first}"));
                }
                anyhow::ensure!(
                    started.elapsed() < arguments.timeout,
                    "the daemon has not converged after {} s; what is still open:\n  {}",
                    arguments.timeout.as_secs(),
                    blocked.join("\n  ")
                );
            }
            Some(report) => anyhow::ensure!(
                started.elapsed() < takes_spec,
                "{held}; and its spec is another one (digest {}, here {}): give the daemon's own files, or change those",
                short(&report.status.spec),
                short(&spec.digest)
            ),
            None => anyhow::ensure!(
                started.elapsed() < takes_spec,
                "{held}; and it does not answer on http.listen, so that its progress cannot be followed"
            ),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
