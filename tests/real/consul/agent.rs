//! A real agent of a test's own: free ports, own folder, killed at the end.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use reeve::backend::consul::Consul;
use reeve::settings::ConsulSettings;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{owner, ready};
use crate::support::ports::fresh;

/// How an agent is run. `-dev` keeps nothing on disk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Dev,
    Server,
    /// One of two servers, of which the other never comes: no leader.
    Leaderless,
}

pub struct Agent {
    mode: Mode,
    pub folder: TempDir,
    pub http: u16,
    process: Child,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Agent {
    pub fn start(mode: Mode, extra: &Value) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ports = [(); 4].map(|()| fresh());
        let mut config = json!({
            "node_name": "t1",
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "addresses": { "http": format!("127.0.0.1 unix://{}/http.sock", folder.path().display()) },
            "ports": { "http": ports[0], "server": ports[1], "serf_lan": ports[2], "serf_wan": ports[3], "dns": -1, "grpc": -1 },
            "performance": { "raft_multiplier": 1 },
            "log_level": "warn",
            "disable_update_check": true,
        });
        if mode != Mode::Dev {
            config["server"] = true.into();
            config["bootstrap_expect"] = if mode == Mode::Server { 1 } else { 2 }.into();
            config["data_dir"] = folder.path().join("data").to_string_lossy().into();
        }
        for (key, value) in extra.as_object().into_iter().flatten() {
            match (config.get_mut(key).and_then(Value::as_object_mut), value.as_object()) {
                (Some(into), Some(from)) => into.extend(from.clone()),
                _ => config[key] = value.clone(),
            }
        }
        std::fs::write(folder.path().join("agent.json"), config.to_string()).expect("a file");
        let process = run(mode, folder.path());
        Self { mode, folder, http: ports[0], process }
    }

    /// An agent with a leader that has registered itself.
    pub async fn ready(mode: Mode) -> (Self, Consul) {
        let agent = Self::start(mode, &json!({}));
        let consul = agent.consul();
        ready(&consul).await;
        (agent, consul)
    }

    pub fn kill(&mut self) {
        // It has ended already when this fails.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    pub fn restart(&mut self) {
        self.kill();
        self.process = run(self.mode, self.folder.path());
    }

    pub fn settings(&self) -> ConsulSettings {
        ConsulSettings {
            address: format!("http://127.0.0.1:{}", self.http),
            token: None,
            token_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }

    pub fn consul(&self) -> Consul {
        Consul::new(&self.settings(), owner("shop")).expect("good settings")
    }

    /// As somebody else would write.
    pub async fn put(&self, path: &str, body: Value) {
        let url = format!("http://127.0.0.1:{}{path}", self.http);
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().expect("a client");
        let response = client.put(url).json(&body).send().await.expect("the agent answers");
        assert!(response.status().is_success(), "{path}: {}", response.status());
    }
}

fn run(mode: Mode, folder: &Path) -> Child {
    let log = std::fs::File::create(folder.join("log")).expect("a file");
    let mut command = Command::new("consul");
    command.args(["agent", "-config-file"]).arg(folder.join("agent.json"));
    if mode == Mode::Dev {
        command.arg("-dev");
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a handle"))
        .stderr(log)
        .spawn()
        .expect("`consul` is on PATH (`make demo` installs it)")
}
