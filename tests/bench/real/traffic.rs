//! From a change to the traffic that follows it. A container is started: until the first request is answered by it, and
//! until all of nginx is seen to route to it. One is killed: until none of nginx is seen to route to it. Beside each, the
//! floor (`floor`), by the same definition: it starts a container of its own, too, and learns its port. A start counts from the
//! engine's time stamp of it; an end from its event, since the engine tells nobody before; what it takes until then, and what
//! the floor needs from its registration on, are figures of their own. While the floor is measured the daemon is stopped by a
//! signal: it would look at the floor's container, too.
//!
//! Whoever asks leaves the processor free in between: on a small machine, an asker that never rests is what is measured.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;

use crate::engine;
use crate::floor::Floor;
use crate::report::{Report, median_and_p99};
use crate::support::docker::STRANGER;
use crate::support::nginx::send;
use crate::support::{Site, check, eventually, http};

const ROUNDS: usize = 100;
const PATHS: [(&str, f64); 2] = [("reload", 1.2), ("lua", 1.5)];
const MODULE: &str = "/usr/lib/nginx/modules/ngx_http_lua_module.so";
/// What an old worker may still answer after a new one has.
const SETTLED: Duration = Duration::from_millis(300);
const LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(1);
/// Longer than `loop.quiet`: what is measured next follows on nothing.
const REST: Duration = Duration::from_millis(100);
/// As many as there are workers, and one more.
const CONNECTIONS: usize = 3;

pub fn run(report: &mut Report) {
    for (path, goal) in PATHS {
        let mut site = Site::new("bench");
        let lua = path == "lua";
        if lua {
            if !Path::new(MODULE).exists() {
                eprintln!("  without {MODULE} (Debian: libnginx-mod-http-lua) there is no lua path");
                continue;
            }
            site.use_lua();
        }
        measure(report, &site, lua, goal);
    }
}

fn spec(site: &Site) -> String {
    let (name, listen) = (&site.project, site.listen());
    format!(
        "name: {name}\ndiscovery: {{ containers: labelled }}\nupstreams:\n  site: {{ service: {name}, listen: {listen}, \
         server_name: [localhost], drain: 1s }}\n"
    )
}

fn measure(report: &mut Report, site: &Site, lua: bool, goal: f64) {
    let mark = (STRANGER, site.project.as_str());
    let labels = [mark, ("SERVICE_NAME", site.project.as_str())];
    let base = engine::create(&format!("{}-base", site.project), &labels);
    engine::start(&base);
    let base_port = host_port(&base);
    let daemon = site.run_until(&spec(site), |daemon| {
        daemon.converged()?;
        site.served_by(site.listen(), 2).map(drop)
    });
    let mut floor = Floor::start(site, lua, base_port);
    eventually("the floor serves", || site.served_by(floor.listen, 2).map(drop));

    let pid = i32::try_from(daemon.pid()).expect("a pid");
    let probe = site.ports.probe();
    let (mut first, mut all, mut gone, mut cleared) = (vec![], vec![], vec![], vec![]);
    let (mut floor_first, mut floor_all, mut floor_gone, mut registered) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        let id = engine::create(&format!("{}-{round}", site.project), &labels);
        let seen = watched(probe, Some((site.listen(), &id[..12])), || engine::start(&id));
        let since = time_of(&id, "StartedAt");
        first.push(seen.first.duration_since(since).unwrap_or_default());
        all.push(seen.all_new.duration_since(since).unwrap_or_default());

        let other = engine::create(&format!("{}-floor-{round}", site.project), &[mark]);
        let index = floor.index(site);
        let mut since = SystemTime::now();
        send(pid, Signal::STOP);
        let seen = watched(floor.probe, Some((floor.listen, &other[..12])), || {
            engine::start(&other);
            let port = host_port(&other);
            since = SystemTime::now();
            floor.add(site, index, port, &[base_port, port]);
        });
        send(pid, Signal::CONT);
        registered.push(seen.all_new.duration_since(since).unwrap_or_default());
        let since = time_of(&other, "StartedAt");
        floor_first.push(seen.first.duration_since(since).unwrap_or_default());
        floor_all.push(seen.all_new.duration_since(since).unwrap_or_default());
        eventually("the daemon has heard of it", || daemon.converged());
        thread::sleep(REST);

        let seen = watched(probe, None, || engine::kill(&id));
        let told = engine::told_at(&id, "die").expect("its event");
        gone.push(seen.all_new.duration_since(told).unwrap_or_default());
        cleared.push(told.duration_since(time_of(&id, "FinishedAt")).unwrap_or_default());

        let index = floor.index(site);
        let mut gone_since = SystemTime::now();
        let seen = watched(floor.probe, None, || {
            gone_since = SystemTime::now();
            floor.remove(site, index, &[base_port]);
        });
        floor_gone.push(seen.all_new.duration_since(gone_since).unwrap_or_default());
        engine::remove(&id);
        engine::kill(&other);
        engine::remove(&other);
        if round % 10 == 9 {
            eprintln!("  {}: {} of {ROUNDS}", path(lua), round + 1);
        }
        // What the daemon has left to do of this round must not be part of the next.
        eventually("the daemon is done", || daemon.converged());
    }
    for (what, times, floors) in [
        ("a container is started → all of nginx routes to it", all, floor_all),
        ("one is killed (Docker's event) → none of nginx routes to it", gone, floor_gone),
        ("a container is started → first answer by it", first, floor_first),
    ] {
        let ((median, p99), (floor_median, floor_p99)) = (median_and_p99(times), median_and_p99(floors));
        report.ratio(&format!("{}: {what}, median of {ROUNDS}", path(lua)), median, floor_median, Some(goal));
        report.ratio(&format!("{}: {what}, 99th percentile", path(lua)), p99, floor_p99, None);
    }
    let (median, p99) = median_and_p99(registered);
    let what = format!("{}: of the floor, from the registration to all of nginx", path(lua));
    report.figure(&format!("{what}, median of {ROUNDS}"), median.as_secs_f64() * 1000.0, "ms", None);
    report.figure(&format!("{what}, 99th percentile"), p99.as_secs_f64() * 1000.0, "ms", None);
    let (median, p99) = median_and_p99(cleared);
    let what = format!("{}: Docker's own time, from a container's end to its event", path(lua));
    report.figure(&format!("{what}, median of {ROUNDS}"), median.as_secs_f64() * 1000.0, "ms", None);
    report.figure(&format!("{what}, 99th percentile"), p99.as_secs_f64() * 1000.0, "ms", None);
    let text = daemon.get("/metrics").map(|answer| answer.body).unwrap_or_default();
    let value = |series: &str| crate::support::program::value(&text, series).unwrap_or_default();
    let count = value("reeve_change_to_loaded_seconds_count");
    let mean = value("reeve_change_to_loaded_seconds_sum") / count.max(1.0);
    report.figure(
        &format!("{}: reeve_change_to_loaded_seconds, mean of {count}", path(lua)),
        mean * 1000.0,
        "ms",
        None,
    );
    floor.nginx.quit();
}

fn path(lua: bool) -> &'static str {
    if lua { "lua" } else { "reload" }
}

struct Watched {
    /// When the one that was waited for had answered.
    first: SystemTime,
    /// When nginx had answered by what is new, and only by that from then on.
    all_new: SystemTime,
}

/// Does something, and asks nginx meanwhile: the probe, what it runs; and, if somebody is waited for, the port, until the
/// one that calls itself so has answered.
fn watched(probe: u16, wait_for: Option<(u16, &str)>, change: impl FnOnce()) -> Watched {
    let begun = Instant::now();
    let before = runs(probe).expect("the probe answers");
    let all_new = Mutex::new(None);
    let first = Mutex::new(None);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut new_since: Option<(Instant, SystemTime)> = None;
            while begun.elapsed() < LIMIT && new_since.is_none_or(|(since, _)| since.elapsed() < SETTLED) {
                match runs(probe) {
                    Some(now) if !now.is_disjoint(&before) => new_since = None,
                    Some(_) => new_since = new_since.or_else(|| Some((Instant::now(), SystemTime::now()))),
                    None => {}
                }
                thread::sleep(PAUSE);
            }
            *all_new.lock().expect("no panic inside") = new_since.map(|(_, at)| at);
        });
        if let Some((port, name)) = wait_for {
            let first = &first;
            scope.spawn(move || {
                while begun.elapsed() < LIMIT {
                    if http::get(port, "/").is_ok_and(|answer| answer.body.contains(name)) {
                        *first.lock().expect("no panic inside") = Some(SystemTime::now());
                        break;
                    }
                    thread::sleep(PAUSE);
                }
            });
        }
        change();
    });
    let first = first.into_inner().expect("no panic inside");
    if let Some((_, name)) = wait_for {
        assert!(first.is_some(), "{name} never answers");
    }
    let all_new = all_new.into_inner().expect("no panic inside").expect("nginx changes");
    Watched { first: first.unwrap_or(all_new), all_new }
}

/// What the workers that answer have: everything but their pids. On several connections that are there at once: the kernel
/// gives one after the other to the same worker, and what an old one still runs would be seen by chance.
fn runs(probe: u16) -> Option<BTreeSet<String>> {
    let streams: Vec<_> = (0..CONNECTIONS).map(|_| http::connect(probe)).collect::<Result<_, _>>().ok()?;
    // One that an old worker closed as it went is no answer.
    let answer = |stream| {
        let answer = http::exchange(stream, "GET", "/", "localhost", "").ok()?;
        answer.body.trim_end().rsplit_once(' ').map(|(what, _)| what.to_owned())
    };
    streams.into_iter().map(answer).collect()
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
