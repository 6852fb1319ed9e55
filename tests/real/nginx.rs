//! A real nginx, each test with its own: prefix, pid file, ports, folder.

mod lua;
mod lua_table;
mod routing;
mod site;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reeve::backend::nginx::Nginx;
use reeve::observed::{ListenState, Loaded, NginxProcess, Stage};
use reeve::plan::NginxAction;
use reeve::spec::Owner;
use reeve::spec::upstream::Listen;
use reeve::world::{ActionError, Wake, WakeSource};
use tokio::net::TcpListener;

use self::site::{LIMIT, Site, backend, free_port, get, id_of, routed, set, upstream, who};

#[tokio::test]
async fn a_generation_is_written_switched_started_reloaded_and_seen_loaded() {
    let site = Site::new();
    let (port, one, two) = (free_port(), backend("one").await, backend("two").await);

    let seen = site.view().await;
    assert_eq!((seen.process, seen.loaded, seen.current), (NginxProcess::Stopped, Loaded::Nothing, None));
    assert!(seen.included && seen.generations.is_empty());
    assert!(seen.version.starts_with("1."), "{}", seen.version);
    assert!(!site.path("reeve").exists(), "a view writes nothing");

    let first = site.load(&set(vec![routed(upstream("web", port), &[one])])).await;
    let seen = site.view().await;
    assert_eq!(seen.process, NginxProcess::Running { master: site.master() });
    assert_eq!(seen.loaded, Loaded::Generation(first.clone()));
    assert_eq!(seen.current, Some(first.clone()));
    assert!(seen.generations[&first].damaged.is_empty());
    assert!(seen.generations[&first].files["reeve.conf"].contains(&first.to_string()));
    assert_eq!(seen.generations[&first].manifest.owner, "shop@test");
    assert_eq!(who(&get(port, "x", "/").await), "one");

    let second = site.load(&set(vec![routed(upstream("web", port), &[two])])).await;
    for _ in 0..50 {
        assert_eq!(who(&get(port, "x", "/").await), "two", "loaded means that no worker routes by the old one");
    }
    let seen = site.view().await;
    assert_eq!(seen.loaded, Loaded::Generation(second.clone()));
    assert!(seen.generations[&first].files.is_empty(), "texts only of the current one");
    let mut fresh = site.fresh().view(&site.interest()).await.expect("seen");
    assert!(fresh.loaded_since >= seen.loaded_since, "a restart only makes it later");
    fresh.loaded_since = seen.loaded_since;
    fresh.routed_since = seen.routed_since;
    assert_eq!(fresh, seen, "a fresh process sees the same");

    site.nginx.execute(&NginxAction::RemoveGeneration { id: first.clone() }).await.expect("removed");
    site.nginx.execute(&NginxAction::RemoveGeneration { id: first.clone() }).await.expect("gone already");
    let error = site.nginx.execute(&NginxAction::RemoveGeneration { id: second }).await.expect_err("loaded");
    assert!(matches!(error, ActionError::Conflict(_)), "{error}");
    assert!(!site.view().await.generations.contains_key(&first));
    let left: Vec<_> = std::fs::read_dir(site.folder.path()).expect("there").flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("check")), "no copy is left beside: {left:?}");
}

#[tokio::test]
async fn every_reload_of_many_is_seen_loaded_only_when_no_old_worker_answers() {
    let site = Site::new();
    let port = free_port();
    for name in ["a", "b", "c", "d", "e"] {
        let target = backend(name).await;
        let id = site.load(&set(vec![routed(upstream("web", port), &[target])])).await;
        for _ in 0..50 {
            assert_eq!(who(&get(port, "x", "/").await), name);
        }
        assert_eq!(site.view().await.loaded, Loaded::Generation(id));
    }
}

#[tokio::test]
async fn writing_the_same_generation_again_is_success() {
    let site = Site::new();
    let upstreams = set(vec![routed(upstream("web", free_port()), &[1])]);
    let id = site.write(&upstreams, 1).await;
    let manifest = site.path(&format!("reeve/generations/{id}/manifest.json"));
    let before = std::fs::metadata(&manifest).expect("there").modified().expect("a time");
    site.write(&upstreams, 1).await;
    assert_eq!(std::fs::metadata(&manifest).expect("there").modified().expect("a time"), before, "not written again");
}

#[tokio::test]
async fn a_generation_that_a_crash_left_unchecked_is_no_generation_and_can_be_written() {
    let site = Site::new();
    let upstreams = set(vec![routed(upstream("web", free_port()), &[1])]);
    let id = site.write(&upstreams, 1).await;
    std::fs::write(site.path(&format!("reeve/generations/{id}/unchecked")), "").expect("written");
    assert!(site.view().await.generations.is_empty());
    let error = site.nginx.execute(&NginxAction::SwitchGeneration { id: id.clone() }).await.expect_err("unchecked");
    assert!(matches!(error, ActionError::Conflict(_)), "{error}");
    site.write(&upstreams, 1).await;
    assert!(site.view().await.generations.contains_key(&id));
}

#[tokio::test]
async fn a_taken_port_is_seen_beforehand_and_nothing_is_loaded_on_it() {
    let mut site = Site::new();
    let port = free_port();
    let good = site.load(&set(vec![routed(upstream("web", port), &[1])])).await;
    let taken = free_port();
    let holder = TcpListener::bind(("127.0.0.1", taken)).await.expect("it is free");
    let wanted = [port, taken].map(|port| Listen { address: None, port });
    site.listens = BTreeSet::from(wanted);
    let seen = site.view().await;
    match &seen.listens[&wanted[1]] {
        ListenState::Taken(words) => assert!(words.contains(&format!("pid {}", std::process::id())), "{words}"),
        ListenState::Free => panic!("it is taken"),
    }
    assert!(!seen.listens.contains_key(&wanted[0]), "what nginx holds needs no look");

    site.settings.load_timeout = Duration::from_secs(8);
    let reeve = site.fresh();
    let bad = site.write_and_switch(&set(vec![routed(upstream("web", taken), &[1])]), 1).await;
    let error = reeve.execute(&NginxAction::Reload { expect: bad.clone() }).await.expect_err("nothing is loaded");
    let ActionError::Refused(words) = error else { panic!("{error}") };
    assert!(words.contains("was not seen loaded") && words.contains("Address already in use"), "{words}");
    let seen = site.view().await;
    assert_eq!(seen.loaded, Loaded::Generation(good.clone()), "the old one serves on");
    assert_eq!(seen.current, Some(good), "a reboot would serve");
    let rejection = seen.generations[&bad].rejected.as_ref().expect("recorded");
    assert!(rejection.message.contains("Address already in use") && rejection.stage == Stage::Load, "{rejection:?}");
    let blamed = site.renderer.blamed(
        &site.owner,
        &seen.generations[&bad].manifest.upstreams,
        site.settings.probe,
        &rejection.message,
    );
    assert_eq!(blamed, BTreeSet::from(["web".to_owned()]), "by its listen address");

    drop(holder);
    let seen = site.view().await;
    assert_eq!(seen.listens[&wanted[1]], ListenState::Free);
    let again = site.write_and_switch(&set(vec![routed(upstream("web", taken), &[1])]), 2).await;
    site.nginx.execute(&NginxAction::Reload { expect: again.clone() }).await.expect("loaded now");
    assert_eq!(site.view().await.loaded, Loaded::Generation(again));
}

#[tokio::test]
async fn what_nginx_refuses_is_recorded_with_its_message_and_current_stays() {
    let site = Site::new();
    let port = free_port();
    let good = site.load(&set(vec![routed(upstream("web", port), &[1])])).await;
    let mut bad = upstream("web", port);
    bad.headers = BTreeMap::from([("X-A".to_owned(), "$no_such_variable".to_owned())]);
    let bad = set(vec![routed(bad, &[1])]);
    let action = site.generation(&bad, 1);
    let id = id_of(&action);
    let error = site.nginx.execute(&action).await.expect_err("refused");
    let ActionError::Refused(words) = &error else { panic!("{error}") };
    assert!(words.contains("no_such_variable") && words.contains(&id.to_string()), "{words}");
    let seen = site.view().await;
    let message = &seen.generations[&id].rejected.as_ref().expect("recorded").message;
    assert!(message.contains("unknown \"no_such_variable\" variable"), "{message}");
    assert!(!message.contains(".reeve-check-"), "no temporary path is shown: {message}");
    assert_eq!(seen.current, Some(good.clone()));
    assert_eq!(seen.loaded, Loaded::Generation(good));
    let error = site.nginx.execute(&action).await.expect_err("still refused, and nginx is not asked again");
    assert!(matches!(error, ActionError::Refused(_)), "{error}");
    let error = site.nginx.execute(&NginxAction::SwitchGeneration { id: id.clone() }).await.expect_err("refused");
    assert!(matches!(error, ActionError::Refused(_)), "{error}");

    // The user declares the variable: what was refused deserves another try.
    let config = std::fs::read_to_string(&site.settings.config).expect("there");
    let mended = config.replace("http {", "http {\n    map $host $no_such_variable { default x; }");
    std::fs::write(&site.settings.config, mended).expect("written");
    assert!(!site.view().await.generations.contains_key(&id));
    site.nginx.execute(&action).await.expect("accepted now");
    assert_eq!(site.view().await.generations[&id].rejected, None);
}

#[tokio::test]
async fn an_error_in_the_users_own_configuration_names_the_users_own_file() {
    let site = Site::with_http("include REEVE/current/reeve.conf;\n    nonsense on;");
    let action = site.generation(&BTreeMap::new(), 1);
    let error = site.nginx.execute(&action).await.expect_err("refused").to_string();
    let file = site.settings.config.display().to_string();
    assert!(error.contains("nonsense") && error.contains(&format!("{file}:")), "{error}");
    let line = std::fs::read_to_string(&file).expect("there").lines().position(|line| line.contains("nonsense"));
    assert!(error.contains(&format!("{file}:{}", line.expect("there") + 1)), "{error}");
}

#[tokio::test]
async fn without_the_include_line_nothing_is_written_and_the_line_is_printed() {
    let site = Site::with_http("server { listen 127.0.0.1:1; }");
    let seen = site.view().await;
    assert!(!seen.included);
    let action = site.generation(&BTreeMap::new(), 1);
    let error = site.nginx.execute(&action).await.expect_err("no line");
    let ActionError::Permanent(words) = &error else { panic!("{error}") };
    assert!(words.contains(&seen.include_line), "{words}");
    assert_eq!(seen.include_line, format!("include {}/current/reeve.conf;", site.path("reeve").display()));
    assert!(!site.path("reeve/generations").exists());
}

#[tokio::test]
async fn a_line_in_an_included_file_works_too() {
    let site = Site::with_http("include parts/*.conf;");
    std::fs::create_dir(site.path("parts")).expect("made");
    let line = format!("include {}/current/reeve.conf;\n", site.path("reeve").display());
    std::fs::write(site.path("parts/b.conf"), line).expect("written");
    let (port, one) = (free_port(), backend("one").await);
    let id = site.load(&set(vec![routed(upstream("web", port), &[one])])).await;
    assert_eq!(site.view().await.loaded, Loaded::Generation(id));
    assert_eq!(who(&get(port, "x", "/").await), "one");
}

#[tokio::test]
async fn an_edited_generation_is_damage_also_after_someones_own_reload() {
    let site = Site::new();
    let (port, one, two) = (free_port(), backend("one").await, backend("two").await);
    let upstreams = set(vec![routed(upstream("web", port), &[one])]);
    let id = site.load(&upstreams).await;
    let file = site.path(&format!("reeve/generations/{id}/files/upstream-web.conf"));
    let text = std::fs::read_to_string(&file).expect("there");
    std::fs::write(&file, text.replace(&one.to_string(), &two.to_string())).expect("edited");
    let seen = site.view().await;
    assert_eq!(seen.generations[&id].damaged, ["files/upstream-web.conf"]);
    site.send("-HUP", site.master());
    let began = Instant::now();
    while who(&get(port, "x", "/").await) != "two" {
        assert!(began.elapsed() < LIMIT, "the edit is in force");
    }
    let error = site.nginx.execute(&site.generation(&upstreams, 1)).await.expect_err("edited");
    assert!(matches!(error, ActionError::Conflict(_)), "never repaired in place: {error}");

    let next = site.write_and_switch(&upstreams, 2).await;
    site.nginx.execute(&NginxAction::Reload { expect: next.clone() }).await.expect("loaded");
    assert_eq!(who(&get(port, "x", "/").await), "one");
    let error = site.nginx.execute(&NginxAction::SwitchGeneration { id }).await.expect_err("damaged");
    assert!(matches!(error, ActionError::Conflict(_)), "{error}");
    assert_eq!(site.view().await.loaded, Loaded::Generation(next));
}

#[tokio::test]
async fn a_reload_of_another_current_is_a_conflict() {
    let site = Site::new();
    let port = free_port();
    let first = site.load(&set(vec![routed(upstream("web", port), &[1])])).await;
    let second = site.write_and_switch(&set(vec![routed(upstream("web", port), &[2])]), 1).await;
    let error = site.nginx.execute(&NginxAction::Reload { expect: first.clone() }).await.expect_err("not current");
    assert!(matches!(error, ActionError::Conflict(_)), "{error}");
    let seen = site.view().await;
    assert_eq!((seen.current, seen.loaded), (Some(second), Loaded::Generation(first)));
}

#[tokio::test]
async fn workers_of_a_killed_master_are_orphans_and_quitting_them_frees_the_ports() {
    let mut site = Site::new();
    let (port, one) = (free_port(), backend("one").await);
    let id = site.load(&set(vec![routed(upstream("web", port), &[one])])).await;
    let listen = Listen { address: None, port };
    site.listens = BTreeSet::from([listen]);
    let master = site.master();
    site.send("-KILL", master);
    let seen = site.view_until("orphans", |seen| matches!(seen.process, NginxProcess::Orphans { .. })).await;
    let NginxProcess::Orphans { pids } = &seen.process else { panic!("{seen:?}") };
    assert_eq!(pids.len(), 2, "{pids:?}");
    assert_eq!(who(&get(port, "x", "/").await), "one", "they go on serving");
    assert!(matches!(&seen.listens[&listen], ListenState::Taken(words) if words.contains("nginx")), "{seen:?}");
    assert_eq!(seen.loaded, Loaded::Generation(id.clone()));
    assert_eq!(site.fresh().view(&site.interest()).await.expect("seen").process, seen.process);

    let own = i32::try_from(std::process::id()).expect("a pid");
    let error = site.nginx.execute(&NginxAction::QuitOrphans { pids: vec![own] }).await.expect_err("not nginx");
    assert!(matches!(error, ActionError::Conflict(_)), "{error}");
    let error = site.nginx.execute(&NginxAction::Start { expect: id.clone() }).await.expect_err("the ports are taken");
    assert!(error.to_string().contains("Address already in use"), "{error}");

    site.nginx.execute(&NginxAction::QuitOrphans { pids: pids.clone() }).await.expect("they let go");
    site.nginx.execute(&NginxAction::QuitOrphans { pids: pids.clone() }).await.expect("gone already");
    let seen = site.view().await;
    assert_eq!((seen.process, seen.loaded), (NginxProcess::Stopped, Loaded::Nothing));
    assert_eq!(seen.listens[&listen], ListenState::Free);
    site.nginx.execute(&NginxAction::Start { expect: id.clone() }).await.expect("started");
    assert_eq!(who(&get(port, "x", "/").await), "one");
    let error = site.nginx.execute(&NginxAction::Start { expect: id.clone() }).await.expect_err("it runs");
    assert!(matches!(error, ActionError::Conflict(_)), "{error}");
    assert_eq!(site.view().await.loaded, Loaded::Generation(id));
}

#[tokio::test]
async fn orphans_that_do_not_answer_the_probe_are_found_by_the_stale_pid_file() {
    let site = Site::new();
    let plain = site.path("plain.conf");
    let config = std::fs::read_to_string(&site.settings.config).expect("there");
    let port = free_port();
    let own = config.lines().map(|line| match line.contains("include ") {
        true => format!("server {{ listen 127.0.0.1:{port}; }}\n"),
        false => format!("{line}\n"),
    });
    std::fs::write(&plain, own.collect::<String>()).expect("written");
    let status = Command::new("nginx").arg("-p").arg(site.folder.path()).arg("-c").arg(&plain).status();
    assert!(status.expect("it ran").success());
    let seen = site.view_until("running", |seen| matches!(seen.process, NginxProcess::Running { .. })).await;
    assert_eq!(seen.loaded, Loaded::Nothing, "it runs, and reeve's generation is not in it");
    site.send("-KILL", site.master());
    let seen = site.view_until("orphans", |seen| matches!(seen.process, NginxProcess::Orphans { .. })).await;
    let NginxProcess::Orphans { pids } = seen.process else { panic!("orphans") };
    site.nginx.execute(&NginxAction::QuitOrphans { pids }).await.expect("they let go");
    assert_eq!(site.view().await.process, NginxProcess::Stopped);
}

#[tokio::test]
async fn a_stopped_nginx_and_an_empty_or_stale_pid_file_mean_not_running() {
    let site = Site::new();
    let id = site.load(&set(vec![routed(upstream("web", free_port()), &[1])])).await;
    site.send("-TERM", site.master());
    site.view_until("stopped", |seen| seen.process == NginxProcess::Stopped).await;
    for text in [String::new(), std::process::id().to_string(), "999999".to_owned()] {
        std::fs::write(site.path("nginx.pid"), text).expect("written");
        let seen = site.view().await;
        assert_eq!((seen.process, seen.loaded), (NginxProcess::Stopped, Loaded::Nothing));
        let error = site.nginx.execute(&NginxAction::Reload { expect: id.clone() }).await.expect_err("nobody");
        assert!(matches!(error, ActionError::Conflict(_)), "{error}");
    }
    std::fs::write(site.path("nginx.pid"), "").expect("written");
}

#[tokio::test]
async fn a_lost_pid_file_does_not_hide_the_nginx_that_answers_for_us() {
    let site = Site::new();
    let port = free_port();
    site.load(&set(vec![routed(upstream("web", port), &[1])])).await;
    let master = site.master();
    std::fs::remove_file(site.path("nginx.pid")).expect("removed");
    assert_eq!(site.fresh().view(&site.interest()).await.expect("seen").process, NginxProcess::Running { master });
    let id = site.load(&set(vec![routed(upstream("web", port), &[2])])).await;
    assert_eq!(site.view().await.loaded, Loaded::Generation(id));
}

#[tokio::test]
async fn an_nginx_of_the_foreground_is_not_started_by_us() {
    let site = Site::new();
    let config = std::fs::read_to_string(&site.settings.config).expect("there");
    std::fs::write(&site.settings.config, format!("daemon off;\n{config}")).expect("written");
    let id = site.write_and_switch(&BTreeMap::new(), 1).await;
    let error = site.nginx.execute(&NginxAction::Start { expect: id }).await.expect_err("foreground");
    assert!(matches!(&error, ActionError::Permanent(words) if words.contains("daemon off")), "{error}");
}

/// The figures of a large site; only meaningful in release: `cargo test --release --test real -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement, only meaningful in release"]
async fn a_thousand_upstreams() {
    let site = Site::new();
    let port = free_port();
    let upstreams = |first: u16| {
        let all = (0..1000_u16).map(|number| {
            let mut one = upstream(&format!("upstream-{number}"), port);
            one.server_name = vec![format!("site-{number}.test")];
            routed(one, &(first..first + 10).collect::<Vec<_>>())
        });
        set(all.collect())
    };
    for first in [1000, 2000, 3000] {
        let began = Instant::now();
        let id = site.write_and_switch(&upstreams(first), 1).await;
        let written = began.elapsed();
        let action = match first {
            1000 => NginxAction::Start { expect: id },
            _ => NginxAction::Reload { expect: id },
        };
        let began = Instant::now();
        site.nginx.execute(&action).await.expect("loaded");
        let loaded = began.elapsed();
        let mut views = Vec::new();
        for _ in 0..5 {
            let began = Instant::now();
            site.view().await;
            views.push(began.elapsed());
        }
        println!("write and check {written:?}, load {loaded:?}, views {views:?}");
    }
}

#[tokio::test]
async fn another_nginx_on_the_probe_is_a_stranger_and_is_not_reloaded() {
    let one = Site::new();
    one.load(&set(vec![routed(upstream("web", free_port()), &[1])])).await;
    let mut two = Site::new();
    two.settings.probe = one.settings.probe;
    two.nginx = two.fresh();
    let seen = two.view().await;
    assert!(matches!(seen.loaded, Loaded::Stranger(_)), "{seen:?}");
    assert_eq!(seen.process, NginxProcess::Stopped);
}

#[tokio::test]
async fn a_lost_folder_costs_history_and_the_loaded_generation_is_still_seen() {
    let site = Site::new();
    let upstreams = set(vec![routed(upstream("web", free_port()), &[1])]);
    let id = site.load(&upstreams).await;
    std::fs::remove_dir_all(site.path("reeve")).expect("removed");
    let seen = site.fresh().view(&site.interest()).await.expect("seen");
    assert_eq!(seen.loaded, Loaded::Generation(id.clone()));
    assert_eq!(seen.process, NginxProcess::Running { master: site.master() });
    assert!(seen.generations.is_empty() && seen.current.is_none());
    let next = site.write_and_switch(&upstreams, 2).await;
    site.nginx.execute(&NginxAction::Reload { expect: next.clone() }).await.expect("loaded");
    assert_eq!(site.view().await.loaded, Loaded::Generation(next));
}

#[tokio::test]
async fn another_owners_folder_is_unknown_and_untouched() {
    let site = Site::new();
    let upstreams = set(vec![routed(upstream("web", free_port()), &[1])]);
    let id = site.write(&upstreams, 1).await;
    let other = Owner { project: "blog".to_owned(), node: "test".to_owned() };
    let stranger = Nginx::new(&site.settings, site.path("reeve"), other);
    let error = stranger.view(&site.interest()).await.expect_err("another's").0;
    assert!(error.contains("belongs to shop@test"), "{error}");
    for action in [site.generation(&upstreams, 2), NginxAction::RemoveGeneration { id: id.clone() }] {
        let error = stranger.execute(&action).await.expect_err("another's");
        assert!(matches!(error, ActionError::Permanent(_)), "{error}");
    }
    assert!(site.view().await.generations.contains_key(&id));
}

#[tokio::test]
async fn during_someones_own_reload_it_is_never_seen_loaded_too_early() {
    let site = Site::new();
    let (port, one, two) = (free_port(), backend("one").await, backend("two").await);
    let first = site.load(&set(vec![routed(upstream("web", port), &[one])])).await;
    let second = site.write_and_switch(&set(vec![routed(upstream("web", port), &[two])]), 1).await;
    site.send("-HUP", site.master());
    let reeve = site.fresh();
    let began = Instant::now();
    let mut mixed = false;
    loop {
        let seen = reeve.view(&site.interest()).await.expect("seen").loaded;
        match seen {
            Loaded::Generation(id) if id == second => break,
            Loaded::Generation(id) => assert_eq!(id, first),
            Loaded::Mixed(ids) => {
                assert_eq!(ids, BTreeSet::from([first.clone(), second.clone()]));
                mixed = true;
            }
            other => panic!("{other:?}"),
        }
        assert!(began.elapsed() < LIMIT, "mixed seen: {mixed}");
    }
    for _ in 0..50 {
        assert_eq!(who(&get(port, "x", "/").await), "two");
    }
}

#[tokio::test]
async fn what_changes_wakes_the_loop_and_quiet_does_not() {
    let site = Site::new();
    let count = Arc::new(AtomicUsize::new(0));
    let wake: Wake = {
        let count = count.clone();
        Arc::new(move |source, _| {
            assert_eq!(source, WakeSource::NginxChange);
            count.fetch_add(1, Ordering::SeqCst);
        })
    };
    let upstreams = set(vec![routed(upstream("web", free_port()), &[1])]);
    let id = site.load(&upstreams).await;
    let watching = {
        let nginx = site.fresh();
        tokio::spawn(async move { nginx.watch(wake).await })
    };
    let quiet = async || {
        // Quiet is two looks of the watcher without a wake-up.
        let began = Instant::now();
        loop {
            let before = count.load(Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(2200)).await;
            if count.load(Ordering::SeqCst) == before {
                return before;
            }
            assert!(began.elapsed() < LIMIT * 2, "it never becomes quiet");
        }
    };
    let woken = async |what: &str, before: usize| {
        let began = Instant::now();
        while count.load(Ordering::SeqCst) == before {
            assert!(began.elapsed() < LIMIT, "{what} wakes nobody");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let before = quiet().await;
    std::fs::write(site.path("access.log"), "a line").expect("written");
    assert_eq!(quiet().await, before, "a log beside the main configuration wakes nobody");
    let file = site.path(&format!("reeve/generations/{id}/files/upstream-web.conf"));
    std::fs::write(&file, "edited").expect("written");
    woken("an edited file", before).await;

    let before = quiet().await;
    let config = std::fs::read_to_string(&site.settings.config).expect("there");
    std::fs::write(&site.settings.config, format!("{config}\n# edited\n")).expect("written");
    woken("an edited main configuration", before).await;

    let before = quiet().await;
    std::fs::remove_file(site.path("reeve/current")).expect("removed");
    woken("a removed link", before).await;

    let before = quiet().await;
    site.write_and_switch(&upstreams, 2).await;
    woken("a new generation", before).await;

    let before = quiet().await;
    site.send("-HUP", site.master());
    woken("someone's own reload", before).await;

    let before = quiet().await;
    site.send("-TERM", site.master());
    woken("a stopped nginx", before).await;
    watching.abort();
}

#[tokio::test]
async fn what_happens_to_a_generation_that_is_only_kept_is_seen_while_it_is_watched() {
    let site = Site::new();
    let (port, one, two) = (free_port(), backend("one").await, backend("two").await);
    let first = site.load(&set(vec![routed(upstream("web", port), &[one])])).await;
    let second = site.write_and_switch(&set(vec![routed(upstream("web", port), &[two])]), 2).await;
    site.nginx.execute(&NginxAction::Reload { expect: second }).await.expect("loaded");
    let heard = Arc::new(AtomicUsize::new(0));
    let watching = {
        let (nginx, heard) = (site.nginx.clone(), heard.clone());
        let wake: Wake = Arc::new(move |_, _| {
            heard.fetch_add(1, Ordering::SeqCst);
        });
        tokio::spawn(async move { nginx.watch(wake).await })
    };
    let damaged = async || site.view().await.generations[&first].damaged.clone();
    let until = async |wanted: &[&str]| {
        let began = Instant::now();
        while damaged().await != wanted {
            // Below the time for which an older look is believed when nothing is heard.
            assert!(began.elapsed() < LIMIT / 3, "{:?} instead of {wanted:?}", damaged().await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let folder = site.path(&format!("reeve/generations/{first}/files"));
    let stray = folder.join("stray");
    let began = Instant::now();
    while heard.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < LIMIT, "nobody watches the folder");
        std::fs::write(&stray, began.elapsed().as_nanos().to_string()).expect("written");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until(&["files/stray"]).await;
    assert_eq!(damaged().await, ["files/stray"], "as it was seen");
    std::fs::remove_file(&stray).expect("removed");
    until(&[]).await;
    assert_eq!(damaged().await, [""; 0], "as it was seen");
    std::fs::write(folder.join("upstream-web.conf"), "edited").expect("written");
    until(&["files/upstream-web.conf"]).await;
    watching.abort();
}

#[tokio::test]
async fn without_nginx_the_view_is_unknown_and_says_what_to_do() {
    let mut site = Site::new();
    site.settings.binary = "/no/such/nginx".into();
    let error = site.fresh().view(&site.interest()).await.expect_err("no nginx").0;
    assert!(error.contains("/no/such/nginx") && error.contains("nginx.binary"), "{error}");
    let mut site = Site::new();
    site.settings.config = site.path("no.conf");
    let error = site.fresh().view(&site.interest()).await.expect_err("no configuration").0;
    assert!(error.contains("no.conf"), "{error}");
}
