//! Faults of Consul while a shop serves: whatever happens to it, no endpoint that serves is unrouted and no request is
//! lost, and when it is mended everything is as the spec says.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde_json::Value;

use crate::support::cluster::{CLIENT, Cluster, SERVERS};
use crate::support::docker::{STRANGER, docker};
use crate::support::program::Daemon;
use crate::support::shop::WEB;
use crate::support::snapshot::docker_now;
use crate::support::watcher::Watcher;
use crate::support::{Shop, Site, check, eventually, http, within};

/// Elections, gossip and the autopilot's own patience are in it.
const LONG: Duration = Duration::from_secs(90);

/// A shop of two replicas that is registered with a cluster of its own.
fn clustered(name: &str) -> (Site, Cluster, Daemon) {
    let site = Site::without_consul(name);
    let cluster = Cluster::start(&site);
    within(LONG, "the cluster is complete", || cluster.complete());
    let daemon = site.run(&Shop::new(&site, 2));
    site.serves(site.listen(), "web", 2).expect("it serves");
    (site, cluster, daemon)
}

#[track_caller]
fn whole_again(site: &Site, daemon: &mut Daemon) {
    within(LONG, "all is as the spec says", || {
        daemon.converged()?;
        check(site.registrations().len() == 2, || format!("{:?}", site.registrations()))?;
        check(site.consul().passing("web").len() == 2, || "not all pass".to_owned())?;
        site.serves(site.listen(), "web", 2)?;
        site.loaded_is_current()
    });
    daemon.lives();
}

/// The leader is killed, then a second server, and reeve is restarted before they are back.
fn quorum_is_lost(name: &str, at_least: Duration) {
    let (site, cluster, mut daemon) = clustered(name);
    let watcher = Watcher::start(&site);
    let (containers, loaded) = (site.containers(), site.loaded());

    let first = cluster.leader().expect("a leader");
    cluster.kill(first);
    within(LONG, "another server leads", || {
        let now = cluster.leader()?;
        check(now != first, || format!("still {now}"))
    });
    whole_again(&site, &mut daemon);

    let second = cluster.leader().expect("a leader");
    cluster.kill(second);
    let lost = Instant::now();
    within(LONG, "it says that there is no leader", || daemon.waits(&["upstream site", "it keeps its endpoints"]));
    daemon.makes_passes(2);
    drop(daemon);
    let mut daemon = site.start(&[]);
    eventually("a fresh one says so, too", || daemon.waits(&["upstream site", "it keeps its endpoints"]));
    daemon.makes_passes(2);
    // What Docker tells is believed without Consul: a replica that dies is started again, and the other one serves.
    assert_eq!(site.loaded(), loaded, "the last generation stays");
    std::thread::sleep(at_least.saturating_sub(lost.elapsed()));
    assert_eq!(site.loaded(), loaded, "for as long as it lasts");

    cluster.revive(first);
    cluster.revive(second);
    within(LONG, "there is a leader again", || cluster.leader().map(drop));
    whole_again(&site, &mut daemon);
    assert_eq!(site.containers(), containers, "nothing was restarted");
    watcher.saw_nothing_lost();
}

#[test]
fn a_quorum_that_is_lost_costs_nothing_also_when_reeve_is_restarted_meanwhile() {
    quorum_is_lost("quorum", Duration::ZERO);
}

#[test]
#[ignore = "long: make test-long"]
fn a_quorum_that_is_lost_for_a_minute_costs_nothing() {
    quorum_is_lost("quorum-long", Duration::from_secs(60));
}

#[test]
fn a_client_that_is_recreated_with_its_volume_or_without_or_as_another_node_costs_nothing() {
    let (site, cluster, mut daemon) = clustered("client");
    let ids = site.registrations();
    for (volume, known) in [(true, true), (false, true), (false, false)] {
        let watcher = Watcher::start(&site);
        cluster.recreate(CLIENT, volume, known);
        within(LONG, "the client answers and has a leader", || cluster.leader().map(drop));
        whole_again(&site, &mut daemon);
        assert_eq!(site.registrations(), ids, "with its volume: {volume}, with its node id: {known}");
        watcher.saw_nothing_lost();
    }
}

#[test]
fn a_member_that_is_cut_off_the_network_costs_nothing() {
    let (site, cluster, mut daemon) = clustered("cut");
    let watcher = Watcher::start(&site);
    // The leader, which goes on believing in itself for a moment.
    let leader = cluster.leader().expect("a leader");
    cluster.cut(leader);
    within(LONG, "another server leads", || {
        let now = cluster.leader()?;
        check(now != leader, || format!("still {now}"))
    });
    whole_again(&site, &mut daemon);
    cluster.join(leader);
    within(LONG, "the cluster is complete", || cluster.complete());
    // The client: reeve cannot reach it, and the others call its node dead.
    cluster.cut(CLIENT);
    eventually("it says that Consul cannot be read", || daemon.waits(&["it keeps its endpoints"]).map(drop));
    within(LONG, "the servers call the node dead", || {
        let members = docker(&["exec", &cluster.name(SERVERS[0]), "consul", "members"]);
        let client = members.lines().find(|line| line.starts_with(CLIENT)).unwrap_or_default();
        check(client.contains("failed"), || members.clone())
    });
    cluster.join(CLIENT);
    within(LONG, "the client has a leader", || cluster.leader().map(drop));
    whole_again(&site, &mut daemon);
    watcher.saw_nothing_lost();
}

#[test]
fn an_agent_that_restarts_with_its_state_has_not_run_its_checks_and_costs_nothing() {
    let mut site = Site::without_consul("restart");
    site.agent.keeps_state = true;
    site.agent.start();
    // Seldom checks: for that long the agent calls everything critical.
    let shop = Shop::new(&site, 3).to_string().replace("interval: 1s, timeout: 1s }", "interval: 8s, timeout: 1s }");
    let mut daemon = site.run(&shop);
    site.serves(site.listen(), "web", 3).expect("it serves");
    let (ids, reloads) = (site.registrations(), daemon.metric("reeve_nginx_reloads_total{result=\"ok\"}"));
    let watcher = Watcher::start(&site);
    for _ in 0..2 {
        site.agent.kill();
        site.agent.start();
        eventually("everything passes again", || {
            daemon.converged()?;
            check(site.consul().passing("web").len() == 3, || "not all pass".to_owned())
        });
        assert_eq!(site.registrations(), ids);
    }
    assert_eq!(daemon.metric("reeve_nginx_reloads_total{result=\"ok\"}"), reloads, "there was nothing to reload for");
    watcher.saw_nothing_lost();
    daemon.lives();
}

#[test]
fn an_agent_that_loses_its_state_again_and_again_gets_everything_back_and_costs_nothing() {
    let mut site = Site::new("amnesia");
    let mut daemon = site.run(&Shop::new(&site, 3));
    let ids = site.registrations();
    let watcher = Watcher::start(&site);
    for round in 0..3 {
        site.agent.kill();
        if round == 1 {
            eventually("it says so", || daemon.waits(&["Consul cannot be read"]).map(drop));
        }
        site.agent.start();
        eventually("they are back", || {
            daemon.converged()?;
            check(site.registrations() == ids, || format!("{:?}", site.registrations()))
        });
    }
    watcher.saw_nothing_lost();
    daemon.lives();
}

#[test]
fn a_catalog_that_suddenly_loses_most_is_not_believed_until_that_has_lasted() {
    let mut site = Site::new("distrust");
    site.more_settings = "loop: { distrust_for: 12s }\n".to_owned();
    site.write_settings();
    let mark = format!("{STRANGER}={}", site.project);
    let foreign: BTreeSet<u16> = (10..13).map(|number| site.ports.published(number)).collect();
    let publish: Vec<String> = foreign.iter().map(|port| format!("{port}:80")).collect();
    let mut run = vec!["run", "--detach", "--label", &mark];
    run.extend(publish.iter().flat_map(|one| ["--publish", one.as_str()]));
    run.push(WEB);
    let container = docker(&run);
    let address = docker(&["network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "bridge"]);
    for port in &foreign {
        site.consul().register(&format!("foreign-{port}"), "web", &address, *port);
    }
    let mut shop = Shop::new(&site, 1);
    shop.upstreams[0].1 = shop.upstreams[0].1.replace(" }", ", when_empty: keep }");
    let mut daemon = site.run(&shop);
    eventually("all four are routed", || {
        let servers = site.nginx.servers("site");
        check(servers.len() == 4, || format!("{servers:?}"))?;
        site.loaded_is_current()
    });
    let watcher = Watcher::start(&site);
    let (four, loaded) = (site.nginx.servers("site"), site.loaded());
    // Gone for a moment, as with an agent that restarts.
    let ids: Vec<String> = foreign.iter().map(|port| format!("foreign-{port}")).collect();
    ids.iter().for_each(|id| site.consul().deregister(id));
    eventually("it does not believe that", || daemon.waits(&["suddenly lost 3 of 4"]).map(drop));
    for port in &foreign {
        site.consul().register(&format!("foreign-{port}"), "web", &address, *port);
    }
    eventually("it was right", || daemon.converged());
    assert_eq!(site.loaded(), loaded, "no reload was spent on it");
    watcher.saw_nothing_lost();

    // Gone for good.
    let gone = Instant::now();
    ids.iter().for_each(|id| site.consul().deregister(id));
    eventually("it believes that when it has lasted", || {
        let servers = site.nginx.servers("site");
        check(servers.len() == 1 && servers.is_subset(&four), || format!("{servers:?}"))
    });
    assert!(gone.elapsed() >= Duration::from_secs(12), "{:?}", gone.elapsed());
    // The last one: nothing is left, and `keep` keeps it.
    docker(&["rm", "--force", &container]);
    let own = site.registrations().into_iter().next().expect("one");
    let maintenance = format!("/v1/agent/service/maintenance/{}?enable=true&reason=disk", own.replace('/', "%2F"));
    site.consul().put(&maintenance, &Value::Null);
    eventually("the last one is kept", || daemon.waits(&["when_empty: keep"]).map(drop));
    daemon.makes_passes(1);
    assert_eq!(http::get(site.listen(), "/").expect("nginx answers").status, 200);
    daemon.lives();
}

#[test]
fn destroy_without_consul_unroutes_and_waits_the_drain_before_it_stops_anything() {
    let mut site = Site::new("destroy");
    let shop = Shop::new(&site, 2).to_string().replace("drain: 1s", "drain: 3s");
    site.apply(&shop);
    site.agent.kill();
    site.reeve(&["destroy", "--timeout", "5s"]).exits(1).says("--without-consul");
    assert_eq!(site.containers().len(), 2);
    site.serves(site.listen(), "web", 2).expect("it goes on serving");

    let since = docker_now();
    let begun = site.begin(&["destroy", "--without-consul", "--timeout", "40s"]);
    eventually("it is unrouted", || {
        let servers = site.nginx.servers("site");
        check(servers.is_empty(), || format!("{servers:?}"))?;
        site.loaded_is_current()
    });
    let switched = fs::symlink_metadata(site.state().join("current")).and_then(|link| link.modified()).expect("a link");
    begun.wait().success();
    assert_eq!(site.containers(), Vec::new());
    // By the clocks of the servers: how late the test looks does not matter.
    let label = format!("label=reeve.owner={}", site.owner());
    let until = docker_now();
    let only = ["--filter", &label, "--filter", "event=die", "--format", "{{.TimeNano}}"];
    let deaths = docker(&[&["events", "--since", &since, "--until", &until][..], &only].concat());
    let deaths: Vec<u64> = deaths.lines().map(|line| line.parse().expect("nanoseconds")).collect();
    assert_eq!(deaths.len(), 2);
    for death in deaths {
        let death = UNIX_EPOCH + Duration::from_nanos(death);
        let after = death.duration_since(switched).unwrap_or_default();
        assert!(after >= Duration::from_secs(3), "it died {after:?} after it was unrouted, and the drain is 3 s");
    }
}
