//! `reeve render`: the nginx configuration that would be written.

use clap::Args;

use super::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve render                  Print every file of the generation that would be written.
  reeve render http_backend     Print the file of one upstream.")]
pub struct RenderArguments {
    /// Print only this upstream.
    #[arg(value_name = "UPSTREAM")]
    pub upstream: Option<String>,
}

/// # Errors
/// When the spec is invalid or there is no such upstream.
pub fn run(_context: &mut Context, _arguments: &RenderArguments) -> anyhow::Result<Exit> {
    anyhow::bail!("`reeve render` is not wired yet")
}
