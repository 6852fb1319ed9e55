//! An explorer: breadth-first over the distinct states that the planner and its surroundings can reach in memory.
//!
//! From every state it tries: the wave as planned; a crash after every prefix of it; the next spec; and, a bounded number of
//! times, everything that others may do to the world. Every action is judged by `oracle`, and from every state the way
//! without further faults must end where the spec alone would have led. `REEVE_EXPLORE=long` explores more.

#[path = "../common/mod.rs"]
mod common;
mod fault;
mod oracle;
mod scenario;
mod search;
mod state;

use std::time::Instant;

use search::{Bounds, Search};

fn explore(name: &str, texts: &[&str], bounds: Bounds) {
    let started = Instant::now();
    let scenario = scenario::Scenario::new(texts);
    let found = Search::new(&scenario, bounds).run();
    println!(
        "{name}: {} states, {} crash points, {} faults, {} spec changes, {} actions, longest way to the end {} waves, {:.1} s{}",
        found.states,
        found.crashes,
        found.faults,
        found.changes,
        found.actions,
        found.longest,
        started.elapsed().as_secs_f64(),
        if found.cut { " (cut short)" } else { "" },
    );
    if let Some(counterexample) = found.counterexample {
        panic!("{name}: {counterexample}");
    }
}

fn bounds() -> Bounds {
    if std::env::var("REEVE_EXPLORE").is_ok_and(|value| value == "long") {
        Bounds { faults: 1, together: true, states: 1_000_000 }
    } else {
        Bounds { faults: 1, together: false, states: 2_000 }
    }
}

/// Every service registers with a HEALTHCHECK or a probed check, and an upstream of its own.
const BOTH: &str = r#"
name: shop
services:
  free:
    image: localhost/free:1
    deploy: { replicas: 2 }
    ports: ["80"]
    healthcheck: { test: [CMD, check], interval: 1s }
    register: { check: { http: /, interval: 5s, timeout: 1s } }
  fixed:
    image: localhost/fixed:1
    deploy: { replicas: 2, update_config: { order: stop-first, parallelism: 1 } }
    ports: ["81-82:80"]
    register: { check: { http: /, interval: 5s, timeout: 1s } }
upstreams:
  free: { service: free, listen: 8080, drain: 5s }
  fixed: { service: fixed, listen: 8081, drain: 10s }
"#;

fn with(changes: &[(&str, &str)]) -> String {
    let mut text = BOTH.to_owned();
    for (old, new) in changes {
        assert!(text.contains(old), "{old} is not in the spec");
        text = text.replace(old, new);
    }
    text
}

#[test]
fn deploy_roll_and_roll_back() {
    let rolled = with(&[("free:1", "free:2"), ("fixed:1", "fixed:2")]);
    explore("roll", &[BOTH, &rolled, BOTH], bounds());
}
