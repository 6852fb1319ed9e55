//! A large catalog: services that somebody else registered, each with an upstream. And a burst of changes in it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use reeve::render::endpoints;
use serde_json::json;

use crate::engine::each;
use crate::report::Report;
use crate::support::counter::Counter;
use crate::support::nginx::servers_of;
use crate::support::program::Daemon;
use crate::support::{Site, check, http, within};

/// By reload; the largest also by Lua.
pub const SIZES: [usize; 3] = [10, 100, 1000];
const INSTANCES: usize = 10;
/// After so many changes one generation has been removed: five are kept besides the one that is loaded.
const UNTIL_ONE_IS_REMOVED: usize = 6;
const IDLE: Duration = Duration::from_secs(45);
const REST: Duration = Duration::from_secs(20);
/// …once in a second: the median counts.
const SAMPLES: usize = 9;
const LIMIT: Duration = Duration::from_secs(240);
/// Endpoints of the catalog: nobody asks them for anything.
const FIRST_PORT: usize = 30_000;

fn spec(site: &Site, services: usize) -> String {
    let mut text = format!("name: {}\nupstreams:\n", site.project);
    for number in 0..services {
        let _ = writeln!(
            text,
            "  u{number}: {{ service: s{number}, listen: {}, server_name: [u{number}.test], drain: 1s }}",
            site.listen()
        );
    }
    text
}

fn register(site: &Site, service: usize, instance: usize) {
    let (id, name) = (format!("s{service}-{instance}"), format!("s{service}"));
    let port = FIRST_PORT + instance;
    let body = json!({"ID": id, "Name": name, "Address": "127.0.0.1", "Port": port});
    let answer = http::put(site.consul().port, "/v1/agent/service/register", &body);
    assert!(answer.is_ok_and(|answer| answer.status == 200), "{id}");
}

fn deregister(site: &Site, service: usize, instance: usize) {
    let path = format!("/v1/agent/service/deregister/s{service}-{instance}");
    let answer = http::put(site.consul().port, &path, &serde_json::Value::Null);
    assert!(answer.is_ok_and(|answer| answer.status == 200), "{path}");
}

/// nginx has loaded what is current, and that routes each of the services to these instances.
fn routed(site: &Site, services: impl Iterator<Item = usize>, instances: &BTreeSet<usize>) -> Result<(), String> {
    let wanted: BTreeSet<String> = instances.iter().map(|one| format!("127.0.0.1:{}", FIRST_PORT + one)).collect();
    let by_lua = match fs::read_to_string(site.state().join("current/endpoints")) {
        Ok(text) => Some(endpoints::parse(&text).ok_or("the file of endpoints is not whole")?),
        Err(_) => None,
    };
    for service in services {
        let name = format!("u{service}");
        let seen = match &by_lua {
            Some((_, all)) => all.get(&name).map(|endpoints| {
                endpoints.iter().map(|one| format!("{}:{}", one.address, one.port)).collect::<BTreeSet<_>>()
            }),
            None => servers_of(site.state(), &name),
        };
        let seen = seen.ok_or_else(|| format!("no upstream {name}"))?;
        check(seen == wanted, || format!("{name}: {} of {} servers", seen.len(), wanted.len()))?;
    }
    if let Some((hash, _)) = by_lua {
        let answer = http::get(site.ports.probe(), "/").map_err(|error| error.to_string())?;
        check(answer.body.split(' ').nth(1) == Some(hash.as_str()), || format!("{}, not {hash}", answer.body))?;
    }
    site.loaded_is_current()
}

/// Through a proxy that counts, when there is one.
fn start(site: &Site, services: usize, counter: Option<&Counter>) -> Daemon {
    if let Some(counter) = counter {
        site.ask_consul_through(counter.port);
    }
    site.write_spec(&spec(site, services));
    site.start(&[])
}

pub fn scale(report: &mut Report, services: usize) {
    scale_on(report, &Site::new("catalog"), services, "");
    if Some(&services) == SIZES.last() {
        let mut site = Site::new("catalog");
        site.use_lua();
        scale_on(report, &site, services, "by lua, ");
        drop(site);
        let mut site = Site::new("catalog");
        site.use_lua();
        site.use_tls();
        scale_on(report, &site, services, "by lua, Consul by TLS, ");
    }
}

fn scale_on(report: &mut Report, site: &Site, services: usize, path: &str) {
    let all: Vec<(usize, usize)> =
        (0..services).flat_map(|service| (0..INSTANCES).map(move |instance| (service, instance))).collect();
    each(&all, |(service, instance)| register(site, *service, *instance));
    let counter = Counter::before(site.consul_port());
    let daemon = start(site, services, Some(&counter));
    let instances: BTreeSet<usize> = (0..INSTANCES).collect();
    let begun = Instant::now();
    within(LIMIT, "everything is routed", || routed(site, 0..services, &instances));
    report.figure(
        &format!("{path}{services} services × {INSTANCES}: from the start of reeve to routed"),
        begun.elapsed().as_secs_f64(),
        "s",
        None,
    );
    within(LIMIT, "the daemon is done", || daemon.converged());

    let (cpu, (requests, _)) = (processor_time(daemon.pid()), counter.requests());
    std::thread::sleep(IDLE);
    let used = (processor_time(daemon.pid()) - cpu) / IDLE.as_secs_f64() * 100.0;
    let asked = counter.requests().0 - requests;
    let what = |text: &str| format!("{path}{services} services × {INSTANCES}: {text}");
    report.figure(&what("idle, of one core"), used, "%", Some(2.0));
    // What goes by TLS cannot be told apart.
    let counted = site.agent.tls.is_none();
    if counted {
        report.figure(&what("requests to Consul while idle, in 45 s"), number(asked), "", None);
    }

    let routed_with = |service: usize, last: usize| {
        register(site, service, last);
        let wanted = (0..=last).collect();
        within(LIMIT, "the change is routed", || fast(|| routed(site, std::iter::once(service), &wanted)));
    };
    // Until then each generation is written as a whole.
    let first = INSTANCES + UNTIL_ONE_IS_REMOVED;
    for last in INSTANCES..first {
        routed_with(0, last);
        within(LIMIT, "the daemon is done", || daemon.converged());
    }
    // As between the others: right after a change, the next one waits for a quiet moment.
    std::thread::sleep(Duration::from_secs(2));
    let mut loaded = Vec::new();
    let (mut requests, mut kilobytes, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..10 {
        let service = round * services / 10;
        let before = (counter.requests(), processor_time(daemon.pid()));
        let begun = Instant::now();
        routed_with(service, if service == 0 { first } else { INSTANCES });
        loaded.push(begun.elapsed().as_secs_f64() * 1000.0);
        within(LIMIT, "the daemon is done", || daemon.converged());
        std::thread::sleep(Duration::from_secs(2));
        let after = counter.requests();
        requests.push(after.0 - before.0.0);
        kilobytes.push(after.1 - before.0.1);
        cpu.push((processor_time(daemon.pid()) - before.1) * 1000.0);
    }
    loaded.sort_by(f64::total_cmp);
    requests.sort_unstable();
    kilobytes.sort_unstable();
    cpu.sort_by(f64::total_cmp);
    report.figure(&what("one change: until loaded, median"), loaded[5], "ms", None);
    report.figure(&what("one change: until loaded, slowest of 10"), loaded[9], "ms", None);
    if counted {
        report.figure(&what("one change: requests to Consul, median"), number(requests[5]), "", None);
    }
    report.figure(&what("one change: read from Consul, median"), number(kilobytes[5]), "kB", None);
    report.figure(&what("one change: processor time of reeve, median"), cpu[5], "ms", None);
    report.figure(&what("most connections to Consul at once"), number(counter.most_connections()), "", Some(100.0));
    // What a look needs for a moment is given back within seconds; the look at everything may come just now.
    std::thread::sleep(REST);
    let mut at_rest: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            std::thread::sleep(Duration::from_secs(1));
            resident(daemon.pid())
        })
        .collect();
    at_rest.sort_by(f64::total_cmp);
    report.figure(&what("resident at rest"), at_rest[SAMPLES / 2], "MB", Some(64.0));
    report.figure(&what("resident at most"), memory(daemon.pid(), "VmHWM:"), "MB", None);
}

/// A probe that is asked again at once for a tenth of a second: the wait between two looks is not part of the figure.
fn fast(probe: impl Fn() -> Result<(), String>) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match probe() {
            Err(_) if begun.elapsed() < Duration::from_secs(5) => std::thread::sleep(Duration::from_millis(2)),
            result => return result,
        }
    }
}

pub fn burst(report: &mut Report) {
    for (path, reloads) in [("reload", 12.0), ("lua", 0.0)] {
        let mut site = Site::new("burst");
        if path == "lua" {
            site.use_lua();
        }
        burst_on(report, &site, path, reloads);
    }
}

fn burst_on(report: &mut Report, site: &Site, path: &str, most: f64) {
    const CHANGES: usize = 1000;
    const SERVICES: usize = 20;
    const LENGTH: Duration = Duration::from_secs(10);
    const LAST: usize = 99;
    let kept: BTreeSet<usize> = [0].into();
    for service in 0..SERVICES {
        register(site, service, 0);
    }
    let daemon = start(site, SERVICES, None);
    within(LIMIT, "everything is routed", || routed(site, 0..SERVICES, &kept));
    within(LIMIT, "the daemon is done", || daemon.converged());
    let reloads = || daemon.metric("reeve_nginx_reloads_total{result=\"ok\"}");
    let before = reloads();
    let begun = Instant::now();
    // Of each service one after the other comes and goes again; the last two stay.
    for change in 0..CHANGES {
        let (service, turn) = (change % SERVICES, change / SERVICES);
        let last = turn + 1 == CHANGES / SERVICES;
        if last {
            register(site, service, LAST);
        } else if turn % 2 == 0 {
            register(site, service, 1 + turn / 2);
        } else {
            deregister(site, service, 1 + turn / 2);
        }
        let due = LENGTH.mul_f64((change + 1) as f64 / CHANGES as f64);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
    }
    let sent = begun.elapsed();
    let ended = Instant::now();
    let stay: BTreeSet<usize> = [0, CHANGES / SERVICES / 2, LAST].into();
    within(LIMIT, "the final state is loaded", || fast(|| routed(site, 0..SERVICES, &stay)));
    let what = format!("{path}: burst of {CHANGES} changes in {:.1} s", sent.as_secs_f64());
    report.figure(&format!("{what}: from the last to the final state"), ended.elapsed().as_secs_f64(), "s", Some(1.0));
    within(LIMIT, "the daemon is done", || daemon.converged());
    report.figure(&format!("{what}: reloads"), reloads() - before, "", Some(most));
}

fn number(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Seconds of both kinds, by the kernel's count of a hundredth of a second.
pub fn processor_time(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / 100.0
}

/// Megabytes.
pub fn resident(pid: u32) -> f64 {
    memory(pid, "VmRSS:")
}

/// Megabytes, by the kernel's name of the figure.
fn memory(pid: u32, name: &str) -> f64 {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap_or_default();
    let kilobytes =
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kilobytes.unwrap_or_default() / 1000.0
}
