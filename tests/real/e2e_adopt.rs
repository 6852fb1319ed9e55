//! `reeve adopt`: containers that somebody else made become replicas as they are, and leave like any other.

use std::collections::BTreeSet;

use rustix::process::Signal;

use crate::support::docker::{STRANGER, docker, try_docker};
use crate::support::shop::{WEB, WEB_2};
use crate::support::{Site, check, eventually};

fn spec(site: &Site, image: &str) -> String {
    let (project, listen) = (&site.project, site.listen());
    let (first, last) = (site.ports.published(0), site.ports.published(2));
    format!(
        "name: {project}
services:
  web:
    image: {image}
    deploy: {{ replicas: 2 }}
    ports: [\"{first}-{last}:80\"]
    environment: {{ MODE: fast }}
    stop_grace_period: 2s
    restart: always
    register: {{ port: 80, check: {{ http: /health, interval: 1s, timeout: 1s }} }}
upstreams:
  site: {{ service: web, listen: {listen}, server_name: [localhost], drain: 1s }}
networks:
  default: {{ external: true, name: {project}_default }}
"
    )
}

/// What `docker compose up` makes of the same file, as far as it matters.
fn composed(site: &Site, number: u16, mode: &str) -> String {
    let project = &site.project;
    let port = format!("{}:80", site.ports.published(number - 1));
    let (name, network) = (format!("{project}_web_{number}"), format!("{project}_default"));
    let labels = [
        format!("{STRANGER}={project}"),
        format!("com.docker.compose.project={project}"),
        "com.docker.compose.service=web".to_owned(),
        format!("com.docker.compose.container-number={number}"),
    ];
    let mode = format!("MODE={mode}");
    let mut arguments = vec!["run", "--detach", "--name", &name, "--network", &network, "--publish", &port];
    arguments.extend(["--env", &mode, "--restart", "always", "--stop-timeout", "2"]);
    for label in &labels {
        arguments.extend(["--label", label]);
    }
    arguments.push(WEB);
    docker(&arguments)
}

fn network(site: &Site) {
    let label = format!("{STRANGER}={}", site.project);
    docker(&["network", "create", "--label", &label, &format!("{}_default", site.project)]);
}

/// The names that these containers answer with.
fn hostnames(ids: &[String]) -> BTreeSet<String> {
    ids.iter().map(|id| id[..12].to_owned()).collect()
}

#[test]
fn what_compose_made_is_taken_over_as_it_is_serves_and_is_replaced_like_any_other() {
    let site = Site::new("adopt");
    network(&site);
    let ids = [1, 2].map(|number| composed(&site, number, "fast"));
    site.write_spec(&spec(&site, WEB));

    let shown = site.reeve(&["adopt", "web", "--dry-run"]).success();
    let shown = shown.says("=   replica").says("_web_1 becomes slot 1 of web").says("_web_2 becomes slot 2 of web");
    assert!(!shown.stdout.contains("create"), "{}", shown.stdout);
    assert!(!site.state().join("pins.json").exists(), "nothing is written");

    site.reeve(&["adopt", "web"]).success().says("2 containers adopted as web");
    let mut daemon = site.start(&[]);
    let serves = |ids: &[String]| {
        let seen = site.served_by(site.listen(), 8)?;
        check(seen == hostnames(ids), || format!("answers of {seen:?}, not of {:?}", hostnames(ids)))
    };
    eventually("they are registered and routed", || {
        daemon.converged()?;
        serves(&ids)
    });
    assert_eq!(site.containers(), [], "none was made");
    site.reeve(&["plan", "--detailed-exitcode"]).success().says("No changes.");
    site.reeve(&["adopt", "web"]).exits(1).says("no container can be adopted");

    // It outlives the daemon; one that dies is started again as what it is.
    let (_, _) = daemon.end(Signal::KILL);
    docker(&["kill", &ids[0]]);
    daemon = site.start(&[]);
    eventually("it runs again", || {
        daemon.converged()?;
        serves(&ids)
    });
    assert_eq!(site.containers(), [], "none was made in its place");

    // The next version: in order, and with labels.
    site.write_spec(&spec(&site, WEB_2));
    eventually("ordinary replicas have taken their places", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 2)
    });
    for id in &ids {
        assert!(try_docker(&["inspect", id]).is_err(), "{id} is still there");
    }
    eventually("the adoption ends with the containers", || {
        let pins = std::fs::read_to_string(site.state().join("pins.json")).map_err(|error| error.to_string())?;
        check(!pins.contains("adopted"), || pins.clone())
    });
    daemon.lives();
}

#[test]
fn a_container_that_is_not_what_the_spec_says_is_left_alone_with_what_differs() {
    let site = Site::new("adopt-not");
    network(&site);
    let good = composed(&site, 1, "fast");
    let other = composed(&site, 2, "slow");
    site.write_spec(&spec(&site, WEB));
    let name = format!("{}_web_2", site.project);
    site.reeve(&["adopt", "web"])
        .success()
        .says("1 container adopted as web")
        .says(&format!("{name} is left alone"))
        .says("environment.MODE: \"slow\" => \"fast\"");
    site.reeve(&["adopt", "web", &name]).exits(1).says("--accept-differences");
    site.reeve(&["adopt", "web", &name, "--accept-differences"]).success();
    let daemon = site.start(&[]);
    eventually("both serve as they are", || {
        daemon.converged()?;
        let seen = site.served_by(site.listen(), 8)?;
        check(seen == hostnames(&[good.clone(), other.clone()]), || format!("answers of {seen:?}"))
    });
    assert_eq!(site.containers(), [], "none was made");
}
