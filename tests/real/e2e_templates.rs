//! Templates on real servers: from Consul's data to a file and a command, and everything that goes wrong on the way.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::json;

use crate::support::agent::Api;
use crate::support::docker::docker;
use crate::support::program::Daemon;
use crate::support::{Site, check, eventually, within};

const APPLY: &[&str] = &["apply", "--timeout", "60s"];

/// A site whose templates may write below its folder `files`. `more`: further settings.
pub(crate) fn site(name: &str, more: &str) -> Site {
    let mut site = Site::new(name);
    fs::create_dir(site.folder().join("files")).expect("the folder is made");
    site.more_settings = format!("templates: {{ allow: [\"{}/files\"] }}\n{more}", site.folder().display());
    site.write_settings();
    site
}

pub(crate) fn path(site: &Site, name: &str) -> PathBuf {
    site.folder().join("files").join(name)
}

pub(crate) fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// How often the command of [`counted`] has run.
pub(crate) fn runs(site: &Site) -> usize {
    text(&path(site, "runs")).lines().count()
}

/// A command that leaves a line for each run.
pub(crate) fn counted(site: &Site) -> String {
    format!("{{ shell: \"echo run >> {}\" }}", path(site, "runs").display())
}

/// One template for each of (name, contents, more keys); `contents` in one line.
pub(crate) fn spec(site: &Site, templates: &[(&str, &str, &str)]) -> String {
    let mut spec = format!("name: {}\ntemplates:\n", site.project);
    for (name, contents, more) in templates {
        let destination = path(site, name);
        let contents = contents.replace('\n', "\n      ");
        spec.push_str(&format!(
            "  {name}:\n    destination: {}\n    contents: |\n      {contents}\n",
            destination.display()
        ));
        for line in more.lines() {
            spec.push_str(&format!("    {line}\n"));
        }
    }
    spec
}

const SERVERS: &str = "{% for one in service('web') %}\nserver {{ one.Address }}:{{ one.Port }};\n{% endfor %}";

pub(crate) fn set(api: Api, key: &str, value: u64) {
    api.put(&format!("/v1/kv/{key}"), &json!(value));
}

pub(crate) fn holds(path: &Path, words: &str) -> Result<(), String> {
    let text = text(path);
    check(text.contains(words), || format!("{words:?} is not in {}:\n{text}", path.display()))
}

/// A pass tells its figures when it has ended: later than the files and commands are seen.
#[track_caller]
fn template_metric_becomes(daemon: &Daemon, metric: &str, name: &str, wanted: f64) {
    daemon.metric_becomes(&format!("reeve_template_{metric}{{template=\"{name}\"}}"), wanted);
}

#[test]
fn a_change_in_consul_reaches_the_file_and_the_command_and_an_edit_by_hand_is_put_right() {
    let site = site("tpl", "");
    let api = site.agent.api();
    api.register("web-1", "web", "192.0.2.1", 81);
    let more = format!("perms: \"0640\"\nbackup: true\ncommand: {}", counted(&site));
    site.write_spec(&spec(&site, &[("app.conf", SERVERS, &more)]));
    let file = path(&site, "app.conf");
    site.reeve(&["render", "app.conf"]).success().says("server 192.0.2.1:81;");
    site.reeve(&["plan"]).success().says("template app.conf: write").says("Plan: 1 to add");
    assert!(!file.exists(), "neither renders to the file");

    let mut daemon = site.start(&[]);
    eventually("the file is there and the command has run", || {
        holds(&file, "server 192.0.2.1:81;")?;
        check(runs(&site) == 1, || format!("{} runs", runs(&site)))
    });
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o7777, 0o640);
    api.register("web-2", "web", "192.0.2.1", 82);
    eventually("the second instance is in it", || {
        holds(&file, "server 192.0.2.1:82;")?;
        check(runs(&site) == 2, || format!("{} runs", runs(&site)))
    });
    eventually("it has converged", || daemon.converged());
    assert!(!text(&path(&site, "app.conf.bak")).contains(":82"), "the old file is kept");

    let wanted = text(&file);
    fs::write(&file, "by hand\n").expect("edited");
    eventually("the edit is put right", || holds(&file, &wanted));
    eventually("and counted as drift", || {
        check(daemon.drift("templates") >= 1.0, || format!("{}", daemon.drift("templates")))
    });
    eventually("the command has run again", || check(runs(&site) == 3, || format!("{} runs", runs(&site))));
    template_metric_becomes(&daemon, "in_place", "app.conf", 1.0);
    let left: Vec<_> = fs::read_dir(file.parent().expect("a folder")).expect("a list").flatten().collect();
    assert_eq!(left.len(), 3, "the file, its backup, the runs: {left:?}");
    daemon.lives();
}

#[test]
fn a_failing_command_is_tried_again_also_after_a_restart_and_the_daemon_lives() {
    let site = site("tplcmd", "");
    let api = site.agent.api();
    set(api, "port", 80);
    let ok = path(&site, "ok");
    let command = format!("command: {{ shell: \"echo never mind; test -e {}\" }}", ok.display());
    site.write_spec(&spec(
        &site,
        &[("app.conf", "port {{ key('port') }}", &command), ("b.conf", "b {{ key('port') }}", "")],
    ));
    let mut daemon = site.start(&[]);
    let failing = |daemon: &Daemon| daemon.waits(&["template app.conf", "never mind", "tried again"]).map(drop);
    eventually("the command fails", || failing(&daemon));
    holds(&path(&site, "app.conf"), "port 80").expect("the file is in place");
    template_metric_becomes(&daemon, "command_pending", "app.conf", 1.0);
    set(api, "port", 81);
    eventually("the others go on", || holds(&path(&site, "b.conf"), "b 81"));
    daemon.lives();
    daemon.end(rustix::process::Signal::TERM);

    let daemon = site.start(&[]);
    eventually("it is tried again after a restart", || failing(&daemon));
    fs::write(&ok, "").expect("written");
    eventually("and succeeds", || daemon.converged());
    template_metric_becomes(&daemon, "command_pending", "app.conf", 0.0);
}

#[test]
fn a_crash_between_the_file_and_its_command_is_made_up() {
    let site = site("tplcrash", "");
    set(site.agent.api(), "port", 80);
    let command = format!("command: {}", counted(&site));
    site.write_spec(&spec(&site, &[("app.conf", "port {{ key('port') }}", &command)]));
    let outcome = site.reeve_until_crash("write_template", APPLY);
    assert_eq!(outcome.code, None, "{outcome:?}");
    holds(&path(&site, "app.conf"), "port 80").expect("the file is in place");
    assert_eq!(runs(&site), 0, "the command has not run");
    site.reeve(&["plan"]).success().says("run the command");
    site.reeve(APPLY).success();
    assert_eq!(runs(&site), 1, "the command is made up");
    site.reeve(APPLY).success();
    assert_eq!(runs(&site), 1, "and not run again");
}

#[test]
fn a_check_that_refuses_keeps_the_old_file_and_stops_nobody_else() {
    let site = site("tplcheck", "");
    let api = site.agent.api();
    set(api, "word", 1);
    let more = format!("check: {{ shell: \"echo seen {{file}}; grep -q 1 {{file}}\" }}\ncommand: {}", counted(&site));
    let other = ("b.conf", "b {{ key('word') }}", "");
    site.write_spec(&spec(&site, &[("app.conf", "word {{ key('word') }}", &more), other]));
    let mut daemon = site.start(&[]);
    let file = path(&site, "app.conf");
    eventually("the first text is taken", || holds(&file, "word 1"));
    eventually("it has converged", || daemon.converged());
    let inode = fs::metadata(&file).expect("there").ino();

    set(api, "word", 2);
    eventually("the second is refused", || {
        daemon.waits(&["template app.conf", "the check refuses the new file"]).map(drop)
    });
    eventually("the other goes on", || holds(&path(&site, "b.conf"), "b 2"));
    daemon.makes_passes(1);
    assert_eq!(fs::metadata(&file).expect("there").ino(), inode, "the old file stays");
    assert_eq!(runs(&site), 1);
    template_metric_becomes(&daemon, "failing", "app.conf", 1.0);
    let left = fs::read_dir(file.parent().expect("a folder")).expect("a list").flatten();
    assert!(
        !left.map(|one| one.file_name()).any(|name| name.to_string_lossy().starts_with(".reeve")),
        "nothing staged is left"
    );

    set(api, "word", 11);
    eventually("a good one is taken at once", || holds(&file, "word 11"));
    eventually("it has converged", || daemon.converged());
    assert_eq!(runs(&site), 2);
    daemon.lives();
}

#[test]
fn an_emptied_catalog_is_not_believed() {
    let mut site = site("tplempty", "loop: { distrust_for: 5m }\n");
    let api = site.agent.api();
    let register = || (1..=3).for_each(|n| api.register(&format!("web-{n}"), "web", "192.0.2.1", 80 + n));
    register();
    site.write_spec(&spec(&site, &[("app.conf", SERVERS, &format!("command: {}", counted(&site)))]));
    let mut daemon = site.start(&[]);
    let file = path(&site, "app.conf");
    eventually("all three are in the file", || holds(&file, "192.0.2.1:83"));
    eventually("it has converged", || daemon.converged());
    let inode = fs::metadata(&file).expect("there").ino();

    site.agent.kill();
    eventually("Consul is away", || daemon.waits(&["template app.conf", "cannot be read"]).map(drop));
    // Its state was in memory alone: it answers, and knows nothing.
    site.agent.start();
    eventually("it is not believed", || daemon.waits(&["template app.conf", "suddenly empty (3 before)"]).map(drop));
    assert_eq!(fs::metadata(&file).expect("there").ino(), inode, "the file stays");
    register();
    eventually("it has converged", || daemon.converged());
    assert_eq!(fs::metadata(&file).expect("there").ino(), inode, "and was never written");
    assert_eq!(runs(&site), 1);
    daemon.lives();
}

#[test]
fn a_command_that_templates_share_runs_once_when_all_are_in_place() {
    let site = site("tplshare", "");
    let api = site.agent.api();
    set(api, "a", 1);
    let all = ["a.conf", "b.conf", "c.conf"];
    // It tells of a file that is missing or older than the others.
    let files = all.map(|name| path(&site, name).display().to_string()).join(" ");
    let command = format!(
        "command: {{ shell: \"sort -u {files} | wc -l >> {}; echo run >> {}\" }}",
        path(&site, "kinds").display(),
        path(&site, "runs").display()
    );
    let templates = all.map(|name| (name, "a {{ key('a') }}", command.as_str()));
    site.apply(&spec(&site, &templates));
    assert_eq!(runs(&site), 1, "once for all");
    set(api, "a", 2);
    site.reeve(APPLY).success();
    assert_eq!(runs(&site), 2, "once for all");
    assert_eq!(text(&path(&site, "kinds")), "1\n1\n", "all were the same when it ran");
}

/// A file that is mounted over itself, as Docker does it for a single file.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_bind_mounted_file_is_refused_and_a_link_out_of_the_allowed_folders_too() {
    let site = site("tplmount", "");
    let file = path(&site, "app.conf");
    fs::write(&file, "old\n").expect("written");
    let mounted = Command::new("mount").arg("--bind").args([&file, &file]).status().expect("mount can be run");
    assert!(mounted.success(), "mount needs root");
    let _mount = Mount(file.clone());
    let outside = site.folder().join("outside");
    std::os::unix::fs::symlink(&outside, path(&site, "link.conf")).expect("a link");
    fs::write(&outside, "theirs\n").expect("written");
    site.write_spec(&spec(&site, &[("app.conf", "new", ""), ("link.conf", "new", "")]));
    let plan = site.reeve(&["plan"]).success();
    let plan = plan.says("template app.conf:").says("is a mount of its own").says("mount its folder instead");
    plan.says("template link.conf:").says("a link leads to").says("templates.allow");
    let outcome = site.reeve(&["apply", "--timeout", "3s"]).exits(1);
    outcome.says("is a mount of its own");
    assert_eq!((text(&file).as_str(), text(&outside).as_str()), ("old\n", "theirs\n"));
}

/// A process that notes each HUP.
struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_signal_goes_to_the_process_of_a_pid_file() {
    let site = site("tplhup", "");
    set(site.agent.api(), "a", 1);
    let (ready, heard, pid) = (path(&site, "ready"), path(&site, "runs"), path(&site, "pid"));
    let line =
        format!("trap 'echo hup >> {}' HUP; touch {}; while :; do sleep 0.05; done", heard.display(), ready.display());
    let listener = Listener(Command::new("sh").args(["-c", &line]).spawn().expect("a shell"));
    eventually("it listens", || check(ready.exists(), || "not yet".to_owned()));
    let signal = format!("signal: {{ signal: HUP, pid_file: {} }}", pid.display());
    site.write_spec(&spec(&site, &[("app.conf", "a {{ key('a') }}", &signal)]));
    site.reeve(&["apply", "--timeout", "4s"]).exits(1).says("pid file");
    fs::write(&pid, format!("{}\n", listener.0.id())).expect("written");
    site.reeve(APPLY).success();
    eventually("the signal is heard", || check(runs(&site) == 1, || format!("{} signals", runs(&site))));
}

fn sockets(daemon: &Daemon) -> usize {
    let entries = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn a_thousand_services_need_few_connections_and_no_change_is_missed() {
    const SERVICES: u16 = 1000;
    // No pass but those that a change wakes.
    let site = site("tplmany", "loop: { resync: 10m }\n");
    let api = site.agent.api();
    let register = |n: u16, port: u16| api.register(&format!("s{n}"), &format!("s{n}"), "192.0.2.1", port);
    (0..SERVICES).for_each(|n| register(n, 80));
    let contents = "{% for s in services() %}{% for one in service(s.Name) %}\n{{ one.Name }}={{ one.Port }};\n{% endfor %}{% endfor %}";
    site.write_spec(&spec(&site, &[("all.conf", contents, "")]));
    let mut daemon = site.start(&[]);
    let file = path(&site, "all.conf");
    let limit = Duration::from_secs(120);
    within(limit, "all are in the file", || {
        let lines = text(&file).lines().filter(|line| line.ends_with("=80;")).count();
        check(lines == usize::from(SERVICES), || format!("{lines} lines"))
    });
    let mut most = sockets(&daemon);
    for (round, n) in [7, 500, 999, 0, 333].into_iter().enumerate() {
        let port = 9000 + u16::try_from(round).expect("a few");
        register(n, port);
        within(limit, "the change is in the file", || {
            most = most.max(sockets(&daemon));
            holds(&file, &format!("s{n}={port};"))
        });
    }
    assert!(most <= 100, "{most} sockets");
    eprintln!("{most} sockets at most");
    daemon.lives();
}

#[test]
fn a_signal_goes_to_the_running_containers_of_a_service_and_to_no_others() {
    let site = site("tplsig", "");
    let api = site.agent.api();
    set(api, "a", 1);
    let signal = "signal: { signal: HUP, service: web }";
    let services =
        "  web: { image: localhost/reeve-web:1, deploy: { replicas: 2 } }\n  other: { image: localhost/reeve-web:1 }\n";
    let templates = spec(&site, &[("app.conf", "a {{ key('a') }}", signal)]);
    site.apply(&format!("{templates}services:\n{services}"));
    let signalled = |since: &str| {
        let now = docker(&["info", "--format", "{{.SystemTime}}"]);
        let label = format!("label=reeve.owner={}", site.owner());
        let events = docker(&[
            "events",
            "--since",
            since,
            "--until",
            &now,
            "--filter",
            "event=kill",
            "--filter",
            &label,
            "--format",
            "{{.Actor.Attributes.signal}} {{index .Actor.Attributes \"reeve.service\"}}",
        ]);
        let mut lines: Vec<String> = events.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let before = docker(&["info", "--format", "{{.SystemTime}}"]);
    set(api, "a", 2);
    site.reeve(APPLY).success();
    assert_eq!(signalled(&before), ["1 web", "1 web"], "HUP to both replicas");
    holds(&path(&site, "app.conf"), "a 2").expect("the file is in place");
}

/// Owner, group and mode.
fn rights(path: &Path) -> (u32, u32, u32) {
    let data = fs::metadata(path).expect("it is there");
    (data.uid(), data.gid(), data.mode() & 0o7777)
}

#[test]
fn owner_and_mode_of_the_old_file_are_kept_and_those_that_the_template_says_are_kept_up() {
    let site = site("tpl-own", "");
    let api = site.agent.api();
    set(api, "n", 1);
    let (kept, said) = (path(&site, "kept"), path(&site, "said"));
    fs::write(&kept, "somebody's\n").expect("written");
    chown(&kept, Some(12_345), Some(23_456)).expect("tests of real servers run as root");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o604)).expect("the same");
    let text = "n {{ key('n') }}";
    let says = "user: nobody\ngroup: \"23457\"\nperms: \"0640\"";
    site.write_spec(&spec(&site, &[("kept", text, ""), ("said", text, says)]));
    let daemon = site.start(&[]);
    let both = |n: u64| {
        eventually("both are written", || {
            holds(&kept, &format!("n {n}")).and_then(|()| holds(&said, &format!("n {n}")))
        });
        assert_eq!((rights(&kept), rights(&said)), ((12_345, 23_456, 0o604), (65_534, 23_457, 0o640)));
    };
    both(1);
    set(api, "n", 2);
    both(2);
    // What the template says nothing of may be changed by hand, what it says is put right.
    chown(&kept, Some(12_346), None).expect("changed");
    chown(&said, Some(0), Some(0)).expect("changed");
    eventually("it has its owner again", || {
        let now = rights(&said);
        check(now == (65_534, 23_457, 0o640), || format!("{now:?}"))
    });
    set(api, "n", 3);
    eventually("the next text is there", || holds(&kept, "n 3"));
    assert_eq!(rights(&kept), (12_346, 23_456, 0o604));
    drop(daemon);
}

/// One transaction: nobody sees what is in between.
fn transaction(api: Api, operations: &[serde_json::Value]) {
    let operations: Vec<_> = operations.iter().map(|one| json!({ "Service": one })).collect();
    api.put("/v1/txn", &json!(operations));
}

#[test]
fn the_same_instances_in_another_order_write_no_file_and_cost_no_reload() {
    let site = site("tpl-order", "");
    let api = site.agent.api();
    let service = |id: &str, port: u16| json!({"ID": id, "Service": "web", "Address": "192.0.2.1", "Port": port});
    let ports = [("a", 81), ("b", 82), ("c", 83)];
    for (id, port) in ports {
        api.put("/v1/catalog/register", &json!({"Node": "ext", "Address": "192.0.2.1", "Service": service(id, port)}));
    }
    let more = format!("command: {}", counted(&site));
    let sorted = "{% for one in service('web') | sort(attribute='Port') %}\nserver {{ one.Address }}:{{ one.Port }};\n{% endfor %}";
    let upstream = format!("upstreams:\n  web: {{ service: web, listen: {} }}\n", site.listen());
    let spec = spec(&site, &[("in-order", SERVERS, &more), ("sorted", sorted, &more)]);
    let mut daemon = site.run(&format!("{spec}{upstream}"));
    let files = ["in-order", "sorted"].map(|name| path(&site, name));
    let seen = || (site.loaded(), files.clone().map(|file| fs::metadata(file).expect("there").ino()), runs(&site));
    let before = seen();
    // b is made anew: it is the last one that Consul has heard of.
    let named = |verb: &str, service: serde_json::Value| json!({"Verb": verb, "Node": "ext", "Service": service});
    transaction(api, &[named("delete", service("b", 82)), named("set", service("b", 82))]);
    daemon.makes_passes(1);
    assert_eq!(seen(), before);
    // a and c change places: of the same set, an upstream and a sorted template are the same.
    transaction(api, &[named("set", service("a", 83)), named("set", service("c", 81))]);
    eventually("the template in the order of the ids follows", || {
        let text = text(&files[0]);
        check(text.find(":83;") < text.find(":81;"), || text.clone())
    });
    eventually("it has converged", || daemon.converged());
    assert_eq!((site.loaded(), fs::metadata(&files[1]).expect("there").ino()), (before.0, before.1[1]));
    daemon.lives();
}

#[test]
fn a_consul_that_begins_to_count_from_the_start_is_followed_without_a_full_pass() {
    // Nothing but the watch can tell of a change.
    let mut site = site("tpl-index", "loop: { resync: 1h }\n");
    let count = |api: Api| -> u64 {
        set(api, "count", 1);
        api.get("/v1/kv/count")[0]["ModifyIndex"].as_u64().expect("an index")
    };
    let api = site.agent.api();
    for number in 0..200 {
        set(api, &format!("fill/{number}"), number);
    }
    api.register("web-1", "web", "192.0.2.1", 81);
    let before = count(api);
    let text = format!("{SERVERS}\nn {{{{ key_or_default('n', '0') }}}}");
    let mut daemon = site.run(&spec(&site, &[("app.conf", &text, "")]));
    let file = path(&site, "app.conf");
    holds(&file, ":81;").expect("it is written");
    site.agent.kill();
    site.agent.start();
    api.register("web-1", "web", "192.0.2.1", 81);
    assert!(count(api) < before, "it counts from the start");
    api.register("web-2", "web", "192.0.2.1", 82);
    eventually("the second one is in it", || holds(&file, ":82;"));
    eventually("it has converged", || daemon.converged());
    for n in 1..4 {
        set(api, "n", n);
        eventually("each change is seen", || holds(&file, &format!("n {n}")));
    }
    daemon.lives();
}
