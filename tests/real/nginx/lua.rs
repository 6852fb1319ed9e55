//! Endpoints that Lua balances: set while nginx runs, kept over restarts, and nobody else's to set.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use reeve::observed::{Balancer, GenerationId, HttpBlock, Loaded, Nginx, NginxProcess, RoutedUpstream};
use reeve::plan::NginxAction;
use reeve::render::endpoints;
use reeve::settings::EndpointsMode;
use reeve::world::ActionError;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::site::{LIMIT, LUA_MODULES, Site, backend, exchange, free_port, get, routed, set, upstream, who};

fn site() -> Site {
    Site::with_lua("worker_processes 2;")
}

async fn give(site: &Site, id: &GenerationId, routes: &BTreeMap<String, RoutedUpstream>) -> Result<(), ActionError> {
    let action = NginxAction::SetEndpoints { expect: id.clone(), endpoints: endpoints::of(routes) };
    site.nginx.execute(&action).await
}

/// Both workers are asked.
async fn always(port: u16, name: &str) {
    for _ in 0..40 {
        assert_eq!(who(&get(port, "x", "/").await), name);
    }
}

fn ports_of(seen: &Nginx, id: &GenerationId) -> Vec<u16> {
    seen.generations[id].manifest.upstreams["web"].endpoints.iter().map(|one| one.port).collect()
}

fn workers(site: &Site) -> Vec<String> {
    let master = site.master();
    let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).expect("children");
    children.split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn endpoints_change_at_once_in_all_workers_without_a_reload_and_survive_a_restart_of_nginx() {
    let mut site = site();
    let (port, one, two) = (free_port(), backend("one").await, backend("two").await);
    let of = |ports: &[u16]| set(vec![routed(upstream("web", port), ports)]);
    assert_eq!(site.view().await.lua, Ok(()));
    let id = site.load(&of(&[one])).await;
    always(port, "one").await;
    let before = workers(&site);

    for (target, name) in [(two, "two"), (one, "one"), (two, "two")] {
        give(&site, &id, &of(&[target])).await.expect("set");
        always(port, name).await;
        let seen = site.view().await;
        assert_eq!(ports_of(&seen, &id), [target], "what is in force is what the generation routes");
        let hash = endpoints::hash(&endpoints::of(&of(&[target])));
        let places = seen.generations[&id].endpoints.clone().expect("by Lua");
        assert_eq!((places.file, places.loaded), (Some(hash.clone()), Some(hash)));
        assert!(seen.generations[&id].damaged.is_empty(), "they are no damage: {:?}", seen.generations[&id].damaged);
    }
    assert_eq!(workers(&site), before, "nothing was reloaded");

    give(&site, &id, &of(&[])).await.expect("set");
    assert!(get(port, "x", "/").await.starts_with("HTTP/1.1 503"), "an empty upstream answers when_empty");
    give(&site, &id, &of(&[two])).await.expect("set");

    site.send("-QUIT", site.master());
    site.view_until("it has ended", |seen| seen.loaded == Loaded::Nothing && seen.process == NginxProcess::Stopped)
        .await;
    site.nginx.execute(&NginxAction::Start { expect: id.clone() }).await.expect("started");
    always(port, "two").await;
    site.nginx = site.fresh();
    assert_eq!(ports_of(&site.view().await, &id), [two], "a fresh process sees the same");
}

#[tokio::test]
async fn a_lost_push_and_an_edited_file_are_seen_and_what_is_in_force_is_told() {
    let site = site();
    let (port, one, two) = (free_port(), backend("one").await, backend("two").await);
    let of = |ports: &[u16]| set(vec![routed(upstream("web", port), ports)]);
    let id = site.load(&of(&[one])).await;
    let file = site.path("reeve/generations").join(id.to_string()).join("endpoints");

    // A crash between the file and the push.
    std::fs::write(&file, endpoints::text(&endpoints::of(&of(&[two])))).expect("written");
    let seen = site.view().await;
    let places = seen.generations[&id].endpoints.clone().expect("by Lua");
    assert_ne!(places.file, places.loaded);
    assert_eq!(ports_of(&seen, &id), [one], "what nginx routes to, not what the file says");
    give(&site, &id, &of(&[two])).await.expect("set");
    always(port, "two").await;

    let text = std::fs::read_to_string(&file).expect("there");
    std::fs::write(&file, text.replace(&two.to_string(), &one.to_string())).expect("edited");
    let seen = site.view().await;
    assert_eq!(seen.generations[&id].endpoints.clone().expect("by Lua").file, None, "an edited file is none");
    assert_eq!(ports_of(&seen, &id), [two]);
    // Somebody's own reload does not bring the edit in force.
    let before = workers(&site);
    site.send("-HUP", site.master());
    site.view_until("it was reloaded", |_| workers(&site).iter().all(|pid| !before.contains(pid))).await;
    always(port, "two").await;

    // At a start there is nothing to go on with: nobody gets what somebody has written there.
    site.send("-QUIT", site.master());
    site.view_until("it has ended", |seen| seen.loaded == Loaded::Nothing && seen.process == NginxProcess::Stopped)
        .await;
    site.nginx.execute(&NginxAction::Start { expect: id.clone() }).await.expect("started");
    assert!(get(port, "x", "/").await.starts_with("HTTP/1.1 503"));
    assert_eq!(ports_of(&site.view().await, &id), [0; 0]);
    give(&site, &id, &of(&[one, two])).await.expect("set");
    assert_eq!(ports_of(&site.view().await, &id).len(), 2);
}

/// One answer of many on a connection.
async fn whole_answer(stream: &mut tokio::net::TcpStream) -> String {
    let mut text = String::new();
    loop {
        let length = text.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.len());
        if let (Some(length), Some(body)) = (length, body)
            && body >= length
        {
            return text;
        }
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).await.expect("read");
        assert!(count > 0, "closed after: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

#[tokio::test]
async fn each_request_on_a_kept_connection_finds_what_there_is_then() {
    let site = site();
    let (port, one, dead, other) = (free_port(), backend("one").await, free_port(), free_port());
    let of = |ports: &[u16]| set(vec![routed(upstream("web", port), ports)]);
    let id = site.load(&of(&[])).await;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    for _ in 0..2 {
        for (ports, status) in [(vec![], 503), (vec![one], 200), (vec![dead, other], 502), (vec![dead], 502)] {
            give(&site, &id, &of(&ports)).await.expect("set");
            for _ in 0..3 {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("the connection is kept");
                let answer = tokio::time::timeout(LIMIT, whole_answer(&mut stream)).await.expect("an answer in time");
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{ports:?}: {answer}");
            }
        }
    }
}

async fn post(site: &Site, header: &str, text: &str) -> String {
    let head = format!("POST /endpoints HTTP/1.0\r\nHost: x\r\n{header}Content-Length: {}\r\n\r\n", text.len());
    exchange(site.settings.probe.port(), &format!("{head}{text}")).await
}

#[tokio::test]
async fn only_who_has_the_generations_secret_sets_its_endpoints() {
    let site = site();
    let (port, one, two) = (free_port(), backend("one").await, backend("two").await);
    let of = |ports: &[u16]| set(vec![routed(upstream("web", port), ports)]);
    let first = site.load(&of(&[one])).await;
    let folder = |id: &GenerationId| site.path("reeve/generations").join(id.to_string());
    let secret = |id: &GenerationId| {
        let text = std::fs::read_to_string(folder(id).join("secret.conf")).expect("there");
        text.split('"').nth(1).expect("a secret").to_owned()
    };
    let text = endpoints::text(&endpoints::of(&of(&[two])));
    for header in ["", "X-Reeve-Secret: \r\n", "X-Reeve-Secret: 00\r\n"] {
        assert!(post(&site, header, &text).await.starts_with("HTTP/1.1 403"), "{header:?}");
    }
    always(port, "one").await;
    let mode = std::fs::metadata(folder(&first).join("secret.conf")).expect("there").mode();
    assert_eq!(mode & 0o777, 0o600);
    let with = |secret: &str| format!("X-Reeve-Secret: {secret}\r\n");
    let broken = text.replace("upstream", "upstrean");
    assert!(post(&site, &with(&secret(&first)), &broken).await.starts_with("HTTP/1.1 400"), "half a set is none");
    always(port, "one").await;
    let shown = format!("{:?}", site.view().await);
    assert!(!shown.contains(&secret(&first)), "the secret is in no view");

    let old = secret(&first);
    let other = set(vec![routed(upstream("web", port), &[one]), routed(upstream("more", free_port()), &[two])]);
    let second = site.load(&other).await;
    assert_ne!(secret(&second), old, "each generation has its own");
    assert!(post(&site, &with(&old), &text).await.starts_with("HTTP/1.1 403"));
    let error = give(&site, &first, &of(&[two])).await.expect_err("not the loaded one");
    assert!(matches!(error, ActionError::Conflict(_)), "{error}");
    assert!(!error.to_string().contains(&old));
    always(port, "one").await;
}

#[tokio::test]
async fn whether_nginx_has_lua_is_seen_and_why_not_is_told() {
    let mut plain = Site::new();
    plain.settings.endpoints = EndpointsMode::Auto;
    plain.nginx = plain.fresh();
    let why = plain.view().await.lua.expect_err("no module");
    assert!(why.contains("libnginx-mod-http-lua"), "{why}");
    assert!(!plain.path("reeve").exists(), "asking writes nothing");

    // The user's own word stays.
    let http = "lua_malloc_trim 5000;\n    include REEVE/current/reeve.conf;";
    let mut trimming = Site::with(&format!("{LUA_MODULES}worker_processes 1;"), http);
    trimming.settings.endpoints = EndpointsMode::Lua;
    trimming.nginx = trimming.fresh();
    let seen = trimming.view().await;
    assert_eq!((seen.lua, seen.http), (Ok(()), HttpBlock { trims: true, meddles: false }));
    trimming.renderer = trimming.renderer.balanced_by(Balancer::Lua, seen.http);
    let (port, one) = (free_port(), backend("one").await);
    let id = trimming.load(&set(vec![routed(upstream("web", port), &[one])])).await;
    always(port, "one").await;
    let entry = trimming.path("reeve/generations").join(id.to_string()).join("reeve.conf");
    let text = std::fs::read_to_string(entry).expect("there");
    assert!(text.contains("lua_shared_dict") && !text.contains("lua_malloc_trim"), "{text}");

    let http = "init_by_lua_block { x = 1 }\n    include REEVE/current/reeve.conf;";
    let mut taken = Site::with(&format!("{LUA_MODULES}worker_processes 1;"), http);
    taken.settings.endpoints = EndpointsMode::Auto;
    taken.nginx = taken.fresh();
    let why = taken.view().await.lua.expect_err("taken");
    assert!(why.contains("init_by_lua_block") && why.contains("nginx.conf:"), "{why}");
}
