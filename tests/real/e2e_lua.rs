//! Endpoints that Lua balances, kept by a daemon: whatever somebody does to them is put right without a reload.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use reeve::render::endpoints;

use crate::support::http::local;
use crate::support::program::Daemon;
use crate::support::{Shop, Site, check, eventually};

fn kept(name: &str) -> (Site, Daemon) {
    let mut site = Site::new(name);
    site.use_lua();
    let daemon = site.run(&Shop::new(&site, 2));
    site.serves(site.listen(), "web", 2).expect("it serves");
    site.reeve(&["status"]).success().says("Endpoints change by lua");
    (site, daemon)
}

fn in_force(site: &Site) -> String {
    fs::read_to_string(site.state().join("current/endpoints")).expect("the endpoints of the current generation")
}

/// All is well again and was counted as drift of nginx, by the same workers and the same generation.
#[track_caller]
fn put_right(site: &Site, daemon: &mut Daemon, before: (f64, Option<String>, String)) {
    let (drift, generation, text) = before;
    eventually("the endpoints are put right", || {
        check(daemon.drift("nginx") > drift, || format!("drift of nginx is still {drift}"))?;
        daemon.converged()?;
        check(in_force(site) == text, || in_force(site))?;
        site.serves(site.listen(), "web", 2)
    });
    assert_eq!(site.nginx.generation(), generation, "without another generation");
    daemon.lives();
}

fn now(site: &Site, daemon: &Daemon) -> (f64, Option<String>, String) {
    (daemon.drift("nginx"), site.nginx.generation(), in_force(site))
}

#[test]
fn an_edited_file_of_endpoints_is_written_again() {
    let (site, mut daemon) = kept("luaedit");
    let before = now(&site, &daemon);
    let file = site.state().join("current/endpoints");
    fs::write(&file, before.2.replacen("127.0.0.1", "127.0.0.9", 1).replace(" 1 ", " 7 ")).expect("edited");
    put_right(&site, &mut daemon, before);
}

#[test]
fn endpoints_that_somebody_else_set_are_set_again() {
    let (site, mut daemon) = kept("luaset");
    let before = now(&site, &daemon);
    let (_, mut set) = endpoints::parse(&before.2).expect("whole");
    set.values_mut().for_each(|endpoints| endpoints.truncate(1));
    let text = endpoints::text(&set);
    let secret = fs::read_to_string(site.state().join("current/secret.conf")).expect("there");
    let secret = secret.split('"').nth(1).expect("a secret");
    let mut stream = TcpStream::connect(local(site.ports.probe())).expect("connected");
    write!(
        stream,
        "POST /endpoints HTTP/1.0\r\nHost: x\r\nX-Reeve-Secret: {secret}\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    put_right(&site, &mut daemon, before);
}

#[test]
fn scaling_is_no_reload_and_a_restarted_nginx_has_the_endpoints_at_once() {
    let (site, mut daemon) = kept("luascale");
    let generation = site.nginx.generation();
    site.write_spec(&Shop::new(&site, 3));
    eventually("three serve", || {
        daemon.converged()?;
        site.serves(site.listen(), "web", 3)
    });
    assert_eq!(site.nginx.generation(), generation);
    site.nginx.quit();
    eventually("nginx runs again", || {
        site.serves(site.listen(), "web", 3)?;
        daemon.converged()
    });
    assert_eq!(site.nginx.generation(), generation, "by the same generation, which holds the endpoints of the time");
    daemon.lives();
}

#[test]
fn auto_goes_by_reloads_until_nginx_has_lua_and_lua_waits_for_it() {
    let mut site = Site::new("luaauto");
    site.nginx_endpoints = "lua".to_owned();
    site.write_settings();
    let insists = site.run_until(&Shop::new(&site, 1), |daemon| daemon.waits(&["nginx.endpoints is lua"]).map(drop));
    assert_eq!(site.nginx.generation(), None, "nothing was loaded");
    drop(insists);

    site.nginx_endpoints = "auto".to_owned();
    site.write_settings();
    let mut daemon = site.run(&Shop::new(&site, 1));
    site.reeve(&["status"]).success().says("Endpoints change by reload (nginx has no Lua module loaded");
    site.nginx.load_lua();
    eventually("it goes by Lua", || {
        daemon.converged()?;
        check(site.state().join("current/endpoints").exists(), || "no endpoints of their own".to_owned())
    });
    eventually("status says so", || {
        let status = site.reeve(&["status"]).success();
        check(status.stdout.contains("Endpoints change by lua"), || status.stdout)
    });
    site.serves(site.listen(), "web", 1).expect("it serves");
    daemon.lives();
}
