//! The search: breadth-first over distinct states, a level at a time, every state of a level by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;

use jiff::SignedDuration;
use reeve::observed::{Rejection, Stage};
use reeve::plan::action::{ConsulAction, DockerAction, NginxAction};
use reeve::plan::{Action, ObjectKey, Plan, Step, plan};

use crate::common;
use crate::fault::{Fault, heal};
use crate::measure::{Before, counts, kept, parallelism, replaced_networks, serving, stop_first};
use crate::oracle::{Judge, undone};
use crate::scenario::{End, Scenario, is_bad};
use crate::state::{Behind, Ghost, Hidden, Older, State};

#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many faults may strike on one way.
    pub faults: u32,
    /// How many passes of one way may see a view that is one write behind.
    pub stale: u32,
    /// Crashes, faults and changes of the spec are tried on one way together; else one crash or one fault on a way, which
    /// may have changed the spec half-way before.
    pub together: bool,
    /// At most so many states branch; from the rest only the way to the end is followed.
    pub states: usize,
}

/// Combinations of prefixes that are tried for one wave; beyond, prefixes in two orders.
const MOST_COMBINATIONS: usize = 48;
/// From every state the end must come within so many waves.
const MOST_WAVES: usize = 80;

#[derive(Debug, Default)]
pub struct Found {
    pub states: usize,
    pub crashes: usize,
    pub faults: usize,
    pub stale: usize,
    pub changes: usize,
    pub actions: usize,
    pub longest: usize,
    /// The most that one crash, or one fault of a kind, added to what is done without it.
    pub costs: BTreeMap<&'static str, Tally>,
    pub cut: bool,
    pub counterexample: Option<Counterexample>,
}

#[derive(Debug)]
pub struct Counterexample {
    pub reason: String,
    /// How it came there, a line for each transition.
    pub trace: Vec<String>,
    pub wave: String,
}

impl std::fmt::Display for Counterexample {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n\nthe way there:\n  {}\n\n{}", self.reason, self.trace.join("\n  "), self.wave)
    }
}

/// What was done that somebody may notice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    pub creates: u32,
    pub stops: u32,
    pub reloads: u32,
}

impl Tally {
    /// What was done already is not done again.
    fn count(&mut self, action: &Action, state: &State) {
        match action {
            Action::Docker(DockerAction::CreateContainer(new)) if state.container(&new.name).is_none() => {
                self.creates += 1
            }
            Action::Docker(DockerAction::StopContainer { id, .. })
                if state.container(id).is_some_and(|container| container.state.running()) =>
            {
                self.stops += 1;
            }
            Action::Nginx(NginxAction::Reload { .. } | NginxAction::Start { .. }) => self.reloads += 1,
            _ => {}
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            creates: self.creates + other.creates,
            stops: self.stops + other.stops,
            reloads: self.reloads + other.reloads,
        }
    }

    fn beyond(self, other: Self) -> Self {
        Self {
            creates: self.creates.saturating_sub(other.creates),
            stops: self.stops.saturating_sub(other.stops),
            reloads: self.reloads.saturating_sub(other.reloads),
        }
    }

    fn most(self, other: Self) -> Self {
        Self {
            creates: self.creates.max(other.creates),
            stops: self.stops.max(other.stops),
            reloads: self.reloads.max(other.reloads),
        }
    }
}

/// How a state follows from another.
struct Next {
    how: String,
    /// The kind of what happened, when its cost is counted.
    cost: Option<&'static str>,
    done: Tally,
    state: State,
    key: u64,
}

/// All that follows from one state.
#[derive(Default)]
struct Visit {
    /// The first is the way on; without one it is an end.
    next: Vec<Next>,
    ends: bool,
    crashes: usize,
    faults: usize,
    stale: usize,
    changes: usize,
    actions: usize,
    failure: Option<String>,
}

/// A state that was reached, and from where.
struct Known {
    from: usize,
    how: String,
    /// Where it leads without further faults, and what is done on that step; itself: it is an end.
    onward: usize,
    done: Tally,
}

pub struct Search<'s> {
    scenario: &'s Scenario,
    bounds: Bounds,
    found: Found,
    numbers: HashMap<u64, usize>,
    known: Vec<Known>,
    /// From, to, what it is, and what was done on it.
    edges: Vec<(usize, usize, &'static str, Tally)>,
}

const NOWHERE: usize = usize::MAX;

impl<'s> Search<'s> {
    pub fn new(scenario: &'s Scenario, bounds: Bounds) -> Self {
        Self {
            scenario,
            bounds,
            found: Found::default(),
            numbers: HashMap::new(),
            known: Vec::new(),
            edges: Vec::new(),
        }
    }

    fn start(&self) -> State {
        let now = common::start();
        let mut start = State {
            world: self.scenario.empty.clone(),
            now,
            spec: 0,
            ghost: Ghost::default(),
            faults: self.bounds.faults,
            stale: self.bounds.stale,
            older: Older::default(),
            hidden: Hidden::default(),
            refuses: false,
            ills: Vec::new(),
            stranger: None,
            crashed: false,
        };
        self.scenario.look(&mut start.world, 0, now);
        start
    }

    pub fn run(mut self) -> Found {
        let start = self.start();
        let key = start.key();
        self.numbers.insert(key, 0);
        self.known.push(Known { from: 0, how: "start".to_owned(), onward: NOWHERE, done: Tally::default() });
        let mut level = vec![(0, start)];
        while !level.is_empty() {
            let branch = self.known.len() <= self.bounds.states;
            self.found.cut |= !branch;
            let visits = self.visit_all(&level, branch);
            let mut following = Vec::new();
            for ((number, state), visit) in level.iter().zip(visits) {
                if let Some(reason) = visit.failure {
                    self.found.counterexample = Some(self.tell(reason, *number, state));
                    self.found.states = self.known.len();
                    return self.found;
                }
                self.take(*number, visit, &mut following);
            }
            level = following;
        }
        if self.found.counterexample.is_none() {
            self.found.counterexample = self.ways_on();
        }
        self.found.states = self.known.len();
        self.found
    }

    /// Every state of the level, on two threads: the result does not depend on who is first.
    fn visit_all(&self, level: &[(usize, State)], branch: bool) -> Vec<Visit> {
        let visit = |(_, state): &(usize, State)| self.visit(state, branch);
        if level.len() < 8 {
            return level.iter().map(visit).collect();
        }
        let half = level.len() / 2;
        std::thread::scope(|scope| {
            let second = scope.spawn(|| level[half..].iter().map(visit).collect::<Vec<Visit>>());
            let mut visits: Vec<Visit> = level[..half].iter().map(visit).collect();
            visits.extend(second.join().expect("a visit does not panic"));
            visits
        })
    }

    fn take(&mut self, number: usize, visit: Visit, following: &mut Vec<(usize, State)>) {
        self.found.crashes += visit.crashes;
        self.found.faults += visit.faults;
        self.found.stale += visit.stale;
        self.found.changes += visit.changes;
        self.found.actions += visit.actions;
        if visit.ends {
            self.known[number].onward = number;
        }
        for (index, next) in visit.next.into_iter().enumerate() {
            let to = match self.numbers.get(&next.key) {
                Some(to) => *to,
                None => {
                    let to = self.known.len();
                    self.numbers.insert(next.key, to);
                    self.known.push(Known { from: number, how: next.how, onward: NOWHERE, done: Tally::default() });
                    following.push((to, next.state));
                    to
                }
            };
            if index == 0 && !visit.ends {
                self.known[number].onward = to;
                self.known[number].done = next.done;
            }
            if let Some(kind) = next.cost {
                self.edges.push((number, to, kind, next.done));
            }
        }
    }

    fn tell(&self, reason: String, number: usize, state: &State) -> Counterexample {
        let wave = self.wave(state, None);
        let mut text = String::from("the wave:\n");
        for step in &wave.steps {
            let _ = writeln!(text, "  {}: {} ({})", step.object, step.action.kind(), step.cause);
        }
        for waiting in &wave.waiting {
            let _ = writeln!(text, "  waiting {}: {}", waiting.object, waiting.reason);
        }
        Counterexample { reason, trace: self.trace(number), wave: text }
    }

    fn trace(&self, mut number: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while number != 0 {
            lines.push(self.known[number].how.clone());
            number = self.known[number].from;
        }
        lines.reverse();
        lines
    }

    fn wave(&self, state: &State, behind: Option<Behind>) -> Plan {
        let spec = &self.scenario.specs[state.spec];
        plan(spec, &state.seen(behind), state.now, &self.scenario.context())
    }

    fn visit(&self, state: &State, branch: bool) -> Visit {
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
        let judge = Judge { spec, planned: state, stale: false, held };
        undone(state, spec, &wave.steps)?;
        let objects = by_object(&wave);
        self.go_on(state, &wave, &objects, &judge, visit)?;
        if !branch {
            return Ok(());
        }
        let together = self.bounds.together;
        let struck = state.faults < self.bounds.faults || state.stale < self.bounds.stale;
        if together || !(struck || state.crashed) {
            self.crashes(state, &objects, &judge, visit)?;
        }
        self.others(state, together, struck, visit);
        if state.stale > 0 && (together || !(state.crashed || state.faults < self.bounds.faults)) {
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
    fn others(&self, state: &State, together: bool, struck: bool, visit: &mut Visit) {
        let spec = &self.scenario.specs[state.spec];
        if state.spec + 1 < self.scenario.specs.len() && (together || !(struck || state.crashed)) {
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
        if state.faults > 0 && (together || !(state.crashed || state.stale < self.bounds.stale)) {
            for fault in Fault::all(state, spec) {
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
            push(visit, format!("crash after {what}"), Some("crash"), done, after);
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
            let judge = Judge { spec, planned: state, stale: true, held };
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
            push(visit, format!("{behind:?} is seen one write late: {what}"), Some("stale"), done, after);
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
                return Err(format!("it ends elsewhere\n{}\n{}", end.differences(wanted), waiting()));
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

    /// Every way on ends soon, and costs little more than the way without the crash or fault.
    fn ways_on(&mut self) -> Option<Counterexample> {
        let mut rest: Vec<Option<(usize, Tally)>> = (0..self.known.len()).map(|_| None).collect();
        for start in 0..self.known.len() {
            let mut way = Vec::new();
            let mut at = start;
            while rest[at].is_none() && self.known[at].onward != at {
                way.push(at);
                at = self.known[at].onward;
                if at == NOWHERE || way.len() > MOST_WAVES {
                    let words: Vec<&str> = way.iter().map(|number| self.known[*number].how.as_str()).collect();
                    let reason =
                        format!("it does not end:\n    {}", words[words.len().saturating_sub(8)..].join("\n    "));
                    return Some(Counterexample { reason, trace: self.trace(start), wave: String::new() });
                }
            }
            let (mut length, mut tally) = rest[at].unwrap_or_default();
            rest[at] = Some((length, tally));
            for number in way.into_iter().rev() {
                length += 1;
                tally = tally.plus(self.known[number].done);
                rest[number] = Some((length, tally));
            }
            self.found.longest = self.found.longest.max(length);
        }
        let tally = |number: usize| rest[number].map(|(_, tally)| tally).unwrap_or_default();
        for (from, to, kind, done) in std::mem::take(&mut self.edges) {
            let more = done.plus(tally(to)).beyond(tally(from));
            let most = self.found.costs.entry(kind).or_default();
            *most = most.most(more);
            if let Some(reason) = too_much(kind, more) {
                let mut trace = self.trace(to);
                trace.push("and on to the end".to_owned());
                return Some(Counterexample { reason, trace, wave: String::new() });
            }
        }
        None
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
        let served = Before::of(state);
        let mut after = state.clone();
        after.older = Older::default();
        let mut what: Vec<String> = Vec::new();
        let mut done = Tally::default();
        let mut count = counts(&after, floors, &served);
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
                common::execute(&mut after.world, &step.action, &context, after.now);
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
                after.remember();
                if let Some(before) = before {
                    judge.loaded(&before, &after).map_err(wrong)?;
                }
                let now = counts(&after, floors, &served);
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

/// What one crash, or one fault of a kind, may cost at most beside what would have been done without it.
fn too_much(kind: &str, more: Tally) -> Option<String> {
    let most = match kind {
        "crash" | "stale" => Tally { creates: 0, stops: 0, reloads: 2 },
        _ => return None,
    };
    let over = more.beyond(most);
    (over != Tally::default()).then(|| format!("one {kind} costs {more:?} more, where {most:?} are the most"))
}

/// Bookkeeping goes with the steps.
fn by_object(wave: &Plan) -> Vec<(&ObjectKey, Vec<&Step>)> {
    let mut objects: Vec<(&ObjectKey, Vec<&Step>)> = Vec::new();
    for step in wave.steps.iter().chain(&wave.records) {
        match objects.iter_mut().find(|(object, _)| **object == step.object) {
            Some((_, steps)) => steps.push(step),
            None => objects.push((&step.object, vec![step])),
        }
    }
    objects
}

/// How far each object may have come when everything stops.
fn prefixes(objects: &[(&ObjectKey, Vec<&Step>)]) -> Vec<Vec<usize>> {
    let lengths: Vec<usize> = objects.iter().map(|(_, steps)| steps.len()).collect();
    let combinations = lengths.iter().try_fold(1_usize, |product, length| product.checked_mul(length + 1));
    if combinations.is_some_and(|combinations| combinations <= MOST_COMBINATIONS) {
        let mut all: Vec<Vec<usize>> = vec![Vec::new()];
        for length in &lengths {
            all = all
                .into_iter()
                .flat_map(|prefix| (0..=*length).map(move |taken| [prefix.clone(), vec![taken]].concat()))
                .collect();
        }
        all.retain(|prefix| prefix.iter().any(|taken| *taken > 0));
        return all;
    }
    let mut some = Vec::new();
    let orders: [Vec<usize>; 2] = [(0..lengths.len()).collect(), (0..lengths.len()).rev().collect()];
    for order in orders {
        let mut prefix = vec![0; lengths.len()];
        for index in order {
            for taken in 1..=lengths[index] {
                prefix[index] = taken;
                some.push(prefix.clone());
            }
        }
    }
    // One object stops at each of its steps while the others go on.
    for index in 0..lengths.len() {
        for taken in 0..lengths[index] {
            let mut prefix = lengths.clone();
            prefix[index] = taken;
            some.push(prefix);
        }
    }
    some
}
