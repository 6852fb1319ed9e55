//! Generations: write → check → switch → load, and what to do about an nginx that is stopped, orphaned or a stranger.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use std::time::Duration;

use super::ObjectKey;
use super::action::{Action, NewGeneration, NginxAction};
use super::gates::Gate;
use super::planner::{Planner, after};
use crate::observed::{Endpoint, Generation, GenerationId, Loaded, Nginx, NginxProcess, RoutedUpstream};
use crate::render::RenderError;

type Routes = BTreeMap<String, RoutedUpstream>;

/// A refused generation is tried again after this time: the fault may have been outside of it (the user's own file).
const RETRY_REJECTED: Duration = Duration::from_secs(30);
/// Generations that are kept beside the ones in use, for a person who looks back.
const KEPT: usize = 5;

impl<'a> Planner<'a> {
    pub(super) fn nginx(&mut self) {
        let Some(settings) = &self.context.nginx else { return };
        let Some(nginx) = self.facts.nginx else {
            let reason = format!("nginx cannot be read: {}", self.observed.nginx.reason().unwrap_or_default());
            return self.wait(ObjectKey::Nginx, "nginx_unknown", reason);
        };
        if self.spec.upstreams.is_empty() && nginx.generations.is_empty() {
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
        let mut wanted = self.wanted_routes(nginx);
        if let Some(reason) = self.content_unseen(nginx, &wanted).filter(|_| self.holds(Gate::ContentSeen)) {
            return self.wait(ObjectKey::Nginx, "generation_lost", reason);
        }
        self.keep_last_good(nginx, &mut wanted);
        if wanted.is_empty() && nginx.current.is_none() && nginx.loaded == Loaded::Nothing {
            // Nothing can be routed yet: no reload for that.
            return;
        }
        let hash = settings.renderer.generation_hash(&self.context.owner, &wanted, settings.probe);
        if let Some((id, cause)) = self.generation_in_place(nginx, &hash, wanted) {
            self.load(nginx, id, cause);
        }
        self.remove_old(nginx, &hash);
    }

    /// Rendered, for a person to look at.
    pub(super) fn wanted_generation(&mut self) -> Result<NewGeneration, RenderError> {
        let shared = |reason: String| RenderError::Shared(reason);
        let settings = self.context.nginx.as_ref().ok_or_else(|| shared("nginx.mode is off".to_owned()))?;
        let Some(nginx) = self.facts.nginx else {
            let reason = self.observed.nginx.reason().unwrap_or_default();
            return Err(shared(format!("nginx cannot be read: {reason}")));
        };
        let mut wanted = self.wanted_routes(nginx);
        self.keep_last_good(nginx, &mut wanted);
        let hash = settings.renderer.generation_hash(&self.context.owner, &wanted, settings.probe);
        let id = GenerationId { hash, number: 1 };
        settings.renderer.render(&id, &self.context.owner, &wanted, settings.probe, settings.generations)
    }

    /// nginx serves by a generation that is not on disk any more, and an upstream cannot be read now: a new generation would
    /// take away what still works.
    fn content_unseen(&self, nginx: &Nginx, wanted: &Routes) -> Option<String> {
        let Loaded::Generation(id) = &nginx.loaded else { return None };
        if nginx.generations.contains_key(id) {
            return None;
        }
        let unread = self.spec.upstreams.keys().find(|name| !wanted.contains_key(*name))?;
        Some(format!(
            "nginx runs generation {id}, which is not on disk any more; it goes on until upstream {unread} can be read"
        ))
    }

    /// An upstream that cannot be rendered waits with that reason and keeps what it had; the others go on.
    fn keep_last_good(&mut self, nginx: &'a Nginx, wanted: &mut Routes) {
        let Some(settings) = &self.context.nginx else { return };
        let current = nginx.current.as_ref().and_then(|id| nginx.generations.get(id));
        if current.is_some_and(|generation| generation.manifest.upstreams == *wanted) {
            // It was rendered already.
            return;
        }
        // What an upstream had may clash with what another one has now: then it is left out.
        let mut kept: BTreeSet<String> = BTreeSet::new();
        loop {
            let faults = settings.renderer.faults(&self.context.owner, wanted, settings.probe);
            if faults.is_empty() {
                return;
            }
            for (name, fault) in faults {
                wanted.remove(&name);
                let before = current.and_then(|generation| generation.manifest.upstreams.get(&name));
                if let (true, Some(before)) = (kept.insert(name.clone()), before) {
                    let routed = self.last_good(before);
                    wanted.insert(name.clone(), routed);
                }
                self.wait(ObjectKey::Upstream(name), "refused", format!("it cannot be rendered: {fault}"));
            }
        }
    }

    /// Sees to it that `current` points at an intact generation with this content. The generation, and why it was
    /// switched to, if it was.
    fn generation_in_place(
        &mut self,
        nginx: &'a Nginx,
        hash: &str,
        wanted: Routes,
    ) -> Option<(GenerationId, Option<String>)> {
        let settings = self.context.nginx.as_ref()?;
        let current = nginx.current.as_ref().and_then(|id| Some((id, nginx.generations.get(id)?)));
        let holds = self.holds(Gate::Usable);
        let usable =
            |generation: &Generation| !holds || (generation.damaged.is_empty() && generation.rejected.is_none());
        if let Some((id, generation)) = current
            && id.hash == hash
            && usable(generation)
        {
            return Some((id.clone(), None));
        }
        // The content is what was wanted before: somebody changed the files or the link.
        let loaded_same = matches!(&nginx.loaded, Loaded::Generation(id) if id.hash == hash);
        let drift = loaded_same || current.is_some_and(|(id, _)| id.hash == hash);
        let cause = match (&nginx.current, current) {
            (None, _) => "there is no generation yet".to_owned(),
            (Some(id), None) => format!("`current` points at {id}, which is not there"),
            (Some(id), Some((_, generation))) if id.hash == hash => {
                format!("files of generation {id} were changed by hand: {}", generation.damaged.join(", "))
            }
            (Some(_), Some((_, generation))) => route_changes(&generation.manifest.upstreams, &wanted),
        };
        let same: Vec<(&GenerationId, &Generation)> =
            nginx.generations.iter().filter(|(id, _)| id.hash == hash).collect();
        if let Some((id, _)) = same.iter().rfind(|(_, generation)| usable(generation)) {
            let switch = NginxAction::SwitchGeneration { id: (*id).clone() };
            self.step(ObjectKey::Nginx, Action::Nginx(switch), cause.clone());
            if drift {
                self.mark_drift();
            }
            return Some(((*id).clone(), Some(cause)));
        }
        let number = same.iter().map(|(id, _)| id.number).max().unwrap_or(0);
        let refused = same.iter().rev().find_map(|(id, generation)| Some((id, generation.rejected.as_ref()?)));
        if let Some((id, rejection)) = refused {
            let again = after(rejection.at, RETRY_REJECTED);
            if again > self.now && id.number == number && self.holds(Gate::RetryLater) {
                let reason = format!("nginx refused generation {id}: {}", rejection.message);
                self.wait_until(ObjectKey::Nginx, "rejected", reason, again);
                self.load_what_is_current(nginx);
                return None;
            }
        }
        let id = GenerationId { hash: hash.to_owned(), number: number + 1 };
        match settings.renderer.render(&id, &self.context.owner, &wanted, settings.probe, settings.generations) {
            Ok(generation) => {
                let write = NginxAction::WriteGeneration(Box::new(generation));
                self.step(ObjectKey::Nginx, Action::Nginx(write), cause.clone());
                if drift {
                    self.mark_drift();
                }
                let switch = NginxAction::SwitchGeneration { id: id.clone() };
                self.step(ObjectKey::Nginx, Action::Nginx(switch), "it passed the check");
                Some((id, Some(cause)))
            }
            Err(error) => {
                self.wait(ObjectKey::Nginx, "template", format!("the template cannot be rendered: {error}"));
                self.load_what_is_current(nginx);
                None
            }
        }
    }

    /// The wanted generation cannot be had; the one that `current` points at should at least be what nginx runs. But not
    /// when it routes to what leaves or is dead: what runs now does not, perhaps.
    fn load_what_is_current(&mut self, nginx: &'a Nginx) {
        let Some((id, generation)) = nginx.current.as_ref().and_then(|id| Some((id, nginx.generations.get(id)?)))
        else {
            return;
        };
        let mut endpoints = generation.manifest.upstreams.values().flat_map(|routed| &routed.endpoints);
        let outdated = endpoints.any(|endpoint| self.own_gone(endpoint)) && self.holds(Gate::CurrentOutdated);
        let running = matches!(nginx.process, NginxProcess::Running { .. });
        if generation.damaged.is_empty() && generation.rejected.is_none() && !(outdated && running) {
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
                let action = NginxAction::Reload { expect: id };
                self.step(ObjectKey::Nginx, Action::Nginx(action), cause);
                if drift {
                    self.mark_drift();
                }
            }
        }
    }

    fn remove_old(&mut self, nginx: &'a Nginx, wanted: &str) {
        let mut in_use: BTreeSet<&GenerationId> = nginx.current.iter().collect();
        match &nginx.loaded {
            _ if !self.holds(Gate::InUse) => {}
            Loaded::Generation(id) => {
                in_use.insert(id);
            }
            Loaded::Mixed(ids) => in_use.extend(ids),
            Loaded::Nothing | Loaded::Stranger(_) => {}
        }
        // The newest with the wanted content carries nginx's refusal, or is about to be switched to.
        let newest = nginx.generations.keys().rfind(|id| id.hash == wanted);
        let mut others: Vec<(Timestamp, &GenerationId)> = nginx
            .generations
            .iter()
            .filter(|(id, _)| !in_use.contains(id) && newest != Some(id))
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
    if causes.is_empty() { "the template changed".to_owned() } else { causes.join("; ") }
}
