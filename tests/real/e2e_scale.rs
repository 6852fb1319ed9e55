//! What one change costs does not grow with what there is: the calls to the engine are counted.

use std::process::Command;

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
    for (from, to) in [(0, 10), (10, 200)] {
        for number in from..to {
            let name = format!("{}-other-{number}", site.project);
            let made = Command::new("docker").args(["create", "--name", &name, "--label", &label, WEB]).output();
            assert!(made.is_ok_and(|made| made.status.success()), "{name}");
        }
        // They are new: that is a change of its own.
        change(&site, &daemon, &proxy);
        let asked = change(&site, &daemon, &proxy);
        let ours = site.containers();
        let about_ours = |request: &&String| {
            ours.iter().any(|one| request.contains(&one.id) || request.contains(&format!("/{}/", one.name)))
        };
        let others: Vec<&String> = asked.iter().filter(|request| !about_ours(request)).collect();
        assert!(others.is_empty(), "{to} containers of others, {} calls, and not of ours: {others:#?}", asked.len());
        eprintln!("{to} containers of others: {} calls for one change", asked.len());
    }
}
