//! What can be loaded of what is wanted: an upstream that cannot be rendered, or that nginx refuses, keeps its last good
//! configuration and waits with the reason; the others go ahead. The same for a template.
//!
//! It chooses contents. Which upstream is at fault is told by `culprits`; the steps are `generations`'.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::ObjectKey;
use super::context::NginxContext;
use super::culprits::{Evidence, Next, Refusal, Routes, retry};
use super::gates::Gate;
use super::planner::{Planner, after};
use crate::observed::{Endpoint, Generation, GenerationId, Loaded, Manifest, Nginx, NginxProcess, RoutedUpstream};
use crate::render::{RenderError, Renderer};

/// A configuration to be put in force.
pub(super) struct Candidate {
    pub routes: Routes,
    /// As in a manifest.
    pub suspects: BTreeMap<String, u32>,
    pub template_refused: u32,
    /// Only to see whether nginx accepts it: a generation of its own, also when the same is in force.
    pub control: Option<Control>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Control {
    Check,
    Load,
}

/// The template that is rendered with.
pub(super) enum Template<'a> {
    Wanted(&'a Renderer),
    /// The last one that nginx has accepted.
    Kept(Box<Renderer>),
}

impl Template<'_> {
    pub fn renderer(&self) -> &Renderer {
        match self {
            Self::Wanted(renderer) => renderer,
            Self::Kept(renderer) => renderer,
        }
    }
}

/// What is wanted, and for each upstream that cannot have it what it gets instead.
pub(super) struct Settled<'a> {
    pub routes: Routes,
    /// How far each has stepped back.
    steps: BTreeMap<String, u8>,
    /// Why, by upstream.
    reasons: BTreeMap<String, (String, Option<Timestamp>)>,
    /// Endpoints that are left out since their names do not resolve, by upstream.
    unresolved: BTreeMap<String, BTreeSet<String>>,
    /// Generations that told something.
    pub heeded: BTreeSet<&'a GenerationId>,
}

/// Steps back from the wanted content: without the endpoints whose names do not resolve; the definition in force with the present endpoints; with the endpoints in force
/// that are still good; exactly what is in force; nothing.
const NOTHING: u8 = 5;

impl<'a> Planner<'a> {
    /// The template to render with; `None`: there is none, and the reason waits.
    pub(super) fn template(&mut self, nginx: &'a Nginx, wanted: &Routes) -> Option<Template<'a>> {
        let settings = self.context.nginx.as_ref()?;
        let before = nginx.accepted().map(|(_, generation)| generation.manifest.template.as_str());
        if settings.template_fault.is_none() && before.is_none_or(|before| before == settings.renderer.digest()) {
            return Some(Template::Wanted(settings.renderer));
        }
        let Some((reason, until)) = self.template_fault(nginx, settings, wanted) else {
            return Some(Template::Wanted(settings.renderer));
        };
        let kept = before.and_then(|digest| nginx.templates.get(digest));
        let kept = kept.and_then(|source| Renderer::new(source, "the last good template").ok());
        let instead = match kept {
            Some(_) => "the last template that nginx accepted stays in use",
            None => "no upstream can be changed until it is mended",
        };
        let reason = format!("{reason}; {instead}");
        match until {
            Some(until) => self.wait_until(ObjectKey::Nginx, "template", reason, until),
            None => self.wait(ObjectKey::Nginx, "template", reason),
        }
        kept.map(|renderer| Template::Kept(Box::new(renderer)))
    }

    /// Why the template of the settings, which is not the one in force, cannot be used now.
    fn template_fault(
        &self,
        nginx: &Nginx,
        settings: &NginxContext<'_>,
        wanted: &Routes,
    ) -> Option<(String, Option<Timestamp>)> {
        if let Some(fault) = settings.template_fault {
            return Some((fault.to_owned(), None));
        }
        let refused = template_refusals(nginx, settings.renderer);
        // The first refusal alone cannot tell whether the template is at fault or what changed together with it; the old
        // template shows that.
        if let Some((generation, rejection)) = refused.last().and_then(|(_, one)| Some((one, one.rejected.as_ref()?))) {
            let until = after(rejection.at, retry(generation.manifest.template_refused));
            if until > self.now {
                return Some((format!("nginx refuses what the new template says: {}", rejection.message), Some(until)));
            }
        }
        let id = GenerationId { hash: "0".to_owned(), number: 0 };
        let trial = settings.renderer.render(&id, &self.context.owner, wanted, settings.probe, settings.generations);
        match trial {
            Err(error @ RenderError::Template { .. }) => Some((error.to_string(), None)),
            Ok(_) | Err(RenderError::Upstreams(_) | RenderError::Shared(_)) => None,
        }
    }

    pub(super) fn evidence(&self, nginx: &'a Nginx, renderer: &Renderer) -> Evidence<'a> {
        let none = nginx.generations.values().all(|generation| generation.rejected.is_none());
        if none || !self.holds(Gate::RetryLater) {
            return Evidence::default();
        }
        let Some(settings) = &self.context.nginx else { return Evidence::default() };
        // What is known of contents was learnt with the template in force.
        let template = nginx.accepted().map_or(renderer.digest(), |(_, generation)| &generation.manifest.template);
        let blamed = |manifest: &Manifest, message: &str| {
            renderer.blamed(&self.context.owner, &manifest.upstreams, settings.probe, message)
        };
        Evidence::of(nginx, template, running_routes(nginx), self.now, blamed)
    }

    /// Steps back until everything can be rendered and nothing is convicted.
    pub(super) fn settle(
        &mut self,
        nginx: &'a Nginx,
        renderer: &Renderer,
        evidence: &Evidence<'a>,
        wanted: Routes,
    ) -> Settled<'a> {
        let mut settled = Settled {
            routes: wanted,
            steps: BTreeMap::new(),
            reasons: BTreeMap::new(),
            unresolved: BTreeMap::new(),
            heeded: BTreeSet::new(),
        };
        let Some(settings) = &self.context.nginx else { return settled };
        loop {
            let convicted = self.step_back_from_convictions(nginx, evidence, &mut settled);
            let current = nginx.current.as_ref().and_then(|id| nginx.generations.get(id));
            if current.is_some_and(|generation| generation.manifest.upstreams == settled.routes) {
                // It was rendered already.
                break;
            }
            let faults = renderer.faults(&self.context.owner, &settled.routes, settings.probe);
            if faults.is_empty() && !convicted {
                break;
            }
            for (name, fault) in faults {
                let reason = format!("it cannot be rendered: {fault}");
                settled.reasons.entry(name.clone()).or_insert((reason, None));
                self.step_back(nginx, evidence, &mut settled, &name);
            }
        }
        settled
    }

    fn step_back_from_convictions(
        &mut self,
        nginx: &'a Nginx,
        evidence: &Evidence<'a>,
        settled: &mut Settled<'a>,
    ) -> bool {
        if evidence.is_empty() {
            return false;
        }
        let in_force = running_routes(nginx).into_iter().flat_map(BTreeMap::keys);
        let names: BTreeSet<String> = settled.routes.keys().chain(in_force).cloned().collect();
        let mut moved = false;
        for name in names {
            let Some(refusal) = evidence.conviction(&name, settled.routes.get(&name)) else { continue };
            settled.heeded.insert(refusal.id);
            settled.reasons.entry(name.clone()).or_insert((refusal.words(), Some(refusal.until)));
            self.step_back(nginx, evidence, settled, &name);
            moved = true;
        }
        moved
    }

    /// To the next content that is another one and not convicted.
    fn step_back(&mut self, nginx: &'a Nginx, evidence: &Evidence<'a>, settled: &mut Settled<'a>, name: &str) {
        loop {
            let step = settled.steps.entry(name.to_owned()).or_insert(0);
            *step = (*step + 1).min(NOTHING);
            let step = *step;
            settled.unresolved.remove(name);
            let content = match step {
                1 => Self::resolvable(evidence, settled, name),
                _ => self.content_at(nginx, settled, name, step),
            };
            if step < NOTHING && content.as_ref() == settled.routes.get(name) {
                continue;
            }
            if step < NOTHING
                && let Some(refusal) = evidence.conviction(name, content.as_ref())
            {
                settled.heeded.insert(refusal.id);
                continue;
            }
            match content {
                Some(content) => settled.routes.insert(name.to_owned(), content),
                None => settled.routes.remove(name),
            };
            return;
        }
    }

    /// What is wanted, without the endpoints whose names nginx could not resolve: those hold nobody but themselves.
    fn resolvable(evidence: &Evidence<'a>, settled: &mut Settled<'a>, name: &str) -> Option<RoutedUpstream> {
        let mut routed = settled.routes.get(name)?.clone();
        let unresolved = evidence.unresolved(name);
        let is_lost = |one: &Endpoint| unresolved.contains(one.to_string().as_str());
        let lost = routed.endpoints.iter().filter(|one| is_lost(one)).map(ToString::to_string).collect();
        routed.endpoints.retain(|one| !is_lost(one));
        settled.unresolved.insert(name.to_owned(), lost);
        Some(routed)
    }

    fn content_at(
        &mut self,
        nginx: &'a Nginx,
        settled: &mut Settled<'a>,
        name: &str,
        step: u8,
    ) -> Option<RoutedUpstream> {
        let before = match super::routes::in_force(nginx).and_then(|routes| routes.get(name)) {
            Some(before) => before,
            // It was left out to get the others started.
            None if self.spec.upstreams.contains_key(name) => {
                let (id, before) = Self::last_accepted(nginx, name)?;
                settled.heeded.insert(id);
                before
            }
            None => return None,
        };
        match step {
            2 if self.spec.upstreams.contains_key(name) => Some(self.last_good(before)),
            2 | 3 => Some(self.still_good(before).into_owned()),
            4 => running_routes(nginx).and_then(|routes| routes.get(name)).cloned(),
            _ => None,
        }
    }

    /// What is in force, without the endpoints that are seen gone.
    fn still_good(&self, before: &'a RoutedUpstream) -> Cow<'a, RoutedUpstream> {
        if !before.endpoints.iter().any(|endpoint| self.own_gone(endpoint)) {
            return Cow::Borrowed(before);
        }
        let mut good = before.clone();
        good.endpoints.retain(|endpoint| !self.own_gone(endpoint));
        Cow::Owned(good)
    }

    /// Says why upstreams do not get what they should, and what they have instead.
    pub(super) fn tell(&mut self, settled: &Settled<'a>) {
        for (name, (reason, until)) in &settled.reasons {
            let without = settled.unresolved.get(name).map(|lost| Vec::from_iter(lost.iter().cloned()).join(" and "));
            let instead = match (settled.routes.get(name), without) {
                (None, _) => "it is left out".to_owned(),
                (Some(_), None) => "it keeps its last good configuration".to_owned(),
                (Some(routed), Some(lost)) if routed.endpoints.is_empty() => {
                    format!(
                        "nothing is left of it without {lost}, and it answers like an empty one until that resolves"
                    )
                }
                (Some(_), Some(lost)) => format!("it is routed without {lost} until that resolves"),
            };
            let object = ObjectKey::Upstream(name.clone());
            let reason = format!("{reason}; {instead}");
            match until {
                Some(until) => self.wait_until(object, "refused", reason, *until),
                None => self.wait(object, "refused", reason),
            }
        }
    }

    /// What to try now of the settled routes, and why not all of them. `Err`: nothing can be tried.
    pub(super) fn candidate<'e>(
        &self,
        nginx: &'a Nginx,
        renderer: &Renderer,
        evidence: &'e Evidence<'a>,
        target: &Routes,
    ) -> (Option<Candidate>, Option<&'e Refusal<'a>>) {
        let running = running_routes(nginx);
        let safe: Routes = running
            .into_iter()
            .flatten()
            .map(|(name, before)| (name.clone(), self.still_good(before).into_owned()))
            .filter_map(|(name, before)| match evidence.conviction(&name, Some(&before)) {
                // Not even what is in force can be loaded again.
                Some(_) => target.get(&name).map(|instead| (name, instead.clone())),
                None => Some((name, before)),
            })
            .collect();
        let (next, refusal) = evidence.next(&safe, target);
        let (routes, control) = match next {
            Next::Target => (target.clone(), None),
            Next::Control { load } => (safe.clone(), Some(if load { Control::Load } else { Control::Check })),
            Next::Part(names) => match self.part(renderer, evidence, (&safe, target), names) {
                Some(routes) => (routes, None),
                None => return (None, refusal),
            },
        };
        let names: BTreeSet<&String> = routes.keys().chain(safe.keys()).collect();
        let suspects = names
            .into_iter()
            .filter(|name| routes.get(*name) != safe.get(*name))
            .map(|name| (name.clone(), evidence.times_refused(name, routes.get(name))))
            .collect();
        let refused = template_refusals(nginx, renderer);
        let times = refused.iter().map(|(_, one)| one.manifest.template_refused.saturating_add(1));
        let template_refused = times.max().unwrap_or(0);
        (Some(Candidate { routes, suspects, template_refused, control }), refusal)
    }

    /// What is in force, with these upstreams as they should be, and those that they cannot stand beside. `None`: only
    /// together with others can they be rendered, and that nginx has refused.
    fn part(
        &self,
        renderer: &Renderer,
        evidence: &Evidence<'a>,
        (safe, target): (&Routes, &Routes),
        mut names: BTreeSet<String>,
    ) -> Option<Routes> {
        let settings = self.context.nginx.as_ref()?;
        let mut grown = false;
        loop {
            let mut routes = safe.clone();
            for name in &names {
                match target.get(name) {
                    Some(content) => routes.insert(name.clone(), content.clone()),
                    None => routes.remove(name),
                };
            }
            if grown && evidence.next(safe, &routes).0 != Next::Target {
                return None;
            }
            let faults = renderer.faults(&self.context.owner, &routes, settings.probe);
            if faults.is_empty() {
                return Some(routes);
            }
            // Somebody still stands where one of the part should be, and has another place in the target.
            let places: BTreeSet<_> =
                faults.keys().filter_map(|name| Some(target.get(name)?.upstream.listen)).collect();
            let in_the_way = safe.iter().filter(|(name, one)| {
                let moves = target.get(*name) != Some(*one);
                moves && (faults.contains_key(*name) || places.contains(&one.upstream.listen))
            });
            let before = names.len();
            names.extend(in_the_way.map(|(name, _)| name.clone()));
            grown = true;
            if names.len() == before {
                return None;
            }
        }
    }

    /// The newest configuration on disk that nginx has accepted, of an upstream that is not in force.
    fn last_accepted(nginx: &'a Nginx, name: &str) -> Option<(&'a GenerationId, &'a RoutedUpstream)> {
        let good = nginx.generations.iter().filter(|(_, one)| one.rejected.is_none());
        let with = good.filter_map(|(id, one)| Some((one.created_at, id, one.manifest.upstreams.get(name)?)));
        with.max_by_key(|(at, id, _)| (*at, *id)).map(|(_, id, routed)| (id, routed))
    }
}

/// What live workers of nginx run; nothing when it does not run, or when that cannot be told.
pub(super) fn running_routes(nginx: &Nginx) -> Option<&Routes> {
    let routes = |id: &GenerationId| nginx.generations.get(id).map(|generation| &generation.manifest.upstreams);
    match (&nginx.process, &nginx.loaded) {
        (NginxProcess::Stopped, _) | (_, Loaded::Nothing | Loaded::Stranger(_)) => None,
        (_, Loaded::Generation(id)) => routes(id),
        (_, Loaded::Mixed(ids)) => {
            let good = |id: &&GenerationId| nginx.generations.get(*id).is_some_and(|one| one.rejected.is_none());
            let current = nginx.current.iter().filter(good).find(|id| ids.contains(id));
            current.or_else(|| ids.iter().find(good)).and_then(routes)
        }
    }
}

/// Generations made from this template that were refused while another one was in force, oldest first.
pub(super) fn template_refusals<'n>(nginx: &'n Nginx, renderer: &Renderer) -> Vec<(&'n GenerationId, &'n Generation)> {
    if nginx.accepted().is_none_or(|(_, generation)| generation.manifest.template == renderer.digest()) {
        return Vec::new();
    }
    let refused =
        |(_, one): &(&GenerationId, &Generation)| one.rejected.is_some() && one.manifest.template == renderer.digest();
    let mut refused: Vec<(&GenerationId, &Generation)> = nginx.generations.iter().filter(refused).collect();
    refused.sort_by_key(|(_, one)| one.rejected.as_ref().map(|rejection| rejection.at));
    refused
}
