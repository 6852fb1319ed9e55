//! Very many changes of all kinds, one after the other: what a daemon holds must be flat at the end, and what is served
//! right.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::catalog::{processor_time, resident};
use crate::engine;
use crate::support::docker::STRANGER;
use crate::support::program::Daemon;
use crate::support::{Shop, Site, check, http, within};

const CHANGES: usize = 20_000;
const SERVICES: usize = 20;
const LIMIT: Duration = Duration::from_secs(120);
/// Between two changes, if there is time enough for all of them.
const PACE: Duration = Duration::from_millis(40);
/// How long they last at that pace.
const SPREAD: Duration = Duration::from_millis(40 * CHANGES as u64);
/// Between two looks at what is held.
const SAMPLE: Duration = Duration::from_secs(3);

/// What may only grow when something is kept for ever.
#[derive(Debug, Clone, Copy)]
struct Held {
    resident: f64,
    descriptors: usize,
    threads: usize,
    workers: usize,
    series: usize,
}

impl Held {
    /// The most of each: what is let go of after a while (a pool of connections, old workers) goes up and down.
    fn at_most(self, other: Self) -> Self {
        Self {
            resident: self.resident.max(other.resident),
            descriptors: self.descriptors.max(other.descriptors),
            threads: self.threads.max(other.threads),
            workers: self.workers.max(other.workers),
            series: self.series.max(other.series),
        }
    }

    fn of(site: &Site, daemon: &Daemon) -> Self {
        let count = |path: String| fs::read_dir(path).into_iter().flatten().count();
        let text = daemon.get("/metrics").map(|answer| answer.body).unwrap_or_default();
        Self {
            resident: resident(daemon.pid()),
            descriptors: count(format!("/proc/{}/fd", daemon.pid())),
            threads: count(format!("/proc/{}/task", daemon.pid())),
            workers: site.nginx.processes().len(),
            series: text.lines().filter(|line| !line.starts_with('#')).count(),
        }
    }
}

/// At most so long; 20,000 changes, or as many as the time allows. True: everything is as it should be.
pub fn run(length: Duration) -> bool {
    let site = Site::new("soak");
    let mut shop = Shop::new(&site, 2);
    shop.upstreams.extend((0..SERVICES).map(|number| {
        let listen = site.ports.listen(1);
        (
            format!("u{number}"),
            format!("{{ service: s{number}, listen: {listen}, server_name: [u{number}.test], drain: 1s }}"),
        )
    }));
    let mut daemon = site.run_until(&shop, |daemon| daemon.status().map(drop));
    within(LIMIT, "the shop serves", || site.serves(site.listen(), "web", 2));
    let mut there: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); SERVICES];
    let begun = Instant::now();
    let (mut done, mut containers, mut specs) = (0, 0, 0);
    // At most, while the second quarter went on: the first one fills what is kept to be used again.
    let mut warm: Option<Held> = None;
    let mut sampled = begun;
    // A stranger that comes and goes.
    let stranger = engine::create(&format!("{}-stranger", site.project), &[(STRANGER, &site.project)]);
    while done < CHANGES && begun.elapsed() < length {
        let service = done % SERVICES;
        match done {
            // The rarer ones need the engine, or a roll-out, and take their time.
            _ if done % 400 == 399 => {
                let victim = engine::kill;
                if let Some(one) = site.containers().iter().find(|one| one.service == "web" && one.state == "running") {
                    victim(&one.id);
                    containers += 1;
                }
            }
            _ if done % 400 == 199 => {
                shop.environment = vec![("ROUND".to_owned(), done.to_string())];
                site.write_spec(&shop);
                specs += 1;
            }
            _ if done % 100 == 50 => {
                engine::start(&stranger);
                engine::kill(&stranger);
                containers += 1;
            }
            _ if done % 50 == 25 => {
                let enable = done % 100 == 25;
                let path = format!("/v1/agent/service/maintenance/s0-x?enable={enable}&reason=soak");
                put(
                    &site,
                    "/v1/agent/service/register",
                    &json!({"ID": "s0-x", "Name": "s0", "Address": "127.0.0.1", "Port": 29_999}),
                );
                put(&site, &path, &serde_json::Value::Null);
            }
            _ => {
                let instance = fastrand::usize(0..8);
                let id = format!("s{service}-{instance}");
                if there[service].remove(&instance) {
                    put(&site, &format!("/v1/agent/service/deregister/{id}"), &serde_json::Value::Null);
                } else {
                    there[service].insert(instance);
                    let (name, port) = (format!("s{service}"), 30_000 + instance);
                    put(
                        &site,
                        "/v1/agent/service/register",
                        &json!({"ID": id, "Name": name, "Address": "127.0.0.1", "Port": port}),
                    );
                }
            }
        }
        done += 1;
        // As many as fit, spread over the time.
        let due = length.mul_f64(0.95 * done as f64 / CHANGES as f64).min(PACE * u32::try_from(done).unwrap_or(1));
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        let (now, quarter) = (begun.elapsed(), length.min(SPREAD) / 4);
        if now > quarter && now < quarter * 2 && sampled.elapsed() > SAMPLE {
            sampled = Instant::now();
            let held = Held::of(&site, &daemon);
            warm = Some(warm.map_or(held, |before| before.at_most(held)));
        }
    }
    put(&site, "/v1/agent/service/deregister/s0-x", &serde_json::Value::Null);
    engine::remove(&stranger);
    within(LIMIT, "the daemon is done", || daemon.converged());
    daemon.lives();
    let right = (0..SERVICES).all(|service| {
        let wanted: BTreeSet<String> = there[service].iter().map(|one| format!("127.0.0.1:{}", 30_000 + one)).collect();
        let seen = site.nginx.servers(&format!("u{service}"));
        let good =
            seen.iter().filter(|server| server.starts_with("127.0.0.1:3")).cloned().collect::<BTreeSet<_>>() == wanted;
        if !good {
            eprintln!("u{service}: {seen:?}, not {wanted:?}");
        }
        good
    });
    within(LIMIT, "the shop serves", || site.serves(site.listen(), "web", 2));
    // What old workers and connections hold is let go of within nginx's shutdown timeout.
    std::thread::sleep(Duration::from_secs(15));
    let (warm, end) = (warm.unwrap_or_else(|| Held::of(&site, &daemon)), Held::of(&site, &daemon));
    let took = begun.elapsed().as_secs();
    println!("{done} changes in {took} s: {containers} of containers, {specs} of the spec, the others of the catalog");
    println!(
        "processor time: {:.1} s; passes {}, reloads {}",
        processor_time(daemon.pid()),
        daemon.passes(),
        daemon.metric("reeve_nginx_reloads_total{result=\"ok\"}")
    );
    println!("held at most in the second quarter: {warm:?}\nheld at the end:                    {end:?}");
    let flat = end.resident <= warm.resident * 1.15 + 2.0
        && end.descriptors <= warm.descriptors + 8
        && end.threads <= warm.threads + 4
        && end.series <= warm.series + 20
        && end.workers <= 3;
    println!(
        "the observed end state is {}; what is held is {}",
        word(right, "right", "WRONG"),
        word(flat, "flat", "NOT FLAT")
    );
    right && flat && site.loaded_is_current().is_ok()
}

fn word(good: bool, yes: &'static str, no: &'static str) -> &'static str {
    if good { yes } else { no }
}

fn put(site: &Site, path: &str, body: &serde_json::Value) {
    let answer = http::put(site.consul().port, path, body);
    if let Err(so_far) =
        answer.map_err(|error| error.to_string()).and_then(|answer| check(answer.status == 200, || answer.body.clone()))
    {
        eprintln!("{path}: {so_far}");
    }
}
