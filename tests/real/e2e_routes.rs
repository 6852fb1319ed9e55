//! Upstreams: several on one listen address, of services that somebody else registered, and without any instance.

use std::collections::BTreeSet;
use std::net::TcpListener;

use serde_json::json;

use crate::support::shop::WEB;
use crate::support::{Shop, Site, check, docker, eventually, http};

/// A shop with a second service `api`, both known by their names.
fn two_services(site: &Site) -> Shop {
    let mut shop = Shop::new(site, 1);
    shop.environment = vec![("NAME".to_owned(), "web".to_owned())];
    shop.more_services = format!(
        "  api:\n    image: {WEB}\n    environment: {{ NAME: api }}\n    ports: [\"{}:80\"]\n    stop_grace_period: 2s\n    \
         healthcheck: {{ test: [CMD, /bin/reeve-web, --check], interval: 1s, timeout: 2s }}\n    register: true\n",
        site.ports.published(10)
    );
    shop
}

fn answered_by(port: u16, host: &str, path: &str) -> String {
    let answer = http::get_as(port, host, path).expect("nginx answers");
    if answer.status == 200 {
        answer.body.split(' ').nth(1).unwrap_or_default().to_owned()
    } else {
        answer.status.to_string()
    }
}

#[test]
fn two_upstreams_share_a_listen_by_name_and_by_path() {
    let site = Site::new("share");
    let mut shop = two_services(&site);
    let listen = site.listen();
    shop.upstreams = vec![
        (
            "names".to_owned(),
            format!("{{ service: web, listen: {listen}, server_name: [www.example.net], drain: 1s }}"),
        ),
        (
            "names_api".to_owned(),
            format!("{{ service: api, listen: {listen}, server_name: [api.example.net], drain: 1s }}"),
        ),
        (
            "paths_api".to_owned(),
            format!("{{ service: api, listen: {listen}, server_name: [www.example.net], path: /api/, drain: 1s }}"),
        ),
    ];
    site.apply(&shop);
    assert_eq!(answered_by(listen, "www.example.net", "/"), "web");
    assert_eq!(answered_by(listen, "api.example.net", "/"), "api");
    assert_eq!(answered_by(listen, "www.example.net", "/api/orders"), "api");
    assert_eq!(answered_by(listen, "www.example.net", "/apis"), "web");
    site.reeve(&["plan", "--detailed-exitcode"]).exits(0);
}

#[test]
fn the_original_proxy_headers_are_sent_and_more_when_asked() {
    let site = Site::new("headers");
    let mut shop = Shop::new(&site, 1);
    shop.upstreams = vec![(
        "site".to_owned(),
        format!("{{ service: web, listen: {}, drain: 1s, headers: {{ X-Env: \"a b, c\" }} }}", site.listen()),
    )];
    site.apply(&shop);
    let head = http::get_as(site.listen(), "www.example.net", "/headers").expect("it serves").body.to_lowercase();
    for line in ["host: www.example.net", "x-real-ip: 127.0.0.1", "x-forwarded-for: 127.0.0.1", "x-env: a b, c"] {
        assert!(head.contains(line), "{line:?} is not in\n{head}");
    }
}

#[test]
fn an_upstream_routes_to_what_somebody_else_registered() {
    let site = Site::new("foreign");
    // Not reeve's, and not even a container of the project: some server elsewhere.
    let port = site.ports.published(15);
    let label = format!("{}={}", docker::STRANGER, site.project);
    let publish = format!("127.0.0.1:{port}:80");
    docker::docker(&["run", "--detach", "--label", &label, "--publish", &publish, "--env", "NAME=legacy", WEB]);
    let mut shop = Shop::new(&site, 1);
    shop.upstreams.push(("legacy".to_owned(), Shop::upstream("legacy", site.ports.listen(1))));
    let mut daemon = site.run_until(&shop, |daemon| daemon.waits(&["upstream legacy", "no endpoint passes"]).map(drop));

    site.consul().register("legacy-1", "legacy", "127.0.0.1", port);
    eventually("its server answers", || {
        let names = site.served_by(site.ports.listen(1), 3)?;
        check(names == BTreeSet::from(["legacy".to_owned()]), || format!("{names:?}"))
    });
    // Its state is its own business: in maintenance it is not routed, and reeve does not lift it.
    site.consul().put("/v1/agent/service/maintenance/legacy-1?enable=true&reason=theirs", &json!(null));
    eventually("503", || {
        let answer = http::get(site.ports.listen(1), "/").map_err(|error| error.to_string())?;
        check(answer.status == 503, || answer.body)
    });
    site.consul().put("/v1/agent/service/maintenance/legacy-1?enable=false", &json!(null));
    eventually("it is routed again", || site.served_by(site.ports.listen(1), 3).map(drop));
    site.consul().deregister("legacy-1");
    eventually("503 again", || {
        let answer = http::get(site.ports.listen(1), "/").map_err(|error| error.to_string())?;
        check(answer.status == 503, || answer.body)
    });
    site.serves(site.listen(), "web", 1).expect("the other upstream is left alone");
    daemon.lives();
}

#[test]
fn an_upstream_without_an_instance_answers_503_and_holds_nothing_up() {
    let site = Site::new("empty");
    let mut shop = Shop::new(&site, 1);
    shop.upstreams.push(("nobody".to_owned(), Shop::upstream("nobody", site.ports.listen(1))));
    site.apply(&shop);
    assert_eq!(http::get(site.ports.listen(1), "/").expect("nginx answers").status, 503);
    site.nginx.command(&["-t"]).expect("the configuration is valid");
    site.serves(site.listen(), "web", 1).expect("the other upstream serves");
    site.reeve(&["plan", "--detailed-exitcode"]).exits(0);
    site.reeve(&["status"]).success().says("no endpoint passes");
}

#[test]
fn when_empty_keep_holds_the_last_endpoints() {
    let site = Site::new("keep");
    let port = site.ports.published(15);
    let label = format!("{}={}", docker::STRANGER, site.project);
    let publish = format!("127.0.0.1:{port}:80");
    docker::docker(&["run", "--detach", "--label", &label, "--publish", &publish, "--env", "NAME=legacy", WEB]);
    site.consul().register("legacy-1", "legacy", "127.0.0.1", port);
    let mut shop = Shop::new(&site, 1);
    let upstream = format!("{{ service: legacy, listen: {}, when_empty: keep }}", site.ports.listen(1));
    shop.upstreams.push(("legacy".to_owned(), upstream));
    site.apply(&shop);
    site.consul().put("/v1/agent/service/maintenance/legacy-1?enable=true", &json!(null));
    let daemon = site.run_until(&shop, |daemon| daemon.waits(&["upstream legacy", "keep"]).map(drop));
    daemon.makes_passes(1);
    assert_eq!(answered_by(site.ports.listen(1), "localhost", "/"), "legacy");
}

#[test]
fn a_taken_listen_port_holds_only_its_own_upstream() {
    let site = Site::new("taken");
    let mut shop = Shop::new(&site, 1);
    let taken = site.ports.listen(1);
    let holder = TcpListener::bind(("0.0.0.0", taken)).expect("free until now");
    shop.upstreams.push(("second".to_owned(), Shop::upstream("web", taken)));
    let daemon = site.run_until(&shop, |daemon| {
        daemon.waits(&["upstream second", &taken.to_string(), "taken"]).map(drop)?;
        site.serves(site.listen(), "web", 1)
    });
    drop(holder);
    eventually("the second one follows by itself", || {
        site.serves(taken, "web", 1)?;
        daemon.converged()
    });
}

#[test]
fn an_unhealthy_replica_is_not_routed_and_comes_back() {
    let site = Site::new("sick");
    let mut daemon = site.run(&Shop::new(&site, 2));
    let sick = site.container("web", 1);
    let port = sick.published[0];
    http::post(port, "/health/fail").expect("the replica itself answers");
    eventually("only the other one is routed", || {
        let servers = site.nginx.servers("site");
        check(servers.len() == 1 && !servers.iter().any(|one| one.ends_with(&port.to_string())), || {
            format!("{servers:?}")
        })?;
        site.loaded_is_current()
    });
    eventually("status says so", || daemon.waits(&[&sick.name, "HEALTHCHECK"]).map(drop));
    assert_eq!(site.container("web", 1).id, sick.id, "it is not replaced for being unhealthy");
    http::post(port, "/health/ok").expect("the replica itself answers");
    eventually("both are routed", || {
        site.serves(site.listen(), "web", 2)?;
        daemon.converged()
    });
    assert_eq!((daemon.drift("docker"), daemon.drift("nginx")), (0.0, 0.0), "health is no drift");
    daemon.lives();
}

#[test]
fn a_replica_that_an_operator_put_into_maintenance_stays_out() {
    let site = Site::new("maintenance");
    let daemon = site.run(&Shop::new(&site, 2));
    let id = site.registration_id(&site.container("web", 1), 80).replace('/', "%2F");
    site.consul().put(&format!("/v1/agent/service/maintenance/{id}?enable=true&reason=look"), &json!(null));
    eventually("it is not routed", || check(site.nginx.servers("site").len() == 1, || "two".to_owned()));
    eventually("status says so", || daemon.waits(&["maintenance", "look"]).map(drop));
    daemon.makes_passes(1);
    assert_eq!(site.nginx.servers("site").len(), 1, "reeve does not lift somebody else's maintenance");
    site.consul().put(&format!("/v1/agent/service/maintenance/{id}?enable=false"), &json!(null));
    eventually("both are routed", || site.serves(site.listen(), "web", 2));
}
