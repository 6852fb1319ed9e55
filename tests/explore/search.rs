//! The search itself.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;

use reeve::observed::{Rejection, Stage};
use reeve::plan::action::NginxAction;
use reeve::plan::{Action, ObjectKey, Plan, Step, plan};

use crate::common;
use crate::fault::{Fault, heal};
use crate::oracle;
use crate::scenario::{End, Scenario};
use crate::state::State;

#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How many faults may strike on one way.
    pub faults: u32,
    /// Crashes, faults and changes of the spec are tried on one way together; else one crash or one fault on a way, which
    /// may have changed the spec half-way before.
    pub together: bool,
    /// At most so many states.
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
    pub changes: usize,
    pub actions: usize,
    pub longest: usize,
    pub cut: bool,
    pub counterexample: Option<String>,
}

pub struct Search<'s> {
    scenario: &'s Scenario,
    bounds: Bounds,
    found: Found,
    /// By key: the state's number.
    known: HashMap<u64, usize>,
    /// How each state was reached: the one before, and in words.
    ways: Vec<(usize, String)>,
    /// Where each state leads without further faults; itself: it is an end.
    onward: Vec<usize>,
    queue: VecDeque<(usize, State)>,
}

type Failure = String;

impl<'s> Search<'s> {
    pub fn new(scenario: &'s Scenario, bounds: Bounds) -> Self {
        Self {
            scenario,
            bounds,
            found: Found::default(),
            known: HashMap::new(),
            ways: Vec::new(),
            onward: Vec::new(),
            queue: VecDeque::new(),
        }
    }

    pub fn run(mut self) -> Found {
        let now = common::start();
        let mut start = State {
            world: self.scenario.empty.clone(),
            now,
            spec: 0,
            last_routed: BTreeMap::new(),
            faults: self.bounds.faults,
            hidden: None,
            refuses: false,
            ills: Vec::new(),
            stranger: false,
            crashed: false,
        };
        self.scenario.look(&mut start.world, 0, now);
        self.reach(0, "start".to_owned(), start);
        while let Some((number, state)) = self.queue.pop_front() {
            if let Err(reason) = self.visit(number, &state) {
                self.found.counterexample = Some(self.tell(&reason, number, &state));
                break;
            }
        }
        if self.found.counterexample.is_none() {
            self.found.counterexample = self.endless();
        }
        self.found.states = self.ways.len();
        self.found
    }

    fn tell(&self, reason: &str, number: usize, state: &State) -> String {
        let wave = self.wave(state);
        let mut text = format!("{reason}\n\nthe way there:\n{}\nthe wave:\n", self.trace(number));
        for step in &wave.steps {
            let _ = writeln!(text, "  {}: {} ({})", step.object, step.action.kind(), step.cause);
        }
        for waiting in &wave.waiting {
            let _ = writeln!(text, "  waiting {}: {}", waiting.object, waiting.reason);
        }
        text
    }

    fn reach(&mut self, from: usize, how: String, mut state: State) -> usize {
        state.remember();
        let key = state.key();
        if let Some(number) = self.known.get(&key) {
            return *number;
        }
        let number = self.ways.len();
        self.known.insert(key, number);
        self.ways.push((from, how));
        self.onward.push(usize::MAX);
        self.queue.push_back((number, state));
        number
    }

    fn trace(&self, mut number: usize) -> String {
        let mut lines = Vec::new();
        while number != 0 {
            let (from, how) = &self.ways[number];
            lines.push(format!("  {how}"));
            number = *from;
        }
        lines.reverse();
        lines.join("\n")
    }

    fn wave(&self, state: &State) -> Plan {
        let spec = &self.scenario.specs[state.spec];
        let context = self.scenario.context();
        match state.hidden {
            Some(_) => plan(spec, &state.seen(), state.now, &context),
            None => plan(spec, &state.world, state.now, &context),
        }
    }

    fn visit(&mut self, number: usize, state: &State) -> Result<(), Failure> {
        let wave = self.wave(state);
        let (after, how) = self.way_on(state, &wave)?;
        match after {
            Some(after) => self.onward[number] = self.reach(number, how, after),
            None => {
                self.onward[number] = number;
                self.judge_end(state, &wave)?;
            }
        }
        if self.ways.len() > self.bounds.states {
            // Only the way to the end is followed any more.
            self.found.cut = true;
            return Ok(());
        }
        let together = self.bounds.together;
        let struck = state.faults < self.bounds.faults;
        if together || !(struck || state.crashed) {
            let objects = by_object(&wave);
            for prefixes in prefixes(&objects) {
                self.found.crashes += 1;
                let (mut after, what) = self.apply(state, &objects, &prefixes)?;
                after.crashed = !together;
                self.reach(number, format!("crash after {what}"), after);
            }
        }
        if state.spec + 1 < self.scenario.specs.len() && (together || !(struck || state.crashed)) {
            self.found.changes += 1;
            let mut after = state.clone();
            after.spec += 1;
            self.scenario.look(&mut after.world, after.spec, after.now);
            self.reach(number, format!("spec {}", after.spec), after);
        }
        if state.faults > 0 && (together || !state.crashed) {
            for fault in Fault::all(state, &self.scenario.specs[state.spec]) {
                if let Some(after) = fault.strike(state) {
                    self.found.faults += 1;
                    self.reach(number, format!("fault: {fault:?}"), after);
                }
            }
        }
        Ok(())
    }

    /// Without further faults it ends where the spec leads.
    fn judge_end(&self, state: &State, wave: &Plan) -> Result<(), Failure> {
        let end = End::of(&state.world);
        let wanted = &self.scenario.ends[state.spec];
        if end == *wanted || state.stranger {
            return Ok(());
        }
        let waiting: Vec<String> = wave.waiting.iter().map(|w| format!("{}: {}", w.object, w.reason)).collect();
        Err(format!("it ends elsewhere\nend: {end:#?}\nwanted: {wanted:#?}\nwaiting: {waiting:#?}"))
    }

    /// A way that never ends, or takes too long.
    fn endless(&mut self) -> Option<Failure> {
        let mut distance: Vec<Option<usize>> = vec![None; self.onward.len()];
        for start in 0..self.onward.len() {
            let mut way = Vec::new();
            let mut at = start;
            while distance[at].is_none() && self.onward[at] != at {
                way.push(at);
                at = self.onward[at];
                if way.len() > MOST_WAVES {
                    let words: Vec<&str> = way.iter().map(|number| self.ways[*number].1.as_str()).collect();
                    return Some(format!(
                        "it does not end:\n  {}\nthe way there:\n{}",
                        words.join("\n  "),
                        self.trace(start)
                    ));
                }
            }
            let rest = distance[at].unwrap_or(0);
            distance[at] = Some(rest);
            for (index, number) in way.iter().rev().enumerate() {
                distance[*number] = Some(rest + index + 1);
            }
            self.found.longest = self.found.longest.max(rest + way.len());
        }
        None
    }

    /// The way on without a fault: the whole wave, and what takes time; `None`: it is the end.
    fn way_on(&mut self, state: &State, wave: &Plan) -> Result<(Option<State>, String), Failure> {
        let spec = &self.scenario.specs[state.spec];
        if !wave.steps.is_empty() {
            let objects = by_object(wave);
            let all: Vec<usize> = objects.iter().map(|(_, steps)| steps.len()).collect();
            let (mut after, what) = self.apply(state, &objects, &all)?;
            common::settle(&mut after.world, spec, after.now);
            return Ok((Some(after), what));
        }
        let mut after = state.clone();
        common::settle(&mut after.world, spec, after.now);
        if after.world != state.world {
            return Ok((Some(after), "containers become healthy".to_owned()));
        }
        if let Some(until) = wave.waiting.iter().filter_map(|w| w.until).filter(|until| *until > state.now).min() {
            after.now = until;
            after.refuses = false;
            return Ok((Some(after), format!("time passes: {:#}", until.duration_since(state.now))));
        }
        if state.hidden.is_some() || state.refuses {
            after.hidden = None;
            after.refuses = false;
            self.scenario.look(&mut after.world, after.spec, after.now);
            return Ok((Some(after), "everything answers again".to_owned()));
        }
        if !state.ills.is_empty() {
            heal(&mut after);
            return Ok((Some(after), "others put it right".to_owned()));
        }
        Ok((None, String::new()))
    }

    /// The state after so many steps of each object, each judged.
    fn apply(
        &mut self,
        state: &State,
        objects: &[(&ObjectKey, Vec<&Step>)],
        prefixes: &[usize],
    ) -> Result<(State, String), Failure> {
        let context = self.scenario.context();
        let spec = &self.scenario.specs[state.spec];
        let mut after = state.clone();
        let mut what = Vec::new();
        for ((object, steps), length) in objects.iter().zip(prefixes) {
            for step in steps.iter().take(*length) {
                self.found.actions += 1;
                let before = after.clone();
                if let (true, Action::Nginx(NginxAction::WriteGeneration(new))) = (after.refuses, &step.action) {
                    common::execute(&mut after.world, &step.action, &context, after.now);
                    let nginx = after.world.nginx.known_mut().ok_or("nginx is not there")?;
                    let generation = nginx.generations.get_mut(&new.id).ok_or("it was just written")?;
                    let message = "host not found".to_owned();
                    generation.rejected = Some(Rejection { message, at: after.now, stage: Stage::Check });
                    what.push(format!("{object}: refused"));
                    break;
                }
                common::execute(&mut after.world, &step.action, &context, after.now);
                after.remember();
                what.push(format!("{object}: {}", step.action.kind()));
                oracle::judge(state, &before, &after, step, spec).map_err(|reason| {
                    format!(
                        "{reason}\n  action: {object}: {} ({})\n  after: {}",
                        step.action.kind(),
                        step.cause,
                        what.join(", ")
                    )
                })?;
            }
        }
        Ok((after, what.join(", ")))
    }
}

fn by_object(wave: &Plan) -> Vec<(&ObjectKey, Vec<&Step>)> {
    let mut objects: Vec<(&ObjectKey, Vec<&Step>)> = Vec::new();
    for step in &wave.steps {
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
    // One object comes to nothing while the others go on.
    for index in 0..lengths.len() {
        let mut prefix = lengths.clone();
        prefix[index] = 0;
        some.push(prefix);
    }
    some
}
