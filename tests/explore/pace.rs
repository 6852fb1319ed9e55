//! How many replicas of a service are replaced at a time: new ones that do not serve yet, and places that are empty.
//!
//! Both are judged by what the wave saw, and by what it has done since: nobody sees what happens while it is applied.

use jiff::SignedDuration;
use reeve::observed::{Container, ContainerState, Maintenance};
use reeve::plan::action::NewContainer;
use reeve::spec::{FailureAction, Service};

use crate::measure::{fit, parallelism, serving, stop_first};
use crate::oracle::{Judge, Verdict, ensure};
use crate::state::{Behind, State};

impl Judge<'_> {
    /// A new replica is made beside an old one: so many at a time.
    pub fn one_after_another(&self, state: &State, service: &Service, new: &NewContainer) -> Verdict {
        let ours = |state: &'_ State| -> Vec<Container> {
            state.docker().containers.values().filter(|c| c.service == service.name).cloned().collect()
        };
        let seen = ours(self.planned);
        let waits = |c: &&Container| self.wanted(self.planned, &c.id) && !self.serves(self.planned, service, c);
        let before = seen.iter().filter(waits).count();
        let replaces = |slot: u32| seen.iter().any(|c| c.slot == slot && !self.wanted(self.planned, &c.id));
        let made = |c: &&Container| seen.iter().all(|old| old.id != c.id) && replaces(c.slot);
        let unready = before + ours(state).iter().filter(made).count() + usize::from(replaces(new.slot));
        let most = usize::try_from(parallelism(service)).expect("few");
        ensure(
            unready <= most || self.late(&[Behind::Docker, Behind::Consul, Behind::Catalog]),
            format!("{unready} new replicas of {} that do not serve, and {most} are the most", service.name),
        )
    }

    /// No further one is replaced after one that never became ready in the time that it has.
    pub fn none_failed(&self, service: &Service) -> Verdict {
        let docker = self.planned.docker();
        let healthcheck = docker.images.get(&service.config.image).is_some_and(|image| image.healthcheck);
        let deadline = SignedDuration::try_from(service.deadline(healthcheck)).expect("a short deadline");
        let failed = docker.containers.values().filter(|c| c.service == service.name).find(|c| {
            let old = c.created_at.is_some_and(|at| self.planned.now.duration_since(at) >= deadline);
            old && self.wanted(self.planned, &c.id) && !fit(c) && !self.planned.ghost.routed.contains_key(&c.id)
        });
        match failed
            .filter(|_| service.update.failure_action != FailureAction::Continue && !self.late(&[Behind::Docker]))
        {
            Some(failed) => Err(format!("one more is replaced although {} has failed", failed.name)),
            None => Ok(()),
        }
    }

    /// A replica that is replaced stop-first is taken down: so many slots without one that serves at a time.
    pub fn one_down(&self, state: &State, container: &Container) -> Verdict {
        let Some(service) = self.spec.services.get(&container.service).filter(|service| stop_first(service)) else {
            return Ok(());
        };
        let ours = || state.docker().containers.values().filter(|c| c.service == service.name);
        let alone = ours().filter(|c| c.slot == container.slot).count() == 1;
        let outdated = container.hash != service.hash && container.slot <= service.replicas && alone;
        if !outdated || service.job || self.late(&[Behind::Docker, Behind::Consul, Behind::Nginx]) {
            return Ok(());
        }
        let up = |slot: u32| {
            ours().filter(|c| c.slot == slot).any(|c| {
                // It may not serve, be it paused, and nobody of ours took it down.
                let runs = matches!(c.state, ContainerState::Running { .. } | ContainerState::Paused { .. });
                let there = runs && !drains(state, &c.id);
                there && (!self.wanted(state, &c.id) || self.serves(self.planned, service, c))
            })
        };
        let down = (1..=service.replicas).filter(|slot| *slot != container.slot && !up(*slot)).count() + 1;
        let most = usize::try_from(parallelism(service)).expect("few");
        ensure(down <= most, format!("{down} replicas of {} are down at a time, and {most} are the most", service.name))
    }

    /// All that it should: registered, proven, and routed where others of its service are.
    fn serves(&self, state: &State, service: &Service, container: &Container) -> bool {
        let registered = |query: &str| {
            let mut own = state.consul().registrations.values().filter(|r| r.container == container.id);
            own.any(|r| r.name == query)
        };
        let awaited = self.spec.upstreams.values().any(|upstream| {
            let asks = upstream.query.as_ref().is_some_and(|query| registered(&query.service));
            let to = |id: &str| state.routes().any(|route| route == (upstream.name.as_str(), id));
            let mut sisters = state.docker().containers.values().filter(|c| c.service == service.name);
            asks && !to(&container.id) && sisters.any(|sister| to(&sister.id))
        });
        serving(state, container).proven && self.announced(state, container) && !awaited
    }
}

fn drains(state: &State, id: &str) -> bool {
    let mut registrations = state.consul().registrations.values().filter(|r| r.container == id);
    registrations.any(|r| matches!(r.maintenance, Maintenance::Draining { .. }))
}
