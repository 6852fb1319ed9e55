//! Templates over time, on real servers: what changes and changes back, what changes all the time, and hundreds of rounds.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use serde_json::json;

use crate::e2e_templates::{counted, holds, path, runs, set, site, spec, text};
use crate::support::program::Daemon;
use crate::support::{Shop, Site, check, eventually};

fn inode(site: &Site, name: &str) -> u64 {
    fs::metadata(path(site, name)).expect("it is there").ino()
}

#[test]
fn a_change_and_its_reversal_within_the_wait_write_no_file_and_run_no_command() {
    let site = site("tplback", "");
    let api = site.agent.api();
    set(api, "a", 1);
    let more = format!("wait: {{ min: 1m, max: 5m }}\ncommand: {}", counted(&site));
    let marker = ("b.conf", "b {{ key_or_default('b', '0') }}", "");
    site.write_spec(&spec(&site, &[("app.conf", "a {{ key('a') }}", &more), marker]));
    let daemon = site.start(&[]);
    eventually("it has converged", || daemon.converged());
    let before = inode(&site, "app.conf");
    set(api, "a", 2);
    eventually("the change is seen, and gathered", || daemon.waits(&["template app.conf", "gathered"]).map(drop));
    set(api, "a", 1);
    eventually("nothing waits any more", || daemon.converged());
    set(api, "b", 1);
    eventually("others are written meanwhile", || holds(&path(&site, "b.conf"), "b 1"));
    assert_eq!((inode(&site, "app.conf"), runs(&site)), (before, 1));
}

#[test]
fn the_output_of_a_check_that_changes_all_the_time_writes_nothing() {
    let site = site("tploutput", "");
    let api = site.agent.api();
    let body = json!({ "ID": "web-1", "Name": "web", "Address": "192.0.2.1", "Port": 80, "Check": { "TTL": "10m" } });
    api.put("/v1/agent/service/register", &body);
    let update = |status: &str, output: String| {
        api.put("/v1/agent/check/update/service:web-1", &json!({ "Status": status, "Output": output }));
    };
    update("passing", "fine".to_owned());
    let contents = "{% for one in service('web|any') %}\n{{ one.Address }} {{ one.Status }} {{ one.Checks | to_json }}\n{% endfor %}";
    let marker = ("b.conf", "b {{ key_or_default('b', '0') }}", "");
    site.write_spec(&spec(&site, &[("app.conf", contents, &format!("command: {}", counted(&site))), marker]));
    let daemon = site.start(&[]);
    let file = path(&site, "app.conf");
    eventually("it is written", || holds(&file, "192.0.2.1 passing"));
    eventually("it has converged", || daemon.converged());
    let before = inode(&site, "app.conf");
    for round in 0..30 {
        update("passing", format!("answered in {round} ms"));
    }
    set(api, "b", 1);
    eventually("a later change is in", || holds(&path(&site, "b.conf"), "b 1"));
    daemon.makes_passes(2);
    assert_eq!((inode(&site, "app.conf"), runs(&site)), (before, 1));
    update("critical", "gone".to_owned());
    eventually("the status is another matter", || holds(&file, "192.0.2.1 critical"));
}

#[test]
fn a_scale_down_that_was_meant_is_in_the_file_at_once() {
    let mut site = site("tplscale", "");
    site.more_settings.push_str("loop: { distrust_for: 10m }\n");
    site.write_settings();
    let shop = |replicas: u32| {
        let mut shop = Shop::new(&site, 4);
        shop.replicas = replicas;
        let contents =
            format!("{{% for one in service('{}') %}}\nserver {{{{ one.Port }}}};\n{{% endfor %}}", shop.registered);
        let templates = spec(&site, &[("app.conf", &contents, "")]);
        let (_, templates) = templates.split_once('\n').expect("the name is the shop's");
        shop.more.push_str(templates);
        shop
    };
    let servers = || text(&path(&site, "app.conf")).lines().filter(|line| line.starts_with("server ")).count();
    site.apply(&shop(4));
    assert_eq!(servers(), 4);
    site.write_spec(&shop(1));
    let outcome = site.reeve(&["apply", "--allow-removals", "--timeout", "90s"]).success();
    assert_eq!(servers(), 1, "{outcome:?}");
}

/// Open files, and resident memory in KiB.
fn held(daemon: &Daemon) -> (usize, usize) {
    let files = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count();
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    (files, memory.expect("a figure"))
}

#[test]
#[ignore = "long: make test-long"]
fn hundreds_of_rounds_and_reloads_leave_files_and_memory_as_they_were() {
    const ROUNDS: u64 = 300;
    const WARM: u64 = 60;
    let site = site("tplrounds", "");
    let api = site.agent.api();
    let servers = "{% for one in service('web') %}\nserver {{ one.Address }}:{{ one.Port }};\n{% endfor %}round {{ key('round') }}";
    let command = format!("command: {}", counted(&site));
    let mut text = spec(&site, &[("app.conf", servers, &command)]);
    text.push_str(&format!("upstreams: {{ site: {{ service: web, listen: {} }} }}\n", site.listen()));
    set(api, "round", 0);
    site.write_spec(&text);
    let mut daemon = site.start(&[]);
    let mut warm = (0, 0);
    let mut most = (0, 0);
    for round in 1..=ROUNDS {
        if round % 10 == 0 {
            // nginx is reloaded, and so are the daemon's own settings.
            api.register("web-1", "web", "192.0.2.1", 1000 + u16::try_from(round).expect("a few"));
            daemon.signal(rustix::process::Signal::HUP);
        }
        set(api, "round", round);
        eventually("the round is in the file", || holds(&path(&site, "app.conf"), &format!("round {round}\n")));
        if round >= WARM {
            let now = held(&daemon);
            warm = if round == WARM { now } else { warm };
            most = (most.0.max(now.0), most.1.max(now.1));
        }
    }
    eventually("it has converged", || daemon.converged());
    let end = held(&daemon);
    eprintln!(
        "files and KiB: {warm:?} after {WARM} rounds, {end:?} after {ROUNDS}, {most:?} at most; {} runs",
        runs(&site)
    );
    assert!(end.0 <= warm.0 + 5, "{warm:?} {end:?}: open files grow");
    assert!(end.1 <= warm.1 + 8 * 1024, "{warm:?} {end:?}: memory grows");
    // A round that comes before the command of the one before shares it: the file is written as soon as that can be, and the
    // command follows in a pass of its own. How many do depends on the machine.
    check(runs(&site) >= ROUNDS as usize / 4, || format!("{} runs", runs(&site))).expect("commands follow the rounds");
    daemon.lives();
}
