//! What is not ours is never changed, also when its name, its id or its port is the one that we want: then that object
//! waits, and says what it clashes with.

use std::fs;
use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::docker::{STRANGER, docker};
use crate::support::program::Daemon;
use crate::support::shop::WEB;
use crate::support::{Shop, Site, check, eventually, http};

/// Everything about a container that reeve could have changed.
fn inspect(id: &str) -> Value {
    let mut all: Value = serde_json::from_str(&docker(&["inspect", id])).expect("JSON");
    // A health check's runs are Docker's own.
    if let Some(state) = all.pointer_mut("/0/State").and_then(Value::as_object_mut) {
        state.remove("Health");
    }
    all
}

/// The name that the first replica of `web` will have, by the plan.
fn planned_replica(site: &Site, slot: u32) -> String {
    let json: Value = serde_json::from_str(&site.reeve(&["plan", "-o", "json"]).success().stdout).expect("JSON");
    let prefix = format!("replica {}-web-{slot}-", site.project);
    let steps =
        json["waves"].as_array().expect("waves").iter().flat_map(|wave| wave["steps"].as_array().expect("steps"));
    let objects = steps.filter_map(|step| step["object"].as_str());
    objects.into_iter().find(|object| object.starts_with(&prefix)).expect("the plan makes it").replace("replica ", "")
}

#[test]
fn a_stranger_with_the_name_that_we_want_is_left_alone() {
    let site = Site::new("st-name");
    let shop = Shop::new(&site, 2);
    site.write_spec(&shop);
    let name = planned_replica(&site, 1);
    let label = format!("{STRANGER}={}", site.project);
    let stranger = docker(&["run", "--detach", "--name", &name, "--label", &label, WEB]);
    let before = inspect(&stranger);

    let mut daemon = site.run_until(&shop, |daemon| {
        daemon.waits(&[&name, "not ours"])?;
        check(site.nginx.servers("site").len() == 1, || "slot 2 does not serve".to_owned())
    });
    daemon.makes_passes(2);
    assert_eq!(inspect(&stranger), before);
    docker(&["rm", "--force", &stranger]);
    eventually("the name is free, and taken", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 2)
    });
    daemon.lives();
}

#[test]
fn a_stranger_on_our_host_port_is_left_alone() {
    let site = Site::new("st-port");
    let shop = Shop::new(&site, 2);
    let port = site.ports.published(0);
    let (label, publish) = (format!("{STRANGER}={}", site.project), format!("{port}:80"));
    let name = format!("{}-squatter", site.project);
    let stranger = docker(&["run", "--detach", "--name", &name, "--label", &label, "--publish", &publish, WEB]);
    let before = inspect(&stranger);

    let daemon = site.run_until(&shop, |daemon| {
        daemon.waits(&[&port.to_string(), &name])?;
        check(site.nginx.servers("site").len() == 1, || "slot 2 does not serve".to_owned())
    });
    daemon.makes_passes(2);
    assert_eq!(inspect(&stranger), before);
    docker(&["rm", "--force", &stranger]);
    eventually("the port is free, and taken", || site.serves(site.listen(), "web", 2));
}

#[test]
fn a_process_on_our_host_port_is_named_by_the_port() {
    let site = Site::new("st-process");
    let shop = Shop::new(&site, 2);
    let port = site.ports.published(0);
    let holder = TcpListener::bind(("0.0.0.0", port)).expect("free until now");
    let daemon = site.run_until(&shop, |daemon| {
        daemon.waits(&["web-1", &port.to_string()])?;
        check(site.nginx.servers("site").len() == 1, || "slot 2 does not serve".to_owned())
    });
    drop(holder);
    eventually("the port is free, and taken", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 2)
    });
    assert_eq!(site.containers().len(), 2, "nothing is left of the tries");
}

#[test]
fn a_registration_with_our_id_and_without_our_mark_is_left_alone() {
    let site = Site::new("st-id");
    let shop = Shop::new(&site, 2);
    site.write_spec(&shop);
    let id = format!("{}:{}:80/tcp", site.node, planned_replica(&site, 1));
    site.consul().register(&id, "theirs", "192.0.2.7", 80);
    let before = site.consul().services()[&id].clone();

    let daemon = site.run_until(&shop, |daemon| {
        daemon.waits(&[&id, "not ours"])?;
        check(site.nginx.servers("site").len() == 1, || "slot 2 does not serve".to_owned())
    });
    daemon.makes_passes(2);
    assert_eq!(site.consul().services()[&id], before);
    site.consul().deregister(&id);
    eventually("the id is free, and taken", || site.serves(site.listen(), "web", 2));
}

#[test]
fn registrations_of_another_project_and_of_another_node_stay() {
    let site = Site::new("st-reg");
    let shop = Shop::new(&site, 1);
    site.apply(&shop);
    // Exact copies of ours, but for the mark: the project, or the node, is another one.
    let ours = site.registrations().into_iter().next().expect("one");
    let service = site.consul().services()[&ours].clone();
    let copy = |id: &str, owner: &str| {
        let mut meta = service["Meta"].clone();
        for value in meta.as_object_mut().expect("a map").values_mut() {
            if value.as_str() == Some(site.owner().as_str()) {
                *value = owner.into();
            }
        }
        let body = json!({
            "ID": id, "Name": service["Service"], "Address": "192.0.2.7", "Port": 80, "Meta": meta,
            "Check": {"TTL": "1h", "Status": "critical"},
        });
        site.consul().put("/v1/agent/service/register", &body);
    };
    copy("other-project", &format!("other@{}", site.node));
    copy("other-node", &format!("{}@elsewhere", site.project));
    let strangers = |site: &Site| {
        let services = site.consul().services();
        (services.get("other-project").cloned(), services.get("other-node").cloned())
    };
    let before = strangers(&site);

    let daemon = site.run(&shop);
    site.consul().deregister(&ours);
    eventually("ours is back", || check(site.registrations().contains(&ours), || "gone".to_owned()));
    daemon.makes_passes(2);
    assert_eq!(strangers(&site), before);
    drop(daemon);
    site.reeve(&["destroy"]).success();
    assert_eq!(strangers(&site), before);
}

#[test]
fn a_network_with_our_name_and_without_our_mark_is_left_alone() {
    let site = Site::new("st-net");
    let name = format!("{}_default", site.project);
    let label = format!("{STRANGER}={}", site.project);
    let network = docker(&["network", "create", "--label", &label, &name]);
    let before = docker(&["network", "inspect", &network]);
    let daemon = site.run_until(&Shop::new(&site, 1), |daemon| daemon.waits(&[&name, "not ours"]).map(drop));
    daemon.makes_passes(2);
    assert_eq!(docker(&["network", "inspect", &network]), before);
    assert_eq!(site.containers(), Vec::new());
    drop(daemon);
    site.reeve(&["destroy"]).success();
    assert_eq!(docker(&["network", "inspect", &network]), before);
}

#[test]
fn a_container_that_copies_our_labels_under_another_owner_survives_destroy() {
    let site = Site::new("st-labels");
    site.apply(&Shop::new(&site, 1));
    let own = inspect(&site.container("web", 1).id);
    let stranger = format!("{STRANGER}={}", site.project);
    let owner = format!("reeve.owner={}@elsewhere", site.project);
    let mut arguments = vec!["run".to_owned(), "--detach".to_owned(), "--label".to_owned(), stranger];
    for (key, value) in own.pointer("/0/Config/Labels").and_then(Value::as_object).expect("labels") {
        let label = format!("{key}={}", value.as_str().expect("text"));
        arguments.extend(["--label".to_owned(), if key == "reeve.owner" { owner.clone() } else { label }]);
    }
    arguments.push(WEB.to_owned());
    let id = docker(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let before = inspect(&id);
    site.reeve(&["apply"]).success();
    site.reeve(&["destroy", "--volumes"]).success();
    assert_eq!(inspect(&id), before);
}

#[test]
fn nginx_files_that_are_not_ours_stay_as_they_are() {
    let site = Site::new("st-nginx");
    // The user's own server beside ours, and things in reeve's folder that reeve did not make.
    let own = site.nginx.folder.join("own.conf");
    let port = site.ports.listen(3);
    fs::write(&own, format!("server {{ listen {port}; location / {{ return 200 mine; }} }}\n")).expect("written");
    site.nginx.write_config(&format!(
        "    include {};\n    include {}/current/reeve.conf;\n",
        own.display(),
        site.state().display()
    ));
    let main = fs::read(site.nginx.config()).expect("readable");
    let kept = site.state().join("generations/mine");
    fs::create_dir_all(&kept).expect("a folder");
    fs::write(kept.join("notes.conf"), "# mine\n").expect("written");
    fs::write(site.state().join("notes.txt"), "mine\n").expect("written");

    let shop = Shop::new(&site, 1);
    site.apply(&shop);
    assert_eq!(http::get(port, "/").expect("the user's own server answers").body, "mine");
    // More changes than the number of generations that are kept.
    for replicas in [2, 1, 2, 1, 2, 1, 2, 1] {
        site.apply(&Shop { replicas, ..shop.clone() });
    }
    let generations = fs::read_dir(site.state().join("generations")).expect("readable").count();
    assert!(generations <= 10, "{generations} generations are left");
    site.reeve(&["destroy", "--volumes"]).success();
    assert_eq!(fs::read(site.nginx.config()).expect("readable"), main);
    assert_eq!(fs::read_to_string(kept.join("notes.conf")).expect("there"), "# mine\n");
    assert_eq!(fs::read_to_string(site.state().join("notes.txt")).expect("there"), "mine\n");
    assert_eq!(http::get(port, "/").expect("nginx still runs").body, "mine");
}

#[test]
fn a_main_configuration_without_the_line_is_refused_with_the_line() {
    let site = Site::new("st-line");
    site.nginx.write_config("");
    let line = format!("include {}/current/reeve.conf;", site.state().display());
    let shop = Shop::new(&site, 1);
    site.write_spec(&shop);
    site.reeve(&["plan"]).success().says(&line);
    let daemon: Daemon = site.run_until(&shop, |daemon| daemon.waits(&["nginx", &line]).map(drop));
    site.nginx.write_config(&format!("    {line}\n"));
    eventually("it goes on by itself", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 1)
    });
}

#[test]
fn a_probe_port_that_answers_for_somebody_else_is_named() {
    let site = Site::new("st-probe");
    let label = format!("{STRANGER}={}", site.project);
    let publish = format!("127.0.0.1:{}:80", site.ports.probe());
    let stranger = docker(&["run", "--detach", "--label", &label, "--publish", &publish, WEB]);
    let shop = Shop::new(&site, 1);
    let daemon = site.run_until(&shop, |daemon| daemon.waits(&["nginx", &site.ports.probe().to_string()]).map(drop));
    assert!(site.nginx.processes().is_empty(), "nginx is not started into a clash");
    docker(&["rm", "--force", &stranger]);
    eventually("the port is free, and all goes on", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 1)
    });
}
