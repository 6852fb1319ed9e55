//! `reeve adopt --registrator`: what a former registrator left in the local agent is taken over, or removed.

use jiff::Timestamp;

use super::{Context, Exit, project, runtime};
use crate::engine::Orders;
use crate::plan::registrator::{Fate, left};
use crate::plan::{Action, ConsulAction, Removals};
use crate::world::Execute as _;

/// # Errors
/// When the spec is invalid or has no `discovery`, Docker or Consul cannot be read, or the agent refuses something.
pub fn run(context: &mut Context, dry_run: bool) -> anyhow::Result<Exit> {
    let source = project::open(context)?;
    let spec = source.spec();
    let engine = project::engine(context, &spec.project)?;
    let orders = Orders { removals: Removals::Held, teardown: None, dry: dry_run };
    runtime()?.block_on(async {
        let observed = engine.observe(spec).await;
        let all = left(spec, &observed, Timestamp::now(), &engine.context(orders))
            .map_err(|reason| anyhow::anyhow!("{reason}"))?;
        if all.is_empty() {
            context.output.line("The agent has nothing that a registrator of this host left.")?;
            return Ok(Exit::Success);
        }
        let mut failed = 0;
        for one in all {
            let (id, name) = (&one.id, &one.name);
            let (what, action) = match one.fate {
                Fate::Take(wanted) => {
                    let what = format!("take over {id} ({name}): container {} runs here", short(&wanted.container));
                    (what, Some(ConsulAction::Adopt(wanted)))
                }
                Fate::Remove(reason) => {
                    (format!("remove {id} ({name}): {reason}"), Some(ConsulAction::RemoveUnmarked { id: id.clone() }))
                }
                Fate::Leave(reason) => (format!("leave {id} ({name}): {reason}"), None),
            };
            let done = match action {
                Some(action) if !dry_run => engine.world().execute(&Action::Consul(action)).await,
                _ => Ok(()),
            };
            context.output.line(&what)?;
            if let Err(error) = done {
                failed += 1;
                context.output.line(format_args!("  failed: {error}"))?;
            }
        }
        anyhow::ensure!(failed == 0, "{failed} entries could not be changed; run it again when the reason is gone");
        if dry_run {
            context.output.line("Nothing was changed (--dry-run).")?;
        }
        Ok(Exit::Success)
    })
}

fn short(id: &str) -> String {
    id.chars().take(12).collect()
}
