//! Crash points on real servers: the built program dies right after an action, is started again, and must come to the same
//! end as without, with no request lost and no endpoint unrouted on the way that need not be.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::docker::docker;
use crate::support::shop::WEB_2;
use crate::support::snapshot::Snapshot;
use crate::support::traffic::Traffic;
use crate::support::{Shop, Site, check, eventually};

const APPLY: &[&str] = &["apply", "--timeout", "60s"];
const DESTROY: &[&str] = &["destroy", "--volumes"];

/// A shop with a volume, whose web server ends at once when it is told to: nothing but the order of steps saves requests.
fn shop(site: &Site, replicas: u32) -> Shop {
    let mut shop = Shop::new(site, replicas);
    shop.environment = vec![("ON_STOP".to_owned(), "exit".to_owned())];
    shop.more_of_service = vec!["volumes: [\"pages:/pages:ro\"]".to_owned()];
    shop.more = "volumes: { pages: {} }\n".to_owned();
    shop
}

/// Every state of an upstream's endpoints that was ever in the configuration which nginx is to load.
struct Endpoints {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<BTreeSet<String>>>,
}

impl Endpoints {
    fn watch(site: &Site) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, state) = (stop.clone(), site.state().to_owned());
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                // A generation that is switched and removed between the two looks is not read.
                if let Some(servers) = crate::support::nginx::servers_of(&state, "site") {
                    seen.insert(servers);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        Self { stop, thread }
    }

    fn seen(self) -> BTreeSet<BTreeSet<String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic inside")
    }
}

/// Crashes once at each of the points, then goes on to the end.
#[track_caller]
fn crash_at_each(site: &Site, points: &[&str], arguments: &[&str]) {
    for point in points {
        let outcome = site.reeve_until_crash(point, arguments);
        assert_eq!(outcome.code, None, "no such action was left to do:\n{}{}", outcome.line, outcome.stderr);
    }
    site.reeve(arguments).success();
}

#[track_caller]
fn same_end(what: &str, without: &Snapshot, with: &Snapshot) {
    let differences = without.differences(with);
    assert!(differences.is_empty(), "{what}: another end than without a crash:\n  {}", differences.join("\n  "));
}

#[test]
fn after_a_crash_at_any_kind_of_action_the_end_is_the_same() {
    let site = Site::new("crash");
    let old = shop(&site, 2);
    let new = Shop { image: WEB_2.to_owned(), ..old.clone() };
    let small = Shop { replicas: 1, ..old.clone() };
    // The ends without a crash.
    let mut ends = Vec::new();
    for spec in [&old, &new, &old, &small] {
        site.apply(spec);
        ends.push(Snapshot::masked(&site));
    }
    site.reeve(DESTROY).success();
    let gone = Snapshot::masked(&site);
    let [of_old, of_new, _, of_small] = &ends[..] else { unreachable!("four ends") };

    site.write_spec(&old);
    let made = ["create_network", "create_container", "start_container"];
    crash_at_each(&site, &made, APPLY);
    same_end("deploy", of_old, &Snapshot::masked(&site));

    let traffic = Traffic::start(site.listen());
    site.write_spec(&new);
    let routed = ["register", "write_generation", "switch_generation", "reload"];
    let retired = ["drain", "reload", "start_drain_clock", "stop_container", "deregister", "remove_container"];
    crash_at_each(&site, &[&routed[..], &retired[..]].concat(), APPLY);
    same_end("roll", of_new, &Snapshot::masked(&site));

    site.apply(&old);
    // Wanted again in the middle of its drain.
    site.write_spec(&small);
    let outcome = site.reeve_until_crash("drain", APPLY);
    assert_eq!(outcome.code, None, "{outcome:?}");
    site.write_spec(&old);
    crash_at_each(&site, &["lift_drain"], APPLY);
    same_end("wanted again", of_old, &Snapshot::masked(&site));
    site.apply(&small);
    same_end("scale-down", of_small, &Snapshot::masked(&site));
    traffic.all_were_answered();

    // What somebody else did.
    let one = site.container("web", 1);
    docker(&["pause", &one.id]);
    crash_at_each(&site, &["unpause_container"], APPLY);
    let network = one.networks.keys().next().expect("a network");
    docker(&["network", "disconnect", network, &one.id]);
    crash_at_each(&site, &["connect_network"], APPLY);
    site.nginx.quit();
    crash_at_each(&site, &["start_nginx"], APPLY);
    eventually("the end is the same after drift", || {
        let differences = of_small.differences(&Snapshot::masked(&site));
        check(differences.is_empty(), || differences.join("\n"))
    });

    crash_at_each(&site, &["remove_network"], DESTROY);
    same_end("destroy", &gone, &Snapshot::masked(&site));
}

/// Crashes at the first action, at the second one and so on, with the whole way to the end after each. `begin` prepares for
/// the crash of this number: the command, and the end that it must come to. The number of crash points.
fn crash_at_every<'e>(site: &Site, begin: impl Fn(usize) -> (&'static [&'static str], &'e Snapshot)) -> usize {
    for number in 1.. {
        let (arguments, end) = begin(number);
        let outcome = site.reeve_until_crash(&number.to_string(), arguments);
        site.reeve(arguments).success();
        same_end(&format!("a crash after action {number}"), end, &Snapshot::masked(site));
        if outcome.code.is_some() {
            return number - 1;
        }
    }
    unreachable!("no end of actions")
}

fn row(what: &str, points: usize, started: Instant) {
    assert!(points > 5, "only {points} actions in {what}");
    eprintln!("| crash after every action of {what:<22} | {points:>6} | {:>4} s |", started.elapsed().as_secs());
}

#[test]
#[ignore = "long: make test-long"]
fn after_a_crash_at_every_action_of_a_roll_the_end_is_the_same() {
    let site = Site::new("crashroll");
    let old = shop(&site, 2);
    let new = Shop { image: WEB_2.to_owned(), ..old.clone() };
    let ends = [&old, &new].map(|spec| {
        site.apply(spec);
        Snapshot::masked(&site)
    });
    let (started, traffic, endpoints) = (Instant::now(), Traffic::start(site.listen()), Endpoints::watch(&site));
    // From the new one to the old one and back: each roll begins where the one before ended.
    let points = crash_at_every(&site, |number| {
        site.write_spec([&old, &new][(number + 1) % 2]);
        (APPLY, &ends[(number + 1) % 2])
    });
    row("roll of 2", points, started);
    traffic.all_were_answered();
    for servers in endpoints.seen() {
        assert!(servers.len() >= 2, "start-first, and only {servers:?} were routed");
    }
}

#[test]
#[ignore = "long: make test-long"]
fn after_a_crash_at_every_action_of_a_scale_down_the_end_is_the_same() {
    let site = Site::new("crashscale");
    let three = shop(&site, 3);
    let one = Shop { replicas: 1, ..three.clone() };
    site.apply(&one);
    let end = Snapshot::masked(&site);
    let kept = site.nginx.servers("site");
    let (started, traffic, endpoints) = (Instant::now(), Traffic::start(site.listen()), Endpoints::watch(&site));
    let points = crash_at_every(&site, |_| {
        site.apply(&three);
        site.write_spec(&one);
        (APPLY, &end)
    });
    row("scale 3 to 1", points, started);
    traffic.all_were_answered();
    for servers in endpoints.seen() {
        assert!(servers.is_superset(&kept), "{kept:?} stays, and only {servers:?} were routed");
    }
}

#[test]
#[ignore = "long: make test-long"]
fn after_a_crash_at_every_action_of_deploy_and_destroy_the_end_is_the_same() {
    let site = Site::new("crashdeploy");
    let shop = shop(&site, 2);
    site.apply(&shop);
    let end = Snapshot::masked(&site);
    site.reeve(DESTROY).success();
    let gone = Snapshot::masked(&site);
    let started = Instant::now();
    let points = crash_at_every(&site, |_| {
        site.reeve(DESTROY).success();
        (APPLY, &end)
    });
    row("deploy of 2", points, started);
    let started = Instant::now();
    let points = crash_at_every(&site, |_| {
        site.apply(&shop);
        (DESTROY, &gone)
    });
    row("destroy", points, started);
}
