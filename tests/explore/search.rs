//! The search: breadth-first over distinct states, a level at a time, and what its graph tells when it is complete.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write as _;

use crate::scenario::Scenario;
use crate::state::{Ghost, Hidden, Older, State};
use crate::tally::{Tally, too_much};
use crate::visit::{Visit, Visitor};

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

/// From every state the end must come within so many waves.
const MOST_WAVES: usize = 80;
/// So many states are visited before what follows from them is taken.
const PART: usize = 256;

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

/// A state that was reached, and from where.
struct Known {
    from: usize,
    how: String,
    /// Where it leads without further faults, and what is done on that step; itself: it is an end.
    onward: usize,
    done: Tally,
}

pub struct Search<'s> {
    visitor: Visitor<'s>,
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
            visitor: Visitor { scenario, bounds },
            found: Found::default(),
            numbers: HashMap::new(),
            known: Vec::new(),
            edges: Vec::new(),
        }
    }

    fn start(&self) -> State {
        let (world, now) = self.visitor.scenario.begin.clone();
        let mut start = State {
            world,
            now,
            spec: usize::from(self.visitor.scenario.begun),
            ghost: Ghost { settled: self.visitor.scenario.begun, ..Ghost::default() },
            faults: self.visitor.bounds.faults,
            stale: self.visitor.bounds.stale,
            older: Older::default(),
            hidden: Hidden::default(),
            refuses: false,
            ills: Vec::new(),
            stranger: None,
            crashed: false,
        };
        self.visitor.scenario.look(&mut start.world, start.spec, now);
        start.remember();
        start
    }

    pub fn run(mut self) -> Found {
        let start = self.start();
        let key = start.key();
        self.numbers.insert(key, 0);
        self.known.push(Known { from: 0, how: "start".to_owned(), onward: NOWHERE, done: Tally::default() });
        let mut level = VecDeque::from([(0, start)]);
        while !level.is_empty() {
            let branch = self.known.len() <= self.visitor.bounds.states;
            self.found.cut |= !branch;
            let mut following = Vec::new();
            // A part at a time: what follows from all of a level, most of it known, would fill the memory.
            while !level.is_empty() {
                let part: Vec<(usize, State)> = level.drain(..level.len().min(PART)).collect();
                let visits = self.visit_all(&part, branch);
                for ((number, state), visit) in part.iter().zip(visits) {
                    if let Some(reason) = visit.failure {
                        self.found.counterexample = Some(self.tell(reason, *number, state));
                        self.found.states = self.known.len();
                        return self.found;
                    }
                    self.take(*number, visit, &mut following);
                }
            }
            level = following.into();
        }
        if self.found.counterexample.is_none() {
            self.found.counterexample = self.ways_on();
        }
        self.found.states = self.known.len();
        self.found
    }

    /// Every state of a part, on two threads: the result does not depend on who is first.
    fn visit_all(&self, part: &[(usize, State)], branch: bool) -> Vec<Visit> {
        let visit = |(_, state): &(usize, State)| self.visitor.visit(state, branch);
        if part.len() < 8 {
            return part.iter().map(visit).collect();
        }
        let half = part.len() / 2;
        std::thread::scope(|scope| {
            let second = scope.spawn(|| part[half..].iter().map(visit).collect::<Vec<Visit>>());
            let mut visits: Vec<Visit> = part[..half].iter().map(visit).collect();
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
        let wave = self.visitor.wave(state, None);
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

    /// What is done from a state to its end.
    fn way(&self, mut at: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while self.known[at].onward != at {
            at = self.known[at].onward;
            lines.push(format!("  {}", self.known[at].how));
        }
        lines
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
        let scenario = self.visitor.scenario;
        let fails = (0..scenario.specs.len()).any(|spec| scenario.bad(spec));
        for (from, to, kind, done) in std::mem::take(&mut self.edges) {
            let more = done.plus(tally(to)).beyond(tally(from));
            let most = self.found.costs.entry(kind).or_default();
            *most = most.most(more);
            if let Some(reason) = too_much(kind, more, fails) {
                let mut trace = self.trace(to);
                for (title, start) in [("and on to the end:", to), ("where otherwise it would have been:", from)] {
                    trace.push(title.to_owned());
                    trace.extend(self.way(start));
                }
                return Some(Counterexample { reason, trace, wave: String::new() });
            }
        }
        None
    }
}
