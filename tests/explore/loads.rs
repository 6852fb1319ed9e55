//! What nginx is given, and what it then runs: the oracle's part for nginx.

use jiff::SignedDuration;
use reeve::observed::{Endpoint, GenerationId, ListenState, Maintenance, NginxProcess};
use reeve::plan::System;
use reeve::plan::action::NginxAction;

use crate::measure::{fit, serving};
use crate::oracle::{Judge, Verdict, ensure};
use crate::state::{Behind, State};

impl Judge<'_> {
    pub fn nginx(&self, state: &State, action: &NginxAction) -> Verdict {
        let nginx = state.nginx();
        let checked = |id: &GenerationId| {
            let generation = nginx.generations.get(id);
            generation.is_some_and(|g| g.rejected.is_none() && g.damaged.is_empty())
        };
        let free = |id: &GenerationId| {
            let upstreams = nginx.generations.get(id).into_iter().flat_map(|g| g.manifest.upstreams.values());
            !upstreams
                .map(|routed| routed.upstream.listen)
                .any(|listen| nginx.listens.get(&listen).is_some_and(|state| matches!(state, ListenState::Taken(_))))
        };
        match action {
            NginxAction::SwitchGeneration { id } => {
                ensure(checked(id), "it switches to what has not passed the check")?;
                ensure(free(id), "it switches to what listens on somebody else's port")?;
                ensure(nginx.included, "it switches to what the main configuration does not include")
            }
            NginxAction::Reload { expect } => {
                ensure(!matches!(nginx.process, NginxProcess::Orphans { .. }), "it reloads an nginx without a master")?;
                // A reload of another one than `current` is refused.
                let refused = nginx.current.as_ref() != Some(expect);
                ensure(refused || checked(expect), "it loads what has not passed the check")?;
                ensure(refused || free(expect), "it loads what listens on somebody else's port")
            }
            NginxAction::Start { expect } => ensure(checked(expect), "it starts with what has not passed the check"),
            NginxAction::RemoveGeneration { id } => {
                let runs = state.ghost.running.iter().any(|(running, _)| running == id);
                ensure(!runs, "it removes the generation that nginx runs")?;
                ensure(nginx.current.as_ref() != Some(id), "it removes the generation that `current` points at")
            }
            NginxAction::WriteGeneration(new) => {
                let soon = SignedDuration::from_secs(5);
                let just_refused = nginx.generations.iter().any(|(id, generation)| {
                    let at = generation.rejected.as_ref().map(|rejection| rejection.at);
                    let same = id.hash == new.id.hash && generation.manifest.upstreams == new.manifest.upstreams;
                    same && at.is_some_and(|at| state.now.duration_since(at) < soon)
                });
                ensure(!just_refused || self.late(&[Behind::Nginx]), "it writes again at once what nginx has refused")
            }
            NginxAction::SetEndpoints { .. } | NginxAction::QuitOrphans { .. } => Ok(()),
        }
    }

    /// What was loaded: `before` and `after` the reload.
    pub fn loaded(&self, before: &State, after: &State) -> Verdict {
        if before.ghost.running.iter().map(|(id, _)| id).eq(after.ghost.running.iter().map(|(id, _)| id)) {
            return Ok(());
        }
        let blind = self.planned.hidden.any() || self.late(&[Behind::Docker, Behind::Nginx]);
        for (upstream, id) in after.routes() {
            // By what the wave could see: nobody sees what happens while it is applied.
            let healthy = |state: &State| state.container(id).is_some_and(fit);
            if !healthy(after) && !healthy(self.planned) && !blind {
                // An nginx that was stopped goes on with what it held.
                let nginx = self.planned.nginx();
                let current = nginx.current.as_ref().and_then(|current| nginx.generations.get(current));
                let held = current.and_then(|current| current.manifest.upstreams.get(upstream)).is_some_and(|routed| {
                    routed.endpoints.iter().any(|endpoint| endpoint.container.as_deref() == Some(id))
                });
                let was = before.routes().any(|route| route == (upstream, id)) || (held && !before.nginx_runs());
                let keeps = self
                    .spec
                    .upstreams
                    .get(upstream)
                    .is_some_and(|upstream| upstream.when_empty == reeve::spec::upstream::WhenEmpty::Keep);
                ensure(keeps && was, format!("it loads {upstream} with {id}, which is not healthy"))?;
            }
        }
        // Unknown is not empty, and what suddenly vanishes is not believed at once.
        let lost = before
            .ghost
            .running
            .iter()
            .flat_map(|(_, manifest)| &manifest.upstreams)
            .flat_map(|(name, routed)| routed.endpoints.iter().map(move |endpoint| (name, routed, endpoint)));
        // Where some worker routes by another generation already, it is lost for the requests that this one gets.
        let by_all = |name: &String, endpoint: &Endpoint| {
            before.ghost.running.iter().all(|(_, manifest)| {
                let mut endpoints = manifest.upstreams.get(name).into_iter().flat_map(|routed| &routed.endpoints);
                endpoints.any(|one| (&one.address, one.port) == (&endpoint.address, endpoint.port))
            })
        };
        for (name, routed, endpoint) in lost.filter(|(name, _, endpoint)| by_all(name, endpoint)) {
            // By another port of the same container, too: an old one goes when the new one is there.
            let stays = after.ghost.running.iter().all(|(_, manifest)| {
                manifest.upstreams.get(name).is_some_and(|now| {
                    now.endpoints.iter().any(|e| {
                        (&e.address, e.port) == (&endpoint.address, endpoint.port)
                            || (e.container.is_some() && e.container == endpoint.container)
                    })
                })
            });
            if stays {
                continue;
            }
            let serves = match &endpoint.container {
                Some(id) => after.container(id).is_some_and(|container| serving(after, container).believed),
                None => true,
            };
            let blind = self.planned.hidden.has(System::Docker) || self.planned.hidden.has(System::Consul);
            let draining = endpoint.container.as_ref().is_some_and(|id| {
                let mut registrations = after.consul().registrations.values();
                registrations.any(|r| r.container == *id && r.maintenance != Maintenance::Off)
            });
            if blind && serves && !draining {
                return Err(format!("{name} loses {endpoint}, which serves, while not everything can be read"));
            }
            let same = self.spec.upstreams.get(name).filter(|upstream| upstream.query == routed.upstream.query);
            if let (None, Some(query)) = (&endpoint.container, same.and_then(|upstream| upstream.query.as_ref())) {
                let answer = after.consul().catalog.get(query).and_then(|view| view.known());
                let fresh = answer.is_some_and(|answer| {
                    after.now.duration_since(answer.shrunk_at) < SignedDuration::from_secs(10)
                        && !answer.instances.iter().any(|i| i.owner.is_none())
                });
                ensure(!fresh, format!("{name} loses {endpoint}, since the catalog suddenly answers nothing"))?;
            }
        }
        Ok(())
    }
}
