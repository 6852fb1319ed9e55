//! `reeve run`: the daemon.

use clap::Args;

use super::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve run                  Keep everything as the spec says.
  reeve run --observe        The first day of a migration: metrics and status tell what
                             it would do, and nothing is written.

Events wake it, and it looks at least every 30 s. SIGHUP reads the settings again.
SIGTERM and SIGINT end it within 2 s; the services go on running.")]
pub struct RunArguments {
    /// Plan and export what differs, and write nothing at all.
    #[arg(long)]
    pub observe: bool,
}

/// # Errors
/// When the daemon cannot start.
pub fn run(_context: &mut Context, arguments: &RunArguments) -> anyhow::Result<Exit> {
    anyhow::bail!("`reeve run` is not wired yet (observe: {})", arguments.observe)
}
