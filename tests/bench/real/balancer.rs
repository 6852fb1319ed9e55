//! nginx's own balancer beside the one in Lua, on the configurations that reeve renders: requests per second by `wrk`, in
//! turns, so that what else the machine does meets both. Ends what it started.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::report::Report;
use reeve::observed::{Balancer, Endpoint, GenerationId, HttpBlock, RoutedUpstream};
use reeve::render::{BUILT_IN, BUILT_IN_NAME, ENDPOINTS_FILE, Renderer, SECRET_FILE, endpoints};
use reeve::spec::Owner;
use reeve::spec::upstream::Upstream;

/// Pairs of runs, and how long each takes. Many short ones: the machine's own pace changes within seconds, by more than what
/// is measured.
const ROUNDS: usize = 21;
const SECONDS: u32 = 1;

const MODULES: &str = "load_module /usr/lib/nginx/modules/ndk_http_module.so;\n\
                       load_module /usr/lib/nginx/modules/ngx_http_lua_module.so;\n";

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// An nginx of this bench; ends with it.
struct Server {
    folder: tempfile::TempDir,
    config: PathBuf,
}

impl Server {
    fn new(main: &str, http: impl FnOnce(&Path) -> String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().display();
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("    {kind}_temp_path {place}/{kind};\n"))
            .concat();
        let root = std::fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0);
        let user = if root { "user root;\n" } else { "" };
        let text = format!(
            "{main}{user}worker_processes 1;\npid {place}/pid;\nerror_log {place}/error.log;\n\
             events {{ worker_connections 4096; }}\nhttp {{\n    access_log off;\n    keepalive_requests 1000000;\n{temp}{}}}\n",
            http(folder.path())
        );
        let config = folder.path().join("nginx.conf");
        std::fs::write(&config, text).expect("written");
        let server = Self { folder, config };
        let started = server.nginx(&[]);
        assert!(started, "nginx does not start; is its Lua module installed (Debian: libnginx-mod-http-lua)?");
        server
    }

    fn nginx(&self, arguments: &[&str]) -> bool {
        let folder = self.folder.path();
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder).arg("-c").arg(&self.config).args(arguments).stdin(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.nginx(&["-s", "stop"]);
        let ended = Instant::now() + Duration::from_secs(5);
        while self.folder.path().join("pid").exists() && Instant::now() < ended {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// An nginx with one upstream over these ports, as reeve renders it.
fn balanced(balancer: Balancer, keepalive: Option<u32>, ports: &[u16]) -> (Server, u16) {
    let (listen, probe) = (free_port(), SocketAddr::from(([127, 0, 0, 1], free_port())));
    let upstream: Upstream = serde_json::from_value(serde_json::json!({
        "name": "site", "query": { "service": "web" }, "listen": { "address": "127.0.0.1", "port": listen },
        "path": "/", "drain": { "secs": 0, "nanos": 0 }, "keepalive": keepalive,
    }))
    .expect("an upstream");
    let endpoint = |port: &u16| Endpoint { address: "127.0.0.1".to_owned(), port: *port, weight: 1, container: None };
    let routed = RoutedUpstream {
        upstream: upstream.into(),
        endpoints: ports.iter().map(endpoint).collect(),
        files: BTreeMap::new(),
    };
    let routes = BTreeMap::from([("site".to_owned(), routed)]);
    let renderer = Renderer::new(BUILT_IN, BUILT_IN_NAME)
        .expect("the built-in template")
        .balanced_by(balancer, HttpBlock::default());
    let owner = Owner { project: "bench".to_owned(), node: "bench".to_owned() };
    let id = GenerationId { hash: "0123456789ab".to_owned(), number: 1 };
    let main = if balancer == Balancer::Lua { MODULES } else { "" };
    let server = Server::new(main, |folder| {
        let new = renderer.render(&id, &owner, &routes, probe, folder).expect("rendered");
        let place = folder.join(id.to_string());
        std::fs::create_dir_all(place.join("files")).expect("a folder");
        for (name, text) in &new.files {
            std::fs::write(place.join(name), text.as_bytes()).expect("written");
        }
        std::fs::write(place.join(ENDPOINTS_FILE), endpoints::text(&endpoints::of(&routes))).expect("written");
        std::fs::write(place.join(SECRET_FILE), "return 403;\n").expect("written");
        format!("    include {}/reeve.conf;\n", place.display())
    });
    (server, listen)
}

/// Requests per second.
fn wrk(port: u16) -> f64 {
    let url = format!("http://127.0.0.1:{port}/");
    let output = Command::new("wrk")
        .args(["-t1", "-c32", &format!("-d{SECONDS}s"), &url])
        .output()
        .expect("wrk is not installed (Debian: wrk)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!text.contains("Non-2xx"), "{text}");
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    rate.and_then(|rate| rate.trim().parse().ok()).unwrap_or_else(|| panic!("wrk said: {text}"))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

pub fn run(report: &mut Report) {
    if Command::new("wrk").arg("-v").output().is_err() {
        eprintln!("  without wrk (Debian: wrk) the throughput is not measured");
        return;
    }
    let ports = [free_port(), free_port(), free_port(), free_port()];
    let listens: String = ports.map(|port| format!("listen 127.0.0.1:{port} backlog=4096; ")).concat();
    let _backend =
        Server::new("", |_| format!("    server {{ {listens} location / {{ return 200 \"hello\\n\"; }} }}\n"));
    for (title, keepalive) in [("connections kept", Some(64)), ("a connection for each request", None)] {
        let (_nginx, own) = balanced(Balancer::Nginx, keepalive, &ports);
        let (_lua, lua) = balanced(Balancer::Lua, keepalive, &ports);
        // Each is first as often as the other.
        let pair = |round: usize| match round % 2 {
            0 => (wrk(own), wrk(lua)),
            _ => {
                let lua = wrk(lua);
                (wrk(own), lua)
            }
        };
        let pairs: Vec<(f64, f64)> = (0..ROUNDS).map(pair).collect();
        let of = |pick: fn(&(f64, f64)) -> f64| median(pairs.iter().map(pick).collect());
        report.share(
            &format!("throughput by Lua beside nginx's own balancer, {title}: median of {ROUNDS} pairs"),
            (of(|pair| pair.1), of(|pair| pair.0)),
            "requests/s",
            of(|pair| pair.1 / pair.0),
            0.9,
        );
    }
}
