//! `reeve explain`: it tells of real replicas and endpoints why they are in or out, and what was done; and it never writes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::program::Outcome;
use crate::support::shop::{WEB, WEB_2};
use crate::support::snapshot::Snapshot;
use crate::support::{Shop, Site, check, docker, eventually, http};

fn explained(site: &Site, name: &str) -> Value {
    let outcome = site.reeve(&["explain", name, "-o", "json"]).success();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Of the upstream `site`: the endpoint with this host port.
fn endpoint(explained: &Value, port: u16) -> Result<&Value, String> {
    let ends = format!(":{port}");
    let found = list(&explained["upstream"], "endpoints")
        .iter()
        .find(|one| one["address"].as_str().is_some_and(|address| address.ends_with(&ends)));
    found.ok_or_else(|| format!("no endpoint {port}: {explained:#}"))
}

#[test]
fn each_replica_and_endpoint_says_why_it_is_in_or_out() {
    let site = Site::new("explain");
    let mut daemon = site.run(&Shop::new(&site, 3));
    let [sick, kept_out, good] = [1, 2, 3].map(|slot| site.container("web", slot));
    let sick_port = sick.published[0];

    // One is unhealthy, one an operator keeps out of traffic.
    http::post(sick_port, "/health/fail").expect("the replica itself answers");
    let id = site.registration_id(&kept_out, 80).replace('/', "%2F");
    site.consul().put(&format!("/v1/agent/service/maintenance/{id}?enable=true&reason=disk"), &json!(null));
    eventually("the upstream says why", || {
        let explained = explained(&site, "site");
        let of_sick = endpoint(&explained, sick_port)?;
        let out = |one: &Value| one["wanted"] == false && one["loaded"] == false;
        check(out(of_sick) && of_sick["kind"] == "unfit", || format!("{of_sick:#}"))?;
        check(of_sick["replica"] == sick.name.as_str(), || format!("{of_sick:#}"))?;
        check(of_sick["reason"].as_str().is_some_and(|reason| reason.contains("HEALTHCHECK")), || {
            format!("{of_sick:#}")
        })?;
        let of_kept_out = endpoint(&explained, kept_out.published[0])?;
        check(out(of_kept_out) && of_kept_out["kind"] == "maintenance", || format!("{of_kept_out:#}"))?;
        check(of_kept_out["reason"].as_str().is_some_and(|reason| reason.contains("disk")), || {
            of_kept_out.to_string()
        })?;
        let of_good = endpoint(&explained, good.published[0])?;
        check(of_good["wanted"] == true && of_good["loaded"] == true, || format!("{of_good:#}"))
    });
    let service = explained(&site, "web");
    let replicas = list(&service["service"], "replicas");
    assert_eq!(replicas.len(), 3);
    assert_eq!(replicas[0]["healthy"], false, "{service:#}");
    assert_eq!(replicas[1]["registrations"][0]["state"], "maintenance", "{service:#}");
    assert_eq!(replicas[2]["registrations"][0]["state"], "passing", "{service:#}");
    let loaded = site.loaded().expect("nginx answers");
    assert_eq!(replicas[2]["routed"][&loaded], json!(["site"]), "{service:#}");

    // The same for people.
    let text = site.reeve(&["explain", "site"]).success();
    text.clone().says(&format!(
        "out {}",
        list(&explained(&site, "site")["upstream"], "endpoints")[1]["address"].as_str().expect("an address")
    ));
    text.says("in maintenance by somebody else: disk").says("(registered by web)");
    let text = site.reeve(&["explain", "web"]).success();
    text.says(&loaded).says("maintenance (disk)");
    daemon.lives();
}

/// Everything but the ages, which go on.
fn without_ages(outcome: &Outcome) -> String {
    outcome
        .stdout
        .lines()
        .filter(|line| !line.contains(" ago ") && !line.contains("running for"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn it_tells_the_same_without_a_daemon_what_was_done_and_writes_nothing() {
    let site = Site::new("history");
    let shop = Shop::new(&site, 1);
    let daemon = site.run(&shop);
    let mut of_daemon = site.reeve(&["explain", "web"]).success();
    eventually("its last pass has seen all that was written", || {
        of_daemon = site.reeve(&["explain", "web"]).success();
        check(of_daemon.stdout.contains("kept: "), || of_daemon.stdout.clone())
    });
    let (_, _) = daemon.end(Signal::KILL);

    let before = Snapshot::of(&site);
    let own = site.reeve(&["explain", "web"]).success();
    assert_eq!(without_ages(&own), without_ages(&of_daemon));
    before.assert_same(&Snapshot::of(&site));

    let history = site.state().join("history.jsonl");
    let mode = fs::metadata(&history).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let name = site.container("web", 1).name;
    let all = explained(&site, "web");
    let kinds: Vec<&str> = list(&all, "actions").iter().filter_map(|one| one["kind"].as_str()).collect();
    for kind in ["create_container", "start_container", "register", "write_generation", "switch_generation"] {
        assert!(kinds.contains(&kind), "{kind}: {kinds:?}");
    }
    let create = list(&all, "actions").iter().find(|one| one["kind"] == "create_container").expect("there");
    assert_eq!(create["object"], format!("replica {name}"));
    assert_eq!(create["result"], "ok");
    assert!(create["cause"].as_str().is_some_and(|cause| cause.contains("web has no replica")), "{create:#}");
    assert_eq!(all["last_error"], Value::Null);

    // A pass without actions adds nothing, nor does looking.
    let size = || fs::metadata(&history).expect("there").len();
    let length = size();
    site.reeve(&["apply", "--timeout", "30s"]).success();
    site.reeve(&["plan"]).success();
    assert_eq!(size(), length);
    // A removed container is made again: that is drift, and is told so.
    let daemon = site.run(&shop);
    docker::docker(&["rm", "--force", &site.container("web", 1).id]);
    eventually("it is made again, and told", || {
        let explained = explained(&site, "web");
        let drift =
            list(&explained, "actions").iter().any(|one| one["drift"] == true && one["kind"] == "create_container");
        check(drift, || format!("{:#}", explained["actions"]))
    });
    drop(daemon);
}

#[test]
fn an_error_is_told_with_the_action_that_failed_also_when_it_is_over() {
    let site = Site::new("lasterror");
    let mut shop = Shop::new(&site, 1);
    shop.image = "localhost/reeve-no-such-image:1".to_owned();
    site.write_spec(&shop);
    let daemon = site.start(&[]);
    eventually("the failed pull is told", || {
        let outcome = site.reeve(&["explain", "web", "-o", "json"]);
        let explained: Value = serde_json::from_str(&outcome.stdout).map_err(|error| error.to_string())?;
        let error = &explained["last_error"];
        check(error["kind"] == "pull_image", || format!("{explained:#}"))
    });
    site.reeve(&["explain", "web"]).success().says("; failed: ").says("last error").says("reeve-no-such-image");
    site.write_spec(&Shop::new(&site, 1));
    eventually("it converges", || daemon.converged());
    site.reeve(&["explain", "web"]).success().says("last error").says("reeve-no-such-image");
}

#[test]
fn a_backend_that_cannot_be_read_is_said_and_the_rest_is_told() {
    let mut site = Site::new("blind");
    site.apply(&Shop::new(&site, 1));
    site.agent.kill();
    let text = site.reeve(&["explain", "site"]).success();
    text.says("! consul is unknown").says("Consul cannot be read").says("loaded by generation");
    let text = site.reeve(&["explain", "web"]).success();
    text.says("? (Consul cannot be read)").says("as the spec says");
    site.docker_host = Some(format!("unix://{}", site.folder().join("nothing.sock").display()));
    site.write_settings();
    site.reeve(&["explain", "web"]).success().says("! docker is unknown").says("which replicas there are is not known");
    site.agent.start();
}

#[test]
fn a_mistyped_name_is_not_explained_and_the_right_one_is_named() {
    let site = Site::new("typo");
    let daemon = site.run(&Shop::new(&site, 1));
    site.reeve(&["explain", "wbe"]).exits(1).says("did you mean `web`?");
    drop(daemon);
    site.reeve(&["explain", "sit"]).exits(1).says("did you mean `site`?");
    site.reeve(&["explain", "something-else"]).exits(1).says("services: web; upstreams: site");
    // What left the spec and is still there is explained, too.
    site.write_spec(&format!("name: {}\nservices: {{}}\n", site.project));
    site.reeve(&["explain", "web"]).success().says("the spec does not have it any more");
    site.reeve(&["explain", "site"]).success().says("the spec does not have it any more");
}

#[test]
fn a_held_service_is_left_as_it_is_until_it_is_released() {
    let site = Site::new("hold");
    let mut daemon = site.run(&Shop::new(&site, 2));
    site.reeve(&["hold", "wbe"]).exits(1).says("did you mean `web`?");
    site.reeve(&["hold", "web"]).success().says("web is held").says("The daemon has taken it.");
    site.reeve(&["hold", "web"]).success().says("web is held already");
    let pinned = "reeve_service_pinned{pin=\"hold\",service=\"web\"}";
    assert_eq!(daemon.metric(pinned), 1.0);
    daemon.waits(&["service web", "held"]).expect("status says so");
    site.reeve(&["status"]).success().says("`reeve release web`");

    // Nothing of it is made again, and nginx goes on following what is there.
    let lost = site.container("web", 1);
    docker::docker(&["rm", "--force", &lost.id]);
    eventually("the other one serves alone", || site.serves(site.listen(), "web", 1));
    daemon.makes_passes(2);
    assert_eq!(site.containers().len(), 1);

    site.reeve(&["release", "web"]).success().says("web is held no more").says("The daemon has taken it.");
    eventually("it is made again", || {
        site.serves(site.listen(), "web", 2)?;
        daemon.converged()
    });
    let metrics = daemon.get("/metrics").expect("it answers").body;
    assert!(!metrics.contains("reeve_service_pinned{"), "{metrics}");
    site.reeve(&["release", "web"]).success().says("there is nothing to release");
    site.reeve(&["release", "wbe"]).exits(1).says("did you mean `web`?");
    daemon.lives();
    drop(daemon);
    // Without a daemon the next one that writes obeys.
    site.reeve(&["hold", "web"]).success().says("No daemon runs");
    docker::docker(&["rm", "--force", &site.container("web", 1).id]);
    site.reeve(&["apply", "--timeout", "30s"]).success();
    assert_eq!(site.containers().len(), 1, "held");
    site.reeve(&["-p", &site.project, "release", "web"]).success().says("No daemon runs");
    site.reeve(&["apply", "--timeout", "60s"]).success();
    site.serves(site.listen(), "web", 2).expect("both serve");
}

#[test]
fn a_rollback_goes_to_what_served_before_and_stays_until_it_is_released() {
    let site = Site::new("goback");
    let shop = Shop::new(&site, 2);
    let images = |site: &Site| {
        let all: BTreeSet<String> = site.containers().into_iter().map(|one| one.image).collect();
        all.into_iter().collect::<Vec<_>>()
    };
    let mut daemon = site.run(&shop);
    site.keeps("web");
    site.reeve(&["rollback", "web"]).exits(1).says("no other configuration of web is kept");
    site.write_spec(&Shop { image: WEB_2.to_owned(), ..shop.clone() });
    eventually("the new one serves", || {
        check(images(&site) == [WEB_2], || format!("{:?}", images(&site)))?;
        daemon.converged()
    });
    site.reeve(&["explain", "web"]).success().says("`reeve rollback` can go back to it");

    let said = site.reeve(&["rollback", "web"]).success();
    said.says("is rolled back from").says(WEB).says("The daemon has taken it.");
    eventually("the old one serves", || {
        check(images(&site) == [WEB], || format!("{:?}", images(&site)))?;
        site.serves(site.listen(), "web", 2)
    });
    assert_eq!(daemon.metric("reeve_service_pinned{pin=\"rolled_back\",service=\"web\"}"), 1.0);
    site.reeve(&["rollback", "web"]).success().says("is rolled back already");
    site.reeve(&["hold", "web"]).success();
    site.reeve(&["release", "web"]).success().says("is held no more").says("is rolled back no more");
    eventually("the spec counts again", || {
        check(images(&site) == [WEB_2], || format!("{:?}", images(&site)))?;
        daemon.converged()
    });
    // It stays also while no daemon runs.
    site.reeve(&["rollback", "web"]).success();
    eventually("the old one serves again", || check(images(&site) == [WEB], || format!("{:?}", images(&site))));
    daemon.lives();
    drop(daemon);
    let mut daemon = site.start(&[]);
    eventually("it has looked", || daemon.waits(&["service web", "rolled back"]).map(drop));
    daemon.makes_passes(1);
    assert_eq!(images(&site), [WEB]);
    site.serves(site.listen(), "web", 2).expect("both serve");
    daemon.lives();
}
