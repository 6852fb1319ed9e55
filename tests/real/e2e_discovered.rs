//! Containers that reeve did not make, in every kind of network, and while Consul is away; and what is told of them.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::e2e_discovery::{answers, host_port, id_of, registered as all_registered, run, run_named, site, spec};
use crate::support::docker::{STRANGER, docker};
use crate::support::engine::Engine;
use crate::support::program::{Daemon, Elsewhere};
use crate::support::shop::WEB;
use crate::support::socket::Proxy;
use crate::support::{Site, check, eventually, http, within};

const LONG: Duration = Duration::from_secs(90);

/// Address, port and tags of a registration.
fn registered(site: &Site, id: &str) -> Result<(String, u64, Value), String> {
    let seen = site.consul().services().get(id).cloned().ok_or_else(|| format!("{id} is not registered"))?;
    Ok((
        seen["Address"].as_str().unwrap_or_default().to_owned(),
        seen["Port"].as_u64().unwrap_or_default(),
        seen["Tags"].clone(),
    ))
}

fn explained(site: &Site, name: &str) -> Value {
    let outcome = site.reeve(&["explain", name, "-o", "json"]).success();
    serde_json::from_str(&outcome.stdout).expect("JSON")
}

#[test]
fn in_the_hosts_network_and_in_anothers_a_container_is_registered_where_it_answers() {
    let site = site("di-nets");
    // It listens on the host itself, on a port that nothing exposes: a variable names it.
    let port = site.ports.published(0);
    let full = format!("{}-host", site.project);
    let label = format!("{STRANGER}={}", site.project);
    let named = format!("SERVICE_{port}_NAME={}", site.project);
    let listen = port.to_string();
    let on_the_host =
        ["run", "--detach", "--name", &full, "--label", &label, "--network", "host", "--env", "NAME=host"];
    docker(&[&on_the_host[..], &["--label", &named, WEB, "--listen", &listen]].concat());
    // One owns the network and publishes the port, the other listens there.
    let owner_name = format!("{}-owner", site.project);
    let owner = ["run", "--detach", "--name", &owner_name, "--label", &label, "--publish", "80"];
    let owner = docker(&[&owner[..], &[WEB, "--listen", "8080"]].concat());
    let network = format!("container:{owner}");
    let name = format!("SERVICE_NAME={}", site.project);
    run(&site, "inside", &["--network", &network, "--label", &name]);
    let daemon = site.run_until(&spec(&site, ""), |_| answers(&site, &["host", "inside"]));
    let at_host = registered(&site, &format!("{}:{}-host:{port}/tcp", site.node, site.project)).expect("registered");
    let inside = registered(&site, &id_of(&site, "inside")).expect("registered");
    assert_eq!((at_host.1, inside.1), (u64::from(port), u64::from(host_port(&owner))));
    assert_eq!(at_host.0, inside.0, "both at the advertised address");
    // The daemon registers other tests' containers there as well, as long as they are there.
    let mut ids: BTreeSet<String> = site.registrations();
    ids.retain(|id| id.contains(&format!(":{}-", site.project)));
    assert_eq!(ids.len(), 2, "neither port 80 of the host nor the owner: {ids:?}");
    // The network goes with its owner.
    docker(&["rm", "--force", &owner]);
    eventually("what lived in it waits, and says why", || {
        daemon.waits(&[&id_of(&site, "inside"), "which is not there"]).map(drop)
    });
    drop(daemon);
}

#[test]
fn udp_a_range_of_ports_and_an_address_of_version_6_are_registered_apart() {
    let site = site("di-ports");
    let (first, second, six) = (site.ports.published(0), site.ports.published(1), site.ports.published(2));
    let range = format!("{first}-{second}:80-81");
    let name = format!("SERVICE_NAME={}", site.project);
    let own = format!("SERVICE_80_NAME={}", site.project);
    run(&site, "range", &["--publish", &range, "--label", &name, "--label", &own]);
    // Nothing has to answer for a registration.
    run(&site, "dns", &["--publish", "53", "--publish", "53/udp", "--label", "SERVICE_NAME=dns"]);
    let published = format!("[::1]:{six}:80");
    run(&site, "six", &["--publish", &published, "--label", &name]);
    let daemon = site.run_until(&spec(&site, ""), |_| answers(&site, &["range", "six"]));
    let of = |name: &str, port: &str| {
        registered(&site, &format!("{}:{}-{name}:{port}", site.node, site.project)).expect("registered")
    };
    assert_eq!((of("range", "80/tcp").1, of("range", "81/tcp").1), (u64::from(first), u64::from(second)));
    let services = site.consul().services();
    let service = |id: &str| services[&format!("{}:{}-{id}", site.node, site.project)]["Service"].clone();
    assert_eq!(
        (service("range:80/tcp"), service("range:81/tcp")),
        (json!(site.project), json!(format!("{}-81", site.project)))
    );
    assert_eq!((service("dns:53/tcp"), service("dns:53/udp")), (json!("dns-53"), json!("dns-53")));
    let (tcp, udp) = (of("dns", "53/tcp"), of("dns", "53/udp"));
    assert_eq!((&tcp.2, &udp.2), (&json!([]), &json!(["udp"])));
    let of_docker = "{{range (index .NetworkSettings.Ports \"53/udp\")}}{{.HostPort}} {{end}}";
    let ports = docker(&["inspect", "--format", of_docker, &format!("{}-dns", site.project)]);
    assert!(ports.split(' ').any(|port| port == udp.1.to_string()), "{udp:?} {ports}");
    assert_eq!((of("six", "80/tcp").0.as_str(), of("six", "80/tcp").1), ("::1", u64::from(six)));
    assert!(site.nginx.servers("site").contains(&format!("[::1]:{six}")), "{:?}", site.nginx.servers("site"));
    drop(daemon);
}

#[test]
fn what_dies_and_what_comes_while_consul_is_away_is_made_up_when_it_is_back() {
    let mut site = Site::without_consul("di-away");
    site.agent.keeps_state = true;
    site.agent.start();
    let ghost = run_named(&site, "ghost", &[]);
    run_named(&site, "stays", &[]);
    let mut daemon = site.run_until(&spec(&site, ""), |_| answers(&site, &["ghost", "stays"]));
    site.agent.kill();
    eventually("Consul is seen away", || {
        let known = daemon.metric("reeve_backend_known{backend=\"consul\"}");
        check(known.abs() < f64::EPSILON, || format!("{known}"))
    });
    docker(&["rm", "--force", &ghost]);
    let own = format!("SERVICE_80_NAME={}", site.project);
    let name = format!("SERVICE_NAME={}", site.project);
    run(&site, "two", &["--publish", "80", "--publish", "81", "--label", &own, "--label", &name]);
    eventually("what died is not routed, though Consul is away", || answers(&site, &["stays"]));
    daemon.lives();
    // As after a reboot: the agent brings back what it had, the ghost among it.
    site.agent.start();
    eventually("both ports are registered, and the ghost is not", || {
        let mut ids = site.registrations();
        ids.retain(|id| id.contains(&format!(":{}-", site.project)));
        let id = |name: &str, port: &str| format!("{}:{}-{name}:{port}/tcp", site.node, site.project);
        let wanted = BTreeSet::from([id("stays", "80"), id("two", "80"), id("two", "81")]);
        check(ids == wanted, || format!("{ids:?}"))?;
        answers(&site, &["stays", "two"])
    });
    daemon.lives();
}

#[test]
fn explain_tells_of_a_discovered_container_and_an_entry_removed_by_hand_is_drift() {
    let site = site("di-tells");
    run_named(&site, "one", &["--label", "SERVICE_TAGS=a,b"]);
    run_named(&site, "quiet", &["--label", "SERVICE_IGNORE=1"]);
    run_named(&site, "wrong", &["--label", "SERVICE_CHECK_TTL=soon"]);
    let daemon: Daemon = site.run_until(&spec(&site, ""), |_| answers(&site, &["one"]));
    // `explain` tells what the daemon saw last; and what differs from then on is drift.
    eventually("it has converged once", || daemon.logs("converged: everything is as the spec says"));
    let id = id_of(&site, "one");
    for name in [site.project.clone(), format!("{}-one", site.project), id.clone()] {
        let ports = explained(&site, &name)["discovered"]["ports"].clone();
        let port = ports.as_array().into_iter().flatten().find(|port| port["registration"] == id.as_str());
        let port = port.unwrap_or_else(|| panic!("{name}: {ports:#}"));
        assert_eq!((&port["service"], &port["port"]), (&json!(site.project), &json!("80/tcp")), "{ports:#}");
        assert_eq!(
            (&port["registered"]["status"], &port["tags"]),
            (&json!("passing"), &json!(["a", "b"])),
            "{ports:#}"
        );
    }
    let text = site.reeve(&["explain", &format!("{}-one", site.project)]).success();
    text.says(&format!("registration {id}")).says("tags a, b").says("register");
    let quiet = site.reeve(&["explain", &format!("{}-quiet", site.project)]).success();
    quiet.says("nothing is registered").says("SERVICE_IGNORE");
    let wrong = site.reeve(&["explain", &format!("{}-wrong", site.project)]).success();
    wrong.says("it cannot be registered: SERVICE_CHECK_TTL is no duration");

    let before = daemon.drift("consul");
    site.consul().deregister(&id);
    eventually("it is back", || registered(&site, &id).map(drop));
    eventually("and it was drift", || {
        check(daemon.drift("consul") >= before + 1.0, || format!("{}", daemon.drift("consul")))
    });
    let drift = daemon.drift("consul");
    run_named(&site, "two", &[]);
    eventually("another one comes", || answers(&site, &["one", "two"]));
    docker(&["rm", "--force", &format!("{}-two", site.project)]);
    eventually("and goes", || answers(&site, &["one"]));
    daemon.makes_passes(1);
    assert!((daemon.drift("consul") - drift).abs() < f64::EPSILON, "neither is drift");
    http::get(site.listen(), "/").expect("it serves");
}

/// With an engine whose answers are slow, the event of a start is handled when the container is dead already.
#[test]
fn what_dies_as_soon_as_it_has_started_is_not_left_registered() {
    let mut site = site("di-brief");
    let path = site.folder().join("docker.sock");
    site.docker_host = Some(format!("unix://{}", path.display()));
    site.write_settings();
    let mut proxy = Proxy::new(&path);
    proxy.open();
    run_named(&site, "stays", &[]);
    let mut daemon = site.run_until(&spec(&site, ""), |_| answers(&site, &["stays"]));
    proxy.slow_down(Duration::from_millis(200));
    for number in 0..5 {
        let name = format!("brief{number}");
        let container = run_named(&site, &name, &[]);
        docker(&["kill", &container]);
        // Twice the same container, with another host port.
        docker(&["start", &container]);
        docker(&["kill", &container]);
    }
    daemon.makes_passes(1);
    proxy.slow_down(Duration::ZERO);
    let only_one = || {
        let ids: BTreeSet<String> = all_registered(&site).into_keys().collect();
        check(ids == BTreeSet::from([id_of(&site, "stays")]), || format!("{ids:?}"))
    };
    eventually("what has died is not registered", only_one);
    daemon.makes_passes(2);
    only_one().expect("and it does not come back");
    answers(&site, &["stays"]).expect("the other one serves");
    daemon.lives();
}

/// As when the controller is a container that is made anew: its host's name is another one each time.
#[test]
fn on_a_host_of_another_name_the_same_ids_stay_or_are_replaced_without_a_duplicate() {
    let site = site("di-name");
    run_named(&site, "one", &[]);
    run_named(&site, "two", &[]);
    let apply = |host: &str| site.reeve_elsewhere(&Elsewhere::Named(host), &["apply", "--timeout", "60s"]).success();
    let ids = || -> BTreeSet<String> { all_registered(&site).into_keys().collect() };
    let fixed = ["", ", ids: registrator, hostname: edge"];
    for discovery in fixed {
        site.write_spec(&spec(&site, discovery));
        apply("first");
        let before = all_registered(&site);
        assert_eq!(before.len(), 2, "{before:?}");
        let plan = site.reeve_elsewhere(&Elsewhere::Named("second"), &["plan"]).success().stdout;
        assert!(!plan.contains(&site.project), "{plan}");
        assert_eq!(all_registered(&site), before, "{discovery}");
    }
    // Without a name of its own, registrator's ids begin with the host's: the old ones go.
    site.write_spec(&spec(&site, ", ids: registrator"));
    for host in ["first", "second"] {
        apply(host);
        let wanted = ["one", "two"].map(|name| format!("{host}:{}-{name}:80", site.project));
        assert_eq!(ids(), BTreeSet::from(wanted));
    }
}

/// Two machines of one name at one agent: the mark is the same, and all the same neither takes the other's away.
#[test]
fn what_another_machine_of_the_same_name_registered_is_left_alone_and_routed() {
    if fs::read_to_string("/etc/machine-id").map_or(0, |id| id.trim().len()) != 32 {
        // Then nothing tells two machines of one name apart, and the mark is believed.
        eprintln!("not tested: this machine has no id");
        return;
    }
    let site = site("di-twin");
    let (one, two) = (run_named(&site, "one", &[]), run_named(&site, "two", &[]));
    site.write_spec(&spec(&site, ""));
    let other = Elsewhere::Machine("00112233445566778899aabbccddeeff");
    site.reeve_elsewhere(&other, &["apply", "--timeout", "60s"]).success();
    let before = all_registered(&site);
    assert_eq!(before.len(), 2, "{before:?}");

    // This machine never had the first container, and has one that is called as the second.
    docker(&["rm", "--force", &one]);
    let mut daemon = site.start(&[]);
    let words = ["another host of this name", "`node` of its own"];
    eventually("it says so", || daemon.waits(&[&[id_of(&site, "two").as_str()][..], &words].concat()).map(drop));
    daemon.makes_passes(2);
    assert_eq!(all_registered(&site), before, "nothing was removed or written anew");
    let routed = site.nginx.servers("site");
    assert!(routed.iter().any(|at| at.ends_with(&format!(":{}", host_port(&two)))), "{routed:?}");
    assert_eq!(routed.len(), 2, "the catalog is believed: {routed:?}");
    daemon.lives();
    drop(daemon);

    // The machine that wrote it knows that it is gone.
    site.reeve_elsewhere(&other, &["apply", "--timeout", "60s"]).success();
    let ids: BTreeSet<String> = all_registered(&site).into_keys().collect();
    assert_eq!(ids, BTreeSet::from([id_of(&site, "two")]));
}

/// Containers that are discovered in an engine of the test's own. Docker chooses their host ports, and chooses anew.
fn in_own_engine(name: &str, live_restore: bool) -> (Site, Engine, Daemon) {
    let mut site = Site::new(name);
    let engine = Engine::start(&site, live_restore);
    site.docker_host = Some(engine.host());
    site.more_settings = format!("advertise: {}\nloop: {{ resync: 2s }}\n", engine.address());
    site.write_settings();
    let named = format!("SERVICE_NAME={}", site.project);
    for name in ["one", "two"] {
        let (full, own) = (format!("{}-{name}", site.project), format!("NAME={name}"));
        let run = ["--host", &engine.host(), "run", "--detach", "--restart", "always", "--name", &full];
        docker(&[&run[..], &["--publish", "80", "--label", &named, "--env", &own, WEB]].concat());
    }
    let daemon = site.run_until(&spec(&site, ""), |_| answers(&site, &["one", "two"]));
    (site, engine, daemon)
}

fn discovered_again(site: &Site, daemon: &mut Daemon) {
    within(LONG, "both are registered where they answer, and serve", || {
        daemon.converged()?;
        let ids: BTreeSet<String> = all_registered(site).into_keys().collect();
        check(ids == ["one", "two"].map(|name| id_of(site, name)).into(), || format!("{ids:?}"))?;
        answers(site, &["one", "two"])
    });
    daemon.lives();
}

#[test]
#[ignore = "long: make test-long"]
fn a_docker_that_restarts_with_its_containers_has_all_that_was_discovered_registered_again() {
    let (site, mut engine, mut daemon) = in_own_engine("di-engine", false);
    for _ in 0..2 {
        engine.stop();
        eventually("it says so", || daemon.waits(&["Docker cannot be read"]).map(drop));
        daemon.makes_passes(1);
        engine.run();
        discovered_again(&site, &mut daemon);
    }
}

#[test]
#[ignore = "long: make test-long"]
fn a_docker_that_is_killed_beside_its_containers_takes_nothing_that_was_discovered_out_of_the_catalog() {
    let (site, mut engine, mut daemon) = in_own_engine("di-live", true);
    let (before, loaded) = (all_registered(&site), site.loaded());
    engine.kill();
    eventually("it says so", || daemon.waits(&["Docker cannot be read"]).map(drop));
    daemon.makes_passes(2);
    assert_eq!((all_registered(&site), site.loaded()), (before.clone(), loaded), "Unknown is not empty");
    engine.run();
    discovered_again(&site, &mut daemon);
    assert_eq!(all_registered(&site), before, "nothing of it was written anew");
}
