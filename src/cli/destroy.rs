//! `reeve destroy`: take down what carries our mark.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::arguments::duration;
use super::passes::{Ended, converge};
use super::{Context, Exit, project, runtime};
use crate::engine::Orders;
use crate::lock::{Lock, LockError};
use crate::pass::Pass;
use crate::plan::{Removals, Teardown};
use crate::spec::Spec;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve destroy                 Unroute, drain, stop and remove all of this project here.
  reeve destroy --volumes       Remove its volumes, too, with the data in them.
  reeve -p shop destroy         Without a spec file: the project's name is enough.

Only what carries the mark project@node is touched.")]
pub struct DestroyArguments {
    /// Remove the project's volumes, too, with the data in them.
    #[arg(long)]
    pub volumes: bool,

    /// Go on without Consul when it cannot be read: unroute, wait for the drain, remove.
    #[arg(long)]
    pub without_consul: bool,

    /// Give up after this time.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub timeout: Duration,
}

/// # Errors
/// When a daemon holds the lock, a step fails for good, or time is up.
pub fn run(context: &mut Context, arguments: &DestroyArguments) -> anyhow::Result<Exit> {
    let name = match &context.global.project {
        Some(name) => name.clone(),
        None => project::open(context)?.spec().project.clone(),
    };
    let engine = project::engine(context, &name)?;
    let spec = Arc::new(Spec::empty(&name));
    let teardown = Teardown { volumes: arguments.volumes, without_consul: arguments.without_consul };
    let orders = Orders { removals: Removals::Allowed, teardown: Some(teardown), dry: false };
    runtime()?.block_on(async {
        let _lock = Lock::acquire(&context.settings.lock_path(&name)).map_err(|error| match error {
            LockError::Held { .. } => anyhow::anyhow!("{error}; end it first, or it would make everything anew"),
            LockError::File { .. } => error.into(),
        })?;
        let gone = |pass: &Pass| {
            let docker_empty = pass.observed.docker.known().is_some_and(|docker| {
                docker.containers.is_empty() && !docker.networks.values().any(|network| network.ours)
            });
            pass.plan.steps.is_empty() && pass.held.is_empty() && docker_empty
        };
        match converge(&engine, &spec, orders, arguments.timeout, |_| Ok(()), gone).await? {
            Ended::Converged => {
                let kept = if arguments.volumes { "" } else { " Volumes are kept." };
                context.output.line(format_args!("Nothing of {} is left.{kept}", engine.owner))?;
                Ok(Exit::Success)
            }
            Ended::Failed(reason) if arguments.without_consul => anyhow::bail!("{reason}"),
            Ended::Failed(reason) => {
                anyhow::bail!("{reason}\nif Consul is what is missing: `reeve destroy --without-consul`")
            }
        }
    })
}
