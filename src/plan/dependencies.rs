//! What a service needs of others before a replica of it can be made: `depends_on`, and a network that it joins.
//!
//! Owns the conditions alone; what is made when they hold is `replicas`'.

use super::gates::Gate;
use super::planner::Planner;
use crate::observed::ContainerState;
use crate::spec::container::NetworkMode;
use crate::spec::{DependencyCondition, Service};

impl Planner<'_> {
    /// `network_mode` with `service:` resolved to a container; the error says why it cannot be.
    pub(super) fn network_mode(&self, service: &Service) -> Result<Option<NetworkMode>, String> {
        match &service.config.network_mode {
            Some(NetworkMode::Service(target)) => {
                let joined = self.facts.containers(target).iter().find(|container| container.state.running());
                match joined {
                    Some(container) => Ok(Some(NetworkMode::Container(container.id.clone()))),
                    None => Err(format!("it joins the network of {target}, which does not run yet")),
                }
            }
            other => Ok(other.clone()),
        }
    }

    /// The dependency that is not met yet, in words.
    pub(super) fn dependency_missing(&self, service: &Service) -> Option<String> {
        if !self.holds(Gate::Dependency) {
            return None;
        }
        for (name, dependency) in &service.depends_on {
            let Some(target) = self.spec.services.get(name) else {
                if dependency.required {
                    return Some(format!("depends_on {name}, which the spec does not have"));
                }
                continue;
            };
            let wanted = usize::try_from(target.replicas).unwrap_or(usize::MAX);
            let containers = self.facts.containers(name);
            let met = match dependency.condition {
                DependencyCondition::Started => containers.iter().filter(|c| c.state.running()).count() >= wanted,
                DependencyCondition::Healthy => {
                    let healthy = containers.iter().filter(|c| self.facts.fitness(c, Some(target)).healthy());
                    healthy.count() >= wanted
                }
                DependencyCondition::CompletedSuccessfully => {
                    let current = self.rosters.get(name.as_str()).map(|roster| &roster.current);
                    current.is_some_and(|current| {
                        let done =
                            current.values().filter(|c| matches!(c.state, ContainerState::Exited { code: 0, .. }));
                        done.count() >= wanted
                    })
                }
            };
            if !met {
                let condition = match dependency.condition {
                    DependencyCondition::Started => "be started",
                    DependencyCondition::Healthy => "be healthy",
                    DependencyCondition::CompletedSuccessfully => "end with exit code 0",
                };
                return Some(format!("depends_on {name}, which must {condition} first"));
            }
        }
        None
    }
}
