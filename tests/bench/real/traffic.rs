//! From a change to the traffic that follows it. A container is started: until the first request is answered by it. One is
//! killed: until nginx is last seen to run what still routes to it. Beside each, the floor: the same container is
//! registered (deregistered) at the agent, a blocking query tells, `nginx -t`, HUP, and the same is seen of another nginx.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::Value;

use crate::engine;
use crate::report::{Report, median_and_p99};
use crate::support::docker::STRANGER;
use crate::support::nginx::{Nginx, send};
use crate::support::{Site, check, eventually, http};

const ROUNDS: usize = 100;
/// A way that has no Lua path is measured without one.
const PATHS: [(&str, f64); 2] = [("reload", 1.2), ("lua", 1.5)];
/// What an old worker may still answer after a new one has.
const SETTLED: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(20);

pub fn run(report: &mut Report) {
    for (path, goal) in PATHS {
        let mut site = Site::new("bench");
        if path == "lua" {
            site.more_settings = String::new();
            site.nginx_start = true;
            let text = fs::read_to_string(site.settings()).expect("the settings");
            fs::write(site.settings(), text.replace("nginx:\n", "nginx:\n  endpoints: lua\n")).expect("written");
            site.write_spec(&spec(&site));
            if site.reeve(&["validate"]).code != Some(0) {
                eprintln!("  this reeve has no `nginx.endpoints: lua`");
                continue;
            }
        }
        measure(report, &site, path, goal);
    }
}

fn spec(site: &Site) -> String {
    let (name, listen) = (&site.project, site.listen());
    format!(
        "name: {name}\ndiscovery: {{ containers: labelled }}\nupstreams:\n  site: {{ service: {name}, listen: {listen}, \
         server_name: [localhost], drain: 1s }}\n"
    )
}

struct Floor {
    nginx: Nginx,
    listen: u16,
    probe: u16,
    number: usize,
}

impl Floor {
    fn configure(&mut self, ports: &[u16]) {
        self.number += 1;
        let servers: String = ports.iter().map(|port| format!("server 127.0.0.1:{port};")).collect();
        self.nginx.write_config(&format!(
            "upstream site {{ {servers} }}\nserver {{ listen 127.0.0.1:{}; location / {{ proxy_pass http://site; }} }}\n\
             server {{ listen 127.0.0.1:{}; location / {{ return 200 \"floor-{} $pid\"; }} }}\n",
            self.listen, self.probe, self.number
        ));
    }

    /// `nginx -t`, and the signal.
    fn reload(&mut self, ports: &[u16]) {
        self.configure(ports);
        self.nginx.command(&["-t"]).expect("nginx accepts it");
        send(self.nginx.master().expect("it runs"), Signal::HUP);
    }
}

fn measure(report: &mut Report, site: &Site, path: &str, goal: f64) {
    let mark = (STRANGER, site.project.as_str());
    let labels = [mark, ("SERVICE_NAME", site.project.as_str())];
    let base = engine::create(&format!("{}-base", site.project), &labels);
    engine::start(&base);
    let base_port = host_port(&base);
    let daemon = site.run_until(&spec(site), |daemon| {
        daemon.converged()?;
        site.served_by(site.listen(), 2).map(drop)
    });
    let folder = site.folder().join("floor");
    let nginx = Nginx::new(folder, site.folder().join("floor-state"));
    let mut floor = Floor { nginx, listen: site.ports.listen(6), probe: site.ports.listen(7), number: 0 };
    floor.configure(&[base_port]);
    floor.nginx.command(&[]).expect("it starts");
    let floor_service = format!("{}-floor", site.project);
    site.consul().register("base", &floor_service, "127.0.0.1", base_port);
    eventually("the floor serves", || site.served_by(floor.listen, 2).map(drop));

    let (mut started, mut killed, mut floor_up, mut floor_down) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let name = format!("{}-{round}", site.project);
        let id = engine::create(&name, &labels);
        let begun = Instant::now();
        engine::start(&id);
        first_answer(site.listen(), &id[..12]);
        let seen = SystemTime::now();
        started.push(seen.duration_since(time_of(&id, "StartedAt")).unwrap_or_default().min(begun.elapsed()));

        let port = host_port(&id);
        // Its own blocking query waits already when the change comes.
        let index = index_of(site, &floor_service);
        let begun = Instant::now();
        site.consul().register("floor", &floor_service, "127.0.0.1", port);
        wait_for_news(site, &floor_service, index);
        floor.reload(&[base_port, port]);
        first_answer(floor.listen, &id[..12]);
        floor_up.push(begun.elapsed());

        let probe = site.ports.probe();
        let old = site.loaded().unwrap_or_default();
        let seen = last_answer(probe, &old, || engine::kill(&id));
        killed.push(seen.duration_since(time_of(&id, "FinishedAt")).unwrap_or_default());

        let index = index_of(site, &floor_service);
        let old = format!("floor-{}", floor.number);
        let mut begun = SystemTime::now();
        let seen = last_answer(floor.probe, &old, || {
            begun = SystemTime::now();
            site.consul().deregister("floor");
            wait_for_news(site, &floor_service, index);
            floor.reload(&[base_port]);
        });
        floor_down.push(seen.duration_since(begun).unwrap_or_default());
        engine::remove(&id);
        if round % 10 == 9 {
            eprintln!("  {path}: {} of {ROUNDS}", round + 1);
        }
        // What the daemon has left to do of this round must not be part of the next.
        eventually("the daemon is done", || daemon.converged());
    }
    let pairs = [
        ("a container is started → first answer by it", started, floor_up),
        ("one is killed → last seen routed", killed, floor_down),
    ];
    for (what, times, floors) in pairs {
        let ((median, p99), (floor_median, floor_p99)) = (median_and_p99(times), median_and_p99(floors));
        report.ratio(&format!("{path}: {what}, median of {ROUNDS}"), median, floor_median, Some(goal));
        report.ratio(&format!("{path}: {what}, 99th percentile"), p99, floor_p99, None);
    }
    let text = daemon.get("/metrics").map(|answer| answer.body).unwrap_or_default();
    let value = |series: &str| crate::support::program::value(&text, series).unwrap_or_default();
    let count = value("reeve_change_to_loaded_seconds_count");
    let mean = value("reeve_change_to_loaded_seconds_sum") / count.max(1.0);
    report.figure(&format!("{path}: reeve_change_to_loaded_seconds, mean of {count}"), mean * 1000.0, "ms", None);
    floor.nginx.quit();
}

/// Asks without a pause, by several at once, until the one that calls itself so has answered.
fn first_answer(port: u16, name: &str) {
    let begun = Instant::now();
    let found = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !found.load(Ordering::Relaxed) && begun.elapsed() < LIMIT {
                    if http::get(port, "/").is_ok_and(|answer| answer.body.contains(name)) {
                        found.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(found.load(Ordering::Relaxed), "{name} never answers");
}

/// Does something, and asks the probe without a pause: when it last answered the old id.
fn last_answer(probe: u16, old: &str, change: impl FnOnce()) -> SystemTime {
    let done = AtomicBool::new(false);
    let mut last = SystemTime::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            let mut new_since: Option<Instant> = None;
            let mut seen = SystemTime::now();
            while begun.elapsed() < LIMIT && new_since.is_none_or(|since| since.elapsed() < SETTLED) {
                let asked = SystemTime::now();
                let Ok(answer) = http::get(probe, "/") else { continue };
                if answer.body.split(' ').next() == Some(old) {
                    (seen, new_since) = (asked, None);
                } else {
                    new_since = new_since.or(Some(Instant::now()));
                }
            }
            last = seen;
            done.store(true, Ordering::Relaxed);
        });
        change();
    });
    assert!(done.load(Ordering::Relaxed));
    last
}

fn host_port(id: &str) -> u16 {
    let seen = engine::inspect(id);
    let bindings = seen["NetworkSettings"]["Ports"]["80/tcp"].as_array().cloned().unwrap_or_default();
    let first = bindings.iter().find(|one| one["HostIp"] == "0.0.0.0").or(bindings.first());
    first.and_then(|one| one["HostPort"].as_str()?.parse().ok()).expect("it is published")
}

fn time_of(id: &str, key: &str) -> SystemTime {
    let mut text = String::new();
    eventually("it has come to that", || {
        text = engine::inspect(id)["State"][key].as_str().unwrap_or_default().to_owned();
        check(!text.starts_with("0001"), || text.clone())
    });
    text.parse::<jiff::Timestamp>().expect("a time").into()
}

fn index_of(site: &Site, service: &str) -> u64 {
    // The index is in the header alone: the newest ModifyIndex of the service stands for it.
    let entries = site.consul().get(&format!("/v1/health/service/{service}"));
    let newest = |value: &Value| value.as_u64().unwrap_or_default();
    let of = |entry: &Value| {
        let checks = entry["Checks"].as_array().into_iter().flatten().map(|one| newest(&one["ModifyIndex"]));
        checks.chain([newest(&entry["Service"]["ModifyIndex"])]).max().unwrap_or_default()
    };
    entries.as_array().into_iter().flatten().map(of).max().unwrap_or_default()
}

/// A blocking query until the answer is another one than at that index.
fn wait_for_news(site: &Site, service: &str, index: u64) {
    site.consul().get(&format!("/v1/health/service/{service}?index={index}&wait=5s"));
}
