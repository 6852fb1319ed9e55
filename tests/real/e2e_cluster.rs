//! Consul declared by the spec itself, as in the demo: three servers and a client, and the shop that registers with it.

use std::fmt::Write as _;
use std::time::Duration;

use crate::support::docker::docker;
use crate::support::shop::CONSUL;
use crate::support::{Shop, Site, check, http, within};

const SERVERS: [&str; 3] = ["consul1", "consul2", "consul3"];
/// An election and the checks' first runs are in it.
const LONG: Duration = Duration::from_secs(90);

/// The services of a cluster, indented as below `services`. `tag` is in every server's environment.
fn cluster(site: &Site, tag: &str) -> String {
    let join: String = SERVERS.iter().map(|name| format!(", -retry-join={name}")).collect();
    let mut text = String::new();
    let mut agent = |number: usize, name: &str, flags: &str, more: &str| {
        writeln!(
            text,
            "  {name}:\n    image: {CONSUL}\n    restart: always\n    volumes: [\"{name}-data:/consul/data\"]\n    \
             command: [agent, -client=0.0.0.0, -node={name}, -node-id=00000000-0000-4000-8000-00000000000{number}{join}, \
             -retry-interval=1s, -hcl, \"performance {{ raft_multiplier = 1 }}\"{flags}]{more}"
        )
        .expect("a String takes it");
    };
    for (number, name) in SERVERS.iter().enumerate() {
        agent(number + 1, name, ", -server, -bootstrap-expect=3", &format!("\n    environment: {{ TAG: \"{tag}\" }}"));
    }
    agent(4, "consul4", "", &format!("\n    ports: [\"{}:8500\"]", site.ports.consul()[0]));
    text
}

fn shop(site: &Site, tag: &str) -> Shop {
    let mut shop = Shop::new(site, 2);
    shop.more_services = cluster(site, tag);
    shop.more = "volumes: { consul1-data: {}, consul2-data: {}, consul3-data: {}, consul4-data: {} }\n".to_owned();
    shop
}

fn members(site: &Site) -> Result<(), String> {
    let peers = site.consul().try_get("/v1/status/peers")?;
    check(peers.as_array().is_some_and(|peers| peers.len() == 3), || format!("peers: {peers}"))?;
    let leader = site.consul().try_get("/v1/status/leader")?;
    check(leader.as_str().is_some_and(|leader| !leader.is_empty()), || "no leader".to_owned())
}

#[test]
fn a_cluster_of_the_spec_is_bootstrapped_kept_and_taken_down() {
    let site = Site::without_consul("cluster");
    let first = shop(&site, "first");
    site.apply(&first);
    site.serves(site.listen(), "web", 2).expect("at the end of `apply` the set serves");
    members(&site).expect("three peers and a leader");
    site.reeve(&["plan", "--detailed-exitcode"]).exits(0).says("No changes.");
    let status = site.reeve(&["status"]).success();
    for words in ["Leader", "Peers", "consul1", "consul4"] {
        assert!(status.stdout.contains(words), "{words}:\n{}", status.stdout);
    }

    let mut daemon = site.run(&first);
    // The client, with everything that is registered on it.
    let before = daemon.drift("docker");
    let client = site.container("consul4", 1);
    docker(&["rm", "--force", &client.id]);
    site.serves(site.listen(), "web", 2).expect("it goes on serving without an agent");
    within(LONG, "the client is back with all registrations", || {
        check(site.container_of("consul4", 1).is_some_and(|one| one.id != client.id), || "no client".to_owned())?;
        // Until the pass has ended, status is as it was before.
        check(daemon.drift("docker") > before, || "it was not counted".to_owned())?;
        daemon.converged()?;
        let services = site.consul().try_get("/v1/agent/services")?;
        let ours = services.as_object().into_iter().flatten().filter(|(id, _)| id.contains("-web-")).count();
        check(ours == 2, || format!("{services}"))?;
        site.serves(site.listen(), "web", 2)
    });
    assert_eq!(site.consul().registrations(&site.owner()).len(), 2);

    // One server: by Docker's own restart, and killed.
    for command in ["restart", "kill"] {
        docker(&[command, &site.container("consul2", 1).id]);
        site.serves(site.listen(), "web", 2).expect("it goes on serving");
        within(LONG, "the server is back among its peers", || {
            members(&site)?;
            check(site.container("consul2", 1).state == "running", || "not running".to_owned())?;
            daemon.converged()
        });
    }
    daemon.lives();
    drop(daemon);

    // All three servers changed: one at a time, and the site serves throughout.
    site.write_spec(&shop(&site, "second"));
    let mut begun = site.begin(&["apply", "--timeout", "110s"]);
    while !begun.ended() {
        let running = site
            .containers()
            .iter()
            .filter(|one| SERVERS.contains(&one.service.as_str()) && one.state == "running")
            .count();
        assert!(running >= 2, "{running} servers run:\n{}", begun.stderr());
        let answer = http::get(site.listen(), "/").expect("nginx answers");
        assert_eq!(answer.status, 200, "{}", begun.stderr());
        std::thread::sleep(Duration::from_millis(100));
    }
    begun.wait().success();
    members(&site).expect("three peers and a leader");

    let destroyed = site.reeve(&["destroy", "--volumes", "--timeout", "60s"]).success();
    assert_eq!(site.containers(), Vec::new());
    let done = destroyed.done();
    let last_web = done.iter().rposition(|(object, _)| object.contains("-web-"));
    let first_server = done.iter().position(|(object, _)| object.contains("-consul"));
    assert!(last_web < first_server, "what registers leaves before Consul: {done:?}");
}

#[test]
fn a_consul_that_was_declared_wrongly_converges_when_the_file_is_mended() {
    let site = Site::without_consul("mend");
    let port = site.ports.consul()[0];
    let agent = |flag: &str| {
        let mut shop = Shop::new(&site, 1);
        shop.more_services = format!(
            "  consul:\n    image: {CONSUL}\n    restart: always\n    ports: [\"{port}:8500\"]\n    \
             command: [agent, -server, {flag}, -client=0.0.0.0, -hcl, \"performance {{ raft_multiplier = 1 }}\"]\n"
        );
        shop
    };
    let mut daemon = site.run_until(&agent("-bootstrp-expect=1"), |daemon| {
        daemon.waits(&["Consul cannot be read"])?;
        daemon.waits(&["consul-1"]).map(drop)
    });
    site.write_spec(&agent("-bootstrap-expect=1"));
    within(LONG, "it converges", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 1)
    });
    daemon.lives();
    // Its own Consul goes with the project: `destroy` must not wait for what it has removed itself.
    drop(daemon);
    site.reeve(&["destroy", "--volumes", "--timeout", "30s"]).success();
    assert_eq!(site.containers(), Vec::new());
}
