//! One bad upstream hurts only itself: what is wrong with it is shown, the others' changes are loaded meanwhile, and it
//! comes back when it is mended. No container is needed for that: upstreams that redirect, and services of others.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::support::program::Daemon;
use crate::support::{Site, check, eventually, http};

/// Upstreams by name, each a mapping.
fn spec(site: &Site, upstreams: &[(&str, String)]) -> String {
    let mut text = format!("name: {}\nservices: {{}}\nupstreams:\n", site.project);
    for (name, mapping) in upstreams {
        writeln!(text, "  {name}: {{ {mapping} }}").expect("a string");
    }
    text
}

/// An upstream whose configuration in force is seen by its answer.
fn answers(listen: u16, code: u16) -> String {
    format!("listen: {listen}, redirect: {{ to: \"http://example.test/\", code: {code} }}")
}

fn answer(listen: u16) -> Result<u16, String> {
    http::get(listen, "/").map(|answer| answer.status).map_err(|error| error.to_string())
}

#[track_caller]
fn soon_answers(listen: u16, code: u16) {
    eventually(&format!("{listen} answers {code}"), || {
        let now = answer(listen)?;
        check(now == code, || format!("it answers {now}"))
    });
}

/// The other upstream gets a change, and that is loaded, while the bad one waits with these words.
#[track_caller]
fn the_other_goes_on(site: &Site, daemon: &mut Daemon, bad: &(&str, String), words: &[&str]) {
    let other = site.ports.listen(0);
    for code in [307, 308, 302] {
        site.write_spec(&spec(site, &[("other", answers(other, code)), (bad.0, bad.1.clone())]));
        soon_answers(other, code);
    }
    eventually("the bad one waits, and what runs is what a reboot would run", || {
        daemon.waits(words)?;
        site.loaded_is_current()
    });
    daemon.lives();
}

fn certificate(folder: &Path, name: &str) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=site.test", "-keyout"])
        .arg(folder.join(format!("{name}.key")))
        .arg("-out")
        .arg(folder.join(format!("{name}.pem")))
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl runs").success());
}

fn tls_answer(listen: u16) -> Result<u16, String> {
    let output = Command::new("curl")
        .args(["-sSk", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("https://127.0.0.1:{listen}/"))
        .output()
        .expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| format!("{output:?}"))
}

#[test]
fn a_certificate_that_is_missing_or_does_not_match_holds_only_its_upstream() {
    let site = Site::new("cert");
    let folder = site.folder();
    certificate(folder, "one");
    certificate(folder, "two");
    let (pem, key) = (folder.join("site.pem"), folder.join("site.key"));
    let install = |certificate: &str, of: &str| {
        fs::copy(folder.join(format!("{certificate}.pem")), &pem).expect("copied");
        fs::copy(folder.join(format!("{of}.key")), &key).expect("copied");
    };
    install("one", "one");
    let listen = site.ports.listen(1);
    let tls = format!("tls: {{ certificate: {}, key: {} }}", pem.display(), key.display());
    let secure = ("secure", format!("{}, {tls}", answers(listen, 301)));
    let mut daemon = site.run_until(
        &spec(&site, &[("other", answers(site.ports.listen(0), 301)), (secure.0, secure.1.clone())]),
        |_| tls_answer(listen).and_then(|code| check(code == 301, || code.to_string())),
    );

    // Half of a renewal: the key is still the old one.
    install("two", "one");
    let key_words = key.display().to_string();
    the_other_goes_on(&site, &mut daemon, &secure, &["upstream secure", "key values mismatch", "last good"]);
    assert_eq!(tls_answer(listen), Ok(301), "with the certificate that is good");

    fs::remove_file(&key).expect("removed");
    the_other_goes_on(&site, &mut daemon, &secure, &["upstream secure", &key_words, "cannot be read"]);
    assert_eq!(tls_answer(listen), Ok(301), "with the certificate that is good");

    // A reload by hand, and a start without reeve, still serve.
    site.nginx.command(&["-s", "reload"]).expect("it reloads");
    assert_eq!(tls_answer(listen), Ok(301));

    install("two", "two");
    eventually("the new certificate is served", || {
        daemon.converged()?;
        check(tls_answer(listen) == Ok(301), || "it does not serve".to_owned())
    });
    assert!(daemon.metric("reeve_actions_total{kind=\"write_generation\",result=\"refused\",system=\"nginx\"}") >= 1.0);
    // No key outlives the generations that used it.
    let keys = fs::read_dir(site.state().join("store")).expect("there").count();
    assert!(keys <= 6, "{keys} files in the store");
}

#[test]
fn directives_that_only_the_check_sees_hold_only_their_upstream() {
    let site = Site::new("directive");
    let (other, listen) = (site.ports.listen(0), site.ports.listen(1));
    let mut daemon = site
        .run_until(&spec(&site, &[("other", answers(other, 301)), ("bad", answers(listen, 301))]), |daemon| {
            daemon.converged()
        });
    let bad = "directives: { proxy_buffers: \"2 4k\", proxy_buffer_size: 4k, proxy_busy_buffers_size: 64k }";
    let bad = ("bad", format!("{}, {bad}", answers(listen, 308)));
    the_other_goes_on(&site, &mut daemon, &bad, &["upstream bad", "proxy_busy_buffers_size", "last good"]);
    assert_eq!(answer(listen), Ok(301), "it keeps its last good configuration");
    // It survives that reeve is killed: the record is on disk.
    drop(daemon);
    let daemon = site.start(&[]);
    eventually("the bad one waits", || daemon.waits(&["upstream bad", "proxy_busy_buffers_size"]).map(drop));
    site.write_spec(&spec(&site, &[("other", answers(other, 301)), ("bad", answers(listen, 308))]));
    soon_answers(listen, 308);
    eventually("mended", || daemon.converged());
}

#[test]
fn a_log_folder_that_is_missing_holds_only_its_upstream_until_it_is_made() {
    let site = Site::new("log");
    let (other, listen) = (site.ports.listen(0), site.ports.listen(1));
    let folder = site.folder().join("logs-to-come");
    let log = ("log", format!("{}, access_log: {}/access.log", answers(listen, 302), folder.display()));
    let mut daemon = site.run_until(&spec(&site, &[("other", answers(other, 301))]), Daemon::converged);
    the_other_goes_on(&site, &mut daemon, &log, &["upstream log", "No such file", "left out"]);
    assert!(answer(listen).is_err(), "it never was in force");
    fs::create_dir(&folder).expect("made");
    soon_answers(listen, 302);
    eventually("mended", || daemon.converged());
}

#[test]
fn an_endpoint_whose_name_does_not_resolve_holds_only_itself() {
    let site = Site::new("resolve");
    let (other, listen) = (site.ports.listen(0), site.ports.listen(1));
    let consul = site.consul();
    consul.register("good", "far", "127.0.0.1", 9);
    let far = ("far", format!("service: far, listen: {listen}"));
    let mut daemon = site
        .run_until(&spec(&site, &[("other", answers(other, 301)), (far.0, far.1.clone())]), |daemon| {
            daemon.converged()
        });
    consul.register("bad", "far", "no-such-host.invalid", 9);
    eventually("it waits", || daemon.waits(&["upstream far", "no-such-host.invalid"]).map(drop));
    the_other_goes_on(
        &site,
        &mut daemon,
        &far,
        &["upstream far", "host not found", "it is routed without no-such-host.invalid:9"],
    );
    assert_eq!(site.nginx.servers("far").into_iter().collect::<Vec<_>>(), ["127.0.0.1:9"]);
    consul.deregister("bad");
    eventually("mended", || daemon.converged());
}

/// An nginx that has `/etc/hosts` for itself, in this file.
fn nginx_with_hosts(site: &mut Site, hosts: &Path) {
    let binary = site.folder().join("nginx-with-hosts");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /etc/hosts && exec nginx \"$@\"' nginx \"$@\"\n",
        hosts.display()
    );
    fs::write(&binary, script).expect("written");
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).expect("executable");
    site.nginx_binary = binary.display().to_string();
    site.write_settings();
}

#[test]
fn a_name_in_force_that_stops_resolving_is_left_out_and_taken_back() {
    let mut site = Site::new("unresolved");
    let hosts = site.folder().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost far.example\n").expect("written");
    nginx_with_hosts(&mut site, &hosts);
    let (other, listen) = (site.ports.listen(0), site.ports.listen(1));
    let consul = site.consul();
    consul.register("far", "far", "far.example", 9);
    let far = ("far", format!("service: far, listen: {listen}"));
    let mut daemon = site
        .run_until(&spec(&site, &[("other", answers(other, 301)), (far.0, far.1.clone())]), |daemon| {
            daemon.converged()
        });
    assert_eq!(site.nginx.servers("far").into_iter().collect::<Vec<_>>(), ["far.example:9"]);
    fs::write(&hosts, "127.0.0.1 localhost\n").expect("written");
    the_other_goes_on(&site, &mut daemon, &far, &["upstream far", "host not found", "nothing is left of it"]);
    soon_answers(listen, 503);
    fs::write(&hosts, "127.0.0.1 localhost far.example\n").expect("written");
    eventually("it is taken back", || daemon.converged());
    assert_eq!(site.nginx.servers("far").into_iter().collect::<Vec<_>>(), ["far.example:9"]);
}

#[test]
fn a_broken_template_stops_no_update() {
    let mut site = Site::new("template");
    let template = site.folder().join("my.j2");
    let good = include_str!("../../config/generation.conf.j2").replace("# reeve ", "# by my template: reeve ");
    fs::write(&template, &good).expect("written");
    site.more_settings = String::new();
    site.write_settings();
    let settings = fs::read_to_string(site.settings()).expect("there");
    let settings = settings.replace("nginx:\n", &format!("nginx:\n  template: {}\n", template.display()));
    fs::write(site.settings(), settings).expect("written");
    let (other, listen) = (site.ports.listen(0), site.ports.listen(1));
    let second = ("second", answers(listen, 301));
    let mut daemon = site
        .run_until(&spec(&site, &[("other", answers(other, 301)), (second.0, second.1.clone())]), |daemon| {
            daemon.converged()
        });
    let ours = || fs::read_to_string(site.state().join("current/reeve.conf")).expect("there").contains("my template");
    assert!(ours());

    fs::write(&template, good.replacen("{% endmacro %}", "{% endmacr %}", 1)).expect("written");
    daemon.signal(Signal::HUP);
    eventually("it is told", || daemon.waits(&["my.j2:", "last template"]).map(drop));
    the_other_goes_on(&site, &mut daemon, &second, &["nginx", "my.j2:", "last template that nginx accepted"]);
    assert!(ours(), "the last good template is still used");

    // One that compiles, and that nginx refuses.
    fs::write(&template, good.replace("access_log off;", "no_such_directive off;")).expect("written");
    daemon.signal(Signal::HUP);
    eventually("it is told", || daemon.waits(&["no_such_directive", "last template"]).map(drop));
    the_other_goes_on(&site, &mut daemon, &second, &["nginx", "no_such_directive"]);

    // A restart with a broken template goes on, too.
    drop(daemon);
    fs::write(&template, "{% broken").expect("written");
    let mut daemon = site.start(&[]);
    eventually("it is told", || daemon.waits(&["my.j2:1", "last template"]).map(drop));
    the_other_goes_on(&site, &mut daemon, &second, &["nginx", "my.j2:1"]);

    fs::write(&template, good.replace("by my template", "by my template, mended")).expect("written");
    daemon.signal(Signal::HUP);
    eventually("mended", || {
        let text = fs::read_to_string(site.state().join("current/reeve.conf")).map_err(|error| error.to_string())?;
        check(text.contains("mended"), || text.clone())?;
        daemon.converged()
    });
}

#[test]
fn a_listen_that_is_taken_between_check_and_load_holds_only_its_upstream() {
    let mut site = Site::new("race");
    // nginx as it is, but after a check it waits as long as a file is there.
    let (wrapper, hold, checked) =
        (site.folder().join("nginx-slow"), site.folder().join("hold"), site.folder().join("checked"));
    let script = format!(
        "#!/bin/sh\nnginx \"$@\"\nrc=$?\ncase \"$*\" in *-t*) if [ -e {hold} ]; then touch {checked}; fi; \
         while [ -e {hold} ]; do sleep 0.02; done;; esac\nexit $rc\n",
        hold = hold.display(),
        checked = checked.display(),
    );
    fs::write(&wrapper, script).expect("written");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("made executable");
    site.nginx_binary = wrapper.display().to_string();
    site.write_settings();
    let (other, taken) = (site.ports.listen(0), site.ports.listen(1));
    let mut daemon = site.run_until(&spec(&site, &[("other", answers(other, 301))]), Daemon::converged);

    fs::write(&hold, "").expect("written");
    let late = ("late", answers(taken, 301));
    site.write_spec(&spec(&site, &[("other", answers(other, 302)), (late.0, late.1.clone())]));
    eventually("it was checked", || check(checked.exists(), || "not yet".to_owned()));
    let holder = TcpListener::bind(("0.0.0.0", taken)).expect("free until now");
    fs::remove_file(&hold).expect("there");
    eventually("the load fails", || daemon.logs("Address already in use"));
    soon_answers(other, 302);
    the_other_goes_on(&site, &mut daemon, &late, &["upstream late", "taken"]);
    assert!(daemon.metric("reeve_nginx_reloads_total{result=\"failed\"}") >= 1.0);
    drop(holder);
    soon_answers(taken, 301);
    eventually("mended", || daemon.converged());
}

#[test]
fn a_burst_of_a_thousand_registrations_costs_few_reloads() {
    let mut site = Site::new("burst");
    // A pass that nothing wakes is waited for at the end.
    site.more_settings = "loop: { resync: 5s }\n".to_owned();
    site.write_settings();
    let consul = site.consul();
    consul.register("first", "many", "127.0.0.1", 9);
    let daemon = site
        .run_until(&spec(&site, &[("many", format!("service: many, listen: {}", site.listen()))]), Daemon::converged);
    let reloads = || daemon.metric("reeve_nginx_reloads_total{result=\"ok\"}");
    let before = reloads();
    let started = std::time::Instant::now();
    for number in 0..1000 {
        let address = format!("127.0.{}.{}", 1 + number / 250, 1 + number % 250);
        consul.register(&format!("many-{number}"), "many", &address, 9);
    }
    let took = started.elapsed();
    eventually("all are routed", || {
        let routed = site.nginx.servers("many").len();
        check(routed == 1001, || format!("{routed} are routed"))?;
        site.loaded_is_current()?;
        daemon.converged()
    });
    let reloads = reloads() - before;
    println!("{reloads} reloads for 1000 registrations in {:.1} s", took.as_secs_f64());
    // A pass coalesces what comes within a second at most, and one reload takes 0.3 s.
    assert!(reloads <= 4.0 + 3.0 * took.as_secs_f64(), "{reloads} reloads in {took:?}");

    // A change and its reversal within the window cost none: an agent passes on both before the loop looks.
    let before = daemon.metric("reeve_nginx_reloads_total{result=\"ok\"}");
    let passes = daemon.passes();
    consul.register("short", "many", "127.0.9.9", 9);
    consul.deregister("short");
    eventually("it has looked", || check(daemon.passes() >= passes + 2.0, || "not yet".to_owned()));
    let after = daemon.metric("reeve_nginx_reloads_total{result=\"ok\"}");
    assert!(after - before <= 2.0, "{}", after - before);
}

#[test]
fn an_endpoint_that_comes_and_goes_costs_a_bounded_number_of_reloads() {
    let site = Site::new("flap");
    let consul = site.consul();
    consul.register("steady", "many", "127.0.0.1", 9);
    consul.register("flapper", "many", "127.0.0.2", 9);
    let mut daemon = site
        .run_until(&spec(&site, &[("many", format!("service: many, listen: {}", site.listen()))]), Daemon::converged);
    let routed = || site.nginx.servers("many").contains("127.0.0.2:9");
    let mut held = None;
    for _ in 0..4 {
        consul.deregister("flapper");
        // Going bad is acted on at once.
        eventually("it is unrouted", || check(!routed(), || "still routed".to_owned()));
        consul.register("flapper", "many", "127.0.0.2", 9);
        held = None;
        eventually("it is back, or is held", || {
            if routed() {
                return Ok(());
            }
            held = Some(daemon.waits(&["127.0.0.2:9", "too often"])?);
            Ok(())
        });
        if held.is_some() {
            break;
        }
    }
    assert!(held.is_some(), "the third return is not believed at once\n{}", daemon.log());
    eventually("and then it is taken back", || {
        check(routed(), || "not routed".to_owned())?;
        daemon.converged()
    });
    daemon.lives();
}
