//! A real nginx, each test with its own: prefix, pid file, ports, folder.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reeve::backend::nginx::Nginx;
use reeve::observed::{self, Endpoint, GenerationId, Interest, ListenState, Loaded, NginxProcess, RoutedUpstream};
use reeve::plan::NginxAction;
use reeve::render::{BUILT_IN, BUILT_IN_NAME, Renderer};
use reeve::settings::{NginxMode, NginxSettings};
use reeve::spec::Owner;
use reeve::spec::upstream::{AccessLog, Balance, CatalogQuery, Listen, Redirect, Timeouts, Tls, Upstream, WhenEmpty};
use reeve::world::{ActionError, Wake, WakeSource};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const LIMIT: Duration = Duration::from_secs(10);

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// One nginx with one reeve folder.
struct Site {
    folder: tempfile::TempDir,
    settings: NginxSettings,
    owner: Owner,
    renderer: Renderer,
    nginx: Nginx,
    listens: BTreeSet<Listen>,
    tls_files: BTreeMap<String, Vec<PathBuf>>,
}

impl Site {
    fn new() -> Self {
        Self::with_http("include REEVE/current/reeve.conf;")
    }

    fn with_http(http: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().display().to_string();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {root}/tmp-{kind};\n"))
            .concat();
        let user = if is_root() { "user root;" } else { "" };
        let http = http.replace("REEVE", &format!("{root}/reeve"));
        let text = format!(
            "{user}\nworker_processes 2;\nworker_shutdown_timeout 20s;\npid {root}/nginx.pid;\n\
             error_log {root}/error.log notice;\nevents {{\n    worker_connections 256;\n}}\n\
             http {{\n    access_log off;\n{temp}    {http}\n}}\n"
        );
        let config = folder.path().join("nginx.conf");
        std::fs::write(&config, text).expect("written");
        let settings = NginxSettings {
            mode: NginxMode::Host,
            binary: "nginx".into(),
            config,
            prefix: Some(folder.path().to_owned()),
            start: true,
            probe: SocketAddr::from(([127, 0, 0, 1], free_port())),
            template: None,
            load_timeout: LIMIT,
        };
        let owner = Owner { project: "shop".to_owned(), node: "test".to_owned() };
        let nginx = Nginx::new(&settings, folder.path().join("reeve"), owner.clone());
        let renderer = Renderer::new(BUILT_IN, BUILT_IN_NAME).expect("the built-in template");
        Self { folder, settings, owner, renderer, nginx, listens: BTreeSet::new(), tls_files: BTreeMap::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As a fresh process of reeve sees it: nothing remembered.
    fn fresh(&self) -> Nginx {
        Nginx::new(&self.settings, self.path("reeve"), self.owner.clone())
    }

    fn generation(&self, upstreams: &BTreeMap<String, RoutedUpstream>, number: u32) -> NginxAction {
        let hash = self.renderer.generation_hash(&self.owner, upstreams, self.settings.probe);
        let id = GenerationId { hash, number };
        let folder = self.path("reeve/generations");
        let new = self.renderer.render(&id, &self.owner, upstreams, self.settings.probe, &folder).expect("rendered");
        NginxAction::WriteGeneration(Box::new(new))
    }

    async fn write(&self, upstreams: &BTreeMap<String, RoutedUpstream>, number: u32) -> GenerationId {
        let action = self.generation(upstreams, number);
        self.nginx.execute(&action).await.expect("written");
        id_of(&action)
    }

    async fn write_and_switch(&self, upstreams: &BTreeMap<String, RoutedUpstream>, number: u32) -> GenerationId {
        let id = self.write(upstreams, number).await;
        self.nginx.execute(&NginxAction::SwitchGeneration { id: id.clone() }).await.expect("switched");
        id
    }

    async fn load(&self, upstreams: &BTreeMap<String, RoutedUpstream>) -> GenerationId {
        let id = self.write_and_switch(upstreams, 1).await;
        let action = match self.view().await.process {
            NginxProcess::Running { .. } => NginxAction::Reload { expect: id.clone() },
            _ => NginxAction::Start { expect: id.clone() },
        };
        self.nginx.execute(&action).await.expect("loaded");
        id
    }

    fn interest(&self) -> Interest {
        Interest {
            owner: self.owner.clone(),
            networks: BTreeSet::new(),
            volumes: BTreeSet::new(),
            images: BTreeSet::new(),
            catalog: BTreeSet::new(),
            probes: BTreeMap::new(),
            listens: self.listens.clone(),
            tls_files: self.tls_files.clone(),
        }
    }

    async fn view(&self) -> observed::Nginx {
        self.nginx.view(&self.interest()).await.expect("seen")
    }

    async fn view_until(&self, what: &str, done: impl Fn(&observed::Nginx) -> bool) -> observed::Nginx {
        let began = Instant::now();
        loop {
            let seen = self.view().await;
            if done(&seen) {
                return seen;
            }
            assert!(began.elapsed() < LIMIT, "{what}; last: {seen:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn master(&self) -> i32 {
        let text = std::fs::read_to_string(self.path("nginx.pid")).expect("a pid file");
        text.trim().parse().expect("a pid")
    }

    fn send(&self, signal: &str, pid: i32) {
        let status = Command::new("kill").args([signal, &pid.to_string()]).stderr(Stdio::null()).status();
        assert!(status.is_ok());
    }
}

impl Drop for Site {
    /// Ends every nginx process of this site, orphans too: they are found by the probe and the pid file.
    fn drop(&mut self) {
        let nginx = self.nginx.clone();
        let interest = self.interest();
        let pids = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            match runtime.block_on(nginx.view(&interest)) {
                Ok(observed::Nginx { process: NginxProcess::Running { master }, .. }) => vec![master],
                Ok(observed::Nginx { process: NginxProcess::Orphans { pids }, .. }) => pids,
                _ => vec![],
            }
        });
        for pid in pids.join().unwrap_or_default() {
            self.send("-TERM", pid);
        }
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

fn id_of(action: &NginxAction) -> GenerationId {
    match action {
        NginxAction::WriteGeneration(new) => new.id.clone(),
        other => panic!("{other:?}"),
    }
}

fn upstream(name: &str, port: u16) -> Upstream {
    Upstream {
        name: name.to_owned(),
        query: Some(CatalogQuery { service: name.to_owned(), tag: None, datacenter: None, filter: None }),
        listen: Listen { address: None, port },
        server_name: vec![],
        path: "/".to_owned(),
        balance: Balance::RoundRobin,
        drain: Duration::ZERO,
        when_empty: WhenEmpty::default(),
        headers: BTreeMap::new(),
        access_log: None,
        tls: None,
        max_body_size: None,
        redirect: None,
        timeouts: Timeouts::default(),
        keepalive: None,
        websocket: false,
        grpc: false,
        directives: BTreeMap::new(),
    }
}

fn routed(upstream: Upstream, ports: &[u16]) -> RoutedUpstream {
    let endpoints = ports
        .iter()
        .map(|port| Endpoint { address: "127.0.0.1".to_owned(), port: *port, weight: 1, container: None })
        .collect();
    RoutedUpstream { upstream, endpoints, files: BTreeMap::new() }
}

fn set(all: Vec<RoutedUpstream>) -> BTreeMap<String, RoutedUpstream> {
    all.into_iter().map(|one| (one.upstream.name.clone(), one)).collect()
}

/// A server that answers its own name and the head of the request that it got.
async fn backend(name: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = read_head(&mut stream).await;
                if head.to_ascii_lowercase().contains("upgrade: websocket") {
                    let answer =
                        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await.expect("answered");
                    let mut buffer = [0; 64];
                    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                        stream.write_all(&buffer[..count]).await.expect("echoed");
                    }
                    return;
                }
                let body = format!("{name}\n{head}");
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
                let written = stream.write_all(answer.as_bytes()).await;
                drop(written);
            });
        }
    });
    port
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 1024];
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn get(port: u16, host: &str, path: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("answered");
        text
    };
    tokio::time::timeout(LIMIT, exchange).await.expect("an answer in time")
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// The name of the backend that answered.
fn who(answer: &str) -> &str {
    body(answer).lines().next().unwrap_or_default()
}

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
    let fresh = site.fresh().view(&site.interest()).await.expect("seen");
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
    let holder = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let taken = holder.local_addr().expect("an address").port();
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
    let ActionError::Transient(words) = error else { panic!("{error}") };
    assert!(words.contains("was not seen loaded") && words.contains("Address already in use"), "{words}");
    assert_eq!(site.view().await.loaded, Loaded::Generation(good), "the old one serves on");

    drop(holder);
    let seen = site.view().await;
    assert_eq!(seen.listens[&wanted[1]], ListenState::Free);
    site.nginx.execute(&NginxAction::Reload { expect: bad.clone() }).await.expect("loaded now");
    assert_eq!(site.view().await.loaded, Loaded::Generation(bad));
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
    let ActionError::Permanent(words) = &error else { panic!("{error}") };
    assert!(words.contains("no_such_variable") && words.contains(&id.to_string()), "{words}");
    let seen = site.view().await;
    let message = &seen.generations[&id].rejected.as_ref().expect("recorded").message;
    assert!(message.contains("unknown \"no_such_variable\" variable"), "{message}");
    assert!(!message.contains(".reeve-check-"), "no temporary path is shown: {message}");
    assert_eq!(seen.current, Some(good.clone()));
    assert_eq!(seen.loaded, Loaded::Generation(good));
    let error = site.nginx.execute(&action).await.expect_err("still refused, and nginx is not asked again");
    assert!(matches!(error, ActionError::Permanent(_)), "{error}");
    let error = site.nginx.execute(&NginxAction::SwitchGeneration { id: id.clone() }).await.expect_err("refused");
    assert!(matches!(error, ActionError::Permanent(_)), "{error}");

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
async fn upstreams_of_one_listen_are_told_apart_by_name_and_by_path() {
    let site = Site::new();
    let port = free_port();
    let (one, two, api) = (backend("one").await, backend("two").await, backend("api").await);
    let mut first = upstream("first", port);
    first.server_name = vec!["one.test".to_owned()];
    first.headers = BTreeMap::from([("X-Env".to_owned(), "a \"b\"; c".to_owned())]);
    let mut second = upstream("second", port);
    second.server_name = vec!["two.test".to_owned(), "zwei.test".to_owned()];
    let mut path = upstream("path", port);
    path.server_name = vec!["one.test".to_owned()];
    path.path = "/api".to_owned();
    path.keepalive = Some(4);
    site.load(&set(vec![routed(first, &[one]), routed(second, &[two]), routed(path, &[api])])).await;
    let answer = get(port, "one.test", "/some/where?x=1").await;
    assert_eq!(who(&answer), "one");
    for line in [
        "GET /some/where?x=1 HTTP/1.0",
        "HOST: one.test",
        "X-Real-IP: 127.0.0.1",
        "Client-IP: 127.0.0.1",
        "X-Forwarded-For: 127.0.0.1",
        "X-Env: a \"b\"; c",
    ] {
        assert!(body(&answer).contains(line), "{line} is not in {answer}");
    }
    let answer = get(port, "one.test", "/api/x").await;
    assert_eq!(who(&answer), "api");
    assert!(answer.contains("GET /api/x HTTP/1.1"), "the prefix stays, and keepalive means HTTP/1.1: {answer}");
    assert_eq!(who(&get(port, "two.test", "/api").await), "two");
    assert_eq!(who(&get(port, "zwei.test", "/").await), "two");
}

#[tokio::test]
async fn an_upstream_without_endpoints_answers_its_status_and_the_others_go_on() {
    let site = Site::new();
    let (port, other, one) = (free_port(), free_port(), backend("one").await);
    let mut redirect = upstream("redirect", port);
    redirect.path = "/old".to_owned();
    redirect.redirect = Some(Redirect { to: "https".to_owned(), code: 308 });
    site.load(&set(vec![
        routed(upstream("empty", port), &[]),
        routed(redirect, &[]),
        routed(upstream("web", other), &[one]),
    ]))
    .await;
    assert!(get(port, "x", "/").await.starts_with("HTTP/1.1 503 "));
    let answer = get(port, "site.test", "/old/a?b=c").await;
    assert!(answer.starts_with("HTTP/1.1 308 "), "{answer}");
    assert!(answer.contains("Location: https://site.test/old/a?b=c\r\n"), "{answer}");
    assert_eq!(who(&get(other, "x", "/").await), "one");
}

#[tokio::test]
async fn every_balance_and_every_option_is_accepted_by_nginx() {
    let site = Site::new();
    let port = free_port();
    let mut all = Vec::new();
    let balances = [Balance::LeastConn, Balance::IpHash, Balance::Random, Balance::Hash("$request_uri".to_owned())];
    for (number, balance) in balances.into_iter().enumerate() {
        let mut one = upstream(&format!("b{number}"), port);
        one.server_name =
            vec![format!("b{number}.test"), format!("*.b{number}.test"), format!("~^x{number}\\d{{1,2}}$")];
        one.balance = balance;
        one.keepalive = Some(8);
        one.websocket = true;
        one.max_body_size = Some(10 << 20);
        one.access_log = Some(AccessLog::File(site.path("access log")));
        one.timeouts = Timeouts {
            connect: Some(Duration::from_millis(1500)),
            read: Some(Duration::from_secs(3600)),
            send: Some(Duration::from_micros(10)),
        };
        let mut routed = routed(one, &[1, 2]);
        routed.endpoints.push(Endpoint { address: "::1".to_owned(), port: 3, weight: 5, container: None });
        all.push(routed);
    }
    let mut six = upstream("six", port);
    six.listen.address = Some("::1".parse().expect("an address"));
    six.path = "/a b/ü;{}".to_owned();
    six.access_log = Some(AccessLog::Off);
    all.push(routed(six, &[1]));
    // Each in a location of its own, because some of them only fit together with others.
    let values = [
        ("add_header", "X-A \"b c\" always"),
        ("proxy_buffers", "8 16k"),
        ("proxy_buffering", "off"),
        ("proxy_next_upstream", "error timeout http_502"),
        ("proxy_cookie_path", "/a /b"),
        ("gzip_types", "text/plain text/css"),
        ("expires", "1h"),
        ("limit_rate", "1m"),
    ];
    for (number, (name, value)) in values.into_iter().enumerate() {
        let mut one = upstream(&format!("d{number}"), port);
        one.path = format!("/d{number}");
        one.directives = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        all.push(routed(one, &[1]));
    }
    site.write(&set(all), 1).await;
}

#[tokio::test]
async fn a_websocket_passes_in_both_directions() {
    let site = Site::new();
    let (port, one) = (free_port(), backend("one").await);
    let mut chat = upstream("chat", port);
    chat.websocket = true;
    site.load(&set(vec![routed(chat, &[one])])).await;
    assert_eq!(who(&get(port, "x", "/").await), "one", "a plain request passes too");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    let head = tokio::time::timeout(LIMIT, read_head(&mut stream)).await.expect("an answer in time");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for _ in 0..2 {
        stream.write_all(b"hello").await.expect("sent");
        let mut echo = [0; 5];
        tokio::time::timeout(LIMIT, stream.read_exact(&mut echo)).await.expect("in time").expect("echoed");
        assert_eq!(&echo, b"hello");
    }
}

/// A certificate for `site.test`, made by the `openssl` program.
fn certificate(folder: &Path) -> Tls {
    let tls = Tls { certificate: folder.join("site.pem"), key: folder.join("site.key") };
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=site.test", "-keyout"])
        .arg(&tls.key)
        .arg("-out")
        .arg(&tls.certificate)
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl runs").success());
    tls
}

#[tokio::test]
async fn tls_and_grpc_are_served_and_a_renewed_certificate_is_another_digest() {
    let mut site = Site::new();
    let (port, rpc, one) = (free_port(), free_port(), backend("one").await);
    let tls = certificate(site.folder.path());
    let paths = vec![tls.certificate.clone(), tls.key.clone(), "/no/such/file".into()];
    site.tls_files = BTreeMap::from([("secure".to_owned(), paths)]);
    let before = site.view().await.tls;
    assert_eq!(before["secure"].len(), 2, "a file that cannot be read is missing: {before:?}");

    let mut secure = upstream("secure", port);
    secure.server_name = vec!["site.test".to_owned()];
    secure.tls = Some(tls.clone());
    let mut grpc = upstream("grpc", port);
    grpc.server_name = vec!["site.test".to_owned()];
    grpc.path = "/rpc".to_owned();
    grpc.tls = Some(tls.clone());
    grpc.grpc = true;
    let mut plain = upstream("plain", rpc);
    plain.grpc = true;
    plain.timeouts.read = Some(Duration::from_secs(5));
    site.load(&set(vec![routed(secure, &[one]), routed(grpc, &[one]), routed(plain, &[one])])).await;

    // Not the standard library's: it would hold up the backend, which runs on this thread.
    let output = tokio::process::Command::new("curl")
        .args(["-sS", "--max-time", "10", "--http1.1", "--cacert"])
        .arg(&tls.certificate)
        .args(["--resolve", &format!("site.test:{port}:127.0.0.1"), &format!("https://site.test:{port}/")])
        .output()
        .await
        .expect("curl runs");
    assert!(output.stdout.starts_with(b"one\n"), "{output:?}");

    certificate(site.folder.path());
    let after = site.view().await.tls;
    assert_ne!(before["secure"], after["secure"]);
}

#[tokio::test]
async fn workers_that_finish_old_requests_are_counted_as_a_generation() {
    let site = Site::new();
    let (port, one) = (free_port(), backend("one").await);
    let mut chat = upstream("chat", port);
    chat.websocket = true;
    site.load(&set(vec![routed(chat.clone(), &[one])])).await;
    assert_eq!(site.view().await.retiring_workers, 0);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("sent");
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 101 "));
    chat.keepalive = Some(1);
    site.load(&set(vec![routed(chat, &[one])])).await;
    site.view_until("one old generation", |seen| seen.retiring_workers == 1).await;
    drop(stream);
    site.view_until("it is gone", |seen| seen.retiring_workers == 0).await;
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
