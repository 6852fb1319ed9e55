//! `reeve render`: the nginx configuration that would be written, or the file of a template.

use clap::Args;

use jiff::Timestamp;

use super::{Context, Exit, Progress, project, runtime};
use crate::engine::{Engine, Orders};
use crate::observed::{Interest, View};
use crate::plan::{self, ObjectKey, Removals, Waiting};
use crate::render::{ENDPOINTS_FILE, LUA_FILE, endpoints};
use crate::spec::Spec;
use crate::template;
use crate::world::Observe as _;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  reeve render                  Print every file of the generation that would be written.
  reeve render http_backend     Print the file of one upstream.
  reeve render app.conf         Print what this template renders from the data of now.

An upstream that waits (it cannot be read, its port is taken, nginx refuses it) is told on
standard error with its reason: it is missing, or not as the spec says.")]
pub struct RenderArguments {
    /// Print only this upstream, or this template.
    #[arg(value_name = "UPSTREAM|TEMPLATE")]
    pub name: Option<String>,
}

/// # Errors
/// When the spec is invalid, there is nothing of this name, or it cannot be rendered.
pub fn run(context: &mut Context, arguments: &RenderArguments) -> anyhow::Result<Exit> {
    let source = project::open(context)?;
    let spec = source.spec();
    if let Some(name) = &arguments.name {
        let list = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        anyhow::ensure!(
            spec.upstreams.contains_key(name) || spec.templates.contains_key(name),
            "the spec has no upstream and no template {name}; upstreams: {}; templates: {}",
            list(spec.upstreams.keys().map(String::as_str).collect()),
            list(spec.templates.keys().map(String::as_str).collect())
        );
        if spec.templates.contains_key(name) {
            let engine = project::engine(context, &spec.project)?;
            let text = render_template(&engine, spec, name)?;
            context.output.text(text)?;
            if !spec.upstreams.contains_key(name) {
                return Ok(Exit::Success);
            }
        }
    }
    let engine = project::engine(context, &spec.project)?;
    let observed = runtime()?.block_on(engine.observe(spec));
    let orders = Orders { removals: Removals::Held, teardown: None, dry: false };
    let plan_context = engine.context(orders);
    let (wanted, waiting) = plan::wanted_generation(spec, &observed, Timestamp::now(), &plan_context)?;
    // The program in Lua is always the same, and long.
    for (name, text) in wanted.files.iter().filter(|(name, _)| *name != LUA_FILE) {
        let own = arguments.name.as_ref().is_none_or(|upstream| name.contains(&format!("upstream-{upstream}.")));
        if own {
            context.output.text(format_args!("# {name}\n{text}"))?;
        }
    }
    if let Some(mut endpoints) = endpoints::of_manifest(&wanted.manifest) {
        endpoints.retain(|upstream, _| arguments.name.as_ref().is_none_or(|name| name == upstream));
        context.output.text(format_args!("# {ENDPOINTS_FILE}\n{}", endpoints::text(&endpoints)))?;
    }
    // Beside the text, which may be on its way into a file.
    for waiting in waiting {
        let Waiting { object, reason, .. } = waiting;
        let asked = |upstream: &String| object == ObjectKey::Upstream(upstream.clone()) || object == ObjectKey::Nginx;
        if arguments.name.as_ref().is_none_or(asked) {
            Progress::stderr().done(&format!("{object} waits: {reason}"));
        }
    }
    Ok(Exit::Success)
}

/// What the template renders from the data of now, whatever is believed of them.
fn render_template(engine: &Engine, spec: &Spec, name: &str) -> anyhow::Result<String> {
    let mut interest = Interest::of(spec, &engine.owner);
    interest.templates.retain(|other, _| other == name);
    let observed = runtime()?.block_on(engine.reader().observe(&interest));
    let templates = &observed.templates;
    let seen = match templates.seen.get(name) {
        Some(View::Known(seen)) => seen,
        Some(View::Unknown { reason, .. }) => anyhow::bail!("{reason}"),
        None => anyhow::bail!("the template {name} was not looked at"),
    };
    let template = spec.templates.get(name).ok_or_else(|| anyhow::anyhow!("the spec has no template {name}"))?;
    template::run(template, &templates.answers, seen.changed_at).text.map_err(|reason| anyhow::anyhow!("{reason}"))
}
