//! All that follows from one state: the wave as planned, what interrupts it, and what comes from outside; each judged.
//!
//! It knows one state at a time and nothing of the way there, so that the states of a level can be visited in any order.

use std::collections::BTreeSet;

use jiff::SignedDuration;
use reeve::observed::{Rejection, Stage};
use reeve::plan::action::{ConsulAction, NginxAction};
use reeve::plan::{Action, ObjectKey, Plan, Step, System, plan};
use reeve::spec::Service;

use crate::common;
use crate::fault::{Fault, heal};
use crate::measure::{Before, counts, kept, parallelism, replaced_networks, serving, stop_first};
use crate::oracle::{Judge, turned_back};
use crate::scenario::{End, Scenario, is_bad};
use crate::search::Bounds;
use crate::state::{Behind, Hidden, Older, State};
use crate::tally::Tally;
use crate::undone::undone;
use crate::wave::{by_object, prefixes};

/// How a state follows from another.
pub struct Next {
    pub how: String,
    /// The kind of what happened, when its cost is counted.
    pub cost: Option<&'static str>,
    pub done: Tally,
    pub state: State,
    pub key: u64,
}

/// All that follows from one state.
#[derive(Default)]
pub struct Visit {
    /// The first is the way on; without one it is an end.
    pub next: Vec<Next>,
    pub ends: bool,
    pub crashes: usize,
    pub faults: usize,
    pub stale: usize,
    pub changes: usize,
    pub actions: usize,
    pub failure: Option<String>,
}

pub struct Visitor<'s> {
    pub scenario: &'s Scenario,
    pub bounds: Bounds,
}

impl Visitor<'_> {
    pub fn wave(&self, state: &State, behind: Option<Behind>) -> Plan {
        let spec = &self.scenario.specs[state.spec];
        plan(spec, &state.seen(behind), state.now, &self.scenario.context())
    }

    pub fn visit(&self, state: &State, branch: bool) -> Visit {
        let mut visit = Visit::default();
        if let Err(reason) = self.visit_into(state, branch, &mut visit) {
            visit.failure = Some(reason);
        }
        visit
    }

    fn visit_into(&self, state: &State, branch: bool, visit: &mut Visit) -> Result<(), String> {
        let spec = &self.scenario.specs[state.spec];
        let wave = self.wave(state, None);
        let held = self.held(state);
        let judge = Judge { spec, planned: state, behind: None, held };
        undone(state, spec, &wave.steps)?;
        let objects = by_object(&wave);
        self.go_on(state, &wave, &objects, &judge, visit)?;
        if !branch {
            return Ok(());
        }
        let together = self.bounds.together;
        let struck = state.faults < self.bounds.faults || state.stale < self.bounds.stale;
        if self.scenario.tries("crash") && (together || !(struck || state.crashed)) {
            self.crashes(state, &objects, &judge, visit)?;
        }
        self.others(state, objects.is_empty(), struck, visit);
        if state.stale > 0
            && self.scenario.tries("stale")
            && (together || !(state.crashed || state.faults < self.bounds.faults))
        {
            self.late_views(state, visit)?;
        }
        Ok(())
    }

    fn go_on(
        &self,
        state: &State,
        wave: &Plan,
        objects: &[(&ObjectKey, Vec<&Step>)],
        judge: &Judge<'_>,
        visit: &mut Visit,
    ) -> Result<(), String> {
        match self.way_on(state, wave, objects, judge, visit)? {
            Some(next) => visit.next.push(next),
            None => {
                visit.ends = true;
                self.judge_end(state, wave)?;
            }
        }
        Ok(())
    }

    /// What comes from outside: another spec, faults, and backends that answer again.
    fn others(&self, state: &State, idle: bool, struck: bool, visit: &mut Visit) {
        let together = self.bounds.together;
        let spec = &self.scenario.specs[state.spec];
        let next = state.spec + 1 < self.scenario.specs.len() && (idle || !self.scenario.in_turn);
        if next && (together || !(struck || state.crashed)) {
            visit.changes += 1;
            let mut after = state.clone();
            after.spec += 1;
            after.ghost.drained.clear();
            after.ghost.settled = End::of(&state.world) == self.scenario.ends[state.spec];
            // What the spec does not have any more is not probed any more.
            let services = &self.scenario.specs[after.spec].services;
            if let Some(docker) = after.world.docker.known_mut() {
                let gone = docker.containers.values_mut().filter(|c| !services.contains_key(&c.service));
                gone.for_each(|container| container.probe = None);
            }
            self.scenario.look(&mut after.world, after.spec, after.now);
            push(visit, format!("spec {}", after.spec), None, Tally::default(), after);
        }
        let strikes = state.faults > 0 && state.spec >= self.scenario.faults_from;
        if strikes && (together || !(state.crashed || state.stale < self.bounds.stale)) {
            for fault in Fault::all(state, spec).into_iter().filter(|fault| self.scenario.tries(fault.kind())) {
                if let Some(mut after) = fault.strike(state, spec) {
                    visit.faults += 1;
                    // Nobody looks while time passes, but the world goes on.
                    if let Fault::TimePasses(_) = fault {
                        self.scenario.settle(&mut after.world, after.spec, after.now);
                    }
                    push(visit, format!("fault: {fault:?}"), Some(fault.kind()), Tally::default(), after);
                }
            }
        }
        if state.hidden.any() && !visit.ends {
            let mut after = state.clone();
            after.hidden = Hidden::default();
            push(visit, "everything answers again".to_owned(), None, Tally::default(), after);
        }
    }

    /// A crash, or an action without effect, or one whose effect nobody heard of: for a planner without a memory all of
    /// them are the same, some prefix of each object's steps.
    fn crashes(
        &self,
        state: &State,
        objects: &[(&ObjectKey, Vec<&Step>)],
        judge: &Judge<'_>,
        visit: &mut Visit,
    ) -> Result<(), String> {
        for prefixes in prefixes(objects) {
            visit.crashes += 1;
            let (mut after, what, done) = self.apply(state, objects, &prefixes, judge, visit)?;
            after.crashed = !self.bounds.together;
            let cost = after.counted("crash");
            push(visit, format!("crash after {what}"), cost, done, after);
        }
        // In the other order: objects are worked on in parallel.
        let mut reversed: Vec<_> = objects.to_vec();
        reversed.reverse();
        let all: Vec<usize> = reversed.iter().map(|(_, steps)| steps.len()).collect();
        self.apply(state, &reversed, &all, judge, visit)?;
        Ok(())
    }

    /// A pass that sees one backend as it was before the last write to it.
    fn late_views(&self, state: &State, visit: &mut Visit) -> Result<(), String> {
        let spec = &self.scenario.specs[state.spec];
        let held = self.held(state);
        for behind in Behind::ALL {
            let there = match behind {
                Behind::Docker => state.older.docker.is_some(),
                Behind::Consul | Behind::Catalog => state.older.consul.is_some(),
                Behind::Nginx => state.older.nginx.is_some(),
            };
            if !there {
                continue;
            }
            let wave = self.wave(state, Some(behind));
            if wave.steps.is_empty() && wave.records.is_empty() {
                continue;
            }
            visit.stale += 1;
            let judge = Judge { spec, planned: state, behind: Some(behind), held };
            let objects = by_object(&wave);
            let all: Vec<usize> = objects.iter().map(|(_, steps)| steps.len()).collect();
            let (mut after, what, done) = self
                .apply(state, &objects, &all, &judge, visit)
                .map_err(|reason| format!("{reason}\n  with {behind:?} one write behind"))?;
            after.stale -= 1;
            if after.stale == 0 {
                after.older = Older::default();
            }
            self.scenario.settle(&mut after.world, after.spec, after.now);
            after.remember();
            let cost = after.counted("stale");
            push(visit, format!("{behind:?} is seen one write late: {what}"), cost, done, after);
        }
        Ok(())
    }

    /// The spec removes every service that is there, or more than half of two or more.
    fn held(&self, state: &State) -> bool {
        let spec = &self.scenario.specs[state.spec];
        let seen: BTreeSet<&String> = state.docker().containers.values().map(|container| &container.service).collect();
        let leaving = seen.iter().filter(|name| !spec.services.contains_key(**name)).count();
        let last = state.spec > 0 && state.spec + 1 == self.scenario.specs.len();
        let most = leaving == seen.len() || (seen.len() >= 2 && leaving * 2 > seen.len());
        self.scenario.held && last && leaving > 0 && most
    }

    /// Without further faults it ends where the spec leads, and stays there.
    fn judge_end(&self, state: &State, wave: &Plan) -> Result<(), String> {
        let spec = &self.scenario.specs[state.spec];
        let end = End::of(&state.world);
        let wanted = &self.scenario.ends[state.spec];
        let waiting = || {
            let waiting = wave.waiting.iter().map(|w| format!("  waiting {}: {}", w.object, w.reason));
            waiting.collect::<Vec<_>>().join("\n")
        };
        match &state.stranger {
            // What was there when the spec came is what is held.
            _ if self.scenario.held && state.spec > 0 => {}
            _ if self.scenario.bad(state.spec) => self.old_ones_serve(state)?,
            None if end != *wanted => {
                // What was given up (that is judged when it is) is back at what served before, and complete.
                let turned_back: Vec<&Service> = spec.services.values().filter(|s| turned_back(state, s)).collect();
                let without = |end: &End| turned_back.iter().fold(end.clone(), |rest, s| rest.without(&s.name, spec));
                let (rest, wanted_rest) = (without(&end), without(wanted));
                if turned_back.is_empty() || rest != wanted_rest {
                    return Err(format!("it ends elsewhere\n{}\n{}", end.differences(wanted), waiting()));
                }
                for service in turned_back {
                    let ours = state.docker().containers.values().filter(|container| container.service == service.name);
                    let served = ours.filter(|c| serving(state, c).proven && c.hash != service.hash).count();
                    if u32::try_from(served).expect("few") < service.replicas {
                        return Err(format!(
                            "of {}, which was rolled back, {served} serve\n{}",
                            service.name,
                            waiting()
                        ));
                    }
                }
            }
            None => {}
            Some(taken) => {
                let (end, wanted) = (end.without(&taken.service, spec), wanted.without(&taken.service, spec));
                if end != wanted {
                    return Err(format!("the others end elsewhere\n{}\n{}", end.differences(&wanted), waiting()));
                }
                let ours = state.docker().containers.values().filter(|container| container.service == taken.service);
                let served = ours.filter(|container| serving(state, container).believed).count();
                let replicas = spec.services.get(&taken.service).map_or(0, |service| service.replicas);
                if u32::try_from(served).expect("few") < taken.served.min(replicas) {
                    return Err(format!(
                        "a stranger is in the way of {}, of which {} served then, and {served} do now\n{}",
                        taken.service,
                        taken.served,
                        waiting()
                    ));
                }
            }
        }
        let later = state.now + SignedDuration::from_hours(1);
        let again = plan(spec, &state.world, later, &self.scenario.context());
        match again.steps.iter().chain(&again.records).next() {
            None => Ok(()),
            Some(step) => {
                Err(format!("it plans again later: {}: {} ({})", step.object, step.action.kind(), step.cause))
            }
        }
    }

    /// A version that fails never takes the place of what served, if that was complete.
    fn old_ones_serve(&self, state: &State) -> Result<(), String> {
        if !state.ghost.settled || state.faults < self.bounds.faults || state.stale < self.bounds.stale {
            return Ok(());
        }
        for service in self.scenario.specs[state.spec].services.values() {
            let missing = if stop_first(service) { parallelism(service) } else { 0 };
            let ours = state.docker().containers.values().filter(|container| container.service == service.name);
            let served = ours.filter(|container| serving(state, container).proven && !is_bad(container)).count();
            let must = service.replicas.saturating_sub(missing);
            if u32::try_from(served).expect("few") < must {
                return Err(format!("of {}, {served} serve that do not fail, and {must} must", service.name));
            }
        }
        Ok(())
    }

    /// The way on without a fault: the whole wave, and what takes time; `None`: it is the end.
    fn way_on(
        &self,
        state: &State,
        wave: &Plan,
        objects: &[(&ObjectKey, Vec<&Step>)],
        judge: &Judge<'_>,
        visit: &mut Visit,
    ) -> Result<Option<Next>, String> {
        let next = |how: String, done: Tally, mut state: State| {
            state.remember();
            let key = state.key();
            Ok(Some(Next { how, cost: None, done, state, key }))
        };
        if !objects.is_empty() {
            let all: Vec<usize> = objects.iter().map(|(_, steps)| steps.len()).collect();
            let (mut after, what, done) = self.apply(state, objects, &all, judge, visit)?;
            self.scenario.settle(&mut after.world, after.spec, after.now);
            // Nothing is different after it, and so the next pass does it again, and every one after that.
            if after.key() == state.key() {
                return Err(format!("it does the same in every pass: {what}"));
            }
            return next(what, done, after);
        }
        let mut after = state.clone();
        self.scenario.settle(&mut after.world, after.spec, after.now);
        if after.world != state.world {
            return next("containers become healthy".to_owned(), Tally::default(), after);
        }
        if let Some(until) = wave.waiting.iter().filter_map(|w| w.until).filter(|until| *until > state.now).min() {
            after.now = until;
            after.refuses = false;
            let how = format!("{:#} pass", until.duration_since(state.now));
            return next(how, Tally::default(), after);
        }
        if state.hidden.any() || state.refuses {
            after.hidden = Hidden::default();
            after.refuses = false;
            return next("everything answers again".to_owned(), Tally::default(), after);
        }
        if !state.ills.is_empty() {
            heal(&mut after, &self.scenario.foreign);
            return next("others put it right".to_owned(), Tally::default(), after);
        }
        Ok(None)
    }

    /// The state after so many steps of each object, each judged.
    fn apply(
        &self,
        state: &State,
        objects: &[(&ObjectKey, Vec<&Step>)],
        prefixes: &[usize],
        judge: &Judge<'_>,
        visit: &mut Visit,
    ) -> Result<(State, String, Tally), String> {
        let context = self.scenario.context();
        // What is held goes on as under the spec before.
        let floors = &self.scenario.floors[state.spec - usize::from(judge.held)];
        let replaced = replaced_networks(state, judge.spec);
        let seen = state.content_seen() && !state.hidden.has(System::Nginx) && judge.behind != Some(Behind::Nginx);
        let unseen = (!seen).then_some(judge.spec);
        // What nginx routes to is seen late: what it drains meanwhile goes on serving there.
        let since = unseen.filter(|_| judge.behind != Some(Behind::Nginx));
        let served = Before::of(state, judge.late_docker(), unseen);
        let mut after = state.clone();
        after.older = Older::default();
        let mut what: Vec<String> = Vec::new();
        let mut done = Tally::default();
        let mut count = counts(&after, floors, &served, since);
        for ((object, steps), length) in objects.iter().zip(prefixes) {
            for step in steps.iter().take(*length) {
                visit.actions += 1;
                what.push(format!("{object}: {}", step.action.kind()));
                let wrong = |reason: String| {
                    format!(
                        "{reason}\n  action: {object}: {} ({})\n  after: {}",
                        step.action.kind(),
                        step.cause,
                        what.join(", ")
                    )
                };
                judge.before(&after, step).map_err(wrong)?;
                done.count(&step.action, &after);
                after.keep_older(step.action.system());
                let before = matches!(step.action, Action::Nginx(_)).then(|| after.clone());
                let running = after.ghost.running.clone();
                let routed = running.iter().flat_map(|(_, manifest)| manifest.upstreams.values());
                let known =
                    routed.flat_map(|routed| &routed.endpoints).filter_map(|e| e.container.as_deref()).collect();
                common::execute_beside(&mut after.world, &step.action, &context, after.now, &known);
                if let (true, Action::Nginx(NginxAction::WriteGeneration(new))) = (after.refuses, &step.action) {
                    let nginx = after.world.nginx.known_mut().ok_or("nginx is not there")?;
                    let generation = nginx.generations.get_mut(&new.id).ok_or("it was just written")?;
                    let message = "host not found".to_owned();
                    generation.rejected = Some(Rejection { message, at: after.now, stage: Stage::Check });
                    what.push(format!("{object}: refused"));
                    break;
                }
                if let Action::Consul(ConsulAction::Drain { id, .. }) = &step.action
                    && let Some(registration) = after.consul().registrations.get(id)
                {
                    let container = registration.container.clone();
                    after.ghost.drained.insert(container);
                }
                if let Action::Consul(ConsulAction::LiftDrain { id }) = &step.action
                    && let Some(registration) = after.consul().registrations.get(id)
                {
                    let container = registration.container.clone();
                    after.ghost.drained.remove(&container);
                }
                after.remember();
                if let Some(before) = before {
                    judge.loaded(&before, &after).map_err(wrong)?;
                }
                let now = counts(&after, floors, &served, since);
                // Workers without a master can only be ended: nginx is started again at once.
                if !matches!(step.action, Action::Nginx(NginxAction::QuitOrphans { .. })) {
                    kept(floors, &replaced, &count, &now).map_err(wrong)?;
                }
                count = now;
            }
        }
        Ok((after, what.join(", "), done))
    }
}

fn push(visit: &mut Visit, how: String, cost: Option<&'static str>, done: Tally, mut state: State) {
    state.remember();
    let key = state.key();
    visit.next.push(Next { how, cost, done, state, key });
}
