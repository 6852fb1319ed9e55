//! Plan and apply: from nothing to a service that answers, and back to nothing.

use std::time::Duration;

use serde_json::Value;

use crate::support::snapshot::{Snapshot, docker_events, docker_now};
use crate::support::{Shop, Site, check, docker, eventually, http};

#[test]
fn from_nothing_to_four_replicas_in_one_apply_and_then_nothing_is_written() {
    let mut site = Site::new("nothing");
    site.more_settings = "loop: { resync: 1s }\n".to_owned();
    site.write_settings();
    let shop = Shop::new(&site, 4);
    site.apply(&shop).says("Everything is as the spec says.");

    site.serves(site.listen(), "web", 4).expect("at the end of `apply` the new set serves");
    let endpoints = site.consul().passing("web");
    assert_eq!(endpoints.len(), 4, "{endpoints:?}");
    assert_eq!(site.nginx.servers("site"), endpoints);

    let plan = site.reeve(&["plan", "--detailed-exitcode"]).exits(0);
    assert_eq!(plan.stdout, "No changes.\n");
    let again = site.reeve(&["apply"]).success();
    assert_eq!((again.done(), again.stdout.lines().next()), (Vec::new(), Some("No changes.")));

    let mut daemon = site.start(&[]);
    eventually("the daemon finds everything as it should be", || daemon.converged());
    let (before, since) = (Snapshot::of(&site), docker_now());
    daemon.makes_passes(3);
    before.assert_same(&Snapshot::of(&site));
    assert_eq!(docker_events(&site, &since), Vec::<String>::new());
    assert_eq!(daemon.metric("reeve_passes_total{result=\"applied\"}"), 0.0);
    assert_eq!(daemon.metric("reeve_passes_total{result=\"failed\"}"), 0.0);
    daemon.lives();
}

#[test]
fn a_plan_says_what_would_be_done_and_does_nothing() {
    let site = Site::new("plan");
    site.write_spec(&Shop::new(&site, 2));
    let before = Snapshot::of(&site);
    let plan = site.reeve(&["plan", "--detailed-exitcode"]).exits(2);
    // A network, two replicas, two registrations, an upstream.
    assert!(plan.stdout.contains("Plan: 6 to add, 0 to change, 0 to destroy."), "{}", plan.stdout);
    let json: Value = serde_json::from_str(&site.reeve(&["plan", "-o", "json"]).success().stdout).expect("JSON");
    assert_eq!(json["summary"]["add"], 6, "{json:#}");
    before.assert_same(&Snapshot::of(&site));
    assert!(!site.state().exists(), "a plan makes no folder");
}

#[test]
fn a_plan_while_a_replica_starts_foresees_what_follows() {
    let site = Site::new("starts");
    let spec = Shop::new(&site, 1).to_string().replace("interval: 1s, timeout: 2s", "interval: 1m, timeout: 2s");
    site.write_spec(&spec);
    let mut begun = site.begin(&["apply"]);
    eventually("the container is started", || {
        check(begun.stderr().contains("start container") || begun.ended(), || begun.stderr())
    });
    begun.signal(rustix::process::Signal::KILL);
    let _ = begun.wait();
    let plan = site.reeve(&["plan", "--detailed-exitcode"]);
    let health = docker::docker(&["inspect", "--format", "{{.State.Health.Status}}", &site.container("web", 1).id]);
    assert_eq!(health, "starting", "the test was too slow");
    // It will be registered and routed: that is not `No changes.`
    plan.exits(2).says("register");
}

#[test]
fn the_first_plan_reads_as_the_golden_one() {
    let site = Site::new("golden");
    site.write_spec(&Shop::new(&site, 2));
    let plan = site.reeve(&["plan"]).success();
    crate::support::golden::golden(&site, "first", &plan.stdout);
}

#[test]
fn a_saved_plan_is_applied_and_refused_when_the_world_has_moved_on() {
    let site = Site::new("saved");
    let shop = Shop::new(&site, 2);
    site.write_spec(&shop);
    site.reeve(&["plan", "--out", "first.plan"]).success().says("reeve apply first.plan");
    // Neither what was edited since then nor what was shown is done.
    site.write_spec(&Shop { replicas: 1, ..shop.clone() });
    site.reeve(&["apply", "first.plan"]).exits(1).says("files have changed");
    assert_eq!(site.containers(), Vec::new());
    site.write_spec(&shop);
    site.reeve(&["apply", "first.plan"]).success();
    site.serves(site.listen(), "web", 2).expect("what the plan showed");

    site.write_spec(&Shop {
        replicas: 3,
        ports: format!("{}-{}:80", site.ports.published(0), site.ports.published(3)),
        ..shop
    });
    site.reeve(&["plan", "--out", "second.plan"]).success();
    let gone = site.container("web", 1);
    docker::docker(&["rm", "--force", &gone.id]);
    let others: Vec<String> = site.containers().into_iter().map(|one| one.id).collect();
    let refused = site.reeve(&["apply", "second.plan"]).exits(1);
    let now: Vec<String> = site.containers().into_iter().map(|one| one.id).collect();
    assert_eq!(now, others, "a plan that is refused does nothing: {}", refused.stderr);
}

#[test]
fn a_plan_that_cannot_see_consul_says_that_it_is_incomplete_and_does_what_it_lists() {
    let mut site = Site::without_consul("incomplete");
    let shop = Shop::new(&site, 2);
    site.write_spec(&shop);
    let incomplete = "more may follow as soon as Consul can be read";
    site.reeve(&["plan", "--out", "blind.plan"]).success().says("no reload of nginx so far").says(incomplete);
    site.reeve(&["apply", "blind.plan"]).exits(1).says("what the saved plan lists is done").says(incomplete);
    assert_eq!(site.containers().len(), 2);
    let rendered = site.reeve(&["render"]).success();
    assert!(rendered.stderr.contains("upstream site waits: Consul cannot be read"), "{}", rendered.stderr);
    assert!(!rendered.stdout.contains("waits"), "only the configuration: {}", rendered.stdout);
    site.agent.start();
    eventually("everything can be seen", || {
        let text = site.reeve(&["plan"]).success().stdout;
        check(!text.contains("Incomplete"), || text)
    });
    site.reeve(&["plan", "--out", "rest.plan"]).success().says("2 reloads of nginx.");
    site.reeve(&["apply", "rest.plan"]).success();
    site.serves(site.listen(), "web", 2).expect("the rest");
}

#[test]
fn apply_gives_up_in_time_and_says_what_is_open() {
    let site = Site::new("gives-up");
    let mut shop = Shop::new(&site, 1);
    // It never listens where its health check looks.
    shop.more_of_service = vec!["command: [\"--listen\", \"81\"]".to_owned()];
    site.write_spec(&shop);
    let outcome = site.reeve(&["apply", "--timeout", "6s"]).exits(1);
    assert!(outcome.took < Duration::from_secs(20), "{:?}", outcome.took);
    outcome.says("web").says("not converged after 6 s");
    assert!(site.consul().passing("web").is_empty(), "a replica that never was healthy is not registered");
}

#[test]
fn an_image_that_nobody_has_is_told_with_its_name() {
    let site = Site::new("no-image");
    let mut shop = Shop::new(&site, 1);
    "127.0.0.1:1/nobody/has:this".clone_into(&mut shop.image);
    site.write_spec(&shop);
    let outcome = site.reeve(&["apply", "--timeout", "5s"]).exits(1);
    outcome.says("127.0.0.1:1/nobody/has:this");
    assert_eq!(site.containers(), Vec::new());
}

#[test]
fn render_prints_what_is_then_loaded() {
    let site = Site::new("render");
    let shop = Shop::new(&site, 1);
    site.apply(&shop);
    let rendered = site.reeve(&["render", "site"]).success().stdout;
    let servers = site.nginx.servers("site");
    let server = servers.iter().next().expect("one endpoint");
    assert!(rendered.contains(&format!("server {server};")), "{rendered}");
    let all = site.reeve(&["render"]).success().stdout;
    assert!(all.contains(&format!("listen {};", site.listen())), "{all}");
    site.reeve(&["render", "sight"]).exits(1).says("no upstream and no template sight; upstreams: site");
}

#[test]
fn validate_works_offline_and_its_exit_code_tells() {
    let mut site = Site::without_consul("validate");
    site.docker_host = Some("unix:///nonexistent/docker.sock".to_owned());
    site.nginx_binary = "/nonexistent/nginx".to_owned();
    site.write_settings();
    let shop = Shop::new(&site, 2);
    site.write_spec(&shop);
    site.reeve(&["validate"]).success().says("1 service (2 replicas), 1 upstream");

    let wrong = shop.to_string().replace("    image:", "    imge:");
    site.write_spec(&wrong);
    let outcome = site.reeve(&["validate"]).exits(1);
    // File, line, column, the line itself, and what was meant.
    outcome.says("spec.yaml:4:5").says("imge").says("image").says("^");

    let mut unset = shop.clone();
    unset.environment.push(("GREETING".to_owned(), "${NOT_SET}".to_owned()));
    site.write_spec(&unset);
    site.reeve(&["validate"]).success().says("NOT_SET");
    site.reeve(&["validate", "--strict"]).exits(1).says("NOT_SET");
    // The other commands refuse an invalid spec with the same text, and touch nothing.
    site.write_spec(&wrong);
    for command in [&["plan"][..], &["apply"], &["run"], &["render"], &["status"]] {
        site.reeve(command).exits(1).says("spec.yaml:4:5");
    }
}

#[test]
fn destroy_takes_down_what_is_ours_in_the_safe_order() {
    let site = Site::new("destroy");
    let mut shop = Shop::new(&site, 2);
    shop.more_of_service.push("volumes: [\"data:/data\"]".to_owned());
    shop.more = "volumes:\n  data: {}\n".to_owned();
    site.apply(&shop);
    let volume = format!("{}_data", site.project);
    site.consul().register("stranger", "other", "192.0.2.7", 80);

    let outcome = site.reeve(&["destroy"]).success();
    let done = outcome.done();
    let first = |action: &str| done.iter().position(|(_, done)| done == action);
    let order: Vec<Option<usize>> =
        ["drain", "reload", "stop_container", "remove_container", "remove_network"].into_iter().map(first).collect();
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?} in {done:?}");
    assert_eq!(site.containers(), Vec::new());
    assert_eq!(site.registrations().len(), 0);
    assert!(site.consul().services().contains_key("stranger"));
    let answer = http::get(site.listen(), "/");
    assert!(answer.is_err(), "nothing listens any more: {answer:?}");
    assert!(docker::docker(&["volume", "ls", "--quiet"]).contains(&volume), "volumes are kept");
    outcome.says("Volumes are kept");

    // Again: nothing to do is success; with --volumes the data goes, too.
    site.reeve(&["destroy"]).success();
    site.reeve(&["destroy", "--volumes"]).success();
    assert!(!docker::docker(&["volume", "ls", "--quiet"]).contains(&volume));
}

#[test]
fn destroy_without_consul_waits_for_nothing_that_cannot_come() {
    let mut site = Site::new("destroy-alone");
    site.apply(&Shop::new(&site, 2));
    site.agent.kill();
    let stuck = site.reeve(&["destroy", "--timeout", "3s"]).exits(1);
    stuck.says("--without-consul");
    site.serves(site.listen(), "web", 2).expect("what cannot be drained goes on serving");
    site.reeve(&["destroy", "--without-consul", "--timeout", "30s"]).success();
    assert_eq!(site.containers(), Vec::new());
}

#[test]
fn a_project_is_destroyed_by_its_name_alone() {
    let site = Site::new("by-name");
    site.apply(&Shop::new(&site, 1));
    std::fs::remove_file(site.spec()).expect("the spec is removed");
    site.reeve(&["--project", &site.project, "destroy"]).success();
    assert_eq!(site.containers(), Vec::new());
}

#[test]
fn apply_that_is_killed_is_finished_by_the_next_one() {
    let site = Site::new("killed");
    let shop = Shop::new(&site, 3);
    site.write_spec(&shop);
    let mut begun = site.begin(&["apply"]);
    // At three different depths: nothing made yet, containers made, registrations made.
    for words in ["create container", "start container", "register"] {
        eventually("apply gets so far", || check(begun.stderr().contains(words) || begun.ended(), || begun.stderr()));
        begun.signal(rustix::process::Signal::KILL);
        let _ = begun.wait();
        begun = site.begin(&["apply"]);
    }
    begun.wait().success();
    site.serves(site.listen(), "web", 3).expect("all three serve, and no fourth");
    assert_eq!(site.containers().len(), 3);
    assert_eq!(site.registrations().len(), 3);
    site.reeve(&["plan", "--detailed-exitcode"]).exits(0);
}
