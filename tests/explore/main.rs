//! An explorer: breadth-first over the distinct states that the planner and its surroundings can reach in memory.
//!
//! From every state it tries: the wave as planned; a crash, a lost action and a lost reply at every step of it; the next
//! spec; a pass that sees a view one write late; and, a bounded number of times, everything that others may do to the
//! world. Every action is judged by `oracle` and `measure`, and from every state the way without further faults must end
//! where the spec alone would have led. `pairs` are small scenarios, for two faults on one way. `gates` switches the
//! planner's conditions off one by one, and each must be missed in the small scenario that `proofs` has for it. `cargo test`
//! explores a part, always the same; `make explore` all of it.

#[path = "../common/mod.rs"]
mod common;
mod fault;
#[cfg(debug_assertions)]
mod gates;
mod key;
mod loads;
mod measure;
mod oracle;
mod pace;
mod pairs;
mod proofs;
mod scenario;
mod scenarios;
mod search;
mod state;
mod tally;
mod undone;
mod visit;
mod wave;

use std::time::Instant;

use scenario::Scenario;
use search::{Bounds, Search};

/// `make explore` sets it.
fn long() -> bool {
    std::env::var("REEVE_EXPLORE").is_ok_and(|value| value == "long")
}

fn explore(scenario: fn() -> Scenario) {
    let scenario = scenario().ready();
    let all = if long() { LONG.as_slice() } else { &[SHORT] };
    for bounds in all {
        explore_within(&scenario, *bounds);
    }
}

fn explore_within(scenario: &Scenario, bounds: Bounds) {
    let started = Instant::now();
    let found = Search::new(scenario, bounds).run();
    println!(
        "{}{}: {} states, {} crash points, {} faults, {} late views, {} spec changes, {} actions, at most {} waves to the end, {:.1} s{}",
        scenario.name,
        if bounds.together { ", all together" } else { "" },
        found.states,
        found.crashes,
        found.faults,
        found.stale,
        found.changes,
        found.actions,
        found.longest,
        started.elapsed().as_secs_f64(),
        if found.cut { " (cut short)" } else { "" },
    );
    if long() {
        for (kind, most) in &found.costs {
            println!("  {kind} costs at most {} creates, {} stops, {} reloads", most.creates, most.stops, most.reloads);
        }
    }
    if let Some(counterexample) = found.counterexample {
        panic!("{}: {counterexample}", scenario.name);
    }
}

const SHORT: Bounds = Bounds { faults: 1, stale: 1, together: false, states: 200 };
/// One crash, one fault or one late view on a way, far; and all of them on one way, near.
const LONG: [Bounds; 2] = [
    Bounds { faults: 1, stale: 1, together: false, states: 20_000 },
    Bounds { faults: 1, stale: 1, together: true, states: 3_000 },
];

/// Two faults, crashes and changes of the spec on one way, in small scenarios: `make explore` alone.
const PAIR: Bounds = Bounds { faults: 2, stale: 0, together: true, states: 6_000 };

fn explore_pair(scenario: fn() -> Scenario) {
    if long() {
        explore_within(&scenario().ready(), PAIR);
    }
}

macro_rules! explored {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            explore(scenarios::$name);
        })+
    };
}

explored!(
    roll,
    roll_by_lua,
    scale,
    rename,
    remove,
    bare,
    jobs,
    register_changes,
    foreign,
    held,
    servers,
    networks,
    pauses,
    rolls_back
);

macro_rules! paired {
    ($($name:ident),+ $(,)?) => {
        mod two_faults {
            $(#[test]
            fn $name() {
                super::explore_pair(super::pairs::$name);
            })+
        }
    };
}

paired!(
    serves,
    rolls_start_first,
    rolls_stop_first,
    scales_down,
    registers_another_port,
    renamed,
    rolls_back,
    in_a_row
);
