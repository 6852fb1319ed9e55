//! `reeve apply`: passes until the world is as the spec says.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::arguments::duration;
use super::{Context, Exit};

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
pub fn run(_context: &mut Context, _arguments: &ApplyArguments) -> anyhow::Result<Exit> {
    anyhow::bail!("`reeve apply` is not wired yet")
}
