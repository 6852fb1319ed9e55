//! The daemon as a process: one writer, signals, the spec's file while it runs, metrics and status.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::docker::docker;
use crate::support::program::value;
use crate::support::shop::WEB;
use crate::support::snapshot::{Snapshot, docker_events, docker_now};
use crate::support::{Shop, Site, check, eventually};

#[test]
fn one_writer_at_a_time() {
    let site = Site::new("lock");
    let shop = Shop::new(&site, 1);
    let mut daemon = site.run(&shop);
    let pid = daemon.pid().to_string();
    let lock = fs::read_to_string(site.lock_file()).expect("the lock file is there");
    assert!(lock.contains(&pid), "{lock}");

    site.reeve(&["run"]).exits(1).says(&pid);
    site.reeve(&["destroy"]).exits(1).says(&pid);
    // On the same spec, `apply` waits for the daemon.
    site.reeve(&["apply", "--timeout", "20s"]).success().says("Everything is as the spec says.");
    // On another one it refuses.
    let other = site.folder().join("other.yaml");
    fs::write(&other, Shop { replicas: 2, ..shop.clone() }.to_string()).expect("written");
    let refused = site.reeve(&["-f", &other.display().to_string(), "apply", "--timeout", "20s"]).exits(1);
    refused.says(&pid).says("spec");
    assert_eq!(site.containers().len(), 1);
    // Looking is always allowed.
    site.reeve(&["plan", "--detailed-exitcode"]).exits(0);
    site.reeve(&["status"]).success();
    daemon.lives();

    // Killed, it leaves its file and not its lock.
    let (code, _) = daemon.end(Signal::KILL);
    assert_eq!(code, None);
    site.reeve(&["apply", "--timeout", "20s"]).success();
}

#[test]
fn apply_beside_a_daemon_waits_until_it_has_done_the_changed_file() {
    let site = Site::new("beside");
    let shop = Shop::new(&site, 1);
    let mut daemon = site.run(&shop);
    site.write_spec(&Shop { replicas: 2, ports: Shop::new(&site, 2).ports, ..shop });
    site.reeve(&["apply", "--timeout", "40s"]).success();
    site.serves(site.listen(), "web", 2).expect("at the end of `apply` the new set serves");
    // What the daemon has not seen yet counts as well: its last report says that all is well.
    let killed = site.container("web", 1);
    docker(&["rm", "--force", &killed.id]);
    site.reeve(&["apply", "--timeout", "40s"]).success();
    assert_ne!(site.container("web", 1).id, killed.id);
    site.serves(site.listen(), "web", 2).expect("at the end of `apply` the set is complete");
    daemon.lives();
}

#[test]
fn told_to_end_it_ends_within_two_seconds_and_the_services_go_on() {
    let site = Site::new("term");
    let shop = Shop::new(&site, 2);
    for signal in [Signal::TERM, Signal::INT] {
        let daemon = site.run(&shop);
        let (code, took) = daemon.end(signal);
        assert_eq!(code, Some(0), "{signal:?}");
        assert!(took < Duration::from_millis(2500), "{signal:?}: {took:?}");
        site.serves(site.listen(), "web", 2).expect("the services go on");
    }
    assert_eq!(site.registrations().len(), 2);
    // Also in the middle of work.
    site.write_spec(&Shop { image: crate::support::shop::WEB_2.to_owned(), ..shop.clone() });
    let daemon = site.start(&[]);
    eventually("it is in the middle of it", || {
        let containers = site.containers().len();
        check(containers == 3, || format!("{containers} containers"))
    });
    let (code, took) = daemon.end(Signal::TERM);
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_millis(2500), "{took:?}");
    site.served_by(site.listen(), 4).expect("it serves at whatever point it ended");
    site.reeve(&["apply", "--timeout", "60s"]).success();
    site.serves(site.listen(), "web", 2).expect("the next one goes on from there");
}

#[test]
fn hangup_reads_the_settings_again_and_an_invalid_file_changes_nothing() {
    let mut site = Site::new("hup");
    let shop = Shop::new(&site, 1);
    let mut daemon = site.run(&shop);
    let good = fs::read_to_string(site.settings()).expect("readable");
    fs::write(site.settings(), format!("{good}lop: {{}}\n")).expect("spoilt");
    daemon.signal(Signal::HUP);
    eventually("it says what is wrong", || daemon.logs("lop"));
    site.serves(site.listen(), "web", 1).expect("it goes on");

    // The agent moves, with everything that it knows lost.
    site.agent.kill();
    site.more_settings = "log: { level: debug }\n".to_owned();
    site.agent.start();
    site.write_settings();
    let passes = daemon.passes();
    daemon.signal(Signal::HUP);
    eventually("the settings are taken", || daemon.logs("the settings were read again"));
    eventually("it goes on with its metrics", || check(daemon.passes() > passes, || "no pass".to_owned()));
    eventually("it converges", || daemon.converged());
    site.serves(site.listen(), "web", 1).expect("it serves");
    daemon.lives();
}

#[test]
fn hangup_leaves_to_a_restart_what_only_a_restart_takes() {
    let mut site = Site::new("restart");
    let shop = Shop::new(&site, 1);
    let mut daemon = site.run(&shop);
    let before = site.containers();
    // As another node it would own nothing of what runs, and make everything once more.
    let node = std::mem::replace(&mut site.node, "other".to_owned());
    site.write_settings();
    site.node = node;
    daemon.signal(Signal::HUP);
    eventually("the settings are taken", || daemon.logs("the settings were read again"));
    daemon.logs("taken only by a restart").expect("it says what is left");
    daemon.makes_passes(1);
    eventually("it goes on as before", || daemon.converged());
    assert_eq!(daemon.status().expect("it answers")["node"], site.node.as_str());
    assert_eq!(site.containers(), before);
    daemon.lives();
    site.write_settings();
}

#[test]
fn a_changed_spec_is_taken_and_an_invalid_one_keeps_the_last_good_one() {
    let site = Site::new("edit");
    let shop = Shop::new(&site, 1);
    let mut daemon = site.run(&shop);
    let kept = site.containers();

    site.write_spec(&shop.to_string().replace("    image:", "    imge:"));
    eventually("it says where, in one line", || {
        daemon.logs("the last good one stays in force")?;
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains("the last good one stays in force")).unwrap_or_default();
        check(line.contains("spec.yaml:4:5: unknown key `imge`"), || log.clone())
    });
    eventually("the metric says it", || check(daemon.metric("reeve_spec_valid") == 0.0, || "valid".to_owned()));
    daemon.makes_passes(1);
    assert_eq!(site.containers(), kept);
    site.reeve(&["status"]).success().says("the last good one stays in force").says("spec.yaml:4:5");
    // The last good one is not only kept, it is still kept up.
    docker(&["rm", "--force", &kept[0].id]);
    eventually("the container is made again", || site.serves(site.listen(), "web", 1));

    // Half a file, as a writer without care leaves it for a moment.
    let text = Shop { replicas: 2, ports: Shop::new(&site, 2).ports, ..shop.clone() }.to_string();
    fs::write(site.spec(), &text[..text.len() / 3]).expect("written");
    fs::write(site.spec(), &text).expect("written");
    eventually("the good one is taken", || {
        daemon.converged()?;
        check(daemon.metric("reeve_spec_valid") == 1.0, || "invalid".to_owned())?;
        site.serves(site.listen(), "web", 2)
    });
    fs::remove_file(site.spec()).expect("removed");
    eventually("a file that is not there is an invalid spec", || {
        check(daemon.metric("reeve_spec_valid") == 0.0, || "valid".to_owned())
    });
    daemon.makes_passes(1);
    site.serves(site.listen(), "web", 2).expect("it goes on serving");
    daemon.lives();
}

#[test]
fn a_mass_removal_is_held_until_it_is_allowed() {
    let site = Site::new("mass");
    let mut shop = Shop::new(&site, 1);
    shop.more_services = format!(
        "  side:\n    image: {WEB}\n    stop_grace_period: 2s\n  other:\n    image: {WEB}\n    stop_grace_period: 2s\n"
    );
    let mut daemon = site.run(&shop);
    let before = site.containers();
    assert_eq!(before.len(), 3);

    // Two of three services, and all upstreams; and the third one is not what it was.
    let last = format!(
        "name: {}\nservices:\n  side:\n    image: {WEB}\n    stop_grace_period: 2s\n    environment: {{ CUT: \"1\" }}\n",
        site.project
    );
    site.write_spec(&last);
    eventually("it is held", || daemon.waits(&["--allow-removals"]).map(drop));
    daemon.makes_passes(2);
    assert_eq!(site.containers(), before);
    site.serves(site.listen(), "web", 1).expect("it goes on serving");
    let refused = site.reeve(&["apply", "--timeout", "20s"]).exits(1);
    refused.says("--allow-removals");

    site.reeve(&["apply", "--allow-removals", "--timeout", "40s"]).success();
    let left: Vec<String> = site.containers().into_iter().map(|one| one.service).collect();
    assert_eq!(left, ["side"]);
    assert!(site.registrations().is_empty());
    daemon.lives();
    // That was for this spec alone.
    drop(daemon);
    site.write_spec(&format!("name: {}\nservices: {{}}\n", site.project));
    let refused = site.reeve(&["apply", "--timeout", "20s"]).exits(1);
    refused.says("--allow-removals");
    assert_eq!(site.containers().len(), 1);
    site.reeve(&["apply", "--allow-removals", "--timeout", "20s"]).success();
    assert_eq!(site.containers().len(), 0);
}

#[test]
fn observe_writes_nothing_and_tells_what_it_would_do() {
    let site = Site::new("observe");
    let shop = Shop::new(&site, 2);
    site.apply(&Shop { replicas: 1, ..shop.clone() });
    site.write_spec(&shop);
    let (before, since) = (Snapshot::of(&site), docker_now());
    let mut daemon = site.start(&["--observe"]);
    eventually("it has looked", || {
        let status = daemon.status()?;
        check(status["steps"].as_u64().is_some_and(|steps| steps > 0), || status.to_string())
    });
    assert_eq!(daemon.status().expect("it answers")["observe_only"], true);
    assert!(daemon.metric("reeve_planned_steps{system=\"docker\"}") > 0.0);
    let plan = daemon.get("/v1/plan").expect("it answers").json();
    assert_eq!(plan["changes"], true, "{plan:#}");
    daemon.signal(Signal::HUP);
    eventually("it has looked again", || daemon.logs("the settings were read again"));
    before.assert_same(&Snapshot::of(&site));
    assert_eq!(docker_events(&site, &since), Vec::<String>::new());
    assert!(
        !site.lock_file().exists()
            || !fs::read_to_string(site.lock_file()).expect("readable").contains(&daemon.pid().to_string())
    );
    // It is no writer: somebody else may write meanwhile.
    site.reeve(&["apply", "--timeout", "40s"]).success();
    site.serves(site.listen(), "web", 2).expect("it serves");
    eventually("it sees that nothing differs", || {
        let steps = daemon.status()?["steps"].as_u64();
        check(steps == Some(0), || format!("{steps:?}"))
    });
    docker(&["rm", "--force", &site.container("web", 1).id]);
    eventually("it exports that the world drifts", || {
        let drift: f64 =
            ["docker", "consul"].iter().map(|of| daemon.metric(&format!("reeve_drift_steps{{system=\"{of}\"}}"))).sum();
        check(drift > 0.0, || format!("{drift}"))
    });
    daemon.lives();
}

#[test]
fn the_http_answers_tell_the_truth() {
    let site = Site::new("http");
    site.write_spec(&Shop::new(&site, 2));
    let mut daemon = site.start(&[]);
    eventually("it is alive", || {
        let answer = daemon.get("/healthz")?;
        check(answer.status == 200, || answer.body)
    });
    eventually("it is ready", || {
        let answer = daemon.get("/readyz")?;
        check(answer.status == 200, || answer.body)
    });
    eventually("it converges", || daemon.converged());
    let text = daemon.get("/metrics").expect("it answers").body;
    let is = |series: &str, wanted: f64| {
        let seen = value(&text, series);
        assert_eq!(seen, Some(wanted), "{series} in\n{text}");
    };
    is("reeve_containers_wanted{service=\"web\"}", 2.0);
    is("reeve_containers_running{service=\"web\"}", 2.0);
    is("reeve_containers_healthy{service=\"web\"}", 2.0);
    is("reeve_registrations_passing{service=\"web\"}", 2.0);
    is("reeve_upstream_endpoints{upstream=\"site\"}", 2.0);
    is("reeve_spec_valid", 1.0);
    for backend in ["docker", "consul", "nginx"] {
        is(&format!("reeve_backend_known{{backend=\"{backend}\"}}"), 1.0);
    }
    is("reeve_actions_total{kind=\"start_container\",result=\"ok\",system=\"docker\"}", 2.0);
    let loaded = site.loaded().expect("nginx answers");
    assert!(text.contains(&loaded), "{loaded} in\n{text}");

    // Series of a removed object disappear.
    let shop = Shop { upstreams: Vec::new(), ..Shop::new(&site, 2) };
    site.write_spec(&shop);
    eventually("the upstream's series is gone", || {
        let text = daemon.get("/metrics")?.body;
        check(!text.contains("upstream=\"site\""), || "still there".to_owned())
    });
    let plan = daemon.get("/v1/plan").expect("it answers").json();
    assert!(plan["waves"].is_array(), "{plan:#}");
    daemon.lives();
}

#[test]
fn metrics_are_clean_for_promtool() {
    let site = Site::new("promtool");
    let daemon = site.run(&Shop::new(&site, 1));
    let text = daemon.get("/metrics").expect("it answers").body;
    let mut names = std::collections::BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        assert!(names.insert(line.split(' ').next().expect("a name")), "twice: {line}");
    }
    assert!(names.iter().all(|name| name.starts_with("reeve_") || name.starts_with("process_")), "{names:?}");
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("promtool is not installed: only names and types were checked");
        return;
    };
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), text.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}

#[test]
fn status_is_the_same_with_and_without_a_daemon() {
    let site = Site::new("status");
    let shop = Shop::new(&site, 2);
    let daemon = site.run(&shop);
    let of_daemon = site.reeve(&["status"]).success();
    for words in
        ["SERVICE", "DESIRED", "RUNNING", "HEALTHY", "REGISTERED", "ROUTED", "WAITING", "CONSUL", "Leader", "site"]
    {
        assert!(of_daemon.stdout.contains(words), "{words}:\n{}", of_daemon.stdout);
    }
    assert!(
        of_daemon.stdout.lines().any(|line| line.split_whitespace().eq(["web", "2", "2", "2", "2", "2"])),
        "{}",
        of_daemon.stdout
    );
    drop(daemon);
    let own = site.reeve(&["status"]).success();
    assert_eq!(own.stdout, of_daemon.stdout);
    let json: Value = serde_json::from_str(&site.reeve(&["status", "-o", "json"]).success().stdout).expect("JSON");
    assert_eq!(json["services"][0]["routed"], 2, "{json:#}");
}

#[test]
fn the_log_says_each_thing_once() {
    let mut site = Site::new("log");
    site.more_settings = "loop: { resync: 1s }\n".to_owned();
    site.write_settings();
    let mut shop = Shop::new(&site, 1);
    // Something that waits for ever, and something that cannot be done.
    shop.upstreams.push(("nobody".to_owned(), Shop::upstream("nobody", site.ports.listen(1))));
    let daemon = site.run_until(&shop, |daemon| daemon.waits(&["nobody"]).map(drop));
    eventually("it serves", || site.serves(site.listen(), "web", 1));
    daemon.makes_passes(2);
    let before = daemon.log();
    daemon.makes_passes(4);
    assert_eq!(daemon.log(), before, "passes without news say nothing");
    assert_eq!(before.matches("upstream nobody").count(), 1, "{before}");
}

#[test]
fn secrets_are_in_no_log_plan_or_label() {
    let mut site = Site::new("secret");
    site.more_settings = "log: { level: debug }\n".to_owned();
    site.write_settings();
    let mut shop = Shop::new(&site, 1);
    shop.environment = vec![("DB_PASSWORD".to_owned(), "hunter2hunter2".to_owned())];
    site.write_spec(&shop);
    let plan = site.reeve(&["plan"]).success();
    let json = site.reeve(&["plan", "-o", "json"]).success();
    let daemon = site.run(&shop);
    shop.environment = vec![("DB_PASSWORD".to_owned(), "hunter3hunter3".to_owned())];
    site.write_spec(&shop);
    let change = site.reeve(&["plan"]).success();
    eventually("the new one runs", || {
        let one = site.container("web", 1);
        check(one.environment.iter().any(|one| one.contains("hunter3")), || format!("{:?}", one.environment))?;
        daemon.converged()
    });
    let labels = crate::support::docker::docker(&[
        "inspect",
        "--format",
        "{{json .Config.Labels}}",
        &site.container("web", 1).id,
    ]);
    let status = daemon.get("/v1/status").expect("it answers").body;
    let log = daemon.log();
    for text in [&plan.stdout, &plan.stderr, &json.stdout, &change.stdout, &labels, &status, &log] {
        assert!(!text.contains("hunter"), "{text}");
    }
}
