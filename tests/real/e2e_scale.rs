//! What one change costs does not grow with what there is: the calls to the engine are counted.

use crate::support::docker::{STRANGER, docker};
use crate::support::program::Daemon;
use crate::support::shop::WEB;
use crate::support::socket::Proxy;
use crate::support::{Shop, Site, check, eventually};

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
