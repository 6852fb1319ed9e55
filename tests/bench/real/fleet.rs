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
const LIMIT: Duration = Duration::from_secs(300);
/// As the spec says it.
const DRAIN: Duration = Duration::from_secs(1);

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
    let site = Site::new("fleet");
    let daemon = site.run_until(&spec(&site, 0), |daemon| {
        daemon.status()?;
        site.loaded_is_current()
    });
    // Its own first container, whose configuration those that are made alone have, too; and the network.
    scale(&site, &daemon, 1);
    let like = engine::like(&site.containers().first().expect("there is one").id, (STRANGER, &site.project));
    scale(&site, &daemon, 0);
    let begun = Instant::now();
    scale(&site, &daemon, FLEET);
    let started = begun.elapsed();
    scale(&site, &daemon, 2 * FLEET);
    let begun = Instant::now();
    scale(&site, &daemon, 0);
    let stopped = begun.elapsed();
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
    let what = format!("{FLEET} containers from nothing to routed, beside Docker alone");
    report.ratio(&what, started, started_alone, Some(1.15));
    let what = format!("{} containers drained, stopped and removed, beside Docker alone", 2 * FLEET);
    report.ratio(&what, stopped, stopped_alone, Some(1.15));
    docker::remove_all(&format!("{STRANGER}={}", site.project));
}

/// Writes the spec, and waits until nginx routes to so many and all the rest is gone.
fn scale(site: &Site, daemon: &Daemon, replicas: usize) {
    site.write_spec(&spec(site, replicas));
    within(LIMIT, "the fleet is as the spec says", || {
        let routed = site.nginx.servers("site").into_iter().filter(|server| !server.starts_with("unix:")).count();
        check(routed == replicas || (replicas == 0 && routed <= 1), || format!("{routed} of {replicas} are routed"))?;
        site.loaded_is_current()?;
        let status = daemon.status()?;
        let service = &status["services"][0];
        check(service["running"] == replicas && service["desired"] == replicas, || service.to_string())?;
        check(replicas > 0 || site.containers().is_empty(), || "some are left".to_owned())
    });
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
