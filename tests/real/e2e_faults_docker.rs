//! Faults of the way to Docker while a shop serves: the socket cut, the events silent, the answers slow or none at all.
//! What serves goes on serving, and when it is mended everything is as the spec says.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::docker::docker;
use crate::support::engine::Engine;
use crate::support::program::Daemon;
use crate::support::shop::WEB_2;
use crate::support::socket::Proxy;
use crate::support::watcher::Watcher;
use crate::support::{Shop, Site, check, eventually, within};

const LONG: Duration = Duration::from_secs(90);

/// A shop that serves, whose daemon reaches Docker through a proxy of the test's.
fn through_proxy(name: &str, replicas: u32) -> (Site, Shop, Proxy, Daemon) {
    let mut site = Site::new(name);
    let path = site.folder().join("docker.sock");
    site.docker_host = Some(format!("unix://{}", path.display()));
    site.more_settings = "loop: { resync: 2s }\n".to_owned();
    site.write_settings();
    let mut proxy = Proxy::new(&path);
    proxy.open();
    let shop = Shop::new(&site, replicas);
    let daemon = site.run(&shop);
    site.serves(site.listen(), "web", replicas as usize).expect("it serves");
    (site, shop, proxy, daemon)
}

#[track_caller]
fn whole_again(site: &Site, daemon: &mut Daemon, replicas: usize) {
    within(LONG, "all is as the spec says", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", replicas)?;
        check(site.registrations().len() == replicas, || format!("{:?}", site.registrations()))?;
        site.loaded_is_current()
    });
    daemon.lives();
}

#[test]
fn a_socket_that_is_cut_again_and_again_during_a_roll_loses_no_request() {
    let (site, shop, mut proxy, mut daemon) = through_proxy("cuts", 3);
    let traffic = crate::support::traffic::Traffic::start(site.listen());
    site.write_spec(&Shop { image: WEB_2.to_owned(), ..shop });
    // In the midst of whatever it does: creating, starting, waiting for health, stopping, removing.
    let mut cuts = 0;
    let rolled = Instant::now();
    while site.containers().iter().any(|one| one.image != WEB_2) {
        assert!(rolled.elapsed() < LONG, "{:#?}", site.containers());
        std::thread::sleep(Duration::from_millis(700));
        proxy.close();
        std::thread::sleep(Duration::from_millis(300));
        proxy.open();
        cuts += 1;
        // It must come forward between two cuts, which need not be so in time.
        daemon.makes_passes(2);
    }
    whole_again(&site, &mut daemon, 3);
    assert!(cuts >= 3, "{cuts} cuts");
    assert_eq!(site.containers().len(), 3, "nothing was made twice");
    traffic.all_were_answered();
}

#[test]
fn events_that_fall_silent_are_made_up_by_the_full_pass() {
    let (site, _, proxy, mut daemon) = through_proxy("silence", 2);
    proxy.silence_events(true);
    // A restart by hand leaves the same id and name, and another start, and the list is all that tells.
    let (killed, cut) = (site.container("web", 1), site.container("web", 2));
    docker(&["kill", &killed.id]);
    eventually("the killed one was started again", || {
        let now = site.container("web", 1);
        check(now.started_at != killed.started_at && now.state == "running", || format!("{now:?}"))
    });
    whole_again(&site, &mut daemon, 2);
    let network = cut.networks.keys().next().expect("it is on a network").clone();
    docker(&["network", "disconnect", "--force", &network, &cut.id]);
    eventually("it is connected again", || {
        check(site.container("web", 2).networks.contains_key(&network), || "it is not".to_owned())
    });
    whole_again(&site, &mut daemon, 2);
    proxy.silence_events(false);
    docker(&["rm", "--force", &site.container("web", 1).id]);
    whole_again(&site, &mut daemon, 2);
}

#[test]
fn a_docker_that_is_slow_is_waited_for_and_one_that_is_silent_is_unknown() {
    let (site, shop, proxy, mut daemon) = through_proxy("slow", 2);
    let watcher = Watcher::start(&site);
    proxy.slow_down(Duration::from_millis(400));
    site.write_spec(&Shop { replicas: 3, ..shop.clone() });
    within(LONG, "it gets there", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 3)
    });
    let (containers, loaded) = (site.containers(), site.loaded());
    proxy.slow_down(Duration::ZERO);
    proxy.silence(true);
    site.write_spec(&shop);
    eventually("it says so", || daemon.waits(&["Docker cannot be read", "no answer within"]).map(drop));
    daemon.makes_passes(1);
    assert_eq!((site.containers(), site.loaded()), (containers, loaded), "Unknown is not empty");
    site.serves(site.listen(), "web", 3).expect("it goes on serving");
    proxy.silence(false);
    whole_again(&site, &mut daemon, 2);
    watcher.saw_nothing_lost();
}

/// A shop in an engine of the test's own, and the names that answer for it.
fn in_own_engine(name: &str, live_restore: bool) -> (Site, Engine, Daemon, BTreeSet<String>) {
    let mut site = Site::new(name);
    let engine = Engine::start(&site, live_restore);
    site.docker_host = Some(engine.host());
    site.more_settings = format!("advertise: {}\nloop: {{ resync: 2s }}\n", engine.address());
    site.write_settings();
    // The agent is not in the engine's network: it reaches what is published.
    let shop = Shop::new(&site, 2).to_string().replace("timeout: 1s }", "timeout: 1s, address: registered }");
    let daemon = site.run(&shop);
    let names = served_by_two(&site).expect("it serves");
    (site, engine, daemon, names)
}

fn served_by_two(site: &Site) -> Result<BTreeSet<String>, String> {
    let names = site.served_by(site.listen(), 8)?;
    check(names.len() == 2, || format!("answers of {names:?}"))?;
    Ok(names)
}

#[test]
#[ignore = "long: make test-long"]
fn a_docker_daemon_that_restarts_and_takes_its_containers_along_has_them_started_again() {
    let (site, mut engine, mut daemon, names) = in_own_engine("restart", false);
    let registrations = site.registrations();
    engine.stop();
    eventually("it says so", || daemon.waits(&["Docker cannot be read"]).map(drop));
    daemon.makes_passes(2);
    assert_eq!(site.registrations(), registrations, "Unknown is not empty");
    engine.run();
    within(LONG, "the same containers serve again", || {
        daemon.converged()?;
        let now = served_by_two(&site)?;
        check(now == names, || format!("{names:?}, now {now:?}"))
    });
    assert_eq!(site.registrations(), registrations);
    daemon.lives();
}

#[test]
#[ignore = "long: make test-long"]
fn a_docker_daemon_that_is_killed_beside_its_containers_finds_them_as_they_were() {
    let (site, mut engine, mut daemon, names) = in_own_engine("survive", true);
    let (started, loaded) = (engine.containers(), site.loaded());
    engine.kill();
    eventually("it says so", || daemon.waits(&["Docker cannot be read"]).map(drop));
    daemon.makes_passes(2);
    assert_eq!(site.loaded(), loaded, "Unknown is not empty");
    // Docker itself takes their ports away for a moment when it starts (seen), so requests are not counted.
    engine.run();
    within(LONG, "the same containers serve", || {
        daemon.converged()?;
        let now = served_by_two(&site)?;
        check(now == names, || format!("{names:?}, now {now:?}"))
    });
    assert_eq!(engine.containers(), started, "none was started again");
    daemon.lives();
}
