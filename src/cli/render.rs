//! `reeve render`: the nginx configuration that would be written.

use clap::Args;

use jiff::Timestamp;

use super::{Context, Exit, Progress, project, runtime};
use crate::engine::Orders;
use crate::plan::{self, ObjectKey, Removals, Waiting};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve render                  Print every file of the generation that would be written.
  reeve render http_backend     Print the file of one upstream.

An upstream that waits (it cannot be read, its port is taken, nginx refuses it) is told on
standard error with its reason: it is missing, or not as the spec says.")]
pub struct RenderArguments {
    /// Print only this upstream.
    #[arg(value_name = "UPSTREAM")]
    pub upstream: Option<String>,
}

/// # Errors
/// When the spec is invalid or there is no such upstream.
pub fn run(context: &mut Context, arguments: &RenderArguments) -> anyhow::Result<Exit> {
    let source = project::open(context)?;
    let spec = source.spec();
    if let Some(name) = &arguments.upstream {
        let known = spec.upstreams.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        anyhow::ensure!(spec.upstreams.contains_key(name), "the spec has no upstream {name}; it has: {known}");
    }
    let engine = project::engine(context, &spec.project)?;
    let observed = runtime()?.block_on(engine.observe(spec));
    let orders = Orders { removals: Removals::Held, teardown: None, dry: false };
    let plan_context = engine.context(orders);
    let (wanted, waiting) = plan::wanted_generation(spec, &observed, Timestamp::now(), &plan_context)?;
    for (name, text) in &wanted.files {
        let own = arguments.upstream.as_ref().is_none_or(|upstream| name.contains(&format!("upstream-{upstream}.")));
        if own {
            context.output.text(format_args!("# {name}\n{text}"))?;
        }
    }
    // Beside the text, which may be on its way into a file.
    for waiting in waiting {
        let Waiting { object, reason, .. } = waiting;
        let asked = |upstream: &String| object == ObjectKey::Upstream(upstream.clone()) || object == ObjectKey::Nginx;
        if arguments.upstream.as_ref().is_none_or(asked) {
            Progress::stderr().done(&format!("{object} waits: {reason}"));
        }
    }
    Ok(Exit::Success)
}
