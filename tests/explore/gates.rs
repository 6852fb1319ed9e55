//! Mutation: without each gate of the planner, the explorer must find a way to harm.

use std::time::Instant;

use reeve::plan::gates::Gate;

use crate::long;
use crate::scenario::Scenario;
use crate::scenarios::{
    foreign, held, jobs, networks, register_changes, remove, rename, roll, rolls_back, scale, servers,
};
use crate::search::{Bounds, Search};

/// No fault is needed.
const PLAIN: Bounds = Bounds { faults: 0, stale: 0, together: true, states: 4_000 };
/// One fault, or one crash.
const STRUCK: Bounds = Bounds { faults: 1, stale: 0, together: false, states: 8_000 };

/// Where each gate is missed.
fn missed_in(gate: Gate) -> (fn() -> Scenario, Bounds) {
    match gate {
        Gate::NetworkInUse => (networks, PLAIN),
        Gate::Dependency => (jobs, PLAIN),
        Gate::Surge | Gate::Parallelism | Gate::Room => (scale, PLAIN),
        Gate::Resources
        | Gate::Capacity
        | Gate::ProvenCheck
        | Gate::AwaitedRoute
        | Gate::Drain
        | Gate::Unrouted
        | Gate::DrainTime
        | Gate::Healthy
        | Gate::KeepRegistered
        | Gate::HealthChanged
        | Gate::InUse => (roll, PLAIN),
        Gate::Peers => (servers, PLAIN),
        Gate::MassRemoval => (held, PLAIN),
        Gate::RegisteringFirst | Gate::DependentsFirst => (remove, PLAIN),
        Gate::Succession => (rename, PLAIN),
        Gate::SuccessorServes | Gate::RegistrationUnrouted | Gate::RegistrationDrainTime => (register_changes, PLAIN),
        Gate::Paused | Gate::Monitor | Gate::Delay => (crate::scenarios::pauses, PLAIN),
        Gate::Deadline | Gate::OneWayBack | Gate::RolledBack => (rolls_back, PLAIN),
        Gate::PinsKnown => (rolls_back, STRUCK),
        Gate::FitDefinition | Gate::RegistrationRoutedKnown => (register_changes, STRUCK),
        Gate::Stranded | Gate::RemovalsSeen => (remove, STRUCK),
        Gate::Distrust | Gate::ContentSeen => (foreign, STRUCK),
        _ => (roll, STRUCK),
    }
}

/// The cheapest ones, for every `cargo test`.
const CHEAP: [Gate; 8] = [
    Gate::Resources,
    Gate::RestartPause,
    Gate::Strangers,
    Gate::Capacity,
    Gate::Healthy,
    Gate::Leader,
    Gate::ListenFree,
    Gate::Included,
];

/// `REEVE_GATES=capacity,drain` tries these alone, and tells the whole way.
fn asked() -> Option<Vec<String>> {
    let names = std::env::var("REEVE_GATES").ok()?;
    Some(names.split(',').map(str::to_owned).collect())
}

#[test]
fn each_gate_is_missed() {
    let started = Instant::now();
    let asked = asked();
    let gates: Vec<Gate> = match &asked {
        Some(names) => Gate::ALL.iter().copied().filter(|gate| names.iter().any(|name| name == gate.name())).collect(),
        None if long() => Gate::ALL.to_vec(),
        None => CHEAP.to_vec(),
    };
    let mut unmissed = Vec::new();
    for gate in &gates {
        let (scenario, bounds) = missed_in(*gate);
        let mut scenario = scenario().ready();
        scenario.off = Some(*gate);
        let at = Instant::now();
        let found = Search::new(&scenario, bounds).run();
        let took = at.elapsed().as_secs_f64();
        let Some(counterexample) = found.counterexample else {
            println!("{gate}: NOT MISSED ({}, {} states, {took:.1} s)", scenario.name, found.states);
            unmissed.push(gate.name());
            continue;
        };
        let reason = counterexample.reason.lines().next().unwrap_or_default();
        let length = counterexample.trace.len();
        println!("{gate}: {reason} ({}, {} states, {length} transitions, {took:.1} s)", scenario.name, found.states);
        if asked.is_some() {
            println!("{counterexample}");
        }
    }
    println!("{} gates, {:.1} s", gates.len(), started.elapsed().as_secs_f64());
    assert!(unmissed.is_empty(), "nothing misses these gates, or nothing judges what they prevent: {unmissed:?}");
}

/// What is found without a gate is only worth something when with all of them nothing is found there.
#[test]
fn with_all_gates_nothing_is_found_there() {
    if !long() {
        return;
    }
    let all: [fn() -> Scenario; 11] =
        [roll, scale, rename, remove, jobs, register_changes, foreign, held, servers, networks, rolls_back];
    for scenario in all {
        for bounds in [PLAIN, STRUCK] {
            let scenario = scenario().ready();
            let found = Search::new(&scenario, bounds).run();
            if let Some(counterexample) = found.counterexample {
                panic!("{}: {counterexample}", scenario.name);
            }
        }
    }
}
