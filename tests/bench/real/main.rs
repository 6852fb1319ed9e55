//! What is measured on real servers: from a change to the traffic that follows it, many containers at once, a large
//! catalog, a burst. Each figure stands beside the floor of the parts, measured in the same run by the same definition,
//! and is a ratio of the two: a machine that is busy slows both.
//!
//! `make bench` runs all of it; names run a part: `cargo bench --bench real -- traffic fleet catalog burst balancer pure`
//! (`catalog=1000`: with so many services alone). It prints one table, and writes it to `target/bench.json` when it is whole.
//! `soak` is another program of the same kind: `-- soak 5m`.

mod balancer;
mod catalog;
mod engine;
mod fleet;
mod floor;
mod pure;
mod report;
mod soak;
#[allow(dead_code)]
#[path = "../../real/support/mod.rs"]
mod support;
mod traffic;

use std::time::{Duration, Instant};

use report::Report;

const PARTS: [&str; 6] = ["traffic", "fleet", "catalog", "burst", "balancer", "pure"];

fn main() {
    // `cargo bench` adds `--bench`, and `cargo test --benches` runs it for nothing.
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if arguments.iter().any(|word| word == "--test") {
        return;
    }
    if arguments.first().is_some_and(|word| word == "soak") {
        let length = arguments.get(1).map_or(Some(Duration::from_secs(3600)), |text| length(text));
        let Some(length) = length else {
            eprintln!("soak [5m|300s]: how long at most");
            std::process::exit(2);
        };
        std::process::exit(i32::from(!soak::run(length)));
    }
    let whole = arguments.is_empty();
    if whole {
        arguments = PARTS.map(str::to_owned).to_vec();
    }
    let started = Instant::now();
    let mut report = Report::default();
    for part in &arguments {
        eprintln!("=== {part}");
        let (name, size) = part.split_once('=').unwrap_or((part, ""));
        match (name, size.parse()) {
            ("traffic", Err(_)) => traffic::run(&mut report),
            ("fleet", Err(_)) => fleet::run(&mut report),
            ("catalog", Err(_)) => catalog::SIZES.into_iter().for_each(|size| catalog::scale(&mut report, size)),
            ("catalog", Ok(size)) => catalog::scale(&mut report, size),
            ("burst", Err(_)) => catalog::burst(&mut report),
            ("balancer", Err(_)) => balancer::run(&mut report),
            ("pure", Err(_)) => pure::run(&mut report),
            _ => {
                eprintln!("no part is called {part}; there are {}, and soak", PARTS.join(", "));
                std::process::exit(2);
            }
        }
    }
    report.print(started.elapsed(), whole);
}

/// `5m`, `300s`.
fn length(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    match unit {
        "m" => Some(Duration::from_secs(number * 60)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}
