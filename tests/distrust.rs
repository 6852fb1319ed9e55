//! A catalog that suddenly says less: what of it is believed at once, and what only when it has lasted.

mod common;

use std::collections::BTreeSet;

use common::{context, converge, empty_world, renderer, spec, start, tamper};
use jiff::{SignedDuration, Timestamp};
use reeve::observed::{Catalog, Loaded, Observed, View};
use reeve::plan::{Plan, plan, wanted_generation};
use reeve::spec::Spec;

/// Two replicas of our own and four instances that somebody else registered, all of them routed.
struct Scene {
    spec: Spec,
    world: Observed,
    now: Timestamp,
}

const FOREIGN: [&str; 4] = ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"];

impl Scene {
    fn new(own: u32, foreign: usize) -> Self {
        let spec = spec(&format!(
            "name: shop\nservices:\n  web:\n    image: localhost/web:1\n    deploy: {{ replicas: {own} }}\n    \
             ports: [\"81-89:80\"]\n    healthcheck: {{ test: [CMD, /bin/web, --check], interval: 1s }}\n    \
             register: {{ name: web, port: 80, check: {{ http: /, interval: 5s, timeout: 1s }} }}\n\
             upstreams:\n  site: {{ service: web, listen: 1216, drain: 10s }}\n"
        ));
        let mut scene = Self { spec, world: empty_world(), now: start() };
        scene.converge();
        for address in &FOREIGN[..foreign] {
            tamper::apply(&mut scene.world, &format!("foreign web {address} 80"), scene.now);
        }
        scene.converge();
        scene.now += SignedDuration::from_secs(3600);
        scene
    }

    fn converge(&mut self) {
        converge(&mut self.world, &self.spec, &context(&renderer(), "shop"), &mut self.now);
    }

    /// Something happens to the catalog's answer, and is seen now.
    fn catalog(&mut self, change: impl Fn(&mut Catalog)) {
        let consul = self.world.consul.known_mut().expect("Consul is known");
        for catalog in consul.catalog.values_mut().filter_map(View::known_mut) {
            change(catalog);
            catalog.shrunk_at = self.now;
        }
    }

    fn lose(&mut self, addresses: &[&str]) {
        self.catalog(|catalog| catalog.instances.retain(|one| !addresses.contains(&one.address.as_str())));
    }

    fn plan(&self) -> Plan {
        plan(&self.spec, &self.world, self.now, &context(&renderer(), "shop"))
    }

    /// How many endpoints nginx has loaded, and how many it is to have.
    fn endpoints(&self) -> (usize, usize) {
        let nginx = self.world.nginx.known().expect("nginx is known");
        let Loaded::Generation(loaded) = &nginx.loaded else { panic!("{:?}", nginx.loaded) };
        let before = nginx.generations[loaded].manifest.upstreams["site"].endpoints.len();
        let wanted = wanted_generation(&self.spec, &self.world, self.now, &context(&renderer(), "shop"))
            .map(|(wanted, _)| wanted);
        (before, wanted.expect("it is rendered").manifest.upstreams["site"].endpoints.len())
    }

    fn waits(&self) -> BTreeSet<&'static str> {
        self.plan().waiting.iter().map(|waiting| waiting.kind).collect()
    }
}

#[test]
fn a_small_loss_is_believed_at_once() {
    let mut scene = Scene::new(2, 4);
    scene.lose(&FOREIGN[..3]);
    assert_eq!(scene.endpoints(), (6, 3), "half of them is what may go");
    assert!(!scene.waits().contains("distrust"));
}

#[test]
fn after_a_gap_a_small_loss_is_not_believed_at_once_either() {
    let mut scene = Scene::new(2, 4);
    let returned = scene.now;
    scene.catalog(|catalog| catalog.returned_at = Some(returned));
    scene.lose(&FOREIGN[..1]);
    assert_eq!(scene.endpoints(), (6, 6), "its check may have failed because the agent was cut off");
    assert!(scene.waits().contains("distrust"));
    scene.now += SignedDuration::from_secs(10);
    assert_eq!(scene.endpoints(), (6, 5));
}

#[test]
fn a_large_loss_is_believed_when_it_has_lasted() {
    let mut scene = Scene::new(2, 4);
    scene.lose(&FOREIGN);
    assert_eq!(scene.endpoints(), (6, 6), "4 of 6 at once");
    let plan = scene.plan();
    let waiting = plan.waiting.iter().find(|waiting| waiting.kind == "distrust").expect("it says so");
    assert_eq!(waiting.until, Some(scene.now + SignedDuration::from_secs(10)));
    scene.now += SignedDuration::from_secs(9);
    assert_eq!(scene.endpoints(), (6, 6));
    scene.now += SignedDuration::from_secs(1);
    assert_eq!(scene.endpoints(), (6, 2));
}

#[test]
fn a_large_loss_that_is_explained_is_believed_at_once() {
    let mut scene = Scene::new(4, 1);
    tamper::apply(&mut scene.world, "exited web.1 1\nexited web.2 1\nexited web.3 1\n", scene.now);
    scene.catalog(|catalog| catalog.instances.retain(|one| one.owner.is_none()));
    let (before, wanted) = scene.endpoints();
    assert_eq!(
        (before, wanted),
        (5, 2),
        "three are seen dead; the fourth is healthy and only its registration is gone"
    );

    let mut scene = Scene::new(1, 4);
    scene.catalog(|catalog| {
        catalog.instances.iter_mut().filter(|one| one.owner.is_none()).for_each(|one| one.maintenance = true);
    });
    assert_eq!(scene.endpoints(), (5, 1), "somebody says that they are to get no requests");
}

#[test]
fn checks_that_all_fail_at_once_are_no_explanation() {
    for doubtful in [true, false] {
        let mut scene = Scene::new(1, 4);
        scene.catalog(|catalog| {
            for one in catalog.instances.iter_mut().filter(|one| one.owner.is_none()) {
                (one.passing, one.doubtful) = (false, doubtful);
            }
        });
        assert_eq!(scene.endpoints(), (5, 5));
        assert!(scene.waits().contains("distrust"));
        scene.now += SignedDuration::from_secs(10);
        assert_eq!(scene.endpoints(), (5, 1));
    }

    // The agent was cut off, and with it its checks; Docker's own say that all is well.
    let mut scene = Scene::new(3, 0);
    tamper::apply(&mut scene.world, "critical web.1\ncritical web.2\ncritical web.3\n", scene.now);
    assert_eq!(scene.endpoints(), (3, 3));
    scene.now += SignedDuration::from_secs(10);
    assert_eq!(scene.endpoints(), (3, 0));
    let mut scene = Scene::new(3, 0);
    tamper::apply(&mut scene.world, "critical web.1\n", scene.now);
    assert_eq!(scene.endpoints(), (3, 2), "one alone is believed");
}

#[test]
fn own_replicas_that_are_healthy_outlast_any_doubt_and_leave_at_the_first_check_that_fails() {
    let mut scene = Scene::new(2, 0);
    tamper::apply(&mut scene.world, "unheard web.1\nunheard web.2\n", scene.now);
    scene.now += SignedDuration::from_secs(600);
    assert_eq!(scene.endpoints(), (2, 2));
    tamper::apply(&mut scene.world, "unhealthy web.1\n", scene.now);
    assert_eq!(scene.endpoints(), (2, 1), "Docker says that it fails");
    let consul = scene.world.consul.known_mut().expect("Consul is known");
    for check in consul
        .registrations
        .values_mut()
        .flat_map(|registration| registration.checks.iter_mut().map(|(_, check)| check))
    {
        check.output = "HTTP GET http://198.51.100.9/: 503".to_owned();
    }
    assert_eq!(scene.endpoints(), (2, 0), "its check has run");
}

#[test]
fn an_empty_answer_takes_nothing_from_traffic_at_first() {
    for when_empty in ["\"503\"", "keep"] {
        let mut scene = Scene::new(0, 4);
        let text = format!(
            "name: shop\nservices:\n  other: {{ image: localhost/web:1 }}\n\
             upstreams:\n  site: {{ service: web, listen: 1216, drain: 10s, when_empty: {when_empty} }}\n"
        );
        scene.spec = spec(&text);
        scene.converge();
        scene.lose(&FOREIGN);
        assert_eq!(scene.endpoints(), (4, 4), "{when_empty}");
        scene.now += SignedDuration::from_secs(10);
        let wanted = if when_empty == "keep" { 4 } else { 0 };
        assert_eq!(scene.endpoints(), (4, wanted), "{when_empty}");
    }
}
