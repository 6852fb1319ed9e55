//! The arguments, as they are parsed and as `--help` shows them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::output::Color;
use super::{adopt, apply, completions, destroy, explain, hold, import, plan, render, rollback, run, status, validate};
use crate::settings::parse_duration;

/// Keeps the containers of this host, their registrations in Consul and the routes of nginx as one YAML spec says.
///
/// The spec is a Compose file with a few keys more. `reeve plan` shows what would be done, `reeve apply` does it once, and
/// `reeve run` goes on doing it.
#[derive(Debug, Parser)]
#[command(
    name = "reeve",
    version,
    propagate_version = true,
    max_term_width = 110,
    after_help = "\
Examples:
  reeve -f shop.yaml plan        Show what would be done for this spec.
  reeve -f shop.yaml apply       Do it, and wait until it serves.
  reeve run                      Go on keeping it so, as the settings say.
  reeve status --watch           Watch the services.
  reeve explain web              Ask why a service, or an upstream, is as it is.

Exit codes: 0 success, 1 error, 2 changes (only with `plan --detailed-exitcode`), or
`import` found something without a counterpart."
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: GlobalArguments,
    #[command(subcommand)]
    pub command: Command,
}

/// Arguments of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalArguments {
    /// Read the settings from this file. Without it: $REEVE_CONFIG, ./config/reeve.yaml, /etc/reeve/reeve.yaml.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Use this spec file or folder in place of those in the settings. Several are merged in their order.
    #[arg(short, long = "file", global = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Use this project name in place of the spec's `name`.
    #[arg(short, long = "project", global = true, value_name = "NAME")]
    pub project: Option<String>,

    /// Colour the output always, never, or on a terminal where NO_COLOR is not set.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,

    /// Log at this level (off, error, warn, info, debug, trace), or by module: info,reeve::backend=debug.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

impl GlobalArguments {
    /// The settings that are set here, by key.
    pub fn overrides(&self) -> BTreeMap<&'static str, Vec<String>> {
        let mut overrides = BTreeMap::new();
        if !self.files.is_empty() {
            overrides.insert("spec", self.files.iter().map(|path| path.display().to_string()).collect());
        }
        if let Some(level) = &self.log_level {
            overrides.insert("log.level", vec![level.clone()]);
        }
        overrides
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep everything as the spec says, until told to end.
    Run(run::RunArguments),
    /// Show what would be done, and do nothing.
    Plan(plan::PlanArguments),
    /// Do what the spec says, and wait until it serves.
    Apply(apply::ApplyArguments),
    /// Show the services, the upstreams and Consul's members.
    Status(status::StatusArguments),
    /// Explain why a service, an upstream or a template is as it is.
    Explain(explain::ExplainArguments),
    /// Take over containers that somebody else made, without making them anew; or what a registrator left in Consul.
    Adopt(adopt::AdoptArguments),
    /// Go back to the last configuration of a service that served.
    Rollback(rollback::RollbackArguments),
    /// Leave a service as it is: nothing of it is corrected.
    Hold(hold::HoldArguments),
    /// End a hold or a rollback; try a failed roll-out again.
    Release(hold::ReleaseArguments),
    /// Check the spec's files, without asking Docker, Consul or nginx.
    Validate(validate::ValidateArguments),
    /// Print the nginx configuration, or the file of a template, that would be written.
    Render(render::RenderArguments),
    /// Take everything of this project on this node down, and nothing else.
    Destroy(destroy::DestroyArguments),
    /// Make a spec of the files of Compose, registrator or consul-template.
    Import(import::ImportArguments),
    /// Print the JSON Schema of the spec, for editors.
    #[command(after_help = "\
Example:
  reeve schema > reeve.schema.json

  A first line `# yaml-language-server: $schema=reeve.schema.json` in a spec
  makes editors complete and check it.")]
    Schema,
    /// Print the completions of a shell.
    Completions(completions::CompletionsArguments),
}

/// A duration as in the settings: `90s`, `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
}
