//! Generations: write → check → switch → load, and what to do about an nginx that is stopped, orphaned or a stranger.
//! What may be loaded of what is wanted is told by `candidate`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use std::time::Duration;

use super::ObjectKey;
use super::action::{Action, ConsulAction, NewGeneration, NginxAction};
use super::candidate::{Candidate, Control, running_routes, template_refusals};
use super::context::{Context, NginxContext};
use super::culprits::{Evidence, Routes};
use super::gates::Gate;
use super::planner::{Planner, after};
use crate::observed::{
    Balancer, ContainerState, Endpoint, Generation, GenerationId, Loaded, Nginx, NginxProcess, Observed,
};
use crate::render::{RenderError, Renderer, endpoints};
use crate::settings::EndpointsMode;

/// A reload is held for too many old workers at most so long after the last load.
const LONGEST_RELOAD_HOLD: Duration = Duration::from_secs(30);
/// Generations that are kept beside the ones in use, for a person who looks back.
const KEPT: usize = 5;

impl<'a> Planner<'a> {
    pub(super) fn nginx(&mut self) {
        let Some(settings) = &self.context.nginx else { return };
        let Some(nginx) = self.facts.nginx else {
            let reason = format!("nginx cannot be read: {}", self.observed.nginx.reason().unwrap_or_default());
            return self.wait(ObjectKey::Nginx, "nginx_unknown", reason);
        };
        // With the generations deleted, only another one tells that what nginx runs routes nowhere any more.
        let runs_ours = matches!(nginx.loaded, Loaded::Generation(_) | Loaded::Mixed(_));
        if self.spec.upstreams.is_empty() && nginx.generations.is_empty() && !runs_ours {
            return;
        }
        if !nginx.included && self.holds(Gate::Included) {
            let reason = format!(
                "{} does not include reeve's configuration; put this line into its http block: {}",
                nginx.config, nginx.include_line
            );
            return self.wait(ObjectKey::Nginx, "not_included", reason);
        }
        if let Loaded::Stranger(answer) = &nginx.loaded {
            let reason = format!(
                "the probe port {} answers for somebody else: {answer}; choose another `nginx.probe`",
                settings.probe
            );
            return self.wait(ObjectKey::Nginx, "probe_taken", reason);
        }
        if let NginxProcess::Orphans { pids } = &nginx.process
            && self.holds(Gate::Orphans)
        {
            let list = pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            if settings.start {
                let action = NginxAction::QuitOrphans { pids: pids.clone() };
                let cause = format!("nginx's master is gone, and its workers {list} go on serving and hold the ports");
                self.step(ObjectKey::Nginx, Action::Nginx(action), cause);
                return self.mark_drift();
            }
            let reason = format!(
                "nginx's master is gone, and its workers {list} go on serving and hold the ports; end them (kill -QUIT) and start nginx"
            );
            return self.wait(ObjectKey::Nginx, "orphans", reason);
        }
        let wanted = self.wanted_routes(nginx);
        if let Some(reason) = self.content_unseen(nginx, &wanted).filter(|_| self.holds(Gate::ContentSeen)) {
            return self.wait(ObjectKey::Nginx, "generation_lost", reason);
        }
        let Some(template) = self.template(nginx, &wanted) else {
            return self.load_what_is_current(nginx, &wanted);
        };
        let balancing = Balancing::of(nginx, settings, template.renderer());
        let renderer = &template.renderer().balanced_by(balancing.balancer, nginx.http);
        let evidence = self.evidence(nginx, renderer);
        // What was wanted at first matters only where something was refused.
        let refused = (!evidence.is_empty()).then(|| wanted.clone());
        let settled = self.settle(nginx, renderer, &evidence, wanted);
        self.tell(&settled);
        if settled.routes.is_empty() && nginx.current.is_none() && nginx.loaded == Loaded::Nothing {
            // Nothing can be routed yet: no reload for that.
            return;
        }
        let hash = renderer.generation_hash(&self.context.owner, &settled.routes, settings.probe);
        match nginx.current.as_ref().filter(|id| id.hash == hash && self.usable(nginx, id)) {
            Some(current) if endpoints_in_place(nginx, current, &settled.routes) => {
                self.load(nginx, current.clone(), None);
            }
            Some(current) if runs(nginx, current) => self.set_endpoints(nginx, current, &settled.routes),
            Some(_) | None if balancing.missing.is_some() => self.load_what_is_current(nginx, &settled.routes),
            Some(_) | None => self.try_next(nginx, renderer, &evidence, &settled.routes),
        }
        if let Some(missing) = balancing.missing {
            let reason =
                format!("nginx.endpoints is lua, and that cannot be had: {missing}; put it right, or set auto");
            self.wait(ObjectKey::Nginx, "lua", reason);
        }
        let mut needed = evidence.needed(refused.as_ref().unwrap_or(&settled.routes), &settled.routes);
        needed.extend(&settled.heeded);
        needed.extend(template_refusals(nginx, settings.renderer).last().map(|(id, _)| *id));
        self.remove_old(nginx, &hash, &needed);
    }

    /// Puts in force what nginx has not refused of the target, which is not what `current` points at.
    fn try_next(&mut self, nginx: &'a Nginx, renderer: &Renderer, evidence: &Evidence<'a>, target: &Routes) {
        if let Some((refusal, until)) = evidence.refused_all() {
            let reason =
                format!("nothing can be changed, since nginx refuses even what is in force: {}", refusal.words());
            self.wait_until(ObjectKey::Nginx, "rejected", reason, until);
            return self.load_what_is_current(nginx, target);
        }
        let (candidate, against) = self.candidate(nginx, renderer, evidence, target);
        if let Some(refusal) = against {
            let reason = format!("generation {}: {}; the upstream at fault is looked for", refusal.id, refusal.words());
            match candidate {
                Some(_) => self.wait(ObjectKey::Nginx, "culprit_sought", reason),
                None => self.wait_until(ObjectKey::Nginx, "rejected", reason, refusal.until),
            }
        }
        let Some(candidate) = candidate else { return self.load_what_is_current(nginx, target) };
        if let Some((id, cause)) = self.generation_in_place(nginx, renderer, candidate) {
            self.load(nginx, id, cause);
        }
    }

    /// Rendered, for a person to look at.
    pub(super) fn wanted_generation(&mut self) -> Result<NewGeneration, RenderError> {
        let shared = |reason: String| RenderError::Shared(reason);
        let settings = self.context.nginx.as_ref().ok_or_else(|| shared("nginx.mode is off".to_owned()))?;
        if let Some(fault) = settings.template_fault {
            return Err(shared(fault.to_owned()));
        }
        let Some(nginx) = self.facts.nginx else {
            let reason = self.observed.nginx.reason().unwrap_or_default();
            return Err(shared(format!("nginx cannot be read: {reason}")));
        };
        let wanted = self.wanted_routes(nginx);
        let balancing = Balancing::of(nginx, settings, settings.renderer);
        let renderer = &settings.renderer.balanced_by(balancing.balancer, nginx.http);
        let evidence = self.evidence(nginx, renderer);
        let settled = self.settle(nginx, renderer, &evidence, wanted);
        self.tell(&settled);
        let wanted = settled.routes;
        let hash = renderer.generation_hash(&self.context.owner, &wanted, settings.probe);
        let id = GenerationId { hash, number: 1 };
        renderer.render(&id, &self.context.owner, &wanted, settings.probe, settings.generations)
    }

    /// nginx serves by a generation that is not on disk any more, and an upstream cannot be read now, or not all that is its
    /// own: a new generation would take away what still works.
    fn content_unseen(&self, nginx: &Nginx, wanted: &Routes) -> Option<String> {
        let Loaded::Generation(id) = &nginx.loaded else { return None };
        if nginx.generations.contains_key(id) {
            return None;
        }
        let goes_on = |what: &str| {
            Some(format!("nginx runs generation {id}, which is not on disk any more; it goes on until {what}"))
        };
        if let Some(unread) = self.spec.upstreams.keys().find(|name| !wanted.contains_key(*name)) {
            return goes_on(&format!("upstream {unread} can be read"));
        }
        if self.removals_held.is_some() {
            // What the spec does not have any more, and must not lose yet, is in it, too.
            return goes_on("the removal is allowed, or the spec has again what it removes");
        }
        // What is registered anew or under another name with this wave, or taken back, is not in the catalog yet, and may be
        // routed: unless it was started later than this generation was loaded.
        let may_be_routed = |id: &str| {
            let container = self.facts.container(id).map(|container| &container.state);
            !self.facts.registrations_of_id(id).is_empty()
                || matches!(container, Some(ContainerState::Running { started_at }) if *started_at <= nginx.routed_since)
        };
        let names = self.steps().iter().filter_map(|step| match &step.action {
            Action::Consul(ConsulAction::Register(new)) if may_be_routed(&new.container) => Some(new.name.as_str()),
            Action::Consul(ConsulAction::LiftDrain { id }) => Some(self.facts.registration(id)?.name.as_str()),
            _ => None,
        });
        let registered = { names }.find(|name| !self.selecting(name).is_empty())?;
        goes_on(&format!("what is being registered as {registered} is found in Consul"))
    }

    /// Sees to it that `current` points at an intact generation with this content. The generation, and why it was
    /// switched to, if it was; `None`: there is nothing to be loaded.
    fn generation_in_place(
        &mut self,
        nginx: &'a Nginx,
        renderer: &Renderer,
        candidate: Candidate,
    ) -> Option<(GenerationId, Option<String>)> {
        let settings = self.context.nginx.as_ref()?;
        let routes = &candidate.routes;
        let hash = renderer.generation_hash(&self.context.owner, routes, settings.probe);
        let current = nginx.current.as_ref().and_then(|id| Some((id, nginx.generations.get(id)?)));
        // The content is what was wanted before: somebody changed the files or the link.
        let loaded_same = matches!(&nginx.loaded, Loaded::Generation(id) if id.hash == hash);
        let drift = candidate.control.is_none() && (loaded_same || current.is_some_and(|(id, _)| id.hash == hash));
        let changes = |generation: &Generation| {
            let manifest = &generation.manifest;
            let words = match (manifest.balancer, renderer.balancer()) {
                _ if manifest.upstreams != *routes => return route_changes(&manifest.upstreams, routes),
                (Balancer::Lua, Balancer::Nginx) => "endpoints change by reloads now",
                (Balancer::Nginx, Balancer::Lua) => "endpoints change without a reload now",
                _ if manifest.template != renderer.digest() => "the template changed",
                _ => "nginx's own `http` block or `nginx.probe` says something else, or reeve is another version",
            };
            words.to_owned()
        };
        let cause = match (&nginx.current, current) {
            _ if candidate.control.is_some() => "does nginx still accept what is in force?".to_owned(),
            (None, _) => "there is no generation yet".to_owned(),
            (Some(id), None) => format!("`current` points at {id}, which is not there"),
            (Some(id), Some((_, generation))) if id.hash == hash && generation.rejected.is_none() => {
                format!("files of generation {id} were changed by hand: {}", generation.damaged.join(", "))
            }
            (Some(_), Some((_, generation))) if generation.rejected.is_some() => match nginx.accepted() {
                Some((_, before)) if before.manifest.upstreams != *routes => {
                    route_changes(&before.manifest.upstreams, routes)
                }
                _ => "nginx has refused the current generation".to_owned(),
            },
            (Some(_), Some((_, generation))) => changes(generation),
        };
        let same: Vec<(&GenerationId, &Generation)> =
            nginx.generations.iter().filter(|(id, _)| id.hash == hash).collect();
        let refused = same.iter().rfind(|(_, one)| one.rejected.is_some()).map_or(0, |(id, _)| id.number);
        let good = same
            .iter()
            .rfind(|(id, _)| self.usable(nginx, id) && id.number > refused && endpoints_in_place(nginx, id, routes));
        if let (Some((id, _)), None) = (current.filter(|(id, _)| id.hash == hash), candidate.control)
            && self.usable(nginx, id)
            && runs(nginx, id)
        {
            self.set_endpoints(nginx, id, routes);
            return None;
        }
        if let (Some((id, _)), None) = (good, candidate.control) {
            let switch = NginxAction::SwitchGeneration { id: (*id).clone() };
            self.step(ObjectKey::Nginx, Action::Nginx(switch), cause.clone());
            if drift {
                self.mark_drift();
            }
            return Some(((*id).clone(), Some(cause)));
        }
        let number = same.iter().map(|(id, _)| id.number).max().unwrap_or(0);
        let id = GenerationId { hash, number: number + 1 };
        let rendered = renderer.render(&id, &self.context.owner, routes, settings.probe, settings.generations);
        let mut generation = match rendered {
            Ok(generation) => generation,
            Err(error) => {
                self.wait(ObjectKey::Nginx, "template", format!("the template cannot be rendered: {error}"));
                self.load_what_is_current(nginx, routes);
                return None;
            }
        };
        generation.manifest.suspects = candidate.suspects;
        generation.manifest.template_refused = candidate.template_refused;
        let write = NginxAction::WriteGeneration(Box::new(generation));
        self.step(ObjectKey::Nginx, Action::Nginx(write), cause.clone());
        if drift {
            self.mark_drift();
        }
        if candidate.control == Some(Control::Check) {
            return None;
        }
        let switch = NginxAction::SwitchGeneration { id: id.clone() };
        self.step(ObjectKey::Nginx, Action::Nginx(switch), "it passed the check");
        Some((id, Some(cause)))
    }

    /// The loaded generation is the wanted one, but for the endpoints that Lua balances: they are set, in its file and in
    /// the running nginx, and there is no reload.
    fn set_endpoints(&mut self, nginx: &'a Nginx, id: &GenerationId, routes: &Routes) {
        let Some(generation) = nginx.generations.get(id) else { return };
        let endpoints = endpoints::of(routes);
        let hash = Some(endpoints::hash(&endpoints));
        let seen = generation.endpoints.clone().unwrap_or_default();
        // What is wanted was written already, and nginx goes by something else: a push was lost, or somebody else made one.
        let written = seen.file == hash;
        let in_force = generation.manifest.upstreams == *routes;
        let drift = written || in_force;
        let cause = match (written, in_force) {
            (true, _) => format!("nginx has other endpoints than the file of generation {id}"),
            (false, true) => format!("the file with the endpoints of generation {id} was changed by hand"),
            (false, false) => route_changes(&generation.manifest.upstreams, routes),
        };
        let action = NginxAction::SetEndpoints { expect: id.clone(), endpoints };
        self.step(ObjectKey::Nginx, Action::Nginx(action), cause);
        if drift {
            self.mark_drift();
        }
    }

    /// nginx has accepted it, and nobody has changed its files.
    fn usable(&self, nginx: &Nginx, id: &GenerationId) -> bool {
        let good = |one: &Generation| one.damaged.is_empty() && one.rejected.is_none();
        nginx.generations.get(id).is_some_and(|one| good(one) || !self.holds(Gate::Usable))
    }

    /// The wanted generation cannot be had; the one that `current` points at should at least be what nginx runs. But not
    /// when it routes to what leaves or is dead: what runs now does not, perhaps. Nor when it lacks what runs now, and is
    /// wanted: somebody has switched to an older one.
    fn load_what_is_current(&mut self, nginx: &'a Nginx, wanted: &Routes) {
        let Some((id, generation)) = nginx.current.as_ref().and_then(|id| Some((id, nginx.generations.get(id)?)))
        else {
            return;
        };
        let lacks = lost(running_routes(nginx), &generation.manifest.upstreams, wanted);
        let back = match lacks.filter(|_| self.holds(Gate::CurrentOutdated)) {
            // A crash came before it was put back.
            _ if generation.rejected.is_some() => Some("nginx runs it, and has refused the current one".to_owned()),
            Some(lost) => Some(format!("nginx runs it, and the current one has no {lost}")),
            None => None,
        };
        if let Some(cause) = back {
            if let Loaded::Generation(loaded) = &nginx.loaded
                && self.usable(nginx, loaded)
            {
                let switch = NginxAction::SwitchGeneration { id: loaded.clone() };
                self.step(ObjectKey::Nginx, Action::Nginx(switch), cause);
            }
            return;
        }
        let mut endpoints = generation.manifest.upstreams.values().flat_map(|routed| &routed.endpoints);
        let outdated = endpoints.any(|endpoint| self.own_gone(endpoint)) && self.holds(Gate::CurrentOutdated);
        let running = matches!(nginx.process, NginxProcess::Running { .. });
        if generation.damaged.is_empty() && !(outdated && running) {
            self.load(nginx, id.clone(), None);
        }
    }

    fn load(&mut self, nginx: &Nginx, id: GenerationId, switched: Option<String>) {
        let start = self.context.nginx.as_ref().is_some_and(|settings| settings.start);
        match &nginx.process {
            NginxProcess::Stopped if start => {
                let action = NginxAction::Start { expect: id };
                self.step(ObjectKey::Nginx, Action::Nginx(action), "nginx does not run");
                if switched.is_none() {
                    self.mark_drift();
                }
            }
            NginxProcess::Stopped => {
                let reason = "nginx does not run; start it, or set `nginx.start: true`";
                self.wait(ObjectKey::Nginx, "nginx_stopped", reason);
            }
            NginxProcess::Running { .. } | NginxProcess::Orphans { .. } => {
                let drift = switched.is_none();
                let cause = match (&nginx.loaded, switched) {
                    (Loaded::Generation(loaded), _) if *loaded == id => return,
                    (_, Some(cause)) => cause,
                    (Loaded::Generation(loaded), None) => format!("nginx runs generation {loaded}"),
                    (Loaded::Nothing, None) => "nginx runs without a generation of ours".to_owned(),
                    (Loaded::Mixed(_) | Loaded::Stranger(_), None) => {
                        "nginx's workers do not all run the same generation".to_owned()
                    }
                };
                if let Some((reason, until)) = self.reload_held(nginx) {
                    return self.wait_until(ObjectKey::Nginx, "worker_generations", reason, until);
                }
                let action = NginxAction::Reload { expect: id };
                self.step(ObjectKey::Nginx, Action::Nginx(action), cause);
                if drift {
                    self.mark_drift();
                }
            }
        }
    }

    /// Workers of too many old generations still finish their requests, and cost memory: each reload would add one. But
    /// what is dead is unrouted at once, and nothing waits longer than a limit.
    fn reload_held(&self, nginx: &Nginx) -> Option<(String, Timestamp)> {
        let most = self.context.nginx.as_ref()?.max_worker_generations;
        let until = after(nginx.loaded_since, LONGEST_RELOAD_HOLD);
        if nginx.retiring_workers < most || until <= self.now {
            return None;
        }
        let mut endpoints = running_routes(nginx)?.values().flat_map(|routed| &routed.endpoints);
        if endpoints.any(|endpoint| self.own_dead(endpoint)) {
            return None;
        }
        let reason = format!(
            "{} generations of old nginx workers still finish their requests, and nginx.max_worker_generations is {most}; \
             worker_shutdown_timeout in {} would end them",
            nginx.retiring_workers, nginx.config
        );
        Some((reason, until))
    }

    fn remove_old(&mut self, nginx: &'a Nginx, wanted: &str, needed: &BTreeSet<&GenerationId>) {
        let mut in_use: BTreeSet<&GenerationId> = nginx.current.iter().collect();
        match &nginx.loaded {
            _ if !self.holds(Gate::InUse) => {}
            Loaded::Generation(id) => {
                in_use.insert(id);
            }
            Loaded::Mixed(ids) => in_use.extend(ids),
            Loaded::Nothing | Loaded::Stranger(_) => {}
        }
        // The newest with the wanted content is about to be switched to.
        let newest = nginx.generations.keys().rfind(|id| id.hash == wanted);
        let mut others: Vec<(Timestamp, &GenerationId)> = nginx
            .generations
            .iter()
            .filter(|(id, _)| !in_use.contains(id) && !needed.contains(id) && newest != Some(id))
            .map(|(id, generation)| (generation.created_at, id))
            .collect();
        others.sort();
        let surplus = others.len().saturating_sub(KEPT);
        for (_, id) in others.into_iter().take(surplus) {
            let action = NginxAction::RemoveGeneration { id: id.clone() };
            self.step(ObjectKey::Nginx, Action::Nginx(action), format!("the last {KEPT} are kept"));
        }
    }
}

/// Who balances new generations, and what is missing for that.
struct Balancing {
    balancer: Balancer,
    /// The settings insist on Lua, and it does not work.
    missing: Option<String>,
}

impl Balancing {
    fn of(nginx: &Nginx, settings: &NginxContext<'_>, renderer: &Renderer) -> Self {
        let missing = without_lua(nginx, settings, renderer);
        let balancer = match (settings.endpoints, &missing) {
            (EndpointsMode::Reload, _) | (EndpointsMode::Auto, Some(_)) => Balancer::Nginx,
            (EndpointsMode::Auto, None) | (EndpointsMode::Lua, _) => Balancer::Lua,
        };
        Self { balancer, missing: missing.filter(|_| settings.endpoints == EndpointsMode::Lua) }
    }
}

/// Why generations cannot be balanced by Lua, if so.
pub(super) fn without_lua(nginx: &Nginx, settings: &NginxContext<'_>, renderer: &Renderer) -> Option<String> {
    nginx.lua.clone().err().or_else(|| renderer.without_lua(settings.generations))
}

/// How endpoints change in nginx, in words for a plan; `None`: reloads are what the settings say, or nobody can tell.
pub(super) fn endpoints_words(observed: &Observed, context: &Context<'_>) -> Option<String> {
    let settings = context.nginx.as_ref()?;
    let missing = without_lua(observed.nginx.known()?, settings, settings.renderer);
    match (settings.endpoints, missing) {
        (EndpointsMode::Reload, _) => None,
        (EndpointsMode::Auto | EndpointsMode::Lua, None) => Some("by Lua, without a reload".to_owned()),
        (EndpointsMode::Auto, Some(missing)) => Some(format!("by reloads: {missing}")),
        (EndpointsMode::Lua, Some(missing)) => Some(format!("by Lua, which cannot be had: {missing}")),
    }
}

/// The generation has these endpoints in all places: as it was written, or, where Lua balances, in its file, and in nginx
/// if it is loaded. Only what equals these routes otherwise is asked.
fn endpoints_in_place(nginx: &Nginx, id: &GenerationId, routes: &Routes) -> bool {
    let Some(generation) = nginx.generations.get(id) else { return false };
    let Some(seen) = &generation.endpoints else { return true };
    let hash = Some(endpoints::hash(&endpoints::of(routes)));
    generation.manifest.upstreams == *routes && seen.file == hash && (!runs(nginx, id) || seen.loaded == hash)
}

/// Every live worker runs it.
fn runs(nginx: &Nginx, id: &GenerationId) -> bool {
    let running = matches!(nginx.process, NginxProcess::Running { .. });
    running && matches!(&nginx.loaded, Loaded::Generation(loaded) if loaded == id)
}

/// An endpoint that is wanted and served by what runs, and that another content lacks.
fn lost<'r>(running: Option<&'r Routes>, other: &Routes, wanted: &Routes) -> Option<&'r Endpoint> {
    let has = |routes: &Routes, name: &str, endpoint: &Endpoint| {
        let mut endpoints = routes.get(name).into_iter().flat_map(|routed| &routed.endpoints);
        endpoints.any(|one| (&one.address, one.port) == (&endpoint.address, endpoint.port))
    };
    let all = running.into_iter().flatten();
    let mut all = all.flat_map(|(name, routed)| routed.endpoints.iter().map(move |endpoint| (name, endpoint)));
    all.find(|(name, endpoint)| has(wanted, name, endpoint) && !has(other, name, endpoint)).map(|(_, lost)| lost)
}

/// Why a new generation is needed, in words: which upstreams differ.
fn route_changes(old: &Routes, new: &Routes) -> String {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut causes = Vec::new();
    for name in names {
        match (old.get(name), new.get(name)) {
            (None, Some(_)) => causes.push(format!("upstream {name} is new")),
            (Some(_), None) => causes.push(format!("upstream {name} is not wanted any more")),
            (Some(old), Some(new)) if old.upstream != new.upstream => causes.push(format!("upstream {name} changed")),
            (Some(old), Some(new)) if old.endpoints != new.endpoints => {
                let of = |endpoints: &[Endpoint]| endpoints.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
                let (before, after) = (of(&old.endpoints), of(&new.endpoints));
                let added = after.difference(&before).map(|endpoint| format!("+{endpoint}"));
                let removed = before.difference(&after).map(|endpoint| format!("-{endpoint}"));
                let mut all: Vec<String> = added.chain(removed).collect();
                if all.len() > 6 {
                    let more = all.len() - 6;
                    all.truncate(6);
                    all.push(format!("and {more} more"));
                }
                causes.push(format!("endpoints of {name}: {}", all.join(" ")));
            }
            (Some(old), Some(new)) if old.files != new.files => causes.push(format!("TLS files of {name} changed")),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    causes.join("; ")
}
