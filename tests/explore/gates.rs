//! Mutation: without each gate of the planner, the explorer must find a way to harm, and with all of them none.

use std::collections::BTreeSet;
use std::time::Instant;

use reeve::plan::gates::Gate;

use crate::proofs::{PROOFS, Proof};
use crate::search::{Found, Search};

/// `REEVE_GATES=capacity,drain` tries these alone, and tells the whole way.
fn asked() -> Option<Vec<String>> {
    let names = std::env::var("REEVE_GATES").ok()?;
    Some(names.split(',').map(str::to_owned).collect())
}

fn search(proof: &Proof, off: Option<Gate>) -> Found {
    let mut scenario = (proof.scenario)().ready();
    scenario.off = off;
    Search::new(&scenario, proof.bounds).run()
}

/// One line for each gate: what is broken without it, where, and how long the way there is.
#[test]
fn each_gate_is_missed() {
    let started = Instant::now();
    let asked = asked();
    let mut wrong = Vec::new();
    let mut count = 0;
    for proof in PROOFS {
        let chosen = |gate: Gate| asked.as_ref().is_none_or(|names| names.iter().any(|name| name == gate.name()));
        let missed: Vec<_> = proof.missed.iter().filter(|(gate, _)| chosen(*gate)).collect();
        if missed.is_empty() {
            continue;
        }
        let name = (proof.scenario)().name;
        let clean = search(proof, None);
        if let Some(counterexample) = &clean.counterexample {
            println!("{name}, with all gates: {counterexample}");
            wrong.push(format!("{name}: something is wrong there with all gates"));
        }
        if clean.cut {
            wrong.push(format!("{name}: it is too large to be gone through"));
        }
        println!("{name}: {} states with all gates", clean.states);
        for (gate, words) in missed {
            count += 1;
            let at = Instant::now();
            let found = search(proof, Some(*gate));
            let took = at.elapsed().as_secs_f64();
            let Some(counterexample) = found.counterexample else {
                println!("  {gate}: NOT MISSED ({} states, {took:.2} s)", found.states);
                wrong.push(format!("{gate}: nothing misses it, or nothing judges what it prevents"));
                continue;
            };
            let reason = counterexample.reason.lines().next().unwrap_or_default();
            println!("  {gate}: {reason} ({} steps, {took:.2} s)", counterexample.trace.len());
            if !reason.starts_with(words) {
                wrong.push(format!("{gate}: something else is broken without it: {reason}"));
            }
            if asked.is_some() {
                println!("{counterexample}");
            }
        }
    }
    println!("{count} gates of {}, {:.1} s", Gate::ALL.len(), started.elapsed().as_secs_f64());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_gate_has_a_place_where_it_is_missed() {
    let known: Vec<Gate> = PROOFS.iter().flat_map(|proof| proof.missed).map(|(gate, _)| *gate).collect();
    let once: BTreeSet<Gate> = known.iter().copied().collect();
    assert_eq!(once.len(), known.len(), "a gate is there twice");
    let without: Vec<&str> = Gate::ALL.iter().filter(|gate| !once.contains(gate)).map(|gate| gate.name()).collect();
    assert!(without.is_empty(), "nothing shows what these gates are for: {without:?}");
}
