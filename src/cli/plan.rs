//! `reeve plan`: show what would be done.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use jiff::Timestamp;

use super::saved::SavedPlan;
use super::{Context, Exit, Output, project, runtime};
use crate::engine::Orders;
use crate::observed::{Interest, Observed};
use crate::plan::display::{self, Line, Tone};
use crate::plan::preview::Preview;
use crate::plan::{self, Removals};
use crate::spec::Spec;
use crate::world::Observe;

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
pub fn run(context: &mut Context, arguments: &PlanArguments) -> anyhow::Result<Exit> {
    let source = project::open(context)?;
    let engine = project::engine(context, &source.spec().project)?;
    let orders = Orders { removals: Removals::Held, teardown: None, dry: false };
    let (observed, preview) = runtime()?.block_on(foresee(engine.reader(), source.spec(), &engine.context(orders)));
    match arguments.output {
        PlanFormat::Json => context.output.json(&display::json(&preview))?,
        PlanFormat::Text => print(&mut context.output, &preview, &observed)?,
    }
    if let Some(path) = &arguments.out {
        let saved = SavedPlan::of(context, &source, &preview)?;
        saved.write(path)?;
        if arguments.output == PlanFormat::Text {
            context.output.line(format_args!("\nTo do exactly this: reeve apply {}", path.display()))?;
            if saved.incomplete.is_some() {
                context.output.line("It ends with exit code 1 when that is done: what follows needs another plan.")?;
            }
        }
    }
    Ok(arguments.exit(!preview.is_empty()))
}

/// Looks at the world and foresees every wave. It gets a reader, and so cannot write.
pub async fn foresee(world: &impl Observe, spec: &Spec, context: &plan::Context<'_>) -> (Observed, Preview) {
    let observed = world.observe(&Interest::of(spec, &context.owner)).await;
    let preview = Preview::of(spec, &observed, Timestamp::now(), context);
    (observed, preview)
}

/// Prints a plan for a person.
pub fn print(output: &mut Output, preview: &Preview, observed: &Observed) -> std::io::Result<()> {
    let style = output.style();
    for Line { tone, text } in display::lines(preview, observed) {
        match tone {
            Tone::Plain => output.line(text)?,
            Tone::Add => output.line(style.add(text))?,
            Tone::Remove => output.line(style.destroy(text))?,
            Tone::Change => output.line(style.change(text))?,
            Tone::Faint => output.line(style.dim(text))?,
            Tone::Strong => output.line(style.bold(text))?,
        }
    }
    Ok(())
}
