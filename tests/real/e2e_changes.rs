//! One kind of change each: the plan's text is golden, and `apply` then does exactly what the plan said.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::support::golden::golden;
use crate::support::shop::{WEB, WEB_2};
use crate::support::traffic::Traffic;
use crate::support::{Shop, Site, check, eventually, http};

/// Objects as the servers have them, each with what tells one state of it from another.
struct World {
    objects: BTreeMap<String, String>,
}

impl World {
    fn of(site: &Site) -> Self {
        let mut objects = BTreeMap::new();
        let status = site.reeve(&["status", "-o", "json"]).success().stdout;
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let containers = site.containers();
        objects.extend(containers.iter().map(|one| (format!("replica {}", one.name), one.id.clone())));
        let services = site.consul().services();
        let registrations = site.registrations();
        objects.extend(registrations.iter().map(|id| (format!("registration {id}"), services[id].to_string())));
        let networks = containers.iter().flat_map(|one| one.networks.keys());
        objects.extend(networks.map(|name| (format!("network {name}"), String::new())));
        let files = site.nginx.files();
        let text = |name: &str| fs::read_to_string(&files[name]).expect("a file of the generation is readable");
        let upstreams = files.keys().filter_map(|file| file.strip_prefix("upstream-")?.strip_suffix(".conf"));
        for upstream in upstreams {
            let servers = files.keys().filter(|file| file.starts_with("server-")).map(|file| text(file));
            let routed: Vec<String> =
                servers.filter(|text| text.contains(&format!("://{}.{upstream};", site.project))).collect();
            // The same address may be another container by now.
            let behind: BTreeSet<&str> = containers
                .iter()
                .filter(|one| {
                    let ports = site.nginx.servers(upstream);
                    one.published.iter().any(|port| ports.iter().any(|server| server.ends_with(&format!(":{port}"))))
                })
                .map(|one| one.id.as_str())
                .collect();
            let query = status["upstreams"].as_array().into_iter().flatten();
            let query = query.filter(|one| one["name"] == upstream).map(|one| one["query"].to_string());
            let query: Vec<String> = query.collect();
            let state = format!("{query:?}{}{routed:?}{behind:?}", text(&format!("upstream-{upstream}.conf")));
            objects.insert(format!("upstream {upstream}"), state);
        }
        Self { objects }
    }

    fn replicas(&self, service: &str) -> usize {
        self.objects.keys().filter(|key| key.starts_with("replica ") && key.contains(&format!("-{service}-"))).count()
    }

    /// As in `Plan: N to add, N to change, N to destroy.`
    fn difference(&self, later: &Self) -> (usize, usize, usize) {
        let add = later.objects.keys().filter(|key| !self.objects.contains_key(*key)).count();
        let destroy = self.objects.keys().filter(|key| !later.objects.contains_key(*key)).count();
        let changed = |(key, state): &(&String, &String)| later.objects.get(*key).is_some_and(|new| new != *state);
        (add, self.objects.iter().filter(changed).count(), destroy)
    }
}

/// `(object, action)` of every step of every wave, sorted; nginx's only by whether there are any: how many generations
/// it takes depends on how close to each other replicas become healthy.
fn planned(plan: &Value) -> Vec<(String, String)> {
    let waves = plan["waves"].as_array().expect("waves").iter();
    let steps = waves.flat_map(|wave| wave["steps"].as_array().expect("steps"));
    let text = |step: &Value, key: &str| step[key].as_str().expect("a string").to_owned();
    comparable(steps.map(|step| (text(step, "object"), text(step, "action"))))
}

fn comparable(steps: impl Iterator<Item = (String, String)>) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = steps.filter(|(_, action)| action != "remove_generation").collect();
    all.sort();
    let mut seen_nginx = BTreeSet::new();
    all.retain(|(object, action)| object != "nginx" || seen_nginx.insert(action.clone()));
    all
}

/// Plans the change from what is there to `to`, compares the text with the golden one, applies it, and compares what was
/// done and what has become of it with the plan.
#[track_caller]
fn change(site: &Site, name: &str, to: &Shop) -> String {
    checks_have_run(site);
    forget_old_generations(site);
    let before = World::of(site);
    site.write_spec(to);
    let text = site.reeve(&["plan", "--detailed-exitcode"]).exits(2).stdout;
    let json: Value = serde_json::from_str(&site.reeve(&["plan", "-o", "json"]).success().stdout).expect("JSON");
    golden(site, name, &text);

    // Two replicas and more must not cost a single request, however they are replaced.
    let traffic = (before.replicas("web") >= 2 && to.replicas >= 2).then(|| Traffic::start(site.listen()));
    let applied = site.reeve(&["apply", "--timeout", "60s"]).success();
    if let Some(traffic) = traffic {
        traffic.all_were_answered();
    }
    assert_eq!(comparable(applied.done().into_iter()), planned(&json), "done, and planned:\n{text}{}", applied.stderr);
    let (add, change, destroy) = before.difference(&World::of(site));
    let summary = format!("Plan: {add} to add, {change} to change, {destroy} to destroy.");
    assert!(text.contains(&summary), "{summary} is what became of it; the plan said:\n{text}");
    assert!(applied.stdout.contains(&summary), "{}", applied.stdout);
    site.reeve(&["plan", "--detailed-exitcode"]).exits(0).says("No changes.");
    site.loaded_is_current().expect("what was written is loaded");
    // What is registered, passing and routed is what runs.
    if to.upstreams.iter().any(|(name, _)| name == "site") {
        assert_eq!(site.nginx.servers("site"), site.consul().passing(&to.registered));
    }
    text
}

/// A golden plan must not depend on whether Consul has run the checks of what was just made.
#[track_caller]
fn checks_have_run(site: &Site) {
    eventually("every declared check has run", || {
        let checks = site.consul().get("/v1/agent/checks");
        let declared = checks.as_object().into_iter().flatten().filter(|(id, _)| id.ends_with(":declared"));
        let silent: Vec<&String> = declared.filter(|(_, check)| check["Output"] == "").map(|(id, _)| id).collect();
        check(silent.is_empty(), || format!("{silent:?}"))
    });
}

/// A golden plan must not depend on which of the new replicas was healthy first. (Losing them costs history only.)
fn forget_old_generations(site: &Site) {
    let current = site.nginx.generation().expect("something is loaded");
    for entry in fs::read_dir(site.state().join("generations")).expect("readable").flatten() {
        if entry.file_name().to_string_lossy() != current {
            fs::remove_dir_all(entry.path()).expect("removed");
        }
    }
}

/// The plan must say `old => new` of the field, and that the service stays whole.
#[track_caller]
fn says(plan: &str, change: &str, lowest: &str) {
    assert!(plan.contains(change), "{change:?} is not in the plan:\n{plan}");
    assert!(plan.contains(lowest), "{lowest:?} is not in the plan:\n{plan}");
}

fn numbers(site: &Site) -> (usize, usize, usize) {
    (site.containers().len(), site.registrations().len(), site.nginx.servers("site").len())
}

#[test]
fn replicas_four_two_four() {
    let site = Site::new("scale");
    let four = Shop::new(&site, 4);
    site.apply(&four);
    let first: Vec<String> = site.containers().into_iter().map(|one| one.id).collect();

    change(&site, "scale-down", &Shop { replicas: 2, ..four.clone() });
    assert_eq!(numbers(&site), (2, 2, 2));
    let kept: Vec<String> = site.containers().into_iter().map(|one| one.id).collect();
    assert_eq!(kept, first[..2], "slots 1 and 2 are left alone");

    change(&site, "scale-up", &four);
    assert_eq!(numbers(&site), (4, 4, 4));
    site.serves(site.listen(), "web", 4).expect("all four serve");
}

#[test]
fn the_image_changed_start_first() {
    let site = Site::new("image");
    let shop = Shop::new(&site, 2);
    site.apply(&shop);
    let plan = change(&site, "image", &Shop { image: WEB_2.to_owned(), ..shop });
    says(&plan, &format!("image: \"{WEB}\" => \"{WEB_2}\""), "web lowest healthy: 2 of 2");
    assert!(site.containers().iter().all(|one| one.image == WEB_2));
    let answer = http::get(site.listen(), "/").expect("it serves");
    assert!(answer.body.contains("(v2)"), "{}", answer.body);
    assert_eq!(numbers(&site), (2, 2, 2));
}

#[test]
fn the_image_changed_stop_first_because_no_port_is_spare() {
    let site = Site::new("image-full");
    let mut shop = Shop::new(&site, 2);
    shop.ports = format!("{}-{}:80", site.ports.published(0), site.ports.published(1));
    site.apply(&shop);
    let plan = change(&site, "image-stop-first", &Shop { image: WEB_2.to_owned(), ..shop });
    says(&plan, &format!("image: \"{WEB}\" => \"{WEB_2}\""), "web lowest healthy: 1 of 2");
    assert_eq!(numbers(&site), (2, 2, 2));
}

#[test]
fn a_replica_that_was_made_a_moment_ago_is_not_given_up_either() {
    let site = Site::new("fresh");
    let shop = Shop { replicas: 1, ..Shop::new(&site, 2) };
    // Registered, routed, and Consul has not run its check yet: it serves all the same.
    site.apply(&shop.to_string().replace("interval: 1s, timeout: 1s", "interval: 30s, timeout: 1s"));
    site.write_spec(&Shop { image: WEB_2.to_owned(), ..shop });
    let plan = site.reeve(&["plan"]).success().stdout;
    assert!(plan.contains("web lowest healthy: 1 of 1"), "{plan}");
}

#[test]
fn an_image_that_was_tagged_anew_replaces() {
    let site = Site::new("retag");
    let tag = format!("localhost/{}:now", site.project);
    crate::support::docker::docker(&["tag", WEB, &tag]);
    let shop = Shop { image: tag.clone(), ..Shop::new(&site, 1) };
    site.apply(&shop);
    crate::support::docker::docker(&["tag", WEB_2, &tag]);
    let plan = change(&site, "retag", &shop);
    says(&plan, "was tagged anew", "web lowest healthy: 1 of 1");
    let answer = http::get(site.listen(), "/").expect("it serves");
    crate::support::docker::docker(&["rmi", "--force", &tag]);
    assert!(answer.body.contains("(v2)"), "{}", answer.body);
}

#[test]
fn the_environment_changed() {
    let site = Site::new("env");
    let mut shop = Shop::new(&site, 2);
    shop.environment = vec![("NAME".to_owned(), "first".to_owned())];
    site.apply(&shop);
    assert_eq!(site.served_by(site.listen(), 4).expect("it serves"), BTreeSet::from(["first".to_owned()]));
    shop.environment = vec![("NAME".to_owned(), "second".to_owned()), ("MORE".to_owned(), "1".to_owned())];
    let plan = change(&site, "env", &shop);
    says(&plan, "environment.NAME: \"first\" => \"second\"", "web lowest healthy: 2 of 2");
    assert_eq!(site.served_by(site.listen(), 4).expect("it serves"), BTreeSet::from(["second".to_owned()]));
}

#[test]
fn the_container_port_changed() {
    let site = Site::new("port");
    let shop = Shop::new(&site, 2);
    site.apply(&shop);
    let (first, last) = (site.ports.published(0), site.ports.published(2));
    let plan = change(&site, "port", &Shop { port: 8080, ports: format!("{first}-{last}:8080"), ..shop });
    says(&plan, " => ", "web lowest healthy: 2 of 2");
    site.serves(site.listen(), "web", 2).expect("it serves");
}

#[test]
fn the_host_ports_changed() {
    let site = Site::new("hostport");
    let shop = Shop::new(&site, 2);
    site.apply(&shop);
    let (first, last) = (site.ports.published(10), site.ports.published(12));
    let plan = change(&site, "host-ports", &Shop { ports: format!("{first}-{last}:80"), ..shop });
    says(&plan, " => ", "web lowest healthy: 2 of 2");
    let published: BTreeSet<u16> = site.containers().iter().flat_map(|one| one.published.clone()).collect();
    assert_eq!(published.len(), 2);
    assert!(published.iter().all(|port| (first..=last).contains(port)), "{published:?}");
}

#[test]
fn the_registration_changed_in_place() {
    let site = Site::new("tags");
    let shop = Shop::new(&site, 2);
    site.apply(&shop);
    let before: Vec<String> = site.containers().into_iter().map(|one| one.id).collect();
    site.write_spec(&shop);
    let to = shop.to_string().replace("port: 80, check", "port: 80, tags: [blue], check");
    site.write_spec(&to);
    let text = site.reeve(&["plan", "--detailed-exitcode"]).exits(2).stdout;
    golden(&site, "tags", &text);
    site.reeve(&["apply"]).success();
    let after: Vec<String> = site.containers().into_iter().map(|one| one.id).collect();
    assert_eq!(before, after, "no container is replaced for it");
    let services = site.consul().services();
    assert!(site.registrations().iter().all(|id| services[id]["Tags"] == serde_json::json!(["blue"])), "{services:?}");
}

/// A second service, so that what happens to the first is no mass removal.
fn with_side(shop: Shop) -> Shop {
    let side = format!("  side:\n    image: {WEB}\n    stop_grace_period: 2s\n");
    Shop { more_services: side, ..shop }
}

#[test]
fn a_service_was_renamed() {
    let site = Site::new("rename");
    let shop = with_side(Shop::new(&site, 2));
    site.apply(&shop);
    let (first, last) = (site.ports.published(10), site.ports.published(12));
    let renamed = Shop { service: "front".to_owned(), ports: format!("{first}-{last}:80"), ..shop };
    let plan = change(&site, "rename", &renamed);
    assert!(!plan.contains("no endpoint passes"), "there is room to serve throughout:\n{plan}");
    site.serves(site.listen(), "front", 2).expect("it serves under its new name");
    let services: BTreeSet<String> = site.containers().into_iter().map(|one| one.service).collect();
    assert_eq!(services, BTreeSet::from(["front".to_owned(), "side".to_owned()]));
}

#[test]
fn a_consul_service_was_renamed() {
    let site = Site::new("rename-reg");
    let shop = Shop::new(&site, 2);
    site.apply(&shop);
    let before: Vec<String> = site.containers().into_iter().map(|one| one.id).collect();
    let upstreams = vec![("site".to_owned(), Shop::upstream("front", site.listen()))];
    let plan = change(&site, "rename-registered", &Shop { registered: "front".to_owned(), upstreams, ..shop });
    assert!(!plan.contains("no endpoint passes"), "the replicas serve throughout:\n{plan}");
    site.serves(site.listen(), "web", 2).expect("it serves");
    assert!(site.consul().passing("web").is_empty(), "nothing is left under the old name");
    let after: Vec<String> = site.containers().into_iter().map(|one| one.id).collect();
    assert_eq!(before, after, "no container is replaced for it");
}

#[test]
fn a_service_was_added_and_removed() {
    let site = Site::new("service");
    let shop = Shop::new(&site, 1);
    site.apply(&shop);
    change(&site, "service-added", &with_side(shop.clone()));
    assert_eq!(site.containers().len(), 2);
    change(&site, "service-removed", &shop);
    assert_eq!(site.containers().len(), 1);
}

#[test]
fn an_upstream_was_added_moved_and_removed() {
    let site = Site::new("upstream");
    let shop = Shop::new(&site, 1);
    site.apply(&shop);
    let with = |listen: u16| {
        let mut shop = shop.clone();
        shop.upstreams.push(("second".to_owned(), Shop::upstream("web", listen)));
        shop
    };
    let (one, other) = (site.ports.listen(1), site.ports.listen(2));

    change(&site, "upstream-added", &with(one));
    site.serves(one, "web", 1).expect("it serves on the second port");
    site.serves(site.listen(), "web", 1).expect("it serves on the first port");

    change(&site, "upstream-moved", &with(other));
    site.serves(other, "web", 1).expect("it serves on the other port");
    assert!(http::get(one, "/").is_err(), "nothing listens on the old port");

    change(&site, "upstream-removed", &shop);
    assert!(http::get(other, "/").is_err(), "nothing listens any more");
    site.serves(site.listen(), "web", 1).expect("the first upstream is left alone");
}
