//! One nginx with one reeve folder, upstreams to give it, and servers to send requests to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reeve::backend::nginx::Nginx;
use reeve::observed::{self, Balancer, Endpoint, GenerationId, HttpBlock, Interest, NginxProcess, RoutedUpstream};
use reeve::plan::NginxAction;
use reeve::render::{BUILT_IN, BUILT_IN_NAME, Renderer};
use reeve::settings::{EndpointsMode, NginxMode, NginxSettings};
use reeve::spec::Owner;
use reeve::spec::upstream::{Balance, CatalogQuery, Listen, Timeouts, Upstream, WhenEmpty};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub use crate::support::ports::fresh as free_port;

/// Debian's, in the order in which they need each other.
pub const LUA_MODULES: &str = "load_module /usr/lib/nginx/modules/ndk_http_module.so;\n\
                               load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;\n";

/// For what must come, on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// One nginx with one reeve folder.
pub struct Site {
    pub folder: tempfile::TempDir,
    pub settings: NginxSettings,
    pub owner: Owner,
    pub renderer: Renderer,
    pub nginx: Nginx,
    pub listens: BTreeSet<Listen>,
    pub tls_files: BTreeMap<String, Vec<PathBuf>>,
}

impl Site {
    pub fn new() -> Self {
        Self::with_http("include REEVE/current/reeve.conf;")
    }

    pub fn with_http(http: &str) -> Self {
        Self::with("worker_processes 2;", http)
    }

    /// With the modules that Lua needs, and reeve told to use it.
    pub fn with_lua(main: &str) -> Self {
        let mut site = Self::with(&format!("{LUA_MODULES}{main}"), "include REEVE/current/reeve.conf;");
        site.settings.endpoints = EndpointsMode::Lua;
        site.renderer = site.renderer.balanced_by(Balancer::Lua, HttpBlock::default());
        site.nginx = site.fresh();
        site
    }

    /// `main`: what stands at the top of nginx's configuration.
    pub fn with(main: &str, http: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().display().to_string();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {root}/tmp-{kind};\n"))
            .concat();
        let user = if is_root() { "user root;" } else { "" };
        let http = http.replace("REEVE", &format!("{root}/reeve"));
        let text = format!(
            "{main}\n{user}\nworker_shutdown_timeout 20s;\npid {root}/nginx.pid;\n\
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
            endpoints: EndpointsMode::Reload,
            load_timeout: LIMIT,
            max_worker_generations: 10,
        };
        let owner = Owner { project: "shop".to_owned(), node: "test".to_owned() };
        let nginx = Nginx::new(&settings, folder.path().join("reeve"), owner.clone());
        let renderer = Renderer::new(BUILT_IN, BUILT_IN_NAME).expect("the built-in template");
        Self { folder, settings, owner, renderer, nginx, listens: BTreeSet::new(), tls_files: BTreeMap::new() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As a fresh process of reeve sees it: nothing remembered.
    pub fn fresh(&self) -> Nginx {
        Nginx::new(&self.settings, self.path("reeve"), self.owner.clone())
    }

    pub fn generation(&self, upstreams: &BTreeMap<String, RoutedUpstream>, number: u32) -> NginxAction {
        let hash = self.renderer.generation_hash(&self.owner, upstreams, self.settings.probe);
        let id = GenerationId { hash, number };
        let folder = self.path("reeve/generations");
        let new = self.renderer.render(&id, &self.owner, upstreams, self.settings.probe, &folder).expect("rendered");
        NginxAction::WriteGeneration(Box::new(new))
    }

    pub async fn write(&self, upstreams: &BTreeMap<String, RoutedUpstream>, number: u32) -> GenerationId {
        let action = self.generation(upstreams, number);
        self.nginx.execute(&action).await.expect("written");
        id_of(&action)
    }

    pub async fn write_and_switch(&self, upstreams: &BTreeMap<String, RoutedUpstream>, number: u32) -> GenerationId {
        let id = self.write(upstreams, number).await;
        self.nginx.execute(&NginxAction::SwitchGeneration { id: id.clone() }).await.expect("switched");
        id
    }

    pub async fn load(&self, upstreams: &BTreeMap<String, RoutedUpstream>) -> GenerationId {
        let id = self.write_and_switch(upstreams, 1).await;
        let action = match self.view().await.process {
            NginxProcess::Running { .. } => NginxAction::Reload { expect: id.clone() },
            _ => NginxAction::Start { expect: id.clone() },
        };
        self.nginx.execute(&action).await.expect("loaded");
        id
    }

    pub fn interest(&self) -> Interest {
        Interest {
            listens: self.listens.clone(),
            tls_files: self.tls_files.clone(),
            ..Interest::nothing(self.owner.clone())
        }
    }

    pub async fn view(&self) -> observed::Nginx {
        self.nginx.view(&self.interest()).await.expect("seen")
    }

    pub async fn view_until(&self, what: &str, done: impl Fn(&observed::Nginx) -> bool) -> observed::Nginx {
        let began = Instant::now();
        loop {
            // An nginx that ends between two questions of one look is unknown to it; the next one knows.
            let seen = self.nginx.view(&self.interest()).await;
            match seen {
                Ok(seen) if done(&seen) => return seen,
                _ => assert!(began.elapsed() < LIMIT, "{what}; last: {seen:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn master(&self) -> i32 {
        let text = std::fs::read_to_string(self.path("nginx.pid")).expect("a pid file");
        text.trim().parse().expect("a pid")
    }

    pub fn send(&self, signal: &str, pid: i32) {
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

pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

pub fn id_of(action: &NginxAction) -> GenerationId {
    match action {
        NginxAction::WriteGeneration(new) => new.id.clone(),
        other => panic!("{other:?}"),
    }
}

pub fn upstream(name: &str, port: u16) -> Upstream {
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

pub fn routed(upstream: Upstream, ports: &[u16]) -> RoutedUpstream {
    let endpoints = ports
        .iter()
        .map(|port| Endpoint { address: "127.0.0.1".to_owned(), port: *port, weight: 1, container: None })
        .collect();
    RoutedUpstream { upstream: upstream.into(), endpoints, files: BTreeMap::new() }
}

pub fn set(all: Vec<RoutedUpstream>) -> BTreeMap<String, RoutedUpstream> {
    all.into_iter().map(|one| (one.upstream.name.clone(), one)).collect()
}

/// A server that answers its own name and the head of the request that it got.
pub async fn backend(name: &'static str) -> u16 {
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

pub async fn read_head(stream: &mut TcpStream) -> String {
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

pub async fn get(port: u16, host: &str, path: &str) -> String {
    exchange(port, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
}

/// The answer to a request that is written out, and asks for the connection's end.
pub async fn exchange(port: u16, request: &str) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).await.expect("answered");
        text
    };
    tokio::time::timeout(LIMIT, exchange).await.expect("an answer in time")
}

pub fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// The name of the backend that answered.
pub fn who(answer: &str) -> &str {
    body(answer).lines().next().unwrap_or_default()
}
