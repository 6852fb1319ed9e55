//! No request is lost: changes of every kind under a constant load, and the plain sequence as a control that must lose some.
//!
//! The web server ends at once when it is told to, as many do: only the order of reeve's steps saves what is under way.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::docker::docker;
use crate::support::load::{DRAIN, Failure, Load};
use crate::support::program::Daemon;
use crate::support::shop::{WEB, WEB_2};
use crate::support::{Shop, Site, check, eventually, http, nginx, within};

/// A roll of four replicas, each with its drain, on a machine with other work.
const ROLLED: Duration = Duration::from_secs(150);

/// A shop that ends at once, and whose upstream covers the load's answers.
fn shop(site: &Site, replicas: u32) -> Shop {
    let environment = vec![("ON_STOP".to_owned(), "exit".to_owned())];
    let upstreams = vec![("site".to_owned(), upstream("web", site.listen()))];
    Shop { environment, upstreams, ..Shop::new(site, replicas) }
}

fn upstream(service: &str, listen: u16) -> String {
    format!("{{ service: {service}, listen: {listen}, server_name: [localhost], drain: {DRAIN}, websocket: true }}")
}

/// As many host ports as replicas: nothing can stand beside an old one.
fn fixed(site: &Site, shop: Shop) -> Shop {
    let last = u16::try_from(shop.replicas - 1).expect("few");
    Shop { ports: format!("{}-{}:80", site.ports.published(0), site.ports.published(last)), ..shop }
}

/// Everything is as the spec says, with all replicas of this version.
fn reached(site: &Site, daemon: &Daemon, shop: &Shop) -> Result<(), String> {
    let (containers, replicas) = (site.containers(), shop.replicas as usize);
    let current = containers.iter().filter(|one| one.service == "web" && one.image == shop.image).count();
    check(current == replicas && containers.len() == replicas, || format!("{containers:#?}"))?;
    daemon.converged()
}

/// The load has been going on for a while: every kind of it is under way.
fn begun(load: &Load) {
    let before = load.answered();
    eventually("the load is answered", || {
        let answered = load.answered() - before;
        check(answered > 200, || format!("{answered} answers"))
    });
}

/// A shop that a daemon keeps, and a load on it that is under way. They end in this order: a site that is cleared away under
/// its daemon is made anew, and stays behind.
struct UnderLoad {
    load: Load,
    daemon: Daemon,
    site: Site,
}

impl UnderLoad {
    fn begin(site: Site, shop: &Shop) -> Self {
        let daemon = site.run(shop);
        let load = Load::start(site.listen());
        begun(&load);
        Self { load, daemon, site }
    }

    /// The spec is another one, and has come about.
    #[track_caller]
    fn becomes(&self, what: &str, shop: &Shop) {
        self.site.write_spec(shop);
        self.reaches(what, shop);
    }

    #[track_caller]
    fn reaches(&self, what: &str, shop: &Shop) {
        within(ROLLED, what, || reached(&self.site, &self.daemon, shop));
    }

    /// The load goes on for a while, and ends: no request but those that nobody could have saved has failed.
    #[track_caller]
    fn none_failed_but(mut self, scenario: &str, beyond_help: impl Fn(&Failure) -> bool) {
        begun(&self.load);
        self.load.end().none_failed_but(scenario, beyond_help);
        self.daemon.lives();
    }

    #[track_caller]
    fn none_failed(self, scenario: &str) {
        self.none_failed_but(scenario, |_| false);
    }
}

#[test]
fn a_roll_start_first_loses_no_request() {
    let site = Site::new("loadroll");
    let shop = shop(&site, 4);
    let under = UnderLoad::begin(site, &shop);
    under.becomes("all four are replaced", &Shop { image: WEB_2.to_owned(), ..shop });
    under.none_failed("roll of 4, start-first");
}

#[test]
fn a_roll_with_endpoints_that_lua_balances_closes_no_kept_connection_and_loses_no_request() {
    for (name, order) in [("loadlua", "start-first"), ("loadluafixed", "stop-first")] {
        let mut site = Site::new(name);
        site.use_lua();
        let four = shop(&site, 4);
        let four = if order == "stop-first" { fixed(&site, four) } else { four };
        let mut under = UnderLoad::begin(site, &four);
        let generations = under.site.state().join("generations");
        let names = || {
            let entries = std::fs::read_dir(&generations).expect("generations").flatten();
            entries.map(|entry| entry.file_name()).collect::<std::collections::BTreeSet<_>>()
        };
        let before = names();
        under.becomes("all four are replaced", &Shop { image: WEB_2.to_owned(), ..four });
        begun(&under.load);
        let report = under.load.end();
        report.none_failed_but(&format!("roll of 4, {order}, endpoints by Lua"), |_| false);
        report.none_tried_again();
        assert_eq!(names(), before, "all of it went without another generation");
        under.daemon.lives();
    }
}

#[test]
fn a_roll_stop_first_on_a_fixed_range_loses_no_request() {
    let site = Site::new("loadfixed");
    let shop = fixed(&site, shop(&site, 4));
    let under = UnderLoad::begin(site, &shop);
    under.becomes("all four are replaced", &Shop { image: WEB_2.to_owned(), ..shop });
    under.none_failed("roll of 4, stop-first, fixed range");
}

#[test]
fn scaling_down_and_up_loses_no_request() {
    let site = Site::new("loadscale");
    let four = fixed(&site, shop(&site, 4));
    let under = UnderLoad::begin(site, &four);
    under.becomes("one is left", &Shop { replicas: 1, ..four.clone() });
    begun(&under.load);
    under.becomes("four are back", &four);
    under.none_failed("scale 4, 1, 4");
}

#[test]
fn a_killed_replica_loses_only_what_it_was_answering() {
    let site = Site::new("loadkill");
    let shop = fixed(&site, shop(&site, 4));
    let under = UnderLoad::begin(site, &shop);
    let site = &under.site;
    let victim = site.container("web", 2);
    let pid = docker(&["inspect", "--format", "{{.State.Pid}}", &victim.id]).parse().expect("a pid");
    let before = Instant::now();
    nginx::send(pid, Signal::KILL);
    let killed = Instant::now();
    within(ROLLED, "it runs again and serves", || {
        let again = site.container("web", 2);
        check(again.started_at != victim.started_at, || format!("{again:?}"))?;
        reached(site, &under.daemon, &shop)
    });
    under.none_failed_but("replica killed (its own requests aside)", |failure| failure.under_way(before, killed));
}

#[test]
fn removing_one_of_two_services_loses_no_request() {
    let site = Site::new("loadremove");
    let mut shop = shop(&site, 2);
    // The one that goes shares its name in Consul, and so the upstream under load, with the one that stays.
    let ports = format!("{}-{}:80", site.ports.published(10), site.ports.published(11));
    let check = "check: { http: /health, interval: 1s, timeout: 1s }";
    shop.more_services = format!(
        "  side:\n    image: {WEB}\n    deploy: {{ replicas: 2 }}\n    ports: [\"{ports}\"]\n    environment: {{ ON_STOP: exit }}\n    \
         healthcheck: {{ test: [CMD, /bin/reeve-web, --check], interval: 1s, timeout: 2s, retries: 2 }}\n    \
         register: {{ name: web, port: 80, tags: [side], {check} }}\n"
    );
    let kept = shop.upstreams.clone();
    let own = site.ports.listen(1);
    shop.upstreams.push(("side".to_owned(), upstream("web", own).replace("listen", "tag: side, listen")));
    let under = UnderLoad::begin(site, &shop);
    let routed = |upstream: &str| under.site.nginx.servers(upstream).len();
    assert_eq!((routed("site"), routed("side")), (4, 2));
    // They are under way when their route is taken away.
    let last = [(); 6].map(|()| std::thread::spawn(move || http::post(own, "/?delay=4s")));
    under.becomes("the other service is left", &Shop { more_services: String::new(), upstreams: kept, ..shop });
    for request in last {
        let answer = request.join().expect("no panic inside").expect("a whole answer");
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    assert!(http::get(own, "/").is_err(), "its route is gone");
    under.none_failed("one of two services removed");
}

#[test]
fn a_storm_of_changes_loses_no_request() {
    storm("loadstorm", 20, "storm of 20 changes");
}

#[test]
#[ignore = "long: make test-long"]
fn a_long_storm_of_changes_loses_no_request() {
    storm("longstorm", 120, "storm of 120 changes");
}

/// A change every second: images, scale, the upstream's options, in every combination.
fn storm(name: &str, changes: u32, scenario: &str) {
    let site = Site::new(name);
    let mut shop = shop(&site, 4);
    let under = UnderLoad::begin(site, &shop);
    let site = &under.site;
    for number in 0..changes {
        shop.image = [WEB, WEB_2, WEB_2][number as usize % 3].to_owned();
        shop.replicas = [4, 2, 3, 1, 4][number as usize % 5];
        let option = ["balance: least_conn", "keepalive: 8", "max_body_size: 2m", "headers: { X-Env: storm }"];
        let upstream = upstream("web", site.listen()).replace(" }", &format!(", {} }}", option[number as usize % 4]));
        shop.upstreams = vec![("site".to_owned(), upstream)];
        site.write_spec(&shop);
        // The pace of the storm: nothing is waited for.
        std::thread::sleep(Duration::from_secs(1));
    }
    under.becomes("it is calm again", &Shop { image: WEB_2.to_owned(), replicas: 4, ..shop });
    under.none_failed(scenario);
}

#[test]
fn killed_in_the_middle_of_a_roll_it_goes_on_and_loses_no_request() {
    let site = Site::new("loadcrash");
    let shop = shop(&site, 4);
    let mut under = UnderLoad::begin(site, &shop);
    let site = &under.site;
    let rolled = Shop { image: WEB_2.to_owned(), ..shop };
    site.write_spec(&rolled);
    let replaced = || site.containers().iter().filter(|one| one.image == WEB_2).count();
    let leaving = || site.containers().iter().filter(|one| one.image == WEB).count();
    let crash = |daemon: Daemon, what: &str, holds: &dyn Fn() -> Result<(), String>| {
        within(ROLLED, what, holds);
        let (code, _) = daemon.end(Signal::KILL);
        assert_eq!(code, None, "it was killed");
        site.start(&[])
    };
    let daemon = under.daemon;
    let daemon = crash(daemon, "the first new one is made", &|| check(replaced() >= 1, || "none".to_owned()));
    let daemon = crash(daemon, "an old one is gone", &|| check(leaving() <= 3, || "none is gone".to_owned()));
    let three = || check(replaced() >= 3, || format!("{} are", replaced()));
    under.daemon = crash(daemon, "three new ones are made", &three);
    under.reaches("all four are replaced", &rolled);
    under.none_failed("reeve killed three times in a roll of 4");
}

/// The same load, the same servers, and what is done by hand or by Compose: stop, start, reload.
#[test]
fn the_plain_sequence_loses_requests() {
    let site = Site::new("loadplain");
    site.apply(&fixed(&site, shop(&site, 4)));
    let load = Load::start(site.listen());
    begun(&load);
    for (number, container) in site.containers().iter().take(2).enumerate() {
        if number > 0 {
            // nginx skips a server that failed for 10 s: within them nothing more could fail there.
            std::thread::sleep(Duration::from_secs(11));
        }
        docker(&["stop", &container.id]);
        docker(&["start", &container.id]);
        site.nginx.command(&["-s", "reload"]).expect("nginx reloads");
    }
    begun(&load);
    let report = load.end();
    eprintln!("{}", report.row("control: stop, start, reload of 2 of 4 by hand"));
    let lost = report.failures.iter().filter(|failure| failure.lane.starts_with("POST")).count();
    assert!(lost > 0, "the load cannot see a lost request:\n{report}");
}
