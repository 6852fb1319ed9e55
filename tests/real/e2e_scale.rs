//! What one change costs does not grow with what there is: the calls to the engine are counted, and what is read from Consul.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;

use reeve::render::endpoints;
use serde_json::json;

use crate::support::counter::Counter;
use crate::support::docker::{STRANGER, docker};
use crate::support::nginx::servers_of;
use crate::support::program::Daemon;
use crate::support::shop::WEB;
use crate::support::socket::Proxy;
use crate::support::{SOON, Shop, Site, check, eventually, within};

/// Kills a replica, and waits until all is as the spec says again; what the engine was asked for meanwhile.
fn change(site: &Site, daemon: &Daemon, proxy: &Proxy) -> Vec<String> {
    let before = site.container("web", 1);
    proxy.forget_requests();
    docker(&["kill", &before.id]);
    eventually("it runs again", || {
        let now = site.container_of("web", 1).ok_or("it is gone")?;
        check(now.state == "running" && now.started_at != before.started_at, || format!("{now:?}"))?;
        daemon.converged()?;
        site.serves(site.listen(), "web", 2)
    });
    proxy.requests()
}

#[test]
fn a_change_among_200_containers_costs_no_list_and_no_look_at_any_of_them() {
    let mut site = Site::new("scale");
    let socket = site.folder().join("docker.sock");
    let mut proxy = Proxy::new(&socket);
    proxy.open();
    site.docker_host = Some(format!("unix://{}", socket.display()));
    // The list that comes after a while all the same must not fall into the count.
    site.more_settings = "loop: { resync: 10m }\n".to_owned();
    site.write_settings();
    let daemon = site.run(&Shop::new(&site, 2));
    eventually("both serve", || site.serves(site.listen(), "web", 2));
    let label = format!("{STRANGER}={}", site.project);
    let mut others: Vec<String> = Vec::new();
    for count in [10, 200] {
        for number in others.len()..count {
            let name = format!("{}-other-{number}", site.project);
            others.push(docker(&["create", "--name", &name, "--label", &label, WEB]).trim().to_owned());
        }
        // They are new: that is a change of its own.
        change(&site, &daemon, &proxy);
        let asked = change(&site, &daemon, &proxy);
        // Other tests' containers come and go meanwhile: each is a change, and read once.
        let lists = |request: &str| {
            let path = request.split_once("/v1.41").map_or(request, |(_, path)| path);
            path.starts_with("/containers/json") || path == "/networks" || path == "/volumes"
        };
        let idle = |request: &str| others.iter().any(|id| request.contains(id.as_str()));
        let needless: Vec<&String> = asked.iter().filter(|request| lists(request) || idle(request)).collect();
        assert!(needless.is_empty(), "{count} containers of others: {needless:#?}");
        let calls = asked.iter().filter(|request| !request.ends_with("/_ping")).count();
        eprintln!("{count} containers of others: {calls} calls for one change");
    }
}

/// Somebody else's.
fn register(site: &Site, service: usize, instance: u16) {
    let (id, name) = (format!("s{service}-{instance}"), format!("s{service}"));
    let body = json!({"ID": id, "Name": name, "Address": "127.0.0.1", "Port": 30_000 + instance});
    site.consul().put("/v1/agent/service/register", &body);
}

/// That many services with that many instances, and an upstream `u<number>` for each.
fn write_catalog(site: &Site, services: usize, instances: u16) {
    let mut spec = format!("name: {}\nupstreams:\n", site.project);
    for service in 0..services {
        let listen = site.listen();
        let _ =
            writeln!(spec, "  u{service}: {{ service: s{service}, listen: {listen}, server_name: [u{service}.test] }}");
        (0..instances).for_each(|instance| register(site, service, instance));
    }
    site.write_spec(&spec);
}

#[test]
fn by_tls_each_of_very_many_services_is_watched_on_a_few_connections_and_a_change_reads_one() {
    const SERVICES: usize = 150;
    const INSTANCES: u16 = 10;
    let mut site = Site::new("many");
    site.use_lua();
    site.use_tls();
    write_catalog(&site, SERVICES, INSTANCES);
    let counter = Counter::before(site.consul_port());
    site.ask_consul_through(counter.port);
    let daemon = site.start(&[]);
    let routed = |service: usize, wanted: u16| {
        let text = fs::read_to_string(site.state().join("current/endpoints")).map_err(|error| error.to_string())?;
        let (_, all) = endpoints::parse(&text).ok_or("half a file")?;
        let seen = all.get(&format!("u{service}")).map_or(0, |endpoints| endpoints.len());
        check(seen == usize::from(wanted), || format!("s{service}: {seen} of {wanted}"))?;
        daemon.converged()
    };
    eventually("everything is routed", || (0..SERVICES).try_for_each(|service| routed(service, INSTANCES)));

    // All that the catalog has, as the agent tells it.
    let whole = site.consul().get(&format!("/v1/catalog/node/{}", site.agent.node())).to_string().len() / 1000;
    // In the first moments everything is read; then each watch has its first answer.
    let mut instances = INSTANCES;
    within(SOON, "a change reads one service", || {
        let (_, before) = counter.requests();
        register(&site, 3, instances);
        instances += 1;
        eventually("the change is routed", || routed(3, instances));
        let (_, after) = counter.requests();
        check((after - before) * 4 < whole, || format!("{} kB of the catalog's {whole}", after - before))
    });
    // Without HTTP/2, so many watches would take 64.
    assert!(counter.most_connections() < 40, "{} connections at once", counter.most_connections());
}

#[test]
fn a_generation_of_very_many_files_takes_over_those_of_a_removed_one_and_an_edit_of_one_is_put_right() {
    const UPSTREAMS: usize = 40;
    /// Five are kept beside the one in force: the sixth has the first one removed, the seventh takes its files.
    const CHANGES: u16 = 7;
    let mut site = Site::new("take-over");
    // What nobody tells must not be seen by the look that comes after a while all the same.
    site.more_settings = "loop: { resync: 10m }\n".to_owned();
    site.write_settings();
    write_catalog(&site, UPSTREAMS, 1);
    let daemon = site.start(&[]);
    let file = |name: &str| site.nginx.files().remove(&format!("upstream-{name}.conf")).expect("it has a file");
    let written = || {
        let data = fs::metadata(file("u39")).expect("a file");
        (data.ino(), data.modified().expect("a time"))
    };
    let mut all = Vec::new();
    for instances in 1..=CHANGES + 1 {
        if instances > 1 {
            register(&site, 0, instances - 1);
        }
        eventually("the change is loaded", || {
            let servers = servers_of(site.state(), "u0").map_or(0, |servers| servers.len());
            check(servers == usize::from(instances), || format!("{servers} of {instances}"))?;
            site.loaded_is_current()?;
            daemon.converged()
        });
        all.push(written());
    }
    let (last, before) = all.split_last().expect("some");
    assert!(before.contains(last), "u39 did not change, and was written anew: {all:?}");

    let (path, text) = (file("u39"), fs::read_to_string(file("u39")).expect("readable"));
    fs::write(&path, format!("{text}# by hand\n")).expect("edited");
    eventually("a clean generation is in force", || {
        let now = fs::read_to_string(file("u39")).map_err(|error| error.to_string())?;
        check(now == text, || now)?;
        site.loaded_is_current()
    });
    assert_ne!(path, file("u39"), "it is not repaired in place");
}
