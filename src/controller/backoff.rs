//! Backoff for each object: it filters a plan, and is never inside the planner.
//!
//! In memory only: after a restart everything is tried once, which is what a person who restarts a daemon wants.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use crate::plan::{Action, ObjectKey, Plan, Step};
use crate::world::ActionError;

const FIRST: Duration = Duration::from_millis(800);
const LONGEST: Duration = Duration::from_secs(30);
/// So many conflicts in a row are no race any more.
const CONFLICTS: u32 = 3;

/// What failed, and when it is tried again.
#[derive(Debug, Clone)]
struct Entry {
    action: Action,
    failures: u32,
    conflicts: u32,
    error: String,
    next: Timestamp,
}

#[derive(Debug, Default)]
pub struct Backoff {
    entries: BTreeMap<ObjectKey, Entry>,
}

impl Backoff {
    /// Takes out the steps of objects that are not to be tried yet: with the error, and the time of the next try.
    pub fn filter(&mut self, plan: &mut Plan, now: Timestamp) -> Vec<(ObjectKey, String, Timestamp)> {
        let mut planned: BTreeMap<&ObjectKey, Vec<&Step>> = BTreeMap::new();
        for step in plan.steps.iter().chain(&plan.records) {
            planned.entry(&step.object).or_default().push(step);
        }
        // Nothing planned for it any more, or something else: what failed is over.
        self.entries.retain(|object, entry| {
            planned.get(object).is_some_and(|steps| steps.iter().any(|step| same(&step.action, &entry.action)))
        });
        let waits = |object: &ObjectKey| self.entries.get(object).is_some_and(|entry| entry.next > now);
        // A note that reeve could not make for itself holds nothing up.
        plan.records.retain(|record| !waits(&record.object));
        let held: Vec<(ObjectKey, String, Timestamp)> = self
            .entries
            .iter()
            .filter(|(object, _)| waits(object) && plan.steps.iter().any(|step| step.object == **object))
            .map(|(object, entry)| (object.clone(), entry.error.clone(), entry.next))
            .collect();
        plan.steps.retain(|step| !held.iter().any(|(object, _, _)| *object == step.object));
        held
    }

    pub fn failed(&mut self, step: &Step, error: &ActionError, now: Timestamp) {
        let before = self.entries.remove(&step.object).filter(|entry| same(&entry.action, &step.action));
        let (failures, conflicts) = before.map_or((0, 0), |entry| (entry.failures, entry.conflicts));
        let (failures, conflicts, wait) = match error {
            // The planner sees the record, and does not plan the same again until its time has come.
            ActionError::Refused(_) => return,
            ActionError::Conflict(_) if conflicts < CONFLICTS => (failures, conflicts + 1, Duration::ZERO),
            ActionError::Conflict(_) | ActionError::Transient(_) => (failures + 1, conflicts, growing(failures)),
            ActionError::Permanent(_) => (failures + 1, conflicts, LONGEST),
        };
        let entry = Entry {
            action: step.action.clone(),
            failures,
            conflicts,
            error: error.to_string(),
            next: after(now, wait),
        };
        self.entries.insert(step.object.clone(), entry);
    }

    /// When the next one is tried again, if it is not due already.
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.entries.values().map(|entry| entry.next).filter(|next| *next > now).min()
    }

    pub fn succeeded(&mut self, object: &ObjectKey) {
        self.entries.remove(object);
    }
}

/// The same action as the one that failed. A generation is numbered anew with every try, and a drain clock carries the
/// present time: for those the kind counts.
fn same(a: &Action, b: &Action) -> bool {
    match (a, b) {
        (Action::Nginx(a), Action::Nginx(b)) => a.kind() == b.kind(),
        (Action::Consul(a), Action::Consul(b)) => a.kind() == b.kind(),
        (a, b) => a == b,
    }
}

/// 0.8 s, doubled with every failure, at most 30 s, with a jitter of a fifth so that objects do not come back in step.
fn growing(failures: u32) -> Duration {
    let base = FIRST.saturating_mul(2_u32.saturating_pow(failures.min(10))).min(LONGEST);
    base.mul_f64(0.9 + fastrand::f64() * 0.2)
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    let wait = jiff::SignedDuration::try_from(wait).unwrap_or(jiff::SignedDuration::MAX);
    now.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::DockerAction;

    fn step(name: &str) -> Step {
        Step {
            object: ObjectKey::Replica(name.to_owned()),
            action: Action::Docker(DockerAction::StartContainer { container: name.to_owned(), name: name.to_owned() }),
            cause: "test".to_owned(),
            drift: false,
            changes: Vec::new(),
        }
    }

    fn plan(names: &[&str]) -> Plan {
        Plan { steps: names.iter().map(|name| step(name)).collect(), ..Plan::default() }
    }

    #[test]
    fn a_failed_object_is_held_and_the_others_go_on() {
        let now = Timestamp::UNIX_EPOCH;
        let mut backoff = Backoff::default();
        backoff.failed(&step("a"), &ActionError::Transient("no".to_owned()), now);
        let mut wave = plan(&["a", "b"]);
        let held = backoff.filter(&mut wave, now);
        assert_eq!(wave.steps, plan(&["b"]).steps);
        assert_eq!(held.len(), 1);
        let mut later = plan(&["a", "b"]);
        assert!(backoff.filter(&mut later, after(now, Duration::from_secs(2))).is_empty());
        assert_eq!(later.steps.len(), 2);
    }

    #[test]
    fn a_conflict_is_tried_again_at_once_but_not_for_ever() {
        let now = Timestamp::UNIX_EPOCH;
        let mut backoff = Backoff::default();
        for _ in 0..CONFLICTS {
            backoff.failed(&step("a"), &ActionError::Conflict("moved".to_owned()), now);
            assert!(backoff.filter(&mut plan(&["a"]), now).is_empty());
        }
        backoff.failed(&step("a"), &ActionError::Conflict("moved".to_owned()), now);
        assert_eq!(backoff.filter(&mut plan(&["a"]), now).len(), 1);
    }

    #[test]
    fn a_changed_action_is_tried_at_once() {
        let now = Timestamp::UNIX_EPOCH;
        let mut backoff = Backoff::default();
        backoff.failed(&step("a"), &ActionError::Permanent("no such image".to_owned()), now);
        let mut other = plan(&["a"]);
        other.steps[0].action =
            Action::Docker(DockerAction::RemoveContainer { id: "1".to_owned(), name: "a".to_owned() });
        assert!(backoff.filter(&mut other, now).is_empty());
        assert_eq!(other.steps.len(), 1);
    }
}
