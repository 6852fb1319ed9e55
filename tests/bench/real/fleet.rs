//! Many containers at once: from nothing to routed, and stopped and drained, beside the same containers (configuration,
//! network, labels) made through Docker's API alone, as fast as it goes.

use std::time::{Duration, Instant};

use crate::engine;
use crate::report::Report;
use crate::support::docker::{self, STRANGER};
use crate::support::program::Daemon;
use crate::support::shop::WEB;
use crate::support::{Site, check, within};

/// So many are started, and twice so many stopped.
const FLEET: usize = 100;
/// Docker's own time differs by a tenth from one to the next.
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(300);
/// As the spec says it.
const DRAIN: Duration = Duration::from_secs(1);
/// A spec is taken when its file has been unchanged for so long. That is asked for, too, and is not counted.
const AT_REST: Duration = Duration::from_millis(500);

/// Seen: right after a hundred thousand requests a stop took four times as long, and the floor, which comes last, did not. Most
/// likely Docker goes through the connections that the kernel tracks, for each container that stops; those are tracked for two
/// minutes.
const TRACKED: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const FEW: usize = 2000;

fn untracked() -> Result<(), String> {
    let Ok(count) = std::fs::read_to_string(TRACKED) else { return Ok(()) };
    let count = count.trim().parse::<usize>().map_err(|error| format!("{TRACKED}: {error}"))?;
    check(count < FEW, || format!("{count} connections are tracked"))
}

pub fn run(report: &mut Report) {
    within(LIMIT, "the kernel has forgotten what ran before", untracked);
    let rounds: Vec<[Pair; 2]> = (1..=ROUNDS)
        .map(|number| {
            let round = round();
            eprintln!(
                "  round {number} of {ROUNDS}: {}",
                round.map(|pair| format!("{:.2} ×", pair.ratio())).join(", ")
            );
            round
        })
        .collect();
    let what = [
        format!("{FLEET} containers from nothing to routed, beside Docker alone: median of {ROUNDS} rounds"),
        format!(
            "{} containers drained, stopped and removed, beside Docker alone: median of {ROUNDS} rounds",
            2 * FLEET
        ),
    ];
    for (at, what) in what.into_iter().enumerate() {
        // The round whose ratio is the median: its own times, which belong together.
        let mut pairs: Vec<Pair> = rounds.iter().map(|round| round[at]).collect();
        pairs.sort_by(|a, b| a.ratio().total_cmp(&b.ratio()));
        let Pair { taken, alone } = pairs[ROUNDS / 2];
        report.ratio(&what, taken, alone, Some(1.15));
    }
}

/// How long it took, and Docker alone.
#[derive(Clone, Copy)]
struct Pair {
    taken: Duration,
    alone: Duration,
}

impl Pair {
    fn ratio(&self) -> f64 {
        self.taken.as_secs_f64() / self.alone.as_secs_f64()
    }
}

/// From nothing to the fleet, and from twice as many to nothing.
fn round() -> [Pair; 2] {
    let site = Site::new("fleet");
    let daemon = site.run_until(&spec(&site, 0), |daemon| {
        daemon.status()?;
        site.loaded_is_current()
    });
    // Its own first container, whose configuration those that are made alone have, too; and the network.
    scale(&site, &daemon, 1);
    let like = engine::like(&site.containers().first().expect("there is one").id, (STRANGER, &site.project));
    scale(&site, &daemon, 0);
    let started = scale(&site, &daemon, FLEET);
    scale(&site, &daemon, 2 * FLEET);
    let stopped = scale(&site, &daemon, 0);
    drop(daemon);

    let names = |from: usize, to: usize| -> Vec<String> {
        (from..to).map(|number| format!("{}-alone-{number}", site.project)).collect()
    };
    let make = |names: &[String]| {
        engine::each(names, |name| {
            let id = engine::create_like(&like, name);
            engine::start(&id);
            id
        })
    };
    let begun = Instant::now();
    let mut ids = make(&names(0, FLEET));
    let started_alone = begun.elapsed();
    ids.extend(make(&names(FLEET, 2 * FLEET)));
    let begun = Instant::now();
    // What was asked for is no work: nobody could drain in less.
    std::thread::sleep(DRAIN);
    engine::each(&ids, |id| {
        engine::stop(id);
        engine::remove(id);
    });
    let stopped_alone = begun.elapsed();
    docker::remove_all(&format!("{STRANGER}={}", site.project));
    [Pair { taken: started, alone: started_alone }, Pair { taken: stopped, alone: stopped_alone }]
}

/// How long it takes from a new spec that is at rest until nginx routes to so many and all the rest is gone.
fn scale(site: &Site, daemon: &Daemon, replicas: usize) -> Duration {
    site.write_spec(&spec(site, replicas));
    std::thread::sleep(AT_REST);
    let begun = Instant::now();
    within(LIMIT, "the fleet is as the spec says", || {
        let routed = site.nginx.servers("site").into_iter().filter(|server| !server.starts_with("unix:")).count();
        check(routed == replicas || (replicas == 0 && routed <= 1), || format!("{routed} of {replicas} are routed"))?;
        site.loaded_is_current()?;
        let status = daemon.status()?;
        let service = &status["services"][0];
        check(service["running"] == replicas && service["desired"] == replicas, || service.to_string())?;
        check(replicas > 0 || site.containers().is_empty(), || "some are left".to_owned())
    });
    begun.elapsed()
}

/// As Docker makes them alone: no HEALTHCHECK, which has an interval of its own.
fn spec(site: &Site, replicas: usize) -> String {
    format!(
        "name: {}\nservices:\n  web:\n    image: {WEB}\n    deploy: {{ replicas: {replicas} }}\n    ports: [\"80\"]\n    \
         stop_grace_period: 2s\n    register: {{ name: web, port: 80, check: none }}\nupstreams:\n  site: {{ service: web, \
         listen: {}, server_name: [localhost], drain: 1s }}\n",
        site.project,
        site.listen()
    )
}
