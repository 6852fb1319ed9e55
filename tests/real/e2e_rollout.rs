//! Roll-outs that fail: they pause, go on or turn back, on real servers, and nobody who asks nginx is refused meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::docker::{Container, docker};
use crate::support::program::Daemon;
use crate::support::shop::{WEB, WEB_2};
use crate::support::traffic::Traffic;
use crate::support::{Shop, Site, check, eventually, http};

/// A shop whose `deploy` section says this of updates, with a deadline that a test can wait for.
fn shop(site: &Site, replicas: u32, update: &str) -> Updated {
    let shop = Shop::new(site, replicas);
    Updated { shop, update: format!("deadline: 6s, {update}"), check: "/health".to_owned() }
}

#[derive(Clone)]
struct Updated {
    shop: Shop,
    update: String,
    /// The path that Consul asks for.
    check: String,
}

impl Updated {
    /// Another version, which never gets healthy.
    fn bad(&self) -> Self {
        let mut bad = self.clone();
        bad.shop.image = WEB_2.to_owned();
        // Unhealthy is who has this file, and the image always has it.
        bad.shop.environment = vec![
            ("HEALTH_FILE".to_owned(), "/bin/reeve-web".to_owned()),
            ("NAME".to_owned(), "swordfish".to_owned()),
            ("NAME_PASSWORD".to_owned(), "swordfish".to_owned()),
        ];
        bad
    }

    fn good(&self) -> Self {
        let mut good = self.clone();
        good.shop.image = WEB_2.to_owned();
        good
    }
}

impl std::fmt::Display for Updated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let replicas = self.shop.replicas;
        let text = self.shop.to_string();
        let plain = format!("deploy: {{ replicas: {replicas} }}");
        assert!(text.contains(&plain), "{text}");
        let text = text.replace("http: /health", &format!("http: {}", self.check));
        let update = &self.update;
        f.write_str(
            &text.replace(&plain, &format!("deploy: {{ replicas: {replicas}, update_config: {{ {update} }} }}")),
        )
    }
}

/// `(slot, image)` of the replicas that run.
fn running(site: &Site) -> Vec<(u32, String)> {
    let running = site.containers().into_iter().filter(|one| one.state == "running");
    let mut running: Vec<(u32, String)> = running.map(|one| (one.slot, one.image)).collect();
    running.sort();
    running
}

fn roll_failed(status: &Value) -> Result<Value, String> {
    let services = status["services"].as_array().expect("services");
    let waiting = services.iter().flat_map(|service| service["waiting"].as_array().expect("a list"));
    waiting
        .clone()
        .find(|one| one["kind"] == "roll_failed")
        .cloned()
        .ok_or_else(|| format!("{:?}", waiting.collect::<Vec<_>>()))
}

/// A shop of two whose version has served and is kept, the daemon that keeps it up, and its containers.
fn kept(site: &Site, update: &str) -> (Updated, Daemon, Vec<Container>) {
    let shop = shop(site, 2, update);
    let daemon = site.run(&shop);
    // What changes before its check has run has not served yet, and there is nothing to roll back to.
    site.keeps("web");
    (shop, daemon, site.containers())
}

/// Waits until the containers are those of before again, with the next version given up for them: why, as the daemon says.
#[track_caller]
fn is_rolled_back(site: &Site, daemon: &Daemon, before: &[Container]) -> String {
    let failed = eventually("it is rolled back", || {
        let containers = site.containers();
        check(containers == before, || format!("{containers:?}"))?;
        rolled_back_from(daemon)
    });
    failed.to_string()
}

/// What the daemon says of a version in whose place the one before is wanted.
fn rolled_back_from(daemon: &Daemon) -> Result<Value, String> {
    let failed = roll_failed(&daemon.status()?)?;
    let says = failed["reason"].as_str().is_some_and(|reason| reason.contains("is wanted in its place"));
    check(says, || failed.to_string())?;
    Ok(failed)
}

#[test]
fn a_bad_version_pauses_and_the_old_one_serves() {
    let site = Site::new("roll-pause");
    let shop = shop(&site, 2, "failure_action: pause");
    let daemon = site.run(&shop);

    let traffic = Traffic::start(site.listen());
    site.write_spec(&shop.bad());
    let failed = eventually("the roll-out fails", || roll_failed(&daemon.status()?));
    let reason = failed["reason"].as_str().expect("a reason");
    assert!(reason.contains("was not ready within 6 s") && reason.contains("503"), "the probe's words: {reason}");
    let log = failed["details"].to_string();
    assert!(log.contains("listening on") && log.contains("web ****** (v2)"), "the end of its log: {log}");
    assert!(!failed.to_string().contains("swordfish"), "what the spec calls secret: {failed}");
    let one_bad = vec![(1, WEB.to_owned()), (1, WEB_2.to_owned()), (2, WEB.to_owned())];
    assert_eq!(running(&site), one_bad);
    assert!((daemon.metric("reeve_rollout_failed{service=\"web\"}") - 1.0).abs() < 0.1);
    assert_eq!(daemon.log().matches("the roll-out to localhost/reeve-web:2").count(), 1, "once:\n{}", daemon.log());
    let text = site.reeve(&["status"]).success().stdout;
    assert!(text.contains("The last lines of it (service web)") && text.contains("  | web ******"), "{text}");

    // An old replica that dies meanwhile is still wanted: it comes back as it was.
    let old = site.containers().into_iter().find(|one| one.slot == 2).expect("slot 2");
    traffic.all_were_answered();
    docker(&["kill", &old.id]);
    eventually("the old one runs again", || check(running(&site) == one_bad, || format!("{:?}", running(&site))));
    daemon.makes_passes(2);
    assert_eq!(running(&site), one_bad);

    // A spec that is right goes on from there.
    site.write_spec(&shop.good());
    eventually("the good version is rolled out", || daemon.converged());
    assert_eq!(running(&site), [(1, WEB_2.to_owned()), (2, WEB_2.to_owned())]);
    assert!(daemon.metric("reeve_rollout_failed{service=\"web\"}").abs() < 0.1);
}

#[test]
fn a_paused_roll_out_goes_on_when_the_replica_gets_healthy() {
    let site = Site::new("roll-heals");
    let shop = shop(&site, 2, "failure_action: pause");
    site.apply(&shop);
    let mut late = shop.good();
    late.shop.environment = vec![("HEALTH_FILE".to_owned(), "/tmp/late".to_owned())];
    // Unhealthy from its first probe on: the file is there before it starts, and goes when the test says so.
    late.shop.more_of_service.push(format!("volumes: [\"{}:/tmp:ro\"]", site.folder().join("late").display()));
    fs::create_dir(site.folder().join("late")).expect("a folder");
    fs::write(site.folder().join("late/late"), "").expect("a file");
    site.write_spec(&late);
    let daemon = site.start(&[]);
    eventually("the roll-out fails", || roll_failed(&daemon.status()?));
    fs::remove_file(site.folder().join("late/late")).expect("removed");
    eventually("it goes on by itself", || daemon.converged());
    assert_eq!(running(&site), [(1, WEB_2.to_owned()), (2, WEB_2.to_owned())]);
}

#[test]
fn a_bad_version_is_rolled_back_and_stays_so() {
    let site = Site::new("roll-back");
    let (shop, daemon, before) = kept(&site, "failure_action: rollback");
    let traffic = Traffic::start(site.listen());
    site.write_spec(&shop.bad());
    // Killed in the middle of it, and started anew: the same end.
    eventually("the bad one runs", || check(running(&site).len() == 3, || format!("{:?}", running(&site))));
    daemon.end(Signal::KILL);
    let daemon = site.start(&[]);
    let failed = eventually("it fails", || roll_failed(&daemon.status()?));
    let rolled_back = || {
        let containers = site.containers();
        check(containers == before, || format!("{containers:?}"))
    };
    eventually("the bad one is gone, and the others were never touched", rolled_back);
    traffic.all_were_answered();
    let still = eventually("it says so as long as it is so", || rolled_back_from(&daemon));
    assert!(still["details"].to_string().contains("listening on"), "its log outlives it: {still}\n{failed}");

    // Never a loop: not with time, not after a restart.
    daemon.makes_passes(2);
    daemon.end(Signal::TERM);
    let daemon = site.start(&[]);
    eventually("it answers", || daemon.status());
    daemon.makes_passes(2);
    rolled_back().expect("a restart tries it no second time");
    let pins = fs::read_to_string(site.state().join("pins.json")).expect("pins");
    assert!(pins.contains("failed") && !pins.contains("swordfish"), "{pins}");
    daemon.end(Signal::TERM);
    site.reeve(&["apply", "--timeout", "30s"]).exits(1).says("is wanted in its place").says("listening on");

    // A changed service is tried, and the pin is gone.
    let daemon = site.start(&[]);
    site.write_spec(&shop.good());
    eventually("the good version is rolled out", || daemon.converged());
    assert_eq!(running(&site), [(1, WEB_2.to_owned()), (2, WEB_2.to_owned())]);
    let pins = fs::read_to_string(site.state().join("pins.json")).expect("pins");
    assert!(!pins.contains("failed"), "{pins}");
    let kept = site.state().join("kept/web.json");
    let mode = fs::metadata(&kept).expect("what serves is kept").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_wrong_check_is_rolled_back_and_rolled_out_when_it_is_mended() {
    let site = Site::new("roll-check");
    let (shop, daemon, before) = kept(&site, "failure_action: rollback");
    let mut wrong = shop.good();
    wrong.check = "/health/fail".to_owned();
    site.write_spec(&wrong);
    let reason = is_rolled_back(&site, &daemon, &before);
    assert!(reason.contains("Consul's check fails") && reason.contains("405"), "{reason}");
    // The container is the same as the one that failed.
    site.write_spec(&shop.good());
    eventually("the good check is rolled out", || daemon.converged());
    assert_eq!(running(&site), [(1, WEB_2.to_owned()), (2, WEB_2.to_owned())]);
}

#[test]
fn what_docker_refuses_to_make_pauses_the_roll_out_until_it_can_be_made() {
    let site = Site::new("roll-refused");
    let shop = shop(&site, 2, "failure_action: pause");
    site.apply(&shop);
    let before = running(&site);
    let page = site.folder().join("page");
    let mut refused = shop.good();
    let mount = format!(
        "{{ type: bind, source: {}, target: /page, read_only: true, bind: {{ create_host_path: false }} }}",
        page.display()
    );
    refused.shop.more_of_service.push(format!("volumes: [{mount}]"));
    site.write_spec(&refused);
    let daemon = site.start(&[]);
    let failed = eventually("the roll-out fails", || roll_failed(&daemon.status()?));
    let reason = failed["reason"].as_str().expect("a reason");
    assert!(reason.contains("bind source path does not exist") && reason.contains("for 6 s"), "{reason}");
    assert_eq!(running(&site), before);
    site.reeve(&["explain", "web"]).success().says("bind source path does not exist");
    // It is tried on, by a daemon that was started anew sooner.
    fs::create_dir(&page).expect("a folder");
    daemon.end(Signal::KILL);
    let daemon = site.start(&[]);
    eventually("it goes on by itself", || daemon.converged());
    assert_eq!(running(&site), [(1, WEB_2.to_owned()), (2, WEB_2.to_owned())]);
}

#[test]
fn what_docker_refuses_to_start_is_rolled_back() {
    let site = Site::new("roll-unstarted");
    let (shop, daemon, before) = kept(&site, "failure_action: rollback");
    let mut refused = shop.good();
    refused.shop.more_of_service.push("entrypoint: [/bin/nothing-is-here]".to_owned());
    site.write_spec(&refused);
    let reason = is_rolled_back(&site, &daemon, &before);
    assert!(reason.contains("/bin/nothing-is-here"), "Docker's own words: {reason}");
}

#[test]
fn a_failed_slot_does_not_hold_the_others_when_the_spec_says_continue() {
    let site = Site::new("roll-continue");
    let mut shop = shop(&site, 2, "failure_action: continue");
    // One of two host ports that the new ones get is enough to tell them apart: only the first is bad.
    shop.shop.ports = format!("{}-{}:80", site.ports.published(0), site.ports.published(5));
    site.apply(&shop);
    let bad = shop.bad();
    site.write_spec(&bad);
    let daemon = site.start(&[]);
    eventually("both slots were tried, and both old ones serve", || {
        let wanted = [(1, WEB), (1, WEB_2), (2, WEB), (2, WEB_2)].map(|(slot, image)| (slot, image.to_owned()));
        check(running(&site) == wanted, || format!("{:?}", running(&site)))
    });
    eventually("it says so", || roll_failed(&daemon.status()?));
}

#[test]
fn an_image_that_was_tagged_anew_and_is_bad_is_rolled_back_by_its_id() {
    let site = Site::new("roll-retag");
    let tag = format!("localhost/{}:1", site.project);
    docker(&["tag", WEB, &tag]);
    let good_id = docker(&["image", "inspect", "--format", "{{.Id}}", &tag]);
    let mut shop = shop(&site, 1, "failure_action: rollback");
    shop.shop.image.clone_from(&tag);
    site.apply(&shop);
    let before = site.containers();
    // The same configuration from an image that has nothing to run.
    let broken = site.folder().join("broken.tar");
    let tar = std::process::Command::new("tar").arg("-cf").arg(&broken).args(["-C", "/etc", "hostname"]).status();
    assert!(tar.expect("tar").success());
    docker(&["import", "--change", "CMD [\"/bin/nothing\"]", &broken.display().to_string(), &tag]);
    let daemon = site.start(&[]);
    eventually("it is rolled back to what the tag no longer means", || {
        roll_failed(&daemon.status()?)?;
        let containers = site.containers();
        check(containers == before, || format!("{containers:?}"))
    });
    let image = docker(&["inspect", "--format", "{{.Image}}", &before[0].id]);
    assert_eq!(image, good_id);
    // It is made anew from the id: nothing else is left of it.
    docker(&["rm", "--force", &before[0].id]);
    eventually("a replica of the old image serves", || {
        let answer = http::get(site.listen(), "/").map_err(|error| error.to_string())?;
        check(answer.status == 200, || answer.body)
    });
    let image = docker(&["inspect", "--format", "{{.Image}}", &site.containers()[0].id]);
    assert_eq!(image, good_id);
    drop(daemon);
    docker(&["rmi", "--force", &tag]);
}

#[test]
fn a_replica_that_dies_while_it_is_watched_fails_the_roll_out() {
    let site = Site::new("roll-monitor");
    let (shop, daemon, before) = kept(&site, "failure_action: rollback");
    let traffic = Traffic::start(site.listen());
    let mut good = shop.good();
    // Longer than it takes to look and to kill: it ends with the death.
    good.update.push_str(", monitor: 1m");
    site.write_spec(&good);
    let new = eventually("the first new one is routed beside both old ones", || {
        let containers = site.containers();
        let new = containers.iter().find(|one| one.image == WEB_2).ok_or("it is not made yet")?;
        check(site.nginx.servers("site").len() == 3, || format!("{:?}", site.nginx.servers("site")))?;
        check(containers.len() == 3, || format!("{containers:?}"))?;
        Ok(new.clone())
    });
    traffic.all_were_answered();
    docker(&["kill", &new.id]);
    let reason = is_rolled_back(&site, &daemon, &before);
    assert!(reason.contains("for which it is watched"), "{reason}");
}

#[test]
fn what_serves_is_kept_before_apply_ends_and_a_plan_says_nothing_of_it() {
    let site = Site::new("roll-kept");
    let shop = Shop::new(&site, 1);
    let applied = site.apply(&shop);
    assert!(!applied.stderr.contains("keep"), "{}", applied.stderr);
    let kept = site.state().join("kept/web.json");
    let first = fs::read(&kept).expect("it is kept");
    fs::remove_file(&kept).expect("history is lost");
    site.reeve(&["plan", "--detailed-exitcode"]).exits(0).says("No changes.");
    assert!(!kept.exists(), "a plan writes nothing");
    site.reeve(&["apply"]).success().says("No changes.");
    assert_eq!(fs::read(&kept).expect("it is kept again"), first);
    let stamp = fs::metadata(&kept).expect("there").modified().expect("a time");
    let daemon = site.start(&[]);
    eventually("it answers", || daemon.status());
    daemon.makes_passes(3);
    assert_eq!(fs::metadata(&kept).expect("there").modified().expect("a time"), stamp, "it is written once");
}
