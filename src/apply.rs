//! Applying one wave: objects in parallel, in order within one, an object stopped at its first error.
//!
//! No decisions here: every step was decided when the wave was planned. A conflict is reported like any error; what is
//! done about it is the loop's.

use std::collections::BTreeMap;
use std::time::Instant;

use futures_util::stream::{self, StreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::pass::Applied;
use crate::plan::{ObjectKey, Step};
use crate::world::Execute;

/// How many objects are worked on at once. More would only queue inside dockerd, and an agent takes 200 connections.
const PARALLEL_OBJECTS: usize = 16;

/// Applies the steps. `report` hears of each as it ends, for progress and logs. After `stop` no step is begun any more.
pub async fn apply<W: Execute>(
    world: &W,
    steps: &[&Step],
    stop: &CancellationToken,
    report: &(dyn Fn(&Applied) + Send + Sync),
) -> Vec<Applied> {
    let mut objects: BTreeMap<&ObjectKey, Vec<&Step>> = BTreeMap::new();
    for step in steps {
        objects.entry(&step.object).or_default().push(step);
    }
    let mut work = Vec::with_capacity(objects.len());
    for steps in objects.into_values() {
        work.push(apply_object(world, steps, stop, report));
    }
    let applied: Vec<Vec<Applied>> = stream::iter(work).buffer_unordered(PARALLEL_OBJECTS).collect().await;
    applied.into_iter().flatten().collect()
}

async fn apply_object<W: Execute>(
    world: &W,
    steps: Vec<&Step>,
    stop: &CancellationToken,
    report: &(dyn Fn(&Applied) + Send + Sync),
) -> Vec<Applied> {
    let mut applied = Vec::with_capacity(steps.len());
    for step in steps {
        if stop.is_cancelled() {
            break;
        }
        let started = Instant::now();
        let result = world.execute(&step.action).await;
        let failed = result.is_err();
        let entry = Applied {
            object: step.object.clone(),
            system: step.action.system(),
            kind: step.action.kind(),
            cause: step.cause.clone(),
            drift: step.drift,
            took: started.elapsed(),
            result,
        };
        report(&entry);
        applied.push(entry);
        if failed {
            break;
        }
    }
    applied
}
