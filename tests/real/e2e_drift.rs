//! While `run` is going, somebody else changes the world: each change is put right without a restart, and counted.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::Signal;

use crate::support::docker::docker;
use crate::support::nginx::send;
use crate::support::program::Daemon;
use crate::support::{Shop, Site, check, eventually};

/// A shop of two replicas that serves, kept by a daemon.
fn kept(name: &str) -> (Site, Daemon) {
    let site = Site::new(name);
    let daemon = site.run(&Shop::new(&site, 2));
    site.serves(site.listen(), "web", 2).expect("it serves");
    (site, daemon)
}

/// Waits until all is well again, and drift of this system has been counted.
#[track_caller]
fn put_right(site: &Site, daemon: &mut Daemon, system: &str, before: f64) {
    eventually("all is as the spec says again, and was counted", || {
        // A pass counts when it has ended, and until then status is as it was before.
        check(daemon.drift(system) > before, || format!("drift of {system} is still {before}"))?;
        daemon.converged()?;
        site.serves(site.listen(), "web", 2)?;
        site.loaded_is_current()?;
        check(site.registrations().len() == 2, || format!("{:?}", site.registrations()))
    });
    daemon.lives();
}

// ------------------------------------------------------------------------------------------------ Docker

#[test]
fn a_removed_container_is_made_again() {
    let (site, mut daemon) = kept("rm");
    let before = daemon.drift("docker");
    let (gone, other) = (site.container("web", 1), site.container("web", 2));
    docker(&["rm", "--force", &gone.id]);
    eventually("another one is there", || check(site.containers().len() == 2, || "one".to_owned()));
    put_right(&site, &mut daemon, "docker", before);
    assert_ne!(site.container("web", 1).id, gone.id);
    assert_eq!(site.container("web", 2), other, "the other one is left alone");
    let wanted: BTreeSet<String> =
        site.containers().iter().map(|container| site.registration_id(container, 80)).collect();
    assert_eq!(site.registrations(), wanted, "nothing is left of the old one");
}

#[test]
fn a_stopped_container_is_started_again() {
    let (site, mut daemon) = kept("stop");
    let before = daemon.drift("docker");
    let stopped = site.container("web", 1);
    docker(&["stop", "--time", "2", &stopped.id]);
    put_right(&site, &mut daemon, "docker", before);
    let now = site.container("web", 1);
    assert_eq!((now.id == stopped.id, now.started_at == stopped.started_at), (true, false), "started, not replaced");
}

#[test]
fn a_paused_container_is_unpaused() {
    let (site, mut daemon) = kept("pause");
    let before = daemon.drift("docker");
    let paused = site.container("web", 1);
    docker(&["pause", &paused.id]);
    put_right(&site, &mut daemon, "docker", before);
    let now = site.container("web", 1);
    assert_eq!((now.id, now.started_at), (paused.id, paused.started_at), "the same process goes on");
}

#[test]
fn a_container_that_was_taken_off_its_network_is_connected_again() {
    let (site, mut daemon) = kept("network");
    let before = daemon.drift("docker");
    let container = site.container("web", 1);
    let network = container.networks.keys().next().expect("it is on a network").clone();
    docker(&["network", "disconnect", "--force", &network, &container.id]);
    put_right(&site, &mut daemon, "docker", before);
    let now = site.container("web", 1);
    assert!(now.networks.contains_key(&network), "{:?}", now.networks);
}

#[test]
fn a_removed_network_and_its_containers_come_back() {
    let (site, mut daemon) = kept("no-network");
    let before = daemon.drift("docker");
    let network = site.container("web", 1).networks.keys().next().expect("it is on a network").clone();
    // It would connect a container again before the next one is taken off, and sees none of this happen.
    daemon.signal(Signal::STOP);
    for container in site.containers() {
        docker(&["network", "disconnect", "--force", &network, &container.id]);
    }
    docker(&["network", "rm", &network]);
    daemon.signal(Signal::CONT);
    put_right(&site, &mut daemon, "docker", before);
}

// ------------------------------------------------------------------------------------------------ Consul

#[test]
fn one_registration_that_was_removed_by_hand_comes_back() {
    let (site, mut daemon) = kept("dereg-one");
    let before = daemon.drift("consul");
    let id = site.registrations().into_iter().next().expect("two");
    let reloads = daemon.metric("reeve_nginx_reloads_total{result=\"ok\"}");
    site.consul().deregister(&id);
    eventually("it is back", || check(site.registrations().contains(&id), || "gone".to_owned()));
    put_right(&site, &mut daemon, "consul", before);
    let now = daemon.metric("reeve_nginx_reloads_total{result=\"ok\"}");
    assert_eq!(now, reloads, "a healthy replica is not unrouted for a missing registration");
}

#[test]
fn all_registrations_that_were_removed_by_hand_come_back() {
    let (site, mut daemon) = kept("dereg-all");
    let before = daemon.drift("consul");
    let ids = site.registrations();
    for id in &ids {
        site.consul().deregister(id);
    }
    eventually("they are back", || check(site.registrations() == ids, || "gone".to_owned()));
    put_right(&site, &mut daemon, "consul", before);
}

#[test]
fn an_agent_that_lost_its_state_gets_everything_again() {
    let (mut site, mut daemon) = kept("agent");
    let before = daemon.drift("consul");
    let ids = site.registrations();
    site.agent.kill();
    site.serves(site.listen(), "web", 2).expect("Unknown is not empty: it goes on serving");
    site.agent.start();
    eventually("they are back", || {
        site.serves(site.listen(), "web", 2)?;
        check(site.registrations() == ids, || format!("{:?}", site.registrations()))
    });
    put_right(&site, &mut daemon, "consul", before);
}

// ------------------------------------------------------------------------------------------------ nginx

/// The file of the upstream in the generation that is in force.
fn a_file(site: &Site) -> std::path::PathBuf {
    site.nginx.files().remove("upstream-site.conf").expect("the upstream has a file")
}

/// Waits until a file of the generation in force has the words that were expected of it, and not these.
#[track_caller]
fn restored(site: &Site, spoilt: &str) {
    eventually("a clean generation is in force", || {
        let text = fs::read_to_string(a_file(site)).map_err(|error| error.to_string())?;
        check(text.contains("server ") && !text.contains(spoilt), || text)?;
        site.loaded_is_current()
    });
}

#[test]
fn an_edited_file_of_the_generation_is_replaced_by_a_fresh_one() {
    let (site, mut daemon) = kept("edit");
    let (before, generation) = (daemon.drift("nginx"), site.loaded());
    let path = a_file(&site);
    let text = fs::read_to_string(&path).expect("readable");
    fs::write(&path, format!("{text}# by hand\n")).expect("edited");
    eventually("another generation is loaded", || {
        check(site.loaded() != generation, || format!("{:?}", site.loaded()))
    });
    restored(&site, "by hand");
    put_right(&site, &mut daemon, "nginx", before);
}

#[test]
fn a_removed_file_of_the_generation_comes_back() {
    let (site, mut daemon) = kept("delete");
    let (before, generation) = (daemon.drift("nginx"), site.loaded());
    fs::remove_file(a_file(&site)).expect("removed");
    eventually("another generation is loaded", || {
        check(site.loaded() != generation, || format!("{:?}", site.loaded()))
    });
    restored(&site, "by hand");
    put_right(&site, &mut daemon, "nginx", before);
}

#[test]
fn an_edit_that_somebody_has_loaded_does_not_stay_in_force() {
    let (site, mut daemon) = kept("edit-load");
    let before = daemon.drift("nginx");
    let path = a_file(&site);
    let text = fs::read_to_string(&path).expect("readable");
    // All requests to nowhere, under the same generation's name.
    let servers = site.nginx.servers("site");
    let spoilt = servers.iter().fold(text, |text, server| text.replace(server.as_str(), "127.0.0.1:1"));
    fs::write(&path, spoilt).expect("edited");
    site.nginx.command(&["-s", "reload"]).expect("nginx takes the edit");
    restored(&site, "127.0.0.1:1");
    put_right(&site, &mut daemon, "nginx", before);
}

#[test]
fn current_that_was_switched_back_is_switched_forward() {
    let site = Site::new("switch");
    let shop = Shop::new(&site, 2);
    site.apply(&Shop { replicas: 1, ..shop.clone() });
    let old = fs::read_link(site.state().join("current")).expect("`current` is a link");
    let mut daemon = site.run(&shop);
    site.serves(site.listen(), "web", 2).expect("it serves");
    let before = daemon.drift("nginx");
    let good = site.nginx.generation();
    // As a person would: a new link over the old one. The daemon would have it back before the test has looked.
    daemon.signal(Signal::STOP);
    let new = site.state().join("current.mine");
    std::os::unix::fs::symlink(&old, &new).expect("a link");
    fs::rename(new, site.state().join("current")).expect("switched");
    assert_ne!(site.nginx.generation(), good, "`current` is the old one now");
    daemon.signal(Signal::CONT);
    eventually("`current` is right again", || {
        check(site.nginx.generation() == good, || format!("{:?}", site.nginx.generation()))
    });
    put_right(&site, &mut daemon, "nginx", before);
}

#[test]
fn current_that_was_switched_back_and_loaded_is_put_right() {
    let site = Site::new("switch-load");
    let shop = Shop::new(&site, 2);
    site.apply(&Shop { replicas: 1, ..shop.clone() });
    let old = fs::read_link(site.state().join("current")).expect("`current` is a link");
    let mut daemon = site.run(&shop);
    let before = daemon.drift("nginx");
    let new = site.state().join("current.mine");
    std::os::unix::fs::symlink(&old, &new).expect("a link");
    fs::rename(new, site.state().join("current")).expect("switched");
    site.nginx.command(&["-s", "reload"]).expect("nginx takes the old one");
    put_right(&site, &mut daemon, "nginx", before);
}

#[test]
fn an_nginx_whose_master_was_killed_is_replaced_with_its_orphans() {
    let (site, mut daemon) = kept("orphans");
    let before = daemon.drift("nginx");
    let old = site.nginx.processes();
    let master = site.nginx.master().expect("nginx runs");
    send(master, Signal::KILL);
    eventually("another master runs, and none of the old processes", || {
        let now = site.nginx.processes();
        check(!now.is_empty() && now.is_disjoint(&old), || format!("{old:?}, now {now:?}"))
    });
    put_right(&site, &mut daemon, "nginx", before);
}

#[test]
fn an_nginx_that_was_stopped_is_started() {
    let (site, mut daemon) = kept("nginx-stop");
    let before = daemon.drift("nginx");
    site.nginx.command(&["-s", "stop"]).expect("nginx is told to stop");
    put_right(&site, &mut daemon, "nginx", before);
}
