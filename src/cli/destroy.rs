//! `reeve destroy`: take down what carries our mark.

use std::time::Duration;

use clap::Args;

use super::arguments::duration;
use super::{Context, Exit};

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
pub fn run(_context: &mut Context, _arguments: &DestroyArguments) -> anyhow::Result<Exit> {
    anyhow::bail!("`reeve destroy` is not wired yet")
}
