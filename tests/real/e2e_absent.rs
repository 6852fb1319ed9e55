//! A backend that is absent, at the start or later: reeve stays up, says what is missing, changes nothing that depends on
//! it, and converges when it is back.

use rustix::process::Signal;

use crate::support::socket::Proxy;
use crate::support::{Shop, Site, check, eventually, nginx};

/// A site that reaches Docker through a socket which the test can take away.
fn through_proxy(name: &str) -> (Site, Proxy) {
    let mut site = Site::new(name);
    let path = site.folder().join("docker.sock");
    site.docker_host = Some(format!("unix://{}", path.display()));
    site.write_settings();
    (site, Proxy::new(&path))
}

#[test]
fn docker_absent_at_the_start_and_later_back() {
    let (site, mut docker) = through_proxy("no-docker");
    let shop = Shop::new(&site, 2);
    let mut daemon = site.run_until(&shop, |daemon| daemon.waits(&["service web", "Docker cannot be read"]).map(drop));
    assert_eq!(daemon.metric("reeve_backend_known{backend=\"docker\"}"), 0.0);
    assert_eq!(daemon.get("/healthz").expect("it answers").status, 200);
    docker.open();
    eventually("it converges", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 2)
    });
    assert_eq!(daemon.metric("reeve_backend_known{backend=\"docker\"}"), 1.0);
    daemon.lives();
}

#[test]
fn docker_gone_for_a_while_takes_nothing_down() {
    let (site, mut docker) = through_proxy("docker-away");
    docker.open();
    let shop = Shop::new(&site, 2);
    let mut daemon = site.run(&shop);
    let (containers, registrations, loaded) = (site.containers(), site.registrations(), site.loaded());
    docker.close();
    eventually("it says so", || daemon.waits(&["Docker cannot be read"]).map(drop));
    // The file changes meanwhile; nothing of it can be done.
    site.write_spec(&Shop { replicas: 1, ..shop.clone() });
    eventually("it takes the file", || {
        check(daemon.metric("reeve_containers_wanted{service=\"web\"}") == 1.0, || "still 2".to_owned())
    });
    daemon.makes_passes(2);
    assert_eq!(site.containers(), containers);
    assert_eq!(site.registrations(), registrations, "Unknown is not empty");
    assert_eq!(site.loaded(), loaded);
    site.serves(site.listen(), "web", 2).expect("it goes on serving");

    docker.open();
    eventually("it does it now", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 1)
    });
    // Events are heard again, too.
    let removed = site.container("web", 1);
    crate::support::docker::docker(&["rm", "--force", &removed.id]);
    eventually("a removed container is made again", || site.serves(site.listen(), "web", 1));
    daemon.lives();
}

#[test]
fn consul_absent_at_the_start_and_later_back() {
    let mut site = Site::without_consul("no-consul");
    let shop = Shop::new(&site, 2);
    let mut daemon = site.run_until(&shop, |daemon| {
        daemon.waits(&["service web", "Consul cannot be read"])?;
        // What does not depend on it goes on.
        let healthy = daemon.metric("reeve_containers_healthy{service=\"web\"}");
        check(healthy == 2.0, || format!("{healthy} healthy"))
    });
    site.agent.start();
    eventually("it converges", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 2)
    });
    daemon.lives();
}

#[test]
fn consul_gone_for_a_while_takes_nothing_down() {
    let mut site = Site::new("consul-away");
    let shop = Shop::new(&site, 2);
    let mut daemon = site.run(&shop);
    let (containers, loaded) = (site.containers(), site.loaded());
    site.agent.kill();
    eventually("it says so", || daemon.waits(&["Consul cannot be read"]).map(drop));
    site.write_spec(&Shop { replicas: 1, ..shop.clone() });
    eventually("it takes the file", || daemon.waits(&["cannot be drained"]).map(drop));
    daemon.makes_passes(2);
    assert_eq!(site.containers(), containers, "what cannot be drained is not stopped");
    assert_eq!(site.loaded(), loaded, "the endpoints are kept");
    site.serves(site.listen(), "web", 2).expect("it goes on serving");
    site.agent.start();
    eventually("it does it now", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 1)
    });
    assert_eq!(site.containers().len(), 1);
    daemon.lives();
}

#[test]
fn nginx_not_installed_at_the_start_and_later_there() {
    let mut site = Site::new("no-nginx");
    let binary = site.folder().join("nginx-binary");
    site.nginx_binary = binary.display().to_string();
    site.write_settings();
    let mut daemon = site.run_until(&Shop::new(&site, 2), |daemon| {
        daemon.waits(&["nginx", &binary.display().to_string()])?;
        let healthy = daemon.metric("reeve_registrations_passing{service=\"web\"}");
        check(healthy == 2.0, || format!("{healthy} registered"))
    });
    let real = std::env::var("PATH").expect("a PATH");
    let real = real.split(':').map(|folder| format!("{folder}/{}", nginx::BINARY));
    let real = real.into_iter().find(|path| std::path::Path::new(path).exists()).expect("nginx is on PATH");
    std::os::unix::fs::symlink(real, binary).expect("a link");
    eventually("it converges", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 2)
    });
    daemon.lives();
}

#[test]
fn nginx_that_is_not_ours_to_start_is_waited_for() {
    let mut site = Site::new("start-no");
    site.nginx_start = false;
    site.write_settings();
    let mut daemon = site.run_until(&Shop::new(&site, 1), |daemon| daemon.waits(&["nginx does not run"]).map(drop));
    // What is good is on disk already: whoever starts it, it serves.
    site.nginx.command(&[]).expect("nginx starts with what reeve has written");
    eventually("it converges", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 1)
    });
    // Its orphans are not ours to end, either: they are named.
    let old = site.nginx.processes();
    nginx::send(site.nginx.master().expect("it runs"), Signal::KILL);
    eventually("the orphans are named", || daemon.waits(&["master is gone"]).map(drop));
    daemon.makes_passes(1);
    assert!(!site.nginx.processes().is_disjoint(&old), "the workers go on serving");
    for pid in site.nginx.processes() {
        nginx::send(pid, Signal::QUIT);
    }
    eventually("the orphans end", || check(site.nginx.processes().is_empty(), || "they serve".to_owned()));
    site.nginx.command(&[]).expect("nginx starts again");
    eventually("it converges again", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 1)
    });
    daemon.lives();
}

#[test]
fn a_main_configuration_that_is_broken_keeps_what_is_loaded() {
    let site = Site::new("broken");
    let shop = Shop::new(&site, 1);
    let daemon = site.run(&shop);
    let loaded = site.loaded();
    let good = std::fs::read_to_string(site.nginx.config()).expect("readable");
    std::fs::write(site.nginx.config(), format!("{good}\nno_such_directive on;\n")).expect("spoilt");
    site.write_spec(&Shop { replicas: 2, ..shop.clone() });
    eventually("nginx's own message is told", || daemon.waits(&["no_such_directive"]).map(drop));
    assert_eq!(site.loaded(), loaded);
    let names = site.served_by(site.listen(), 4).expect("it goes on serving");
    assert_eq!(names.len(), 1);
    std::fs::write(site.nginx.config(), good).expect("mended");
    eventually("it goes on by itself", || {
        site.serves(site.listen(), "web", 2)?;
        daemon.converged()
    });
}
