//! `reeve validate`: check the spec's files, offline.

use std::path::PathBuf;

use clap::Args;

use super::{Context, Exit, project};
use crate::spec::Spec;
use crate::spec::load::load;
use crate::style::Style;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve -f shop.yaml validate            Show every problem with its place in the file.
  reeve -f shop.yaml validate --strict   In a pipeline: warnings are errors, too.")]
pub struct ValidateArguments {
    /// Treat warnings as errors: variables that are not set, addresses that do not survive a restart.
    #[arg(long)]
    pub strict: bool,
}

/// `shop: 5 services (8 replicas), 1 upstream, 2 networks, 4 volumes`.
pub fn summary(spec: &Spec) -> String {
    let number = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    };
    let replicas: usize =
        spec.services.values().map(|service| usize::try_from(service.replicas).unwrap_or(usize::MAX)).sum();
    format!(
        "{}: {} ({}), {}, {}, {}",
        spec.project,
        number(spec.services.len(), "service"),
        number(replicas, "replica"),
        number(spec.upstreams.len(), "upstream"),
        number(spec.networks.len(), "network"),
        number(spec.volumes.len(), "volume"),
    )
}

/// # Errors
/// When the files are invalid; with `--strict`, when there is a warning.
pub fn run(context: &mut Context, arguments: &ValidateArguments) -> anyhow::Result<Exit> {
    let mut options = project::load_options(&context.settings, context.global.project.as_deref(), arguments.strict)?;
    // As they are written, and where links lead, as the plan compares them.
    let allowed = &context.settings.templates.allow;
    let real = allowed.iter().filter_map(|folder| std::fs::canonicalize(folder).ok());
    let real: Vec<PathBuf> = real.filter(|folder| !allowed.contains(folder)).collect();
    options.templates_allow = Some(allowed.iter().cloned().chain(real).collect());
    let coloured = context.output.style() != Style::plain();
    match load(&options) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                context.output.line(warning.render(coloured))?;
            }
            context.output.line(summary(&loaded.spec))?;
            Ok(if arguments.strict && !loaded.warnings.is_empty() { Exit::Failure } else { Exit::Success })
        }
        Err(diagnostics) => {
            context.output.line(diagnostics.render(coloured))?;
            Ok(Exit::Failure)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_in_words() {
        let spec = crate::status::tests::spec();
        assert_eq!(summary(&spec), "shop: 2 services (5 replicas), 1 upstream, 0 networks, 0 volumes");
    }
}
