//! What one pass did, as plain data: the loop makes it, metrics, status and logs read it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::observed::Observed;
use crate::plan::{ObjectKey, Plan, Step, System, Waiting};
use crate::spec::Spec;
use crate::world::ActionError;

/// One executed step.
#[derive(Debug, Clone)]
pub struct Applied {
    pub object: ObjectKey,
    pub system: System,
    /// `Action::kind`.
    pub kind: &'static str,
    pub cause: String,
    pub drift: bool,
    pub took: Duration,
    pub result: Result<(), ActionError>,
}

impl Applied {
    /// It is what became of this step. Steps of one object and kind differ by nothing that is told apart here.
    pub fn is_of(&self, step: &Step) -> bool {
        step.object == self.object && step.action.kind() == self.kind
    }

    /// The result's word in metrics and in the history.
    pub fn result_word(&self) -> &'static str {
        match &self.result {
            Ok(()) => "ok",
            Err(ActionError::Conflict(_)) => "conflict",
            Err(ActionError::Transient(_)) => "transient",
            Err(ActionError::Permanent(_)) => "permanent",
            Err(ActionError::Refused(_)) => "refused",
        }
    }

    /// A note of reeve's own: see [`Plan::records`].
    pub fn is_record(&self) -> bool {
        matches!(self.kind, "keep" | "forget" | "note_template")
    }
}

impl Pass {
    /// It did something, and all of that was to Consul and worked.
    pub fn wrote_to_consul_alone(&self) -> bool {
        let to_consul = |applied: &Applied| applied.system == System::Consul && applied.result.is_ok();
        !self.applied.is_empty() && self.applied.iter().all(to_consul)
    }

    /// There was nothing to do, and it is not nginx that something waits for: what is loaded later follows from a later change.
    /// (Of a container that is started, Docker tells when its network is connected, 0.2 s before it runs.)
    pub fn led_to_nothing(&self) -> bool {
        let Observed { docker, consul, nginx, directory, .. } = &self.observed;
        let known = docker.known().is_some()
            && consul.known().is_some()
            && nginx.known().is_some()
            && directory.known().is_some();
        known && self.plan.steps.is_empty() && !self.waits_for_nginx()
    }

    /// Something can go on when nginx, or what it needs, is another one: an address that becomes free is told by nobody.
    pub fn waits_for_nginx(&self) -> bool {
        let of_nginx =
            |waiting: &Waiting| waiting.blocks() && matches!(waiting.object, ObjectKey::Upstream(_) | ObjectKey::Nginx);
        !self.held.is_empty() || self.plan.waiting.iter().any(of_nginx)
    }
}

/// One pass: observe, plan, apply.
#[derive(Debug, Clone)]
pub struct Pass {
    pub spec: Arc<Spec>,
    pub observed: Observed,
    /// With the steps that backoff holds taken out.
    pub plan: Plan,
    /// Objects whose steps backoff holds, with the last error and the time of the next try.
    pub held: Vec<(ObjectKey, String, Timestamp)>,
    pub applied: Vec<Applied>,
    pub started_at: Timestamp,
    pub took: Duration,
    /// Time stamp of the oldest change that woke this pass.
    pub changed_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{self, Host, Templates, View};

    fn applied(system: System, result: Result<(), ActionError>) -> Applied {
        let object = ObjectKey::Nginx;
        Applied { object, system, kind: "register", cause: String::new(), drift: false, took: Duration::ZERO, result }
    }

    fn pass(applied: Vec<Applied>) -> Pass {
        fn gone<T>() -> View<T> {
            View::Unknown { reason: String::new(), since: Timestamp::UNIX_EPOCH }
        }
        let (docker, consul, nginx, directory) = (gone(), gone(), gone(), gone());
        Pass {
            spec: Arc::new(Spec::empty("shop")),
            observed: Observed {
                docker,
                consul,
                nginx,
                directory,
                host: Host::default(),
                templates: Templates::default(),
            },
            plan: Plan::default(),
            held: Vec::new(),
            applied,
            started_at: Timestamp::UNIX_EPOCH,
            took: Duration::ZERO,
            changed_at: None,
        }
    }

    #[test]
    fn only_a_pass_whose_every_step_was_a_write_to_consul_that_worked_lets_the_next_one_look_at_less() {
        let failed = Err(ActionError::Conflict("the container is another one".to_owned()));
        assert!(pass(vec![applied(System::Consul, Ok(()))]).wrote_to_consul_alone());
        assert!(!pass(Vec::new()).wrote_to_consul_alone());
        assert!(!pass(vec![applied(System::Consul, Ok(())), applied(System::Consul, failed)]).wrote_to_consul_alone());
        for other in [System::Docker, System::Nginx, System::Directory] {
            assert!(!pass(vec![applied(System::Consul, Ok(())), applied(other, Ok(()))]).wrote_to_consul_alone());
        }
    }

    #[test]
    fn a_change_led_to_nothing_when_nothing_is_left_to_do_and_nothing_waits_for_nginx() {
        let known = |waiting: Vec<(ObjectKey, &'static str)>| {
            let mut pass = pass(Vec::new());
            pass.observed.docker = View::Known(observed::Docker::default());
            pass.observed.consul = View::Known(observed::Consul::default());
            pass.observed.nginx = View::Known(observed::Nginx::off(Timestamp::UNIX_EPOCH));
            pass.observed.directory = View::Known(observed::Directory::default());
            let waiting = waiting.into_iter().map(|(object, kind)| Waiting {
                object,
                reason: String::new(),
                kind,
                until: None,
                details: Vec::new(),
            });
            pass.plan.waiting = waiting.collect();
            pass
        };
        let upstream = || ObjectKey::Upstream("site".to_owned());
        let replica = || ObjectKey::Replica("shop-web-1".to_owned());
        assert!(known(Vec::new()).led_to_nothing());
        assert!(known(vec![(replica(), "unhealthy")]).led_to_nothing(), "its health is another change");
        assert!(known(vec![(upstream(), "empty")]).led_to_nothing(), "it is as it should be");
        assert!(!known(vec![(upstream(), "refused")]).led_to_nothing());
        assert!(known(vec![(upstream(), "refused")]).waits_for_nginx());
        assert!(!known(vec![(upstream(), "empty"), (replica(), "unhealthy")]).waits_for_nginx());
        assert!(!known(vec![(ObjectKey::Nginx, "nginx_stopped")]).led_to_nothing());
        let mut held = known(Vec::new());
        held.held.push((ObjectKey::Nginx, "the reload failed".to_owned(), Timestamp::UNIX_EPOCH));
        assert!(!held.led_to_nothing());
        assert!(!pass(Vec::new()).led_to_nothing(), "nothing can be read");
    }
}
