//! `reeve explain`: why a service, an upstream, a template or a discovered container is as it is. Of a running daemon when there is one, else by an observation
//! of its own.

use clap::{Args, ValueEnum};
use jiff::Timestamp;
use reqwest::StatusCode;

use super::{Context, Exit, daemon, project, runtime};
use crate::engine::Orders;
use crate::explain::Seen;
use crate::http::{Explained, Unexplained};
use crate::plan::Removals;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve explain web                 What is wanted of this service, what is seen of each
                                    replica, what waits for what, what was done last.
  reeve explain http_backend        Why each endpoint of this upstream is in or out.
  reeve explain app.conf            What this template asks for, and what it waits for.
  reeve explain redis-1             What discovery makes of this container, and why not.
  reeve explain web -o json | jq .last_error

With a daemon this tells of its last pass, else it looks by itself. It never writes.")]
pub struct ExplainArguments {
    /// The service, upstream or template, or a container that discovery found (also by what it is registered as); when
    /// several have this name, all are explained.
    #[arg(value_name = "SERVICE|UPSTREAM|TEMPLATE|CONTAINER")]
    pub name: String,

    /// Print text for people or JSON for programs.
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: ExplainFormat,

    /// Show so many of the last actions.
    #[arg(long, value_name = "NUMBER", default_value = "10", value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub actions: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExplainFormat {
    Text,
    Json,
}

/// # Errors
/// When there is nothing of this name, or there is no daemon and the spec is invalid.
pub fn run(context: &mut Context, arguments: &ExplainArguments) -> anyhow::Result<Exit> {
    let explained = runtime()?.block_on(async {
        match from_daemon(context, arguments).await? {
            Some(explained) => Ok(explained),
            None => observed(context, arguments).await,
        }
    })?;
    match arguments.output {
        ExplainFormat::Json => context.output.json(&explained)?,
        ExplainFormat::Text => {
            let style = context.output.style();
            if explained.observe_only {
                context.output.line(style.warning("The daemon only observes, it changes nothing.\n"))?;
            }
            context.output.text(explained.explanation.text(Timestamp::now(), style))?;
        }
    }
    Ok(Exit::Success)
}

/// By an observation of our own, without a daemon.
async fn observed(context: &Context, arguments: &ExplainArguments) -> anyhow::Result<Explained> {
    let source = project::open(context)?;
    let spec = source.spec();
    let engine = project::engine(context, &spec.project)?;
    let orders = Orders { removals: Removals::Held, teardown: None, dry: true };
    let (observed, plan, now) = engine.look(spec, orders).await;
    let seen = Seen { owner: &engine.owner, spec, observed: &observed, plan: &plan, held: &[], now };
    let explanation = engine.explain(&arguments.name, &seen, orders, usize::from(arguments.actions))?;
    Ok(Explained { at: now, node: engine.owner.node.clone(), observe_only: false, explanation })
}

/// None: there is no daemon, it has not finished its first pass, or it is another project's or node's.
async fn from_daemon(context: &Context, arguments: &ExplainArguments) -> anyhow::Result<Option<Explained>> {
    let number = arguments.actions.to_string();
    let query = [("name", arguments.name.as_str()), ("actions", number.as_str())];
    let Some(answer) = daemon::ask(&context.settings, "/v1/explain", &query).await? else { return Ok(None) };
    let project = context.global.project.as_deref();
    let same = |node: &str, of: &str| node == context.settings.node && project.is_none_or(|project| project == of);
    match answer.code {
        // It has just started; the same world can be seen without it.
        StatusCode::SERVICE_UNAVAILABLE => Ok(None),
        StatusCode::NOT_FOUND => {
            let refused: Unexplained = serde_json::from_str(&answer.body).map_err(|error| answer.stranger(&error))?;
            anyhow::ensure!(!same(&refused.node, &refused.project), "{}", refused.error);
            Ok(None)
        }
        _ => {
            let explained: Explained = serde_json::from_str(&answer.body).map_err(|error| answer.stranger(&error))?;
            Ok(same(&explained.node, &explained.explanation.project).then_some(explained))
        }
    }
}
