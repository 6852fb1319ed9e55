//! Containers that reeve did not make: registered, followed and unregistered as registrator should have done it.
//!
//! The engine is shared with other tests, so each looks only at services with its own names, and at `labelled` containers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::support::docker::{STRANGER, docker};
use crate::support::program::Daemon;
use crate::support::shop::WEB;
use crate::support::{Site, check, eventually, http};

/// A site whose daemon looks often by itself: with nothing that wakes it, half a minute would pass between two passes.
pub(crate) fn site(name: &str) -> Site {
    let mut site = Site::new(name);
    site.more_settings = "loop: { resync: 2s }\n".to_owned();
    site.write_settings();
    site
}

/// A spec with discovery, and an upstream to what it registers under the test's own name.
pub(crate) struct Spec<'s> {
    site: &'s Site,
    discovery: &'s str,
}

impl fmt::Display for Spec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { site, discovery } = self;
        writeln!(f, "name: {}\ndiscovery: {{ containers: labelled{discovery} }}", site.project)?;
        let (name, listen) = (&site.project, site.listen());
        writeln!(f, "upstreams:\n  site: {{ service: {name}, listen: {listen}, server_name: [localhost], drain: 1s }}")
    }
}

pub(crate) fn spec<'s>(site: &'s Site, discovery: &'s str) -> Spec<'s> {
    Spec { site, discovery }
}

/// Runs a container of the test's own, `<project>-<name>`, that calls itself by its name in its answers.
pub(crate) fn run(site: &Site, name: &str, more: &[&str]) -> String {
    let full = format!("{}-{name}", site.project);
    let (label, answers) = (format!("{STRANGER}={}", site.project), format!("NAME={name}"));
    let mut arguments = vec!["run", "--detach", "--name", &full, "--label", &label, "--env", &answers];
    arguments.extend(more);
    arguments.push(WEB);
    docker(&arguments)
}

/// The same, registered under the test's name with port 80 on a host port that Docker chooses.
pub(crate) fn run_named(site: &Site, name: &str, more: &[&str]) -> String {
    let label = format!("SERVICE_NAME={}", site.project);
    run(site, name, &[&["--label", &label, "--publish", "80"], more].concat())
}

/// Docker may choose another port for IPv6.
pub(crate) fn host_port(container: &str) -> u16 {
    let each = "{{range (index .NetworkSettings.Ports \"80/tcp\")}}{{.HostIp}}:{{.HostPort}} {{end}}";
    let all = docker(&["inspect", "--format", each, container]);
    let port = all.split(' ').find_map(|one| one.strip_prefix("0.0.0.0:")).unwrap_or_else(|| panic!("{all}"));
    port.parse().expect("a port")
}

pub(crate) fn id_of(site: &Site, name: &str) -> String {
    format!("{}:{}-{name}:80/tcp", site.node, site.project)
}

/// What the agent has of the test's own containers, by id: the daemon registers those of other tests there as well, as long
/// as they are there.
pub(crate) fn registered(site: &Site) -> BTreeMap<String, Value> {
    let all = site.consul().services().into_iter();
    all.filter(|(id, _)| id.contains(&format!(":{}-", site.project))).collect()
}

pub(crate) fn answers(site: &Site, wanted: &[&str]) -> Result<(), String> {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    let seen = site.served_by(site.listen(), wanted.len().max(1) * 4)?;
    check(seen == wanted, || format!("answers of {seen:?}, not {wanted:?}"))
}

#[test]
fn a_container_is_registered_by_its_variables_and_routed_and_nothing_is_written_twice() {
    let site = site("di-names");
    let name = format!("SERVICE_NAME={}", site.project);
    let more = [
        "--label",
        &name,
        "--publish",
        "80",
        "--env",
        "SERVICE_NAME=overridden",
        "--env",
        "SERVICE_TAGS=b,a",
        "--env",
        "SERVICE_PASSWORD=hunter2",
        "--env",
        "SERVICE_TEAM=shop",
        "--label",
        "SERVICE_80_CHECK_HTTP=/health",
        "--label",
        "SERVICE_CHECK_INTERVAL=1s",
        "--label",
        "SERVICE_CHECK_TIMEOUT=1s",
    ];
    let container = run(&site, "one", &more);
    let daemon = site.run_until(&spec(&site, ", tags: [edge], metadata: [team]"), |_| answers(&site, &["one"]));
    let service = || site.consul().services()[&id_of(&site, "one")].clone();
    let seen = service();
    assert_eq!((&seen["Service"], &seen["Tags"]), (&json!(site.project), &json!(["b", "a", "edge"])));
    assert_eq!(seen["Port"], host_port(&container));
    assert_eq!(seen["Meta"]["team"], "shop");
    let everything = site.consul().get("/v1/agent/services").to_string() + &site.reeve(&["plan", "-o", "json"]).stdout;
    assert!(!everything.contains("hunter2"), "{everything}");
    let checks = site.consul().get("/v1/agent/checks");
    let declared = &checks[format!("{}:declared", id_of(&site, "one"))];
    assert_eq!((&declared["Type"], &declared["Status"]), (&json!("http"), &json!("passing")));

    let index =
        || site.consul().get(&format!("/v1/health/service/{}", site.project))[0]["Service"]["ModifyIndex"].clone();
    let before = index();
    daemon.makes_passes(3);
    assert_eq!((index(), service()), (before, seen), "an unchanged registration is not written again");
    drop(daemon);
    let before = docker(&["inspect", "--format", "{{.State.StartedAt}}", &container]);
    site.reeve(&["destroy"]).success();
    assert!(!site.consul().services().contains_key(&id_of(&site, "one")));
    assert_eq!(docker(&["inspect", "--format", "{{.State.StartedAt}}", &container]), before, "it runs on");
}

#[test]
fn with_the_containers_address_the_network_is_chosen_and_a_host_port_is_never_beside_it() {
    let site = site("di-own");
    let label = format!("{STRANGER}={}", site.project);
    let networks = [format!("{}-app", site.project), format!("{}-back", site.project)];
    for network in &networks {
        docker(&["network", "create", "--label", &label, network]);
    }
    let container = run_named(&site, "one", &["--network", &networks[0], "--env", "SERVICE_TAGS=own"]);
    docker(&["network", "connect", &networks[1], &container]);
    let address = |network: &str| {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        docker(&["inspect", "--format", &format, &container])
    };
    // Two networks, and none is named: not a random one.
    let daemon = site.run_until(&spec(&site, ", address: container"), |daemon| {
        daemon.waits(&[&id_of(&site, "one"), "several networks", "discovery.networks"]).map(drop)
    });
    assert!(!site.consul().services().contains_key(&id_of(&site, "one")));
    let chosen = format!(", address: container, networks: [{}]", networks[1]);
    site.write_spec(&spec(&site, &chosen));
    eventually("it is routed by its own address", || answers(&site, &["one"]));
    let wanted = BTreeSet::from([format!("{}:80", address(&networks[1]))]);
    assert_eq!(site.consul().passing(&site.project), wanted);
    drop(daemon);
}

#[test]
fn a_container_that_is_told_to_stop_is_unrouted_while_it_still_answers() {
    let site = site("di-stop");
    run_named(&site, "stays", &[]);
    // Its stop signal says nothing to the server in it: it answers until Docker kills it.
    let leaving = run_named(&site, "leaves", &["--stop-signal", "SIGHUP"]);
    let daemon = site.run_until(&spec(&site, ""), |_| answers(&site, &["leaves", "stays"]));
    let leaving_port = host_port(&leaving);
    // A signal that is not its stop signal is nothing.
    docker(&["kill", "--signal", "HUP", &format!("{}-stays", site.project)]);
    daemon.makes_passes(2);
    assert!(site.consul().services().contains_key(&id_of(&site, "stays")));
    answers(&site, &["leaves", "stays"]).expect("both serve on");

    let stop = Arc::new(AtomicBool::new(false));
    let (ended, listen) = (stop.clone(), site.listen());
    let load = thread::spawn(move || {
        let mut failures = Vec::new();
        let mut sent = 0;
        while !ended.load(Ordering::Relaxed) {
            sent += 1;
            match http::get(listen, "/") {
                Ok(answer) if answer.status == 200 => {}
                Ok(answer) => failures.push(format!("{}: {}", answer.status, answer.body)),
                Err(error) => failures.push(error.to_string()),
            }
        }
        (sent, failures)
    });
    // Under way in it when it is told to stop.
    let under_way = thread::spawn(move || http::get(leaving_port, "/?delay=2s").map(|answer| answer.status));
    let stopping = leaving.clone();
    let stopper = thread::spawn(move || docker(&["stop", "--time", "60", &stopping]));
    let alive = || docker(&["inspect", "--format", "{{.State.Running}}", &leaving]) == "true";
    eventually("it is unregistered and nginx does not route to it", || {
        let there = site.consul().services().contains_key(&id_of(&site, "leaves"));
        check(!there, || "it is registered".to_owned())?;
        let servers = site.nginx.servers("site");
        check(servers.len() == 1, || format!("{servers:?}"))?;
        answers(&site, &["stays"])
    });
    assert!(alive(), "it was still there when nothing was sent to it any more");
    assert_eq!(under_way.join().expect("it ends").map_err(|error| error.to_string()), Ok(200));
    // What Docker does itself when the time is over.
    docker(&["kill", &leaving]);
    stopper.join().expect("it stops");
    stop.store(true, Ordering::Relaxed);
    let (sent, failures) = load.join().expect("it ends");
    assert!(sent > 20 && failures.is_empty(), "{} of {sent} failed: {:?}", failures.len(), failures.first());
    docker(&["start", &leaving]);
    eventually("it is back", || answers(&site, &["leaves", "stays"]));
    drop(daemon);
}

#[test]
fn a_new_host_port_is_followed_also_when_nobody_saw_the_restart() {
    let site = site("di-port");
    let container = run_named(&site, "one", &[]);
    let served = |site: &Site| {
        answers(site, &["one"])?;
        let port = host_port(&container);
        let passing = site.consul().passing(&site.project);
        check(passing.len() == 1 && passing.iter().all(|at| at.ends_with(&format!(":{port}"))), || {
            format!("{passing:?}")
        })
    };
    let daemon = site.run_until(&spec(&site, ""), |_| served(&site));
    let before = host_port(&container);
    docker(&["restart", "--time", "1", &container]);
    eventually("the new port is routed", || served(&site));
    assert_ne!(host_port(&container), before, "Docker gave it another one");
    drop(daemon);
    docker(&["restart", "--time", "1", &container]);
    let moved = host_port(&container);
    site.reeve(&["apply", "--timeout", "60s"]).success();
    served(&site).expect("it is followed");
    assert_eq!(host_port(&container), moved);
}

#[test]
fn only_a_healthy_container_is_routed() {
    let site = site("di-health");
    let health = [
        "--health-cmd",
        "/bin/reeve-web --check",
        "--health-interval",
        "1s",
        "--health-retries",
        "1",
        "--health-timeout",
        "2s",
    ];
    let container = run_named(&site, "one", &health);
    let daemon = site.run_until(&spec(&site, ""), |_| answers(&site, &["one"]));
    let status = || {
        let checks = site.consul().get("/v1/agent/checks");
        checks[format!("{}:health", id_of(&site, "one"))]["Status"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(status(), "passing");
    let switch = |path: &str| http::post(host_port(&container), path).expect("the container itself answers");
    switch("/health/fail");
    eventually("it is critical and not routed", || {
        check(status() == "critical", status)?;
        let answer = http::get(site.listen(), "/").map_err(|error| error.to_string())?;
        check(answer.status == 503, || answer.body)
    });
    switch("/health/ok");
    eventually("it is routed again", || answers(&site, &["one"]));
    drop(daemon);
}

#[test]
fn what_died_while_nobody_looked_is_removed_and_strangers_are_left_alone() {
    let site = site("di-ghost");
    let ghost = run_named(&site, "ghost", &[]);
    run_named(&site, "stays", &[]);
    let daemon = site.run_until(&spec(&site, ""), |_| answers(&site, &["ghost", "stays"]));
    daemon.end(rustix::process::Signal::KILL);
    docker(&["rm", "--force", &ghost]);
    // Somebody's own, and one of another reeve on another node with an id like ours.
    site.consul().register("theirs", "theirs", "192.0.2.7", 80);
    let other = json!({
        "ID": "elsewhere:gone:80/tcp", "Name": "theirs", "Address": "192.0.2.8", "Port": 80,
        "Meta": { "reeve-owner": format!("{}@elsewhere", site.project), "reeve-service": "@discovered", "reeve-slot": "0" },
    });
    site.consul().put("/v1/agent/service/register", &other);
    let daemon = site.run_until(&spec(&site, ""), |_| {
        check(!site.consul().services().contains_key(&id_of(&site, "ghost")), || "the ghost is there".to_owned())?;
        answers(&site, &["stays"])
    });
    daemon.makes_passes(2);
    let services = site.consul().services();
    assert!(services.contains_key("theirs") && services.contains_key("elsewhere:gone:80/tcp"), "{services:?}");
}

#[test]
fn an_agent_that_lost_its_state_gets_all_of_it_back_and_nothing_is_unrouted_meanwhile() {
    let mut site = site("di-lost");
    run_named(&site, "one", &[]);
    run_named(&site, "two", &[]);
    let daemon = site.run_until(&spec(&site, ""), |_| answers(&site, &["one", "two"]));
    let generation = site.loaded();
    site.agent.kill();
    site.agent.start();
    eventually("both are back", || {
        let ids: BTreeSet<String> = registered(&site).into_keys().collect();
        check(ids == BTreeSet::from([id_of(&site, "one"), id_of(&site, "two")]), || format!("{ids:?}"))
    });
    daemon.makes_passes(2);
    answers(&site, &["one", "two"]).expect("both serve");
    assert_eq!(site.loaded(), generation, "nothing was taken out of nginx");
}

/// What registrator would have left.
pub(crate) fn leave(site: &Site, id: &str, port: u16) {
    let body = json!({
        "ID": id, "Name": site.project, "Address": "127.0.0.1", "Port": port, "Tags": [],
        "Check": { "HTTP": format!("http://127.0.0.1:{port}/health"), "Interval": "1s", "Status": "passing" },
    });
    site.consul().put("/v1/agent/service/register", &body);
}

#[test]
fn what_a_registrator_left_is_taken_over_or_removed_and_another_hosts_is_not() {
    let site = site("di-adopt");
    let container =
        run_named(&site, "one", &["--label", "SERVICE_CHECK_TCP=1", "--label", "SERVICE_CHECK_INTERVAL=1s"]);
    let old = format!("hosta:{}-one:80", site.project);
    let ghost = format!("hosta:{}-gone:80", site.project);
    let foreign = format!("hostb:{}-gone:80", site.project);
    leave(&site, &old, host_port(&container));
    leave(&site, &ghost, 9);
    leave(&site, &foreign, 9);
    let daemon: Daemon = site.run_until(&spec(&site, ", ids: registrator, hostname: hosta"), |daemon| {
        daemon.waits(&[&old, "reeve adopt --registrator"]).map(drop)
    });
    let before = registered(&site);
    assert_eq!(before.keys().collect::<BTreeSet<_>>(), BTreeSet::from([&old, &ghost, &foreign]));
    let dry = site.reeve(&["adopt", "--registrator", "--dry-run"]).success();
    assert!(
        dry.stdout.contains(&format!("take over {old}")) && dry.stdout.contains(&format!("remove {ghost}")),
        "{dry:?}"
    );
    assert!(!dry.stdout.contains(&foreign), "{dry:?}");
    assert_eq!(registered(&site), before);

    let stop = Arc::new(AtomicBool::new(false));
    let (ended, api, name, wanted) =
        (stop.clone(), site.consul(), site.project.clone(), format!(":{}", host_port(&container)));
    // Asked all the time: it is never missing.
    let watcher = thread::spawn(move || {
        while !ended.load(Ordering::Relaxed) {
            let passing = api.passing(&name);
            assert!(passing.iter().any(|at| at.ends_with(&wanted)), "{passing:?}");
        }
    });
    site.reeve(&["adopt", "--registrator"]).success();
    eventually("it is taken over with a check of ours, and the ghost is gone", || {
        let services = site.consul().services();
        check(services[&old]["Meta"]["reeve-owner"] == site.owner(), || format!("{services:?}"))?;
        check(!services.contains_key(&ghost), || format!("{services:?}"))?;
        let checks = site.consul().get("/v1/agent/checks");
        let all = checks.as_object().into_iter().flatten();
        let of_it: Vec<&String> = all.filter(|(_, one)| one["ServiceID"] == old.as_str()).map(|(id, _)| id).collect();
        // Registrator's own one is gone.
        check(of_it == [&format!("{old}:declared")], || format!("{of_it:?}"))
    });
    daemon.makes_passes(2);
    stop.store(true, Ordering::Relaxed);
    watcher.join().expect("it was there all the time");
    assert!(site.consul().services().contains_key(&foreign));
    site.reeve(&["adopt", "--registrator"]).success().says("nothing that a registrator of this host left");
}

#[test]
fn a_check_that_runs_a_program_is_refused_with_what_to_do_when_the_agent_does_not_allow_it() {
    let site = site("di-script");
    run_named(&site, "one", &["--label", "SERVICE_CHECK_SCRIPT=/bin/true $SERVICE_IP"]);
    run_named(&site, "two", &[]);
    let daemon = site.run_until(&spec(&site, ""), |daemon| {
        daemon.waits(&[&id_of(&site, "one"), "need `enable_script_checks`"])?;
        answers(&site, &["two"])
    });
    drop(daemon);
}
