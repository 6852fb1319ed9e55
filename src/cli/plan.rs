//! `reeve plan`: show what would be done.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Context, Exit};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve plan                          Show every change with its cause.
  reeve plan --detailed-exitcode      Exit 0 without changes, 2 with changes, 1 on errors.
  reeve plan --out today.plan         Keep it; `reeve apply today.plan` then does exactly
                                      what was shown, or nothing.")]
pub struct PlanArguments {
    /// Exit with 2 when there is something to do.
    #[arg(long)]
    pub detailed_exitcode: bool,

    /// Print text for people or JSON for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: PlanFormat,

    /// Write the resolved spec and the plan to this file, for `reeve apply FILE`.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    Text,
    Json,
}

impl PlanArguments {
    /// The exit code for a plan.
    pub fn exit(&self, changes: bool) -> Exit {
        if self.detailed_exitcode && changes { Exit::Changes } else { Exit::Success }
    }
}

/// # Errors
/// When the spec is invalid or the plan cannot be made.
pub fn run(_context: &mut Context, _arguments: &PlanArguments) -> anyhow::Result<Exit> {
    anyhow::bail!("`reeve plan` is not wired yet")
}
