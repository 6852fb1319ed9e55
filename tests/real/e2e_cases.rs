//! Cases that registrator and consul-template are known for and that no other module is about: a catalog that is empty for a
//! moment, what starts while one looks away, exit codes, and data of different moments.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::e2e_discovery::{id_of, registered, run_named, spec as discovery};
use crate::e2e_templates::{counted, holds, path, runs, set, site as site_of_templates, spec as templates, text};
use crate::support::docker::{STRANGER, docker};
use crate::support::shop::WEB;
use crate::support::{Site, check, eventually};

fn ids(site: &Site) -> BTreeSet<String> {
    registered(site).into_keys().collect()
}

fn with_settings(name: &str, more: &str) -> Site {
    let mut site = Site::new(name);
    site.more_settings = more.to_owned();
    site.write_settings();
    site
}

#[test]
fn an_agent_that_comes_back_empty_takes_no_strangers_endpoint_out_of_nginx() {
    let mut site = with_settings("case-empty", "loop: { distrust_for: 1h }\n");
    let register = |site: &Site| {
        for port in [81, 82] {
            site.consul().register(&format!("ext-{port}"), "ext", "192.0.2.1", port);
        }
    };
    register(&site);
    let spec = format!("name: {}\nupstreams:\n  site: {{ service: ext, listen: {} }}\n", site.project, site.listen());
    let mut daemon = site.run(&spec);
    let both = || BTreeSet::from(["192.0.2.1:81".to_owned(), "192.0.2.1:82".to_owned()]);
    assert_eq!(site.nginx.servers("site"), both());
    let loaded = site.loaded();
    site.agent.kill();
    site.agent.start();
    eventually("it does not believe that", || daemon.waits(&["suddenly lost 2 of 2"]).map(drop));
    daemon.makes_passes(2);
    assert_eq!((site.nginx.servers("site"), site.loaded()), (both(), loaded.clone()));
    register(&site);
    eventually("it was right", || daemon.converged());
    assert_eq!(site.loaded(), loaded, "no reload was spent on it");
    daemon.lives();
}

#[test]
fn a_dependency_that_is_missing_for_ever_holds_only_its_own_template() {
    let site = site_of_templates("case-missing", "");
    let api = site.agent.api();
    set(api, "n", 1);
    let shared = format!("wait: {{ min: 1s, max: 5s }}\ncommand: {}", counted(&site));
    let all = [
        ("no-key", "{{ key('nothing') }} {{ key('n') }}", shared.as_str()),
        ("no-datacenter", "{% for one in service('web@dc9') %}{{ one.Port }}{% endfor %}", shared.as_str()),
        ("good", "n {{ key('n') }}", shared.as_str()),
    ];
    site.write_spec(&templates(&site, &all));
    let mut daemon = site.start(&[]);
    let good = path(&site, "good");
    eventually("the good one is written, and its command runs", || {
        holds(&good, "n 1")?;
        check(runs(&site) == 1, || format!("{} runs", runs(&site)))
    });
    for (template, reason) in [("no-key", "the key nothing does not exist"), ("no-datacenter", "service(web@dc9)")] {
        eventually("the others are named", || daemon.waits(&[&format!("template {template}"), reason]).map(drop));
    }
    // Still gathered: five changes are one.
    let before = runs(&site);
    (2..=6).for_each(|n| set(api, "n", n));
    eventually("the last of them is in it", || holds(&good, "n 6"));
    eventually("the command has run", || check(runs(&site) > before, || format!("{} runs", runs(&site))));
    daemon.makes_passes(1);
    assert_eq!(runs(&site), before + 1);
    assert!(!path(&site, "no-key").exists() && !path(&site, "no-datacenter").exists());
    daemon.lives();
}

#[test]
fn what_starts_while_the_daemon_starts_is_registered_without_a_full_pass() {
    let site = with_settings("case-start", "loop: { resync: 1h }\n");
    site.write_spec(&discovery(&site, ""));
    let names: Vec<String> = (0..6).map(|number| format!("n{number}")).collect();
    let mut daemon = thread::scope(|scope| {
        let (first, second) = names.split_at(3);
        for half in [first, second] {
            scope.spawn(|| half.iter().for_each(|name| drop(run_named(&site, name, &[]))));
        }
        site.start(&[])
    });
    let wanted: BTreeSet<String> = names.iter().map(|name| id_of(&site, name)).collect();
    eventually("all of them are registered", || {
        let ids = ids(&site);
        check(ids == wanted, || format!("{ids:?}"))
    });
    daemon.lives();
}

#[test]
fn with_whatever_code_a_container_ends_it_is_not_registered_any_more() {
    let site = with_settings("case-exit", "loop: { resync: 1h }\n");
    let (named, mark) = (format!("SERVICE_NAME={}", site.project), format!("{STRANGER}={}", site.project));
    // It ends with the code that it finds in a file.
    let script = "/bin/reeve-web & while [ ! -s /tmp/code ]; do sleep 0.1; done; exit $(cat /tmp/code)";
    for code in [0, 1, 137, 255] {
        let name = format!("{}-code{code}", site.project);
        let run = ["run", "--detach", "--name", &name, "--publish", "80", "--label", &named, "--label", &mark];
        docker(&[&run[..], &["--entrypoint", "/bin/sh", WEB, "-c", script]].concat());
    }
    let mut daemon = site.start(&[]);
    site.write_spec(&discovery(&site, ""));
    eventually("all are registered", || check(ids(&site).len() == 4, || format!("{:?}", ids(&site))));
    for code in [0, 1, 137, 255] {
        let name = format!("{}-code{code}", site.project);
        docker(&["exec", &name, "/bin/sh", "-c", &format!("echo {code} > /tmp/code")]);
        eventually("it is gone", || {
            let ids = ids(&site);
            check(!ids.contains(&id_of(&site, &format!("code{code}"))), || format!("{ids:?}"))
        });
        let ended = docker(&["inspect", "--format", "{{.State.ExitCode}}", &name]);
        assert_eq!(ended, code.to_string(), "the code is still there to be asked for");
    }
    daemon.lives();
}

/// `services` and `service` are answers of different moments.
#[test]
fn a_template_over_all_services_never_names_one_without_its_instances() {
    let site = site_of_templates("case-half", "loop: { distrust_for: 1s }\n");
    let api = site.agent.api();
    let each = "{% for one in services() %}{% if one.Name | has_prefix('ext') %}\n{{ one.Name }}={{ service(one.Name) | length }}\n{% endif %}{% endfor %}";
    let mut daemon = site.run(&templates(&site, &[("all", each, "")]));
    let file = path(&site, "all");
    let stop = Arc::new(AtomicBool::new(false));
    let (ended, watched) = (stop.clone(), file.clone());
    let watcher = thread::spawn(move || {
        let mut versions = 0;
        let mut last = String::new();
        while !ended.load(Ordering::Relaxed) {
            let now = fs::read_to_string(&watched).expect("it is always there");
            assert!(!now.lines().any(|line| line.ends_with("=0")), "half of it: {now}");
            versions += usize::from(now != last);
            last = now;
        }
        versions
    });
    let count = || text(&file).lines().filter(|line| line.ends_with("=1")).count();
    for number in 0..10 {
        api.register(&format!("e{number}"), &format!("ext{number}"), "192.0.2.1", 8000 + number);
        thread::yield_now();
    }
    eventually("all are in it", || check(count() == 10, || text(&file)));
    for number in 0..10 {
        api.deregister(&format!("e{number}"));
    }
    eventually("none is in it", || check(count() == 0, || text(&file)));
    stop.store(true, Ordering::Relaxed);
    assert!(watcher.join().expect("it was never half") >= 2);
    daemon.lives();
}

#[test]
fn each_kind_of_check_that_registrator_knows_runs_at_the_agent() {
    let mut site = Site::without_consul("case-kinds");
    site.agent.runs_scripts = true;
    site.agent.start();
    // Name, variable, kind at the agent, and what it says of a web server without TLS.
    let kinds = [
        ("http", "SERVICE_CHECK_HTTP=/health", "http", "passing"),
        ("https", "SERVICE_CHECK_HTTPS=/health", "http", "critical"),
        ("tcp", "SERVICE_CHECK_TCP=true", "tcp", "passing"),
        ("grpc", "SERVICE_CHECK_GRPC=true", "grpc", "critical"),
        ("ttl", "SERVICE_CHECK_TTL=1h", "ttl", "warning"),
        ("script", "SERVICE_CHECK_SCRIPT=/bin/sh -c 'test \"$SERVICE_IP:$SERVICE_PORT\" != :'", "script", "passing"),
        // What registrator's image of Consul has for it is not here.
        ("cmd", "SERVICE_CHECK_CMD=/bin/true a b", "script", "critical"),
    ];
    for (name, variable, ..) in kinds {
        let more = ["--env", variable, "--env", "SERVICE_CHECK_INTERVAL=1s", "--env", "SERVICE_CHECK_TIMEOUT=1s"];
        run_named(&site, name, &[&more[..], &["--env", "SERVICE_CHECK_INITIAL_STATUS=warning"]].concat());
    }
    let mut daemon = site
        .run_until(&discovery(&site, ""), |_| check(ids(&site).len() == kinds.len(), || format!("{:?}", ids(&site))));
    eventually("each has run, and says what is so", || {
        let checks = site.consul().get("/v1/agent/checks");
        kinds.iter().try_for_each(|(name, _, kind, status)| {
            let one = &checks[format!("{}:declared", id_of(&site, name))];
            check(one["Type"] == *kind && one["Status"] == *status, || format!("{name}: {one}"))
        })
    });
    daemon.lives();
}
